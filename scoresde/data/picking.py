"""Columns of a table by name: those that are modelled, and those that are conditions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from scoresde._check import choice, fail, instance, listed, wrong_type
from scoresde.columns import CODINGS, Category, Number, TableScaling
from scoresde.data.cells import Cells, bounds_of
from scoresde.data.mixed import Bounds
from scoresde.data.units import checked_standardise
from scoresde.summary import DataSummary, Scaling

__all__ = [
    "GIVEN",
    "Condition",
    "categories_named",
    "check_like",
    "check_names",
    "groups_of",
    "names_in",
    "names_of",
    "parts_of",
    "picker",
]

GIVEN = "given"
"""The name of the condition of columns that the user does not name."""

Condition: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Columns that become the condition "given", or conditions by name with their columns."""


def groups_of(condition: Condition, like: DataSummary | None) -> dict[str, list[str]]:
    """The conditions by name, with their columns; by default those of other data."""
    if like is not None:
        remedy = "pass model.data, or scoresde.data.summarise(data)"
        instance("like", like, DataSummary, remedy)
    if condition is None:
        known = {} if like is None else like.conditions
        return {name: list(one.columns) for name, one in known.items() if one.columns}
    if isinstance(condition, Mapping):
        groups = {str(k): names_in(f"condition[{k!r}]", v) for k, v in condition.items()}
    else:
        listing = names_in("condition", condition)
        groups = {GIVEN: listing} if listing else {}
    for name, columns in groups.items():
        if not columns or not name.isidentifier() or name in ("label", "x", "t", "self"):
            expected = "names of conditions, not label, x or t, each with columns"
            raise fail("condition", expected, {name: columns}, "pass e.g. {'given': ['age']}")
    every = [column for columns in groups.values() for column in columns]
    twice = sorted({column for column in every if every.count(column) > 1})
    if twice:
        raise fail("condition", "each column once", listed(twice), "name it once")
    return groups


def parts_of(like: DataSummary | None, keys: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """The columns of other data in order, with the names of categories, () for numbers.

    Other data that are no table do not name their columns, so these are all numbers.
    """
    if like is None:
        return None
    scaling = like.scaling
    if scaling is None or not scaling.columns:
        if like.shape != (len(keys),):
            expected = f"samples of shape {like.shape}, as those of the other data"
            raise fail("data", expected, f"the columns {listed(keys)}", "pass drop= or columns=")
        return dict.fromkeys(keys, ())
    if sorted(keys) != sorted(scaling.columns):
        absent = [name for name in scaling.columns if name not in keys]
        more = [name for name in keys if name not in scaling.columns]
        got = f"{listed(keys)}" + (f", without {listed(absent)}" if absent else "")
        remedy = f"pass drop={more}" if more and not absent else "pass a table with these columns"
        raise fail("data", f"a table with the columns {scaling.columns}", got, remedy)
    if isinstance(scaling, Scaling):
        return dict.fromkeys(scaling.columns, ())
    return {part.name: getattr(part, "names", ()) for part in scaling.parts}


def names_of(
    known: Mapping[str, tuple[str, ...]] | None, like: DataSummary | None
) -> dict[str, tuple[str, ...]]:
    """The names of categories of other data by column, also those of conditions."""
    found = dict(known or {})
    for one in {} if like is None else like.conditions.values():
        found |= one.columns
    return found


def categories_named(like: DataSummary | None) -> list[str]:
    """The columns of other data that hold categories."""
    scaling = None if like is None else like.scaling
    columns = () if scaling is None else scaling.columns
    known = parts_of(like, columns) if columns else None
    return [name for name, names in names_of(known, like).items() if names]


def check_like(
    like: DataSummary,
    keys: Sequence[str],
    categories: Sequence[str] | None,
    bounds: Bounds | None,
    coding: str | None,
    standardise: bool | str,
) -> None:
    """Raise for options of a table that contradict the other data, whose own are taken."""
    scaling, remedy = like.scaling, "leave it out, or leave like out to measure anew"
    parts = scaling.parts if isinstance(scaling, TableScaling) else ()
    numbers = {part.name: part for part in parts if isinstance(part, Number)}
    own = categories_named(like)
    more = [name for name in names_in("categories", categories) if name not in own]
    if more:
        expected = f"categories of the other data, {listed(own) if own else 'which has none'}"
        raise fail("categories", expected, listed(more), remedy)
    for column, ends in bounds_of(bounds, [key for key in keys if key not in own]).items():
        known = numbers.get(column)
        its = (None, None) if known is None else (known.low, known.high)
        if tuple(ends) != its:
            raise fail(
                "bounds", f"{its} for {column!r}, as in the other data", tuple(ends), remedy
            )
    if coding is not None:
        choice("coding", coding, CODINGS)
        other = [p.coding for p in parts if isinstance(p, Category) and p.coding != coding]
        if other:
            raise fail("coding", f"{other[0]}, as in the other data", coding, remedy)
    asked = checked_standardise(standardise)
    moved = isinstance(scaling, Scaling) or any(
        (n.mean, n.std) != (0, 1) for n in numbers.values()
    )
    if (asked is False and moved) or (asked is True and scaling is None):
        numbers_are = "standardised" if moved else "not standardised"
        expected = f"{moved}, as in the other data, whose numbers are {numbers_are}"
        raise fail("standardise", expected, asked, remedy)


def check_names(
    cells: Mapping[str, Cells],
    label: str | None,
    beside: Sequence[str],
    categories: Sequence[str] | None,
) -> None:
    """Raise for columns that are not in the table, or that are a label and something else."""
    _known("label", [label] if label is not None else [], cells)
    _known("condition", beside, cells)
    _known("categories", names_in("categories", categories), cells)
    if label is not None and label in (*beside, *(categories or ())):
        argument = "condition" if label in beside else "categories"
        raise fail("label", f"a column that is not among {argument}", label, "name it once")


def names_in(argument: str, names: Sequence[str] | None) -> list[str]:
    """Names as a list; raise for a single text."""
    if isinstance(names, str):
        raise wrong_type(argument, "a list of names", names, f"pass [{names!r}]")
    return list(names or [])


def _known(argument: str, names: Sequence[str], known: Iterable[str]) -> None:
    listed = list(known)
    for name in names:
        if name not in listed:
            expected = f"columns among {', '.join(map(repr, listed))}"
            raise fail(argument, expected, name, "check the spelling")


def picker(
    wanted: Sequence[str] | None,
    label: str | None,
    drop: Sequence[str] | None,
    groups: Mapping[str, Collection[str]],
) -> Callable[[list[str]], list[str]]:
    """The function from the names of all columns to those to read, with label and conditions."""
    columns, dropped = names_in("columns", wanted), names_in("drop", drop)
    beside = [column for group in groups.values() for column in group]
    if wanted is not None and drop:
        raise fail("drop", "None beside columns", drop, "pass one of the two")

    def pick(names: list[str]) -> list[str]:
        _known("columns", columns, names)
        _known("drop", dropped, names)
        _known("label", [label] if label is not None else [], names)
        _known("condition", beside, names)
        extra = [*beside, *([] if label is None else [label])]
        for role, own in (("label", extra[len(beside) :]), ("condition", beside)):
            for name in own:
                if name in columns or name in dropped:
                    argument = "columns" if name in columns else "drop"
                    expected = f"a column that is not among {argument}"
                    raise fail(role, expected, name, "name it once")
        left = [name for name in names if name not in dropped and name not in extra]
        return [*(columns if wanted is not None else left), *dict.fromkeys(extra)]

    return pick
