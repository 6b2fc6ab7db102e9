"""Latent codes: the probability flow as an invertible map between data and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import brief, fail, finite, floating, instance, same_shape
from scoresde._tensor import expand, ordinary, state_dtype
from scoresde.model import Cond, ScoreModel, check_cond, own_dtype
from scoresde.noise import Independent
from scoresde.process import ReverseSDE
from scoresde.sampler.registry import as_model
from scoresde.schedule.grid import Grid
from scoresde.sde import SDE
from scoresde.solvers.adaptive.ode import AdaptiveODE, Angle
from scoresde.solvers.base import Solution, Solver, Unfinished

__all__ = ["Latent", "decode", "encode", "slerp"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Latent:
    """Latent codes, and how exactly they give back what was encoded.

    Attributes:
        z: the codes, states at time T, (B, *D).
        solution: what the solver measured on the way up.
        round_trip: RMS over each sample's entries of decode(encode(x)) - x, (B,), if asked for.
        error: how far the code of a sample may be from the exact one, (B,), if asked for: an RMS
            in units of x, of the code taken back along the exact flow. It is `round_trip` and, as
            the errors of the two ways may cancel, the tolerance of a step of `AdaptiveODE` there.
    """

    z: Tensor
    solution: Solution
    round_trip: Tensor | None = None
    error: Tensor | None = None

    def __repr__(self) -> str:
        return brief(self)


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
) -> Latent:
    """Latent codes of data: the probability flow from time t up to T.

    The flow is a bijection, so `decode` gives x back to the tolerance of the solver; `check`
    measures to what. The code of a datum depends on the model's cond; decoding with another
    condition translates. Song et al. 2021 (arXiv 2011.13456), sec. 4.3.

    Args:
        sde: the SDE that the model was trained for.
        model: a `ScoreModel`, or a bare function score(t, x).
        x: states at time t, (B, *D): data, whose noise at t_end is too small to matter.
        solver: an ODE solver; `AdaptiveODE()` by default, for a model of half precision with the
            tolerances of its rounding. One on a fixed grid takes the two ends as its only nodes:
            take an adaptive one.
        t: the time of x; the SDE's t_end by default.
        cond: conditions, name -> (B, ...).
        check: decode again and measure the difference, at as many calls once more.

    Where x requires gradients the codes can be differentiated in it, the steps held fixed.

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
    solution = _flow(sde, model, x, (start, sde.T), solver, cond)
    if not check:
        return Latent(solution.x, solution)
    again = decode(sde, model, solution.x, solver=solver, t=t, cond=cond)
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
) -> Tensor:
    """Data of latent codes: the probability flow from T down to time t; undoes `encode`.

    There is no final denoising, which no `encode` could undo. Arguments as in `encode`, with
    z: (B, *D) the codes.
    """
    return _flow(sde, model, z, (sde.T, _time(sde, t)), solver, cond).x


def slerp(z0: Tensor, z1: Tensor, w: float | Tensor) -> Tensor:
    """Spherical interpolation between latent codes, sample by sample.

    sin((1 - w) Omega) / sin(Omega) z0 + sin(w Omega) / sin(Omega) z1, where Omega is the angle
    between a pair over all its entries: for codes of a normal prior, whose norms concentrate, a
    straight line would pass through norms that the prior never has. Shoemake 1985 (SIGGRAPH).
    Pairs of the same direction are mixed linearly; w outside [0, 1] goes on along the circle.

    Args:
        z0, z1: (B, *D).
        w: the share of z1, a number or (B,).

    Raises:
        ValueError: shapes differ; a pair points in opposite directions, so that every great
            circle joins it; a code is zero.

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
    # by the chords: arccos of the product would lose half the digits of a small angle
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
) -> Solution:
    """Walk the probability flow from one time to another, or raise."""
    if floating("x", x).ndim < 2 or x.numel() == 0:
        raise fail("x", "a non-empty batch of shape (B, *D)", x, "add a batch axis")
    if not bool(torch.isfinite(x).all()):
        raise fail("x", "finite numbers", "NaN or infinity", "clean the data first")
    x, asked = x.to(state_dtype(x.dtype)), as_model(sde, model)
    solver = _default(asked) if solver is None else solver
    instance("solver", solver, Solver, "pass for example AdaptiveODE(rtol=1e-6, atol=1e-6)")
    process = ReverseSDE(sde, asked, 0.0, check_cond(asked, cond, len(x), x.device))
    graph = torch.is_grad_enabled() and x.requires_grad and solver.differentiable
    x = x if graph else x.detach()
    with torch.set_grad_enabled(graph):
        solution = solver.solve(process, x, Grid.of(ends), noise=Independent(0))
    if solution.status != "done":
        raise Unfinished(f"solver: {solution.unfinished}", solution)
    if not bool(torch.isfinite(solution.x).all()):
        raise fail("model", "finite scores along the flow", "NaN or infinity", "check the model")
    return solution


def _default(model: ScoreModel) -> AdaptiveODE:
    """No finer than a model of half precision rounds, which would cost calls for nothing."""
    own = own_dtype(model)
    if own is None or state_dtype(own) == own:
        return AdaptiveODE()
    rounding = torch.finfo(own).eps
    return AdaptiveODE(rtol=rounding, atol=rounding)


def _tolerance(sde: Any, solution: Solution, x: Tensor) -> Tensor:
    """The tolerance of a step at x: (B, *D), the first state of a solve, as an RMS; (B,)."""
    solver, size = solution.solver, x.flatten(1).square().mean(1).sqrt()
    if not isinstance(solver, AdaptiveODE):
        return torch.zeros_like(size)
    size_of = Angle(sde, solver.sigma_data).size(sde.at(solution.grid.start))
    return solver.atol * float(size_of) + solver.rtol * size
