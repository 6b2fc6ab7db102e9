"""Schemes on a fixed grid.

Such a scheme is a pure function `step`: it computes the state at the next node from the state at
one node, the row of coefficients of the step and the predictions kept from earlier steps. The rows
hold everything that depends only on the schedule; `prepare` computes them once, in float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Generic, TypeVar, final

from torch import Tensor

from scoresde._check import fail, whole
from scoresde._tensor import Scalar
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, Process
from scoresde.schedule.grid import Grid, Schedule, in_noise
from scoresde.sde import SDE
from scoresde.solvers.base import Coefficients, Solver
from scoresde.solvers.limits import Held
from scoresde.solvers.run import OnStep, Run, hooked

__all__ = ["GaussianStep", "StepSolver", "check_enough_steps", "corrector_nodes", "scheme_steps"]

ProcessT = TypeVar("ProcessT", bound=Process)
RowT = TypeVar("RowT")
PastT = TypeVar("PastT")


class StepSolver(Solver, Generic[ProcessT, RowT, PastT]):
    """A scheme on a fixed grid: a pure `step` with explicit state.

    The scheme makes the steps between the limits of the log-SNR; the steps at the limits hold
    x_0hat fixed, which is exact in the limit (see `scoresde.solvers.limits`).

    Attributes:
        reaches_data: whether the scheme can make a step that ends at sigma = 0.
    """

    reaches_data: ClassVar[bool] = False

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> Sequence[RowT]:
        """The coefficients of the steps between these nodes, one row each, in float64.

        By default a row is the index of the step, for schemes that read only the nodes.
        """
        return range(len(nodes) - 1)  # type: ignore[return-value]  # of schemes with RowT = int

    def rows_like(self, rows: tuple[Any, ...], like: Tensor) -> tuple[Any, ...]:
        """Convert the rows of a segment to the dtype and device of states such as `like`."""
        return rows

    @abstractmethod
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
        """Return the state at the next node, and the history for the steps after it.

        Args:
            process: the process; its predictions are the only network calls.
            x: the state at `now`, (B, *D).
            now, nxt: the nodes of the step.
            row: the coefficients of the step.
            past: the history that the step before returned; () at the start of a segment.
            noise: the noise of the segment.
        """

    @final
    def prepare(self, schedule: Schedule, eta: Eta | None) -> Coefficients:
        table = []
        for nodes in schedule.segments:
            first, last = (
                (0, len(nodes) - 1) if eta is None else scheme_steps(nodes, self.reaches_data)
            )
            own = self.rows(schedule.sde, nodes[first : last + 1], eta) if first < last else ()
            held = [
                None if first <= i < last or eta is None else Held.of(*pair, eta)
                for i, pair in enumerate(pairwise(nodes))
            ]
            table.append((*held[:first], *own, *held[last:]))
        return tuple(table)

    @final
    def steps(
        self,
        process: Process,
        x: Tensor,
        nodes: Sequence[Node],
        rows: Sequence[Any],
        noise: Noise,
        on_step: OnStep | None = None,
    ) -> Iterator[tuple[Tensor, tuple[PastT, ...]]]:
        """Yield the state at each node after the first, with the history for the next step."""
        past: tuple[PastT, ...] = ()
        for (now, nxt), row in zip(pairwise(nodes), rows, strict=True):
            if isinstance(row, Held):
                x = row.step(process, x, now, nxt, noise)  # type: ignore[arg-type]  # see Plan
            else:
                x, past = self.step(process, x, now, nxt, row, past, noise)  # type: ignore[arg-type]
            if on_step is not None:
                x = hooked(on_step, nxt, x)
            yield x, past

    @final
    def solve_segment(
        self, run: Run, x: Tensor, nodes: tuple[Node, ...], rows: tuple[Any, ...]
    ) -> Tensor:
        rows = self.rows_like(rows, x)
        state = x
        for state, _ in self.steps(run.process, x, nodes, rows, run.noise, run.on_step):
            if run.path is not None:
                run.path.append(state)
        return state


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
        if isinstance(std, Tensor):
            return mean.addcmul_(std, noise.normal(x, now, nxt)), past
        return (mean.add_(noise.normal(x, now, nxt), alpha=std) if std else mean), past


def scheme_steps(nodes: tuple[Node, ...], reaches_data: bool) -> tuple[int, int]:
    """The range (first, stop) of the steps of a segment that the scheme makes.

    All other steps hold x_0hat fixed. `reaches_data` says whether the scheme can end at sigma = 0.
    """
    first, last = 0, len(nodes) - 1
    if not nodes[0].affine:
        return first, last
    if nodes[0].t < nodes[-1].t:
        if nodes[-1].alpha == 0.0:
            remedy = "end it below T, or encode with AdaptiveODE"
            expected = "a segment that ends before alpha = 0"
            raise fail("grid", expected, f"t = {nodes[-1].t:g}", remedy)
        return first, last
    while first < last and in_noise(nodes[first], nodes[first + 1]):
        first += 1
    return first, last - (first < last and nodes[-1].sigma == 0.0 and not reaches_data)


def corrector_nodes(name: str, value: object, most: int, remedy: str) -> int:
    """`value` as the number of nodes of a corrector, 0 for none, of predictors of order `most`."""
    number = whole(value)
    if number is None or number not in (0, *range(2, most + 2)):
        raise fail(name, f"0 or an integer from 2 to {most + 1}", value, remedy)
    return number


def check_enough_steps(order: int, grid: Grid) -> None:
    """Raise a ValueError if no segment has enough steps for a multistep scheme's order."""
    longest = max(len(segment) - 1 for segment in grid.segments)
    if order > longest:
        remedy = "take more steps, or use a lower order"
        raise fail("order", f"at most the {longest} steps of the grid", order, remedy)
