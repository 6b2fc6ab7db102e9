"""Runs that are killed, told to end, out of disk, out of numbers, averaged later or spread out."""

import copy
import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import grouped
from safetensors.torch import load_file
from torch import Tensor, nn

from scoresde.losses import UniformTime, dsm_loss
from scoresde.model import Preconditioned, ScoreModel
from scoresde.nets import MLP
from scoresde.sde import VPSDE
from scoresde.training import Diverged, PowerEMA, Trainer, load, posthoc_ema, read_config
from scoresde.training.interrupt import Interrupts
from scoresde.training.posthoc_ema import exponent, weights_of
from scoresde.training.update import Update

ROOT = Path(__file__).parents[2]
TESTS = [str(ROOT / "tests"), str(ROOT / "tests/training")]


def points(n: int = 64) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def small(seed: int = 0, width: int = 8) -> ScoreModel:
    model = Preconditioned(MLP(2, width=width, depth=1), VPSDE())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def run(out: Path | None, model: ScoreModel | None = None, **changes: Any) -> Trainer:
    options: dict[str, Any] = {"steps": 12, "batch_size": 10, "log_every": 4, "out": out}
    options |= {"tensorboard": False, "checkpoint_every": 5} | changes
    return Trainer(model or small(), options.pop("data", points()), **grouped(**options))


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


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
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
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
    assert not [p for p in tmp_path.rglob(".*") if p.name.endswith(".tmp")]


# What is kept


def test_the_last_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    whole = run(tmp_path, checkpoint_every=2, keep=3).fit()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["000000008", "000000010", "000000012"]
    assert same(load(tmp_path / "checkpoints" / "000000012"), whole)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)  # of both names of the file
    with pytest.warns(UserWarning, match=r"(?s)intact file.*resuming from .*000000010 instead"):
        resumed = run(tmp_path, small(seed=5), checkpoint_every=2, keep=3).fit(resume=True)
    assert same(resumed, whole) and same(load(tmp_path / "checkpoint"), whole)
    # Another run is no damaged checkpoint: it is refused and not passed over.
    with pytest.raises(ValueError, match=r"seed: expected 0"):
        run(tmp_path, seed=3, keep=3).fit(resume=True)
    shutil.rmtree(tmp_path / "checkpoints")
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model\.safetensors: expected an intact file.*bytes"):
        run(tmp_path, keep=3).fit(resume=True)


def test_what_is_half_written_is_ignored_with_a_message(tmp_path: Path) -> None:
    run(tmp_path, steps=5).fit()
    half = tmp_path / ".checkpoint.0a1b2c3d.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    own = tmp_path / ".checkpoint.mine.tmp"
    own.mkdir()
    with pytest.warns(UserWarning, match=r"0a1b2c3d\.tmp is a half-written checkpoint"):
        run(tmp_path, steps=6).fit(resume=True)
    assert not half.exists() and own.exists()


def test_a_new_run_removes_what_another_left(tmp_path: Path) -> None:
    changes = {"keep": 3, "checkpoint_every": 2, "snapshot_every": 2, "validation": points(20)}
    run(tmp_path, steps=10, **changes).fit()
    run(tmp_path, steps=4, lr=2e-3, **changes).fit()
    for name in ("checkpoints", "snapshots"):
        assert sorted(os.listdir(tmp_path / name)) == ["000000002", "000000004"]


def test_what_a_kill_left_undone_is_done_by_the_resumed_run(tmp_path: Path) -> None:
    """Killed before the checkpoint got its second name, or before its predecessor was removed."""
    changes = {"checkpoint_every": 3, "keep": 2}
    run(tmp_path / "whole", **changes).fit()
    run(tmp_path / "parts", **changes, steps=9).fit()
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "000000009")
    shutil.copytree(tmp_path / "parts" / "checkpoint", tmp_path / "parts" / ".checkpoint.previous")
    run(tmp_path / "parts", small(seed=4), **changes).fit(resume=True)
    run(tmp_path / "parts", small(seed=4), **changes).fit(resume=True)  # with nothing left to do
    for name in (".", "checkpoints"):
        parts = [sorted(os.listdir(tmp_path / part / name)) for part in ("whole", "parts")]
        assert parts[0] == parts[1]
    assert parts[1] == ["000000009", "000000012"]


