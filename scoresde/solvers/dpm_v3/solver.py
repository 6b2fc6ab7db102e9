"""DPM-Solver-v3: exponential Adams in coordinates chosen by the statistics of a model.

Derivation. With y = x / alpha the probability flow is dy/dlambda = -(l y + f), f = e^(-lambda) eps
- l y (see `statistics`). With L = int l, from s to t,

    x_t = alpha_t/alpha_s e^(L_s - L_t) x_s + int K f dlambda,   K = -alpha_t e^(L(lambda) - L_t).

Along a trajectory f' is close to s f + b. With S = int s, variation of constants from lambda_s
gives

    f(lambda) = e^(S - S_s) (g(lambda) + B(lambda)),   B(lambda) = int_s^lambda e^(S_s - S) b,

where g' = e^(S_s - S) (f' - s f - b) is small: g is interpolated by a polynomial through nodes m,
at which g_m = e^(S_s - S_m) f_m - B_m, and everything else is integrated. So a step is affine in
the state and in the values f_m, with one coefficient per dimension:

    x_t = a x_s + int K e^(S - S_s) B dlambda + sum_m W_m (e^(S_s - S_m) f_m - B_m),
    W_m = int K e^(S - S_s) L_m dlambda with the Lagrange polynomial L_m in lambda.

A corrector is the same formula with the new node among the m. The earlier state cancels in the
difference of the two, which is added to the state at the start of the next step without a network
call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, instance, keep, positive_int
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, ReverseSDE
from scoresde.schedule.grid import Schedule
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.dpm_v3.statistics import Array, Statistics
from scoresde.solvers.exponential.coefficients import Segment, depth
from scoresde.solvers.step import StepSolver, check_enough_steps, corrector_nodes

__all__ = ["DPMSolverV3"]

_MOST = 3
_ROOM = 1 << 21  # numbers in one array of integrands; the dimensions are computed in parts


@final
@dataclass(frozen=True)
class DPMSolverV3(StepSolver[ReverseSDE, Any, Tensor]):  # rows: arrays, then tensors
    """DPM-Solver-v3: a multistep solver with one network call a step that uses model statistics.

    x_t = a x_s + c + sum_m w_m f_m, with f = (sigma eps - l x) / alpha and the coefficients,
    one per dimension, computed from l, s and b as the docstring of the module derives. On Gaussian
    data with independent dimensions and their statistics every step is exact; with l = 1, s = b =
    0 it is `Adams(order, corrector)`. The first steps use the nodes available, and the last step
    is not corrected. The solver is meant for 5 to 10 steps, where the corrector matters. Zheng et
    al. 2023 (arXiv 2310.13268), eq. 8 and alg. 1 and 2.

    Args:
        statistics: the statistics of the model, for its SDE and the shape of its samples.
        order: the number of nodes of the predictor, 1 to 3.
        corrector: the number of nodes of the corrector, 2 to 4, the new one among them, or 0 for
            none; `corrector=order` is that of the paper, `order + 1` that of UniPC.

    Raises:
        TypeError, ValueError: an order is out of range; at the start of a solve, the statistics
            are those of another SDE or of samples of another shape, or do not cover the grid.

    Example:
        >>> from scoresde import VPSDE, Gaussian, ReverseSampler
        >>> sde = VPSDE()
        >>> model = Gaussian(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.25])).under(sde)
        >>> solver = DPMSolverV3(Statistics.from_moments(sde, (0.0, 1.0), (1.0, 0.5)))
        >>> ReverseSampler(sde, model, solver, steps=5).sample((4, 2), seed=0).shape
        torch.Size([4, 2])
    """

    statistics: Statistics
    order: int = 3
    corrector: int = 3

    serves: ClassVar[str] = "ode"
    needs: ClassVar[type] = AffineSDE

    def __post_init__(self) -> None:
        remedy = "make them with Statistics.from_model(model, x0)"
        instance("statistics", self.statistics, Statistics, remedy)
        if keep(self, "order", positive_int) > _MOST:
            remedy = "higher orders are unstable with few steps"
            raise fail("order", f"an integer from 1 to {_MOST}", self.order, remedy)
        keep(self, "corrector", corrector_nodes, _MOST, "order is that of the paper")

    @property
    def orders(self) -> Orders:
        return Orders(min(self.order + 1, self.corrector) if self.corrector else self.order)

    def check(self, sde: SDE, stochastic: bool) -> None:
        super().check(sde, stochastic)
        self.statistics.check_sde(sde)

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        times = schedule.grid.times
        log_snr = np.array([node.log_snr for nodes in schedule.segments for node in nodes])
        self.statistics.check_range(times, log_snr)
        check_enough_steps(self.order, schedule.grid)

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> Sequence[Array]:
        """Coefficients (K, 1, *D): state_coef, -l/alpha, constant, weights newest first."""
        affine: AffineSDE = sde  # type: ignore[assignment]  # see `needs`
        statistics, segment = self.statistics, Segment(nodes, affine.time_of, 0.0)
        size, part = math.prod(statistics.shape), max(1, _ROOM // segment.points.size)
        parts = []
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            for first in range(0, size, part):
                form = _Form(segment, *statistics.splines(slice(first, first + part)))
                parts.append(_rows(form, self.order, self.corrector))
        table = np.concatenate(parts, -1)
        if not np.isfinite(table).all():
            step = int(np.argwhere(~np.isfinite(table))[0, 0])
            got = f"overflow on the step from t = {nodes[step].t:g} to {nodes[step + 1].t:g}"
            raise fail("statistics", "|int s| well below 700 over a few steps", got, "add steps")
        return list(table.reshape(*table.shape[:2], 1, *statistics.shape))

    def rows_like(self, rows: tuple[Any, ...], like: Tensor) -> tuple[Any, ...]:
        """Convert the rows to tensors by one transfer, so that no step waits for a transfer."""
        if like.shape[1:] != self.statistics.shape:
            expected = f"samples of shape {self.statistics.shape}, that of the statistics"
            raise fail("x", expected, like, "compute the statistics on data of this shape")
        own = [i for i, row in enumerate(rows) if isinstance(row, np.ndarray)]
        if not own:
            return rows
        table = np.stack([rows[i] for i in own])
        flat = torch.tensor(table, dtype=like.dtype, device=like.device).flatten(0, 1).unbind(0)
        width, placed = table.shape[1], list(rows)
        for k, i in enumerate(own):
            placed[i] = flat[k * width : (k + 1) * width]
        return tuple(placed)

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Any,
        past: tuple[Tensor, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        state_coef, from_x, constant, *weights = row
        prediction = process.predict(now, x)
        a, b = prediction.coefficients("eps")
        shrink = math.exp(-now.log_snr)
        if a != 0.0:
            from_x = from_x + shrink * a
        known = (lincomb((from_x, x), (shrink * b, prediction.value)), *past)
        terms = zip(weights, known, strict=False)
        read = depth(self.order, self.corrector) - 1
        return lincomb((state_coef, x), *terms, (1.0, constant)), known[:read]


class _Form:
    """The integrals of a segment for some dimensions d; arrays are (d, N) or (d, N, Q).

    Attributes:
        state_coef: the factor of the state.
        x_coef: -l / alpha at the start of each step, the factor of x in f.
        level: int K e^(S - S_s) B.
    """

    def __init__(self, segment: Segment, l: Any, big_l: Any, big_s: Any, b: Any) -> None:  # noqa: E741
        self.segment = segment
        mass, self._swell = big_l(segment.log_snr).T, big_s(segment.log_snr).T
        self.state_coef = (
            segment.alpha[1:] / segment.alpha[:-1] * np.exp(mass[:, :-1] - mass[:, 1:])
        )
        self.x_coef = -l(segment.log_snr[:-1]).T / segment.alpha[:-1]
        weigh = np.exp(np.moveaxis(big_l(segment.points), -1, 0) - mass[:, 1:, None])
        grow = np.exp(np.moveaxis(big_s(segment.points), -1, 0) - self._swell[:, :-1, None])
        self._density = -segment.alpha[1:, None] * weigh * grow
        drive = np.moveaxis(b(segment.points), -1, 0) / grow
        self._rise = segment.whole(drive)  # B at the end of each step, relative to its start
        self.level = segment.whole(self._density * (self._rise[..., None] - segment.tail(drive)))

    def _apart(self, i: int, m: int) -> tuple[Array, Array]:
        """e^(S_i - S_m) and B at node m, both relative to the start of step i."""
        shift = np.exp(self._swell[:, i, None] - self._swell)
        if m > i:
            return shift[:, m], self._rise[:, i]
        return shift[:, m], -(shift[:, m:i] * self._rise[:, m:i]).sum(1)

    def step(self, i: int, at: list[int]) -> Array:
        """The constant and the weights of f at the nodes `at` in step i, (1 + q, d)."""
        segment = self.segment
        point = segment.h[i] * segment.share
        node = segment.log_snr[at] - segment.log_snr[i]
        constant, weights = self.level[:, i], []
        for j, m in enumerate(at):
            others = np.delete(node, j)
            basis = np.prod((point - others[:, None]) / (node[j] - others)[:, None], axis=0)
            whole = segment.whole(self._density[:, i] * basis, i)
            shift, rise = self._apart(i, m)
            constant = constant - whole * rise
            weights.append(whole * shift)
        return np.stack([constant, *weights])


def _rows(form: _Form, order: int, corrector: int) -> Array:
    """The coefficients of all steps, (N, K, d); a corrector changes the state of the next step."""
    n, width = len(form.segment.h), depth(order, corrector)
    ahead = np.zeros((n, 1 + width, len(form.state_coef)))
    back = np.zeros_like(ahead)
    for i in range(n):
        q = min(i + 1, order)
        ahead[i, : 1 + q] = form.step(i, [i - j for j in range(q)])
        q = min(i + 2, corrector)
        if corrector and i + 1 < n:
            back[i + 1, : 1 + q] = form.step(i, [i + 1 - j for j in range(q)])
            back[i + 1, 0] -= ahead[i, 0]
            back[i + 1, 2:] -= ahead[i, 1:width]
    state_coef = form.state_coef.T[:, None]
    out: Array = np.concatenate(
        [state_coef, form.x_coef.T[:, None], ahead + state_coef * back], axis=1
    )
    return out
