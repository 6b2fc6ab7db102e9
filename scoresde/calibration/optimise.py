"""Placement of nodes: equal local errors, a shortest path, or the least endpoint errors.

The minimisation learns the factors of `LearnedAdams` too, and serves a process with noise as
well. Everything here is in lambda = log(alpha / sigma), and uses the model only through its
trajectories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.calibration.trajectories import (
    Array,
    NoGradient,
    Path,
    Runs,
    Scheme,
    Trajectories,
    length,
)
from scoresde.solvers.exponential import Adams, LearnedAdams
from scoresde.solvers.exponential.coefficients import PARAMETRISATIONS, VARIABLES, Segment
from scoresde.solvers.exponential.learned import KINDS

__all__ = [
    "Found",
    "check_gradient",
    "deviations",
    "equidistribute",
    "local_error",
    "minimise",
    "shortest",
    "spread",
    "warp",
]

_LEAST = 1e-3  # of the mean step: the shortest step, so that nodes stay apart
_FLOOR = 1e-3  # of the mean density
_FLAT = 0.1  # a negligible slope, in logarithms of error and of steps
_PATIENCE = 3  # the number of passes in a row without improvement
_SOFT = 0.5  # of the error at the start: errors below it get little weight
_RATE = 0.1  # of the logarithms of the steps
_SLOPE_RATE, _SCALE_RATE, _SPREAD_RATE = 0.15, 0.015, 0.03  # of the factors, at most
_RELATIVE = 1.0  # the rate of the scales over the relative error, where that is less


def local_error(path: Path, solver: Adams) -> tuple[Array, Array]:
    """The constant c(lambda) of the solver's local error c h^(q + 1), and its values of lambda.

    The error of one step is the integral of K(lambda) (m - p), with m the coordinate that the
    solver interpolates and p the polynomial through q nodes: |K| |d^q m| h^(q + 1) up to a factor.
    The derivative is with respect to the variable of the solver, by divided differences along the
    path; the norm is that of states of unit size, averaged over the trajectories.
    """
    q = int(solver.orders.ode or 1)
    segment = Segment(path.nodes, _no_times, 0.0)
    parametrisation = PARAMETRISATIONS[solver.parametrisation]
    lam: Array = segment.log_snr[:-1]
    in_time = solver.variable == "t"
    variable: Array = segment.t[:-1] if in_time else VARIABLES[solver.variable](segment, lam)
    unit = torch.from_numpy(parametrisation.unit(segment)[:-1])
    told = path.read(solver.parametrisation).cpu().double()
    change = told * unit.to(told).reshape(-1, *(1,) * (told.ndim - 1))
    for k in range(1, q + 1):
        gap = torch.from_numpy(variable[k:] - variable[:-k]).to(change)
        change = change.diff(dim=0) / gap.reshape(-1, *(1,) * (told.ndim - 1))
    size = change.flatten(2).norm(dim=2).mean(1).numpy()
    stretch = (variable[q:] - variable[:-q]) / (lam[q:] - lam[:-q])
    middle = (lam[q:] + lam[:-q]) / 2
    weight = np.abs(parametrisation.at_end(segment)) / np.hypot(segment.alpha, segment.sigma)[1:]
    weight = np.interp(middle, segment.log_snr[1:], weight)
    return middle, np.asarray(weight * size * np.abs(stretch) ** q)


def _no_times(points: Any) -> Any:
    return points  # eta is a number, so the times between the nodes are not used


def spread(points: Array, density: Array, ends: tuple[float, float], steps: int) -> Array:
    """Place N + 1 nodes between which the density has equal integrals."""
    fine = np.linspace(ends[0], ends[1], 1025)
    at = np.interp(fine, points, density)
    mean = at.mean()
    at = np.maximum(at, _FLOOR * mean) if np.isfinite(mean) and mean > 0 else np.ones_like(at)
    total = np.concatenate([[0.0], np.cumsum((at[1:] + at[:-1]) / 2)])
    nodes: Array = np.interp(np.linspace(0.0, total[-1], steps + 1), total, fine)
    return nodes


def equidistribute(path: Path, solver: Adams, steps: int) -> Array:
    """Place nodes with equal local errors c h^(q + 1), which have the density c^(1 / (q + 1)).

    This density also minimises the sum of the local errors for a given number of nodes.
    """
    points, constant = local_error(path, solver)
    density = constant ** (1.0 / (int(solver.orders.ode or 1) + 1))
    lam = path.log_snr
    return spread(points, density, (float(lam[0]), float(lam[-1])), steps)


def deviations(path: Path, kernel_name: str) -> Array:
    """The error at node k of one first-order step from node j of the path, (M + 1, M + 1).

    It is the mean over the trajectories, divided by sqrt(D), for states of unit size; it is
    infinite unless k > j.
    """
    segment = Segment(path.nodes, _no_times, 0.0)
    parametrisation, told = PARAMETRISATIONS[kernel_name], path.read(kernel_name)
    keep, whole = (
        parametrisation.state_coef(segment),
        segment.whole(parametrisation.density(segment)),
    )
    unit, size = parametrisation.unit(segment), np.hypot(segment.alpha, segment.sigma)
    cost = np.full((len(size), len(size)), math.inf)
    for j in range(len(size) - 1):
        kept, weight = 1.0, 0.0
        for k in range(j + 1, len(size)):  # the integrals for a constant add up
            kept, weight = kept * keep[k - 1], weight * keep[k - 1] + whole[k - 1]
            gap = path.x[k] - kept * path.x[j] - weight * unit[j] * told[j]
            cost[j, k] = float(length(gap).mean()) / size[k]
    return cost


def shortest(cost: Array, steps: int) -> list[int]:
    """The path of N steps from the first node to the last with the smallest total cost."""
    total = np.where(np.arange(len(cost)) == 0, 0.0, math.inf)
    came = []
    for _ in range(steps):
        through = total[:, None] + cost
        came.append(through.argmin(0))
        total = through.min(0)
    nodes = [len(cost) - 1]
    for back in reversed(came):
        nodes.append(int(back[nodes[-1]]))
    return nodes[::-1]


def _shares(log_snr: Array) -> Tensor:
    way = torch.from_numpy(np.diff(log_snr) / (log_snr[-1] - log_snr[0]))
    least = _LEAST / len(way)
    return ((way - least) / (1.0 - _LEAST)).clamp_min(1e-2 * least).log()


def _step_shares(theta: Tensor) -> Tensor:
    return _LEAST / len(theta) + (1.0 - _LEAST) * theta.softmax(0)


def _nodes(like: Array, share: Tensor) -> Array:
    way = np.concatenate([[0.0], share.detach().numpy().cumsum()])
    return like[0] + (like[-1] - like[0]) * way  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Found:
    """A solver on nodes in lambda, and its loss.

    Attributes:
        loss: the mean logarithm of the errors, or with noise `Laws.loss`.
        solver: the Adams method.
        log_snr: the nodes, (N + 1,).
        factors: scales and slopes of `LearnedAdams`, and with noise spreads, (2 or 3, N), or None.
    """

    loss: float
    solver: Adams
    log_snr: Array
    factors: Array | None = None

    @property
    def scheme(self) -> Scheme:
        """The solver with its factors."""
        if self.factors is None:
            return self.solver
        return LearnedAdams(self.solver, *map(tuple, self.factors.tolist()))


def minimise(
    trajectories: Runs,
    found: Found,
    train: slice,
    batch: int,
    iterations: int,
    learn: bool,
) -> Found:
    """Optimise the logarithms of the steps, and the factors, by Adam with gradients of the run.

    Each iteration takes the next `batch` trajectories. The logarithm of an error has a narrow
    valley where the error of a trajectory happens to vanish, so a fraction of the errors at the
    start is added to the errors. After each pass through the trajectories its mean loss is
    compared with that of the best pass: after three passes without improvement the search restarts
    from there at a third of the rate, and ends if it does so twice. The rates of the factors are
    relative to the error, since a change of a factor changes the state in proportion.

    Returns:
        The last parameters, or the start if its loss on these trajectories is smaller.

    Raises:
        NoGradient: the run has no finite gradient with respect to the nodes.
    """
    steps = len(found.log_snr) - 1
    theta = _shares(found.log_snr).requires_grad_()
    kinds = KINDS if trajectories.eta else KINDS - 1
    made = np.ones((kinds, steps)) if found.factors is None else found.factors
    factors = torch.from_numpy(made.copy()).requires_grad_()
    relative = _RELATIVE * math.exp(min(found.loss, 0.0)) / max(trajectories.size, 1e-30)
    floor = _SOFT * math.exp(min(found.loss, 0.0))
    most = (_SCALE_RATE, relative), (_SLOPE_RATE, 10.0 * relative), (_SPREAD_RATE, 2.0 * relative)
    rates = torch.tensor([[min(pair)] for pair in most[:kinds]])
    passes = max(1, (train.stop - train.start) // batch)
    adam, damped = _adam(theta), _adam(factors)
    best = (math.inf, theta.detach().clone(), factors.detach().clone())
    begun, total, since, slower = best[1:], 0.0, 0, 1.0
    for i in range(iterations):
        at = train.start + (i % passes) * batch
        with torch.enable_grad():
            share = _step_shares(theta)
        slope = trajectories.gradient(
            found.solver, share, slice(at, at + batch), floor, factors if learn else None
        )
        finite = math.isfinite(slope.softened) and bool(slope.share.isfinite().all())
        finite = finite and bool(slope.factors.isfinite().all())
        if not finite and i == 0:
            raise NoGradient("the gradient is not finite")
        total += slope.softened if finite else math.inf
        if (i + 1) % passes == 0:
            if total < best[0]:
                best, since = (total, *begun), 0
            else:
                since += 1
        if not finite or since == _PATIENCE:
            slower, since = slower / 3, 0
            if slower < 0.1:
                break
            theta, factors = (b.clone().requires_grad_() for b in best[1:])
            adam, damped = _adam(theta), _adam(factors)
        else:
            (theta.grad,) = torch.autograd.grad(share, theta, slope.share)
            factors.grad = slope.factors if learn else torch.zeros_like(factors)
            factors.grad[1, 0] = 0.0  # the first step extrapolates by nothing
            rate = slower * min(1.0, (i + 1) / 3) * _cosine(i / iterations)
            with torch.no_grad():
                _apply(adam, rate * _RATE)
                before = factors.detach().clone()
                _apply(damped, rate)
                factors.copy_(before + rates * (factors - before))
                factors[2:].clamp_(min=0.0)  # standard deviations
        if (i + 1) % passes == 0:
            begun, total = (theta.detach().clone(), factors.detach().clone()), 0.0
    log_snr = _nodes(found.log_snr, _step_shares(theta.detach()))
    last = Found(0.0, found.solver, log_snr, factors.detach().numpy() if learn else found.factors)
    last = replace(last, loss=trajectories.loss(last.scheme, log_snr, train))
    return last if last.loss < found.loss else found


def _adam(parameter: Tensor) -> torch.optim.Adam:
    return torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.95))


def _apply(adam: torch.optim.Adam, rate: float) -> None:
    adam.param_groups[0]["lr"] = rate
    adam.step()


def _cosine(progress: float) -> float:
    return 0.05 + 0.95 * math.cos(math.pi / 2 * progress) ** 2


def check_gradient(trajectories: Runs, found: Found, which: slice) -> None:
    """Compare the gradient with differences of the loss, along it and along a zigzag (four runs).

    A model that detaches its input has a gradient that is not the gradient of the loss.

    Raises:
        NoGradient: the two differ.
    """
    theta = _shares(found.log_snr).requires_grad_()
    with torch.enable_grad():
        share = _step_shares(theta)
    slope = trajectories.gradient(found.solver, share, which)
    (to_theta,) = torch.autograd.grad(share, theta, slope.share)
    if not math.isfinite(slope.loss) or not bool(to_theta.isfinite().all()):
        raise NoGradient("the gradient is not finite")
    zigzag = torch.tensor([(-1.0) ** i for i in range(len(theta))]).to(to_theta)
    for way in (to_theta, zigzag):
        way = way / way.norm().clamp_min(1e-30)
        told = float(to_theta @ way)
        # small, but with a change of the loss above rounding
        shift = min(torch.finfo(trajectories.x.dtype).eps ** (1 / 3), 0.02 / max(abs(told), _FLAT))
        at = [theta.detach() + sign * shift * way for sign in (1.0, -1.0)]
        up, down = (
            trajectories.loss(found.solver, _nodes(found.log_snr, _step_shares(a)), which)
            for a in at
        )
        seen = (up - down) / (2 * shift)
        if not abs(seen - told) <= 0.2 * max(abs(seen), abs(told), _FLAT):
            raise NoGradient(f"the gradient says {told:.3g} where the loss changes by {seen:.3g}")


def warp(trajectories: Trajectories, found: Found, which: slice, runs: int) -> Found:
    """Optimise a smooth change of the steps by Nelder-Mead, without gradients.

    A sum of Legendre polynomials of degree 1 to 4 is added to the logarithms of the steps.
    """
    from scipy.optimize import minimize

    start = _shares(found.log_snr)
    n = len(start)
    at = (2 * np.arange(n) + 1) / n - 1
    bases = np.polynomial.legendre.legvander(at, min(4, n - 1))[:, 1:]
    best = replace(found, loss=trajectories.loss(found.solver, found.log_snr, which))

    def loss(c: Array) -> float:
        nonlocal best
        log_snr = _nodes(found.log_snr, _step_shares(start + torch.from_numpy(bases @ c)))
        value = trajectories.loss(found.solver, log_snr, which)
        if value < best.loss:
            best = Found(value, found.solver, log_snr)
        return min(value, 1e6)

    simplex = np.vstack([np.zeros(bases.shape[1]), 0.4 * np.eye(bases.shape[1])])
    options = {"maxfev": runs, "initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-4}
    minimize(loss, simplex[0], method="Nelder-Mead", options=options)
    return best
