"""Estimators of sbi as score models and score models as posteriors of sbi, with sbi itself."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

from scoresde import VPSDE, FunctionScore, Gaussian, ReverseSampler, log_prob
from scoresde.adapters import OffsetFlowSDE, from_sbi, to_sbi
from scoresde.model import Preconditioned

pytest.importorskip("sbi", reason="pip install sbi")

from sbi.diagnostics import check_tarp, run_sbc, run_tarp
from sbi.diagnostics.sbc import check_uniformity_frequentist
from sbi.inference import FMPE, NPSE
from sbi.neural_nets import posterior_flow_nn, posterior_score_nn
from sbi.neural_nets.estimators.score_estimator import VPScoreEstimator
from sbi.utils import BoxUniform

KINDS = ["vp", "ve", "subvp", "flow"]
SIZE, SEEN = 3, 4
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Float64 by default, for some layers of sbi make new tensors, and a folder for its logs."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def simulations(n: int = 300) -> tuple[Tensor, Tensor]:
    """Parameters of three scales and means, and four noisy linear observations."""
    mean, scale = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([1.0, 2.0, 0.5])
    theta = mean + scale * torch.randn(n, SIZE)
    return theta, theta @ torch.randn(SIZE, SEEN) + 0.1 * torch.randn(n, SEEN)


def estimator_of(kind: str, epochs: int = 0, **options: Any) -> tuple[Any, Any, Tensor, Tensor]:
    """An estimator in float64, its posterior, and parameters and observations to ask it at."""
    theta, x = simulations()
    prior = MultivariateNormal(
        torch.tensor([1.0, -1.0, 0.0]), torch.diag(torch.tensor([1.0, 4, 0.25]))
    )
    if kind != "flow":
        options["sde_type"] = kind
    make = posterior_flow_nn if kind == "flow" else posterior_score_nn
    builder = make(hidden_features=16, num_layers=2, **options)
    trainer = (FMPE if kind == "flow" else NPSE)(
        prior, vf_estimator=builder, show_progress_bars=False
    )
    if epochs:
        trainer.append_simulations(theta, x)
        estimator = trainer.train(max_num_epochs=epochs, training_batch_size=50)
    else:
        estimator = builder(theta, x)
    torch.set_default_dtype(torch.float64)
    estimator = estimator.double().eval()
    posterior = trainer.build_posterior(estimator, prior=prior)
    return estimator, posterior, theta[:6].double(), x[:6].double()


@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_score_drift_and_schedule_are_those_of_sbi(kind: str, epochs: int) -> None:
    estimator, _, theta, x = estimator_of(kind, epochs)
    model = from_sbi(estimator)
    for t in (0.01, 0.3, 0.7, 0.985):
        time = torch.tensor([t])
        state = theta + torch.randn(6, SIZE)
        node = model.sde.at(t)
        torch.testing.assert_close(estimator.mean_t_fn(time).item(), node.alpha, **EXACT)
        torch.testing.assert_close(estimator.std_fn(time).item(), node.sigma, **EXACT)
        f = estimator.drift_fn(state, time).expand_as(state)
        torch.testing.assert_close(model.sde.f(t, state), f, **EXACT)
        score = model.score(t, state, {"x_o": x})
        flow = model.sde.f(t, state) - 0.5 * model.sde.g(t) ** 2 * score
        # as its sampler and its likelihood ask it: one time for all
        torch.testing.assert_close(flow, estimator.ode_fn(state, x, time), **EXACT)
        excess = 1.001 if kind == "flow" else 1.0  # see the next test
        torch.testing.assert_close(estimator.score(state, x, time), excess * score, **EXACT)
        g = estimator.diffusion_fn(state, time).flatten()[0].item()
        torch.testing.assert_close(g * excess**0.5, model.sde.g(t), **EXACT)
        each = torch.full((6,), t)
        torch.testing.assert_close(model.score(each, state, {"x_o": x}), score, **EXACT)


def test_the_flow_of_sbi_determines_another_score_than_its_own() -> None:
    """x = (1 - t) x_0 + (t + s) eps and v = eps - x_0: eps = (x + (1 - t) v)/(1 + s)."""
    estimator, _, theta, x = estimator_of("flow")
    model, t = from_sbi(estimator), 0.4
    start, eps = theta, torch.randn(6, SIZE)
    state = (1 - t) * start + (t + 0.001) * eps

    class Told(nn.Module):
        """A network that knows noise and data: it returns what the estimator makes v of."""

        def forward(self, *_: Tensor) -> Tensor:
            mean, std = estimator._get_velocity_normalization()
            return (eps - start - mean) / std

    estimator.net = Told()
    truth = -eps / (t + 0.001)
    torch.testing.assert_close(model.score(t, state, {"x_o": x}), truth, rtol=1e-10, atol=1e-10)
    theirs = estimator.score(state, x, torch.tensor([t]))
    torch.testing.assert_close(theirs, 1.001 * truth, rtol=1e-10, atol=1e-10)


def test_another_schedule_is_read_from_the_estimator() -> None:
    class Slower(VPScoreEstimator):
        def std_fn(self, times: Tensor) -> Tensor:
            return super().std_fn(times / 2)

        def mean_t_fn(self, times: Tensor) -> Tensor:
            return super().mean_t_fn(times / 2)

    torch.set_default_dtype(torch.float64)
    shape = torch.Size([2])
    model = from_sbi(Slower(Exact(), shape, shape))
    torch.testing.assert_close(model.sde.alpha(0.8), VPSDE(0.01, 10.0).alpha(0.4), **EXACT)
    early = from_sbi(VPScoreEstimator(Exact(), shape, shape, t_max=0.5))
    assert early.sde.T == 0.5
    torch.testing.assert_close(early.sde.sigma(0.4), VPSDE(0.01, 10.0).sigma(0.4), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_sbi(kind: str) -> None:
    estimator, posterior, theta, x = estimator_of(kind, 2)
    model, n = from_sbi(estimator), 2
    tight = {"atol": 1e-7, "rtol": 1e-7, "exact": True}
    theirs = posterior.log_prob(theta[:n], x=x[:1], ode_kwargs=tight)
    base = Independent(Normal(estimator.mean_base[0], estimator.std_base[0]), 1)
    ours = log_prob(
        model,
        theta[:n],
        cond={"x_o": x[:1].float().double().expand(n, -1)},  # sbi makes observations float32
        prior=base,
        t_end=estimator.t_min,
        divergence="exact",
    )
    torch.testing.assert_close(ours.nats, theirs, rtol=0, atol=3e-4)


class Exact(nn.Module):
    """The network of VP with which the score is exact for x = theta + 0.5 noise, theta ~ N(0, 1).

    The posterior is N(0.8 x, 0.2). sbi's score is -alpha/sigma net - theta_t for unit data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # sbi looks up the device of a parameter

    def forward(self, theta: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma[:, None]
        alpha = (1 - sigma**2).sqrt()
        score = (0.8 * alpha * x - theta) / (0.2 * alpha**2 + sigma**2)
        return -(score + theta) * sigma / alpha


def test_an_exact_estimator_has_the_exact_posterior() -> None:
    torch.set_default_dtype(torch.float64)
    shape = torch.Size([2])
    model = from_sbi(VPScoreEstimator(Exact(), shape, shape))
    x_o = torch.tensor([[1.0, -0.5]])
    truth = Gaussian(0.8 * x_o[0], torch.tensor(0.2))
    theta = truth.sample(50, seed=0)
    cond = {"x_o": x_o.expand(50, 2)}
    end = truth.marginal(model.sde, model.sde.T)
    ours = log_prob(model, theta, cond=cond, prior=end, t_end=1e-4, divergence="exact").nats
    exact = truth.marginal(model.sde, 1e-4).log_prob(theta)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-4)
    cond = {"x_o": x_o.expand(20_000, 2)}
    sampler = ReverseSampler(model.sde, model, "unipc_3", steps=19)
    first = end.sample(20_000, seed=1)
    drawn = sampler.sample((20_000, 2), seed=0, cond=cond, x_init=first)
    torch.testing.assert_close(drawn.mean(0), truth.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.T.cov(), 0.2 * torch.eye(2), rtol=0, atol=0.01)
    # The start of sbi has the moments of theta given any x: alpha(1) = 0.08 makes a bias of 0.02.
    base = Gaussian(torch.zeros(2), torch.ones(())).marginal(model.sde, model.sde.T)
    first = base.sample(20_000, seed=1)
    biased = sampler.sample((20_000, 2), seed=0, cond=cond, x_init=first)
    assert 0.015 < float((drawn - biased).mean(0)[0]) < 0.04


