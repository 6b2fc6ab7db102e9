"""Runs that are told to end, die while saving, or lose their numbers."""

import copy
import csv
import math
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_models import points, poisoned, run, same, small

from scoresde.losses import UniformTime, dsm_loss
from scoresde.model import ScoreModel
from scoresde.sde import VPSDE
from scoresde.training import Diverged, load, read_config
from scoresde.training.interrupt import Interrupts
from scoresde.training.update import Update


def at_call(number: int, act: Callable[[], Any]) -> Callable[..., Tensor]:
    """dsm_loss that does something else too in its training call number `number`, from 1."""
    count = iter(range(1, 100_000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        if torch.is_grad_enabled() and next(count) == number:
            act()
        return dsm_loss(model, x0, **options)

    return loss


def equal_folders(a: Path, b: Path) -> bool:
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir())
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


# Signals


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_and_a_checkpoint(
    tmp_path: Path, number: int, accumulate: int
) -> None:
    """The resumed run equals the undisturbed one to the bit, history and validation too."""
    changes = {"accumulate": accumulate, "validation": points(20), "validate_every": 4}
    changes |= {"keep": 2, "snapshot_every": 3}
    whole = run(tmp_path / "whole", first := small(), **changes).fit()
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    loss = at_call(6 * accumulate, lambda: signal.raise_signal(number))  # in step 6 of 12
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        run(tmp_path / "parts", small(), loss=loss, **changes).fit()
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    else:
        assert caught.type is KeyboardInterrupt
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert read_config(tmp_path / "parts" / "checkpoint")["extra"]["step"] == 6
    second = run(tmp_path / "parts", fresh := small(seed=7), **changes)
    assert same(second.fit(resume=True), whole) and same(first, fresh)
    for name in ("checkpoint", "best", "snapshots/000000006", "checkpoints/000000012"):
        assert equal_folders(tmp_path / "whole" / name, tmp_path / "parts" / name), name
    for name in ("history.csv", "validation.csv"):
        parts = [(tmp_path / part / name).read_bytes() for part in ("whole", "parts")]
        assert parts[0] == parts[1]


def test_a_run_with_muon_resumes_to_the_bit(tmp_path: Path) -> None:
    changes = {"optimizer": "muon", "lr": 0.02, "weight_decay": 0.1, "clip": 0.1}
    whole = run(tmp_path / "whole", **changes).fit()
    loss = at_call(7, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", loss=loss, **changes).fit()
    assert same(run(tmp_path / "parts", small(seed=7), **changes).fit(resume=True), whole)
    assert equal_folders(tmp_path / "whole" / "checkpoint", tmp_path / "parts" / "checkpoint")
    assert not same(run(None, **changes | {"optimizer": "adamw"}).fit(), whole)


def test_a_signal_in_the_last_validation_or_write_is_obeyed(tmp_path: Path) -> None:
    """The run is over, and what comes after it in the script must not go on."""
    for step in (8, 12):
        act = {step: lambda: signal.raise_signal(signal.SIGTERM)}
        options = {"callback": lambda k, _, act=act: act.get(k, int)(), "callback_every": 4}
        with pytest.raises(SystemExit) as caught:
            run(tmp_path, **options).fit()
        assert caught.value.code == 143
        assert read_config(tmp_path / "checkpoint")["extra"]["step"] == min(12, step + 1)


def test_a_second_signal_does_not_wait_and_leaves_the_checkpoint_whole(tmp_path: Path) -> None:
    whole = run(None).fit()

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=at_call(8, twice)).fit()
    assert read_config(tmp_path / "checkpoint")["extra"]["step"] == 5
    assert same(run(tmp_path, small(seed=4)).fit(resume=True), whole)


@pytest.mark.parametrize("during", ["fsync", "replace"])
def test_a_second_signal_in_the_write_that_the_first_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    whole = run(None).fit()
    real = getattr(os, during)

    def impatient(*arguments: Any) -> Any:
        if started:
            monkeypatch.undo()
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    started: list[int] = []

    def first() -> None:
        started.append(1)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, during, impatient)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=at_call(8, first)).fit()
    assert read_config(tmp_path / "checkpoint")["extra"]["step"] == 5
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]
    assert same(run(tmp_path, small(seed=4)).fit(resume=True), whole)


