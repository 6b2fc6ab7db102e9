"""`from_dataset`: any data set with a length and items by number, read on access."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from scoresde._check import choice, fail, need, no_mask, wrong_type
from scoresde.data.base import LazyData
from scoresde.data.given import LABELS, SAMPLES, class_names_in
from scoresde.data.images import as_size
from scoresde.data.items import BYTES, PictureItems, arrays_of
from scoresde.data.labels import Labels, numbered
from scoresde.data.pictures import CHANNELS, checked_background, checked_mode
from scoresde.data.units import checked_standardise
from scoresde.quantisation import Quantisation

__all__ = ["Parts", "from_dataset"]

Part: TypeAlias = str | int | None
"""A part of an item: the key in a mapping, the index in a tuple, or None for the item itself."""

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
    """A map-style data set of torchvision, Hugging Face or any other class, read on access.

    An item is a sample, a tuple (sample, class, ...) or a mapping. A sample is a picture of
    Pillow, a number, or an array or tensor of numbers. Pictures are decoded as in `image_folder`
    and have 256 levels, so omit `transform=ToTensor()` to keep the levels. Floats are converted to
    model units as in `npy`; integers need their quantisation. Nothing is downloaded here.

    An item must be the same at each access, so random transforms are refused. Labels are read
    once, immediately: from the column of a Hugging Face data set, from `targets` or `labels` of a
    data set of torchvision if they agree with the items, and otherwise from all items.

    Args:
        dataset: an object with `len(dataset)` and `dataset[i]`; for Hugging Face one split, for
            example load_dataset(name)["train"].
        x: index or key of the sample. By default it is the first index, and for a mapping "x",
            "image", "data" and the like, or the only key besides `label`.
        label: index or key of the class, an integer or a text. By default it is the second of two
            indices, and for a mapping "label", "y", "target" and the like. False means none.
        size: for pictures, see `image_folder`; None keeps their size, which must be the same.
        mode, background: for pictures, see `image_folder`; by default the first picture
            determines the mode.
        layout: for arrays, see `npy`.
        quantisation: for arrays, the levels of integers or the range of floats.
        standardise: for floats, see `npy`.

    Returns:
        LazyData with x (N, *D), the labels, and the names of the classes if the data set has them.

    Raises:
        TypeError: it is a mapping of splits, a streamed data set, a DataLoader or another object.
        ValueError: a part is missing or of an unknown kind, item 0 changes at its second access,
            or labels are out of range.

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
    source, title = Parts(dataset, part), type(dataset).__name__
    rows = _pictures(source, size, mode, checked_background(background), quantisation)
    found = None if classes is None else _labels(dataset, classes)
    if rows is None:
        data = arrays_of(source, title, layout, quantisation, standardise)
    else:
        data = LazyData(rows, {}, BYTES, title)
    if found is None:
        return data
    cond = {"label": found.label}
    return replace(data, cond=cond, classes=found.classes, class_names=found.names)


@final
class Parts:
    """A source of items that are one part of the items of a data set.

    Args:
        dataset: the data set.
        part: the part of its items.
    """

    names: Sequence[str] | None = None
    opened = False

    def __init__(self, dataset: Any, part: Part) -> None:
        # Hugging Face decodes complete rows, so other columns are removed.
        narrow = getattr(dataset, "select_columns", None)
        self.dataset = dataset if narrow is None else narrow([part])
        self.part = part

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, number: int) -> Any:
        """The part of an item: a picture unchanged, anything else as an array."""
        value = _part(self.dataset[number], self.part)
        return value if _is_picture(value) else _array(value)

    def called(self, number: int) -> str:
        """The row, and the part if there are several."""
        return f"row {number}" if self.part is None else f"row {number} of part {self.part!r}"


def _check(dataset: Any) -> None:
    """Raise unless the data set has items by number."""
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
        usual = next(
            (name for name in (*LABELS, "fine_label") if name in names and name != x), None
        )
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


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getchannel")  # recognises Pillow without importing it


def _is_class(value: Any) -> bool:
    return isinstance(value, str) or (
        not _is_picture(value) and _array(value).ndim == 0 and _array(value).dtype.kind in "iub"
    )


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    no_mask("an item", value)
    return np.asarray(value)


def _pictures(
    source: Parts,
    size: int | tuple[int, int] | None,
    mode: str | None,
    background: int | None,
    quantisation: Quantisation | None,
) -> PictureItems | None:
    """The rows of items that are pictures; None for arrays, after a check of their options."""
    first = source.item(0)
    if not _is_picture(first):
        for name, value in (("size", size), ("mode", mode), ("background", background)):
            if value is not None:
                raise fail(name, "None for items that are arrays", value, "leave it out")
        if first.dtype.kind not in "iubf":
            remedy = "name the part that holds images or arrays"
            raise fail(source.called(0), "images or numbers", first, remedy)
        if first.dtype.kind in "iub" and quantisation is None:
            remedy = "pass e.g. quantisation=Quantisation(256)"
            raise fail("quantisation", "the levels that integers stand for", None, remedy)
        return None
    if quantisation is not None:
        remedy = "images have 256 levels in [-1, 1]: leave it out"
        raise fail("quantisation", "None for items that are images", quantisation, remedy)
    checked_mode(first.mode, source.called(0))
    if mode is None:
        mode = "L" if first.mode in ("1", "L", "LA") else "RGB"
    upright = need("PIL.ImageOps", "data").exif_transpose(first)
    shape = (upright.height, upright.width) if size is None else as_size(size)
    choice("mode", mode, CHANNELS)
    return PictureItems(source, shape, mode, False, background, size is not None)


def _check_repeats(dataset: Any, part: Part) -> None:
    """Raise if an item changes at its second access, as with a random transform."""
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
    names = tuple(names or class_names_in(dataset)) or None
    return numbered(values, len(values), "label", classes=len(names or ()) or None, names=names)


def _known_labels(dataset: Any, part: Part) -> Any:
    """The labels of all items if they are available without the samples, else None."""
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
