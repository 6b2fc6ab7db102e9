"""Denoising score matching: closed forms, weightings, samplers of time, dropped conditions."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde._tensor import xp
from scoresde.cond import Cond
from scoresde.losses import (
    TIME,
    WEIGHTING,
    WEIGHTINGS,
    ImportanceTime,
    LogNormalTime,
    LossTime,
    TimeSampler,
    UniformTime,
    dsm_loss,
)
from scoresde.model import Preconditioned, ScoreModel
from scoresde.node import Node
from scoresde.oracles import Gaussian
from scoresde.prediction import Prediction
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    LinearSDE,
    SubVPSDE,
)
from scoresde.summary import DataSummary

S = 0.7  # standard deviation of the Gaussian data

SDES: dict[str, AffineSDE] = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(),
    "cosine": CosineSDE(),
    "edm": EDMSDE(),
    "flow": FlowSDE(),
    "linear": LinearSDE(lambda t: -1.0 - t, lambda t: 2.0 + t, T=2.0),
}
every_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int, dim: int, seed: int = 1) -> Tensor:
    return S * torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


def oracle(sde: AffineSDE, dim: int) -> ScoreModel:
    variance = torch.tensor(S**2, dtype=torch.float64)
    return Gaussian(torch.zeros(dim, dtype=torch.float64), variance).under(sde)


class Recast(ScoreModel):
    """The same model, saying what it knows in another coordinate."""

    def __init__(self, inner: ScoreModel, kind: str) -> None:
        super().__init__()
        self.inner, self.sde, self.kind = inner, inner.sde, kind

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        value = self.inner.predict(node, x, cond).read(self.kind)
        return Prediction(x, node, value, self.kind)


class Probe(ScoreModel):
    """Notes what it is called with, and predicts eps = 0."""

    def __init__(self, sde: SDE, null: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.sde, self.null = sde, null or {}

    @property
    def nulls(self) -> dict[str, Any]:
        return self.null

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        self.node, self.x, self.cond = node, x, cond
        return Prediction(x, node, torch.zeros_like(x), "eps")


class Scale(nn.Module):
    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w).double())

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.w * x


class Fixed(TimeSampler):
    """One time for all."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, None]:
        return torch.full((n,), self.t, dtype=torch.float64), None


# The value of the loss


@every_sde
def test_the_oracle_has_the_irreducible_loss(sde: AffineSDE) -> None:
    """E |eps - E[eps | x_t]|^2 / D = alpha^2 s^2 / (alpha^2 s^2 + sigma^2), averaged over t."""

    def irreducible(t: float) -> float:
        signal = (sde.alpha(t) * S) ** 2
        return signal / (signal + sde.sigma(t) ** 2)

    points = np.geomspace(max(sde.t_min, 1e-5), sde.T, 12)[1:-1]
    total, _ = integrate.quad(irreducible, sde.t_min, sde.T, points=points, limit=400)
    expected = total / (sde.T - sde.t_min)
    time = UniformTime(low_discrepancy=True)
    losses = dsm_loss(oracle(sde, 8), data(100_000, 8), time=time, generator=seeded())
    error = float(losses.std()) / math.sqrt(len(losses))
    assert abs(float(losses.mean()) - expected) < 4 * error
    assert error < 0.03 * expected


