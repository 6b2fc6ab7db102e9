"""The variational bound: against closed forms, exact likelihoods and exact entropies."""

from __future__ import annotations

import importlib.util
import math
from itertools import pairwise
from pathlib import Path

import pytest
import scipy.integrate
import torch
from torch import nn

from scoresde import Empirical, Gaussian, GaussianMixture, Quantisation, ScoreModel
from scoresde.conditioned import Conditioned
from scoresde.ddpm import DDPM
from scoresde.likelihood.bound import PLAIN_NOISE, Bound, elbo, t_end_of
from scoresde.losses import LEAST_NOISE
from scoresde.model import Preconditioned
from scoresde.nets import UNet
from scoresde.noise import Independent
from scoresde.prediction import Prediction
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, AffineSDE, CosineSDE, FlowSDE, SubVPSDE

D = torch.float64
SDES = [VPSDE(), SubVPSDE(), CosineSDE(), FlowSDE(), VESDE(), EDMSDE()]
S2 = 0.25


def gaussian(dim: int = 16, mean: float = 0.0) -> Gaussian:
    return Gaussian(torch.full((dim,), mean, dtype=D), torch.tensor(S2, dtype=D))


class Wrong(ScoreModel):
    """x_0hat = gain x + shift, per sample by a condition if there is one."""

    def __init__(self, sde: SDE, gain: float = 0.4, shift: float = 0.1) -> None:
        super().__init__()
        self.sde, self.gain, self.shift = sde, gain, shift

    def predict(self, node, x, cond=None):
        shift = self.shift if cond is None else cond["shift"][:, None].to(x)
        return Prediction(x, node, self.gain * x + shift, "x0")


def z_score(bound: Bound, exact: float) -> float:
    mean, error = bound.estimate()
    return (mean - exact) / error


def continuous_terms(sde: AffineSDE, t_end: float, decoder_variance: float) -> dict[str, float]:
    """One dimension of N(0, S2) data: expected prior, diffusion and reconstruction, exactly."""
    first, last = sde.at(t_end), sde.at(sde.T)
    low, high = (math.exp(2 * n.log_snr) for n in (last, first))
    left = S2 / (1 + S2 * high)  # the mean squared error of x_0hat at t_end
    return {
        "prior": 0.5 * S2 * low,  # KL(N(alpha x, sigma^2), N(0, sigma^2))
        "diffusion": 0.5 * math.log((1 + S2 * high) / (1 + S2 * low)),
        "gaussian": 0.5 * (left / decoder_variance + math.log(2 * math.pi * decoder_variance)),
        "noised": 0.5 * math.log(2 * math.pi * math.e * first.sigma**2),
    }


def test_i_mmse() -> None:
    """dI(x_0; x_t) / dSNR = mmse / 2: the diffusion term is a difference of informations."""
    sde = VPSDE()
    for s, t in ((0.01, 0.9), (0.2, 0.5)):
        integral, _ = scipy.integrate.quad(
            lambda lam: math.exp(2 * lam) * S2 / (1 + S2 * math.exp(2 * lam)),
            sde.log_snr(t),
            sde.log_snr(s),
        )
        info = [0.5 * math.log1p(S2 * math.exp(2 * sde.log_snr(u))) for u in (s, t)]
        assert integral == pytest.approx(info[0] - info[1], abs=1e-10)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("decoder", ["gaussian", "noised"])
