"""Processes and densities that tests of the Fokker-Planck equation share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde import SDE, VPSDE, GaussianMixture
from scoresde.fokker_planck import Density

DOUBLE = torch.float64


VP = VPSDE()


def double(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


DATA = GaussianMixture(double([-1.0], [0.8]), double(0.09, 0.2), double(0.4, 0.6))


TILTED = GaussianMixture(
    double([1.0, 0.6], [-0.8, -0.5]),
    double([[0.2, 0.1], [0.1, 0.25]], [[0.3, 0.0], [0.0, 0.15]]),
    double(0.4, 0.6),
)


def gap(density: Density, exact: Any) -> float:
    """The mass in which a density differs from the closed form."""
    values = exact.log_prob(density.box.points()).exp().reshape(density.p.shape)
    return float(((density.p - values).abs() * torch.as_tensor(density.box.volume)).sum())


def order(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


def well(noise: float = 1.0) -> SDE:
    """The double well U = (x^2 - 1)^2, f = -U'."""
    return SDE(lambda t, x: 4 * x - 4 * x**3, lambda t: noise, T=1000.0)


AXIS = [(-5.0, 5.0, 60)]
