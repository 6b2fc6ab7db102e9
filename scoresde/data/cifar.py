"""CIFAR-10 and CIFAR-100 from their Python files, read without running what they say."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from scoresde._check import choice, fail, path_of
from scoresde.data.base import Data, LazyData
from scoresde.data.labels import numbered
from scoresde.data.rows import ArrayRows
from scoresde.quantisation import Quantisation

__all__ = ["cifar", "find_cifar", "read_pickle"]

HOMES = ("", "cifar-10-batches-py", "cifar-100-python")
FILES = {
    10: {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    100: {"train": ["train"], "test": ["test"]},
}
META = {10: "batches.meta", 100: "meta"}
CLASSES = {
    "labels": ("label_names", 10),
    "fine_labels": ("fine_label_names", 100),
    "coarse_labels": ("coarse_label_names", 20),
}


def cifar(folder: str | os.PathLike[str], split: str = "train", *, labels: str = "fine") -> Data:
    """CIFAR-10 or CIFAR-100: 60,000 colour pictures of 32 x 32 pixels, of 256 levels a channel.

    Read from the folder of the unpacked "python version", which holds pickles. They are read by a
    reader that builds numbers, bytes, lists, mappings and arrays of numbers and knows no
    function, so a manipulated file is refused and nothing in it runs. In memory, 614 MB.

    Args:
        folder: cifar-10-batches-py or cifar-100-python, or the folder that holds it.
        split: "train" (50,000) or "test" (10,000).
        labels: of CIFAR-100, "fine" (100 classes) or "coarse" (20).

    Returns:
        Data with x (N, 3, 32, 32) in [-1, 1], labels with the names of the classes, and the
        quantisation of 256 levels.

    Raises:
        FileNotFoundError: the files are not there.
        ValueError: an argument is unknown; a file is damaged or asks for more than numbers.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).

    Example:
        >>> cifar("cifar-10-batches-py")  # doctest: +SKIP
        Data(cifar10-train: 50000 x (3, 32, 32) float32, cond: label)
    """
    choice("split", split, ("train", "test"))
    choice("labels", labels, ("fine", "coarse"))
    home, kind = find_cifar(path_of("folder", folder))
    key = "labels" if kind == 10 else f"{labels}_labels"
    for name in FILES[kind][split]:
        if not (home / name).is_file():
            raise FileNotFoundError(f"no file {name} in {home}; unpack the archive again")
    batches = [_batch(home / name, key) for name in FILES[kind][split]]
    images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    label = np.concatenate([label for _, label in batches])
    meta, (words, classes) = home / META[kind], CLASSES[key]
    names = [_text(name) for name in _mapping(meta, words)[words]] if meta.is_file() else None
    known = numbered(
        label, len(images), f"{key} of {home}", classes=len(names or ()) or classes, names=names
    )
    quantisation = Quantisation(256)
    rows = ArrayRows(images, "NCHW", quantisation, name=str(home))
    title = f"cifar{kind}-{split}"
    cond = {"label": known.label}
    return LazyData(rows, cond, quantisation, title, known.classes, known.names).load()


def find_cifar(folder: Path) -> tuple[Path, int]:
    """The folder of the Python files, and 10 or 100.

    Raises:
        FileNotFoundError: they are not there.
    """
    for home in (folder / name for name in HOMES):
        for kind, marks in ((10, ("data_batch_1", "test_batch")), (100, ("train", "meta"))):
            if any((home / mark).is_file() for mark in marks):
                return home, kind
    raise FileNotFoundError(
        f"neither data_batch_1 (CIFAR-10) nor train and meta (CIFAR-100) in {folder}: unpack the "
        f"archive of the python version, cifar-10-python.tar.gz, and pass its folder"
    )


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What a pickle of plain values and arrays of numbers holds; nothing in it is run.

    Strings of Python 2 come as bytes.

    Raises:
        ValueError: it is no pickle, is damaged, or names any function or class beyond those that
            numpy writes for an array of numbers.
    """
    try:
        with Path(path).open("rb") as file:
            return _opened(_Reader(file, encoding="bytes").load())
    except _Refused as error:
        remedy = "do not trust this file; get the data from its source"
        raise fail(str(path), "plain values and arrays of numbers", str(error), remedy) from None
    # A damaged pickle can raise next to anything, from a stack that runs empty to bad numbers.
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError,
            OverflowError, MemoryError, RecursionError) as error:  # fmt: skip
        got = f"{type(error).__name__}: {error}"
        raise fail(str(path), "a whole pickle", got, "copy the file again") from error


class _Refused(Exception):
    """A pickle names something that is not on the list."""


class _Named:
    """What a pickle makes of a name: it holds its arguments and its state, and does nothing.

    BUILD, the instruction that could set attributes of anything that a pickle can name, and so
    change the reader for the files after it, finds `__setstate__` here and sets the state alone.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


@final
class _Type(_Named):
    """A numpy dtype, of which only plain numbers are taken."""

    def value(self) -> np.dtype[Any]:
        code = _text(self.arguments[0])
        order = _text(self.state[1]) if self.state else "="
        plain = isinstance(code, str) and code[:1] in "biuf" and code[1:].isdigit()
        if not plain or order not in ("<", ">", "=", "|"):
            raise _Refused(f"an array of {code!r}")
        kind: np.dtype[Any] = np.dtype(order.replace("|", "=") + code)
        return kind


@final
class _Array(_Named):
    """A numpy array, by its state or, as protocol 5 has it, by its arguments."""

    def value(self) -> np.ndarray[Any, Any]:
        if self.state:
            _, shape, kind, fortran, content = self.state
        else:
            content, kind, shape, order = self.arguments
            fortran = order == "F"
        content = content.value() if isinstance(content, _Latin1) else content
        if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
            raise _Refused(f"an array of {type(content).__name__}")
        flat = np.frombuffer(content, kind.value())
        return flat.reshape(tuple(map(int, shape)), order="F" if fortran else "C")


@final
class _Latin1(_Named):
    """Bytes as Python 3 writes them for Python 2; another encoding is not even looked up."""

    def value(self) -> bytes:
        text, encoding = (*self.arguments, "latin1")[:2]
        if not isinstance(text, str) or _text(encoding) != "latin1":
            raise _Refused(f"the encoding {encoding!r}")
        return text.encode("latin1")


_KNOWN: dict[tuple[str, str], type[_Named]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _Latin1,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _Array,
}
"""Stand-ins for what numpy writes: not one function of numpy is called by a pickle."""


@final
class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"the name {module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside the file")


def _opened(value: Any) -> Any:
    """The value with its arrays made; keys that are bytes become text."""
    if isinstance(value, _Type | _Array | _Latin1):
        return value.value()
    if isinstance(value, dict):
        return {_text(_opened(key)): _opened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes | bytearray):
        return value
    raise _Refused(f"a {type(value).__name__}")


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _batch(path: Path, key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bytes of pixels (N, 3072) and integers (N,) of one file."""
    held = _mapping(path, "data", key)
    pixels, label = np.asarray(held["data"]), np.asarray(held[key])
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise fail(f"data of {path}", "bytes of shape (N, 3072)", pixels, "copy the file again")
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise fail(f"labels of {path}", "a list of integers", label, "copy the file again")
    return pixels, label


def _mapping(path: Path, *keys: str) -> Mapping[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not set(keys) <= set(content):
        got = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise fail(str(path), f"a mapping with {', '.join(keys)}", got, "check what the file is")
    return content
