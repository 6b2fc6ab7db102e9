"""The likelihood of the probability flow: closed forms, error budget, refusals."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from groups import estimated
from registry import ALL_SDES
from torch import Tensor, nn

from scoresde import (
    Empirical,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    Quantisation,
    ScoreModel,
)
from scoresde.ddpm import DDPM
from scoresde.likelihood import (
    DEQUANTISERS,
    LogLikelihood,
    discrete_log_prob,
    log_prob,
)
from scoresde.likelihood.divergence import Linearised, Trace, draw_probes
from scoresde.options import Divergence, Tolerances
from scoresde.prediction import Prediction
from scoresde.sde import EDMSDE, SDE, VESDE, VPSDE, AffineSDE, CosineSDE, FlowSDE, SubVPSDE
from scoresde.solvers import UnfinishedWarning

D = torch.float64
VP = VPSDE()
SDES = [VP, SubVPSDE(), CosineSDE(), FlowSDE(), VESDE(), EDMSDE()]


def ring(std: float = 0.1, count: int = 8) -> GaussianMixture:
    angle = torch.arange(count, dtype=D) * 2 * math.pi / count
    means = torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(means, torch.full((count,), std**2, dtype=D))


def tilted(dim: int = 6, seed: int = 0) -> Gaussian:
    a = torch.randn(dim, dim, dtype=D, generator=torch.Generator().manual_seed(seed))
    return Gaussian(torch.linspace(-1, 1, dim, dtype=D), a @ a.T / dim / 4 + 0.01 * torch.eye(dim))


RING, TILTED = ring(), tilted()


class Counted(ScoreModel):
    """An oracle that counts its calls, and keeps what it was called with."""

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.sde, self.inner, self.count = inner.sde, inner, 0

    def predict(self, node, x, cond=None):
        self.count += 1
        return self.inner.predict(node, x, cond)


class Field(nn.Module):
    """A small network whose Jacobian is neither symmetric nor constant."""

    def __init__(self, dim: int = 3, dtype: torch.dtype = D) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(dim, dim, generator=generator, dtype=D) / 2
        self.weight = nn.Parameter(weight.to(dtype))
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, x: Tensor, t: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        if isinstance(shift, Tensor):
            shift = shift[:, None].to(x)
        flat = torch.tanh(x.flatten(1) @ self.weight + t[:, None] + shift)
        return (self.scale * flat).reshape(x.shape)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_gaussian_data_under_every_sde(sde: AffineSDE) -> None:
    x = TILTED.sample(5, seed=1)
    exact = TILTED.marginal(sde, sde.T)
    end = max(sde.t_end, 1e-3)
    result = log_prob(
        TILTED.under(sde),
        x,
        prior=exact,
        divergence="exact",
        t_end=end,
        tolerances=Tolerances(1e-8, 1e-8),
    )
    truth = TILTED.marginal(sde, end).log_prob(x)
    assert (result.nats - truth).abs().max() < 1e-6 * 6
    assert torch.equal(result.standard_error, torch.zeros(5, dtype=D))
    assert (result.z - TILTED.flow(sde, x, end, sde.T)).abs().max() < 1e-6 * float(
        sde.sigma(sde.T)
    )
    assert result.prior == pytest.approx(exact.log_prob(result.z))


def test_a_mixture_at_default_tolerance_and_the_solver_error() -> None:
    x, prior = RING.sample(128, seed=1), RING.marginal(VP, VP.T)
    truth = RING.marginal(VP, 1e-3).log_prob(x)
    errors = {}
    for tol in (1e-5, 1e-6, 1e-7):
        result = log_prob(
            RING.under(VP),
            x,
            prior=prior,
            divergence="exact",
            t_end=1e-3,
            tolerances=Tolerances(tol, tol),
        )
        errors[tol] = (result.nats - truth).abs()
        rms = float(errors[tol].square().mean().sqrt())
        assert rms < 10 * tol
        # an estimate of the pair's lower order: beyond the error, by less than a thousand
        assert rms < float(result.solver_error.square().mean().sqrt()) < 1000 * rms
    assert errors[1e-7].max() < errors[1e-6].max() < errors[1e-5].max()


def test_one_network_call_gives_slope_and_divergence() -> None:
    x = RING.sample(6, seed=2)
    for options in ({"probes": 3}, {"divergence": "exact"}):
        model = Counted(RING.under(VP))
        result = log_prob(model, x, **estimated(**options))
        assert model.count == int(result.nfe.max())
        tried = 6 * (result.accepted + result.rejected)
        looks = result.nfe - 1 - tried  # at the ends of first steps
        assert bool(((looks >= 1) & (looks <= 4)).all())
    model = Counted(RING.under(VP))
    assert (
        int(log_prob(model, x, divergence=Divergence("hutch++", probes=4)).nfe.max())
        == model.count
    )


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize("divergence", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("controlled", [False, True])
def test_probes_are_unbiased_and_their_error_is_as_stated(
    probe: str, divergence: str, controlled: bool
) -> None:
    model = Preconditioned(Field(8), VP, predicts="v")
    x = torch.linspace(-1, 1, 96 * 8, dtype=D).sin().reshape(96, 8)
    control = tilted(8) if controlled else None
    exact = log_prob(model, x, divergence="exact", t_end=1e-2)
    result = log_prob(
        model,
        x,
        divergence=Divergence(divergence, probes=8, probe=probe, control=control),
        t_end=1e-2,
    )
    z = (result.nats - exact.nats) / result.standard_error
    mean, error = result.estimate()
    assert abs(mean - float(exact.nats.mean())) < 4 * error
    assert 0.7 < float(z.square().median().sqrt() / 0.7) < 1.5
    single = log_prob(model, x[:2], t_end=1e-2)
    assert bool(single.standard_error.isnan().all())


def test_the_control_takes_the_variance_and_leaves_the_value() -> None:
    x, prior = TILTED.sample(16, seed=3), TILTED.marginal(VP, 1.0)
    truth = TILTED.marginal(VP, VP.t_min).log_prob(x)
    options = {"prior": prior, "probes": 2, "rtol": 1e-7, "atol": 1e-7}
    plain = log_prob(TILTED.under(VP), x, **estimated(**options))
    held = log_prob(TILTED.under(VP), x, **estimated(control=TILTED, **options))
    fitted = Gaussian.fit(TILTED.sample(2000))
    fit = log_prob(
        TILTED.under(VP),
        x,
        **estimated(control=fitted, **options),
    )
    assert float(plain.standard_error.mean()) > 0.1
    assert float(held.standard_error.max()) < 1e-9
    assert float(fit.standard_error.mean()) < 0.1 * float(plain.standard_error.mean())
    assert (held.nats - truth).abs().max() < 1e-5
    diagonal = Gaussian(TILTED.mean, torch.linspace(0.05, 0.6, 6, dtype=D))
    for control in (diagonal, tilted(seed=3), Gaussian(TILTED.mean, torch.ones(()).double())):
        exact = log_prob(
            TILTED.under(VP),
            x,
            prior=prior,
            divergence=Divergence("exact", control=control),
            tolerances=Tolerances(1e-7, 1e-7),
        )
        assert (exact.nats - truth).abs().max() < 1e-5


def test_traces_of_a_known_field() -> None:
    dim, batch = 12, 400
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(dim, dim, dtype=D, generator=generator)
    low = torch.outer(A[0], A[0]) + torch.outer(A[1], A[1])
    entry = torch.zeros(batch, dim, dtype=D, requires_grad=True)
    one = torch.ones(batch, 1, dtype=D)
    for matrix in (A, low):
        at = Linearised(entry @ matrix.T, entry, 0.5 * one, 2 * one, 3 * one, one, False)
        truth = 3 * (0.5 * dim + 2 * float(matrix.trace()))
        assert Trace(None)(at)[:, 0] == pytest.approx(truth)
        vectors = draw_probes(0, 0, entry.detach(), 6, "rademacher")
        for kind in (None, at):
            values = Trace.by_probes(vectors, None, kind)(at)
            assert values.shape == (batch, 6 if kind is None else 3)
            error = float(values.std() / math.sqrt(values.numel()))
            assert abs(float(values.mean()) - truth) < 4 * error + 1e-9
    # J less its multiple of I has rank 2, and the span finds it: what is left is that multiple
    flat = Linearised(entry @ low.T, entry, 0.0 * one, one, one, one, False)
    found = Trace.by_probes(vectors, None, flat)(flat)
    assert found == pytest.approx(float(low.trace()), abs=1e-9)


def test_batch_mates_seeds_and_numbers() -> None:
    model, x = RING.under(VP), RING.sample(8, seed=4)
    other = x.clone()
    other[1:] = 3.0 * torch.randn(7, 2, dtype=D, generator=torch.Generator().manual_seed(1))
    options = {"probes": 2, "control": Gaussian.fit(RING.sample(200))}
    for divergence in ("hutchinson", "exact", "hutch++"):
        a, b = (
            log_prob(model, v, **estimated(divergence=divergence, **options)) for v in (x, other)
        )
        assert torch.equal(a.draws[:, 0], b.draws[:, 0])
        assert a.nfe[0] == b.nfe[0] and a.solver_error[0] == b.solver_error[0]
    whole = log_prob(model, x, **estimated(**options))
    split = log_prob(model, x, batch_size=3, **estimated(**options))
    assert (whole.draws - split.draws).abs().max() < 1e-10
    tail = log_prob(model, x[5:], first=5, **estimated(**options))
    assert (whole.draws[:, 5:] - tail.draws).abs().max() < 1e-10
    assert (
        log_prob(model, x, seed=1, **estimated(**options)).draws - whole.draws
    ).abs().max() > 0.1
    net = Preconditioned(Field(3, torch.float32), VP)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    other = torch.cat([x[:1], -2 * x[1:]])
    a, b = (log_prob(net, v, t_end=1e-3) for v in (x, other))
    assert torch.equal(a.draws[:, 0], b.draws[:, 0])


def test_conditions_go_with_their_samples() -> None:
    model, x = Preconditioned(Field(), VP), torch.linspace(-1, 1, 12, dtype=D).reshape(4, 3)
    shift = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=D)
    whole = log_prob(model, x, cond={"shift": shift}, t_end=1e-2)
    split = log_prob(model, x, cond={"shift": shift}, t_end=1e-2, batch_size=1)
    assert (whole.nats - split.nats).abs().max() < 1e-9
    assert (whole.nats - log_prob(model, x, t_end=1e-2).nats).abs().max() > 1e-3


def test_gradients_in_x_and_in_the_parameters() -> None:
    x = RING.sample(4, seed=5).requires_grad_()
    prior = RING.marginal(VP, VP.T)
    options = {"divergence": "exact", "t_end": 1e-2, "rtol": 1e-7, "atol": 1e-7}
    result = log_prob(RING.under(VP), x, prior=prior, create_graph=True, **estimated(**options))
    (grad,) = torch.autograd.grad(result.nats.sum(), x)
    assert (grad - RING.under(VP).score(1e-2, x.detach())).abs().max() < 1e-3
    assert not log_prob(RING.under(VP), x, prior=prior, **estimated(**options)).nats.requires_grad

    net = Field()
    model, start = Preconditioned(net, VP), torch.linspace(-1, 1, 6, dtype=D).reshape(2, 3)
    for divergence, probes in (("exact", 1), ("hutchinson", 2)):
        options |= {"divergence": divergence, "probes": probes}
        value = log_prob(model, start, create_graph=True, **estimated(**options)).nats.sum()
        (slope,) = torch.autograd.grad(value, net.scale)
        ends = []
        for change in (1e-4, -1e-4):
            with torch.no_grad():
                net.scale += change
                ends.append(float(log_prob(model, start, **estimated(**options)).nats.sum()))
                net.scale -= change
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


def test_images_and_single_precision() -> None:
    net, half = Field(12), Field(12, torch.float32)
    x = torch.linspace(-1, 1, 24, dtype=D).reshape(2, 3, 2, 2)
    for predicts in ("eps", "x0", "v", "score", "flow", "edm"):
        exact, rough = (
            log_prob(Preconditioned(n, VP, predicts), x, divergence="exact", t_end=0.05)
            for n in (net, half)
        )
        assert exact.z.shape == x.shape and exact.nats.shape == (2,)
        assert rough.nats.dtype == D
        assert (exact.nats - rough.nats).abs().max() < 1e-2
    with pytest.raises(ValueError, match="rounding of float32"):
        log_prob(Preconditioned(half, VP), x, tolerances=Tolerances(rtol=1e-7))
    with pytest.raises(ValueError, match="rounding of float64"):
        log_prob(Preconditioned(net, VP), x, tolerances=Tolerances(atol=1e-16))


@pytest.mark.parametrize("sde", [VP, VESDE()], ids=["vp", "ve"])
def test_truncation_is_estimated_and_corrected(sde: AffineSDE) -> None:
    x, t = TILTED.sample(2000, seed=6), 1e-3
    options = {"prior": TILTED.marginal(sde, sde.T), "divergence": "exact", "t_end": t}
    clean, node = TILTED.log_prob(x), sde.at(t)
    smooth = Gaussian(
        TILTED.mean, TILTED.covariance + (node.sigma / node.alpha) ** 2 * torch.eye(6)
    )
    exact = {"none": TILTED.marginal(sde, t).log_prob(x), "scaled": smooth.log_prob(x)}
    for truncation, truth in exact.items():
        result = log_prob(
            TILTED.under(sde), x[:200], truncation=truncation, **estimated(**options)
        )
        assert (result.nats - truth[:200]).abs().max() < 1e-3
        off = truth[:200] - clean[:200]
        assert (result.truncation - off).abs().max() < 0.05 * off.abs().max()


@pytest.mark.parametrize("sde", [VP, VESDE()], ids=["vp", "ve"])
def test_the_bound_on_the_clean_density(sde: AffineSDE) -> None:
    """Jensen's gap for Gaussian data is the mean KL from q(x | x_e) to the decoder, exactly."""
    x, node = TILTED.sample(2000, seed=6), sde.at(float(sde.time_of(0.5)))
    options = {"prior": TILTED.marginal(sde, sde.T), "divergence": "exact", "t_end": node.t}
    result = log_prob(TILTED.under(sde), x, truncation="jensen", **estimated(**options))
    gap = TILTED.log_prob(x) - result.nats
    spread = (node.sigma / node.alpha) ** 2
    share = 1 / (1 + spread / torch.linalg.eigvalsh(TILTED.covariance))
    kl = float(0.5 * (share - 1 - share.log()).sum())
    error = float(gap.std()) / math.sqrt(2000)
    assert kl > 10 * error
    assert float(gap.mean()) == pytest.approx(kl, abs=4 * error)
    assert bool(result.truncation.isnan().all())


