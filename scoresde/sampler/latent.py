"""Latent codes: the probability flow as an invertible map between data and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, finite, floating, instance, same_shape
from scoresde._html import Shown
from scoresde._tensor import expand, ordinary, state_dtype
from scoresde.cond import Cond, check_cond
from scoresde.model import ScoreModel, own_dtype, warn_of_raw
from scoresde.noise import Independent
from scoresde.process import ReverseSDE
from scoresde.sampler.plan import as_model
from scoresde.schedule.grid import Grid, Schedule
from scoresde.sde import SDE
from scoresde.solvers.adaptive.ode import AdaptiveODE, Angle
from scoresde.solvers.base import Plan, Solution, Solver, Unfinished, integrate
from scoresde.solvers.run import Watch

__all__ = ["Latent", "decode", "encode", "slerp"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Latent(Shown):
    """Latent codes, and the error of decoding them.

    Attributes:
        z: the codes, states at time T, (B, *D).
        solution: the solver's statistics of the encoding.
        round_trip: RMS of decode(encode(x)) - x over the entries of each sample, (B,), if
            requested.
        error: an estimate of the error of each code, (B,), if requested: the RMS, in units of x,
            between x and the code decoded along the exact flow. It is `round_trip` plus the
            tolerance of a step of `AdaptiveODE` at x, since the errors of the two directions may
            cancel.
    """

    z: Tensor
    solution: Solution
    round_trip: Tensor | None = None
    error: Tensor | None = None


@ordinary
def encode(
    sde: SDE,
    model: ScoreModel | Callable[..., Tensor],
    x: Tensor,
    *,
    solver: Solver | None = None,
    t: float | None = None,
    cond: Cond = None,
    check: bool = False,
    progress: bool = False,
) -> Latent:
    """Encode data as latent codes: integrate the probability flow from time t up to T.

    The flow is a bijection, so `decode` returns x up to the tolerance of the solver; `check`
    measures the difference. The code of a sample depends on cond; decoding it under another
    condition translates the sample. Song et al. 2021 (arXiv 2011.13456), sec. 4.3.

    Args:
        sde: the SDE that the model was trained for.
        model: a `ScoreModel`, or a bare function score(t, x).
        x: states at time t, (B, *D): at t_end these are the data, since the noise there is
            negligible.
        solver: an ODE solver; `AdaptiveODE()` by default, whose tolerances for a model of half
            precision are those of its rounding. A solver on a fixed grid would make one step
            between the two ends, so pass an adaptive one.
        t: the time of x; the SDE's t_end by default.
        cond: conditions, name -> (B, ...).
        check: decode the codes and measure the difference, which doubles the number of calls.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    If x requires gradients, the codes are differentiable in x, with the steps held fixed.

    Warns:
        DataRangeWarning: x seems to be in the original units of the data, not in model units.

    Raises:
        Unfinished: the solver stopped early (budget, underflow); a RuntimeError.

    Example:
        >>> from scoresde import VPSDE, Gaussian
        >>> sde, data = VPSDE(), Gaussian(torch.zeros(2), torch.tensor(0.25))
        >>> latent = encode(sde, data.under(sde), data.sample(4), check=True)
        >>> bool((latent.round_trip < 1e-3).all())
        True
    """
    start = _time(sde, t)
    label = "encode" if progress else None
    if t is None and isinstance(model, ScoreModel) and isinstance(x, Tensor):
        warn_of_raw(model, x)
    solution = _flow(sde, model, x, (start, sde.T), solver, cond, label)
    if not check:
        return Latent(solution.x, solution)
    again = decode(sde, model, solution.x, solver=solver, t=t, cond=cond, progress=progress)
    difference = (again - x).flatten(1).square().mean(1).sqrt()
    return Latent(solution.x, solution, difference, difference + _tolerance(sde, solution, x))


@ordinary
def decode(
    sde: SDE,
    model: ScoreModel | Callable[..., Tensor],
    z: Tensor,
    *,
    solver: Solver | None = None,
    t: float | None = None,
    cond: Cond = None,
    progress: bool = False,
) -> Tensor:
    """Decode latent codes: integrate the probability flow from T down to time t, as the inverse of
    `encode`.

    There is no final denoising, since `encode` could not invert it. The arguments are those of
    `encode`, except for the codes z, (B, *D).
    """
    label = "decode" if progress else None
    return _flow(sde, model, z, (sde.T, _time(sde, t)), solver, cond, label).x


def slerp(z0: Tensor, z1: Tensor, w: float | Tensor) -> Tensor:
    """Spherical interpolation between latent codes, sample by sample.

    sin((1 - w) Omega) / sin(Omega) z0 + sin(w Omega) / sin(Omega) z1, where Omega is the angle
    between the two codes as vectors. The norms of codes of a normal prior concentrate, and a
    straight line would pass through norms that the prior almost never has. Shoemake 1985
    (SIGGRAPH). Codes of the same direction are interpolated linearly; w outside [0, 1]
    extrapolates along the circle.

    Args:
        z0, z1: (B, *D).
        w: the weight of z1, a number or (B,).

    Raises:
        ValueError: the shapes differ; two codes point in opposite directions, so that every great
            circle joins them; a code is zero.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> [round(v, 4) for v in slerp(a, b, 0.5).flatten().tolist()]
        [0.7071, 0.7071]
    """
    floating("z0", z0)
    same_shape("z1", z1, z0, "pass pairs of codes")
    if isinstance(w, Tensor) and w.ndim:
        if w.shape != z0.shape[:1]:
            raise fail("w", f"a number or shape ({z0.shape[0]},)", w, "one share per pair")
        share = w.double()
    else:
        share = torch.full((z0.shape[0],), finite("w", w), dtype=torch.float64, device=z0.device)
    a, b = (z.flatten(1).double() for z in (z0, z1))
    lengths = a.norm(dim=1), b.norm(dim=1)
    if not all(bool((n > 0).all()) for n in lengths):
        raise fail("z0, z1", "codes other than zero", "a code of norm 0", "drop it")
    a_unit, b_unit = a / lengths[0][:, None], b / lengths[1][:, None]
    # from the chords: arccos of the scalar product would lose half the digits of a small angle
    angle = 2 * torch.atan2((a_unit - b_unit).norm(dim=1), (a_unit + b_unit).norm(dim=1))
    if bool((angle > torch.pi - 1e-6).any()):
        row = int((angle > torch.pi - 1e-6).nonzero()[0])
        raise fail("z0, z1", "codes that are not opposite", f"row {row}", "go by a third code")
    small = angle < 1e-8
    sine = torch.where(small, 1.0, angle.sin())
    first = torch.where(small, 1 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(small, share, (share * angle).sin() / sine)
    out: Tensor = expand(first, z0) * z0 + expand(second, z0) * z1
    return out.to(z0.dtype)


def _time(sde: SDE, t: float | None) -> float:
    instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
    return sde.t_end if t is None else sde.check_time("t", t)


def _flow(
    sde: SDE,
    model: ScoreModel | Callable[..., Tensor],
    x: Tensor,
    ends: tuple[float, float],
    solver: Solver | None,
    cond: Cond,
    label: str | None,
) -> Solution:
    """Solve the probability flow from one time to another, or raise an error.

    With a label the progress is shown.
    """
    if floating("x", x).ndim < 2 or x.numel() == 0:
        raise fail("x", "a non-empty batch of shape (B, *D)", x, "add a batch axis")
    if not bool(torch.isfinite(x).all()):
        raise fail("x", "finite numbers", "NaN or infinity", "clean the data first")
    x, score_model = x.to(state_dtype(x.dtype)), as_model(sde, model)
    solver = _default(score_model) if solver is None else solver
    instance("solver", solver, Solver, "pass for example AdaptiveODE(rtol=1e-6, atol=1e-6)")
    process = ReverseSDE(sde, score_model, 0.0, check_cond(score_model, cond, len(x), x.device))
    graph = torch.is_grad_enabled() and x.requires_grad and solver.differentiable
    x = x if graph else x.detach()
    plan = Plan(solver, 0.0, Schedule(sde, Grid.of(ends)))
    with torch.set_grad_enabled(graph), _shown(label, len(x), solver) as watch:
        solution = integrate(plan, process, x, Independent(0), watch=watch)
        if solution.status != "done":
            raise Unfinished(f"solver: {solution.unfinished}", solution)
    if not bool(torch.isfinite(solution.x).all()):
        raise fail("model", "finite scores along the flow", "NaN or infinity", "check the model")
    return solution


@contextmanager
def _shown(label: str | None, samples: int, solver: Solver) -> Iterator[Watch | None]:
    """The display of a solve: `AdaptiveODE` moves it on, other solvers are shown at the end."""
    if label is None:
        yield None
        return
    from scoresde._progress import progress  # for what is shown alone
    from scoresde.solvers.adaptive.way import Way

    with closing(progress(samples, label, "samples")) as bar:
        way = Way(bar)
        yield way if isinstance(solver, AdaptiveODE) else None
        way.to(samples)


def _default(model: ScoreModel) -> AdaptiveODE:
    """The default solver; for a model of half precision, with the tolerances of its rounding."""
    own = own_dtype(model)
    if own is None or state_dtype(own) == own:
        return AdaptiveODE()
    rounding = torch.finfo(own).eps
    return AdaptiveODE(rtol=rounding, atol=rounding)


def _tolerance(sde: Any, solution: Solution, x: Tensor) -> Tensor:
    """The RMS tolerance, (B,), of a step at x, (B, *D), the first state of a solve."""
    solver, size = solution.solver, x.flatten(1).square().mean(1).sqrt()
    if not isinstance(solver, AdaptiveODE):
        return torch.zeros_like(size)
    size_of = Angle(sde, solver.sigma_data).size(sde.at(solution.grid.start))
    return solver.atol * float(size_of) + solver.rtol * size
