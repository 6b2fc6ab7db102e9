"""The map from the cells of a table to vectors in model units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, listed, wrong_type
from scoresde.columns.category import Category
from scoresde.columns.number import Number

__all__ = ["Column", "TableScaling"]

Column: TypeAlias = Number | Category
"""A column of a table."""


@final
@dataclass(frozen=True)
class TableScaling:
    """The map from the cells of a table to model units, for tables of any columns.

    Raw values are (..., K) float64, one for each column: a number in the units of the table, or
    the number of a category; NaN where the cell is missing. Model units are (..., D), where D is
    the sum of the widths of the columns. A table of plain numbers has a `Scaling` instead.

    Args:
        parts: the columns in order.

    Raises:
        TypeError: a part is neither a `Number` nor a `Category`.
        ValueError: there are no parts, or a name is repeated.

    Example:
        >>> parts = Number("age", 40.0, 10.0, missing=True), Category("kind", ("cat", "dog"))
        >>> scaling = TableScaling(parts)
        >>> raw = torch.tensor([[50.0, 1.0], [torch.nan, 0.0]])
        >>> scaling.encode(raw)
        tensor([[ 1., -1.,  1.],
                [ 0.,  1., -1.]])
        >>> scaling.texts(scaling.decode(scaling.encode(raw)))
        [['50.0', 'dog'], ['', 'cat']]
    """

    parts: tuple[Column, ...]

    def __post_init__(self) -> None:
        instance("parts", self.parts, tuple, "pass a tuple of columns")
        if not self.parts:
            raise fail("parts", "one column or more", self.parts, "pass a tuple of columns")
        for part in self.parts:
            instance("parts", part, (Number, Category), "pass a tuple of columns")
        if len(set(self.columns)) < len(self.parts):
            raise fail("parts", "different names", self.columns, "rename the columns")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(part.name for part in self.parts)

    @property
    def width(self) -> int:
        """D, the number of entries of a sample in model units."""
        return sum(part.width for part in self.parts)

    @property
    def density_fault(self) -> str | None:
        """Why the rows have no density in the units of the table, or None if they have one.

        Categories, missing cells and numbers on a bound have probabilities and not densities.
        """
        faults = [part.density_fault for part in self.parts]
        return next((fault for fault in faults if fault is not None), None)

    def encode(self, raw: Tensor) -> Tensor:
        """Raw values (..., K) to model units (..., D), in the dtype of `raw`.

        Raises:
            ValueError: a value does not belong to its column; the message names column and row.
        """
        _last("raw", raw, len(self.parts), self.columns)
        made = [part.encode(raw[..., k]) for k, part in enumerate(self.parts)]
        return torch.cat(made, -1)

    def decode(self, x: Tensor) -> Tensor:
        """Model units (..., D), such as samples, to raw values (..., K), in the dtype of x."""
        _last("x", x, self.width, self.columns)
        pieces = torch.split(x, [part.width for part in self.parts], -1)
        made = [part.decode(own) for part, own in zip(self.parts, pieces, strict=True)]
        return torch.stack(made, -1)

    def stable(self, x: Tensor) -> Tensor:
        """Raw values (..., K), rounded so that they hardly depend on the rounding of x."""
        raw = self.decode(x.double())
        rounded = [part.rounded(raw[..., k]) for k, part in enumerate(self.parts)]
        return torch.stack(rounded, -1)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log |det dx/da| at x (..., D), where a are the raw values of x: (...) float64.

        A log-density in model units plus this is the log-density in the units of the table.

        Raises:
            ValueError: the rows have no density, see `density_fault`.
        """
        value = _last("x", x, self.width, self.columns)
        if (fault := self.density_fault) is not None:
            remedy = "take the log-likelihood in model units, which compares models of one table"
            raise fail("x", "rows that have a density in the units of the table", fault, remedy)
        numbers = [part for part in self.parts if isinstance(part, Number)]  # all of them
        links = (value[..., k] * part.std + part.mean for k, part in enumerate(numbers))
        logs = [part.log_slope(u) for part, u in zip(numbers, links, strict=True)]
        return torch.stack(logs, -1).sum(-1)

    def texts(self, raw: Tensor) -> list[list[str]]:
        """The cells of rows (N, K): numbers, names of categories, "" where missing."""
        _last("raw", raw, len(self.parts), self.columns)
        return [
            [part.text(value) for part, value in zip(self.parts, row, strict=True)]
            for row in raw.tolist()
        ]

    def to_dict(self) -> dict[str, object]:
        """The columns as plain values of JSON, for a checkpoint."""
        kinds = {Number: "number", Category: "category"}
        return {"parts": [{"kind": kinds[type(part)], **asdict(part)} for part in self.parts]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TableScaling:
        """The inverse of `to_dict`."""
        parts: list[Column] = []
        for part in saved["parts"]:
            fields = {key: value for key, value in part.items() if key != "kind"}
            if part["kind"] == "category":
                parts.append(Category(**{**fields, "names": tuple(fields["names"])}))
            else:
                parts.append(Number(**fields))
        return cls(tuple(parts))


def _last(name: str, value: Tensor, size: int, columns: tuple[str, ...]) -> Tensor:
    """The value in float64; raise unless its last axis has this size."""
    if not isinstance(value, Tensor):
        raise wrong_type(name, "a torch.Tensor", value, "use torch.as_tensor")
    if not floating(name, value).ndim or value.shape[-1] != size:
        raise fail(name, f"shape (..., {size})", value, f"the columns are {listed(columns)}")
    return value.double()
