"""The density of nodes of the grid "tapered"."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["MANY", "Taper"]

MANY = 64
"""The number of values from which a sample is treated as one of many values, such as an image."""


@dataclass(frozen=True)
class Taper:
    """The density of `tapered`: 1 between two log-SNRs, and decreasing over a width outside."""

    low: float
    high: float
    below: float
    above: float

    @classmethod
    def of(cls, std: float, dim: int) -> Taper:
        centre = -math.log(std)
        further, above = (1.0, 4.0) if dim < MANY else (3.0, 8.0)
        return cls(centre - math.log(dim) / 2 - 0.3, centre + further, 2.5, above)

    @property
    def deepest(self) -> float:
        """The log-SNR below which a schedule has no node except its start."""
        return max(self.low - 13.0, -16.0)

    @property
    def whole(self) -> float:
        """The integral from `low` to infinity."""
        return self.high - self.low + self.above

    def integral(self, log_snr: float) -> float:
        """The integral from `low` to this log-SNR."""
        if log_snr < self.low:
            return -self.below / (1.0 + self.below / (self.low - log_snr))
        if log_snr > self.high:
            return self.whole - self.above / (1.0 + (log_snr - self.high) / self.above)
        return log_snr - self.low

    def at(self, integral: float) -> float:
        """The log-SNR up to which the density has this integral."""
        if integral < 0.0:
            return self.low + integral / (1.0 + integral / self.below)
        beyond = integral - (self.high - self.low)
        if beyond > 0.0:
            return self.high + beyond / (1.0 - beyond / self.above)
        return self.low + integral
