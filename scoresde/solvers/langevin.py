"""Langevin correction, and predictor-corrector samplers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from scoresde._check import instance, keep, nonnegative, positive, positive_int, wrong_type
from scoresde._html import Shown
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, ReverseSDE
from scoresde.schedule.grid import Schedule
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.step import StepSolver

__all__ = ["Corrector", "Langevin", "PredictorCorrector"]


class Corrector(ABC):
    """Changes a state at one node but not its marginal distribution."""

    @abstractmethod
    def check(self, sde: SDE) -> None:
        """Raise a TypeError if this corrector cannot serve the SDE."""

    @abstractmethod
    def correct(self, process: ReverseSDE, x: Tensor, node: Node, noise: Noise) -> Tensor:
        """The corrected state, (B, *D)."""


@final
@dataclass(frozen=True, repr=False)
class Langevin(Shown, Corrector):
    """Unadjusted Langevin steps x' = x + e score + sqrt(2 e) z at one time.

    e = 2 snr^2 sigma(t)^2 is Song's strength (2021, arXiv 2011.13456, alg. 4) with the expected
    |score|^2 = D / sigma^2 in place of the observed one: a step that depends on the state has
    another stationary distribution, and a step that depends on the batch couples its samples. The
    distribution of x changes by O(e / data variance), about 0.3 % of a standard deviation at the
    default.

    Args:
        snr: the strength, dimensionless.
        steps: Langevin steps per correction.
        step: the value of e, a positive number or a function of t; required if the SDE is not
            affine, since it then has no sigma(t).
    """

    snr: float = 0.16
    steps: int = 1
    step: float | Callable[[Tensor], Any] | None = None

    def __post_init__(self) -> None:
        keep(self, "snr", positive, "0.16 is Song's value")
        keep(self, "steps", positive_int, "the number of Langevin steps per correction")
        if self.step is not None and not callable(self.step):
            keep(self, "step", positive, "the step e of the Langevin dynamics")

    def check(self, sde: SDE) -> None:
        if self.step is None and not isinstance(sde, AffineSDE):
            remedy = "pass Langevin(step=...), a number or a function of t"
            raise wrong_type("step", "a step on an SDE without sigma(t)", None, remedy)

    def size(self, node: Node) -> float:
        """The step e at a node."""
        if self.step is None:
            return float(2.0 * self.snr**2 * node.sigma**2)
        if not callable(self.step):
            return self.step
        value = self.step(torch.tensor(node.t, dtype=torch.float64, device="cpu"))
        return nonnegative(f"step({node.t:g})", value, "mend the function of t")

    def correct(self, process: ReverseSDE, x: Tensor, node: Node, noise: Noise) -> Tensor:
        e, draws = self.size(node), noise.stream("langevin")
        for number in range(self.steps):
            z = draws.draw(x, number, at=node.t)
            x = process.predict(node, x).mix(1.0, "score", e, (math.sqrt(2.0 * e), z))
        return x


@final
@dataclass(frozen=True)
class PredictorCorrector(StepSolver[ReverseSDE, Any, Any]):  # those of the predictor
    """A predictor's step, followed by a corrector at the next node (Song et al. 2021).

    Args:
        predictor: any scheme on a fixed grid.
        corrector: `Langevin()` by default.
    """

    predictor: StepSolver[Any, Any, Any]  # any scheme
    corrector: Corrector = Langevin()

    serves: ClassVar[str] = "any"

    def __post_init__(self) -> None:
        instance("predictor", self.predictor, StepSolver, "pass e.g. Adams(1)")
        instance("corrector", self.corrector, Corrector, "pass e.g. Langevin()")

    @property
    def orders(self) -> Orders:
        return Orders()

    def check(self, sde: SDE, stochastic: bool) -> None:
        self.predictor.check(sde, stochastic)
        self.corrector.check(sde)

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        self.predictor.check_schedule(schedule, eta)

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> Sequence[Any]:
        return self.predictor.rows(sde, nodes, eta)

    def rows_like(self, rows: tuple[Any, ...], like: Tensor) -> tuple[Any, ...]:
        return self.predictor.rows_like(rows, like)

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Any,
        past: tuple[Any, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        x, past = self.predictor.step(process, x, now, nxt, row, past, noise)
        return self.corrector.correct(process, x, nxt, noise), past