def test_prior_mismatch() -> None:
    x = TILTED.sample(8, seed=7)
    result = log_prob(TILTED.under(VP), x, divergence=Divergence("exact", control=TILTED))
    exact = log_prob(
        TILTED.under(VP),
        x,
        divergence=Divergence("exact", control=TILTED),
        prior=TILTED.marginal(VP, 1.0),
    )
    assert (result.nats + result.prior_mismatch - exact.nats).abs().max() < 1e-9
    assert exact.prior_mismatch.abs().max() < 1e-12
    assert bool(log_prob(TILTED.under(VP), x).prior_mismatch.isnan().all())
    assert (result.prior - VP.prior_log_prob(result.z)).abs().max() < 1e-9
    function = log_prob(TILTED.under(VP), x, prior=VP.prior_log_prob, divergence="exact")
    assert (function.nats - result.nats).abs().max() < 1e-3
    half = log_prob(
        TILTED.under(VP), x, divergence="exact", t_start=0.4, prior=TILTED.marginal(VP, 0.4)
    )
    assert (half.nats - exact.nats).abs().max() < 1e-3


def test_the_prior_that_is_scored_is_the_prior_that_is_sampled() -> None:
    chain = DDPM([0.1, 0.2, 0.5, 0.6]).to_sde()  # sigma(T) is 0.92, but its prior is N(0, I)
    x, one = TILTED.sample(3), torch.ones(1, dtype=D)
    cases = ((chain, chain.T, 1.0), (VP, 1.0, VP.sigma(1.0)), (VP, 0.4, VP.sigma(0.4)))
    for sde, start, std in cases:
        found = log_prob(TILTED.under(sde), x, divergence="exact", t_start=start)
        normal = torch.distributions.Normal(0 * one, std * one)
        wanted = normal.log_prob(found.z).flatten(1).sum(1)
        assert (found.prior - wanted).abs().max() < 1e-9
        if start == sde.T:
            assert float(sde.sample_prior(one)) == pytest.approx(std, rel=1e-12)
            assert (sde.prior_log_prob(found.z) - wanted).abs().max() < 1e-9