@every_sde
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
def test_weightings_by_definition_through_every_coordinate(sde: AffineSDE, kind: str) -> None:
    """Draw what the loss draws, and compute every weighting from x_0hat alone, by hand."""
    x0, time = data(64, 3), UniformTime(low_discrepancy=False)
    again = seeded(5)
    t, _ = time.sample(sde, 64, again)
    eps = torch.randn(x0.shape, generator=again, dtype=torch.float64)
    alpha, sigma, g = (f(t)[:, None] for f in (sde.alpha, sde.sigma, sde.g))
    gain = S**2 / ((alpha * S) ** 2 + sigma**2)
    # x0 - x0hat without its cancellation, for x0hat = gain alpha (alpha x0 + sigma eps)
    wrong = gain * (sigma**2 / S**2 * x0 - alpha * sigma * eps)
    snr = (alpha / sigma) ** 2
    by_hand = {
        "eps": snr * wrong**2,
        "x0": wrong**2,
        # v = alpha eps - sigma x0 and alpha eps_wrong = -alpha^2/sigma x0_wrong
        "v": (alpha**2 / sigma + sigma) ** 2 * wrong**2,
        "likelihood": 0.5 * g**2 * snr / sigma**2 * wrong**2,
        "min_snr": snr.clamp(max=5.0) * wrong**2,
        "edm": (1 / snr + 1) * snr * wrong**2,
    }
    assert set(by_hand) == set(WEIGHTINGS)
    model = Recast(oracle(sde, 3), kind)
    for name, expected in by_hand.items():
        found = dsm_loss(model, x0, weighting=name, time=time, generator=seeded(5))
        torch.testing.assert_close(
            found, expected.mean(1), rtol=1e-9, atol=0.0, msg=lambda m, k=name: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_coordinate_of_the_model_does_not_matter(name: str, weighting: str) -> None:
    x0 = data(256, 2)
    # A wrong model, so that the errors are no small differences of large numbers.
    wrong = Gaussian(torch.ones(2).double(), torch.tensor(3.0).double()).under(SDES[name])
    losses = [
        dsm_loss(Recast(wrong, kind), x0, weighting=weighting, generator=seeded())
        for kind in ("eps", "x0", "v", "score")
    ]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-10, atol=0.0)


@every_sde
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weight_at_one_node_is_that_of_a_batch(sde: AffineSDE, weighting: str) -> None:
    weigh = WEIGHTINGS[weighting][1]
    times = [sde.t_min + share * (sde.T - sde.t_min) for share in (0.01, 0.3, 0.9)]
    t = torch.tensor(times, dtype=torch.float64)
    many = weigh(sde.at(t, like=t[:, None]))
    for i, t in enumerate(times):
        one = float(many.flatten()[i]) if isinstance(many, Tensor) else many
        assert weigh(sde.at(t)) == pytest.approx(one, rel=1e-9)


def test_a_weight_of_ones_own_acts_on_the_error_of_eps() -> None:
    model, x0 = oracle(VPSDE(), 2), data(32, 2)
    plain = dsm_loss(model, x0, generator=seeded())
    t, _ = TIME.sample(VPSDE(), 32, seeded())
    own = dsm_loss(model, x0, weighting=lambda n: n.t[:, None] ** 2, generator=seeded())
    torch.testing.assert_close(own, plain * t**2)
    model = Recast(model, "eps")  # here the product of all weights is a number
    doubled = dsm_loss(model, x0, weighting=lambda n: 2.0, generator=seeded())
    torch.testing.assert_close(doubled, 2 * plain)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score", "edm"])
def test_the_minimiser_is_the_posterior_mean(weighting: str, kind: str) -> None:
    """The loss is quadratic in the weight w of a linear net: three values give its minimum."""
    sde, t = VPSDE(), 0.3
    alpha, sigma = sde.alpha(t), sde.sigma(t)

    def mean_loss(w: float) -> float:
        model = Preconditioned(Scale(w), sde, predicts=kind)
        losses = dsm_loss(model, x0, weighting=weighting, time=Fixed(t), generator=seeded(3))
        return float(losses.detach().mean())

    x0 = data(20_000, 8)
    below, at, above = (mean_loss(w) for w in (-1.0, 0.0, 1.0))
    best = (below - above) / (2 * (below + above - 2 * at))
    x = torch.ones(1, 1).double()
    found = Preconditioned(Scale(best), sde, predicts=kind)(t, x).eps.item()
    assert found == pytest.approx(sigma / ((alpha * S) ** 2 + sigma**2), rel=0.02)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score", "edm"])
