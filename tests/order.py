"""How orders of convergence are measured: with exact references and, where it can be, no noise.

- ode: a mixture in 2-D under VP, started from 64 fixed points; median distance of the endpoints
  from DOP853 at a tolerance of 1e-13.
- weak, strong on Gaussian data, where every scheme is linear in the start and in the noises: the
  map is read off by unit impulses, so the variance that a scheme produces, and the distance
  between its paths on two grids under one Brownian motion, are exact numbers.
- strong on a 1-D mixture: medians over paths on one shared Brownian motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde import VPSDE, Gaussian, GaussianMixture, Grid, ReverseSDE, ScoreModel
from scoresde.node import Node
from scoresde.noise import BrownianPath, Independent, Noise
from scoresde.prediction import Prediction
from scoresde.schedule.grid import log_snr
from scoresde.solvers import Solver

SDE = VPSDE()
STEPS = (40, 80, 160, 320, 640)


class AsScore(ScoreModel):
    """An oracle that says its score, so that every term of a scheme has a weight of its own.

    (Under VP the probability flow is a rotation of x and v: told as v, x has the weight 0.)
    """

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.inner, self.sde = inner, inner.sde

    def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
        told = self.inner.predict(node, x)
        a, b = told.coefficients("score")  # by hand: the guard breaks `lincomb`, not the oracle
        return Prediction(x, node, a * x + b * told.value, "score")


def rates(errors: list[float]) -> list[float]:
    """Observed orders at the halvings of the step."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def mixture_2d() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.6], [-0.8, 1.0], [0.1, -1.1]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return GaussianMixture(means, torch.full((3,), 0.25**2, dtype=torch.float64), weights)


def starts() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((64, 2)))


@cache
def flow_reference() -> Tensor:
    """Endpoints of the probability flow at t_end, one start at a time, in lambda."""
    process = ReverseSDE(SDE, mixture_2d().under(SDE), 0.0)

    def slope(lam: float, y: np.ndarray) -> np.ndarray:
        node = SDE.at(min(max(SDE.time_of(lam), SDE.t_end), SDE.T))
        dt = -2 * node.sigma**2 / node.g**2  # dt/dlambda
        drift = process.drift(node, torch.from_numpy(y).reshape(-1, 2))
        return (dt * drift).flatten().numpy()

    ends = SDE.log_snr(SDE.T), SDE.log_snr(SDE.t_end)
    y0 = starts().flatten().numpy()
    out = solve_ivp(slope, ends, y0, method="DOP853", rtol=1e-13, atol=1e-13)
    return torch.from_numpy(out.y[:, -1]).reshape(-1, 2)


def ode_errors(solver: Solver, steps: tuple[int, ...] = STEPS) -> list[float]:
    """Median endpoint error on the 2-D mixture for each number of steps."""
    errors = []
    for n in steps:
        process = ReverseSDE(SDE, AsScore(mixture_2d().under(SDE)), 0.0)
        x = solver.solve(process, starts(), log_snr(SDE, n), noise=Independent(0)).x
        errors.append(float((x - flow_reference()).norm(dim=1).median()))
    return errors


@dataclass(frozen=True)
class Impulses(Noise):
    """Rows of a batch as unit vectors of noise space: row 0 is the start, row 1 + k leaf k.

    A leaf is an interval of the finest grid; its increment, and its Levy area `leaves` rows
    further on. Over a coarser interval increments add up in the clock, and so do the areas.
    """

    fine: tuple[float, ...]
    clock: str = "snr"
    eta: float = 1.0
    seed: int = 0
    first: int = 0
    segment: int = 0

    def on_segment(self, segment: int) -> Impulses:
        return self

    def from_sample(self, first: int) -> Impulses:
        return self

    @property
    def leaves(self) -> int:
        return len(self.fine) - 1

    def _ticks(self, i: int, j: int) -> list[float]:
        times = self.fine[i : j + 1]
        if self.clock == "t":
            return [-t for t in times]
        return [math.exp(2 * self.eta**2 * SDE.log_snr(t)) for t in times]

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        i, j = self.fine.index(now.t), self.fine.index(nxt.t)
        ticks = self._ticks(i, j)
        total = ticks[-1] - ticks[0]
        w, h = torch.zeros_like(like), torch.zeros_like(like)
        for k in range(i, j):
            part = (ticks[k - i + 1] - ticks[k - i]) / total
            # int (B - B_s) dc = total (W/2 + H): a leaf counts for the time after it
            later = (ticks[-1] - ticks[k - i]) / total - part / 2 - 0.5
            w[1 + k] = math.sqrt(part)
            h[1 + k] = math.sqrt(12.0 * part) * later
            h[1 + self.leaves + k] = part**1.5
        return w, h

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        return self.levy(like, now, nxt)[0]


