"""Tables of numbers, CSV and parquet, standardised column by column."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, wrong_type
from scoresde.data.base import Data
from scoresde.data.labels import Labels, numbered
from scoresde.data.scaling import moments_of
from scoresde.summary import Scaling

__all__ = ["csv_table", "parquet_table", "table"]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "<na>"})
PIECE = 4096

Column = np.ndarray[Any, Any]


def csv_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    delimiter: str | None = None,
    standardise: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Data:
    """A table of numbers in a CSV file, each column standardised to mean 0 and variance 1.

    The first line names the columns; if it holds only numbers, it is the first row of data and
    the columns are called "0", "1", ... Rows are counted from 1, without the line of names.

    Args:
        path: the file, in UTF-8.
        columns: which to take, in this order; by default all but `label`.
        label: a column of integers or texts that becomes the condition "label": the values that
            occur are the classes, numbered in their order, and give them their names.
        delimiter: between cells; by default a tab in .tsv files and a comma in all others.
        standardise: whether to subtract the mean and divide by the standard deviation of each
            column (over N); `data.scaling.decode` takes samples back. False leaves the numbers.
        dtype: of x; the standardisation itself is in float64.

    Returns:
        Data with x (N, D), and its `Scaling` if it is standardised.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is not of numbers, is constant, or is not in the table; a value is
            missing; a row has another number of cells. The column, and the row, are named.

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
    path = Path(path)
    if delimiter is None:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise fail("delimiter", "one character", delimiter, "pass e.g. ';'")
    found = _read_csv(path, columns, label, delimiter)
    return table(found, label=label, standardise=standardise, dtype=dtype, name=path.stem)


