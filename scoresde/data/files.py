"""Folders of which every file is one sample: which files there are, and arrays read from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, path_of, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.rows import IMAGES, ArrayRows, Rows, ScaledRows, layout_of
from scoresde.data.scaling import ends_of
from scoresde.data.units import levels_up_to, meaning_of
from scoresde.quantisation import Quantisation

__all__ = [
    "FileRows",
    "array_folder",
    "classes_of_folders",
    "deep_picture",
    "file_data",
    "files_below",
]

PASSED_OVER = frozenset({"__MACOSX", "__pycache__"})


def files_below(folder: Path, endings: Collection[str]) -> list[str]:
    """The files with one of these endings below a folder, with forward slashes, sorted.

    Upper and lower case of an ending are the same; hidden files and folders are passed over. Links
    are followed, but each folder and each file is taken once, by its own place if it has one here:
    a link that leads back into the folder adds nothing.
    """
    found: dict[str, str] = {}
    visited: set[str] = set()
    later: list[tuple[str, bool]] = []
    todo = [""]

    def add(name: str) -> None:
        found.setdefault(os.path.realpath(folder / name), name)

    while todo or later:
        if not todo:
            name, is_folder = later.pop(0)
            if not is_folder:
                add(name)
                continue
            todo = [name]
        place = todo.pop()
        real = os.path.realpath(folder / place)
        if real in visited:
            continue
        visited.add(real)
        for entry in sorted(os.scandir(folder / place), key=lambda entry: entry.name):
            name = f"{place}/{entry.name}" if place else entry.name
            if entry.name.startswith(".") or entry.name in PASSED_OVER:
                continue
            if entry.is_dir():
                later.append((name, True)) if entry.is_symlink() else todo.append(name)
            elif Path(entry.name).suffix.lower() in endings:
                later.append((name, False)) if entry.is_symlink() else add(name)
    return sorted(found.values())


def classes_of_folders(
    names: Sequence[str], labels: bool | None
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The class of each file, (n,) int64, and their names, from the first part of its name.

    Raises:
        TypeError: `labels` is neither True, False nor None.
        ValueError: only some of the files are in sub-folders.
    """
    if labels is not None and not isinstance(labels, bool):
        raise wrong_type("labels", "True, False or None", labels, "sub-folders name the classes")
    inside = [name.partition("/")[0] if "/" in name else None for name in names]
    if labels is False or (labels is None and not any(inside)):
        return None, ()
    if None in inside:
        expected = "every file in a sub-folder that names its class"
        got = f"{names[inside.index(None)]} beside the sub-folders"
        raise fail("labels", expected, got, "move it into one, or pass labels=False")
    classes = sorted({str(name) for name in inside})
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[str(name)] for name in inside], device="cpu"), tuple(classes)


