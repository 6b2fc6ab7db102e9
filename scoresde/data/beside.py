"""Arrays that stand beside the samples in a file, as conditions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, listed, warn, wrong_type

__all__ = ["LABELS", "LABEL_WORDS", "SAMPLES", "conditions_in"]

_WORD = r"(?<![a-zA-Z]){}(?![a-zA-Z])"
SAMPLES = re.compile(_WORD.format("(x|images?|imgs?|data|samples?|features?|inputs?)"), re.I)
LABEL_WORDS = ["y", "label", "labels", "target", "targets", "class", "classes"]
LABELS = re.compile(_WORD.format(f"({'|'.join(LABEL_WORDS)})"), re.I)
RESERVED = ("x", "t", "self", "label")
"""Names that a network has for something else."""


def conditions_in(
    arrays: Mapping[str, np.ndarray[Any, Any]], wanted: Sequence[str] | None, n: int, name: str
) -> dict[str, Tensor]:
    """Conditions (N, ...) by name, of arrays beside the samples.

    Args:
        arrays: the arrays of the file without samples and labels.
        wanted: the names of the conditions; None for all arrays of numbers with N rows whose
            names are none of samples or labels, with a warning. Another one names those that
            are left out, except samples and labels with another number of rows.
        n: N, the number of samples.
        name: the name of the data in messages.

    Raises:
        TypeError: a condition has no real numbers.
        ValueError: a condition does not have N rows, or its name cannot be one of an argument.
    """
    chosen = [key for key, array in arrays.items() if _fits(key, array, n)]
    if wanted is None and chosen:
        warn(
            f"{name}: {listed(list(map(repr, chosen)))} have a row for each sample and are taken "
            "as conditions (condition= chooses some, condition=[] none)"
        )
    left = [key for key, array in arrays.items() if key not in chosen and _missed(key, array, n)]
    if wanted is None and left:
        warn(
            f"{name}: {listed(list(map(repr, left)))} are left out. An array becomes a condition "
            f"by itself if it holds numbers, has {n} rows, one for each sample, and has a name "
            "that is usual neither for samples nor for labels; name others by condition="
        )
    found: dict[str, Tensor] = {}
    for key in chosen if wanted is None else wanted:
        array = arrays[key]
        if not key.isidentifier() or key in RESERVED:
            expected = f"names of arguments other than {', '.join(RESERVED)}"
            raise fail("condition", expected, key, "rename the array")
        if array.dtype.kind not in "iubf":
            remedy = "number its texts, e.g. np.unique(texts, return_inverse=True)[1]"
            raise wrong_type(f"condition {key!r}", "integers or floats", array, remedy)
        if array.ndim == 0 or len(array) != n:
            remedy = "check that it belongs to these samples"
            raise fail(f"condition {key!r}", f"{n} rows, one a sample", array, remedy)
        found[key] = _tensor(key, array)
    return found


def _fits(key: str, array: np.ndarray[Any, Any], n: int) -> bool:
    """Whether an array is a condition by its name, type and number of rows."""
    named = key.isidentifier() and key not in RESERVED and not _usual(key)
    return bool(named and array.dtype.kind in "iubf" and array.ndim and len(array) == n)


def _missed(key: str, array: np.ndarray[Any, Any], n: int) -> bool:
    """Whether a user may miss an array that is no condition: not the other part of a split."""
    return bool(array.ndim and (not _usual(key) or len(array) == n))


def _usual(key: str) -> bool:
    """Whether a name is usual for samples or labels."""
    return bool(SAMPLES.search(key) or LABELS.search(key) or re.fullmatch(r"arr_\d+", key))


def _tensor(key: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Whole numbers (N,) and booleans of a mask stay, all others become float32."""
    if array.dtype.kind in "iu" and array.ndim == 1:
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "b" and key.endswith("_mask"):
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.astype(np.float32))
