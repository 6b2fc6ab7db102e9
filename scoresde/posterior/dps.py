"""Diffusion posterior sampling: the likelihood at the denoised state."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, nonnegative
from scoresde._tensor import expand
from scoresde.measurement import Denoised, GaussianNoise, Measurement
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.posterior.base import PosteriorModel

__all__ = ["DPS"]

_STEPS = 1000
"""The steps of the chain for which the strength is published."""


@final
class DPS(PosteriorModel):
    """Diffusion posterior sampling: p(y | x_0hat) in place of p(y | x_t).

    For Gaussian noise the score is shifted by tau J^T A^T Sigma^-1 r with r = y - A(x_0hat) and

        tau = min(1, strength * 1000 / (g^2 T) * s^2 / |r|),

    s^2 the mean variance of the noise and |r| the norm for each sample. So for noise of one
    variance the shift is the published one, -strength * grad |r| in each of 1000 steps, in units
    of the score, g^2 T / 1000 being the factor of the score in such a step; but never stronger
    than the gradient of log p(y | x_0hat) itself, so that infinite noise gives the prior. For any
    other noise it is that gradient, times the strength. p(y | x_0hat) ignores the uncertainty of
    x_0 given x_t, so samples are biased towards the measurement and too narrow; the bias on far
    mixtures is large, and more steps do not reduce it: there samples are 6 to 57 times as far from
    the posterior as exact ones are from one another, on Gaussian data 4.0 to 4.6 times
    (docs/posteriors.md). With a sharp likelihood of a curved operator it can diverge with solvers
    of second order; "ancestral" with more steps is safer.

    Args:
        model: the score model of the prior.
        measurement: a measurement by any differentiable operator, with any noise.
        strength: zeta' of the paper, 1 by default; 0 is the prior.

    Source: Chung et al. 2023 (arXiv 2209.14687), algorithm 1 and section C.4.

    Example:
        >>> from scoresde import VPSDE, Gaussian, ReverseSampler
        >>> prior = Gaussian(torch.zeros(1), torch.ones(1)).under(VPSDE())
        >>> size = Measurement(lambda x0: x0.abs(), torch.tensor([1.0]), 0.3)
        >>> model = DPS(prior, size)
        >>> x = ReverseSampler(VPSDE(), model, "ancestral", steps=100).sample((500, 1), seed=0)
        >>> round(float(x.abs().mean()), 1), bool((x < 0.0).any()), bool((x > 0.0).any())
        (1.0, True, True)
    """

    def __init__(self, model: ScoreModel, measurement: Measurement, strength: float = 1.0) -> None:
        super().__init__(model, measurement)
        self.strength = nonnegative("strength", strength, "1 is the published strength")

    def shift(self, node: Node, found: Denoised, y: Tensor) -> Tensor:
        measurement, noise = self.measurement, self.measurement.noise
        self.vjps += 1
        if not isinstance(noise, GaussianNoise):
            with torch.enable_grad():
                value = measurement.log_likelihood(found.x0, y)
            weights = torch.full_like(value, self.strength)
            return found.pull(weights, value, last=True)
        with torch.enable_grad():
            residual = measurement.residual(found.x0, y)
        r = residual if found.kept else residual.detach()
        norm = r.flatten(1).norm(dim=1)
        rate = node.g.flatten() if isinstance(node.g, Tensor) else node.g
        wanted = torch.full_like(norm, self.strength * _STEPS)
        unit = rate**2 * self.sde.T * norm  # 0 where g = 0, as at t = 0 of some families
        if noise.positive:
            wanted = wanted * measurement.noise_variance(y).flatten(1).mean(1)
            weighted = measurement.solve_noise(r, y)
            whole = wanted >= unit if self.strength else torch.zeros_like(unit, dtype=torch.bool)
            tau = torch.where(whole, 1.0, wanted / torch.where(unit > 0.0, unit, 1.0))
        else:
            weighted, tau = r, wanted / unit.clamp_min(torch.finfo(unit.dtype).tiny)
            if not isinstance(rate, Tensor) and rate == 0.0:
                remedy = "end before it, as t_end does by default"
                raise fail("t", "a time with g > 0 for noise of 0", f"t = {node.t:g}", remedy)
        return found.pull(-expand(tau, r) * weighted, residual, last=True)
