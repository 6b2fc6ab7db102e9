"""SIGKILL at random moments of a training run, writes included, and what is left of it.

    python benchmarks/kills.py [--kills 50] [--accumulate 1 3]

A run in a process of its own is killed, resumed, killed again, and in the end left to finish.
Every file in its folder is then compared byte by byte with that of a run that nobody disturbed:
raw and averaged weights, the optimiser's state, history, validation, the checkpoints that are
kept, the best model and the snapshots. The network is small and a checkpoint is written every
five steps, so that most of the time goes to writing. A life ends by one of four kinds of aim:

- any: some time after a checkpoint, wherever that is;
- write: some time after the folder of a half-written checkpoint has appeared;
- call: the process kills itself (SIGKILL too) instead of its n-th call of mkdir, fsync, rename,
  link or rmtree of a save, n at random;
- between: after the first rename of a checkpoint, when the old one has been moved away, and
  before the second, which puts the new one in its place.

After each kill the checkpoint is read as a user would, its step is compared with the one before
and with the last step that was made, and whatever is half-written is counted; a later life must
name all of that in a warning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scoresde import VPSDE, Preconditioned
from scoresde.nets import MLP
from scoresde.options import Optim, Records
from scoresde.training import Trainer, load, read_config

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

EVERY = 5
"""Steps between two checkpoints."""

AIMS = ("any", "write", "write", "call", "between")


@dataclass
class Life:
    """How one process ended.

    Args:
        aim: see the head of this file.
        step: of the checkpoint that was left, 0 for none.
        lost: steps that were made after it.
        half: the half-written folders that were left, each with what was in it.
        swapped: the old checkpoint had been moved away and the new one was not yet there.
    """

    aim: str
    step: int
    lost: int
    half: list[str]
    swapped: bool

    @property
    def in_write(self) -> bool:
        return bool(self.half) or self.swapped


# The process that is killed


def work(out: Path, steps: int, accumulate: int, aim: str, after: int) -> None:
    """Train, or go on; "call" and "between" end it at call number `after` of their kind."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    trainer = Trainer(
        Preconditioned(MLP(2, width=128), VPSDE()),
        x,
        steps=steps,
        optim=Optim(batch_size=8, accumulate=accumulate),
        records=Records(
            checkpoint_every=EVERY,
            log_every=1,
            tensorboard=False,
            keep=3,
            snapshot_every=2 * EVERY,
            validate_every=2 * EVERY,
            buckets=2,
        ),
        out=out,
        validation=x[:8],
    )
    if aim in ("call", "between"):
        _end_at(aim, after)
    print("ready", flush=True)
    trainer.fit(resume=_standing(out))


def _standing(out: Path) -> bool:
    return (out / "checkpoint").exists() or (out / ".checkpoint.previous").exists()


