"""The tail of importance weights, which says whether their errors can be relied upon."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive_int

__all__ = ["heavy", "pareto_fit", "pareto_shape"]


def heavy(count: int) -> float:
    """The shape of the tail of so many weights above which stated errors are too small.

    It is 0.7, and less for fewer than 2200 weights: min(1 - 1 / log10(N), 0.7), Vehtari et al.
    2024 (arXiv 1507.02646), eq. 13. A smaller shape is no proof: it says nothing of places that
    no sample has reached.
    """
    count = positive_int("count", count, "pass the number of the weights")
    return 0.7 if count < 2 else min(1.0 - 1.0 / math.log10(count), 0.7)


def pareto_shape(log_weights: Tensor) -> float:
    """The shape k of a generalised Pareto distribution fitted to the largest weights.

    The largest min(N / 5, 3 sqrt(N)) weights, less the next smaller one, are fitted by the
    estimator of Zhang and Stephens 2009 (Technometrics 51), which is shrunk towards 0.5 with the
    weight of ten samples. Moments of order below 1/k are finite. It is NaN for fewer than 25
    weights, and infinite if fewer than 5 are above rounding of the largest.

    Args:
        log_weights: (N,), of any normalisation.

    Raises:
        TypeError, ValueError: they are no tensor of this shape, or one of them is NaN or +inf.

    Source: Vehtari et al. 2024 (arXiv 1507.02646), section 3.2 and appendix C.
    """
    instance("log_weights", log_weights, Tensor, "use torch.as_tensor")
    if log_weights.ndim != 1:
        raise fail("log_weights", "shape (N,)", log_weights, "pass those of one run")
    if bool(log_weights.isnan().any() | log_weights.isposinf().any()):
        raise fail("log_weights", "numbers or -inf", "NaN or +inf", "see how they are computed")
    ordered = log_weights.double().sort().values
    tail = min(len(ordered) // 5, math.ceil(3.0 * math.sqrt(len(ordered))))
    if tail < 5:
        return math.nan
    scaled = (ordered - ordered[-1]).exp()
    y = scaled[-tail:] - scaled[-tail - 1]
    if float(y[0]) <= 0.0:
        y = y[y > 0.0]
        if len(y) < 5:  # equal weights have no tail; of others one or a few are all that count
            return 0.0 if bool(ordered[-1] - ordered[-tail - 1] < 1e-6) else math.inf
    k = pareto_fit(y)
    return (k * len(y) + 5.0) / (len(y) + 10.0)


def pareto_fit(y: Tensor) -> float:
    """The shape of a generalised Pareto distribution for exceedances y > 0, sorted, (M,).

    theta = -k / scale is averaged over a grid with the profile likelihood as weight, and
    k = mean log(1 - theta y).
    """
    count = len(y)
    points = 30 + int(math.sqrt(count))
    j = torch.arange(1, points + 1, dtype=torch.float64, device=y.device)
    quartile = y[int(count / 4 + 0.5) - 1]
    theta = 1.0 / y[-1] + (1.0 - (points / (j - 0.5)).sqrt()) / (3.0 * quartile)
    shape = torch.log1p(-theta[:, None] * y).mean(1)
    profile = count * ((-theta / shape).log() - shape - 1.0)
    best = torch.softmax(profile, 0) @ theta
    return float(torch.log1p(-best * y).mean())
