"""Trained networks: where an error of the ODE is still seen in the samples, and where no more.

    python benchmarks/trained.py [--quick] [--only digits moons] [--cache runs/trained]

Two models, trained by AdamW at even times and kept in the cache folder: a U-Net on
scikit-learn's digits and an MLP on two moons. A budget is the number of network calls of a sample,
the last of which is the denoising one, for ours as for the peers. Peers walk their own default
grids, over a chain whose levels of noise are those of the SDE; calls are counted at the network.

Two figures for each run. The error is the median distance over sqrt(D) of the endpoints from those
of the same model along a fine grid in float64, from the same starts. The quality is a distance of
the samples from data that the model has not seen. Writes trained.json, trained.md and a plot for
each model to benchmarks/results; peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scoresde import VPSDE, Preconditioned, ReverseSampler, ScoreModel, Trainer
from scoresde.calibration import Calibration
from scoresde.data import Data, digits, toy
from scoresde.losses import UniformTime
from scoresde.metrics import Judge, frechet_distance, nearest_distance, sliced_wasserstein
from scoresde.nets import MLP, UNet
from scoresde.noise import Independent
from scoresde.options import Loss, Optim, Records
from scoresde.plot import save
from scoresde.plot.style import PALETTE, SOFT, blank, plain_ticks

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.peers import installed, k_sampling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).parent / "results"
SEED, PILOT_SEED = 0, 1
CHAIN = 1000
"""Time steps of the chain that diffusers is given."""
ALLOWED = 5000
"""What a calibration may cost, in samples of its budget."""
WIDTH = 2.0
"""Standard errors to either side of the converged quality that count as the same."""
OURS = ("auto", "calibrated", "ddim", "dpmpp_2m", "unipc_3", "auto_sde", "euler_maruyama")
STOCHASTIC = ("auto_sde", "euler_maruyama")


@dataclass(frozen=True)
class Run:
    """One solver at one budget; no error where it is stochastic."""

    method: str
    budget: int
    calls: int
    error: float | None
    quality: float
    nearest: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """A calibration: what it promises on held-back trajectories and what it cost."""

    budget: int
    solver: str
    start: str
    before: float
    after: float
    rows: int
    counted: int
    gradients: int
    seconds: float
    note: str

    @property
    def samples(self) -> float:
        """The cost in samples of the same budget."""
        return self.rows / self.budget

    @property
    def kept(self) -> bool:
        return self.samples <= ALLOWED and self.after <= self.before and self.rows == self.counted


@dataclass(frozen=True)
class Value:
    """A quality of the converged samples and its standard error over draws of the samples."""

    value: float
    error: float

    def same(self, other: float) -> bool:
        return abs(other - self.value) <= WIDTH * self.error


class Case:
    """A trained model, data that it has not seen, and what is measured on them."""

    def __init__(self, name: str, quick: bool, cache: Path) -> None:
        self.name, self.quick = name, quick
        self.image = name == "digits"
        self.sde = VPSDE()
        self.train, self.held = self._data()
        self.model, self.training = self._trained(cache)
        self.paths = 16 if quick else 64 if self.image else 1000
        self.fine = 256 if quick else 1000
        self.converged_steps = 64 if quick else 100 if self.image else 500
        many = () if self.image else (100,)
        self.budgets = (5, 10) if quick else (5, 10, 20, 50, *many)
        empty = torch.empty(self.held.shape)
        self.starts = self.sde.sample_prior(Independent(SEED).prior(empty))
        self.calls = self.rows = 0
        self.calibrations: dict[int, Calibration] = {}

    def _data(self) -> tuple[Data, Tensor]:
        if self.image:
            return digits("train"), digits("test").x[: 300 if self.quick else None]
        count = 500 if self.quick else 2000
        return toy(self.name, 20_000, seed=0), toy(self.name, count, seed=1).x

    def _trained(self, cache: Path) -> tuple[ScoreModel, str]:
        steps = (200 if self.quick else 2000) if self.image else (500 if self.quick else 3000)
        torch.manual_seed(0)
        # Time features that are rougher than the default, of the runs whose results are kept.
        fast = 1000.0
        net = UNet(1, width=32, max_frequency=fast) if self.image else MLP(2, max_frequency=fast)
        out = cache / f"{self.name}-{steps}"
        trainer = Trainer(
            Preconditioned(net, self.sde, predicts="eps" if self.image else "v"),
            self.train.x,
            quantisation=self.train.quantisation,
            steps=steps,
            optim=Optim(
                optimizer="adamw", batch_size=64 if self.image else 512, lr=2e-3, ema=0.995
            ),
            loss=Loss(weighting="eps", time=UniformTime(low_discrepancy=True)),
            seed=0,
            out=out,
            device="cpu",
            progress=True,
            records=Records(tensorboard=False, checkpoint_every=500, calibrate=None),
        )
        model = trainer.fit(resume=(out / "checkpoint").exists())
        size = sum(p.numel() for p in net.parameters())
        kind = "U-Net" if self.image else "MLP"
        return model, f"{kind} of {size:,} parameters, {steps} training steps"

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Calls of the network and rows in them, from 0."""
        self.calls = self.rows = 0

        def seen(_: object, inputs: tuple[Tensor, ...]) -> None:
            self.calls, self.rows = self.calls + 1, self.rows + len(inputs[0])

        hook = self.model.net.register_forward_pre_hook(seen)
        try:
            yield
        finally:
            hook.remove()

    @cached_property
    def judge(self) -> Judge:
        return Judge.fit(self.train.x, self.train.cond["label"])

    @cached_property
    def target(self) -> Tensor:
        return self.judge.features(self.held)

    @property
    def metric(self) -> str:
        return "Frechet distance" if self.image else "sliced Wasserstein distance"

    def quality(self, samples: Tensor) -> float:
        """The distance from data that neither the model nor the judge has seen."""
        if self.image:
            return frechet_distance(self.judge.features(samples), self.target)
        return sliced_wasserstein(samples, self.held, projections=64)

    def nearest(self, samples: Tensor) -> float:
        """Median distance to the nearest training point: it sees noise that a judge does not."""
        return float(nearest_distance(samples, self.train.x[:4000]).median())

    @cached_property
    def floor(self) -> tuple[float, float]:
        """Both figures for real data in place of samples."""
        if self.image:
            half = self.train.x[torch.randperm(len(self.train.x))[: len(self.held)]]
            return self.quality(half), self.nearest(self.held)
        fresh = [toy(self.name, len(self.held), seed=s).x for s in range(2, 10)]
        return sum(map(self.quality, fresh)) / len(fresh), self.nearest(self.held)

    @cached_property
    def reference(self) -> tuple[Tensor, float]:
        """Endpoints along a fine grid in float64, and how far those of half the steps are."""
        wide = copy.deepcopy(self.model).double()
        starts = self.starts[: self.paths].double()
        ends = [
            ReverseSampler(self.sde, wide, "unipc_4", steps=n, grid="quadratic").sample(
                starts.shape, x_init=starts, seed=SEED
            )
            for n in (self.fine, self.fine // 2)
        ]
        return ends[0], _median_distance(ends[1], ends[0])

    def error(self, samples: Tensor) -> float:
        return _median_distance(samples[: self.paths], self.reference[0])

    def spread(self, figure: Callable[[Tensor], float], samples: Tensor) -> Value:
        """A figure and its standard error, by the bootstrap over the samples."""
        generator = torch.Generator().manual_seed(SEED)
        count = len(samples)
        values = [
            figure(samples[torch.randint(count, (count,), generator=generator)])
            for _ in range(20 if self.quick else 100)
        ]
        return Value(figure(samples), float(torch.tensor(values).std()))


def _median_distance(a: Tensor, b: Tensor) -> float:
    gap = (a.double() - b.double()).flatten(1)
    return float(gap.norm(dim=1).median()) / math.sqrt(gap.shape[1])


# Samplers: from a case and a budget to samples


Walk = Callable[[Case, int], Tensor]


def of_ours(name: str) -> Walk:
    def walk(case: Case, budget: int) -> Tensor:
        solver = case.calibrations[budget] if name == "calibrated" else name
        steps = None if name == "calibrated" else budget - 1
        sampler = ReverseSampler(case.sde, case.model, solver, steps=steps)
        return sampler.sample(tuple(case.starts.shape), seed=SEED)

    return walk


def over_chain(case: Case, budget: int, module: str, name: str, **config: Any) -> Tensor:
    """A scheduler of diffusers on its default time steps, whole numbers n at t = (n + 1)/1000."""
    levels = [case.sde.alpha(n / CHAIN) ** 2 for n in range(CHAIN + 1)]
    betas = [1 - float(b) / float(a) for a, b in pairwise(levels)]
    home = importlib.import_module(f"diffusers.schedulers.{module}")
    scheduler = getattr(home, name)(CHAIN, trained_betas=betas, **config)
    scheduler.set_timesteps(budget)
    x = case.starts
    for n in scheduler.timesteps:
        eps = case.model.predict(case.sde.at((int(n) + 1) / CHAIN), x).eps
        x = scheduler.step(eps, n, x, return_dict=False)[0]
    return x


def over_karras(case: Case, budget: int, name: str) -> Tensor:
    """A sampler of k-diffusion on its Karras grid between the levels of T and t_end."""
    sde, sampling = case.sde, k_sampling()

    def denoiser(y: Tensor, level: Tensor) -> Tensor:
        node = sde.at(float(sde.time_of(-math.log(float(level[0])))))
        return case.model.predict(node, node.alpha * y).x0

    first, last = (math.exp(-float(sde.log_snr(t))) for t in (sde.T, sde.t_end))
    sigmas = sampling.get_sigmas_karras(budget, last, first)
    y = case.starts / float(sde.alpha(sde.T))
    return getattr(sampling, f"sample_{name}")(denoiser, y, sigmas, disable=True)


def over_azula(case: Case, budget: int, name: str) -> Tensor:
    """A sampler of azula on its default grid, times evenly from 1 to 0."""
    denoise, sample = (importlib.import_module(f"azula.{m}") for m in ("denoise", "sample"))

    class Model(denoise.Denoiser):  # type: ignore[misc, name-defined]
        @staticmethod
        def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
            at = case.sde.alpha(float(t)), case.sde.sigma(float(t))
            return torch.tensor(float(at[0])), torch.tensor(float(at[1]))

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            return denoise.DiracPosterior(mean=case.model.predict(case.sde.at(float(t)), x).x0)

    return getattr(sample, f"{name}Sampler")(Model(), steps=budget, silent=True)(case.starts)


_DPM = ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler")
_UNI = ("scheduling_unipc_multistep", "UniPCMultistepScheduler")
_DDIM = partial(over_chain, module="scheduling_ddim", name="DDIMScheduler", clip_sample=False)
PEERS: dict[str, dict[str, Walk]] = {
    "diffusers": {
        "DDIM": _DDIM,
        "DPM++ 2M": partial(over_chain, module=_DPM[0], name=_DPM[1]),
        "UniPC": partial(over_chain, module=_UNI[0], name=_UNI[1]),
    },
    "k-diffusion": {"dpmpp_2m": partial(over_karras, name="dpmpp_2m")},
    "azula": {"DDIM": partial(over_azula, name="DDIM")},
}


def walks() -> dict[str, Walk]:
    made = {name: of_ours(name) for name in OURS}
    for library, version in installed().items():
        if library in PEERS and not version.startswith("skipped"):
            made |= {f"{library} {name}": walk for name, walk in PEERS[library].items()}
    return made


def calibrated(case: Case, budget: int) -> Found:
    """Calibrate on trajectories of another seed; the network's rows are counted at the network."""
    began = time.perf_counter()
    sampler = ReverseSampler(case.sde, case.model, steps=budget - 1)
    with case.counting():
        made = sampler.calibrate(case.starts.shape[1:], seed=PILOT_SEED)
    case.calibrations[budget] = made
    trajectories = Independent(PILOT_SEED).prior(case.starts[: made.cost.trajectories])
    if torch.cdist(trajectories.flatten(1), case.starts.flatten(1)).min() == 0:
        raise RuntimeError("a trajectory is one of the test samples")
    return Found(
        budget,
        repr(made.solver),
        repr(made.start_solver),
        made.held_before.typical,
        made.held.typical,
        made.cost.rows,
        case.rows,
        made.cost.gradients,
        time.perf_counter() - began,
        made.note,
    )


def measure(case: Case, method: str, walk: Walk, budget: int) -> Run:
    began = time.perf_counter()
    with case.counting(), torch.no_grad():
        x = walk(case, budget)
    seconds = time.perf_counter() - began
    if case.calls != budget:
        raise RuntimeError(f"{method}: {case.calls} calls for a budget of {budget}")
    error = None if method in STOCHASTIC else case.error(x)
    return Run(method, budget, case.calls, error, case.quality(x), case.nearest(x), seconds)


# What the figures say


def resolve(runs: list[Run], to: Value, figure: str = "quality") -> dict[str, int | None]:
    """Method -> the least budget from which on it stays at the converged value, or None."""
    found: dict[str, int | None] = {}
    for method in dict.fromkeys(r.method for r in runs):
        mine = sorted((r for r in runs if r.method == method), key=lambda r: -r.budget)
        there = list(takewhile(lambda r: to.same(getattr(r, figure)), mine))
        found[method] = there[-1].budget if there else None
    return found


def limit(
    runs: list[Run], to: Value, figure: str = "quality"
) -> tuple[list[Run], Run | None, list[Run]]:
    """Runs along the flow by rising error: those at the converged value, down to the first that is
    not; that one; and all beyond."""
    flows = sorted((r for r in runs if r.error is not None), key=lambda r: r.error or 0.0)
    there = list(takewhile(lambda r: to.same(getattr(r, figure)), flows))
    rest = flows[len(there) :]
    return there, rest[0] if rest else None, rest[1:]


def verdict(runs: list[Run], to: Value, figure: str, metric: str) -> list[str]:
    """In words, from the figures alone, where a smaller error no longer changes the samples."""
    there, first, beyond = limit(runs, to, figure)
    what = f"converged {metric}, {to.value:.4g} +- {WIDTH:g} x {to.error:.2g}"
    if not there:
        return [f"- Even the run with the least error is not at the {what}."]
    least, most = there[0].error or 0.0, there[-1].error or 0.0
    lines = [
        f"- All {len(there)} runs along the flow with an endpoint error of at most {most:.2g} "
        "are at "
        f"the {what}. Below that a smaller error no longer shows: the smallest, {least:.2g} "
        f"({there[0].method}, {there[0].budget} calls), is {most / least:.0f} times less and "
        "scores "
        f"{getattr(there[0], figure):.4g}, against {getattr(there[-1], figure):.4g} of "
        f"{there[-1].method} at {there[-1].budget} calls."
    ]
    if first is not None:
        lines.append(
            f"- The first that is off: {first.method} at {first.budget} calls, error "
            f"{first.error:.2g}, {getattr(first, figure):.4g}. Of the {len(beyond)} runs with a "
            f"larger error {sum(to.same(getattr(r, figure)) for r in beyond)} are at the "
            "converged "
            f"value all the same."
        )
    reached = resolve(runs, to, figure)
    by_calls: dict[int | None, list[str]] = {}
    for method, budget in reached.items():
        by_calls.setdefault(budget, []).append(method)
    parts = [
        f"{n}: {', '.join(by_calls[n])}" for n in sorted(k for k in by_calls if k is not None)
    ]
    if None in by_calls:
        parts.append(f"not within the budgets measured: {', '.join(by_calls[None])}")
    lines.append(f"- Calls from which on a sampler stays there. {'; '.join(parts)}.")
    better = [r for r in runs if getattr(r, figure) < to.value - WIDTH * to.error]
    if better and figure == "quality":
        names = ", ".join(f"{r.method} at {r.budget} ({r.quality:.4g})" for r in better)
        lines.append(f"- Better than the converged flow: {names}. It is not what scores best.")
    return lines


# Tables and plots


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def by_budget(runs: list[Run], figure: str, budgets: tuple[int, ...]) -> list[list[str]]:
    found: dict[str, dict[int, float | None]] = {}
    for r in runs:
        found.setdefault(r.method, {})[r.budget] = getattr(r, figure)
    shown = {m: v for m, v in found.items() if any(x is not None for x in v.values())}

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    return [[m, *(cell(v.get(n)) for n in budgets)] for m, v in shown.items()]


def calibration_rows(found: list[Found]) -> list[list[str]]:
    return [
        [
            str(f.budget),
            f"`{f.solver}`",
            f"{f.before:.2g} -> {f.after:.2g}",
            f"{f.rows:,}",
            f"{f.samples:.0f}",
            f"{(f.rows + 2 * f.gradients) / f.budget:.0f}",
            f"{f.seconds:.0f}",
            "yes" if f.kept else "**no**",
            f.note,
        ]
        for f in found
    ]


def section(case: Case, runs: list[Run], found: list[Found], to: dict[str, Value]) -> list[str]:
    head = ["sampler", *(f"{n} calls" for n in case.budgets)]
    near, quality = to["nearest"], to["quality"]
    gap = case.reference[1]
    least = min(r.error for r in runs if r.error is not None)
    floor = ", ".join(f"{v:.3g}" for v in case.floor)
    return [
        "",
        f"## {case.name}: {case.training}",
        "",
        f"{len(case.held)} samples from the same starts, against as many held-out points. Real "
        "data "
        f"in place of samples: {case.metric} and nearest training point {floor}. The converged "
        f"flow, unipc_4 in {case.converged_steps} steps: {quality.value:.4g} (standard error "
        f"{quality.error:.2g}) and {near.value:.4g} ({near.error:.2g}).",
        "",
        f"Errors are those of {case.paths} endpoints; the reference, unipc_4 in {case.fine} "
        "steps of the quadratic "
        f"grid in float64, moves by {gap:.1g} when its steps are halved in number, "
        f"{gap / least:.1g} of the "
        f"smallest error below.",
        "",
        "### What the samples show",
        "",
        *verdict(runs, quality, "quality", case.metric),
        "",
        "By the median distance to the nearest training point, which sees weak noise:",
        "",
        *verdict(runs, near, "nearest", "distance to the nearest training point"),
        "",
        "### Endpoint error",
        "",
        *table(head, by_budget(runs, "error", case.budgets)),
        "",
        f"### {case.metric} of the samples",
        "",
        *table(head, by_budget(runs, "quality", case.budgets)),
        "",
        "### Nearest training point",
        "",
        *table(head, by_budget(runs, "nearest", case.budgets)),
        "",
        "### Calibration",
        "",
        "48 trajectories from starts that are none of the test samples; errors on the third held "
        "back, from the best named grid to the calibrated one. The check: the rows of the network "
        ", counted "
        f"there, are no more than those of {ALLOWED} samples, and the held-back trajectories are "
        "served no "
        "worse than by the start.",
        "",
        *table(
            ["calls", "solver found", "held-back error", "rows", "as samples",
             "as samples, backward passes at two", "seconds", "check", "note"],
            calibration_rows(found),
        ),
    ]  # fmt: skip


MARKS = "osD^vPX*<>hp"


def plot(case: Case, runs: list[Run], to: Value) -> Path:
    """Quality against calls, and against the endpoint error, with the converged band."""
    there = limit(runs, to)[0]
    names = list(dict.fromkeys(r.method for r in runs))
    with blank(10.4, 4.4) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for i, name in enumerate(names):
            mine = sorted((r for r in runs if r.method == name), key=lambda r: r.budget)
            style: dict[str, Any] = {
                "color": PALETTE[i % len(PALETTE)] if name in OURS else SOFT,
                "marker": MARKS[i],
                "markersize": 4.5,
                "linewidth": 1.3,
                "linestyle": "-" if name in OURS else (0, (3, 2)),
                "label": name,
            }
            left.plot([r.budget for r in mine], [r.quality for r in mine], **style)
            flow = [r for r in mine if r.error is not None]
            if flow:
                right.plot([r.error for r in flow], [r.quality for r in flow], **style)
        for axes in (left, right):
            _converged(axes, to, case.floor[0])
        left.set(xscale="log", yscale="log", xlabel="network calls per sample")
        left.set_ylabel(f"{case.metric} to held-out data")
        right.set(xscale="log", xlabel="endpoint error of the probability flow")
        left.set_xticks(case.budgets, [str(n) for n in case.budgets])
        left.minorticks_off()
        plain_ticks(left.yaxis)
        if there:
            right.axvline(there[-1].error or 0.0, color=SOFT, linewidth=0.9, linestyle=":")
        figure.suptitle(f"{case.name}: {case.training}", size=10.5)
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return save(figure, RESULTS / f"{stem(case.quick)}-{case.name}.png")


def _converged(axes: Axes, to: Value, floor: float) -> None:
    low, high = (to.value + sign * WIDTH * to.error for sign in (-1, 1))
    axes.axhspan(max(low, 1e-12), high, color=PALETTE[2], alpha=0.13, linewidth=0, zorder=0)
    axes.axhline(floor, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)


def stem(quick: bool) -> str:
    return "trained-quick" if quick else "trained"


def study(case: Case) -> tuple[dict[str, Any], list[str]]:
    """All of one model: its figures and its part of the report."""
    print(f"{case.name}: {case.training}; reference", flush=True)
    print(f"  moves by {case.reference[1]:.2g} at half the steps", flush=True)
    found = []
    for budget in case.budgets:
        found.append(calibrated(case, budget))
        print(" ", calibration_rows(found[-1:])[0], flush=True)
    sampler = ReverseSampler(case.sde, case.model, "unipc_4", steps=case.converged_steps)
    ends = sampler.sample(tuple(case.starts.shape), seed=SEED)
    to = {name: case.spread(getattr(case, name), ends) for name in ("quality", "nearest")}
    print(f"  converged {to}, floor {case.floor}", flush=True)
    runs = []
    for method, walk in walks().items():
        for budget in case.budgets:
            runs.append(measure(case, method, walk, budget))
            print(" ", *asdict(runs[-1]).values(), flush=True)
    print("wrote", plot(case, runs, to["quality"]))
    saved = {
        "training": case.training,
        "metric": case.metric,
        "budgets": case.budgets,
        "samples": len(case.held),
        "paths": case.paths,
        "fine_steps": case.fine,
        "converged_steps": case.converged_steps,
        "floor": dict(zip(("quality", "nearest"), case.floor, strict=True)),
        "converged": {k: asdict(v) for k, v in to.items()},
        "converged_error": case.error(ends),
        "reference_moves_by": case.reference[1],
        "calibrations": [asdict(f) | {"samples": f.samples, "kept": f.kept} for f in found],
        "runs": [asdict(r) for r in runs],
    }
    return saved, section(case, runs, found, to)


NOTES = (
    "Calls count the denoising one at the end, for all. `auto`, `auto_sde` and `calibrated` are "
    "this "
    "package's choices; `auto_sde` and `euler_maruyama` add noise and have no endpoint error.",
    "The peers are as they come: diffusers on its own time steps, whole numbers (its DDIM "
    "leaves out "
    "the first of them, its multistep schedulers step from a high level of noise to none), "
    "without "
    "clipping; k-diffusion on the Karras grid between the SDE's levels of noise; azula on even "
    "times.",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less training, samples and budgets")
    parser.add_argument(
        "--only", nargs="+", default=["moons", "digits"], choices=["moons", "digits"]
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/trained"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    RESULTS.mkdir(exist_ok=True)
    peers = ", ".join(f"{n} {v}" for n, v in installed().items() if n in PEERS)
    text = [
        "# Trained networks",
        "",
        f"`{shlex.join(['python', 'benchmarks/trained.py', *sys.argv[1:]])}`; torch "
        f"{torch.__version__}, {platform.machine()}. "
        f"Peers: {peers}.",
    ]
    for note in NOTES:
        text += ["", note]
    results: dict[str, Any] = {"peers": peers}
    for name in args.only:
        results[name], part = study(Case(name, args.quick, args.cache))
        text += part
        # after each model, so that a run cut short leaves what it has
        to = RESULTS / stem(args.quick)
        to.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
        saved = json.dumps(results, indent=1) + "\n"
        to.with_suffix(".json").write_text(saved, encoding="utf-8")
        print(f"wrote {to}.md, {to}.json", flush=True)


if __name__ == "__main__":
    main()
