"""Numpy's files: .npy, which are memory-mapped, and .npz."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, instance, path_of, warn, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.beside import LABEL_WORDS, LABELS, SAMPLES, conditions_in
from scoresde.data.labels import numbered
from scoresde.data.layouts import IMAGES, layout_of, told_layout
from scoresde.data.rows import CHUNK, ArrayRows, ScaledRows
from scoresde.data.units import checked_standardise, levels_up_to, meaning_of
from scoresde.quantisation import Quantisation

__all__ = ["array_data", "npy", "npz"]


def npy(
    path: str | os.PathLike[str],
    labels: str | os.PathLike[str] | Tensor | np.ndarray[Any, Any] | None = None,
    *,
    layout: str = "auto",
    channels: str | None = None,
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    classes: int | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """An array in a .npy file, which is memory-mapped: rows are read on access.

    Integers are levels, `levels` of them in [-1, 1]. For images with a value above 16 the default
    is 256, or the bit depth that the largest value needs; otherwise it follows from the largest
    value, and is 256 for bytes with a value of 128 or more. The file is read once to find it.

    Floats are converted to model units if they are not, with a warning. Images with whole numbers
    from 0 to 255 are levels as well. Other images from 0 to 1 or from 0 to 255 are mapped to
    [-1, 1]. Any other data are standardised if they are obviously not in model units (see
    `unit_fault`): each entry of vectors by its own mean and standard deviation, each channel of
    signals, images and volumes (channels may have different units, and constant corners have no
    standard deviation to divide by), and all values of other "ND" arrays together.
    `data.scaling` converts samples back. With a quantisation, floats are in model units, and
    values outside its range are refused when read.

    Args:
        path: the file.
        labels: N integers or texts: a .npy file, an array or a tensor. The values that occur are
            the classes and their names, numbered in order.
        layout: the meaning of the axes, a key of `LAYOUTS`: "NCHW", "NHWC" (moved to NCHW), "NHW"
            (a channel is added), "NL", "NCL", "NLC", "NDHW", "NCDHW", "NDHWC", "ND" (unchanged),
            or "auto", which recognises unambiguous cases (vectors, bytes with three axes, images
            with 1 to 4 channels), with a warning if it adds a channel to floats.
        channels: the place of the channel axis in place of a layout: "none" (signals (N, L),
            images (N, H, W) and volumes (N, D, H, W) get one), "first" or "last".
        levels: number of levels of integers.
        quantisation: levels and range, also for floats.
        standardise: for floats True, False (they are in model units) or "auto", as described
            above. True also treats integers as numbers instead of levels.
        classes: number of classes, if the labels are already class numbers 0, 1, ...

    Returns:
        LazyData.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: the values are neither integers nor floats.
        ValueError: the file is damaged or contains Python objects, the layout is ambiguous,
            integers are negative, an entry or a channel of floats is constant, or both `levels`
            and `quantisation` are given, or `levels` for floats.

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
    data = array_data(
        array, path, path.name, layout, levels, quantisation, standardise, channels=channels
    )
    return _labelled(replace(data, name=path.stem), labels, classes)