def array_folder(
    folder: str | os.PathLike[str],
    *,
    labels: bool | None = None,
    layout: str = "auto",
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """A folder of .npy files, each of which holds one sample; each is read when it is needed.

    Sub-folders are searched too, and name the classes, as of `image_folder`.

    Args:
        folder: where the files are.
        labels: whether the sub-folders name classes; by default if all files are in sub-folders.
        layout: what the axes of all samples together are, of which the first counts them; as of
            `npy`.
        levels, quantisation, standardise: as of `npy`.

    Returns:
        LazyData with x (N, *D), and labels and the names of the classes if there are sub-folders.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no .npy file in it; a file is damaged or of another shape or type than
            the first (it is named); as `npy`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i in range(4):
        ...     np.save(folder / f"{i}.npy", np.eye(8) + i)
        >>> array_folder(folder, standardise=False).x.shape
        (4, 1, 8, 8)
    """
    place = path_of("folder", folder)
    if not place.is_dir():
        raise FileNotFoundError(f"no folder {place}")
    names = files_below(place, {".npy"})
    if not names:
        raise fail("folder", "a folder with .npy files", str(place), "check the path")
    return file_data(place, names, _npy, labels, layout, levels, quantisation, standardise)


def _npy(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def deep_picture(path: Path) -> Any:
    """The values of a grey picture of more than 8 bits, as they are stored."""
    library, operations = need("PIL.Image", "data"), need("PIL.ImageOps", "data")
    with library.open(path) as image:
        return np.asarray(operations.exif_transpose(image))


@final
class FileRows(Rows):
    """Files of one array each, opened at each access.

    Args:
        folder: where they are.
        names: of the files, below it.
        opener: from a path to the array of one sample.
        layout, quantisation, dtype, whole, numbers: as of `ArrayRows`.
    """

    parallel = True

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        opener: Callable[[Path], Any],
        layout: str,
        quantisation: Quantisation | None = None,
        dtype: torch.dtype = torch.float32,
        whole: bool = False,
        numbers: bool = False,
    ) -> None:
        self.folder = folder
        self.names = tuple(names)
        self.opener = opener
        first = self.opened(0)
        self.kind, self.byte = first.dtype.kind, first.dtype == np.uint8
        self.axes = first.ndim
        self.layout = layout_of((len(names), *first.shape), layout, "layout", byte=self.byte)
        self.quantisation = quantisation
        self.whole, self.plain = whole, numbers
        self._dtype = dtype
        self._one = self._made(first, 0).shape[1:]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.names), *self._one)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def opened(self, number: int) -> np.ndarray[Any, Any]:
        """The array of one file."""
        path = self.folder / self.names[number]
        try:
            array = self.opener(path)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            got = f"{type(error).__name__}: {error}"
            raise fail(
                str(path), "a whole file of one array", got, "repair or delete it"
            ) from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iubf" or not array.size:
            raise fail(str(path), "an array of integers or floats", array, "repair or delete it")
        return array

    def _made(self, array: np.ndarray[Any, Any], number: int) -> Tensor:
        name = str(self.folder / self.names[number])
        rows = ArrayRows(
            array[None], self.layout, self.quantisation, self._dtype, name, self.whole, self.plain
        )
        return rows[:]

    def read(self, rows: Tensor) -> Tensor:
        x = torch.empty((len(rows), *self._one), dtype=self._dtype, device="cpu")
        for place, number in enumerate(rows.tolist()):
            array = self.opened(number)
            made = self._made(array, number) if array.ndim == self.axes else None
            if made is None or made.shape[1:] != self._one:
                expected = f"a sample of the shape of {self.names[0]}, {tuple(self._one)}"
                path = self.folder / self.names[number]
                raise fail(str(path), expected, array, "cut, pad or delete it")
            x[place] = made[0]
        return x

    def identity(self, rows: Tensor) -> list[bytes]:
        return [self.names[row].encode() for row in rows.tolist()]


def file_data(
    place: Path,
    names: Sequence[str],
    opener: Callable[[Path], Any],
    labels: bool | None = None,
    layout: str = "auto",
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """Data of files of one array each; see `array_folder`, of which this is the inside."""
    if levels is not None:
        if quantisation is not None:
            raise fail("levels", "None beside a quantisation", levels, "pass one of the two")
        quantisation = Quantisation(levels)
    label, classes = classes_of_folders(names, labels)
    exact = FileRows(place, names, opener, layout, None, torch.float64, numbers=True)
    floats, whole, scaling = exact.kind == "f", False, None
    if quantisation is None and (floats or standardise is True):
        quantisation, scaling = meaning_of(
            exact, exact.layout, standardise, place.name, floats=floats
        )
        whole = quantisation is not None
    elif quantisation is None:
        quantisation = Quantisation(_levels(exact, place.name))
    rows: Rows = FileRows(place, names, opener, layout, quantisation, whole=whole)
    if scaling is not None:
        rows = ScaledRows(exact, scaling, torch.float32)
    cond = {} if label is None else {"label": label}
    return LazyData(rows, cond, quantisation, place.name, len(classes), classes, scaling)


def _levels(exact: FileRows, name: str) -> int:
    """The number of levels that the values of integers show."""
    if exact.kind == "b":
        return 2
    low, high = ends_of(exact)
    if float(low.min()) < 0:
        remedy = "shift them to start at 0, or pass standardise=True, which takes them as numbers"
        raise fail(name, "levels from 0", float(low.min()), remedy)
    return levels_up_to(int(high.max()), image=exact.layout in IMAGES, byte=exact.byte)
