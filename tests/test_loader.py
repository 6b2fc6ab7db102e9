"""Batches that are read ahead: the same batches, truly ahead, and errors in their own step."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, Preconditioned, Trainer, dsm_loss
from scoresde.data import Data, LazyData, Rows
from scoresde.nets import MLP
from scoresde.training.loader import Loader
from scoresde.training.stream import Stream

CPU = torch.device("cpu")


class Noted(Rows):
    """Rows that note who reads them, and one of which may be damaged."""

    dtype = torch.float32

    def __init__(self, x: Tensor, damaged: int | None) -> None:
        self.x = x
        self.damaged = damaged
        self.readers: list[str] = []
        self.reads = threading.Semaphore(0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape)

    def read(self, rows: Tensor) -> Tensor:
        self.readers.append(threading.current_thread().name)
        self.reads.release()
        if self.damaged in rows.tolist():
            raise ValueError(f"row {self.damaged} is damaged")
        return self.x[rows]


def lazy(n: int = 20, damaged: int | None = None) -> LazyData:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return LazyData(Noted(x, damaged), {"row": torch.arange(n)})


def model() -> Preconditioned:
    torch.manual_seed(0)
    return Preconditioned(MLP(2, width=8), VPSDE())


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("numbers", [range(9), range(1, 20, 4), [5, 2, 2, 7]])
def test_the_batches_are_those_of_the_stream(workers: int, numbers: Sequence[int]) -> None:
    data, stream = lazy(), Stream(20, 6, seed=3)
    loader = Loader(data, stream, CPU, workers=workers, stride=4)
    with loader:
        for number in numbers:
            x, cond = loader.batch(number)
            rows = stream.rows(number)
            assert torch.equal(cond["row"], rows)
            assert torch.equal(x, data.x[rows])
    assert not loader._coming


def test_the_weights_are_the_same_with_and_without() -> None:
    found = []
    for workers, data in ((0, lazy()), (2, lazy()), (2, lazy().load())):
        net = model()
        Trainer(net, data, steps=5, batch_size=6, accumulate=2, workers=workers, loss=plain).fit()
        found.append(net.state_dict())
    for other in found[1:]:
        assert all(torch.equal(found[0][k], other[k]) for k in found[0])


def plain(model: Any, x0: Tensor, *, cond: Any, **options: Any) -> Tensor:
    return dsm_loss(model, x0, **options)


def test_the_next_batches_are_read_while_a_step_computes() -> None:
    data = lazy()
    rows: Noted = data.x  # type: ignore[assignment]
    seen = []

    def patient(model: Any, x0: Tensor, **options: Any) -> Tensor:
        # Nobody but a thread can read on while this step stands here.
        if len(seen) == 0:
            for _ in range(3):  # this batch and two after it
                assert rows.reads.acquire(timeout=20), "nothing is read ahead"
        seen.append(len(rows.readers))
        return plain(model, x0, **options)

    Trainer(model(), data, steps=4, batch_size=6, loss=patient, workers=2).fit()
    assert all(name.startswith("scoresde-data") for name in rows.readers)
    assert len(rows.readers) == 4, "as many reads as batches, none beyond the last"
    assert not [t for t in threading.enumerate() if t.name.startswith("scoresde-data")]


def test_data_in_memory_need_no_thread() -> None:
    with Loader(Data(torch.randn(8, 2)), Stream(8, 2, 0), CPU, workers=2) as loader:
        loader.batch(0)
        assert loader._pool is None


def test_a_damaged_row_is_told_in_the_step_that_takes_it() -> None:
    stream = Stream(20, 5, seed=0)
    damaged = int(stream.rows(2)[0])
    data, steps = lazy(damaged=damaged), []

    def counting(model: Any, x0: Tensor, **options: Any) -> Tensor:
        steps.append(len(x0))
        return plain(model, x0, **options)

    trainer = Trainer(model(), data, steps=6, batch_size=5, loss=counting, workers=2, seed=0)
    with pytest.raises(ValueError, match=f"row {damaged} is damaged"):
        trainer.fit()
    assert len(steps) == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("scoresde-data")]


def test_bad_workers() -> None:
    for wrong in (-1, 1.5, "two"):
        with pytest.raises((TypeError, ValueError), match="workers"):
            Trainer(model(), lazy(), steps=1, workers=wrong)  # type: ignore[arg-type]
