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
    with pytest.raises(ValueError, match=r"^clip: .*pass None for no clipping"):
        replace(optim, clip=0)


def test_the_learning_rate_warms_up_for_a_twentieth_of_the_steps() -> None:
    assert [Optim().warmup_of(steps) for steps in (10, 100, 10**6)] == [0, 5, 1000]
    assert Optim(warmup=3).warmup_of(100) == 3
    assert Optim(lr=0.5, warmup=1, schedule="constant").lr_at(0, 10) == 0.25


def test_a_run_is_validated_ten_times_or_with_its_checkpoints() -> None:
    assert [Records().validates_every(steps) for steps in (2, 101, 10**6)] == [1, 11, 1000]
    assert Records(validate_every=7).validates_every(10**6) == 7


def test_the_name_of_an_estimator_stands_for_its_options() -> None:
    assert Divergence.of("exact") == Divergence("exact")
    assert Divergence.of(four := Divergence(probes=4)) is four
    with pytest.raises(TypeError, match=r"^divergence: expected a Divergence"):
        Divergence.of(4)  # type: ignore[arg-type]
