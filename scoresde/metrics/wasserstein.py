"""Wasserstein distances between two sets of points."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._check import positive_int
from scoresde.metrics.arrays import Array, pair

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(a: Array, b: Array, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance between two sets of points.

    SW_2 = (E_u W_2(u.a, u.b)^2)^(1/2), u uniform on the unit sphere: on a line the optimal plan
    pairs quantiles, so each term is exact, also for unequal sizes. The mean over u is estimated
    from `projections` directions, with a relative error of about (2 / projections)^(1/2) in SW_2^2
    at worst; a shift by d alone gives |d| / D^(1/2). Two samples of one law are not at distance 0
    but at one of order N^(-1/2): compare at equal sizes.

    Args:
        a: (N, *D) points, flattened to rows.
        b: (M, *D) points.
        projections: number of directions.
        seed: of the directions; the same seed gives the same directions.

    Returns:
        The distance, in the unit of the points.

    Raises:
        ValueError: unequal D, no rows, numbers that are not finite, `projections` < 1.

    Source: Bonneel et al., J. Math. Imaging and Vision 51 (2015).

    Example:
        >>> line = torch.arange(4.0)[:, None]
        >>> sliced_wasserstein(line, line + 2.0)
        2.0
    """
    a, b = pair(("a", "b"), (a, b), least=1)
    count = positive_int("projections", projections)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], count, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    along_a, along_b = ((directions.T @ x.T).sort(dim=1).values for x in (a, b))
    return float(_line_cost(along_a, along_b).mean().sqrt())


def _line_cost(a: Tensor, b: Tensor) -> Tensor:
    """W_2^2 on a line for each row of sorted a (P, N) and b (P, M).

    The quantile functions are constant between the steps i/N and j/M, here integers over N M.
    """
    n, m = a.shape[1], b.shape[1]
    starts = torch.cat([torch.arange(n) * m, torch.arange(m) * n]).sort().values
    widths = starts.diff(append=torch.tensor([n * m])).double() / (n * m)
    gaps = a[:, starts // m] - b[:, starts // n]
    return gaps.square() @ widths
