"""Early stopping: the run ends when its patience is spent, and returns its best model."""

from __future__ import annotations

import copy
import csv
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import at_call, equal_folders
from torch import Tensor
from training_models import points, run, same, small

from scoresde.losses import dsm_loss
from scoresde.model import ScoreModel
from scoresde.training import Trainer, load, read_config
from scoresde.training.state import State, ValidationRow


def turning(after: int) -> Callable[..., Tensor]:
    """dsm_loss, whose sign turns in training, so that the validation loss rises from there on."""
    calls = iter(range(10_000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = dsm_loss(model, x0, **options)
        return -each if torch.is_grad_enabled() and next(calls) >= after else each

    return loss


def uphill(out: Path | None, model: ScoreModel | None = None, **changes: Any) -> Trainer:
    options = {"lr": 0.005, "schedule": "constant", "ema": 0.5, "steps": 30, "patience": 3}
    options |= {"validation": points(40), "validate_every": 2, "loss": turning(8)} | changes
    return run(out, model, **options)


def test_patience_counts_validations_in_a_row_without_a_lower_loss() -> None:
    state, waited = State(), []
    for step, loss in enumerate((3.0, 2.0, 2.0, 2.5, 1.0, float("nan"), 1.5, 0.5)):
        lowest = state.judge(ValidationRow(step, loss, (loss,)))
        waited.append((lowest, state.waited))
    assert [w for _, w in waited] == [0, 0, 1, 2, 0, 1, 2, 0]
    assert [low for low, _ in waited] == [w == 0 for _, w in waited]
    assert State.from_dict({"step": 8, **state.to_dict()}).waited == 0


def test_the_lowest_validation_is_the_first_of_that_loss_since_it_was_sought_anew() -> None:
    state, found = State(), []
    assert state.lowest is None
    for step, loss in enumerate((float("nan"), 3.0, 2.0, 2.0, 2.5)):
        state.judge(ValidationRow(step, loss, (loss,)))
        found.append(state.lowest and state.lowest.step)
    assert found == [None, 1, 2, 2, 2]
    assert State.from_dict({"step": 5, **state.to_dict()}).lowest == state.lowest
    state.forget_best()
    assert state.lowest is None
    state.judge(ValidationRow(5, 9.0, (9.0,)))
    assert state.lowest == ValidationRow(5, 9.0, (9.0,))


@pytest.mark.parametrize("ema", [0.5, 0])
@pytest.mark.parametrize("folder", [True, False])
def test_the_run_ends_and_returns_its_best_model(tmp_path: Path, folder: bool, ema: float) -> None:
    trainer = uphill(tmp_path if folder else None, ema=ema)
    seen: dict[int, ScoreModel] = {}
    trainer.callback, trainer.callback_every = lambda k, m: seen.update({k: copy.deepcopy(m)}), 2
    found = trainer.fit()
    losses = {row.step: row.loss for row in trainer.validations}
    best = min(losses, key=losses.__getitem__)
    assert 2 < best < 16 and trainer.stopped == best + 6 == max(losses)
    assert same(found, seen[best]) and not same(found, seen[trainer.stopped])
    assert not found.training and all(p.requires_grad for p in found.parameters())
    if folder:
        assert same(load(tmp_path / "best"), found)
        assert same(load(tmp_path / "checkpoint"), seen[trainer.stopped])
        config = read_config(tmp_path / "checkpoint")
        assert config["extra"]["step"] == trainer.stopped
        with (tmp_path / "history.csv").open(newline="") as file:
            assert int(list(csv.reader(file))[-1][0]) == trainer.stopped


def test_without_patience_the_last_average_is_returned_and_with_it_the_best() -> None:
    patient, plain = (uphill(None, patience=n, steps=20) for n in (100, None))
    best, last = patient.fit(), plain.fit()
    assert patient.stopped is None is plain.stopped
    assert patient.validations == plain.validations and len(plain.validations) == 10
    assert not same(best, last)
    assert same(patient.model, plain.model)


@pytest.mark.parametrize("step", [5, 11])
def test_an_interrupted_run_with_patience_goes_on_to_the_same_end(
    tmp_path: Path, step: int
) -> None:
    whole = (first := uphill(tmp_path / "whole")).fit()
    turn = turning(8)

    def stopping(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = turn(model, x0, **options)
        if torch.is_grad_enabled():
            kill(model, x0, **options)
        return each

    kill = at_call(step, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        uphill(tmp_path / "parts", loss=stopping).fit()
    second = uphill(tmp_path / "parts", small(seed=7), loss=turning(8 - step))
    assert same(second.fit(resume=True), whole) and second.stopped == first.stopped
    assert second.validations == first.validations
    assert equal_folders(tmp_path / "whole" / "best", tmp_path / "parts" / "best")


def test_a_run_whose_patience_is_spent_makes_no_further_step_unless_it_gets_more(
    tmp_path: Path,
) -> None:
    first = uphill(tmp_path)
    found = first.fit()
    again = uphill(tmp_path, small(seed=7))
    assert same(again.fit(resume=True), found) and again.stopped == first.stopped
    more = uphill(tmp_path, small(seed=7), patience=5, loss=turning(0))
    with pytest.warns(UserWarning, match=r"goes on from step \d+ with other .*patience 3 -> 5"):
        assert same(more.fit(resume=True), found)
    assert more.stopped == first.stopped + 4


def test_a_best_model_that_is_gone_is_sought_anew_with_a_warning(tmp_path: Path) -> None:
    uphill(tmp_path, steps=6).fit()
    for file in (tmp_path / "best").iterdir():
        file.unlink()
    (tmp_path / "best").rmdir()
    longer = uphill(tmp_path, steps=8)
    with pytest.warns(UserWarning, match=r"best: expected the model of the lowest.*got none"):
        found = longer.fit(resume=True)
    assert same(found, load(tmp_path / "best"))
    assert read_config(tmp_path / "best")["extra"]["step"] == 8


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_without_an_intact_best_model_the_patience_counts_from_the_resumption(
    tmp_path: Path, damage: str
) -> None:
    """The loss rises already, so the old count would end the run at once."""
    first = uphill(tmp_path, steps=14)
    first.fit()
    assert first.stopped is None and len(first.validations) == 7
    place = tmp_path / "best"
    if damage == "missing":
        shutil.rmtree(place)
    else:
        file = place / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-9])
    more = uphill(tmp_path, steps=40, patience=2, loss=turning(0))
    with pytest.warns(UserWarning, match=r"best: expected the model of .*none that is intact"):
        found = more.fit(resume=True)
    assert more.stopped == 20  # the lowest since then is that of step 16, two later end the run
    assert same(found, load(place)) and read_config(place)["extra"]["step"] == 16


def test_a_run_that_ends_early_writes_its_snapshot_and_calls_back(tmp_path: Path) -> None:
    calls: list[int] = []
    trainer = uphill(tmp_path, snapshot_every=100)
    trainer.callback = lambda step, model: calls.append(step)
    trainer.fit()
    assert trainer.stopped is not None and calls == [trainer.stopped]
    assert [int(p.name) for p in (tmp_path / "snapshots").iterdir()] == calls


def test_patience_needs_validation() -> None:
    with pytest.raises(ValueError, match=r"patience: expected validation data.*got None; pass"):
        run(None, patience=2)
    with pytest.raises(ValueError, match=r"patience: expected a positive integer, got 0"):
        run(None, patience=0, validation=points(20))


def test_another_objective_on_resumption_seeks_the_lowest_loss_anew(tmp_path: Path) -> None:
    """Losses of two objectives do not compare: the old best neither stays nor ends the run."""
    uphill(tmp_path, loss=None, steps=8).fit()
    other = uphill(tmp_path, small(seed=7), loss=None, steps=14, objective="likelihood")
    with pytest.warns(UserWarning, match="objective quality -> likelihood"):
        other.fit(resume=True)
    assert other.began == 8
    anew = {row.step: row.loss for row in other.validations if row.step > 8}
    assert min(anew.values()) > min(row.loss for row in other.validations)
    best = read_config(tmp_path / "best")["extra"]["step"]
    assert best == min(anew, key=anew.__getitem__)
