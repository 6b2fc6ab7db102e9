"""Schemes for the probability flow in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from scoresde._check import choice
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import ReverseSDE
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.step import StepSolver

__all__ = ["Heun"]


@final
@dataclass(frozen=True)
class Heun(StepSolver[ReverseSDE, int, Tensor]):
    """Heun's method: an Euler step, then the trapezoidal rule over both slopes; two calls a step.

    In the variable "t" it integrates dx/dt, and needs only f, g and the score. In "rho" it
    integrates d(x / alpha) / d(sigma / alpha) = eps: this is algorithm 1 of Karras et al. 2022
    (arXiv 2206.00364) under every affine SDE. Under EDM's schedule the two are equal.

    Args:
        variable: "t" or "rho".
    """

    variable: str = "t"

    serves: ClassVar[str] = "ode"

    def __post_init__(self) -> None:
        choice("variable", self.variable, ("t", "rho"))

    @property
    def needs(self) -> type:  # type: ignore[override]
        """The class of SDE required: an affine SDE for the variable "rho"."""
        return SDE if self.variable == "t" else AffineSDE

    @property
    def orders(self) -> Orders:
        return Orders(ode=2)

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: int,
        past: tuple[Tensor, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.variable == "rho":
            return self._in_rho(process, x, now, nxt), ()
        dt = nxt.t - now.t
        first = process.terms(now, x)
        ahead = lincomb((1.0, x), *((dt * c, m) for c, m in first))
        second = process.terms(nxt, ahead)
        return lincomb((1.0, x), *((0.5 * dt * c, m) for c, m in (*first, *second))), ()

    def _in_rho(self, process: ReverseSDE, x: Tensor, now: Node, nxt: Node) -> Tensor:
        scale = nxt.alpha / now.alpha
        half = 0.5 * (nxt.sigma - scale * now.sigma)
        first = process.predict(now, x).eps
        ahead = lincomb((scale, x), (2.0 * half, first))
        return lincomb((scale, x), (half, first), (half, process.predict(nxt, ahead).eps))