def test_the_network_may_stand_in_a_standardised_space() -> None:
    estimator, _, theta, x = estimator_of(
        "vp", z_score_theta="independent", compose_standardization=True
    )
    with pytest.raises(ValueError, match="standardised: expected True for an estimator with"):
        from_sbi(estimator)
    model = from_sbi(estimator, standardised=True)
    z = estimator.to_z(theta)
    expected = estimator.score(z, x, torch.tensor([0.5]))
    torch.testing.assert_close(model.score(0.5, z, {"x_o": x}), expected, **EXACT)


def test_conditions_of_another_shape() -> None:
    estimator, posterior, theta, x = estimator_of("vp")
    model = from_sbi(estimator)
    with pytest.raises(ValueError, match=r"x_o: expected shape \(B, 4\), as in its training"):
        model.score(0.5, theta, {"x_o": x[:, :3]})
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 3\)"):
        model.score(0.5, theta[:, :2], {"x_o": x})
    with pytest.raises(ValueError, match="'x_o', which the model needs"):
        ReverseSampler(model.sde, model, steps=5).sample((6, SIZE), seed=0)
    with pytest.raises(TypeError, match=r"pass posterior\.vector_field_estimator"):
        from_sbi(posterior)


# Our models as posteriors of sbi


def linear_model(variance: float = 0.2) -> FunctionScore:
    """The exact model of theta ~ N(0, 1), x = theta + 0.5 noise, of variance 0.2."""
    sde = VPSDE()

    def score(t: Any, theta: Tensor, x_o: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return (0.8 * alpha * x_o - theta) / (variance * alpha**2 + sigma**2)

    return FunctionScore(sde, score)


def posterior_of(prior: Any, **options: Any) -> Any:
    model = linear_model()
    return to_sbi(ReverseSampler(model.sde, model, "unipc_3", steps=24), prior, **options)


def normal_prior() -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(2), torch.eye(2))


