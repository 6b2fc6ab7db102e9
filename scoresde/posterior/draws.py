"""Draws of x_0 from a prior N(x_0hat, r^2 I) given a measurement: exact ones, and by Langevin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._tensor import expand, wide
from scoresde.measurement import LinearOperator, Measurement
from scoresde.noise import Noise
from scoresde.posterior.base import conjugate_gradients

__all__ = ["SHARE", "gaussian_draw", "langevin", "log_density"]

SHARE = 0.1
"""The length of the first step of a Langevin chain, over r^2."""

_ACCEPTED = 0.574
"""The share of proposals to accept: Roberts and Rosenthal 1998, optimal in high dimension."""

_GAIN = 0.3
"""The change of the logarithm of a step for each proposal."""


def gaussian_draw(
    measurement: Measurement,
    centre: Tensor,
    variance: float,
    y: Tensor,
    normals: tuple[Tensor, Tensor],
    tol: float,
    max_iter: int,
) -> Tensor:
    """An exact draw for a linear operator and Gaussian noise: (B, *D).

    With noise of one standard deviation std and known singular values s it is, by direction, a
    normal of variance r^2 std^2 / (std^2 + s^2 r^2). Otherwise, and for a sample with unobserved
    entries, a draw (x, e) of the prior and of the noise becomes x + r^2 A^T S^-1 (y - A x - e)
    with S = Sigma_y + r^2 A A^T (Matheron's rule), by conjugate gradients.

    Args:
        measurement: a linear measurement with Gaussian noise of positive variance.
        centre: x_0hat, (B, *D).
        variance: r^2, above 0.
        y: (B, *M).
        normals: standard normals, (B, *D) and (B, *M).
        tol, max_iter: those of the conjugate gradients.
    """
    operator, std = measurement.need_linear("DAPS"), measurement.need_gaussian("DAPS").scalar
    if std is None or not operator.decomposable:
        return _by_solving(measurement, centre, variance, y, normals, tol, max_iter)
    whole = _by_direction(
        operator, std, measurement.residual(centre, y), centre, variance, normals[0]
    )
    holes = y.isnan().flatten(1).any(1)
    if not bool(holes.any()):
        return whole
    part = _by_solving(measurement, centre, variance, y, normals, tol, max_iter)
    return torch.where(expand(holes, whole), part, whole)


def _by_direction(
    operator: LinearOperator, std: float, residual: Tensor, centre: Tensor, r2: float, z: Tensor
) -> Tensor:
    """The draw in the singular directions of A."""

    def gain(s: Tensor) -> Tensor:
        return r2 / (std**2 + s.square() * r2)

    moved = operator.gram_function(gain, operator.adjoint(residual))
    return centre + moved + operator.gram_function(lambda s: std * gain(s).sqrt(), z)


def _by_solving(
    measurement: Measurement,
    centre: Tensor,
    r2: float,
    y: Tensor,
    normals: tuple[Tensor, Tensor],
    tol: float,
    max_iter: int,
) -> Tensor:
    """The draw by Matheron's rule, in float64."""
    y = wide(y)
    z, e = (wide(part) for part in normals)
    x = wide(centre) + math.sqrt(r2) * z

    def apply(v: Tensor) -> Tensor:
        image = measurement.forward(measurement.adjoint(v, y), y)
        return measurement.apply_noise(v, y) + r2 * image

    gap = measurement.residual(x, y) - measurement.colour_noise(e, y)
    gap = gap.masked_fill(y.isnan(), 0.0)
    w, _ = conjugate_gradients(apply, gap, tol, max_iter, "DAPS")
    return (x + r2 * measurement.adjoint(w, y)).to(centre.dtype)


def langevin(
    measurement: Measurement,
    x: Tensor,
    centre: Tensor,
    variance: float,
    y: Tensor,
    share: Tensor,
    noise: Noise,
    t: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """The end of Langevin chains with Metropolis correction, for any likelihood.

    A proposal is x' = x + h g + sqrt(2 h) z with g the gradient of the log density, and h = f r^2.
    The f of each sample grows with the chance of its acceptance and shrinks otherwise, so that
    57 % are accepted; it goes on from node to node.

    Args:
        measurement: any measurement whose log-likelihood can be differentiated.
        x: the start of the chains, (B, *D).
        centre: x_0hat, (B, *D).
        variance: r^2, above 0.
        y: (B, *M).
        share: f, (B,) in float64.
        noise: the noise, counted by the number of the proposal.
        t: the time of the node.
        steps: the number of proposals.

    Returns:
        x, (B, *D), and f.

    Raises:
        ValueError: the log-likelihood is not differentiable or not finite at the start.
    """
    value, g = log_density(measurement, x, centre, variance, y)
    if not bool((value.isfinite() & g.flatten(1).isfinite().all(1)).all()):
        remedy = "check that y has the units of A(x_0), and that its entries are possible"
        expected = f"a finite log-likelihood with its gradient, at t = {t:.6g}"
        raise fail("measurement", expected, "NaN or infinity", remedy)
    column = x.new_empty((len(x), 1), dtype=torch.float64)
    for number in range(steps):
        z = noise.draw(x, number, at=t)
        u = torch.special.ndtr(noise.draw(column, number, 1, at=t))[:, 0]
        h = share * variance
        length = expand(h.to(x.dtype), x)
        moved = x + length * g + (2.0 * length).sqrt() * z
        new, pull = log_density(measurement, moved, centre, variance, y)
        # log q(x | x') - log q(x' | x), without the difference of x and x'.
        both = (length / 2.0).sqrt() * (g + pull)
        turn = -(z * both + 0.5 * both.square()).flatten(1).double().sum(1)
        chance = (new - value + turn).nan_to_num(nan=-math.inf).clamp_max(0.0).exp()
        take = u < chance
        x = torch.where(expand(take, x), moved, x)
        g = torch.where(expand(take, g), pull, g)
        value = torch.where(take, new, value)
        share = (share * torch.exp(_GAIN * (chance - _ACCEPTED))).clamp_max(1.0)
    return x, share


def log_density(
    measurement: Measurement, x: Tensor, centre: Tensor, variance: float, y: Tensor
) -> tuple[Tensor, Tensor]:
    """log p(y | x) - |x - x_0hat|^2 / (2 r^2), (B,) in float64, and its gradient in x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        likelihood = measurement.log_likelihood(leaf, y)
        if not likelihood.requires_grad:
            expected = "a log-likelihood that can be differentiated in x_0"
            raise fail("measurement", expected, "one without a gradient", "take out detach")
        (grad,) = torch.autograd.grad(likelihood.sum(), leaf)
    off = x - centre
    square = off.flatten(1).double().square().sum(1)
    return likelihood.detach().double() - square / (2.0 * variance), grad - off / variance
