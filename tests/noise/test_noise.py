"""Noise: a pure function of seed, stream, segment, sample, interval or counter; and normal."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import scipy.stats
import torch
from hypothesis import given
from registry import ALL_SDES
from torch import Tensor

from scoresde.node import Node
from scoresde.noise import Independent, Noise, PathOnGrid
from scoresde.sde import EDMSDE, SDE, VPSDE

F64 = torch.float64
VP = VPSDE()
NOW, NXT = VP.at(0.5), VP.at(0.4)
SHAPES = [(1,), (2,), (255,), (256,), (3072,), (3, 16, 16), (1, 5, 3)]
FINE = tuple(k / 16 for k in range(16, 0, -1))


def path(first: int = 0, clock: str = "") -> PathOnGrid:
    return PathOnGrid(3, VP, FINE, clock=clock, first=first)


def on_path(like: Tensor, noise: Noise) -> Tensor:
    return noise.normal(like, VP.at(1.0), VP.at(0.25))


# The same sample has the same noise


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_a_sample_has_its_noise_in_any_batch(shape: tuple[int, ...], data: st.DataObject) -> None:
    most = 20 if math.prod(shape) > 1000 else 3000
    first = data.draw(st.integers(0, 2 * most))
    size = data.draw(st.integers(1, most))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
    whole = Independent(7, first=first).normal(torch.empty(size, *shape), NOW, NXT)
    parts = [
        Independent(7).from_sample(first + a).normal(torch.empty(b - a, *shape), NOW, NXT)
        for a, b in itertools.pairwise([0, *cuts, size])
        if b > a
    ]
    assert whole.shape == (size, *shape)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(
        Independent(7, first=first + size - 1).normal(torch.empty(1, *shape), NOW, NXT)[0],
        whole[-1],
    )


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
@pytest.mark.parametrize("clock", ["t", "snr"])
def test_a_sample_has_its_path_in_any_batch(shape: tuple[int, ...], clock: str) -> None:
    whole = on_path(torch.empty(600, *shape), path(clock=clock))
    part = on_path(torch.empty(50, *shape), path(first=490, clock=clock))
    assert torch.equal(part, whole[490:540])


@pytest.mark.parametrize("make", [Independent, lambda seed: PathOnGrid(seed, VP, (0.5, 0.4))])
def test_only_the_seed_the_stream_the_segment_and_the_place_matter(
    make: Callable[[int], Noise],
) -> None:
    like, noise = torch.empty(4, 3), make(0)
    state = torch.get_rng_state()
    base = noise.normal(like, NOW, NXT)
    torch.manual_seed(12345)
    assert torch.equal(base, make(0).normal(like, NOW, NXT))
    assert torch.equal(base, noise.normal(like, Node(0.5, 9.0), Node(0.4, 9.0)))
    others = [
        base,
        make(1).normal(like, NOW, NXT),
        noise.on_segment(1).normal(like, NOW, NXT),
        noise.on_segment(2).normal(like, NOW, NXT),
        noise.stream("levy").normal(like, NOW, NXT),
        noise.draw(like, 1),
        noise.draw(like, 1, 0),
        noise.draw(like, 1, at=NOW.t),
        noise.draw(like, 2, at=NOW.t),
        noise.draw(like, 1, at=NXT.t),
        noise.on_segment(1).draw(like, 1, at=NOW.t),
        noise.stream("langevin").draw(like, 1, at=NOW.t),
        noise.from_sample(4).normal(like, NOW, NXT),
        noise.prior(like),
    ]
    for a, b in itertools.combinations(others, 2):
        assert not bool((a == b).any())
    assert torch.equal(noise.prior(like), noise.on_segment(5).prior(like))
    assert torch.equal(noise.normal(like, NOW, NOW), noise.draw(like, at=NOW.t))
    assert torch.equal(noise.stream("steps").normal(like, NOW, NXT), base)
    assert not torch.equal(noise.prior(like), make(1).prior(like))
    torch.set_rng_state(state)
    noise.normal(like, NOW, NXT)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=6, unique=True))
def test_seeds_are_distinct(seeds: list[int]) -> None:
    like = torch.empty(2, 2)
    drawn = [Independent(s).normal(like, NOW, NXT) for s in seeds]
    for a, b in itertools.combinations(drawn, 2):
        assert not torch.equal(a, b)


def test_every_bit_of_the_seed_counts() -> None:
    like = torch.empty(2, 2)
    drawn = [Independent(5 + (1 << k)).normal(like, NOW, NXT) for k in range(63)]
    drawn.append(Independent(5).normal(like, NOW, NXT))
    for a, b in itertools.combinations(drawn, 2):
        assert not torch.equal(a, b)


def test_other_dtypes_hold_the_same_float32_numbers() -> None:
    for noise in (Independent(0), PathOnGrid(0, VP, (0.5, 0.4))):
        single = noise.normal(torch.empty(5, 3), NOW, NXT)
        double = noise.normal(torch.empty(5, 3, dtype=F64), NOW, NXT)
        half = noise.normal(torch.empty(5, 3, dtype=torch.bfloat16), NOW, NXT)
        assert single.dtype == torch.float32
        assert torch.equal(single.double(), double)
        assert torch.equal(single.bfloat16(), half)


# Normal and independent


def ks(x: Tensor) -> float:
    return float(scipy.stats.kstest(x.flatten().double().numpy(), "norm").pvalue)


@pytest.mark.parametrize("shape", [(1,), (2,), (255,), (3072,)])
def test_normal(shape: tuple[int, ...]) -> None:
    n = 100_000 // math.prod(shape)
    x = Independent(1).normal(torch.empty(n, *shape), NOW, NXT).double()
    assert abs(float(x.mean())) < 4 / math.sqrt(x.numel())
    assert abs(float(x.var()) - 1) < 4 * math.sqrt(2 / x.numel())
    assert float((x**4).mean()) == pytest.approx(3, abs=0.2)
    assert ks(x) > 1e-3


def series(x: Tensor, y: Tensor) -> float:
    """Correlation in units of its standard error under independence."""
    x, y = x.flatten().double(), y.flatten().double()
    return float((x * y).mean()) * math.sqrt(x.numel())


@pytest.mark.parametrize("shape", [(2,), (300,)])
def test_steps_samples_streams_segments_and_seeds_are_uncorrelated(shape: tuple[int, ...]) -> None:
    n = 60_000 // math.prod(shape)
    like, noise = torch.empty(n, *shape), Independent(0)
    nodes = [VP.at(t) for t in (1.0, 0.9, 0.8, 0.7, 0.6)]
    drawn = [noise.normal(like, a, b) for a, b in itertools.pairwise(nodes)]
    drawn += [noise.stream(s).normal(like, nodes[0], nodes[1]) for s in ("levy", "renoise")]
    drawn += [noise.on_segment(1).normal(like, nodes[0], nodes[1]), noise.prior(like)]
    drawn += [Independent(1).normal(like, nodes[0], nodes[1])]
    drawn += [noise.from_sample(n).normal(like, nodes[0], nodes[1])]
    for a, b in itertools.combinations(drawn, 2):
        assert abs(series(a, b)) < 4.5
    for lag in (1, 2, 7, n // 2):  # between samples, also across blocks
        assert abs(series(drawn[0][lag:], drawn[0][:-lag])) < 4.5
    assert abs(series(drawn[0][:, 0], drawn[0][:, 1])) < 4.5
    # one sample's whole life is normal too: what a single trajectory sees
    times = [VP.at(t) for t in torch.linspace(1, 0.001, 3000, dtype=F64).tolist()]
    one = torch.cat([noise.normal(like[:1], a, b)[:, :2] for a, b in itertools.pairwise(times)])
    assert ks(one) > 1e-3 and abs(series(one[1:], one[:-1])) < 4.5


def test_levy_pairs_are_independent_normals() -> None:
    like = torch.empty(30_000, 2)
    z, h = Independent(0).levy(like, NOW, NXT)
    assert torch.equal(z, Independent(0).normal(like, NOW, NXT))
    assert abs(series(z, h)) < 4.5 and abs(series(z**2 - 1, h**2 - 1)) < 12
    assert ks(z) > 1e-3 and ks(h) > 1e-3


@pytest.mark.parametrize("clock", ["t", "snr"])
def test_levy_areas_of_a_path_compose(clock: str) -> None:
    """W = W_l + W_r and int (B - B_s) = int_l + int_r + c_r W_l, over three uneven leaves."""
    times = [0.9, 0.7, 0.4, 0.3]
    noise = PathOnGrid(3, VP, times, clock=clock)
    ticks = [-t if clock == "t" else math.exp(2 * VP.log_snr(t)) for t in times]
    like = torch.empty(20_000, 2, dtype=F64)
    nodes = [VP.at(t) for t in times]

    def both(i: int, j: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The increment and the integral of B - B_s over [i, j]."""
        z, h = noise.levy(like, nodes[i], nodes[j])
        c = ticks[j] - ticks[i]
        w = math.sqrt(c) * z
        return w, c * (w / 2 + math.sqrt(c / 12) * h)

    w, area = both(0, 3)
    for middle in (1, 2):
        (w_l, area_l), (w_r, area_r) = both(0, middle), both(middle, 3)
        torch.testing.assert_close(w, w_l + w_r, rtol=1e-12, atol=1e-12)
        late = ticks[3] - ticks[middle]
        torch.testing.assert_close(area, area_l + area_r + late * w_l, rtol=1e-10, atol=1e-10)
    z, h = noise.levy(like, nodes[0], nodes[3])
    assert torch.equal(z, noise.normal(like, nodes[0], nodes[3]))
    assert abs(float(h.var()) - 1) < 5 * math.sqrt(2 / h.numel())
    assert abs(float((z * h).mean())) < 5 / math.sqrt(h.numel())


