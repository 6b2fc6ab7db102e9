"""`from_dataset`: any data set with a length and items by number, read as it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from scoresde._check import choice, fail, need, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.images import as_size
from scoresde.data.labels import Labels, numbered
from scoresde.data.pictures import CHANNELS, checked_background, checked_mode, pixels
from scoresde.data.rows import ArrayRows, Rows, ScaledRows, layout_of
from scoresde.data.units import checked_standardise, meaning_of
from scoresde.quantisation import Quantisation

__all__ = ["DatasetRows", "from_dataset"]

Part: TypeAlias = str | int | None
"""A part of an item: the key of a mapping, the place in a tuple, or None for the item itself."""

LEVELS = Quantisation(256)
SAMPLES = ("x", "image", "img", "images", "pixel_values", "data", "sample")
LABELS = ("label", "labels", "fine_label", "y", "target", "class")
LOOKED_AT = 16


def from_dataset(
    dataset: Any,  # torch's Dataset, that of Hugging Face, or another class with the two methods
    x: Part = None,
    label: str | int | bool | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    mode: str | None = None,
    background: int | str | None = None,
    layout: str = "auto",
    quantisation: Quantisation | None = None,
    standardise: bool | str = "auto",
) -> LazyData:
    """A map-style data set, of torchvision, Hugging Face or your own; items are read when needed.

    An item is a sample, a tuple (sample, class, ...) or a mapping. A sample is a picture of
    Pillow, a number, or an array or tensor of numbers. Pictures are decoded as by `image_folder`
    and have 256 levels; so leave `transform=ToTensor()` out to keep the levels. Floats are brought
    into model units as by `npy`; integers need their quantisation. Nothing is downloaded here.

    An item must be the same at each access, so random transforms are refused. Labels are read
    once, now: from the column of a Hugging Face data set, from `targets` or `labels` of a data
    set of torchvision if they are what the items say, and else from all items.

    Args:
        dataset: what has `len(dataset)` and `dataset[i]`; of Hugging Face one split, for example
            load_dataset(name)["train"].
        x: the sample's place in a tuple or its key; by default the first place, and of a mapping
            "x", "image", "data" and the like, or the only key beside `label`.
        label: place or key of the class, an integer or a text. By default the second of two
            places, and of a mapping "label", "y", "target" and the like. False takes none.
        size: of pictures, as of `image_folder`; None takes them as they are, if all are of one
            size.
        mode, background: of pictures, as of `image_folder`; the first one decides the mode if
            None.
        layout: of arrays, as of `npy`.
        quantisation: of arrays; which integers they are, or which range floats have.
        standardise: of floats, as of `npy`.

    Returns:
        LazyData with x (N, *D), the labels, and the names of the classes if the data set has them.

    Raises:
        TypeError: a mapping of splits, a streamed data set, a DataLoader or something else.
        ValueError: a part is missing or of no known kind; item 0 is another one at its second
            access; labels are out of range.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from_dataset(TensorDataset(torch.randn(10, 2), torch.arange(10) % 3))
        LazyData(TensorDataset: 10 x (2,) float32, cond: label)
        >>> from_dataset(load_dataset("mnist")["train"])  # doctest: +SKIP
        LazyData(Dataset: 60000 x (1, 28, 28) float32, cond: label)
        >>> from_dataset(torchvision.datasets.CIFAR10("data"))  # doctest: +SKIP
        LazyData(CIFAR10: 50000 x (3, 32, 32) float32, cond: label)
    """
    _check(dataset)
    part, classes = _parts(dataset, x, label)
    checked_standardise(standardise)
    _check_repeats(dataset, part)
    rows = _rows(dataset, part, size, mode, checked_background(background), layout, quantisation)
    known = LEVELS if rows.image else quantisation
    data = LazyData(rows, {}, known, type(dataset).__name__)
    if classes is not None:
        found = _labels(dataset, classes)
        cond = {"label": found.label}
        data = replace(data, cond=cond, classes=found.classes, class_names=found.names)
    if known is not None:
        return data
    exact = DatasetRows(dataset, part, layout=layout, dtype=torch.float64)
    levels, scaling = meaning_of(exact, exact.layout, standardise, _called(part))
    if levels is not None:
        whole = DatasetRows(dataset, part, layout=layout, quantisation=levels, whole=True)
        return replace(data, x=whole, quantisation=levels)
    if scaling is not None:
        return replace(data, x=ScaledRows(exact, scaling, torch.float32), scaling=scaling)
    return data


@final
class DatasetRows(Rows):
    """One part of the items of a data set: pictures, or numbers and arrays of them.

    Args:
        dataset: the data set.
        part: of its items.
        size: of pictures (H, W), or None for arrays.
        resize: whether pictures of another size are resized and cut, or else refused.
        mode: of pictures.
        background: of pictures.
        layout: of arrays.
        quantisation: of arrays.
        whole: whether floats are whole numbers, which stand for levels.
        dtype: of arrays; pictures are float32.
    """

    dtype = torch.float32

    def __init__(
        self,
        dataset: Any,
        part: Part,
        size: tuple[int, int] | None = None,
        resize: bool = True,
        mode: str = "RGB",
        background: int | None = None,
        layout: str = "auto",
        quantisation: Quantisation | None = None,
        whole: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # Hugging Face decodes a row as a whole, so leave its other columns out.
        narrow = getattr(dataset, "select_columns", None)
        self.dataset = dataset if narrow is None else narrow([part])
        self.part = part
        self.size = size
        self.resize = resize
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
            shape = (len(dataset), *_array(_part(dataset[0], part)).shape)
            self.layout = layout_of(shape, layout, _called(part))
            self._one = self._arrays([0]).shape[1:]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.dataset), *self._one)

    def read(self, rows: Tensor) -> Tensor:
        if not self.image:
            return self._arrays(rows.tolist())
        levels = torch.empty((len(rows), *self._one), dtype=torch.uint8, device="cpu")
        for place, row in enumerate(rows.tolist()):
            picture, name = (
                _part(self.dataset[row], self.part),
                f"row {row} of {_called(self.part)}",
            )
            if not _is_picture(picture):
                raise fail(name, "an image", picture, "drop the row")
            size = self.size if self.resize else None
            made = pixels(picture, size, self.mode, self.background, name)
            if made.shape != self._one:
                expected = f"levels of shape {self._one}, as in row 0"
                raise fail(name, expected, made, "pass size=, e.g. size=64")
            levels[place] = made
        return LEVELS.encode(levels)

    def _arrays(self, rows: list[int]) -> Tensor:
        values = [_array(_part(self.dataset[row], self.part)) for row in rows]
        for row, value in zip(rows, values, strict=True):
            if value.shape != values[0].shape or value.dtype.kind not in "iubf":
                expected = f"numbers of shape {values[0].shape} in every row"
                name = f"row {row} of {_called(self.part)}"
                raise fail(name, expected, value, "name another part, or drop the row")
        array = np.stack(values) if values else np.zeros((0, *self._one))
        name = _called(self.part)
        return ArrayRows(array, self.layout, self.quantisation, self.dtype, name, self.whole)[:]


def _check(dataset: Any) -> None:
    """Refuse what has no items by number."""
    kind = type(dataset).__name__
    expected = "a data set with a length and items by number"
    if isinstance(dataset, DataLoader):
        raise wrong_type("dataset", expected, kind, "pass loader.dataset")
    if isinstance(dataset, Mapping):
        remedy = f"pass one of its splits, dataset[...] of {', '.join(map(repr, dataset))}"
        raise wrong_type("dataset", expected, kind, remedy)
    methods = all(hasattr(dataset, name) for name in ("__getitem__", "__len__"))
    if not methods or isinstance(dataset, IterableDataset | Tensor | np.ndarray):
        remedy = "open it without streaming=True; a tensor or an array goes to Data.of"
        raise wrong_type("dataset", expected, kind, remedy)
    if len(dataset) == 0:
        raise fail("dataset", "at least one row", "none", "check how it was filtered")


def _parts(dataset: Any, x: Part, label: str | int | bool | None) -> tuple[Part, Part]:
    """The parts of an item that are the sample and the class."""
    first = dataset[0]
    names: list[Any] = []
    usual: Part = None
    if isinstance(first, Mapping):
        names = list(first)
        usual = next((name for name in LABELS if name in names and name != x), None)
    elif isinstance(first, tuple | list):
        names = list(range(len(first)))
        usual = 1 if len(names) == 2 and x in (0, None) else None
        if usual and label is None and not _is_class(first[1]):
            remedy = "pass label=False to leave it out"
            raise fail("label", "a class, an integer or a text, as second part", first[1], remedy)
    chosen: Part = usual if label is None else None if label is False else label
    if x is None and names:
        others = [name for name in names if name != chosen]
        found = [name for name in (0, *SAMPLES) if name in others]
        x = next(iter(found or (others if len(others) == 1 else [])), None)
    expected = f"one of {', '.join(map(repr, names))}" if names else "None for such items"
    if x not in (names or [None]):
        raise fail("x", expected, x, "name a part of the items")
    if chosen is not None and chosen not in names:
        raise fail("label", expected, chosen, "name a part of the items")
    return x, chosen


def _part(item: Any, part: Part) -> Any:
    return item if part is None else item[part]


def _called(part: Part) -> str:
    return "the items" if part is None else f"part {part!r}"


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getchannel")  # of Pillow, which is not imported for that


def _is_class(value: Any) -> bool:
    return isinstance(value, str) or (
        not _is_picture(value) and _array(value).ndim == 0 and _array(value).dtype.kind in "iub"
    )


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    return np.asarray(value)


def _rows(
    dataset: Any,
    part: Part,
    size: int | tuple[int, int] | None,
    mode: str | None,
    background: int | None,
    layout: str,
    quantisation: Quantisation | None,
) -> DatasetRows:
    first = _part(dataset[0], part)
    if not _is_picture(first):
        for name, value in (("size", size), ("mode", mode), ("background", background)):
            if value is not None:
                raise fail(name, "None for items that are arrays", value, "leave it out")
        array = _array(first)
        if array.dtype.kind not in "iubf":
            remedy = "name the part that holds images or arrays"
            raise fail(_called(part), "images or numbers", first, remedy)
        if array.dtype.kind in "iub" and quantisation is None:
            remedy = "pass e.g. quantisation=Quantisation(256)"
            raise fail("quantisation", "the levels that integers stand for", None, remedy)
        return DatasetRows(dataset, part, layout=layout, quantisation=quantisation)
    if quantisation is not None:
        remedy = "images have 256 levels in [-1, 1]: leave it out"
        raise fail("quantisation", "None for items that are images", quantisation, remedy)
    checked_mode(first.mode, _called(part))
    if mode is None:
        mode = "L" if first.mode in ("1", "L", "LA") else "RGB"
    upright = need("PIL.ImageOps", "data").exif_transpose(first)
    shape = (upright.height, upright.width) if size is None else as_size(size)
    choice("mode", mode, CHANNELS)
    return DatasetRows(dataset, part, shape, size is not None, mode, background)


def _check_repeats(dataset: Any, part: Part) -> None:
    """Raise if an item is another one at its second access, as by a random transform."""
    first, again = (_array(_part(dataset[0], part)) for _ in range(2))
    if first.tobytes() != again.tobytes():
        remedy = "leave random transforms out, or read it once: Data.of(dataset)"
        raise fail("dataset", "the same item at each access", "another item 0", remedy)


def _labels(dataset: Any, part: Part) -> Labels:
    """The labels of all items, and the names of their classes if the data set has them."""
    values = _known_labels(dataset, part)
    if values is None:
        values = [_part(dataset[i], part) for i in range(len(dataset))]
    if not isinstance(values, Tensor):
        values = np.asarray([v if isinstance(v, str) else _array(v) for v in values])
    features = getattr(dataset, "features", None)
    names = getattr(features.get(part), "names", None) if isinstance(features, Mapping) else None
    while isinstance(dataset, Subset):  # as random_split makes them
        dataset = dataset.dataset
    names = names or getattr(dataset, "classes", None)
    names = tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
    return numbered(values, len(values), "label", classes=len(names or ()) or None, names=names)


def _known_labels(dataset: Any, part: Part) -> Any:
    """The labels of all items, if they can be had without the samples; else None."""
    if isinstance(dataset, Subset):
        inner = _known_labels(dataset.dataset, part)
        return None if inner is None else [inner[i] for i in dataset.indices]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[int(part or 0)]
    if hasattr(dataset, "column_names"):  # of Hugging Face
        return list(dataset[part])
    names = (name for name in ("targets", "labels") if hasattr(dataset, name))
    values = getattr(dataset, next(names, ""), None)
    if part != 1 or values is None or len(values) != len(dataset):
        return None
    looked_at = range(0, len(dataset), max(1, len(dataset) // LOOKED_AT))
    same = all(_array(dataset[i][1]).tolist() == _array(values[i]).tolist() for i in looked_at)
    return values if same and getattr(dataset, "target_transform", None) is None else None
