"""What happens around the loop: hooks, the progress bar, and the replay of a failed run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._progress import progress as progress_of
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.schedule.grid import Grid
from scoresde.solvers import (
    Solution,
    Solver,
    StepSolver,
)
from scoresde.solvers.base import OnStep

__all__ = [
    "HOOK_FAULT",
    "MODEL_FAULT",
    "SDE_FAULT",
    "Fault",
    "bar",
    "both",
    "not_finite",
    "replay",
]

Fault: TypeAlias = tuple[str, str, str]
"""What a state that is not finite is blamed on: the argument, what was expected, the remedy."""

MODEL_FAULT: Fault = (
    "model",
    "finite scores",
    "check the model's output there, take more steps, or end at a larger t_end",
)
HOOK_FAULT: Fault = ("on_step", "a finite state", "mend the hook")
SDE_FAULT: Fault = ("sde", "a finite state", "take more steps, or check f and g")


def replay(
    solver: Solver,
    process: Process,
    x: Tensor,
    grid: Grid,
    noise: Noise,
    on_step: OnStep | None,
    fault: Fault,
    first: int = 0,
) -> Solution:
    """The same run with a look at each step, which raises where a state is not finite.

    Noise is a function of the seed, so the run is the same; a good one never pays for the looks.
    """
    steps = [pair for segment in grid.segments for pair in pairwise(segment)]
    left = enumerate(steps, 1)

    def look(step: tuple[int, tuple[float, float]], state: Tensor, at: Fault) -> None:
        if not bool(torch.isfinite(state).all()):
            number, (before, after) = step
            where = f"at step {number}, from t = {before:.6g} to t = {after:.6g}"
            raise not_finite(at, where, state, first)

    def watch(node: Node, state: Tensor) -> Tensor | None:
        step = next(left)
        look(step, state, fault)
        changed = None if on_step is None else on_step(node, state)
        if changed is not None:
            look(step, changed, HOOK_FAULT)
        return changed

    if isinstance(solver, StepSolver):
        return solver.solve(process, x, grid, noise=noise, on_step=watch)
    solution = solver.solve(process, x, grid, noise=noise, keep_path=True)
    for step, state in zip(left, solution.path[1:], strict=True):  # type: ignore[index]
        look(step, state, fault)
    return solution


def not_finite(fault: Fault, where: str, x: Tensor, first: int) -> ValueError:
    name, what, remedy = fault
    rows = torch.isfinite(x).flatten(1).all(1).logical_not().nonzero().flatten()
    got = f"NaN or infinity in {len(rows)} of {len(x)} samples, first in {first + int(rows[0])}"
    return fail(name, f"{what} {where}", got, remedy)


def both(first: OnStep | None, second: OnStep | None) -> OnStep | None:
    if first is None or second is None:
        return first or second

    def both(node: Node, x: Tensor) -> Tensor | None:
        changed = first(node, x)
        second(node, x if changed is None else changed)
        return changed

    return both


@contextmanager
def bar(progress: bool, grid: Grid, solver: Solver, batches: int) -> Iterator[OnStep | None]:
    """A progress bar over the steps of all batches; over batches where a solver has no steps."""
    if not progress:
        yield None
        return
    stepwise = isinstance(solver, StepSolver)
    total, unit = (grid.steps * batches, "steps") if stepwise else (batches, "batches")
    with closing(progress_of(total, "sample", unit)) as bar:
        if not stepwise:
            yield None
            bar.update(batches)
            return

        def advance(node: Node, x: Tensor) -> None:
            bar.update()

        yield advance
