"""The terms of the bound, and the decoder."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from chains import CHAINS, VARIANCES, D, Linear, normal

from scoresde import Quantisation
from scoresde.ddpm import DDPM, discretized_gaussian
from scoresde.prediction import Prediction
from scoresde.sde import VPSDE

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
