"""Summaries of data for checkpoints: range, standard deviation, classes and units."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, finite, floating, instance, keep, warn, wrong_type
from scoresde._html import Shown
from scoresde._tensor import decimals
from scoresde.quantisation import Quantisation

if TYPE_CHECKING:
    from scoresde.columns import TableScaling

__all__ = [
    "ConditionSummary",
    "DataRangeWarning",
    "DataSummary",
    "Scaling",
    "Units",
    "last_part",
    "units_of",
]


class DataRangeWarning(UserWarning):
    """Samples are far outside the range, or far wider, than the data of their model."""


@dataclass(frozen=True, eq=False, repr=False)
class Scaling(Shown):
    """The map from raw values to model units: x = (raw - mean) / std.

    Args:
        mean: float64 of any shape that broadcasts against one sample (*D): (D,) for the columns
            of a table or the entries of a vector, () for one number for all values.
        std: float64, above 0, of the shape of `mean`.
        columns: the D names of a table's columns; () if they have none.

    Raises:
        TypeError: `mean` or `std` is not a floating-point tensor.
        ValueError: the shapes differ, `std` is not above 0, or the number of names is not that of
            the columns.

    Example:
        >>> scaling = Scaling(torch.tensor([10.0]), torch.tensor([2.0]), ("height",))
        >>> scaling.encode(torch.tensor([[14.0]]))
        tensor([[2.]])
        >>> scaling.decode(torch.tensor([[2.0]]))
        tensor([[14.]])
    """

    mean: Tensor
    std: Tensor
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        floating("mean", self.mean)
        if floating("std", self.std).shape != self.mean.shape:
            remedy = "one mean and one standard deviation for each value"
            raise fail("std", f"shape {tuple(self.mean.shape)}, that of mean", self.std, remedy)
        if not (self.std > 0).all():
            remedy = "a constant column has nothing in it to model: drop it"
            raise fail("std", "numbers > 0", self.std.min().item(), remedy)
        instance("columns", self.columns, tuple, "pass a tuple of names")
        if self.columns and self.mean.shape != (len(self.columns),):
            expected = f"{self.mean.numel()} names"
            raise fail("columns", expected, self.columns, "one name per column")

    def encode(self, raw: Tensor) -> Tensor:
        """Raw values (..., *D) to model units, in the dtype of `raw`, computed in float64."""
        value = self._checked("raw", raw)
        return ((value - self.mean.to(value)) / self.std.to(value)).to(raw.dtype)

    def decode(self, x: Tensor) -> Tensor:
        """Model units (..., *D), such as samples, to raw values."""
        value = self._checked("x", x)
        return (value * self.std.to(value) + self.mean.to(value)).to(x.dtype)

    def stable(self, x: Tensor) -> Tensor:
        """Raw values of x, rounded so that they hardly depend on its rounding or on the scaling.

        They are rounded to decimals far below the standard deviation; values with fewer decimals
        are reproduced exactly under any scaling.
        """
        return decimals(self.decode(x.double()), 4 - self.std.log10().floor())

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log |det dx/draw| at samples x (B, *D): (B,) float64.

        A log-density in model units plus this is the log-density in the units of the raw values.
        """
        std = self.std.to(self._checked("x", x))
        return -std.expand(x.shape[1:]).log().sum().expand(len(x))

    def _checked(self, name: str, value: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            raise wrong_type(name, "a torch.Tensor", value, "use torch.as_tensor")
        axes = self.mean.ndim
        shape, last = tuple(self.mean.shape), tuple(value.shape[max(0, value.ndim - axes) :])
        fits = len(last) == axes and all(a in (1, b) for a, b in zip(shape, last, strict=True))
        if not floating(name, value).ndim or not fits:
            expected = f"shape (..., {', '.join(map(str, shape))})"
            remedy = (
                f"the columns are {', '.join(self.columns)}"
                if self.columns
                else "pass values of the shape that the scaling was measured on"
            )
            raise fail(name, expected, value, remedy)
        return value.double()

    def to_dict(self) -> dict[str, object]:
        """The fields as plain values of JSON, for a checkpoint."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "columns": list(self.columns),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Scaling:
        """The inverse of `to_dict`."""
        mean, std = (
            torch.tensor(saved[k], dtype=torch.float64, device="cpu") for k in ("mean", "std")
        )
        return cls(mean, std, tuple(saved.get("columns", ())))


Units: TypeAlias = "Scaling | TableScaling"
"""A map from raw values to model units: encode, decode, log_abs_det and the names of columns."""


def units_of(saved: Mapping[str, Any] | None) -> Units | None:
    """The map of a checkpoint, from the `to_dict` of either kind; None for None."""
    if saved is None:
        return None
    if "parts" not in saved:
        return Scaling.from_dict(saved)
    from scoresde.columns import TableScaling  # the core does without it

    return TableScaling.from_dict(saved)


@final
@dataclass(frozen=True)
class ConditionSummary:
    """A floating condition of a data set: its shape, and the columns of a table in its entries.

    A column of numbers is one entry, in the units of the table. A column of n categories is n
    entries, 1 for its category and 0 for the others. An entry that is not given is NaN.

    Args:
        shape: (*C), the shape of the condition of one sample.
        columns: the name of each column -> the names of its categories, () for numbers; empty if
            the condition is not from a table.

    Raises:
        ValueError: the columns do not have `shape`.

    Example:
        >>> weather = ConditionSummary((3,), {"temperature": (), "sky": ("clear", "cloudy")})
        >>> weather.encode({"temperature": 20})
        tensor([20., nan, nan])
        >>> weather.encode({"sky": "clear"})
        tensor([nan, 1., 0.])
    """

    shape: tuple[int, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = sum(max(1, len(names)) for names in self.columns.values())
        if self.columns and self.shape != (size,):
            expected = f"({size},), the number of entries of the columns"
            raise fail("shape", expected, self.shape, "one entry a number, n for n categories")

    def encode(self, values: Mapping[str, object]) -> Tensor:
        """The condition (k,) of a sample, from values by the names of columns.

        Args:
            values: the name of a column -> a number, or the name of a category. Columns that are
                left out, or None, are not given: NaN.

        Raises:
            ValueError: a column is unknown, a value is no finite number, or a category is
                unknown.
        """
        entries: list[float] = []
        for name in values:
            choice("given", name, self.columns)
        for name, names in self.columns.items():
            value = values.get(name)
            if names:
                if value is not None and str(value) not in names:
                    expected = f"a category of {name!r}, one of {', '.join(map(repr, names))}"
                    raise fail("given", expected, value, "check the spelling")
                entries += [math.nan if value is None else float(str(value) == k) for k in names]
            else:
                entries.append(math.nan if value is None else finite(name, value))
        return torch.tensor(entries, dtype=torch.float32, device="cpu")

    def to_dict(self) -> dict[str, object]:
        """The fields as plain values of JSON, for a checkpoint."""
        columns = {name: list(names) for name, names in self.columns.items()}
        return {"shape": list(self.shape), "columns": columns}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ConditionSummary:
        """The inverse of `to_dict`."""
        columns = {name: tuple(names) for name, names in saved["columns"].items()}
        return cls(tuple(saved["shape"]), columns)


@dataclass(frozen=True, eq=False)
class DataSummary(Shown):
    """A summary of the training data of a model, in model units.

    A `Trainer` measures it and stores it as `model.data`; `save` and `load` preserve it. It
    converts samples to the user's units, names the classes, and lets a sampler detect results
    outside the range of the data.

    Args:
        count: number of samples.
        shape: (*D), the shape of a sample.
        mean: the mean of all values of all samples.
        std: root mean squared deviation of all values from the mean of their own entry, which is
            sigma_data of Karras et al. 2022 (arXiv 2206.00364) for centred data.
        low: the smallest value.
        high: the largest value.
        name: the name of the data set, for messages; of a path its last part is kept, so that no
            checkpoint tells of the folders of a machine or depends on them.
        classes: number of classes of "label"; 0 if there are none.
        class_names: the names of the classes in order; () if unknown.
        class_counts: number of samples of each class; () if unknown.
        scaling: the map from the user's values to model units; None if it is the identity.
        quantisation: the levels of quantised data; None for any other.
        offset: of the means of the entries, the one that is farthest from 0.
        conditions: the floating conditions by name.
        always_given: the conditions that no sample of the training lacked, as in one without
            dropout of conditions: what the model computes without them is untrained.

    Raises:
        ValueError: `high` is below `low`, a number is not finite, or the number of names or
            counts is not that of the classes.

    Example:
        >>> summary = DataSummary(100, (2,), mean=0.0, std=1.0, low=-3.0, high=2.5)
        >>> DataSummary.from_dict(summary.to_dict()).high
        2.5
    """

    count: int
    shape: tuple[int, ...]
    mean: float
    std: float
    low: float
    high: float
    name: str = ""
    classes: int = 0
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    scaling: Units | None = None
    quantisation: Quantisation | None = None
    offset: float = 0.0
    conditions: Mapping[str, ConditionSummary] = field(default_factory=dict)
    always_given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "std", "low", "high", "offset"):
            keep(self, name, finite)
        object.__setattr__(self, "name", last_part(self.name))
        if self.high < self.low:
            raise fail("high", f"at least low = {self.low:g}", self.high, "pass low <= high")
        if self.class_names and len(self.class_names) != self.classes:
            expected = f"{self.classes} names, one for each class"
            raise fail("class_names", expected, self.class_names, "one name per class")
        if self.class_counts and len(self.class_counts) != self.classes:
            expected = f"{self.classes} counts, one for each class"
            raise fail("class_counts", expected, self.class_counts, "one count per class")

    @property
    def size(self) -> float:
        """The root mean square of the values."""
        return math.hypot(self.mean, self.std)

    def decode(self, x: Tensor) -> Tensor:
        """Convert samples (B, *D) from model units to the original units of the data.

        Quantised data become whole levels (int64), scaled data the values before the scaling;
        any other data are returned unchanged.
        """
        if self.quantisation is not None:
            return self.quantisation.decode(x)
        return x if self.scaling is None else self.scaling.decode(x)

    def departure(self, x: Tensor, *, wider: float = 1.0) -> str | None:
        """Describe an obvious fault of samples (B, *D) in model units; None if there is none.

        There are two faults: more than 2 % of the samples have more than 5 % of their values
        outside [low, high] by over a quarter of its length, or the variance is above 1.5^2 times
        that of the data. Few samples are weak evidence: the first fault must not be chance (at
        one in a hundred, if 2 % of all samples had it), and the second requires 16 samples and
        tolerates a further 12/sqrt(B) of the variance, for data with heavy tails. There is no
        verdict for data with fewer than 10 samples, whose range is not known. The check
        synchronises with the device once.

        Args:
            x: the samples.
            wider: a factor by which the variance may be larger, e.g. for some of the classes.

        Example:
            >>> summary = DataSummary(100, (2,), mean=0.0, std=1.0, low=-3.0, high=2.5)
            >>> summary.departure(torch.zeros(8, 2)) is None
            True
            >>> summary.departure(torch.full((8, 2), 20.0))
            '100 % of 8 samples have values beyond the range of the data, [-3, 2.5], by more than a quarter of it (as far as 20)'
        """  # noqa: E501
        n = len(x)
        if n == 0 or self.count < 10:
            return None
        flat = x.detach().flatten(1)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        margin = 0.25 * (self.high - self.low)
        beyond = (flat < self.low - margin) | (flat > self.high + margin)
        outside = (beyond.float().mean(1) > 0.05).sum()
        least, most = flat.aminmax()
        variance = flat.var(dim=0, correction=min(1, n - 1)).mean()
        numbers = torch.stack([v.double() for v in (outside, least, most, variance)]).tolist()
        count, farthest = int(numbers[0]), max(numbers[1:3], key=lambda v: abs(v - self.mean))
        if count > 0.02 * n and _chance(count, n, 0.02) < 0.01:
            return (
                f"{100 * count / n:.3g} % of {n} samples have values beyond the range of the "
                f"data, [{self.low:.4g}, {self.high:.4g}], by more than a quarter of it (as far "
                f"as {farthest:.4g})"
            )
        limit = 1.5 * self.std * math.sqrt((1.0 + 12.0 / math.sqrt(n)) * wider)
        std = math.sqrt(numbers[3])
        if n >= 16 and self.std > 0.0 and std > limit:
            return (
                f"{n} samples have a standard deviation of {std:.4g}, {std / self.std:.3g} "
                f"times the {self.std:.4g} of the data"
            )
        return None

    def encode(self, raw: Tensor) -> Tensor:
        """Convert values (B, *D) in the original units of the data to model units.

        Raises:
            ValueError: the values cannot be those of such data.
        """
        if self.quantisation is not None:
            return self.quantisation.encode(raw, dtype=raw.dtype)
        return raw if self.scaling is None else self.scaling.encode(raw)

    def warn_of_raw(self, x: Tensor) -> None:
        """Warn if x: (B, *D) does not look like these data in model units, and encoded it does."""
        departure = self.departure(x)
        if departure is None or (self.quantisation is None and self.scaling is None):
            return
        try:
            if self.departure(self.encode(x.detach())) is not None:
                return
        except ValueError:
            return
        which = "quantisation" if self.quantisation is not None else "scaling"
        remedy = f"if they are in the original units, pass model.data.{which}.encode(x)"
        warn(f"x: {departure}, and values in model units are expected; {remedy}", DataRangeWarning)

    def to_dict(self) -> dict[str, object]:
        """The fields as plain values of JSON, for a checkpoint."""
        return {
            "count": self.count,
            "shape": list(self.shape),
            "mean": self.mean,
            "std": self.std,
            "low": self.low,
            "high": self.high,
            "offset": self.offset,
            "name": self.name,
            "classes": self.classes,
            "class_names": list(self.class_names),
            "class_counts": list(self.class_counts),
            "scaling": None if self.scaling is None else self.scaling.to_dict(),
            "quantisation": None if self.quantisation is None else self.quantisation.to_dict(),
            "conditions": {name: one.to_dict() for name, one in self.conditions.items()},
            "always_given": list(self.always_given),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> DataSummary:
        """The inverse of `to_dict`."""
        quantisation, conditions = saved.get("quantisation"), saved.get("conditions", {})
        return cls(
            **{k: saved[k] for k in ("count", "mean", "std", "low", "high", "name", "classes")},
            offset=saved.get("offset", 0.0),
            shape=tuple(saved["shape"]),
            class_names=tuple(saved["class_names"]),
            class_counts=tuple(saved.get("class_counts", ())),
            scaling=units_of(saved.get("scaling")),
            quantisation=None if quantisation is None else Quantisation.from_dict(quantisation),
            conditions={k: ConditionSummary.from_dict(one) for k, one in conditions.items()},
            always_given=tuple(saved.get("always_given", ())),
        )


def last_part(name: str) -> str:
    """The last part of a path; any other name is unchanged.

    Example:
        >>> last_part("/home/me/cats/"), last_part("moons")
        ('cats', 'moons')
    """
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _chance(count: int, n: int, share: float) -> float:
    """The probability of at least `count` successes in n trials of probability `share`."""
    below = range(min(count, n))
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(share) + (n - k) * math.log1p(-share)
        for k in below
    )  # fmt: skip
    return max(0.0, 1.0 - math.fsum(math.exp(v) for v in logs)) if count else 1.0
