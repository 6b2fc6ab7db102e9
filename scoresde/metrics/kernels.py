"""Kernel two-sample statistics: maximum mean discrepancy, energy distance, kernel distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, positive, positive_int
from scoresde._html import Shown
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, blocks, draw, pair

__all__ = [
    "Estimate",
    "SubsetMean",
    "energy_distance",
    "kernel_distance",
    "median_bandwidth",
    "mmd",
]


@dataclass(frozen=True)
class Estimate(Shown):
    """An unbiased estimate of a squared distance, which may be negative if the distance is small.

    Attributes:
        value: the estimate.
        std_error: its standard error; for equal laws it is about 1.2 times too large, because one
            sample cannot distinguish a small distance from 0.
        null_std: its standard deviation if the laws are equal; then |value| is usually below
            twice this number.
    """

    value: float
    std_error: float
    null_std: float


def mmd(
    a: Array, b: Array, *, bandwidth: float | Sequence[float] | None = None, seed: int = 0
) -> Estimate:
    """Squared maximum mean discrepancy with a Gaussian kernel: the unbiased U-statistic.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = exp(-|x - y|^2 / (2 h^2)), or the
    mean of such kernels over several h. It is between 0 and 2, is 0 only for equal laws, and its
    scale depends on the kernel: compare only values of the same bandwidth. The estimate is
    unbiased for a fixed h. Memory is constant in N and M, time is of order (N + M)^2.

    Args:
        a: (N, *D) points, N >= 4.
        b: (M, *D) points, M >= 4.
        bandwidth: h in the unit of the points, or several; None is `median_bandwidth(a, b)`.
        seed: the seed of the random points for the median, if there are many.

    Returns:
        MMD^2, its standard error, and its standard deviation if the laws are equal.

    Raises:
        ValueError: D differs, there are fewer than four rows, or a bandwidth is not above 0.

    Source: Gretton et al., J. Machine Learning Research 13 (2012), eq. (3).

    Example:
        >>> x = torch.arange(6.0)[:, None]
        >>> round(mmd(x, x + 100, bandwidth=0.1).value, 4)
        0.0
        >>> round(mmd(0 * x, 0 * x + 100, bandwidth=0.1).value, 4)
        2.0
    """
    a, b = pair(("a", "b"), (a, b), least=4)
    if bandwidth is None:
        widths: Sequence[float] = (median_bandwidth(a, b, seed=seed),)
    else:
        widths = bandwidth if isinstance(bandwidth, Sequence) else (bandwidth,)
    if len(widths) == 0:
        raise fail("bandwidth", "at least one bandwidth", bandwidth, "pass None for the median")
    precisions = [positive("bandwidth", width) ** -2 for width in widths]

    def kernel(distance: Tensor) -> Tensor:
        halves = distance.square() / -2
        return torch.stack([(halves * p).exp() for p in precisions]).mean(dim=0)

    return _discrepancy(kernel, a, b)


def median_bandwidth(a: Array, b: Array, *, points: int = 2000, seed: int = 0) -> float:
    """Median distance between different points of both sets together: the median heuristic.

    Args:
        a: (N, *D) points.
        b: (M, *D) points.
        points: the most points used; if N + M is larger, a random subset of this size is used.
        seed: the seed of the subset.

    Raises:
        ValueError: D differs, or more than half of the pairs coincide.

    Source: Gretton et al., J. Machine Learning Research 13 (2012), section 8.

    Example:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]]))
        2.0
    """
    pooled = torch.cat(pair(("a", "b"), (a, b), least=1))
    pooled = draw(pooled, positive_int("points", points), seeded(seed))
    width = float(np.median(torch.nn.functional.pdist(pooled).numpy()))
    if width == 0:
        raise fail("a, b", "points that differ", pooled, "pass a bandwidth")
    return width


def energy_distance(a: Array, b: Array) -> Estimate:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'|: the unbiased U-statistic.

    It is in the unit of the points, not its square: 2 |d| for two single points at distance d. It
    is 0 only for equal laws. It is MMD^2 with the kernel -|x - y|, so it has no bandwidth. In one
    dimension it is twice the integral of the squared difference of the distribution functions,
    the square of `scipy.stats.energy_distance`. Memory is constant in N and M.

    Args:
        a: (N, *D) points, N >= 4.
        b: (M, *D) points, M >= 4.

    Raises:
        ValueError: D differs, there are fewer than four rows, or numbers are not finite.

    Source: Szekely and Rizzo, J. Statistical Planning and Inference 143 (2013); Sejdinovic et al.,
        Annals of Statistics 41 (2013), for the kernel.

    Example:
        >>> energy_distance(torch.zeros(5, 2), torch.tensor([[3.0, 4.0]] * 5)).value
        10.0
    """
    a, b = pair(("a", "b"), (a, b), least=4)
    return _discrepancy(torch.neg, a, b)


