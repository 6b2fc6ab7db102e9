"""Conversion of arrays, lists, pictures, and torch's data sets and loaders to samples."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from scoresde._check import fail, no_mask, warn, wrong_type
from scoresde.data.labels import numbered, spelt_out
from scoresde.data.pictures import stacked_pictures
from scoresde.quantisation import Quantisation

__all__ = ["LABELS", "SAMPLES", "Given", "class_names_in", "given", "given_conditions"]

SAMPLES = ("x", "image", "img", "data", "sample", "pixel_values", "images")
LABELS = ("label", "labels", "y", "target", "class")


@dataclass(frozen=True, eq=False)
class Given:
    """The fields of `Data` that can be inferred from an object."""

    x: Tensor
    cond: dict[str, Tensor] = field(default_factory=dict)
    quantisation: Quantisation | None = None
    classes: int = 0
    class_names: tuple[str, ...] = ()


def given(x: Any) -> Given:
    """Samples and conditions of the object `x`.

    Raises:
        TypeError: it cannot be read row by row, or contains no real numbers.
        ValueError: the shapes of samples differ, or a value exceeds the range of float32.
    """
    if isinstance(x, DataLoader):
        warn(
            "x: a DataLoader was given: its dataset is read as a whole; its batches, its order "
            "and its collate_fn are not used"
        )
        x = x.dataset
    if isinstance(x, str | os.PathLike):
        remedy = f"read it first: scoresde.data.load_data({str(x)!r})"
        raise wrong_type("x", "samples (N, *D)", x, remedy)
    if isinstance(x, Dataset) or _lists_items(x):
        return _dataset(x)
    if isinstance(x, tuple):
        if len(x) != 2 or not isinstance(x[1], Mapping):
            remedy = 'pass (x, {"label": labels}), or one tensor'
            raise wrong_type("x", "a pair (x, cond) with a mapping cond", x, remedy)
        found = _samples(x[0], "x")
        return replace(found, **given_conditions(x[1], len(found.x)))
    return _samples(x, "x")


def given_conditions(values: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The fields `cond`, and with texts as labels `classes` and `class_names`, of N samples.

    Args:
        values: name -> (N, ...); texts under "label" are the names of classes.
        count: N.

    Raises:
        TypeError, ValueError: see `given`.
    """
    texts = {k: v for k, v in values.items() if k == "label" and _holds_texts(v)}
    cond = {k: _tensor(v, f"cond[{k!r}]") for k, v in values.items() if k not in texts}
    if not texts:
        return {"cond": cond}
    named = numbered(texts["label"], count, "cond['label']")
    cond = {k: cond.get(k, named.label) for k in values}
    return {"cond": cond, "classes": named.classes, "class_names": named.names}


def _holds_texts(values: Any) -> bool:
    """Whether these are texts, as the names of classes are."""
    first = values[0] if isinstance(values, list | tuple) and values else None
    return isinstance(first, str) or getattr(getattr(values, "dtype", None), "kind", "") == "U"


def _lists_items(x: Any) -> bool:
    """Whether this is a list of items of a data set: pairs (x, y) of an array, or mappings."""
    first = x[0] if isinstance(x, list) and x else None
    if isinstance(first, tuple) and first:
        return hasattr(first[0], "__array__")
    return isinstance(first, Mapping)


def _samples(x: Any, name: str) -> Given:
    if isinstance(x, Tensor):
        _real(x, name, x.is_complex())
        if x.layout is not torch.strided:
            raise wrong_type(name, "a dense tensor", f"one of layout {x.layout}", "x.to_dense()")
        return Given(x.detach() if x.requires_grad else x)
    if isinstance(x, Mapping) or hasattr(x, "column_names") or hasattr(x, "iloc"):
        remedy = (
            "columns of numbers go through scoresde.data.table(x, label=...), which scales them"
        )
        raise wrong_type(name, "samples (N, *D)", type(x).__name__, remedy)
    if isinstance(x, Iterator):
        remedy = "collect it first: torch.stack(list(x))"
        raise wrong_type(name, "samples (N, *D) with a length", type(x).__name__, remedy)
    items = list(x) if isinstance(x, list) else []
    if items and all(hasattr(item, "getchannel") for item in items):  # pictures of Pillow
        quantisation = Quantisation(256)
        return Given(quantisation.encode(stacked_pictures(items, name)), quantisation=quantisation)
    if items and all(isinstance(item, Tensor) for item in items):
        _one_shape([tuple(item.shape) for item in items], name)
        return _samples(torch.stack(items), name)
    if items and all(isinstance(item, np.ndarray) for item in items):
        _one_shape([item.shape for item in items], name)
    return Given(_tensor(x, name, floats=True))


