"""Moments in one pass, and the scaling to model units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import choice, fail, listed
from scoresde._html import Shown
from scoresde.data.rows import Rows, chunks
from scoresde.summary import Scaling

__all__ = [
    "BY",
    "Moments",
    "ends_of",
    "moments_of",
    "moments_of_rows",
    "scaling_of",
    "unit_fault",
]

BY = ("auto", "all", "channel", "entry")
"""The values that share a mean and a standard deviation when data are standardised."""

LARGEST = 2**14
"""The most dimensions of a covariance, whose matrix then takes 2 GiB."""


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Shown):
    """Number of samples, mean (*D), standard deviation (*D) and covariance (d, d), in float64.

    The variance and the covariance are those of the N samples themselves, divided by N, and d is
    the number of values of a sample, in the order of its flattened axes.
    """

    count: int
    mean: Tensor
    std: Tensor
    covariance: Tensor | None = None


def moments_of(pieces: Iterable[Tensor], *, covariance: bool = False) -> Moments:
    """Mean and standard deviation of a stream of pieces (n, *D), each of which is read once.

    Two sets of n and m samples with means a and b and scatters S and T (sums of squared
    deviations) have the mean a + (b - a) m / (n + m) and the scatter
    S + T + (b - a)^2 n m / (n + m), where nothing cancels, unlike in E x^2 - (E x)^2.

    Args:
        pieces: tensors (n, *D) of one shape D.
        covariance: compute also the matrix (d, d).

    Raises:
        ValueError: there is no sample, or a covariance has more than 16,384 dimensions.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979), equation (2.1).

    Example:
        >>> moments_of([torch.tensor([[0.0]]), torch.tensor([[2.0], [4.0]])]).mean
        tensor([2.], dtype=torch.float64)
    """
    count, shape = 0, torch.Size()
    mean = scatter = torch.zeros(0, dtype=torch.float64, device="cpu")
    for piece in pieces if covariance else _small(pieces):
        x = piece.detach().to("cpu", torch.float64).flatten(1)
        if len(x) == 0:
            continue
        if count == 0:
            shape, width = piece.shape[1:], x.shape[1]
            if covariance and width > LARGEST:
                remedy = "leave covariance out, or project the samples first"
                raise fail("covariance", f"at most {LARGEST} dimensions", width, remedy)
            mean = x.new_zeros(width)
            scatter = x.new_zeros((width, width) if covariance else width)
        own = x.mean(dim=0)
        deviation = x - own
        delta, total = own - mean, count + len(x)
        share = count * len(x) / total
        if covariance:
            scatter = scatter + deviation.T @ deviation + share * torch.outer(delta, delta)
        else:
            scatter = scatter + deviation.square().sum(dim=0) + share * delta.square()
        mean = mean + delta * (len(x) / total)
        count = total
    if count == 0:
        raise fail("data", "one sample or more", 0, "check what was loaded")
    variance = (scatter.diagonal() if covariance else scatter) / count
    matrix = scatter / count if covariance else None
    return Moments(count, mean.reshape(shape), variance.sqrt().reshape(shape), matrix)


def _small(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces divided to about 2^20 values, since each is copied to float64 several times."""
    for piece in pieces:
        rows = max(1, 2**20 // max(1, math.prod(piece.shape[1:])))
        yield from torch.split(piece, rows)


def moments_of_rows(x: Tensor | Rows, covariance: bool) -> Moments:
    """`moments_of` over all rows of a tensor or of lazy rows."""
    return moments_of(chunks(x), covariance=covariance)


def scaling_of(x: Tensor | Rows, by: str = "auto", name: str = "x") -> Scaling:
    """The mean and standard deviation (over N) of raw values, in float64.

    The values are read twice: for their range, and for the moments of the values mapped from this
    range to [0, 1], so that squares of 1e200 or 1e-310 stay within float64.

    Args:
        x: all samples, (N, *D).
        by: see `Data.standardised`.
        name: the name of the data in messages.

    Raises:
        ValueError: `by` is unknown, or an entry or a channel is constant (the message names all).
    """
    kind = choice("by", by, BY)
    if len(x) < 2 and (kind == "entry" or (kind == "auto" and x.ndim == 2)):
        remedy = "bring more of them, or pass standardise=False, which keeps their values"
        raise fail(name, "two samples or more, to be standardised", len(x), remedy)
    if kind == "auto":
        kind = "entry" if x.ndim == 2 else "channel"
    low, high = ends_of(x)
    axes = {"all": range(low.ndim), "channel": range(1, low.ndim), "entry": range(0)}[kind]
    for axis in axes:
        low, high = low.amin(axis, keepdim=True), high.amax(axis, keepdim=True)
    what = {"all": "values", "channel": "channels (axis 1)", "entry": "entries (axis 1)"}[kind]
    constant = (low == high).reshape(-1).nonzero().flatten().tolist()
    if constant:
        got = f"the same number everywhere in {listed(constant)} of {low.numel()}"
        remedy = "drop them: there is nothing in them to model"
        raise fail(name, f"{what} that vary", got, remedy)
    span = high - low
    if not span.isfinite().all():
        raise fail(name, "values whose range is finite", "an infinite range", "scale them down")
    known = moments_of((piece.double().cpu() - low) / span for piece in chunks(x))
    mean, variance = known.mean, known.std.square()
    if axes:
        # The variance of a union: the mean of the variances and the variance of the means.
        centre = mean.mean(dim=list(axes), keepdim=True)
        variance = (variance + (mean - centre).square()).mean(dim=list(axes), keepdim=True)
        mean = centre
    if kind == "all":
        low, span, mean, variance = (part.reshape(()) for part in (low, span, mean, variance))
    return Scaling(low + span * mean, span * variance.sqrt())


def ends_of(x: Tensor | Rows) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each entry, two of (*D) in float64."""
    low = high = torch.zeros(0, dtype=torch.float64, device="cpu")
    for piece in chunks(x):
        part = piece.detach().cpu()
        least, most = part.amin(dim=0).double(), part.amax(dim=0).double()
        low = torch.minimum(low, least) if low.numel() else least
        high = torch.maximum(high, most) if high.numel() else most
    return low, high


def unit_fault(
    mean: float,
    std: float,
    *,
    entry: float | None = None,
    noise: float = 1.0,
    least: float = 0.1,
) -> str | None:
    """Why data are obviously not in model units, or None.

    A noising process ends in noise of standard deviation `noise` and starts with much less. Data
    are suitable if their mean is near 0 and their standard deviation of order 1: |mean| <= 3 and
    0.1 <= std <= 3. If a process without attenuation (VE, EDM) ends in larger noise, it dominates
    larger data as well, and the upper limits are a tenth of `noise`.

    Args:
        mean: the mean of all values.
        std: the standard deviation about the mean, or about the mean of each entry.
        entry: of the means of entries the one farthest from 0, which is judged in the place of
            `mean`; `std` is then that about the mean of each entry.
        noise: standard deviation of the noise at T if alpha(T) = 1, otherwise 1.
        least: the lowest standard deviation.

    Example:
        >>> unit_fault(0.1, 0.5) is None
        True
        >>> unit_fault(1000.0, 50.0)
        'mean 1000 and standard deviation 50, where model units have |mean| <= 3 and a standard deviation from 0.1 to 3'
        >>> unit_fault(0.0, 6.0, noise=80.0) is None
        True
    """  # noqa: E501
    most = max(3.0, noise / 10)
    judged = mean if entry is None else entry
    if abs(judged) <= most and least <= std <= most:
        return None
    centre, spread = f"mean {mean:.4g}", f"standard deviation {std:.4g}"
    if f"{judged:.4g}" != f"{mean:.4g}":
        centre += f" (of an entry up to {judged:.4g})"
        spread += " about the mean of each entry"
    return (
        f"{centre} and {spread}, where model units have |mean| <= "
        f"{most:g} and a standard deviation from {least:g} to {most:g}"
    )