def parquet_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    standardise: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Data:
    """A table of numbers in a parquet file, each column standardised; as `csv_table`.

    It is read by pyarrow, or by pandas with whatever reader that has.

    Args:
        path: the file.
        columns, label, standardise, dtype: as of `csv_table`.

    Returns:
        Data with x (N, D), and its `Scaling` if it is standardised.

    Raises:
        FileNotFoundError, ValueError: as `csv_table`.
        ImportError: neither pyarrow nor pandas is installed.

    Example:
        >>> parquet_table("heights.parquet", label="sex")  # doctest: +SKIP
        Data(heights: 3 x (2,) float32, cond: label)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    found = _read_parquet(path, columns, label)
    return table(found, label=label, standardise=standardise, dtype=dtype, name=path.stem)


def table(
    found: Mapping[str, Any],
    *,
    label: str | None = None,
    standardise: bool = True,
    dtype: torch.dtype = torch.float32,
    name: str = "table",
) -> Data:
    """Data from columns that are in memory: name -> N values; a pandas DataFrame will do.

    Args:
        found: the columns, in their order.
        label, standardise, dtype: as of `csv_table`.
        name: of the data.

    Returns:
        Data with x (N, D), and its `Scaling` if it is standardised.

    Raises:
        ValueError: as `csv_table`.

    Example:
        >>> table({"a": [1.0, 2.0, 3.0], "b": [0.0, 5.0, 0.0]}).scaling.mean
        tensor([2.0000, 1.6667], dtype=torch.float64)
    """
    columns = {str(key): np.asarray(found[key]) for key in found}
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
    constant = [key for key, value in numbers.items() if (value == value[0]).all()]
    if constant and len(raw) > 1:
        got = f"{', '.join(map(repr, constant))} constant"
        remedy = "there is nothing in them to model: leave them out of columns="
        raise fail("columns", "columns that vary", got, remedy)
    scaling = None
    if standardise:
        if len(raw) < 2:
            raise fail("standardise", "two rows or more", len(raw), "pass standardise=False")
        found_moments = moments_of([raw])
        scaling = Scaling(found_moments.mean, found_moments.std, tuple(numbers))
        raw = scaling.encode(raw)
    return Data(raw.to(dtype), cond, None, name, classes, names, scaling)


def _numbers(values: Column, column: str) -> Column:
    """A column as float64, or an error that names the column, the row and the value."""
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


def _read_csv(
    path: Path, wanted: Sequence[str] | None, label: str | None, delimiter: str
) -> dict[str, Column]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = (line for line in csv.reader(file, delimiter=delimiter) if line)
            header = next(lines, None)
            if header is None:
                raise fail(str(path), "a line of names and rows", "an empty file", "check it")
            names, rows = _headed(header, lines)
            if len(set(names)) < len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise fail(str(path), "different names", twice, "rename the columns")
            try:
                picked = _picked(wanted, label, names)
            except ValueError as error:
                other = next((d for d in ";\t|," if len(names) == 1 and d in names[0]), None)
                hint = f"; or pass delimiter={other!r}" if other else ""
                raise ValueError(f"{error}{hint}") from None
            pieces: dict[str, list[Column]] = {name: [] for name in picked}
            start = 0
            while piece := list(islice(rows, PIECE)):
                _rectangular(piece, len(names), start, path)
                for name in picked:
                    place = names.index(name)
                    pieces[name].append(_compact([line[place] for line in piece], name == label))
                start += len(piece)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise fail(str(path), "a CSV file in UTF-8", str(error), "convert it") from error
    if start == 0:
        raise fail(str(path), "rows below the names", "none", "check the file")
    return {name: _joined(parts) for name, parts in pieces.items()}


def _headed(header: list[str], lines: Iterable[list[str]]) -> tuple[list[str], Any]:
    """The names, and the rows; a first line of numbers is a row."""
    try:
        for cell in header:
            float(cell)
    except ValueError:
        return [cell.strip() for cell in header], iter(lines)
    return [str(i) for i in range(len(header))], chain([header], lines)


def _compact(cells: list[str], text: bool) -> Column:
    """Floats if all cells are, at the speed of numpy; else the texts, for the message."""
    if not text:
        try:
            return np.array(cells).astype(np.float64)
        except ValueError:
            pass
    return np.array(cells, dtype=object)


def _joined(parts: list[Column]) -> Column:
    if any(part.dtype == object for part in parts):
        return np.concatenate([part.astype(object) for part in parts])
    return np.concatenate(parts)


def _rectangular(piece: list[list[str]], width: int, start: int, path: Path) -> None:
    for place, line in enumerate(piece):
        if len(line) != width:
            got = f"{len(line)} in row {start + place + 1}"
            remedy = "repair the row, or pass the right delimiter"
            raise fail(str(path), f"{width} cells in every row", got, remedy)


def _known(argument: str, names: Sequence[str], known: Iterable[str]) -> None:
    listed = list(known)
    for name in names:
        if name not in listed:
            expected = f"columns among {', '.join(map(repr, listed))}"
            raise fail(argument, expected, name, "check the spelling")


def _picked(wanted: Sequence[str] | None, label: str | None, names: list[str]) -> list[str]:
    """The columns to read, the label's among them."""
    if isinstance(wanted, str):
        raise wrong_type("columns", "a list of names", wanted, f"pass [{wanted!r}]")
    _known("columns", wanted or [], names)
    _known("label", [label] if label is not None else [], names)
    picked = list(wanted) if wanted is not None else [name for name in names if name != label]
    if label in picked:
        raise fail("label", "a column that is not among columns", label, "name it once")
    return picked if label is None else [*picked, label]


def _read_parquet(
    path: Path, wanted: Sequence[str] | None, label: str | None
) -> dict[str, Column]:
    try:
        library = need("pyarrow.parquet", "tables")
    except ImportError:
        pandas = need("pandas", "tables")
        frame = pandas.read_parquet(path)
        picked = _picked(wanted, label, [str(name) for name in frame.columns])
        return {name: frame[name].to_numpy() for name in picked}
    errors = need("pyarrow", "tables").ArrowException
    try:
        picked = _picked(wanted, label, list(library.read_schema(path).names))
        read = library.read_table(path, columns=picked)
    except (errors, OSError) as error:
        raise fail(str(path), "a parquet file", str(error), "write it again") from error
    return {name: _from_arrow(read.column(name), name) for name in picked}


def _from_arrow(column: Any, name: str) -> Column:
    if column.null_count:
        row = int(np.argmax(np.asarray(column.is_null())))
        raise _missing(name, row, column.null_count, len(column))
    return np.asarray(column.to_numpy())
