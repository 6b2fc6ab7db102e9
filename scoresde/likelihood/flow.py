"""The probability flow with its log-determinant riding along, through the step-control loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._tensor import lincomb
from scoresde.likelihood.divergence import Linearised, Trace
from scoresde.model import Cond, ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.solvers.adaptive.base import error_norm
from scoresde.solvers.adaptive.ode import Angle, Flow

__all__ = ["Augmented", "Density", "call_dtype", "score_of_slope"]


def call_dtype(model: ScoreModel, x: Tensor) -> torch.dtype:
    """The precision a model is called in: that of its weights, or its constants, or of x."""
    for held in (*model.parameters(), *model.buffers()):
        if held.is_floating_point():
            return held.dtype
    return x.dtype


@final
class Augmented(ScoreModel):
    """A model on states (x, l): (B, D + K), whose last K entries are log-determinants.

    The flow's slope in the angle u, dy/du = own x + c v, is that of x for the first entries and
    an estimate of its own divergence for the others, from one call of the network and products
    with its Jacobian. An augmented model is a model, so the loop that controls the steps needs
    to know nothing of it. State and sums are in float64, the network is called in its precision.
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
        """What the model says at flat states (B, D), its Jacobian, and `own` and `c`."""
        batch = len(flat)
        own_shape = self._shaped(node, batch)
        state = flat.reshape(batch, *self.shape)
        with torch.enable_grad():
            entry = state.to(self.dtype)
            cast_node = own_shape.fitted(entry)
            if not (self.graph and entry.requires_grad):
                entry = entry.detach().requires_grad_()
            told = self.model.predict(cast_node, entry, cond)
            if not told.value.requires_grad:
                got = "a prediction without a graph"
                remedy = (
                    "take out no_grad, detach or a trip through numpy, and give "
                    "torch.autograd.grad create_graph=True"
                )
                raise fail("model", "one that is differentiable in x", got, remedy)
        value = told.value if self.graph else told.value.detach()
        exact = Prediction(state, own_shape, value.to(flat), told.kind)
        exact.check_signal()
        s, m = self.angle.s, self.angle.size(node)
        square = node.alpha**2 + node.sigma**2
        own, c = node.alpha * node.sigma * (s - 1.0 / s) / (square * m), m / (s * square)
        to_x, to_value = (self._column(k, flat) for k in exact.coefficients("v"))
        u = torch.atan2(node.sigma, s * node.alpha)
        at = Linearised(told.value, entry, own + c * to_x, c * to_value, m, u, self.graph)
        return exact, at, own, c

    def calls(self, node: Node) -> int:
        return self.model.calls(self._shaped(node, len(node.t)))

    def _shaped(self, node: Node, batch: int) -> Node:
        """The node with columns for the shape of the model's own states."""
        column = (batch,) + (1,) * len(self.shape)
        return node.map(lambda c: c if c.ndim == 1 else c.reshape(column))

    @staticmethod
    def _column(value: Any, like: Tensor) -> Any:
        return value.reshape(-1, 1) if isinstance(value, Tensor) else value

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        columns = self.trace.columns
        exact, at, own, c = self.linearise(node, x[:, :-columns], cond)
        rates = self.trace(at)
        if not self.graph:
            rates = rates.detach()
        # v of the last entries, such that own x + c v is their rate
        more = (rates - own * x[:, -columns:]) / c
        return Prediction(x, node, torch.cat([exact.v.flatten(1), more], 1), "v")


def score_of_slope(u: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """The score of y from F = dy/du = cos u eps - sin u x_0/s: -(y + F cot u); u: (B, 1)."""
    return -(y + slope / torch.tan(u))


@dataclass(eq=False)
class Density(Flow):
    """The augmented flow: a step is held to the error of log p that it makes, besides that of y.

    A step's error e_y in the state and e_l in the log-determinant, of the embedded pair, change
    the final log p by e_l + e_y . score, to first order: the score at the state carries what
    follows. It may be rtol + atol nats in each dimension.

    What a step adds to the stated error is more than that: where steps are long the estimate can
    be small by chance, its terms cancelling. The coarse error of the pair, of order h^4, has a
    like effect c on log p; where it is below a nat, c sqrt(c) is of the true error's order, h^6.
    It is added: c min(1, sqrt(c)).

    Attributes:
        dim: D.
        nats: (B,), the stated errors summed over the accepted steps.
    """

    dim: int = 0
    nats: Tensor = field(default_factory=lambda: torch.zeros(()))
    local: Tensor = field(default_factory=lambda: torch.zeros(()))

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
