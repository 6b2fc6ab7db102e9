"""The classifier of noisy states: its network, its training against exact posteriors, files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from shared import normal
from torch import Tensor

from scoresde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE
from scoresde.guidance import NoiseClassifier
from scoresde.training import (
    TrainedClassifier,
    load_classifier,
    save_classifier,
    train_classifier,
)

SDES = [VPSDE(), VESDE(), CosineSDE(), FlowSDE(), EDMSDE()]
MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])


def two(n: int) -> tuple[Tensor, Tensor]:
    """Two unit Gaussians around (-2, 0) and (2, 0), as often each."""
    label = torch.arange(n) % 2
    return MEANS[label] + normal(n, 2).float(), label


@pytest.fixture(scope="module")
def trained() -> TrainedClassifier:
    torch.manual_seed(0)
    made = NoiseClassifier(VPSDE(), (2,), 2, width=32)
    return train_classifier(made, *two(4000), steps=500, batch_size=128)


def test_it_learns_the_posterior_at_every_noise_level(trained: TrainedClassifier) -> None:
    """log p(1 | x_t) - log p(0 | x_t) = 4 alpha x / (alpha^2 + sigma^2) = 4 alpha x under VP."""
    sde, x = VPSDE(), normal(200, 2, seed=1).float()
    for t in (0.05, 0.3, 0.6, 0.95):
        alpha = sde.alpha(t)
        state = alpha * MEANS[torch.arange(200) % 2] + x
        truth = 4.0 * alpha * state[:, 0]
        with torch.no_grad():
            logits = trained.classifier(t, state).diff(dim=1)[:, 0]
        assert float((logits.sigmoid() - truth.sigmoid()).abs().mean()) < 0.05, t
        if alpha < 0.2:  # log-odds of a few hundredths, which no training resolves
            continue
        near = truth.abs() < 2.0  # where the classes overlap
        slope = float(logits[near] @ truth[near] / truth[near].square().sum())
        assert abs(slope - 1.0) < 0.15, (t, slope)


def test_the_held_out_accuracy_is_that_of_the_exact_posterior(trained: TrainedClassifier) -> None:
    """The best accuracy at a level is Phi(2 alpha), for the means are 2 alpha from the middle."""
    assert trained.held_out == 400 and len(trained.log_snr) == 6
    for level, share, nats in zip(
        trained.log_snr, trained.accuracy, trained.cross_entropy, strict=True
    ):
        alpha = math.sqrt(1.0 / (1.0 + math.exp(-2.0 * level)))
        best = 0.5 + 0.5 * math.erf(2.0 * alpha / math.sqrt(2.0))
        assert abs(share - best) < 4 * math.sqrt(best * (1 - best) / 400) + 0.01
        assert nats < math.log(2.0) + 0.05
    assert list(trained.log_snr) == sorted(trained.log_snr)
    assert "400 held-out samples" in str(trained) and str(trained).count("\n") == 6


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_network_receives_states_of_unit_size(sde: Any) -> None:
    classifier, seen = NoiseClassifier(sde, (3,), 2, width=8, std=3.0), []
    classifier.enter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = normal(4000, 3).float()
    for share in (0.1, 0.5, 1.0):
        node = sde.at(share * sde.T)
        classifier(node.t, math.hypot(node.alpha * 3.0, node.sigma) * x)
        torch.testing.assert_close(seen[-1], x)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("shape", [(3,), (2, 9), (1, 6, 5), (1, 4, 4, 4)])
def test_every_shape_and_sde_gives_logits(sde: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    classifier = NoiseClassifier(sde, shape, 4, width=8)
    torch.nn.init.normal_(classifier.exit.weight)
    x = normal(5, *shape).float()
    for share in (0.0, 0.4, 1.0):
        t = share * sde.T if share else sde.t_end
        one = classifier(t, x)
        assert one.shape == (5, 4) and bool(one.isfinite().all())
        column = torch.full((5, *(1 for _ in shape)), t, dtype=torch.float64)
        torch.testing.assert_close(classifier(column, x), one, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(classifier(torch.tensor(t).double(), x), one)


def test_the_given_classifier_is_left_as_it_is_and_the_seed_decides() -> None:
    torch.manual_seed(0)
    made = NoiseClassifier(VPSDE(), (2,), 2, width=16)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    x, label = two(100)
    runs = [train_classifier(made, x, label, steps=5, batch_size=16, seed=s) for s in (0, 0, 1)]
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert made.std == 1.0 and runs[0].classifier.std == pytest.approx(1.67, abs=0.15)
    weights = [run.classifier.exit.weight for run in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(x, two(100)[0])


def test_it_is_saved_and_loaded(tmp_path: Path, trained: TrainedClassifier) -> None:
    place = save_classifier(trained.classifier, tmp_path / "net")
    again = load_classifier(place, VPSDE())
    x = normal(4, 2).float()
    assert torch.equal(again(0.3, x), trained.classifier(0.3, x))
    with pytest.raises(ValueError, match=r"sde: .*classifier.*trained under"):
        load_classifier(place, VPSDE(beta_max=10.0))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"format": "other"}))
    with pytest.raises(ValueError, match=r"format 'scoresde classifier', got 'other'"):
        load_classifier(place, VPSDE())
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "none", VPSDE())
    with pytest.raises(TypeError, match=r"classifier: "):
        save_classifier(torch.nn.Linear(1, 1), tmp_path / "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"classifier": 3}, TypeError, r"classifier: .*NoiseClassifier"),
        ({"x": torch.zeros(20, 3)}, ValueError, r"x: expected samples of shape \(2,\)"),
        ({"x": torch.full((20, 2), math.nan)}, ValueError, r"x: .*finite"),
        ({"label": torch.zeros(19, dtype=torch.int64)}, ValueError, r"label: .*shape \(20,\)"),
        ({"label": torch.full((20,), 2)}, ValueError, r"label: .*classes from 0 to 1"),
        (
            {"label": torch.full((20,), -1)},
            ValueError,
            r"label: .*for each.*without a label",
        ),
        ({"label": torch.zeros(20)}, TypeError, r"label: .*integers"),
        ({"holdout": 0.001}, ValueError, r"holdout: "),
        ({"holdout": 1.0}, ValueError, r"holdout: "),
        ({"steps": 0}, ValueError, r"steps: "),
        ({"lr": -1.0}, ValueError, r"lr: "),
        ({"lr": 1e30}, FloatingPointError, r"loss: .*smaller lr"),
    ],
)
def test_bad_training(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    x, label = two(20)
    given = {"classifier": NoiseClassifier(VPSDE(), (2,), 2, width=8), "x": x, "label": label}
    given |= {"steps": 5, "batch_size": 8} | changes
    with pytest.raises(kind, match=message):
        train_classifier(given.pop("classifier"), given.pop("x"), given.pop("label"), **given)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"shape": ()}, ValueError, r"shape: expected one to four numbers"),
        ({"shape": (1, 2, 3, 4, 5)}, ValueError, r"shape: "),
        ({"classes": 0}, ValueError, r"classes: "),
        ({"width": 6}, ValueError, r"width: expected a multiple of 4"),
        ({"std": 0.0}, ValueError, r"std: "),
        ({"sde": SDE(lambda t, x: -x, lambda t: 1.0)}, TypeError, r"sde: .*AffineSDE"),
    ],
)
def test_bad_networks(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        NoiseClassifier(**({"sde": VPSDE(), "shape": (2,), "classes": 3} | arguments))


def test_bad_states() -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 2\)"):
        NoiseClassifier(VPSDE(), (2,), 3)(0.5, torch.zeros(2, 3))
