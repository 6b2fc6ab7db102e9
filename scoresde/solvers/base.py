"""The solver protocol, and the one loop over a fixed grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from itertools import pairwise
from typing import Any, ClassVar, ParamSpec, TypeAlias, TypeVar, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, same_shape, wrong_type
from scoresde._tensor import lincomb
from scoresde.grid import Grid
from scoresde.node import Node
from scoresde.noise import RENOISE, Noise
from scoresde.process import Process
from scoresde.sde import SDE, AffineSDE

__all__ = [
    "Corrector",
    "OnStep",
    "Orders",
    "Solution",
    "Solver",
    "State",
    "StepSolver",
    "Unfinished",
    "UnfinishedWarning",
    "between",
    "check_hook",
    "enough_steps",
    "kept",
    "nodes",
]

State: TypeAlias = Any
"""What a scheme carries from step to step: None, or history and coefficients."""

OnStep: TypeAlias = Callable[[Node, Tensor], Tensor | None]
"""Called after each step with the node reached and the state; may return another state."""


@final
@dataclass(frozen=True)
class Orders:
    """Orders of convergence of a scheme; None where it does not converge or does not apply.

    Args:
        ode: global order on the probability flow.
        weak: order of the moments on the reverse SDE.
        strong: order of the paths on the reverse SDE.
    """

    ode: float | None = None
    weak: float | None = None
    strong: float | None = None


@final
@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver returns.

    Attributes:
        x: the final state, (B, *D).
        grid: the grid that was walked.
        nfe: network evaluations per sample, counted at the process.
        path: the states at all nodes, (N + 1, B, *D), if asked for.
        solver: the solver.
        seed: the seed of the noise.
        status: "done", or why the solver stopped some samples early (see `AdaptiveODE`); they
            keep the states that they had.
        stats: whatever else a solver measured.
    """

    x: Tensor
    grid: Grid
    nfe: int
    path: Tensor | None = None
    solver: Any = None
    seed: int | None = None
    status: str = "done"
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def unfinished(self) -> str:
        """How many samples were stopped, where and why, and the remedy; "" if all are done."""
        if self.status == "done":
            return ""
        reasons = {
            "budget": ("out of calls", "raise max_nfe, or loosen rtol and atol"),
            "underflow": ("with no step short enough", "loosen rtol and atol"),
        }
        name = type(self.solver).__name__
        why, remedy = reasons.get(self.status, (self.status, "see Solution.stats"))
        if not {"budget", "underflow", "t"} <= self.stats.keys():
            return f"{name} stopped before the end ({why}); {remedy}"
        rows = (self.stats["budget"] | self.stats["underflow"]).nonzero().flatten()
        at = [float(t) for t in self.stats["t"][rows].aminmax()]
        where = f"t = {at[0]:.6g}" + (f" to {at[1]:.6g}" if at[0] < at[1] else "")
        count = f"{len(rows)} of {len(self.x)} samples, first in row {int(rows[0])}"
        end = f"before t = {self.grid.end:g}"
        return f"{name} stopped {end} in {count}, at {where}, {why} ({self.status}); {remedy}"


class Unfinished(RuntimeError):
    """A solver stopped some samples before the end, where finished ones were asked for.

    Attributes:
        solution: the states as they are, with `Solution.status` and `stats`; None if there are
            none to give.
    """

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


class UnfinishedWarning(RuntimeWarning):
    """A result holds samples that a solver stopped before the end; its status says why."""


