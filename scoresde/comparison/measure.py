"""`compare`: runs of solvers on a model against a reference of high accuracy."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, keep, positive_int, wrong_type
from scoresde._html import Shown
from scoresde._progress import progress as progress_of
from scoresde.comparison.plan import Entry, Solvers, plan
from scoresde.comparison.result import Comparison
from scoresde.comparison.rows import Floor, Row, ordered, short
from scoresde.cond import Cond
from scoresde.metrics import Measured, compare_sets
from scoresde.model import Preconditioned, ScoreModel
from scoresde.sampler import ReverseSampler
from scoresde.sampler.plan import as_model, check_shape
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import AdaptiveODE, SciPySolver
from scoresde.summary import DataRangeWarning

__all__ = ["Reference", "compare"]

TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-9}
"""Tolerances of the reference: near the rounding of float32, and at some hundred calls."""

LOOSER = 10.0  # the factor on the tolerance whose effect bounds the error of the reference
KEPT = {1: 2000}  # samples stored for figures of points; 64 for images
REPEATS = 8  # random halves of the target set


@final
@dataclass(frozen=True, kw_only=True, repr=False)
class Reference(Shown):
    """What the samples of `compare` are compared with.

    Raises:
        TypeError, ValueError: a value is of another type or out of range.
    """

    solver: AdaptiveODE | SciPySolver | None = None
    """The solver of the probability flow. By default it is `AdaptiveODE("dopri5")`, at rtol =
    atol = 2e-6 in float32 and 1e-9 in float64."""

    data: Tensor | None = None
    """(M, *D) data that were not used for training. At M >= 2 N all samples are used."""

    features: Callable[[Tensor], Tensor] | None = None
    """A function of images, (B, *D) -> (B, F), into the space of the Frechet distance, such as
    `Judge.features`."""

    fine_steps: int = 200
    """The number of steps that represents the limit of the reverse SDE, without `data`."""

    def __post_init__(self) -> None:
        if self.solver is not None:
            kinds = (AdaptiveODE, SciPySolver)
            instance("reference", self.solver, kinds, "pass e.g. AdaptiveODE(rtol=1e-6)")
        keep(self, "fine_steps", positive_int)


def compare(
    sde: SDE,
    model: ScoreModel | Callable[..., Tensor],
    shape: Sequence[int],
    *,
    solvers: Solvers = ("ddim", "dpmpp_2m", "unipc_3", "auto"),
    steps: Sequence[int] = (5, 10, 20, 50),
    grids: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    reference: Reference = Reference(),
    cond: Cond = None,
    rounds: int = 3,
    t_end: float | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    about: Mapping[str, object] | None = None,
    progress: bool = False,
) -> Comparison:
    """Run solvers on a model to compare their errors, network evaluations and seconds.

    Along the probability flow every solver starts from the same noise, and `error` is the root
    mean square difference, over entries and samples, from the result of `reference`, an adaptive
    ODE solver at a tight tolerance; both end at t_end with the same final denoising. The change of
    the reference at a ten times looser tolerance bounds its own error. It is the floor, below
    which rows are not ranked.

    A reverse SDE has no such reference, since its samples depend on the noise of every step. Its
    sets of samples are compared by `distance`: the sliced Wasserstein distance, or the Frechet
    distance in the space of `features`. The target set is the data of the reference, if given, for
    the probability flow as well; otherwise it is 2 N samples of the reverse SDE at `fine_steps`
    steps of the automatic solver, from other noise. The floor is the same distance between random
    halves of the target set: its mean plus two standard deviations. For a learned model the laws
    of the flow and of the SDE differ for every solver.

    The seconds are medians over rounds in which all solvers take turns, so that a temporary load
    of the machine affects all of them.

    Args:
        sde: the SDE of the model.
        model: the model, or a function score(t, x).
        shape: (N, *D), the shape of the samples of each solver for each seed.
        solvers: names, solvers and calibrations, or a mapping from names of your choice. Adaptive
            solvers and calibrations choose their steps and are run once.
        steps: numbers of steps, each used with each solver.
        grids: names of grids, each used with each solver; by default that of the solver.
        seeds: seeds of N samples each.
        reference: the solver, the data and the number of steps that samples are compared with;
            see `Reference`.
        cond: conditions, name -> (N, ...), the same for each seed.
        rounds: the number of timed rounds, at least one per seed.
        t_end, batch_size, dtype, device: see `ReverseSampler` and its `solve`.
        about: further facts about the model for the report, name -> plain value.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: a name is unknown or an argument is invalid, before the network is
            called, or the reference did not finish. A solver without finite samples is listed in
            `failed`, with the reason.

    Example:
        >>> from scoresde import VPSDE, GaussianMixture
        >>> sde = VPSDE()
        >>> data = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.1]))
        >>> result = compare(sde, data.under(sde), (16, 1), solvers=["ddim", "unipc_3"], steps=[8])
        >>> result.best(9).solver
        'unipc_3'
    """
    instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
    scores, sizes = as_model(sde, model), check_shape(shape)
    entries = plan(sde, scores, solvers, steps, grids, t_end)
    if isinstance(seeds, int) or not isinstance(seeds, Sequence) or not seeds:
        raise wrong_type("seeds", "a sequence of seeds", seeds, "pass e.g. (0,)")
    run = _Run(
        sizes,
        tuple(seeds),
        {"cond": cond, "batch_size": batch_size, "dtype": dtype, "device": device},
        max(positive_int("rounds", rounds), len(seeds)),
    )
    instance(
        "reference",
        reference,
        Reference,
        "pass e.g. Reference(solver=AdaptiveODE(rtol=1e-6)) or Reference(data=x)",
    )
    real = reference.data
    if real is not None and tuple(real.shape[1:]) != sizes[1:]:
        remedy = "data and samples must have one shape"
        raise fail("data", f"shape (M, {sizes[1:]})", real, remedy)
    # The first call of a network may be slower and is not timed.
    first = "ddim" if isinstance(sde, AffineSDE) else "euler_maruyama"
    warm = ReverseSampler(sde, scores, first, steps=1, t_end=t_end)
    kind = warm.sample(sizes, seed=run.seeds[0], **run.options).dtype
    measured = run.measure(entries, progress)
    flow = [k for k, m in measured.items() if m.xs and not entries[k].stochastic]
    reverse = [k for k, m in measured.items() if m.xs and entries[k].stochastic]
    if not flow and not reverse:
        reasons = "; ".join(f"{entries[k]}: {m.why}" for k, m in measured.items())
        raise fail("model", "a model that some solver samples from", reasons, "see docs/choosing")
    floors: dict[str, Floor] = {}
    exact: list[Tensor] = []
    facts: dict[str, object] = {}
    if flow:
        tight = _reference(reference.solver, kind)
        exact, floors["error"], facts = run.reference(sde, scores, tight, t_end)
    target = real
    if target is None and reverse:
        target = run.fine(sde, scores, reference.fine_steps, t_end)
        told = f"the reverse SDE at {reference.fine_steps} steps, {len(target)} samples"
        facts["distance from"] = told
    distances: dict[int, float] = {}
    if target is not None:
        some = reverse if real is None else [*flow, *reverse]
        best = exact if real is not None else []
        sets = {k: measured[k].xs for k in some}
        distances, floors["distance"] = _distances(sets, best, target, reference.features)
        facts.setdefault("distance from", f"{len(target)} samples of data")
    rows = [
        _row(entries[k], measured[k], exact, distances.get(k)) for k in sorted([*flow, *reverse])
    ]
    order, kept = ordered(rows), KEPT.get(len(sizes) - 1, 64)
    firsts = [measured[k].xs[0][:kept].cpu() for k in sorted([*flow, *reverse])]
    return Comparison(
        rows=tuple(rows[k] for k in order),
        floors=floors,
        failed=tuple((str(entries[k]), m.why) for k, m in measured.items() if not m.xs),
        about={**_about(sde, scores, run, kind, t_end), **facts, **(about or {})},
        samples={place: firsts[k] for place, k in enumerate(order)},
        reference=exact[0][:kept].cpu() if exact else None,
        target=None if target is None else target[:kept].cpu(),
        std=_std(exact if target is None else [target]),
    )


@final
@dataclass(eq=False)
class _Measured:
    """The results of a sampler: samples of each seed, evaluations, and seconds of each round."""

    xs: list[Tensor] = field(default_factory=list)
    nfe: int = 0
    seconds: list[float] = field(default_factory=list)
    why: str = ""


@final
@dataclass(frozen=True, eq=False)
class _Run:
    """The settings of all runs: shape and seeds of the samples, and options of every solve."""

    shape: tuple[int, ...]
    seeds: tuple[int, ...]
    options: Mapping[str, Any]  # keywords of `solve`
    rounds: int

    def measure(self, entries: Sequence[Entry], progress: bool) -> dict[int, _Measured]:
        """Run all samplers in turns, round by round; the first rounds give the samples."""
        measured = {k: _Measured() for k in range(len(entries))}
        total = self.rounds * len(entries)
        with closing(progress_of(total, "solvers", "runs", shown=progress)) as bar:
            for turn in range(self.rounds):
                for k, entry in enumerate(entries):
                    if not measured[k].why:
                        self._solve(entry.sampler, measured[k], turn)
                    bar.update()
        return measured

    def _solve(self, sampler: ReverseSampler, into: _Measured, turn: int) -> None:
        seed = self.seeds[turn % len(self.seeds)]
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():  # the result shows the errors of few steps
                warnings.simplefilter("ignore", DataRangeWarning)
                solution = sampler.solve(self.shape, seed=seed, **self.options)
        except ValueError as error:  # samples that are not finite are a result of the comparison
            into.why = str(error)
            into.xs.clear()
            return
        if solution.status != "done":
            into.why = solution.unfinished
            into.xs.clear()
            return
        if solution.x.is_cuda:
            torch.cuda.synchronize(solution.x.device)
        into.seconds.append(time.perf_counter() - start)
        into.nfe = max(into.nfe, solution.nfe)
        if turn < len(self.seeds):
            into.xs.append(solution.x)

    def reference(
        self, sde: SDE, model: ScoreModel, tight: AdaptiveODE | SciPySolver, t_end: float | None
    ) -> tuple[list[Tensor], Floor, dict[str, object]]:
        """Samples of the tight solver for each seed, its floor, and its evaluations."""
        loose = replace(tight, rtol=LOOSER * tight.rtol, atol=LOOSER * tight.atol)
        sets: list[list[Tensor]] = []
        calls: list[int] = []
        for solver in (tight, loose):
            sampler = ReverseSampler(sde, model, solver, steps=1, t_end=t_end)
            runs = [sampler.solve(self.shape, seed=seed, **self.options) for seed in self.seeds]
            stopped = next((run.status for run in runs if run.status != "done"), None)
            if stopped is not None:
                remedy = "pass a reference with a looser tolerance or more max_nfe"
                raise fail("reference", "a solver that gets to the end", stopped, remedy)
            sets.append([run.x for run in runs])
            calls.append(max(run.nfe for run in runs))
        moved = _per_sample(sets[1], sets[0]).square().mean().sqrt()
        value = max(float(moved), torch.finfo(sets[0][0].dtype).eps)
        what = f"the change of the reference at {LOOSER:g} times its tolerance"
        facts = {
            "reference": repr(tight),
            "reference evaluations": calls[0],
            "loose reference evaluations": calls[1],
        }
        return sets[0], Floor(value, value, what), facts

    def fine(self, sde: SDE, model: ScoreModel, steps: int, t_end: float | None) -> Tensor:
        """2 N samples of the reverse SDE at small steps, from independent noise."""
        count = len(self.seeds) * self.shape[0]
        sampler = ReverseSampler(sde, model, "auto", eta=1.0, steps=steps, t_end=t_end)
        seed = 1 + max(self.seeds)
        xs = []
        for turn in range(2 * len(self.seeds)):
            first = turn * self.shape[0]
            xs.append(sampler.sample(self.shape, seed=seed, first=first, **self.options))
        return torch.cat(xs)[: 2 * count]


def _reference(
    given: AdaptiveODE | SciPySolver | None, kind: torch.dtype
) -> AdaptiveODE | SciPySolver:
    if given is not None:
        return given
    tolerance = TOLERANCES.get(kind, TOLERANCES[torch.float32])
    return AdaptiveODE("dopri5", tolerance, tolerance)


def _per_sample(xs: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """Root mean square over the entries of each sample of the difference, (N,) in float64."""
    gaps = [(x - y).double().flatten(1) for x, y in zip(xs, exact, strict=True)]
    return torch.cat(gaps).square().mean(1).sqrt().cpu()


def _row(
    entry: Entry, measured: _Measured, exact: Sequence[Tensor], distance: float | None
) -> Row:
    row = Row(
        solver=entry.solver,
        method=entry.method,
        grid=entry.grid,
        steps=entry.steps,
        process="sde" if entry.stochastic else "ode",
        nfe=measured.nfe,
        seconds=statistics.median(measured.seconds),
        distance=distance,
    )
    if entry.stochastic:
        return row
    errors = _per_sample(measured.xs, exact)
    squares = errors.square()
    rms, error = float(squares.mean().sqrt()), None
    if len(squares) > 1 and rms > 0:  # d sqrt(m) = dm / (2 sqrt(m))
        error = float(squares.std()) / len(squares) ** 0.5 / (2 * rms)
    return replace(row, error=rms, error_se=error, median=float(errors.median()))


def _distances(
    sets: Mapping[int, Sequence[Tensor]],
    exact: Sequence[Tensor],
    target: Tensor,
    features: Callable[[Tensor], Tensor] | None,
) -> tuple[dict[int, float], Floor]:
    """The distance of each set from the target, and the floor from halves of the target.

    If the target is data, the distance of the samples `exact` of the reference enters the floor.
    """
    metric = "sliced_wasserstein" if features is None else "frechet"

    def measured(xs: Sequence[Tensor]) -> Measured:
        samples = torch.cat(list(xs)).cpu()
        return compare_sets(
            samples, target.cpu(), metrics=(metric,), features=features, repeats=REPEATS
        )[metric]

    results = {k: measured(xs) for k, xs in sets.items()}
    one = next(iter(results.values()))
    name = metric.replace("_", " ").replace("wasserstein", "Wasserstein")
    what = f"{name} distance between random halves of the target set, {one.count} each"
    limit = one.floor_mean + 2 * one.floor_std
    if exact:
        own = measured(exact).value
        limit = max(limit, own + 2 * one.floor_std)
        what += f" (the reference itself is at {short(own)})"
    values = {k: each.value for k, each in results.items()}
    return values, Floor(limit, one.floor_mean, what)


def _std(sets: Sequence[Tensor]) -> float:
    """The root mean square over entries of the standard deviations of samples."""
    x = torch.cat([one.flatten(1).double().cpu() for one in sets])
    return float(x.var(0, correction=0).mean().sqrt())


def _about(
    sde: SDE, model: ScoreModel, run: _Run, kind: torch.dtype, t_end: float | None
) -> dict[str, object]:
    """The settings of the comparison."""
    import platform
    from importlib.metadata import version

    net = model.net if isinstance(model, Preconditioned) else model
    weights = sum(p.numel() for p in model.parameters())
    several = ", ".join(map(str, run.seeds))
    seeds = f"seed {several}" if len(run.seeds) == 1 else f"each of the seeds {several}"
    facts = {"SDE": repr(sde), "network": type(net).__name__, "parameters": weights}
    if isinstance(model, Preconditioned):
        facts["predicts"] = model.predicts
    return facts | {
        "samples": f"{run.shape[0]} of shape {run.shape[1:]} of {seeds}",
        "sampling ends at": f"t = {sde.t_end if t_end is None else t_end:g}",
        "number format": str(kind).removeprefix("torch."),
        "rounds": run.rounds,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": f"scoresde {version('scoresde')}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
    }
