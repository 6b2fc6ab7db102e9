"""One Brownian path for every grid, batch, order of queries and solver, with Levy areas."""

import copy
import gc
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registry import ALL_SDES
from torch import Tensor

import scoresde.noise.base as base
import scoresde.noise.tree as tree
from scoresde import EDMSDE, SDE, VPSDE, Adams, Gaussian, Grid, ReverseSDE
from scoresde.node import Node
from scoresde.noise import BrownianPath, Independent, Noise, PathOnGrid
from scoresde.noise.tree import split_weights
from scoresde.schedule.grid import karras, log_snr, uniform
from scoresde.solvers import SRA1

F64 = torch.float64
VP = VPSDE()
WALK = SDE(lambda t, x: 0 * x, lambda t: 1.0)
PLAIN = ALL_SDES["vp"]


def nodes(sde: Any, grid: Grid) -> list[Node]:
    return [sde.at(t) for t in grid.times]


def clock(sde: Any, node: Node, eta: float) -> float:
    """Where a node lies on the clock, written out; log c if the SDE is affine."""
    return 2 * eta**2 * node.log_snr if node.affine else -node.t


def length(sde: Any, a: Node, b: Node, top: float, eta: float) -> float:
    u, v = clock(sde, a, eta), clock(sde, b, eta)
    return math.exp(v - top) - math.exp(u - top) if a.affine else v - u


# The formulas of a split


@pytest.mark.parametrize("theta", [1e-12, 0.03, 0.2, 0.5, 0.77, 1 - 1e-9])
def test_a_split_is_an_orthogonal_map_and_merges_back(theta: float) -> None:
    """Four unit normals into four: the halves are standard and independent, and add up."""
    rest = 1 - theta
    m = torch.tensor(split_weights(theta, rest), dtype=F64)  # rows z_l, z_r, h_l, h_r
    torch.testing.assert_close(m @ m.T, torch.eye(4, dtype=F64), rtol=0, atol=1e-14)
    w_l, w_r = math.sqrt(theta) * m[0], math.sqrt(rest) * m[1]
    h_l, h_r = math.sqrt(theta / 12) * m[2], math.sqrt(rest / 12) * m[3]
    w, h = torch.eye(4, dtype=F64)[0], torch.eye(4, dtype=F64)[1] / math.sqrt(12)
    torch.testing.assert_close(w_l + w_r, w, rtol=0, atol=1e-14)
    merged = (rest * w_l - theta * w_r) / 2 + theta * h_l + rest * h_r
    torch.testing.assert_close(merged, h, rtol=0, atol=1e-14)


def test_a_split_has_the_published_coefficients() -> None:
    """W_l = theta W + 6 theta (1 - theta) H + w and H_l, H_r as in the docstring, from (W, H)."""
    theta, rest = 0.3, 0.7
    m = torch.tensor(split_weights(theta, rest), dtype=F64)
    scale = torch.tensor([1, 1 / math.sqrt(12), 1, 1], dtype=F64)  # from (z, h) to (W, H)
    w_l = math.sqrt(theta) * m[0] / scale
    h_l, h_r = math.sqrt(theta / 12) * m[2] / scale, math.sqrt(rest / 12) * m[3] / scale
    assert w_l[:2].tolist() == pytest.approx([theta, 6 * theta * rest], rel=1e-14)
    assert h_l[:2].tolist() == pytest.approx([0, theta**2], rel=1e-14)
    assert h_r[:2].tolist() == pytest.approx([0, rest**2], rel=1e-14)
    q = 1 - 3 * theta * rest
    assert float(h_l[2] / w_l[2]) == pytest.approx(-(theta**2) / (2 * q), rel=1e-13)
    assert float(h_r[3] / h_l[3]) == pytest.approx(-theta / rest, rel=1e-13)


# The law, exactly


