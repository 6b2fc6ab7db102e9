"""Chain, SDE, flow and truth are one: the same oracle by every road."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from scoresde import (
    Gaussian,
    GaussianMixture,
    Grid,
    Quantisation,
    ReverseSampler,
    ReverseSDE,
    simulate,
)
from scoresde.ddpm import DDPM
from scoresde.fokker_planck import FokkerPlanck
from scoresde.likelihood import discrete_log_prob, log_prob
from scoresde.likelihood.bound import elbo
from scoresde.options import Tolerances
from scoresde.sde import VESDE, VPSDE, AffineSDE, CosineSDE, FlowSDE, SubVPSDE

D = torch.float64
VP = VPSDE()
SDES = [VP, SubVPSDE(), CosineSDE(), FlowSDE(), VESDE(0.01, 20.0)]
MEANS = torch.tensor([[1.0, 0.6], [-0.8, 1.0], [0.1, -1.1]], dtype=D)
DATA = GaussianMixture(
    MEANS, torch.tensor([0.06, 0.03, 0.09], dtype=D), torch.tensor([0.5, 0.3, 0.2], dtype=D)
)
LINE = GaussianMixture(
    torch.tensor([[-0.6], [0.1], [0.7]], dtype=D),
    torch.tensor([0.004, 0.01, 0.006], dtype=D),
    torch.tensor([0.3, 0.5, 0.2], dtype=D),
)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_the_flow_and_the_bound_give_the_true_density(sde: AffineSDE) -> None:
    """Exact score: the ODE's likelihood is the truth, and the bound's mean is the truth's."""
    end, model = max(sde.t_end, 1e-3), DATA.under(sde)
    prior = DATA.marginal(sde, sde.T)
    x = DATA.marginal(sde, end).sample(64, seed=1)
    truth = DATA.marginal(sde, end).log_prob(x)
    flow = log_prob(
        model,
        x,
        prior=prior,
        divergence="exact",
        t_end=end,
        tolerances=Tolerances(1e-9, 1e-9),
    ).nats
    assert (flow - truth).abs().max() < 2e-6  # 1e-6 nats in each of two dimensions

    clean = DATA.sample(1500, seed=2)
    bound = elbo(model, clean, decoder="noised", t_end=end, steps=24, samples=6)
    mean, error = bound.estimate()
    # the bound is E[-log p_e(x_e)] plus the mismatch of its prior, both over x_0: by many x_e
    entropy, scatter = entropy_at(sde, end)
    top = DATA.marginal(sde, sde.T).sample(20_000, seed=4)
    gap = (prior.log_prob(top) - sde.prior_log_prob(top)).mean()
    spread = float(bound.nats.std()) / math.sqrt(len(clean))  # of the x_0 that were drawn
    total = math.hypot(error, scatter, spread)
    assert total < 0.1
    assert abs(mean - entropy - float(gap)) < 4 * total


def entropy_at(sde: AffineSDE, t: float) -> tuple[float, float]:
    marginal = DATA.marginal(sde, t)
    values = -marginal.log_prob(marginal.sample(40_000, seed=3))
    return float(values.mean()), float(values.std()) / math.sqrt(40_000)


