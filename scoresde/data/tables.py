"""Tables of numbers, CSV and parquet, standardised column by column."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, path_of, wrong_type
from scoresde.data.base import Data
from scoresde.data.csv_file import Column, read_csv, thousands
from scoresde.data.labels import Labels, numbered
from scoresde.data.scaling import scaling_of
from scoresde.data.units import checked_standardise

__all__ = ["csv_table", "parquet_table", "table"]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "<na>"})
NUMBERING = re.compile(r"(.*[_ ])?(id|uuid|index|idx|row|nr|date|time|timestamp|datetime)", re.I)
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?")
UNNAMED = re.compile(r"|Unnamed: 0|__index_level_0__")


def csv_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    drop: Sequence[str] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    standardise: bool | str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Data:
    """A table of numbers in a CSV file, each column standardised to mean 0 and variance 1.

    The first line has the names of the columns. If it contains only numbers, it is the first row
    of data and the columns are named "0", "1", ..., but a first line 0, 1, 2, ... is that of a
    pandas frame without names. Rows are counted from 1, without the line of names. Empty lines and
    comments (#) are ignored. A first column without a name that counts the rows is left out, with
    a warning; there is also a warning of a column with numbers or dates of rows.

    Args:
        path: the file, in UTF-8, UTF-16 with a byte-order mark, or latin-1 (with a warning).
        columns: the columns to use, in this order; by default all except `label` and `drop`.
        drop: the columns to leave out.
        label: a column of integers or texts that becomes the condition "label"; the values that
            occur are the classes and their names, numbered in order.
        delimiter: the delimiter of cells. By default it is the one of comma, semicolon, tab and |
            that divides the first lines into rows of equal length with the most numbers.
        decimal: "." or ","; by default a comma if it occurs in cells and is not the delimiter.
            Thousands separators are refused.
        header: whether the first line has the names; by default it is inferred as above.
        standardise: whether (True or "auto") to subtract the mean and divide by the standard
            deviation of each column (over N); `data.scaling.decode` converts samples back. False
            keeps the numbers.
        dtype: the dtype of x; the standardisation is computed in float64.

    Returns:
        Data with x (N, D), and its `Scaling` if it is standardised.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: pyarrow is not installed.
        ValueError: a column has other values than numbers, is constant, or is not in the table, a
            value is missing, or a row has another number of cells. The message names column and
            row.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "heights.csv"
        >>> _ = file.write_text("height,weight,sex\\n1.8,80,m\\n1.6,60,f\\n1.7,70,f\\n")
        >>> data = csv_table(file, label="sex")
        >>> data, data.class_names
        (Data(heights: 3 x (2,) float32, cond: label), ('f', 'm'))
        >>> data.scaling.decode(data.x)[0]
        tensor([ 1.8000, 80.0000])
    """
    path = path_of("path", path)
    pick = _picker(columns, label, drop)
    found = read_csv(path, pick, label, delimiter=delimiter, decimal=decimal, header=header)
    found = _without_index(found, columns, path.name)
    return table(found, label=label, standardise=standardise, dtype=dtype, name=path.stem)


def parquet_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    drop: Sequence[str] | None = None,
    standardise: bool | str = "auto",
    dtype: torch.dtype = torch.float32,
) -> Data:
    """A table of numbers in a parquet file, each column standardised; see `csv_table`.

    Args:
        path: the file.
        columns, label, drop, standardise, dtype: see `csv_table`.

    Returns:
        Data with x (N, D), and its `Scaling` if it is standardised.

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
    found = _read_parquet(path, _picker(columns, label, drop))
    found = _without_index(found, columns, path.name)
    return table(found, label=label, standardise=standardise, dtype=dtype, name=path.stem)


def table(
    found: Mapping[str, Any],
    *,
    label: str | None = None,
    standardise: bool | str = "auto",
    dtype: torch.dtype = torch.float32,
    name: str = "table",
) -> Data:
    """Data from columns in memory: name -> N values, or a frame or table.

    Args:
        found: the columns in order: a mapping, a DataFrame of pandas, a table of pyarrow, or a
            structured array of numpy.
        label, standardise, dtype: see `csv_table`.
        name: the name of the data.

    Returns:
        Data with x (N, D), and its `Scaling` if it is standardised.

    Raises:
        ValueError: see `csv_table`.

    Example:
        >>> table({"a": [1.0, 2.0, 3.0], "b": [0.0, 5.0, 0.0]}).scaling.mean
        tensor([2.0000, 1.6667], dtype=torch.float64)
    """
    columns = {str(key): np.asarray(found[key]) for key in _keys(found)}
    _known("label", [label] if label is not None else [], columns)
    lengths = {key: len(value) for key, value in columns.items()}
    if len(set(lengths.values())) > 1:
        raise fail("found", "columns of one length", lengths, "check where they come from")
    numbers = {key: _numbers(value, key) for key, value in columns.items() if key != label}
    if not numbers or not next(iter(lengths.values())):
        got = f"{len(numbers)} columns of {max(lengths.values(), default=0)} rows"
        raise fail("columns", "a column and a row of numbers", got, "check what was loaded")
    raw = torch.from_numpy(np.stack(list(numbers.values()), axis=1))
    cond: dict[str, Tensor] = {}
    classes = 0
    names: tuple[str, ...] = ()
    if label is not None:
        cond["label"], classes, names = _classes(columns[label], label)
    _warn_of_numbering(numbers, name)
    constant = [key for key, value in numbers.items() if (value == value[0]).all()]
    if constant and len(raw) > 1:
        got = f"{', '.join(map(repr, constant))} constant"
        remedy = f"there is nothing in them to model: pass drop={constant}, or columns="
        raise fail("columns", "columns that vary", got, remedy)
    scaling = None
    if checked_standardise(standardise):
        if len(raw) < 2:
            raise fail("standardise", "two rows or more", len(raw), "pass standardise=False")
        scaling = replace(scaling_of(raw, "entry"), columns=tuple(numbers))
        raw = scaling.encode(raw)
    return Data(raw.to(dtype), cond, None, name, classes, names, scaling)


def _keys(found: Any) -> list[Any]:
    """The names of the columns of any kind of table."""
    names = getattr(found, "column_names", None)  # of pyarrow
    if names is None:
        names = getattr(found, "columns", None)  # of pandas and polars
    if names is None:
        names = getattr(getattr(found, "dtype", None), "names", None)  # of a structured array
    if names is None and not isinstance(found, Mapping):
        remedy = "pass e.g. {'height': heights, 'weight': weights}"
        raise wrong_type("found", "a mapping, frame or table of columns", found, remedy)
    return list(found if names is None else names)


def _without_index(
    found: dict[str, Column], wanted: Sequence[str] | None, name: str
) -> dict[str, Column]:
    """The columns without one that counts the rows, and without an empty last one."""
    keys = list(found)
    left = dict(found)
    for key in keys:
        if wanted is not None or not UNNAMED.fullmatch(key) or len(left) == 1:
            continue
        if all(_is_missing(value) for value in found[key].tolist()):
            del left[key]
        elif _numbers_rows(found[key]):
            del left[key]
            warnings.warn(
                f"{name}: the column {key!r} counts the rows and has no name, so it is left out "
                "(columns= takes it)",
                stacklevel=3,
            )
    return left


def _warn_of_numbering(numbers: Mapping[str, Column], name: str) -> None:
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
        warnings.warn(
            f"{name}: {', '.join(map(repr, found))} seem to number or date the rows, and are "
            f"modelled as any other column; drop={found} leaves them out",
            stacklevel=4,
        )


def _numbers(values: Column, column: str) -> Column:
    """A column as float64; raise with the column, the row and the value."""
    if values.ndim != 1:
        raise fail(f"column {column!r}", "one number a row", values, "take it apart first")
    if values.dtype.kind in "iubf":
        numbers = values.astype(np.float64)
    else:
        try:
            if values.dtype.kind not in "OUS":
                raise ValueError(values.dtype)
            numbers = values.astype(np.float64)
        except (TypeError, ValueError):
            _first_fault(values, column)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(bad.argmax())
        if np.isnan(numbers[row]):
            raise _missing(column, row, int(bad.sum()), len(values))
        got = f"{numbers[row]} in row {row + 1}"
        raise fail(f"column {column!r}", "finite numbers", got, "drop or repair the row")
    return numbers


def _first_fault(values: Column, column: str) -> NoReturn:
    for row, value in enumerate(values.tolist()):
        if value is None or str(value).strip().lower() in MISSING:
            raise _missing(column, row, sum(_is_missing(v) for v in values.tolist()), len(values))
        try:
            float(value)
        except (TypeError, ValueError):
            expected = "numbers, for categories cannot be modelled as such"
            got = f"{value!r} in row {row + 1}"
            remedy = f"leave it out of columns=, encode it as numbers, or pass label={column!r}"
            if hint := thousands(value):
                expected, remedy = "numbers", hint
            elif DATE.fullmatch(str(value).strip()):
                expected = "numbers, and dates are none"
                remedy = f"pass drop=[{column!r}], or encode it as a number, such as the day"
            raise fail(f"column {column!r}", expected, got, remedy) from None
    raise fail(f"column {column!r}", "numbers", values, "convert it to floats first")


def _is_missing(value: object) -> bool:
    return value is None or str(value).strip().lower() in MISSING


def _missing(column: str, row: int, count: int, total: int) -> ValueError:
    remedy = f"drop or fill the {count} of its {total} values that are missing"
    return fail(f"column {column!r}", "a number", f"a missing value in row {row + 1}", remedy)


def _classes(values: Column, column: str) -> Labels:
    """Labels, number and names of the classes in a column of integers or of texts."""
    given = values.tolist()
    for row, value in enumerate(given):
        if _is_missing(value) or value != value:
            raise _missing(column, row, sum(map(_is_missing, given)), len(given))
    return numbered(values, len(values), f"column {column!r}")


def _numbers_rows(values: Column) -> bool:
    """Whether a column counts the rows from 0 or from 1."""
    try:
        offset = np.unique(values.astype(np.float64) - np.arange(len(values)))
    except (TypeError, ValueError):
        return False
    return len(values) > 1 and offset.tolist() in ([0.0], [1.0])


def _listed(argument: str, names: Sequence[str] | None) -> list[str]:
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


def _picker(
    wanted: Sequence[str] | None, label: str | None, drop: Sequence[str] | None
) -> Callable[[list[str]], list[str]]:
    """The function from the names of all columns to those to read, including the label."""
    columns, dropped = _listed("columns", wanted), _listed("drop", drop)
    if wanted is not None and drop:
        raise fail("drop", "None beside columns", drop, "pass one of the two")

    def pick(names: list[str]) -> list[str]:
        _known("columns", columns, names)
        _known("drop", dropped, names)
        _known("label", [label] if label is not None else [], names)
        left = [name for name in names if name not in dropped]
        picked = columns if wanted is not None else [name for name in left if name != label]
        if label in columns or label in dropped:
            argument = "columns" if label in columns else "drop"
            raise fail("label", f"a column that is not among {argument}", label, "name it once")
        return picked if label is None else [*picked, label]

    return pick


def _read_parquet(path: Path, pick: Callable[[list[str]], list[str]]) -> dict[str, Column]:
    library = need("pyarrow.parquet", "data")
    try:
        picked = pick(list(library.read_schema(path).names))
        read = library.read_table(path, columns=picked)
    except (need("pyarrow", "data").ArrowException, OSError) as error:
        raise fail(str(path), "a parquet file", str(error), "write it again") from error
    for name, column in zip(read.column_names, read.columns, strict=True):
        if column.null_count:
            row = int(np.argmax(np.asarray(column.is_null())))
            raise _missing(name, row, column.null_count, len(column))
    return {name: np.asarray(read.column(name).to_numpy()) for name in picked}