def test_the_terms_of_gaussian_data_in_continuous_time(sde: AffineSDE, decoder: str) -> None:
    data, t_end = gaussian(), max(sde.t_end, 1e-3)
    x = data.sample(500, seed=1)
    x = (x - x.mean(0)) / x.std(0, correction=0) * math.sqrt(S2)  # E x^2 is that of the data
    variance = math.exp(-2 * sde.log_snr(t_end))
    exact = continuous_terms(sde, t_end, variance)
    bound = elbo(data.under(sde), x, decoder=decoder, t_end=t_end, steps=32, samples=6)
    assert float(bound.prior.mean()) / 16 == pytest.approx(exact["prior"], rel=1e-9)
    total = 16 * (exact["prior"] + exact["diffusion"] + exact[decoder])
    mean, error = bound.estimate()
    # |eps error|^2 has at most the variance 2 D of |eps|^2, times the length in the log-SNR
    length = sde.log_snr(t_end) - sde.log_snr(sde.T)
    assert error < 2 * length * math.sqrt(2 * 16 / (500 * 32 * 6)) + 0.05
    assert abs(mean - total) < 5 * error
    assert float(bound.diffusion.mean()) / 16 == pytest.approx(exact["diffusion"], rel=0.01)
    if decoder == "noised":  # exact: the entropy of p_{t_end}, up to the prior's mismatch
        node = sde.at(t_end)
        entropy = 0.5 * math.log(2 * math.pi * math.e * (node.alpha**2 * S2 + node.sigma**2))
        last = sde.at(sde.T)
        v, s = last.alpha**2 * S2 + last.sigma**2, last.sigma**2
        mismatch = 0.5 * (v / s - 1 - math.log(v / s))
        assert total / 16 == pytest.approx(entropy + mismatch, abs=1e-10)
        assert bound.reconstruction == pytest.approx(exact[decoder] * 16)


@pytest.mark.parametrize("proposal", ["log_snr", "uniform"])
def test_both_proposals_estimate_one_bound(proposal: str) -> None:
    sde, x = VPSDE(), gaussian().sample(2000, seed=2)
    model = Wrong(sde)
    # E|eps - eps_hat|^2 for x_0hat = gain x + shift, by quadrature over the log-SNR
    square, mean = float(x.square().mean()), float(x.mean())

    def error(lam: float) -> float:
        node = sde.at(sde.time_of(lam))
        kept = 1 - 0.4 * node.alpha
        off = kept**2 * square - 2 * kept * 0.1 * mean + 0.1**2 + (0.4 * node.sigma) ** 2
        return math.exp(2 * lam) * off

    exact, _ = scipy.integrate.quad(error, sde.log_snr(sde.T), sde.log_snr(1e-2), limit=200)
    bound = elbo(
        model, x, decoder="noised", t_end=1e-2, steps=24, samples=8, proposal=proposal, seed=3
    )
    rest = float((bound.prior + bound.reconstruction).mean())
    assert abs(z_score(bound, 16 * exact + rest)) < 4
    assert bound.estimate()[1] < 0.02 * 16 * exact


def test_the_error_s_own_error_is_right() -> None:
    """z-scores of the batch's mean over seeds have unit size, and so do those of samples."""
    x, chain = gaussian(4).sample(16, seed=1), DDPM.from_sde(VPSDE(), 16, grid="log_snr")
    model = gaussian(4).under(VPSDE())  # its error is bounded in units of eps: no heavy tail
    for how in ({"chain": chain}, {"chain": chain, "steps": 6}, {"steps": 6, "t_end": 1e-2}):
        runs = [elbo(model, x, decoder="noised", samples=8, seed=s, **how) for s in range(30)]
        means = torch.stack([b.nats for b in runs])
        truth = means.mean(0)
        of_samples = (means - truth) / torch.stack([b.standard_error for b in runs])
        of_batch = torch.tensor(
            [(b.estimate()[0] - float(truth.mean())) / b.estimate()[1] for b in runs]
        )
        assert 0.75 < float(of_samples.square().mean().sqrt()) < 1.5, how
        assert 0.7 < float(of_batch.square().mean().sqrt()) < 1.6, how


def test_two_draws_have_a_standard_error() -> None:
    draws = torch.tensor([[1.0, 4.0], [3.0, 4.5]], dtype=D)
    zero = torch.zeros(2, dtype=D)
    bound = Bound(zero, zero, zero, draws, 1, "gaussian", None, 0)
    # the deviation of two numbers is |a - b| / sqrt(2), that of their mean |a - b| / 2
    assert bound.standard_error.tolist() == pytest.approx([1.0, 0.25], rel=1e-12)
    assert bound.estimate()[1] == pytest.approx(abs(2.5 - 3.75) / 2, rel=1e-12)
    one = Bound(zero, zero, zero, draws[:1], 1, "gaussian", None, 0)
    assert bool(one.standard_error.isnan().all()) and math.isnan(one.estimate()[1])


