"""Class balance of labels against a reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scoresde._check import fail, no_mask, positive_int
from scoresde._html import Shown
from scoresde.metrics.arrays import Array, labels_of

__all__ = ["Balance", "class_balance"]


@dataclass(frozen=True)
class Balance(Shown):
    """Counts of every class, and the distance of their shares from the reference.

    `total_variation` is half the sum of |share - reference share|: 0 if they are equal, 1 if they
    are disjoint, and about ((K - 1) / (2 pi n))^(1/2) for n perfect samples of K equal classes.
    """

    counts: tuple[int, ...]
    total_variation: float


def class_balance(labels: Array, classes: int, reference: Array | None = None) -> Balance:
    """Histogram of labels, and its total-variation distance to a reference.

    Args:
        labels: (N,) integers in 0 ... classes - 1.
        classes: number of classes K.
        reference: (K,) shares or counts to compare with; None is the uniform distribution.

    Raises:
        TypeError: labels are not integers.
        ValueError: there are no labels, a label is out of range, or the reference is not a
            distribution.

    Example:
        >>> class_balance(torch.tensor([0, 0, 0, 1]), 2)
        Balance(counts=(3, 1), total_variation=0.25)
    """
    classes = positive_int("classes", classes)
    label = labels_of(labels)
    if label.min() < 0 or label.max() >= classes:
        got = f"{int(label.min())} to {int(label.max())}"
        raise fail("labels", f"integers from 0 to {classes - 1}", got, "check classes")
    counts = torch.bincount(label, minlength=classes)
    no_mask("reference", reference)
    weights = torch.as_tensor([1.0] * classes if reference is None else reference).cpu().double()
    if weights.shape != (classes,) or not (weights >= 0).all() or not weights.sum() > 0:
        expected = f"{classes} non-negative shares or counts"
        raise fail("reference", expected, reference, "pass one number per class")
    gap = counts.double() / len(label) - weights / weights.sum()
    return Balance(tuple(counts.tolist()), float(gap.abs().sum() / 2))