@dataclass(frozen=True)
class _Sums:
    """Row sums, column sums and sum of squares of a kernel matrix, computed in blocks."""

    rows: Tensor
    columns: Tensor
    squares: float

    @classmethod
    def of(cls, kernel: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> _Sums:
        """The sums of kernel(|a_i - b_j|), without the diagonal if b is a itself."""
        rows, columns, squares = [], torch.zeros(len(b), dtype=torch.float64), 0.0
        for start, distance in blocks(a, b):
            value = kernel(distance)
            if a is b:
                value.diagonal(start).zero_()
            rows.append(value.sum(dim=1))
            columns += value.sum(dim=0)
            squares += float(value.square().sum())
        return cls(torch.cat(rows), columns, squares)


def _discrepancy(kernel: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Estimate:
    """E k(x, x') + E k(y, y') - 2 E k(x, y), unbiased, with its standard error.

    By Hoeffding's decomposition, whose parts are uncorrelated, the variance is exactly

        4 Var g / n + 4 Var h / m + 2 V_aa / (n (n - 1)) + 2 V_bb / (m (m - 1)) + 4 V_ab / (n m)

    with g(x) = E k(x, x') - E k(x, y), h likewise, and V the mean square of the doubly centred
    kernel. For equal laws g and h vanish and only the last three terms remain, which the usual
    asymptotic formula omits. V is estimated without bias by U-centring (Szekely and Rizzo, Annals
    of Statistics 42 (2014)), and so are Var g and Var h, by subtracting the variance of the row
    means; negative estimates become 0.
    """
    n, m = len(a), len(b)
    within_a, within_b, across = (_Sums.of(kernel, *ab) for ab in ((a, a), (b, b), (a, b)))
    total_a, total_b, total = (float(s.rows.sum()) for s in (within_a, within_b, across))
    value = total_a / (n * (n - 1)) + total_b / (m * (m - 1)) - 2 * total / (n * m)
    v_a, v_b, v = _square_within(within_a), _square_within(within_b), _square_across(across)
    g = within_a.rows / (n - 2) - across.rows / m
    h = within_b.rows / (m - 2) - across.columns / n
    var_g = float(g.var()) - v_a / (n - 2) - v / m
    var_h = float(h.var()) - v_b / (m - 2) - v / n
    null = 2 * v_a / (n * (n - 1)) + 2 * v_b / (m * (m - 1)) + 4 * v / (n * m)
    variance = null + max(0.0, 4 * var_g / n + 4 * var_h / m)
    # V is unbiased, so its estimate may be negative if the points are almost equal.
    return Estimate(value, max(0.0, variance) ** 0.5, max(0.0, null) ** 0.5)


def _square_within(sums: _Sums) -> float:
    """Mean square of the centred kernel between two independent points of one law, unbiased."""
    n, rows = len(sums.rows), sums.rows
    squares = sums.squares - 2 * float(rows.square().sum()) / (n - 2)
    return (squares + float(rows.sum()) ** 2 / ((n - 1) * (n - 2))) / (n * (n - 3))


def _square_across(sums: _Sums) -> float:
    """The same between points of two laws: the residual of a two-way table."""
    n, m = len(sums.rows), len(sums.columns)
    squares = sums.squares - float(sums.rows.square().sum()) / m
    squares += float(sums.rows.sum()) ** 2 / (n * m) - float(sums.columns.square().sum()) / n
    return squares / ((n - 1) * (m - 1))


@dataclass(frozen=True)
class SubsetMean(Shown):
    """Mean and standard deviation of a statistic over random subsets of `size` points each.

    The subsets share points when there are few, so `std` is the standard deviation of one subset,
    and std / subsets^(1/2) is not the standard error of the mean.
    """

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(
    a: Array,
    b: Array,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    seed: int = 0,
) -> SubsetMean:
    """Kernel distance: squared MMD of features with a polynomial kernel, over random subsets.

    k(x, y) = (gamma x.y + coef)^degree; torchmetrics computes the sums over kernel matrices, which
    are unbiased, so that subsets of any size have the same mean and equal laws have mean 0. It
    depends on the first `degree` moments of the features and on their scale. It is the KID only
    with the Inception features of that metric.

    Args:
        a: (N, F) features.
        b: (M, F) features.
        subsets: number of pairs of subsets.
        subset_size: points of a subset, at least 2; None is 1000, or the size of the smaller set.
        degree: degree of the polynomial.
        gamma: factor of the inner product; None is 1 / F.
        coef: constant of the polynomial.
        seed: seed of the subsets.

    Raises:
        ValueError: F differs, there are fewer rows than `subset_size`, or numbers are not finite.
        ImportError: torchmetrics is not installed.

    Source: Binkowski et al., ICLR 2018.

    Example:
        >>> kernel_distance(torch.zeros(3, 1), torch.full((3, 1), 2.0), subsets=1, degree=1)
        SubsetMean(mean=4.0, std=0.0, subsets=1, size=3)
    """
    a, b = pair(("a", "b"), (a, b), least=2)
    least, subsets = min(len(a), len(b)), positive_int("subsets", subsets)
    size = min(1000, least) if subset_size is None else positive_int("subset_size", subset_size)
    if not 2 <= size <= least:
        raise fail("subset_size", f"2 to {least} points", size, "pass more rows or a smaller size")
    degree, coef = positive_int("degree", degree), positive("coef", coef)
    gamma = None if gamma is None else positive("gamma", gamma)
    poly_mmd = need("torchmetrics.image.kid", "data").poly_mmd
    generator = seeded(seed)
    values = torch.tensor(
        [
            float(poly_mmd(*(draw(x, size, generator) for x in (a, b)), degree, gamma, coef))
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return SubsetMean(float(values.mean()), float(values.std(correction=0)), subsets, size)
