"""A correlated Gaussian in 8 dimensions, operators on it, and the distance between Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde import EDMSDE, VESDE, VPSDE, CosineSDE, FlowSDE, Gaussian, SubVPSDE
from scoresde.measurement import Blur, Fourier, LinearOperator, Mask, Matrix, SuperResolution

F64 = torch.float64
SDES = (VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE())
D = 8
KNOWN = torch.arange(D) < 4


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def correlated() -> Gaussian:
    """8 dimensions with eigenvalues 2/k in a random basis."""
    basis = torch.linalg.qr(randn(D, D))[0]
    values = 2.0 / torch.arange(1, D + 1, dtype=F64)
    return Gaussian(0.3 * randn(D, seed=1), (basis * values) @ basis.T)


PRIOR = correlated()

OPERATORS: dict[str, LinearOperator] = {
    "mask": Mask(KNOWN),
    "wide matrix": Matrix(randn(3, D)),
    "deficient matrix": Matrix(randn(5, 2) @ randn(2, D, seed=1)),
    "blur": Blur(torch.ones(2, dtype=F64)),
    "frequencies": Fourier(randn(D) > 0),
    "means": SuperResolution(4, dims=1),
}


def distance(x: Tensor, truth: Gaussian) -> float:
    """W2/sqrt(d) between the Gaussian of the moments of x: (N, d) and a Gaussian."""
    left, right = truth.covariance, torch.cov(x.T)
    values, vectors = torch.linalg.eigh(left)
    root = (vectors * values.sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ right @ root).clamp_min(0).sqrt().sum()
    square = (x.mean(0) - truth.mean).square().sum() + left.trace() + right.trace()
    return math.sqrt(max(0.0, float(square - 2 * cross)) / x.shape[1])
