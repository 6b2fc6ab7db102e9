"""Exponential Adams with learned factors, against the base method and rows made by hand."""

from __future__ import annotations

import math
from typing import Any

import order
import pytest
import torch

from scoresde import VESDE, VPSDE, ReverseSampler
from scoresde.noise import Independent
from scoresde.process import ReverseSDE
from scoresde.schedule.grid import Grid, log_snr
from scoresde.sde import AffineSDE
from scoresde.solvers import Adams, LearnedAdams

VP = VPSDE()
BASES = [
    Adams(1),
    Adams(2, variant="midpoint"),
    Adams(3, 4, "v"),
    Adams(3, parametrisation="eps", variant="ipndm"),
    Adams(2, 3, "flow", "flow"),
]


def nodes_of(sde: AffineSDE, steps: int) -> tuple[Any, ...]:
    return tuple(sde.at(t) for t in log_snr(sde, steps).times)


@pytest.mark.parametrize("sde", [VP, VESDE(0.01, 30.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("base", BASES, ids=repr)
def test_factors_of_one_are_the_base_method(base: Adams, sde: AffineSDE) -> None:
    nodes = nodes_of(sde, 5)
    ours = LearnedAdams(base, (1.0,) * 5, (1.0,) * 5).rows(sde, nodes, 0.0)
    for mine, row in zip(ours, base.rows(sde, nodes, 0.0), strict=True):
        assert mine.state_coef == row.state_coef and mine.noise_std == 0.0
        assert mine.weights == pytest.approx(row.weights, rel=1e-13)


@pytest.mark.parametrize("base", BASES, ids=repr)
def test_slopes_of_zero_are_the_first_order_method(base: Adams) -> None:
    nodes = nodes_of(VP, 5)
    ours = LearnedAdams(base, (1.0,) * 5, (0.0,) * 5).rows(VP, nodes, 0.0)
    first = Adams(1, parametrisation=base.parametrisation).rows(VP, nodes, 0.0)
    for mine, row in zip(ours, first, strict=True):
        assert mine.state_coef == pytest.approx(row.state_coef, rel=1e-13)
        assert mine.weights[0] == pytest.approx(row.weights[0], rel=1e-12)
        assert mine.weights[1:] == (0.0,) * (len(mine.weights) - 1)


def test_a_step_of_dpmpp_2m_with_factors_by_hand() -> None:
    """x_t = sigma_t/sigma_s x_s + W (scale x_0 + slope (x_0 - x_0')/(2 r))."""
    a, s, t = nodes_of(VP, 2)
    h, last = t.log_snr - s.log_snr, s.log_snr - a.log_snr
    whole = t.alpha - s.alpha * t.sigma / s.sigma
    solver = LearnedAdams(Adams(2, variant="midpoint"), (1.1, 0.9), (1.0, 0.7))
    begin, row = solver.rows(VP, (a, s, t), 0.0)
    extrapolated = 0.7 * whole * h / (2 * last)
    assert row.state_coef == pytest.approx(t.sigma / s.sigma, rel=1e-13)
    assert row.weights == pytest.approx((0.9 * whole + extrapolated, -extrapolated), rel=1e-11)
    assert begin.weights == pytest.approx((1.1 * (s.alpha - a.alpha * s.sigma / a.sigma),))


def test_a_run_is_that_of_its_rows() -> None:
    grid, solver = log_snr(VP, 3), LearnedAdams(Adams(2), (1.0, 1.05, 0.98), (1.0, 0.8, 1.2))
    process = ReverseSDE(VP, order.mixture_2d().under(VP), 0.0)
    x = VP.sample_prior(Independent(0).prior(torch.empty(4, 2, dtype=torch.float64)))
    end = solver.solve(process, x, grid, noise=Independent(0)).x
    assert process.nfe == 3
    past: list[torch.Tensor] = []
    for now, row in zip(nodes_of(VP, 3), solver.rows(VP, nodes_of(VP, 3), 0.0), strict=False):
        past = [process.predict(now, x).x0, *past][:2]
        x = row.state_coef * x + sum(w * m for w, m in zip(row.weights, past, strict=False))
    torch.testing.assert_close(end, x, rtol=1e-12, atol=1e-12)


def test_another_grid_or_process_is_refused() -> None:
    solver, model = LearnedAdams(Adams(2), (1.0, 1.0), (1.0, 1.0)), order.mixture_2d().under(VP)
    ReverseSampler(VP, model, solver, steps=2)
    with pytest.raises(ValueError, match="grid: expected one segment of 2 steps"):
        ReverseSampler(VP, model, solver, steps=3)
    up_and_down = Grid(((1.0, 0.5, 0.1), (0.1, 0.5), (0.5, 0.2, 0.1)))
    with pytest.raises(ValueError, match="grid: expected one segment"):
        ReverseSampler(VP, model, solver, grid=up_and_down)
    with pytest.raises(ValueError, match="grid: expected a finite log-SNR"):
        ReverseSampler(VP, model, solver, grid=[1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="eta: expected 0"):
        ReverseSampler(VP, model, solver, steps=2, eta=1.0)


def test_spreads_multiply_the_noise_and_nothing_else() -> None:
    base, nodes = Adams(2, 3, "v"), nodes_of(VP, 4)
    ones, twos = (1.0,) * 4, (1.0, 0.5, 2.0, 0.0)
    plain, told = base.rows(VP, nodes, 0.7), LearnedAdams(base, ones, ones, twos)
    assert told.serves == "sde" and LearnedAdams(base, ones, ones).serves == "ode"
    for row, other, factor in zip(plain, told.rows(VP, nodes, 0.7), twos, strict=True):
        assert other.noise_std == factor * row.noise_std and row.noise_std > 0.0
        assert other.state_coef == row.state_coef
        assert other.weights == pytest.approx(row.weights, rel=1e-14, abs=1e-16)
    model = order.mixture_2d().under(VP)
    assert ReverseSampler(VP, model, told, steps=4).eta == 1.0
    with pytest.raises(ValueError, match="eta: expected more than 0"):
        ReverseSampler(VP, model, told, steps=4, eta=0.0)


BAD: dict[str, tuple[Any, Any, type[Exception]]] = {
    "scales": ((1.0, float("nan")), (1.0, 1.0), ValueError),
    "scales ": ((), (), ValueError),
    "scales  ": (1.0, (1.0,), TypeError),
    "slopes": ((1.0, 1.0), (1.0,), ValueError),
    "slopes ": ((1.0,), ("1",), ValueError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_factors_are_named(name: str) -> None:
    scales, slopes, error = BAD[name]
    with pytest.raises(error, match=rf"^{name.strip()}: expected"):
        LearnedAdams(Adams(1), scales, slopes)
    with pytest.raises(TypeError, match=r"^base: expected"):
        LearnedAdams("ddim", (1.0,), (1.0,))  # type: ignore[arg-type]


@pytest.mark.parametrize("spreads", [(1.0, 1.0), (-0.1,), (math.nan,), (None,)])
def test_bad_spreads_are_named(spreads: Any) -> None:
    with pytest.raises(ValueError, match=r"^spreads: expected"):
        LearnedAdams(Adams(1), (1.0,), (1.0,), spreads)