def test_a_model_as_a_posterior_samples_and_has_densities() -> None:
    posterior, x_o = posterior_of(normal_prior()), torch.tensor([1.0, -0.5])
    drawn = posterior.sample((20, 500), x=x_o, show_progress_bars=False)
    assert drawn.shape == (20, 500, 2)
    flat = drawn.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), 0.8 * x_o, rtol=0, atol=0.02)
    torch.testing.assert_close(flat.T.cov(), 0.2 * torch.eye(2), rtol=0, atol=0.01)
    assert posterior.sample((), x=x_o, show_progress_bars=False).shape == (2,)
    truth = MultivariateNormal(0.8 * x_o, 0.2 * torch.eye(2))
    theta = flat[:20].double()
    found = posterior.log_prob(theta, x=x_o)
    torch.testing.assert_close(found, truth.log_prob(theta.float()).double(), rtol=0, atol=0.02)
    chosen = posterior.set_default_x(x_o)
    torch.testing.assert_close(chosen.log_prob(theta), found)
    torch.testing.assert_close(chosen.potential(theta), found)
    theta.requires_grad_()
    (slope,) = torch.autograd.grad(chosen.log_prob(theta, track_gradients=True).sum(), theta)
    torch.testing.assert_close(slope, (0.8 * x_o - theta.detach()) / 0.2, rtol=0, atol=0.05)


