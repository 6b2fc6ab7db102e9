"""Runs of a stochastic process, and how far their distribution is from that of a fine run.

With noise the end of one path says little about a solver, since another path from the same state
ends elsewhere. So the distributions of the ends are compared, by two distances:

- the energy distance (Szekely and Rizzo 2013), which is minimised and which selects. It is 0 only
  for equal distributions, and its estimate is unbiased for any number of samples, so that its
  gradient is right on average for small batches;
- the Wasserstein distance along random directions, which is reported, in the unit of the data. It
  is not 0 for two samples of one distribution; `Laws.accuracy` is what it is then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scoresde._tensor import wide
from scoresde.calibration.trajectories import Array, Runs, Scheme
from scoresde.metrics import energy_distance
from scoresde.metrics.kernels import Estimate
from scoresde.metrics.wasserstein import line_cost
from scoresde.noise import Independent
from scoresde.schedule.grid import Grid

__all__ = ["Laws"]

_DIRECTIONS = 64


@dataclass(eq=False)
class Laws(Runs):
    """Runs of a stochastic process from fixed initial states, and the ends of a fine run.

    Attributes:
        ends: the states at t_end of the fine run, (P, *D), which `follow` computes.
        known: the trajectories whose ends all runs are compared with.
        accuracy: the error of the ends that are not among them: the distance of two samples of
            the fine run.
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

    def _along(self, x: Tensor) -> Tensor:
        """Sorted projections, (K, n)."""
        rows = x.detach().cpu().double().flatten(1)
        return (self._directions @ rows.T).sort(1).values

    def distances(self, x: Tensor) -> Tensor:
        """Wasserstein distances from the known ends along each direction, (K,).

        They are infinite if a run diverged.
        """
        if not bool(torch.isfinite(x).all()):
            return torch.full((len(self._directions),), math.inf, dtype=torch.float64)
        return line_cost(self._along(x), self._along(self.ends[self.known])).sqrt()

    def energy(self, x: Tensor) -> Estimate:
        """The energy distance of some end states from the known ends."""
        if not bool(torch.isfinite(x).all()):
            return Estimate(math.inf, 0.0, 0.0)
        return energy_distance(x, self.ends[self.known])

    def errors(self, solver: Scheme, grid: Grid, which: slice) -> Tensor:
        """The distances of the ends of some trajectories along each direction, (K,)."""
        return self.distances(self.run(solver, grid, which))

    def loss(self, solver: Scheme, log_snr: Array, which: slice) -> float:
        """The logarithm of the sliced Wasserstein distance."""
        errors = self.errors(solver, self.times(log_snr), which)
        return 0.5 * math.log(float(errors.square().mean()))

    def follow(self, solver: Scheme, grid: Grid, known: slice) -> None:
        """Compute the ends by a fine run."""
        self.known = known
        self.ends = self.run(solver, grid, slice(None))
        rest = self.ends[known.stop :]
        self.accuracy = float(self.distances(rest).square().mean().sqrt())

    def _losses(self, end: Tensor, part: slice, floor: float) -> tuple[Tensor, float]:
        """The energy distance, less the constant of the known ends; it needs no floor."""
        x, known = wide(end).flatten(1), wide(self.ends[self.known]).flatten(1)
        n = max(2, len(x))
        value = 2.0 * _distances(x, known).mean() - _distances(x, x).sum() / (n * (n - 1))
        return value, float(value.detach())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances of all pairs, whose gradient at 0 is 0."""
    out: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return out
