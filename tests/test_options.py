"""Groups of options: one default each, checked when they are made, named by their errors."""

from __future__ import annotations

import json
import math
import re
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from scoresde import Quantisation
from scoresde.losses import BoundTime, LogNormalTime
from scoresde.measurement import PoissonNoise
from scoresde.options import Divergence, Loss, Optim, Records, Tolerances
from scoresde.solvers import Adams, AdaptiveODE, AdaptiveSDE, Langevin, SciPySolver


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
        (lambda: Optim(compile="yes"), "compile"),  # type: ignore[arg-type]
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


NUMBERS: list[tuple[type, dict[str, int | float | bool]]] = [
    (Optim, {"batch_size": 8, "accumulate": 2, "max_nonfinite": 3, "warmup": 4, "compile": False}),
    (Optim, {"lr": 0.5, "weight_decay": 0.25, "clip": 2.0, "ema": 0.5}),
    (Optim, {"ema_width": 0.125}),
    (Loss, {"cond_dropout": 0.25, "augment": 0.5}),
    (Records, {"log_every": 1, "checkpoint_every": 2, "keep": 3, "buckets": 4, "patience": 5}),
    (Records, {"validate_every": 1, "snapshot_every": 2}),
    (Tolerances, {"rtol": 0.25, "atol": 0.5, "max_nfe": 7}),
    (Divergence, {"probes": 4}),
    (Quantisation, {"levels": 17, "low": 0.0, "high": 2.0}),
    (Adams, {"order": 2, "corrector": 3, "lower_final": True}),
    (AdaptiveODE, {"rtol": 0.25, "atol": 0.5, "max_nfe": 90, "compact": True, "dense": False}),
    (AdaptiveSDE, {"rtol": 0.25, "atol": 0.5, "sigma_data": 2.0, "max_nfe": 90}),
    (SciPySolver, {"rtol": 0.25, "atol": 0.5}),
    (Langevin, {"snr": 0.25, "steps": 2, "step": 0.5}),
    (LogNormalTime, {"mean": -1.0, "std": 0.5, "uniform": 0.25, "scale": 2.0}),
    (BoundTime, {"std": 0.5, "uniform": 0.25, "least": 0.125}),
    (PoissonNoise, {"gain": 2.0, "floor": 0.5}),
]


@pytest.mark.parametrize(("group", "values"), NUMBERS)
@pytest.mark.parametrize("foreign", [np.asarray, torch.tensor])
def test_numbers_of_numpy_and_torch_are_kept_as_those_of_python(
    group: type, values: dict[str, int | float | bool], foreign: Any
) -> None:
    made = group(**{name: foreign(value)[()] for name, value in values.items()})
    kept = {name: getattr(made, name) for name in values}
    assert kept == values and json.loads(json.dumps(kept)) == values
    assert [type(value) for value in kept.values()] == [type(v) for v in values.values()]


def test_every_number_of_a_run_is_in_the_list_above() -> None:
    def numeric(group: type) -> set[str]:
        return {f.name for f in fields(group) if re.match("(int|float|bool)", str(f.type))}

    for group in (Optim, Loss, Tolerances, Divergence):
        assert numeric(group) == {n for own, v in NUMBERS if own is group for n in v}
    listed = {n for own, v in NUMBERS if own is Records for n in v}
    assert numeric(Records) == listed | {"tensorboard"}  # which no checkpoint has


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
    assert [n for n in range(1, 17) if Records(validate_every=7).validates(n, 16)] == [7, 14, 16]


def test_the_name_of_an_estimator_stands_for_its_options() -> None:
    assert Divergence.of("exact") == Divergence("exact")
    assert Divergence.of(four := Divergence(probes=4)) is four
    with pytest.raises(TypeError, match=r"^divergence: expected a Divergence"):
        Divergence.of(4)  # type: ignore[arg-type]
