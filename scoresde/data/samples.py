"""Samples that were written as shards: where each is, and how to read them back."""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, path_of
from scoresde._io import read_json
from scoresde.columns import Category, TableScaling
from scoresde.data.base import LazyData
from scoresde.data.cells import categories_of, numbers_of
from scoresde.data.files import Files
from scoresde.data.items import PictureItems
from scoresde.data.pictures import CHANNELS
from scoresde.data.rows import ArrayRows, Rows
from scoresde.quantisation import Quantisation
from scoresde.summary import units_of

__all__ = [
    "FORMAT",
    "MANIFEST",
    "MODES",
    "VERSION",
    "csv_text",
    "image_name",
    "labels_of",
    "missing",
    "read_manifest",
    "samples",
    "shard_name",
    "shards_of",
    "whole",
]

MANIFEST = "sampling.json"
"""The manifest of a folder of samples."""

FORMAT, VERSION = "scoresde samples", 1
MODES = {channels: mode for mode, channels in CHANNELS.items()}
"""Channels -> Pillow's mode."""

_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)
_KEYS = ("first", "n", "shape", "shard", "format", "dtype", "quantisation", "labels")


def samples(folder: str | os.PathLike[str]) -> LazyData:
    """The samples in a folder of `sample_to`, in the order of their numbers.

    They are read on access: indexing and ordered iteration hold one .npz shard at a time in
    memory, and `load()` reads all. Levels and pictures are converted to model units by the
    quantisation of the folder.

    Args:
        folder: the argument `out` of `sample_to`.

    Returns:
        LazyData with x (n, *D), labels and class names if there are any, the quantisation, and
        the scaling, whose `decode` converts x to the units of the training data.

    Raises:
        FileNotFoundError: the folder, or `sampling.json` in it, does not exist.
        ValueError: shards are missing, or the folder has a newer version.

    Example:
        >>> samples("runs/none")
        Traceback (most recent call last):
        FileNotFoundError: folder: expected a folder with sampling.json, got 'runs/none'; ...
    """
    place, settings = path_of("folder", folder), read_manifest(folder)["settings"]
    absent = missing(place, settings)
    if absent:
        got = f"{len(absent)} of {len(shards_of(settings))} missing, first {absent[0]}"
        remedy = "make the same call of sample_to, which draws what is missing"
        raise fail("folder", f"all shards of {place}", got, remedy)
    quantisation = settings["quantisation"] and Quantisation.from_dict(settings["quantisation"])
    rows: Rows = ShardRows(place, settings, quantisation)
    if settings["format"] == "png":
        channels, *size = settings["shape"]
        files = [
            f"{shard_name(k, 'png')}/{image_name(i)}"
            for k, numbers in enumerate(shards_of(settings))
            for i in numbers
        ]
        pictures = Files(place, files, need("PIL.Image", "data").open)
        rows = PictureItems(pictures, tuple(size), MODES[channels], quantisation=quantisation)
    first, n = settings["first"], settings["n"]
    label = labels_of(settings, range(first, first + n))
    classes = tuple(settings.get("class_names", ()))
    cond = {} if label is None else {"label": label}
    scaling = units_of(settings.get("scaling"))
    return LazyData(rows, cond, quantisation, place.name, len(classes), classes, scaling)


@final
class ShardRows(Rows):
    """The rows of .npz shards; the last shard stays in memory.

    Args:
        folder: the folder of the shards.
        settings: the content of the manifest.
        quantisation: the levels of integers; floats are in model units already.
    """

    parallel = True

    def __init__(
        self, folder: Path, settings: dict[str, Any], quantisation: Quantisation | None
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.quantisation = quantisation
        self._held: tuple[int, ArrayRows] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.settings["n"], *self.settings["shape"])

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.settings["dtype"] == "float64" else torch.float32

    def read(self, rows: Tensor) -> Tensor:
        x = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype, device="cpu")
        numbers = rows // self.settings["shard"]
        for number in numbers.unique().tolist():
            here = numbers == number
            shard = self._shard(number)
            x[here] = shard[rows[here] - number * self.settings["shard"]]
        return x

    def _shard(self, number: int) -> ArrayRows:
        held = self._held  # read once, since another thread may replace it
        if held is not None and held[0] == number:
            return held[1]
        file = self.folder / shard_name(number, self.settings["format"])
        try:
            if self.settings["format"] == "csv":
                x = self._table(file)
            else:
                # opened here, since numpy leaves a damaged file open
                with file.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
                    x = arrays["x"]
        except _UNREADABLE as error:
            remedy = "delete it and make the same call of sample_to, which draws it again"
            raise fail(str(file), "a whole shard", f"{error}", remedy) from error
        quantisation = self.quantisation if x.dtype.kind in "ui" else None
        shard = ArrayRows(x, "ND", quantisation, self.dtype, file.name)
        self._held = number, shard
        return shard

    def _table(self, file: Path) -> np.ndarray[Any, Any]:
        """The rows of a shard of text, in model units or, with a quantisation, as levels."""
        (count,) = self.settings["shape"]
        scaling = None if self.settings.get("floats") else units_of(self.settings.get("scaling"))
        with file.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.reader(handle))[1:]
        if isinstance(scaling, TableScaling):
            raw = torch.from_numpy(raw_of(rows, scaling))
            return scaling.encode(raw).numpy().astype(self.settings["dtype"])
        values = np.array([row[:count] for row in rows], np.float64).reshape(len(rows), count)
        if self.quantisation is not None:
            return values.astype(self.settings["dtype"])
        if scaling is not None:
            values = scaling.encode(torch.from_numpy(values)).numpy()
        return values.astype(self.settings["dtype"])


