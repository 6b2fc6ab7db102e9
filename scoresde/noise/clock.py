"""The clock of a Brownian path, and the composition of its pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from scoresde._check import choice, fail, nonnegative, wrong_type
from scoresde._tensor import Eta
from scoresde.sde import SDE

__all__ = ["Clock", "Part", "check_eta", "merge"]


@final
@dataclass(frozen=True)
class Clock:
    """c = exp(2 eta^2 lambda), in which the noise of the reverse SDE is a Brownian motion, or -t.

    Both increase from noise to data. A time has a position u, which is log c ("snr") or -t ("t").
    Only ratios of lengths of c are computed, since c itself may exceed the range of floats.

    Args:
        sde: the SDE on whose schedule the solver runs.
        strength: 2 eta^2, or 0 for the clock -t.
    """

    sde: SDE
    strength: float

    @classmethod
    def of(cls, sde: SDE, eta: Eta, name: str, t: float) -> Clock:
        """The clock of this name; the default ("") is "snr" if the SDE is affine at time t.

        Without noise (eta = 0) it is "t"; if eta is a function of time it is that of eta = 1.
        """
        if not isinstance(sde, SDE):
            raise wrong_type("sde", "an SDE", sde, "pass the SDE of the solver")
        affine = sde.at(t).affine
        name = choice("clock", name or ("snr" if affine else "t"), ("snr", "t"))
        if name == "snr" and not affine:
            expected = "'t' on an SDE that is not affine"
            raise fail("clock", expected, name, "leave it out for the default")
        strength = 2.0 * (1.0 if callable(eta) else eta) ** 2
        # for smaller values the increments of c underflow, and the noise is negligible
        return cls(sde, strength if name == "snr" and strength > 1e-250 else 0.0)

    def position(self, t: float) -> float:
        """The position of a time: log c, or -t; it is infinite if the log-SNR is."""
        return float(self.strength * self.sde.at(t).log_snr) if self.strength else -t

    def share(self, u: float, v: float, a: float, b: float) -> float:
        """(c_v - c_u) / (c_b - c_a), for positions a <= u <= v <= b."""
        if self.strength:
            return math.exp(v - b) * math.expm1(u - v) / math.expm1(a - b)
        return (v - u) / (b - a)


def check_eta(eta: object) -> None:
    """Raise unless eta is a number of at least 0 or a function of time."""
    if not callable(eta):
        nonnegative("eta", eta, "the stochasticity of the process, a number")


Part = tuple[float, float, Tensor, Tensor | None]
"""A piece of an interval: its share of the clock, the share from its start on, z and h."""


def merge(parts: Iterable[Part]) -> tuple[Tensor, Tensor | None]:
    """Increment z = W / sqrt(c) and Levy area h = H sqrt(12 / c) of an interval of length c.

    W = sum of W_k, and int (B - B_s) dc = c (W/2 + H), where the increment of a piece contributes
    over the time after it. If the areas of the pieces are None, so is that of the interval.
    """
    w: Tensor | None = None
    h: Tensor | None = None
    for share, rest, z, area in parts:
        root = math.sqrt(share)
        w = z * root if w is None else w.add_(z, alpha=root)
        if area is None:
            continue
        late = math.sqrt(12.0) * root * (rest - share / 2 - 0.5)
        h = z * late if h is None else h.add_(z, alpha=late)
        h.add_(area, alpha=share * root)
    if w is None:
        raise ValueError("parts: expected at least one piece of the interval, got none")
    return w, h
