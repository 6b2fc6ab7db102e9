"""Exponential integrators: exact in the linear part, in the clock of the log-SNR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from scoresde._check import fail, positive_int
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.sde import AffineSDE
from scoresde.solvers.base import Orders, State, StepSolver
from scoresde.solvers.stochastic import reverse

__all__ = ["Adams"]


@final
@dataclass(frozen=True)
class Adams(StepSolver):
    """Exponential Adams-Bashforth on x_0, first order: DDIM at eta = 0, ancestral at eta = 1.

    With h the step in lambda and x_0hat held at its value at the start, the step is exact:
    x_t = sigma_t/sigma_s e^(-eta^2 h) x_s + alpha_t (1 - e^(-(1 + eta^2) h)) x_0hat
    + sigma_t sqrt(1 - e^(-2 eta^2 h)) z. At eta = 0 it is DDIM (Song et al. 2021, arXiv
    2010.02502, eq. 12), which is DPM-Solver-1; at eta = 1 the ancestral sampler of DDPM with
    the posterior variance (Ho et al. 2020, eq. 7), on any nodes.

    Args:
        order: 1.
    """

    order: int = 1

    needs: ClassVar[type] = AffineSDE

    def __post_init__(self) -> None:
        if positive_int("order", self.order) != 1:
            raise fail("order", "1", self.order, "use Heun for a second-order scheme")

    @property
    def orders(self) -> Orders:
        return Orders(ode=1, weak=1, strong=1)

    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        walk = reverse(process)
        h = nxt.log_snr - now.log_snr
        square = walk.eta_at(now) ** 2
        decay = math.exp(-square * h) if square else 1.0
        pull = -nxt.alpha * math.expm1(-(1.0 + square) * h)
        prediction = walk.predict(now, x)
        keep = nxt.sigma / now.sigma * decay
        if not square:
            return prediction.mix(keep, "x0", pull), None
        spread = nxt.sigma * math.sqrt(-math.expm1(-2.0 * square * h))
        return prediction.mix(keep, "x0", pull, (spread, noise.normal(x, now, nxt))), None
