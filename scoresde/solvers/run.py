"""The state of a solve: hooks, the counts of each sample, and the path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast, final, runtime_checkable

import torch
from torch import Tensor

from scoresde._check import same_shape, wrong_type
from scoresde._tensor import expand, lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process, ReverseSDE
from scoresde.schedule.grid import LEAST_SIGNAL, in_noise
from scoresde.sde import AffineSDE
from scoresde.solvers.limits import Held

__all__ = ["BatchHook", "OnStep", "Run", "Tally", "Watch", "check_hook", "hooked"]

OnStep: TypeAlias = Callable[[Node, Tensor], Tensor | None]
"""A function called after each step with the node and the state; it may return another state."""

Watch: TypeAlias = Callable[[Any], None]  # a `Track`, which is defined above this module
"""A function called with the track of an adaptive solver after every attempt of a step."""


@runtime_checkable
class BatchHook(Protocol):
    """A hook that depends on the samples it sees, such as `RePaint`."""

    def of_batch(self, noise: Noise, rows: slice, n: int) -> OnStep:
        """The hook for the samples `rows` of the n of a run.

        Args:
            noise: the noise of the run, whose first sample is that of the batch.
            rows: the samples of the batch.
            n: the number of samples of the run.
        """

    def at_end(self, x0: Tensor, rows: slice) -> Tensor:
        """The samples `rows` of the run as the result shows them, from the denoised states x0."""


def check_hook(on_step: object) -> None:
    """Raise a TypeError unless `on_step` is a function or None."""
    if on_step is not None and not callable(on_step):
        remedy = "pass a function of (node, x), or None"
        raise wrong_type("on_step", "a function of (node, x)", on_step, remedy)


def hooked(on_step: OnStep | None, node: Node, x: Tensor) -> Tensor:
    """The state after a step, or the state that the hook returns in its place."""
    changed = None if on_step is None else on_step(node, x)
    if changed is None:
        return x
    same_shape("on_step", changed, x, "return the new state, or None")
    return changed


@final
@dataclass(eq=False)
class Tally:
    """Counts of every sample over all segments, (B,) tensors on the CPU.

    Attributes:
        accepted, rejected: the numbers of accepted and rejected steps.
        nfe: the number of network evaluations.
        budget, underflow: whether the sample was stopped because it had used all evaluations, or
            because the step became too short.
        t: the time of the sample.
    """

    accepted: Tensor
    rejected: Tensor
    nfe: Tensor
    budget: Tensor
    underflow: Tensor
    t: Tensor

    @classmethod
    def of(cls, n: int, t: float) -> Tally:
        """The counts of n samples that start at time t."""
        count = torch.zeros(n, dtype=torch.int64, device="cpu")
        flag = torch.zeros(n, dtype=torch.bool, device="cpu")
        times = torch.full((n,), t, dtype=torch.float64, device="cpu")
        return cls(count, count.clone(), count.clone(), flag, flag.clone(), times)

    @property
    def alive(self) -> Tensor:
        """The samples that have not been stopped."""
        return ~(self.budget | self.underflow)

    @property
    def status(self) -> str:
        """ "done", or the reason for which a sample was stopped."""
        if bool(self.underflow.any()):
            return "underflow"
        return "budget" if bool(self.budget.any()) else "done"

    def stats(self) -> dict[str, Tensor]:
        """All counts by name."""
        names = ("accepted", "rejected", "nfe", "budget", "underflow", "t")
        return {name: getattr(self, name) for name in names}


@final
@dataclass(eq=False)
class Run:
    """The state of a solve across segments.

    Attributes:
        process: the process.
        noise: the noise of the segment.
        on_step: the hook.
        path: the states at the nodes so far, or None if they are not kept.
        tally: the counts of each sample, or None if the solver keeps none.
        extra: other statistics of the solver, for `Solution.stats`.
        done: the number of steps of the earlier segments.
        watch: what an adaptive solver shows its progress to, or None.
    """

    process: Process
    noise: Noise
    on_step: OnStep | None
    path: list[Tensor] | None
    tally: Tally | None
    extra: dict[str, Any] = field(default_factory=dict)  # each solver's own
    done: int = 0
    watch: Watch | None = None

    def renoise(self, x: Tensor, now: Node, nxt: Node) -> Tensor:
        """Add noise, from one segment up to the next, to the samples that are not stopped."""
        if now.t == nxt.t:
            return x
        sde = cast(AffineSDE, self.process.sde)  # as `Plan` has checked
        scale, std = sde.transition(now.t, nxt.t)
        noisy = lincomb((scale, x), (std, self.noise.stream("renoise").draw(x)))
        if self.tally is None:
            return noisy
        return torch.where(expand(self.tally.alive.to(x.device), x), noisy, x)

    def reached(self, node: Node, x: Tensor) -> Tensor:
        """Call the hook at a node, add the state to the path if there is one, and return it."""
        x = hooked(self.on_step, node, x)
        if self.path is not None:
            self.path.append(x)
        return x

    def leave_noise(
        self, x: Tensor, nodes: tuple[Node, ...], *, exactly: bool
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """Make the steps from pure noise with x_0hat held fixed, for solvers that cannot.

        Args:
            x: the state at the first node, (B, *D).
            nodes: the nodes of the segment.
            exactly: stop at alpha/sigma = 1e-3 if the next node is less noisy, for solvers whose
                steps are not those of the grid.

        Returns:
            The state, and the remaining nodes, which start with the node of the state.
        """
        process = self.process
        while isinstance(process, ReverseSDE) and len(nodes) > 1 and in_noise(nodes[0], nodes[1]):
            (now, nxt), sde = nodes[:2], process.sde
            cut = exactly and nxt.log_snr > math.log(LEAST_SIGNAL)
            if cut and isinstance(sde, AffineSDE):
                nxt = sde.at(sde.time_of(math.log(LEAST_SIGNAL)))
            x = Held.of(now, nxt, process.eta).step(process, x, now, nxt, self.noise)
            if cut:
                return x, (nxt, *nodes[1:])
            x, nodes = self.reached(nxt, x), nodes[1:]
        return x, nodes