def test_bits_per_dimension() -> None:
    quantisation = Quantisation(17, -1.0, 1.0)
    uniform = FunctionScore(VP, lambda t, x: -x)
    x = torch.tensor([[0.25, -0.5]], dtype=D)
    result = log_prob(uniform, x, divergence="exact", prior=Gaussian(torch.zeros(2), torch.eye(2)))
    nats = -0.5 * float(x.square().sum()) - math.log(2 * math.pi)
    assert float(result.nats) == pytest.approx(nats, abs=1e-4)
    mass = nats + 2 * math.log(0.125)
    bits = -mass / (2 * math.log(2))
    assert float(result.bits_per_dim(quantisation)) == pytest.approx(bits, abs=1e-4)
    assert result.estimate(quantisation)[0] == pytest.approx(bits, abs=1e-4)
    assert set(result.budget()) >= {"log_prob", "standard_error", "solver_error", "truncation"}
    with pytest.raises(TypeError, match="quantisation"):
        result.bits_per_dim(None)
    with pytest.raises(ValueError, match="range"):
        result.bits_per_dim(Quantisation(17, -0.3, 0.2))


LEVELS = Quantisation(8)
MASSES = torch.tensor([0.1, 0.2, 0.05, 0.15, 0.1, 0.1, 0.2, 0.1], dtype=D)


