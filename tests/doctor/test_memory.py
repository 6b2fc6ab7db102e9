"""Memorisation, precision and roughness: copies of data, half precision, ripples in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from scoresde import VPSDE, Empirical, GaussianMixture, Preconditioned, ScoreModel
from scoresde.doctor import diagnose
from scoresde.doctor.memory import memory_findings
from scoresde.doctor.probe import probe_of
from scoresde.node import Node
from scoresde.prediction import Prediction

VP = VPSDE()
TRUTH = GaussianMixture(
    torch.tensor([[-1.2, 0.4, 0.0], [1.1, 0.7, 0.3], [0.1, -1.1, -0.3]], dtype=torch.float64),
    torch.tensor([0.15, 0.12, 0.18], dtype=torch.float64),
)
TRAIN, HELD = TRUTH.sample(400, seed=0), TRUTH.sample(400, seed=1)


def test_the_ideal_denoiser_of_the_training_data_overfits_and_copies() -> None:
    model = Empirical(TRAIN).under(VP)
    report = diagnose(model, TRAIN, held_out=HELD)
    assert report["memorised"].number < 0.1
    overfit = report["overfit"]
    assert overfit.number > overfit.reference
    assert overfit.damage == pytest.approx(overfit.number - overfit.reference)


def test_the_exact_model_does_neither() -> None:
    exact = TRUTH.under(VP)
    report = diagnose(exact, TRAIN, held_out=HELD)
    assert report.healthy and "memory" not in report.skipped
    assert "memory" in diagnose(exact, TRAIN).skipped


def test_the_gap_of_the_losses_is_that_of_two_sets() -> None:
    model = Empirical(TRAIN).under(VP)
    probe = probe_of(model, TRAIN, None, VP.t_end, rows=200, count=12, seed=0, batch_size=200)
    found = {f.name: f for f in memory_findings(probe, TRAIN, TRAIN, None)}
    assert "overfit" not in found  # the same data on both sides


class _Rounded(nn.Module):
    """The exact v, times a weight, in the precision of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        exact = TRUTH.under(VP).predict(VP.at(t.float(), like=x.float()), x.float()).v
        coarse = 1.2 if self.weight.dtype == torch.bfloat16 else 1e-6
        return (self.weight * coarse * (exact / coarse).round()).to(self.weight.dtype)


def test_half_precision_that_costs_loss_is_named_and_float32_is_warned_of() -> None:
    half = diagnose(Preconditioned(_Rounded().bfloat16(), VP), TRAIN.float())
    assert half.first is not None and half.first.name == "precision"
    assert "bfloat16" in half.first.sentence
    whole = diagnose(Preconditioned(_Rounded(), VP), TRAIN.float())
    assert whole.healthy and whole["precision"].severity == "note"


def test_a_model_that_is_rough_in_time_is_noted() -> None:
    def ripple(p: Prediction) -> Prediction:
        t = torch.as_tensor(p.node.t, dtype=torch.float64).reshape(-1, 1)
        return Prediction(p.x, p.node, p.v + 0.08 * torch.sin(1000 * t), "v")

    exact = TRUTH.under(VP)
    note = diagnose(_Rippled(exact, ripple), TRAIN)["roughness"]
    assert note.severity == "note" and note.number > 4 * note.reference
    assert "roughness" not in diagnose(exact, TRAIN)


class _Rippled(ScoreModel):
    """A model whose predictions go through a function."""

    def __init__(self, inner: ScoreModel, change: Callable[[Prediction], Prediction]) -> None:
        super().__init__()
        self.inner, self.change, self.sde = inner, change, inner.sde

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        return self.change(self.inner.predict(node, x, cond))


def test_held_out_data_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="held_out: expected samples of shape"):
        diagnose(TRUTH.under(VP), TRAIN, held_out=HELD[:, :2])
