"""First-order schemes for the reverse SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from scoresde._check import choice
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.process import Process, ReverseSDE
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.step import GaussianStep

__all__ = ["EulerMaruyama", "ReverseDiffusion"]


@final
@dataclass(frozen=True)
class EulerMaruyama(GaussianStep[Process, int, Tensor]):
    """Euler-Maruyama: x' = x + dt drift + sqrt(|dt|) g z; Euler's method if there is no noise.

    The noise is additive, so the strong order is 1, not 1/2 (Kloeden and Platen 1992, sec.
    10.2). It needs only f, g and the score, so it serves every SDE, forwards and backwards. In the
    variable lambda, with dt = dlambda / (dlambda/dt) at the start of the step, the SDE must be
    affine.

    Args:
        variable: "t" or "log_snr".

    Example:
        >>> from scoresde import VPSDE, ReverseSampler
        >>> sampler = ReverseSampler(VPSDE(), lambda t, x: -x, EulerMaruyama(), steps=10)
        >>> sampler.sample((4, 2), seed=0).shape
        torch.Size([4, 2])
    """

    variable: str = "t"

    forward: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice("variable", self.variable, ("t", "log_snr"))

    @property
    def needs(self) -> type:  # type: ignore[override]
        """The class of SDE required: an affine SDE for the variable "log_snr"."""
        return SDE if self.variable == "t" else AffineSDE

    @property
    def reaches_data(self) -> bool:  # type: ignore[override]
        """Whether the scheme can end at sigma = 0, as it can in the variable "t"."""
        return self.variable == "t"

    @property
    def orders(self) -> Orders:
        return Orders(ode=1, weak=1, strong=1)

    def kernel(
        self,
        process: Process,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: int,
        past: tuple[Tensor, ...],
    ) -> tuple[Tensor, float, tuple[Tensor, ...]]:
        dt = nxt.t - now.t
        if self.variable == "log_snr":  # dlambda/dt = -g^2 / (2 sigma^2)
            dt = -2.0 * (nxt.log_snr - now.log_snr) * now.sigma**2 / now.g**2
        moves = [(dt * c, m) for c, m in process.terms(now, x)]
        return lincomb((1.0, x), *moves), process.diffusion(now) * math.sqrt(abs(dt)), ()


@final
@dataclass(frozen=True)
class ReverseDiffusion(GaussianStep[ReverseSDE, int, Tensor]):
    """Reverse diffusion: the forward transition x' = a x + q z run backwards with the score.

    x = (2 - a) x' + (1 + eta^2)/2 q^2 score + eta q z, with the exact scale a and standard
    deviation q of the transition between the nodes, in place of the values that Song takes for
    steps of 1/N, so that any number of steps works. Song et al. 2021 (arXiv 2011.13456), eq. 46.
    """

    needs: ClassVar[type] = AffineSDE
    reaches_data: ClassVar[bool] = True

    @property
    def orders(self) -> Orders:
        return Orders(ode=1, weak=1, strong=1)

    def kernel(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: int,
        past: tuple[Tensor, ...],
    ) -> tuple[Tensor, float, tuple[Tensor, ...]]:
        a = now.alpha / nxt.alpha
        square = -(now.sigma**2) * math.expm1(2 * (now.log_snr - nxt.log_snr))
        eta = process.eta_at(now)
        strength = 0.5 * (1.0 + eta**2) * square
        mean = process.predict(now, x).mix(2.0 - a, "score", strength)
        return mean, eta * math.sqrt(square), ()