def _tensor(value: Any, name: str, *, floats: bool = False) -> Tensor:
    """A tensor of anything that numpy reads as numbers; floats become float32 if `floats`."""
    if isinstance(value, Tensor):
        return value
    for one in value if isinstance(value, list | tuple) else [value]:
        no_mask(name, one)
    try:
        array = np.asanyarray(spelt_out(value))
        no_mask(name, array)
        array = np.asarray(array)
    except ValueError as error:
        remedy = "bring the samples to one shape"
        raise fail(name, "samples of one shape", f"{error}", remedy) from error
    if array.dtype.names:
        remedy = f"stack its fields {array.dtype.names}, or pass it to scoresde.data.table"
        raise wrong_type(name, "an array of numbers", "a structured array", remedy)
    if array.dtype.kind not in "biufc":
        remedy = (
            "convert objects by .astype(float); texts are names of classes under 'label' alone"
        )
        got = f"{type(value).__name__} of {array.dtype}"
        raise wrong_type(name, "real numbers", got, remedy)
    _real(array, name, array.dtype.kind == "c")
    if array.dtype.kind == "f" and floats:
        with np.errstate(over="ignore"):
            small = array.astype(np.float32)
        lost = np.isinf(small) & np.isfinite(array)
        if lost.any():
            remedy = "scale the values down, or pass a float64 tensor"
            raise fail(name, "numbers that float32 holds", float(array[lost][0]), remedy)
        array = small
    elif array.dtype == np.longdouble:
        array = array.astype(np.float64)
    elif array.dtype == np.float64 and not isinstance(value, np.ndarray):
        array = array.astype(np.float32)  # Python's floats imply no precision
    elif array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # Copied if torch cannot share the memory: negative strides, another byte order, read-only.
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, native, order="C"))


def _real(x: Any, name: str, is_complex: bool) -> None:
    if is_complex:
        remedy = "pass real and imaginary part as two channels: torch.stack([z.real, z.imag], 1)"
        raise wrong_type(name, "real numbers", x, remedy)


def _one_shape(shapes: list[tuple[int, ...]], name: str) -> None:
    for place, shape in enumerate(shapes):
        if shape != shapes[0]:
            got = f"{shape} at {place}, where the first has {shapes[0]}"
            raise fail(name, "samples of one shape", got, "cut or pad them to one shape")


def _dataset(dataset: Dataset[Any] | list[Any]) -> Given:
    """All items of a map-style data set or of a list: x, (x, y) or mappings."""
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        remedy = "collect what it yields into a tensor, or write a class of scoresde.data.Rows"
        raise wrong_type("x", "a data set with a length and items by number", kind, remedy)
    n = len(dataset)
    if n == 0:
        raise fail("x", "at least one sample", f"an empty {kind}", "check how it was made")
    if isinstance(dataset, TensorDataset):
        parts: list[Any] = list(dataset.tensors)
    else:
        items = [dataset[i] for i in range(n)]
        if isinstance(items[0], Mapping):
            return _mappings(items, dataset)
        pairs = isinstance(items[0], tuple | list)
        parts = [list(column) for column in zip(*items, strict=True)] if pairs else [items]
    if len(parts) > 2:
        remedy = 'pass (x, {"label": labels, ...}), which names the conditions'
        raise wrong_type("x", "items x or (x, y)", f"{kind} of {len(parts)} parts", remedy)
    found = _samples(parts[0], "x")
    return found if len(parts) == 1 else _labelled(found, {"y": parts[1]}, dataset)


def _mappings(items: list[Any], dataset: Dataset[Any] | list[Any]) -> Given:
    keys = list(items[0])
    key = next((name for name in SAMPLES if name in keys), None)
    if key is None:
        expected = f"items with one of {', '.join(map(repr, SAMPLES))}"
        raise fail("x", expected, f"items with {keys}", "rename the samples' key to 'x'")
    conditions = {name: [item[name] for item in items] for name in keys if name != key}
    return _labelled(_samples([item[key] for item in items], "x"), conditions, dataset)


def _labelled(
    found: Given, conditions: dict[str, Any], dataset: Dataset[Any] | list[Any]
) -> Given:
    """Conditions by name; a single one with classes, integers (N,) or texts, is "label"."""
    cond = {}
    for name, values in conditions.items():
        if name in LABELS and isinstance(values, list) and isinstance(values[0], str):
            known = numbered(values, len(values), f"cond[{name!r}]")
            rest = _labelled(found, {k: v for k, v in conditions.items() if k != name}, dataset)
            cond = rest.cond | {"label": known.label}
            return Given(found.x, cond, found.quantisation, known.classes, known.names)
        many = isinstance(values, list) and isinstance(values[0], Tensor)
        value = torch.stack(values) if many else _tensor(values, f"cond[{name!r}]")
        whole = not value.is_floating_point() and value.dim() == 1
        cond["label" if name in LABELS and whole else name] = value
    names, label = class_names_in(dataset), cond.get("label")
    if label is None or int(label.max()) >= len(names):
        return Given(found.x, cond, found.quantisation)
    return Given(found.x, cond, found.quantisation, len(names), names)


def class_names_in(dataset: Any) -> tuple[str, ...]:  # of torch, or with its attributes
    """The names of the classes that a data set has as `classes`; () if it has none."""
    while isinstance(dataset, Subset):  # as random_split makes them
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()