class Solver(ABC):
    """Walks a process along a grid. Frozen: it can be shared, reused and compared.

    Attributes:
        serves: "ode", "sde" or "any", the processes it can walk.
        needs: the least kind of SDE.
        differentiable: whether gradients pass through its steps.
    """

    serves: ClassVar[str] = "any"
    needs: ClassVar[type] = SDE
    differentiable: ClassVar[bool] = True

    @property
    @abstractmethod
    def orders(self) -> Orders:
        """Declared orders of convergence; the tests measure them."""

    @abstractmethod
    def solve(
        self,
        process: Process,
        x: Tensor,
        grid: Grid,
        *,
        noise: Noise,
        on_step: OnStep | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """Walk x: (B, *D) from the first time of the grid to the last."""

    @final
    def admit(
        self, process: Process, x: Tensor, grid: Grid, noise: Noise, on_step: OnStep | None
    ) -> None:
        """Raise, before any network call, what is known then to be wrong with a solve."""
        instance("process", process, Process, "pass ReverseSDE(sde, model) or ForwardSDE(sde)")
        instance("grid", grid, Grid, "pass Grid.of(times)")
        instance("noise", noise, Noise, "pass Independent(seed)")
        floating("x", x)
        check_hook(on_step)
        self.check(process.sde, process.stochastic)
        process.check_grid(grid)
        self.check_walk(process, grid)
        if process.stochastic:
            noise.check(grid.times)

    def check(self, sde: SDE, stochastic: bool) -> None:
        """Raise a TypeError or ValueError if this solver cannot serve the process."""
        if not isinstance(sde, self.needs):
            remedy = "EulerMaruyama, SciPySolver and TorchSDESolver need only f, g and the score"
            expected = f"an {self.needs.__name__} for {type(self).__name__}"
            raise wrong_type("sde", expected, sde, remedy)
        if stochastic and self.serves == "ode":
            remedy = "set eta=0 for the probability flow, or use an SDE solver (EulerMaruyama)"
            raise fail("eta", f"0 for {type(self).__name__}, which serves ODEs", "eta > 0", remedy)
        if not stochastic and self.serves == "sde":
            remedy = "set eta > 0, or use an ODE solver (Heun)"
            raise fail("eta", f"more than 0 for {type(self).__name__}", 0, remedy)

    def check_walk(self, process: Process, grid: Grid) -> None:
        """Raise a ValueError if this solver cannot walk this process along this grid."""
        return


def check_hook(on_step: object) -> None:
    """Raise a TypeError unless `on_step` is a function or None."""
    if on_step is not None and not callable(on_step):
        remedy = "pass a function of (node, x), or None"
        raise wrong_type("on_step", "a function of (node, x)", on_step, remedy)


class StepSolver(Solver):
    """A scheme on a fixed grid: a pure `step` with explicit state."""

    def init(self, process: Process, x: Tensor, leg: tuple[Node, ...]) -> State:
        """The state with which a leg begins; called once per leg."""
        return None

    @abstractmethod
    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        """One step from `now` to `nxt`; pure: a function of its arguments alone."""

    @final
    def solve(
        self,
        process: Process,
        x: Tensor,
        grid: Grid,
        *,
        noise: Noise,
        on_step: OnStep | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """The loop over the grid: the only one for every scheme on fixed nodes."""
        self.admit(process, x, grid, noise, on_step)
        calls = process.nfe
        path = [x]
        for number, times in enumerate(grid.legs):
            draw = noise.on_leg(number)
            if number:
                x = between(process.sde, x, grid.legs[number - 1][-1], times[0], draw)
            leg = nodes(process.sde, times)
            state = self.init(process, x, leg)
            for now, nxt in pairwise(leg):
                x, state = self.step(process, x, now, nxt, state, draw)
                if on_step is not None:
                    changed = on_step(nxt, x)
                    if changed is not None:
                        same_shape("on_step", changed, x, "return the new state, or None")
                        x = changed
                if keep_path:
                    path.append(x)
        return Solution(
            x=x,
            grid=grid,
            nfe=process.nfe - calls,
            path=torch.stack(path) if keep_path else None,
            solver=self,
        )


def enough_steps(order: int, grid: Grid) -> None:
    """Raise a ValueError if a multistep scheme would reach its order on no leg."""
    longest = max(len(leg) - 1 for leg in grid.legs)
    if order > longest:
        remedy = "take more steps, or a lower order, which is what so few steps amount to"
        raise fail("order", f"at most the {longest} steps of the grid", order, remedy)


P = ParamSpec("P")
R = TypeVar("R")


def kept(size: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep the results for the last `size` arguments, and do without for what has no hash.

    An SDE or an eta of the user's that can be changed is not hashable: it is read each time.
    """

    def keep(fn: Callable[P, R]) -> Callable[P, R]:
        held = lru_cache(maxsize=size)(fn)

        @wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                hash(args)
            except TypeError:
                return fn(*args, **kwargs)
            return held(*args, **kwargs)  # type: ignore[arg-type]

        return call

    return keep


def nodes(sde: SDE, times: tuple[float, ...]) -> tuple[Node, ...]:
    """The schedule at these times, in float64; kept for affine SDEs, which are values."""
    if isinstance(sde, AffineSDE):
        return _kept_nodes(sde, times)
    return tuple(sde.at(t) for t in times)


@kept(64)
def _kept_nodes(sde: AffineSDE, times: tuple[float, ...]) -> tuple[Node, ...]:
    return tuple(sde.at(t) for t in times)


def between(sde: SDE, x: Tensor, end: float, start: float, noise: Noise) -> Tensor:
    """Noise the state from the end of one leg up to the start of the next, exactly."""
    if end == start:
        return x
    if not isinstance(sde, AffineSDE):
        raise wrong_type("grid", "a single leg on an SDE that is not affine", sde, "drop the rest")
    scale, std = sde.transition(end, start)
    return lincomb((scale, x), (std, noise.normal(x, sde.at(end), sde.at(start), RENOISE)))


class Corrector(ABC):
    """Moves a state at one node without changing the marginal it is drawn from."""

    @abstractmethod
    def check(self, sde: SDE) -> None:
        """Raise if this corrector cannot serve the SDE."""

    @abstractmethod
    def correct(self, process: Process, x: Tensor, node: Node, noise: Noise) -> Tensor:
        """The corrected state, (B, *D)."""
