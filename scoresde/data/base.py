"""`Data`: samples in model units with what goes along with each, checked once at the border."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde._check import fail, finite, floating, instance, wrong_type
from scoresde.contract import DataContract

__all__ = ["Data"]


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in model units: N samples and their conditions.

    Everything is checked here, once, so that a bad row or a dead channel is an error with a name
    instead of a loss that turns NaN or a model that spends its capacity on a constant.

    Args:
        x: (N, *D) floating point in model units, N >= 1; images are (N, C, H, W).
        cond: name -> tensor with leading N; class labels go under "label" and become int64.
        contract: which integers `x` stands for; None for data that is not quantised.
        name: for messages and reports.
        classes: number of classes of "label", whose values are 0 ... classes - 1; 0 if there are
            none or their number is unknown.

    Raises:
        TypeError: a tensor is of the wrong type.
        ValueError: `x` is empty, holds NaN or infinity (the first bad row is named) or is constant
            over a whole channel, axis 1 of (N, D) and of (N, C, H, W); a condition's length or a
            label's value does not fit. Constant pixels are fine, and so is a set of one row.

    Example:
        >>> data = Data(torch.randn(10, 2), {"label": torch.arange(10) % 2}, classes=2)
        >>> data[:4]
        Data(4 x (2,) float32, cond: label)
        >>> train, test = data.split(0.8, seed=0)
        >>> len(train), len(test)
        (8, 2)
    """

    x: Tensor
    cond: Mapping[str, Tensor] = field(default_factory=dict)
    contract: DataContract | None = None
    name: str = ""
    classes: int = 0

    def __post_init__(self) -> None:
        _check_x(self.x)
        instance("cond", self.cond, Mapping, 'pass a mapping, e.g. {"label": labels}')
        cond = {name: _checked_cond(name, value, self) for name, value in self.cond.items()}
        object.__setattr__(self, "cond", cond)

    @classmethod
    def of(cls, x: Any) -> Data:
        """Data from whatever is at hand: a tensor, a numpy array, an (x, cond) pair, or Data.

        Tensors keep their dtype; a numpy array (or nested list) becomes float32, because numpy's
        float64 is a default and not a choice. Data is returned as it is.

        Raises:
            TypeError, ValueError: as the constructor.

        Example:
            >>> Data.of((torch.randn(3, 2), {"label": [0, 1, 1]}))
            Data(3 x (2,) float32, cond: label)
        """
        if isinstance(x, cls):
            return x
        if isinstance(x, tuple):
            if len(x) != 2 or not isinstance(x[1], Mapping):
                remedy = 'pass (x, {"label": labels}), or one tensor'
                raise wrong_type("x", "a pair (x, cond) with a mapping cond", x, remedy)
            return cls(
                _as_samples(x[0]), {name: torch.as_tensor(value) for name, value in x[1].items()}
            )
        return cls(_as_samples(x))

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Data:
        """The rows a slice, a mask, a tensor of indices or one integer selects, as Data.

        Raises:
            IndexError: an integer or an index out of range.
            ValueError: no row is selected.
        """
        if isinstance(index, int):
            row = range(len(self))[index]
            index = slice(row, row + 1)
        rows = index if isinstance(index, slice) else torch.as_tensor(index)
        x = self.x[rows]
        if x.ndim != self.x.ndim or len(x) == 0:
            remedy = "pass a slice, a mask (N,) or a 1-D tensor of indices"
            raise fail("index", "a selection of one row or more", index, remedy)
        # Not rebuilt by the constructor: a few rows of sound data may be constant over a channel.
        part = copy.copy(self)
        object.__setattr__(part, "x", x)
        object.__setattr__(part, "cond", {name: value[rows] for name, value in self.cond.items()})
        return part

    def split(self, fraction: float, seed: int = 0) -> tuple[Data, Data]:
        """Two disjoint random parts, the first with round(fraction N) rows; the same for a seed.

        The rows come shuffled, so that `part[:n]` is again a random sample.

        Args:
            fraction: share of the first part, strictly between 0 and 1.
            seed: of the permutation.

        Raises:
            ValueError: `fraction` leaves (0, 1), or a part would be empty.

        Example:
            >>> first, second = Data(torch.arange(6.0)[:, None]).split(0.5, seed=0)
            >>> sorted(torch.cat([first.x, second.x]).flatten().tolist())
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        """
        share = finite("fraction", fraction)
        if not 0 < share < 1:
            raise fail("fraction", "a number strictly between 0 and 1", share, "e.g. 0.8")
        count = round(share * len(self))
        if not 0 < count < len(self):
            expected = f"a share that leaves rows on both sides of {len(self)}"
            raise fail("fraction", expected, share, "move it towards 0.5, or bring more data")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[:count]], self[order[count:]]

    def __repr__(self) -> str:
        dtype = str(self.x.dtype).removeprefix("torch.")
        name = f"{self.name}: " if self.name else ""
        cond = f", cond: {', '.join(self.cond)}" if self.cond else ""
        return f"Data({name}{len(self)} x {tuple(self.x.shape[1:])} {dtype}{cond})"


def _as_samples(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    values = torch.as_tensor(x)
    return values.float() if values.is_floating_point() else values


def _check_x(x: Tensor) -> None:
    floating("x", x, "encode integers with DataContract(levels=256).encode(x)")
    if x.ndim < 2:
        raise fail(
            "x", "shape (N, *D), one row per sample", x, "give scalars a column: x[:, None]"
        )
    if x.numel() == 0:
        raise fail("x", "at least one sample with one coordinate", x, "check what was loaded")
    _check_finite("x", x)
    # Of (N, A, B) it is not known whether A counts channels or rows of an image.
    if len(x) > 1 and x.ndim != 3:
        _check_channels(x)


def _check_finite(name: str, value: Tensor) -> None:
    bad = ~value.isfinite().reshape(len(value), -1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        first = value[row][~value[row].isfinite()].reshape(-1)[0].item()
        remedy = f"drop or repair the {int(bad.sum())} bad row(s) of {len(value)}"
        raise fail(name, "finite numbers", f"{first} in row {row}", remedy)


def _check_channels(x: Tensor) -> None:
    others = [axis for axis in range(x.ndim) if axis != 1]
    low, high = x.amin(dim=others), x.amax(dim=others)
    if (low == high).any():
        channel = int((low == high).nonzero()[0])
        got = f"{low[channel].item():g} everywhere in channel {channel} of {len(low)}"
        remedy = f"drop channel {channel} (axis 1): there is nothing in it to model"
        raise fail("x", "channels that vary", got, remedy)


def _checked_cond(name: str, value: Tensor, data: Data) -> Tensor:
    argument = f"cond[{name!r}]"
    instance(argument, value, Tensor, "convert it with torch.as_tensor")
    if value.ndim == 0 or len(value) != len(data.x):
        raise fail(
            argument, f"leading length {len(data.x)}, that of x", value, "one row per sample"
        )
    if name != "label":
        _check_finite(argument, value)
        return value
    if value.is_floating_point() or value.is_complex() or value.ndim != 1:
        raise wrong_type(argument, "integers of shape (N,)", value, "one class number per sample")
    label = value.long()
    wrong = (label < 0) | (label >= data.classes)
    if data.classes and wrong.any():
        expected = f"labels from 0 to {data.classes - 1}"
        raise fail(argument, expected, label[wrong][0].item(), "renumber them, or raise classes")
    return label
