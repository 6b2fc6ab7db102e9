"""Resolve the arguments of a sampler to a checked plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from scoresde._check import (
    choice,
    fail,
    floating,
    instance,
    positive_int,
    sizes,
    to_load,
    wrong_type,
)
from scoresde.calibration import Calibration
from scoresde.calibration.stored import stored
from scoresde.model import FunctionScore, ScoreModel
from scoresde.noise import BrownianPath, Independent, Noise
from scoresde.oracles import Gaussian
from scoresde.process import Eta
from scoresde.schedule.grid import Grid, Schedule, make_grid
from scoresde.sde import SDE, AffineSDE, check_same_sde
from scoresde.solvers.base import Plan, Solver
from scoresde.solvers.choice import FIRST_ORDER_STEPS, STEPS, choose_for
from scoresde.solvers.registry import AUTOMATIC, SOLVERS

__all__ = [
    "NOISES",
    "as_model",
    "as_noise",
    "as_solver",
    "check_gaussian_start",
    "check_shape",
    "check_start",
    "resolve",
    "starting_at",
]

CALIBRATED = "calibrated"
"""The name of the grid of a calibration that the model carries."""


def resolve(
    sde: SDE,
    model: ScoreModel | Callable[..., Tensor],
    solver: str | Solver | Calibration = "auto",
    *,
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    eta: Eta | None = None,
    denoise: bool | None = None,
) -> Plan:
    """Resolve the arguments of a sampler to a plan, and check them against each other.

    An automatic solver is the calibration that the model carries for this number of steps and
    this process, if it has one for the default grid and end; otherwise it is the
    one that did best in measurements with this number of steps, or with those of the longest
    segment of an explicit grid; see `scoresde.solvers.choice`. The arguments
    are those of `ReverseSampler`.

    Args:
        sde, model, solver, steps, grid, t_end, eta, denoise: see `ReverseSampler`.
        t_start: the time at which a named grid starts; T by default.

    Raises:
        TypeError, ValueError: a name is unknown, the solver cannot serve the SDE or eta, the model
            has another SDE, or the grid is outside [0, T] or contradicts `steps` or `t_end`.

    Example:
        >>> from scoresde import FunctionScore, VPSDE
        >>> model = FunctionScore(VPSDE(), lambda t, x: -x)
        >>> resolve(VPSDE(), model, "ddim", steps=10).schedule.grid.start
        1.0
    """
    instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
    model = as_model(sde, model)
    if model.sde is not sde:
        check_same_sde(sde, model.sde)
    if isinstance(solver, Calibration):
        solver.check(sde, model)
        if grid is not None or eta not in (None, solver.eta):
            remedy = "a calibration contains them; otherwise pass its solver and grid separately"
            expected = f"neither, with a calibration of eta = {solver.eta:g}"
            raise fail("grid, eta", expected, (grid, eta), remedy)
        grid, eta, solver = solver.grid, solver.eta, solver.solver
    affine, automatic = isinstance(sde, AffineSDE), solver in AUTOMATIC
    if grid is None or isinstance(grid, str):
        if steps is None:
            steps = FIRST_ORDER_STEPS if automatic and not affine else STEPS
        count = positive_int("steps", steps, "the number of steps is a whole number above 0")
        end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    else:
        grid = make_grid(grid, sde, steps, t_start=t_start, t_end=t_end)
        count, end = max(len(segment) - 1 for segment in grid.segments), grid.end
    default, why = "log_snr" if affine else "uniform", ""
    own = None
    if automatic and grid is None and t_start is None:
        own = stored(model, count, 0.0 if solver == "auto" and eta is None else eta)
    if own is not None and own.grid.end == end:
        solver, grid, eta, automatic = own.solver, own.grid, own.eta, False
        why = f"calibrated for this model and {count} steps, {_gained(own)}"
    elif automatic:
        process = "ode" if solver == "auto" and eta in (None, 0) else "sde"
        solver, default, t_end, why = choose_for(
            sde, process, count, model.data_scale, t_end, end, grid is not None
        )
    chosen, default_eta = as_solver(solver, sde)
    name = "" if own is None or grid is not own.grid else CALIBRATED
    if not isinstance(grid, Grid):
        name = default if grid is None else grid
        grid = make_grid(
            name, sde, steps, t_start=t_start, t_end=t_end, data_scale=model.data_scale
        )
    if denoise is None:
        denoise = affine
    instance("denoise", denoise, bool, "pass True, False, or nothing for the default")
    if denoise and not affine:
        remedy = "leave denoise out: Tweedie's formula needs alpha and sigma"
        raise wrong_type("denoise", "False on an SDE that is not affine", denoise, remedy)
    eta = default_eta if eta is None else eta
    return Plan(chosen, eta, Schedule(sde, grid), denoise, name, why)


def _gained(calibration: Calibration) -> str:
    if calibration.kept:
        return "where no other solver or grid did better than the automatic choice"
    return (
        f"with {1 / calibration.gain:.2g} of the error of the automatic choice on the held-back "
        "trajectories that selected it"
    )


def as_solver(solver: object, sde: SDE) -> tuple[Solver, Eta]:
    """Return the solver of a name, or the solver itself, and its default eta under an SDE."""
    if isinstance(solver, str):
        chosen, eta = SOLVERS[choice("solver", solver, [*AUTOMATIC, *SOLVERS])]
        return chosen, eta if isinstance(eta, float) else eta(sde)  # type: ignore[arg-type]
    instance("solver", solver, Solver, f"pass a solver or one of {', '.join(SOLVERS)}")
    chosen = solver  # type: ignore[assignment]  # as `instance` has checked
    return chosen, 0.0 if chosen.serves == "ode" else 1.0


NOISES: dict[str, Callable[[int, SDE, Eta], Noise]] = {
    "independent": lambda seed, sde, eta: Independent(seed),
    "path": lambda seed, sde, eta: BrownianPath(seed, sde, eta=eta),
}
"""Name -> function (seed, sde, eta) -> noise source."""


def as_model(sde: SDE, model: object) -> ScoreModel:
    """Return a score model as it is, and a function score(t, x) wrapped in `FunctionScore`."""
    if isinstance(model, ScoreModel):
        return model
    if isinstance(model, nn.Module):
        remedy = (
            "wrap a network net(x, t) in Preconditioned(net, sde), "
            "or a module that returns the score of (t, x) in FunctionScore(sde, module)"
        )
        raise wrong_type("model", "a ScoreModel or a function score(t, x)", model, remedy)
    if not callable(model) or isinstance(model, type):
        remedy = to_load(model) or "pass Preconditioned(net, sde) or a function of (t, x)"
        raise wrong_type("model", "a ScoreModel or a function score(t, x)", model, remedy)
    return FunctionScore(sde, model)


def as_noise(noise: object, seed: object, sde: SDE, eta: Eta) -> Noise:
    """Return the noise source of a name and a seed, drawn if None, or the source itself."""
    if isinstance(noise, Noise):
        if seed is not None and seed != noise.seed:
            raise fail("seed", f"the noise's own seed {noise.seed}", seed, "leave seed out")
        return noise
    make = NOISES[choice("noise", noise, NOISES)]
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    return make(seed, sde, eta)  # type: ignore[arg-type]


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape (N, *D) of positive integers as a tuple, or raise."""
    found = sizes("shape", shape, "(N, *D)", "pass sizes above 0, e.g. shape=(16, 2)")
    if len(found) < 2:
        raise fail("shape", "(N, *D) with at least one dimension D", shape, "pass e.g. (16, 2)")
    return found


