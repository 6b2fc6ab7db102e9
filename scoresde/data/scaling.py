"""Moments in one pass, and the summary of a data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde.data.rows import Rows, chunks

__all__ = ["Moments", "moments_of", "moments_of_rows"]

LARGEST = 2**14
"""Dimensions up to which a covariance is made: its matrix then takes 2 GiB."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Number of samples, mean (*D), standard deviation (*D) and covariance (d, d), in float64.

    The variance and the covariance are those of the N samples themselves, divided by N, and d is
    the number of values of a sample, in the order of its flattened axes.
    """

    count: int
    mean: Tensor
    std: Tensor
    covariance: Tensor | None = None


def moments_of(pieces: Iterable[Tensor], *, covariance: bool = False) -> Moments:
    """Mean and spread of a stream of pieces (n, *D), each of which is seen once and let go.

    Two sets of n and m samples with means a and b and scatters S and T (sums of squared
    deviations) have the mean a + (b - a) m / (n + m) and the scatter
    S + T + (b - a)^2 n m / (n + m), in which nothing cancels, unlike in E x^2 - (E x)^2.

    Args:
        pieces: tensors (n, *D) of one shape D.
        covariance: also the matrix (d, d).

    Raises:
        ValueError: there is no sample, or a covariance of more than 16,384 dimensions is asked.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979), equation (2.1).

    Example:
        >>> moments_of([torch.tensor([[0.0]]), torch.tensor([[2.0], [4.0]])]).mean
        tensor([2.], dtype=torch.float64)
    """
    count, shape = 0, torch.Size()
    mean = scatter = torch.zeros(0, dtype=torch.float64)
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
    """The pieces cut to some 2^20 values, for each is copied to float64 several times."""
    for piece in pieces:
        rows = max(1, 2**20 // max(1, math.prod(piece.shape[1:])))
        yield from torch.split(piece, rows)


def moments_of_rows(x: Tensor | Rows, covariance: bool) -> Moments:
    """As `moments_of`, over all rows of a tensor or of what is read."""
    return moments_of(chunks(x), covariance=covariance)