@pytest.mark.parametrize("clock", ["t", "snr"])
def test_levy_at_one_node_is_a_pair_of_fresh_normals(clock: str) -> None:
    """A corrector moves at one node, where a path has no interval: no leaf is drawn twice."""
    noise = PathOnGrid(3, VP, [0.9, 0.7, 0.4], clock=clock)
    like, at = torch.empty(20_000, 1, dtype=F64), VP.at(0.7)
    z, h = noise.levy(like, at, at)
    assert torch.equal(z, noise.normal(like, at, at))
    others = [*noise.levy(like, VP.at(0.9), at), *noise.levy(like, at, VP.at(0.4))]
    assert ks(z) > 1e-3 and ks(h) > 1e-3
    assert all(abs(series(a, b)) < 4.5 for a, b in itertools.combinations([z, h, *others], 2))
    z, h = noise.on_segment(1).levy(like, at, at)
    assert abs(series(z, others[0])) < 4.5 and ks(h) > 1e-3


def test_almost_no_noise_takes_the_clock_of_none() -> None:
    """2 eta^2 below what a float holds: the increments are those of eta = 0, and finite."""
    like, nodes = torch.empty(5, 2, dtype=F64), [VP.at(t) for t in (0.9, 0.7, 0.4)]
    drawn = [PathOnGrid(3, VP, [0.9, 0.7, 0.4], eta=eta) for eta in (0.0, 1e-140, 1e-170)]
    for a, b in ((0, 1), (0, 2)):
        z, h = drawn[0].levy(like, nodes[a], nodes[b])
        assert bool(z.isfinite().all() and h.isfinite().all())
        for other in drawn[1:]:
            assert torch.equal(other.levy(like, nodes[a], nodes[b])[0], z)


