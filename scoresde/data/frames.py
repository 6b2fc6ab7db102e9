"""Columns in memory: those of a mapping, a frame, a table or a structured array, as cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scoresde._check import wrong_type
from scoresde.data.cells import Cells

__all__ = ["cells_of", "columns_of"]


def columns_of(found: Any) -> dict[str, Any]:
    """The columns of any kind of table by name, each as the table holds it.

    Raises:
        TypeError: it is no table.
        ValueError: a name occurs twice.
    """
    names = getattr(found, "column_names", None)  # of pyarrow
    if names is None:
        names = getattr(found, "columns", None)  # of pandas and polars
    if names is None:
        names = getattr(getattr(found, "dtype", None), "names", None)  # of a structured array
    if names is None and not isinstance(found, Mapping):
        remedy = "pass e.g. {'height': heights, 'weight': weights}"
        raise wrong_type("found", "a mapping, frame or table of columns", found, remedy)
    keys = list(found if names is None else names)
    return {str(key): found[key] for key in keys}


def cells_of(column: Any, name: str) -> Cells:
    """A column as an array (N,); a masked cell is missing.

    Args:
        column: the column, as a table holds it.
        name: its name, for messages.
    """
    return _unmasked(np.asanyarray(column))


def _unmasked(array: Cells) -> Cells:
    """An array with NaN or None in place of masked cells."""
    if not isinstance(array, np.ma.MaskedArray):
        return np.asarray(array)
    mask = np.ma.getmaskarray(array)
    if not mask.any():
        return np.asarray(array.data)
    if array.dtype.kind in "iuf":
        return np.where(mask, np.nan, array.data.astype(np.float64))
    cells: Cells = array.data.astype(object)
    cells[mask] = None
    return cells
