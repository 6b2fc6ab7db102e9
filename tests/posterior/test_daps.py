"""DAPS: exact on isotropic Gaussian data, its bias on others, seeds, calls and errors."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_problem import KNOWN, OPERATORS, PRIOR, SDES, D, distance, randn
from torch import Tensor

from benchmarks.posteriors_problems import COUNT, F64, make_problem, sliced_w1
from scoresde import (
    SDE,
    VPSDE,
    FunctionScore,
    Gaussian,
    ScoreModel,
)
from scoresde.cond import Cond
from scoresde.conditioned import Conditioned
from scoresde.measurement import Identity, LogLikelihood, Mask, Measurement, PoissonNoise
from scoresde.node import Node
from scoresde.posterior import DAPS
from scoresde.prediction import Prediction
from scoresde.schedule import restart
from scoresde.schedule.grid import log_snr
from scoresde.sde import AffineSDE

STD = 0.5
ISOTROPIC = Gaussian(0.3 * randn(D, seed=1), torch.tensor(0.7, dtype=F64))
Y = PRIOR.sample(1, seed=5)[0, KNOWN] + STD * randn(4, seed=7)
NAN = math.nan


def masked(y: Tensor | None = Y) -> Measurement:
    return Measurement(Mask(KNOWN), y, STD)


def each_alone(y: Tensor | None = Y) -> Measurement:
    """The same measurement with a standard deviation for each number, for draws by a solve."""
    return Measurement(Mask(KNOWN), y, torch.full((4,), STD, dtype=F64))


def by_likelihood(y: Tensor | None = Y) -> Measurement:
    """The same measurement as a function with a log-likelihood, for Langevin chains."""

    def log_p(x0: Tensor, y: Tensor) -> Tensor:
        return -0.5 * ((y - x0[:, KNOWN]) / STD).square().sum(1)

    return Measurement(lambda x0: x0[:, KNOWN], y, LogLikelihood(log_p))


def truth(prior: Gaussian) -> Gaussian:
    found = prior.posterior(torch.eye(D, dtype=F64)[KNOWN], Y, STD)
    return Gaussian(found.mean, found.mixture.full_covariances()[0])


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("kind", [masked, each_alone, by_likelihood])
def test_it_is_exact_for_isotropic_gaussian_data(sde: AffineSDE, kind: object) -> None:
    """Within the error of 4,000 samples, with 8 steps; r^2 is the variance of p(x_0 | x_t)."""
    sampler = DAPS(ISOTROPIC.under(sde), kind(), steps=8, variance=0.7)  # type: ignore[operator]
    x, exact = sampler.sample((4000, D), seed=0, dtype=F64), truth(ISOTROPIC)
    spread = exact.covariance.diagonal().sqrt()
    assert float(((x.mean(0) - exact.mean) / spread).abs().max()) < 4 / math.sqrt(4000)
    assert float((x.std(0) / spread - 1).abs().max()) < 4 / math.sqrt(8000)
    assert distance(x, exact) < 0.03


# Bias: the figures of the docstring.


@pytest.mark.parametrize(
    ("steps", "ode_steps", "figure"),
    [(20, 1, 0.14), (100, 1, 0.05), (400, 1, 0.02), (100, 5, 0.14)],
)
def test_the_bias_on_a_correlated_gaussian_is_the_one_stated(
    steps: int, ode_steps: int, figure: float
) -> None:
    sampler = DAPS(PRIOR.under(VPSDE()), masked(), steps=steps, ode_steps=ode_steps)
    found = distance(sampler.sample((8000, D), seed=0, dtype=F64), truth(PRIOR))
    assert abs(found - figure) < 0.01
    assert distance(truth(PRIOR).sample(8000, seed=1), truth(PRIOR)) < 0.02


def test_the_bias_on_far_mixtures_is_the_one_stated() -> None:
    found, floor = [], []
    for number in range(4):
        problem = make_problem(8, 2, number)
        exact, other = (problem.exact.sample(COUNT, seed=seed) for seed in (number, 100 + number))
        sampler = DAPS(problem.model, problem.measurement, steps=100)
        x = sampler.sample((COUNT, 8), seed=number, dtype=F64)
        found.append(sliced_w1(x, exact))
        floor.append(sliced_w1(other, exact))
    assert abs(sum(found) / 4 - 2.5) < 0.2 and sum(floor) / 4 < 0.12


# Seeds, batches, calls.


@pytest.mark.parametrize("kind", [masked, by_likelihood])
def test_samples_depend_on_seed_and_number_alone(kind: object) -> None:
    sampler = DAPS(PRIOR.under(VPSDE()), kind(None), steps=5, langevin_steps=5)  # type: ignore[operator]
    y = Y.repeat(7, 1) + torch.arange(7)[:, None]
    whole = sampler.sample((7, D), seed=1, cond={"y": y}, dtype=F64)
    again = sampler.sample((7, D), seed=1, cond={"y": y}, dtype=F64, batch_size=3)
    torch.testing.assert_close(whole, again, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole, sampler.sample((7, D), seed=2, cond={"y": y}, dtype=F64))
    other = 3.0 * y
    other[2] = y[2]
    if kind is masked:
        other[1, 0] = NAN
    mates = sampler.sample((7, D), seed=1, cond={"y": other}, dtype=F64)
    assert torch.equal(mates[2], whole[2]) and not torch.allclose(mates[3], whole[3])
    assert sampler.sample((2, D), seed=1, cond={"y": y[:2]}).dtype == torch.float32


class Counted(ScoreModel):
    """The model of PRIOR, with a condition, that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = PRIOR.under(VPSDE())
        self.sde = self.inner.sde
        self.made = 0

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.inner.data_scale

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        self.made += 1
        assert cond is not None and set(cond) == {"shift"}
        return self.inner.predict(node, x - cond["shift"])