# One Brownian path on any grid


def spread(sde: Any, clock: str, eta: float, a: float, b: float) -> float:
    """The length of [a, b] on the clock, written out."""
    if clock == "t":
        return b - a
    return math.exp(2 * eta**2 * sde.log_snr(a)) - math.exp(2 * eta**2 * sde.log_snr(b))


@pytest.mark.parametrize("clock", ["t", "snr"])
@pytest.mark.parametrize("name", ["vp", "ve", "edm_narrow", "flow"])
@pytest.mark.parametrize("eta", [1.0, 0.6])
def test_coarse_increments_are_the_composed_fine_ones(name: str, clock: str, eta: float) -> None:
    sde = ALL_SDES[name]
    times = [sde.T * (0.05 + 0.95 * (k / 12) ** 2) for k in range(12, -1, -1)]
    noise = PathOnGrid(5, sde, times, eta=eta, clock=clock)
    like = torch.empty(6, 3, dtype=F64)
    fine = [noise.normal(like, sde.at(a), sde.at(b)) for a, b in itertools.pairwise(times)]
    widths = [spread(sde, clock, eta, b, a) for a, b in itertools.pairwise(times)]
    for i, j in [(0, 2), (3, 9), (0, 12), (11, 12)]:
        coarse = noise.normal(like, sde.at(times[i]), sde.at(times[j]))
        total = spread(sde, clock, eta, times[j], times[i])
        summed = sum(math.sqrt(w) * z for w, z in zip(widths[i:j], fine[i:j], strict=True))
        assert torch.allclose(math.sqrt(total) * coarse, summed, rtol=1e-12, atol=1e-12)
        # the same upwards
        assert torch.equal(noise.normal(like, sde.at(times[j]), sde.at(times[i])), coarse)


