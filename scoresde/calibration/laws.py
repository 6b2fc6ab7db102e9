"""Runs of a stochastic process, and how far their distribution is from that of a fine run.

With noise the end of one path says little about a solver, since another path from the same state
ends elsewhere. So the distributions of the ends are compared, by two distances:

- the energy distance (Szekely and Rizzo 2013), whose gradient is followed. It is 0 only for equal
  distributions, and its estimate is unbiased for any number of samples, so that the gradient of a
  small batch is right on average. Its standard error says whether a result is better than the
  start;
- the Wasserstein distance along random directions, by which candidates are compared and which is
  reported, in the unit of the data: the energy distance says less about the tails. It is not 0 for
  two samples of one distribution; `Laws.accuracy` is what it is then.

With conditions, each of them has `REPEATS` trajectories, and samples are compared with those of
the fine run that have the same condition: a distance of the samples of all conditions together
would not see that those of one are too narrow. The Wasserstein distance of so few samples is the
least for distributions that are too narrow, so the energy distance compares candidates there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scoresde._tensor import wide
from scoresde.calibration.budget import REPEATS
from scoresde.calibration.trajectories import Array, Runs, Scheme
from scoresde.metrics import energy_distance
from scoresde.metrics.kernels import Estimate
from scoresde.metrics.wasserstein import line_cost
from scoresde.noise import Independent
from scoresde.schedule.grid import Grid

__all__ = ["Laws"]

_DIRECTIONS = 64
_RESOLVED = 0.1  # of its standard error: the least energy distance that a loss tells


@dataclass(eq=False)
class Laws(Runs):
    """Runs of a stochastic process from fixed initial states, and the ends of a fine run.

    With conditions, `REPEATS` rows in turn have the same one, and slices are of whole such groups.

    Attributes:
        ends: the states at t_end of the fine run from initial states of its own, (P, *D), which
            `follow` computes; with conditions they are those of the same rows.
        known: without conditions, the ends that all runs are compared with.
        accuracy: the distance of two samples of the fine run, as large as those that are judged.
    """

    ends: Tensor = field(init=False)
    known: slice = field(init=False)
    accuracy: float = math.nan

    @property
    def size(self) -> float:
        return float(wide(self.ends).square().mean().sqrt())

    @cached_property
    def _directions(self) -> Tensor:
        """Unit vectors, (K, D), on the CPU in float64."""
        dim = self.x[0].numel()
        like = torch.empty(_DIRECTIONS if dim > 1 else 1, dim, dtype=torch.float64)
        return torch.nn.functional.normalize(Independent(self.seed).stream("probe").draw(like))

    def follow(self, solver: Scheme, grid: Grid, train: slice) -> None:
        """Compute the ends by a fine run."""
        self.known = train
        held = slice(train.stop, len(self.x))
        self.ends = self._fine(solver, grid, slice(None), 1)
        again = self._fine(solver, grid, held, 2) if self.cond else self.ends[held]
        self.accuracy = float(self.distances(again, held).square().mean().sqrt())

    def _fine(self, solver: Scheme, grid: Grid, which: slice, number: int) -> Tensor:
        """The ends of a run from other initial states and with other noise."""
        whole, shift = self.x, self.shift
        self.shift = number * len(whole)
        like = torch.empty_like(whole)
        self.x = self.sde.sample_prior(Independent(self.seed, self.shift).prior(like))
        try:
            return self.run(solver, grid, which)
        finally:
            self.x, self.shift = whole, shift

    def distances(self, x: Tensor, which: slice) -> Tensor:
        """Wasserstein distances of the ends of some trajectories along each direction, (K,).

        With conditions they are root mean squares of those for each of them. They are infinite if
        a run diverged.
        """
        if not bool(torch.isfinite(x).all()):
            return torch.full((len(self._directions),), math.inf, dtype=torch.float64)
        if not self.cond:
            return line_cost(self._along(x), self._along(self.ends[self.known])).sqrt()
        groups = [self._along(each.flatten(0, 1), REPEATS) for each in self._grouped(x, which)]
        return (groups[0] - groups[1]).square().mean(1).sqrt()

    def _along(self, x: Tensor, group: int | None = None) -> Tensor:
        """Projections, sorted within each group of so many: (K, n)."""
        rows = self._directions @ x.detach().cpu().double().flatten(1).T
        return rows.reshape(len(rows), -1, group or rows.shape[1]).sort(2).values.flatten(1)

    def _grouped(self, x: Tensor, which: slice) -> tuple[Tensor, Tensor]:
        """The states and the ends of the fine run by conditions, (conditions, REPEATS, *D)."""
        return tuple(s.reshape(-1, REPEATS, *s.shape[1:]) for s in (x, self.ends[which]))  # type: ignore[return-value]

    def energy(self, x: Tensor, which: slice) -> Estimate:
        """The energy distance of the ends of some trajectories from those of the fine run.

        With conditions it is the mean of those for each of them.
        """
        if not bool(torch.isfinite(x).all()):
            return Estimate(math.inf, 0.0, 0.0)
        if not self.cond:
            return energy_distance(x, self.ends[self.known])
        values = self._energies(x, which).cpu().double()
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return Estimate(float(values.mean()), error, error)

    def _energies(self, x: Tensor, which: slice) -> Tensor:
        """The energy distance for each condition, (conditions,)."""
        a, b = (wide(s).flatten(2) for s in self._grouped(x, which))
        pairs = REPEATS * (REPEATS - 1)
        own = (_distances(a, a).sum((1, 2)) + _distances(b, b).sum((1, 2))) / pairs
        return 2.0 * _distances(a, b).mean((1, 2)) - own

    def errors(self, solver: Scheme, grid: Grid, which: slice) -> Tensor:
        """The distances of the ends of some trajectories along each direction, (K,)."""
        return self.distances(self.run(solver, grid, which), which)

    def loss(self, solver: Scheme, log_snr: Array, which: slice) -> float:
        """The logarithm of the distance by which candidates are compared."""
        x = self.run(solver, self.times(log_snr), which)
        return math.log(max(self.distance(x, which), 1e-30))

    def distance(self, x: Tensor, which: slice) -> float:
        """The sliced Wasserstein distance of the ends of some trajectories.

        With conditions it is the square root of the energy distance times the size of the data,
        which is of the order of a shift between the distributions.
        """
        if not self.cond:
            return float(self.distances(x, which).square().mean().sqrt())
        told = self.energy(x, which)
        return math.sqrt(max(told.value, _RESOLVED * told.std_error) * self.size)

    def _losses(self, end: Tensor, part: slice, floor: float) -> tuple[Tensor, float]:
        """The energy distance, without conditions less a constant; it needs no floor."""
        if self.cond:
            value = self._energies(end, part).mean()
        else:
            x, known = wide(end).flatten(1), wide(self.ends[self.known]).flatten(1)
            pairs = len(x) * (len(x) - 1)
            value = 2.0 * _distances(x, known).mean() - _distances(x, x).sum() / pairs
        return value, float(value.detach())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances of all pairs, whose gradient at 0 is 0."""
    out: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return out