@pytest.mark.parametrize(("ode_steps", "calls"), [(1, 7), (3, 19)])
def test_calls_are_those_of_the_nodes_and_conditions_reach_the_model(
    ode_steps: int, calls: int
) -> None:
    model = Counted()
    sampler = DAPS(model, masked(), steps=6, ode_steps=ode_steps)
    sampler.sample((2, D), seed=0, cond={"shift": torch.zeros(2, 1)})
    assert model.made == calls
    fixed = Conditioned(model, {"shift": torch.zeros(1)})
    DAPS(fixed, masked(), steps=6).sample((2, D), seed=0)


def test_it_takes_counts_of_a_function_and_half_of_a_measurement() -> None:
    positive = Measurement(lambda x0: x0.square() + 0.1, torch.ones(D), PoissonNoise())
    for measurement in (
        positive,
        Measurement(OPERATORS["blur"], torch.tensor([NAN, *[1.0] * 7]), 1.0),
    ):
        x = DAPS(PRIOR.under(VPSDE()), measurement, steps=5).sample((3, D), seed=0)
        assert bool(x.isfinite().all())


# What is refused.


def test_bad_input() -> None:
    prior = PRIOR.under(VPSDE())
    with pytest.raises(TypeError, match="measurement"):
        DAPS(prior, Y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise: expected variances above 0, since DAPS divides"):
        DAPS(prior, Measurement(Identity(), randn(D), 0.0))
    free = SDE(lambda t, x: x - x**3, lambda t: 0.5)
    with pytest.raises(TypeError, match=r"model\.sde"):
        DAPS(FunctionScore(free, lambda t, x: -x), masked())
    bare = FunctionScore(VPSDE(), lambda t, x: -x)
    with pytest.raises(ValueError, match="variance: expected a model that knows its data"):
        DAPS(bare, masked())
    for name in ("steps", "ode_steps", "langevin_steps", "variance", "tol", "max_iter"):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            DAPS(prior, masked(), **{name: 0})
    main = log_snr(VPSDE(), 8)
    with pytest.raises(ValueError, match="grid: expected one segment"):
        DAPS(prior, masked(), grid=restart(VPSDE(), main, t_min=0.1, t_max=0.5))
    with pytest.raises(ValueError, match=r"y: expected shape \(3, 4\)"):
        DAPS(prior, masked(None), steps=2).sample((3, D), seed=0, cond={"y": randn(3, 5)})
    with pytest.raises(ValueError, match="cond: expected the measurement 'y'"):
        DAPS(prior, masked(None), steps=2).sample((3, D), seed=0)


def test_what_is_not_finite_is_named_by_step_and_time() -> None:
    broken = FunctionScore(VPSDE(), lambda t, x: -x / (1.0 if t > 0.1 else 0.0))
    sampler = DAPS(broken, masked(), variance=1.0, grid=[1.0, 0.5, 0.1, 0.01])
    with pytest.raises(ValueError, match=r"model: expected finite scores at step 2, t = 0\.1"):
        sampler.sample((3, D), seed=0)
    wrong = Measurement(
        lambda x0: x0, torch.zeros(D), LogLikelihood(lambda x0, y: x0.log().sum(1))
    )
    with pytest.raises(ValueError, match="measurement: expected a finite log-likelihood"):
        DAPS(PRIOR.under(VPSDE()), wrong, steps=3).sample((3, D), seed=0)


def test_steps_that_are_too_short_are_warned_of() -> None:
    def narrow(x0: Tensor, y: Tensor) -> Tensor:
        return -0.5 * (x0.sum(1) / 1e-5).square()

    sharp = Measurement(lambda x0: x0, torch.zeros(D), LogLikelihood(narrow))
    sampler = DAPS(PRIOR.under(VPSDE()), sharp, steps=3)
    with pytest.warns(UserWarning, match="the Langevin steps of 20 of 20 samples"):
        sampler.sample((20, D), seed=0, dtype=F64)
