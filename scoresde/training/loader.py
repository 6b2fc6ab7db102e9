"""Batches of the data, read ahead of the step that takes them where reading takes time."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeAlias, final

import torch
from torch import Tensor

from scoresde.data import Data, LazyData
from scoresde.training.stream import Stream, take

__all__ = ["Batch", "Loader"]

Batch: TypeAlias = tuple[Tensor, dict[str, Tensor]]
"""x (B, *D) and the conditions (B, ...), on the device of the run."""


@final
class Loader:
    """Gives batch number n of a stream, and reads those after it meanwhile.

    Which rows a batch holds is a function of its number, so nothing depends on the threads: not
    the batches, not their order, not what a resumed run sees. Data in memory are indexed in the
    step itself, in microseconds. What is wrong with a row is raised in the step that takes it.

    Args:
        data: `Data` or `LazyData`.
        stream: the order of the rows.
        device: where the batches go.
        workers: threads, each of which reads one batch ahead; 0 to read in the step, as it is done
            with `Rows` that are not `parallel`.
        stride: from the number of a batch to that of the next one of this process.
        stop: the number before which to stop reading ahead.

    Example:
        >>> data = Data(torch.arange(6.0)[:, None])
        >>> with Loader(data, Stream(6, 2, seed=0), torch.device("cpu")) as loader:
        ...     sorted(int(v) for n in range(3) for v in loader.batch(n)[0])
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(
        self,
        data: Data | LazyData,
        stream: Stream,
        device: torch.device,
        workers: int = 0,
        stride: int = 1,
        stop: int | None = None,
    ) -> None:
        self.data = data
        self.stream = stream
        self.device = device
        self.workers = workers if isinstance(data, LazyData) and data.x.parallel else 0
        self.stride = stride
        self.stop = stop
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Loader:
        if self.workers:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="scoresde-data")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._coming.clear()

    def batch(self, number: int) -> Batch:
        """Batch number `number`; waits for it if it is still being read."""
        if self._pool is None:
            return self.read(number)
        mine = self._coming.pop(number, None) or self._pool.submit(self.read, number)
        for ahead in range(1, self.workers + 1):
            later = number + ahead * self.stride
            if later not in self._coming and (self.stop is None or later < self.stop):
                self._coming[later] = self._pool.submit(self.read, later)
        return mine.result()

    def read(self, number: int) -> Batch:
        """Batch number `number`, read here and now."""
        rows = self.stream.rows(number)
        cond = {name: take(value, rows, self.device) for name, value in self.data.cond.items()}
        return take(self.data.x, rows, self.device), cond
