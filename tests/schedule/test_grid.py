"""Grids: end points, formulas, segments, and what they refuse."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from registry import ALL_SDES

from scoresde.schedule.grid import GRIDS, Grid, karras, log_snr, make_grid, quadratic, uniform
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE

VP = VPSDE()
OWN = SDE(lambda t, x: -x, lambda t: 1.0, T=2.0, t_end=0.1)


def monotone(times: tuple[float, ...]) -> bool:
    gaps = [b - a for a, b in pairwise(times)]
    return all(gap < 0 for gap in gaps) or all(gap > 0 for gap in gaps)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("sde", ALL_SDES.values(), ids=ALL_SDES)
@settings(max_examples=5)
@given(data=st.data())
def test_ends_are_exact_and_nodes_monotone(sde: Any, name: str, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, 60))
    grid = make_grid(name, sde, steps)
    (segment,) = grid.segments
    assert len(segment) == steps + 1 and grid.steps == steps
    assert (segment[0], segment[-1]) == (sde.T, sde.t_end) == (grid.start, grid.end)
    assert monotone(segment) and all(isinstance(t, float) for t in segment)
    low, high = sorted(data.draw(st.floats(0.01, 1.0)) * sde.T for _ in range(2))
    if high - low > 1e-3 * sde.T:
        down = make_grid(name, sde, steps, t_start=high, t_end=low)
        up = make_grid(name, sde, steps, t_start=low, t_end=high)
        assert (down.start, down.end) == (high, low) == (up.end, up.start)
        assert monotone(down.times) and monotone(up.times)
        assert up.times == pytest.approx(down.times[::-1], rel=1e-9)


N = 7


@pytest.mark.parametrize("name", ["vp", "ve_narrow", "edm", "cosine", "linear_jump"])
def test_the_formulas(name: str) -> None:
    sde = ALL_SDES[name]
    start, end = 0.9 * sde.T, max(0.02 * sde.T, sde.t_end)
    ends = {"t_start": start, "t_end": end}
    for i in range(N + 1):
        u = i / N
        straight = start + u * (end - start)
        assert uniform(sde, N, **ends).times[i] == pytest.approx(straight, rel=1e-13)
        root = math.sqrt(start) + u * (math.sqrt(end) - math.sqrt(start))
        assert quadratic(sde, N, **ends).times[i] == pytest.approx(root**2, rel=1e-13)
        lam = sde.log_snr(start) + u * (sde.log_snr(end) - sde.log_snr(start))
        got = sde.log_snr(log_snr(sde, N, **ends).times[i])
        assert got == pytest.approx(lam, rel=1e-10, abs=1e-10)
        for rho in (7.0, 3.0):
            high, low = (sde.sigma(t) / sde.alpha(t) for t in (start, end))
            size = (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
            t = karras(sde, N, rho=rho, **ends).times[i]
            assert sde.sigma(t) / sde.alpha(t) == pytest.approx(size, rel=1e-9)


def test_karras_is_the_schedule_of_the_paper() -> None:
    # Karras et al. 2022, eq. 5, with its default values
    def sigma(i: int) -> float:
        return (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7

    got = karras(EDMSDE(), 17).times
    assert got == pytest.approx([sigma(i) for i in range(18)], rel=1e-12)


def test_the_log_snr_of_variance_exploding_is_linear_in_time() -> None:
    assert log_snr(VESDE(), 10).times == pytest.approx(uniform(VESDE(), 10).times, abs=1e-13)
    halves = log_snr(EDMSDE(0.1, 10.0), 2).times
    assert halves == pytest.approx((10.0, 1.0, 0.1), rel=1e-13)


def test_a_single_step_and_the_end_at_the_data() -> None:
    for name in ("uniform", "quadratic", "log_snr", "karras"):
        assert make_grid(name, VP, 1).times == (1.0, 1e-3)
    assert uniform(VP, 4, t_end=0.0).times == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert quadratic(VP, 2, t_end=0.0).times == (1.0, 0.25, 0.0)


def test_a_non_affine_sde_has_the_grids_in_time() -> None:
    assert uniform(OWN, 2).times == pytest.approx((2.0, 1.05, 0.1))
    assert quadratic(OWN, 3).times[0] == 2.0
    for name in ("log_snr", "karras"):
        with pytest.raises(TypeError, match=r"grid: .*affine SDE.*uniform"):
            make_grid(name, OWN, 3)


def test_a_grid_from_times_or_as_it_is() -> None:
    grid = make_grid([1.0, 0.5, 0.1], VP, None)
    assert grid == Grid(((1.0, 0.5, 0.1),)) == Grid.of([1.0, 0.5, 0.1])
    assert hash(grid) == hash(Grid.of((1.0, 0.5, 0.1)))
    assert make_grid(grid, VP, None) is grid
    assert make_grid(grid, VP, 2, t_start=1.0, t_end=0.1) is grid
    assert Grid.of([1, 0]).times == (1.0, 0.0)


def test_segments() -> None:
    restart = Grid(((1.0, 0.5, 0.1), (0.4, 0.2, 0.1), (0.1, 0.01)))
    assert restart.steps == 5
    assert (restart.start, restart.end) == (1.0, 0.01)
    assert restart.times == (1.0, 0.5, 0.1, 0.4, 0.2, 0.1, 0.1, 0.01)
    restart.check(VP)
    up = Grid.of([0.0, 0.3, 1.0])
    assert (up.start, up.end, up.steps) == (0.0, 1.0, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Grid(()), "segments: .*at least one segment.*Grid.of"),
        (lambda: Grid.of([1.0]), "grid: .*at least two times"),
        (lambda: Grid.of([]), "grid: .*at least two times"),
        (lambda: Grid.of([1.0, 0.5, 0.5]), r"grid: .*monotone.*0\.5.*position 1"),
        (lambda: Grid.of([1.0, 0.5, 0.7, 0.1]), r"grid: .*monotone.*0\.5 followed by 0\.7"),
        (lambda: Grid.of([1.0, math.nan, 0.1]), "times: .*nan"),
        (lambda: Grid.of("abc"), "'abc'|'a'"),
        (lambda: Grid(((1.0, 0.5), (0.4, 0.1))), r"segments: .*a segment from 0\.4.*ends at 0\.5"),
        (lambda: make_grid("unifrom", VP, 5), "grid: .*'unifrom'; did you mean 'uniform'"),
        (lambda: make_grid("logsnr", VP, 5), "grid: .*'logsnr'; did you mean 'log_snr'"),
        (lambda: make_grid([1.5, 0.1], VP, 5), r"grid: .*\[0, 1\].*1\.5"),
        (lambda: make_grid([0.5, -0.1], VP, 5), r"grid: .*\[0, 1\].*-0\.1"),
        (lambda: make_grid([0.5, 0.1], VP, 5), "steps: .*5"),
        (lambda: make_grid([0.5, 0.1], VP, None, t_end=0.2), r"t_end: .*0\.2"),
        (lambda: uniform(VP, 0), "steps: .*0"),
        (lambda: uniform(VP, -3), "steps: .*-3"),
        (lambda: uniform(VP, 2.5), r"steps: .*2\.5"),
        (lambda: uniform(VP, True), "steps: .*True"),
        (lambda: uniform("vp", 5), "sde: .*'vp'"),
        (lambda: uniform(VP, 5, t_start=1.2), r"t_start: .*1\.2"),
        (lambda: uniform(VP, 5, t_end=-0.1), r"t_end: .*-0\.1"),
        (lambda: uniform(VP, 5, t_start=0.3, t_end=0.3), r"t_start, t_end: .*0\.3"),
        (lambda: log_snr(VP, 5, t_end=0.0), "t_end: .*finite log-SNR"),
        (lambda: karras(VP, 5, rho=0.0), "rho: .*0.0"),
    ],
)
def test_bad_input(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call()