@pytest.fixture
def impulses(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Each draw is a unit vector of its own along the entries of a sample: the path is linear."""
    seen: dict[int, int] = {}

    def unit(key: int, first: int, like: Tensor) -> Tensor:
        out = torch.zeros_like(like)
        out[:, seen.setdefault(key, len(seen))] = 1.0
        return out

    monkeypatch.setattr(base, "normals", unit)
    return seen


def brownian_covariance(a: list[float], b: list[float], kind: str) -> float:
    """Cov of W or H over [a0, a1] with W or H over [b0, b1], by quadrature-free integration.

    W = int 1 dB and H = int (1/2 - (c - a0)/(a1 - a0)) dB, the integrands being zero outside.
    """
    low, high = max(a[0], b[0]), min(a[1], b[1])
    if low >= high:
        return 0.0

    def integrand(c: float, ends: list[float], which: str) -> float:
        return 1.0 if which == "W" else 0.5 - (c - ends[0]) / (ends[1] - ends[0])

    def product(c: float) -> float:
        return integrand(c, a, kind[0]) * integrand(c, b, kind[1])

    # Simpson's rule is exact for a quadratic
    return (high - low) / 6 * (product(low) + 4 * product((low + high) / 2) + product(high))


@pytest.mark.parametrize("sde", [VP, WALK], ids=["snr", "t"])
def test_increments_and_areas_have_the_covariances_of_brownian_motion(
    sde: Any, impulses: dict[int, int]
) -> None:
    """Over adjacent, overlapping, nested and far intervals with round and odd ends, to 1e-12."""
    span = (
        [VP.time_of(VP.log_snr(1.0) + p * (VP.log_snr(1e-3) - VP.log_snr(1.0))) for p in PLACES]
        if sde is VP
        else [1.0 - p for p in PLACES]
    )
    path = BrownianPath(0, sde)
    like = torch.empty(1, 1200, dtype=F64)
    at = [sde.at(t) for t in span]
    top = max(clock(sde, node, 1.0) for node in at)
    ticks = [length(sde, at[0], node, top, 1.0) for node in at]
    chosen = [(0, 1), (1, 2), (0, 2), (1, 4), (3, 6), (2, 5), (4, 7), (5, 8), (0, 8), (6, 7)]
    maps = []
    for i, j in chosen:
        z, h = path.levy(like, at[i], at[j])
        assert torch.equal(z, path.normal(like, at[i], at[j]))
        c = ticks[j] - ticks[i]
        maps.append(([ticks[i], ticks[j]], math.sqrt(c) * z[0], math.sqrt(c / 12) * h[0]))
    assert 50 < len(impulses) <= 1200
    for (a, w_a, h_a), (b, w_b, h_b) in itertools.product(maps, repeat=2):
        size = math.sqrt((a[1] - a[0]) * (b[1] - b[0]))
        for kind, x, y in (("WW", w_a, w_b), ("WH", w_a, h_b), ("HH", h_a, h_b)):
            expected = brownian_covariance(a, b, kind)
            assert float(x @ y) / size == pytest.approx(expected / size, abs=1e-12)


PLACES = [0.0, 0.05, 0.1437, 0.25, 0.2871, 0.5, 0.53, 0.7219, 1.0]


def test_drawn_paths_have_these_covariances() -> None:
    """The same with numbers drawn: five sigma exclude a factor 2 or a sign in any coefficient."""
    path, like = BrownianPath(1, WALK), torch.empty(20_000, 1, dtype=F64)
    at = [WALK.at(1 - p) for p in (0.1, 0.2337, 0.41, 0.7)]
    maps = []
    for i, j in [(0, 1), (1, 2), (0, 2), (1, 3), (0, 3)]:
        z, h = path.levy(like, at[i], at[j])
        ends = [-at[i].t, -at[j].t]
        c = ends[1] - ends[0]
        maps.append((ends, math.sqrt(c) * z[:, 0], math.sqrt(c / 12) * h[:, 0]))
    for (a, w_a, h_a), (b, w_b, h_b) in itertools.product(maps, repeat=2):
        for kind, x, y in (("WW", w_a, w_b), ("WH", w_a, h_b), ("HH", h_a, h_b)):
            error = float((x * y).mean()) - brownian_covariance(a, b, kind)
            assert abs(error) < 5 * float((x * y).std()) / math.sqrt(len(x)), (a, b, kind)


# One path for every grid


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("name", ["vp", "ve", "edm", "flow", "cosine", "subvp", "walk"])
@pytest.mark.parametrize("eta", [1.0, 0.6])
def test_steps_of_many_steps_compose_to_those_of_few(name: str, times: int, eta: float) -> None:
    """W = sum W_k and int (B - B_s) dc = sum of int_k + (c left) W_k, to 1e-12 in float64."""
    sde: Any = WALK if name == "walk" else ALL_SDES[name]
    make = uniform if name == "walk" else log_snr
    path, like = BrownianPath(4, sde, eta=eta), torch.empty(3, 2, dtype=F64)
    for n in (7, 16):
        fine = nodes(sde, make(sde, times * n))
        for i in (0, n // 2, n - 1):
            segment = fine[times * i : times * (i + 1) + 1]
            top = clock(sde, segment[-1], eta)
            z, h = path.levy(like, segment[0], segment[-1])
            total = length(sde, segment[0], segment[-1], top, eta)
            w, area = torch.zeros_like(like), torch.zeros_like(like)
            for a, b in pairwise(segment):
                z_k, h_k = path.levy(like, a, b)
                c = length(sde, a, b, top, eta)
                w_k = math.sqrt(c) * z_k
                late = length(sde, b, segment[-1], top, eta)
                area += c * (w_k / 2 + math.sqrt(c / 12) * h_k) + late * w_k
                w += w_k
            torch.testing.assert_close(w / math.sqrt(total), z, rtol=0, atol=1e-12)
            told = z / 2 + h / math.sqrt(12)
            torch.testing.assert_close(area / total**1.5, told, rtol=0, atol=1e-12)


def test_float32_states_compose_in_float32() -> None:
    path, like = BrownianPath(4, VP), torch.empty(3, 2)
    a, b, c = (VP.at(t) for t in (0.9, 0.6, 0.55))
    z = path.normal(like, a, c)
    wide = path.normal(like.double(), a, c)
    assert z.dtype == torch.float32 and wide.dtype == F64
    torch.testing.assert_close(z.double(), wide, rtol=0, atol=2e-6)
    assert not torch.equal(z.double(), wide)  # not rounded to float32 on the way
    assert torch.equal(path.normal(like.bfloat16(), a, c), z.bfloat16())
    top = clock(VP, c, 1.0)
    first, last = length(VP, a, b, top, 1.0), length(VP, b, c, top, 1.0)
    parts = math.sqrt(first) * path.normal(like, a, b) + math.sqrt(last) * path.normal(like, b, c)
    torch.testing.assert_close(parts / math.sqrt(first + last), z, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(1,), (3,), (257,), (3, 16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@given(data=st.data())
def test_a_sample_has_its_path_in_any_batch(
    shape: tuple[int, ...], dtype: torch.dtype, data: st.DataObject
) -> None:
    most = 10 if math.prod(shape) > 100 else 700
    first, size = data.draw(st.integers(0, 2 * most)), data.draw(st.integers(2, most))
    at = data.draw(st.integers(0, size - 1))
    path = BrownianPath(7, VP, first=first)
    a, b = VP.at(0.83), VP.at(0.71)
    whole = path.levy(torch.empty(size, *shape, dtype=dtype), a, b)
    alone = path.from_sample(first + at).levy(torch.empty(1, *shape, dtype=dtype), a, b)
    for x, y in zip(whole, alone, strict=True):
        assert x.shape == (size, *shape) and torch.equal(x[at : at + 1], y)


@pytest.mark.parametrize("kept", [1, 4, 26])
def test_the_order_of_queries_and_what_is_kept_do_not_matter(kept: int) -> None:
    like = torch.empty(3, 2)
    segment = nodes(VP, log_snr(VP, 10)) + nodes(VP, karras(VP, 5))
    asked = [(a, b) for a, b in itertools.product(segment, repeat=2) if abs(a.t - b.t) > 1e-3][::7]
    fresh = [BrownianPath(2, VP).levy(like, a, b) for a, b in asked]
    path = BrownianPath(2, VP)
    object.__setattr__(path, "_store", tree.Store(kept))
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0)).tolist()
    for k in order:
        z, h = path.levy(like, *asked[k])
        assert torch.equal(z, fresh[k][0]) and torch.equal(h, fresh[k][1])
        z.zero_(), h.zero_()  # what is handed out is the caller's own
        path.normal(like[:1], *asked[k])
        path.on_segment(1).normal(like, *asked[k])


def test_the_depth_leaves_round_fractions_alone() -> None:
    like, segment = torch.empty(3, 2), nodes(VP, log_snr(VP, 32))
    for a, b in pairwise(segment):
        shallow = BrownianPath(0, VP, depth=9).normal(like, a, b)
        assert torch.equal(shallow, BrownianPath(0, VP, depth=14).normal(like, a, b))


def test_walked_upwards_increments_are_the_same_and_areas_change_sign() -> None:
    like = torch.empty(4, 2, dtype=F64)
    a, b, c = (VP.at(t) for t in (0.9, 0.6, 0.3))
    for path in (BrownianPath(0, VP), PathOnGrid(0, VP, (0.9, 0.6, 0.3))):
        for x, y in ((a, b), (a, c)):
            (down, area), (up, back) = path.levy(like, x, y), path.levy(like, y, x)
            assert torch.equal(down, up) and torch.equal(area, -back)
            assert torch.equal(up, path.normal(like, y, x))


def test_seeds_segments_streams_and_langevin_draws_are_apart() -> None:
    path, like = BrownianPath(0, VP), torch.empty(20_000, 1)
    a, b = VP.at(0.5), VP.at(0.4)
    drawn = [
        *path.levy(like, a, b),
        path.stream("levy").normal(like, a, b),
        path.draw(like, at=a.t),
        path.stream("langevin").draw(like, at=a.t),
        path.stream("langevin").draw(like, 1, at=a.t),
        path.normal(like, b, VP.at(0.3)),
        path.on_segment(1).normal(like, a, b),
        BrownianPath(1, VP).normal(like, a, b),
        path.from_sample(20_000).normal(like, a, b),
        path.prior(like),
    ]
    for x in drawn:
        assert abs(float(x.mean())) < 0.036 and abs(float(x.var()) - 1) < 0.05
    for x, y in itertools.combinations(drawn, 2):
        assert abs(float((x * y).mean())) < 5 / math.sqrt(len(like))
    assert torch.equal(path.prior(like), Independent(0).prior(like))
    assert torch.equal(path.prior(like), path.on_segment(3).prior(like))
    assert torch.equal(path.normal(like, a, a), Independent(0).normal(like, a, a))
    for name in ("langevin", "renoise", "levy"):
        mine, plain = path.on_segment(2).stream(name), Independent(0).on_segment(2).stream(name)
        assert torch.equal(mine.draw(like, 3), plain.draw(like, 3))
    z, h = path.levy(like, a, a)
    assert not torch.equal(z, h)


def test_times_beyond_t_end_lie_on_the_same_path() -> None:
    path, like = BrownianPath(0, VP), torch.empty(5000, 1, dtype=F64)
    a, b, c = (VP.at(t) for t in (0.01, 1e-3, 2e-5))
    top = clock(VP, c, 1.0)
    first, last = length(VP, a, b, top, 1.0), length(VP, b, c, top, 1.0)
    parts = [path.normal(like, a, b), path.normal(like, b, c)]
    whole = math.sqrt(first) * parts[0] + math.sqrt(last) * parts[1]
    torch.testing.assert_close(
        whole / math.sqrt(first + last), path.normal(like, a, c), rtol=0, atol=1e-12
    )
    for z in parts:
        assert abs(float(z.var()) - 1) < 5 * math.sqrt(2 / len(like))
    assert abs(float((parts[0] * parts[1]).mean())) < 5 / math.sqrt(len(like))


def test_steep_schedules_and_large_eta_neither_overflow_nor_vanish() -> None:
    for sde, eta in ((ALL_SDES["linear_long"], 1.0), (EDMSDE(), 6.0), (VP, 1e-9), (VP, 1e-200)):
        path, like = BrownianPath(0, sde, eta=eta), torch.empty(4000, 1)
        segment = nodes(sde, log_snr(sde, 7))
        for a, b in ((segment[0], segment[1]), (segment[2], segment[5]), (segment[0], segment[7])):
            for x in path.levy(like, a, b):
                assert abs(float(x.var()) - 1) < 5 * math.sqrt(2 / len(like))


def test_eta_as_a_function_of_time_walks_the_clock_of_eta_1() -> None:
    like, (a, b) = torch.empty(4, 2), (VP.at(0.6), VP.at(0.5))
    varying = BrownianPath(0, VP, eta=lambda t: 0.5 + t)
    assert torch.equal(varying.normal(like, a, b), BrownianPath(0, VP).normal(like, a, b))


def test_without_noise_the_clock_is_the_time() -> None:
    like, (a, b) = torch.empty(4, 2), (VP.at(0.6), VP.at(0.5))
    still, timed = BrownianPath(0, VP, eta=0.0), SDE(VP.f, VP.g, t_end=1e-3)
    assert torch.equal(still.normal(like, a, b), BrownianPath(0, timed).normal(like, a, b))


# As solvers use it

DATA = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([0.25], dtype=F64))


def end(solver: Any, grid: Grid, noise: Noise, paths: int = 400) -> Tensor:
    x = math.sqrt(float(DATA.marginal(VP, 1.0).covariance)) * noise.prior(
        torch.empty(paths, 1, dtype=F64)
    )
    return solver.solve(ReverseSDE(VP, DATA.under(VP)), x, grid, noise=noise).x


@pytest.mark.parametrize(
    ("solver", "least", "most"), [(SRA1(), 1.9, 2.1), (Adams(1), 0.93, 1.07)], ids=["1.5", "1"]
)
def test_strong_orders_on_the_path(solver: Any, least: float, most: float) -> None:
    """With Levy areas 2 (1.5 and more) on a Gaussian, with increments alone 1."""
    ends = [end(solver, log_snr(VP, n), BrownianPath(0, VP), 4000) for n in (80, 160, 320)]
    gaps = [float((a - b).square().mean().sqrt()) for a, b in pairwise(ends)]
    assert least < math.log2(gaps[0] / gaps[1]) < most


def test_solvers_on_any_grids_approach_one_path() -> None:
    """Ancestral steps on one grid, SRA1 on another, that share no nodes."""
    path = BrownianPath(3, VP)
    exact = end(SRA1(), log_snr(VP, 300), path)
    gaps = [float((end(Adams(1), karras(VP, n), path) - exact).std()) for n in (20, 40, 80)]
    assert gaps[2] < 0.06 and all(1.6 < a / b < 2.2 for a, b in pairwise(gaps))
    alone = end(Adams(1), karras(VP, 80), Independent(3))
    assert float((alone - exact).std()) > 0.3


# What it costs


def count(monkeypatch: pytest.MonkeyPatch, grid: Grid, levy: bool) -> float:
    drawn, draw = [], base.normals
    monkeypatch.setattr(base, "normals", lambda key, *rest: drawn.append(key) or draw(key, *rest))
    path, like = BrownianPath(0, VP), torch.empty(2, 2)
    for a, b in pairwise(nodes(VP, grid)):
        path.levy(like, a, b) if levy else path.normal(like, a, b)
    monkeypatch.undo()
    assert len(set(drawn)) == len(drawn)  # nothing is drawn twice
    return len(drawn) / grid.steps


@pytest.mark.parametrize(
    ("steps", "plain", "levy"), [(16, 2, 4), (20, 1.6, 3.2), (32, 2.1, 3.2), (50, 3.9, 5.6)]
)
def test_normals_drawn_for_a_step_of_a_log_snr_grid(
    steps: int, plain: float, levy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count(monkeypatch, log_snr(VP, steps), levy=False) <= plain
    assert count(monkeypatch, log_snr(VP, steps), levy=True) <= levy


def test_normals_drawn_for_a_step_of_any_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    for grid in (karras(VP, 20), uniform(VP, 50)):
        assert count(monkeypatch, grid, levy=False) < 20


def tensors() -> int:
    """How many tensors are alive."""
    gc.collect()
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())


def test_no_more_is_kept_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all intervals asked for, four tensors for each of those above the last one."""
    path, like = BrownianPath(0, VP), torch.empty(2, 2)
    before = tensors()
    for a, b in pairwise(nodes(VP, karras(VP, 60))):
        path.normal(like, a, b)
    assert 0 < tensors() - before <= 4 * 3 * path.depth
    monkeypatch.setattr(tree, "MOST_BYTES", 1)
    small = path.from_sample(0)
    before = tensors()
    small.normal(like, VP.at(0.5), VP.at(0.4))
    assert 0 < tensors() - before <= 4 * 2 + 1  # and the shape of the samples


# A value, and errors


def test_it_is_a_value() -> None:
    path, like = BrownianPath(3, VP, eta=0.5, first=2), torch.empty(2, 2)
    drawn = path.normal(like, VP.at(0.5), VP.at(0.4))
    for other in (copy.deepcopy(path), pickle.loads(pickle.dumps(path)), copy.copy(path)):
        assert other == path and hash(other) == hash(path)
        assert torch.equal(other.normal(like, VP.at(0.5), VP.at(0.4)), drawn)
    assert path != BrownianPath(3, VP, eta=0.5) and "_store" not in repr(path)
    with pytest.raises(AttributeError):
        path.seed = 4  # type: ignore[misc]


def test_a_step_inside_a_leaf_is_an_error_and_more_depth_the_remedy() -> None:
    like, (a, b) = torch.empty(2, 2), (VP.at(0.70013), VP.at(0.70012))
    with pytest.raises(ValueError, match=r"depth: .*2\^-11.*0\.70013.*depth=15"):
        BrownianPath(0, VP).normal(like, a, b)
    with pytest.raises(ValueError, match="depth: "):
        BrownianPath(0, VP).check((1.0, a.t, b.t, 1e-3))
    BrownianPath(0, VP, depth=17).normal(like, a, b)
    BrownianPath(0, VP).check(uniform(VP, 1000).times)  # what samplers use


def bad(message: str, *args: Any, **kwargs: Any) -> Any:
    return pytest.param(lambda: BrownianPath(*args, **kwargs), message, id=message[:24])


def errors() -> Iterator[Any]:
    yield bad("seed: .*-1", -1, VP)
    yield bad(r"seed: .*0\.5", 0.5, VP)
    yield bad("first: .*-3.*first=0", 0, VP, first=-3)
    yield bad("sde: .*'vp'.*SDE of the solver", 0, "vp")
    yield bad("eta: .*-1.*stochasticity", 0, VP, eta=-1)
    yield bad("eta: .*nan", 0, VP, eta=math.nan)
    yield bad("eta: .*'one'", 0, VP, eta="one")
    yield bad("depth: .*5 to 20, got 4", 0, VP, depth=4)
    yield bad("depth: .*got 21", 0, VP, depth=21)
    yield bad(r"depth: .*got 11\.0", 0, VP, depth=11.0)
    yield bad("depth: .*True", 0, VP, depth=True)


@pytest.mark.parametrize(("call", "words"), [*errors()])
def test_bad_input(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def test_a_time_of_infinite_log_snr_is_an_error() -> None:
    path = BrownianPath(0, VP)
    for call in (lambda: path.check((1.0, 0.0)), lambda: path.normal(torch.empty(1, 1), *ENDS)):
        with pytest.raises(
            ValueError, match=r"t: expected a time with a finite log-SNR, got 0\.0"
        ):
            call()


ENDS = Node(1.0, 1.0), Node(0.0, 1.0)
