"""Classifier guidance against exact mixtures, whose component posterior is the classifier."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from guidance_models import MEANS, MIXTURE, VARIANCES, Labelled, component, log_posterior
from shared import normal
from torch import Tensor, nn

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    Preconditioned,
    ReverseSampler,
    SubVPSDE,
    log_prob,
)
from scoresde.guidance import ClassifierFree, ClassifierGuided, NoiseClassifier
from scoresde.nets import MLP

SDES = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), FlowSDE()]
LABEL = torch.tensor([0, 1, 2, 0, -1, 2])


def exact(sde: Any) -> Any:
    return lambda t, x: log_posterior(t, x, sde)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("kind", ["v", "eps", "x0", "score"])
def test_at_scale_1_the_exact_classifier_gives_the_score_of_the_class(sde: Any, kind: str) -> None:
    """And label -1 the score of all; with a float node and one of a batch."""
    x = normal(6, 2)
    guided = ClassifierGuided(Labelled(sde, kind), exact(sde))
    for share in (0.05, 0.3, 0.6, 0.95):
        t = share * sde.T
        parts = [component(k, sde).score(t, x) for k in range(3)]
        all_of = torch.stack([*parts, MIXTURE.under(sde).score(t, x)])
        truth = all_of[LABEL, torch.arange(6)]
        got = guided.score(t, x, {"label": LABEL})
        torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-10)
        batched = guided.score(torch.full((6,), t, dtype=torch.float64), x, {"label": LABEL})
        torch.testing.assert_close(batched, got, rtol=1e-12, atol=1e-12)


def test_it_agrees_with_guidance_without_a_classifier_at_any_scale() -> None:
    sde, x, cond = VPSDE(), normal(6, 2), {"label": LABEL}
    free = ClassifierFree(Labelled(sde), 2.5)
    by = ClassifierGuided(Labelled(sde), exact(sde), 2.5)
    torch.testing.assert_close(by.score(0.4, x, cond), free.score(0.4, x, cond))
    limited = [
        make(2.5, interval=(-0.5, 1.0))
        for make in (
            lambda w, interval: ClassifierFree(Labelled(sde), w, interval=interval),
            lambda w, interval: ClassifierGuided(Labelled(sde), exact(sde), w, interval=interval),
        )
    ]
    inside, outside = 0.3, 0.9
    assert -0.5 < sde.log_snr(inside) < 1.0 and sde.log_snr(outside) < -0.5
    a, b = (m.score(inside, x, cond) for m in limited)
    torch.testing.assert_close(a, b)
    plain = MIXTURE.under(sde).score(outside, x)
    assert torch.equal(limited[1].score(outside, x, cond), plain)


def test_samples_at_scale_1_are_those_of_the_class() -> None:
    sde = VPSDE()
    guided = ClassifierGuided(Labelled(sde), exact(sde))
    sampler = ReverseSampler(sde, guided, "unipc_3", steps=10)
    label = torch.full((50,), 1)
    x = sampler.sample((50, 2), seed=0, cond={"label": label}, dtype=torch.float64)
    one = ReverseSampler(sde, component(1, sde), "unipc_3", steps=10)
    truth = one.sample((50, 2), seed=0, dtype=torch.float64)
    torch.testing.assert_close(x, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_log_probability_of_the_user_s_own(scale: float) -> None:
    """y = x_0 + s n for x_0 ~ N(0, 1): p(y | x_t) = N(y; alpha x_t, sigma^2 + s^2) under VP."""
    sde, s, y, x = VPSDE(), 0.5, normal(4, 2, seed=1), normal(4, 2)

    def log_likelihood(t: Tensor, x: Tensor, y: Tensor) -> Tensor:
        alpha, sigma = torch.as_tensor(sde.alpha(t)), torch.as_tensor(sde.sigma(t))
        square = (y - alpha * x).square().sum(1)
        return -0.5 * square / (sigma**2 + s**2).flatten()

    prior = Gaussian(torch.zeros(2).double(), torch.tensor(1.0).double()).under(sde)
    guided = ClassifierGuided(prior, log_likelihood, scale)
    for t in (0.1, 0.8):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        truth = -x + scale * alpha * (y - alpha * x) / (sigma**2 + s**2)
        torch.testing.assert_close(guided.score(t, x, {"y": y}), truth)
        batched = guided.score(torch.full((4,), t, dtype=torch.float64), x, {"y": y})
        torch.testing.assert_close(batched, truth, rtol=1e-11, atol=1e-12)


def test_scale_0_and_no_label_are_the_model_and_calls_are_those_of_the_model() -> None:
    sde, x = VPSDE(), normal(4, 2)
    model = Labelled(sde)
    expected = model.predict(sde.at(0.5), x).value
    for scale, label in ((0.0, 1), (3.0, -1)):
        guided = ClassifierGuided(model, exact(sde), scale)
        got = guided.predict(sde.at(0.5), x, {"label": torch.full((4,), label)}).value
        assert torch.equal(got, expected)
    model.made = 0
    guided = ClassifierGuided(model, exact(sde), 2.0)
    cond = {"label": torch.ones(4, dtype=torch.int64)}
    solution = ReverseSampler(sde, guided, "heun", steps=5).solve((4, 2), seed=0, cond=cond)
    assert solution.nfe == model.made and not solution.x.requires_grad


def test_a_classifier_that_is_not_finite_does_not_touch_samples_without_a_label() -> None:
    sde, x = VPSDE(), normal(2, 2)
    guided = ClassifierGuided(Labelled(sde), lambda t, x: x.new_full((2, 3), math.inf) * x[:, :1])
    got = guided.score(0.5, x, {"label": torch.tensor([-1, -1])})
    assert torch.equal(got, MIXTURE.under(sde).score(0.5, x))


def test_a_conditional_model_may_receive_the_label_too() -> None:
    """s_c + w grad log p(c | x), against the mixture."""
    sde, x = VPSDE(), normal(6, 2)
    label = LABEL.clamp_min(0)
    guided = ClassifierGuided(Labelled(sde), exact(sde), 0.7, conditional=True)
    free = MIXTURE.under(sde).score(0.4, x)
    own = torch.stack([component(k, sde).score(0.4, x) for k in range(3)])[label, torch.arange(6)]
    got = guided.score(0.4, x, {"label": label})
    torch.testing.assert_close(got, own + 0.7 * (own - free))
    assert guided.nulls == {"label": -1}


def test_nothing_depends_on_the_mates_of_a_batch() -> None:
    torch.manual_seed(0)
    sde = VPSDE()
    classifier = NoiseClassifier(sde, (2,), 3, width=16)
    nn.init.normal_(classifier.exit.weight)
    net = MLP(2, width=16)
    nn.init.normal_(net.exit.weight)
    guided = ClassifierGuided(Preconditioned(net, sde).eval(), classifier, 2.0)
    sampler = ReverseSampler(sde, guided, "unipc_2", steps=4)
    z, label = normal(4, 2).float(), torch.tensor([0, 1, 2, 1])
    first = sampler.sample((4, 2), x_init=z, cond={"label": label})
    others = torch.cat([z[:1], 2.0 * z[1:] + 1.0])
    mates = sampler.sample((4, 2), x_init=others, cond={"label": torch.tensor([0, 2, -1, 2])})
    assert torch.equal(first[0], mates[0]) and not torch.equal(first[1:], mates[1:])


def test_the_flow_of_a_guided_model_is_differentiated() -> None:
    """log p(x | c) by the flow of the guided model, against the Gaussian of the class."""
    sde, x = VPSDE(), component_data(2, 4)
    guided = ClassifierGuided(Labelled(sde), exact(sde))
    cond = {"label": torch.full((4,), 2)}
    got = log_prob(guided, x, cond=cond, seed=0, divergence="exact").nats
    truth = log_prob(component(2, sde), x, seed=0, divergence="exact").nats
    torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-4)


def component_data(k: int, n: int) -> Tensor:
    return MEANS[k] + VARIANCES[k].sqrt() * normal(n, 2)


class OfCleanData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Swapped(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (OfCleanData(), r"classifier: expected .*\(t, x\).*'arguments \(x\)'.*NoiseClassifier"),
        (Swapped(), r"classifier: .*arguments \(x, t\).*lambda t, x: net\(x, t\)"),
        (lambda x: x, r"classifier: .*time and noisy state"),
        (3, r"classifier: .*time and noisy state"),
    ],
)
def test_a_classifier_that_does_not_take_t_is_refused(classifier: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ClassifierGuided(Labelled(VPSDE()), classifier)


def test_bad_calls() -> None:
    sde, x = VPSDE(), normal(3, 2)
    guided = ClassifierGuided(Labelled(sde), exact(sde), 2.0)
    for label in (3, -2):
        with pytest.raises(ValueError, match=r"cond\['label'\]: .*classes from 0 to 2.*-1 for no"):
            guided.score(0.5, x, {"label": torch.full((3,), label)})
    with pytest.raises(TypeError, match=r"cond\['label'\]: .*integers"):
        guided.score(0.5, x, {"label": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"cond: expected 'label', for the classifier, got None"):
        ReverseSampler(sde, guided, steps=2).sample((3, 2), seed=0)
    known = ClassifierGuided(
        FunctionScore(sde, lambda t, x: -x), NoiseClassifier(sde, (2,), 3), 2.0
    )
    cond = {"label": torch.full((3,), 5)}
    with pytest.raises(ValueError, match=r"cond\['label'\]: .*classes from 0 to 2"):
        ReverseSampler(sde, known, steps=2).sample((3, 2), seed=0, cond=cond)
    flat = ClassifierGuided(Labelled(sde), lambda t, x: x.sum(1), 2.0)
    with pytest.raises(ValueError, match=r"classifier\(t, x\): expected shape \(3, K\)"):
        flat.score(0.5, x, {"label": torch.zeros(3, dtype=torch.int64)})
    wide = ClassifierGuided(Labelled(sde), lambda t, x, y: x * y, 2.0)
    with pytest.raises(ValueError, match=r"classifier\(t, x, ...\): expected shape \(3,\)"):
        wide.score(0.5, x, {"y": x})
    cut = ClassifierGuided(Labelled(sde), lambda t, x: x.detach(), 2.0)
    with pytest.raises(ValueError, match=r"classifier: .*differentiable in x"):
        cut.score(0.5, x, {"label": torch.zeros(3, dtype=torch.int64)})
    plain = FunctionScore(SDE(lambda t, x: -x, lambda t: 1.0), lambda t, x: -x)
    with pytest.raises(TypeError, match=r"sde: .*AffineSDE.*constant scale"):
        ClassifierGuided(plain, lambda t, x: x, interval=(-1.0, 1.0))
