"""Logs of a run: history.csv, TensorBoard, the progress bar, and the numbers for callbacks."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

from scoresde._check import need, path_of, wrong_type
from scoresde._io import unwritten
from scoresde._progress import progress as progress_of
from scoresde.model import ScoreModel
from scoresde.training.callbacks import Callback, Callbacks, PlainFunction
from scoresde.training.state import State

__all__ = ["Log", "TensorBoard", "callbacks_of", "with_board", "writing"]


@final
class Log:
    """Writes the rows of a run to history.csv, tells callbacks, and updates the progress bar.

    A step whose loss or gradient is not finite counts as skipped and does not enter the means.

    Args:
        state: the state of the run, whose existing rows are written again.
        steps: the number of the last step.
        batch: number of samples in a step.
        table: the CSV file, or None.
        callbacks: those that get the numbers, from `start` on.
        before: called before a new run begins the table, which is after its first step, so that a
            run whose data are refused leaves the logs of another as they are.
        progress: show a progress bar, or lines if stderr is not a terminal.
    """

    def __init__(
        self,
        state: State,
        *,
        steps: int,
        batch: int,
        table: Path | None = None,
        callbacks: Sequence[Callback] = (),
        before: Callable[[], None] | None = None,
        progress: bool = False,
    ) -> None:
        self.state = state
        self.batch = batch
        self.start_step = state.step
        self.began = time.perf_counter()
        self.callbacks = callbacks
        self.started: list[Callback] = []
        self.bar = progress_of(steps, "train", "steps", initial=state.step) if progress else None
        self.table = table
        self.before = before
        self.begun = False
        if table is not None:
            with writing(table):
                table.parent.mkdir(parents=True, exist_ok=True)
        if state.step:
            self._begin()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others from their end
            if self.bar is not None:
                stack.callback(self.bar.close)
            for callback in self.started:
                stack.callback(callback.end, failed=kind is not None)

    def start(self, settings: Mapping[str, object]) -> None:
        """Start the callbacks; those that started are ended with the log."""
        for callback in self.callbacks:
            callback.start(self.start_step, settings)
            self.started.append(callback)

    def step(self) -> None:
        """Advance the progress bar by a step; the first one begins the table."""
        self._begin()
        if self.bar is not None:
            self.bar.update()

    def row(self, done: int, lr: float) -> None:
        """Close and write the row of step `done`."""
        if not self.state.close_row(done, lr):
            return
        self._append(1)
        (_, loss, _), metrics = self.state.history[-1], self.state.metrics[-1]
        seconds = max(1e-9, time.perf_counter() - self.began)
        speed = (done - self.start_step) * self.batch / seconds
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} samples/s")
        self.scalars(done, {"loss": loss, "lr": lr, "samples_per_second": speed, **metrics})

    def scalars(self, done: int, values: Mapping[str, float]) -> None:
        """Tell the callbacks numbers by name."""
        for callback in self.started:
            callback.scalars(done, values)

    def model(self, done: int, averaged: Callable[[], ScoreModel]) -> None:
        """Show the averaged model to the callbacks that look at it."""
        viewers = [one for one in self.started if type(one).model is not Callback.model]
        if viewers:
            shown = averaged()
            for viewer in viewers:
                viewer.model(done, shown)

    def sync(self) -> None:
        """Let callbacks write what they hold, so that a killed process does not lose it."""
        for callback in self.started:
            callback.sync()

    def _begin(self) -> None:
        """Begin the table with the rows so far."""
        if self.begun:
            return
        self.begun = True
        if self.table is not None:
            with writing(self.table):
                if self.before is not None:
                    self.before()
                self.table.write_text("step,loss,lr,gradient_norm,skipped\n", encoding="utf-8")
        self._append(len(self.state.history))

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


@final
class TensorBoard(Callback):
    """Writes the numbers of a run to TensorBoard's files.

    A run with a folder (`out=`) does so by itself; this is for runs without one, and for another
    folder.

    Args:
        folder: the folder of the files.

    Raises:
        ImportError: tensorboard is not installed.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     board = TensorBoard(folder)
        ...     board.start(0, {})
        ...     board.scalars(50, {"loss": 0.3})
        ...     board.end(failed=False)
        ...     len(os.listdir(folder))
        1
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = path_of("folder", folder)
        self._writer: Any = None  # a SummaryWriter, which has no types, from the first numbers on
        self._purge: int | None = None
        try:
            self._module = need("torch.utils.tensorboard", "train")
        except ImportError as error:
            raise ImportError(
                "tensorboard is not installed; run: pip install 'scoresde[train]'"
            ) from error

    def start(self, step: int, settings: Mapping[str, object]) -> None:
        # The rows of step `step` itself are in the checkpoint and are not written again.
        self._purge = step + 1 if step else None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._opened()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _opened(self) -> Any:
        """A writer, which creates a file at once."""
        try:
            return self._module.SummaryWriter(str(self.folder), purge_step=self._purge)
        except OSError as error:
            raise unwritten("folder", self.folder, error) from error

    def sync(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def end(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def callbacks_of(callback: Callbacks) -> list[Callback]:
    """The callbacks of an argument of `Trainer`, or raise."""
    if callback is None:
        return []
    found = list(callback) if isinstance(callback, Sequence) else [callback]
    for one in found:
        if isinstance(one, type) or not (isinstance(one, Callback) or callable(one)):
            expected = "a function of (step, model), a Callback, or several of them"
            raise wrong_type("callback", expected, one, "pass e.g. WeightsAndBiases('project')")
    return [one if isinstance(one, Callback) else PlainFunction(one) for one in found]


def with_board(
    callbacks: list[Callback], folder: Path | None, wanted: bool | None
) -> list[Callback]:
    """The callbacks, after TensorBoard's for the folder of a run.

    Args:
        callbacks: those of the user.
        folder: the folder of TensorBoard's files, or None.
        wanted: whether to write them; None writes them if TensorBoard is installed.
    """
    if folder is None or wanted is False:
        return callbacks
    try:
        return [TensorBoard(folder), *callbacks]
    except ImportError:
        if wanted:
            raise
        return callbacks
