"""Schemes for the probability flow in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.solvers.base import Orders, State, StepSolver

__all__ = ["Heun"]


@final
@dataclass(frozen=True)
class Heun(StepSolver):
    """Heun's method: an Euler step, then the trapezoid over both slopes; two calls a step.

    Under EDM's schedule this is algorithm 1 of Karras et al. 2022 (arXiv 2206.00364).
    """

    serves: ClassVar[str] = "ode"

    @property
    def orders(self) -> Orders:
        return Orders(ode=2)

    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        dt = nxt.t - now.t
        first = process.terms(now, x)
        ahead = lincomb((1.0, x), *((dt * c, m) for c, m in first))
        second = process.terms(nxt, ahead)
        return lincomb((1.0, x), *((0.5 * dt * c, m) for c, m in (*first, *second))), None
