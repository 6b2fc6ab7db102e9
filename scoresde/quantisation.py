"""Quantisation: the integers that the real numbers of a model represent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from scoresde._check import (
    fail,
    finite,
    floating,
    instance,
    keep,
    positive_int,
    wrong_type,
)
from scoresde._tensor import wide

__all__ = ["Quantisation", "check_levels"]


@dataclass(frozen=True)
class Quantisation:
    """The values of discrete data in model units: `levels` equally spaced from `low` to `high`.

    Level k in {0, ..., levels - 1} is the model's low + (high - low) k / (levels - 1), so 8-bit
    images in [-1, 1] are `Quantisation(256)`. Bits per dimension are defined only through it: a
    density in model units integrated over one bin, `bin_width` wide, is the probability of its
    level.

    Args:
        levels: number of grey levels, at least 2.
        low: the model value of level 0.
        high: the model value of level `levels - 1`, above `low`.

    Raises:
        TypeError: a field is not a number.
        ValueError: fewer than 2 levels, or a range that is empty, reversed or not finite.

    Example:
        >>> quantisation = Quantisation(levels=5)
        >>> quantisation.encode(torch.arange(5))
        tensor([-1.0000, -0.5000,  0.0000,  0.5000,  1.0000])
        >>> quantisation.decode(torch.tensor([-0.6, 0.1, 7.0]))
        tensor([1, 2, 4])
        >>> quantisation.bin_width
        0.5
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        remedy = "pass the number of grey levels, e.g. 256"
        if keep(self, "levels", positive_int, remedy) < 2:
            raise fail("levels", "an integer >= 2", self.levels, remedy)
        keep(self, "low", finite)
        keep(self, "high", finite)
        if self.high <= self.low:
            raise fail(
                "high",
                f"a number above low = {self.low}",
                self.high,
                "pass low < high, e.g. -1, 1",
            )

    @property
    def bin_width(self) -> float:
        """Distance between neighbouring levels in model units, (high - low) / (levels - 1)."""
        return (self.high - self.low) / (self.levels - 1)

    def encode(self, k: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Levels to model units, low + (high - low) k / (levels - 1).

        Args:
            k: integers in 0 ... levels - 1 of any shape; they may be stored as floats.
            dtype: the dtype of the result; the arithmetic is in float64.

        Raises:
            TypeError: `k` is not a tensor.
            ValueError: a value of `k` is out of range or not whole.

        Example:
            >>> Quantisation(256).encode(torch.tensor([0, 255], dtype=torch.uint8))
            tensor([-1.,  1.])
        """
        instance("k", k, Tensor, "convert it with torch.as_tensor")
        exact = k.double()
        for wrong, why in (
            (~((exact >= 0) & (exact <= self.levels - 1)), "rescale it, or raise levels"),
            (exact != exact.round(), "data already in model units needs no encode"),
        ):
            if wrong.any():
                expected = f"integers from 0 to {self.levels - 1}"
                raise fail("k", expected, exact[wrong][0].item(), why)
        return (self.low + (self.high - self.low) * exact / (self.levels - 1)).to(dtype)

    def decode(self, x: Tensor) -> Tensor:
        """Model units to the nearest level, clipped to the range.

        Args:
            x: floats in model units, any shape.

        Returns:
            int64 tensor of the shape of `x`, in 0 ... levels - 1.

        Raises:
            TypeError: `x` is not a floating-point tensor.
            ValueError: `x` contains NaN.

        Example:
            >>> Quantisation(256).decode(torch.tensor([-1.2, 0.999]))
            tensor([  0, 255])
        """
        exact = floating("x", x, "integers are levels already").double()
        if exact.isnan().any():
            raise fail("x", "numbers", float("nan"), "find where the sampler diverged")
        levels = ((exact - self.low) / self.bin_width).round()
        return levels.clamp(0, self.levels - 1).long()

    def to_dict(self) -> dict[str, int | float]:
        """The three fields as plain numbers, for a checkpoint or a JSON file.

        Example:
            >>> Quantisation(17).to_dict()
            {'levels': 17, 'low': -1.0, 'high': 1.0}
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, int | float]) -> Quantisation:
        """The inverse of `to_dict`.

        Raises:
            TypeError: `fields` is not a mapping, or a field is not a number.
            ValueError: a field is missing or unknown, or its value is out of range.

        Example:
            >>> Quantisation.from_dict({"levels": 17, "low": 0.0, "high": 1.0})
            Quantisation(levels=17, low=0.0, high=1.0)
        """
        instance("fields", fields, Mapping, "pass what Quantisation.to_dict returned")
        if set(fields) != {"levels", "low", "high"}:
            raise fail(
                "fields",
                "exactly the keys levels, low, high",
                sorted(fields),
                "pass what Quantisation.to_dict returned",
            )
        levels, low, high = fields["levels"], fields["low"], fields["high"]
        return cls(levels, low, high)  # type: ignore[arg-type]  # levels is checked there


def check_levels(x: Tensor, quantisation: object, *, stored: bool = False) -> Quantisation:
    """Return the quantisation if every entry of x is one of its levels in model units.

    Args:
        x: floats of any shape.
        quantisation: the levels.
        stored: whether entries may be as far from their levels as the dtype of `x` rounds them,
            which in float16 is 0.06 of a bin of 256 levels.

    Raises:
        TypeError: `quantisation` is not a `Quantisation`.
        ValueError: an entry is out of range or between the levels.
    """
    if not isinstance(quantisation, Quantisation):
        remedy = "say which integers the data stand for, e.g. quantisation=Quantisation(256)"
        raise wrong_type("quantisation", "a Quantisation", quantisation, remedy)
    floating("x", x, "encode levels with quantisation.encode(k)")
    exact = wide(x)
    place = (exact - quantisation.low) / quantisation.bin_width
    wrong = ~((place > -0.5) & (place < quantisation.levels - 0.5))
    if bool(wrong.any()):
        expected = (
            f"values in the quantisation's range [{quantisation.low:g}, {quantisation.high:g}]"
        )
        raise fail("x", expected, float(exact[wrong][0]), "rescale x, or correct the quantisation")
    off = (place - place.round()).abs()
    farthest = max(abs(quantisation.low), abs(quantisation.high)) / quantisation.bin_width
    slack = 1e-2 + (torch.finfo(x.dtype).eps / 2 * farthest if stored else 0.0)
    if not bool((off <= slack).all()):
        got = f"a value {float(off.max()):.3g} of a bin away from its level"
        remedy = "pass x = quantisation.encode(levels), without dequantisation noise"
        raise fail("x", "values on the quantisation's levels", got, remedy)
    return quantisation
