"""What the measures take: samples as rows, features, labels; checked once, in one place."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, wrong_type

__all__ = ["Array", "labels_of", "pair", "rows_of"]

Array: TypeAlias = Tensor | np.ndarray[Any, Any]


def rows_of(name: str, value: Array, least: int = 1) -> Tensor:
    """`value` (N, *D) as finite float64 rows (N, D) on the CPU, with N >= least."""
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


def pair(names: tuple[str, str], values: tuple[Array, Array], least: int) -> tuple[Tensor, ...]:
    a, b = (rows_of(name, value, least) for name, value in zip(names, values, strict=True))
    if a.shape[1] != b.shape[1]:
        expected = f"{a.shape[1]} coordinates a row, as {names[0]}"
        raise fail(names[1], expected, b, "compare arrays of the same shape")
    return a, b


def labels_of(labels: Array) -> Tensor:
    label = torch.as_tensor(labels)
    if label.is_floating_point() or label.is_complex() or label.ndim != 1:
        raise wrong_type("labels", "integers of shape (N,)", label, "one class number per row")
    if len(label) == 0:
        raise fail("labels", "at least one label", label, "check what was loaded")
    return label.long().cpu()
