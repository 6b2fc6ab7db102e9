"""`Data`: samples in model units with what goes along with each; `LazyData`: read when needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from scoresde._check import fail, finite, floating, instance, wrong_type
from scoresde._tensor import seeded
from scoresde.data.given import given
from scoresde.data.labels import class_names_of, renumbered
from scoresde.data.rows import Rows, ScaledRows, chunks
from scoresde.data.scaling import scaling_of
from scoresde.quantisation import Quantisation
from scoresde.summary import Scaling

__all__ = ["Data", "LazyData"]

AnyData = TypeVar("AnyData", "Data", "LazyData")


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set in model units: N samples and their conditions.

    Everything is checked here, once, so that a bad row or a dead channel is an error with a name
    instead of a loss that turns NaN or a model that spends its capacity on a constant.

    Args:
        x: (N, *D) floating point in model units, N >= 1; images are (N, C, H, W).
        cond: name -> tensor with leading N; class labels go under "label" and become int64.
        quantisation: which integers `x` stands for; None for data that is not quantised.
        name: for messages and reports.
        classes: number of classes of "label", whose values are 0 ... classes - 1; 0 if there are
            none or their number is unknown.
        class_names: what the classes are called, in their order; () if that is not known.
        scaling: how values became model units; its `decode` takes samples back. None if they were
            in model units already.

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
    quantisation: Quantisation | None = None
    name: str = ""
    classes: int = 0
    class_names: tuple[str, ...] = ()
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        _check_x(self.x)
        _check_classes(self)

    @overload
    @classmethod
    def of(cls, x: LazyData) -> LazyData: ...

    @overload
    @classmethod
    def of(cls, x: Any) -> Data: ...

    @classmethod
    def of(cls, x: Any) -> Data | LazyData:
        """Data from whatever is at hand: a tensor, array, (x, cond) pair, data set, or Data.

        Tensors keep their dtype; a numpy array (or nested list) becomes float32, because numpy's
        float64 is a default and not a choice. Views of any strides and byte order will do, and so
        do lists of tensors, arrays or pictures of Pillow (levels of 8 bits). Of torch's map-style
        data sets all items are read: x, (x, y) or mappings; integers y become the condition
        "label". Of a DataLoader its data set is taken. Data and LazyData are returned as they are.

        Raises:
            TypeError, ValueError: as the constructor.

        Example:
            >>> Data.of((torch.randn(3, 2), {"label": [0, 1, 1]}))
            Data(3 x (2,) float32, cond: label)
        """
        if isinstance(x, cls | LazyData):
            return x
        return cls(**vars(given(x)))

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
        rows = index if isinstance(index, slice) else _tensor(index)
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

        The rows come shuffled, so that `part[:n]` is again a random sample. If data may be added
        later, `scoresde.data.split` leaves every sample on the side where it is.

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
        first, second = _shuffled_parts(len(self), fraction, seed)
        return self[first], self[second]

    def standardised(self, by: str = "auto") -> Data:
        """These data in model units: x less its mean, over its standard deviation (over N).

        `scaling` of the result takes samples back to the units that the data had, also those
        before an earlier scaling.

        Args:
            by: "entry" (a mean and a standard deviation for each entry of a vector), "channel"
                (for each place on axis 1: channels may have units of their own, while the pixels
                of one channel share theirs), "all" (one of each for all values), or "auto", which
                is "entry" for vectors (N, D) and "channel" for all else.

        Raises:
            ValueError: unknown `by`; an entry or a channel is constant, or so large that its
                variance is not finite; the data are quantised, and have model units already.

        Example:
            >>> data = Data(torch.tensor([[998.0], [1002.0]])).standardised()
            >>> data.x.tolist(), data.scaling.decode(data.x).tolist()
            ([[-1.0], [1.0]], [[998.0], [1002.0]])
        """
        scaling = _own_scaling(self, by)
        x = scaling.encode(self.x.double()).to(self.x.dtype)
        return replace(self, x=x, scaling=_both(self.scaling, scaling))

    def with_classes(self, names: Sequence[str]) -> Data:
        """These data with the classes of other ones, matched by name.

        Each label becomes its name's place in `names`, so that a model hears the numbers that it
        was trained on, whichever classes are present here.

        Args:
            names: the `class_names` of those data, in their order; some may be missing here.

        Raises:
            TypeError: `names` is no sequence of texts.
            ValueError: there are no labels; a class that occurs is not among `names` (it is
                named).

        Example:
            >>> x, label = torch.randn(2, 2), torch.tensor([0, 1])
            >>> data = Data(x, {"label": label}, classes=2, class_names=("a", "c"))
            >>> data.with_classes(("a", "b", "c")).cond["label"].tolist()
            [0, 2]
        """
        return _with_classes(self, names)

    def __repr__(self) -> str:
        return _show(self)


@dataclass(frozen=True, eq=False, repr=False)
class LazyData:
    """A data set that is read when it is needed: N samples of which none is in memory.

    It stands where `Data` stands: `Trainer` takes it, `len` counts it, `[index]` reads the rows of
    a slice, a mask or a tensor of indices into `Data`, and `load` reads them all. What can be
    wrong with a row shows when it is read. A constant channel is found by `load` or by
    `scoresde.data.moments`.

    Args:
        x: the rows, whose `shape` is (N, *D) and of which `x[index]` reads some.
        cond: name -> tensor with leading N, in memory; as of `Data`.
        quantisation: which integers the samples stand for; None for data that is not quantised.
        name: for messages and reports.
        classes: number of classes of "label"; 0 if there are none or their number is unknown.
        class_names: what the classes are called, in their order; () if that is not known.
        scaling: how values became model units; as of `Data`.

    Raises:
        TypeError: `x` is no `Rows`, or a condition is of the wrong type.
        ValueError: there is no row; a condition's length or a label's value does not fit.

    Example:
        >>> from scoresde.data import ArrayRows
        >>> import numpy as np
        >>> data = LazyData(ArrayRows(np.eye(4)), name="axes")
        >>> data
        LazyData(axes: 4 x (4,) float32)
        >>> data[:2]
        Data(axes: 2 x (4,) float32)
    """

    x: Rows
    cond: Mapping[str, Tensor] = field(default_factory=dict)
    quantisation: Quantisation | None = None
    name: str = ""
    classes: int = 0
    class_names: tuple[str, ...] = ()
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        instance("x", self.x, Rows, "wrap an array with ArrayRows, or pass a tensor to Data")
        if 0 in self.x.shape:
            expected = "at least one sample with one coordinate"
            raise fail("x", expected, f"shape {self.x.shape}", "check what was loaded")
        _check_classes(self)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int | slice | Tensor) -> Data:
        """The rows a slice, a mask, a tensor of indices or one integer selects, read into Data.

        Raises:
            IndexError: an integer or an index out of range.
            ValueError: no row is selected, or what is read is not sound.
        """
        part = self.take(index)
        made = object.__new__(Data)
        # Not by the constructor: a few rows of sound data may be constant over a channel.
        fields = dict(vars(part), x=part.x[:])
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made

    def take(self, index: int | slice | Tensor) -> LazyData:
        """The rows a slice, a mask, a tensor of indices or one integer selects, still unread.

        Raises:
            IndexError, ValueError: as `[index]`.
        """
        if isinstance(index, int):
            row = range(len(self))[index]
            index = slice(row, row + 1)
        rows = self.x.numbers(index)
        if len(rows) == 0:
            remedy = "pass a slice, a mask (N,) or a 1-D tensor of indices"
            raise fail("index", "a selection of one row or more", index, remedy)
        part = copy.copy(self)
        object.__setattr__(part, "x", self.x.take(rows))
        object.__setattr__(part, "cond", {name: value[rows] for name, value in self.cond.items()})
        return part

    def load(self) -> Data:
        """All rows, read into memory and checked.

        Raises:
            ValueError: as the constructor of `Data`.
        """
        x = torch.empty(self.x.shape, dtype=self.x.dtype, device="cpu")
        start = 0
        for piece in chunks(self.x):
            x[start : start + len(piece)] = piece
            start += len(piece)
        return Data(**dict(vars(self), x=x))

    def standardised(self, by: str = "auto") -> LazyData:
        """These data in model units, standardised as each row is read; as `Data.standardised`.

        All rows are read once, for their means and standard deviations.

        Raises:
            ValueError: as `Data.standardised`.
        """
        scaling = _own_scaling(self, by)
        return replace(self, x=ScaledRows(self.x, scaling), scaling=_both(self.scaling, scaling))

    def with_classes(self, names: Sequence[str]) -> LazyData:
        """These data with the classes of other ones, matched by name; as `Data.with_classes`."""
        return _with_classes(self, names)

    def split(self, fraction: float, seed: int = 0) -> tuple[LazyData, LazyData]:
        """Two disjoint random parts, still unread; as `Data.split`, with the same rows.

        Raises:
            ValueError: `fraction` leaves (0, 1), or a part would be empty.
        """
        first, second = _shuffled_parts(len(self), fraction, seed)
        return self.take(first), self.take(second)

    def __repr__(self) -> str:
        return _show(self)


def _shuffled_parts(total: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    share = finite("fraction", fraction)
    if not 0 < share < 1:
        raise fail("fraction", "a number strictly between 0 and 1", share, "e.g. 0.8")
    count = round(share * total)
    if not 0 < count < total:
        expected = f"a share that leaves rows on both sides of {total}"
        raise fail("fraction", expected, share, "move it towards 0.5, or bring more data")
    order = torch.randperm(total, generator=seeded(seed), device="cpu")
    return order[:count], order[count:]


def _with_classes(data: AnyData, names: Sequence[str]) -> AnyData:
    label = data.cond.get("label")
    if label is None:
        remedy = "these data cannot be matched by class: take ones with labels"
        raise fail("names", "data with labels", "none", remedy)
    own = data.class_names or class_names_of(data.classes or int(label.max()) + 1)
    cond = {**data.cond, "label": renumbered(label, own, names, "names")}
    return replace(data, cond=cond, classes=len(names), class_names=tuple(names))


def _own_scaling(data: Data | LazyData, by: str) -> Scaling:
    if data.quantisation is not None:
        remedy = "its quantisation says which levels they are, so leave them as they are"
        raise fail("quantisation", "None, for data without model units", data.quantisation, remedy)
    return scaling_of(data.x, by)


def _both(first: Scaling | None, second: Scaling) -> Scaling:
    """The scaling of which `first` was done first: raw = mean + std (mean' + std' x)."""
    if first is None:
        return second
    mean, std = first.mean + first.std * second.mean, first.std * second.std
    return Scaling(mean, std, first.columns)


def _show(data: Data | LazyData) -> str:
    dtype = str(data.x.dtype).removeprefix("torch.")
    name = f"{data.name}: " if data.name else ""
    cond = f", cond: {', '.join(data.cond)}" if data.cond else ""
    shape = tuple(data.x.shape[1:])
    return f"{type(data).__name__}({name}{len(data)} x {shape} {dtype}{cond})"


def _tensor(value: Any) -> Tensor:
    """A tensor as it is, all else as one on the CPU, whatever device is the default."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def _check_x(x: Tensor) -> None:
    floating("x", x, "encode integers with Quantisation(levels=256).encode(x)")
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


def _check_classes(data: Data | LazyData) -> None:
    """The conditions, and the names of the classes; labels become int64."""
    instance("cond", data.cond, Mapping, 'pass a mapping, e.g. {"label": labels}')
    if data.class_names and len(data.class_names) != data.classes:
        expected = f"{data.classes} names, one for each class"
        raise fail("class_names", expected, data.class_names, "pass classes=len(class_names)")
    cond = {name: _checked_cond(name, value, data) for name, value in data.cond.items()}
    object.__setattr__(data, "cond", cond)


def _checked_cond(name: str, value: Tensor, data: Data | LazyData) -> Tensor:
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
