"""Frechet distance between Gaussians fitted to two sets of features, in memory or streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._html import Shown
from scoresde.metrics.arrays import Array, pair, rows_of
from scoresde.metrics.features import Batches, Features, feature_batches

__all__ = [
    "FeatureMoments",
    "feature_frechet",
    "feature_moments",
    "frechet_distance",
    "trace_of_root",
]


def frechet_distance(a: Array, b: Array) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features.

    d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with unbiased covariances, in the
    squared unit of the features. With C = R^T R for the triangular factor R of the centred data,
    the last trace is the sum of the singular values of R_a R_b^T. So neither a covariance nor a
    matrix root is computed, and singular covariances (fewer samples than features) lose no digits.

    The estimate has an upward bias of about 1/N: compare only distances computed from the same
    numbers of samples. It is the FID only with the Inception features of that metric.

    Args:
        a: (N, F) features, N >= 2.
        b: (M, F) features, M >= 2.

    Raises:
        ValueError: there are fewer than two rows, F differs, or numbers are not finite.

    Source: Dowson and Landau, J. Multivariate Analysis 12 (1982), eq. (4).

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> frechet_distance(x, x + 3.0)
        9.0
    """
    a, b = pair(("a", "b"), (a, b), least=2)
    return FeatureMoments.of(a).frechet(FeatureMoments.of(b))


@dataclass(frozen=True, eq=False, repr=False)
class FeatureMoments(Shown):
    """Mean and covariance of features, which determine a Frechet distance.

    The covariance is stored as a triangular factor R of the scatter sum (x - mean)(x - mean)^T =
    R^T R, so merging batches loses no digits. Sums of squares, from which the squared mean is
    subtracted at the end, would lose as many digits as mean and standard deviation differ by.

    Args:
        count: number of rows N.
        mean: (F,) float64.
        factor: R, (min(N, F), F) float64.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
        >>> merged = FeatureMoments.of(x[:2]).merge(FeatureMoments.of(x[2:]))
        >>> bool(torch.allclose(merged.covariance, torch.cov(x.double().T)))
        True
    """

    count: int
    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, features: Array) -> FeatureMoments:
        """The moments of rows (N, F), N >= 1."""
        x = rows_of("features", features)
        mean = x.mean(dim=0)
        return cls(len(x), mean, _triangle(x - mean))

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """The moments of both sets of rows together.

        Source: Chan, Golub and LeVeque, The American Statistician 37 (1983).
        """
        if len(self.mean) != len(other.mean):
            expected = f"{len(self.mean)} features"
            raise fail("other", expected, f"{len(other.mean)}", "use one feature network")
        count, gap = self.count + other.count, other.mean - self.mean
        between = gap * math.sqrt(self.count * other.count / count)
        stacked = torch.cat([self.factor, other.factor, between[None]])
        return FeatureMoments(count, self.mean + gap * (other.count / count), _triangle(stacked))

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, (F, F)."""
        root = self._root()
        return root.T @ root

    def frechet(self, other: FeatureMoments) -> float:
        """Squared Frechet distance to another set; see `frechet_distance`.

        Raises:
            ValueError: there are fewer than two rows, or F differs.
        """
        if len(self.mean) != len(other.mean):
            expected = f"{len(self.mean)} features"
            raise fail("other", expected, f"{len(other.mean)}", "use one feature network")
        root_a, root_b = self._root(), other._root()
        shift = (self.mean - other.mean).square().sum()
        traces = root_a.square().sum() + root_b.square().sum()
        return max(0.0, float(shift + traces - 2 * trace_of_root(root_a, root_b)))

    def _root(self) -> Tensor:
        if self.count < 2:
            raise fail("count", "at least 2 rows", self.count, "a covariance needs two samples")
        return self.factor / math.sqrt(self.count - 1)


def trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr (A B)^(1/2) of the covariances A = a^T a and B = b^T b of factors (K, F) and (L, F)."""
    singular: Tensor = torch.linalg.svdvals(a @ b.T)
    return singular.sum()


def _triangle(x: Tensor) -> Tensor:
    """R (min(N, F), F) with R^T R = x^T x for x (N, F)."""
    factor: Tensor = torch.linalg.qr(x, mode="r").R
    return factor


def feature_moments(x: Batches, features: Features, *, batch_size: int = 256) -> FeatureMoments:
    """Mean and covariance of the features of any number of samples, in constant memory.

    Args:
        x: (N, *D) samples, or an iterable of batches (B, *D), for example of files.
        features: callable (B, *D) -> (B, F); see `features_of`.
        batch_size: rows in one call, if `x` is one array.

    Raises:
        TypeError, ValueError: see `features_of`.

    Example:
        >>> stream = (torch.full((2, 3), float(i)) for i in range(4))
        >>> feature_moments(stream, lambda x: x[:, :1]).mean
        tensor([1.5000], dtype=torch.float64)
    """
    moments: FeatureMoments | None = None
    waiting: list[Tensor] = []

    def fold() -> FeatureMoments:
        block = FeatureMoments.of(torch.cat(waiting))
        waiting.clear()
        return block if moments is None else moments.merge(block)

    for rows in feature_batches(x, features, batch_size=batch_size):
        waiting.append(rows)
        # A merge costs as much as 2 F rows, so rows are collected until there are 4 F.
        if sum(map(len, waiting)) >= max(4 * rows.shape[1], 1024):
            moments = fold()
    if waiting or moments is None:
        moments = fold()
    return moments


def feature_frechet(
    samples: Batches | FeatureMoments,
    reference: Batches | FeatureMoments,
    features: Features,
    *,
    batch_size: int = 256,
) -> float:
    """Squared Frechet distance in the space of a feature network, streamed in constant memory.

    Args:
        samples: (N, *D) samples of the model, an iterable of batches, or their `feature_moments`.
        reference: the same for (M, *D) real data; moments can be reused in many comparisons.
        features: callable (B, *D) -> (B, F); see `features_of`.
        batch_size: rows in one call.

    Raises:
        TypeError, ValueError: see `features_of` and `frechet_distance`.

    Source: Heusel et al., NeurIPS 2017, eq. (6), with Inception features (the FID).

    Example:
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> round(feature_frechet(x + 1, x, lambda x: x[:, :1]), 12)
        1.0
    """
    left, right = (
        x if isinstance(x, FeatureMoments) else feature_moments(x, features, batch_size=batch_size)
        for x in (samples, reference)
    )
    return left.frechet(right)