def starting_at(plan: Plan, model: ScoreModel, t_start: float) -> Plan:
    """The plan that starts at this time, with the same number of steps."""
    sde, grid = plan.schedule.sde, plan.schedule.grid
    if plan.grid_name == CALIBRATED:  # its nodes are those from T
        return resolve(
            sde,
            model,
            "auto_sde" if plan.stochastic else "auto",
            eta=plan.eta,
            steps=grid.steps,
            t_start=t_start,
            t_end=grid.end,
            denoise=plan.denoise,
        )
    ends = {"t_start": t_start, "t_end": grid.end}
    named = plan.grid_name or grid
    made = make_grid(named, sde, grid.steps, **ends, data_scale=model.data_scale)
    return replace(plan, schedule=Schedule(sde, made))


def check_start(
    x_init: Tensor | None,
    shape: tuple[int, ...],
    schedule: Schedule,
    gaussian_start: Gaussian | None,
) -> None:
    """Raise an error unless the start has a state: x_init or, at T, a draw from the prior."""
    start, end = schedule.grid.start, schedule.sde.T
    if x_init is None:
        if start < end and gaussian_start is None:
            remedy = f"the prior is that of T = {end:g}"
            raise fail("x_init", f"a state at t_start = {start:g}", None, remedy)
        return
    floating("x_init", x_init)
    if tuple(x_init.shape) != shape:
        raise fail("x_init", f"shape {shape}", x_init, "make shape and x_init agree")
    if not bool(torch.isfinite(x_init).all()):
        raise fail("x_init", "finite numbers", "NaN or infinity", "check how it was made")


def check_gaussian_start(
    gaussian_start: Gaussian, sde: SDE, shape: tuple[int, ...], x_init: Tensor | None
) -> None:
    """Raise an error unless the flow of this Gaussian can replace the first part of a solve."""
    instance("gaussian_start", gaussian_start, Gaussian, "pass e.g. Gaussian.fit(data)")
    remedy = "leave gaussian_start out: the flow of a Gaussian is exact only under an affine SDE"
    instance("sde", sde, AffineSDE, remedy)
    if x_init is not None:
        remedy = "leave one out: gaussian_start makes the state at t_start from the prior"
        raise fail("x_init", "none beside gaussian_start", x_init, remedy)
    size = math.prod(shape[1:])
    if gaussian_start.mean.numel() != size:
        expected = f"a Gaussian in {size} dimensions"
        remedy = "fit it to data of the shape of the samples"
        raise fail("gaussian_start", expected, gaussian_start.mean, remedy)
