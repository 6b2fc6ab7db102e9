"""Schemes whose step adds one Gaussian, so that the density of a step is known."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar, final

from torch import Tensor

from scoresde._tensor import Scalar
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.solvers.base import StepSolver

__all__ = ["GaussianStep"]

ProcessT = TypeVar("ProcessT", bound=Process)
RowT = TypeVar("RowT")
PastT = TypeVar("PastT")


class GaussianStep(StepSolver[ProcessT, RowT, PastT]):
    """A scheme on a fixed grid whose step is x' = mean + std z with one standard normal z.

    The transition density of a step, N(x'; mean, std^2 I), is what sequential Monte Carlo needs;
    see `scoresde.smc`. A step of the probability flow has std = 0.
    """

    @abstractmethod
    def kernel(
        self,
        process: ProcessT,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: RowT,
        past: tuple[PastT, ...],
    ) -> tuple[Tensor, Scalar, tuple[PastT, ...]]:
        """Return (mean, std, history) of the transition from the state at `now`.

        The mean is a new tensor. The arguments are those of `step`, without the noise.
        """

    @final
    def step(
        self,
        process: ProcessT,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: RowT,
        past: tuple[PastT, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[PastT, ...]]:
        mean, std, past = self.kernel(process, x, now, nxt, row, past)
        return with_noise(mean, std, x, now, nxt, noise), past


def with_noise(mean: Tensor, std: Scalar, x: Tensor, now: Node, nxt: Node, noise: Noise) -> Tensor:
    """mean + std z, in place: the noise of a step from the state x at `now`."""
    if isinstance(std, Tensor):
        return mean.addcmul_(std, noise.normal(x, now, nxt))
    return mean.add_(noise.normal(x, now, nxt), alpha=std) if std else mean
