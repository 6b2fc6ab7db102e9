"""The runs of a comparison: solvers, grids and numbers of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from scoresde._check import fail, instance, positive_int, wrong_type
from scoresde.calibration import Calibration
from scoresde.model import ScoreModel
from scoresde.sampler import ReverseSampler
from scoresde.sde import SDE
from scoresde.solvers import SOLVERS, SciPySolver, Solver
from scoresde.solvers.adaptive.base import AdaptiveSolver

__all__ = ["Entry", "Solvers", "plan"]

Solvers: TypeAlias = (
    "Sequence[str | Solver | Calibration] | Mapping[str, str | Solver | Calibration]"
)


@final
@dataclass(frozen=True, eq=False)
class Entry:
    """A sampler to run, with the names of its solver and grid."""

    solver: str
    grid: str
    sampler: ReverseSampler

    @property
    def method(self) -> str:
        """The first name of its solver in the registry, or the solver itself."""
        own = self.sampler.solver
        names = (name for name, (solver, _) in SOLVERS.items() if solver == own)
        known = self.solver in SOLVERS and SOLVERS[self.solver][0] == own
        return self.solver if known else next(names, repr(own))

    @property
    def stochastic(self) -> bool:
        """Whether the sampler integrates a reverse SDE."""
        return bool(self.sampler.eta != 0)

    @property
    def steps(self) -> int | None:
        """The number of steps of the grid; None if the solver chooses its steps."""
        return None if _chooses(self.sampler.solver) else self.sampler.grid.steps

    def __str__(self) -> str:
        steps = "steps of its own" if self.steps is None else f"{self.steps} steps"
        return f"{self.solver} on {self.grid}, {steps}"


def plan(
    sde: SDE,
    model: ScoreModel,
    solvers: Solvers,
    steps: Sequence[int],
    grids: Sequence[str] | None,
    t_end: float | None,
) -> list[Entry]:
    """One entry per solver, grid and number of steps; one per solver that chooses its steps."""
    if isinstance(steps, int) or not isinstance(steps, Sequence):
        raise wrong_type("steps", "a sequence of numbers of steps", steps, "pass e.g. (5, 10, 20)")
    counts = sorted(
        {positive_int("steps", n, "pass numbers of steps, e.g. (5, 10)") for n in steps}
    )
    if isinstance(grids, str):
        raise wrong_type("grids", "a sequence of names of grids", grids, f"pass [{grids!r}]")
    entries: list[Entry] = []
    for name, solver in _named(solvers).items():
        for options in _options(solver, counts, grids):
            sampler = ReverseSampler(sde, model, solver, t_end=t_end, **options)
            entries.append(Entry(name, _grid(sampler, solver), sampler))
    if not entries:
        raise fail("solvers, steps", "at least one of each", (solvers, steps), "pass e.g. 'ddim'")
    return entries


def _named(solvers: Solvers) -> dict[str, str | Solver | Calibration]:
    if isinstance(solvers, str) or not isinstance(solvers, Mapping | Sequence):
        remedy = "pass e.g. ('ddim', 'auto'), or name -> solver"
        raise wrong_type("solvers", "several solvers", solvers, remedy)
    pairs = (
        solvers.items()
        if isinstance(solvers, Mapping)
        else [(each if isinstance(each, str) else repr(each), each) for each in solvers]
    )
    named: dict[str, str | Solver | Calibration] = {}
    for name, solver in pairs:
        kinds = (str, Solver, Calibration)
        instance("solvers", solver, kinds, "pass names of solvers, solvers or calibrations")
        named[name] = solver
    return named


def _options(
    solver: str | Solver | Calibration, steps: Sequence[int], grids: Sequence[str] | None
) -> Iterator[dict[str, Any]]:  # keywords of `ReverseSampler`
    if isinstance(solver, Calibration):  # brings both
        yield {}
        return
    made = SOLVERS[solver][0] if isinstance(solver, str) and solver in SOLVERS else solver
    if _chooses(made):
        yield {"steps": 1}
        return
    for grid in grids or (None,):
        for count in steps:
            yield {"steps": count, "grid": grid}


def _chooses(solver: object) -> bool:
    """Whether the solver chooses its steps itself."""
    return isinstance(solver, AdaptiveSolver | SciPySolver)


def _grid(sampler: ReverseSampler, solver: str | Solver | Calibration) -> str:
    name = "" if _chooses(sampler.solver) else sampler.plan.grid_name
    return name or "own"
