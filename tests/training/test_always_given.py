"""What a model knows without its conditions, and the warnings of one that knows nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, Preconditioned, ReverseSampler, Trainer, load, log_prob, save
from scoresde.cond import is_given
from scoresde.guidance import ClassifierFree
from scoresde.nets import MLP, Set, Vector
from scoresde.options import Loss, Records

SDE = VPSDE()
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
LABEL, Y = torch.arange(40) % 2, X[:, :1].clone()
SOME_LABELS = torch.where(torch.arange(40) == 7, -1, LABEL)
SOME_Y = torch.where(torch.arange(40)[:, None] == 7, math.nan, Y)


def trained(
    dropout: float, label: Tensor = LABEL, y: Tensor = Y, model: Preconditioned | None = None
) -> Preconditioned:
    if model is None:
        model = Preconditioned(MLP(2, width=8, classes=2, conditions={"y": Vector(1)}), SDE)
    data = (X, {"label": label, "y": y})
    loss, records = Loss(cond_dropout=dropout), Records(calibrate=None)
    found = Trainer(model, data, steps=2, loss=loss, records=records).fit()
    assert isinstance(found, Preconditioned)
    return found


def always(model: Preconditioned) -> tuple[str, ...]:
    assert model.data is not None
    return model.data.always_given


def test_it_is_what_no_sample_of_the_training_lacked() -> None:
    assert always(trained(0.0)) == ("label", "y")
    assert always(trained(0.1)) == ()
    assert always(trained(0.0, label=SOME_LABELS)) == ("y",)
    assert always(trained(0.0, y=SOME_Y)) == ("label",)


def test_a_dtype_without_the_null_value_holds_given_values_alone() -> None:
    assert is_given("y", math.nan, torch.tensor([3, -1])).all()


def test_a_set_needs_no_mask() -> None:
    model = Preconditioned(MLP(2, width=8, conditions={"points": Set(2)}), SDE)
    cond = {"points": torch.randn(40, 3, 2), "points_mask": torch.ones(40, 3, dtype=torch.bool)}
    loss, records = Loss(cond_dropout=0.0), Records(calibrate=None)
    found = Trainer(model, (X, cond), steps=1, loss=loss, records=records).fit()
    assert found.data is not None and found.data.always_given == ("points",)


def test_what_was_learned_before_counts() -> None:
    assert always(trained(0.0, model=trained(0.0))) == ("label", "y")
    assert always(trained(0.0, model=trained(0.1))) == ()
    assert always(trained(0.1, model=trained(0.0))) == ()


COND = {"label": LABEL[:4], "y": Y[:4]}
USES: dict[str, Callable[[Preconditioned, dict[str, Tensor]], object]] = {
    "sampling": lambda m, c: ReverseSampler(SDE, m, steps=2).sample((4, 2), seed=0, cond=c),
    "density": lambda m, c: log_prob(m, X[:4], cond=c),
    "guidance": lambda m, c: ClassifierFree(m, 2.0 if len(c) < 2 else 1.0),
}


@pytest.mark.parametrize("use", USES)
def test_a_score_that_was_not_trained_has_a_warning(use: str) -> None:
    model, partly = trained(0.0), trained(0.1)
    with pytest.warns(
        UserWarning, match="expected .*'label'.*, got .*train with Loss.cond_dropout"
    ):
        USES[use](model, {"y": Y[:4]})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cond_dropout")
        USES[use](model, COND)
        USES[use](partly, {})


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    place = save(trained(0.0), tmp_path / "run")
    model = load(place)
    assert isinstance(model, Preconditioned) and always(model) == ("label", "y")
