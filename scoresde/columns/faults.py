"""The error of a cell that does not belong to its column."""

from __future__ import annotations

import math

from torch import Tensor

from scoresde._check import fail

__all__ = ["cell_fault"]


def cell_fault(column: str, expected: str, wrong: Tensor, raw: Tensor, remedy: str) -> ValueError:
    """The error of the first wrong cell of a column; rows are counted from 1."""
    row = int(wrong.reshape(-1).nonzero()[0])
    value = float(raw.reshape(-1)[row])
    what = "a missing cell" if math.isnan(value) else f"{value:g}"
    return fail(f"column {column!r}", expected, f"{what} in row {row + 1}", remedy)