@pytest.mark.parametrize("clock", ["t", "snr"])
def test_coarse_increments_are_normal_and_disjoint_ones_independent(clock: str) -> None:
    like, noise = torch.empty(20_000, 2), path(clock=clock)
    early = noise.normal(like, VP.at(1.0), VP.at(0.5))
    late = noise.normal(like, VP.at(0.5), VP.at(0.0625))
    for x in (early, late):
        assert abs(float(x.var()) - 1) < 4 * math.sqrt(2 / x.numel()) and ks(x) > 1e-3
    assert abs(series(early, late)) < 4.5
    assert abs(series(early, noise.stream("levy").normal(like, VP.at(1.0), VP.at(0.5)))) < 4.5
    assert abs(series(early, noise.on_segment(1).normal(like, VP.at(1.0), VP.at(0.5)))) < 4.5


def test_the_order_of_the_grid_does_not_matter_and_the_default_clock_fits() -> None:
    like = torch.empty(3, 2)
    down, up = path(), PathOnGrid(3, VP, FINE[::-1])
    assert torch.equal(on_path(like, down), on_path(like, up))
    assert torch.equal(on_path(like, down), on_path(like, path(clock="snr")))
    assert not torch.equal(on_path(like, down), on_path(like, path(clock="t")))
    plain = SDE(lambda t, x: -x, lambda t: 1.0)
    by_time = PathOnGrid(3, plain, FINE)
    assert torch.equal(on_path(like, by_time), on_path(like, path(clock="t")))


def test_a_steep_schedule_does_not_underflow() -> None:
    sde = ALL_SDES["linear_long"]  # log-SNR from 4 to -1250
    times = [10.0 - k for k in range(10)]
    noise = PathOnGrid(0, sde, times)
    like = torch.empty(2000, 2, dtype=F64)
    for a, b in [(10.0, 9.0), (10.0, 8.0), (10.0, 1.0)]:
        x = noise.normal(like, sde.at(a), sde.at(b))
        assert float(x.var()) == pytest.approx(1, abs=0.1)
    strong = PathOnGrid(0, EDMSDE(), (80.0, 1.0, 0.002), eta=6.0)
    assert bool(strong.normal(like, EDMSDE().at(80.0), EDMSDE().at(0.002)).isfinite().all())


# Errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Independent(-1), "seed: .*-1"),
        (lambda: Independent(0.5), r"seed: .*0\.5"),
        (lambda: Independent(True), "seed: .*True"),
        (lambda: Independent(2**63), "seed: "),
        (lambda: Independent(0, first=-3), "first: .*-3"),
        (lambda: PathOnGrid(-1, VP, FINE), "seed: .*-1"),
        (lambda: PathOnGrid(0, VP, ()), "times: .*two"),
        (lambda: PathOnGrid(0, VP, (0.5,)), "times: .*two"),
        (lambda: PathOnGrid(0, VP, (0.5, 0.5)), "times: .*monotone"),
        (lambda: PathOnGrid(0, VP, (0.1, 0.9, 0.5)), "times: .*monotone"),
        (lambda: PathOnGrid(0, VP, (1.0, 0.0)), "times: .*finite log-SNR"),
        (lambda: PathOnGrid(0, VP, (1.0, 0.5), clock="lambda"), "clock: .*'lambda'"),
        (
            lambda: PathOnGrid(0, SDE(lambda t, x: x, lambda t: 1.0), FINE, clock="snr"),
            "clock: .*affine",
        ),
        (
            lambda: path().normal(torch.empty(1, 1), VP.at(1.0), VP.at(0.3)),
            r"times: .*0\.3.*finest grid",
        ),
    ],
)
def test_bad_input(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call()
