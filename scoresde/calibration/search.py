"""Calibration of a solver and its nodes, once, on trajectories of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scoresde._check import choice, fail, instance, positive_int, wrong_type
from scoresde._tensor import ordinary, state_kind
from scoresde.calibration.optimise import (
    Found,
    check_gradient,
    descend,
    deviations,
    equidistribute,
    shortest,
    warp,
)
from scoresde.calibration.result import Calibration, Cost, Errors
from scoresde.calibration.trajectories import NoGradient, Path, Trajectories
from scoresde.model import check_cond
from scoresde.noise import Independent
from scoresde.process import ReverseSDE
from scoresde.schedule.grid import GRIDS
from scoresde.sde import AffineSDE
from scoresde.sde.fingerprint import fingerprint, model_hashes
from scoresde.solvers.exponential.adams import Adams

__all__ = ["CANDIDATES", "METHODS", "calibrate"]

CANDIDATES: tuple[Adams, ...] = (
    Adams(2),
    Adams(2, variant="midpoint"),
    Adams(2, 3),
    Adams(3, 4),
    Adams(4, 5),
    Adams(2, parametrisation="eps", variant="midpoint"),
    Adams(3, parametrisation="eps", variant="ipndm"),
    Adams(3, parametrisation="eps"),
    Adams(4, parametrisation="eps"),
    Adams(3, 4, "eps"),
    Adams(1, parametrisation="v"),
    Adams(2, parametrisation="v"),
    Adams(2, parametrisation="v", variant="midpoint"),
    Adams(2, 3, "v"),
    Adams(3, 4, "v"),
    Adams(4, 5, "v"),
)
"""The solvers that a calibration chooses from, unless it is given one."""

_STARTS = ("log_snr", "quadratic", "karras")
_REFERENCE = Adams(4, 5, "v")
_LEAST_PILOTS = 12
_FEW, _SOME = 8, 16  # the numbers of trajectories of the first ranking and of the first descents
_ROUNDS = ((7, 3), (3, 2), (1, 1))  # the number of candidates, and the divisor of the iterations


@ordinary
def calibrate(
    process: ReverseSDE,
    shape: Sequence[int],
    *,
    steps: int,
    method: str = "optimise",
    solver: Adams | None = None,
    trajectories: int = 48,
    seed: int = 0,
    t_end: float | None = None,
    iterations: int = 30,
    reference: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Calibration:
    """Find the solver and the grid of N steps with the smallest endpoint error for this model.

    Trajectories start from the prior and are solved once on a fine grid; then the nodes are
    placed by one of the methods

    - "optimise": to minimise the mean logarithm of the trajectories' endpoint errors, by Adam on
      the steps in lambda with gradients through the solver and the model; where the model has no
      gradient, by Nelder-Mead on a smooth change of the steps. The parametrisation, order and
      corrector are chosen in the same search: all candidates are ranked, a few are optimised, and
      the best one for all iterations.
    - "equidistribute": to spread the solver's local error c h^(q + 1) evenly (de Boor 1974).
    - "gits": to minimise the sum of the deviations of single first-order steps from the
      trajectories, by dynamic programming (Chen et al. 2024, arXiv 2405.11326).

    A third of the trajectories is held back. If their error is not smaller than that of the start,
    which is the best solver on a named grid, the start is returned and `note` says so.

    Errors are pathwise, at t_end and before any final denoising: a Tweedie step reduces the
    remaining error by about the same factor on every grid. With noise the endpoint error of a path
    does not measure the error of the distribution, so only the probability flow is calibrated.

    Args:
        process: `ReverseSDE(sde, model, eta=0.0, cond)`, the SDE affine; conditions have one
            entry per trajectory.
        shape: the shape of one sample, (*D).
        steps: N, the number of network calls of a run without the final denoising.
        method: "optimise", "equidistribute" or "gits".
        solver: calibrate this solver only; by default the best of `CANDIDATES`.
        trajectories: the number of trajectories, at least 12.
        seed: the seed of their initial states.
        t_end: the time at which they end; by default that of the SDE.
        iterations: the iterations of the last descent; the two before it make a third and a half
            of them.
        reference: the steps of the fine run, by default 8 N and at least 64.
        batch_size: the number of trajectories solved at a time; by default all of them.
        dtype, device: those of the trajectories; by default those of the model.

    Raises:
        TypeError: the SDE is not affine, or the solver is not of the exponential Adams family.
        ValueError: eta is not 0, there are too few trajectories, or the fine run is not finite.

    Example:
        >>> from scoresde import VPSDE, Gaussian, ReverseSDE
        >>> data = Gaussian(torch.zeros(2), torch.tensor([1.0, 0.01]))
        >>> flow = ReverseSDE(VPSDE(), data.under(VPSDE()), eta=0.0)
        >>> found = calibrate(flow, (2,), steps=6, trajectories=12, iterations=6, solver=Adams(2))
        >>> found.grid.steps, found.held.typical <= found.held_before.typical
        (6, True)
    """
    count = positive_int("steps", steps, "the number of steps is a whole number above 0")
    choice("method", method, METHODS)
    positive_int("iterations", iterations)
    group = _trajectories(process, shape, trajectories, seed, t_end, batch_size, dtype, device)
    able = tuple(s for s in CANDIDATES if s.order <= count)
    solvers = able if solver is None else (_adams(solver, count),)
    keep = max(64, 2 * count)
    wanted = 8 * count if reference is None else positive_int("reference", reference)
    path = group.follow(_REFERENCE, keep * -(-max(keep, wanted) // keep), keep, _FEW)
    if not bool(torch.isfinite(group.ends).all()):
        remedy = "check the model's output, or end at a larger t_end"
        raise fail("process", "finite states along the fine run", "NaN or infinity", remedy)
    train, held = slice(0, 2 * trajectories // 3), slice(2 * trajectories // 3, trajectories)
    named = [
        (s, group.log_snr(GRIDS[g](group.sde, count, t_end=group.t_end)))
        for g in _STARTS
        for s in solvers
    ]
    starts = _ranked(group, named)
    found, note = METHODS[method](group, path, starts, solvers, count, train, iterations)
    rivals = [(f.solver, group.times(f.log_snr)) for f in (starts[0], found)]
    seen = [[Errors.of(group.errors(*r, part)) for r in rivals] for part in (train, held)]
    if not seen[1][1].typical <= seen[1][0].typical:
        worse = f"{seen[1][1].typical:.3g} against {seen[1][0].typical:.3g}"
        note = (
            f"fell back to the start: held-back trajectories have larger errors, {worse}. {note}"
        )
        rivals[1], seen = rivals[0], [[before, before] for before, _ in seen]
    if group.accuracy > 0.05 * seen[1][1].typical:
        note += f" The error of the fine run is {group.accuracy:.1g}: pass a larger reference."
    return Calibration(
        grid=rivals[1][1],
        solver=rivals[1][0],
        method=method,
        start_grid=rivals[0][1],
        start_solver=rivals[0][0],
        training=seen[0][1],
        held=seen[1][1],
        training_before=seen[0][0],
        held_before=seen[1][0],
        reference_error=group.accuracy,
        cost=Cost(trajectories, group.rows, group.calls, group.gradients),
        note=note.strip(),
        fingerprint={"schedule": fingerprint(group.sde), "model": model_hashes(group.model)},
    )


def _trajectories(
    process: ReverseSDE,
    shape: Sequence[int],
    trajectories: int,
    seed: int,
    t_end: float | None,
    batch_size: int | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Trajectories:
    """Check the arguments without a network call, and return the trajectories at T."""
    instance("process", process, ReverseSDE, "pass ReverseSDE(sde, model, eta=0.0)")
    sde: Any = process.sde
    if not isinstance(sde, AffineSDE):
        remedy = "nodes are placed in the log-SNR; use grid='uniform' with a solver that serves it"
        raise wrong_type("process", "the process of an affine SDE", type(sde).__name__, remedy)
    if process.stochastic:
        remedy = "calibrate ReverseSDE(sde, model, eta=0.0), without noise"
        raise fail("process", "the probability flow, eta = 0", f"eta = {process.eta!r}", remedy)
    if isinstance(shape, int) or not isinstance(shape, Sequence):
        raise wrong_type("shape", "the shape of one sample, (*D)", shape, "pass for example (2,)")
    sizes = [positive_int("shape", n, "pass sizes above 0, e.g. (1, 8, 8)") for n in shape]
    if positive_int("trajectories", trajectories) < _LEAST_PILOTS:
        remedy = "a third of them is held back to check the result"
        raise fail("trajectories", f"at least {_LEAST_PILOTS}", trajectories, remedy)
    check_cond(process.model, process.cond, trajectories)
    end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    if not (end < sde.T and math.isfinite(sde.log_snr(end))):
        raise fail("t_end", "a time below T with a finite log-SNR", end, "pass t_end > 0")
    if math.isinf(sde.log_snr(sde.T)):
        remedy = "calibrate under the same schedule with a T just below, such as 0.999"
        raise fail("sde", "a finite log-SNR at T", sde, remedy)
    kind, place = state_kind(process.model, dtype, device)
    empty = torch.empty((trajectories, *sizes), dtype=kind, device=place)
    x = sde.sample_prior(Independent(seed).prior(empty))
    cond = {name: value.to(x.device) for name, value in (process.cond or {}).items()}
    batch = trajectories if batch_size is None else positive_int("batch_size", batch_size)
    return Trajectories(sde, process.model, x, cond, end, batch)


def _adams(solver: object, steps: int) -> Adams:
    if not isinstance(solver, Adams):
        remedy = "it covers DDIM, DPM-Solver++, UniPC, DEIS and iPNDM"
        raise wrong_type("solver", "an Adams solver", solver, remedy)
    if solver.order > steps:
        remedy = "take more steps, or a lower order"
        raise fail("solver", f"an order of at most the {steps} steps", solver, remedy)
    return solver


def _ranked(group: Trajectories, nodes: Sequence[tuple[Adams, Any]]) -> list[Found]:
    """Rank solvers with nodes, the best first, by their loss on a few trajectories."""
    few = slice(0, _FEW)
    found = [Found(group.loss(solver, at, few), solver, at) for solver, at in nodes]
    return sorted(found, key=lambda f: f.loss)


def _optimise(
    group: Trajectories,
    path: Path,
    starts: list[Found],
    solvers: Sequence[Adams],
    steps: int,
    train: slice,
    iterations: int,
) -> tuple[Found, str]:
    even = _ranked(group, [(s, equidistribute(path, s, steps)) for s in solvers])
    best: dict[Adams, Found] = {}
    for found in sorted([*starts, *even], key=lambda f: f.loss):
        best.setdefault(found.solver, found)
    leaders = list(best.values())
    if steps == 1:
        return leaders[0], "one step has no nodes to place"
    some = slice(0, min(_SOME, train.stop))
    try:
        check_gradient(group, leaders[0], some)
    except NoGradient as reason:
        tried = [warp(group, found, train, 2 * iterations) for found in leaders[:2]]
        note = f"optimised without gradients: {reason}"
        return min(tried, key=lambda f: f.loss), note
    for number, (survivors, share) in enumerate(_ROUNDS):
        rows = train if number else some
        leaders = _descended(group, leaders[:survivors], rows, math.ceil(iterations / share))
    return leaders[0], ""


def _descended(
    group: Trajectories, leaders: list[Found], rows: slice, iterations: int
) -> list[Found]:
    """Descend from each candidate; one without a finite gradient is kept as it was."""
    found = []
    for leader in leaders:
        try:
            found.append(descend(group, leader, rows, iterations))
        except NoGradient:
            found.append(leader)
    return sorted(found, key=lambda f: f.loss)


def _even(
    group: Trajectories,
    path: Path,
    starts: list[Found],
    solvers: Sequence[Adams],
    steps: int,
    train: slice,
    iterations: int,
) -> tuple[Found, str]:
    return _ranked(group, [(s, equidistribute(path, s, steps)) for s in solvers])[0], ""


def _gits(
    group: Trajectories,
    path: Path,
    starts: list[Found],
    solvers: Sequence[Adams],
    steps: int,
    train: slice,
    iterations: int,
) -> tuple[Found, str]:
    lam = path.log_snr
    nodes = {
        k: lam[shortest(deviations(path, k), steps)] for k in {s.parametrisation for s in solvers}
    }
    return _ranked(group, [(s, nodes[s.parametrisation]) for s in solvers])[0], ""


METHODS: dict[str, Callable[..., tuple[Found, str]]] = {
    "optimise": _optimise,
    "equidistribute": _even,
    "gits": _gits,
}
"""The methods of placing nodes."""
