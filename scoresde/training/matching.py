"""New data in the units, the class numbers and the columns of data that a model has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde._check import listed, refuse
from scoresde.data import Data, LazyData, ScaledRows
from scoresde.data.labels import renumbered
from scoresde.quantisation import Quantisation
from scoresde.summary import DataSummary, Scaling, Units

__all__ = ["in_units_of", "matched"]


class _Words(NamedTuple):
    """What messages say about data, about those seen before, and how to mend it."""

    whose: str
    units: str
    like: str
    classes: str


_WORDS = {
    "data": _Words(
        "the data that the model was trained on",
        "set model.data = None to begin with the units of the new data",
        "model.data",
        "leave their samples out, or rename those of the model first: "
        "model.data = dataclasses.replace(model.data, class_names=...)",
    ),
    "validation": _Words(
        "the training data",
        "take both from one data set: data.split(0.9)",
        "scoresde.data.summarise(data)",
        "leave their samples out, or train on data with all classes",
    ),
}


def matched(
    data: Data | LazyData, known: DataSummary | None, argument: str = "data"
) -> Data | LazyData:
    """The data in the units, with the class numbers and the columns of those seen before.

    Classes, and the columns of conditions from a table, are matched by name where both data have
    names. Numbers without a name are those of the model already.

    Args:
        data: the new data.
        known: the summary of the data that were seen before; None if there were none.
        argument: the name of the new data in messages.

    Raises:
        ValueError: see `in_units_of`; a class that occurs, or a column or a category of a
            condition, is not among those seen before, or a column is missing.
    """
    found = in_units_of(data, known, argument)
    if known is None:
        return found
    return _with_columns(_with_classes(found, known, argument), known, argument)


def _with_classes(data: Data | LazyData, known: DataSummary, argument: str) -> Data | LazyData:
    names, own = known.class_names, data.class_names
    if "label" not in data.cond or not names or not own or own == names:
        return data
    label = renumbered(data.cond["label"], own, names, argument, _WORDS[argument].classes)
    cond = {**data.cond, "label": label}
    return replace(data, cond=cond, classes=len(names), class_names=names)


def _with_columns(data: Data | LazyData, known: DataSummary, argument: str) -> Data | LazyData:
    cond, columns = dict(data.cond), dict(data.cond_columns)
    for name, own in data.cond_columns.items():
        wanted = known.conditions[name].columns if name in known.conditions else {}
        if name in cond and own and wanted and list(own.items()) != list(wanted.items()):
            cond[name] = _rearranged(cond[name], own, wanted, f"{argument}: condition {name!r}")
            columns[name] = wanted
    same = all(columns[name] is own for name, own in data.cond_columns.items())
    return data if same else replace(data, cond=cond, cond_columns=columns)


Columns = Mapping[str, tuple[str, ...]]
"""The names of columns -> the names of their categories, () for numbers."""


def _rearranged(value: Tensor, own: Columns, wanted: Columns, argument: str) -> Tensor:
    """The entries (N, k) of a condition in the order of other columns and categories.

    A category that does not occur in these data is 0 for all samples, and not given where its
    column is not.
    """
    here, there = _entries(own), _entries(wanted)
    if set(own) != set(wanted) or not set(here) <= set(there):
        remedy = "take these columns, and leave samples of other categories out"
        raise refuse(argument, f"the columns {_told(wanted)}", _told(own), remedy)
    first = {column: here.index((column, category)) for column, category in reversed(here)}
    picked = [
        value[:, here.index(entry)] if entry in here else 0 * value[:, first[entry[0]]]
        for entry in there
    ]
    return torch.stack(picked, dim=1)


def _entries(columns: Columns) -> list[tuple[str, str]]:
    """The column and the category of each entry, with "" for a number."""
    return [(column, name) for column, names in columns.items() for name in names or ("",)]


def _told(columns: Columns) -> str:
    """Columns with their categories for a message."""
    texts = (f"{name} ({', '.join(of)})" if of else name for name, of in columns.items())
    return ", ".join(texts)


def in_units_of(
    data: Data | LazyData,
    known: DataSummary | None,
    argument: str = "data",
    *,
    raw: bool = False,
) -> Data | LazyData:
    """The data in the units of those that a model was trained on before.

    Data with a scaling are decoded by it and encoded by that of the model. Data without one are
    in model units already, unless they are raw. Levels, and a scaling of the same range, such as
    that of pictures from 0 to 1, are in the same units.

    Args:
        data: the new data.
        known: the summary of the data of the model; None for a model that has seen none.
        argument: the name of the new data in messages.
        raw: values without a scaling are in the units of the user.

    Raises:
        ValueError: only one of the two data has a scaling, or they have other columns.
    """
    if known is None:
        return data
    if data.quantisation is not None or known.quantisation is not None:
        _check_levels(data, known, argument)
        return data
    words, first, own = _WORDS[argument], known.scaling, data.scaling
    if (own is None and (first is None or not raw)) or _same(first, own):
        return data
    if first is None:
        expected = f"values in the units of {words.whose}"
        remedy = f"pass the values not standardised (standardise=False), or {words.units}"
        raise refuse(argument, expected, "standardised ones", remedy)
    columns = () if own is None else own.columns
    if first.columns and columns != first.columns:
        expected = f"the {len(first.columns)} columns {listed(first.columns)} of {words.whose}"
        got = f"{len(columns)}: {listed(columns)}" if columns else "none with names"
        raise refuse(argument, expected, got, "take the same columns in the same order")
    if not isinstance(first, Scaling) or not (own is None or isinstance(own, Scaling)):
        expected = f"the scaling, the categories and the bounds of {words.whose}"
        remedy = f"read the table with load_data(..., like={words.like})"
        raise refuse(argument, expected, "others", remedy)
    _check_shape(data, known, first, argument)
    change = first
    if own is not None:
        change = Scaling((first.mean - own.mean) / own.std, first.std / own.std)
    if isinstance(data, LazyData):
        return replace(data, x=ScaledRows(data.x, change), scaling=first)
    return replace(data, x=change.encode(data.x), scaling=first)


def _check_shape(
    data: Data | LazyData, known: DataSummary, scaling: Scaling, argument: str
) -> None:
    """Raise if a scaling does not have the shape of the samples, or one that is spread to it."""
    shape = tuple(data.x.shape[1:])
    try:
        scaling.mean.expand(shape)
    except RuntimeError:
        expected = f"samples of shape {known.shape}, that of {_WORDS[argument].whose}"
        raise refuse(argument, expected, shape, "bring both to the same shape") from None


def _check_levels(data: Data | LazyData, known: DataSummary, argument: str) -> None:
    """Raise if one of the two data has levels and the other a scaling to other units."""
    levels, new = known.quantisation, data.quantisation
    if _alike(levels, data.scaling) and _alike(new, known.scaling):
        return
    words = _WORDS[argument]
    expected = f"values in the units of {words.whose}, {levels or 'which were standardised'}"
    remedy = f"pass quantisation.encode(levels) in both, or standardise both, or {words.units}"
    raise refuse(argument, expected, new or "standardised ones", remedy)


def _alike(levels: Quantisation | None, scaling: Units | None) -> bool:
    """Whether a scaling brings 0 to 1, or the first to the last level, to the range of levels."""
    if levels is None or scaling is None:
        return True
    if not isinstance(scaling, Scaling):
        return False
    low, high = (scaling.mean + scaling.std * end for end in (levels.low, levels.high))
    tops = (1, levels.levels - 1)
    ends = any(bool(((high - top).abs() < 1e-6 * top).all()) for top in tops)
    return ends and bool((low.abs() < 1e-6).all())


def _same(first: Units | None, own: Units | None) -> bool:
    """Whether two scalings are equal."""
    if first is None or own is None or type(first) is not type(own):
        return False
    return bool(first.to_dict() == own.to_dict())
