"""Exact transport and kernel statistics: closed forms, whole sample spaces, other libraries."""

import itertools
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from shared import near, normal
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from scoresde.metrics import (
    Estimate,
    energy_distance,
    frechet_distance,
    kernel_distance,
    median_bandwidth,
    mmd,
    nearest_distance,
    prdc,
    sliced_wasserstein,
    wasserstein,
)

# Exact Wasserstein distance


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dim", [1, 3, 20])
def test_a_translation_is_the_distance_it_moves(order: int, dim: int) -> None:
    points, shift = 3 * normal(80, dim), normal(dim, seed=9)
    found = wasserstein(points, points + shift, order=order)
    assert found == pytest.approx(float(shift.norm()), rel=1e-12)


def test_between_gaussians_it_is_the_closed_form() -> None:
    """x -> m + A x with A positive definite is the optimal map: the gradient of a convex function.

    The distance between Gaussians of the two sets' own moments (n in the denominator) is then
    the distance between the sets.
    """
    a, root = normal(90, 4, seed=1), normal(4, 4, seed=2)
    b = a @ (root @ root.T + torch.eye(4).double()) + normal(4, seed=3)
    cost = (a - b).square().sum(dim=1).mean()
    assert wasserstein(a, b) ** 2 == pytest.approx(float(cost), rel=1e-12)
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum().item()
    gaussian = shift + (frechet_distance(a, b) - shift) * 89 / 90
    assert wasserstein(a, b) ** 2 == pytest.approx(gaussian, rel=1e-10)


@pytest.mark.parametrize("order", [1, 2])
def test_it_is_the_best_assignment_of_scipy(order: int) -> None:
    a, b = normal(70, 5, seed=1), 2 * normal(70, 5, seed=2)
    cost = torch.cdist(a, b).numpy() ** order
    expected = cost[linear_sum_assignment(cost)].mean() ** (1 / order)
    assert wasserstein(a, b, order=order) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 7), (12, 5)])
def test_unequal_sizes_on_a_line(n: int, m: int) -> None:
    a, b = normal(n, 1, seed=1), 3 * normal(m, 1, seed=2)
    expected = scipy.stats.wasserstein_distance(a[:, 0], b[:, 0])
    assert wasserstein(a, b, order=1) == pytest.approx(expected, rel=1e-12)
    sliced = sliced_wasserstein(a, b, projections=1)
    assert wasserstein(a, b) == pytest.approx(sliced, rel=1e-12)


# Kernel statistics: the whole sample space of a law on two or three points


def expectation(statistic: Callable[[Tensor, Tensor], float], p: list[float], q: list[float]):
    """Exact mean of a statistic over all samples of 4 points of p and 4 of q, laws on a line."""
    support = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)[: len(p), None]
    total = 0.0
    for i in itertools.product(range(len(p)), repeat=4):
        for j in itertools.product(range(len(q)), repeat=4):
            weight = math.prod(p[k] for k in i) * math.prod(q[k] for k in j)
            total += weight * statistic(support[list(i)], support[list(j)])
    return total


