"""The denoised state with its derivative: E[x_0 | x_t] and products with its Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._html import Shown
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["Denoised"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Denoised(Shown):
    """The prediction of a model at x, with x_0hat = E[x_0 | x_t] as a differentiable function.

    The covariance of x_0 given x_t is (sigma^2 / alpha) J with J = dx_0hat / dx, which is
    symmetric (the second-order Tweedie formula). A log-likelihood of x_0hat with the gradient v
    there shifts the score by J^T v.

    Attributes:
        prediction: the prediction at the state x.
        x: the state that x_0hat depends on, (B, *D).
        x0: x_0hat with its graph, (B, *D).
        kept: whether products with J have a graph themselves, so that they can be differentiated.
    """

    prediction: Prediction
    x: Tensor
    x0: Tensor
    kept: bool

    @classmethod
    def of(cls, model: ScoreModel, node: Node, x: Tensor, cond: Cond) -> Denoised:
        """The prediction of a model, by one call.

        If gradients are enabled and x requires them, the graph of x goes on through the result, as
        a divergence or a differentiable sampler needs it; otherwise the result is in no graph.

        Raises:
            ValueError: the prediction is in no graph, so that J would be that of a constant.
        """
        kept = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            leaf = x if kept else x.detach().requires_grad_()
            found = model.predict(node, leaf, cond)
            found.check_differentiable("; DAPS, DDRM and RePaint do without")
            x0 = found.x0
        plain = found if kept else Prediction(x, node, found.value.detach(), found.kind)
        return cls(plain, leaf, x0, kept)

    def pull(self, v: Tensor, of: Tensor | None = None, *, last: bool = False) -> Tensor:
        """The vector-Jacobian product J^T v, (B, *D).

        Args:
            v: (B, *D), or of the shape of `of`.
            of: a differentiable function of x_0hat, whose Jacobian takes the place of J.
            last: whether it is the last product, so that the graph can be freed.

        Raises:
            ValueError: `of` is in no graph.
        """
        target = self.x0 if of is None else of
        if not target.requires_grad:
            remedy = "take out no_grad, detach, rounding and comparisons"
            expected = "an operator and a noise that are differentiable in x_0"
            raise fail("measurement", expected, "numbers without a graph", remedy)
        found: Tensor | None = torch.autograd.grad(
            target,
            self.x,
            v,
            create_graph=self.kept,
            retain_graph=self.kept or not last,
            allow_unused=True,
        )[0]
        return torch.zeros_like(self.x) if found is None else found
