"""Tables of numbers, bounded or missing, and of categories: how each column becomes entries."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import choice, fail, listed, warn
from scoresde.columns import CODINGS, Category, Number, TableScaling
from scoresde.data.cells import (
    Cells,
    bounds_of,
    categories_of,
    missing_cell,
    names_categories,
    numbers_of,
)
from scoresde.data.scaling import scaling_of
from scoresde.summary import Scaling, Units

__all__ = [
    "MISSING_CELLS",
    "Bounds",
    "Read",
    "check_bounds",
    "condition_of",
    "kept_rows",
    "measured",
    "read_columns",
]

Bounds: TypeAlias = Mapping[str, Sequence[float | None]]
"""The bounds of columns: name -> (low, high), None for no bound."""

MISSING_CELLS = {
    "model": "the cells are 0 and an indicator is modelled beside them",
    "drop": "rows with a missing cell are left out",
    "refuse": "a missing cell is an error",
}
"""What to do with missing cells."""


@final
@dataclass(frozen=True, eq=False)
class Read:
    """A column as it was read: values (N,) float64, NaN where missing.

    Attributes:
        name: the name of the column.
        values: numbers, or the numbers of categories.
        names: the names of the categories; () for numbers.
    """

    name: str
    values: Cells
    names: tuple[str, ...] = ()


def read_columns(
    keys: Sequence[str],
    cells: Mapping[str, Cells],
    categories: Collection[str] | None,
    declared: Collection[str],
    known: Mapping[str, tuple[str, ...]],
    name: str,
) -> dict[str, Read]:
    """The columns as numbers, or as categories if they are named so or hold names.

    Args:
        keys: the columns.
        cells: the cells of all columns.
        categories: the columns of categories besides those whose cells are names.
        declared: the columns whose type says so.
        known: the names of the categories of other data, () for numbers; for all columns or none.
        name: the name of the data in messages.

    Warns:
        UserWarning: columns are taken as categories because their cells are names.
    """
    found: dict[str, Read] = {}
    told: list[str] = []
    for key in keys:
        named = key in (categories or ()) or bool(known.get(key))
        if not named and key not in known:
            named = key in declared
            if not named and names_categories(cells[key]):
                named, told = True, [*told, key]
        if named:
            found[key] = Read(key, *categories_of(cells[key], key, known.get(key)))
        else:
            found[key] = Read(key, numbers_of(cells[key], key))
    if told:
        parts = [f"{key!r} ({len(found[key].names)})" for key in told]
        warn(
            f"{name}: the cells of {listed(parts)} are names and are taken as categories "
            "(categories= says so, drop= leaves a column out)"
        )
    return found


def kept_rows(
    read: dict[str, Read], missing: str, name: str, *, given: Collection[str], known: bool
) -> Cells:
    """Apply a key of `MISSING_CELLS`: the rows that are kept, (N,) booleans.

    Args:
        read: the columns.
        missing: the key.
        name: the name of the data in messages.
        given: the columns that are conditions.
        known: whether the columns are those of other data, which say what is missing.
    """
    absent = {key: np.isnan(one.values) for key, one in read.items()}
    total = len(next(iter(absent.values())))
    some = {key: int(gone.sum()) for key, gone in absent.items() if gone.any()}
    everywhere = [key for key, count in some.items() if count == total]
    if everywhere and not known:
        remedy = f"there is nothing in it: pass drop={everywhere}"
        raise fail(f"column {everywhere[0]!r}", "cells that are not missing", "none", remedy)
    kept = np.ones(total, np.bool_)
    if not some:
        return kept
    if missing == "refuse":
        key = next(iter(some))
        raise missing_cell(key, int(absent[key].argmax()), some[key], total)
    if missing == "model" and known:
        return kept
    counts = listed([f"{key!r} ({count})" for key, count in some.items()])
    if missing == "model":
        ways = {"modelled by an indicator": [key for key in some if key not in given]}
        ways["conditions that are not given"] = [key for key in some if key in given]
        done = " and ".join(way for way, keys in ways.items() if keys)
        done += " (missing=drop leaves the rows out, refuse is an error)"
    else:
        kept = ~np.any(list(absent.values()), axis=0)
        done = f"left out with their rows, and {kept.sum()} rows remain"
        if not kept.any():
            remedy = "pass missing=model, or drop the columns with most missing cells"
            raise fail("missing", "rows without missing cells", f"none of {total}", remedy)
    warn(f"{name}: missing of {total} cells: {counts}; they are {done}")
    return kept


def check_bounds(
    read: Mapping[str, Read], bounds: Bounds | None, scaling: Units | None, kept: Cells
) -> None:
    """Raise for numbers out of their bounds; the message counts all rows, also those left out.

    Args:
        read: the columns with all of their rows.
        bounds: the bounds of the user.
        scaling: the map of other data, which has bounds of its own.
        kept: the rows that are kept.
    """
    numbers = [key for key, one in read.items() if not one.names]
    parts = [
        Number(key, low=low, high=high, low_gap=_one(low), high_gap=_one(high))
        for key, (low, high) in bounds_of(bounds, numbers).items()
    ]
    if isinstance(scaling, TableScaling):
        parts = [part for part in scaling.parts if isinstance(part, Number)]
    for part in parts:
        values = np.where(kept, read[part.name].values, math.nan)
        replace(part, missing=True).check(torch.from_numpy(values))


def _one(end: float | None) -> float | None:
    """A gap at a bound, which allows numbers on it."""
    return None if end is None else 1.0


def measured(
    columns: Sequence[Read], bounds: Bounds | None, coding: str, standardise: bool, name: str
) -> Units | None:
    """The map to model units of columns; a `Scaling` or None if all are plain numbers.

    Raises:
        ValueError: a column is constant (it is named), or bounds are of no column of numbers.
    """
    choice("coding", coding, CODINGS)
    ends = bounds_of(bounds, [column.name for column in columns if not column.names])
    constant = [column.name for column in columns if _is_constant(column)]
    total = len(columns[0].values)
    if constant and total > 1:
        got = f"{', '.join(map(repr, constant))} constant"
        remedy = f"there is nothing in them to model: pass drop={constant}, or columns="
        raise fail("columns", "columns that vary", got, remedy)
    if standardise and total < 2:
        raise fail("standardise", "two rows or more", total, "pass standardise=False")
    plain = not ends and not any(c.names or np.isnan(c.values).any() for c in columns)
    if plain:
        return _plain(columns, name) if standardise else None
    return TableScaling(
        tuple(
            Category(column.name, column.names, coding, bool(np.isnan(column.values).any()))
            if column.names
            else _number(column, *ends.get(column.name, (None, None)), standardise)
            for column in columns
        )
    )


def _plain(columns: Sequence[Read], name: str) -> Scaling:
    raw = torch.from_numpy(np.stack([column.values for column in columns], axis=1))
    return replace(scaling_of(raw, "entry", name), columns=tuple(c.name for c in columns))


def _is_constant(column: Read) -> bool:
    """Whether all cells are equal; a single category beside missing cells is not."""
    given = column.values[~np.isnan(column.values)]
    same = bool((given == given[0]).all())
    return same and not (column.names and len(given) < len(column.values))


def _number(column: Read, low: float | None, high: float | None, standardise: bool) -> Number:
    """A column of numbers with the moments of its link."""
    given = torch.from_numpy(column.values[~np.isnan(column.values)])
    made = Number(
        column.name,
        low=low,
        high=high,
        missing=len(given) < len(column.values),
        low_gap=_gap(given, low, high, 1),
        high_gap=_gap(given, high, low, -1),
    )
    if not standardise:
        return made
    scaling = scaling_of(made.link(given)[:, None], "entry", f"column {column.name!r}")
    return replace(made, mean=float(scaling.mean), std=float(scaling.std))


def _gap(given: Tensor, end: float | None, other: float | None, sign: int) -> float | None:
    """The distance from a bound to the nearest number inside, if there are numbers on it."""
    if end is None or not bool((given == end).any()):
        return None
    inside = sign * (given - end)
    inside = inside[(inside > 0) & (given != other)] if other is not None else inside[inside > 0]
    if len(inside):
        return float(inside.min())
    return abs(other - end) / 4 if other is not None else 1.0


def condition_of(columns: Sequence[Read]) -> Tensor:
    """A condition (N, k) float64: numbers as they are, n categories as n entries 0 and 1.

    A missing cell is NaN in all of its entries.
    """
    parts: list[Tensor] = []
    for column in columns:
        values = torch.from_numpy(column.values)[:, None]
        if column.names:
            number = torch.arange(len(column.names), dtype=torch.float64, device="cpu")
            values = torch.where(values.isnan(), math.nan, (values == number).double())
        parts.append(values)
    return torch.cat(parts, 1)
