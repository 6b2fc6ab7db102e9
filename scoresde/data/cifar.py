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
NAMES = {"labels": "label_names", "fine_labels": "fine_label_names",
         "coarse_labels": "coarse_label_names"}  # fmt: skip


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
    pixels, label = [], []
    for name in FILES[kind][split]:
        if not (home / name).is_file():
            raise FileNotFoundError(f"no file {name} in {home}; unpack the archive again")
        batch = _mapping(home / name, ("data", key))
        pixels.append(_pixels(batch["data"], home / name))
        label.append(_integers(batch[key], home / name))
    images = np.concatenate(pixels).reshape(-1, 3, 32, 32)
    names = tuple(_text(name) for name in _names(home / META[kind], NAMES[key]))
    classes = len(names) or {"labels": 10, "fine_labels": 100, "coarse_labels": 20}[key]
    known = numbered(
        np.concatenate(label),
        len(images),
        f"{key} of {home}",
        classes=classes,
        names=names or None,
    )
    quantisation = Quantisation(256)
    rows = ArrayRows(images, "NCHW", quantisation, name=str(home))
    title = f"cifar{kind}-{split}"
    cond = {"label": known.label}
    return LazyData(rows, cond, quantisation, title, classes, known.names).load()


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


@final
class _Type:
    """A numpy dtype as a pickle describes it: inert until it is found to be a plain number."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def made(self) -> np.dtype[Any]:
        plain = isinstance(self.code, str) and self.code[:1] in "biuf" and self.code[1:].isdigit()
        if not plain or self.order not in ("<", ">", "=", "|"):
            raise _Refused(f"an array of {self.code!r}")
        return np.dtype(self.order.replace("|", "=") + self.code)


@final
class _Array:
    """A numpy array as a pickle describes it, likewise."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def made(self) -> np.ndarray[Any, Any]:
        if len(self.state) != 5 or not isinstance(self.state[2], _Type):
            raise _Refused("an array without its type")
        _, shape, kind, fortran, content = self.state
        if not isinstance(content, bytes | bytearray):
            raise _Refused(f"an array of {type(content).__name__}")
        flat = np.frombuffer(content, kind.made())
        return flat.reshape(tuple(map(int, shape)), order="F" if fortran else "C")


@final
class _Buffer:
    """How pickle's protocol 5 writes an array: calling it gives an `_Array`."""

    def __new__(cls, content: Any, kind: Any, shape: Any, order: Any) -> Any:
        made = _Array()
        made.state = (1, shape, kind, order == "F", content)
        return made

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of the reader")


@final
class _Latin1:
    """How Python 3 writes bytes for Python 2; another encoding is not even looked up."""

    def __new__(cls, text: Any, encoding: Any = "latin1") -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise _Refused(f"the encoding {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of the reader")


# Classes that define __setstate__, and no functions: a pickle's BUILD could set attributes of any
# other object that it can name, and so change the reader for the files after it.
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _Latin1,
} | {
    (f"numpy.{core}.{module}", name): made
    for core in ("core", "_core")
    for module, name, made in (
        ("multiarray", "_reconstruct", _Array),
        ("numeric", "_frombuffer", _Buffer),
    )
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
    if isinstance(value, _Array):
        return value.made()
    if isinstance(value, dict):
        return {_text(key): _opened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes | bytearray):
        return value
    raise _Refused(f"a {type(value).__name__}")


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _mapping(path: Path, keys: tuple[str, ...]) -> Mapping[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not set(keys) <= set(content):
        got = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise fail(str(path), f"a mapping with {', '.join(keys)}", got, "check what the file is")
    return content


def _names(path: Path, key: str) -> list[Any]:
    if not path.is_file():
        return []
    names = _mapping(path, (key,))[key]
    return names if isinstance(names, list) else []


def _pixels(value: Any, path: Path) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape[1:] != (3072,):
        got = value if isinstance(value, np.ndarray) else type(value).__name__
        raise fail(f"data of {path}", "bytes of shape (N, 3072)", got, "copy the file again")
    return value


def _integers(value: Any, path: Path) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise fail(f"labels of {path}", "a list of integers", array, "copy the file again")
    return array
