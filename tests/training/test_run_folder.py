"""What a run keeps in its folder, and what a full disk leaves."""

import csv
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared import contents
from training_models import points, run, same, small

from scoresde.model import ScoreModel
from scoresde.training import load, read_config

ROOT = Path(__file__).parents[2]
TESTS = [str(ROOT / "tests"), str(ROOT / "tests/training")]


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


def test_a_refused_run_leaves_the_logs_of_the_one_before_as_they_are(tmp_path: Path) -> None:
    changes = {"validation": points(20), "tensorboard": True}
    run(tmp_path, **changes).fit()
    before = contents(tmp_path)
    assert {"history.csv", "validation.csv"} <= before.keys()
    with pytest.raises(ValueError, match=r"^data: expected a batch that model and loss take"):
        run(tmp_path, data=points(dim=3), tensorboard=True).fit()
    assert contents(tmp_path) == before


def test_a_new_run_replaces_the_curves_of_tensorboard(tmp_path: Path) -> None:
    files = set()
    for seed in range(3):
        run(tmp_path, seed=seed, tensorboard=True).fit()
        (file,) = (tmp_path / "tensorboard").iterdir()
        files.add(file.name)
    assert len(files) == 3
    run(tmp_path, seed=2, steps=13, tensorboard=True).fit(resume=True)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # of which the second goes on


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


def test_logs_of_a_killed_run_have_no_row_twice_and_none_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard's events too: those after the checkpoint are made anew, the one at it is not."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Files of one second are read in the order of this number as a text, where 10 is before 9.
    numbers = "tensorboard.summary.writer.event_file_writer"
    counter = pytest.importorskip(numbers).AtomicCounter(100)
    monkeypatch.setattr(f"{numbers}._global_uid", counter)

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
from training_models import run, small
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
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]


ELSEWHERE = """
import os, sys
sys.path[:0] = {tests!r}
from training_models import run, small
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
        run(disk, small(width=24), steps=4, **options).fit()
        weights = (disk / "checkpoint" / "model.safetensors").read_bytes()
        free = shutil.disk_usage(disk).free
        (disk / "other").write_bytes(b"x" * (free - 16384))
        match = r"No space left.*the one before it is intact: free some space"
        with pytest.raises(OSError, match=match) as caught:
            run(disk, small(width=24), steps=8, **options).fit(resume=True)
        assert caught.value.errno == errno.ENOSPC
        assert (disk / "checkpoint" / "model.safetensors").read_bytes() == weights
        (disk / "other").unlink()
        found = run(disk, small(width=24), steps=8, **options).fit(resume=True)
        assert same(found, run(None, small(width=24), steps=8, **options).fit())
        assert sorted(os.listdir(disk)) == ["checkpoint", "history.csv"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_new_run_in_the_folder_of_another_says_that_it_replaces_it(tmp_path: Path) -> None:
    run(tmp_path).fit()
    with pytest.warns(
        UserWarning, match=r"out: .*earlier run, .* replaces; fit\(resume=True\)"
    ) as t:
        run(tmp_path).fit()
    assert __file__ in {one.filename for one in t}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path).fit(resume=True)
