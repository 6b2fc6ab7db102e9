"""The discrete chain: schedules, closed forms, the decoder, sampling and terms of the bound."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn

from scoresde import (
    Gaussian,
    GaussianMixture,
    Preconditioned,
    Quantisation,
    ReverseSampler,
    ScoreModel,
    dsm_loss,
)
from scoresde.ddpm import DDPM, ChainSDE, ChainTime, discretized_gaussian
from scoresde.losses import ImportanceTime, UniformTime
from scoresde.prediction import Prediction
from scoresde.sde import SDE, VESDE, VPSDE, CosineSDE, FlowSDE, LinearSDE, SubVPSDE

D = torch.float64
BETAS = (0.02, 0.05, 0.3, 0.1, 0.6)
CHAINS = {
    "linear": DDPM.linear(),
    "cosine": DDPM.cosine(100),
    "own": DDPM(BETAS),
    "vp": DDPM.from_sde(VPSDE(), 50),
    "vp, log-SNR": DDPM.from_sde(VPSDE(), 50, grid="log_snr"),
}
VARIANCES = ("small", "large", 0.3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


class Linear(ScoreModel):
    """x_0hat = gain x + shift: a model whose reverse chain is affine, right or wrong."""

    def __init__(self, sde: SDE, gain: float = 0.4, shift: float = 0.1) -> None:
        super().__init__()
        self.sde, self.gain, self.shift = sde, gain, shift

    def predict(self, node, x, cond=None):
        return Prediction(x, node, self.gain * x + self.shift, "x0")


class Levels(ScoreModel):
    """The exact model of independent discrete entries: levels with log probabilities."""

    def __init__(self, sde: SDE, levels: Tensor, log_p: Tensor) -> None:
        super().__init__()
        self.sde, self.levels, self.log_p = sde, levels, log_p

    def predict(self, node, x, cond=None):
        alpha, sigma = (
            v[..., None] if isinstance(v, Tensor) else v for v in (node.alpha, node.sigma)
        )
        square = (x[..., None] - alpha * self.levels).square() / sigma**2
        posterior = torch.softmax(self.log_p - square / 2, -1)
        return Prediction(x, node, posterior @ self.levels, "x0")


# Schedules


@pytest.mark.parametrize("name", CHAINS)
def test_abar_is_the_exact_product(name: str) -> None:
    chain, exact = CHAINS[name], Fraction(1)
    for i, beta in enumerate(chain.betas, 1):
        exact *= 1 - Fraction(beta)
        assert chain.abar[i] == pytest.approx(float(exact), rel=1e-12)
        assert chain.bbar[i] == pytest.approx(float(1 - exact), rel=1e-12)
        assert chain.log_snr[i] == pytest.approx(
            0.5 * (math.log(exact) - math.log(1 - exact)), abs=1e-12
        )


@pytest.mark.parametrize("name", CHAINS)
def test_the_sde_of_a_chain_is_exact_at_the_nodes(name: str) -> None:
    chain = CHAINS[name]
    sde, n = chain.to_sde(), chain.N
    for i in range(1, n + 1):
        node = sde.at(i / n)
        assert node.alpha**2 == pytest.approx(chain.abar[i], rel=1e-12)
        assert node.sigma**2 == pytest.approx(chain.bbar[i], rel=1e-12)
        assert sde.time_of(node.log_snr) == pytest.approx(i / n, rel=1e-9)
        scale, std = sde.transition((i - 1) / n, i / n)  # which is q_step
        assert scale**2 == pytest.approx(1 - chain.betas[i - 1], rel=1e-12)
        assert std**2 == pytest.approx(chain.betas[i - 1], rel=1e-10)
        # the rate of the step that ends there
        assert node.g**2 == pytest.approx(-n * math.log1p(-chain.betas[i - 1]), rel=1e-12)
    assert math.isinf(sde.log_snr(0.0)) and sde.sigma(0.0) == 0.0


def test_the_sde_of_a_chain_is_one_sde_for_every_kind_of_time() -> None:
    sde = ChainSDE(BETAS)
    times = np.linspace(0.013, 0.987, 41)  # between the nodes
    for name in ("log_alpha", "alpha", "sigma", "log_snr", "rate", "g"):
        fn = getattr(sde, name)
        floats = np.array([fn(float(t)) for t in times])
        assert np.abs(fn(times) - floats).max() < 1e-12
        assert (fn(torch.tensor(times)) - torch.tensor(floats)).abs().max() < 1e-12
        assert fn(torch.tensor(times).float()).dtype == torch.float32
    lam = sde.log_snr(times)
    assert np.abs(sde.time_of(lam) - times).max() < 1e-12
    assert (sde.time_of(torch.tensor(lam)) - torch.tensor(times)).abs().max() < 1e-12
    t = torch.tensor(times, requires_grad=True)
    (slope,) = torch.autograd.grad(sde.log_alpha(t).sum(), t)
    assert (slope - sde.rate(t)).abs().max() < 1e-12
    (slope,) = torch.autograd.grad(sde.sigma(t).square().sum(), t)
    g2 = slope - 2 * sde.rate(t) * sde.sigma(t) ** 2
    assert (g2 - sde.g(t) ** 2).abs().max() < 1e-10
    x = normal(41, 3)
    batch = sde.at(torch.tensor(times), like=x)
    for k, time in enumerate(times):
        node = sde.at(float(time))
        for name in ("t", "g", "alpha", "sigma", "log_snr", "rate"):
            assert float(getattr(batch, name)[k]) == pytest.approx(getattr(node, name), rel=1e-12)


def test_at_its_nodes_a_chain_s_rate_is_that_of_the_step_that_ends_there() -> None:
    for n in (3, 5, 49, 1000):
        betas = [0.001 + 0.3 * ((7 * i) % n) / n for i in range(n)]
        sde, x = ChainSDE(betas), torch.zeros(n, 1, dtype=D)
        times = [i / n for i in range(1, n + 1)]
        exact = torch.tensor([-n * math.log1p(-b) for b in betas], dtype=D)
        node = sde.at(torch.tensor(times, dtype=D), like=x)
        for g in (node.g[:, 0], sde.g(torch.tensor(times, dtype=D))):
            assert (g.square() / exact - 1).abs().max() < 1e-12
        assert (node.rate[:, 0] / exact + 0.5).abs().max() < 1e-12
        arrays = sde.g(np.array(times)) ** 2, -2 * sde.rate(np.array(times))
        assert max(np.abs(a / exact.numpy() - 1).max() for a in arrays) < 1e-12
        floats = [sde.g(t) ** 2 for t in times]
        assert floats == pytest.approx(exact.tolist(), rel=1e-12)


def test_the_sde_of_a_chain_is_a_value_with_the_prior_of_the_chain() -> None:
    sde, x = ChainSDE(torch.tensor(BETAS, dtype=D)), normal(4, 3)
    assert sde == DDPM(BETAS).to_sde() and hash(sde) == hash(ChainSDE(list(BETAS)))
    assert sde != ChainSDE(BETAS[::-1])
    assert sde.t_min == sde.t_end == 0.2
    assert torch.equal(sde.sample_prior(x), x)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    assert (sde.prior_log_prob(x) - exact).abs().max() < 1e-12
    assert (sde.prior_kl(x) - DDPM(BETAS).prior_kl(x)).abs().max() < 1e-12


def test_the_schedules_of_the_papers() -> None:
    linear = DDPM.linear()
    assert linear.betas[0] == 1e-4 and linear.betas[-1] == pytest.approx(0.02, rel=1e-12)
    assert linear.abar[-1] == pytest.approx(4.04e-5, rel=1e-2)  # Ho et al. 2020, sec. 4
    cosine = DDPM.cosine(100)
    f = [math.cos(math.pi / 2 * (i / 100 + 0.008) / 1.008) ** 2 for i in range(101)]
    for i in range(100):
        assert cosine.abar[i] == pytest.approx(f[i] / f[0], rel=1e-10)
    assert cosine.betas[-1] == 0.999
    assert DDPM(np.array(BETAS)) == DDPM(torch.tensor(BETAS, dtype=D)) == DDPM(list(BETAS))


@pytest.mark.parametrize("sde", [VPSDE(), CosineSDE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "times"])
def test_a_chain_of_an_sde_has_its_marginals(sde, grid) -> None:
    times = [0.001, 0.01, 0.1, 0.5, 0.9] if grid == "times" else grid
    chain = DDPM.from_sde(sde, 5, grid=times)
    nodes = chain.nodes(sde)
    for i, node in enumerate(nodes, 1):
        assert node.alpha**2 == pytest.approx(chain.abar[i], rel=1e-12)
        assert node.sigma**2 == pytest.approx(chain.bbar[i], rel=1e-12)
    if grid == "uniform":
        assert [n.t for n in nodes] == pytest.approx([sde.T * i / 5 for i in range(1, 6)])
    if grid == "log_snr":
        gaps = np.diff(chain.log_snr[1:])
        assert gaps == pytest.approx(gaps[0], rel=1e-9)
        assert nodes[0].t == pytest.approx(sde.t_end)
    if grid == "times":
        assert [n.t for n in nodes] == pytest.approx(times, rel=1e-12)
    # the marginals of the chain's own SDE are the same ones
    own = chain.nodes(chain.to_sde())
    assert [n.log_snr for n in own] == pytest.approx([n.log_snr for n in nodes], abs=1e-12)


# What a network is told


@pytest.mark.parametrize(
    ("convention", "told"),
    [
        ("i", lambda i, n: i),
        ("i-1", lambda i, n: i - 1),
        ("i/N", lambda i, n: i / n),
        ("(N-1)t", lambda i, n: i / n * (n - 1)),
        ("999t", lambda i, n: i / n * 999),
        ("1000(t-1/N)", lambda i, n: (i / n - 1 / n) * 1000),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_a_network_is_told_its_own_time(convention, told, dtype) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.seen = t
            return x

    chain, net = DDPM.linear(300), Net()
    model = chain.score_model(net, convention)
    assert isinstance(model, Preconditioned) and model.sde == chain.to_sde()
    steps = torch.tensor([1, 2, 150, 299, 300])
    x = torch.zeros(5, 2, dtype=dtype)
    chain.p_mean_variance(model, steps, x)
    whole = convention in ("i", "i-1")
    expected = [told(int(i), 300) for i in steps]
    assert net.seen.tolist() == (
        expected if whole else pytest.approx(expected, rel=1e-6 if dtype != D else 1e-12)
    )
    for i in range(1, 301):
        chain.p_mean_variance(model, i, x)
        seen = float(net.seen[0])
        assert seen == told(i, 300) if whole else math.isclose(seen, told(i, 300), rel_tol=1e-6)
    model.predict(model.sde.at(150.4 / 300), x)  # between the steps: a fraction
    assert float(net.seen[0]) == pytest.approx(told(150.4, 300), rel=1e-6)
    time = ChainTime(convention, 300, whole=True)
    assert time(model.sde.at(150.4 / 300)) == pytest.approx(told(150, 300), rel=1e-12)
    assert ChainTime.from_dict(json.loads(json.dumps(time.to_dict()))) == time


# Closed forms of the forward chain


@pytest.mark.parametrize("name", CHAINS)
def test_q_sample_composes_q_steps(name: str) -> None:
    chain, x0 = CHAINS[name], normal(3, 2)
    mean, variance = x0, 0.0
    for i in range(1, chain.N + 1):
        mean, beta = chain.q_step(i, mean)
        variance = (1 - chain.betas[i - 1]) * variance + beta
        if i in (1, 2, chain.N // 2, chain.N):
            assert (chain.q_sample(i, x0, torch.zeros_like(x0)) - mean).abs().max() < 1e-12
            spread = chain.q_sample(i, torch.zeros_like(x0), torch.ones_like(x0))
            assert (spread.square() - variance).abs().max() < 1e-12


@pytest.mark.parametrize("name", CHAINS)
def test_q_posterior_is_bayes_rule(name: str) -> None:
    chain, x0, x = CHAINS[name], normal(4, 3), normal(4, 3, seed=1)
    for i in {2, 3, chain.N // 2, chain.N}:
        beta, a, b = chain.betas[i - 1], chain.abar[i - 1], chain.bbar[i - 1]
        precision = (1 - beta) / beta + 1 / b
        mean = (math.sqrt(1 - beta) / beta * x + math.sqrt(a) / b * x0) / precision
        got, variance = chain.q_posterior(i, x, x0)
        assert (got - mean).abs().max() < 1e-11
        assert variance == pytest.approx(1 / precision, rel=1e-11)
    first, variance = chain.q_posterior(1, x, x0)
    assert (first - x0).abs().max() < 1e-12 and variance == 0.0


def test_a_step_for_each_sample_is_that_step() -> None:
    chain = CHAINS["own"].with_variance("large")
    model = Linear(chain.to_sde())
    steps = torch.tensor([5, 1, 3, 5, 2])  # as many as dimensions, where broadcasting may hide
    x0, x, eps = normal(5, 5), normal(5, 5, seed=1), normal(5, 5, seed=2)

    def parts(i, rows) -> list[Tensor]:
        found = [chain.q_sample(i, x0[rows], eps[rows])]
        for mean, variance in (
            chain.q_step(i, x[rows]),
            chain.q_posterior(i, x[rows], x0[rows]),
            chain.p_mean_variance(model, i, x[rows]),
        ):
            found += [mean, torch.as_tensor(variance, dtype=D) + torch.zeros_like(mean)]
        return found

    batch = parts(steps, slice(None))
    for row, i in enumerate(steps.tolist()):
        for one, many in zip(parts(i, slice(row, row + 1)), batch, strict=True):
            assert (one[0] - many[row]).abs().max() < 1e-12
    late = steps.clamp_min(2)
    batch = chain.step_kl(model, late, x0, eps)
    for row, i in enumerate(late.tolist()):
        one = chain.step_kl(model, i, x0[row : row + 1], eps[row : row + 1])
        assert float(one) == pytest.approx(float(batch[row]), rel=1e-12)


def test_the_mean_of_the_reverse_step_is_that_of_eps() -> None:
    """mu = (x_i - beta_i / sqrt(1 - abar_i) eps_hat) / sqrt(1 - beta_i): Ho et al., eq. 11."""
    for chain in CHAINS.values():
        model, x = Linear(chain.to_sde()), normal(4, 3)
        for i in (1, 2, chain.N):
            eps = model.predict(model.sde.at(i / chain.N), x).eps
            beta = chain.betas[i - 1]
            mean = (x - beta / math.sqrt(chain.bbar[i]) * eps) / math.sqrt(1 - beta)
            assert (chain.p_mean_variance(model, i, x)[0] - mean).abs().max() < 1e-9


def test_fixed_variances() -> None:
    chain = CHAINS["own"]
    tilde = chain.posterior_variances
    assert tilde[0] == 0.0
    assert chain.variances == (BETAS[0], *tilde[1:])
    large, middle = chain.with_variance("large"), chain.with_variance(0.25)
    assert large.variances == BETAS
    for a, b, c in zip(large.variances, chain.variances, middle.variances, strict=True):
        assert c == pytest.approx(a**0.25 * b**0.75, rel=1e-12)
        assert b <= c * (1 + 1e-12) and c <= a * (1 + 1e-12)
    assert chain.with_variance(0.0).variances == chain.variances
    assert chain.with_variance(1).variances == large.variances
    own = chain.with_variance(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert own.variances == pytest.approx((0.1, 0.2, 0.3, 0.4, 0.5))


# The terms of the bound


def test_prior_kl_is_the_closed_form_and_the_integral() -> None:
    for chain in CHAINS.values():
        x0 = normal(6, 4)
        mean, std = math.sqrt(chain.abar[-1]) * x0, math.sqrt(chain.bbar[-1])
        q = torch.distributions.Normal(mean, std)
        p = torch.distributions.Normal(torch.zeros(4, dtype=D), 1.0)
        exact = torch.distributions.kl_divergence(q, p).sum(1)
        assert (chain.prior_kl(x0) - exact).abs().max() < 1e-10


def integral_kl(m0: float, s0: float, m1: float, s1: float) -> float:
    q, p = scipy.stats.norm(m0, s0), scipy.stats.norm(m1, s1)
    value, _ = scipy.integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)),
        m0 - 12 * s0,
        m0 + 12 * s0,
        epsabs=1e-13,
        epsrel=1e-12,
        points=[m0],
        limit=200,
    )
    return float(value)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", ["own", "cosine", "vp, log-SNR"])
def test_each_step_is_the_kl_of_its_two_gaussians(name: str, variance) -> None:
    chain = CHAINS[name].with_variance(variance)
    model, x0, eps = Linear(chain.to_sde()), normal(3, 2), normal(3, 2, seed=1)
    for i in (2, 3, chain.N // 2 + 1, chain.N):
        x = chain.q_sample(i, x0, eps)
        (m0, v0), (m1, v1) = chain.q_posterior(i, x, x0), chain.p_mean_variance(model, i, x)
        q = torch.distributions.Normal(m0, math.sqrt(v0))
        p = torch.distributions.Normal(m1, math.sqrt(v1))
        exact = torch.distributions.kl_divergence(q, p).sum(1)
        got = chain.step_kl(model, i, x0, eps)
        assert torch.allclose(got, exact, rtol=1e-9, atol=1e-12)
        by_quadrature = sum(
            integral_kl(float(m0[0, d]), math.sqrt(v0), float(m1[0, d]), math.sqrt(v1))
            for d in range(2)
        )
        assert float(got[0]) == pytest.approx(by_quadrature, rel=1e-10, abs=1e-10)


def test_a_fixed_step_is_the_weighted_error_of_eps() -> None:
    """beta^2 / (2 Sigma alpha (1 - abar)) |eps - eps_hat|^2: Ho et al., eq. 12."""
    chain = CHAINS["own"]
    model, x0, eps = Linear(chain.to_sde()), normal(3, 2), normal(3, 2, seed=1)
    for i in (2, 5):
        x = chain.q_sample(i, x0, eps)
        beta = chain.betas[i - 1]
        wrong = (eps - model.predict(model.sde.at(i / 5), x).eps).square().sum(1)
        weight = beta**2 / (2 * chain.variances[i - 1] * (1 - beta) * chain.bbar[i])
        assert torch.allclose(chain.step_kl(model, i, x0, eps), weight * wrong, rtol=1e-11)


@pytest.mark.parametrize(("N", "last"), [(5, 1), (32, 4)])
def test_no_term_takes_the_noise_of_another(N: int, last: int) -> None:
    """One draw at every step from 2 to N, and one for L_0 for every eight, at least one."""
    x0, chain, seen = normal(3, 2), DDPM.from_sde(VPSDE(), N, grid="log_snr"), []

    class Asked(Linear):
        def predict(self, node, x, cond=None):
            seen.append((x - node.alpha * x0) / node.sigma)
            return super().predict(node, x, cond)

    model = Asked(chain.to_sde())
    for draw in (0, 1):
        chain.bound_terms(model, x0, decoder="gaussian", seed=3, draw=draw)
    assert len(seen) == 2 * (N - 1 + last)
    assert float(torch.stack(seen)[:, 0, 0].sort().values.diff().min()) > 1e-9


def test_the_terms_are_those_of_each_step() -> None:
    chain = CHAINS["own"]
    model, x0 = Linear(chain.to_sde()), normal(6, 2)
    terms = chain.bound_terms(model, x0, decoder="gaussian", seed=3)
    assert terms.steps.shape == (4, 6)
    parts = terms.prior + terms.steps.sum(0) + terms.reconstruction
    assert torch.equal(terms.total, parts)
    again = chain.bound_terms(model, x0[2:4], decoder="gaussian", seed=3, first=2)
    assert (again.total - terms.total[2:4]).abs().max() < 1e-12  # the noise is the sample's own
    other = chain.bound_terms(model, x0, decoder="gaussian", seed=3, draw=1)
    assert (other.steps - terms.steps).abs().min() > 0
    # row k is L_{k+1}: with a model that is right at one step alone, all other rows are large
    for i in (2, 4):

        class RightAt(Linear):
            def predict(self, node, x, cond=None, i=i):
                value = x0 if abs(node.t - i / 5) < 1e-9 else x0 + 1.0
                return Prediction(x, node, value, "x0")

        rows = chain.bound_terms(RightAt(chain.to_sde()), x0, decoder="noised").steps.sum(1)
        assert rows.argmin() == i - 2 and float(rows[i - 2]) < 1e-20 < float(rows.sum())


# The decoder


def exact_log_mass(k: int, mean: float, std: float, quantisation: Quantisation) -> float:
    import mpmath

    with mpmath.workdps(80):
        level = mpmath.mpf(quantisation.low) + mpmath.mpf(
            quantisation.high - quantisation.low
        ) * k / (quantisation.levels - 1)
        half = mpmath.mpf(quantisation.high - quantisation.low) / (2 * (quantisation.levels - 1))
        lo, hi = ((level + s * half - mean) / mpmath.mpf(std) for s in (-1, 1))

        def above(z):
            return mpmath.erfc(z / mpmath.sqrt(2)) / 2

        if k == 0:
            return float(mpmath.log(above(-hi)))
        if k == quantisation.levels - 1:
            return float(mpmath.log(above(lo)))
        mass = above(lo) - above(hi) if lo > 0 else above(-hi) - above(-lo)
        return float(mpmath.log(mass))


@pytest.mark.parametrize("std", [1e-4, 1e-3, 0.0029, 0.01, 0.03, 0.1, 1.0, 50.0])
def test_the_log_mass_of_bins_is_exact_far_into_the_tails(std: float) -> None:
    pytest.importorskip("mpmath")
    quantisation = Quantisation(256)
    k = torch.tensor([[0, 1, 100, 128, 254, 255]])
    x = quantisation.encode(k, dtype=D)
    for mean in (0.0, 0.3, -0.99, -5.0, 30.0):
        got = discretized_gaussian(x, torch.full_like(x, mean), std, quantisation)[0]
        for level, value in zip(k[0].tolist(), got.tolist(), strict=True):
            exact = exact_log_mass(level, mean, std, quantisation)
            assert value == pytest.approx(exact, rel=1e-12, abs=1e-13), (level, mean)


@pytest.mark.parametrize("centre", [0.0, 0.7, 3.0])
def test_the_mass_of_a_narrow_bin_keeps_its_digits(centre: float) -> None:
    """log(2 r phi(c)) up to r^2: a difference of error functions would lose eps / r."""
    from scoresde.ddpm.decoder import _log_mass

    for radius in (1e-11, 1e-9):
        exact = math.log(2 * radius) - centre**2 / 2 - 0.5 * math.log(2 * math.pi)
        found = _log_mass(*torch.tensor([centre, radius], dtype=D))
        assert float(found) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize(
    "quantisation", [Quantisation(2), Quantisation(256), Quantisation(17, 0, 5)]
)
def test_the_masses_of_all_levels_sum_to_one(quantisation: Quantisation) -> None:
    x = quantisation.encode(torch.arange(quantisation.levels)[None], dtype=D)
    for mean, std in ((0.1, 0.02), (-3.0, 1.0), (2.0, 1e-3), (0.5, 40.0)):
        p = discretized_gaussian(x, torch.full_like(x, mean), std, quantisation).exp()
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-12)
        cdf = scipy.stats.norm(mean, std).cdf
        edge = float(x[0, 0]) + quantisation.bin_width / 2
        assert float(p[0, 0]) == pytest.approx(cdf(edge), abs=1e-12)
    column = torch.tensor([[0.02], [0.5]], dtype=D)
    zeros = torch.zeros(2, quantisation.levels, dtype=D)
    both = discretized_gaussian(x.expand(2, -1), zeros, column, quantisation)
    for row, std in zip(both, (0.02, 0.5), strict=True):
        one = discretized_gaussian(x, torch.zeros_like(x), std, quantisation)[0]
        assert (row - one).abs().max() < 1e-12


def test_discrete_data_in_the_field_s_two_scalings() -> None:
    """Half bins of 1/255 for 2k/255 - 1, of 1/256 for 2(k + 1/2)/256 - 1."""
    centred = Quantisation(256, -255 / 256, 255 / 256)
    for quantisation, half in ((Quantisation(256), 1 / 255), (centred, 1 / 256)):
        x = quantisation.encode(torch.tensor([[100]]), dtype=D)
        (level,) = x[0].tolist()
        normal = scipy.stats.norm(0.0, 0.5)
        mass = normal.cdf(level + half) - normal.cdf(level - half)
        got = discretized_gaussian(x, torch.zeros_like(x), 0.5, quantisation).exp()
        assert float(got) == pytest.approx(mass, rel=1e-11)


# The exact model


def exact_terms(chain: DDPM, s2: float) -> dict[str, float]:
    """The expected terms of one dimension of N(0, s2) data, in closed form."""
    steps = 0.0
    for i in range(2, chain.N + 1):
        a, b, beta = chain.abar[i], chain.bbar[i], chain.betas[i - 1]
        c = math.sqrt(chain.abar[i - 1]) * beta / b
        mmse, sigma = s2 * b / (a * s2 + b), chain.variances[i - 1]
        r = chain.posterior_variances[i - 1] / sigma
        steps += c**2 * mmse / (2 * sigma) + 0.5 * (r - 1 - math.log(r))
    a, b = chain.abar[-1], chain.bbar[-1]
    prior = 0.5 * (a * s2 + b - 1 - math.log(b))
    a, b, sigma = chain.abar[1], chain.bbar[1], chain.variances[0]
    last = 0.5 * (s2 * b / (a * s2 + b) / sigma + math.log(2 * math.pi * sigma))
    return {"prior": prior, "steps": steps, "reconstruction": last}


def gaussian_optimum(chain: DDPM, s2: float) -> DDPM:
    pairs = zip(chain.abar[1:], chain.bbar[1:], strict=True)
    return chain.with_variance(chain.optimal_variance([b / (a * s2 + b) for a, b in pairs]))


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_expected_terms_of_gaussian_data(variance) -> None:
    chain = DDPM.from_sde(VPSDE(), 12, grid="log_snr", variance=variance)
    data = Gaussian(torch.zeros(64, dtype=D), torch.tensor(0.25, dtype=D))
    x0 = data.sample(2000, seed=1)
    terms = chain.bound_terms(data.under(VPSDE()), x0, decoder="gaussian")
    exact = exact_terms(chain, 0.25)
    for got, name in (
        (terms.prior, "prior"),
        (terms.steps.sum(0), "steps"),
        (terms.reconstruction, "reconstruction"),
    ):
        error = float(got.std()) / math.sqrt(len(got)) / 64
        assert abs(float(got.mean()) / 64 - exact[name]) < 4 * error + 1e-12, name
        assert error < 0.02 * abs(exact[name]) + 1e-3


def test_with_the_optimal_variance_the_bound_of_gaussian_data_is_tight() -> None:
    s2 = 0.25
    entropy = 0.5 * math.log(2 * math.pi * math.e * s2)
    for chain in CHAINS.values():
        chain = gaussian_optimum(chain, s2)
        end = chain.abar[-1] * s2 + chain.bbar[-1]
        left = 0.5 * (end - 1 - math.log(end))  # KL(q(x_N), N(0, 1)), and nothing else
        total = sum(exact_terms(chain, s2).values())
        assert total - entropy == pytest.approx(left, abs=1e-10)
        for i, sigma in enumerate(chain.variances, 1):  # Var(x_{i-1} | x_i)
            before, beta = chain.abar[i - 1] * s2 + chain.bbar[i - 1], chain.betas[i - 1]
            given = before - (1 - beta) * before**2 / ((1 - beta) * before + beta)
            assert sigma == pytest.approx(given, rel=1e-9)


def test_the_gap_of_a_fixed_variance_falls_as_one_over_n() -> None:
    """The first level is held fixed, and the log-SNR grid refined on [t_1, T]."""
    s2, gaps = 0.25, []
    for n in (100, 200, 400, 800, 1600):
        chain = DDPM.from_sde(VPSDE(), n, grid="log_snr", t_end=1e-3)
        # that of the steps: prior and decoder are the same at every N
        e = chain.abar[1] / chain.bbar[1]
        t = chain.abar[-1] / chain.bbar[-1]
        continuous = 0.5 * (math.log1p(s2 * e) - math.log1p(s2 * t))
        gaps.append(exact_terms(chain, s2)["steps"] - continuous)
    slopes = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert all(gap > 0 for gap in gaps)
    assert slopes[-1] == pytest.approx(1.0, abs=0.02), slopes
    assert all(1.0 < b < a for a, b in pairwise(slopes))


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_estimated_variance_is_that_of_gaussian_data_under_every_seed(steps: int) -> None:
    chain, n = DDPM.cosine(steps), 200
    v = torch.tensor([0.25, 1.0], dtype=D)  # of the two dimensions
    data = Gaussian(torch.tensor([0.5, -3.0], dtype=D), v)
    # Var(x_{i-1} | x_i) = beta-tilde + c^2 v s/(v + s), the mean of the two dimensions
    s = [b / a for a, b in zip(chain.abar[1:], chain.bbar[1:], strict=True)]
    unknown = [float((v * r / (v + r)).mean()) for r in s]
    c2 = [
        chain.abar[i - 1] * (chain.betas[i - 1] / chain.bbar[i]) ** 2 for i in range(1, steps + 1)
    ]
    tilde = chain.posterior_variances
    truth = [t + c * u for t, c, u in zip(tilde, c2, unknown, strict=True)]
    model = data.under(chain.to_sde())
    for seed in range(8 if steps < 1000 else 2):
        x0 = data.sample(n, seed=seed)
        spread = float(x0.var(0, correction=0).mean())
        found = chain.analytic_variance(model, x0, seed=seed)
        assert found == pytest.approx(truth, rel=0.15)
        # the noise of the estimate never lifts it above what the data's own variance allows
        most = [1 / (1 / r + 1 / spread) for r in s]
        assert all(
            t <= f <= (t + c * m) * (1 + 1e-12)
            for t, f, c, m in zip(tilde, found, c2, most, strict=True)
        )
        # at the end of the chain 1/(1 - beta_N) would multiply that noise
        assert found[-1] == pytest.approx(truth[-1], rel=5e-3)


def test_the_variance_of_the_data_bounds_the_optimal_variance() -> None:
    chain = DDPM(BETAS)
    for v in (0.0, 0.3):
        found = chain.optimal_variance([0.0] * 5, data_variance=v)
        for i in range(2, 6):
            c = math.sqrt(chain.abar[i - 1]) * BETAS[i - 1] / chain.bbar[i]
            s = chain.bbar[i] / chain.abar[i]
            error = v * s / (v + s) if v else 0.0
            want = chain.posterior_variances[i - 1] + c**2 * error
            assert found[i - 1] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_the_optimal_variance_is_the_least_of_the_bound_and_is_estimated(seed: int) -> None:
    data = GaussianMixture(
        torch.tensor([[1.0, 0.2], [-0.7, 0.0]], dtype=D), torch.tensor([0.02, 0.1], dtype=D)
    )
    chain = DDPM.cosine(8)
    model, x0 = data.under(chain.to_sde()), data.sample(40_000, seed=1 + seed)
    score = chain.analytic_variance(model, x0, seed=seed)
    error = chain.analytic_variance(model, x0, estimate="error", seed=seed)
    # for an exact model both estimate one number: Var(x_{i-1} | x_i) per dimension
    assert score == pytest.approx(error, rel=0.05)
    upper = [
        t + c**2 * b / a
        for t, c, a, b in zip(
            chain.posterior_variances,
            [
                math.sqrt(chain.abar[i - 1]) * chain.betas[i - 1] / chain.bbar[i]
                for i in range(1, 9)
            ],
            chain.abar[1:],
            chain.bbar[1:],
            strict=True,
        )
    ]
    low = chain.posterior_variances
    assert all(a <= b <= c for a, b, c in zip(low, score, upper, strict=True))

    def bound(variance) -> Tensor:
        own, x = chain.with_variance(variance), x0[:4000]
        return own.bound_terms(model, x, decoder="gaussian").total.mean()

    best = bound(error)
    for factor in (0.8, 1.25):
        for k in range(8):
            moved = [v * factor if i == k else v for i, v in enumerate(error)]
            assert bound(moved) > best, (factor, k)
    assert bound("small") > best and bound("large") > best
    # where the model is wrong, the error knows and the score does not
    wrong = Linear(chain.to_sde(), 0.9, 0.3)
    by_score, by_error = (
        chain.with_variance(chain.analytic_variance(wrong, x0, estimate=e))
        .bound_terms(wrong, x0, decoder="gaussian")
        .total.mean()
        for e in ("score", "error")
    )
    assert by_error < by_score


# 8-bit data


def eight_bit() -> tuple[Quantisation, Tensor, Tensor]:
    """A quantised mixture of two Gaussians: the levels that occur and their exact masses."""
    quantisation = Quantisation(256)
    level = quantisation.encode(torch.arange(256), dtype=D)
    half, p = quantisation.bin_width / 2, torch.zeros(256, dtype=D)
    for weight, mean, std in ((0.6, -0.02, 0.006), (0.4, 0.02, 0.008)):
        z = torch.stack([level - half - mean, level + half - mean]) / std / math.sqrt(2)
        p += weight * (torch.erf(z[1]) - torch.erf(z[0])) / 2
    keep = p > 1e-5
    return quantisation, level[keep], p[keep] / p[keep].sum()


class Expectation:
    """Over levels and noise, by the trapezoidal rule: exact to 1e-7, so nothing is random."""

    def __init__(self, level: Tensor, p: Tensor) -> None:
        eps = torch.linspace(-6.3, 6.3, 28, dtype=D)
        weight = torch.exp(-eps.square() / 2)
        self.mass = (p[:, None] * weight / weight.sum()).flatten()
        self.x0, self.eps = level.repeat_interleave(28)[:, None], eps.repeat(len(level))[:, None]

    def over_steps(self, steps: range, fn) -> list[float]:
        """Of fn(i, x0, eps) for every step, many steps at a time."""
        found, size = [], len(self.mass)
        for part in torch.tensor(list(steps)).split(40):
            i = part.repeat_interleave(size)
            x0, eps = self.x0.repeat(len(part), 1), self.eps.repeat(len(part), 1)
            found += (fn(i, x0, eps).reshape(-1, size) @ self.mass).tolist()
        return found


def fine_chain(n: int) -> DDPM:
    """From a noise of a tenth of a bin on; nine of ten steps where bins are told apart."""
    sde, few = VPSDE(), n // 10
    low, middle, high = (sde.log_snr(sde.T), 2.5, sde.log_snr(5e-6))
    coarse = np.linspace(low, middle, few, endpoint=False)
    levels = [*coarse, *np.linspace(middle, high, n - few)]
    return DDPM.from_sde(sde, n, grid=[min(sde.time_of(float(v)), sde.T) for v in levels[::-1]])


def test_the_bound_of_quantised_data_is_their_entropy_to_a_thousandth_bit() -> None:
    quantisation, level, p = eight_bit()
    truth, mean = -float((p * p.log2()).sum()), Expectation(level, p)
    model, gaps = Levels(VPSDE(), level, p.log()), []

    def gap(chain: DDPM) -> float:
        steps = mean.over_steps(
            range(2, chain.N + 1), lambda i, x0, eps: chain.step_kl(model, i, x0, eps)
        )
        last = chain.decode(model, mean.x0, [mean.eps], quantisation=quantisation) @ mean.mass
        total = float(mean.mass @ chain.prior_kl(mean.x0)) + sum(steps) + float(last)
        return total / math.log(2) - truth

    for n in (2500, 10_000):
        chain = fine_chain(n)
        times = torch.tensor([0.0, *chain.times(VPSDE())[::-1]], dtype=D)

        def error(i, x0, eps, chain=chain, times=times) -> Tensor:
            node = model.sde.at(times[i], like=x0)
            return (eps - model.predict(node, chain.q_sample(i, x0, eps)).eps).square().sum(1)

        unknown = mean.over_steps(range(1, n + 1), error)
        best = chain.optimal_variance([1 - e for e in unknown], quantisation=quantisation)
        gaps.append(gap(chain.with_variance(best)))
    assert 0 < gaps[1] < 1e-3, gaps
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.15), gaps  # 1 / N
    assert gaps[0] < gap(fine_chain(2500))  # of the variance "small"


# Sampling


@pytest.mark.parametrize("name", ["own", "cosine", "vp, log-SNR"])
def test_ancestral_sampling_is_the_sampler_of_that_name(name: str) -> None:
    chain = CHAINS[name]
    data = GaussianMixture(
        torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=D), torch.tensor([0.1, 0.2], dtype=D)
    )
    model = data.under(chain.to_sde())
    ours = chain.ancestral_sample(model, (7, 2), seed=3, dtype=D, keep_path=True)
    sampler = ReverseSampler(model.sde, model, "ancestral", grid=chain.times(model.sde))
    theirs = sampler.solve((7, 2), seed=3, dtype=D, keep_path=True)
    assert ours.shape == (chain.N + 1, 7, 2)
    assert (ours[:-1] - theirs.path[: chain.N]).abs().max() < 1e-12
    assert (ours[-1] - theirs.x).abs().max() < 1e-12
    part = chain.ancestral_sample(model, (3, 2), seed=3, first=2, dtype=D)
    assert (part - ours[-1, 2:5]).abs().max() < 1e-12
    start = chain.ancestral_sample(model, (7, 2), seed=3, x_init=ours[0])
    assert torch.equal(start, ours[-1])


def affine_moments(chain: DDPM, model: ScoreModel, mean: float, variance: float):
    """The exact mean and variance of every state, by the affine maps of the reverse chain."""
    points = torch.tensor([[0.0], [1.0]], dtype=D)
    moments = [(mean, variance)]
    for i in range(chain.N, 0, -1):
        out, sigma = chain.p_mean_variance(model, i, points)
        shift, slope = float(out[0]), float(out[1] - out[0])
        mean, variance = slope * mean + shift, slope**2 * variance + (sigma if i > 1 else 0.0)
        moments.append((mean, variance))
    return moments


@pytest.mark.parametrize("name", CHAINS)
def test_the_reverse_chain_undoes_the_forward_chain_on_gaussian_data(name: str) -> None:
    chain, m, s2 = gaussian_optimum(CHAINS[name], 0.25), 0.7, 0.25
    data = Gaussian(torch.tensor([m], dtype=D), torch.tensor(s2, dtype=D))
    model = data.under(chain.to_sde())
    a, b = chain.abar, chain.bbar
    path = affine_moments(chain, model, math.sqrt(a[-1]) * m, a[-1] * s2 + b[-1])
    for i, (mean, variance) in zip(range(chain.N, 0, -1), path, strict=False):
        assert mean == pytest.approx(math.sqrt(a[i]) * m, abs=1e-10)
        assert variance == pytest.approx(a[i] * s2 + b[i], abs=1e-10)
    mean, variance = path[-1]  # the last step is its mean: Sigma_1 is missing
    assert mean == pytest.approx(m, abs=1e-10)
    assert variance + chain.variances[0] == pytest.approx(s2, abs=1e-10)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_moments_of_ancestral_samples(variance) -> None:
    chain = DDPM.from_sde(VPSDE(), 10, grid="log_snr", variance=variance)
    data = Gaussian(torch.full((50,), 0.7, dtype=D), torch.tensor(0.25, dtype=D))
    x = chain.ancestral_sample(data.under(VPSDE()), (2000, 50), seed=1, dtype=D)
    one = Gaussian(data.mean[:1], data.covariance).under(VPSDE())
    mean, exact = affine_moments(chain, one, 0.0, 1.0)[-1]
    n = x.numel()
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(exact / n)
    assert abs(float(x.var()) / exact - 1) < 4 * math.sqrt(2 / n)


def test_a_chain_serves_every_solver_and_the_loss() -> None:
    chain = DDPM.linear(100, 1e-3, 0.15)
    sde = chain.to_sde()
    data = Gaussian(torch.zeros(3, dtype=D), torch.tensor(0.25, dtype=D))
    model = data.under(sde)
    for solver in ("dpmpp_2m", "heun", "euler_maruyama", "unipc_3"):
        x = ReverseSampler(sde, model, solver, steps=40).sample((4000, 3), seed=0, dtype=D)
        assert float(x.std()) == pytest.approx(0.5, abs=0.03), solver
    loss = dsm_loss(model, data.sample(500), time=ImportanceTime())
    assert loss.shape == (500,) and bool(loss.isfinite().all())


# Bad input


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: DDPM([0.1, 0.0]), ValueError, "betas, step 2"),
        (lambda: DDPM([0.1, 1.0, 0.2]), ValueError, "strictly between 0 and 1"),
        (lambda: DDPM([0.1, float("nan")]), ValueError, "betas"),
        (lambda: DDPM([0.1]), ValueError, "at least two"),
        (lambda: DDPM(torch.full((2, 2), 0.1)), ValueError, "1-D"),
        (lambda: DDPM(0.1), TypeError, "betas"),
        (lambda: DDPM("linear"), TypeError, "betas"),
        (lambda: DDPM(["a", "b"]), TypeError, "betas"),
        (lambda: ChainSDE([0.1, -0.1]), ValueError, "betas, step 2"),
        (lambda: DDPM(BETAS, "medium"), ValueError, "variance"),
        (lambda: DDPM(BETAS, 1.5), ValueError, "variance"),
        (lambda: DDPM(BETAS, (0.1, 0.2)), ValueError, "5 numbers"),
        (lambda: DDPM(BETAS, (0.1, 0.2, 0.3, 0.4, 0.0)), ValueError, "variance"),
        (lambda: DDPM.linear(1), ValueError, "N"),
        (lambda: DDPM.linear(20, 1e-3, 1.2), ValueError, "from_sde"),
        (lambda: DDPM.from_sde(SubVPSDE(), 9), ValueError, "alpha^2 + sigma^2"),
        (lambda: DDPM.from_sde(FlowSDE(), 9), ValueError, "alpha^2 + sigma^2"),
        (lambda: DDPM.from_sde(SDE(lambda t, x: -x, lambda t: 1.0), 9), TypeError, "sde"),
        (lambda: DDPM.from_sde(VPSDE(), 3, grid=[0.1, 0.3]), ValueError, "3 rising times"),
        (lambda: DDPM.from_sde(VPSDE(), 2, grid=[0.3, 0.1]), ValueError, "rising"),
        (lambda: ChainTime("steps", 10), ValueError, "convention"),
        (lambda: ChainTime("i", 0), ValueError, "steps"),
        (lambda: ChainTime.from_dict({"convention": "i"}), ValueError, "keys"),
    ],
)
def test_a_bad_chain_is_refused(make, kind, words) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert words in str(caught.value)


CHAIN = DDPM(BETAS)
MODEL = Linear(CHAIN.to_sde())
X = normal(4, 3)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: CHAIN.q_step(0, X), ValueError, "i"),
        (lambda: CHAIN.q_step(6, X), ValueError, "a step from 1 to 5"),
        (lambda: CHAIN.q_step(1.0, X), TypeError, "i: "),
        (lambda: CHAIN.q_sample(torch.tensor([1, 2, 3, 6]), X, X), ValueError, "from 1 to 6"),
        (lambda: CHAIN.q_sample(torch.tensor([1, 2]), X, X), ValueError, "(4,)"),
        (lambda: CHAIN.q_sample(torch.ones(4), X, X), ValueError, "integers"),
        (lambda: CHAIN.q_sample(1, X, X[:2]), ValueError, "eps"),
        (lambda: CHAIN.q_sample(1, X.long(), X), TypeError, "floating"),
        (lambda: CHAIN.q_posterior(1, X, X[:1]), ValueError, "x0"),
        (lambda: CHAIN.p_mean_variance(nn.Linear(3, 3), 1, X), TypeError, "ScoreModel"),
        (lambda: CHAIN.step_kl(MODEL, 1, X, X), ValueError, "2 to 5"),
        (lambda: CHAIN.prior_kl(X.long()), TypeError, "floating"),
        (lambda: CHAIN.prior_kl(X[0]), ValueError, "batch axis"),
        (lambda: CHAIN.nodes(SDE(lambda t, x: -x, lambda t: 1.0)), TypeError, "AffineSDE"),
        (lambda: CHAIN.nodes(VESDE()), ValueError, "alpha"),
        (lambda: DDPM.linear().nodes(ChainSDE((0.5, 0.5))), ValueError, "outside [0, T]"),
        (lambda: CHAIN.ancestral_sample(MODEL, (3,)), ValueError, "shape"),
        (lambda: CHAIN.ancestral_sample(MODEL, (2, 3), x_init=X), ValueError, "x_init"),
        (lambda: CHAIN.ancestral_sample(MODEL, (2, 3), seed=-1), ValueError, "seed"),
        (lambda: CHAIN.optimal_variance([0.5]), ValueError, "mean_square_eps"),
        (lambda: CHAIN.analytic_variance(MODEL, X, estimate="x"), ValueError, "estimate"),
        (lambda: CHAIN.bound_terms(MODEL, X), TypeError, "quantisation"),
        (lambda: CHAIN.bound_terms(MODEL, X, decoder="none"), ValueError, "decoder"),
        (lambda: CHAIN.score_model(nn.Linear(3, 3), "index"), ValueError, "convention"),
    ],
)
def test_a_bad_call_is_refused(call, kind, words) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


def test_data_that_are_not_levels_are_refused() -> None:
    quantisation = Quantisation(256)
    for x, words in (
        (torch.tensor([[1.2]]), "range [-1, 1]"),
        (torch.tensor([[float("nan")]]), "finite"),
        (torch.tensor([[0.0]]), "dequantisation"),  # between levels 127 and 128
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            CHAIN.bound_terms(MODEL, x, quantisation=quantisation)
    with pytest.raises(TypeError, match="encode"):
        CHAIN.bound_terms(MODEL, torch.tensor([[3]]), quantisation=quantisation)
    own = LinearSDE(lambda t: -0.5, lambda t: 1.0, T=8.0)  # VP, of the user's own
    assert DDPM.from_sde(own, 10).nodes(own)[-1].t == pytest.approx(8.0)


class Heard(nn.Module):
    """A network with a table of embeddings, which notes the times that it is told."""

    def __init__(self, rows: int = 1000) -> None:
        super().__init__()
        self.rows, self.told = nn.Embedding(rows, 2), []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.told += t.tolist()
        return 0.1 * x + self.rows(t.long())


class Given(UniformTime):
    """These times and no others."""

    def __init__(self, times: list[float]) -> None:
        super().__init__()
        self.times = times

    def sample(self, sde, n, generator=None):
        return torch.tensor(self.times, dtype=D), None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, D])
def test_a_network_of_any_precision_is_told_the_step_itself(dtype: torch.dtype) -> None:
    chain, steps = DDPM.linear(1000), [1000, 750, 501, 250, 3]
    want = [float(i - 1) for i in steps]
    for whole in (True, False):
        net = Heard().to(dtype)
        model = chain.score_model(net, "i-1", whole=whole)
        grid = [i / 1000 for i in steps]
        ReverseSampler(model.sde, model, "ddim", grid=grid).sample((1, 2), seed=0, dtype=dtype)
        assert net.told == want
        net.told.clear()  # the same times, one for each sample, and in the loss
        x = torch.zeros(5, 2, dtype=dtype)
        model(torch.tensor(grid, dtype=D), x)
        assert net.told == want

        net.told.clear()
        dsm_loss(model, x, time=Given(grid))
        assert net.told == want


def test_the_log_snr_told_to_a_network_is_not_rounded_to_half_precision() -> None:
    told: list[Tensor] = []

    class Net(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            told.append(t)
            return x

    model = Preconditioned(Net(), VPSDE(), time="log_snr")
    x, times = torch.zeros(2, 1, dtype=torch.bfloat16), torch.tensor([0.31, 0.77], dtype=D)
    model(times, x)
    model(0.31, x)
    want = VPSDE().log_snr(times)
    assert (told[0].double() - want).abs().max() < 1e-6 and told[0].dtype == torch.float32
    assert abs(float(told[1][0]) - float(want[0])) < 1e-6
