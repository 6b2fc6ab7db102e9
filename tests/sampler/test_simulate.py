"""`simulate`: the forward SDE beside the exact marginals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    GaussianMixture,
    ReverseSampler,
    SubVPSDE,
    simulate,
)
from scoresde.node import Node
from scoresde.noise import Independent, Noise, PathOnGrid
from scoresde.schedule.grid import GRIDS

VP = VPSDE()
TWO = GaussianMixture(
    torch.tensor([[1.0, -1.0], [-1.0, 0.5]]).double(), torch.tensor([0.1, 0.2]).double()
)

FORWARD: dict[str, tuple[AffineSDE, float]] = {
    "vp": (VP, 1.0),
    "ve": (VESDE(0.1, 5.0), 1.0),
    "subvp": (SubVPSDE(), 1.0),
    "flow": (FlowSDE(), 0.9),
    "cosine": (CosineSDE(), 0.9),
}


@pytest.mark.parametrize("name", FORWARD)
def test_simulated_marginals_match_the_closed_form(name: str) -> None:
    sde, end = FORWARD[name]
    n, steps = 4000, 300
    times = [sde.t_min + (end - sde.t_min) * i / steps for i in range(steps + 1)]
    x0 = torch.full((n, 1), 1.5, dtype=torch.float64)
    path = simulate(sde, x0, times, seed=0, keep_path=True).path
    assert path.shape == (steps + 1, n, 1)
    for i in (0, 30, 100, 200, 300):
        mean, std = sde.marginal(times[i], x0[:1])
        bias = 0.02 if i else 1e-12  # of Euler-Maruyama with 300 steps; the first is exact
        off = abs(float(path[i].mean() - mean))
        assert off < 4 * std / math.sqrt(n) + bias * abs(float(mean)) + bias * std
        assert abs(float(path[i].std() / std) - 1) < 4 / math.sqrt(2 * n) + bias


class Impulses(Noise):
    """Row 0 gets the unit of the prior, row k + 1 that of step k, and the last row nothing."""

    seed, first, segment = 0, 0, 0

    def __init__(self, times: tuple[float, ...]) -> None:
        self.times = times

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        out = torch.zeros_like(like)
        out[1 + self.times.index(now.t)] = 1.0
        return out

    def prior(self, like: Tensor) -> Tensor:
        out = torch.zeros_like(like)
        out[0] = 1.0
        return out

    def on_segment(self, segment: int) -> Impulses:
        return self

    def from_sample(self, first: int) -> Impulses:
        return self


@pytest.mark.parametrize("name", FORWARD)
def test_bias_of_simulate_falls_at_first_order(name: str) -> None:
    """The mean and the variance that it produces, exactly: it is linear in start and noise."""
    sde, end = FORWARD[name]
    errors = []
    for steps in (40, 80, 160, 320, 640):
        times = tuple(sde.t_min + (end - sde.t_min) * i / steps for i in range(steps + 1))
        x0 = torch.zeros(steps + 2, 1, dtype=torch.float64)
        x0[-1] = 1.0
        x = simulate(sde, x0, times, noise=Impulses(times)).x[:, 0]
        mean = float(x[-1])
        variance = float(x[:-1].square().sum())
        errors.append(
            (abs(mean / sde.alpha(end) - 1) + 1e-16, abs(variance / sde.sigma(end) ** 2 - 1))
        )
    for moment, found in enumerate(zip(*errors, strict=True)):
        if max(found) < 1e-12:  # the mean of VE does not move, that of the flow is linear in t
            assert name in ("ve", "flow") and moment == 0
            continue
        rate = math.log2(found[-2] / found[-1])
        assert abs(rate - 1.0) < 0.1, (name, moment, found)
        assert found[-1] < 0.02


def test_simulate_begins_at_the_exact_marginal_or_at_x0() -> None:
    x0 = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    path = simulate(VP, x0, [0.3, 0.6, 1.0], seed=4, keep_path=True).path
    eps = Independent(4).prior(x0)
    torch.testing.assert_close(path[0], VP.perturb(0.3, x0, eps), rtol=1e-14, atol=0)
    own = SDE(lambda t, x: -(x**3), lambda t: 0.5, T=2.0)
    solution = simulate(own, x0, steps=4, seed=0, keep_path=True)
    assert torch.equal(solution.path[0], x0) and solution.x.shape == x0.shape
    assert solution.grid.times == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert solution.nfe == 0 and solution.seed == 0


@pytest.mark.parametrize("grid", GRIDS)
def test_simulate_takes_named_grids_upwards(grid: str) -> None:
    solution = simulate(VP, torch.ones(2, 2), grid, steps=5, seed=0)
    assert solution.grid.times[0] == VP.t_min and solution.grid.times[-1] == VP.T
    assert all(a < b for a, b in pairwise(solution.grid.times)) and solution.grid.steps == 5


def test_simulate_by_hand() -> None:
    times, x0 = (0.1, 0.4, 0.9), torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    seen: list[float] = []
    path = simulate(
        VP, x0, times, seed=4, keep_path=True, on_step=lambda node, x: seen.append(node.t)
    ).path
    for i, (t, s) in enumerate(pairwise(times)):
        z = Independent(4).normal(x0, VP.at(t), VP.at(s))
        beta = VP.beta(t)
        by_hand = path[i] * (1 - 0.5 * beta * (s - t)) + math.sqrt(beta * (s - t)) * z
        torch.testing.assert_close(path[i + 1], by_hand, rtol=1e-12, atol=1e-12)
    assert seen == [0.4, 0.9]


def test_path_on_grid_is_one_brownian_path_for_every_grid() -> None:
    """With f = 0 and g = 1 the end is W(1) itself; under VP paths approach at strong order 1."""
    fine = tuple(i / 64 for i in range(65))
    walk = SDE(lambda t, x: 0 * x, lambda t: 1.0)
    x0 = torch.zeros(50, 2, dtype=torch.float64)
    noise = PathOnGrid(0, walk, fine)
    ends = [simulate(walk, x0, fine[::k], noise=noise).x for k in (1, 2, 16, 64)]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-12, atol=1e-12)
    assert 0.6 < float(ends[0].std()) < 1.4
    times = tuple(0.1 + 0.9 * i / 512 for i in range(513))
    noise, x0 = PathOnGrid(0, VP, times, clock="t"), torch.ones(1000, 2, dtype=torch.float64)
    x = [simulate(VP, x0, times[::k], noise=noise).x for k in (1, 2, 4, 8)]
    gaps = [float((a - b).abs().median()) for a, b in pairwise(x)]
    assert all(0.8 < math.log2(b / a) < 1.2 for a, b in pairwise(gaps)), gaps


def test_simulate_and_reverse_return_to_the_data() -> None:
    """Forward from data to noise, and back with the exact score: the mixture again."""
    n = 4000
    data = TWO.sample(n, seed=0)
    noisy = simulate(VP, data, steps=200, seed=1).x
    sampler = ReverseSampler(VP, TWO.under(VP), "ddim", steps=100)
    back = sampler.sample((n, 2), seed=2, x_init=noisy)
    side: Callable[[Tensor], float] = lambda x: float((x[:, 0] > 0).double().mean())  # noqa: E731
    assert abs(side(back) - side(data)) < 4 * math.sqrt(0.5 / n)
    torch.testing.assert_close(back.mean(0), data.mean(0), rtol=0, atol=8 / math.sqrt(n))
    torch.testing.assert_close(back.T.cov(), data.T.cov(), rtol=0.06, atol=0.03)