def test_the_chain_tends_to_the_continuous_bound_at_its_rate() -> None:
    """1/N, with the first level and the decoder held, on a grid in the log-SNR."""
    data = Gaussian(torch.zeros(4, dtype=D), torch.tensor(0.25, dtype=D))
    model, end = data.under(VP), 1e-2
    first, last = VP.log_snr(end), VP.log_snr(VP.T)
    # exact, for Gaussian data: the mean square error of x_0hat is S/(1 + S snr)
    snr = [math.exp(2 * v) for v in (first, last)]
    exact = 0.5 * 4 * math.log((1 + 0.25 * snr[0]) / (1 + 0.25 * snr[1]))
    x = data.sample(4000, seed=5)
    x = x / x.square().mean(0).sqrt() * 0.5
    gaps = []
    for n in (32, 128, 512):
        times = [float(VP.time_of(first + (last - first) * i / (n - 1))) for i in range(n)]
        bars = torch.tensor([VP.alpha(t) ** 2 for t in times], dtype=D)
        betas = 1 - bars / torch.cat([torch.ones(1, dtype=D), bars[:-1]])
        chain = DDPM(betas)
        levels = torch.exp(2 * torch.tensor(chain.log_snr[1:], dtype=D))
        assert float(levels[0]) == pytest.approx(snr[0], rel=1e-6)
        # a step from i to i - 1 costs (snr_{i-1} - snr_i)/2 times the square error at i
        sum_ = 0.5 * 4 * ((levels[:-1] - levels[1:]) * 0.25 / (1 + 0.25 * levels[1:])).sum()
        gaps.append(float(sum_) - exact)
        if n == 32:
            bound = elbo(model, x, chain=chain, decoder="noised", samples=2)
            mean = float(bound.diffusion.mean())
            error = float((bound.diffusion).std()) / math.sqrt(len(x))
            assert abs(mean - float(sum_)) < 4 * error
    assert gaps[0] > gaps[1] > gaps[2] > 0
    rates = [math.log(a / b, 4) for a, b in pairwise(gaps)]
    assert rates[-1] == pytest.approx(1.0, abs=0.03)


def test_marginals_of_sde_flow_and_fokker_planck() -> None:
    """In 1-D at t = 0.3: simulated forward, carried back by the flow, and by the density."""
    t, n = 0.3, 4000
    exact = LINE.marginal(VP, t)
    mean = float(exact.weights @ exact.means[:, 0])
    square = exact.variances + exact.means[:, 0] ** 2
    std = math.sqrt(float(exact.weights @ square) - mean**2)
    forward = simulate(VP, LINE.sample(n, seed=1), Grid.of([i * t / 300 for i in range(301)]))
    start = LINE.marginal(VP, VP.T).sample(n, seed=2)
    sampler = ReverseSampler(VP, LINE.under(VP), "heun", steps=40, t_end=t, denoise=False)
    back = sampler.sample((n, 1), x_init=start)
    for x in (forward.x, back):
        assert float(x.mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(n))
        assert float(x.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * n))
    axes, end = [(-5.0, 5.0, 400)], LINE.marginal(VP, 1.0)
    for eta in (0.0, 1.0):
        equation = FokkerPlanck(ReverseSDE(VP, LINE.under(VP), eta), axes)
        density = equation.evolve(end, 1.0, t)
        points = torch.linspace(-1, 1, 41, dtype=D)[:, None]
        gap = density.log_prob(points).exp() - exact.log_prob(points).exp()
        assert gap.abs().max() < 2e-3


@pytest.mark.parametrize(
    "dequantise",
    ["uniform", pytest.param("truncated_normal", marks=[pytest.mark.slow, pytest.mark.nightly])],
)
def test_true_bits_per_dimension_of_eight_bit_data(dequantise: str) -> None:
    """256 levels of known mass: bits/dim within 0.001, by noise on smooth and on discrete data."""
    quantisation = Quantisation(256, -1 + 1 / 256, 1 - 1 / 256)
    x = quantisation.encode(torch.arange(256)[:, None], dtype=D)
    std = LINE.variances.sqrt()
    edges = torch.linspace(-1, 1, 257, dtype=D)[:, None]
    masses = (torch.special.ndtr((edges - LINE.means[:, 0]) / std) @ LINE.weights).diff()
    kept = masses > 1e-9
    x, masses = x[kept], masses[kept] / masses[kept].sum()
    bits = float(-(masses * masses.log2()).sum())
    # what a uniform noise is for is a density of the bins; the other is for the levels themselves
    data = (
        LINE if dequantise == "uniform" else GaussianMixture(x, torch.zeros_like(masses), masses)
    )
    result = discrete_log_prob(
        data.under(VP),
        x,
        quantisation,
        dequantise=dequantise,
        draws=40,  # of five the mean is off by 0.0012
        divergence="exact",
        prior=data.marginal(VP, VP.T),
    )
    assert float(result.bits_per_dim(quantisation) @ masses) == pytest.approx(bits, abs=1e-3)
