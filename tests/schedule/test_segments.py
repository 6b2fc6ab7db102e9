"""Restart and churn are grids of segments, which every solver walks."""

from __future__ import annotations

import math
from itertools import pairwise

import order
import pytest
import torch

from scoresde import EDMSDE, VPSDE, Adams, Gaussian, Grid, Heun, ReverseSampler, ReverseSDE
from scoresde.noise import BrownianPath, Independent, Noise, PathOnGrid
from scoresde.schedule.grid import karras, log_snr, sigmoid
from scoresde.schedule.restart import churn, resampling, restart

MIXTURE = order.mixture_2d()


def test_sigmoid_grid() -> None:
    """Steps in proportion to the derivative of a sigmoid, symmetric about the middle."""
    times = sigmoid(VPSDE(), 12).times
    s = [1 / (1 + math.exp(-6 * (i / 12 - 0.5))) for i in range(13)]
    share = [(a - s[0]) / (s[-1] - s[0]) for a in s]
    expected = [1.0 + (VPSDE().t_end - 1.0) * y for y in share]
    assert times == pytest.approx(expected, rel=1e-12)


def test_churn_with_heun_is_algorithm_2_of_edm() -> None:
    """Karras et al. 2022, alg. 2 with S_noise = 1, written out, on the same noise."""
    sde, amount, low, high = EDMSDE(), 10.0, 0.05, 50.0
    main = karras(sde, 12)
    grid = churn(sde, main, amount, t_min=low, t_max=high)
    model, noise = MIXTURE.under(sde), Independent(4)
    x0 = 80.0 * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = Heun().solve(ReverseSDE(sde, model, 0.0), x0, grid, noise=noise).x

    x, segment = x0, 0
    for t, t_next in zip(main.times, main.times[1:], strict=False):
        gamma = min(amount / 12, math.sqrt(2) - 1) if low <= t <= high else 0.0
        t_hat = t + gamma * t
        if gamma:
            segment += 1
            z = noise.on_segment(segment).stream("renoise").draw(x)
            assert grid.segments[segment][0] == pytest.approx(t_hat, rel=1e-9)
            x = x + math.sqrt(t_hat**2 - t**2) * z
        d = (x - model.predict(sde.at(t_hat), x).x0) / t_hat
        ahead = x + (t_next - t_hat) * d
        d_next = (ahead - model.predict(sde.at(t_next), ahead).x0) / t_next
        x = x + (t_next - t_hat) * (d + d_next) / 2
    assert len(grid.segments) == segment + 1 > 5
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("amount", "gamma"), [(0.6, 0.1), (2.4, 0.4), (2.5, 2**0.5 - 1), (9, 2**0.5 - 1)]
)
def test_churn_factor_by_hand(amount: float, gamma: float) -> None:
    """gamma = min(S_churn / N, sqrt 2 - 1) of Karras et al. 2022, alg. 2, on N = 6 steps."""
    times = (80.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.05)
    segments = churn(EDMSDE(), Grid.of(times), amount).segments
    assert segments[0] == times[:2]
    for segment, (now, nxt) in zip(segments[1:], pairwise(times[1:]), strict=True):
        assert segment == pytest.approx((now * (1 + gamma), nxt), rel=1e-12)


def test_churn_is_a_factor_of_the_noise_level_under_every_schedule() -> None:
    sde, times = VPSDE(), (1.0, 0.6, 0.3, 0.1)
    segments = churn(sde, Grid.of(times), 0.3).segments
    for segment, now in zip(segments[1:], times[1:], strict=False):
        up, at = (sde.sigma(t) / sde.alpha(t) for t in (segment[0], now))
        assert up / at == pytest.approx(1.1, rel=1e-12)


def test_churn_acts_between_its_times_ends_included() -> None:
    times = (80.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.05)
    segments = churn(EDMSDE(), Grid.of(times), 0.6, t_min=1.0, t_max=10.0).segments
    assert [segment[0] for segment in segments] == pytest.approx([80.0, 11.0, 3.3, 1.1])
    assert [segment[1:] for segment in segments] == [(30.0, 10.0), (3.0,), (1.0,), (0.3, 0.05)]
    whole = churn(EDMSDE(), Grid.of((80.0, 79.9, 3.0, 0.05)), 0.6).segments  # 79.9 (1 + 0.2) > T
    assert [segment[0] for segment in whole] == pytest.approx([80.0, 3.6])


def test_no_churn_is_the_grid_itself() -> None:
    main = log_snr(VPSDE(), 6)
    assert churn(VPSDE(), main, 0.0) == main


def test_restart_segments() -> None:
    sde, main = VPSDE(), log_snr(VPSDE(), 10)
    grid = restart(sde, main, t_min=0.1, t_max=0.4, times=3, steps=4)
    at = min(main.times[1:], key=lambda t: abs(t - 0.1))
    assert grid.segments[0] == main.times[: main.times.index(at) + 1]
    assert (
        grid.segments[1]
        == grid.segments[2]
        == grid.segments[3]
        == karras(sde, 4, t_start=0.4, t_end=at).times
    )
    assert grid.segments[4] == main.times[main.times.index(at) :]
    assert grid.steps == 10 + 3 * 4


