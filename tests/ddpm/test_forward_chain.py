"""Closed forms of the forward chain."""

from __future__ import annotations

import math

import pytest
import torch
from chains import BETAS, CHAINS, D, Linear, normal
from torch import Tensor


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