def test_low_discrepancy_times_beat_independent_ones() -> None:
    """K stratified times a sample: less than the variance of K times that of one."""
    x, model = gaussian(64).sample(64, seed=1), Wrong(VPSDE())
    one, many = (
        elbo(model, x, decoder="noised", t_end=1e-2, steps=k, samples=32, seed=5) for k in (1, 16)
    )
    spread = [float(b.standard_error.square().mean()) for b in (one, many)]
    assert spread[1] < spread[0] / 16 / 3


def test_a_subset_of_the_steps_estimates_the_sum() -> None:
    chain = DDPM.from_sde(VPSDE(), 60)  # uniform in time, so the steps differ in size
    x, model = gaussian().sample(1000, seed=1), Wrong(VPSDE())
    whole = elbo(model, x, chain=chain, decoder="noised", samples=4)
    for proposal in ("log_snr", "uniform"):
        part = elbo(model, x, chain=chain, decoder="noised", steps=8, samples=8, proposal=proposal)
        (a, e), (b, f) = whole.estimate(), part.estimate()
        assert abs(a - b) < 4 * math.hypot(e, f), proposal
        assert f < 0.05 * a
        assert part.nfe == 8 * 8 and whole.nfe == 4 * 59


class Told(ScoreModel):
    """The exact score, and what it was asked: the noise of every state of data x0."""

    def __init__(self, sde: SDE, x0: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.sde, self.x0 = gaussian().under(sde), sde, x0
        self.eps: list[torch.Tensor] = []

    def predict(self, node, x, cond=None):
        self.eps.append((x - node.alpha * self.x0) / node.sigma)
        return self.inner.predict(node, x, cond)


@pytest.mark.parametrize("decoder", ["gaussian", "noised"])
@pytest.mark.parametrize(
    ("how", "of_the_sum"),
    [("chain", 39), ("part of a chain", 24), ("continuous", 24), ("continuous", 6)],
)
def test_calls_are_counted_and_no_noise_is_used_twice(
    how: str, of_the_sum: int, decoder: str
) -> None:
    """An eighth as many calls, and at least one, for a decoder that is random."""
    sde = VPSDE()
    chain = None if how == "continuous" else DDPM.from_sde(sde, 40, grid="log_snr")
    steps = None if how == "chain" else of_the_sum
    model = Told(sde, gaussian().sample(2, seed=1))
    given = {"chain": chain, "steps": steps, "decoder": decoder, "samples": 5}
    bound = elbo(model, model.x0, t_end=None if chain else 1e-2, **given)
    draws = 0 if decoder == "noised" else max(1, of_the_sum // 8)
    assert bound.nfe == 5 * (of_the_sum + draws)
    asked = model.eps if decoder == "gaussian" else [e for e in model.eps if e.std() > 0]
    first = torch.stack(asked)[:, 0, 0]
    # a call of the decoder that is not random may be made for its node alone
    assert len(asked) - bound.nfe in ((0,) if decoder == "gaussian" else (0, 5))
    gaps = first.sort().values.diff()
    assert float(gaps.min()) > 1e-9 and abs(float(first.mean())) < 5 / math.sqrt(len(first))


def test_times_of_neighbouring_samples_are_spread_by_the_golden_ratio() -> None:
    """The largest gap of n points on the circle is below 1.9/n for every n (1 + 2/sqrt(5))."""
    from scoresde.likelihood.bound import _Batch

    x = torch.zeros(400, 1)
    job = _Batch(None, x, None, "noised", None, Independent(0, 7))  # type: ignore[arg-type]
    u = job.uniforms(0.3, 2, 5)
    assert float(u[0]) == pytest.approx((0.3 + 7 * (math.sqrt(5) - 1) / 2 + 2 / 5) % 1)
    for n in (2, 10, 33, 100, 400):
        points = u[:n].sort().values
        gaps = torch.cat([points.diff(), points[:1] + 1 - points[-1:]])
        assert float(gaps.max()) * n < 1.9


def test_a_chain_s_bound_is_the_sum_of_its_terms() -> None:
    # of much too little noise at the end, so that the prior's term is seen
    chain, x = DDPM.linear(20, 1e-3, 0.1, variance="large"), gaussian().sample(5, seed=1)
    model = Wrong(chain.to_sde())
    bound = elbo(model, x, chain=chain, decoder="gaussian", samples=3)
    assert torch.allclose(bound.nats, bound.prior + bound.diffusion + bound.reconstruction)
    assert torch.allclose(bound.nats, bound.draws.mean(0))
    assert torch.equal(bound.prior, chain.prior_kl(x)) and float(bound.prior.min()) > 0.1
    time = elbo(model, x, decoder="gaussian", steps=4)
    assert torch.allclose(time.nats, time.prior + time.diffusion + time.reconstruction)
    many = [
        chain.bound_terms(model, x, decoder="gaussian", draw=k, seed=9).total for k in range(100)
    ]
    exact, spread = torch.stack(many).mean(0), torch.stack(many).std(0)
    far = (bound.nats - exact).abs() / (spread * math.sqrt(1 / 3 + 1 / 100))
    assert float(far.max()) < 4


def test_the_chain_tends_to_continuous_time_as_one_over_n() -> None:
    """With the first level held fixed, on any model: the same noise, so the gap itself is seen."""
    sde, x = VPSDE(), gaussian().sample(4000, seed=1)
    model = gaussian().under(sde)
    exact = continuous_terms(sde, 1e-3, 1.0)
    last = sde.at(sde.T)
    mean_square = float(x.square().mean())
    prior = 0.5 * (last.alpha**2 * mean_square + last.sigma**2 - 1 - 2 * math.log(last.sigma))
    gaps = []
    for n in (20, 40, 80, 160):
        chain = DDPM.from_sde(sde, n, grid="log_snr", t_end=1e-3)
        bound = elbo(model, x, chain=chain, decoder="noised", samples=1)
        gaps.append(float(bound.nats.mean()) / 16 - (prior + exact["diffusion"] + exact["noised"]))
    slopes = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert slopes[-1] == pytest.approx(1.0, abs=0.12), (gaps, slopes)


@pytest.mark.parametrize("how", ["continuous", "chain", "optimal chain"])
def test_with_the_exact_score_the_bound_is_the_likelihood(how: str) -> None:
    """On a mixture: the mean of the bound is the entropy of p_{t_end}, within its error."""
    sde, t_end = VPSDE(), 1e-3
    data = GaussianMixture(
        torch.tensor([[-0.8], [0.3], [0.9]], dtype=D),
        torch.tensor([0.02, 0.05, 0.01], dtype=D),
        torch.tensor([0.3, 0.5, 0.2], dtype=D),
    )
    noised = data.marginal(sde, t_end)

    def plogp(y: float) -> float:
        log_p = float(noised.log_prob(torch.tensor([[y]], dtype=D)))
        return -math.exp(log_p) * log_p

    entropy, _ = scipy.integrate.quad(plogp, -3, 3, limit=400, points=[-0.8, 0.3, 0.9])
    x, model = data.sample(4000, seed=1), data.under(sde)
    chain = None
    if how != "continuous":
        chain = DDPM.from_sde(sde, 120, grid="log_snr", t_end=t_end)
    if how == "optimal chain":
        chain = chain.with_variance(chain.analytic_variance(model, x))
    bound = elbo(
        model, x, chain=chain, decoder="noised", samples=1, t_end=None if chain else t_end
    )
    # the scatter of samples is in the error: the equality is one of means alone
    error = float(bound.nats.std()) / math.sqrt(len(x))
    gap = float(bound.nats.mean()) - entropy
    # N steps of "small" lose h I, h = their length in the log-SNR and I the information
    slack = {"continuous": 0.0, "chain": 0.28, "optimal chain": 0.06}[how]
    assert -4 * error < gap < 4 * error + slack, (gap, error)
    assert error < 0.02


def test_the_bound_of_quantised_data_in_continuous_time() -> None:
    """16-D, 8-bit: within its error of the entropy, and the chain's beside it."""
    quantisation, sde = Quantisation(256), VPSDE()
    level = quantisation.encode(torch.arange(256), dtype=D)
    half, p = quantisation.bin_width / 2, torch.zeros(256, dtype=D)
    for weight, mean, std in ((0.6, -0.02, 0.006), (0.4, 0.02, 0.008)):
        z = torch.stack([level - half - mean, level + half - mean]) / std / math.sqrt(2)
        p += weight * (torch.erf(z[1]) - torch.erf(z[0])) / 2
    keep = p > 1e-4
    level, p = level[keep], p[keep] / p[keep].sum()
    entropy = -float((p * p.log2()).sum())

    class Pixels(ScoreModel):
        """Each entry by the ideal denoiser of its weighted levels."""

        def __init__(self) -> None:
            super().__init__()
            self.sde = sde
            self.one = GaussianMixture(level[:, None], torch.zeros(len(level)), p).under(sde)

        def predict(self, node, x, cond=None):
            one = node.map(lambda c: c.repeat_interleave(x[0].numel(), 0))
            value = self.one.predict(one, x.reshape(-1, 1)).value.reshape(x.shape)
            return Prediction(x, node, value, "v")

    # every sample holds the levels in their exact proportions, nearly: the rest is weighed
    k = torch.multinomial(
        p, 250 * 16, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    x = level[k].reshape(250, 4, 4)
    truth = -float(p.log2()[k].mean())
    assert truth == pytest.approx(entropy, abs=0.1)
    bound = elbo(Pixels(), x, quantisation=quantisation, t_end=5e-6, steps=48, samples=6)
    mean, error = bound.estimate(quantisation)
    assert mean == pytest.approx(float(bound.bits_per_dim(quantisation).mean()))
    # the mean over data of (bound - true bits) is 0; its error by the samples' scatter
    gap = bound.bits_per_dim(quantisation) + p.log2()[k].reshape(250, 16).mean(1)
    scatter = float(gap.std()) / math.sqrt(250)
    assert abs(float(gap.mean())) < 4 * scatter, (float(gap.mean()), scatter)
    assert scatter < 0.02 and error < 0.02
    chain = DDPM.from_sde(sde, 400, grid="log_snr", t_end=5e-6)
    wide = elbo(Pixels(), x, quantisation=quantisation, chain=chain, steps=48, samples=3)
    gap = wide.estimate(quantisation)[0] - truth
    assert 0.02 < gap < 0.2  # 1/N: 0.09 at N = 400


def test_the_decoders_bound_three_things() -> None:
    quantisation, chain = Quantisation(9), DDPM.cosine(160)
    x = quantisation.encode(torch.arange(9)[:, None], dtype=D)
    model = Empirical(x).under(chain.to_sde())
    bins = elbo(model, x.repeat(50, 1), chain=chain, quantisation=quantisation)
    assert 0 < bins.estimate(quantisation)[0] - math.log2(9) < 0.4  # by 1 / N, +- 0.04
    assert torch.allclose(bins.bits_per_dim(quantisation) * math.log(2), bins.nats)
    density = elbo(model, x, chain=chain, decoder="gaussian")
    bits = density.nats / math.log(2) - math.log2(quantisation.bin_width)
    assert torch.allclose(density.bits_per_dim(quantisation), bits)
    noised = elbo(model, x, chain=chain, decoder="noised")
    with pytest.raises(ValueError, match="bins"):
        noised.bits_per_dim(quantisation)
    with pytest.raises(ValueError, match="the quantisation that elbo was given"):
        bins.bits_per_dim(Quantisation(256))
    with pytest.raises(TypeError, match="levels"):
        bins.bits_per_dim(None)
    assert bins.estimate(quantisation)[1] == pytest.approx(bins.estimate()[1] / math.log(2))


def test_a_sample_s_bound_is_its_own() -> None:
    """Whatever the batch it stands in, and with its own conditions."""
    x, shift = gaussian(5).sample(5, seed=1), torch.linspace(-1, 1, 5, dtype=D)
    assert len(x) == x.shape[1]  # where broadcasting may hide
    chain = DDPM.from_sde(VPSDE(), 12)
    model, cond = Wrong(VPSDE()), {"shift": shift}
    for how in ({"steps": 12}, {"chain": chain}, {"chain": chain, "steps": 3}):
        whole = elbo(model, x, decoder="gaussian", cond=cond, seed=2, **how)
        split = elbo(model, x, decoder="gaussian", cond=cond, seed=2, batch_size=2, **how)
        assert torch.allclose(whole.draws, split.draws, rtol=1e-12)
        late = {"shift": shift[3:]}
        part = elbo(model, x[3:], decoder="gaussian", cond=late, seed=2, first=3, **how)
        assert torch.allclose(part.draws, whole.draws[:, 3:], rtol=1e-12)
        other = elbo(model, x, decoder="gaussian", cond=cond, seed=3, **how)
        assert float((other.draws - whole.draws).abs().min()) > 0
        plain = elbo(model, x, decoder="gaussian", seed=2, **how)
        assert bool(((plain.nats - whole.nats).abs() > 1e-3)[[0, 1, 3, 4]].all())


def test_float32_data_keep_their_dtype_and_their_bound() -> None:
    seen = []

    class Spy(Wrong):
        def predict(self, node, x, cond=None):
            seen.append(x.dtype)
            return super().predict(node, x, cond)

    x = gaussian().sample(50, seed=1)
    exact = elbo(Spy(VPSDE()), x, decoder="gaussian", t_end=1e-2)
    half = elbo(Spy(VPSDE()), x.float(), decoder="gaussian", t_end=1e-2)
    assert set(seen[len(seen) // 2 :]) == {torch.float32}
    assert half.nats.dtype == D
    assert torch.allclose(half.nats, exact.nats, rtol=1e-4)
    assert math.isnan(elbo(Wrong(VPSDE()), x, decoder="noised", samples=1).estimate()[1])


CHAIN = DDPM.cosine(8)
X = gaussian(3).sample(4, seed=1)
OWN = Wrong(CHAIN.to_sde())


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: elbo(OWN, X), TypeError, "quantisation"),
        (lambda: elbo(OWN, X, chain=CHAIN), TypeError, "quantisation"),
        (lambda: elbo(OWN, 3 * X, quantisation=Quantisation()), ValueError, "range [-1, 1]"),
        (lambda: elbo(OWN, X / 9, quantisation=Quantisation()), ValueError, "dequantisation"),
        (lambda: elbo(OWN, X.long(), quantisation=Quantisation()), TypeError, "encode"),
        (lambda: elbo(OWN, X[0], decoder="noised"), ValueError, "batch axis"),
        (lambda: elbo(OWN, X / 0, decoder="noised"), ValueError, "finite"),
        (lambda: elbo(nn.Linear(3, 3), X, decoder="noised"), TypeError, "ScoreModel"),
        (lambda: elbo(OWN, X, decoder="bin"), ValueError, "did you mean 'bins'"),
        (lambda: elbo(OWN, X, decoder="noised", proposal="t"), ValueError, "proposal"),
        (lambda: elbo(OWN, X, decoder="noised", steps=0), ValueError, "steps"),
        (lambda: elbo(OWN, X, decoder="noised", samples=0), ValueError, "samples"),
        (lambda: elbo(OWN, X, decoder="noised", seed=-1), ValueError, "seed"),
        (lambda: elbo(OWN, X, decoder="noised", t_end=0.0), ValueError, "finite log-SNR"),
        (lambda: elbo(OWN, X, decoder="noised", t_end=1.0), ValueError, "below T"),
        (lambda: elbo(OWN, X, decoder="gaussian", decoder_variance=0.0), ValueError, "decoder_v"),
        (lambda: elbo(OWN, X, decoder="noised", chain=CHAIN, t_end=0.1), ValueError, "t_end"),
        (lambda: elbo(OWN, X, decoder="noised", chain=[0.1, 0.2]), TypeError, "DDPM"),
        (lambda: elbo(OWN, X, decoder="noised", cond={"shift": X[:2]}), ValueError, "leading 4"),
        (lambda: elbo(Wrong(VESDE()), X, decoder="noised", chain=CHAIN), ValueError, "model.sde"),
        (
            lambda: elbo(Wrong(SDE(lambda t, x: -x, lambda t: 1.0)), X, decoder="noised"),
            TypeError,
            "AffineSDE",
        ),
    ],
)
def test_a_bad_call_is_refused(call, kind, words) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[2] / "examples/ddpm_chain.py"
    spec = importlib.util.spec_from_file_location("ddpm_chain", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    numbers = module.run(tmp_path, lengths=(40, 160), repeats=24)
    truth = numbers["truth"]
    assert truth == pytest.approx(module.ENTROPY, abs=1e-4)
    for kind in ("chains", "optimal"):
        for terms in numbers[kind].values():
            parts = terms["prior"] + terms["steps"] + terms["reconstruction"]
            assert parts == pytest.approx(terms["total"], rel=1e-9)
            assert 0 < terms["prior"] < 1e-4
    short, long = numbers["chains"][40], numbers["chains"][160]
    value, error = numbers["continuous"]
    assert abs(value - truth) < 4 * error < 0.1
    # 1/N: from 40 steps to 160 the gap to the truth falls to a quarter, or somewhat below
    assert 3.5 < (short["total"] - truth) / (long["total"] - truth) < 6
    assert truth < numbers["optimal"][160]["total"] < long["total"] - 0.1
    printed = capsys.readouterr().out
    assert f"{long['total']:.3f}" in printed and f"{value:.3f}" in printed
    assert (tmp_path / "terms.png").stat().st_size > 10_000


# Where the bound of discrete data ends by default


def test_the_bound_of_discrete_data_ends_where_the_noise_is_a_share_of_a_bin() -> None:
    quantisation, told = Quantisation(17), {"input_fourier": (3.0, 4.0)}
    small = {"width": 8, "multipliers": (1,), "blocks": 1}
    for options, share in (({}, PLAIN_NOISE), (told, LEAST_NOISE)):
        for sde in (VPSDE(), FlowSDE(), EDMSDE()):
            model = Preconditioned(UNet(1, **small, **options), sde)
            t = t_end_of(model, quantisation)
            noise = float(sde.sigma(t) / sde.alpha(t))
            assert noise == pytest.approx(share * 0.125, rel=1e-6)
    assert t_end_of(Empirical(torch.zeros(2, 1)).under(VPSDE()), quantisation) == VPSDE().t_min
    coarse = VESDE(sigma_min=0.1)
    assert t_end_of(Preconditioned(UNet(1, **small), coarse), quantisation) == coarse.t_min
    wrapped = Conditioned(
        Preconditioned(UNet(1, **small, classes=2), VPSDE()), {"label": torch.tensor(1)}
    )
    assert t_end_of(wrapped, quantisation) == t_end_of(wrapped.model, quantisation)


def test_the_default_end_is_used_for_bins_alone() -> None:
    torch.manual_seed(0)
    model, quantisation = (
        Preconditioned(UNet(1, width=8, multipliers=(1,)), VPSDE()),
        Quantisation(5),
    )
    x = quantisation.encode(torch.randint(0, 5, (4, 1, 6, 6)))
    end = t_end_of(model, quantisation)
    how = {"steps": 8, "samples": 1}
    default = elbo(model, x, quantisation=quantisation, **how)
    same = elbo(model, x, quantisation=quantisation, t_end=end, **how)
    other = elbo(model, x, quantisation=quantisation, t_end=VPSDE().t_min, **how)
    assert torch.equal(default.draws, same.draws) and not torch.equal(default.draws, other.draws)
    for decoder in ("gaussian", "noised"):
        plain, least = (
            elbo(model, x, decoder=decoder, t_end=t, **how) for t in (None, VPSDE().t_min)
        )
        assert torch.equal(plain.draws, least.draws)
