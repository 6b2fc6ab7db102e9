"""What a solve carries along: hooks, the counts of each sample, and the state of the walk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import same_shape, wrong_type
from scoresde._tensor import expand, lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process, ReverseSDE
from scoresde.schedule.grid import LEAST_SIGNAL
from scoresde.sde import AffineSDE
from scoresde.solvers.limits import Held, in_noise

__all__ = ["OnStep", "Run", "Tally", "check_hook", "hooked"]

OnStep: TypeAlias = Callable[[Node, Tensor], Tensor | None]
"""Called after each step with the node reached and the state; may return another state."""


def check_hook(on_step: object) -> None:
    """Raise a TypeError unless `on_step` is a function or None."""
    if on_step is not None and not callable(on_step):
        remedy = "pass a function of (node, x), or None"
        raise wrong_type("on_step", "a function of (node, x)", on_step, remedy)


def hooked(on_step: OnStep | None, node: Node, x: Tensor) -> Tensor:
    """The state after a step: that of the user's hook, if it returns one."""
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
        accepted, rejected: steps.
        nfe: network evaluations.
        budget, underflow: whether the sample was stopped, for want of evaluations or of a step
            short enough.
        t: the time that it has reached.
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
        """The samples that nothing has stopped."""
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
    """What a solve carries from segment to segment.

    Attributes:
        process: the process.
        noise: the noise of the segment.
        on_step: the user's hook.
        path: the states at the nodes so far, or None if they are not kept.
        tally: the counts of each sample, of a solver that keeps some.
        extra: whatever else a solver measures, for `Solution.stats`.
        done: the number of steps of the segments before.
    """

    process: Process
    noise: Noise
    on_step: OnStep | None
    path: list[Tensor] | None
    tally: Tally | None
    extra: dict[str, Any] = field(default_factory=dict)  # each solver's own
    done: int = 0

    def renoise(self, x: Tensor, now: Node, nxt: Node) -> Tensor:
        """Noise the samples that nothing has stopped from one segment up to the next, exactly."""
        if now.t == nxt.t:
            return x
        sde = self.process.sde
        if not isinstance(sde, AffineSDE):
            expected = "a single segment on an SDE that is not affine"
            raise wrong_type("grid", expected, sde, "drop the rest")
        scale, std = sde.transition(now.t, nxt.t)
        noisy = lincomb((scale, x), (std, self.noise.stream("renoise").draw(x)))
        if self.tally is None:
            return noisy
        return torch.where(expand(self.tally.alive.to(x.device), x), noisy, x)

    def reached(self, node: Node, x: Tensor) -> Tensor:
        """The state at a node, after the hook, which is kept if a path is."""
        x = hooked(self.on_step, node, x)
        if self.path is not None:
            self.path.append(x)
        return x

    def leave_noise(
        self, x: Tensor, nodes: tuple[Node, ...], *, exactly: bool
    ) -> tuple[Tensor, tuple[Node, ...]]:
        """Hold x_0hat out of pure noise, for solvers that cannot start there.

        Args:
            x: (B, *D), the state at the first node.
            nodes: of the segment.
            exactly: stop at alpha/sigma = 1e-3 where the first node beyond it is less noisy, for
                solvers whose steps are not those of the grid.

        Returns:
            The state and the nodes that are left, from its own on.
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
