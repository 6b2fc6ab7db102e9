"""Numpy's files: .npy, which stay on the disk, and .npz."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, instance, path_of, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.labels import numbered
from scoresde.data.rows import CHUNK, IMAGES, ArrayRows, ScaledRows, layout_of
from scoresde.data.units import checked_standardise, levels_up_to, meaning_of
from scoresde.quantisation import Quantisation

__all__ = ["array_data", "npy", "npz"]

_WORD = r"(?<![a-zA-Z]){}(?![a-zA-Z])"
SAMPLES = re.compile(_WORD.format("(x|images?|imgs?|data|samples?|features?|inputs?)"), re.I)
LABEL_WORDS = ["y", "label", "labels", "target", "targets", "class", "classes"]
LABELS = re.compile(_WORD.format(f"({'|'.join(LABEL_WORDS)})"), re.I)


def npy(
    path: str | os.PathLike[str],
    labels: str | os.PathLike[str] | Tensor | np.ndarray[Any, Any] | None = None,
    *,
    layout: str = "auto",
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    classes: int | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """An array in a .npy file, which is mapped: rows are read when needed, the rest stays there.

    Integers are levels, `levels` of them in [-1, 1]; by default 256, or the depth in bits that the
    largest value of images needs, of images with a value above 16; else as many as the largest
    value says, but 256 of bytes of which one is 128 or more. The file is read once for that.

    Floats are brought into model units, unless they are there, and a warning says how. Images
    from 0 to 255 in whole numbers are levels as well. Others from 0 to 1 or from 0 to 255 are
    mapped to [-1, 1]. All else is standardised if it is plainly not in model units (see
    `unit_fault`): each entry of vectors by its own mean and standard deviation, each channel of
    signals, images and volumes (whose channels may have units of their own, while constant
    corners have no spread to divide by), all values of "ND" arrays of more axes together.
    `data.scaling` takes samples back. With a quantisation, floats are in model units and values
    outside of its range are refused when read.

    Args:
        path: the file.
        labels: N integers or texts: a .npy file, an array or a tensor. The values that occur are
            the classes, numbered in their order, and give them their names.
        layout: what the axes are, a key of `LAYOUTS`: "NCHW", "NHWC" (moved to NCHW), "NHW" (gets
            a channel), "NCL", "NCDHW", "NDHWC", "ND" (as it is), or "auto", which takes what is
            obvious (vectors, bytes of three axes, images by the place of the 1 to 4 channels).
        levels: number of levels of integers.
        quantisation: the same and its range, also for floats.
        standardise: of floats, True, False (they are in model units) or "auto", as said above.
            True also takes integers as numbers and not as levels.
        classes: number of classes, if the labels are their numbers 0, 1, ... already.

    Returns:
        LazyData.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: the values are neither integers nor floats.
        ValueError: the file is damaged or holds Python objects; `layout` is not clear; integers
            are negative; an entry or a channel of floats is constant; both `levels` and
            `quantisation` are given, or `levels` for floats.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "x.npy"
        >>> np.save(file, np.zeros((10, 8, 8, 3), np.uint8))
        >>> npy(file, levels=256)
        LazyData(x: 10 x (3, 8, 8) float32)
    """
    path = path_of("path", path)
    array = _loaded(path)
    if isinstance(labels, str | os.PathLike):
        labels = _loaded(path_of("labels", labels))
    data = array_data(array, path, path.name, layout, levels, quantisation, standardise)
    return _labelled(replace(data, name=path.stem), labels, classes)


def npz(
    path: str | os.PathLike[str],
    key: str | None = None,
    label: str | None = None,
    *,
    layout: str = "auto",
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    classes: int | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """An array in a .npz file, with labels from another one of it.

    A .npz file cannot be mapped: the array is read into memory as it is stored, and becomes
    floats row by row. What is too large for that belongs into a .npy file.

    Args:
        path: the file.
        key: name of the samples' array; by default the only one beside `label`, or else one with
            an obvious name: x, images, data, X_train, train_images and the like.
        label: name of the array of N integers or texts; by default the one whose name belongs to
            that of the samples (y, label, labels, y_train, train_labels and the like) and which
            holds one class for each. A warning says what was taken. "" takes none.
        layout, levels, quantisation, classes, standardise: as of `npy`.

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
    path = path_of("path", path)
    file = _loaded(path)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise fail("path", "a .npz file", str(path), "use scoresde.data.npy")
    with file:
        names = list(file.files)
        for argument, name in (("key", key), ("label", label)):
            if name and name not in names:
                remedy = f"these are in {path}"
                raise fail(argument, f"one of {', '.join(map(repr, names))}", name, remedy)
        chosen = key if key is not None else _samples_in(names, label)
        if chosen is None:
            held = ", ".join(map(repr, names)) or "nothing"
            raise fail("key", "the name of the samples' array", key, f"{path} holds {held}")
        array, given = _member(file, chosen, path), None
        if label is None:
            label, given = _labels_in(file, chosen, len(array) if array.ndim else 0, path)
            if given is not None:
                warnings.warn(
                    f"{path.name}: {chosen!r} holds the samples and {label!r} their labels "
                    '(key= and label= choose others, label="" none)',
                    stacklevel=2,
                )
        elif label:
            given = _member(file, label, path)
    name = f"{path.name}[{chosen!r}]"
    data = array_data(array, array, name, layout, levels, quantisation, standardise)
    return _labelled(replace(data, name=path.stem), given, classes)


