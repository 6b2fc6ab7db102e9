"""Folders in which every file is one sample: their files, and arrays read from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, path_of, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.items import arrays_of
from scoresde.quantisation import Quantisation

__all__ = [
    "Files",
    "array_folder",
    "classes_of_folders",
    "deep_picture",
    "files_below",
    "with_classes_of_folders",
]

PASSED_OVER = frozenset({"__MACOSX", "__pycache__"})


def files_below(folder: Path, endings: Collection[str]) -> list[str]:
    """The files with one of these endings below a folder, with forward slashes, sorted.

    Endings are not case-sensitive; hidden files and folders are ignored. Links are followed, but
    each folder and each file is listed once, by its real path if that is below the folder, so a
    link back into the folder adds nothing.
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
    channels: str | None = None,
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
        channels, levels, quantisation, standardise: as of `npy`.

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
    if levels is not None:
        if quantisation is not None:
            raise fail("levels", "None beside a quantisation", levels, "pass one of the two")
        quantisation = Quantisation(levels)
    files = Files(place, names, numpy_file)
    data = arrays_of(files, place.name, layout, quantisation, standardise, channels=channels)
    return with_classes_of_folders(data, files, labels)


def numpy_file(path: Path) -> Any:
    """The array of a .npy file."""
    return _array(path, lambda: np.load(path, allow_pickle=False))


def deep_picture(path: Path) -> Any:
    """The values of a grey picture of more than 8 bits, as they are stored."""
    library, operations = need("PIL.Image", "data"), need("PIL.ImageOps", "data")

    def read() -> Any:
        with library.open(path) as image:
            return np.asarray(operations.exif_transpose(image))

    return _array(path, read)


def _array(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        got = f"{type(error).__name__}: {error}"
        raise fail(str(path), "a whole file of one array", got, "repair or delete it") from error


@final
@dataclass(frozen=True, eq=False)
class Files:
    """A source of items that are files.

    Args:
        folder: the folder.
        names: the names of the files below it, with forward slashes.
        opener: the function from the path of a file to its array or picture.
    """

    folder: Path
    names: Sequence[str]
    opener: Callable[[Path], Any]
    opened = True

    def __len__(self) -> int:
        return len(self.names)

    def item(self, number: int) -> Any:
        """The array or picture of a file."""
        return self.opener(self.folder / self.names[number])

    def called(self, number: int) -> str:
        """The path of a file."""
        return str(self.folder / self.names[number])


def with_classes_of_folders(data: LazyData, files: Files, labels: bool | None) -> LazyData:
    """The data of files with the classes of their sub-folders."""
    label, classes = classes_of_folders(files.names, labels)
    cond = {} if label is None else {"label": label.repeat(len(data) // len(label))}
    return replace(data, cond=cond, classes=len(classes), class_names=classes)
