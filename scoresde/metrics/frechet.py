"""Frechet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.metrics.arrays import Array, pair

__all__ = ["frechet_distance"]


def frechet_distance(a: Array, b: Array) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features.

    d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with unbiased covariances, in the
    squared unit of the features. With C = R^T R for the triangular factor R of the centred data,
    the last trace is the sum of the singular values of R_a R_b^T, so no covariance is formed, no
    matrix root is taken, and singular covariances (fewer samples than features) lose no digits.

    The estimate is biased upwards, roughly in proportion to 1/N: compare only distances computed
    from the same numbers of samples. It is the FID only on that metric's Inception features.

    Args:
        a: (N, F) features, N >= 2.
        b: (M, F) features, M >= 2.

    Raises:
        ValueError: fewer than two rows, unequal F, or numbers that are not finite.

    Source: Dowson and Landau, J. Multivariate Analysis 12 (1982), eq. (4).

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> frechet_distance(x, x + 3.0)
        9.0
    """
    a, b = pair(("a", "b"), (a, b), least=2)
    factor_a, factor_b = _factor(a), _factor(b)
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    spread = factor_a.square().sum() + factor_b.square().sum()
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    return max(0.0, float(shift + spread - 2 * overlap))


def _factor(x: Tensor) -> Tensor:
    """R (min(N, F), F) with R^T R the unbiased covariance of the rows of `x` (N, F)."""
    centred = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    factor: Tensor = torch.linalg.qr(centred, mode="r").R
    return factor
