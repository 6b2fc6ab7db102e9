"""Cells of a table: which are missing, which are numbers, and which name categories."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from scoresde._check import fail, finite, instance, listed, refuse, show
from scoresde.data.csv_file import MISSING, thousands
from scoresde.data.labels import check_count

__all__ = [
    "Cells",
    "bounds_of",
    "categories_of",
    "missing_cell",
    "missing_in",
    "names_categories",
    "numbers_of",
]

Cells = np.ndarray[Any, Any]
"""The cells of a column, (N,)."""

DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?")


def _is_missing(value: object) -> bool:
    """Whether a cell is empty or says that its value is missing, as nan, NaT and <NA> do."""
    return value is None or str(value).strip().lower() in MISSING


def missing_in(values: Cells) -> Cells:
    """Which cells are missing, (N,) booleans."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "iub":
        return np.zeros(len(values), np.bool_)
    return np.array([_is_missing(value) for value in values.tolist()], np.bool_)


def missing_cell(column: str, row: int, count: int, total: int) -> ValueError:
    """The error of a missing cell where none may be missing; rows are counted from 0."""
    remedy = f"drop or fill the {count} of its {total} values that are missing"
    return fail(f"column {column!r}", "a number", f"a missing value in row {row + 1}", remedy)


def _text_of(value: object) -> str:
    """A cell as the name of a category; whole numbers have no decimals."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def numbers_of(values: Cells, column: str) -> Cells:
    """A column as float64, NaN where a cell is missing.

    Raises:
        ValueError: a cell is neither missing nor a finite number; the message names column, row
            and value.
    """
    if values.dtype.kind in "iubf":
        numbers = values.astype(np.float64)
    elif values.dtype.kind in "OUS":
        filled = np.where(missing_in(values), "nan", values)
        try:
            numbers = filled.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            _first_fault(values, column)
    else:
        raise fail(f"column {column!r}", "numbers", values, "convert it to floats first")
    bad = np.isinf(numbers)
    if bad.any():
        row = int(bad.argmax())
        got = f"{numbers[row]} in row {row + 1}"
        raise fail(f"column {column!r}", "finite numbers", got, "drop or repair the row")
    return numbers


def _first_fault(values: Cells, column: str) -> NoReturn:
    for row, value in enumerate(values.tolist()):
        if _is_missing(value) or _is_number(value):
            continue
        expected = "numbers, as in its other rows"
        got = f"{show(value)} in row {row + 1}"
        remedy = (
            f"repair the row, pass categories=[{column!r}] or label={column!r} if its cells are "
            "names, or leave it out of columns="
        )
        if hint := thousands(value):
            expected, remedy = "numbers", hint
        elif DATE.fullmatch(str(value).strip()):
            expected = "numbers, and dates are none"
            remedy = f"pass drop=[{column!r}], or encode it as a number, such as the day"
        raise refuse(f"column {column!r}", expected, got, remedy) from None
    raise fail(f"column {column!r}", "numbers", values, "convert it to floats first")


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def names_categories(values: Cells) -> bool:
    """Whether the cells of a column are names: booleans, or texts without numbers and dates."""
    if values.dtype.kind not in "OUS":
        return False
    given = {value for value in values.tolist() if not _is_missing(value)}
    return bool(given) and not any(
        _is_number(value) or thousands(value) or DATE.fullmatch(str(value).strip())
        for value in given
        if not isinstance(value, bool | np.bool_)
    )


def categories_of(
    values: Cells, column: str, names: Sequence[str] | None = None
) -> tuple[Cells, tuple[str, ...]]:
    """The number of the category of each cell, (N,) float64 with NaN where missing, and the names.

    Args:
        values: the cells.
        column: the name of the column.
        names: the categories; by default those that occur, whole numbers in their order and
            texts by the alphabet.

    Raises:
        ValueError: a cell is none of `names`, or each of more than 20 cells has its own category.
    """
    absent = missing_in(values)
    texts = ["" if gone else _text_of(v) for v, gone in zip(values.tolist(), absent, strict=True)]
    if names is None:
        found = {text for text, gone in zip(texts, absent, strict=True) if not gone}
        whole = all(text.removeprefix("-").isdecimal() for text in found)
        names = sorted(found, key=lambda text: (int(text) if whole else 0, text))
        check_count(len(names), int((~absent).sum()), f"column {column!r}")
    number = {name: float(place) for place, name in enumerate(names)}
    made = np.full(len(texts), math.nan)
    for row, (text, gone) in enumerate(zip(texts, absent, strict=True)):
        if gone:
            continue
        if text not in number:
            expected = f"one of its categories ({listed(list(names))})"
            remedy = "drop the row, or name the category as it is there"
            raise fail(f"column {column!r}", expected, f"{text!r} in row {row + 1}", remedy)
        made[row] = number[text]
    return made, tuple(names)


def bounds_of(
    bounds: Mapping[str, Sequence[float | None]] | None, numbers: Collection[str]
) -> dict[str, tuple[float | None, float | None]]:
    """The bounds (low, high) of columns of numbers, None for no bound.

    Raises:
        TypeError, ValueError: a column is not one of `numbers`, or its bounds are not two numbers
            or None in order, of which one is a number.
    """
    if bounds is None:
        return {}
    instance("bounds", bounds, Mapping, "pass e.g. {'share': (0, 1), 'income': (0, None)}")
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, ends in bounds.items():
        argument = f"bounds[{name!r}]"
        if name not in numbers:
            expected = f"a column of numbers, of {listed(list(map(repr, numbers)))}"
            raise fail("bounds", expected, name, "check the spelling")
        if not isinstance(ends, list | tuple) or len(ends) != 2:
            raise fail(argument, "(low, high)", ends, "pass e.g. (0, 1), or (0, None)")
        low, high = (
            None if end is None or end in (-math.inf, math.inf) else finite(argument, end)
            for end in ends
        )
        if low is None and high is None:
            raise fail(argument, "a bound", tuple(ends), "leave the column out of bounds")
        if low is not None and high is not None and not low < high:
            raise fail(argument, "low < high", tuple(ends), "pass (low, high)")
        found[name] = low, high
    return found