def _end_at(aim: str, after: int) -> None:
    count = iter(range(1, 10**9))

    def mortal(real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            if counts(*arguments) and next(count) == after:
                if aim == "between":
                    real(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return act

    if aim == "between":
        os.replace = mortal(os.replace, lambda a, b: str(b).endswith("checkpoint.previous"))
        return
    for name in ("mkdir", "fsync", "replace", "link"):
        setattr(os, name, mortal(getattr(os, name), lambda *_: True))
    shutil.rmtree = mortal(shutil.rmtree, lambda *_: True)  # type: ignore[assignment]


# The one that kills


def start(
    out: Path, steps: int, accumulate: int, aim: str = "", after: int = 0
) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "always", __file__, "--work", str(out), str(steps)]
    return subprocess.Popen(
        [*command, str(accumulate), aim, str(after)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def survive(folder: Path, kills: int, accumulate: int = 1, seed: int = 0) -> list[Life]:
    """Kill a run `kills` times, let it finish, and compare it with one that was left alone.

    Raises:
        AssertionError: a file differs, a checkpoint was lost, or a process did something else
            than to be killed; the text says which.
    """
    draw = random.Random(seed)
    steps = EVERY * (6 * kills + 4)
    whole, parts = folder / "whole", folder / "parts"
    parts.mkdir(parents=True)
    lives: list[Life] = []
    for number in range(kills):
        aim = AIMS[number % len(AIMS)] if kills >= len(AIMS) else "between"
        lives.append(_one_life(parts, steps, accumulate, aim, draw))
        before = lives[-2].step if len(lives) > 1 else 0
        _expect(lives[-1].step >= before, f"step {lives[-1].step} after {before}")
    for out in (parts, whole):
        half = _halves(out)
        child = start(out, steps, accumulate)
        _, errors = child.communicate(timeout=3600)
        _expect(child.returncode == 0, errors)
        _expect_named(half, errors)
    compare(whole, parts)
    return lives


def _one_life(out: Path, steps: int, accumulate: int, aim: str, draw: random.Random) -> Life:
    half = _halves(out)
    after = draw.randint(1, 60) if aim == "call" else draw.randint(1, 4)
    child = start(out, steps, accumulate, aim, after)
    assert child.stdout is not None
    child.stdout.readline()  # the imports are over
    if aim in ("any", "write"):
        _until_changed(child, out / "checkpoint", draw.randint(0, 4))
        if aim == "write":
            _until_half_written(child, out)
            time.sleep(draw.uniform(0.0, 0.01))
        else:
            time.sleep(draw.uniform(0.0, 0.3))
        child.kill()
    _, errors = child.communicate(timeout=3600)
    _expect(child.returncode == -signal.SIGKILL, f"{aim}: ended by itself: {errors}")
    _expect_named([p for p in half if not p.exists()], errors)
    return _examine(out, aim)


def _until_changed(child: subprocess.Popen[str], place: Path, times: int) -> None:
    """Wait until another folder has stood at `place` so many times."""

    def identity() -> int:
        try:
            return place.stat().st_ino
        except OSError:
            return 0

    last = identity()
    while times and child.poll() is None:
        now = identity()
        if now not in (0, last):
            last, times = now, times - 1
        time.sleep(0.001)


def _until_half_written(child: subprocess.Popen[str], out: Path) -> None:
    before = set(_halves(out))
    while child.poll() is None and set(_halves(out)) <= before:
        pass


def _halves(out: Path) -> list[Path]:
    folders = (out, out / "checkpoints", out / "snapshots")
    return [
        Path(entry.path)
        for folder in folders
        if folder.is_dir()
        for entry in os.scandir(folder)
        if entry.name.startswith(".") and ".tmp" in entry.name
    ]


def _examine(out: Path, aim: str) -> Life:
    step = 0
    if _standing(out):
        load(out / "checkpoint")
        step = int(read_config(out / "checkpoint")["extra"]["step"])
    rows = (out / "history.csv").read_text().splitlines() if (out / "history.csv").exists() else []
    # The file is written anew by each life; of its last line, half may be missing.
    made = max([int(row.split(",")[0]) for row in rows[1:-1]], default=0)
    half = [f"{p.name.split('.')[1]}: {_content(p)}" for p in sorted(_halves(out))]
    swapped = not (out / "checkpoint").exists() and (out / ".checkpoint.previous").exists()
    return Life(aim, step, max(0, made - step), half, swapped)


def _content(half: Path) -> str:
    """How far a half-written folder has got."""
    names = {p.name for p in half.iterdir()}
    if "config.json" not in names:
        return f"{len(names)} files of tensors, no config"
    try:
        files = json.loads((half / "config.json").read_bytes())["files"]
    except (ValueError, KeyError):
        return "a config that is cut short"
    whole = all((half / n).stat().st_size == e["bytes"] for n, e in files.items() if n in names)
    return "complete, not renamed" if whole and set(files) <= names else "files are missing"


def compare(whole: Path, parts: Path) -> None:
    """Every file below two folders is the same, names and bytes."""
    a, b = (
        {str(p.relative_to(top)): p for p in top.rglob("*") if p.is_file()}
        for top in (whole, parts)
    )
    _expect(set(a) == set(b), f"other files: {sorted(set(a) ^ set(b))}")
    wrong = [name for name in a if a[name].read_bytes() != b[name].read_bytes()]
    _expect(not wrong, f"other content: {wrong}")


def _expect_named(gone: list[Path], errors: str) -> None:
    """What is half-written is removed, and not in silence."""
    for half in gone:
        _expect(f"{half} is a half-written checkpoint" in errors, f"{half} unnamed: {errors}")


def _expect(true: bool, why: str) -> None:
    if not true:
        raise AssertionError(why)


# The report


def summary(lives: list[Life]) -> dict[str, Any]:
    return {
        "kills": len(lives),
        "in a write": sum(life.in_write for life in lives),
        "between the two renames": sum(life.swapped for life in lives),
        "half-written folders left": sum(len(life.half) for life in lives),
        "steps lost at most": max(life.lost for life in lives),
        "steps lost on average": sum(life.lost for life in lives) / len(lives),
    }


def report(found: dict[str, Any]) -> str:
    runs = found["runs"]
    keys = list(next(iter(runs.values()))["summary"])
    head = "| | " + " | ".join(f"accumulate = {name}" for name in runs) + " |"
    rows = [
        f"| {key} | " + " | ".join(f"{run['summary'][key]:.3g}" for run in runs.values()) + " |"
        for key in keys
    ]
    states = Counter(
        text.partition(": ")[2] for run in runs.values() for life in run["lives"]
        for text in life["half"]
    )  # fmt: skip
    left = "\n".join(f"| {state} | {count} |" for state, count in states.most_common())
    return (
        f"# Kills\n\n`{found['command']}`, torch {torch.__version__}, {platform.machine()}\n\n"
        f"A checkpoint every {EVERY} steps. After all kills every file of the run (weights, "
        "averages, optimiser, history, validation, kept checkpoints, best model, snapshots) "
        "equals that of the undisturbed run, byte by byte, and no other file is left.\n\n"
        f"{head}\n| --- |{' ---: |' * len(runs)}\n" + "\n".join(rows) + "\n\n"
        f"| a half-written folder held | times |\n| --- | ---: |\n{left}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        out, steps, accumulate, aim, after = args.work
        work(Path(out), int(steps), int(accumulate), aim, int(after))
        return
    began = time.perf_counter()
    counts = " ".join(map(str, args.accumulate))
    command = f"python benchmarks/kills.py --kills {args.kills} --accumulate {counts}"
    found: dict[str, Any] = {"command": command, "runs": {}}
    for accumulate in args.accumulate:
        with tempfile.TemporaryDirectory() as folder:
            lives = survive(Path(folder), args.kills, accumulate, seed=accumulate)
        entry = {"summary": summary(lives), "lives": [asdict(life) for life in lives]}
        found["runs"][str(accumulate)] = entry
    found["seconds"] = time.perf_counter() - began
    text = report(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kills.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "kills.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
