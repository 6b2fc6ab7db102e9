"""CSV files as people have them: their encoding, delimiter, decimal mark and line of names."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from scoresde._check import fail, wrong_type

__all__ = [
    "Column",
    "checked_decimal",
    "checked_delimiter",
    "checked_names",
    "numbered_rows",
    "read_csv",
    "thousands",
]

Column = np.ndarray[Any, Any]

PIECE = 4096
"""Rows that are parsed at a time."""

LOOK = 50
"""Lines from which the delimiter is told."""

DELIMITERS = (",", ";", "\t", "|")
MARKS = (b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff", b"\xff\xfe", b"\xfe\xff")
"""Byte-order marks of UTF-32 and UTF-16."""

COMMA = re.compile(r"[+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?")
GROUPED = re.compile(r"[+-]?\d{1,3}([.,' \u00a0\u202f]\d{3})+([.,]\d+)?")


def read_csv(
    path: Path,
    pick: Callable[[list[str]], list[str]],
    label: str | None,
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
) -> dict[str, Column]:
    """The picked columns of a CSV file: floats where all cells are numbers, else texts.

    Args:
        path: the file.
        pick: from the names of all columns to those that are wanted.
        label: the column whose cells stay texts.
        delimiter, decimal, header: as of `csv_table`, None to tell them from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, is no text, or a row has another number of cells.
    """
    try:
        encoding = _encoding(path)
        try:
            return _read(path, encoding, pick, label, delimiter, decimal, header)
        except UnicodeDecodeError:
            if encoding != "utf-8-sig":
                raise
            warnings.warn(
                f"{path.name}: is not in UTF-8, and is read as latin-1 (Windows-1252)",
                stacklevel=4,
            )
            return _read(path, "cp1252", pick, label, delimiter, decimal, header)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (csv.Error, UnicodeError) as error:
        raise fail(str(path), "a CSV file of text", str(error), "convert it to UTF-8") from error


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(MARKS):
        return "utf-32" if start in MARKS[:2] else "utf-16"
    if b"\0" in start:  # UTF-16 without a mark
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    return "utf-8-sig"


def _read(
    path: Path,
    encoding: str,
    pick: Callable[[list[str]], list[str]],
    label: str | None,
    delimiter: str | None,
    decimal: str | None,
    header: bool | None,
) -> dict[str, Column]:
    with path.open(newline="", encoding=encoding) as file:
        mark = delimiter or _delimiter(path, file)
        file.seek(0)
        lines = _lines(file, mark)
        first = next(lines, None)
        if first is None:
            raise fail(str(path), "a line of names and rows", "an empty file", "check it")
        names, rows = _headed(first, lines, header, path)
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise fail(str(path), "different names", twice, "rename the columns")
        picked = pick(names)
        place = {name: i for i, name in enumerate(names)}
        pieces: dict[str, list[Column]] = {name: [] for name in picked}
        count = 0
        while piece := list(islice(rows, PIECE)):
            _rectangular(piece, len(names), count, path, mark)
            for name in picked:
                text = name == label or decimal == ","
                pieces[name].append(_compact([line[place[name]] for line in piece], text))
            count += len(piece)
    if count == 0:
        raise fail(str(path), "rows below the names", "none", "check the file")
    columns = {name: _joined(parts) for name, parts in pieces.items()}
    if decimal == ",":
        return {k: v if k == label else _with_commas(v, k) for k, v in columns.items()}
    commas = [k for k, v in columns.items() if k != label and mark != "," and _has_commas(v)]
    if decimal is None and commas:
        warnings.warn(
            f"{path.name}: the numbers of {', '.join(map(repr, commas))} have decimal commas and "
            "are read so (decimal='.' refuses them)",
            stacklevel=5,
        )
        return _read(path, encoding, pick, label, mark, ",", header)
    return columns


def _lines(file: IO[str], delimiter: str) -> Iterator[list[str]]:
    """The rows, without comments and lines in which every cell is empty."""
    text = (line for line in file if not line.lstrip().startswith("#"))
    for line in csv.reader(text, delimiter=delimiter, skipinitialspace=delimiter != "\t"):
        if any(cell.strip() for cell in line):
            yield line


def _delimiter(path: Path, file: IO[str]) -> str:
    """The delimiter that cuts the first lines into most numbers, in rows of one length."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    best, chosen = 0.0, usual
    for mark in (usual, *(other for other in DELIMITERS if other != usual)):
        file.seek(0)
        rows = list(islice(_lines(file, mark), LOOK))
        widths = {len(row) for row in rows[1:]}
        if len(rows) < 2 or len(widths) != 1 or max(widths) < 2:
            continue
        width = max(widths)
        ended = width == len(rows[0]) + 1 and not any(row[-1].strip() for row in rows[1:])
        if width != len(rows[0]) and not ended:  # a delimiter may end all rows but that of names
            continue
        cells = [cell.strip() for row in rows[1:] for cell in row]
        score = sum(_number(cell, comma=mark != ",") for cell in cells) / len(cells) + 1e-9
        if score > best:
            best, chosen = score, mark
    return chosen


