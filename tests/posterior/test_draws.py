"""Draws of x_0 from N(x_0hat, r^2 I) given a measurement: exact moments, and Langevin chains."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from gaussian_problem import F64, OPERATORS, D, randn
from torch import Tensor

from scoresde.measurement import (
    GaussianNoise,
    Identity,
    Linear,
    LogLikelihood,
    Matrix,
    Measurement,
    PoissonNoise,
)
from scoresde.noise import Independent
from scoresde.posterior.draws import SHARE, gaussian_draw, langevin, log_density

ALL = {**OPERATORS, "sums": Linear(lambda x: x.cumsum(1)[:, ::3], shape=(D,))}
NAN = math.nan


def covariance(m: int) -> Tensor:
    root = randn(m, m, seed=8)
    return root @ root.T / m + 0.2 * torch.eye(m, dtype=F64)


NOISES: dict[str, Callable[[tuple[int, ...]], float | GaussianNoise]] = {
    "one": lambda shape: 0.4,
    "each": lambda shape: GaussianNoise(randn(*shape, seed=9).abs() + 0.1),
    "correlated": lambda shape: GaussianNoise(covariance=covariance(math.prod(shape))),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("r2", [4.0, 1e-3])
def test_exact_draws_have_the_moments_of_the_posterior(
    name: str, noise: str, missing: bool, r2: float
) -> None:
    """A draw is affine in its normals, so that mean and covariance follow from unit impulses."""
    operator = ALL[name]
    shape = operator.measured((D,))
    y, centre = randn(1, *shape, seed=3), randn(1, D, seed=2)
    if missing:
        y[0, 0] = NAN
    measurement = Measurement(operator, None, NOISES[noise](shape))
    m = y.numel()
    units = torch.cat([torch.zeros(1, D + m).double(), torch.eye(D + m, dtype=F64)])
    n = len(units)
    normals = units[:, :D], units[:, D:].reshape(n, *shape)
    draws = gaussian_draw(
        measurement, centre.expand(n, D), r2, y.expand(n, *shape), normals, 1e-12, 500
    )
    mean, root = draws[0], (draws[1:] - draws[:1]).T
    seen = (~y.isnan()).flatten()
    A, y_seen = operator.matrix((D,))[seen], y.flatten()[seen]
    sigma = measurement.noise.variance(y).expand(y.shape).flatten()  # type: ignore[union-attr]
    matrix = covariance(m) if noise == "correlated" else torch.diag(sigma)
    precision = torch.linalg.inv(matrix[seen][:, seen])
    wanted = torch.linalg.inv(A.T @ precision @ A + torch.eye(D, dtype=F64) / r2)
    residual = y_seen - A @ centre[0]
    torch.testing.assert_close(root @ root.T, wanted, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        mean, centre[0] + wanted @ (A.T @ (precision @ residual)), rtol=1e-8, atol=1e-9
    )


def test_a_sample_with_gaps_changes_nothing_for_its_mates() -> None:
    measurement = Measurement(OPERATORS["blur"], None, 0.3)
    y, centre = randn(2, D, seed=3), randn(2, D, seed=2)
    normals = randn(2, D, seed=4), randn(2, D, seed=5)
    whole = gaussian_draw(measurement, centre, 1.0, y, normals, 1e-10, 100)
    y[1, 3] = NAN
    part = gaussian_draw(measurement, centre, 1.0, y, normals, 1e-10, 100)
    assert torch.equal(part[0], whole[0]) and not torch.allclose(part[1], whole[1])


# Langevin.


def run(measurement: Measurement, y: Tensor, centre: Tensor, r2: float, steps: int) -> Tensor:
    share = torch.full((len(centre),), SHARE, dtype=F64)
    source = Independent(0).stream("langevin")
    x, share = langevin(measurement, centre, centre, r2, y, share, source, 0.5, steps)
    assert float(share.max()) <= 1.0 and float(share.min()) > 0.01
    return x


def test_chains_of_counts_have_the_moments_of_the_density() -> None:
    """A Poisson count of 2 at the rate x^2 + 0.3 and x ~ N(0.5, 1): two unequal modes."""
    n, r2 = 4000, 1.0

    def rate(x0: Tensor) -> Tensor:
        return x0.square() + 0.3

    measurement = Measurement(rate, None, PoissonNoise())
    y = torch.full((n, 1), 2.0, dtype=F64)
    x = run(measurement, y, torch.full((n, 1), 0.5, dtype=F64), r2, 150)[:, 0]
    grid = torch.linspace(-6.0, 7.0, 20001, dtype=F64)
    log_p = 2 * (grid.square() + 0.3).log() - (grid.square() + 0.3) - (grid - 0.5).square() / 2
    p = torch.softmax(log_p, 0)
    for power in (1, 2, 4):
        values = grid**power
        truth = float((p * values).sum())
        spread = math.sqrt(float((p * values.square()).sum()) - truth**2)
        assert abs(float((x**power).mean()) - truth) < 4 * spread / math.sqrt(n)
    below = float(p[grid < 0].sum())
    assert abs(float((x < 0).double().mean()) - below) < 4 * math.sqrt(below / n)


def test_chains_in_several_dimensions_have_the_moments_of_a_gaussian() -> None:
    n, r2, std = 4000, 0.7, 0.5
    A, centre = randn(3, D, seed=6) / 2, 0.3 * randn(1, D, seed=2)
    target = randn(3, seed=3)
    like = LogLikelihood(lambda x0, y: -0.5 * ((y - x0 @ A.T) / std).square().sum(1))
    x = run(Measurement(Matrix(A), None, like), target.expand(n, 3), centre.expand(n, D), r2, 150)
    wanted = torch.linalg.inv(A.T @ A / std**2 + torch.eye(D, dtype=F64) / r2)
    mean = centre[0] + wanted @ (A.T @ (target - A @ centre[0])) / std**2
    spread = wanted.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / spread).abs().max()) < 4 / math.sqrt(n)
    assert float((x.std(0) / spread - 1).abs().max()) < 4 / math.sqrt(2 * n)


def test_chains_that_start_in_the_density_stay_in_it_for_any_number_of_steps() -> None:
    """By one proposal, short or long, from exact samples: moments do not change."""
    n, r2, std = 20_000, 1.0, 0.5
    x = math.sqrt(0.2) * randn(n, 1, seed=1) + 0.8  # N(0, 1) and y = 1 with noise of 0.5
    y = torch.ones(n, 1, dtype=F64)
    measurement, source = Measurement(Identity(), None, std), Independent(3).stream("langevin")
    for length in (0.05, 0.5, 1.0):
        share = torch.full((n,), length, dtype=F64)
        centre = torch.zeros_like(x)
        found, _ = langevin(measurement, x, centre, r2, y, share, source, 0.5, 1)
        assert abs(float(found.mean()) - 0.8) < 4 * math.sqrt(0.2 / n)
        assert abs(float(found.var()) / 0.2 - 1) < 4 * math.sqrt(2 / n)


def test_the_gradient_of_the_density_is_its_own() -> None:
    """Metropolis' rule makes any other one right too, but slow."""
    measurement = Measurement(lambda x0: x0.square() + 0.3, None, PoissonNoise())
    x, centre = randn(4, 2, seed=1), randn(4, 2, seed=2)
    y = torch.tensor([[0.0, 1.0], [2.0, 5.0]]).double().repeat(2, 1)
    value, grad = log_density(measurement, x, centre, 0.3, y)
    leaf = x.clone().requires_grad_()
    wanted = measurement.log_likelihood(leaf, y) - (leaf - centre).square().sum(1) / 0.6
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-12, atol=1e-12)
    (of_x,) = torch.autograd.grad(wanted.sum(), leaf)
    torch.testing.assert_close(grad, of_x, rtol=1e-12, atol=1e-12)


def test_bad_input_of_chains() -> None:
    centre, y = torch.zeros(2, 1, dtype=F64), torch.ones(2, 1, dtype=F64)
    flat = LogLikelihood(lambda x0, y: y[:, 0])
    with pytest.raises(ValueError, match="that can be differentiated in x_0"):
        run(Measurement(Identity(), None, flat), y, centre, 1.0, 2)
    wrong = LogLikelihood(lambda x0, y: (x0 - y).log().sum(1))
    with pytest.raises(ValueError, match=r"finite log-likelihood .* at t = 0\.5"):
        run(Measurement(Identity(), None, wrong), y, centre, 1.0, 2)
