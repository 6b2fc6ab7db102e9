"""Denoisers that need no training, fitted to the data, below whose loss a model should be.

Each is the exact score of some law near that of the data, so its loss is an upper bound on the
least possible one. They are fitted to data that the probe does not contain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde.doctor.probe import Level, Probe, eps_of
from scoresde.node import Node
from scoresde.oracles import GaussianMixture

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

    The kernel is an isotropic Gaussian around each of the other data, of the width with the
    highest likelihood of the data of the probe.
    """
    centres = probe.others[:MOST].flatten(1).double()
    rows = probe.x0.flatten(1).double()
    nearest = torch.cdist(rows, centres).amin(1)
    unit = max(float(nearest.square().mean()) / probe.dim, 1e-12)
    made = [
        GaussianMixture(centres, torch.full((len(centres),), width**2 * unit).to(centres))
        for width in WIDTHS
    ]
    best = max(made, key=lambda mixture: float(mixture.log_prob(rows).mean()))
    return tuple(eps_of(one) for one in probe.predict(best.under(probe.sde)))