def discrete_oracle() -> tuple[Tensor, ScoreModel]:
    x = LEVELS.encode(torch.arange(8)[:, None], dtype=D)
    return x, GaussianMixture(x, torch.zeros(8, dtype=D), MASSES).under(VP)


def test_truncated_normal_noise_is_tight_on_discrete_data() -> None:
    x, model = discrete_oracle()
    t = float(VP.time_of(math.log(4 / (LEVELS.bin_width / 2))))  # tau = 4
    options = {"t_end": t, "divergence": "exact", "draws": 5}
    result = discrete_log_prob(
        model, x, LEVELS, dequantise="truncated_normal", **estimated(**options)
    )
    assert result.tau == pytest.approx(4.0)
    assert (result.nats - MASSES.log()).abs().max() < 2e-3
    wide = discrete_log_prob(model, x, LEVELS, dequantise="uniform", **estimated(**options))
    assert float((MASSES.log() - wide.nats).mean()) > 0.3  # and uniform noise is not
    assert result.bits_per_dim(LEVELS) == pytest.approx(-result.nats / math.log(2))
    assert result.draws.shape == (5, 8) and bool((result.standard_error < 2e-3).all())


@pytest.mark.parametrize("dequantise", DEQUANTISERS)
def test_bounds_lie_below_and_importance_tightens_them(dequantise: str) -> None:
    x, model = discrete_oracle()
    x = x.repeat(64, 1)
    t = float(VP.time_of(math.log(1.0 / (LEVELS.bin_width / 2))))  # tau = 1
    options = {"t_end": t, "divergence": "exact", "rtol": 1e-4, "atol": 1e-4, "batch_size": 512}
    # tau = 1: what the model gives a bin is the mass of the noised data in it
    edges = (x[:8, 0] - LEVELS.bin_width / 2, x[:8, 0] + LEVELS.bin_width / 2)
    low, high = (
        torch.special.ndtr((e[:, None] - x[:8, 0]) / (LEVELS.bin_width / 2)) for e in edges
    )
    truth = ((high - low) @ MASSES).log().repeat(64)
    gaps = []
    for weights in (1, 8):
        result = discrete_log_prob(
            model,
            x,
            LEVELS,
            dequantise=dequantise,
            importance=weights,
            **estimated(**options),
        )
        gaps.append(float((truth - result.nats).mean()))
        error = float(result.draws.mean(1).std()) / math.sqrt(5)
        assert gaps[-1] > -4 * error
    assert gaps[1] < 0.5 * gaps[0]


