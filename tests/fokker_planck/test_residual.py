"""The equation of the score, and the example."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from equations import DOUBLE, TILTED, VP, double, well
from registry import ALL_SDES
from torch import Tensor

from scoresde import FunctionScore, GaussianMixture, Preconditioned
from scoresde.fokker_planck import score_fpe_residual
from scoresde.nets import MLP

# The score's own equation


@pytest.mark.parametrize("name", sorted(ALL_SDES))
def test_exact_scores_satisfy_the_equation_of_the_score(name: str) -> None:
    sde = ALL_SDES[name]
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    for share in (0.05, 0.3, 0.8):
        t, oracle = share * sde.T, TILTED.under(sde)
        state = x * sde.sigma(t) + sde.alpha(t)
        residual = score_fpe_residual(oracle, t, state)
        scale = max(1.0, float(oracle.score(t, state).abs().max()) ** 3)
        assert residual.shape == x.shape and residual.abs().max() < 1e-8 * scale


def test_a_score_that_is_wrong_by_one_per_cent_is_seen() -> None:
    """For s = -c x under VP the residual is -beta c (c - 1) x, in closed form."""
    x = torch.linspace(-2, 2, 5, dtype=DOUBLE)[:, None].expand(5, 3)
    t = torch.linspace(0.1, 0.9, 5, dtype=DOUBLE)
    for c in (1.0, 1.01, 0.5):
        model = FunctionScore(VP, lambda t, x, c=c: -c * x)
        exact = -VP.beta(t)[:, None] * c * (c - 1) * x
        assert torch.allclose(score_fpe_residual(model, t, x), exact, rtol=1e-10, atol=1e-12)
    late = FunctionScore(VP, lambda t, x: -(1 + t) * x)  # ds/dt = -x beside it
    exact = -x - VP.beta(t)[:, None] * ((1 + t) * t)[:, None] * x
    assert torch.allclose(score_fpe_residual(late, t, x), exact, rtol=1e-10)


def test_the_residual_of_a_drift_of_the_users_own() -> None:
    """The score -2 U'/g^2 of the settled double well; div f and its gradient are not constant."""
    x = torch.linspace(-2, 2, 21, dtype=DOUBLE)[:, None]
    exact = FunctionScore(well(0.7), lambda t, x: 2 * (4 * x - 4 * x**3) / 0.7**2)
    wrong = FunctionScore(well(0.75), lambda t, x: 2.02 * (4 * x - 4 * x**3) / 0.7**2)
    assert score_fpe_residual(exact, 1.0, x).abs().max() < 1e-9
    assert score_fpe_residual(wrong, 1.0, x).abs().max() > 1.0


def test_hutchinson_probes_are_exact_in_one_dimension_and_unbiased_beyond() -> None:
    x = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    bend = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    def score(t: Tensor, x: Tensor) -> Tensor:
        return torch.sin(x.flatten(1) @ bend).reshape(x.shape) * (1 + t)

    def estimate(model: FunctionScore, x: Tensor, probes: int, seed: int = 0) -> Tensor:
        return score_fpe_residual(model, 0.4, x, divergence="hutchinson", probes=probes, seed=seed)

    model = FunctionScore(VP, score)
    line = FunctionScore(well(), lambda t, x: torch.sin(3 * x) - x)
    flat = x.reshape(-1, 1)
    exact = score_fpe_residual(line, 0.4, flat)
    assert torch.allclose(estimate(line, flat, 1), exact, rtol=1e-12)
    exact = score_fpe_residual(model, 0.4, x)
    draws = torch.stack([estimate(model, x, 1, seed) for seed in range(400)])
    spread = draws.std(0)
    assert ((draws.mean(0) - exact).abs() < 4.5 * spread / 20).all()
    assert spread.max() > 0.1
    many = torch.stack([estimate(model, x, 16, seed) for seed in range(40)])
    assert 0.18 < float((many.std(0) / spread).mean()) < 0.32  # 1 / sqrt(16)
    assert torch.equal(estimate(model, x, 2, 7), estimate(model, x, 2, 7))
    assert torch.allclose(estimate(model, x[:3], 2, 7), estimate(model, x, 2, 7)[:3])


def test_the_residual_can_be_trained_on() -> None:
    torch.manual_seed(0)
    model = Preconditioned(MLP(2), VP)
    for parameter in model.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(8, 2, requires_grad=True)
    residual = score_fpe_residual(model, 0.5, x, create_graph=True)
    residual.square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0
    assert not score_fpe_residual(model, 0.5, x).requires_grad and x.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": lambda t, x: -x}, "model: expected a ScoreModel"),
        ({"divergence": "hutch"}, "did you mean 'hutchinson'"),
        ({"probes": 0, "divergence": "hutchinson"}, "probes"),
        ({"seed": -1, "divergence": "hutchinson"}, "seed"),
        ({"x": torch.zeros(3)}, "x: expected a non-empty batch"),
        ({"x": torch.zeros(3, 1, dtype=torch.long)}, "x: expected a floating"),
        ({"t": torch.ones(2)}, r"t: expected a float, \(\) or \(3,\)"),
        ({"t": 1.5}, r"t: expected a time in \[0, 1\]"),
        ({"t": "noon"}, "t: expected"),
        ({"t": 0.0}, "NaN or infinity|determine"),
    ],
)
def test_bad_input_of_the_residual(change: dict[str, Any], message: str) -> None:
    sharp = GaussianMixture(double([0.0]), double(0.0))
    given: dict[str, Any] = {"model": sharp.under(VP), "t": 0.5, "x": double([0.1], [0.2], [0.3])}
    given |= change
    with pytest.raises((ValueError, TypeError), match=message):
        score_fpe_residual(**given)


# The example


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples/fokker_planck_1d.py"
    spec = importlib.util.spec_from_file_location("fokker_planck_1d", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numbers_of_the_example(example: ModuleType) -> None:
    _, errors = example.noised(cells=200)
    assert errors.keys() == {0.1, 0.5, 1.0} and max(errors.values()) < 2e-3
    assert example.generated(1.0, cells=200) < 7e-3
    assert example.generated(0.0, cells=200) < 1.2e-2
    assert example.generated(0.0, cells=200, wrong=1.05) > 0.15
    _, error, rate, kramers = example.resolve(cells=120)
    assert error < 1e-6 and 0.9 < rate / kramers < 1
