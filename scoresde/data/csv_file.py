"""CSV files as people have them: their encoding, delimiter, decimal mark and line of names.

pyarrow parses the cells. The options that it needs are detected here first.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import reduce
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from scoresde._check import fail, need, warn

__all__ = ["MISSING", "Column", "different", "read_csv", "thousands"]

Column = np.ndarray[Any, Any]

LOOK = 50
"""Rows from which the delimiter is told."""

BLOCK = 2**26
"""Bytes that are cut at a time; no row may be longer."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MISSING = frozenset({"", "na", "n/a", "nan", "nat", "null", "none", "?", "-", "<na>"})
"""Cells whose value is missing, in lower case."""

DELIMITERS = (",", ";", "\t", "|")
COMMENT = re.compile(r"^[ \t]*#.*\n?", re.MULTILINE)
COMMA = re.compile(r"[+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?")
COMMAS = r"^([+-]?\d*),(\d*(?:[eE][+-]?\d+)?)\s*$"
POINT = r"^[+-]?[\d,]*\.[\d.,]*\s*$"
GROUPED = re.compile(r"[+-]?\d{1,3}([.,' \u00a0\u202f]\d{3})+([.,]\d+)?")


def read_csv(
    path: Path,
    pick: Callable[[list[str]], list[str]],
    texts: Collection[str],
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
) -> dict[str, Column]:
    """The picked columns of a CSV file: floats where all cells are numbers, else texts.

    Args:
        path: the file.
        pick: from the names of all columns to those that are wanted.
        texts: the columns whose cells stay texts.
        delimiter, decimal, header: as of `csv_table`, None to tell them from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pyarrow is not installed.
        ValueError: it is empty, is no text, or a row has another number of cells.
    """
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise fail("delimiter", "one character", delimiter, "pass e.g. ';'")
    if decimal not in (None, ".", ","):
        raise fail("decimal", "'.' or ','", decimal, "leave it out to tell it from the file")
    whole = _text(path)
    text, told = _without_mark(COMMENT.sub("", whole))
    mark = delimiter or told or _delimiter(path, text)
    text = text.replace(f'{mark} "', f'{mark}"')
    rows = list(islice(_rows(text, mark), LOOK))
    if not rows:
        raise fail(str(path), "a line of names and rows", "an empty file", "check it")
    if delimiter is None and _has_blanks(rows):
        remedy = "pass delimiter=' ' if there is one between the cells of each row, or put commas"
        raise fail(str(path), "cells with a delimiter between them", rows[-1][0], remedy)
    names, named = _names(rows[0], header, path)
    _tell_comments(whole, mark, len(names), path)
    picked = pick(different(names, path))
    below = rows[1:] if named else rows
    if any(len(row) == len(names) + 1 and not row[-1].strip() for row in below):
        text = re.sub(rf"{re.escape(mark)}[ \t]*$", "", text, flags=re.MULTILINE)  # ends the rows
    cells = _cells(path, text, mark, names, named)
    columns = {k: cells[k].to_numpy() if k in texts else _floats(cells[k]) for k in picked}
    numbers = [name for name in picked if name not in texts]
    commas = [name for name in numbers if mark != "," and _has_commas(columns[name])]
    if decimal is None and commas:
        warn(
            f"{path.name}: the numbers of {', '.join(map(repr, commas))} have decimal commas and "
            "are read so (decimal='.' refuses them)"
        )
        decimal = ","
    if decimal == ",":
        columns |= {name: _with_commas(cells[name], name) for name in numbers}
    return columns


def _tell_comments(text: str, mark: str, width: int, path: Path) -> None:
    """Warn of comments below other lines that have as many cells as a row of several."""
    body = re.sub(rf"\A(?:{COMMENT.pattern})+", "", text, flags=re.MULTILINE)
    lines = [match[0].strip() for match in COMMENT.finditer(body)]
    rows = [line for line in lines if len(next(_rows(line, mark), ())) == width > 1]
    if rows:
        warn(
            f"{path.name}: {len(rows)} rows that begin with # are taken as comments and left out, "
            f"first {rows[0][:40]!r}; put cells that begin so in quotation marks",
        )


def _without_mark(text: str) -> tuple[str, str | None]:
    """The text without the line sep=; of a spreadsheet, and the delimiter that it names."""
    match = re.match(r"sep=(.)[ \t]*\n", text)
    return (text, None) if match is None else (text[match.end() :], match[1])


def different(names: list[str], path: Path) -> list[str]:
    """The names of the columns of a file; raise if one is repeated."""
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise fail(str(path), "different names", twice, "rename the columns")
    return names


