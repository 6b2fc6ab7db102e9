"""A column of numbers, bounded or with missing cells, as entries of a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from scoresde._check import fail, finite, keep, positive
from scoresde._tensor import decimals
from scoresde.columns.faults import cell_fault

__all__ = ["Number"]

EDGE = 700.0
"""The largest |u| that is mapped back, since exp(710) exceeds float64."""


@final
@dataclass(frozen=True)
class Number:
    """A column of numbers as one entry of x, with a second one if cells are missing.

    The number a becomes x = (u(a) - mean) / std, where the link u maps the open interval
    (low, high) to all real numbers:

    - no bound: u = a;
    - low: u = log(a - low);
    - high: u = -log(high - a);
    - both: u = log(a - low) - log(high - a), the logit.

    A missing cell has x = 0, the mean. The second entry is the indicator "missing": 1 where the
    cell is missing, -1 where it is not.

    A number on a bound has no finite u. If the column has such numbers, `low_gap` or `high_gap`
    is the distance from that bound to the nearest other number of the column. The bound is then
    encoded as the number half a gap inside, and all numbers closer to the bound than three
    quarters of the gap are decoded as the bound.

    Args:
        name: the name of the column.
        mean, std: mean and standard deviation of u, in units of u.
        low, high: the bounds, in the units of the table; None for no bound.
        missing: whether cells may be missing.
        low_gap, high_gap: see above; None if no number of the column is on the bound.

    Raises:
        ValueError: `std` is not above 0, `low` is not below `high`, or there is a gap without its
            bound.

    Example:
        >>> share = Number("share", 0.0, 2.0, low=0.0, high=1.0)
        >>> share.encode(torch.tensor([0.5, 0.9], dtype=torch.float64))
        tensor([[0.0000],
                [1.0986]], dtype=torch.float64)
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    low: float | None = None
    high: float | None = None
    missing: bool = False
    low_gap: float | None = None
    high_gap: float | None = None

    def __post_init__(self) -> None:
        keep(self, "std", positive, "a constant column has nothing in it to model: drop it")
        keep(self, "mean", finite)
        ends = [finite(n, v) for n in ("low", "high") if (v := getattr(self, n)) is not None]
        if len(ends) == 2 and not ends[0] < ends[1]:
            expected = f"a lower bound below the upper one, for column {self.name!r}"
            raise fail("bounds", expected, (self.low, self.high), "pass (low, high)")
        for end in ("low", "high"):
            gap = getattr(self, f"{end}_gap")
            if gap is not None and getattr(self, end) is None:
                raise fail(f"{end}_gap", f"None without {end}", gap, f"pass {end} too")
            if gap is not None:
                positive(f"{end}_gap", gap)

    @property
    def width(self) -> int:
        """The number of entries of x."""
        return 1 + self.missing

    @property
    def density_fault(self) -> str | None:
        """Why the column has no density in its own units, or None."""
        if self.missing:
            return f"cells of {self.name!r} may be missing"
        on = [e for e in ("low", "high") if getattr(self, f"{e}_gap") is not None]
        return f"numbers of {self.name!r} are on a bound" if on else None

    def link(self, raw: Tensor) -> Tensor:
        """u of numbers in float64, those on a bound moved inside by half a gap."""
        low, high = self.low, self.high
        if low is not None and self.low_gap is not None:
            raw = torch.where(raw == low, low + self.low_gap / 2, raw)
        if high is not None and self.high_gap is not None:
            raw = torch.where(raw == high, high - self.high_gap / 2, raw)
        if low is not None and high is not None:
            return (raw - low).log() - (high - raw).log()
        if low is not None:
            return (raw - low).log()
        return raw if high is None else -(high - raw).log()

    def unlink(self, u: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """The inverse of `link`, of u in float64; numbers inside are so in `dtype` as well."""
        low, high = self.low, self.high
        if low is None and high is None:
            return u
        u = u.clamp(-EDGE, EDGE)
        if low is not None and high is not None:
            below, above = low + (high - low) * u.sigmoid(), high - (high - low) * (-u).sigmoid()
            raw = torch.where(u < 0, below, above)
        else:
            raw = low + u.exp() if low is not None else high - (-u).exp()  # type: ignore[operator]
        if low is not None:
            inside = _next(low, math.inf, dtype)
            near = raw < (inside if self.low_gap is None else low + 0.75 * self.low_gap)
            raw = torch.where(near, inside if self.low_gap is None else low, raw)
        if high is not None:
            inside = _next(high, -math.inf, dtype)
            near = raw > (inside if self.high_gap is None else high - 0.75 * self.high_gap)
            raw = torch.where(near, inside if self.high_gap is None else high, raw)
        return raw

    def log_slope(self, u: Tensor) -> Tensor:
        """log |dx/da|, where a is the number whose link is u."""
        if self.low is not None and self.high is not None:
            logs = -logsigmoid(u) - logsigmoid(-u) - math.log(self.high - self.low)
        elif self.low is not None:
            logs = -u
        else:
            logs = torch.zeros_like(u) if self.high is None else u
        return logs - math.log(self.std)

    def encode(self, raw: Tensor) -> Tensor:
        """Numbers (...), NaN where missing, to entries (..., width), in the dtype of the numbers.

        A number that is a bound rounded to this dtype is on the bound.

        Raises:
            ValueError: a number is infinite or out of the bounds, or a cell is missing from a
                column without missing cells; the message names column and row.
        """
        value = raw.double()
        for end in (self.low, self.high):
            if end is not None:
                value = torch.where(raw == raw.new_tensor(end), end, value)
        self.check(value)
        x = ((self.link(value) - self.mean) / self.std)[..., None].to(raw.dtype)
        if not self.missing:
            return x
        absent = raw.isnan()[..., None]
        return torch.cat([x.masked_fill(absent, 0.0), torch.where(absent, 1.0, -1.0).to(x)], -1)

    def decode(self, x: Tensor) -> Tensor:
        """Entries (..., width) to numbers (...), NaN where the indicator is above 0.

        Numbers are computed in float64; they are inside the bounds in the dtype of x as well.
        """
        u = x[..., 0].double() * self.std + self.mean
        raw = self.unlink(u, x.dtype).to(x.dtype)
        return raw.masked_fill(x[..., 1] > 0, math.nan) if self.missing else raw

    def __str__(self) -> str:
        marks = [f"{self.mean:.4g} +- {self.std:.3g}"]
        if self.low is not None or self.high is not None:
            marks = [f"numbers {_interval(self.low, self.high)}"]
        return f"{self.name} ({', '.join(marks + ['missing cells'] * self.missing)})"

    def rounded(self, raw: Tensor) -> Tensor:
        """Numbers to about four digits below the spread of the column.

        With bounds they are the distance from the nearest bound, rounded to five digits.
        """
        if self.low is None and self.high is None:
            return decimals(raw, raw.new_tensor(4 - math.floor(math.log10(self.std))))
        ends = raw.new_tensor([e for e in (self.low, self.high) if e is not None])
        away = raw[..., None] - ends
        near = away.gather(-1, away.abs().argmin(-1, keepdim=True))[..., 0]
        places = 4 - near.abs().log10().floor()
        # Without the shift, numbers with one digit more that ends in 5 would be ties.
        shift = 0.0123 * 10.0**-places
        return torch.where(near == 0, raw, decimals(near + shift, places))

    def text(self, value: float) -> str:
        """The cell of a number, to about the rounding of float32; "" if it is missing."""
        if math.isnan(value):
            return ""
        if self.low is None and self.high is None:
            value = round(value, max(0, 6 - math.floor(math.log10(self.std))))
        else:
            near = [value - e for e in (self.low, self.high) if e is not None]
            least = min((abs(d) for d in near if d), default=1.0)
            value = round(value, max(0, 6 - math.floor(math.log10(least))))
        return str(value)

    def check(self, raw: Tensor) -> None:
        """Raise for numbers that have no entry in x; see `encode`."""
        if not self.missing and bool(raw.isnan().any()):
            remedy = "drop or fill the row, or leave the column out"
            raise cell_fault(self.name, "a number in every row", raw.isnan(), raw, remedy)
        if bool(raw.isinf().any()):
            raise cell_fault(
                self.name, "finite numbers", raw.isinf(), raw, "drop or repair the row"
            )
        remedy = "repair or drop the row, or widen the bounds"
        for sign, end, gap in ((1, self.low, self.low_gap), (-1, self.high, self.high_gap)):
            if end is None:
                continue
            outside = sign * raw < sign * end
            if bool(outside.any()):
                expected = f"numbers {_interval(self.low, self.high)}"
                raise cell_fault(self.name, expected, outside, raw, remedy)
            if gap is None and bool((raw == end).any()):
                expected = "numbers inside the bounds, as the scaling was measured on"
                raise cell_fault(self.name, expected, raw == end, raw, remedy)


def _next(end: float, towards: float, dtype: torch.dtype) -> float:
    """The number of a dtype that is next to a bound, rounded to it, in a direction."""
    value = torch.tensor(end, dtype=dtype, device="cpu")
    return float(torch.nextafter(value, torch.full_like(value, towards)))


def _interval(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    return f"of at least {low:g}" if low is not None else f"of at most {high:g}"
