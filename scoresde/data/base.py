"""`Data`: samples in model units with their conditions; `LazyData`: the same, read on access."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from scoresde._check import check_x, checked_cond, fail, finite, instance, listed, no_mask, show
from scoresde._html import Shown
from scoresde._tensor import seeded
from scoresde.data.given import given, given_conditions
from scoresde.data.labels import class_names_of, renumbered
from scoresde.data.rows import Rows, ScaledRows, chunks
from scoresde.data.scaling import scaling_of
from scoresde.quantisation import Quantisation, check_levels
from scoresde.summary import Scaling, Units

__all__ = ["Data", "LazyData"]

AnyData = TypeVar("AnyData", "Data", "LazyData")


@dataclass(frozen=True, eq=False, repr=False)
class Data(Shown):
    """A data set in model units: N samples and their conditions.

    All checks are made here, once, so that a bad row or a constant channel is a clear error
    instead of a loss of NaN or a model that wastes its capacity on a constant.

    Args:
        x: (N, *D) floating point in model units, N >= 1; images are (N, C, H, W).
        cond: name -> tensor with leading N; class labels are "label" and become int64.
        quantisation: the levels of `x`; None for data that are not quantised.
        name: the name of the data in messages and reports.
        classes: number of classes of "label", whose values are 0 ... classes - 1; 0 if there are
            none or their number is unknown.
        class_names: the names of the classes in order; () if unknown.
        scaling: the map from raw values to model units, whose `decode` converts samples back;
            None if the values were in model units.
        cond_columns: for a condition from a table, the columns in its entries: its name -> the
            name of each column -> the names of its categories, () for numbers. See
            `ConditionSummary`.

    Raises:
        TypeError: a tensor has the wrong type.
        ValueError: `x` is empty, contains NaN or infinity (the message names the first bad row)
            or is constant over a channel, axis 1 of (N, D) and of (N, C, H, W), or is quantised
            and has a value on none of the levels, or a condition's length or a label is wrong, or
            it contains infinity. Constant pixels and sets of one row are allowed. NaN in a
            floating condition means "not given".

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
    scaling: Units | None = None
    cond_columns: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A table has checked its columns, and a part of it may have constant ones.
        check_x(self.x, constant=bool(self.scaling is not None and self.scaling.columns))
        if self.quantisation is not None:
            for part in torch.split(self.x, 1000):  # in float64, a part at a time
                check_levels(part, self.quantisation, stored=True)
        _check_cond(self)

    @overload
    @classmethod
    def of(cls, x: LazyData) -> LazyData: ...

    @overload
    @classmethod
    def of(cls, x: Any) -> Data: ...

    @classmethod
    def of(cls, x: Any) -> Data | LazyData:
        """Convert a tensor, array, (x, cond) pair, list or data set to Data.

        Tensors keep their dtype; a numpy array (or nested list) becomes float32, because numpy's
        float64 is a default and not a choice. Arrays may have any strides and byte order. Lists
        may contain tensors, arrays or pictures of Pillow (8-bit levels). For a map-style data set
        of torch, or that of a DataLoader, all items are read: x, (x, y) or mappings; integers y
        become the condition "label". Data and LazyData are returned unchanged, and (data, cond)
        gives them further conditions, or others in the place of those of the same names.

        Raises:
            TypeError, ValueError: see the constructor.

        Example:
            >>> Data.of((torch.randn(3, 2), {"label": [0, 1, 1]}))
            Data(3 x (2,) float32, cond: label)
        """
        if isinstance(x, cls | LazyData):
            return x
        pair = isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], Mapping)
        if pair and isinstance(x[0], cls | LazyData):
            made: Data | LazyData = _with_conditions(*x)
            return made
        return cls(**vars(given(x)))

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Data:
        """The rows of a slice, a mask, a tensor of indices or an integer, as Data.

        Raises:
            IndexError: an index is out of range.
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
        # Without the constructor, since a few rows of valid data may have a constant channel.
        part = copy.copy(self)
        object.__setattr__(part, "x", x)
        object.__setattr__(part, "cond", {name: value[rows] for name, value in self.cond.items()})
        return part

    def split(self, fraction: float, seed: int = 0) -> tuple[Data, Data]:
        """Two disjoint random parts, the first with round(fraction N) rows.

        The rows are shuffled, so that `part[:n]` is a random sample. If data may be added later,
        use `scoresde.data.split`, which keeps every sample in its part.

        Args:
            fraction: share of the first part, strictly between 0 and 1.
            seed: seed of the permutation, which determines the parts.

        Raises:
            ValueError: `fraction` is outside (0, 1), or a part would be empty.

        Example:
            >>> first, second = Data(torch.arange(6.0)[:, None]).split(0.5, seed=0)
            >>> sorted(torch.cat([first.x, second.x]).flatten().tolist())
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        """
        first, second = _shuffled_parts(len(self), fraction, seed)
        return self[first], self[second]

    def standardised(self, by: str = "auto") -> Data:
        """The data in model units: x minus its mean, divided by its standard deviation (over N).

        `scaling` of the result converts samples to the original units, including an earlier
        scaling.

        Args:
            by: "entry" (a mean and a standard deviation for each entry of a vector), "channel"
                (for each index of axis 1, since channels may have different units but the pixels
                of one channel have the same), "all" (one of each for all values), or "auto",
                which is "entry" for vectors (N, D) and "channel" for any other data.

        Raises:
            ValueError: `by` is unknown, an entry or a channel is constant or so large that its
                variance is not finite, or the data are quantised and so in model units already.

        Example:
            >>> data = Data(torch.tensor([[998.0], [1002.0]])).standardised()
            >>> data.x.tolist(), data.scaling.decode(data.x).tolist()
            ([[-1.0], [1.0]], [[998.0], [1002.0]])
        """
        scaling = _own_scaling(self, by)
        x = scaling.encode(self.x.double()).to(self.x.dtype)
        return replace(self, x=x, scaling=_both(self.scaling, scaling))

    def with_classes(self, names: Sequence[str]) -> Data:
        """The data with the classes of other data, matched by name.

        Each label becomes the position of its name in `names`, so that a model gets the numbers
        that it was trained on, whichever classes occur here.

        Args:
            names: the `class_names` of the other data in order; some may be missing here.

        Raises:
            TypeError: `names` is not a sequence of texts.
            ValueError: there are no labels, or a class that occurs is not in `names` (the message
                names it).

        Example:
            >>> x, label = torch.randn(2, 2), torch.tensor([0, 1])
            >>> data = Data(x, {"label": label}, classes=2, class_names=("a", "c"))
            >>> data.with_classes(("a", "b", "c")).cond["label"].tolist()
            [0, 2]
        """
        return _with_classes(self, names)

    @property
    def facts(self) -> dict[str, object]:
        """What the data are, name -> value, for a table."""
        return _facts(self)

    def _picture(self) -> bytes | None:
        from scoresde.plot.picture import thumbnail  # for notebooks alone

        return thumbnail(self.x)

    def __repr__(self) -> str:
        return _show(self)


@dataclass(frozen=True, eq=False, repr=False)
class LazyData(Shown):
    """A data set whose samples are read on access and not kept in memory.

    It can replace `Data`: `Trainer` accepts it, `len` is the number of samples, `[index]` reads
    the rows of a slice, a mask or a tensor of indices into `Data`, and `load` reads all rows.
    Faults of a row are errors when it is read. `load` and `scoresde.data.moments` detect constant
    channels.

    Args:
        x: the rows, whose `shape` is (N, *D); `x[index]` reads some of them.
        cond: name -> tensor with leading N, in memory; see `Data`.
        quantisation: the levels of the samples; None for data that are not quantised.
        name: the name of the data in messages and reports.
        classes: number of classes of "label"; 0 if there are none or their number is unknown.
        class_names: the names of the classes in order; () if unknown.
        scaling: the map from raw values to model units; see `Data`.
        cond_columns: the columns of conditions from a table; see `Data`.

    Raises:
        TypeError: `x` is not a `Rows`, or a condition has the wrong type.
        ValueError: there are no rows, or a condition's length or a label is wrong.

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
    scaling: Units | None = None
    cond_columns: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        instance("x", self.x, Rows, "wrap an array with ArrayRows, or pass a tensor to Data")
        if 0 in self.x.shape:
            expected = "at least one sample with one coordinate"
            raise fail("x", expected, f"shape {self.x.shape}", "check what was loaded")
        _check_cond(self)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int | slice | Tensor) -> Data:
        """Read the rows of a slice, a mask, a tensor of indices or an integer into Data.

        Raises:
            IndexError: an index is out of range.
            ValueError: no row is selected, or a row is invalid.
        """
        part = self.take(index)
        made = object.__new__(Data)
        # Without the constructor, since a few rows of valid data may have a constant channel.
        fields = dict(vars(part), x=part.x[:])
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made

    def take(self, index: int | slice | Tensor) -> LazyData:
        """The rows of a slice, a mask, a tensor of indices or an integer, without reading them.

        Raises:
            IndexError, ValueError: see `[index]`.
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
        """Read and check all rows.

        Raises:
            ValueError: see the constructor of `Data`.
        """
        x = torch.empty(self.x.shape, dtype=self.x.dtype, device="cpu")
        start = 0
        for piece in chunks(self.x):
            x[start : start + len(piece)] = piece
            start += len(piece)
        return Data(**dict(vars(self), x=x))

    def standardised(self, by: str = "auto") -> LazyData:
        """The data in model units, standardised on access; see `Data.standardised`.

        All rows are read once, to compute means and standard deviations.

        Raises:
            ValueError: see `Data.standardised`.
        """
        scaling = _own_scaling(self, by)
        return replace(self, x=ScaledRows(self.x, scaling), scaling=_both(self.scaling, scaling))

    def with_classes(self, names: Sequence[str]) -> LazyData:
        """The data with the classes of other data, matched by name; see `Data.with_classes`."""
        return _with_classes(self, names)

    def split(self, fraction: float, seed: int = 0) -> tuple[LazyData, LazyData]:
        """Two disjoint random parts, with the rows of `Data.split`, without reading them.

        Raises:
            ValueError: `fraction` is outside (0, 1), or a part would be empty.
        """
        first, second = _shuffled_parts(len(self), fraction, seed)
        return self.take(first), self.take(second)

    @property
    def facts(self) -> dict[str, object]:
        """What the data are, name -> value, for a table."""
        return _facts(self)

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


def _with_conditions(data: AnyData, values: Mapping[str, Any]) -> AnyData:
    """The data with further conditions, name -> (N, ...), or others of the same names."""
    fields = given_conditions(values, len(data))
    columns = {name: c for name, c in data.cond_columns.items() if name not in values}
    fields["cond"] = {**data.cond, **fields["cond"]}
    if "label" in values and "classes" not in fields:
        fields |= {"classes": 0, "class_names": ()}  # those of the former labels
    return replace(data, **fields, cond_columns=columns)


def _own_scaling(data: Data | LazyData, by: str) -> Scaling:
    if data.quantisation is not None:
        remedy = "its quantisation says which levels they are, so leave them as they are"
        raise fail("quantisation", "None, for data without model units", data.quantisation, remedy)
    return scaling_of(data.x, by)


def _both(first: Units | None, second: Scaling) -> Scaling:
    """Two scalings in one, `first` applied first: raw = mean + std (mean' + std' x)."""
    if first is None:
        return second
    if not isinstance(first, Scaling):
        remedy = "its numbers are standardised and its categories are -1 and 1: leave them so"
        raise fail("scaling", "a map that is linear", f"one of {listed(first.columns)}", remedy)
    mean, std = first.mean + first.std * second.mean, first.std * second.std
    return Scaling(mean, std, first.columns)


def _facts(data: Data | LazyData) -> dict[str, object]:
    classes = listed(data.class_names) or str(data.classes)
    return {
        "name": data.name or None,
        "samples": f"{len(data):,}",
        "of shape": tuple(data.x.shape[1:]),
        "dtype": str(data.x.dtype).removeprefix("torch."),
        "classes": classes if data.classes else None,
        "conditions": ", ".join(data.cond) or None,
        "quantisation": data.quantisation,
        "in units of": None if data.scaling is None else show(data.scaling),
    }


def _show(data: Data | LazyData) -> str:
    dtype = str(data.x.dtype).removeprefix("torch.")
    name = f"{data.name}: " if data.name else ""
    cond = f", cond: {', '.join(data.cond)}" if data.cond else ""
    shape = tuple(data.x.shape[1:])
    return f"{type(data).__name__}({name}{len(data)} x {shape} {dtype}{cond})"


def _tensor(value: Any) -> Tensor:
    """A tensor unchanged, anything else as a tensor on the CPU, not on the default device."""
    no_mask("index", value)
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def _check_cond(data: Data | LazyData) -> None:
    """Check conditions and class names; labels become int64."""
    cond = checked_cond(data.cond, len(data.x), data.classes, data.class_names)
    object.__setattr__(data, "cond", cond)
