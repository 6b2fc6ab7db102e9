"""Batches of the data, prefetched if they are read lazily."""

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
    """Returns batch number n of a stream and prefetches the following ones.

    The rows of a batch are a function of its number, so batches, their order and resumed runs do
    not depend on the threads. Data in memory are indexed in the step itself, in microseconds. An
    error in a row is raised in the step that uses it.

    Args:
        data: `Data` or `LazyData`.
        stream: the order of the rows.
        device: the device of the batches.
        workers: number of prefetching threads, each for one batch. 0 reads synchronously, as do
            `Rows` that are not `parallel`.
        stride: difference between the numbers of consecutive batches of this process.
        stop: prefetching stops before this number.

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
        self._pending: dict[int, Future[Batch]] = {}

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
        self._pending.clear()

    def batch(self, number: int) -> Batch:
        """Batch number `number`, after waiting for it if it is still being read."""
        if self._pool is None:
            return self.read(number)
        current = self._pending.pop(number, None) or self._pool.submit(self.read, number)
        for ahead in range(1, self.workers + 1):
            later = number + ahead * self.stride
            if later not in self._pending and (self.stop is None or later < self.stop):
                self._pending[later] = self._pool.submit(self.read, later)
        return current.result()

    def read(self, number: int) -> Batch:
        """Read batch number `number` synchronously."""
        rows = self.stream.rows(number)
        cond = {name: take(value, rows, self.device) for name, value in self.data.cond.items()}
        return take(self.data.x, rows, self.device), cond
