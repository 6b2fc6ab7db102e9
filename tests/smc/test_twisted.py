"""Twisted sequential Monte Carlo: linear-Gaussian and mixture truths, evidence, independence."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from scoresde import (
    EDMSDE,
    VPSDE,
    AffineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    ReverseSDE,
    ScoreModel,
    TwistedSampler,
)
from scoresde.measurement import Mask, Matrix, Measurement
from scoresde.node import Node
from scoresde.smc import CollapsedWeights, Particles, pareto_shape
from scoresde.smc.particles import relative_variance, systematic
from scoresde.solvers import SOLVERS

F64 = torch.float64


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=F64)


MEAN = tensor(0.5, -1.0)
COVARIANCE = tensor([1.0, 0.6], [0.6, 0.8])
A = tensor([1.0, 0.5])
Y = tensor(1.2)
STD = 0.4


def gaussian(sde: AffineSDE) -> ScoreModel:
    return Gaussian(MEAN, COVARIANCE).under(sde)


def truth() -> tuple[Tensor, Tensor, float]:
    """Mean and covariance of the posterior, and the log evidence, of the linear-Gaussian model."""
    of_y = A @ COVARIANCE @ A.T + STD**2 * torch.eye(1, dtype=F64)
    gain = COVARIANCE @ A.T @ torch.linalg.inv(of_y)
    evidence = MultivariateNormal(A @ MEAN, of_y).log_prob(Y)
    return MEAN + gain @ (Y - A @ MEAN), COVARIANCE - gain @ A @ COVARIANCE, float(evidence)


def linear(y: Tensor | None = Y) -> Measurement:
    return Measurement(Matrix(A), y, STD)


def mixture() -> GaussianMixture:
    means = tensor([-2.0, -2.0], [2.0, 0.0], [0.0, 3.0])
    return GaussianMixture(means, torch.full((3,), 0.3, dtype=F64), tensor(0.5, 0.3, 0.2))


def spread(found: Particles) -> Tensor:
    """The covariance of the first posterior."""
    centred = found.x[0] - found.mean[0]
    return (centred * found.weights[0, :, None]).T @ centred


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE(), FlowSDE()], ids=["vp", "edm", "flow"])
@pytest.mark.parametrize("twist", ["jacobian", "variance", "point"])
def test_the_posterior_of_a_linear_gaussian_model(sde: AffineSDE, twist: str) -> None:
    """Whatever the twist, mean, covariance and evidence are those of the closed form."""
    mean, covariance, evidence = truth()
    sampler = TwistedSampler(
        gaussian(sde), linear(), particles=4000, steps=200, twist=twist, variance=0.9
    )
    found = sampler.sample((1, 2), seed=1, dtype=F64)
    families = 1.0 / (found.log_evidence_error[0].square() + 1.0 / 4000)  # that are independent
    error = 4.0 / math.sqrt(float(families)) * float(covariance.diagonal().max().sqrt())
    assert float((found.mean[0] - mean).abs().max()) < error
    assert float((spread(found) - covariance).abs().max()) < error
    stated = float(found.log_evidence_error[0])
    assert stated < 0.1
    assert abs(float(found.log_evidence[0]) - evidence) < 0.01 + 4 * stated


@pytest.mark.parametrize(
    "solver", ["euler_maruyama", "reverse_diffusion", "dpmpp_2m_sde", "sa_solver_p2c2", "er_sde_2"]
)
def test_every_scheme_with_a_kernel_serves(solver: str) -> None:
    mean, _, evidence = truth()
    sampler = TwistedSampler(gaussian(VPSDE()), linear(), particles=2000, solver=solver, steps=300)
    found = sampler.sample((1, 2), seed=2, dtype=F64)
    assert float((found.mean[0] - mean).abs().max()) < 0.08
    assert abs(float(found.log_evidence[0]) - evidence) < 0.08


def test_the_mixture_posterior_has_its_weights() -> None:
    prior = mixture()
    exact = prior.posterior(A, Y, STD)
    shift = Y - prior.means @ A.T
    of_y = 0.3 * A @ A.T + STD**2
    each = -0.5 * (shift.square() / of_y + of_y.log() + math.log(2 * math.pi))[:, 0]
    evidence = float(torch.logsumexp(prior.log_weights + each, 0))
    sampler = TwistedSampler(prior.under(VPSDE()), linear(), particles=4000, steps=200)
    found = sampler.sample((1, 2), seed=0, dtype=F64)
    nearest = torch.cdist(found.x[0], exact.means).argmin(1)
    shares = torch.zeros(len(exact.means), dtype=F64).index_add_(0, nearest, found.weights[0])
    reference = torch.cdist(exact.sample(20000, seed=1), exact.means).argmin(1).bincount() / 20000
    torch.testing.assert_close(shares, reference.double(), atol=0.05, rtol=0.0)
    assert abs(float(found.log_evidence[0]) - evidence) < 0.1


def of_chain(sampler: TwistedSampler) -> float:
    """The log evidence under the law that the solver's own steps give to x_0hat, exactly.

    Steps on Gaussian data are affine, so mean and covariance follow from three states.
    """
    (nodes,), (rows,) = sampler.plan.schedule.segments, sampler.plan.coefficients
    process = ReverseSDE(sampler.model.sde, sampler.model, 1.0)
    probes = torch.cat([torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)])
    mean, covariance = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    for (now, nxt), row in zip(pairwise(nodes), rows, strict=True):
        moved, std, _ = sampler.loop.solver.kernel(process, probes, now, nxt, row, ())
        M = (moved[1:] - moved[0]).T
        mean = M @ mean + moved[0]
        covariance = M @ covariance @ M.T + float(std) ** 2 * torch.eye(2, dtype=F64)
    last = sampler.model.predict(nodes[-1], probes, None).x0
    M = A @ (last[1:] - last[0]).T
    law = MultivariateNormal(
        M @ mean + A @ last[0], M @ covariance @ M.T + STD**2 * torch.eye(1, dtype=F64)
    )
    return float(law.log_prob(Y))


@pytest.mark.parametrize("threshold", [0.0, 0.99])
def test_the_estimate_of_the_evidence_is_unbiased_with_few_particles(threshold: float) -> None:
    """1000 runs of 8 particles: the mean of exp(log Z) is the evidence of the chain itself."""
    sampler = TwistedSampler(
        gaussian(VPSDE()),
        linear(),
        particles=8,
        solver="ancestral",  # one step needs no history, so the chain's law is a product
        steps=40,
        threshold=threshold,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapsedWeights)
        found = sampler.sample((1000, 2), seed=0, dtype=F64)
    ratio = (found.log_evidence - of_chain(sampler)).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert bool(found.resampled.any()) == (threshold > 0)
    assert error < 0.01
    assert abs(float(ratio.mean()) - 1.0) < 3 * error


def test_the_standard_error_of_the_evidence_is_that_of_repeated_runs() -> None:
    sampler = TwistedSampler(mixture().under(VPSDE()), linear(), particles=200, steps=80)
    found = sampler.sample((100, 2), seed=4, dtype=F64)
    stated = float(found.log_evidence_error.square().mean().sqrt())
    assert 0.7 < float(found.log_evidence.std()) / stated < 1.4


def test_a_reward_tilts_the_prior() -> None:
    """p(x) e^(b x): a Gaussian stays one, its mean moves by Sigma b, and log Z is exact."""
    b = tensor(0.8, -0.3)
    sampler = TwistedSampler(gaussian(VPSDE()), lambda x: x @ b, particles=4000, steps=200)
    found = sampler.sample((1, 2), seed=0, dtype=F64)
    evidence = float(b @ MEAN + 0.5 * b @ COVARIANCE @ b)
    assert float((found.mean[0] - MEAN - COVARIANCE @ b).abs().max()) < 0.08
    assert abs(float(found.log_evidence[0]) - evidence) < 0.05


@pytest.mark.filterwarnings("ignore::scoresde.smc.CollapsedWeights")
@pytest.mark.parametrize("twist", ["jacobian", "point"])
def test_other_observations_of_the_batch_change_no_bit(twist: str) -> None:
    sampler = TwistedSampler(
        mixture().under(VPSDE()), linear(None), particles=64, steps=20, twist=twist
    )
    one = sampler.sample((3, 2), seed=0, dtype=F64, cond={"y": tensor([1.2], [0.0], [-1.0])})
    two = sampler.sample((3, 2), seed=0, dtype=F64, cond={"y": tensor([-3.0], [0.0], [4.0])})
    for name in ("x", "log_weights", "log_evidence", "log_evidence_error", "ess", "eve"):
        assert torch.equal(getattr(one, name)[1], getattr(two, name)[1]), name
    assert not torch.equal(one.x[0], two.x[0])


def test_batches_of_particles_give_the_same_result() -> None:
    sampler = TwistedSampler(mixture().under(VPSDE()), linear(), particles=50, steps=20)
    whole = sampler.sample((2, 2), seed=0, dtype=F64)
    parts = sampler.sample((2, 2), seed=0, dtype=F64, batch_size=17)
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-9, atol=1e-9)
    assert whole.nfe == parts.nfe == 21


def test_the_ancestry_joins_the_path() -> None:
    sampler = TwistedSampler(
        mixture().under(VPSDE()), linear(), particles=50, steps=30, threshold=1
    )
    found = sampler.sample((2, 2), seed=0, dtype=F64, keep_ancestry=True, keep_path=True)
    assert found.ancestry is not None and found.path is not None
    assert found.path.shape == (31, 2, 50, 2)
    eve = torch.arange(50).expand(2, 50)
    for parent in found.ancestry:
        eve = eve.gather(1, parent)
    assert torch.equal(eve, found.eve)


def test_systematic_resampling_counts() -> None:
    weights = tensor([0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0])
    chosen = systematic(weights, tensor([0.3], [0.99]), 8)
    assert [row.bincount(minlength=4).tolist() for row in chosen] == [[4, 2, 2, 0], [0, 0, 0, 8]]


def test_the_variance_of_equal_families_is_zero_and_of_one_family_is_the_number() -> None:
    equal = torch.full((1, 4), 0.25, dtype=F64).log()
    assert float(relative_variance(equal, torch.arange(4)[None])) == pytest.approx(0.0, abs=1e-15)
    alone = float(relative_variance(equal, torch.zeros(1, 4, dtype=torch.int64)))
    assert alone == pytest.approx(1.0)


def test_resampled_draws_have_the_weighted_mean() -> None:
    sampler = TwistedSampler(gaussian(VPSDE()), linear(), particles=2000, steps=50)
    found = sampler.sample((2, 2), seed=0, dtype=F64)
    drawn = found.resample(2000, seed=1)
    assert drawn.shape == (2, 2000, 2)
    torch.testing.assert_close(drawn.mean(1), found.mean, atol=0.02, rtol=0.0)
    assert repr(found).startswith("Particles(a float64 tensor of shape (2, 2000, 2), ess at")


def test_what_has_no_density_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"solver: expected .*, got SRA1; take one of euler_maru"):
        TwistedSampler(gaussian(VPSDE()), linear(), solver="sra1")
    with pytest.raises(ValueError, match=r"eta: expected more than 0, got 0\.0; pass eta=1"):
        TwistedSampler(gaussian(VPSDE()), linear(), solver="ddim")
    assert "sra1" in SOLVERS


def sharp(std: float) -> TwistedSampler:
    """Too few steps for a measurement far from the data."""
    y = Measurement(Matrix(torch.eye(2, dtype=F64)), tensor(9.0, 9.0), std)
    return TwistedSampler(gaussian(VPSDE()), y, particles=100, steps=5, twist="point")


def test_collapsed_weights_warn_with_the_remedy() -> None:
    with pytest.warns(
        CollapsedWeights, match=r"collapsed in run 0: .* take more steps, more part"
    ):
        sharp(0.1).sample((1, 2), seed=0, dtype=F64)


def test_the_remedy_is_a_twist_only_where_there_is_a_closer_one() -> None:
    prior = gaussian(VPSDE())
    for twist, said in (("point", "twist='jacobian'"), ("jacobian", "less sharp")):
        sampler = TwistedSampler(prior, linear(), particles=10, steps=5, twist=twist)
        assert said in sampler.loop.remedies.collapsed
    reward = TwistedSampler(prior, lambda x: x[:, 0], particles=10, steps=5)
    assert "less sharp" in reward.loop.remedies.collapsed


def test_log_weights_too_large_to_tell_apart_are_an_error() -> None:
    """Rounded, log weights of 1e40 are equal or one is all, whatever the particles are."""
    with pytest.raises(
        ValueError, match=r"a log sum of -.* in run 0 at step \d, t = .*; check that the measurem"
    ):
        sharp(1e-3).sample((1, 2), seed=0, dtype=F64)


def test_the_twist_does_not_ask_a_network_in_nearly_pure_noise() -> None:
    """Errors of x_0hat in nearly pure noise, as a network has them, leave log p(y) right.

    They are 0.05 at most there and vanish below, but sigma^2 / alpha makes those of the Jacobian
    larger than the variance of the data.
    """
    sde, prior = VPSDE(), Gaussian(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    exact = prior.under(sde)

    def score(t: Tensor, x: Tensor) -> Tensor:
        node = sde.at(float(t))
        error = 0.05 * node.sigma**200 * torch.sin(4.0 * x)
        return exact.score(float(t), x) + node.alpha / node.sigma**2 * error

    model = FunctionScore(sde, score)
    y = Measurement(Mask(torch.tensor([True, False])), torch.tensor([0.5], dtype=F64), 0.1)
    sampler = TwistedSampler(model, y, particles=500, steps=60, twist="jacobian", variance=1.0)
    found = sampler.sample((1, 2), seed=0, dtype=F64)
    wanted = -0.5 * (0.25 / 1.01 + math.log(2.0 * math.pi * 1.01))
    gap = abs(float(found.log_evidence) - wanted)
    assert gap < 4.0 * float(found.log_evidence_error) + 0.02, (gap, found)
    assert float(found.log_evidence_error) < 0.1
    assert found.products < found.nfe  # no product is spent where there is nothing to learn


@pytest.mark.parametrize("heavy", [0.3, 0.85])
def test_the_tail_of_the_weights_is_measured(heavy: float) -> None:
    """Weights exp(k x^2 / 2) of x ~ N(0, 1) have a tail of shape k, for which a warning is due."""

    def reward(x0: Tensor) -> Tensor:  # with a gradient of 0 nothing is guided
        return 0.5 * heavy * x0.detach()[:, 0].square() + 0.0 * x0[:, 0]

    normal = Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64)).under(VPSDE())
    sampler = TwistedSampler(normal, reward, particles=2000, steps=60, threshold=0.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = sampler.sample((2, 1), seed=0, dtype=F64)
    assert found.pareto_k.tolist() == [pareto_shape(w) for w in found.log_weights]
    assert float(found.pareto_k.max()) == pytest.approx(heavy, abs=0.2)
    message = "had a heavy tail"
    assert [message in str(w.message) for w in told] == [True] * (heavy > 0.7)
    assert str(found.facts["shape of the tail"]).startswith("at most ")


def test_the_largest_tail_before_a_resampling_counts() -> None:
    sampler = TwistedSampler(gaussian(VPSDE()), linear(), particles=400, steps=60, threshold=0.99)
    seen: list[float] = []

    def look(node: Node, x: Tensor, log_weights: Tensor) -> None:
        seen.append(pareto_shape(log_weights[0]))

    found = sampler.sample((1, 2), seed=1, dtype=F64, on_node=look)
    at = [*found.resampled[0, :-1].nonzero().flatten().tolist(), len(seen) - 1]
    assert len(at) > 1
    assert float(found.pareto_k) == max(seen[i] for i in at)


def test_a_run_with_a_heavy_tail_is_told_beside_one_that_collapsed() -> None:
    sampler = TwistedSampler(gaussian(VPSDE()), linear(), particles=1000, steps=20)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sampler.loop._warn_of_tails([0.9, 0.8, 0.3], [0.5, 0.2, 0.1], [True, False, False])
        sampler.loop._warn_of_tails([0.66, math.nan], [0.5, 0.2], [False, False])
    (only,) = told
    assert "1 of 3 runs had a heavy tail, that of run 1 with pareto_k = 0.80 at t = 0.2" in str(
        only.message
    )


def test_one_particle_has_no_stated_error() -> None:
    sampler = TwistedSampler(gaussian(VPSDE()), linear(), particles=1, steps=20)
    assert sampler.sample((2, 2), seed=0).log_evidence_error.isnan().all()


def test_few_particles_have_no_tail() -> None:
    found = TwistedSampler(gaussian(VPSDE()), linear(), particles=8, steps=20).sample(
        (1, 2), seed=0
    )
    assert found.pareto_k.isnan().all() and found.facts["shape of the tail"] is None