class Broken(ScoreModel):
    def __init__(self, below: float) -> None:
        super().__init__()
        self.sde, self.below = VP, below

    def predict(self, node, x, cond=None):
        bad = (node.alpha < self.below) & (x[:, :1] > 0)
        return Prediction(x, node, torch.where(bad, torch.nan, -x), "score")


def test_scores_that_are_not_finite_are_named_with_their_time() -> None:
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=D)
    alpha = float(VP.alpha(0.3))
    with pytest.raises(ValueError, match=r"t = 0\.(29|3)"):
        log_prob(Broken(alpha), x, divergence="exact")
    with pytest.raises(ValueError, match="NaN"):
        log_prob(Broken(2.0), x)


def test_samples_beyond_their_budget_are_nan() -> None:
    x = RING.sample(16, seed=8)
    full = log_prob(RING.under(VP), x)
    limit = int(full.nfe.median())
    with pytest.warns(UnfinishedWarning, match=r"of 16 samples are NaN, stopped before t = 1 "):
        cut = log_prob(RING.under(VP), x, tolerances=Tolerances(max_nfe=limit))
    over = full.nfe > limit
    assert cut.status == "budget" and bool(over.any()) and not bool(over.all())
    assert torch.equal(cut.nats.isnan(), over)
    assert torch.equal(cut.nats[~over], full.nats[~over])


