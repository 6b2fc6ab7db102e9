"""The search for solver and nodes of one number of steps, and that on the probability flow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar, final

from scoresde.calibration.budget import CHECKED, FEW, RANKED, Effort
from scoresde.calibration.estimate import ErrorEstimate
from scoresde.calibration.optimise import (
    Found,
    check_gradient,
    deviations,
    equidistribute,
    minimise,
    shortest,
    warp,
)
from scoresde.calibration.result import Errors
from scoresde.calibration.trajectories import Array, NoGradient, Path, Runs, Trajectories
from scoresde.schedule.grid import make_grid
from scoresde.solvers.choice import choose_for
from scoresde.solvers.exponential import Adams
from scoresde.solvers.registry import SOLVERS

__all__ = ["CANDIDATES", "METHODS", "BaseSearch", "Search", "automatic", "distinct"]

CANDIDATES: tuple[Adams, ...] = (
    Adams(2),
    Adams(2, variant="midpoint"),
    Adams(2, 3),
    Adams(3, 4),
    Adams(4, 5),
    Adams(2, parametrisation="eps", variant="midpoint"),
    Adams(3, parametrisation="eps", variant="ipndm"),
    Adams(3, parametrisation="eps"),
    Adams(4, parametrisation="eps"),
    Adams(3, 4, "eps"),
    Adams(1, parametrisation="v"),
    Adams(2, parametrisation="v"),
    Adams(2, parametrisation="v", variant="midpoint"),
    Adams(2, 3, "v"),
    Adams(3, 4, "v"),
    Adams(4, 5, "v"),
    Adams(2, 3, "flow", "flow"),
    Adams(3, 4, "flow", "flow"),
)
"""The solvers that a calibration chooses from, unless it is given one."""

_GRIDS = ("log_snr", "quadratic", "karras", "tapered")
_RMS = 1.25  # the largest factor to the root mean square of the held-back errors
_FACTORS = "the learned factors were dropped: "


def automatic(group: Runs, steps: int) -> Found:
    """The automatic choice of solver and grid for a number of steps, with an unknown loss."""
    sde, scale = group.sde, group.model.data_scale
    kind = "sde" if group.eta else "ode"
    choice = choose_for(sde, kind, steps, scale, group.t_end, group.t_end, False)
    solver, _ = SOLVERS[choice.solver]
    grid = make_grid(choice.grid, sde, steps, t_end=group.t_end, data_scale=scale)
    return Found(math.inf, solver, group.log_snr(grid))  # type: ignore[arg-type]  # all are Adams


R = TypeVar("R", bound=Runs)


@dataclass(frozen=True, eq=False)
class BaseSearch(ABC, Generic[R]):
    """The calibration for one number of steps: what both kinds of process have in common.

    Args:
        group: the trajectories.
        steps: the number of steps.
        solver: the only solver to consider, or None for all candidates.
        effort: how much is done.
        train, held: the trajectories that are used, and those held back.

    Attributes:
        failed: why candidates were not optimised.
    """

    group: R
    steps: int
    solver: Adams | None
    effort: Effort
    train: slice
    held: slice
    failed: list[NoGradient] = field(default_factory=list, init=False)

    @abstractmethod
    def run(self, method: str) -> tuple[Found, Found, Errors, Errors, str]:
        """The start, the result, their errors on the held-back trajectories, and a note."""

    def errors(self, found: Found, which: slice) -> Errors:
        """The errors of a candidate on some trajectories."""
        return Errors.of(self.group.errors(found.scheme, self.group.times(found.log_snr), which))

    def _scored(self, found: Found, which: slice) -> Found:
        return replace(found, loss=self.group.loss(found.scheme, found.log_snr, which))

    def _named(self, grids: Iterable[str]) -> list[Array]:
        """The log-SNRs of grids of these names."""
        sde, scale, end = self.group.sde, self.group.model.data_scale, self.group.t_end
        return [
            self.group.log_snr(make_grid(g, sde, self.steps, t_end=end, data_scale=scale))
            for g in grids
        ]

    def _optimised(self, leaders: list[Found]) -> tuple[list[Found], str]:
        """The nodes of the leaders are optimised, then nodes and factors of the best."""
        if self.steps > 1:
            leaders = [self._minimised(f, self.effort.short, False) for f in leaders]
        nodes = min(leaders, key=lambda f: f.loss)
        found = [nodes, self._minimised(nodes, self.effort.iterations, True)]
        return found, f"not all was optimised: {self.failed[-1]}" if self.failed else ""

    def _minimised(self, found: Found, iterations: int, learn: bool) -> Found:
        """Optimise a candidate; one without a finite gradient stays as it was."""
        try:
            return minimise(self.group, found, self.train, self.effort.batch, iterations, learn)
        except NoGradient as reason:
            self.failed.append(reason)
            return found


@final
@dataclass(frozen=True, eq=False)
class Search(BaseSearch[Trajectories]):
    """The calibration of the probability flow for one number of steps.

    Beside the arguments of `BaseSearch`, whose candidates are `CANDIDATES`, it takes one more.

    Args:
        path: the exact trajectories on a fine grid.
    """

    path: Path

    def run(self, method: str) -> tuple[Found, Found, Errors, Errors, str]:
        """See `BaseSearch.run`.

        The held-back trajectories select the result, so their errors of it are a little too small.
        Candidates that raise the root mean square of the errors too far are refused.
        """
        ranked = self._ranked()
        start = (
            ranked[0]
            if self.solver is not None
            else self._first(automatic(self.group, self.steps))
        )
        found, note = METHODS[method](self, sorted([start, *ranked], key=lambda f: f.loss))
        errors = [self.errors(f, self.held) for f in (start, *found)]
        order = sorted(range(1, len(errors)), key=lambda i: errors[i].typical)
        most = _RMS * errors[0].rms
        safe = [i for i in order if errors[i].rms <= most]
        best = safe[0] if safe else order[0]
        if not safe and errors[best].typical < errors[0].typical:
            worse = f"{errors[best].rms:.3g} against {errors[0].rms:.3g}"
            note = (
                "fell back to the start: held-back trajectories have a larger root mean square "
                f"error, {worse}. {note}"
            )
            return start, start, errors[0], errors[0], note
        if not errors[best].typical < errors[0].typical:
            if errors[best] != errors[0]:
                worse = f"{errors[best].typical:.3g} against {errors[0].typical:.3g}"
                note = (
                    "fell back to the start: held-back trajectories have larger errors, "
                    f"{worse}. {note}"
                )
            return start, start, errors[0], errors[0], note
        if found[-1].factors is not None and found[best - 1].factors is None:
            kind = "rms" if errors[-1].typical < errors[best].typical else "typical"
            worse = f"{getattr(errors[-1], kind):.3g} against {getattr(errors[best], kind):.3g}"
            larger = "larger errors" if kind == "typical" else "a larger root mean square error"
            note = f"{_FACTORS}held-back trajectories have {larger}, {worse}. {note}"
        return start, found[best - 1], errors[0], errors[best], note

    @property
    def solvers(self) -> tuple[Adams, ...]:
        """The solvers to consider."""
        if self.solver is not None:
            return (self.solver,)
        return tuple(s for s in CANDIDATES if s.order <= self.steps)

    def _ranked(self) -> list[Found]:
        """Solvers on named grids, the best first: ranked by estimates, and the first by runs."""
        scale = self.group.model.data_scale
        estimate = ErrorEstimate(self.group.sde, self.path, 1.0 if scale is None else scale[0])
        named = self._named(_GRIDS)
        found = [Found(estimate.loss(s, at), s, at) for s in self.solvers for at in named]
        found = sorted(found, key=lambda f: f.loss)
        return sorted(map(self._first, _varied(found)[:RANKED]), key=lambda f: f.loss)

    def _first(self, found: Found) -> Found:
        """The loss of a candidate on the first few trajectories."""
        return self._scored(found, slice(0, FEW))

    def optimise(self, starts: list[Found]) -> tuple[list[Found], str]:
        """Optimise the nodes of the leaders, then nodes and factors of the best."""
        group, effort = self.group, self.effort
        placed = [Found(0.0, s, equidistribute(self.path, s, self.steps)) for s in self.solvers]
        if self.solver is not None and self.steps > 1:
            starts = sorted([*starts, *map(self._first, placed)], key=lambda f: f.loss)
        leaders = distinct(starts)[: effort.leaders]
        leaders = [self._scored(f, self.train) for f in leaders]
        try:
            check_gradient(group, leaders[0], slice(0, CHECKED))
        except NoGradient as reason:
            if self.steps == 1:
                return leaders[:1], "one step has no nodes to place"
            made = len(leaders) * effort.short + effort.iterations
            runs = max(1, 3 * effort.batch * made // (self.train.stop * len(leaders)))
            tried = [warp(group, found, self.train, runs) for found in leaders]
            note = f"optimised without gradients: {reason}"
            return [min(tried, key=lambda f: f.loss)], note
        return self._optimised(leaders)

    def equidistributed(self, starts: list[Found]) -> tuple[list[Found], str]:
        """Spread the local errors of each solver evenly."""
        nodes = [(s, equidistribute(self.path, s, self.steps)) for s in self.solvers]
        return self._best(nodes), ""

    def gits(self, starts: list[Found]) -> tuple[list[Found], str]:
        """The shortest path of deviations, for each parametrisation."""
        lam = self.path.log_snr
        kinds = {s.parametrisation for s in self.solvers}
        nodes = {k: lam[shortest(deviations(self.path, k), self.steps)] for k in kinds}
        return self._best([(s, nodes[s.parametrisation]) for s in self.solvers]), ""

    def _best(self, nodes: list[tuple[Adams, Array]]) -> list[Found]:
        scored = [self._first(Found(0.0, solver, at)) for solver, at in nodes]
        return [min(scored, key=lambda f: f.loss)]


def _varied(found: list[Found]) -> list[Found]:
    """The first two of each solver."""
    seen: dict[Adams, int] = {}
    kept = []
    for f in found:
        seen[f.solver] = seen.get(f.solver, 0) + 1
        if seen[f.solver] <= 2:
            kept.append(f)
    return kept


def distinct(found: list[Found]) -> list[Found]:
    """The first of each solver."""
    first: dict[Adams, Found] = {}
    for f in found:
        first.setdefault(f.solver, f)
    return list(first.values())


METHODS: dict[str, Callable[[Search, list[Found]], tuple[list[Found], str]]] = {
    "optimise": Search.optimise,
    "equidistribute": Search.equidistributed,
    "gits": Search.gits,
}
"""The methods of placing nodes."""
