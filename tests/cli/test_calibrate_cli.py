"""`scoresde calibrate`: what it stores, what `inspect` and `sample` make of it, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import answer, call, refused

from scoresde import VPSDE, Preconditioned, load, save
from scoresde.calibration.search import calibrate_each
from scoresde.nets import MLP, Vector
from scoresde.process import ReverseSDE
from scoresde.training.augment import CONDITION


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = Preconditioned(MLP(2, width=8, classes=3), VPSDE())
    for weight in made.parameters():  # the last layer starts at zero, where all grids are exact
        weight.data += 0.1 * torch.randn_like(weight)
    return save(made, tmp_path_factory.mktemp("calibrate") / "model")


def test_a_calibration_is_stored_shown_and_used(model: Path) -> None:
    assert "calibrated  no" in call(f"inspect {model}").stdout
    told = answer(f"calibrate {model} --steps 4,6 --budget 20000 --device cpu")
    assert told["evaluations"] <= 20_000 and sorted(told["calibrations"]) == ["4", "6"]
    four = told["calibrations"]["4"]
    assert four["error"] <= four["error_before"] and four["gain"] >= 1.0
    assert answer(f"inspect {model}")["calibrations"] == told["calibrations"]
    text = call(f"inspect {model}").stdout
    assert f"calibrated  for 4 ({four['gain']:.2g} times), 6 (" in text
    assert sorted(load(model).calibrations) == ["4", "6"]


def test_a_second_calibration_joins_the_first_one(model: Path) -> None:
    text = call(f"calibrate {model} --steps 3 --budget 20000 --device cpu").stdout
    assert "3 steps: " in text and "network evaluations; stored in" in text
    assert "3" in load(model).calibrations


def test_the_process_with_noise_is_calibrated_beside_the_flow(model: Path, tmp_path: Path) -> None:
    place = save(load(model), tmp_path / "model")
    call(f"calibrate {place} --steps 3 --budget 20000 --device cpu")
    text = call(f"calibrate {place} --steps 3 --eta 1 --budget 80000 --device cpu").stdout
    assert "two sets of samples of the fine run are " in text
    made = load(place).calibrations
    assert {"3", "eta=1 with 3"} <= set(made)
    noisy = made["eta=1 with 3"]
    assert noisy.eta == 1.0 and noisy.cost.evaluations <= 80_000
    assert noisy.cost.trajectories % 24 == 0  # 8 of each condition, the 3 classes in turn
    assert ("the automatic choice is kept" in text) == noisy.kept
    assert "eta=1 with 3 (" in call(f"inspect {place}").stdout


def test_the_trajectories_have_the_conditions_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default those of the run; a smaller table has its rows in turn."""
    table, other, run = tmp_path / "rows.csv", tmp_path / "other.csv", tmp_path / "run"
    columns = "a,b,wide\n"
    rows = [f"{0.1 * k:.1f},{0.01 * k * k:.2f},{k % 2}" for k in range(40)]
    table.write_text(columns + "\n".join(rows), encoding="utf-8")
    other.write_text(columns + "0.3,0.1,5\n0.5,0.2,7\n0.6,0.1,9", encoding="utf-8")
    option = "--data-option condition=wide"
    call(f"train {table} {option} --steps 2 --calibrate 0 --device cpu --out {run}")
    given: list[set[float]] = []
    search = calibrate_each

    def heard(process: ReverseSDE, *rest: object, **options: object) -> object:
        assert process.cond is not None
        given.append({round(float(v), 3) for v in process.cond["given"].flatten()})
        return search(process, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("scoresde.calibration.search.calibrate_each", heard)
    own = call(f"calibrate {run} --steps 3 --budget 20000 --device cpu")
    assert f"the data are those of the run: {table}" in own.stderr
    call(f"calibrate {run} {other} {option} --steps 3 --budget 20000 --device cpu")
    assert given == [{0.0, 1.0}, {5.0, 7.0, 9.0}]


def test_the_condition_of_the_augmentation_is_none_that_is_missed(tmp_path: Path) -> None:
    """It is for the training alone; a condition of the data is named."""
    for name, missed in ((CONDITION, False), ("y", True)):
        made = Preconditioned(MLP(2, width=8, conditions={name: Vector(2)}), VPSDE())
        place = save(made, tmp_path / name)
        told = call(f"calibrate {place} --steps 3 --budget 20000 --device cpu")
        assert (f"the trajectories have no {name}" in told.stderr) == missed


def test_bad_input_names_its_flag(model: Path) -> None:
    refused(f"calibrate {model} --steps 0", "--steps: expected", "above 0")
    refused(f"calibrate {model} --budget 100", "--budget: expected at least", "evaluations")
    refused(f"calibrate {model.parent / 'none'}", "MODEL: expected a checkpoint folder")
