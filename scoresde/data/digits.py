"""The embedded images: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._check import choice, fail, finite, need
from scoresde._tensor import seeded
from scoresde.data.base import Data
from scoresde.data.labels import class_names_of
from scoresde.quantisation import Quantisation

__all__ = ["digits"]

NAMES = class_names_of(10)


def digits(split: str = "train", *, test_fraction: float = 0.5, seed: int = 0) -> Data:
    """Handwritten digits, 8 x 8 pixels of 17 grey levels, embedded in scikit-learn.

    Nothing is downloaded. The two parts are disjoint, the same for a seed on every machine, and
    stratified: a class differs from its share by less than one image. The default halves are of
    equal size, so that the distance between them is what a perfect model would score. Writers are
    not kept apart: the same hand may appear in both parts.

    Args:
        split: "train", "test" (held out) or "all" (1,797 images).
        test_fraction: share held out, strictly between 0 and 1.
        seed: of the split.

    Returns:
        Data with x (N, 1, 8, 8) in [-1, 1] (paper -1, ink 1), int64 labels under "label",
        10 classes and the quantisation of 17 levels.

    Raises:
        ValueError: unknown `split`, or `test_fraction` outside (0, 1).
        ImportError: scikit-learn is not installed.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998).

    Example:
        >>> train, test = digits("train"), digits("test")
        >>> train
        Data(digits-train: 899 x (1, 8, 8) float32, cond: label)
        >>> len(test)
        898
    """
    choice("split", split, ("train", "test", "all"))
    share = finite("test_fraction", test_fraction)
    if not 0 < share < 1:
        raise fail("test_fraction", "a number strictly between 0 and 1", share, "e.g. 0.5")
    images, labels = need("sklearn.datasets", "data").load_digits(return_X_y=True)
    quantisation = Quantisation(levels=17)
    x = quantisation.encode(torch.as_tensor(images, device="cpu")).reshape(-1, 1, 8, 8)
    label = torch.as_tensor(labels, device="cpu").long()
    held_out = _stratified(label, share, seed)
    keep = {"train": ~held_out, "test": held_out, "all": torch.ones_like(held_out)}[split]
    return Data(x[keep], {"label": label[keep]}, quantisation, f"digits-{split}", 10, NAMES)


def _stratified(label: Tensor, share: float, seed: int) -> Tensor:
    """A mask (N,) that takes `share` of every class, to within one row.

    The rows are shuffled, sorted by class, and the i-th is taken whenever floor(share i) steps up.
    """
    order = torch.randperm(len(label), generator=seeded(seed), device="cpu")
    order = order[torch.argsort(label[order], stable=True)]
    steps = torch.floor(share * torch.arange(len(label) + 1, dtype=torch.float64, device="cpu"))
    taken = torch.zeros_like(label, dtype=torch.bool)
    taken[order] = steps.diff() > 0
    return taken
