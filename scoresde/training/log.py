"""The log of a run: history, history.csv, TensorBoard and the bar."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, need

__all__ = ["Log", "Row"]

Row: TypeAlias = tuple[int, float, float]
"""(step, mean loss since the last row, learning rate)."""


@final
class Log:
    """The history of a run: rows in memory, in history.csv and TensorBoard, and the bar.

    Args:
        history: the rows so far; new ones are appended.
        steps, start: the last step, and the number of those made before.
        batch: samples a step.
        out: folder for the files, or None.
        progress: show a bar.
        tensorboard: write its files; None for if it is installed.
        mean: over the processes of the run.
    """

    def __init__(
        self,
        *,
        history: list[Row],
        steps: int,
        start: int,
        batch: int,
        out: Path | None,
        progress: bool,
        tensorboard: bool | None,
        mean: Callable[[Tensor], Tensor],
    ) -> None:
        self.history = history
        self.steps = steps
        self.start = self.flushed = start
        self.batch = batch
        self.mean = mean
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.began = time.perf_counter()
        self.writer = None if out is None else _tensorboard(out, tensorboard, start)
        self.bar = _bar(steps, start) if progress else None
        self.table = None if out is None else out / "history.csv"
        if self.table is not None:
            self.table.parent.mkdir(parents=True, exist_ok=True)
            self.table.write_text("step,loss,lr\n", encoding="utf-8")
            self._append(history)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        for thing in (self.writer, self.bar):
            if thing is not None:
                thing.close()

    def add(self, loss: Tensor, norm: Tensor | None) -> None:
        """Note a step, without waiting for it."""
        self.losses.append(loss)
        if norm is not None:
            self.norms.append(norm.detach())
        if self.bar is not None:
            self.bar.update()

    def flush(self, done: int, lr: float) -> None:
        """Wait for the device, check that all is finite, and write the row of step `done`."""
        losses = self._numbers(self.losses)
        norms = self._numbers(self.norms)
        if not losses:
            return
        bad = [
            (step, name, value)
            for name, values in (("loss", losses), ("gradient", norms))
            for step, value in enumerate(values, self.flushed + 1)
            if not math.isfinite(value)
        ]
        if bad:
            step, name, value = min(bad, key=lambda found: found[0])
            remedy = f"lower lr (now {lr:.3g}), lengthen warmup, or clip the gradient"
            raise fail(name, "finite values", f"{value} at step {step}", remedy)
        self.losses, self.norms, self.flushed = [], [], done
        row = done, math.fsum(losses) / len(losses), lr
        self.history.append(row)
        self._append([row])
        speed = self._samples_per_second(done)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {row[1]:.4f}, {speed:.0f} samples/s")
        if self.writer is not None:
            scalars = {"loss": row[1], "lr": lr, "samples_per_second": speed}
            if norms:
                scalars["gradient_norm"] = math.fsum(norms) / len(norms)
            for name, scalar in scalars.items():
                self.writer.add_scalar(name, scalar, done)

    def _numbers(self, values: list[Tensor]) -> list[float]:
        return self.mean(torch.stack(values)).tolist() if values else []

    def _samples_per_second(self, done: int) -> float:
        return (done - self.start) * self.batch / max(1e-9, time.perf_counter() - self.began)

    def _append(self, rows: list[tuple[int, float, float]]) -> None:
        if self.table is not None:
            with open(self.table, "a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)


def _bar(steps: int, start: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, desc="train", unit="step")


def _tensorboard(out: Path, wanted: bool | None, start: int) -> Any:
    if wanted is False:
        return None
    try:
        module = need("torch.utils.tensorboard", "train")
    except ImportError as error:
        if not wanted:
            return None
        raise ImportError(
            "tensorboard is not installed; run: pip install 'scoresde[train]'"
        ) from error
    return module.SummaryWriter(str(out / "tensorboard"), purge_step=start or None)