def npz(
    path: str | os.PathLike[str],
    key: str | None = None,
    label: str | None = None,
    *,
    condition: Sequence[str] | None = None,
    layout: str = "auto",
    channels: str | None = None,
    levels: int | None = None,
    quantisation: Quantisation | None = None,
    classes: int | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """An array in a .npz file, with labels and conditions from other arrays in it.

    A .npz file cannot be memory-mapped: the array is read into memory as it is stored, and
    converted to floats row by row. Store larger arrays as .npy.

    Args:
        path: the file.
        key: name of the array of samples. By default it is the only one besides `label` and
            `condition`, or one with a usual name: x, images, data, X_train, train_images and the
            like.
        label: name of the array of N integers or texts. By default it is the one whose name
            matches that of the samples (y, label, labels, y_train, train_labels and the like) and
            which has one class per sample; a warning names it. "" means no labels.
        condition: names of the arrays (N, ...) that are conditions under their own names, in the
            numbers that they have; NaN means "not given". By default they are all other arrays of
            numbers with N rows, except those with a usual name of samples or labels; a warning
            names them. [] means none.
        layout, channels, levels, quantisation, classes, standardise: see `npy`.

    Returns:
        LazyData.

    Raises:
        FileNotFoundError, TypeError, ValueError: see `npy`; a key is not in the file, or a
            condition does not have N rows.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "x.npz"
        >>> np.savez(file, x=np.eye(4), y=np.arange(4), theta=np.ones((4, 3)))
        >>> npz(file, label="y", condition=["theta"])
        LazyData(x: 4 x (4,) float32, cond: label, theta)
    """
    path = path_of("path", path)
    file = _loaded(path)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise fail("path", "a .npz file", str(path), "use scoresde.data.npy")
    if isinstance(condition, str):
        raise wrong_type("condition", "a list of names", condition, f"pass [{condition!r}]")
    with file:
        names = list(file.files)
        wanted = [("condition", name) for name in condition or ()]
        for argument, name in (("key", key), ("label", label), *wanted):
            if name and name not in names:
                remedy = f"these are in {path}"
                raise fail(argument, f"one of {', '.join(map(repr, names))}", name, remedy)
        chosen = key if key is not None else _samples_in(names, label, condition or ())
        if chosen is None:
            held = ", ".join(map(repr, names)) or "nothing"
            raise fail("key", "the name of the samples' array", key, f"{path} holds {held}")
        array, given = _member(file, chosen, path), None
        if label is None:
            label, given = _labels_in(file, chosen, len(array) if array.ndim else 0, path)
            if given is not None:
                warn(
                    f"{path.name}: {chosen!r} holds the samples and {label!r} their labels "
                    '(key= and label= choose others, label="" none)'
                )
        elif label:
            given = _member(file, label, path)
        beside = {n: _member(file, n, path) for n in names if n not in (chosen, label)}
    cond = conditions_in(beside, condition, len(array) if array.ndim else 0, path.name)
    name = f"{path.name}[{chosen!r}]"
    data = array_data(
        array, array, name, layout, levels, quantisation, standardise, channels=channels
    )
    labelled = _labelled(replace(data, name=path.stem), given, classes)
    return replace(labelled, cond={**labelled.cond, **cond})


def _samples_in(names: Sequence[str], label: str | None, condition: Sequence[str]) -> str | None:
    """The array of samples: the only one besides the others, or one with a usual name."""
    others = [name for name in names if name != label and name not in condition]
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
    """Name and values of the array of classes whose name matches that of the samples."""
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
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80"
        if pickled or "Python objects" in str(error):  # in an array
            raise _objects(path) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    got = f"{type(error).__name__}: {error}"
    if "pickle" in got:  # the guess of numpy for a file of any other kind
        got = "another one, or one that was cut short"
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
    *,
    channels: str | None = None,
) -> LazyData:
    """An array as data in model units, without labels; see `npy`.

    Args:
        array: the array, which may be mapped.
        source: the source of later reads: the array, or the path of its file.
        name: the name of the data in messages.
        layout, levels, quantisation, standardise, channels: see `npy`.
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
    byte = array.dtype == np.uint8
    found = layout_of(array.shape, layout, name, channels=channels, byte=byte)
    if not byte and channels is None:
        told_layout(array.shape, layout, found, name)
    layout = found
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
    """Numbers, scaled if necessary; whole grey values of images are levels."""
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
    """The number of levels, inferred from the values of integers."""
    if array.dtype.kind == "b":
        return 2
    byte = array.dtype == np.uint8
    largest, step = 1, max(1, CHUNK // max(1, array[0].size))
    path = getattr(array, "filename", None)
    for start in range(0, len(array), step):
        # Mapped again for each piece, so that pages that were read are released.
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
