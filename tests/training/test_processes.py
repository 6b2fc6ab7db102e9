"""Two processes over gloo: what one does with twice the batch, and what becomes of a lost one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from groups import grouped
from torch import Tensor

from scoresde.data import Data
from scoresde.losses import dsm_loss
from scoresde.model import Preconditioned, ScoreModel
from scoresde.nets import MLP
from scoresde.sampler import ReverseSampler
from scoresde.sde import VPSDE
from scoresde.training import Callback, Trainer, load, read_config
from scoresde.training.update import Update

ROOT = Path(__file__).parents[2]
STEPS = 12


# What a process does; this file is also the script that torchrun starts


def of_the_row(model: ScoreModel, x0: Tensor, *, cond: Any, **_: Any) -> Tensor:
    """Times and noise are functions of the sample, so a batch may be split in any way."""
    t = torch.sigmoid(x0.sum(1)).clamp(0.01, 0.99)
    eps = torch.sin(40 * x0)
    return (model(t, VPSDE().perturb(t, x0, eps), cond).eps - eps).square().mean(1)


def trainer(loss: Callable[..., Tensor], batch: int, out: Path | None = None, **more: Any) -> Any:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=draws, dtype=torch.float64)
    data = Data(x, {"label": torch.arange(64) % 3}, classes=3)
    model = Preconditioned(MLP(2, width=8, depth=1, classes=3).double(), VPSDE())
    options = {"checkpoint_every": 3, "tensorboard": False, "cond_dropout": 0.3} | more
    return Trainer(
        model, data, **grouped(steps=STEPS, batch_size=batch, loss=loss, out=out, **options)
    )


def result(made: Trainer, first: int = 0) -> dict[str, Tensor]:
    """Gradients of all steps, weights, averages, and samples: six, and three from `first` on."""
    gradients: list[Tensor] = []
    apply = Update.apply

    def noting(self: Update, norm: Tensor | None = None) -> Tensor:
        gradients.append(torch.cat([p.grad.flatten() for p in self.parameters]).clone())
        return apply(self, norm)

    Update.apply = noting  # type: ignore[method-assign]
    try:
        average = made.fit()
    finally:
        Update.apply = apply  # type: ignore[method-assign]
    sampler = ReverseSampler(VPSDE(), average, steps=5)
    label, kind = torch.arange(6) % 3, torch.float64
    part = {"label": label[first : first + 3]}
    found = {
        "gradients": torch.stack(gradients),
        "samples": sampler.sample((6, 2), seed=3, cond={"label": label}, dtype=kind),
        "shard": sampler.sample((3, 2), seed=3, first=first, cond=part, dtype=kind),
    }
    found |= {f"raw.{name}": p.detach() for name, p in made.model.named_parameters()}
    return found | {f"ema.{name}": p.detach() for name, p in average.named_parameters()}


def ending(at: int, act: Callable[[], Any]) -> Callable[..., Tensor]:
    """dsm_loss, with something else in its call number `at`, from 1."""
    calls = iter(range(1, 1000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        if next(calls) == at:
            act()
        return dsm_loss(model, x0, **options)

    return loss


class Told(Callback):
    """Appends a word to a file for everything that it is told."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _write(self, word: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{word} ")

    def start(self, step: int, settings: Mapping[str, object]) -> None:
        self._write(f"start/{settings['processes']}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write("validation" if "validation" in values else "row")

    def end(self, failed: bool) -> None:
        self._write("failed" if failed else "end")


def work(kind: str, out: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # other weights at the start; those of the first process count
    if kind == "equal":
        for name, loss in (("row", of_the_row), ("stream", dsm_loss)):
            found = result(trainer(loss, 8), first=3 * rank)
            safetensors.torch.save_file(found, out / f"{name}{rank}.safetensors")
            torch.manual_seed(rank)
        return
    if kind == "patience":
        made = impatient(out / "run")
        made.callback = Told(out / f"told{rank}")
        safetensors.torch.save_file(dict(made.fit().named_parameters()), out / f"best{rank}")
        (out / f"stopped{rank}").write_text(str(made.stopped))
        return
    if kind == "port":
        trainer(dsm_loss, 8).fit()
    acts = {"term": signal.SIGTERM, "die": signal.SIGKILL}
    loss = dsm_loss
    if rank == 1 and kind in acts:
        loss = ending(4, lambda: os.kill(os.getpid(), acts[kind]))
    made = trainer(loss, 8, out / "run")
    made.fit(resume=(out / "run" / "checkpoint").exists())


def impatient(out: Path) -> Trainer:
    """A run whose loss turns round in training, so that its patience ends it."""
    calls = iter(range(1000))

    def turning(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = of_the_row(model, x0, **options)
        return -each if torch.is_grad_enabled() and next(calls) >= 4 else each

    draws = torch.Generator().manual_seed(1)
    held_out = Data(torch.randn(8, 2, generator=draws, dtype=torch.float64), classes=3)
    options = {"validation": held_out, "validate_every": 1, "patience": 2, "lr": 0.05}
    made: Trainer = trainer(turning, 8, out, **options, warmup=0)
    return made


def alone(loss: Callable[..., Tensor], batch: int, accumulate: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return result(trainer(loss, batch, accumulate=accumulate))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def pair(kind: str, out: Path) -> list[tuple[int, str]]:
    """Two processes without torchrun, which would end the one when the other is gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, kind, str(out)],
            env=environment() | place | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [child.communicate(timeout=900)[1] for child in started]
    finally:
        for child in started:
            child.kill()
    return [(child.returncode, text) for child, text in zip(started, errors, strict=True)]


# The tests


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Gradients of every step, weights, averages and samples, under torchrun on CPUs.

    With times and noise of the row, one process takes the 16 rows in one pass. With the times of
    the run, spread evenly over each batch, it takes the two batches one after the other: they are
    the same pieces of one stream. Each process began with weights of its own.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [*launch, __file__, "equal", str(tmp_path)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ones = {"row": alone(of_the_row, 16, 1), "stream": alone(dsm_loss, 8, 2)}
    for name, one in ones.items():
        first, second = (
            safetensors.torch.load_file(tmp_path / f"{name}{rank}.safetensors") for rank in (0, 1)
        )
        assert len(first["gradients"]) == STEPS and float(first["gradients"].abs().max()) > 0.1
        for key, value in one.items():
            if key != "shard":
                assert torch.equal(first[key], second[key]), key
                torch.testing.assert_close(first[key], value, rtol=0, atol=1e-6)
        shards = torch.cat([first["shard"], second["shard"]])
        torch.testing.assert_close(shards, one["samples"], rtol=0, atol=1e-6)
    difference = (ones["row"]["gradients"][0] - ones["stream"]["gradients"][0]).abs().max()
    assert difference > 1e-3  # the two comparisons are not one


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGTERM, SIGKILL")
def test_a_process_that_ends_takes_the_other_along_and_the_run_goes_on(tmp_path: Path) -> None:
    """SIGTERM for one of them is obeyed by both; of SIGKILL the other hears, and does not wait."""
    for code, text in pair("term", tmp_path):
        assert code == 143, text[-3000:]
    assert read_config(tmp_path / "run" / "checkpoint")["extra"]["step"] == 4
    (code, text), (killed, _) = pair("die", tmp_path)
    assert killed == -signal.SIGKILL and code not in (0, -signal.SIGKILL), text[-3000:]
    assert "peer" in text
    assert read_config(tmp_path / "run" / "checkpoint")["extra"]["step"] == 6
    for code, text in pair("finish", tmp_path):
        assert code == 0, text[-3000:]
    one = alone(dsm_loss, 8, 2)
    for name, value in load(tmp_path / "run" / "checkpoint").named_parameters():
        torch.testing.assert_close(value.detach(), one[f"ema.{name}"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_patience_ends_both_processes_at_one_step_with_one_model(tmp_path: Path) -> None:
    """Only the first of them validates; the other hears of it."""
    for code, text in pair("patience", tmp_path):
        assert code == 0, text[-3000:]
    first, second = ((tmp_path / f"stopped{rank}").read_text() for rank in (0, 1))
    assert first == second and 3 <= int(first) < STEPS
    best = load(tmp_path / "run" / "best")
    step = read_config(tmp_path / "run" / "best")["extra"]["step"]
    assert step == int(first) - 2
    for rank in (0, 1):
        found = safetensors.torch.load_file(tmp_path / f"best{rank}")
        for name, value in best.named_parameters():
            assert torch.equal(found[name], value)
    told = (tmp_path / "told0").read_text().split()  # callbacks are those of the first alone
    assert told[0] == "start/2" and told[-1] == "end" and not (tmp_path / "told1").exists()
    assert told.count("validation") == int(first) and "row" in told


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0"}
        done = subprocess.run(
            [sys.executable, __file__, "port", str(tmp_path)],
            env=environment() | place | {"LOCAL_RANK": "0"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 1
    assert f"MASTER_PORT: expected a port where the processes meet, got 127.0.0.1:{port}" in (
        done.stderr
    )
    assert "in use" in done.stderr and "torchrun --standalone" in done.stderr


def test_processes_that_would_each_train_alone_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An accelerator that was made before keeps this process to itself."""
    made = trainer(of_the_row, 8)
    made.steps = 1
    made.fit()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"accelerate: expected 2 processes that train together"):
        made.fit()


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
