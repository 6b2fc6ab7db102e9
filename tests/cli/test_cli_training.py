"""Training on by the command line: units, frozen parts, changed settings, patience, recipes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call, refused

from scoresde import load
from scoresde.nets.embed import level_exponents
from scoresde.training import read_config

QUICK = "--sample-every 0 --no-tensorboard --log-every 2 --batch-size 16 --net-option width=8"


def array(place: Path, mean: float, std: float) -> Path:
    values = np.random.default_rng(0).normal(mean, std, (80, 2)).astype(np.float32)
    np.save(place, values)
    return place


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("first")
    call(f"train {array(place / 'a.npy', 1000.0, 3.0)} --steps 2 {QUICK} --out {place}/run")
    return place / "run"


def test_fine_tuning_keeps_the_units_and_the_frozen_parts(first: Path, tmp_path: Path) -> None:
    other = array(tmp_path / "b.npy", 1006.0, 2.0)
    line = f"train {other} --init-from {first} --steps 3 --batch-size 16 --log-every 1"
    line += " --sample-every 0 --no-tensorboard"
    call(f"{line} --freeze condition.*,enter.* --out {tmp_path}/run")
    one, two = (load(place) for place in (first, tmp_path / "run"))
    assert one.data.scaling.to_dict() == two.data.scaling.to_dict()
    assert two.data.mean == pytest.approx((1006.0 - 1000.0) / 3.0, abs=0.2)
    assert two.data.std == pytest.approx(2.0 / 3.0, abs=0.1)
    moved = {k for k, v in two.state_dict().items() if not torch.equal(v, one.state_dict()[k])}
    assert moved and not {k for k in moved if k.split(".")[1] in ("condition", "enter")}
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["freeze"] == ["condition.*", "enter.*"]
    refused(
        f"{line} --freeze emb.* --out {tmp_path}/x", "--freeze: expected a pattern of", "enter"
    )


def test_a_resumed_run_says_what_changed_and_refuses_what_must_not(tmp_path: Path) -> None:
    out = f"--out {tmp_path}/run"
    told = call(f"train moons --data-option n=60 --steps 2 {QUICK} {out}").stdout
    assert re.match(r"2 steps in \S+ s, loss ", told)
    base = f"train --config {tmp_path}/run/config.json --resume"
    text = r"goes on from step 2 with other settings: steps 2 -> 4, lr \S+ -> 0\.01$"
    with pytest.warns(UserWarning, match=text):
        told = call(f"{base} --steps 4 --lr 0.01").stdout
    assert re.match(r"2 steps \(2 to 4\) in \S+ s, loss ", told)
    refused(
        f"{base} --steps 6 --seed 3 --optimizer muon", "seed, optimizer: expected 0 and 'adamw'"
    )


def test_patience_ends_a_run_and_is_reported(tmp_path: Path) -> None:
    line = f"train moons --data-option n=60 --holdout 0.3 --steps 40 {QUICK} --validate-every 1"
    found = answer(f"{line} --lr 1e-30 --patience 2 --out {tmp_path}/run")
    assert found["stopped"] and found["steps"] < 40
    assert found["best_step"] == found["steps"] - 2
    assert found["best"] == str(tmp_path / "run/best")
    kept = read_config(tmp_path / "run")["extra"]  # every command takes the best model of the run
    assert kept["step"] == found["best_step"]
    last = answer(f"{line} --steps 2 --out {tmp_path}/all")
    assert "validation" not in read_config(tmp_path / "all")["extra"] and last["best"]
    with (tmp_path / "run/validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows]
    assert min(losses) == found["best_validation"] and "uniform" in rows[0]
    refused(
        f"{line} --holdout 0 --patience 2 --out {tmp_path}/x",
        "--patience: expected samples that are held out to judge by, got none of 60 with",
        "take a larger --holdout",
    )


def test_the_best_model_after_a_change_of_the_objective_is_the_one_that_is_reported(
    tmp_path: Path,
) -> None:
    """The losses before and after do not compare, also for the calls that follow."""
    out = tmp_path / "run"
    every = "--validate-every 1 --checkpoint-every 1"
    answer(f"train moons --data-option n=60 --holdout 0.3 --steps 2 {QUICK} {every} --out {out}")
    again = f"train --config {out}/config.json --resume"
    for more in ("--steps 4 --objective likelihood", "--steps 6"):
        found = answer(f"{again} {more}")
        kept = read_config(out / "best")["extra"]
        assert (found["best_step"], found["best_validation"]) == (kept["step"], kept["validation"])
        assert kept["step"] > 2


def test_a_resumption_that_makes_no_step_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer(f"train moons --data-option n=60 --holdout 0.3 --steps 3 {QUICK} --out {out}")
    before = (out / "config.json").read_bytes()
    told, said = call(f"train --config {out}/config.json --resume --lr 0.5")
    assert "had ended at step 3: no step was made" in said
    assert re.match(
        r"no steps: the run had its 3 already, loss \S+, valid\S+ \S+; --steps N trains on\n", told
    )
    assert (out / "config.json").read_bytes() == before
    found = answer(f"train --config {out}/config.json --resume --steps 4 --lr 0.5")
    assert found["steps"] == 4 and (out / "config.json").read_bytes() != before


def test_the_objective_chooses_the_recipe_and_the_features_of_the_input(tmp_path: Path) -> None:
    line = f"train digits --steps 1 {QUICK} --net-option blocks=1"
    said = call(f"{line} --objective likelihood --out {tmp_path}/run").stderr
    assert "likelihood of 1x8x8" in said and "weighting likelihood" in said
    model = load(tmp_path / "run")
    own = model.net.config["input_fourier"]
    assert own == pytest.approx(list(level_exponents(2 / 16)))
    said = call(f"{line} --optimizer muon --ema-width 0.1 --out {tmp_path}/other").stderr
    assert "quality of 1x8x8: muon, lr " in said and "width 0.1" in said
    assert load(tmp_path / "other").net.config["input_fourier"] == []


def test_augmentation_is_a_condition_that_sampling_does_not_need(tmp_path: Path) -> None:
    line = f"train digits --steps 2 {QUICK} --net-option blocks=1 --unconditional"
    said = call(f"{line} --augment 0.3 --out {tmp_path}/run").stderr
    assert "augmented with 0.3" in said
    conditions = load(tmp_path / "run").net.config["conditions"]
    assert conditions == {"augment": {"kind": "vector", "size": 6}}
    call(f"sample {tmp_path}/run --n 2 --steps 3 --out {tmp_path}/samples")
    more = f"train digits --init-from {tmp_path}/run --unconditional --steps 1 --batch-size 16"
    call(f"{more} --augment 0.1 --sample-every 0 --out {tmp_path}/more")
    refused(f"train moons --augment 0.1 {QUICK} --out {tmp_path}/x", "--augment: expected 0")