def test_handlers_of_the_user_hear_the_signal_and_a_second_one_is_obeyed_at_once() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.caught == signal.SIGTERM and heard == []
            signal.raise_signal(signal.SIGTERM)
            assert heard == [signal.SIGTERM]
            with pytest.raises(SystemExit):
                interrupts.obey(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_another_thread_or_without_a_folder_leaves_signals_alone() -> None:
    found: list[Any] = []
    before = signal.getsignal(signal.SIGTERM)
    seen = at_call(1, lambda: found.append(signal.getsignal(signal.SIGTERM)))
    run(None, loss=seen, steps=1).fit()
    assert found == [before]
    thread = threading.Thread(target=lambda: found.append(run(None, steps=1).fit()))
    thread.start()
    thread.join()
    assert isinstance(found[1], ScoreModel)


# Death while saving; tests/training/test_kills.py kills real processes


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", range(19))
def test_death_at_any_call_of_the_system_while_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """As SIGKILL would: nothing is cleaned up after the call at which the process dies."""
    whole = run(None).fit()
    count = iter(range(10_000))

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            if next(count) >= 18 + call:  # from the second checkpoint on
                raise Killed
            return real(*arguments, **options)

        return act

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "link"):
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        with pytest.raises(Killed):
            run(tmp_path, checkpoint_every=3, keep=2).fit()
    load(tmp_path / "checkpoint")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*half-written")  # there is one after some of the calls
        resumed = run(tmp_path, small(seed=5), checkpoint_every=3, keep=2).fit(resume=True)
    assert same(resumed, whole)
    assert not [p for p in tmp_path.rglob(".*") if ".tmp" in p.name]


# Losses that are not finite


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    """It changes neither weights nor moments nor averages: hands would leave it out as well."""
    updates: list[int] = []
    loss = poisoned(points(), {3, 6})
    trainer = run(tmp_path, model := small(), loss=loss, steps=8, log_every=4, snapshot_every=4)
    found = trainer.fit()
    assert [m["skipped"] for m in trainer.metrics] == [1, 0, 1]  # rows 4, 5 (checkpoint), 8
    assert all(math.isfinite(row[1]) for row in trainer.history)
    assert read_config(tmp_path / "checkpoint")["training"]["ema_updates"] == 6
    by_hand = Update(other := small(), trainer.optim)
    for step in (0, 1, 3, 4, 6, 7):
        stream = trainer.stream
        by_hand.set_lr(trainer.lr_at(step))
        each = dsm_loss(
            other,
            points()[stream.rows(step)],
            generator=stream.generator(step),
            time=trainer.loss.time,
        )
        by_hand.step(each.mean())
        updates.append(step)
    assert same(model, other) and same(found, by_hand.result())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_too_many_in_a_row_name_step_rows_and_times(accumulate: int) -> None:
    bad = points()[[11, 40]]
    everywhere = set(range(5, 100))
    loss = poisoned(bad, everywhere, accumulate)
    options = {"batch_size": 64, "accumulate": accumulate, "max_nonfinite": 3, "steps": 20}
    trainer = run(None, loss=loss, **options)
    with pytest.raises(Diverged, match=r"loss: expected finite values, got nan at step 7") as e:
        trainer.fit()
    text = str(e.value)
    assert "(3 of them in a row were skipped)" in text and "lower lr" in text
    named = text.partition("rows ")[2].partition(" of the data")[0].split(", ")
    assert {int(name) for name in named} == {11, 40}
    # The times are those that the loss drew for these rows.
    times = []
    for piece in range(accumulate):
        number = 6 * accumulate + piece
        rows = trainer.stream.rows(number)
        drawn, _ = trainer.loss.time.sample(VPSDE(), 64, trainer.stream.generator(number))
        times += drawn[(rows == 11) | (rows == 40)].tolist()
    assert f"t in [{min(times):.4g}, {max(times):.4g}]" in text
    # With a finite step in between, nothing stops.
    run(None, loss=poisoned(points(), {3, 4, 6, 7}), steps=9, max_nonfinite=3).fit()


# Validation, callback, compilation