def _text(path: Path) -> str:
    """The whole file, decoded by its byte-order mark, or else as UTF-8 or latin-1."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:4]:  # UTF-16 without a mark
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        remedy = "convert it to UTF-8"
        try:
            text = content.decode("cp1252" if encoding == "utf-8" else encoding)
        except UnicodeDecodeError:
            raise fail(str(path), "a CSV file of text", str(error), remedy) from error
        said = f"{path.name}: is not in UTF-8, and is read as latin-1 (Windows-1252)"
        warn(said)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _rows(text: str, mark: str) -> Iterator[list[str]]:
    """The rows of which any cell is filled, by the reader of Python."""
    rows = csv.reader(StringIO(text, newline=""), delimiter=mark, skipinitialspace=mark != "\t")
    return (row for row in rows if any(cell.strip() for cell in row))


def _delimiter(path: Path, text: str) -> str:
    """The delimiter that cuts the first lines into most numbers, in rows of one length."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    best, chosen = 0.0, usual
    for mark in (usual, *(other for other in DELIMITERS if other != usual)):
        rows = list(islice(_rows(text, mark), LOOK))
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


def _has_blanks(rows: Sequence[Sequence[str]]) -> bool:
    """Whether rows of a single cell are several numbers with blanks between them."""
    parts = [row[0].split() for row in rows if len(row) == 1]
    below = [cell for part in parts[1:] for cell in part]
    widths = {len(part) for part in parts}
    return (
        len(parts) == len(rows) > 1
        and len(widths) == 1
        and widths != {1}
        and all(_number(cell, comma=True) for cell in below)
    )


def _names(first: Sequence[str], header: bool | None, path: Path) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first row holds them; numbers are data."""
    cells = [cell.strip() for cell in first]
    if header is None:
        header = not all(_number(cell, comma=True) or not cell for cell in cells)
        if not header and cells == [str(i) for i in range(len(cells))]:
            warn(
                f"{path.name}: the first line, {','.join(cells[:4])}..., is taken as names of the "
                "columns, as pandas writes them (header=False takes it as data)"
            )
            header = True
    if header:
        return cells, True
    width = len(cells) - (not cells[-1])  # a delimiter may end the row
    return [str(i) for i in range(width)], False


def _cells(path: Path, text: str, mark: str, names: list[str], named: bool) -> dict[str, Any]:
    """Arrays of texts by the names of the columns, without rows in which every cell is empty."""
    arrow, library = need("pyarrow", "data"), need("pyarrow.csv", "tables")
    compute = need("pyarrow.compute", "data")
    parse = library.ParseOptions(
        delimiter=mark,
        newlines_in_values=True,
        invalid_row_handler=lambda row: "error" if row.text.strip(f'{mark}" \t') else "skip",
    )
    kinds = library.ConvertOptions(column_types=dict.fromkeys(names, arrow.string()))
    lines = library.ReadOptions(column_names=names, block_size=BLOCK)
    try:
        read = library.read_csv(arrow.BufferReader(text.encode()), lines, parse, kinds)
    except arrow.ArrowInvalid as error:
        for number, row in enumerate(islice(_rows(text, mark), int(named), None), 1):
            if len(row) != len(names):
                got = f"{len(row)} in row {number}"
                remedy = f"repair the row, or pass the right delimiter in place of {mark!r}"
                raise fail(str(path), f"{len(names)} cells in every row", got, remedy) from None
        raise fail(str(path), "a CSV file of text", str(error), "repair the file") from error
    columns = [compute.utf8_ltrim_whitespace(column) for column in read.columns]
    filled = reduce(compute.or_, (compute.not_equal(column, "") for column in columns))
    kept = arrow.table(columns, names).filter(filled).slice(int(named))
    if len(kept) == 0:
        raise fail(str(path), "rows below the names", "none", "check the file")
    return dict(zip(names, kept.columns, strict=True))


def _floats(cells: Any) -> Column:
    """Floats if all cells are, else the texts, for the message."""
    try:
        return np.asarray(cells.cast("float64").to_numpy())
    except ValueError:  # of pyarrow, which reads fewer texts as numbers than Python
        texts: Column = cells.to_numpy()
    try:
        return texts.astype(np.float64)
    except ValueError:
        return texts


def _has_commas(column: Column) -> bool:
    """Whether texts are numbers with decimal commas."""
    if column.dtype != object:
        return False
    cells = [cell.strip() for cell in column.tolist() if cell.strip().lower() not in MISSING]
    commas = any("," in cell for cell in cells)
    return commas and all(COMMA.fullmatch(c) or _number(c, comma=False) for c in cells)


def _with_commas(cells: Any, name: str) -> Column:
    """Floats of texts with decimal commas; a point in one would be of thousands."""
    compute = need("pyarrow.compute", "data")
    row = compute.index(compute.match_substring_regex(cells, POINT), True).as_py()
    if row >= 0:
        cell = cells[row].as_py()
        got = f"{cell!r} in row {row + 1}"
        raise fail(f"column {name!r}", "numbers with decimal commas", got, thousands(cell))
    return _floats(compute.replace_substring_regex(cells, COMMAS, r"\1.\2"))


def thousands(cell: object) -> str:
    """The remedy for a cell that may have separators of thousands; "" if it has none."""
    text = str(cell).strip()
    if not GROUPED.fullmatch(text) and not (COMMA.fullmatch(text) and "," in text):
        return ""
    return (
        "remove the separators of thousands from the file; or, if that is a decimal comma, pass "
        "decimal=','"
    )