def test_half_precision_networks_do_not_coarsen_the_loss(kind: str) -> None:
    class Zero(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.dtype = dtype

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros_like(x, dtype=self.dtype)

    x0 = data(64, 4).float()
    half, full = (
        dsm_loss(Preconditioned(Zero(dtype), VPSDE(), kind), x0, generator=seeded())
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


@every_sde
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_weights_in_float32_are_those_of_float64(sde: AffineSDE, weighting: str) -> None:
    """Of a model that says eps = 0, over |eps|^2: what is left is weight and importance."""
    weights = []
    for dtype in (torch.float64, torch.float32):
        probe, x0 = Probe(sde), torch.zeros(256, 2, dtype=dtype)
        loss = dsm_loss(probe, x0, weighting=weighting, time=ImportanceTime(), generator=seeded())
        eps = probe.x / probe.node.sigma
        weights.append((loss / eps.square().mean(1)).double())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=0.0)


def test_randomness_comes_from_the_generator_alone() -> None:
    model, x0 = oracle(VPSDE(), 2), data(16, 2)
    before = torch.get_rng_state()
    for time in (UniformTime(), UniformTime(False), ImportanceTime(), LossTime(), LogNormalTime()):
        first = dsm_loss(model, x0, time=time, generator=seeded(4))
        assert torch.equal(first, dsm_loss(model, x0, time=time, generator=seeded(4)))
        assert not torch.equal(first, dsm_loss(model, x0, time=time, generator=seeded(5)))
    assert torch.equal(before, torch.get_rng_state())


@every_sde
def test_the_model_is_asked_at_the_node_of_its_times(sde: AffineSDE) -> None:
    probe, x0 = Probe(sde), torch.zeros(16, 2)
    dsm_loss(probe, x0, generator=seeded())
    expected = sde.at(TIME.sample(sde, 16, seeded())[0], like=x0)
    for name in ("t", "g", "alpha", "sigma", "log_snr", "rate"):
        assert torch.equal(getattr(probe.node, name), getattr(expected, name)), name
    assert probe.node.affine and probe.node.batched
    assert torch.equal(probe.node.map(lambda c: c[:3]).rate, expected.rate[:3])


class Counting(TorchDispatchMode):
    """Counts the operations."""

    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return op(*args, **(kwargs or {}))


def test_the_loss_takes_few_operations_beside_the_network() -> None:
    with Counting() as counter:
        dsm_loss(Probe(VPSDE()), torch.zeros(8, 3), time=UniformTime(True), generator=seeded())
    assert counter.count <= 42


# The times


@every_sde
def test_importance_times_have_the_density_g2_over_sigma2(sde: AffineSDE) -> None:
    start = max(sde.t_min, 1e-12)
    half = (sde.T - start) / 2  # fine at both ends, where the density may soar
    left = np.append(0.0, np.geomspace(1e-9 * half, half, 20_000))
    grid = np.append(start + left[:-1], sde.T - left[::-1])
    rate = (sde.g(grid) / sde.sigma(grid)) ** 2
    cumulative = integrate.cumulative_trapezoid(rate, grid, initial=0.0)
    t, weight = ImportanceTime(low_discrepancy=False).sample(sde, 4000, seeded(11))
    assert t.dtype == torch.float64 and bool((t >= sde.t_min).all() and (t <= sde.T).all())
    ks = stats.kstest(t.numpy(), lambda u: np.interp(u, grid, cumulative / cumulative[-1]))
    assert ks.pvalue > 1e-3
    # the weight is uniform density over density, with the norm of the density by quadrature
    density = np.interp(t.numpy(), grid, rate) / cumulative[-1]
    np.testing.assert_allclose(weight.numpy() * density * (sde.T - sde.t_min), 1.0, rtol=2e-4)


@pytest.mark.parametrize("name", ["vp", "subvp", "cosine"])
def test_importance_sampling_keeps_the_mean_and_lowers_the_variance(name: str) -> None:
    sde = SDES[name]

    def likelihood(t: float) -> float:
        signal, noise = (sde.alpha(t) * S) ** 2, sde.sigma(t) ** 2
        return 0.5 * sde.g(t) ** 2 / noise * signal / (signal + noise)

    edges = np.geomspace(sde.t_min, sde.T, 40)
    pieces = [integrate.quad(likelihood, a, b)[0] for a, b in pairwise(edges)]
    expected = sum(pieces) / (sde.T - sde.t_min)
    x0, model, spread = data(40_000, 4), oracle(sde, 4), {}
    one_by_one, by_importance = UniformTime(False), ImportanceTime(False)
    for time in (one_by_one, by_importance, ImportanceTime()):
        losses = dsm_loss(model, x0, weighting="likelihood", time=time, generator=seeded(2))
        spread[time] = float(losses.std())
        error = spread[time] / math.sqrt(len(losses))
        assert abs(float(losses.mean()) - expected) < 4 * error
    assert spread[by_importance] < 0.2 * spread[one_by_one]
    assert spread[by_importance] / math.sqrt(len(x0)) < 0.01 * expected


@every_sde
@pytest.mark.parametrize("n", [1, 7, 64])
def test_low_discrepancy_puts_one_time_in_every_stratum(sde: AffineSDE, n: int) -> None:
    span = sde.T - sde.t_min
    t, weight = UniformTime(low_discrepancy=True).sample(sde, n, seeded(n))
    assert weight is None
    strata = ((t - sde.t_min) / span * n).floor().sort().values
    assert strata.tolist() == list(range(n))
    lam = sde.log_snr(ImportanceTime(low_discrepancy=True).sample(sde, n, seeded(n))[0])
    top, bottom = sde.log_snr(sde.t_min), sde.log_snr(sde.T)
    strata = ((lam - bottom) / (top - bottom) * n).floor().sort().values
    assert strata.tolist() == list(range(n))


def test_uniform_times_are_uniform() -> None:
    for low_discrepancy in (False, True):
        first = [
            UniformTime(low_discrepancy).sample(VPSDE(), 3, seeded(k))[0][0].item()
            for k in range(500)
        ]
        assert stats.kstest(first, stats.uniform(1e-5, 1.0).cdf).pvalue > 1e-3


@every_sde
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_loss_times_have_the_density_of_the_loss(sde: AffineSDE, weighting: str) -> None:
    """The least second moment of the weighted loss: 1 / (1 - uniform) of its mean, squared."""
    time, n, cells = LossTime(weighting, std=S, uniform=0.1), 20_000, 1000
    t, weight = time.sample(sde, n, seeded(4))
    assert t.dtype == torch.float64 and bool((t >= sde.t_min).all() and (t <= sde.T).all())
    assert weight is not None and float(weight.max()) <= 10 * (1 + 1e-12)
    # Cell by cell, the share of times, and mean and second moment of the loss of the best model.
    middle = sde.t_min + (sde.T - sde.t_min) * (torch.arange(cells).double() + 0.5) / cells
    alpha, sigma, g = sde.alpha(middle), sde.sigma(middle), sde.g(middle)
    snr = (alpha / sigma) ** 2
    on_eps = {  # the weights on the error of eps, by hand
        "eps": torch.ones_like(snr),
        "x0": 1 / snr,
        "v": (alpha + sigma**2 / alpha) ** 2,
        "likelihood": 0.5 * (g / sigma) ** 2,
        "min_snr": snr.clamp(max=5.0) / snr,
        "edm": 1 / snr + 1,
    }
    m = on_eps[weighting] * (alpha * S) ** 2 / ((alpha * S) ** 2 + sigma**2)
    expected = 0.9 * m / m.sum() + 0.1 / cells
    cell = ((t - sde.t_min) / (sde.T - sde.t_min) * cells).long().clamp(max=cells - 1)
    torch.testing.assert_close(weight, 1 / (expected * cells)[cell], rtol=1e-9, atol=0.0)
    edges = np.linspace(sde.t_min, sde.T, cells + 1)
    total = np.append(0.0, expected.cumsum(0).numpy())
    assert stats.kstest(t.numpy(), lambda u: np.interp(u, edges, total)).pvalue > 1e-3
    second, even = float((m**2 / expected).sum()), float((m**2).sum()) * cells
    assert second <= float(m.sum()) ** 2 / 0.9 * (1 + 1e-12)
    assert second <= even


@pytest.mark.parametrize("name", ["vp", "ve", "cosine", "flow"])
def test_loss_times_keep_the_mean_and_lower_the_variance(name: str) -> None:
    sde, n, spread = SDES[name], 40_000, []
    losses = [
        dsm_loss(oracle(sde, 4), data(n, 4), time=time, generator=seeded(3))
        for time in (UniformTime(False), LossTime(std=S, low_discrepancy=False), LossTime(std=S))
    ]
    for found in losses:
        spread.append(float(found.std()))
        error = math.hypot(spread[0], spread[-1]) / math.sqrt(n)
        assert abs(float(found.mean() - losses[0].mean())) < 4 * error
    assert spread[1] < 0.9 * spread[0]


@dataclass
class Mutable(AffineSDE):
    """An SDE of one's own that can change and therefore has no hash: a VP-SDE in other times."""

    power: float
    T, t_min, t_end = 1.0, 1e-4, 1e-3

    def log_alpha(self, t: Any) -> Any:
        return -3.0 * t**self.power

    def log_snr(self, t: Any) -> Any:
        return self.log_alpha(t) - xp(t).log(self.sigma(t))

    def sigma(self, t: Any) -> Any:
        return xp(t).sqrt(-xp(t).expm1(2 * self.log_alpha(t)))

    def time_of(self, log_snr: Any) -> Any:
        raise NotImplementedError

    def rate(self, t: Any) -> Any:
        return -3.0 * self.power * t ** (self.power - 1)

    def g(self, t: Any) -> Any:
        return xp(t).sqrt(-2 * self.rate(t))


def test_loss_times_follow_an_sde_that_changes() -> None:
    sde = Mutable(1.0)
    before = LossTime().sample(sde, 64, seeded())[0]
    sde.power = 3.0
    after = LossTime().sample(sde, 64, seeded())[0]
    assert torch.equal(after, LossTime().sample(Mutable(3.0), 64, seeded())[0])
    assert not torch.equal(before, after)


@every_sde
@pytest.mark.parametrize("scale", [None, 0.05, 1.0, 20.0])
def test_log_normal_times_have_their_density(sde: AffineSDE, scale: float | None) -> None:
    """Of log(sigma / alpha): a normal cut off at the ends, and a share uniform between them."""
    low, high = -sde.log_snr(sde.t_min), -sde.log_snr(sde.T)
    centre = min(max(-0.5 + math.log(scale or 1.0), low), high)
    a, b = ((end - centre) / 1.2 for end in (low, high))
    normal, flat = stats.truncnorm(a, b, centre, 1.2), stats.uniform(low, high - low)
    for spread in (False, True):
        time = LogNormalTime(scale=scale, low_discrepancy=spread)
        t, weight = time.sample(sde, 5000, seeded())
        assert weight is None and t.dtype == torch.float64
        assert bool((t >= sde.t_min).all() and (t <= sde.T).all())
        noise = -sde.log_snr(t).numpy()
        found = stats.kstest(noise, lambda v: 0.9 * normal.cdf(v) + 0.1 * flat.cdf(v))
        assert found.pvalue > 1e-3
        assert not spread or found.statistic < 2.1 / 5000  # of strata the rank is all but exact
        # The ends of the schedule, where a sampler starts and stops, are learned as well.
        gap = 20 * (high - low) / (0.1 * 5000)
        assert noise.min() < low + gap and noise.max() > high - gap


def test_the_times_of_edm_are_a_case_of_log_normal_times() -> None:
    edm = LogNormalTime(-1.2, 1.2, uniform=0.0, scale=1.0, low_discrepancy=False)
    t, _ = edm.sample(EDMSDE(), 20_000, seeded())
    assert stats.kstest(t.log().numpy(), stats.norm(-1.2, 1.2).cdf).pvalue > 1e-3
    own, theirs = (
        LogNormalTime(mean, scale=s).sample(EDMSDE(), 100, seeded())[0]
        for mean, s in ((-1.2 - math.log(0.5), 0.5), (-1.2, 1.0))
    )
    torch.testing.assert_close(own, theirs, rtol=1e-12, atol=0.0)


@dataclass
class Pure(AffineSDE):
    """A straight path whose end is nothing but noise: alpha = 0 and a log-SNR of -inf."""

    T, t_min, t_end = 1.0, 0.0, 1e-3

    def log_alpha(self, t: Any) -> Any:
        return xp(t).log1p(-t)

    def sigma(self, t: Any) -> Any:
        return 1.0 * t

    def log_snr(self, t: Any) -> Any:
        if isinstance(t, float) and t in (0.0, 1.0):
            return math.inf if t == 0.0 else -math.inf
        return xp(t).log1p(-t) - xp(t).log(t)

    def time_of(self, log_snr: Any) -> Any:
        return 1.0 / (1.0 + xp(log_snr).exp(log_snr))

    def rate(self, t: Any) -> Any:
        return -1.0 / (1.0 - t)

    def g(self, t: Any) -> Any:
        return xp(t).sqrt(2 * t / (1.0 - t))


def test_log_normal_times_under_a_schedule_with_endless_log_snr() -> None:
    t, _ = LogNormalTime(low_discrepancy=True).sample(Pure(), 1000, seeded())
    assert bool(t.isfinite().all())
    assert 1e-6 < float(t.min()) < 1e-5 and 1 - 2e-5 < float(t.max()) < 1 - 1e-6
    assert 0.3 < float(t.median()) < 0.45  # where sigma / alpha is exp(-0.5)


def test_default_times_and_weighting_are_the_documented_ones() -> None:
    assert LogNormalTime(-0.5, 1.2, 0.1, None, True) == TIME
    assert WEIGHTING == "eps"
    model, x0 = oracle(VPSDE(), 2), data(16, 2)
    told = dsm_loss(model, x0, time=TIME, weighting=WEIGHTING, generator=seeded())
    assert torch.equal(dsm_loss(model, x0, generator=seeded()), told)


@pytest.mark.parametrize("time", [LogNormalTime(low_discrepancy=False), LossTime(), TIME])
def test_times_take_the_scale_that_the_model_knows_unless_they_have_their_own(time: Any) -> None:
    probe, x0 = Probe(EDMSDE()), torch.zeros(512, 2)
    dsm_loss(probe, x0, time=time, generator=seeded())
    plain = probe.node.t
    probe.data = DataSummary(1, (2,), mean=0.0, std=30.0, low=-1.0, high=1.0)
    dsm_loss(probe, x0, time=time, generator=seeded())
    assert float(probe.node.t.median()) > 5 * float(plain.median())
    own = time.fitted(1.0)
    dsm_loss(probe, x0, time=own, generator=seeded())
    assert own.fitted(30.0) is own and torch.equal(probe.node.t, plain)
    model = Preconditioned(Scale(0.5).float(), EDMSDE(), sigma_data=30.0)
    assert torch.equal(
        dsm_loss(model, x0, time=time, generator=seeded()),
        dsm_loss(model, x0, time=time.fitted(30.0), generator=seeded()),
    )
    assert UniformTime().fitted(30.0) == UniformTime()


# Conditions


def test_one_condition_is_dropped_at_the_given_rate() -> None:
    n, rate = 20_000, 0.3
    model = Probe(VPSDE(), {"y": 7.0})
    dsm_loss(model, data(n, 2), cond={"y": torch.zeros(n)}, cond_dropout=rate, generator=seeded())
    dropped = float((model.cond["y"] == 7.0).double().mean())
    assert abs(dropped - rate) < 4 * math.sqrt(rate * (1 - rate) / n)


def test_conditions_are_dropped_together_and_in_part_at_the_given_rate() -> None:
    """All with probability p, and with p again 1 or 2 of the 3, each choice equally often."""
    n, rate = 20_000, 0.3
    model = Probe(VPSDE(), {"label": -1, "y": torch.tensor([7.0, 8.0]), "more": 0.0})
    cond = {"label": torch.arange(n), "y": torch.zeros(n, 2), "more": torch.ones(n)}
    dsm_loss(model, data(n, 2), cond=cond, cond_dropout=rate, generator=seeded())
    gone = {
        "label": model.cond["label"] == -1,
        "y": (model.cond["y"] == model.null["y"]).all(1),
        "more": model.cond["more"] == 0.0,
    }
    found = torch.stack(list(gone.values()), 1).long() @ torch.tensor([1, 2, 4])
    shares = found.bincount(minlength=8).double() / n
    expected = torch.tensor([1 - 2 * rate, *[rate / 6] * 6, rate]).double()
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all(), shares
    label = gone["label"]
    assert torch.equal(model.cond["label"][~label], torch.arange(n)[~label])
    assert torch.equal(model.cond["y"], torch.where(gone["y"][:, None], model.null["y"], 0.0))
    assert torch.equal(model.cond["more"], (~gone["more"]).float())
    assert model.cond["label"].dtype == torch.int64
    assert torch.equal(cond["label"], torch.arange(n))  # the caller's own is left alone


def test_dropping_none_or_all() -> None:
    model, cond = Probe(VPSDE(), {"label": -1}), {"label": torch.arange(50)}
    dsm_loss(model, data(50, 2), cond=cond, generator=seeded())
    assert model.cond["label"] is cond["label"]
    dsm_loss(model, data(50, 2), cond=cond, cond_dropout=1.0, generator=seeded())
    assert (model.cond["label"] == -1).all()


# Bad input


def call(**changes: Any) -> Tensor:
    arguments = {"model": Probe(VPSDE()), "x0": torch.zeros(4, 2)} | changes
    return dsm_loss(arguments.pop("model"), arguments.pop("x0"), **arguments)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"x0": torch.zeros(4, 2, dtype=torch.int64)}, TypeError, r"x0: .*int64.*\.float\(\)"),
        ({"x0": torch.zeros(0, 2)}, ValueError, r"x0: expected a non-empty batch"),
        ({"x0": torch.zeros(4)}, ValueError, r"x0: .*shape \(B, \*D\).*add a batch axis"),
        ({"x0": [[0.0]]}, TypeError, r"x0: .*torch\.as_tensor"),
        ({"weighting": "likelyhood"}, ValueError, r"weighting: .*did you mean 'likelihood'"),
        ({"weighting": 3}, (TypeError, ValueError), r"weighting: "),
        (
            {"model": Probe(SDE(lambda t, x: -x, lambda t: 1.0))},
            TypeError,
            r"model\.sde: .*Linear",
        ),
        ({"cond_dropout": 1.5}, ValueError, r"cond_dropout: .*probability.*1\.5"),
        ({"cond_dropout": -0.1}, ValueError, r"cond_dropout: .*probability.*-0\.1"),
        (
            {"cond": {"y": torch.zeros(4)}, "cond_dropout": 0.5},
            ValueError,
            r"cond: .*'y'.*null=",
        ),
    ],
)
def test_bad_input(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(**changes)


def test_bad_time_samplers() -> None:
    with pytest.raises(ValueError, match=r"std: .*got 0.*EDM takes 1\.2"):
        LogNormalTime(std=0)
    with pytest.raises(ValueError, match=r"uniform: expected a share in \(0, 1\], got 0"):
        LossTime(uniform=0)
    with pytest.raises(ValueError, match=r"weighting: .*did you mean 'likelihood'"):
        LossTime("likelyhood")
    with pytest.raises(ValueError, match=r"mean: .*inf"):
        LogNormalTime(mean=math.inf)
    not_affine = SDE(lambda t, x: -x, lambda t: 1.0)
    for time in (ImportanceTime(), LossTime(), LogNormalTime()):
        with pytest.raises(TypeError, match=r"model\.sde: expected an AffineSDE"):
            time.sample(not_affine, 4)

    class FromZero(FlowSDE):
        t_min = 0.0

    with pytest.raises(ValueError, match=r"t_min: expected a time with a finite log-SNR, got 0"):
        ImportanceTime().sample(FromZero(), 4)