def test_validation_by_time(tmp_path: Path) -> None:
    """A loss that is the time itself: each interval gives its own middle."""

    def clock(model: ScoreModel, x0: Tensor, *, time: Any, generator: Any, **_: Any) -> Tensor:
        t, _ = time.sample(model.sde, len(x0), generator)
        assert torch.is_grad_enabled() == model.training
        return t.float() + 0.0 * model.net.exit.bias.sum()

    options = {"validate_every": 6, "buckets": 4, "batch_size": 25}
    trainer = run(tmp_path, loss=clock, validation=points(50), **options)
    trainer.fit()
    (first, own, losses), (second, *again) = trainer.validations
    assert (first, second) == (6, 12) and [own, losses] == again  # the same times and noise
    sde = VPSDE()
    ends = [sde.t_min + (sde.T - sde.t_min) * i / 4 for i in range(5)]
    middles = [(a + b) / 2 for a, b in pairwise(ends)]
    assert losses == pytest.approx(middles, abs=0.25 / 25)
    with (tmp_path / "validation.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["step", "loss", "uniform", *(f"{a:.4g}-{b:.4g}" for a, b in pairwise(ends))]
    assert [tuple(map(float, r[3:])) for r in rows] == [losses, losses]
    assert float(rows[0][2]) == pytest.approx(sum(losses) / 4)
    draws = torch.Generator().manual_seed(0)
    mean = trainer.loss.time.sample(sde, 100_000, draws)[0].mean()
    assert float(rows[0][1]) == own == pytest.approx(float(mean), abs=0.02)


def test_validation_is_the_loss_of_the_averaged_model() -> None:
    """The mean over the intervals is that of uniform times, and conditions come along."""
    trainer = run(None, validation=points(400), steps=3, validate_every=3, buckets=5)
    model = trainer.fit()
    (row,) = trainer.validations
    draws = torch.Generator().manual_seed(5)
    x = points(400).repeat(50, 1)
    for time, found, count in (
        (UniformTime(), row.uniform, 400 * 5),
        (trainer.loss.time, row.loss, 400),
    ):
        with torch.no_grad():
            many = dsm_loss(model, x, time=time, generator=draws)
        spread = float(many.std()) / math.sqrt(count)
        assert found == pytest.approx(float(many.mean()), abs=4 * spread)
    assert abs(row.loss - row.uniform) > 0.02


def test_the_best_model_is_kept(tmp_path: Path) -> None:
    """Of the lowest validation loss; the run goes uphill after some steps."""
    calls = iter(range(1000))

    def turning(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = dsm_loss(model, x0, **options)
        return -each if torch.is_grad_enabled() and next(calls) > 8 else each

    options = {"lr": 0.02, "schedule": "constant", "ema": 0, "steps": 20, "loss": turning}
    trainer = run(tmp_path, validation=points(40), validate_every=1, **options)
    seen: dict[int, ScoreModel] = {}
    trainer.callback, trainer.callback_every = lambda k, m: seen.update({k: copy.deepcopy(m)}), 1
    trainer.fit()
    means = {row.step: row.loss for row in trainer.validations}
    best = min(means, key=means.__getitem__)
    assert 1 < best < 20
    assert read_config(tmp_path / "best")["extra"] == {"step": best, "validation": means[best]}
    assert same(load(tmp_path / "best"), seen[best])


def test_looking_on_changes_nothing() -> None:
    """Validation, callback and gradient norms leave weights and random numbers as they were."""
    plain = run(None).fit()
    calls: list[tuple[int, bool, bool]] = []

    def draw(step: int, model: ScoreModel) -> None:
        torch.randn(100)  # of the global generator
        calls.append((step, model.training, torch.isfinite(model.score(0.5, points(3))).all()))

    for changes in ({}, {"ema": 0}):
        calls.clear()
        seen = {"validation": points(20), "validate_every": 3}
        trainer = run(None, callback=draw, callback_every=5, **seen, **changes)
        found = trainer.fit()
        assert same(found, run(None, **changes).fit() if changes else plain)
        assert calls == [(5, False, True), (10, False, True), (12, False, True)]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_compiled_network_learns_the_same() -> None:
    plain = run(None, steps=5).fit()
    found = run(None, model := small(), steps=5, compile=True).fit()
    assert model.net._compiled_call_impl is None
    for a, b in zip(plain.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
