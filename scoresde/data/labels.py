"""Class labels from whatever holds them, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, wrong_type

__all__ = ["checked_labels"]


def checked_labels(values: Any, n: int, classes: int | None, name: str) -> tuple[Tensor, int]:
    """Labels (n,) int64 in 0 ... classes - 1 and the number of classes, the largest + 1 if None.

    Raises:
        TypeError: they are not integers.
        ValueError: they are not n, or one is out of range.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        remedy = "number the classes 0, 1, ...; other conditions go into cond"
        raise wrong_type(name, "integers of shape (N,)", array, remedy)
    if array.shape != (n,):
        raise fail(name, f"shape ({n},), one label per sample", array, "check the two files")
    label = torch.from_numpy(array.astype(np.int64))
    count = int(label.max()) + 1 if classes is None else classes
    wrong = (label < 0) | (label >= count)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        expected = f"labels from 0 to {count - 1}" if count > 0 else "labels from 0"
        got = f"{int(label[row])} in row {row}"
        raise fail(name, expected, got, "renumber them, or pass the right number of classes")
    return label, count