KERNELS: dict[str, tuple[Callable[[Tensor, Tensor], float], Callable[[Any, Any], Any]]] = {
    "mmd": (
        lambda a, b: mmd(a, b, bandwidth=0.8).value,
        lambda x, y: np.exp(-((x - y) ** 2) / (2 * 0.8**2)),
    ),
    "mixture": (
        lambda a, b: mmd(a, b, bandwidth=(0.5, 2.0)).value,
        lambda x, y: (np.exp(-((x - y) ** 2) / 0.5) + np.exp(-((x - y) ** 2) / 8)) / 2,
    ),
    "energy": (lambda a, b: energy_distance(a, b).value, lambda x, y: -np.abs(x - y)),
    "kernel": (
        lambda a, b: kernel_distance(a, b, subsets=1).mean,
        lambda x, y: (x * y + 1) ** 3,
    ),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("q", [[0.6, 0.4], [0.3, 0.7]], ids=["different", "equal"])
def test_kernel_statistics_are_unbiased_over_the_whole_sample_space(
    name: str, q: list[float]
) -> None:
    statistic, kernel = KERNELS[name]
    p, support = [0.3, 0.7], np.array([0.0, 1.0])
    gap = np.array(p) - np.array(q)
    truth = gap @ kernel(support[:, None], support[None]) @ gap
    assert expectation(statistic, p, q) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_mmd_of_gaussians_has_its_closed_form(dim: int) -> None:
    """E k = (h^2 / v)^(D/2) exp(-|m|^2 / (2 v)), v = h^2 + both variances."""
    h, s_a, s_b, shift = 1.3, 1.0, 1.7, torch.full((dim,), 0.5).double()

    def mean(variance: float, square: float) -> float:
        v = h**2 + variance
        return (h**2 / v) ** (dim / 2) * math.exp(-square / (2 * v))

    truth = mean(2 * s_a**2, 0) + mean(2 * s_b**2, 0)
    truth -= 2 * mean(s_a**2 + s_b**2, float(shift.square().sum()))
    draws = (
        (s_a * normal(60, dim, seed=i), shift + s_b * normal(80, dim, seed=1000 + i))
        for i in range(200)
    )
    assert near(torch.tensor([mmd(a, b, bandwidth=h).value for a, b in draws]), truth)


def test_energy_distance_of_gaussians_on_a_line_has_its_closed_form() -> None:
    def folded(shift: float, variance: float) -> float:
        spread = math.sqrt(2 * variance / math.pi) * math.exp(-(shift**2) / (2 * variance))
        return spread + shift * math.erf(shift / math.sqrt(2 * variance))

    truth = 2 * folded(0.7, 1 + 4) - folded(0, 2) - folded(0, 8)
    draws = ((normal(60, 1, seed=i), 0.7 + 2 * normal(50, 1, seed=1000 + i)) for i in range(200))
    assert near(torch.tensor([energy_distance(a, b).value for a, b in draws]), truth)


def test_energy_distance_is_twice_scipys_square_on_a_line() -> None:
    """scipy's is the biased V-statistic: with |x_i - x_i| = 0 among the pairs."""
    a, b = normal(30, 1, seed=1), 2 * normal(40, 1, seed=2)
    inside = [float(torch.cdist(x, x).sum()) / len(x) for x in (a, b)]
    correction = sum(
        total / (len(x) - 1) - total / len(x) for x, total in zip((a, b), inside, strict=True)
    )
    biased = energy_distance(a, b).value + correction
    assert biased == pytest.approx(scipy.stats.energy_distance(a[:, 0], b[:, 0]) ** 2, rel=1e-10)


def mmd_fixed(a: Tensor, b: Tensor) -> Estimate:
    return mmd(a, b, bandwidth=1.5)


@pytest.mark.parametrize("statistic", [mmd_fixed, energy_distance])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_standard_errors_are_those_of_repetitions(
    statistic: Callable[[Tensor, Tensor], Estimate], shift: float
) -> None:
    """With shift 0 the first-order terms vanish, and only `null_std` is exact."""
    found = [
        statistic(normal(30, 2, seed=i), shift + normal(45, 2, seed=5000 + i)) for i in range(600)
    ]
    values = torch.tensor([estimate.value for estimate in found])
    claimed, null = (
        float(torch.tensor([getattr(estimate, name) for estimate in found]).square().mean())
        / float(values.var())
        for name in ("std_error", "null_std")
    )
    if shift == 0:
        assert near(values, 0)
        assert null == pytest.approx(1, abs=0.15)
        assert 1 < claimed < 1.8
    else:
        assert claimed == pytest.approx(1, abs=0.15)
        assert null < claimed


def test_standard_errors_are_in_the_unit_of_the_value() -> None:
    """The energy distance is a length, so ten times the points give ten times all three."""
    a, b = normal(30, 2, seed=1), 0.5 + normal(45, 2, seed=2)
    one, ten = energy_distance(a, b), energy_distance(10 * a, 10 * b)
    for name in ("value", "std_error", "null_std"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name), rel=1e-9)


def test_blocks_of_rows_add_up_to_the_whole_matrix() -> None:
    """2,100 x 2,000 pairs are two blocks; the sums are those of one matrix."""
    a, b = normal(2100, 2, seed=1), 0.1 + normal(2000, 2, seed=2)
    k_aa, k_bb, k_ab = (
        (torch.cdist(x, y).square() / -2).exp() for x, y in ((a, a), (b, b), (a, b))
    )
    expected = 2 * torch.triu(k_aa, 1).sum() / (2100 * 2099)
    expected += 2 * torch.triu(k_bb, 1).sum() / (2000 * 1999) - 2 * k_ab.mean()
    assert mmd(a, b, bandwidth=1.0).value == pytest.approx(float(expected), rel=1e-8)


def test_far_from_the_origin_no_digits_are_lost() -> None:
    a, b = normal(40, 3, seed=1), 0.5 + normal(40, 3, seed=2)
    for statistic in (mmd_fixed, energy_distance):
        here, there = statistic(a, b), statistic(a + 1e6, b + 1e6)
        assert there.value == pytest.approx(here.value, rel=1e-6)


def test_the_median_bandwidth_is_the_median_of_all_pairs() -> None:
    a, b = normal(30, 3, seed=1), normal(21, 3, seed=2)
    pooled = torch.cat([a, b])
    i, j = torch.triu_indices(51, 51, 1)
    expected = np.median((pooled[i] - pooled[j]).norm(dim=1).numpy())
    assert median_bandwidth(a, b) == pytest.approx(expected, rel=1e-12)
    assert mmd(a, b) == mmd(a, b, bandwidth=median_bandwidth(a, b))
    some = median_bandwidth(a, b, points=25)
    assert some == median_bandwidth(a, b, points=25) != expected