DATA = Gaussian(torch.zeros(3, dtype=torch.float64), torch.tensor([0.25, 0.04, 2.0]).double())


@dataclass(frozen=True)
class Asked(Noise):
    """No noise, and a record of the times between which a solver asks for it."""

    times: set[float] = field(default_factory=set)
    seed: int = 0
    first: int = 0
    segment: int = 0

    def on_segment(self, segment: int) -> Asked:
        return self

    def from_sample(self, first: int) -> Asked:
        return self

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        self.times.update((now.t, nxt.t))
        return torch.zeros_like(like)


def walk(solver: Solver, x: Tensor, grid: Grid, noise: Noise, eta: float) -> Tensor:
    process = ReverseSDE(SDE, AsScore(DATA.under(SDE)), eta)
    return solver.solve(process, x, grid, noise=noise).x


def finest(solver: Solver, grids: list[Grid], eta: float) -> tuple[float, ...]:
    """All times between which a solver asks for noise on these grids, stages included."""
    asked = Asked()
    for grid in grids:
        walk(solver, torch.zeros(1, 3, dtype=torch.float64), grid, asked, eta)
    return tuple(sorted(asked.times, reverse=True))


def response(
    solver: Solver, grid: Grid, fine: tuple[float, ...], clock: str, eta: float = 1.0
) -> Tensor:
    """The linear map of (start, leaf noises) to the endpoint: rows of standard deviations.

    One column per variance of the data; rows as in `Impulses`.
    """
    noise = Impulses(fine, clock, eta)
    x = torch.zeros(1 + 2 * noise.leaves, 3, dtype=torch.float64)
    x[0] = DATA.marginal(SDE, SDE.T).covariance.sqrt()
    return walk(solver, x, grid, noise, eta)


def weak_errors(
    solver: Solver, steps: tuple[int, ...] = STEPS, clock: str = "snr", eta: float = 1.0
) -> list[float]:
    """Relative error of the variance at t_end: the largest of three data variances."""
    truth = DATA.marginal(SDE, SDE.t_end).covariance
    errors = []
    for n in steps:
        grid = log_snr(SDE, n)
        fine = finest(solver, [grid], eta)
        variance = (response(solver, grid, fine, clock, eta) ** 2).sum(0)
        errors.append(float((variance / truth - 1).abs().max()))
    return errors


def strong_errors(
    solver: Solver,
    steps: tuple[int, ...] = (20, 40, 80, 160, 320),
    clock: str = "snr",
    eta: float = 1.0,
) -> list[float]:
    """RMS distance of the endpoints on N and 2 N steps under one Brownian motion, exactly."""
    errors = []
    for n in steps:
        grid = log_snr(SDE, 2 * n)
        coarse = Grid.of(grid.times[::2])
        fine = finest(solver, [grid, coarse], eta)
        gap = response(solver, grid, fine, clock, eta) - response(solver, coarse, fine, clock, eta)
        errors.append(float((gap**2).sum(0).sqrt().max()))
    return errors


def mixture_1d() -> GaussianMixture:
    means = torch.tensor([[-1.2], [0.3], [1.4]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    return GaussianMixture(means, torch.full((3,), 0.25**2, dtype=torch.float64), weights)


def strong_errors_mixture(
    solver: Solver, steps: tuple[int, ...] = (64, 128, 256, 512), paths: int = 20_000
) -> list[float]:
    """Median distance of the endpoints from those at twice the steps, along one Brownian path."""
    noise = BrownianPath(0, SDE, depth=14)  # stages between the nodes ask for times of their own
    data = mixture_1d()
    start = data.marginal(SDE, SDE.T).sample(paths, seed=1)
    ends = []
    for n in (*steps, 2 * steps[-1]):
        process = ReverseSDE(SDE, data.under(SDE), 1.0)
        ends.append(solver.solve(process, start, log_snr(SDE, n), noise=noise).x)
    return [float((a - b).abs().median()) for a, b in pairwise(ends)]
