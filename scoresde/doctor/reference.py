"""Denoisers that need no training, fitted to the data, below whose loss a model should be.

Each is the exact score of some law near that of the data, so its loss is an upper bound on the
least possible one. They are fitted to data that the probe does not contain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde.doctor.probe import Level, Probe
from scoresde.node import Node

__all__ = ["LinearDenoiser", "kernel_eps"]

MOST = 2048  # rows of a fit
WIDTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Widths of the kernel that are tried, in root mean square distances of nearest neighbours."""


@final
@dataclass(frozen=True, eq=False)
class LinearDenoiser:
    """The best denoiser that is linear in x: exact for a Gaussian.

    With the covariance C = V Lambda V^T + rest (I - V V^T) it predicts
    eps = sigma (alpha^2 C + sigma^2)^-1 (x - alpha m), with a loss of
    tr (alpha^2 C (alpha^2 C + sigma^2)^-1) / D.

    Attributes:
        mean: m, (D,).
        basis: V, (D, r).
        variances: the diagonal of Lambda, (r,).
        rest: the variance in all other directions.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def fit(cls, data: Tensor) -> LinearDenoiser:
        """The mean and the shrunk covariance of data (N, *D).

        The covariance is moved towards a multiple of the identity by the share that minimises its
        expected squared error (Ledoit and Wolf 2004, J. Multivariate Analysis 88, section 3.2).
        """
        flat = data[:MOST].flatten(1).double()
        count, dim = flat.shape
        mean = flat.mean(0)
        centred = flat - mean
        _, singular, right = torch.linalg.svd(centred, full_matrices=False)
        variances = singular.square() / count
        scale = float(variances.sum()) / dim
        square = float(variances.square().sum())
        distance = square - dim * scale**2
        noise = float(centred.square().sum(1).square().sum()) / count - square
        share = min(1.0, noise / count / distance) if distance > 0.0 else 1.0
        return cls(mean, right.T, (1 - share) * variances + share * scale, share * scale)

    @classmethod
    def isotropic(cls, data: Tensor) -> LinearDenoiser:
        """The Gaussian with one mean and one variance for all entries of data (N, *D)."""
        flat = data.flatten(1).double()
        dim, mean = flat.shape[1], flat.mean()
        none = flat.new_empty(dim, 0)
        return cls(mean.expand(dim), none, none[0], float((flat - mean).square().mean()))

    def eps(self, level: Level) -> Tensor:
        """The predicted noise at the states of a level, (n, D)."""
        alpha, sigma = level.node.alpha, level.node.sigma
        centred = level.x.flatten(1).double() - alpha * self.mean
        within = centred @ self.basis
        rest = alpha**2 * self.rest + sigma**2
        gain = 1.0 / (alpha**2 * self.variances + sigma**2) - 1.0 / rest
        return sigma * (centred / rest + (within * gain) @ self.basis.T)  # type: ignore[no-any-return]

    def expected(self, node: Node) -> float:
        """Its loss at a point of the schedule if the data have this covariance."""
        alpha, sigma = node.alpha, node.sigma
        dim, rank = self.basis.shape
        signal = alpha**2 * self.variances
        rest = alpha**2 * self.rest
        total = float((signal / (signal + sigma**2)).sum())
        return (total + (dim - rank) * rest / (rest + sigma**2)) / dim  # type: ignore[no-any-return]


def kernel_eps(probe: Probe) -> tuple[Tensor, ...]:
    """The predicted noise of the exact score of a kernel density estimate, level by level.

    The kernel is an isotropic Gaussian of variance w around each of the other data c_k, of the
    width with the highest likelihood of the data of the probe. Noised, it is a mixture of
    N(alpha c_k, v I) with v = alpha^2 w + sigma^2, so that

        eps = sigma (x - alpha sum_k p_k c_k) / v
        p_k = softmax_k(alpha <x, c_k> / v - alpha^2 |c_k|^2 / (2 v))

    Each level takes one product with all the centres, which is far less than the general mixture
    takes.
    """
    centres = probe.others[:MOST].flatten(1).double()
    rows = probe.x0.flatten(1).double()
    square = torch.cdist(rows, centres).square()
    unit = max(float(square.amin(1).mean()) / probe.dim, 1e-12)

    def likelihood(variance: float) -> float:
        inside = torch.logsumexp(square / (-2.0 * variance), 1).mean()
        return float(inside) - 0.5 * probe.dim * math.log(variance)

    best = max((width**2 * unit for width in WIDTHS), key=likelihood)
    half = centres.square().sum(1) / 2
    found = []
    for level in probe.levels:
        x, alpha, sigma = level.x.flatten(1).double(), level.node.alpha, level.node.sigma
        variance = alpha**2 * best + sigma**2
        logits = torch.addmm(
            half, x, centres.T, beta=-(alpha**2) / variance, alpha=alpha / variance
        )
        found.append(sigma / variance * (x - alpha * torch.softmax(logits, 1) @ centres))
    return tuple(found)
