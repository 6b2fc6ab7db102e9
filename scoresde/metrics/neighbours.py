"""Metrics by nearest neighbours: memorisation, precision, recall, density and coverage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import fail, positive_int
from scoresde._html import Shown
from scoresde.metrics.arrays import Array, blocks, pair

__all__ = ["PRDC", "nearest_distance", "prdc"]


def nearest_distance(samples: Array, reference: Array) -> Tensor:
    """Euclidean distance of every sample to its nearest reference point.

    A model that memorised its training set has distances near 0 to it, well below those of
    held-out data. Differences are computed before squaring, so copies have distance 0.

    Args:
        samples: (N, *D) points.
        reference: (M, *D) points, for example the training set.

    Returns:
        (N,) float64 distances.

    Raises:
        ValueError: D differs, there are no rows, or numbers are not finite.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        tensor([5.], dtype=torch.float64)
    """
    a, b = pair(("samples", "reference"), (samples, reference), least=1)
    return torch.cat([distance.amin(dim=1) for _, distance in blocks(a, b, exact=True)])


@dataclass(frozen=True)
class PRDC(Shown):
    """The result of `prdc`; all values are shares except `density`, which may exceed 1.

    Attributes:
        precision: share of samples inside the union of the reference's balls: fidelity.
        recall: share of reference points inside the union of the samples' balls: variety.
        density: the average number of reference balls that contain a sample, divided by k:
            fidelity, hardly affected by an outlier of the reference. Its mean is 1 for equal laws.
        coverage: share of reference balls that contain a sample: variety, not affected by
            outliers among the samples.
        k: the number of the neighbour that defines the radius of the balls.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int

    def __repr__(self) -> str:
        shares = ("precision", "recall", "density", "coverage")
        numbers = ", ".join(f"{name}={getattr(self, name):.4g}" for name in shares)
        return f"PRDC({numbers}, k={self.k})"


def prdc(samples: Array, reference: Array, *, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage by nearest neighbours in the space of the points.

    The ball of a point is closed, and its radius is the distance to the k-th nearest other point
    of its own set. For equal laws precision and recall are not 1 but depend on N, M, k and the
    dimension; the mean of the coverage is 1 - prod_{i=1..k} (N - i) / (N + M - i) for N reference
    points and M samples of any law, and that of the density is 1. Compare with two real halves of
    the same size.

    Args:
        samples: (M, *D) points or features of the model, M > k.
        reference: (N, *D) points or features of real data, N > k.
        k: the number of the neighbour; 3 in the paper of precision and recall, 5 in that of
            density and coverage.

    Raises:
        ValueError: D differs, there are too few rows for `k`, or numbers are not finite.

    Source: Kynkaanniemi et al., NeurIPS 2019, section 2; Naeem et al., ICML 2020, section 3.

    Example:
        >>> x = torch.arange(8.0)[:, None]
        >>> prdc(x[:6], x + 0.5, k=2)
        PRDC(precision=1, recall=0.875, density=1, coverage=0.75, k=2)
    """
    k = positive_int("k", k)
    fake, real = pair(("samples", "reference"), (samples, reference), least=1)
    for name, rows in (("samples", fake), ("reference", real)):
        if len(rows) <= k:
            raise fail(name, f"more than k = {k} rows", rows, "pass more points or a smaller k")
    radius_fake, radius_real = _radii(fake, k), _radii(real, k)
    balls = torch.zeros(len(fake), dtype=torch.long)  # real balls that contain each sample
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool)
    for start, distance in blocks(fake, real, exact=True):
        inside = distance <= radius_real
        balls[start : start + len(distance)] = inside.sum(dim=1)
        covered |= inside.any(dim=0)
        radius = radius_fake[start : start + len(distance), None]
        recalled |= (distance <= radius).any(dim=0)
    precision, recall, coverage = (
        float(hits.double().mean()) for hits in (balls > 0, recalled, covered)
    )
    return PRDC(precision, recall, float(balls.double().mean()) / k, coverage, k)


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of every row to its k-th nearest other row; its nearest row is itself."""
    return torch.cat([d.kthvalue(k + 1, dim=1).values for _, d in blocks(x, x, exact=True)])
