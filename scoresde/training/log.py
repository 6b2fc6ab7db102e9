"""Logs of a run: history.csv, TensorBoard and the progress bar."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from scoresde._check import need
from scoresde._io import unwritten
from scoresde._progress import progress as progress_of
from scoresde.training.state import State

__all__ = ["Log", "writing"]


@final
class Log:
    """Writes the rows of a run to history.csv and TensorBoard, and updates the progress bar.

    A step whose loss or gradient is not finite counts as skipped and does not enter the means.

    Args:
        state: the state of the run, whose existing rows are written again.
        steps: the number of the last step.
        batch: number of samples in a step.
        table: the CSV file, or None.
        events: the folder of TensorBoard's files, or None.
        wanted: whether to write them; None writes them if TensorBoard is installed.
        progress: show a progress bar, or lines if stderr is not a terminal.
    """

    def __init__(
        self,
        state: State,
        *,
        steps: int,
        batch: int,
        table: Path | None = None,
        events: Path | None = None,
        wanted: bool | None = None,
        progress: bool = False,
    ) -> None:
        self.state = state
        self.batch = batch
        self.start = state.step
        self.began = time.perf_counter()
        self.writer = None if events is None else _tensorboard(events, wanted, state.step)
        self.bar = progress_of(steps, "train", "steps", initial=state.step) if progress else None
        self.table = table
        if table is not None:
            with writing(table):
                table.parent.mkdir(parents=True, exist_ok=True)
                table.write_text("step,loss,lr,gradient_norm,skipped\n", encoding="utf-8")
            self._append(len(state.history))

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        for thing in (self.writer, self.bar):
            if thing is not None:
                thing.close()

    def step(self) -> None:
        """Advance the progress bar by a step."""
        if self.bar is not None:
            self.bar.update()

    def row(self, done: int, lr: float) -> None:
        """Close and write the row of step `done`."""
        if not self.state.close_row(done, lr):
            return
        self._append(1)
        (_, loss, _), metrics = self.state.history[-1], self.state.metrics[-1]
        seconds = max(1e-9, time.perf_counter() - self.began)
        speed = (done - self.start) * self.batch / seconds
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} samples/s")
        self.scalars(done, {"loss": loss, "lr": lr, "samples_per_second": speed, **metrics})

    def scalars(self, done: int, values: Mapping[str, float]) -> None:
        """Write numbers by name to TensorBoard, if it is there."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, done)

    def sync(self) -> None:
        """Flush TensorBoard's events, so that a killed process does not lose them."""
        if self.writer is not None:
            self.writer.flush()

    def _append(self, count: int) -> None:
        """Append the last rows of the history to the table."""
        if self.table is None or not count:
            return
        pairs = zip(self.state.history[-count:], self.state.metrics[-count:], strict=True)
        with writing(self.table), self.table.open("a", newline="", encoding="utf-8") as file:
            rows = ((*row, *metrics.values()) for row, metrics in pairs)
            csv.writer(file, lineterminator="\n").writerows(rows)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Re-raise an error of the system as one of the folder of the run."""
    try:
        yield
    except OSError as error:
        raise unwritten("out", file, error) from error


def _tensorboard(folder: Path, wanted: bool | None, start: int) -> Any:  # it has no types
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
    # The rows of step `start` itself are in the checkpoint and are not written again.
    with writing(folder):
        return module.SummaryWriter(str(folder), purge_step=start + 1 if start else None)
