"""The priors, figures and page of the benchmark of sparse increments."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import posteriors_sparse as sparse
from benchmarks.posteriors_increments import BELOW, Increments, Prior, Sides
from benchmarks.posteriors_levy import DIM
from benchmarks.posteriors_problems import F64
from benchmarks.posteriors_sparse import Problem
from scoresde import VPSDE, FunctionScore

RESULTS = Path(sparse.RESULTS)
NETWORK = FunctionScore(VPSDE(), lambda t, x: -x)


def test_the_page_is_that_of_the_file() -> None:
    found = json.loads((RESULTS / f"{sparse.NAME}.json").read_text(encoding="utf-8"))
    text = (RESULTS / f"{sparse.NAME}.md").read_text(encoding="utf-8")
    assert text == sparse.page(found), f"run `python benchmarks/{sparse.NAME}.py`"
    assert found["settings"] == sparse.settings(found["settings"]["signals"])


@pytest.mark.parametrize("c", [0.02, 0.7, 5.0, 150.0])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_the_moments_of_an_increment_are_those_of_quadrature(c: float, share: float) -> None:
    """E[z | m], Var[z | m] and the density of m = z + c n, also where the noise is large."""
    z = torch.linspace(-40.0, 40.0, 800_001, dtype=F64)
    m = torch.tensor([-1.3, 0.0, 0.4, 2.5], dtype=F64) * max(1.0, c)
    normal = -0.5 * ((m[:, None] - z) / c).square() - math.log(c * math.sqrt(2 * math.pi))
    density = share * 0.5 * torch.exp(-z.abs() + normal) * float(z[1] - z[0])
    spike = (1 - share) * torch.exp(-0.5 * (m / c).square()) / (c * math.sqrt(2 * math.pi))
    total = density.sum(1) + spike
    mean = (density * z).sum(1) / total
    variance = (density * z.square()).sum(1) / total - mean.square()
    found = Sides.of(m, c, share)
    got_mean, got_variance = found.moments()
    torch.testing.assert_close(got_mean, mean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got_variance, variance, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.log_density, total.log(), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_the_derivative_of_the_exact_model_is_that_of_its_mean(share: float) -> None:
    model, node = Increments(share), VPSDE().at(0.3)
    x = torch.linspace(-3.0, 3.0, DIM, dtype=F64)[None].requires_grad_()
    (slope,) = torch.autograd.grad(model.predict(node, x).x0.sum(), x)
    step = 1e-5
    up, down = (model.predict(node, x.detach() + s).x0 for s in (step, -step))
    torch.testing.assert_close(slope, (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


def test_both_states_make_walks_of_the_same_law() -> None:
    for model in (Increments(0.1), NETWORK):
        prior = Prior(model, 0.1)
        covariance = prior.walks @ prior.law.covariance @ prior.walks.T
        torch.testing.assert_close(covariance, 0.2 * BELOW @ BELOW.T, rtol=1e-8, atol=1e-8)
    assert math.isclose(Prior(NETWORK, 0.1).variance, 1.0, rel_tol=1e-9)


def problem(mean: float, variance: float) -> Problem:
    """Signals whose two chains have walks that are independent normals."""
    made = Problem(torch.eye(DIM, dtype=F64), 1.0, 200)
    generator = torch.Generator().manual_seed(0)
    walks = torch.randn(2, 400, 200, DIM, generator=generator, dtype=F64)
    made.__dict__["gibbs"] = (mean + math.sqrt(variance) * walks, walks[0, :19].transpose(0, 1))
    return made


def test_the_gap_is_the_bias_over_the_variance_without_the_part_of_the_draws() -> None:
    """A bias of b with v = 4 and draws of variance 4: 10 log10(1 + b^2 / 4)."""
    made = problem(1.0, 4.0)
    generator = torch.Generator().manual_seed(1)
    for bias in (0.0, 2.0):
        noise = torch.randn(200, 19, DIM, generator=generator, dtype=F64)
        means = (1.0 + bias + 2.0 * noise).mean(1)
        assert abs(made.gap(means, 4.0 / 19) - 10 * math.log10(1 + bias**2 / 4)) < 0.03


def test_draws_of_the_prior_cover_it_and_a_wide_one_covers_more() -> None:
    """Under a faint measurement the posterior is the prior."""
    for share in (1.0, 0.1):
        made = Problem(1e-6 * torch.eye(DIM, dtype=F64), share, 400)
        made.__dict__["std"] = 1.0
        walks = torch.zeros(2, 1, 400, DIM, dtype=F64)
        made.__dict__["gibbs"] = (torch.cat([walks - 1, walks + 1], 1), walks[0])
        z = sparse.increments(share, 400 * 19, 9).reshape(400, 19, DIM)
        assert abs(made.judged(z)["coverage"] - 0.9) < 0.05
        assert made.judged(3.0 * z)["coverage"] > 0.97
        assert made.judged(0.3 * z)["coverage"] < 0.8


def test_increments_have_their_share_of_zeros() -> None:
    z = sparse.increments(0.1, 2000, 0).numpy()
    assert abs((z != 0.0).mean() - 0.1) < 0.005
    assert abs(np.var(z) - 0.2) < 0.02


def test_what_diverges_shows_no_figures() -> None:
    assert sparse._figures({"failed": 1.0}) == ["diverges", "", "", ""]
    far = {"coverage": 1.0, "error": 0.0, "gap": 3.0, "spread": 1e6}
    assert sparse._figures(far)[0] == "diverges"
