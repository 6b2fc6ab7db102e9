"""Checks and conversions of the arguments of the metrics: samples, features and labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, no_mask, wrong_type

__all__ = ["Array", "blocks", "draw", "labels_of", "pair", "rows_of", "same_width"]

Array: TypeAlias = Tensor | np.ndarray[Any, Any]  # of any numbers


def rows_of(name: str, value: Array, least: int = 1) -> Tensor:
    """Return `value` (N, *D) as finite float64 rows (N, D) on the CPU; raise unless N >= least."""
    no_mask(name, value)
    x = torch.as_tensor(value)
    if x.is_complex() or x.dtype == torch.bool:
        raise wrong_type(name, "real numbers (N, *D)", x, "pass samples in model units")
    if x.ndim < 2 or len(x) < least or x.numel() == 0:
        raise fail(name, f"shape (N, *D) with N >= {least}", x, "pass one row per sample")
    x = x.detach().cpu().double().flatten(1)
    bad = ~x.isfinite().all(dim=1)
    if bad.any():
        got = f"NaN or infinity in {int(bad.sum())} row(s), first row {int(bad.nonzero()[0])}"
        raise fail(name, "finite numbers", got, "find where the sampler diverged")
    return x


def pair(names: tuple[str, str], values: tuple[Array, Array], least: int) -> tuple[Tensor, Tensor]:
    """`rows_of` both arrays, which must have the same number of coordinates."""
    a, b = (rows_of(name, value, least) for name, value in zip(names, values, strict=True))
    same_width(names, a, b)
    return a, b


def same_width(names: tuple[str, str], a: Tensor, b: Tensor) -> None:
    """Raise a ValueError unless rows a (N, F) and b (M, F) have the same number of coordinates."""
    if a.shape[1] != b.shape[1]:
        expected = f"{a.shape[1]} coordinates a row, as {names[0]}"
        raise fail(names[1], expected, b, "compare arrays of the same shape")


def blocks(a: Tensor, b: Tensor, *, exact: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the Euclidean distances (R, M) of R rows of a (N, F) to b (M, F).

    Memory is constant in N. `exact` computes differences before squaring, so that equal points
    have distance 0 and ties remain ties. Otherwise the distances come from a matrix product, which
    is up to 15 times as fast; near 0 their error is about 1e-8 of the size of the data.
    """
    how = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    centre = b.mean(dim=0)  # without centring, the matrix product would cancel
    left, right = (a, b) if exact else (a - centre, b - centre)
    step = max(1, 4_000_000 // len(b))
    for start in range(0, len(a), step):
        yield start, torch.cdist(left[start : start + step], right, compute_mode=how)


def draw(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different random rows of `x`, or all rows in order if there are no more."""
    if count >= len(x):
        return x
    return x[torch.randperm(len(x), generator=generator, device="cpu")[:count]]


def labels_of(labels: Array) -> Tensor:
    """Return labels (N,) as int64 on the CPU, or raise."""
    no_mask("labels", labels)
    label = torch.as_tensor(labels)
    if label.is_floating_point() or label.is_complex() or label.ndim != 1:
        raise wrong_type("labels", "integers of shape (N,)", label, "one class number per row")
    if len(label) == 0:
        raise fail("labels", "at least one label", label, "check what was loaded")
    return label.long().cpu()
