"""Columns in memory: those of a mapping, a frame, a table or a structured array, as cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from scoresde._check import fail, listed, refuse, wrong_type
from scoresde.data.cells import Cells
from scoresde.data.labels import is_dictionary, spelt_out

__all__ = ["cells_of", "columns_of", "declares_categories"]


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
    texts = [str(key) for key in keys]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        remedy = "rename the columns; names are compared as texts, so 0 and '0' are one"
        raise refuse("found", "columns of different names", f"{listed(twice)} twice", remedy)
    return {text: found[key] for text, key in zip(texts, keys, strict=True)}


def cells_of(column: Any, name: str) -> Cells:
    """A column as an array (N,); a masked cell is missing.

    Args:
        column: the column, as a table holds it.
        name: its name, for messages.

    Raises:
        ValueError: there is not one value a row.
    """
    argument, remedy = f"column {name!r}", "take it apart into columns of one value each"
    if isinstance(column, Tensor):
        column = column.detach().cpu()
        column = (column.double() if column.is_floating_point() else column).numpy()
    column = spelt_out(column)
    try:
        cells = _unmasked(np.asanyarray(column))
    except ValueError as error:
        raise fail(argument, "one value a row", "rows of several lengths", remedy) from error
    if not cells.ndim:
        repeat = f"repeat it for N rows, as in [{column!r}] * N"
        raise fail(argument, "a value for each row", column, repeat)
    if cells.ndim > 1:
        raise fail(argument, "one value a row", cells, remedy)
    for row, cell in enumerate(cells.tolist() if cells.dtype.kind == "O" else ()):
        if hasattr(cell, "__len__") and not isinstance(cell, str | bytes):
            raise fail(argument, "one value a row", f"{cell} in row {row + 1}", remedy)
    return cells


def declares_categories(column: Any, cells: Cells) -> bool:
    """Whether the type of a column says that it has categories: booleans, or those of a frame."""
    of_pandas = hasattr(getattr(column, "dtype", None), "categories")
    return of_pandas or is_dictionary(column) or cells.dtype.kind == "b"


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