def _number(cell: str, *, comma: bool) -> bool:
    if comma and (COMMA.fullmatch(cell) or GROUPED.fullmatch(cell)):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _headed(
    first: list[str], lines: Iterator[list[str]], header: bool | None, path: Path
) -> tuple[list[str], Iterator[list[str]]]:
    """The names, and the rows; a first line of numbers is a row, but for 0, 1, 2, ..."""
    cells = [cell.strip() for cell in first]
    if header is None:
        header = not all(_number(cell, comma=True) or not cell for cell in cells)
        if not header and cells == [str(i) for i in range(len(cells))]:
            warnings.warn(
                f"{path.name}: the first line, {','.join(cells[:4])}..., is taken as names of the "
                "columns, as pandas writes them (header=False takes it as data)",
                stacklevel=6,
            )
            header = True
    if header:
        return cells, lines
    width = len(cells) - (not cells[-1])  # a delimiter may end the row
    return [str(i) for i in range(width)], chain([first], lines)


def _rectangular(
    piece: list[list[str]], width: int, start: int, path: Path, delimiter: str
) -> None:
    for place, line in enumerate(piece):
        if len(line) == width + 1 and not line[-1].strip():
            del line[-1]  # a delimiter ends the row
        if len(line) != width:
            got = f"{len(line)} in row {start + place + 1}"
            remedy = f"repair the row, or pass the right delimiter in place of {delimiter!r}"
            raise fail(str(path), f"{width} cells in every row", got, remedy)


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


def _has_commas(column: Column) -> bool:
    """Whether texts are numbers with decimal commas."""
    if column.dtype != object:
        return False
    cells = [str(cell).strip() for cell in column.tolist()]
    filled = [cell for cell in cells if cell]
    commas = sum("," in cell for cell in filled)
    return commas > 0 and all(COMMA.fullmatch(c) or _number(c, comma=False) for c in filled)


def _with_commas(column: Column, name: str) -> Column:
    """Floats of texts with decimal commas; other texts stay, but for points."""
    cells = [str(cell).strip() for cell in column.tolist()]
    for row, cell in enumerate(cells):
        if "." in cell and re.fullmatch(r"[+-]?[\d.,]+", cell):
            got = f"{cell!r} in row {row + 1}"
            raise fail(f"column {name!r}", "numbers with decimal commas", got, thousands(cell))
    return _compact([cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in cells],
                    False)  # fmt: skip


def thousands(cell: object) -> str:
    """The remedy for a cell that may have separators of thousands; "" if it has none."""
    text = str(cell).strip()
    if not GROUPED.fullmatch(text) and not (COMMA.fullmatch(text) and "," in text):
        return ""
    return (
        "remove the separators of thousands from the file; or, if that is a decimal comma, pass "
        "decimal=','"
    )


def numbered_rows(values: Column) -> bool:
    """Whether a column counts its rows, from 0 or from 1."""
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return len(numbers) > 1 and any(
        bool((numbers == np.arange(start, start + len(numbers))).all()) for start in (0, 1)
    )


def checked_delimiter(delimiter: str | None) -> None:
    """Raise unless it is one character, or None."""
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise fail("delimiter", "one character", delimiter, "pass e.g. ';'")


def checked_decimal(decimal: str | None) -> None:
    """Raise unless it is a point, a comma or None."""
    if decimal not in (None, ".", ","):
        raise fail("decimal", "'.' or ','", decimal, "leave it out to tell it from the file")


def checked_names(argument: str, names: Sequence[str] | None) -> list[str]:
    """Names as a list; a bare text is an error."""
    if isinstance(names, str):
        raise wrong_type(argument, "a list of names", names, f"pass [{names!r}]")
    return list(names or [])
