"""Calibration of a solver and its nodes, once, on trajectories of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch

from scoresde._check import choice, fail, instance, no_mask, positive_int, wrong_type
from scoresde._progress import Progress
from scoresde._progress import progress as shown
from scoresde._tensor import ordinary, state_kind
from scoresde.calibration.budget import (
    FEW,
    REPEATS,
    affordable,
    efforts,
    fine_steps,
    reference_cost,
    split,
)
from scoresde.calibration.laws import Laws
from scoresde.calibration.noisy import NOISY_METHODS, NoisySearch
from scoresde.calibration.result import Calibration, Cost
from scoresde.calibration.strategy import METHODS, Search, automatic
from scoresde.calibration.trajectories import Path, Trajectories
from scoresde.cond import check_cond
from scoresde.noise import Independent
from scoresde.process import ReverseSDE
from scoresde.sde import AffineSDE
from scoresde.sde.fingerprint import fingerprint, model_hashes
from scoresde.solvers.exponential import Adams

__all__ = ["calibrate", "calibrate_each"]

_REFERENCE = Adams(3, 4, "v")
_LEAST_PILOTS, _LEAST_NOISY = 12, 96
_FINE_ENOUGH = 0.1  # the error of the reference over that of the start


@ordinary
def calibrate(
    process: ReverseSDE,
    shape: Sequence[int],
    *,
    steps: int,
    method: str = "optimise",
    solver: Adams | None = None,
    trajectories: int | None = None,
    seed: int = 0,
    t_end: float | None = None,
    iterations: int | None = None,
    reference: int | None = None,
    budget: int | None = None,
    progress: bool = False,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Calibration:
    """Find the solver and the grid of N steps with the smallest error for this model.

    Trajectories start from the prior and are solved once on a fine grid; then the nodes are
    placed by one of the methods

    - "optimise": to minimise the mean logarithm of the trajectories' endpoint errors, by Adam on
      the steps in lambda with gradients through the solver and the model; where the model has no
      gradient, by Nelder-Mead on a smooth change of the steps. All solvers on all named grids are
      ranked by estimates that need no network call (`ErrorEstimate`), the first five by runs, and
      the nodes of two are optimised. From the better one, nodes and two factors for each step are
      optimised jointly (`LearnedAdams`).
    - "equidistribute": to spread the solver's local error c h^(q + 1) evenly (de Boor 1974).
    - "gits": to minimise the sum of the deviations of single first-order steps from the
      trajectories, by dynamic programming (Chen et al. 2024, arXiv 2405.11326).

    A third of the trajectories is held back. The result is the one with the smallest error on
    them: the start, the optimised nodes alone, or with the factors; `note` says if it is the
    start. Nodes or factors that raise the root mean square of these errors by more than a quarter
    are refused, since the mean logarithm says little about the largest errors. The held-back
    trajectories so select one of three, and their error of the result is a little below that on
    new trajectories. The start is the automatic choice for this number of steps, or, if a solver
    is given, this solver on its best named grid.

    Errors are pathwise, at t_end and before any final denoising: a Tweedie step reduces the
    remaining error by about the same factor on every grid.

    With noise, eta > 0, the endpoint of a path says little about the distribution. So the
    distribution of endpoints is compared with that of a fine run of the process, with conditions
    for each of them. The gradient of the energy distance moves the nodes and three factors a step;
    the errors of the result are Wasserstein distances along random directions. The start, the
    automatic choice at this eta, is kept unless the energy distance of the result is less by two
    standard errors. On trained networks of two moons and digits it was with 5 steps; with 10 the
    start could not be told from the fine run. A gradient is not compared with differences here: a
    wrong one finds nothing that the held-back samples would accept.

    Args:
        process: `ReverseSDE(sde, model, eta, cond)`, the SDE affine and eta a number; conditions
            have one entry per trajectory, or with noise one for every 8.
        shape: the shape of one sample, (*D).
        steps: N, the number of network calls of a run without the final denoising.
        method: "optimise", "equidistribute" or "gits"; with noise only "optimise".
        solver: calibrate this solver only; by default the best of `CANDIDATES`, or with noise of
            `scoresde.calibration.noisy.NOISY`.
        trajectories: the number of trajectories. With conditions it is given by their number. By
            default it is 24 for samples of 16 values or more, and up to 96 for those of fewer,
            which say less about an error; at least 12. With noise it is 768, or 3072 for samples
            of fewer than 16 values; at least 96.
        seed: the seed of their initial states.
        t_end: the time at which they end; by default that of the SDE.
        iterations: the iterations of the joint optimisation; a quarter of them is made before for
            each of the two leaders. By default 24, or for samples of fewer than 16 values 480 / N,
            from 24 to 96; with noise 60.
        reference: the steps of the fine run; by default 4 N + 24, or without noise twice as many
            where the estimated error is above a tenth of that of the start. With noise its error
            is not estimated.
        budget: the most network evaluations of single states, of which one that is differentiated
            counts as three. Fewer iterations and candidates are then taken. Without a limit they
            are about 1000 N with 24 trajectories, and 40,000 N with noise, or four times as many
            for samples of fewer than 16 values.
        progress: show the evaluations made, and an estimate of the remaining time.
        batch_size: the number of trajectories solved at a time, with noise a multiple of 8; by
            default all of them. For large samples activations are not kept, but computed again
            for the gradient.
        dtype, device: those of the trajectories; by default those of the model.

    Raises:
        TypeError: the SDE is not affine, or the solver is not of the exponential Adams family.
        ValueError: eta is a function, the method does not serve noise, there are too few
            trajectories or conditions, the budget is too small for any search, or the fine run is
            not finite.

    Example:
        >>> from scoresde import VPSDE, Gaussian, ReverseSDE
        >>> data = Gaussian(torch.zeros(2), torch.tensor([1.0, 0.01]))
        >>> flow = ReverseSDE(VPSDE(), data.under(VPSDE()), eta=0.0)
        >>> found = calibrate(flow, (2,), steps=6, trajectories=12, iterations=8, solver=Adams(2))
        >>> found.grid.steps, found.held.typical <= found.held_before.typical
        (6, True)
    """
    count = positive_int("steps", steps, "the number of steps is a whole number above 0")
    return calibrate_each(
        process,
        shape,
        steps=(count,),
        method=method,
        solver=solver,
        trajectories=trajectories,
        seed=seed,
        t_end=t_end,
        iterations=iterations,
        reference=reference,
        budget=budget,
        progress=progress,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
    )[count]


@ordinary
def calibrate_each(
    process: ReverseSDE,
    shape: Sequence[int],
    *,
    steps: Sequence[int],
    method: str = "optimise",
    solver: Adams | None = None,
    trajectories: int | None = None,
    seed: int = 0,
    t_end: float | None = None,
    iterations: int | None = None,
    reference: int | None = None,
    budget: int | None = None,
    progress: bool = False,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> dict[int, Calibration]:
    """Calibrate for several numbers of steps on the same trajectories.

    The fine run, which all share, is counted in the cost of the first.

    Args:
        process, shape: as in `calibrate`.
        steps: the numbers of steps.
        method, solver, trajectories, seed, t_end, iterations, reference: as in `calibrate`.
        budget: the most network evaluations of all together.
        progress, batch_size, dtype, device: as in `calibrate`.

    Returns:
        The calibrations by their numbers of steps.

    Raises:
        TypeError, ValueError: see `calibrate`.
    """
    remedy = "the number of steps is a whole number above 0"
    counts = sorted({positive_int("steps", n, remedy) for n in steps})
    if not counts:
        raise fail("steps", "at least one number of steps", steps, "pass e.g. (5, 10)")
    choice("method", method, METHODS)
    if iterations is not None:
        positive_int("iterations", iterations)
    limit = None if budget is None else positive_int("budget", budget)
    group = _trajectories(
        process, shape, method, trajectories, counts, limit, seed, t_end, batch_size, dtype, device
    )
    only = None if solver is None else _adams(solver, counts[0])
    fine = fine_steps(counts[-1]) if reference is None else positive_int("reference", reference)
    fine = max(fine, 2 * counts[-1])  # the placements choose among its nodes
    fine += fine % 2
    count = len(group.x)
    noisy = isinstance(group, Laws)
    sizes = split(count, noisy)
    train, held = slice(0, sizes[0]), slice(sizes[0], count)
    dim = group.x[0].numel()
    made, total = efforts(counts, iterations, sizes, fine, limit, dim, noisy)
    searches: Mapping[int, Search | NoisySearch]
    found = {}
    with closing(shown(total, "calibrating", "evaluations", shown=progress)) as bar:
        group.seen = bar.update
        if isinstance(group, Laws):
            _sampled(group, fine, train)
            searches = {n: NoisySearch(group, n, only, made[n], train, held) for n in counts}
        else:
            spare = None if limit is None else limit - total
            path = _followed(group, fine, counts[-1], spare if reference is None else 0, bar)
            searches = {n: Search(group, n, only, made[n], train, held, path) for n in counts}
        before = Cost(count, 0, 0, 0)
        for n, search in searches.items():
            found[n] = _calibrated(search, method, before)
            before = Cost(count, group.rows, group.calls, group.gradients)
    return found


def _followed(group: Trajectories, fine: int, most: int, spare: int | None, bar: Progress) -> Path:
    """The exact trajectories, of twice as many steps if their error is large and it is spare."""
    path = group.follow(_REFERENCE, fine, fine, FEW)
    _check_finite(group)
    start = automatic(group, most)
    typical = math.exp(group.loss(start.solver, start.log_snr, slice(0, FEW)))
    again = reference_cost(len(group.x), 2 * fine)
    affordable = spare is None or again <= spare
    if affordable and group.accuracy > _FINE_ENOUGH * typical:
        bar.total += again
        path = group.follow(_REFERENCE, 2 * fine, 2 * fine, FEW)
    return path


def _sampled(group: Laws, fine: int, train: slice) -> None:
    """The ends of a fine run with noise."""
    found = automatic(group, fine)
    group.follow(found.solver, group.times(found.log_snr), train)
    _check_finite(group)


def _check_finite(group: Laws | Trajectories) -> None:
    if not bool(torch.isfinite(group.ends).all()):
        remedy = "check the model's output, or end at a larger t_end"
        raise fail("process", "finite states along the fine run", "NaN or infinity", remedy)


def _calibrated(search: Search | NoisySearch, method: str, before: Cost) -> Calibration:
    group, train = search.group, search.train
    start, found, held_before, held, note = search.run(method)
    training_before = search.errors(start, train)
    training = training_before if found is start else search.errors(found, train)
    if not group.eta and group.accuracy > _FINE_ENOUGH * held.typical:
        note += f" The error of the fine run is {group.accuracy:.1g}: pass a larger reference."
    return Calibration(
        grid=group.times(found.log_snr),
        solver=found.scheme,
        method=method,
        start_grid=group.times(start.log_snr),
        start_solver=start.solver,
        training=training,
        held=held,
        training_before=training_before,
        held_before=held_before,
        reference_error=group.accuracy,
        cost=Cost(
            len(group.x),
            group.rows - before.rows,
            group.calls - before.calls,
            group.gradients - before.gradients,
        ),
        note=note.strip(),
        fingerprint={
            "schedule": fingerprint(group.sde),
            "model": model_hashes(group.model.calibrated),
        },
        eta=group.eta,
    )


def _trajectories(
    process: ReverseSDE,
    shape: Sequence[int],
    method: str,
    trajectories: int | None,
    counts: Sequence[int],
    budget: int | None,
    seed: int,
    t_end: float | None,
    batch_size: int | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Trajectories | Laws:
    """Check the arguments without a network call, and return the trajectories at T."""
    instance("process", process, ReverseSDE, "pass ReverseSDE(sde, model, eta=0.0)")
    sde: Any = process.sde
    if not isinstance(sde, AffineSDE):
        remedy = "nodes are placed in the log-SNR; use grid='uniform' with a solver that serves it"
        raise wrong_type("process", "the process of an affine SDE", type(sde).__name__, remedy)
    if callable(process.eta):
        remedy = "pass a number, such as eta=1.0"
        raise fail("process", "a number as eta", f"eta = {process.eta!r}", remedy)
    eta = float(process.eta)
    if eta and method not in NOISY_METHODS:
        remedy = "the others place nodes by single paths, which noise makes different each time"
        raise fail("method", f"{' or '.join(NOISY_METHODS)} with noise", method, remedy)
    if isinstance(shape, int) or not isinstance(shape, Sequence):
        raise wrong_type("shape", "the shape of one sample, (*D)", shape, "pass for example (2,)")
    sizes = [positive_int("shape", n, "pass sizes above 0, e.g. (1, 8, 8)") for n in shape]
    for name, value in (process.cond or {}).items():
        no_mask(f"cond[{name!r}]", value)
    given = {name: torch.as_tensor(value) for name, value in (process.cond or {}).items()}
    if given:
        each = REPEATS if eta else 1
        asked = len(next(iter(given.values())))
        check_cond(process.model, given, asked)
        if trajectories not in (None, each * asked):
            expected = f"{each * asked} for {asked} conditions"
            raise fail("trajectories", expected, trajectories, "leave it out")
        trajectories = each * asked
        given = {name: value.repeat_interleave(each, 0) for name, value in given.items()}
    if trajectories is None:
        trajectories = affordable(counts, math.prod(sizes), budget, eta > 0)[1]
    count = positive_int("trajectories", trajectories)
    least = _LEAST_NOISY if eta else _LEAST_PILOTS
    if count < least:
        remedy = "a third of them is held back to check the result"
        if eta:
            remedy += ", and distributions are compared, which takes more than single paths"
        if given and eta:
            few = count // REPEATS
            raise fail("cond", f"at least {least // REPEATS} conditions with noise", few, remedy)
        raise fail("trajectories", f"at least {least}", trajectories, remedy)
    check_cond(process.model, given or None, count)
    end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    if not (end < sde.T and math.isfinite(sde.log_snr(end))):
        raise fail("t_end", "a time below T with a finite log-SNR", end, "pass t_end > 0")
    if math.isinf(sde.log_snr(sde.T)):
        remedy = "calibrate under the same schedule with a T just below, such as 0.999"
        raise fail("sde", "a finite log-SNR at T", sde, remedy)
    kind, place = state_kind(process.model, dtype, device)
    empty = torch.empty((count, *sizes), dtype=kind, device=place)
    x = sde.sample_prior(Independent(seed).prior(empty))
    cond = {name: value.to(x.device) for name, value in given.items()}
    batch = count if batch_size is None else positive_int("batch_size", batch_size)
    if eta and batch_size is not None:
        batch -= batch % REPEATS
        if not batch:
            expected = f"at least {REPEATS} with noise"
            raise fail("batch_size", expected, batch_size, "solve more at a time")
    kind_of = Laws if eta else Trajectories
    return kind_of(sde, process.model, x, cond, end, batch, eta, seed)


def _adams(solver: object, steps: int) -> Adams:
    if not isinstance(solver, Adams):
        remedy = "it covers DDIM, DPM-Solver++, UniPC, DEIS, iPNDM, ancestral and SA-Solver"
        raise wrong_type("solver", "an Adams solver", solver, remedy)
    if solver.order > steps:
        remedy = "take more steps, or a lower order"
        raise fail("solver", f"an order of at most the {steps} steps", solver, remedy)
    return solver
