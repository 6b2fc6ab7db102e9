"""Batches that are read ahead: the same batches, truly ahead, and errors in their own step."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import grouped
from PIL import Image
from torch import Tensor

from scoresde import (
    VPSDE,
    Gaussian,
    Preconditioned,
    ReverseSampler,
    Trainer,
    dsm_loss,
    sample_to,
)
from scoresde.data import Data, LazyData, Rows, image_folder, npy, npz, samples
from scoresde.data.samples import ShardRows
from scoresde.nets import MLP
from scoresde.sampler import ShardFiles
from scoresde.training.loader import Loader
from scoresde.training.stream import Stream

CPU = torch.device("cpu")


class Noted(Rows):
    """Rows that note who reads them, and one of which may be damaged."""

    dtype = torch.float32
    parallel = True

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
    return LazyData(Noted(x, damaged), {"label": torch.arange(n)})


def reading() -> list[threading.Thread]:
    """The threads that read data ahead."""
    return [t for t in threading.enumerate() if t.name.startswith("scoresde-data")]


def model() -> Preconditioned:
    torch.manual_seed(0)
    return Preconditioned(MLP(2, width=8, classes=20), VPSDE())


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("numbers", [range(9), range(1, 20, 4), [5, 2, 2, 7]])
def test_the_batches_are_those_of_the_stream(workers: int, numbers: Sequence[int]) -> None:
    data, stream = lazy(), Stream(20, 6, seed=3)
    loader = Loader(data, stream, CPU, workers=workers, stride=4)
    with loader:
        for number in numbers:
            x, cond = loader.batch(number)
            rows = stream.rows(number)
            assert torch.equal(cond["label"], rows)
            assert torch.equal(x, data.x[rows])
    assert not reading()


def test_the_weights_are_the_same_with_and_without() -> None:
    found = []
    for workers, data in ((0, lazy()), (2, lazy()), (2, lazy().load())):
        net = model()
        options = grouped(steps=5, batch_size=6, accumulate=2, workers=workers, loss=plain)
        Trainer(net, data, **options).fit()
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

    trainer = Trainer(model(), data, **grouped(steps=4, batch_size=6, loss=patient))
    rows.readers.clear()  # the trainer has looked at the data, for their range and spread
    rows.reads = threading.Semaphore(0)
    trainer.fit()
    assert all(name.startswith("scoresde-data") for name in rows.readers)
    assert len(rows.readers) == 4, "as many reads as batches, none beyond the last"
    assert not reading()


def test_data_in_memory_need_no_thread() -> None:
    with Loader(Data(torch.randn(8, 2)), Stream(8, 2, 0), CPU, workers=2) as loader:
        loader.batch(0)
        assert not reading()


class Seeking(Rows):
    """Rows behind one place in a file, which two readers at once would move for each other."""

    dtype = torch.float32
    shape = (40, 1)

    def __init__(self) -> None:
        self.place = torch.zeros(0, dtype=torch.long)

    def read(self, rows: Tensor) -> Tensor:
        self.place = rows
        time.sleep(0.002)
        return self.place.float()[:, None]


def test_rows_that_do_not_say_they_are_fit_for_threads_are_read_in_the_step() -> None:
    base = Seeking()
    train, held = (LazyData(base.take(part)) for part in (slice(0, 30), slice(30, 40)))
    stream = Stream(30, 8, seed=0)
    with Loader(train, stream, CPU, workers=4) as loader:
        for number in range(6):
            x = loader.batch(number)[0]
            assert torch.equal(x[:, 0], stream.rows(number).float())
            assert torch.equal(held.x[:], torch.arange(30.0, 40.0)[:, None])  # as a validation


def four_kinds(folder: Path) -> dict[str, LazyData]:
    """Data of every format that is read from several threads, each with rows that differ."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (96, 6, 6, 3)).astype(np.uint8)
    levels[0].fill(255)
    np.save(folder / "x.npy", levels)
    np.savez_compressed(folder / "x.npz", x=levels)
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, image in enumerate(levels):
        Image.fromarray(image).save(pictures / f"{number:03d}.png")
    sde = VPSDE()
    sampler = ReverseSampler(sde, Gaussian(torch.zeros(4), torch.eye(4)).under(sde), steps=2)
    sample_to(sampler, folder / "shards", 96, (4,), files=ShardFiles(shard=8))
    return {
        "npy": npy(folder / "x.npy"),
        "npz": npz(folder / "x.npz"),
        "pictures": image_folder(pictures, flip=True),
        "shards": samples(folder / "shards"),
    }


def test_four_threads_read_what_one_does(tmp_path: Path) -> None:
    for kind, data in four_kinds(tmp_path).items():
        assert data.x.parallel and data.x.take(slice(0, 2)).parallel, kind
        truth = data.load().x

        def right(seed: int, x: Rows = data.x, truth: Tensor = truth) -> bool:
            generator = torch.Generator().manual_seed(seed)
            found = []
            for _ in range(25):
                rows = torch.randint(len(truth), (5,), generator=generator)
                found.append(torch.equal(x[rows], truth[rows]))
            return all(found)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(right, range(4))), kind


def test_a_shard_that_another_thread_puts_aside_is_not_mixed_up(tmp_path: Path) -> None:
    x = four_kinds(tmp_path)["shards"].x
    first, others = x[0], list[threading.Thread]()
    assert isinstance(x, ShardRows)

    class Held(tuple):  # type: ignore[type-arg]
        """What is held; between the look at its number and at its rows another thread reads."""

        def __getitem__(self, index: Any) -> Any:
            if not others:
                others.append(threading.Thread(target=x.__getitem__, args=(95,)))
                others[0].start()
                others[0].join(timeout=20)
            return super().__getitem__(index)

    assert x._held is not None
    x._held = Held(x._held)
    assert torch.equal(x[0], first)
    assert others and not torch.equal(x[95], first)


def test_a_damaged_row_is_told_in_the_step_that_takes_it() -> None:
    stream = Stream(20, 5, seed=0)
    damaged = int(stream.rows(2)[0])
    data, steps = lazy(), []

    def counting(model: Any, x0: Tensor, **options: Any) -> Tensor:
        steps.append(len(x0))
        return plain(model, x0, **options)

    trainer = Trainer(model(), data, **grouped(steps=6, batch_size=5, loss=counting))
    data.x.damaged = damaged  # type: ignore[attr-defined]  # after the trainer has looked
    with pytest.raises(ValueError, match=f"row {damaged} is damaged"):
        trainer.fit()
    assert len(steps) == 2
    with pytest.raises(ValueError, match=f"row {damaged} is damaged"):
        Trainer(model(), data, steps=6)
    assert not reading()


def test_bad_workers() -> None:
    for wrong in (-1, 1.5, "two"):
        with pytest.raises((TypeError, ValueError), match="workers"):
            Trainer(model(), lazy(), steps=1, workers=wrong)  # type: ignore[arg-type]
