"""Exponential Adams whose weights are corrected step by step, as a calibration learns them.

A row of an Adams method is x_t = state_coef x_s + sum_j w_j m_j + noise. With W the weight of the
newest prediction alone, which is that of the first-order method, the sum is W m_0 + (sum_j w_j m_j
- W m_0): a step along the newest prediction, and an extrapolation by the differences of the past
ones. With few steps the extrapolation of a network's predictions is too long or too short by an
amount that depends on the model and on the step, and so is the step itself. Two numbers for each
step correct both,

    x_t = state_coef x_s + scale W m_0 + slope (sum_j w_j m_j - W m_0).

Fewer numbers than weights are learned, so a few trajectories suffice. S4S (arXiv 2502.17423)
learns all weights of each step. With noise a third number, spread, multiplies the standard
deviation of the fresh noise of the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from torch import Tensor

from scoresde._check import fail, instance, wrong_type
from scoresde._tensor import Scalar
from scoresde.node import Node
from scoresde.process import Eta, ReverseSDE, eta_value
from scoresde.schedule.grid import Schedule
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.exponential.adams import Adams, Term
from scoresde.solvers.exponential.coefficients import Row, Segment, table
from scoresde.solvers.step import GaussianStep

__all__ = ["KINDS", "LearnedAdams", "corrected"]


@final
@dataclass(frozen=True)
class LearnedAdams(GaussianStep[ReverseSDE, Row, Term]):
    """An exponential Adams method with learned factors for each step; see the module.

    It belongs to one model, one process and one grid of as many steps as it has factors.
    `scoresde.calibrate` makes it. With all factors equal to 1 it is the base method.

    Args:
        base: the Adams method.
        scales: the factors of the steps along the newest prediction, one for each step.
        slopes: the factors of the extrapolations by past predictions, one for each step.
        spreads: the factors of the standard deviations of the noise, one for each step; () for
            the probability flow, which has none.

    Raises:
        TypeError, ValueError: the factors are not finite numbers, there are none, or not as many
            of one kind as of the other.

    Example:
        >>> solver = LearnedAdams(Adams(2), scales=(1.0, 1.01), slopes=(1.0, 0.9))
        >>> solver.steps_made
        2
    """

    base: Adams
    scales: tuple[float, ...]
    slopes: tuple[float, ...]
    spreads: tuple[float, ...] = ()

    needs: ClassVar[type] = AffineSDE

    def __post_init__(self) -> None:
        instance("base", self.base, Adams, "pass the method that is corrected, e.g. Adams(2)")
        kinds = ("scales", "slopes", "spreads")
        for name in kinds if self.spreads != () else kinds[:2]:
            object.__setattr__(self, name, _factors(name, getattr(self, name)))
            if len(getattr(self, name)) != len(self.scales):
                remedy = "pass one factor of each kind for each step"
                got = getattr(self, name)
                raise fail(name, f"{len(self.scales)} factors, as scales", got, remedy)
        if any(factor < 0 for factor in self.spreads):
            remedy = "a standard deviation is not negative"
            raise fail("spreads", "factors of at least 0", self.spreads, remedy)

    @property
    def serves(self) -> str:  # type: ignore[override]
        """ "sde" with factors of the noise, else "ode"."""
        return "sde" if self.spreads else "ode"

    @property
    def steps_made(self) -> int:
        """The number of steps of the grids that it can serve."""
        return len(self.scales)

    @property
    def orders(self) -> Orders:
        """None: the factors belong to one grid, which cannot be refined."""
        return Orders()

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        steps = [len(segment) - 1 for segment in schedule.grid.segments]
        if steps != [self.steps_made]:
            expected = f"one segment of {self.steps_made} steps, for which it was calibrated"
            got = f"segments of {', '.join(map(str, steps))} steps"
            raise fail("grid", expected, got, "pass the grid of the same calibration")
        for node in (schedule.start, schedule.end):
            if not math.isfinite(node.log_snr):
                remedy = "pass the grid of the same calibration"
                raise fail("grid", "a finite log-SNR at its ends", f"t = {node.t:g}", remedy)
        self.base.check_schedule(schedule, eta)

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> tuple[Row, ...]:
        affine: AffineSDE = sde  # type: ignore[assignment]  # see `needs`
        eta_at = partial(eta_value, eta) if callable(eta) else eta or 0.0
        segment = Segment(nodes, affine.time_of, eta_at)
        return corrected(segment, self.base, self.scales, self.slopes, self.spreads or None)

    def kernel(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Row,
        past: tuple[Term, ...],
    ) -> tuple[Tensor, Scalar, tuple[Term, ...]]:
        return self.base.kernel(process, x, now, nxt, row, past)


KINDS = 3
"""The kinds of factors with noise: scales, slopes and spreads. Without noise, one less."""


def corrected(
    segment: Segment,
    base: Adams,
    scales: Sequence[Scalar],
    slopes: Sequence[Scalar],
    spreads: Sequence[Scalar] | None = None,
) -> tuple[Row, ...]:
    """The rows of a method with its factors, (N,); numbers, or tensors for nodes of tensors."""
    newest = table(segment, Adams(1, parametrisation=base.parametrisation))
    if spreads is None:
        spreads = [1.0] * len(newest)
    rows = []
    for row, first, scale, slope, spread in zip(
        table(segment, base), newest, scales, slopes, spreads, strict=True
    ):
        whole = first.weights[0]
        weights = [slope * w for w in row.weights]
        weights[0] = weights[0] + (scale - slope) * whole
        rows.append(Row(row.state_coef, tuple(weights), spread * row.noise_std))
    return tuple(rows)


def _factors(name: str, values: object) -> tuple[float, ...]:
    remedy = "pass one number for each step, 1 for no correction"
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise wrong_type(name, "a sequence of numbers", values, remedy)
    if not values or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise fail(name, "at least one number, all finite", values, remedy)
    return tuple(float(v) for v in values)
