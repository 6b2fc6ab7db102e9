"""Guidance by a weaker model and temperature, against exact Gaussians and mixtures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from guidance_models import MEANS, MIXTURE, VARIANCES, Labelled, component
from shared import normal

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    ReverseSampler,
    SubVPSDE,
)
from scoresde.guidance import AutoGuidance, Tempered
from scoresde.node import AffineNode
from scoresde.prediction import COORDINATES, Prediction
from scoresde.summary import DataSummary

SDES = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), FlowSDE()]
ids = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


# A weaker model


@ids
@pytest.mark.parametrize("kinds", [("v", "v"), ("eps", "x0"), ("score", "flow")])
def test_the_scores_of_two_models_are_combined_in_any_coordinates(sde: Any, kinds: Any) -> None:
    x, label = normal(6, 2), torch.tensor([0, 1, 2, 0, -1, 2])
    model, weaker = Labelled(sde, kinds[0]), Labelled(sde, kinds[1])
    weaker.whole = component(1, sde)
    guided = AutoGuidance(model, weaker, 1.8)
    for t in (0.1 * sde.T, 0.7 * sde.T):
        a, b = (m.score(t, x, {"label": label}) for m in (model, weaker))
        got = guided.score(t, x, {"label": label})
        torch.testing.assert_close(got, b + 1.8 * (a - b), rtol=1e-10, atol=1e-10)
        batched = guided.score(torch.full((6,), t, dtype=torch.float64), x, {"label": label})
        torch.testing.assert_close(batched, got, rtol=1e-12, atol=1e-12)


def test_a_constant_error_of_the_weaker_model_is_taken_out() -> None:
    """Scores s + e and s + 2 e at scale 2 give s, and so exactly its samples."""
    sde = VPSDE()
    exact = component(0, sde)

    def off(error: float) -> FunctionScore:
        return FunctionScore(sde, lambda t, x: exact.score(float(t), x) + error)

    samplers = [
        ReverseSampler(sde, model, "dpmpp_2m", steps=8)
        for model in (AutoGuidance(off(0.3), off(0.6), 2.0), exact)
    ]
    x, truth = (s.sample((20, 2), seed=0, dtype=torch.float64) for s in samplers)
    torch.testing.assert_close(x, truth, rtol=1e-11, atol=1e-11)


def test_scales_0_and_1_call_one_model_and_calls_are_counted() -> None:
    sde, x = VPSDE(), normal(4, 2)
    model, weaker = Labelled(sde), Labelled(sde)
    for scale, made in ((1.0, (1, 0)), (0.0, (0, 1)), (2.0, (1, 1))):
        guided = AutoGuidance(model, weaker, scale)
        model.made = weaker.made = 0
        got = guided.predict(sde.at(0.5), x)
        assert (model.made, weaker.made) == made and guided.calls(sde.at(0.5)) == sum(made)
        if scale < 2.0:
            assert torch.equal(got.value, model.predict(sde.at(0.5), x).value)
    limited = AutoGuidance(model, weaker, 2.0, interval=(-1.5, 1.5))
    model.made = weaker.made = 0
    solution = ReverseSampler(sde, limited, "heun", steps=6).solve((4, 2), seed=0)
    assert solution.nfe == model.made + weaker.made and 0 < weaker.made < model.made


def test_the_two_models_must_agree() -> None:
    sde = VPSDE()
    with pytest.raises(ValueError, match=r"weaker: expected a model of VPSDE.*got 'VESDE"):
        AutoGuidance(Labelled(sde), Labelled(VESDE()), 2.0)
    with pytest.raises(TypeError, match=r"weaker: .*FunctionScore"):
        AutoGuidance(Labelled(sde), lambda t, x: -x, 2.0)  # type: ignore[arg-type]
    plain = FunctionScore(sde, lambda t, x: -x)
    sampler = ReverseSampler(sde, AutoGuidance(Labelled(sde), plain, 2.0), steps=2)
    with pytest.raises(ValueError, match=r"cond: expected None"):
        sampler.sample((2, 2), seed=0, cond={"label": torch.zeros(2, dtype=torch.int64)})


# Temperature


@ids
@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_a_gaussian_at_a_temperature_is_the_gaussian_of_its_power(
    sde: Any, temperature: float
) -> None:
    """p^(1/T) of N(mu, s^2 I) is N(mu, T s^2 I), whose noised score is known at every time."""
    mean, s = torch.tensor([3.0, -1.0]).double(), 1.7
    exact = Gaussian(mean, torch.tensor(s**2, dtype=torch.float64)).under(sde)
    truth = Gaussian(mean, torch.tensor(temperature * s**2, dtype=torch.float64)).under(sde)
    x = 4.0 * normal(5, 2)
    as_score = FunctionScore(sde, lambda t, x: exact.score(float(t), x))
    for model, kind in ((m, k) for m in (exact, as_score) for k in ("eps", "x0", "score", "v")):
        tempered = Tempered(model, temperature, s)
        for share in (0.02, 0.4, 0.9):
            t = share * sde.T
            got, expected = tempered(t, x).read(kind), truth(t, x).read(kind)
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    t = torch.tensor([0.02, 0.1, 0.4, 0.6, 0.9], dtype=torch.float64) * sde.T
    torch.testing.assert_close(Tempered(exact, temperature, s).score(t, x), truth.score(t, x))


@ids
def test_nothing_is_lost_at_pure_noise(sde: Any) -> None:
    """At t = T alpha may be 0, and x_0 of the tempered Gaussian is there its mean."""
    mean = torch.tensor([3.0, -1.0]).double()
    exact = Gaussian(mean, torch.tensor(4.0).double()).under(sde)
    got = Tempered(exact, 0.5)(sde.T, normal(4, 2)).x0
    truth = Gaussian(mean, torch.tensor(2.0).double()).under(sde)(sde.T, normal(4, 2)).x0
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=1e-9)


def test_the_naive_division_of_the_score_samples_another_density() -> None:
    """Standard deviations of the flow of N(0, 1) under VP, from its linear scores, in closed form.

    score / T contracts by alpha^(1 - 1/T): nearly to (alpha_end / alpha_T)^(1 - 1/T), far from
    sqrt(T). The factor of `Tempered` gives sqrt(T), up to the prior at T.
    """
    sde, temperature, z = VPSDE(), 0.5, normal(50, 2)
    unit = Gaussian(torch.zeros(2).double(), torch.tensor(1.0).double()).under(sde)
    naive = FunctionScore(sde, lambda t, x: -x / temperature)
    ends = {}
    for name, model in (("right", Tempered(unit, temperature)), ("naive", naive)):
        sampler = ReverseSampler(sde, model, "unipc_3", steps=400, denoise=False)
        ends[name] = sampler.sample((50, 2), x_init=z) / z
    a = [sde.alpha(t) ** 2 for t in (sde.t_end, sde.T)]
    right = math.sqrt((1 - a[0] * (1 - temperature)) / (1 - a[1] * (1 - temperature)))
    shrunk = (a[0] / a[1]) ** ((1 - 1 / temperature) / 2)
    torch.testing.assert_close(ends["right"], torch.full_like(z, right), rtol=1e-5, atol=0)
    torch.testing.assert_close(ends["naive"], torch.full_like(z, shrunk), rtol=1e-4, atol=0)
    assert abs(right - math.sqrt(temperature)) < 1e-3 and shrunk < 0.01


def test_a_mixture_keeps_its_weights_and_its_components_are_tempered() -> None:
    """With the deviation of a component, and components far apart: what the docstring says."""
    sde, s, temperature = VPSDE(), 0.2, 0.25
    means = torch.tensor([[-3.0], [3.0]]).double()
    weights = torch.tensor([0.8, 0.2]).double()
    mixture = GaussianMixture(means, torch.full((2,), s**2).double(), weights)
    model = Tempered(mixture.under(sde), temperature, s)
    sampler = ReverseSampler(sde, model, "dpmpp_2m", steps=60)
    x = sampler.sample((4000, 1), seed=0, dtype=torch.float64)
    right = x > 0
    assert abs(float(right.double().mean()) - 0.2) < 4 * math.sqrt(0.16 / 4000)
    for part, mean in ((x[right], 3.0), (x[~right], -3.0)):
        assert abs(float(part.mean()) - mean) < 0.02
        assert abs(float(part.std()) - s * math.sqrt(temperature)) < 0.05 * s


def test_the_deviation_is_by_default_that_of_the_data() -> None:
    sde = VPSDE()
    model = MIXTURE.under(sde)
    tempered = Tempered(model, 0.5)
    known = model.data_scale
    assert known is not None and tempered.std == known[0]
    assert tempered.data_scale == (known[0] * math.sqrt(0.5), known[1])
    with pytest.raises(ValueError, match=r"std: expected a model that knows its data.*pass std"):
        Tempered(FunctionScore(sde, lambda t, x: -x), 0.5)
    x = normal(3, 2)
    same = Tempered(model, 1.0).predict(sde.at(0.3), x)
    assert torch.equal(same.value, model.predict(sde.at(0.3), x).value)


def test_warm_samples_are_not_taken_for_a_fault_of_the_model() -> None:
    model = component(0, VPSDE())
    std = float(VARIANCES[0].sqrt())
    low, high = float(MEANS.min()) - 4 * std, float(MEANS.max()) + 4 * std
    model.data = DataSummary(1000, (2,), mean=-0.75, std=std, low=low, high=high)
    known = Tempered(model, 9.0).data
    assert known is not None and known.std == pytest.approx(3 * std)
    assert (known.low, known.high) == pytest.approx((-0.75 + 3 * (low + 0.75), 3 * high + 1.5))
    cold = Tempered(model, 0.25).data
    assert cold is not None and (cold.low, cold.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"temperature": 0.0}, ValueError, r"temperature: .*> 0"),
        ({"std": -1.0}, ValueError, r"std: .*> 0"),
        ({"model": 3}, TypeError, r"model: "),
        (
            {"model": FunctionScore(SDE(lambda t, x: -x, lambda t: 1.0), lambda t, x: -x)},
            TypeError,
            r"model\.sde: .*AffineSDE",
        ),
    ],
)
def test_bad_input(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Tempered(**({"model": MIXTURE.under(VPSDE()), "temperature": 0.5} | arguments))


# A shifted prediction


@ids
@pytest.mark.parametrize("kind", COORDINATES)
def test_a_prediction_is_shifted_by_a_score(sde: Any, kind: str) -> None:
    x, value, by = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)
    t = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64) * sde.T
    batched = Prediction(x, sde.at(t, like=x), value, kind)
    moved = batched.shifted(by, 0.7)
    torch.testing.assert_close(moved.score, batched.score + 0.7 * by, rtol=1e-9, atol=1e-9)
    for i, time in enumerate(t.tolist()):
        one = Prediction(x[i : i + 1], sde.at(time), value[i : i + 1], kind).shifted(by[i], 0.7)
        torch.testing.assert_close(one.value[0], moved.value[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", COORDINATES)
def test_at_pure_noise_a_shift_of_the_score_leaves_x0(kind: str) -> None:
    x, by = normal(4, 2), normal(4, 2, seed=1)
    floats = (1.0, 1.0, 0.0, 1.0, -math.inf, -math.inf)
    columns = (torch.ones(4), *(torch.full((4, 1), v).double() for v in floats[1:]))
    for node in (AffineNode(*floats), AffineNode(*columns)):
        prediction = Prediction(x, node, x, kind)
        moved = prediction.shifted(by)
        assert bool(moved.value.isfinite().all())
        if kind in ("x0", "v", "flow"):
            assert torch.equal(moved.value, prediction.value)