def test_a_restart_at_the_end_of_the_grid_ends_there() -> None:
    sde, main = VPSDE(), log_snr(VPSDE(), 10)
    grid = restart(sde, main, t_min=main.end, t_max=0.4, times=2, steps=4)
    assert grid.segments[0] == main.times and len(grid.segments) == 3
    assert (
        grid.segments[1] == grid.segments[2] == karras(sde, 4, t_start=0.4, t_end=main.end).times
    )
    last = restart(sde, main, t_min=main.times[-2], t_max=0.4, times=1, steps=4)
    assert last.segments[-1] == main.times[-2:]


MAIN = log_snr(VPSDE(), 120)
REPEATED = restart(VPSDE(), MAIN, t_min=0.1, t_max=0.5, times=2, steps=60)


@pytest.mark.parametrize(
    ("solver", "grid"),
    [(Heun(), REPEATED), (Adams(3, 4), REPEATED), (Heun(), churn(VPSDE(), MAIN, 40.0))],
    ids=["heun-restart", "unipc-restart", "heun-churn"],
)
def test_restart_and_churn_keep_the_law(solver: object, grid: Grid) -> None:
    """Exact re-noising and a fine grid: the variance at the end is the true one."""
    sde, n = VPSDE(), 20_000
    data = Gaussian(torch.zeros(1).double(), torch.tensor(0.25).double())
    x = data.marginal(sde, sde.T).sample(n, seed=0)
    truth = float(data.marginal(sde, sde.t_end).covariance)
    process = ReverseSDE(sde, data.under(sde), 0.0)
    out = solver.solve(process, x, grid, noise=Independent(1)).x
    assert float(out.var()) == pytest.approx(truth, rel=5 * math.sqrt(2 / n))
    assert float((out - x * math.sqrt(truth)).abs().mean()) > 0.1  # noise did come in


def test_a_sampler_takes_segments() -> None:
    sde = VPSDE()
    grid = restart(sde, log_snr(sde, 8), t_min=0.2, t_max=0.6, steps=3)
    solution = ReverseSampler(sde, MIXTURE.under(sde), "heun", grid=grid).solve((4, 2), seed=0)
    assert solution.nfe == 2 * grid.steps + 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: restart(VPSDE(), log_snr(VPSDE(), 5), t_min=0.5, t_max=0.4), "t_min, t_max"),
        (lambda: restart(VPSDE(), log_snr(VPSDE(), 5), t_min=0.5, t_max=2.0), "t_min, t_max"),
        (lambda: restart(VPSDE(), Grid.of([0.1, 0.9]), t_min=0.2, t_max=0.4), "grid"),
        (lambda: churn(VPSDE(), log_snr(VPSDE(), 5), -1.0), "amount"),
        (lambda: churn(VPSDE(), Grid(((1.0, 0.5), (0.6, 0.1))), 1.0), "grid"),
        (lambda: sigmoid(VPSDE(), 5, width=0.0), "width"),
    ],
)
def test_bad_segments(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("source", ["path", "grid"])
def test_noise_between_legs_is_not_that_of_the_way_down(source: str) -> None:
    """Restart along one Brownian path keeps the variance of the data, 1/4."""
    sde = VPSDE()
    data = Gaussian(torch.zeros(1, dtype=torch.float64), torch.tensor([0.25]).double())
    grid = restart(sde, log_snr(sde, 40), t_min=0.05, t_max=0.4, times=3, steps=20)
    noise: Noise = BrownianPath(0, sde)
    if source == "grid":
        noise = PathOnGrid(0, sde, sorted(set(grid.times)))
    x = noise.prior(torch.empty(20_000, 1, dtype=torch.float64))
    x = Adams(2, 2).solve(ReverseSDE(sde, data.under(sde)), x, grid, noise=noise).x
    assert float(x.var()) == pytest.approx(0.25, abs=5 * 0.25 * math.sqrt(2 / 20_000) + 0.004)


def test_resampling_repeats_pieces_of_the_grid() -> None:
    """Each piece is made three times, the last one shorter; one time is the grid itself."""
    sde, main = VPSDE(), Grid.of([1.0, 0.8, 0.6, 0.4, 0.2, 0.1])
    grid = resampling(sde, main, length=2, times=3)
    first, second, third = (1.0, 0.8, 0.6), (0.6, 0.4, 0.2), (0.2, 0.1)
    assert grid.segments == (
        *(first, first, (*first, *second[1:])),
        *(second, (*second, *third[1:])),
        *(third, third),
    )
    assert grid.steps == 3 * main.steps
    assert resampling(sde, main, length=2, times=1).segments == main.segments
    with pytest.raises(ValueError, match="times: expected a positive integer"):
        resampling(sde, main, times=0)
    with pytest.raises(ValueError, match="grid: expected one segment"):
        resampling(sde, grid)


def test_resampling_leaves_the_distribution_of_a_model_as_it_is() -> None:
    """Noise by the exact transition and exact scores: only the error of the steps is left."""
    sde, prior = VPSDE(), Gaussian(torch.tensor([1.0]), torch.tensor([0.25]))
    grid = resampling(sde, log_snr(sde, 60), length=5, times=3)
    x = ReverseSampler(sde, prior.under(sde), "unipc_3", grid=grid).sample((20000, 1), seed=0)
    assert abs(float(x.mean()) - 1.0) < 0.015 and abs(float(x.std()) - 0.5) < 0.01