def test_refusals() -> None:
    model, x = RING.under(VP), RING.sample(2)
    free = FunctionScore(SDE(lambda t, x: -x, lambda t: 1.0), lambda t, x: -x)
    with pytest.raises(TypeError, match="AffineSDE"):
        log_prob(free, x)
    with pytest.raises(TypeError, match="floating"):
        log_prob(model, x.long())
    with pytest.raises(ValueError, match="finite"):
        log_prob(model, x * math.inf)
    with pytest.raises(TypeError, match="ScoreModel"):
        log_prob(lambda t, x: -x, x)
    for options, name in (
        ({"probes": 0}, "probes"),
        ({"probes": 1, "divergence": "hutch++"}, "probes"),
        ({"divergence": "hutchison"}, "hutchinson"),
        ({"probe": "normal"}, "probe"),
        ({"truncation": "song"}, "truncation"),
        ({"t_end": 0.0}, "t_end"),
        ({"t_end": 0.5, "t_start": 0.4}, "t_end"),
        ({"rtol": 0.0}, "rtol"),
        ({"seed": -1}, "seed"),
        ({"control": TILTED}, "control"),
        ({"prior": lambda z: z}, "prior"),
        ({"cond": {"label": torch.zeros(3)}}, "cond"),
    ):
        with pytest.raises(ValueError, match=name):
            log_prob(model, x, **estimated(**options))
    for options in ({"control": RING}, {"prior": 3.0}):
        with pytest.raises(TypeError, match=next(iter(options))):
            log_prob(model, x, **estimated(**options))

    @torch.no_grad()
    def blind(t: Tensor, x: Tensor) -> Tensor:
        return -x

    with pytest.raises(ValueError, match="differentiable"):
        log_prob(FunctionScore(VP, blind), x)


