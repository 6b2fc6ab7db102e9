"""Data sets of Hugging Face's library `datasets`, which the user has opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import choice, fail, need, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.images import as_size
from scoresde.data.labels import numbered
from scoresde.data.pictures import CHANNELS, checked_background, checked_mode, pixels
from scoresde.data.rows import ArrayRows, Rows, ScaledRows, layout_of
from scoresde.data.units import checked_standardise, meaning_of
from scoresde.quantisation import Quantisation

__all__ = ["HuggingFaceRows", "hugging_face"]

QUANTISATION = Quantisation(256)
NAMES = ("image", "img", "x")
LABELS = ("label", "labels", "fine_label")


def hugging_face(
    dataset: Any,
    column: str | None = None,
    label: str | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    mode: str | None = None,
    background: int | str | None = None,
    layout: str = "auto",
    quantisation: Quantisation | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """A `datasets.Dataset` that the user has opened; rows are read from it when needed.

    A column of images is decoded as by `image_folder`. Numbers, lists or arrays of floats are
    brought into model units as by `npy`; integers need their quantisation. Nothing is downloaded
    here.

    Args:
        dataset: one split of a data set, for example load_dataset(name)["train"].
        column: what to model; by default "image", "img" or "x", or the only column beside labels.
        label: the column of class labels, by default "label", "labels" or "fine_label" if there
            is one. The names of a ClassLabel are kept.
        size: of images, as of `image_folder`; None takes them as they are, if all are of one size.
        mode, background: of images, as of `image_folder`; the first one decides the mode if None.
        layout: of arrays, as of `npy`.
        quantisation: of arrays; which integers they are, or which range floats have.
        standardise: of floats, as of `npy`.

    Returns:
        LazyData.

    Raises:
        TypeError: a mapping of splits, a streamed data set, or something else is passed.
        ValueError: a column is missing or of no known kind; labels are out of range.

    Example:
        >>> hugging_face(load_dataset("mnist")["train"])  # doctest: +SKIP
        LazyData(hugging_face: 60000 x (1, 28, 28) float32, cond: label)
    """
    names = _column_names(dataset)
    given = next((n for n in LABELS if n in names and n != column), None)
    label = label if label is not None else given
    if column is None:
        others = [name for name in names if name != label]
        column = next((n for n in NAMES if n in names), others[0] if len(others) == 1 else None)
    for argument, name in (("column", column), ("label", label)):
        if (name is None and argument == "column") or (name is not None and name not in names):
            listed = ", ".join(map(repr, names))
            raise fail(argument, f"one of {listed}", name, "name the column")
    if len(dataset) == 0:
        raise fail("dataset", "at least one row", "none", "check how it was filtered")
    checked_standardise(standardise)
    background = checked_background(background)
    found = _rows(dataset, str(column), size, mode, background, layout, quantisation)
    own = QUANTISATION if found.image else found.quantisation
    data = LazyData(found, {}, own, "hugging_face")
    if label is not None:
        feature = getattr(dataset, "features", None) or {}
        class_names = tuple(getattr(feature.get(label), "names", None) or ())
        known = numbered(
            np.asarray(list(dataset[label])),
            len(dataset),
            f"column {label!r}",
            classes=len(class_names) or None,
            names=class_names or None,
        )
        cond = {"label": known.label}
        data = replace(data, cond=cond, classes=known.classes, class_names=known.names)
    if own is not None:
        return data
    exact = HuggingFaceRows(dataset, str(column), layout=layout, dtype=torch.float64)
    quantisation, scaling = meaning_of(exact, exact.layout, standardise, f"column {column!r}")
    if quantisation is not None:
        whole = HuggingFaceRows(
            dataset, str(column), layout=layout, quantisation=quantisation, whole=True
        )
        return replace(data, x=whole, quantisation=quantisation)
    rows = found if scaling is None else ScaledRows(exact, scaling, torch.float32)
    return replace(data, x=rows, scaling=scaling)


@final
class HuggingFaceRows(Rows):
    """One column of a data set: images, or numbers and arrays of them.

    Args:
        dataset: the data set.
        column: its column.
        size: of images (H, W), or None for arrays.
        resize: whether images of another size are resized and cut, or else refused.
        mode: of images.
        background: of images.
        layout: of arrays.
        quantisation: of arrays.
        whole: whether floats are whole numbers, which stand for levels.
        dtype: of arrays; images are float32.
    """

    dtype = torch.float32

    def __init__(
        self,
        dataset: Any,
        column: str,
        size: tuple[int, int] | None = None,
        resize: bool = True,
        mode: str = "RGB",
        background: int | None = None,
        layout: str = "auto",
        quantisation: Quantisation | None = None,
        whole: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # A row is decoded as a whole, so the other columns had better not be there.
        narrow = getattr(dataset, "select_columns", None)
        self.dataset = dataset if narrow is None else narrow([column])
        self.resize = resize
        self.column = column
        self.size = size
        self.mode = mode
        self.background = background
        self.quantisation = quantisation
        self.layout = layout
        self.whole = whole
        self.dtype = dtype
        self.image = size is not None
        if size is not None:
            self._one: tuple[int, ...] = (CHANNELS[mode], *size)
        else:
            first = np.asarray(dataset[0][column])
            self.layout = layout_of((len(dataset), *first.shape), layout, f"column {column!r}")
            self._one = self._read_arrays(torch.tensor([0], device="cpu")).shape[1:]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.dataset), *self._one)

    def read(self, rows: Tensor) -> Tensor:
        if self.image:
            levels = torch.empty((len(rows), *self._one), dtype=torch.uint8, device="cpu")
            for place, row in enumerate(rows.tolist()):
                image = self.dataset[row][self.column]
                name = f"row {row} of column {self.column!r}"
                if not hasattr(image, "getchannel"):
                    raise fail(name, "an image", image, "drop the row")
                size = self.size if self.resize else None
                made = pixels(image, size, self.mode, self.background, name)
                if made.shape != self._one:
                    expected = f"levels of shape {self._one}, as in row 0"
                    raise fail(name, expected, made, "pass size=, e.g. size=64")
                levels[place] = made
            return QUANTISATION.encode(levels)
        return self._read_arrays(rows)

    def _read_arrays(self, rows: Tensor) -> Tensor:
        values = [np.asarray(self.dataset[row][self.column]) for row in rows.tolist()]
        for row, value in zip(rows.tolist(), values, strict=True):
            if value.shape != values[0].shape or value.dtype.kind not in "iubf":
                expected = f"numbers of shape {values[0].shape} in every row"
                name = f"row {row} of column {self.column!r}"
                raise fail(name, expected, value, "name another column, or drop the row")
        array = np.stack(values) if values else np.zeros((0, *self._one))
        name = f"column {self.column!r}"
        rows_of = ArrayRows(array, self.layout, self.quantisation, self.dtype, name, self.whole)
        return rows_of[:]


def _rows(
    dataset: Any,
    column: str,
    size: int | tuple[int, int] | None,
    mode: str | None,
    background: int | None,
    layout: str,
    quantisation: Quantisation | None,
) -> HuggingFaceRows:
    first = dataset[0][column]
    if not hasattr(first, "getchannel"):  # not an image of Pillow
        for name, value in (("size", size), ("mode", mode), ("background", background)):
            if value is not None:
                raise fail(name, "None for a column of arrays", value, "leave it out")
        array = np.asarray(first)
        if array.dtype.kind not in "iubf":
            remedy = "name a column of images or arrays"
            raise fail(f"column {column!r}", "images or numbers", first, remedy)
        if array.dtype.kind in "iub" and quantisation is None:
            remedy = "pass e.g. quantisation=Quantisation(256)"
            raise fail("quantisation", "the levels that integers stand for", quantisation, remedy)
        return HuggingFaceRows(dataset, column, layout=layout, quantisation=quantisation)
    if quantisation is not None:
        remedy = "images have 256 levels in [-1, 1]: leave it out"
        raise fail("quantisation", "None for a column of images", quantisation, remedy)
    checked_mode(first.mode, f"column {column!r}")
    if mode is None:
        mode = "L" if first.mode in ("1", "L", "LA") else "RGB"
    upright = need("PIL.ImageOps", "data").exif_transpose(first)
    shape = (upright.height, upright.width) if size is None else as_size(size)
    choice("mode", mode, CHANNELS)
    return HuggingFaceRows(dataset, column, shape, size is not None, mode, background)


def _column_names(dataset: Any) -> list[str]:
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, dataset))
        remedy = f"pass one of its splits, dataset[...] of {splits}"
        raise wrong_type("dataset", "a datasets.Dataset", type(dataset).__name__, remedy)
    names = getattr(dataset, "column_names", None)
    if names is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        remedy = "open it without streaming=True; a tensor or an array goes to Data.of"
        raise wrong_type("dataset", "a datasets.Dataset", type(dataset).__name__, remedy)
    return list(names)
