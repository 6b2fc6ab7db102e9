"""The solver protocol, and the one loop over a fixed grid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from itertools import pairwise
from typing import Any, ClassVar, ParamSpec, TypeAlias, TypeVar, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, same_shape, show, wrong_type
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process, ReverseSDE
from scoresde.schedule.grid import LEAST_SIGNAL, Grid
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
    "held",
    "hooked",
    "in_noise",
    "kept",
    "leave_noise",
    "nodes",
    "reverse",
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
@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        path = "" if self.path is None else f", path={show(self.path)}"
        told = f"{self.grid.steps} steps, nfe={self.nfe}, {self.solver!r}, status={self.status!r}"
        return f"Solution({show(self.x)}{path}, {told})"

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
    """A scheme on a fixed grid: a pure `step` with explicit state.

    Its steps are those between the limits of the log-SNR. Out of (almost) pure noise, and into
    sigma = 0, the loop steps with x_0hat held fixed, which is exact in the limit (see `held`):
    there the history and the weights of a scheme mean nothing.

    Attributes:
        reaches_data: whether the scheme itself can make a step that ends at sigma = 0.
    """

    reaches_data: ClassVar[bool] = False

    def init(self, process: Process, x: Tensor, segment: tuple[Node, ...]) -> State:
        """The state with which a segment begins; called once per segment."""
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
        for number, times in enumerate(grid.segments):
            draw = noise.on_segment(number)
            if number:
                x = between(process.sde, x, grid.segments[number - 1][-1], times[0], draw)
            segment = nodes(process.sde, times)
            first, last = _own_steps(process, segment, self.reaches_data)
            state = self.init(process, x, segment[first : last + 1]) if first < last else None
            for i, (now, nxt) in enumerate(pairwise(segment)):
                if first <= i < last:
                    x, state = self.step(process, x, now, nxt, state, draw)
                else:
                    x = held(process, x, now, nxt, draw)
                x = hooked(on_step, nxt, x)
                if keep_path:
                    path.append(x)
        return Solution(
            x=x,
            grid=grid,
            nfe=process.nfe - calls,
            path=torch.stack(path) if keep_path else None,
            solver=self,
        )


def hooked(on_step: OnStep | None, node: Node, x: Tensor) -> Tensor:
    """The state after a step: what the user's hook made of it, if anything."""
    changed = None if on_step is None else on_step(node, x)
    if changed is None:
        return x
    same_shape("on_step", changed, x, "return the new state, or None")
    return changed


FAR = 7.0
"""A step in the log-SNR that no scheme is made for."""


def in_noise(process: Process, now: Node, nxt: Node) -> bool:
    """Whether a step down leads out of (almost) pure noise.

    It starts at alpha < 1e-3 and ends there too, or is far too long for a scheme. With data of
    about unit size x_0hat moves by O(alpha) there, so holding it costs O(alpha^2).
    """
    if not isinstance(process, ReverseSDE) or not now.affine or now.t < nxt.t:
        return False
    if now.alpha >= LEAST_SIGNAL:
        return False
    return bool(nxt.alpha <= LEAST_SIGNAL or nxt.log_snr - now.log_snr > FAR)


def _own_steps(process: Process, segment: tuple[Node, ...], reaches_data: bool) -> tuple[int, int]:
    """The first of the scheme's own steps and the one after its last; all others are `held`."""
    first, last = 0, len(segment) - 1
    if not isinstance(process, ReverseSDE) or not segment[0].affine:
        return first, last
    if segment[0].t < segment[-1].t:
        if segment[-1].alpha == 0.0:
            remedy = "end it below T, or encode with AdaptiveODE"
            raise fail(
                "grid", "a segment that ends before alpha = 0", f"t = {segment[-1].t:g}", remedy
            )
        return first, last
    while first < last and in_noise(process, segment[first], segment[first + 1]):
        first += 1
    return first, last - (first < last and segment[-1].sigma == 0.0 and not reaches_data)


