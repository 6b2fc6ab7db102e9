"""Tables, CSV and parquet: numbers standardised column by column, and categories as bits."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._check import choice, fail, need, path_of, warn, wrong_type
from scoresde.data.base import Data
from scoresde.data.cells import Cells, missing_in
from scoresde.data.csv_file import different, read_csv
from scoresde.data.frames import cells_of, columns_of, declares_categories
from scoresde.data.labels import Labels, numbered
from scoresde.data.mixed import (
    MISSING_CELLS,
    Bounds,
    check_bounds,
    condition_of,
    kept_rows,
    measured,
    read_columns,
)
from scoresde.data.picking import (
    Condition,
    categories_named,
    check_like,
    check_names,
    groups_of,
    names_in,
    names_of,
    parts_of,
    picker,
)
from scoresde.data.units import checked_standardise
from scoresde.summary import DataSummary, Units

__all__ = ["csv_table", "parquet_table", "table"]

NUMBERING = re.compile(r"(.*[_ ])?(id|uuid|index|idx|row|nr|date|time|timestamp|datetime)", re.I)
UNNAMED = re.compile(r"|Unnamed: 0|__index_level_0__")


def csv_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    condition: Condition = None,
    drop: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    coding: str | None = None,
    bounds: Bounds | None = None,
    missing: str = "model",
    like: DataSummary | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    standardise: bool | str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Data:
    """A table in a CSV file: numbers with mean 0 and variance 1, and categories as bits.

    The first line has the names of the columns. If it contains only numbers, it is the first row
    of data and the columns are named "0", "1", ..., but a first line 0, 1, 2, ... is that of a
    pandas frame without names. Rows are counted from 1, without the line of names. Empty lines and
    comments (#) are ignored. A first column without a name that counts the rows is left out, with
    a warning; there is also a warning of a column with numbers or dates of rows.

    A table of plain numbers has one entry of x for each column, and a `Scaling`. Any other table
    has a `scoresde.columns.TableScaling`: a column of categories has an entry -1 or 1 for each bit
    or for each category, a column with missing cells an indicator beside its value, and a column
    with bounds is mapped to all real numbers by a logit or a logarithm before it is standardised,
    so that samples stay within the bounds. `data.scaling.decode` converts samples back, and
    `data.scaling.log_abs_det` converts log-densities.

    Args:
        path: the file, in UTF-8, UTF-16 with a byte-order mark, or latin-1 (with a warning).
        columns: the columns to use, in this order; by default all except `label`, `condition` and
            `drop`.
        drop: the columns to leave out.
        label: a column of integers or texts that becomes the condition "label"; the values that
            occur are the classes and their names, numbered in order. Each row must have one,
            unless `missing` is "drop".
        condition: columns that are given and not modelled. They become one condition "given" (N,
            k): numbers in the units of the table, n categories as n entries 0 and 1, NaN where a
            cell is missing. A mapping of names to columns makes several conditions of these names.
        categories: columns of categories whose cells look like numbers. Columns whose cells are
            names are categories anyway, with a warning, as are booleans and columns of
            categories of pandas and pyarrow.
        coding: "bits" (by default) or "one_hot"; see `scoresde.columns.CODINGS`.
        bounds: column -> (low, high), None for no bound, such as {"age": (0, 120), "income": (0,
            None)}. Numbers on a bound are allowed, and come back as the bound: see
            `scoresde.columns.Number`.
        missing: what to do with missing cells, which are empty, or NA, nan, null, none, ? or -:
            "model" (an indicator beside the value, with a warning), "drop" (leave the rows out,
            with a warning) or "refuse".
        like: the summary of other data, such as `model.data`. Columns, categories, bounds,
            conditions and scaling are then those, so that equal cells become equal numbers, and
            `categories`, `coding`, `bounds` and `standardise` may only agree with them.
        delimiter: the delimiter of cells. By default it is the one of comma, semicolon, tab and |
            that divides the first lines into rows of equal length with the most numbers.
        decimal: "." or ","; by default a comma if it occurs in cells and is not the delimiter.
            Thousands separators are refused.
        header: whether the first line has the names; by default it is inferred as above.
        standardise: whether (True or "auto") to subtract the mean and divide by the standard
            deviation of each column (over N). False keeps the numbers.
        dtype: the dtype of x; the map to model units is computed in float64.

    Returns:
        Data with x (N, D), and its scaling unless it has plain numbers that are not standardised.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: pyarrow is not installed.
        ValueError: a column mixes numbers and names, is constant, violates its bounds, is infinite
            or is not in the table, or a row has another number of cells. The message names column
            and row. An option contradicts `like`.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "heights.csv"
        >>> _ = file.write_text("height,weight,sex\\n1.8,80,m\\n1.6,60,f\\n1.7,70,f\\n")
        >>> data = csv_table(file, label="sex")
        >>> data, data.class_names
        (Data(heights: 3 x (2,) float32, cond: label), ('f', 'm'))
        >>> data.scaling.decode(data.x)[0]
        tensor([ 1.8000, 80.0000])
        >>> data = csv_table(file, condition=["weight"], categories=["sex"])
        >>> data, data.cond["given"].tolist()
        (Data(heights: 3 x (2,) float32, cond: given), [[80.0], [60.0], [70.0]])
        >>> data.scaling.texts(data.scaling.decode(data.x.double()))[0]
        ['1.8', 'm']
    """
    path = path_of("path", path)
    texts = [label, *names_in("categories", categories), *categories_named(like)]
    found = read_csv(
        path,
        picker(columns, label, drop, groups_of(condition, like)),
        [name for name in texts if name is not None],
        delimiter=delimiter,
        decimal=decimal,
        header=header,
    )
    return table(
        _without_index(found, columns, path.name),
        label=label,
        condition=condition,
        categories=categories,
        coding=coding,
        bounds=bounds,
        missing=missing,
        like=like,
        standardise=standardise,
        dtype=dtype,
        name=path.stem,
    )


def parquet_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    condition: Condition = None,
    drop: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    coding: str | None = None,
    bounds: Bounds | None = None,
    missing: str = "model",
    like: DataSummary | None = None,
    standardise: bool | str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Data:
    """A table in a parquet file; see `csv_table`.

    Args:
        path: the file.
        columns, label, condition, drop, categories, coding, bounds, missing: see `csv_table`.
        like, standardise, dtype: see `csv_table`.

    Returns:
        Data with x (N, D), and its scaling; see `csv_table`.

    Raises:
        FileNotFoundError, ValueError: see `csv_table`.
        ImportError: pyarrow is not installed.

    Example:
        >>> parquet_table("heights.parquet", label="sex")  # doctest: +SKIP
        Data(heights: 3 x (2,) float32, cond: label)
    """
    path = path_of("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    found = _read_parquet(path, picker(columns, label, drop, groups_of(condition, like)))
    return table(
        _without_index(found, columns, path.name),
        label=label,
        condition=condition,
        categories=categories,
        coding=coding,
        bounds=bounds,
        missing=missing,
        like=like,
        standardise=standardise,
        dtype=dtype,
        name=path.stem,
    )


def table(
    found: Mapping[str, Any],
    *,
    label: str | None = None,
    condition: Condition = None,
    categories: Sequence[str] | None = None,
    coding: str | None = None,
    bounds: Bounds | None = None,
    missing: str = "model",
    like: DataSummary | None = None,
    standardise: bool | str = "auto",
    dtype: torch.dtype = torch.float32,
    name: str = "table",
) -> Data:
    """Data from columns in memory: name -> N values, or a frame or table.

    Args:
        found: the columns in order: a mapping, a DataFrame of pandas, a table of pyarrow, or a
            structured array of numpy. Masked cells are missing.
        label, condition, categories, coding, bounds, missing: see `csv_table`.
        like, standardise, dtype: see `csv_table`.
        name: the name of the data.

    Returns:
        Data with x (N, D), and its `Scaling` or `TableScaling` if it has one.

    Raises:
        ValueError: see `csv_table`.

    Example:
        >>> table({"a": [1.0, 2.0, 3.0], "b": [0.0, 5.0, 0.0]}).scaling.mean
        tensor([2.0000, 1.6667], dtype=torch.float64)
        >>> data = table(
        ...     {"share": [0.2, 0.5, 0.9], "kind": ["u", "v", "u"]},
        ...     categories=["kind"],
        ...     bounds={"share": (0, 1)},
        ... )
        >>> data.scaling.texts(data.scaling.decode(data.x.double()))[0]
        ['0.2', 'u']
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        remedy = "pass torch.float32 or torch.float64"
        raise wrong_type("dtype", "a floating-point torch.dtype", dtype, remedy)
    columns = columns_of(found)
    cells = {key: cells_of(column, key) for key, column in columns.items()}
    declared = [key for key, column in columns.items() if declares_categories(column, cells[key])]
    groups = groups_of(condition, like)
    beside = [column for group in groups.values() for column in group]
    check_names(cells, label, beside, categories)
    lengths = {key: len(value) for key, value in cells.items()}
    if len(set(lengths.values())) > 1:
        raise fail("found", "columns of one length", lengths, "check where they come from")
    keys = [key for key in cells if key != label and key not in beside]
    rows = max(lengths.values(), default=0)
    if not keys or not rows:
        got, remedy = f"{len(keys)} columns of {rows} rows", "check what was loaded"
        if rows and cells:
            remedy = "leave a column out of label= and condition=, which are not modelled"
        raise fail("columns", "a column and a row of numbers", got, remedy)
    known = parts_of(like, keys)
    if like is not None:
        check_like(like, keys, categories, bounds, coding, standardise)
    keys = keys if known is None else list(known)
    texts = names_of(known, like)
    read = read_columns([*keys, *beside], cells, categories, declared, texts, name)
    choice("missing", missing, MISSING_CELLS)
    kept = kept_rows(read, missing, name, given=beside, known=like is not None)
    if label is not None:
        kept = _labelled(cells[label], kept, label, missing, name)
    check_bounds({k: read[k] for k in keys}, bounds, None if like is None else like.scaling, kept)
    read = {key: replace(one, values=one.values[kept]) for key, one in read.items()}
    cond: dict[str, Tensor] = {}
    classes = 0
    names: tuple[str, ...] = ()
    if label is not None:
        cond["label"], classes, names = _classes(cells[label], kept, label)
    for group, own in groups.items():
        cond[group] = condition_of([read[column] for column in own]).to(dtype)
    scaling: Units | None
    scale = checked_standardise(standardise) is not False
    if known is not None and like is not None:
        scaling = like.scaling
    else:
        _warn_of_numbering({k: read[k].values for k in keys if not read[k].names}, name)
        scaling = measured([read[key] for key in keys], bounds, coding or "bits", scale, name)
    raw = torch.from_numpy(np.stack([read[key].values for key in keys], axis=1))
    x = raw if scaling is None else scaling.encode(raw)
    described = {group: {c: read[c].names for c in own} for group, own in groups.items()}
    return Data(x.to(dtype), cond, None, name, classes, names, scaling, described)


def _without_index(
    found: dict[str, Any], wanted: Sequence[str] | None, name: str
) -> dict[str, Any]:
    """The columns without one that counts the rows, and without an empty last one."""
    keys = list(found)
    left = dict(found)
    for key in keys:
        if wanted is not None or not UNNAMED.fullmatch(key) or len(left) == 1:
            continue
        cells = cells_of(found[key], key)
        if missing_in(cells).all():
            del left[key]
        elif _numbers_rows(cells):
            del left[key]
            warn(
                f"{name}: the column {key!r} counts the rows and has no name, so it is left out "
                "(columns= takes it)"
            )
    return left


def _warn_of_numbering(numbers: Mapping[str, Cells], name: str) -> None:
    """Warn of columns that look like numbers or dates of rows, which are modelled as well."""
    found = [
        key
        for key, value in numbers.items()
        if len(value) >= 5
        and (_numbers_rows(value) or NUMBERING.fullmatch(key))
        and (value == value.round()).all()
        and len(np.unique(value)) == len(value)
    ]
    if found and len(numbers) > 1:
        warn(
            f"{name}: {', '.join(map(repr, found))} seem to number or date the rows, and are "
            f"modelled as any other column; drop={found} leaves them out"
        )


def _labelled(values: Cells, kept: Cells, column: str, missing: str, name: str) -> Cells:
    """The kept rows with a label; all must have one unless rows with missing cells are dropped."""
    absent = missing_in(values) & kept
    count = int(absent.sum())
    if count and (missing != "drop" or count == kept.sum()):
        got = f"a missing value in row {int(absent.argmax()) + 1}"
        remedy = f"fill the {count} of its {len(values)} values that are missing, or pass "
        remedy += "missing='drop', which leaves their rows out"
        raise fail(f"column {column!r}", "a label in every row", got, remedy)
    if count:
        left = int(kept.sum()) - count
        warn(
            f"{name}: missing of {len(values)} labels: {column!r} ({count}); they are left out "
            f"with their rows, and {left} rows remain",
        )
    return kept & ~absent


def _classes(values: Cells, kept: Cells, column: str) -> Labels:
    """Labels, number and names of the classes in the kept cells of integers or of texts."""
    rows = (np.flatnonzero(kept) + 1).tolist()
    return numbered(values[kept], len(rows), f"column {column!r}", rows=rows)


def _numbers_rows(values: Cells) -> bool:
    """Whether a column counts the rows from 0 or from 1."""
    try:
        offset = np.unique(values.astype(np.float64) - np.arange(len(values)))
    except (TypeError, ValueError):
        return False
    return len(values) > 1 and offset.tolist() in ([0.0], [1.0])


def _read_parquet(path: Path, pick: Callable[[list[str]], list[str]]) -> dict[str, Any]:
    library = need("pyarrow.parquet", "data")
    try:
        picked = pick(different(list(library.read_schema(path).names), path))
        read = library.read_table(path, columns=picked)
        declared = _declared_in(library.read_metadata(path).metadata or {})
    except (need("pyarrow", "data").ArrowException, OSError) as error:
        raise fail(str(path), "a parquet file", str(error), "write it again") from error
    columns = {name: read.column(name) for name in picked}
    return {k: c.dictionary_encode() if k in declared else c for k, c in columns.items()}


def _declared_in(about: Mapping[bytes, bytes]) -> set[str]:
    """The columns of categories by the metadata of a parquet file.

    Parquet itself has no such type; pyarrow restores it for texts, but not for numbers.
    """
    found: set[str] = set()
    if (text := about.get(b"ARROW:schema")) is not None:  # the types before they were written
        arrow = need("pyarrow", "data")
        schema = arrow.ipc.read_schema(arrow.py_buffer(base64.b64decode(text)))
        found |= {field.name for field in schema if arrow.types.is_dictionary(field.type)}
    if (text := about.get(b"pandas")) is not None:  # the same, which fastparquet writes too
        columns = json.loads(text).get("columns", ())
        found |= {str(c.get("name")) for c in columns if c.get("pandas_type") == "categorical"}
    return found
