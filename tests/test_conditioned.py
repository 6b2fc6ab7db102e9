"""A model with fixed conditions is the model that is given them for every sample."""

import math

import pytest
import torch

from scoresde import VPSDE, FunctionScore, Preconditioned, ReverseSampler, ReverseSDE, calibrate
from scoresde.analytic_start import AnalyticStart
from scoresde.conditioned import Conditioned
from scoresde.nets import MLP, Vector


def model() -> Preconditioned:
    torch.manual_seed(0)
    net = MLP(2, width=8, classes=3, conditions={"y": Vector(2)})
    for parameter in net.parameters():  # the last layer may start at 0
        torch.nn.init.normal_(parameter, std=0.3)
    return Preconditioned(net, VPSDE()).eval()


def test_it_is_the_model_with_the_condition_of_every_sample() -> None:
    inner, x, y = model(), torch.randn(5, 2), torch.tensor([1.0, math.nan])
    label = torch.tensor([0, 1, 2, 0, 1])
    outer = Conditioned(inner, {"y": y})
    whole = {"label": label, "y": y.expand(5, 2)}
    t = torch.rand(5).clamp(min=0.1)
    torch.testing.assert_close(outer.score(t, x, {"label": label}), inner.score(t, x, whole))
    torch.testing.assert_close(outer.score(0.5, x), inner.score(0.5, x, {"y": y.expand(5, 2)}))
    assert not torch.allclose(outer.score(0.5, x), inner.score(0.5, x))
    made = ReverseSampler(VPSDE(), outer, steps=4).sample((5, 2), seed=0, cond={"label": label})
    expected = ReverseSampler(VPSDE(), inner, steps=4).sample((5, 2), seed=0, cond=whole)
    torch.testing.assert_close(made, expected)
    assert outer.data is inner.data


def test_conditions_that_the_model_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cond: .*'z'"):
        Conditioned(model(), {"z": torch.zeros(2)})
    with pytest.raises(ValueError, match="cond: expected a condition or more"):
        Conditioned(model(), {})
    with pytest.raises(TypeError, match=r"cond\['y'\]"):
        Conditioned(model(), {"y": [0.0, 1.0]})  # type: ignore[dict-item]
    outer = Conditioned(model(), {"y": torch.zeros(2)})
    sampler = ReverseSampler(VPSDE(), outer, steps=2)
    with pytest.raises(ValueError, match="they are fixed"):
        sampler.sample((3, 2), seed=0, cond={"y": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match=r"cond\['label'\]"):
        sampler.sample((3, 2), seed=0, cond={"label": torch.tensor([0, 1, 7])})


def test_a_number_is_a_condition_of_one_sample() -> None:
    sde = VPSDE()
    shifted = FunctionScore(sde, lambda t, x, shift: shift[:, None] - x)
    outer = Conditioned(shifted, {"shift": torch.tensor(2.0)})
    assert outer.score(0.5, torch.zeros(3, 2)).tolist() == [[2.0, 2.0]] * 3


@pytest.mark.filterwarnings("error")
def test_the_calibrations_of_the_model_hold() -> None:
    inner = model()
    made = calibrate(
        ReverseSDE(VPSDE(), inner, eta=0.0), (2,), steps=2, trajectories=12, iterations=2
    )
    inner.calibrations = {"2": made}
    outer = Conditioned(inner, {"y": torch.zeros(2)})
    plans = [ReverseSampler(VPSDE(), each, steps=2).plan for each in (inner, outer)]
    assert plans[0].schedule.grid == plans[1].schedule.grid == made.grid
    assert plans[1].why == plans[0].why
    again = calibrate(
        ReverseSDE(VPSDE(), outer, eta=0.0), (2,), steps=2, trajectories=12, iterations=2
    )
    assert ReverseSampler(VPSDE(), outer, again).plan.schedule.grid == again.grid
    inner.calibrations = {"2": again}
    assert outer.calibrations == {"2": again}
    outer.calibrations = {}
    assert inner.calibrations == {}
    with torch.no_grad():  # a model whose weights were changed is another one
        next(inner.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="calibrated model's weights"):
        made.check(VPSDE(), outer)


def test_a_wrapper_has_the_null_values_of_the_conditions_that_are_left() -> None:
    inner = model()
    assert inner.nulls["label"] == -1 and math.isnan(inner.nulls["y"])  # type: ignore[arg-type]
    assert dict(Conditioned(inner, {"y": torch.zeros(2)}).nulls) == {"label": -1}
    assert AnalyticStart(inner, inner, above=0.9).nulls == inner.nulls
    assert FunctionScore(VPSDE(), lambda t, x: -x).nulls == {}
