"""DDRM: the share of y in each singular direction, its limits, and its bias."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_problem import F64, KNOWN, OPERATORS, PRIOR, SDES, D, distance, randn
from torch import Tensor

from benchmarks.posteriors_problems import COUNT, SOLVER, make_problem, sliced_w1
from scoresde import VPSDE, FunctionScore, Gaussian, ReverseSampler, ScoreModel
from scoresde.measurement import (
    Blur,
    GaussianNoise,
    Linear,
    Mask,
    Measurement,
    PoissonNoise,
    gaussian_kernel,
)
from scoresde.node import Node
from scoresde.posterior import DDNM, DDRM, PiGDM
from scoresde.schedule.grid import log_snr
from scoresde.sde import AffineSDE

NAN = math.nan


def model(sde: AffineSDE = SDES[0]) -> ScoreModel:
    return PRIOR.under(sde)


def by_direction(
    node: Node, A: Tensor, x0: Tensor, y: Tensor, std: float, eta: float, eta_b: float
) -> Tensor:
    """The mean of the paper's update, direction by direction, by a dense decomposition."""
    left, s, right = torch.linalg.svd(A)
    out = x0 @ right.T
    for i, value in enumerate(s.tolist()):
        if value < 1e-10:
            continue
        ratio, error = node.sigma / node.alpha, std / value
        w = eta_b if ratio >= error else math.sqrt(1 - eta**2) * ratio / error
        out[:, i] += w * (y @ left[:, i] / value - out[:, i])
    return out @ right


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_each_singular_direction_moves_by_the_mean_of_the_papers_update(
    name: str, sde: AffineSDE
) -> None:
    operator = OPERATORS[name]
    A, x = operator.matrix((D,)), randn(3, D, seed=2)
    y = operator(randn(3, D, seed=3))
    y = y + 0.2 * randn(*y.shape, seed=4)
    own = DDRM(model(sde), Measurement(operator, None, 0.4), eta=0.6, eta_b=0.9)
    for level in (0.05, 0.3, 0.6, 3.0):  # sigma / alpha below, among and above 0.4 / s
        t = sde.time_of(-math.log(level))
        found, plain = own(t, x, {"y": y}).x0, model(sde)(t, x).x0
        wanted = by_direction(sde.at(t), A, plain, y.flatten(1), 0.4, 0.6, 0.9)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        batched = own(torch.full((3,), t, dtype=F64), x, {"y": y}).x0
        torch.testing.assert_close(batched, found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_without_noise_it_is_ddnm_and_with_infinite_noise_the_model(name: str) -> None:
    operator, x = OPERATORS[name], randn(3, D, seed=2)
    y = operator(randn(3, D, seed=3))
    for sde in SDES:
        for t in (0.0, sde.t_end, 0.3 * sde.T, sde.T):
            exact = DDRM(model(sde), Measurement(operator, None, 0.0))(t, x, {"y": y}).x0
            wanted = DDNM(model(sde), Measurement(operator, None, 0.0))(t, x, {"y": y}).x0
            torch.testing.assert_close(exact, wanted, rtol=1e-12, atol=1e-12)
            far = DDRM(model(sde), Measurement(operator, None, 1e18))(t, x, {"y": y}).x0
            torch.testing.assert_close(far, model(sde)(t, x).x0, rtol=1e-12, atol=1e-12)


def test_eta_of_1_takes_y_only_where_it_tells_more_than_the_state() -> None:
    sde, x, y = VPSDE(), randn(3, D, seed=2), randn(4, seed=3)
    own = DDRM(model(), Measurement(Mask(KNOWN), y, 0.5), eta=1.0)
    below, above = (sde.time_of(-math.log(level)) for level in (0.49, 0.51))
    torch.testing.assert_close(own(below, x).x0, model()(below, x).x0, rtol=0, atol=0)
    torch.testing.assert_close(own(above, x).x0[:, KNOWN], y.expand(3, 4), rtol=1e-12, atol=1e-12)


def test_a_sample_depends_on_nothing_of_its_mates_and_on_no_entry_that_is_missing() -> None:
    own = DDRM(model(), Measurement(Mask(KNOWN), None, 0.3))
    x, y = randn(3, D, seed=2), randn(3, 4, seed=3)
    y[1, 2] = NAN
    other, of_other = 9.0 * randn(3, D, seed=4), randn(3, 4, seed=5)
    other[1], of_other[1] = x[1], y[1]
    for t in (0.05, 0.4):
        found = own(t, x, {"y": y}).x0
        assert torch.equal(found[1], own(t, other, {"y": of_other}).x0[1])
        assert torch.equal(found[1, 2], model()(t, x).x0[1, 2])
        assert not torch.isclose(found[1, 1], model()(t, x).x0[1, 1])


def test_small_singular_values_lose_nothing_in_single_precision() -> None:
    """A Gaussian blur with singular values down to 1e-6, of which y / s is of size 1e5."""
    operator = Blur(gaussian_kernel(2.0, 1, cut=6.0))
    assert torch.linalg.svdvals(operator.matrix((32,))).min() < 1e-6
    prior = FunctionScore(VPSDE(), lambda t, x: -x)
    own = DDRM(prior, Measurement(operator, None, 0.1))
    x, y = randn(2, 32, seed=2), operator(randn(2, 32, seed=3)) + 0.1 * randn(2, 32, seed=4)
    for t in (0.02, 0.3):
        wide, single = (own(t, x.to(k), {"y": y.to(k)}).x0 for k in (F64, torch.float32))
        torch.testing.assert_close(single.double(), wide, rtol=1e-5, atol=1e-5)


# Bias: the figures of the docstring.


def posterior() -> tuple[Measurement, Gaussian]:
    """4 of 8 correlated entries with noise of 0.5, and what is known then."""
    A = torch.eye(D, dtype=F64)[KNOWN]
    y = PRIOR.sample(1, seed=5)[0, KNOWN] + 0.5 * randn(4, seed=7)
    return Measurement(Mask(KNOWN), y, 0.5), PRIOR.posterior(A, y, 0.5)


def chain(measurement: Measurement, steps: int) -> Tensor:
    """The chain of the paper, with its noise, for a mask and noise of 0.5: 8,000 samples."""
    sde, std, eta, y = VPSDE(), 0.5, 0.85, torch.zeros(D, dtype=F64)
    y[KNOWN] = measurement.y  # type: ignore[assignment]
    nodes = [sde.at(t) for t in log_snr(sde, steps).times]
    z = [randn(8000, D, seed=seed) for seed in range(steps + 1)]
    start = nodes[0].sigma / nodes[0].alpha
    x = torch.where(KNOWN, y + math.sqrt(start**2 - std**2) * z[0], start * z[0])
    for now, nxt, noise in zip(nodes, nodes[1:], z[1:], strict=False):
        x0 = model().predict(now, now.alpha * x).x0
        old, new = now.sigma / now.alpha, nxt.sigma / nxt.alpha
        fixed = math.sqrt(1 - eta**2) * new
        hidden = x0 + fixed * (x - x0) / old + eta * new * noise
        if new < std:
            seen = x0 + fixed * (y - x0) / std + eta * new * noise
        else:
            seen = y + math.sqrt(new**2 - std**2) * noise
        x = torch.where(KNOWN, seen, hidden)
    return model().predict(nodes[-1], nodes[-1].alpha * x).x0


@pytest.mark.parametrize(("solver", "figure"), [("ancestral", 0.19), ("ddim", 0.25)])
def test_the_bias_on_a_gaussian_is_the_one_stated(solver: str, figure: float) -> None:
    measurement, truth = posterior()
    sampler = ReverseSampler(VPSDE(), DDRM(model(), measurement), solver, steps=100)
    found = distance(sampler.sample((8000, D), seed=0, dtype=F64), truth)
    assert abs(found - figure) < 0.015
    assert 0.70 < distance(PRIOR.sample(8000, seed=1), truth) < 0.76
    assert distance(truth.sample(8000, seed=1), truth) < 0.02


def test_the_chain_of_the_paper_is_biased_as_stated() -> None:
    measurement, truth = posterior()
    assert abs(distance(chain(measurement, 100), truth) - 0.25) < 0.015


def test_the_bias_on_far_mixtures_is_the_one_stated() -> None:
    found: dict[str, list[float]] = {"DDRM": [], "PiGDM": [], "floor": []}
    for number in range(4):
        problem = make_problem(8, 2, number)
        exact, other = (problem.exact.sample(COUNT, seed=seed) for seed in (number, 100 + number))
        found["floor"].append(sliced_w1(other, exact))
        for method in (DDRM, PiGDM):
            own = method(problem.model, problem.measurement)
            sampler = ReverseSampler(problem.sde, own, SOLVER, steps=100)
            x = sampler.sample((COUNT, 8), seed=number, dtype=F64)
            found[method.__name__].append(sliced_w1(x, exact))
    means = {name: sum(values) / 4 for name, values in found.items()}
    assert abs(means["DDRM"] - 4.9) < 0.2 and abs(means["PiGDM"] - 3.2) < 0.2
    assert means["floor"] < 0.12


# What is refused.


def test_bad_input() -> None:
    y = randn(4)
    with pytest.raises(TypeError, match=r"known singular values, as DDRM needs.*MMPS, TMPD, DPS"):
        DDRM(model(), Measurement(Linear(lambda x: x.cumsum(1), shape=(D,)), randn(D), 0.1))
    with pytest.raises(TypeError, match=r"a LinearOperator, as DDRM needs.*DPS"):
        DDRM(model(), Measurement(lambda x: x.square(), randn(D), 0.1))
    with pytest.raises(TypeError, match=r"Gaussian noise, as DDRM needs"):
        DDRM(model(), Measurement(Mask(KNOWN), torch.ones(4), PoissonNoise()))
    for noise in (
        torch.full((4,), 0.1),
        GaussianNoise(covariance=torch.eye(4)),
    ):
        with pytest.raises(ValueError, match=r"noise: expected .* one standard deviation.* DDRM"):
            DDRM(model(), Measurement(Mask(KNOWN), y, noise))
    holes = Measurement(OPERATORS["blur"], torch.tensor([NAN, *[1.0] * 7]), 0.1)
    with pytest.raises(ValueError, match="y: expected no NaN with this operator for DDRM"):
        DDRM(model(), holes)
    own = DDRM(model(), Measurement(OPERATORS["blur"], None, 0.1))
    with pytest.raises(ValueError, match="y: expected no NaN with this operator for DDRM"):
        ReverseSampler(VPSDE(), own, steps=2).sample(
            (2, D), seed=0, cond={"y": torch.full((2, D), NAN)}
        )
    for name in ("eta", "eta_b"):
        for value in (-0.1, 1.1):
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                DDRM(model(), Measurement(Mask(KNOWN), y, 0.1), **{name: value})
