"""Hooks, the progress bar, the replay of a failed run, and the check of the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from scoresde._check import fail, warn
from scoresde.cond import Cond
from scoresde.model import ScoreModel, summary_of
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.sde import AffineSDE
from scoresde.solvers.base import Plan, Solution, integrate
from scoresde.solvers.run import OnStep
from scoresde.solvers.step import StepSolver
from scoresde.summary import DataRangeWarning

__all__ = [
    "HOOK_FAULT",
    "SDE_FAULT",
    "Fault",
    "bar",
    "both",
    "model_fault",
    "not_finite",
    "replay",
    "warn_of_departure",
]

Fault: TypeAlias = tuple[str, str, str]
"""The parts of the error for a state that is not finite: argument, expected value and remedy."""

MODEL_FAULT: Fault = (
    "model",
    "finite scores",
    "check the model's output there, take more steps, or end at a larger t_end",
)
GUIDED_FAULT: Fault = (
    *MODEL_FAULT[:2],
    "lower the scale of the guidance, limit it to an interval, take more steps, or end at a "
    "larger t_end",
)
HOOK_FAULT: Fault = ("on_step", "a finite state", "mend the hook")
SDE_FAULT: Fault = ("sde", "a finite state", "take more steps, or check f and g")


def model_fault(model: ScoreModel) -> Fault:
    """The fault of a model, whose remedy for a guided model is its scale."""
    return GUIDED_FAULT if _guided(model) else MODEL_FAULT


def _guided(model: ScoreModel) -> bool:
    parts = (part for part in model.modules() if isinstance(part, ScoreModel))
    return any(hasattr(part, "scale") for part in parts)


def replay(
    plan: Plan,
    process: Process,
    x: Tensor,
    noise: Noise,
    on_step: OnStep | None,
    fault: Fault,
    first: int = 0,
) -> Solution:
    """Repeat a run, checking every state, and raise at the first that is not finite.

    Since noise depends only on the seed the repeat is identical; runs that succeed pay nothing.
    """
    steps = [pair for segment in plan.schedule.grid.segments for pair in pairwise(segment)]
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

    if isinstance(plan.solver, StepSolver):
        return integrate(plan, process, x, noise, watch)
    solution = integrate(plan, process, x, noise, keep_path=True)
    for step, state in zip(left, solution.path[1:], strict=True):  # type: ignore[index]
        look(step, state, fault)
    return solution


def not_finite(fault: Fault, where: str, x: Tensor, first: int) -> ValueError:
    name, what, remedy = fault
    rows = torch.isfinite(x).flatten(1).all(1).logical_not().nonzero().flatten()
    got = f"NaN or infinity in {len(rows)} of {len(x)} samples, first in {first + int(rows[0])}"
    return fail(name, f"{what} {where}", got, remedy)


def both(first: OnStep | None, second: OnStep) -> OnStep:
    """A hook that calls two hooks; the second one gets the state that the first one returns."""
    if first is None:
        return second

    def both(node: Node, x: Tensor) -> Tensor | None:
        changed = first(node, x)
        second(node, x if changed is None else changed)
        return changed

    return both


@contextmanager
def bar(plan: Plan, batches: int, label: str = "sample") -> Iterator[OnStep | None]:
    """A progress bar over the steps of all batches, or over batches if the solver has no steps."""
    from scoresde._progress import progress as progress_of

    stepwise = isinstance(plan.solver, StepSolver)
    total, unit = (plan.schedule.steps * batches, "steps") if stepwise else (batches, "batches")
    with closing(progress_of(total, label, unit)) as bar:
        if not stepwise:
            yield None
            bar.update(batches)
            return

        def advance(node: Node, x: Tensor) -> None:
            bar.update()

        yield advance


def warn_of_departure(model: ScoreModel, plan: Plan, x: Tensor, cond: Cond) -> None:
    """Warn, with remedies, if samples x: (B, *D) differ from the training data of the model.

    Samples with noise, and models without a summary of their data, are not checked; see
    `DataSummary.departure`.
    """
    summary, sde, end = summary_of(model), plan.schedule.sde, plan.schedule.end
    if summary is None:
        return
    noisy = not plan.denoise and isinstance(sde, AffineSDE)
    if noisy and end.sigma >= 0.3 * end.alpha * summary.std:
        return
    wider = 1.0
    if cond:  # the standard deviation of a rare class may be larger than that of all data
        label = cond.get("label")
        seen = 0 if label is None or not summary.classes else len(set(label.tolist()))
        wider = summary.classes / seen if seen else math.inf
    departure = summary.departure(x, wider=wider)
    if departure is None:
        return
    remedies = ["lower the scale of the guidance"] if _guided(model) else ["train longer"]
    parts = (getattr(part, "predicts", None) for part in model.modules())
    read = next((kind for kind in parts if kind is not None), None)
    if read in ("eps", "score"):
        remedies.append(f"let the network predict v in place of {read}")
    if plan.eta == 0:
        remedies.append("sample with the solver auto_sde")
    if end.t < sde.t_end:
        remedies.append(f"end at t_end = {sde.t_end:g}")
    advice = ", or ".join(remedies)
    warn(f"samples: {departure}; {advice}", DataRangeWarning)
