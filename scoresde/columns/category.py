"""A column of categories as entries -1 and 1 of a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, listed
from scoresde.columns.faults import cell_fault

__all__ = ["CODINGS", "Category"]

CODINGS = ("bits", "one_hot")
"""How a category becomes numbers -1 and 1.

- "bits": the binary digits of its number, the highest first, ceil(log2 n) of them (analog bits:
  Chen et al. 2022, arXiv 2208.04202);
- "one_hot": n entries, of which that of the category is 1.

Bits are the default of tables: on tables of 4, 10, 16 and 40 categories a network of the same size
learnt the frequencies of the categories better from them (`tests/data/test_mixed_training.py` has
the case of 40).
"""


@final
@dataclass(frozen=True)
class Category:
    """A column of categories as entries -1 and 1 of x.

    Entries of samples are decoded as the category with the nearest code. This is the largest
    entry of "one_hot" and, for 2^d categories, the sign of each entry of "bits".

    Args:
        name: the name of the column.
        names: the n names of the categories in order.
        coding: "bits" or "one_hot"; see `CODINGS`.
        missing: whether cells may be missing, which is one more category.

    Raises:
        ValueError: there are fewer than two categories, with the missing one, or a name is
            repeated.

    Example:
        >>> kind = Category("kind", ("cat", "cow", "dog"), "bits")
        >>> kind.encode(torch.tensor([0.0, 2.0]))
        tensor([[-1., -1.],
                [ 1., -1.]])
    """

    name: str
    names: tuple[str, ...]
    coding: str = "bits"
    missing: bool = False

    def __post_init__(self) -> None:
        instance("names", self.names, tuple, "pass a tuple of names")
        choice("coding", self.coding, CODINGS)
        if len(set(self.names)) < len(self.names):
            raise fail("names", "different categories", self.names, "name each once")
        if len(self.names) + self.missing < 2:
            remedy = "there is nothing in it to model: drop the column"
            raise fail(f"column {self.name!r}", "two categories or more", self.names, remedy)

    @property
    def codes(self) -> Tensor:
        """The codes of the categories, (n, width) float64; the last one may mean "missing"."""
        n = len(self.names) + self.missing
        number = torch.arange(n, device="cpu")
        if self.coding == "one_hot":
            return 2.0 * torch.eye(n, dtype=torch.float64, device="cpu") - 1.0
        digits = torch.arange((n - 1).bit_length() - 1, -1, -1, device="cpu")
        return 2.0 * (number[:, None] >> digits & 1).double() - 1.0

    @property
    def width(self) -> int:
        """The number of entries of x."""
        n = len(self.names) + self.missing
        return n if self.coding == "one_hot" else (n - 1).bit_length()

    @property
    def density_fault(self) -> str:
        """Why the column has no density."""
        return f"{self.name!r} has categories"

    def encode(self, raw: Tensor) -> Tensor:
        """Numbers of categories (...), NaN where missing, to entries (..., width).

        Raises:
            ValueError: a number is not one of a category, or a cell is missing from a column
                without missing cells; the message names column and row.
        """
        n, absent = len(self.names), raw.isnan()
        if not self.missing and bool(absent.any()):
            remedy = "fill or drop the row, or leave the column out"
            raise cell_fault(self.name, "a category in every row", absent, raw, remedy)
        wrong = ~absent & ((raw < 0) | (raw >= n) | (raw != raw.round()))
        if bool(wrong.any()):
            expected = f"numbers of its {n} categories"
            raise cell_fault(self.name, expected, wrong, raw, f"they are {listed(self.names)}")
        return self.codes.to(raw)[raw.masked_fill(absent, float(n)).long()]

    def decode(self, x: Tensor) -> Tensor:
        """Entries (..., width) to the number of the nearest code (...), NaN for "missing"."""
        # All codes have one length, so the nearest one has the largest inner product.
        number = (x @ self.codes.to(x).T).argmax(-1)
        raw = number.to(x)
        return raw.masked_fill(number == len(self.names), math.nan)

    def __str__(self) -> str:
        marks = [f"{len(self.names)} categories", *(["missing cells"] * self.missing)]
        return f"{self.name} ({', '.join(marks)})"

    def rounded(self, raw: Tensor) -> Tensor:
        """The numbers of categories as they are."""
        return raw

    def text(self, value: float) -> str:
        """The name of a category by its number; "" if it is missing."""
        return "" if math.isnan(value) else self.names[int(value)]
