"""Nearest neighbours: memorisation."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.metrics.arrays import Array, pair

__all__ = ["nearest_distance"]


def nearest_distance(samples: Array, reference: Array) -> Tensor:
    """Euclidean distance of every sample to its nearest reference point.

    A model that memorised gives distances near 0 to its training set, well below those of held-out
    data. Differences are taken before squaring, so copies are at exactly 0.

    Args:
        samples: (N, *D) points.
        reference: (M, *D) points, for example the training set.

    Returns:
        (N,) float64 distances.

    Raises:
        ValueError: unequal D, no rows, or numbers that are not finite.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        tensor([5.], dtype=torch.float64)
    """
    a, b = pair(("samples", "reference"), (samples, reference), least=1)
    exact = "donot_use_mm_for_euclid_dist"
    step = max(1, 4_000_000 // len(b))
    parts = (a[start : start + step] for start in range(0, len(a), step))
    return torch.cat([torch.cdist(part, b, compute_mode=exact).amin(dim=1) for part in parts])