def raw_of(rows: Sequence[Sequence[str]], scaling: TableScaling) -> np.ndarray[Any, Any]:
    """The raw values (N, K) of cells in the order of the columns; see `TableScaling`."""
    columns = []
    for k, part in enumerate(scaling.parts):
        cells = np.array([row[k] for row in rows], object)
        if isinstance(part, Category):
            columns.append(categories_of(cells, part.name, part.names)[0])
        else:
            columns.append(numbers_of(cells, part.name))
    return np.stack(columns, 1)


def csv_text(arrays: Mapping[str, np.ndarray[Any, Any]], scaling: Any = None) -> str:
    """Samples as the lines of a table: their values, and their classes if there are any.

    Args:
        arrays: x (N, D) and, as far as known, raw (N, D), columns (D,), label (N,) and
            class_names, as in a shard.
        scaling: the scaling of the samples, as of its `to_dict`. Numbers are written to 1e-7 of
            their standard deviation, about the rounding of float32, categories by their names, and
            missing cells empty.
    """
    raw = arrays.get("raw", arrays["x"])
    units = units_of(scaling)
    table = units if isinstance(units, TableScaling) else None
    if scaling is not None and table is None:
        places = np.ceil(7 - np.log10(np.asarray(scaling["std"], np.float64)))
        places = np.broadcast_to(places, raw.shape[1:]).astype(int).tolist()
        columns = [np.round(raw[:, k], max(0, places[k])) for k in range(raw.shape[1])]
        raw = np.stack(columns, 1)
    head = arrays["columns"].tolist() if "columns" in arrays else []
    head = head or [f"x{k}" for k in range(raw.shape[1])]
    if table is None:
        lines = [[str(cell) for cell in row] for row in raw]  # the shortest text of each
    else:
        lines = table.texts(torch.from_numpy(np.asarray(raw, np.float64)))
    if "label" in arrays:
        names = arrays["class_names"].tolist() if "class_names" in arrays else None
        head = [*head, next(name for name in ("label", "class", "label_") if name not in head)]
        for line, label in zip(lines, arrays["label"].tolist(), strict=True):
            line.append(str(label) if names is None else names[label])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    return text.getvalue()


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `sampling.json`, after the checks of format and version.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a newer version.
    """
    file = path_of("folder", folder) / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"folder: expected a folder with {MANIFEST}, got {str(folder)!r}; "
            "pass the folder that sample_to wrote"
        )
    try:
        manifest = read_json(file)
    except ValueError as error:
        remedy = "it was edited: take another folder"
        raise fail(str(file), "json", f"{error}", remedy) from error
    if manifest.get("format") != FORMAT:
        raise fail(str(file), f"format {FORMAT!r}", "another one", "take another folder")
    if manifest.get("version") != VERSION:
        remedy = "install the version of scoresde that wrote it, or a newer one"
        raise fail(str(file), f"version {VERSION}", manifest.get("version"), remedy)
    settings = manifest.get("settings")
    if not isinstance(settings, dict) or any(key not in settings for key in _KEYS):
        raise fail(str(file), f"settings with {', '.join(_KEYS)}", "others", "it was edited")
    return manifest


def shards_of(settings: dict[str, Any]) -> list[range]:
    """The numbers of the samples in each shard."""
    first, end, size = settings["first"], settings["first"] + settings["n"], settings["shard"]
    return [range(start, min(start + size, end)) for start in range(first, end, size)]


def shard_name(number: int, format: str) -> str:
    """The file of a shard, or its folder of pictures."""
    return f"shard-{number:06d}" + ("" if format == "png" else f".{format}")


def image_name(number: int) -> str:
    """The picture of a sample."""
    return f"{number:09d}.png"


def labels_of(settings: dict[str, Any], numbers: range) -> Tensor | None:
    """The labels of samples, (n,) int64: number i has labels[i modulo their count]."""
    labels = settings["labels"]
    if labels is None:
        return None
    return torch.tensor(labels, device="cpu")[torch.tensor(numbers, device="cpu") % len(labels)]


def missing(folder: Path, settings: dict[str, Any]) -> list[str]:
    """The missing shards."""
    names = [shard_name(k, settings["format"]) for k in range(len(shards_of(settings)))]
    there = {path.name for path in folder.iterdir()}
    return [name for name in names if name not in there]


def whole(place: Path, settings: dict[str, Any], numbers: range) -> bool:
    """Whether a shard is complete, according to its directory and headers."""
    try:
        if settings["format"] == "png":
            names = sorted(path.name for path in place.iterdir())
            return names == [image_name(i) for i in numbers]
        if settings["format"] == "csv":
            with place.open(newline="", encoding="utf-8") as text:
                widths = [len(row) for row in csv.reader(text)]
            return len(widths) == len(numbers) + 1 and len(set(widths)) == 1
        with place.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            index = arrays["index"]
            with arrays.zip.open("x.npy") as member:
                np.lib.format.read_magic(member)
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    except _UNREADABLE:
        return False
    expected = (len(numbers), *settings["shape"])
    return (
        shape == expected
        and dtype.name == settings["dtype"]
        and np.array_equal(index, np.array(numbers))
    )
