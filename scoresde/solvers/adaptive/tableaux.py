"""Embedded Runge-Kutta pairs: weights, error weights and continuous extensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["PAIRS", "Pair"]


@final
@dataclass(frozen=True)
class Pair:
    """An explicit pair whose last stage is the next step's first (FSAL).

    With k_i the slope at the share c_i of the step h, at y + h sum_j a_ij k_j, the last stage lies
    at the new state itself; the error is h sum_i e_i k_i, and between the ends
    y(theta) = y + h sum_i k_i sum_j p_ij theta^(j+1). A coarse error h sum_i q_i k_i, of two
    orders less and with a large share of the first slope, tells how far the error can be trusted.

    Attributes:
        order: of the solution that is carried on; the error is that of one order less.
        c: the stages' places, the first (0) left out.
        a: the weights of each of these stages, the last row that of the step.
        e: the error weights, of all stages.
        q: the weights of the coarse error.
        p: the continuous extension's weights, of order `order` - 1 (3 for "bosh3").
        first: the longest first step, an angle, at a tolerance of 1e-5 (see `AdaptiveODE`).
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    e: tuple[float, ...]
    q: tuple[float, ...]
    p: tuple[tuple[float, ...], ...]
    first: float

    @property
    def cost(self) -> int:
        """Calls of an attempt: the first slope is known."""
        return len(self.c)


_DOPRI5 = Pair(
    order=5,
    c=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    e=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    q=(
        35 / 384 + 1 / 18,  # less the parabola through the slopes at 0, 3/10 and 1
        0.0,
        500 / 1113 - 50 / 63,
        125 / 192,
        -2187 / 6784,
        11 / 84,
        -11 / 42,
    ),
    p=(
        (
            1.0,
            -8048581381 / 2820520608,
            8663915743 / 2820520608,
            -12715105075 / 11282082432,
        ),
        (0.0, 0.0, 0.0, 0.0),
        (
            0.0,
            131558114200 / 32700410799,
            -68118460800 / 10900136933,
            87487479700 / 32700410799,
        ),
        (
            0.0,
            -1754552775 / 470086768,
            14199869525 / 1410260304,
            -10690763975 / 1880347072,
        ),
        (
            0.0,
            127303824393 / 49829197408,
            -318862633887 / 49829197408,
            701980252875 / 199316789632,
        ),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    first=0.3,
)

_BOSH3 = Pair(
    order=3,
    c=(1 / 2, 3 / 4, 1.0),
    a=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    e=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    q=(2 / 9 - 1 / 2, 1 / 3, 4 / 9, -1 / 2),  # less the trapezoid
    p=(
        (1.0, -4 / 3, 5 / 9),
        (0.0, 1.0, -2 / 3),
        (0.0, 4 / 3, -8 / 9),
        (0.0, -1.0, 1.0),
    ),
    first=0.045,
)

PAIRS: dict[str, Pair] = {"bosh3": _BOSH3, "dopri5": _DOPRI5}
"""Name -> pair.

- "dopri5": order 5(4), Dormand and Prince 1980 (J. Comput. Appl. Math. 6, table 2), with the
  extension of order 4 of Shampine 1986 (Math. Comp. 46);
- "bosh3": order 3(2), Bogacki and Shampine 1989 (Appl. Math. Lett. 2), with cubic Hermite.
"""
