"""The closed forms that the benchmarks of conditions and of spectra compare with."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.conditional import NOISE, PROBLEMS, Problem
from benchmarks.spectra import Field, Signal


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_the_conditional_is_that_of_the_joint_precision(problem: Problem) -> None:
    """The block of x in the precision of (x, y), with the missing entries of y left out."""
    s, a = problem.parameters()
    y = problem.draw(1, 3)[1][0]
    here = ~y.isnan()
    a, seen = a[here], y[here]
    joint = torch.cat(
        [
            torch.cat([s, s @ a.T], 1),
            torch.cat([a @ s, a @ s @ a.T + NOISE**2 * torch.eye(len(a)).double()], 1),
        ]
    )
    precision = torch.linalg.inv(joint)
    d = problem.dim
    covariance = torch.linalg.inv(precision[:d, :d])
    mean = -covariance @ precision[:d, d:] @ seen
    found = problem.moments(y)
    torch.testing.assert_close(found, (mean, covariance), rtol=1e-10, atol=1e-12)


def test_pairs_have_the_moments_that_the_conditional_is_made_of() -> None:
    problem = PROBLEMS[0]
    s, a = problem.parameters()
    x, y = problem.draw(400_000, 0)
    torch.testing.assert_close(x.T.cov(), s, atol=0.01, rtol=0.01)
    cross = x.T @ y / len(x)
    torch.testing.assert_close(cross, s @ a.T, atol=0.01, rtol=0.01)
    noise = float((y - x @ a.T).std())
    assert noise == pytest.approx(NOISE, rel=0.01)


def test_entries_are_missing_at_the_stated_share() -> None:
    y = PROBLEMS[2].draw(20_000, 0)[1]
    assert float(y.isnan().double().mean()) == pytest.approx(0.3, abs=0.01)


def test_the_covariance_of_the_signal_is_that_of_its_recursion() -> None:
    """Yule and Walker: c_k = a c_{k-1} + b c_{k-2} for k >= 1, with c_{-1} = c_1."""
    law = Signal(radius=0.8, angle=0.8)
    c = law.covariance[0]
    a, b = 1.6 * math.cos(0.8), -0.64
    assert c[0] == 1.0
    assert c[1] == pytest.approx(float(a * c[0] + b * c[1]), abs=1e-12)
    torch.testing.assert_close(c[2:], a * c[1:-1] + b * c[:-2], atol=1e-12, rtol=0)


def test_the_expected_periodogram_of_the_signal_is_the_sum_over_lags() -> None:
    """E |X_k|^2 / N = sum over lags of (1 - |m| / N) c_m cos(2 pi k m / N)."""
    law = Signal(16)
    lags = torch.arange(-15, 16).double()
    weight = (1 - lags.abs() / 16) * law.covariance[0][lags.abs().long()]
    k = torch.arange(16).double()[:, None]
    exact = (weight * torch.cos(2 * math.pi * k * lags / 16)).sum(1)
    torch.testing.assert_close(law.expected, exact, atol=1e-12, rtol=0)


def test_the_field_is_the_gaussian_of_its_circulant_covariance() -> None:
    law = Field(4)
    unit = torch.eye(64, dtype=torch.float64).reshape(64, 1, 4, 4, 4)
    modes = torch.fft.fftn(unit, dim=(2, 3, 4)) * law.expected
    covariance = torch.fft.ifftn(modes, dim=(2, 3, 4)).real.reshape(64, 64)
    assert covariance.diagonal() == pytest.approx(1.0, abs=1e-12)
    noisy = covariance + 0.3**2 * torch.eye(64).double()
    exact = torch.distributions.MultivariateNormal(torch.zeros(64).double(), noisy)
    x = law.draw(5, 0)
    torch.testing.assert_close(law.log_prob(x, 0.3), exact.log_prob(x.flatten(1)))
    assert law.entropy(0.3) == pytest.approx(float(exact.entropy()), rel=1e-12)
    assert float((law.draw(20_000, 1).flatten(1).T.cov() - covariance).abs().max()) < 0.05


@pytest.mark.parametrize("law", [Signal(), Field(8)], ids=lambda law: law.name)
def test_exact_samples_are_within_their_error_in_every_band(law: Signal | Field) -> None:
    """And twice the samples have four times the power in every band."""
    x = law.draw(2000, 0)
    assert law.bands(x) == pytest.approx([1.0] * len(law.bands(x)), abs=0.05)
    assert law.bands(2 * x) == pytest.approx([4 * b for b in law.bands(x)])