def test_seeds_are_those_of_torch() -> None:
    posterior, x_o = posterior_of(normal_prior()), torch.zeros(1, 2)
    torch.manual_seed(3)
    first, second = (posterior.sample((9,), x=x_o, show_progress_bars=False) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(first, posterior.sample((9,), x=x_o, show_progress_bars=False))


def test_samples_stay_in_the_support_of_the_prior() -> None:
    posterior = posterior_of(BoxUniform(torch.zeros(2), torch.ones(2)))
    x_o = torch.tensor([[0.2, 0.4]])
    drawn = posterior.sample((4000,), x=x_o, show_progress_bars=False)
    assert drawn.shape == (4000, 2) and drawn.min() >= 0 and drawn.max() <= 1
    free = posterior.sample((4000,), x=x_o, show_progress_bars=False, reject_outside_prior=False)
    inside = ((free >= 0) & (free <= 1)).all(-1)
    assert 0.2 < inside.float().mean() < 0.9
    # a truncated Gaussian: the same as those inside
    torch.testing.assert_close(drawn.mean(0), free[inside].mean(0), rtol=0, atol=0.03)
    found = posterior.log_prob(torch.tensor([[0.5, 0.5], [0.5, 1.5]]), x=x_o)
    assert found[0] > -5 and found[1] == -torch.inf


@pytest.mark.parametrize("batched", [True, False])
def test_the_diagnostics_of_sbi_pass_an_exact_model(batched: bool) -> None:
    prior, n, draws = normal_prior(), 200 if batched else 20, 100
    posterior = posterior_of(prior)
    theta = prior.sample((n,))
    xs = theta + 0.5 * torch.randn(n, 2)
    options = {"num_posterior_samples": draws, "use_batched_sampling": batched}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it wants more simulations
        ranks, averaged = run_sbc(theta, xs, posterior, show_progress_bar=False, **options)
        ecp, alpha = run_tarp(
            theta, xs, posterior, show_progress_bar=False, num_bins=10, **options
        )
    assert ranks.shape == (n, 2) and averaged.shape == (n, 2)
    if not batched:
        return
    assert bool((check_uniformity_frequentist(ranks, draws) > 0.01).all())
    area, p = check_tarp(ecp, alpha)
    assert abs(area) < 0.3 and p > 0.05


def test_sbc_finds_a_posterior_that_is_too_narrow() -> None:
    prior, n = normal_prior(), 200
    model = linear_model(0.05)
    sampler = ReverseSampler(model.sde, model, "unipc_3", steps=24)
    theta = prior.sample((n,))
    xs = theta + 0.5 * torch.randn(n, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = to_sbi(sampler, prior)
        ranks, _ = run_sbc(theta, xs, posterior, 100, show_progress_bar=False)
    assert bool((check_uniformity_frequentist(ranks, 100) < 1e-3).all())


def test_expected_coverage_by_the_density() -> None:
    prior, n, draws = normal_prior(), 30, 20
    posterior = posterior_of(prior)
    theta = prior.sample((n,))
    xs = theta + 0.5 * torch.randn(n, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks, _ = run_sbc(
            theta, xs, posterior, draws, reduce_fns=posterior.log_prob, show_progress_bar=False
        )
    assert ranks.shape == (n, 1)
    assert 0.3 < float(ranks.mean()) / draws < 0.7


def test_an_estimator_there_and_back() -> None:
    estimator, posterior, theta, x = estimator_of("vp", 2)
    model = from_sbi(estimator)
    start = Gaussian(estimator.mean_0, estimator.std_0**2)
    sampler = ReverseSampler(model.sde, model, "unipc_3", steps=19)
    back = to_sbi(sampler, posterior.prior, start=start)
    tight = {"atol": 1e-7, "rtol": 1e-7, "exact": True}
    theirs = posterior.log_prob(theta[:2], x=x[:1], ode_kwargs=tight)
    torch.testing.assert_close(back.log_prob(theta[:2], x=x[:1]), theirs, rtol=0, atol=0.01)
    ours = back.sample((1000,), x=x[:1], show_progress_bars=False)
    other = posterior.sample((1000,), x=x[:1], show_progress_bars=False, steps=200)
    gap = (ours.mean(0) - other.mean(0)) / other.std(0)
    assert float(gap.abs().max()) < 0.2
    torch.testing.assert_close(ours.std(0), other.std(0), rtol=0.1, atol=0)


def test_what_is_no_sampler_or_no_prior() -> None:
    model = linear_model()
    with pytest.raises(TypeError, match="sampler: expected"):
        to_sbi(model, normal_prior())  # type: ignore[arg-type]
    sampler = ReverseSampler(model.sde, model, steps=5)
    with pytest.raises(TypeError, match=r"sbi.utils.process_prior makes one"):
        to_sbi(sampler, "uniform")  # type: ignore[arg-type]
    posterior = to_sbi(sampler, normal_prior())
    with pytest.raises(ValueError, match="x: expected one observation"):
        posterior.log_prob(torch.zeros(1, 2), x=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="x: expected one observation"):
        posterior.sample((5,), x=torch.zeros(3, 2))
    assert isinstance(from_sbi(estimator_of("flow")[0]), Preconditioned)
    assert OffsetFlowSDE(0.001).sigma(0.0) == 0.001


ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_blocks_of_the_pages_run() -> None:
    """On 1000 standard normal parameters seen through noise of 0.5, briefly trained."""
    names: dict[str, Any] = {}
    there, back = blocks("adapters.md", "py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the training has not converged
        exec(there, names)
        exec(back, names)
    assert names["samples"].shape == (1000, 2) and bool(names["nats"].isfinite().all())
    assert names["draws"].shape == (100, 2) and bool(names["density"].isfinite().all())
    assert names["ranks"].shape == (100, 2) and len(names["coverage"]) == len(names["levels"])
    names = {"torch": torch, "VPSDE": VPSDE, "ReverseSampler": ReverseSampler}
    (ours,) = blocks("migrating.md", "py")
    exec(blocks("migrating.md", "python")[-1], names)
    exec(ours, names)
    again = names["again"]
    assert again.mean(0).tolist() == pytest.approx([0.8, -0.8], abs=0.15)
    assert again.std(0).tolist() == pytest.approx([0.447, 0.447], abs=0.1)
    assert bool((names["uniform"] > 1e-4).all())
