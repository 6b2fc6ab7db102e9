"""`load_data`: any data set by name or path."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from scoresde._check import fail, instance, path_of
from scoresde.data.arrays import npy, npz
from scoresde.data.base import Data, LazyData
from scoresde.data.cifar import cifar, find_cifar
from scoresde.data.digits import digits
from scoresde.data.files import array_folder, files_below
from scoresde.data.idx import fashion_mnist, find_idx, idx, idx_folder, is_idx
from scoresde.data.images import image_folder, picture_endings, subfolders
from scoresde.data.samples import MANIFEST, samples
from scoresde.data.tables import csv_table, parquet_table
from scoresde.data.toys import TOYS, toy
from scoresde.data.wav import wav
from scoresde.options import Pictures, Table
from scoresde.summary import DataSummary

__all__ = ["LOOKED_FOR", "NAMED", "load_data"]

NAMED = ("digits", "fashion_mnist", *TOYS)
"""The data sets that `load_data` finds by name."""

LOOKED_FOR = (
    "a name: " + ", ".join(NAMED),
    "a folder of IDX files: train-images-idx3-ubyte and its kin, or .gz",
    "a folder of CIFAR's Python files: data_batch_1, or train and meta",
    "a folder of samples that sample_to wrote",
    "a folder of images or of .npy files, one a sample, or of .wav files, in sub-folders named by "
    "class or not",
    "a file: .npy, .npz, .csv, .tsv, .parquet, .wav, or IDX",
)
"""What `load_data` looks for, in this order."""

PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
TRAINING = frozenset({"train", "training"})
POINTS = 10_000
IMAGES = ("split", "size", "mode", "flip", "labels", "background", "strict", "standardise")
ARRAYS = ("layout", "channels", "levels", "standardise")
SOUNDS = ("split", "window", "labels", "standardise")
TABLE = ("condition", "categories", "coding", "bounds", "missing", "like")


def load_data(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    pictures: Pictures = Pictures(),
    layout: str | None = None,
    channels: str | None = None,
    levels: int | None = None,
    window: int | None = None,
    key: str | None = None,
    label: str | None = None,
    labels: str | os.PathLike[str] | bool | None = None,
    table: Table = Table(),
    standardise: bool | str | None = None,
    class_names: Sequence[str] | None = None,
    like: DataSummary | None = None,
) -> Data | LazyData:
    """The data set of this name or at this path, whose format is recognised from its content.

    A built-in name wins over a file of that name; write "./digits" for the file. An option that is
    None has the default of the function of the format. An option that does not apply to the format
    is refused.

    Args:
        source: "digits", "fashion_mnist", the name of a toy ("moons", ...), a folder or a file.
        split: for digits, Fashion-MNIST, IDX and CIFAR folders "train" or "test"; for a folder of
            images the sub-folder to read. If there is a sub-folder "train", its classes also
            number those of "test", "val", ..., even if some are missing there.
        n: number of points of a toy, 10,000 by default.
        seed: seed of a toy, or of the split of the digits.
        pictures: for a folder of images: size, mode, mirror images ...; see `Pictures`.
        layout: for .npy and .npz the meaning of the axes, such as "NHWC" or "NCL"; see `npy`.
        levels: for .npy and .npz the number of levels of integers, such as 256; see `npy`.
        channels: for .npy and .npz the place of the channel axis, "none" (signals (N, L), images
            (N, H, W) and volumes (N, D, H, W)), "first" or "last"; see `npy`.
        window: for WAV files, the number of values of a signal; see `wav`.
        standardise: for .npy, .npz, WAV and tables True, False or "auto"; see `npy`, `wav` and
            `csv_table`.
        key: the array of samples in a .npz file.
        label: the column of labels in a table, or their array in a .npz file.
        labels: the file of labels of a .npy or an IDX file; for a folder of images, .npy or .wav
            files False if its sub-folders are not classes.
        table: for a table: its columns, conditions, categories and bounds, and for a CSV file its
            format; see `Table`.
        class_names: for data with labels, the classes of other data, matched by name; see
            `Data.with_classes`.
        like: for a table, the summary of other data, such as `model.data`, whose columns,
            categories, bounds and scaling it has; see `csv_table`.

    Returns:
        Data, or LazyData for folders of images or samples, .npy, .npz and WAV, whose `load()`
        gives Data.

    Raises:
        FileNotFoundError: it is neither a name nor a path; the message lists what was searched.
        ValueError: the format is unknown, an option does not apply to it, and every error of the
            function of the format.

    Example:
        >>> load_data("moons", n=100)
        Data(moons: 100 x (2,) float32)
        >>> load_data("digits", split="test")
        Data(digits-test: 898 x (1, 8, 8) float32, cond: label)
    """
    remedy = "tensors and arrays go to Data.of, frames and mappings of columns to data.table"
    instance("source", source, (str, os.PathLike), remedy)
    instance("pictures", pictures, Pictures, "pass e.g. Pictures(size=32)")
    instance("table", table, Table, "pass e.g. Table(columns=['a', 'b'])")
    given = dict(
        split=split, n=n, seed=seed, layout=layout, channels=channels, levels=levels, key=key,
        window=window, label=label, labels=labels, standardise=standardise, like=like,
        **vars(pictures), **vars(table),
    )  # fmt: skip
    unset = {field.name: field.default for field in fields(Table)}
    options = {k: v for k, v in given.items() if v is not None and v != unset.get(k)}
    found = _found(source, options)
    return found if class_names is None else found.with_classes(class_names)


def _found(source: str | os.PathLike[str], options: Mapping[str, Any]) -> Data | LazyData:
    if isinstance(source, str) and source in NAMED:
        return _named(source, options)
    path = path_of("source", source)
    if path.is_dir():
        return _folder(path, options)
    if path.is_file():
        return _file(path, options)
    listed = "; ".join(LOOKED_FOR)
    near = get_close_matches(str(source), NAMED, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(f"source: nothing at {str(source)!r}; looked for {listed}{hint}")


def _named(name: str, options: Mapping[str, Any]) -> Data:
    if name == "digits":
        return digits(**_only(options, ("split", "seed"), "the digits"))
    if name == "fashion_mnist":
        return fashion_mnist(**_only(options, ("split",), "Fashion-MNIST"))
    return toy(name, **{"n": POINTS, **_only(options, ("n", "seed"), "a toy")})


def _folder(path: Path, options: Mapping[str, Any]) -> Data | LazyData:
    if _finds(find_idx, path) or any(path.glob("*-idx?-ubyte*")):
        return idx_folder(path, **_only(options, ("split",), "a folder of IDX files"))
    if _finds(find_cifar, path):
        return cifar(path, **_only(options, ("split",), "CIFAR"))
    if (path / MANIFEST).is_file():
        _only(options, (), "a folder of samples")
        return samples(path)
    pictured = bool(files_below(path, picture_endings()))
    arrays = not pictured and bool(files_below(path, {".npy"}))
    sounds = not pictured and not arrays and bool(files_below(path, {".wav"}))
    kind = ".npy files" if arrays else "WAV files" if sounds else "images"
    allowed: Sequence[str] = ("split", "labels", *ARRAYS) if arrays else IMAGES
    allowed = SOUNDS if sounds else allowed
    images = dict(_only(options, allowed, f"a folder of {kind}"))
    inside = subfolders(path)
    split = images.pop("split", None)
    trained_on: list[str] = []
    if split is not None:
        if split not in inside:
            raise fail("split", f"a sub-folder of {path}", split, f"there are {inside}")
        trained_on = _classes_of_training(path, inside, split)
        path = path / split
    elif inside and {name.lower() for name in inside} <= PARTS:
        remedy = f"pass split={inside[0]!r}, or image_folder(path) if they are classes"
        raise fail("split", "which sub-folder to take", f"None, with {inside}", remedy)
    try:
        load = array_folder if arrays else wav if sounds else image_folder
        found: LazyData = load(path, **images)
        if trained_on and found.class_names:
            more = [name for name in found.class_names if name not in trained_on]
            found = found.with_classes([*trained_on, *more])
        return found
    except ValueError as error:
        if "a folder with images" not in str(error):
            raise
        listed = "; ".join(LOOKED_FOR[1:5])
        remedy = "name the folder that holds the files themselves"
        raise fail("source", f"in a folder, {listed}", str(path), remedy) from None


def _classes_of_training(path: Path, inside: Sequence[str], split: str) -> list[str]:
    """The classes of the training part, which number those of the other parts as well."""
    training = next((name for name in inside if name.lower() in TRAINING), split)
    if training == split or split.lower() not in PARTS:
        return []
    return subfolders(path / training)


def _file(path: Path, options: Mapping[str, Any]) -> Data | LazyData:
    table = ("columns", "label", "drop", "standardise")
    text = (*table, "delimiter", "decimal", "header", *TABLE)
    known: dict[str, tuple[Callable[..., Data | LazyData], tuple[str, ...]]] = {
        ".npy": (npy, ("labels", *ARRAYS)),
        ".npz": (npz, ("key", "label", "condition", *ARRAYS)),
        ".wav": (wav, ("window", "standardise")),
        ".csv": (csv_table, text),
        ".tsv": (csv_table, text),
        ".parquet": (parquet_table, (*table, *TABLE)),
        ".pq": (parquet_table, (*table, *TABLE)),
    }
    ending = path.suffix.lower()
    if ending in known:
        load, allowed = known[ending]
        return load(path, **_only(options, allowed, f"a {ending} file"))
    if is_idx(path):
        return idx(path, **_only(options, ("labels",), "an IDX file"))
    remedy = "convert it, or pass a tensor to Data.of"
    if ending in (".gz", ".tgz", ".tar", ".zip"):
        remedy = "unpack it, and pass the file or the folder"
    raise fail("source", LOOKED_FOR[-1], str(path), remedy)


def _finds(find: Callable[[Path], object], path: Path) -> bool:
    try:
        find(path)
    except FileNotFoundError:
        return False
    return True


def _only(options: Mapping[str, Any], allowed: Sequence[str], what: str) -> Mapping[str, Any]:
    """The options; raise if one does not apply to the format."""
    for name, value in options.items():
        if name not in allowed:
            listed = ", ".join(allowed) or "no options"
            raise fail(name, f"nothing, for {what} takes {listed}", value, "leave it out")
    return options
