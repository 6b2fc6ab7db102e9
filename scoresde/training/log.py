"""The log of a run: history, history.csv, TensorBoard and the progress shown."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, final

from scoresde._check import need
from scoresde._io import unwritten
from scoresde._progress import progress as progress_of

__all__ = ["Log", "Metrics", "Row", "writing"]

Row: TypeAlias = tuple[int, float, float]
"""(step, mean loss since the last row, learning rate)."""

Metrics: TypeAlias = dict[str, float]
"""Of one row: "gradient_norm", the mean before clipping, and "skipped", the number of steps."""


@final
class Log:
    """The history of a run: rows in memory, in history.csv and TensorBoard, and the bar.

    A step whose loss or gradient is not finite counts as skipped and enters no mean.

    Args:
        history, metrics: the rows so far; new ones are appended.
        steps, start: the last step, and the number of those made before.
        batch: samples a step.
        out: folder for the files, or None.
        progress: show a bar, or lines where stderr is no terminal.
        tensorboard: write its files; None for if it is installed.
        pending: the `pending` of an interrupted run.
    """

    def __init__(
        self,
        *,
        history: list[Row],
        metrics: list[Metrics],
        steps: int,
        start: int,
        batch: int,
        out: Path | None,
        progress: bool,
        tensorboard: bool | None,
        pending: Mapping[str, list[float]] | None = None,
    ) -> None:
        self.history = history
        self.metrics = metrics
        self.steps = steps
        self.start = start
        self.batch = batch
        self.losses = list((pending or {}).get("losses", ()))
        self.norms = list((pending or {}).get("norms", ()))
        self.began = time.perf_counter()
        self.writer = None if out is None else _tensorboard(out, tensorboard, start)
        self.bar = progress_of(steps, "train", "steps", initial=start) if progress else None
        self.table = None if out is None else out / "history.csv"
        if self.table is not None:
            with writing(self.table):
                self.table.parent.mkdir(parents=True, exist_ok=True)
                self.table.write_text("step,loss,lr,gradient_norm,skipped\n", encoding="utf-8")
            self._append([(*r, *m.values()) for r, m in zip(history, metrics, strict=True)])

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        for thing in (self.writer, self.bar):
            if thing is not None:
                thing.close()

    @property
    def pending(self) -> dict[str, list[float]]:
        """What was added since the last row."""
        return {"losses": self.losses, "norms": self.norms}

    def add(self, loss: float, norm: float) -> None:
        """Note a step."""
        self.losses.append(loss)
        self.norms.append(norm)
        if self.bar is not None:
            self.bar.update()

    def flush(self, done: int, lr: float) -> None:
        """Write the row of step `done`."""
        pairs = list(zip(self.losses, self.norms, strict=True))
        good = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        if not good:  # nothing since the last row, or a run of skipped steps, which goes on
            return
        self.losses, self.norms = [], []
        loss, norm = (math.fsum(values) / len(good) for values in zip(*good, strict=True))
        row: Row = (done, loss, lr)
        self.history.append(row)
        self.metrics.append({"gradient_norm": norm, "skipped": len(pairs) - len(good)})
        self._append([(*row, *self.metrics[-1].values())])
        speed = self._samples_per_second(done)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} samples/s")
        scalars = {"loss": loss, "lr": lr, "samples_per_second": speed, **self.metrics[-1]}
        self.scalars(done, scalars)

    def scalars(self, done: int, values: Mapping[str, float]) -> None:
        """Write numbers by name to TensorBoard, if it is there."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, done)

    def sync(self) -> None:
        """Bring TensorBoard's events into their file, of which a killed process loses the last."""
        if self.writer is not None:
            self.writer.flush()

    def _samples_per_second(self, done: int) -> float:
        return (done - self.start) * self.batch / max(1e-9, time.perf_counter() - self.began)

    def _append(self, rows: list[tuple[Any, ...]]) -> None:
        if self.table is not None:
            with writing(self.table), self.table.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """An error of the system as one of the folder of the run."""
    try:
        yield
    except OSError as error:
        raise unwritten("out", file, error) from error


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
    # The rows of step `start` itself are in the checkpoint, and are not made anew.
    with writing(out / "tensorboard"):
        return module.SummaryWriter(
            str(out / "tensorboard"), purge_step=start + 1 if start else None
        )
