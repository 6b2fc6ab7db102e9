"""The search for solver, nodes and factors of a stochastic process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

from scoresde.calibration.laws import Laws
from scoresde.calibration.optimise import Found
from scoresde.calibration.result import Errors
from scoresde.calibration.strategy import BaseSearch, automatic, distinct
from scoresde.metrics.kernels import Estimate
from scoresde.solvers.exponential import Adams

__all__ = ["NOISY", "NOISY_METHODS", "NoisySearch"]

NOISY_METHODS = ("optimise",)
"""The methods of placing nodes that serve a process with noise."""

NOISY: tuple[Adams, ...] = (
    Adams(1),
    Adams(2, variant="midpoint"),
    Adams(3, variable="rho"),
    Adams(2, parametrisation="v"),
    Adams(2, parametrisation="flow", variable="flow"),
)
"""The solvers that a calibration with noise chooses from: ancestral sampling, the SDE form of
DPM-Solver++(2M), ER-SDE-3 and SA-Solver in two coordinates."""

_GRIDS = ("tapered", "log_snr")
_SURE = 2.0  # standard errors by which a result has to be better than the start


class _Judged(NamedTuple):
    """The distances of a candidate on the held-back trajectories."""

    errors: Errors
    energy: Estimate
    distance: float


@final
@dataclass(frozen=True, eq=False)
class NoisySearch(BaseSearch[Laws]):
    """The calibration of a stochastic process for one number of steps, out of `NOISY`."""

    def run(self, method: str) -> tuple[Found, Found, Errors, Errors, str]:
        """See `BaseSearch.run`. The only method is "optimise".

        The result has the least distance on the held-back trajectories. It is the start
        unless the energy distance of the start is larger by two standard errors. Nothing is
        searched for where the start cannot be told from the fine run.
        """
        ranked = self._ranked() if self.solver is not None else []
        start = self._scored(ranked[0] if ranked else automatic(self.group, self.steps), self.some)
        before = self._judged(start)
        if before.energy.value < _SURE * before.energy.null_std:
            count = self.held.stop - self.held.start
            note = f"{count} samples of the start cannot be told from those of the fine run"
            return start, start, before.errors, before.errors, note
        ranked = ranked or self._ranked()
        leaders = distinct(sorted([start, *ranked], key=lambda f: f.loss))[: self.effort.leaders]
        found, note = self._optimised([self._scored(f, self.train) for f in leaders])
        after, best = min(((self._judged(f), f) for f in found), key=lambda pair: pair[0].distance)
        sure = _SURE * max(before.energy.std_error, after.energy.std_error)
        if not after.energy.value < before.energy.value - sure:
            why = "no result is better than the start by more than the error of sampling. "
            return start, start, before.errors, before.errors, why + note
        return start, best, before.errors, after.errors, note

    @property
    def some(self) -> slice:
        """The trajectories that candidates are ranked on."""
        return slice(0, self.effort.ranked)

    def _judged(self, found: Found) -> _Judged:
        x = self.group.run(found.scheme, self.group.times(found.log_snr), self.held)
        group, held = self.group, self.held
        errors = Errors.of(group.distances(x, held))
        return _Judged(errors, group.energy(x, held), group.distance(x, held))

    def _ranked(self) -> list[Found]:
        """The solvers on named grids, the best first."""
        solvers = NOISY if self.solver is None else (self.solver,)
        found = [
            self._scored(Found(0.0, solver, at), self.some)
            for solver in solvers
            if solver.order <= self.steps
            for at in self._named(_GRIDS)
        ]
        return sorted(found, key=lambda f: f.loss)
