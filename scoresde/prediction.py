"""A model's prediction at a noisy state, readable in any coordinate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, float64

from scoresde._check import fail
from scoresde._html import Shown
from scoresde._tensor import Scalar, lincomb
from scoresde.node import Node

__all__ = ["COORDINATES", "Prediction"]

COORDINATES: dict[str, Callable[[Node], tuple[Scalar, Scalar]]] = {
    "eps": lambda n: (0.0, 1.0),
    "x0": lambda n: (1.0, 0.0),
    "v": lambda n: (-n.sigma, n.alpha),
    "score": lambda n: (0.0, -1.0 / n.sigma),
    "flow": lambda n: (-1.0, 1.0),
}
"""Each coordinate is p x_0 + q eps; the table gives (p, q) at a node of the schedule."""


@final
@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Prediction(Shown):
    """A model's prediction at x = alpha x_0 + sigma eps, readable as x0, eps, score, v or flow.

    Under every affine SDE any two coordinates p x_0 + q eps are related through x by one 2 x 2
    solve in floats: the target is A x + B value. Under any other SDE only the score exists.

    Args:
        x: the state, (B, *D).
        node: its point of the schedule.
        value: the model's output in the coordinate `kind`, (B, *D).
        kind: "eps", "x0", "v" (alpha eps - sigma x_0), "score" or "flow" (eps - x_0).

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> node, x, eps = VPSDE().at(0.3), torch.ones(1, 2), torch.zeros(1, 2)
        >>> torch.allclose(Prediction(x, node, eps, "eps").x0 * node.alpha, x)
        True
    """

    x: Tensor
    node: Node
    value: Tensor
    kind: str

    def coefficients(self, kind: str) -> tuple[Scalar, Scalar]:
        """Return (A, B) with coordinate = A x + B value.

        Raises:
            ValueError: x and the value do not determine it, such as x_0 from eps at alpha = 0.
        """
        if kind == self.kind:
            return 0.0, 1.0
        node = self.node
        try:
            p, q = COORDINATES[self.kind](node)
            p_to, q_to = COORDINATES[kind](node)
            if {kind, self.kind} == {"eps", "score"}:  # proportional even where alpha = 0
                return 0.0, q_to / q
            det = node.alpha * q - node.sigma * p
            return (p_to * q - q_to * p) / det, (node.alpha * q_to - node.sigma * p_to) / det
        except ZeroDivisionError:
            raise self._undetermined(kind) from None

    def check_signal(self) -> None:
        """Raise a ValueError near pure noise, where rounding makes x_0 unrecoverable from eps.

        x = alpha x_0 + sigma eps determines x_0 up to rounding errors times sigma / alpha, which a
        step to alpha' multiplies by alpha'. A model of v, x0 or the flow determines x_0 itself.
        """
        if self.kind in ("eps", "score") and self.node.affine:
            alpha, sigma = self.node.alpha, self.node.sigma
            least = 2e-15 if self.x.dtype == float64 else 1e-6
            lost = alpha < least * sigma
            if bool(lost.any() if isinstance(lost, Tensor) else lost):
                raise self._undetermined("x0")

    def check_differentiable(self, others: str = "") -> None:
        """Raise a ValueError if the value is in no graph: its Jacobian would be a constant's.

        Args:
            others: what does without derivatives, the end of the remedy.
        """
        if not self.value.requires_grad:
            remedy = (
                "take out no_grad, detach or a trip through numpy, and give "
                "torch.autograd.grad create_graph=True"
            )
            got = "a prediction without a graph"
            raise fail("model", "one that is differentiable in x", got, remedy + others)

    def _undetermined(self, kind: str) -> ValueError:
        t, alpha, sigma = self.node.t, self.node.alpha, self.node.sigma
        if isinstance(alpha, Tensor):
            first, fields = int(alpha.flatten().argmin()), map(torch.as_tensor, (t, alpha, sigma))
            t, alpha, sigma = (float(field.flatten()[first]) for field in fields)
        got = f"t = {t:g} with alpha = {alpha:g} and sigma = {sigma:g}"
        remedy = "end the grid before sigma = 0"
        if alpha < sigma:
            remedy = (
                "near pure noise predict v, x0 or the flow, start at a smaller "
                "t_start, or wrap the model in AnalyticStart"
            )
        return fail("t", f"a time at which x and {self.kind} determine {kind}", got, remedy)

    def mix(self, a: Scalar, kind: str, b: Scalar, *more: tuple[Scalar, Tensor]) -> Tensor:
        """a x + b `kind` + more, as one linear combination of x, value and `more`."""
        to_x, to_value = self.coefficients(kind)
        return lincomb((a + b * to_x, self.x), (b * to_value, self.value), *more)

    def read(self, kind: str) -> Tensor:
        """The coordinate `kind`, (B, *D)."""
        if kind == self.kind:
            return self.value
        a, b = self.coefficients(kind)
        return lincomb((a, self.x), (b, self.value))

    def scaled(self, kind: str) -> tuple[Scalar, Tensor]:
        """Return (c, m) with coordinate = c * m, computing m in one pass over the state."""
        a, b = self.coefficients(kind)
        if kind == self.kind or isinstance(b, Tensor) or b == 0.0:
            return 1.0, self.read(kind)
        return b, lincomb((1.0, self.value), (a / b, self.x))

    def shifted(self, by: Tensor, scale: Scalar = 1.0) -> Prediction:
        """The prediction whose score is this one's plus scale * by: (B, *D), in its coordinate.

        x_0 moves by (sigma^2 / alpha) scale by, and eps by -sigma scale by. At alpha = 0, where
        the score does not determine x_0, every coordinate but eps and the score stays as it is.
        """
        value = lincomb((1.0, self.value), (scale * self._per_score(), by))
        return Prediction(self.x, self.node, value, self.kind)

    def _per_score(self) -> Scalar:
        """The change of the value for a change of the score by 1, at the same x."""
        if self.kind == "score":
            return 1.0
        p, q = COORDINATES[self.kind](self.node)
        alpha, sigma = self.node.alpha, self.node.sigma
        change: Scalar = sigma * (p * sigma - q * alpha)
        if self.kind == "eps":
            change = -sigma
        elif isinstance(alpha, Tensor):
            none = alpha == 0.0
            change = torch.where(none, 0.0, change / torch.where(none, 1.0, alpha))
        else:
            change = change / alpha if alpha else 0.0
        return change

    @property
    def x0(self) -> Tensor:
        """The denoised state E[x_0 | x_t]: Tweedie's formula (x + sigma^2 score) / alpha."""
        return self.read("x0")

    @property
    def eps(self) -> Tensor:
        """The noise E[eps | x_t]."""
        return self.read("eps")

    @property
    def score(self) -> Tensor:
        """The score, the gradient of log p_t at x: -eps / sigma."""
        return self.read("score")

    @property
    def v(self) -> Tensor:
        """The velocity alpha eps - sigma x_0 (Salimans and Ho 2022, arXiv 2202.00512)."""
        return self.read("v")

    @property
    def flow(self) -> Tensor:
        """The velocity eps - x_0 of a rectified flow: dx/dt under `FlowSDE`.

        Lipman et al. 2023 (arXiv 2210.02747), Liu et al. 2023 (arXiv 2209.03003); it has the
        opposite sign where their time runs from noise to data.
        """
        return self.read("flow")