def held(process: Process, x: Tensor, now: Node, nxt: Node, noise: Noise) -> Tensor:
    """A step down of the reverse SDE with x_0hat held fixed, also between infinite log-SNRs.

    With h the step in lambda and k = eta^2 at its start: x_t = sigma_t/sigma_s e^(-k h) x_s +
    alpha_t (1 - e^(-(1 + k) h)) x_0hat + sigma_t sqrt(1 - e^(-2 k h)) z. Out of pure noise (h
    infinite) that is sigma_t/sigma_s x_s + alpha_t x_0hat for the probability flow, and
    alpha_t x_0hat + sigma_t z with noise: the last step of a chain with beta_N = 1. Into sigma =
    0 it is alpha_t x_0hat.
    """
    walk = reverse(process)
    k, h = walk.eta_at(now) ** 2, nxt.log_snr - now.log_snr
    decay = k * h if k else 0.0
    keep = nxt.sigma / now.sigma * math.exp(-decay)
    spread = nxt.sigma * math.sqrt(-math.expm1(-2.0 * decay))
    fresh = [(spread, noise.normal(x, now, nxt))] if spread else []
    pull = -nxt.alpha * math.expm1(-(1.0 + k) * h)
    prediction = walk.predict(now, x)
    prediction.check_signal()
    return prediction.mix(keep, "x0", pull, *fresh)


def leave_noise(
    process: Process,
    x: Tensor,
    segment: tuple[float, ...],
    noise: Noise,
    on_step: OnStep | None = None,
    *,
    exactly: bool = False,
) -> tuple[list[Tensor], Tensor, tuple[float, ...]]:
    """The start of a segment for solvers that cannot make it: `held` steps out of pure noise.

    Args:
        process, x, segment, noise, on_step: as the solver has them.
        exactly: stop at alpha/sigma = 1e-3 where the first node beyond it is less noisy, for
            solvers whose steps are not those of the grid.

    Returns:
        The states at the nodes passed, the state, and the rest of the segment from there.
    """
    passed: list[Tensor] = []
    while len(segment) > 1:
        now, nxt = nodes(process.sde, segment[:2])
        if not in_noise(process, now, nxt):
            break
        sde: Any = process.sde
        if exactly and nxt.log_snr > math.log(LEAST_SIGNAL):
            middle = sde.at(sde.time_of(math.log(LEAST_SIGNAL)))
            return passed, held(process, x, now, middle, noise), (middle.t, *segment[1:])
        x = hooked(on_step, nxt, held(process, x, now, nxt, noise))
        passed.append(x)
        segment = segment[1:]
    return passed, x, segment


def reverse(process: Process) -> ReverseSDE:
    """The process as a reverse SDE, which schemes that read the prediction walk along."""
    if not isinstance(process, ReverseSDE):
        raise TypeError(
            f"process: expected a ReverseSDE, got {type(process).__name__}; "
            "only EulerMaruyama walks the forward SDE"
        )
    return process


def enough_steps(order: int, grid: Grid) -> None:
    """Raise a ValueError if a multistep scheme would reach its order on no segment."""
    longest = max(len(segment) - 1 for segment in grid.segments)
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
    """Noise the state from the end of one segment up to the start of the next, exactly."""
    if end == start:
        return x
    if not isinstance(sde, AffineSDE):
        raise wrong_type(
            "grid", "a single segment on an SDE that is not affine", sde, "drop the rest"
        )
    scale, std = sde.transition(end, start)
    return lincomb((scale, x), (std, noise.stream("renoise").draw(x)))


class Corrector(ABC):
    """Moves a state at one node without changing the marginal it is drawn from."""

    @abstractmethod
    def check(self, sde: SDE) -> None:
        """Raise if this corrector cannot serve the SDE."""

    @abstractmethod
    def correct(self, process: Process, x: Tensor, node: Node, noise: Noise) -> Tensor:
        """The corrected state, (B, *D)."""