# Kernel distance


class Flat(torch.nn.Module):
    num_features = 5

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_kernel_distance_is_that_of_torchmetrics() -> None:
    a, b = normal(40, 5, seed=1), 1.2 * normal(40, 5, seed=2) + 0.3
    judge = KernelInceptionDistance(Flat(), subsets=2, subset_size=40, degree=2, coef=0.5)
    judge.update(a, real=False)
    judge.update(b, real=True)
    mean, std = judge.compute()
    found = kernel_distance(a, b, subsets=2, degree=2, coef=0.5)
    assert found.mean == pytest.approx(float(mean), rel=1e-5)  # torchmetrics reduces in float32
    assert found.std < 1e-12 and float(std) < 1e-5
    assert (found.size, found.subsets) == (40, 2)


def test_subsets_of_any_size_have_the_same_mean() -> None:
    a, b = normal(200, 3, seed=1), 0.5 + normal(150, 3, seed=2)
    whole = kernel_distance(a[:150], b, subsets=1).mean
    small = kernel_distance(a, b, subsets=400, subset_size=20, seed=1)
    assert abs(small.mean - whole) < 0.15 * whole < small.std
    assert small == kernel_distance(a, b, subsets=400, subset_size=20, seed=1)
    assert small != kernel_distance(a, b, subsets=400, subset_size=20, seed=2)


# Every measure


INVARIANT: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "wasserstein": wasserstein,
    "sliced_wasserstein": sliced_wasserstein,
    "mmd": lambda a, b: (mmd(a, b).value, mmd(a, b).std_error),
    "energy": lambda a, b: energy_distance(a, b).value,
    "kernel": lambda a, b: kernel_distance(a, b, subsets=1, subset_size=12).mean,
    "frechet": frechet_distance,
    "prdc": lambda a, b: prdc(a, b, k=3).density,
    "nearest": lambda a, b: float(nearest_distance(a, b).mean()),
}


@given(seed=st.integers(0, 1000), name=st.sampled_from(sorted(INVARIANT)))
def test_the_order_of_points_does_not_matter(seed: int, name: str) -> None:
    measure, generator = INVARIANT[name], torch.Generator().manual_seed(seed)
    a, b = normal(12, 3, seed=seed), 1 + normal(12, 3, seed=seed + 5000)
    mixed = [x[torch.randperm(12, generator=generator)] for x in (a, b)]
    assert measure(*mixed) == pytest.approx(measure(a, b), rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 1000), name=st.sampled_from(["wasserstein", "mmd", "energy", "kernel"]))
def test_two_sets_are_as_far_as_the_other_way_round(seed: int, name: str) -> None:
    measure = INVARIANT[name]
    a, b = normal(12, 3, seed=seed), 1 + normal(14, 3, seed=seed + 5000)
    if name == "kernel":
        b = b[:12]
    assert measure(a, b) == pytest.approx(measure(b, a), rel=1e-9, abs=1e-12)


X = normal(6, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wasserstein(X, X, order=3), ["order", "1 or 2", "got 3"]),
        (lambda: wasserstein(X, X, limit=5), ["a:", "limit = 5", "(6, 2)", "sliced_wasserstein"]),
        (lambda: wasserstein(X[:2], X, limit=5), ["b:", "limit = 5"]),
        (lambda: mmd(X[:3], X), ["a:", "N >= 4", "(3, 2)"]),
        (lambda: mmd(X, X, bandwidth=0.0), ["bandwidth", "> 0", "got 0.0"]),
        (lambda: mmd(X, X, bandwidth=()), ["bandwidth", "at least one", "None"]),
        (lambda: mmd(0 * X, 0 * X), ["a, b", "points that differ", "bandwidth"]),
        (lambda: energy_distance(X, X[:, :1]), ["b:", "(6, 1)", "2 coordinates"]),
        (lambda: energy_distance(X, X / 0), ["b:", "infinity", "first row 0"]),
        (lambda: kernel_distance(X, X, subset_size=7), ["subset_size", "2 to 6", "got 7"]),
        (lambda: kernel_distance(X, X, gamma=-1.0), ["gamma", "> 0", "-1.0"]),
        (lambda: kernel_distance(X, X, subsets=0), ["subsets", "got 0"]),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[], Any], words: list[str]
) -> None:
    first, *more = words
    with pytest.raises(ValueError, match=re.escape(first)) as caught:
        call()
    for word in more:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("module", "call"),
    [("ot", lambda: wasserstein(X, X)), ("torchmetrics.image.kid", lambda: kernel_distance(X, X))],
)
def test_a_missing_library_says_what_to_install(
    module: str, call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[data\]'"):
        call()
