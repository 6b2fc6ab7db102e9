"""Importance weights: evidences of mixtures, and the shape of tails of known laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from scoresde import VPSDE, Gaussian, GaussianMixture
from scoresde.measurement import Matrix, Measurement
from scoresde.smc import CollapsedWeights, flow_samples, pareto_shape, reweight
from scoresde.smc.tails import heavy, pareto_fit

F64 = torch.float64


def problem(dim: int) -> tuple[GaussianMixture, Tensor, Tensor, float, float]:
    """A mixture, a measurement of it, and the log evidence."""
    generator = torch.Generator().manual_seed(dim)
    means = torch.randn(3, dim, generator=generator, dtype=F64)
    prior = GaussianMixture(means, torch.full((3,), 0.3, dtype=F64))
    A = torch.randn(1, dim, generator=generator, dtype=F64) / math.sqrt(dim)
    y, std = torch.tensor([0.8], dtype=F64), 0.5
    law = MultivariateNormal(means @ A.T, 0.3 * A @ A.T + std**2 * torch.eye(1, dtype=F64))
    truth = torch.logsumexp(prior.log_weights + law.log_prob(y), 0)
    return prior, A, y, std, float(truth)


@pytest.mark.parametrize("dim", [2, 8])
def test_the_posterior_flow_as_proposal_has_the_evidence_of_a_mixture(dim: int) -> None:
    """The samples of one mixture, weighted into another: 0.02 nats, and the posterior mean."""
    prior, A, y, std, truth = problem(dim)
    exact = prior.posterior(A, y, std)
    sde = VPSDE()
    x, log_q = flow_samples(exact.under(sde), 400, (dim,), seed=1)
    found = reweight(prior.under(sde), Measurement(Matrix(A), y, std), x, log_q)
    assert abs(found.log_evidence - truth) < 0.02
    assert found.log_evidence_error < 0.01
    assert found.ess > 380
    error = 4.0 / math.sqrt(found.ess)
    assert float((found.mean - exact.weights @ exact.means).abs().max()) < error


def test_the_prior_as_proposal_has_the_evidence_within_its_error() -> None:
    prior, A, y, std, truth = problem(2)
    x = prior.sample(4000, seed=0)
    log_q = prior.log_prob(x)
    model = prior.under(VPSDE())
    found = reweight(model, Measurement(Matrix(A), y, std), x, log_q, log_p=log_q)
    assert abs(found.log_evidence - truth) < 3 * found.log_evidence_error < 0.1
    assert found.pareto_k < 0.5
    likelihood = Measurement(Matrix(A), y, std).log_likelihood(x, y.expand(4000, 1))
    assert found.log_evidence == pytest.approx(
        float(torch.logsumexp(likelihood, 0)) - math.log(4000), abs=1e-3
    )
    assert found.resample(10).shape == (10, 2)


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.7, 1.0])
def test_the_shape_of_a_generalised_pareto_law(k: float) -> None:
    u = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    quantiles = ((1 - u) ** -k - 1) / k
    assert pareto_fit(quantiles) == pytest.approx(k, abs=0.02)
    assert pareto_fit(7.0 * quantiles) == pytest.approx(k, abs=0.02)


def test_the_tail_of_weights_is_shrunk_towards_a_half() -> None:
    """u^-k has the tail k at any scale; with M = 300 of it the shrinkage is 10 in 310."""
    u = (torch.arange(10000, dtype=F64) + 0.5) / 10000
    for k in (0.3, 0.9):
        expected = (300 * k + 5) / 310
        assert pareto_shape(-k * u.log() + 3.0) == pytest.approx(expected, abs=0.03)


def test_a_heavy_tail_warns() -> None:
    prior, A, y, _, _ = problem(2)
    x = prior.sample(1000, seed=0)
    u = (torch.arange(1000, dtype=F64) + 0.5) / 1000
    measurement = Measurement(Matrix(A), y, 100.0)
    with pytest.warns(CollapsedWeights, match=r"pareto_k = .*: take a proposal that is closer"):
        reweight(prior.under(VPSDE()), measurement, x, u.log(), log_p=torch.zeros_like(u))


def test_densities_of_another_number_of_samples_are_refused() -> None:
    prior, A, y, std, _ = problem(2)
    x = prior.sample(10, seed=0)
    with pytest.raises(ValueError, match=r"log_q: expected shape \(10,\)"):
        reweight(prior.under(VPSDE()), Measurement(Matrix(A), y, std), x, x[:, :1], log_p=x[:, 0])


def test_a_measurement_in_cond_is_admitted_as_by_samplers() -> None:
    """One y for all samples, of any dtype, with NaN for not observed; rows must not differ."""
    prior, _, _, _, _ = problem(2)
    x, model = prior.sample(500, seed=0), prior.under(VPSDE())
    log_q = prior.log_prob(x)
    eye = Matrix(torch.eye(2, dtype=F64))
    for y in (torch.tensor([1, -1]), torch.tensor([0.5, math.nan], dtype=F64)):
        held = reweight(model, Measurement(eye, y, 0.5), x, log_q, log_p=log_q)
        rows = {"y": y.expand(500, 2)}
        given = reweight(model, Measurement(eye, None, 0.5), x, log_q, log_p=log_q, cond=rows)
        assert given.log_evidence == held.log_evidence
        assert torch.equal(given.log_weights, held.log_weights)
    two = {"y": torch.cat([y.expand(499, 2), torch.zeros(1, 2, dtype=F64)])}
    with pytest.raises(
        ValueError, match=r"cond: expected one measurement for all samples, got .*rows"
    ):
        reweight(model, Measurement(eye, None, 0.5), x, log_q, log_p=log_q, cond=two)
    with pytest.raises(ValueError, match="cond: expected the measurement 'y', got None"):
        reweight(model, Measurement(eye, None, 0.5), x, log_q, log_p=log_q)


def test_one_weight_among_many_has_the_heaviest_tail() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(300, generator=generator, dtype=torch.float64)
    assert math.isinf(pareto_shape(1e4 * normal))
    alone = torch.full((300,), -math.inf)
    alone[7] = 0.0
    assert math.isinf(pareto_shape(alone))
    assert pareto_shape(torch.zeros(300)) == 0.0
    assert heavy(1000) == pytest.approx(2.0 / 3.0) and heavy(10**6) == 0.7 and heavy(1) == 0.7


def test_a_proposal_that_misses_the_posterior_is_told() -> None:
    """Samples of the prior, and a measurement 12 deviations away."""
    prior = Gaussian(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    seen = Measurement(Matrix(torch.eye(2, dtype=F64)), torch.full((2,), 8.0, dtype=F64), 1e-3)
    x = prior.sample(300, seed=0)
    log_q = prior.log_prob(x)
    with pytest.warns(CollapsedWeights, match="300 samples are worth 1.0 independent ones"):
        found = reweight(prior.under(VPSDE()), seen, x, log_q, log_p=log_q)
    assert math.isinf(found.pareto_k)
