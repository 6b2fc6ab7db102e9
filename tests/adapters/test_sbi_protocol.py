"""Estimators with the protocol of sbi: names, attributes and calls; sbi is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from foreign import randn
from torch import Tensor, nn

from scoresde import VESDE, VPSDE, FlowSDE, Gaussian, ReverseSampler, SubVPSDE, load, save
from scoresde.adapters import OffsetFlowSDE, ScheduleSDE, from_sbi, to_sbi
from scoresde.sde import AffineSDE

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


class ConditionalScoreEstimator(nn.Module):
    """As that of sbi: estimator(theta, x, time) for theta: (B, 2) and x: (B, 2)."""

    input_shape: ClassVar = torch.Size([2])
    condition_shape: ClassVar = torch.Size([2])
    t_max: float = 1.0
    beta_min, beta_max, sigma_min, sigma_max = 0.01, 10.0, 1e-4, 10.0
    noise_scale = 1e-3
    compose_enabled = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(2, 2))

    def forward(self, theta: Tensor, x: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(theta @ self.weight + x + time[:, None])

    def mean_t_fn(self, times: Tensor) -> Tensor:
        return torch.exp(-times)[:, None]

    def std_fn(self, times: Tensor) -> Tensor:
        return (1 - torch.exp(-2 * times)).sqrt()[:, None]


class VPScoreEstimator(ConditionalScoreEstimator):
    pass


class SubVPScoreEstimator(ConditionalScoreEstimator):
    pass


class VEScoreEstimator(ConditionalScoreEstimator):
    pass


class Own(VPScoreEstimator):
    """A subclass, which may have another schedule than its base."""


class FlowMatchingEstimator(nn.Module):
    noise_scale = 1e-3
    t_max = 1.0
    input_shape = condition_shape = torch.Size([2])
    forward = ConditionalScoreEstimator.forward

    def __init__(self, noise_scale: float = 1e-3) -> None:
        super().__init__()
        self.weight, self.noise_scale = nn.Parameter(randn(2, 2)), noise_scale


@pytest.mark.parametrize(
    ("estimator", "sde"),
    [
        (VPScoreEstimator(), VPSDE(0.01, 10.0)),
        (SubVPScoreEstimator(), SubVPSDE(0.01, 10.0)),
        (VEScoreEstimator(), VESDE(1e-4, 10.0)),
        (FlowMatchingEstimator(), OffsetFlowSDE(1e-3)),
        (FlowMatchingEstimator(0.0), FlowSDE(T=1.0)),
    ],
)
def test_the_output_is_passed_on_under_its_schedule(estimator: Any, sde: AffineSDE) -> None:
    model, theta, x = from_sbi(estimator), randn(3, 2), randn(3, 2, seed=1)
    assert model.sde == sde
    time = torch.full((3,), 0.3, dtype=torch.float64)
    found = model(0.3, theta, {"x_o": x})
    read = found.flow if isinstance(estimator, FlowMatchingEstimator) else found.score
    torch.testing.assert_close(read, estimator(theta, x, time), **EXACT)


@pytest.mark.parametrize("estimator", [ConditionalScoreEstimator(), Own()])
def test_any_other_class_has_the_schedule_of_its_functions(estimator: Any) -> None:
    sde = from_sbi(estimator).sde
    assert isinstance(sde, ScheduleSDE)
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    torch.testing.assert_close(sde.alpha(t), torch.exp(-t), **EXACT)
    torch.testing.assert_close(sde.rate(t), -torch.ones_like(t), **EXACT)


def test_the_path_of_the_flow() -> None:
    """Its coefficients are those of automatic differentiation of alpha and sigma."""
    sde, auto = OffsetFlowSDE(0.05), ScheduleSDE(lambda t: (1 - t, t + 0.05), T=0.95)
    for t in (0.0, 0.2, 0.9):
        node, other = sde.at(t), auto.at(t)
        for name in ("alpha", "sigma", "log_snr", "rate", "g"):
            torch.testing.assert_close(getattr(node, name), getattr(other, name), **EXACT)
        assert abs(sde.time_of(sde.log_snr(t)) - t) < 1e-12
    assert sde.alpha(1.0) == 0.0 and sde.t_min == sde.t_end == 0.0
    data = Gaussian(torch.tensor([1.0, -2.0]).double(), torch.tensor(0.25).double())
    x = ReverseSampler(sde, data.under(sde), "dopri5").sample((4000, 2), seed=0)
    torch.testing.assert_close(x.mean(0), data.mean.to(x), rtol=0, atol=0.03)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.5).to(x), rtol=0, atol=0.02)
    with pytest.raises(ValueError, match=r"FlowSDE\(T=1\.0\)"):
        OffsetFlowSDE(0.0)


def test_an_estimator_is_saved_and_loaded(tmp_path: Path) -> None:
    model, theta, x = from_sbi(VPScoreEstimator()), randn(3, 2), randn(3, 2, seed=1)
    other = VPScoreEstimator()
    nn.init.zeros_(other.weight)
    again = load(save(model, tmp_path / "npse"), net=from_sbi(other).net)
    assert again.sde == model.sde
    expected = model.score(0.3, theta, {"x_o": x})
    assert torch.equal(again.score(0.3, theta, {"x_o": x}), expected)


def test_what_is_no_estimator() -> None:
    for path in ("npse.pkl", Path("npse.pkl")):
        with pytest.raises(TypeError, match=r"sbi writes pickles, which can run any code"):
            from_sbi(path)
    with pytest.raises(TypeError, match="flows and ratios have no score"):
        from_sbi(nn.Linear(2, 2))
    posterior = type("VectorFieldPosterior", (), {"vector_field_estimator": None})()
    with pytest.raises(TypeError, match=r"pass posterior\.vector_field_estimator"):
        from_sbi(posterior)
    with pytest.raises(ValueError, match="standardised: expected False for an estimator without"):
        from_sbi(VPScoreEstimator(), standardised=True)
    composed = VPScoreEstimator()
    composed.compose_enabled = True
    with pytest.raises(ValueError, match="standardised: expected True for an estimator with"):
        from_sbi(composed)
    assert from_sbi(composed, standardised=True).sde == VPSDE(0.01, 10.0)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sbi", None)
    model = from_sbi(VPScoreEstimator())
    prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(ImportError, match="pip install sbi"):
        to_sbi(ReverseSampler(model.sde, model, steps=3), prior)
