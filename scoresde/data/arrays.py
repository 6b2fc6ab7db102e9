"""Numpy's files: .npy, which stay on the disk, and .npz."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scoresde._check import fail, instance, wrong_type
from scoresde.contract import DataContract
from scoresde.data.base import LazyData
from scoresde.data.labels import numbered
from scoresde.data.rows import CHUNK, ArrayRows, layout_of

__all__ = ["npy", "npz"]


def npy(
    path: str | os.PathLike[str],
    labels: str | os.PathLike[str] | Tensor | np.ndarray[Any, Any] | None = None,
    *,
    layout: str = "auto",
    levels: int | None = None,
    contract: DataContract | None = None,
    classes: int | None = None,
) -> LazyData:
    """An array in a .npy file, which is mapped: rows are read when needed, the rest stays there.

    Integers are levels. They stand for `levels` of them in [-1, 1]; by default 256 if they are
    unsigned bytes of which one is 128 or more, else as many as the largest value says, for which
    the file is read once. Floats are in model units already: with a contract, values outside of
    its range are refused when read; without, the data are continuous.

    Args:
        path: the file.
        labels: N integers or texts: a .npy file, an array or a tensor. The values that occur are
            the classes, numbered in their order, and give them their names.
        layout: what the axes are: "NCHW", "NHWC" (moved to NCHW), "NHW" (gets a channel), "ND" (as
            it is), or "auto", which knows ND from its two axes, and images of four axes by the
            place of the 1 to 4 channels.
        levels: number of levels of integers.
        contract: the same and its range, also for floats.
        classes: number of classes, if the labels are their numbers 0, 1, ... already.

    Returns:
        LazyData.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: the values are neither integers nor floats.
        ValueError: the file is damaged or holds Python objects; `layout` is not clear; integers
            are negative; both `levels` and `contract` are given, or `levels` for floats.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "x.npy"
        >>> np.save(file, np.zeros((10, 8, 8, 3), np.uint8))
        >>> npy(file, levels=256)
        LazyData(x: 10 x (3, 8, 8) float32)
    """
    path = Path(path)
    array = _loaded(path)
    rows = _rows(array, path, path.name, layout, levels, contract)
    if isinstance(labels, str | os.PathLike):
        labels = _loaded(Path(labels))
    return _labelled(rows, labels, classes, path.stem)


def npz(
    path: str | os.PathLike[str],
    key: str | None = None,
    label: str | None = None,
    *,
    layout: str = "auto",
    levels: int | None = None,
    contract: DataContract | None = None,
    classes: int | None = None,
) -> LazyData:
    """An array in a .npz file, with labels from another one of it.

    A .npz file cannot be mapped: the array is read into memory as it is stored, and becomes
    floats row by row. What is too large for that belongs into a .npy file.

    Args:
        path: the file.
        key: name of the samples' array; needs no saying if there is one array only, or one
            beside `label`.
        label: name of the array of N integers.
        layout, levels, contract, classes: as of `npy`.

    Returns:
        LazyData.

    Raises:
        FileNotFoundError, TypeError, ValueError: as `npy`; a key that is not in the file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "x.npz"
        >>> np.savez(file, x=np.eye(4), y=np.arange(4))
        >>> npz(file, label="y")
        LazyData(x: 4 x (4,) float32, cond: label)
    """
    path = Path(path)
    file = _loaded(path)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise fail("path", "a .npz file", str(path), "use scoresde.data.npy")
    with file:
        names = list(file.files)
        for argument, name in (("key", key), ("label", label)):
            if name is not None and name not in names:
                listed = ", ".join(map(repr, names))
                raise fail(argument, f"one of {listed}", name, f"these are in {path}")
        if key is None:
            others = [name for name in names if name != label]
            if len(others) != 1:
                listed = ", ".join(map(repr, names)) or "nothing"
                raise fail("key", "the name of the samples' array", key, f"{path} holds {listed}")
            key = others[0]
        try:
            array, given = file[key], None if label is None else file[label]
        except ValueError as error:
            raise _objects(path) from error
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise _damaged(path, error) from error
    rows = _rows(array, array, f"{path.name}[{key!r}]", layout, levels, contract)
    return _labelled(rows, given, classes, path.stem)


def _loaded(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (EOFError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    except ValueError as error:
        damaged = "object" not in str(error).lower() and "mmap" not in str(error).lower()
        raise (_damaged(path, error) if damaged else _objects(path)) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    got = f"{type(error).__name__}: {error}"
    return fail(str(path), "a whole file of numpy.save or numpy.savez", got, "write it again")


def _objects(path: Path) -> ValueError:
    remedy = "such a file can run code, so it is not opened: save numbers of one type"
    return fail(str(path), "an array of numbers", "Python objects", remedy)


def _rows(
    array: Any,
    source: Path | np.ndarray[Any, Any],
    name: str,
    layout: str,
    levels: int | None,
    contract: DataContract | None,
) -> ArrayRows:
    if not isinstance(array, np.ndarray):
        raise fail("path", "a .npy file", name, "use scoresde.data.npz")
    if array.dtype.kind not in "iubf":
        raise wrong_type(name, "integers or floats", array, "save real numbers of one type")
    if array.ndim == 0 or array.size == 0:
        raise fail(name, "at least one sample", array, "check what was saved")
    layout = layout_of(array.shape, layout, name)
    contract = _contract(array, levels, contract, name)
    return ArrayRows(source, layout, contract, name=name)


def _contract(
    array: np.ndarray[Any, Any], levels: int | None, contract: DataContract | None, name: str
) -> DataContract | None:
    if contract is not None:
        instance("contract", contract, DataContract, "pass e.g. DataContract(256)")
        if levels is not None:
            raise fail("levels", "None beside a contract", levels, "pass one of the two")
        return contract
    if array.dtype.kind == "f":
        if levels is not None:
            remedy = "pass contract=DataContract(levels, low, high), which says their range"
            raise fail("levels", "None for floats", levels, remedy)
        return None
    return DataContract(levels) if levels is not None else DataContract(_levels(array, name))


def _levels(array: np.ndarray[Any, Any], name: str) -> int:
    """The number of levels that the values of integers show."""
    if array.dtype.kind == "b":
        return 2
    largest, step = 1, max(1, CHUNK // max(1, array[0].size))
    path = getattr(array, "filename", None)
    for start in range(0, len(array), step):
        # Mapped anew for each piece, or every page that was read would stay with the process.
        piece = array if path is None else np.load(path, mmap_mode="r")
        part = piece[start : start + step]
        low = int(part.min())
        if low < 0:
            remedy = "shift them to start at 0, or convert them to floats in model units"
            raise fail(name, "levels from 0", low, remedy)
        largest = max(largest, int(part.max()))
        if array.dtype == np.uint8 and largest >= 128:
            return 256
    return largest + 1


def _labelled(rows: ArrayRows, labels: Any, classes: int | None, name: str) -> LazyData:
    if labels is None:
        if classes is not None:
            raise fail("classes", "None without labels", classes, "pass the labels too")
        return LazyData(rows, {}, rows.contract, name)
    known = numbered(labels, len(rows), "labels", classes=classes)
    cond = {"label": known.label}
    return LazyData(rows, cond, rows.contract, name, known.classes, known.names)
