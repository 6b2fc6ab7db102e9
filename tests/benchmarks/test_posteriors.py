"""The problems and the metric of the benchmark of posterior samplers."""

import math

import torch
from torch.distributions import MultivariateNormal

from benchmarks.posteriors import ROWS, make_problem, sliced_w1, table


def test_the_distance_of_a_shift_is_its_mean_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    # the first entry of a random direction in 3-D is uniform on [-1, 1], so its mean size is 1/2
    assert abs(sliced_w1(x + shift, x) - 1.5) < 0.06
    assert sliced_w1(x, x) == 0.0


def test_a_problem_has_the_evidence_and_the_moments_of_its_posterior() -> None:
    problem = make_problem(8, 2, 0)
    prior, measurement = problem.prior, problem.measurement
    assert prior.dim == 8 and len(prior.means) == 25
    assert prior.means.abs().max() == 16.0 and math.isclose(float(prior.weights.sum()), 1.0)
    A = measurement.operator.matrix((8,))  # type: ignore[union-attr]
    values = torch.linalg.svdvals(A)
    variance = measurement.noise.variance(measurement.y[None])  # type: ignore[index, union-attr]
    std = float(variance.flatten()[0].sqrt())
    assert float(values.max()) <= 1.0 and std <= float(values.max())
    law = MultivariateNormal(
        prior.means @ A.T, A @ A.T + std**2 * torch.eye(2, dtype=torch.float64)
    )
    truth = torch.logsumexp(law.log_prob(measurement.y) + prior.weights.log(), 0)
    assert math.isclose(float(problem.exact.log_evidence()), float(truth), rel_tol=1e-10)
    exact = prior.posterior(A, measurement.y, std)  # type: ignore[arg-type]
    gap = problem.exact.sample(20_000, seed=1).mean(0) - exact.weights @ exact.means
    assert float(gap.abs().max()) < 0.3


def test_a_row_gives_what_the_table_shows() -> None:
    found = ROWS["twisted, 300 steps, K = 64"](make_problem(8, 4, 1), 0)
    assert found["x"].shape == (1000, 8) and abs(found["log_evidence"]) < 6 * found["stated"]
    cell = {"distance": 1.0, "floor": 0.5, "log_evidence": 0.1, "stated": 0.1, "seconds": 1.0}
    assert "| 2.00 | 0.100 | 1.00 |" in table({"8,1": {"row": {"0": cell, "1": cell}}})