def test_logs_of_a_killed_run_have_no_row_twice_and_none_missing(tmp_path: Path) -> None:
    """TensorBoard's events too: those after the checkpoint are made anew, the one at it is not."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Gone(BaseException):
        pass

    options: dict[str, Any] = {"tensorboard": True, "log_every": 2, "checkpoint_every": 4}
    options |= {"validation": points(10), "validate_every": 2, "buckets": 1, "callback_every": 1}

    def until(last: int) -> Callable[..., None]:
        def die(step: int, model: ScoreModel) -> None:
            if step == last:
                raise Gone

        return die

    for last in (7, 10):
        trainer = run(tmp_path, **options, callback=until(last))
        with pytest.raises(Gone):
            trainer.fit(resume=(tmp_path / "checkpoint").exists())
    (trainer := run(tmp_path, **options)).fit(resume=True)
    steps = [2, 4, 6, 8, 10, 12]
    assert [row[0] for row in trainer.history] == steps
    for name in ("history.csv", "validation.csv"):
        with (tmp_path / name).open(newline="") as file:
            assert [int(row["step"]) for row in csv.DictReader(file)] == steps
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "lr", "gradient_norm", "validation"):
        assert [event.step for event in events.Scalars(name)] == steps, name
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([row[1] for row in trainer.history], rel=1e-6)


# A full disk


@pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), None])
def test_a_full_disk_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: OSError | None
) -> None:
    import safetensors.torch

    with monkeypatch.context() as patch:
        real, count = safetensors.torch.save_file, iter(range(100))

        def full(*arguments: Any) -> None:
            if next(count) < 2:  # the first checkpoint
                real(*arguments)
            else:
                raise kind or safetensors.SafetensorError("Error while serializing: I/O error")

        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match=r"path: .*checkpoint, got .*is intact: free some space"):
            run(tmp_path).fit()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "history.csv"]
    assert read_config(tmp_path / "checkpoint")["extra"]["step"] == 5
    assert same(run(tmp_path, small(seed=4)).fit(resume=True), run(None).fit())


LIMITED = """
import resource, sys, torch
sys.path[:0] = {tests!r}
from test_resume import run, small
from pathlib import Path
out = Path({out!r})
run(out, small(width=64), steps=5).fit()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    run(out, small(width=64), steps=10).fit(resume=True)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_a_quota_is_a_clear_error(tmp_path: Path) -> None:
    code = LIMITED.format(tests=TESTS, out=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert "path: expected to write" in done.stdout and "intact" in done.stdout, done
    assert read_config(tmp_path / "checkpoint")["extra"]["step"] == 5
    load(tmp_path / "checkpoint")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


ELSEWHERE = """
import os, sys
sys.path[:0] = {tests!r}
from test_resume import run, small
from pathlib import Path
run(None, small(), steps=1).fit()  # imports what the other user may not read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
for name in ("closed/run", "locked/run", "run"):
    try:
        run(Path({out!r}) / name, small(), steps=2).fit()
    except OSError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="becomes another user")
def test_a_folder_of_somebody_else_is_a_clear_error() -> None:
    """For a user who may read and not write, before any training."""
    with tempfile.TemporaryDirectory() as folder:  # pytest closes its own to other users
        refused_elsewhere(Path(folder))


def refused_elsewhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    run(tmp_path / "run", steps=2).fit()
    for name, mode in (("closed", 0o700), ("locked", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    before = (tmp_path / "run" / "history.csv").read_bytes()
    code = ELSEWHERE.format(tests=TESTS, out=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    files = ("closed/run", "locked/run/history.csv", "run/history.csv")
    for line, file in zip(lines, files, strict=True):
        assert line.startswith("PermissionError") and f"out: expected to write {tmp_path}" in line
        assert file in line and "may write to" in line and "free some space" not in line
    assert (tmp_path / "run" / "history.csv").read_bytes() == before
    load(tmp_path / "run" / "checkpoint")


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A real one, of 256 KiB, on which the second checkpoint has no room beside the first."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount")
    try:
        options: dict[str, Any] = {"schedule": "constant"}
        run(disk, small(width=32), steps=4, **options).fit()
        weights = (disk / "checkpoint" / "model.safetensors").read_bytes()
        free = shutil.disk_usage(disk).free
        (disk / "other").write_bytes(b"x" * (free - 16384))
        match = r"No space left.*the one before it is intact: free some space"
        with pytest.raises(OSError, match=match) as caught:
            run(disk, small(width=32), steps=8, **options).fit(resume=True)
        assert caught.value.errno == errno.ENOSPC
        assert (disk / "checkpoint" / "model.safetensors").read_bytes() == weights
        (disk / "other").unlink()
        found = run(disk, small(width=32), steps=8, **options).fit(resume=True)
        assert same(found, run(None, small(width=32), steps=8, **options).fit())
        assert sorted(os.listdir(disk)) == ["checkpoint", "history.csv"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# Losses that are not finite


def poisoned(rows: Tensor, steps: set[int], accumulate: int = 1) -> Callable[..., Tensor]:
    """dsm_loss, infinite in some rows of the data, in some steps, from 1."""
    calls = iter(range(10_000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = dsm_loss(model, x0, **options)
        bad = (x0[:, None] == rows).all(-1).any(1)
        step = next(calls) // accumulate + 1
        return torch.where(bad, math.nan, 1.0) * each if step in steps else each

    return loss


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    """It changes neither weights nor moments nor averages: hands would leave it out as well."""
    updates: list[int] = []
    loss = poisoned(points(), {3, 6})
    trainer = run(tmp_path, model := small(), loss=loss, steps=8, log_every=4, snapshot_every=4)
    found = trainer.fit()
    assert [m["skipped"] for m in trainer.metrics] == [1, 0, 1]  # rows 4, 5 (checkpoint), 8
    assert all(math.isfinite(row[1]) for row in trainer.history)
    assert read_config(tmp_path / "checkpoint")["training"]["ema_updates"] == 6
    by_hand = Update(other := small())
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


# Averages whose length is chosen afterwards


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94), (1 / 12**0.5, 0.0)])
def test_the_exponents_of_the_paper(width: float, gamma: float) -> None:
    found = exponent(width)
    assert found == pytest.approx(gamma, abs=0.006)
    assert math.sqrt(found + 1) / (found + 2) / math.sqrt(found + 3) == pytest.approx(width)


def test_the_profile_is_that_of_the_power() -> None:
    """The weights of the steps are the integrals of (gamma + 1) s^gamma / t^(gamma + 1)."""
    steps, net = 30, nn.Linear(30, 1, bias=False).double()
    mean = PowerEMA(net, 0.1)
    for s in range(steps):
        with torch.no_grad():
            net.weight.copy_(torch.eye(steps, dtype=torch.float64)[s : s + 1])
        mean.update(net)
    s = torch.arange(steps + 1, dtype=torch.float64) / steps
    expected = (s ** (mean.gamma + 1)).diff()
    torch.testing.assert_close(mean.tensors["weight"][0], expected, rtol=1e-12, atol=1e-14)


def test_weights_of_a_profile_that_is_there() -> None:
    steps = [float(s) for s in range(10, 101, 10)]
    times, gammas = [s for s in steps for _ in range(2)], [16.97, 6.94] * 10
    found, missed = weights_of(times, gammas, 100.0, 6.94)
    assert missed < 1e-6
    expected = torch.zeros(20, dtype=torch.float64)
    expected[-1] = 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # Against quadrature on a fine grid: the best combination of sampled profiles.
    s = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 2000
    wanted = 11.0 * s**10.0 / 100**11.0
    columns = [(g + 1) * (s / t) ** g / t * (s <= t) for t, g in zip(times, gammas, strict=True)]
    a = torch.stack(columns, 1)
    solved = torch.linalg.lstsq(a, wanted[:, None]).solution[:, 0]
    found, missed = weights_of(times, gammas, 100.0, 10.0)
    residual = (a @ found - wanted).norm() / wanted.norm()
    assert missed == pytest.approx(float(residual), rel=1e-3)
    assert float(residual) == pytest.approx(
        float((a @ solved - wanted).norm() / wanted.norm()), rel=1e-3
    )


def test_any_length_after_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against averages of these lengths that were tracked all along: error / norm of weights."""
    bounds = {0.05: 1e-6, 0.06: 1e-3, 0.08: 1e-3, 0.10: 1e-6, 0.15: 1e-2}
    tracked: list[PowerEMA] = []
    apply = Update.apply

    def tracking(self: Update, norm: Tensor | None = None) -> Tensor:
        norm = apply(self, norm)
        if not tracked:
            tracked.extend(PowerEMA(self.model, width) for width in bounds)
        for mean in tracked:
            mean.update(self.model)
        return norm

    monkeypatch.setattr(Update, "apply", tracking)
    options = {"steps": 200, "lr": 3e-2, "schedule": "constant", "checkpoint_every": 1000}
    trainer = run(tmp_path, model := small(), snapshot_every=10, **options)
    trainer.fit()

    def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        return math.sqrt(sum(float((a[k] - b[k]).detach().square().sum()) for k in b))

    raw = dict(model.named_parameters())
    for mean in tracked:
        found = dict(posthoc_ema(tmp_path, mean.width).named_parameters())
        wrong = distance(found, mean.tensors) / distance(raw, mean.tensors)
        assert wrong < bounds[mean.width]


def test_a_snapshot_before_the_first_update_has_no_say(tmp_path: Path) -> None:
    loss = poisoned(points(), {1, 2, 3, 4})
    trainer = run(tmp_path, loss=loss, steps=24, snapshot_every=3, batch_size=64)
    trainer.fit()
    with pytest.raises(ValueError, match=r"step: expected one after the first update, got 3"):
        posthoc_ema(tmp_path, 0.1, step=3)
    found = posthoc_ema(tmp_path, 0.10)
    kept = load_file(tmp_path / "snapshots" / "000000024" / "track1.safetensors")
    for name, value in found.named_parameters():
        torch.testing.assert_close(value.detach(), kept[name], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_averaged_afterwards(tmp_path: Path) -> None:
    run(tmp_path, steps=4).fit()
    with pytest.raises(FileNotFoundError, match=r"out: expected snapshots.*snapshot_every"):
        posthoc_ema(tmp_path, 0.1)
    with pytest.raises(FileNotFoundError, match=r"path: expected a checkpoint folder"):
        posthoc_ema(tmp_path / "none", 0.1)
    run(tmp_path, steps=20, snapshot_every=5).fit()
    assert same(posthoc_ema(tmp_path, 0.1, step=20), posthoc_ema(tmp_path, 0.1))
    assert not same(posthoc_ema(tmp_path, 0.1, step=10), posthoc_ema(tmp_path, 0.1))
    with pytest.raises(ValueError, match=r"step: expected one of 5, 10, 15, 20, got 7"):
        posthoc_ema(tmp_path, 0.1, step=7)
    with pytest.raises(ValueError, match=r"width: expected a width below 0\.2886"):
        posthoc_ema(tmp_path, 0.3)
    with pytest.raises(ValueError, match=r"width: expected one in reach, got 0\.01, .* miss by"):
        posthoc_ema(tmp_path, 0.01)
    with pytest.raises(ValueError, match=r"widths: expected \[0\.05, 0\.1\], as in .* got \[\]"):
        run(tmp_path, steps=30).fit(resume=True)
    config = tmp_path / "snapshots" / "000000010" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"updates": 3}))
    with pytest.raises(ValueError, match=r"config\.json: expected an intact file.*no snapshot"):
        posthoc_ema(tmp_path, 0.1)


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
    (first, losses), (second, again) = trainer.validations
    assert (first, second) == (6, 12) and losses == again  # the same times and noise every time
    sde = VPSDE()
    ends = [sde.t_min + (sde.T - sde.t_min) * i / 4 for i in range(5)]
    middles = [(a + b) / 2 for a, b in pairwise(ends)]
    assert losses == pytest.approx(middles, abs=0.25 / 25)
    with (tmp_path / "validation.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["step", "loss", *(f"{a:.4g}-{b:.4g}" for a, b in pairwise(ends))]
    assert [tuple(map(float, r[2:])) for r in rows] == [losses, losses]
    assert float(rows[0][1]) == pytest.approx(sum(losses) / 4)


def test_validation_is_the_loss_of_the_averaged_model() -> None:
    """The mean over the intervals is that of uniform times, and conditions come along."""
    trainer = run(None, validation=points(400), steps=3, validate_every=3, buckets=5)
    model = trainer.fit()
    ((_, losses),) = trainer.validations
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        many = dsm_loss(model, points(400).repeat(50, 1), time=UniformTime(), generator=draws)
    spread = float(many.std()) / math.sqrt(400 * 5)
    assert sum(losses) / 5 == pytest.approx(float(many.mean()), abs=4 * spread)


def test_the_best_model_is_kept(tmp_path: Path) -> None:
    """Of the lowest validation loss; the run goes uphill after some steps."""
    calls = iter(range(1000))

    def turning(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = dsm_loss(model, x0, **options)
        return -each if torch.is_grad_enabled() and next(calls) > 8 else each

    options = {"lr": 0.02, "schedule": "constant", "ema": None, "steps": 20, "loss": turning}
    trainer = run(tmp_path, validation=points(40), validate_every=1, **options)
    seen: dict[int, ScoreModel] = {}
    trainer.callback, trainer.callback_every = lambda k, m: seen.update({k: copy.deepcopy(m)}), 1
    trainer.fit()
    means = {step: math.fsum(v) / len(v) for step, v in trainer.validations}
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

    for ema in (0.999, None):
        calls.clear()
        seen = {"validation": points(20), "validate_every": 3}
        trainer = run(None, callback=draw, callback_every=5, ema=ema, **seen)
        found = trainer.fit()
        assert same(found, plain if ema else run(None, ema=None).fit())
        assert calls == [(5, False, True), (10, False, True), (12, False, True)]


@pytest.mark.slow
def test_a_compiled_network_learns_the_same() -> None:
    plain = run(None, steps=5).fit()
    found = run(None, model := small(), steps=5, compile=True).fit()
    assert model.net._compiled_call_impl is None
    for a, b in zip(plain.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
