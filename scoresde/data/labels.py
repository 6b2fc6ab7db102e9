"""Class labels: numbers for the model, names for the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, listed, no_mask, occur_often, warn, wrong_type

__all__ = [
    "Labels",
    "check_count",
    "class_names_of",
    "is_dictionary",
    "numbered",
    "renumbered",
    "spelt_out",
]


class Labels(NamedTuple):
    """Labels (n,) int64 in 0 ... classes - 1, the number of classes, and their names."""

    label: Tensor
    classes: int
    names: tuple[str, ...]


def numbered(
    values: Any,
    n: int,
    name: str,
    *,
    classes: int | None = None,
    names: Sequence[str] | None = None,
    rows: Sequence[int] | None = None,
) -> Labels:
    """Labels from integers or texts; the values that occur are numbered in order.

    So labels 3 and 7 are two classes with names "3" and "7", and not eight with six empty ones.
    Negative numbers often mark samples without a label, so they are refused, except for the pair
    -1 and 1.

    Args:
        values: n integers (possibly stored as floats), booleans or texts.
        n: number of samples.
        name: the name of the data in messages.
        classes: if given, the values are class numbers, integers in 0 ... classes - 1.
        names: the names of these classes; by default their numbers.
        rows: the numbers of the samples in messages; by default from 0.

    Raises:
        TypeError: the values are neither integers nor texts.
        ValueError: there are not n values, one is out of range or missing, or each of more than
            20 samples has its own class.

    Example:
        >>> numbered([7, 3, 7], 3, "label")
        Labels(label=tensor([1, 0, 1]), classes=2, names=('3', '7'))
    """
    array = _one_each(values, n, name)
    if array.dtype.kind in "iub":
        if classes is not None:
            wrong = (array < 0) | (array >= classes)
            if wrong.any():
                expected = f"labels from 0 to {classes - 1}"
                raise _out_of_range(array, wrong, name, expected, rows)
            label = torch.from_numpy(array.astype(np.int64))
            return Labels(label, classes, class_names_of(classes, names))
    elif classes is not None:
        raise wrong_type(name, "integers beside classes=", array, "leave classes out")
    found, places = np.unique(array, return_inverse=True)
    texts = [str(value) for value in found.tolist()]
    if array.dtype.kind != "b" and all(_whole(text) for text in texts):
        order = sorted(range(len(texts)), key=lambda i: (int(texts[i]), texts[i]))
        places, texts = np.argsort(order)[places], [texts[i] for i in order]
        if int(texts[0]) < 0 and texts != ["-1", "1"]:
            raise _out_of_range(array, places == 0, name, "labels from 0, or -1 and 1", rows)
    check_count(len(texts), n, name)
    return Labels(torch.from_numpy(places.astype(np.int64).reshape(n)), len(texts), tuple(texts))


def class_names_of(classes: int, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of classes; by default their numbers."""
    return tuple(map(str, range(classes))) if names is None else tuple(names)


def renumbered(
    label: Tensor,
    own: Sequence[str],
    wanted: Sequence[str],
    argument: str = "class_names",
    remedy: str = "leave the samples of these classes out, or take data of the same classes",
) -> Tensor:
    """Labels of classes `own` as positions in `wanted`, matched by name.

    Raises:
        TypeError: `wanted` is a text, or contains values that are not texts.
        ValueError: a name is repeated in `wanted`, or a class that occurs is not in it.
    """
    if isinstance(wanted, str) or not all(isinstance(name, str) for name in wanted):
        as_names = "pass the names in order, e.g. ('cat', 'dog')"
        raise wrong_type(argument, "a sequence of names", wanted, as_names)
    place = {name: i for i, name in enumerate(wanted)}
    if len(place) < len(wanted):
        twice = sorted({name for name in wanted if list(wanted).count(name) > 1})
        raise fail(argument, "different names", listed(twice), "name each class once")
    occurring = np.unique(label.cpu().numpy()).tolist()
    strange = [own[k] for k in occurring if own[k] not in place]
    if strange:
        expected = f"the classes of the data among {listed(list(wanted))}"
        raise fail(argument, expected, f"also {listed(strange)}", remedy)
    table = torch.tensor([place.get(name, -1) for name in own], dtype=torch.int64, device="cpu")
    return table[label.cpu()].to(label.device)


def _one_each(values: Any, n: int, name: str) -> np.ndarray[Any, Any]:
    """The values as an array (n,) of integers, booleans or texts."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    no_mask(name, values)
    array = np.asarray(spelt_out(values))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (n,):
        remedy = "check that they belong to these samples"
        if array.ndim == 2 and len(array) == n:
            remedy = "pass the class numbers of one-hot rows: labels.argmax(1)"
        raise fail(name, f"shape ({n},), one label per sample", array, remedy)
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == array.round()).all():
        array = array.astype(np.int64)
    if array.dtype.kind in "OSU":
        array = np.array([_text(value, row, name) for row, value in enumerate(array.tolist())])
    if array.dtype.kind not in "iubU":
        expected = "integers or texts, which name classes"
        remedy = "real numbers are no classes: put them into cond: Data(x, {'y': y})"
        raise wrong_type(name, expected, array, remedy)
    return array


def is_dictionary(column: Any) -> bool:  # of any library
    """Whether this is a column of pyarrow with the numbers of categories and a list of these."""
    return hasattr(getattr(column, "type", None), "index_type")


def spelt_out(column: Any) -> Any:  # of any library
    """A column that is a dictionary of pyarrow with its categories in place of their numbers.

    From a chunked dictionary numpy gets a neighbouring category where one is missing.
    """
    return column.cast(column.type.value_type) if is_dictionary(column) else column


def _text(value: Any, row: int, name: str) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or value != value:
        raise fail(name, "a label for every sample", f"none in row {row}", "drop or fill the row")
    return str(value).strip()


def _whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _out_of_range(
    array: np.ndarray[Any, Any],
    wrong: np.ndarray[Any, Any],
    name: str,
    expected: str,
    rows: Sequence[int] | None,
) -> ValueError:
    place = int(wrong.argmax())
    row = place if rows is None else rows[place]
    remedy = "renumber them, or pass the right number of classes"
    return fail(name, expected, f"{array[place]} in row {row}", remedy)


def check_count(classes: int, n: int, name: str) -> None:
    if occur_often(classes, n):
        return
    got = f"{classes} classes for {n} samples"
    if classes == n:
        remedy = "numbers, dates and names of rows are no classes: take another column, or none"
        raise fail(name, "classes of several samples each", got, remedy)
    warn(f"{name}: {got}, so most classes have one sample or two")