def _samples_in(names: Sequence[str], label: str | None) -> str | None:
    """The array of samples: the only one that is not of labels, or one with an obvious name."""
    others = [name for name in names if name != label]
    if len(others) > 1:
        others = [name for name in others if not LABELS.search(name)] or others
    if len(others) > 1:
        others = [name for name in others if SAMPLES.search(name)] or others
    if len(others) > 1:
        others = [name for name in others if "train" in name.lower()] or others
    if len(others) > 1:
        others = [name for name in others if name == "arr_0"] or others
    return others[0] if len(others) == 1 else None


def _labels_in(
    file: Any, key: str, n: int, path: Path
) -> tuple[str | None, np.ndarray[Any, Any] | None]:
    """Name and values of the array of classes whose name belongs to that of the samples."""
    belonging = [SAMPLES.sub(word, key).lower() for word in LABEL_WORDS]
    belonging += [] if SAMPLES.search(key) else LABEL_WORDS
    belonging += ["arr_1"] if key == "arr_0" else []
    for name in file.files:
        if name.lower() not in belonging or name == key:
            continue
        values = _member(file, name, path)
        if values.shape in ((n,), (n, 1)) and values.dtype.kind in "iubUS":
            return name, values
    return None, None


def _member(file: Any, name: str, path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(file[name])
    except ValueError as error:
        raise _objects(path) from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise _damaged(path, error) from error


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


def array_data(
    array: Any,
    source: Path | np.ndarray[Any, Any],
    name: str,
    layout: str = "auto",
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """An array as data in model units, without labels; as `npy`, of which this is the inside.

    Args:
        array: the array, which may be mapped.
        source: what is read later: the array, or the path of its file.
        name: for messages.
        layout, levels, quantisation, standardise: as of `npy`.
    """
    if not isinstance(array, np.ndarray):
        raise fail("path", "a .npy file", name, "use scoresde.data.npz")
    if array.dtype.kind not in "iubf":
        remedy = "save real numbers of one type"
        if array.dtype.kind == "c":
            remedy = "save real and imaginary part as two channels: np.stack([z.real, z.imag], 1)"
        if array.dtype.names:
            remedy = "save one of its fields, or take them as columns: scoresde.data.table"
        raise wrong_type(name, "integers or floats", array, remedy)
    if array.ndim == 0 or array.size == 0:
        raise fail(name, "at least one sample", array, "check what was saved")
    layout = layout_of(array.shape, layout, name, byte=array.dtype == np.uint8)
    image, floats = layout in IMAGES, array.dtype.kind == "f"
    checked_standardise(standardise)
    if quantisation is None and levels is None and (floats or standardise is True):
        return _continuous(array, source, name, layout, standardise)
    if quantisation is not None:
        instance("quantisation", quantisation, Quantisation, "pass e.g. Quantisation(256)")
    for given, one in ((quantisation, "quantisation"), (levels, "levels")):
        if given is not None and standardise is True:
            remedy = "levels have model units already: pass one of the two"
            raise fail("standardise", f"False or 'auto' beside {one}", standardise, remedy)
    if levels is not None and (quantisation is not None or floats):
        if quantisation is not None:
            raise fail("levels", "None beside a quantisation", levels, "pass one of the two")
        remedy = "pass quantisation=Quantisation(levels, low, high), which says their range"
        raise fail("levels", "None for floats", levels, remedy)
    if quantisation is None:
        quantisation = Quantisation(_levels(array, name, image) if levels is None else levels)
    return LazyData(ArrayRows(source, layout, quantisation, name=name), quantisation=quantisation)


def _continuous(
    array: np.ndarray[Any, Any],
    source: Path | np.ndarray[Any, Any],
    name: str,
    layout: str,
    standardise: bool | str,
) -> LazyData:
    """Numbers, scaled if they need it; but whole greys of images are levels."""
    exact = ArrayRows(source, layout, None, torch.float64, name, numbers=True)
    quantisation, scaling = meaning_of(
        exact, layout, standardise, name, floats=array.dtype.kind == "f"
    )
    if scaling is not None:
        return LazyData(ScaledRows(exact, scaling, torch.float32), scaling=scaling)
    whole = quantisation is not None
    rows = ArrayRows(source, layout, quantisation, name=name, whole=whole)
    return LazyData(rows, {}, quantisation)


def _levels(array: np.ndarray[Any, Any], name: str, image: bool) -> int:
    """The number of levels that the values of integers show."""
    if array.dtype.kind == "b":
        return 2
    byte = array.dtype == np.uint8
    largest, step = 1, max(1, CHUNK // max(1, array[0].size))
    path = getattr(array, "filename", None)
    for start in range(0, len(array), step):
        # Mapped anew for each piece, or every page that was read would stay with the process.
        piece = array if path is None else np.load(path, mmap_mode="r")
        part = piece[start : start + step]
        low = int(part.min())
        if low < 0:
            remedy = (
                "shift them to start at 0, or pass standardise=True, which takes them as numbers"
            )
            raise fail(name, "levels from 0", low, remedy)
        largest = max(largest, int(part.max()))
        if byte and (largest >= 128 or (image and largest > 16)):
            return 256
    return levels_up_to(largest, image=image, byte=byte)


def _labelled(data: LazyData, labels: Any, classes: int | None) -> LazyData:
    if labels is None:
        if classes is not None:
            raise fail("classes", "None without labels", classes, "pass the labels too")
        return data
    known = numbered(labels, len(data), "labels", classes=classes)
    cond = {"label": known.label}
    return replace(data, cond=cond, classes=known.classes, class_names=known.names)