def test_refusals_of_discrete_data() -> None:
    x, model = discrete_oracle()
    with pytest.raises(TypeError, match="quantisation"):
        discrete_log_prob(model, x, None)
    with pytest.raises(ValueError, match="range"):
        discrete_log_prob(model, x * 2, LEVELS)
    with pytest.raises(ValueError, match="levels"):
        discrete_log_prob(model, x + 0.05, LEVELS)
    with pytest.raises(TypeError, match="x"):
        discrete_log_prob(model, torch.arange(8)[:, None], LEVELS)
    for options, name in (
        ({"draws": 4}, "draws"),
        ({"importance": 2}, "importance"),
        ({"dequantise": "normal"}, "dequantise"),
    ):
        with pytest.raises(ValueError, match=name):
            discrete_log_prob(model, x, LEVELS, **estimated(**options))
    result = discrete_log_prob(Empirical(x).under(VP), x, LEVELS, t_end=0.1)
    with pytest.raises(ValueError, match="quantisation"):
        result.bits_per_dim(Quantisation(9))


def test_the_result_is_exported() -> None:
    assert isinstance(log_prob(RING.under(VP), RING.sample(1)), LogLikelihood)


def test_the_example(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / "likelihood_2d.py"
    spec = importlib.util.spec_from_file_location("likelihood_2d", path)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    numbers = example.main(["--out", str(tmp_path)])
    assert numbers["exact trace"] < 5e-4 and numbers["exact trace, 1e-7"] < 1e-6
    assert 0.5 < numbers["1 probe"] < 1.5 and 0.2 < numbers["8 probes"] < 0.5
    assert numbers["elbo"] == pytest.approx(numbers["flow"], abs=0.1)
    assert abs(numbers["prior"]) < 1e-3 and abs(numbers["truncation"]) < 1e-3
    assert 4.5 < numbers["bits"] < 5.0
    assert (tmp_path / "likelihood.png").stat().st_size > 10_000


PRIORS = {
    **{name: sde for name, sde in ALL_SDES.items() if name != "linear_long"},
    "short chain": DDPM.linear(20).to_sde(),
    "cosine chain": DDPM.cosine(10).to_sde(),
}


@pytest.mark.parametrize("name", PRIORS)
def test_the_default_prior_is_the_one_that_sampling_starts_from(name: str) -> None:
    """One prior for the sampler, log_prob and the bound: N(0, prior_std^2 I) of the SDE."""
    sde, s2 = PRIORS[name], 0.25
    data = Gaussian(torch.zeros(1, dtype=D), torch.tensor(s2, dtype=D))
    z = torch.tensor([[1.0], [-2.0]], dtype=D)
    std = float(sde.sample_prior(z)[0])
    assert std == sde.prior_std and torch.equal(sde.sample_prior(z), z * std)
    # the flow of Gaussian data is linear, so its density is normal
    end = sde.t_end
    first, last = (sde.alpha(t) ** 2 * s2 + sde.sigma(t) ** 2 for t in (end, sde.T))
    spread = std * math.sqrt(first / last)
    x = spread * torch.tensor([[0.3], [1.4]], dtype=D)
    truth = torch.distributions.Normal(0.0, spread).log_prob(x[:, 0])
    found = log_prob(
        data.under(sde),
        x,
        divergence="exact",
        t_end=end,
        tolerances=Tolerances(1e-7, 1e-7),
    )
    assert (found.nats - truth).abs().max() < 1e-5
    kl = sde.prior_kl(x)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(sde.alpha(sde.T) * x, sde.sigma(sde.T)),
        torch.distributions.Normal(0.0, std),
    )
    assert (kl - wanted[:, 0]).abs().max() < 1e-8
