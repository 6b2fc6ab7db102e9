"""The chain with an exact model: bits, samples, and what is refused."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from chains import BETAS, CHAINS, VARIANCES, D, Linear, normal
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
from scoresde.ddpm import DDPM, ChainSDE, ChainTime
from scoresde.losses import ImportanceTime, UniformTime
from scoresde.prediction import Prediction
from scoresde.sde import SDE, VESDE, VPSDE, FlowSDE, LinearSDE, SubVPSDE


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
