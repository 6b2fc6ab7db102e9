"""Groups of options: one default each, checked when they are made, named by their errors."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from scoresde.options import Divergence, Loss, Optim, Records, Tolerances


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Optim(lr=-1.0), "lr"),
        (lambda: Optim(batch_size=2.5), "batch_size"),  # type: ignore[arg-type]
        (lambda: Optim(schedule="cosin"), "schedule"),
        (lambda: Optim(optimizer="adam"), "optimizer"),
        (lambda: Optim(ema_width=0.3), "ema_width"),
        (lambda: Optim(ema=0.9, ema_width=0.1), "ema_width"),
        (lambda: Optim(precision="fp16"), "precision"),
        (lambda: Optim(freeze="embed.*"), "freeze"),  # type: ignore[arg-type]
        (lambda: Loss(objective="bits"), "objective"),
        (lambda: Loss(cond_dropout=2.0), "cond_dropout"),
        (lambda: Records(keep=0), "keep"),
        (lambda: Records(widths=(0.1, 0.1)), "widths"),
        (lambda: Tolerances(rtol=math.nan), "rtol"),
        (lambda: Divergence("hutch++", probes=1), "probes"),
        (lambda: Divergence("hutchison"), "divergence"),
    ],
)
def test_an_error_names_its_argument(make: Any, argument: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: expected") as caught:
        make()
    assert caught.value.argument == argument  # type: ignore[union-attr]


def test_groups_are_frozen_and_a_changed_copy_is_checked_too() -> None:
    optim = Optim(lr=1)
    assert isinstance(optim.lr, float)
    with pytest.raises(FrozenInstanceError):
        optim.lr = 2.0  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"^clip: expected a finite number >= 0"):
        replace(optim, clip=-1)


def test_the_learning_rate_warms_up_and_its_schedule_needs_a_recipe() -> None:
    with pytest.raises(ValueError, match="a recipe filled in"):
        Optim(lr=0.5).lr_at(0, 10)
    assert Optim(lr=0.5, warmup=1, schedule="constant").lr_at(0, 10) == 0.25


def test_a_run_is_validated_ten_times_or_with_its_checkpoints() -> None:
    assert [Records().validates_every(steps) for steps in (2, 101, 10**6)] == [1, 11, 1000]
    assert Records(validate_every=7).validates_every(10**6) == 7


def test_the_name_of_an_estimator_stands_for_its_options() -> None:
    assert Divergence.of("exact") == Divergence("exact")
    assert Divergence.of(four := Divergence(probes=4)) is four
    with pytest.raises(TypeError, match=r"^divergence: expected a Divergence"):
        Divergence.of(4)  # type: ignore[arg-type]
