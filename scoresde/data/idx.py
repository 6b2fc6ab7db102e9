"""IDX files: MNIST, Fashion-MNIST and their kin."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from scoresde._check import choice, fail, path_of
from scoresde.data.arrays import array_data
from scoresde.data.base import Data
from scoresde.data.labels import numbered
from scoresde.quantisation import Quantisation

__all__ = ["fashion_mnist", "find_idx", "idx", "idx_folder", "is_idx", "read_idx"]

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")  # fmt: skip
SPLITS = {"train": "train", "test": "t10k"}
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def fashion_mnist(folder: str | os.PathLike[str] | None = None, split: str = "train") -> Data:
    """Fashion-MNIST: 70,000 pictures of clothing, 28 x 28 pixels of 256 grey levels, 10 classes.

    Read from the four IDX files of the data set, compressed or not; nothing is downloaded.
    Debian and Ubuntu have them as the package dataset-fashion-mnist. In memory, 188 MB.

    Args:
        folder: where the files are; by default where the Debian package puts them,
            /usr/share/datasets/fashion-mnist.
        split: "train" (60,000) or "test" (10,000).

    Returns:
        Data with x (N, 1, 28, 28) in [-1, 1], labels of 10 classes and the quantisation of 256
        levels.

    Raises:
        FileNotFoundError: the files are not there; the message says where to get them.
        ValueError: unknown `split`, or a file is damaged.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017), arXiv:1708.07747.

    Example:
        >>> train = fashion_mnist()  # doctest: +SKIP
        >>> train  # doctest: +SKIP
        Data(fashion_mnist-train: 60000 x (1, 28, 28) float32, cond: label)
    """
    choice("split", split, SPLITS)
    place = DEBIAN if folder is None else path_of("folder", folder)
    try:
        images, labels = find_idx(place, split)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. Fashion-MNIST is in the Debian and Ubuntu package dataset-fashion-mnist "
            f"(apt install dataset-fashion-mnist); or put the four IDX files of "
            f"github.com/zalandoresearch/fashion-mnist into a folder and pass folder="
        ) from None
    return _idx(images, labels, 10, f"fashion_mnist-{split}", FASHION)


def idx_folder(folder: str | os.PathLike[str], split: str = "train") -> Data:
    """A folder of IDX files named as those of MNIST: train-images-idx3-ubyte and so on, or .gz.

    The test set is that of the names with "t10k". Returns and raises as `fashion_mnist`, with the
    labels that occur as classes.
    """
    choice("split", split, SPLITS)
    place = path_of("folder", folder)
    images, labels = find_idx(place, split)
    return _idx(images, labels, None, f"{place.name}-{split}")


def idx(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    classes: int | None = None,
) -> Data:
    """Samples, and class labels, from IDX files, the format of MNIST; compressed (gzip) or not.

    Unsigned bytes stand for 256 levels; floats are brought into model units, as by `npy`. An
    array (N, H, W) is a set of images and becomes (N, 1, H, W). Everything is read into memory.

    Args:
        images: file of N samples.
        labels: file of N integers, or None.
        classes: number of classes, if the labels are their numbers 0, 1, ...; by default the
            values that occur are the classes.

    Returns:
        Data, with "label" in its conditions if there are labels.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not IDX, is cut short or too long; labels do not fit.

    Source: LeCun, Cortes and Burges, "The MNIST database", where the format is defined.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "two-images-idx3-ubyte"
        >>> header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 1, 2))
        >>> _ = file.write_bytes(header + bytes([0, 255, 255, 0]))
        >>> idx(file).x.tolist()
        [[[[-1.0, 1.0]]], [[[1.0, -1.0]]]]
    """
    label = None if labels is None else path_of("labels", labels)
    place = path_of("images", images)
    return _idx(place, label, classes, place.name.partition(".")[0])


def _idx(
    images: Path,
    labels: Path | None,
    classes: int | None,
    name: str,
    class_names: tuple[str, ...] | None = None,
) -> Data:
    array = read_idx(images)
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        remedy = "convert it to .npy and use scoresde.data.npy(path, levels=...)"
        raise fail(str(images), "unsigned bytes or floats", array, remedy)
    quantisation = Quantisation(256) if array.dtype == np.uint8 else None
    layout = "NHW" if array.ndim == 3 else "auto"
    data = replace(array_data(array, array, images.name, layout, None, quantisation), name=name)
    if labels is not None:
        known = numbered(
            read_idx(labels), len(data), str(labels), classes=classes, names=class_names
        )
        cond = {"label": known.label}
        data = replace(data, cond=cond, classes=known.classes, class_names=known.names)
    return data.load()


def find_idx(folder: Path, split: str = "train") -> tuple[Path, Path]:
    """The files of images and labels of a split, in a folder.

    Raises:
        FileNotFoundError: one is missing; the message names it.
    """
    found = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{SPLITS[split]}-{kind}-ubyte"
        names = [name, name.replace("-idx", ".idx")]
        names += [f"{name}.gz" for name in names]
        path = next((folder / n for n in names if (folder / n).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no {name} or {name}.gz in {folder}")
        found.append(path)
    return found[0], found[1]


def is_idx(path: Path) -> bool:
    """Whether a file starts as an IDX file does."""
    try:
        with _opened(path) as file:
            return _starts(file.read(4))
    except (OSError, EOFError, zlib.error):
        return False


def read_idx(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """The array of one IDX file, in the byte order of this machine.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not IDX, is damaged, or is of another length than its header says.
    """
    path = path_of("path", path)
    try:
        with _opened(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; nothing is downloaded") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        got = f"{type(error).__name__}: {error}"
        raise fail(str(path), "a whole gzip file", got, "copy the file again") from error
    if not _starts(content):
        expected = "an IDX file, which starts with 0, 0, a type and a number of axes"
        raise fail(str(path), expected, content[:4], "check what the file is")
    dtype, axes = np.dtype(TYPES[content[2]]), content[3]
    header, values = content[4 : 4 + 4 * axes], memoryview(content)[4 + 4 * axes :]
    if len(header) < 4 * axes:
        raise fail(str(path), f"{axes} sizes", f"{len(header)} bytes", "copy the file again")
    shape = np.frombuffer(header, ">u4").tolist()
    wanted = math.prod(shape) * dtype.itemsize
    if len(values) != wanted:
        got = "more" if len(values) > wanted else f"{len(values)} bytes"
        expected = f"{wanted} bytes of values, for the shape {tuple(shape)} of its header"
        raise fail(str(path), expected, got, "the file is damaged: copy it again")
    array: np.ndarray[Any, Any] = np.frombuffer(values, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _starts(content: bytes) -> bool:
    return content[:2] == b"\0\0" and len(content) > 3 and content[2] in TYPES and content[3] > 0


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
