"""The probability flow augmented by its log-determinant, with control of the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from scoresde._tensor import Scalar, lincomb
from scoresde.cond import Cond
from scoresde.likelihood.divergence import Linearised, Trace
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.solvers.adaptive.base import error_norm
from scoresde.solvers.adaptive.ode import Angle, Flow

__all__ = ["Augmented", "Density", "score_of_slope"]


@final
class Augmented(ScoreModel):
    """A model on states (x, l): (B, D + K), whose last K entries are log-determinants.

    The slope of the flow in the angle u, dy/du = state_coef x + v_coef v, is that of x for the
    first entries and an estimate of its divergence for the others, from one call of the network
    and vector-Jacobian products. An augmented model is a model, so the adaptive solver applies to
    it unchanged. State and sums are in float64; the network is called in its own precision.
    """

    def __init__(
        self,
        model: ScoreModel,
        angle: Angle,
        shape: torch.Size,
        dtype: torch.dtype,
        graph: bool,
    ) -> None:
        super().__init__()
        self.sde = model.sde
        self.model, self.angle, self.shape = model, angle, shape
        self.dtype, self.graph = dtype, graph
        self.trace = Trace(None)

    def linearise(
        self, node: Node, flat: Tensor, cond: Cond
    ) -> tuple[Prediction, Linearised, Tensor, Tensor]:
        """The prediction at flat states (B, D), its Jacobian, `state_coef` and `v_coef`."""
        batch = len(flat)
        shaped = self._shaped(node, batch)
        state = flat.reshape(batch, *self.shape)
        with torch.enable_grad():
            entry = state.to(self.dtype)
            cast_node = shaped.fitted(entry)
            if not (self.graph and entry.requires_grad):
                entry = entry.detach().requires_grad_()
            prediction = self.model.predict(cast_node, entry, cond)
            prediction.check_differentiable()
        value = prediction.value if self.graph else prediction.value.detach()
        exact = Prediction(state, shaped, value.to(flat), prediction.kind)
        exact.check_signal()
        s, m = self.angle.s, self.angle.size(node)
        square = node.alpha**2 + node.sigma**2
        state_coef = node.alpha * node.sigma * (s - 1.0 / s) / (square * m)
        v_coef = m / (s * square)
        to_x, to_value = map(self._column, exact.coefficients("v"))
        u = torch.atan2(node.sigma, s * node.alpha)
        a, b = state_coef + v_coef * to_x, v_coef * to_value
        at = Linearised(prediction.value, entry, a, b, m, u, self.graph)
        return exact, at, state_coef, v_coef

    def calls(self, node: Node) -> int:
        return self.model.calls(self._shaped(node, len(node.t)))

    def _shaped(self, node: Node, batch: int) -> Node:
        """The node with columns for the shape of the model's own states."""
        column = (batch,) + (1,) * len(self.shape)
        return node.map(lambda c: c if c.ndim == 1 else c.reshape(column))

    @staticmethod
    def _column(value: Scalar) -> Scalar:
        return value.reshape(-1, 1) if isinstance(value, Tensor) else value

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        columns = self.trace.columns
        exact, at, state_coef, v_coef = self.linearise(node, x[:, :-columns], cond)
        rates = self.trace(at)
        if not self.graph:
            rates = rates.detach()
        # v of the last entries is such that state_coef x + v_coef v is their rate
        v = (rates - state_coef * x[:, -columns:]) / v_coef
        return Prediction(x, node, torch.cat([exact.v.flatten(1), v], 1), "v")


def score_of_slope(u: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """The score of y from F = dy/du = cos u eps - sin u x_0/s: -(y + F cot u); u: (B, 1)."""
    return -(y + slope / torch.tan(u))


@dataclass(eq=False)
class Density(Flow):
    """The augmented flow, whose steps are controlled by the errors of y and of log p.

    The errors e_y in the state and e_l in the log-determinant of a step, by the embedded pair,
    change the final log p by e_l + e_y . score to first order, since the score is the gradient of
    the final log p in the state. At most rtol + atol nats are allowed per dimension.

    A step contributes more than that to the stated error, because the terms of the estimate can
    cancel by chance in long steps. The coarse error of the pair, of order h^4, has a similar
    effect c on log p; below one nat c sqrt(c) is of the order h^6 of the true error. So
    c min(1, sqrt(c)) is added.

    Attributes:
        dim: D.
        nats: (B,), the stated errors summed over the accepted steps.
    """

    dim: int = 0
    nats: Tensor = field(init=False, default_factory=lambda: torch.zeros(()))
    local: Tensor = field(init=False, default_factory=lambda: torch.zeros(()))

    def attempt(self, rows: Tensor) -> Tensor:
        super().attempt(rows)
        end, h, new, slopes = self.trial
        dim, rtol, atol = self.dim, self.solver.rtol, self.solver.atol
        with torch.no_grad():
            step, u = h.to(new)[:, None], end.to(new)[:, None]
            score = score_of_slope(u, new[:, :dim], slopes[-1][:, :dim])
            errors = [
                lincomb(*((step * w, k) for w, k in zip(weights, slopes, strict=True) if w))
                for weights in (self.pair.e, self.pair.q)
            ]
            change, coarse = (
                (e[:, dim:].mean(1) + (e[:, :dim] * score).sum(1)).abs().double().cpu()
                for e in errors
            )
            change = change.nan_to_num(nan=torch.inf)
            self.local = change + coarse * coarse.sqrt().clamp_max(1.0)
            before = self.y[rows.to(new.device), :dim]
            norm = error_norm(errors[0][:, :dim], before, new[:, :dim], rtol, atol)
            return norm.maximum(change / (dim * (rtol + atol)))

    def resolve(self, rows: Tensor, live: Tensor, error: Tensor) -> Tensor:
        taken = (error <= 1.0) & live
        self.nats[rows] += torch.where(taken, self.local, 0.0)
        return super().resolve(rows, live, error)
