"""Data that are read when they are needed: rows, splits, moments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import file_of, refuses
from groups import grouped
from torch import Tensor

from scoresde import VPSDE, Empirical, Preconditioned, Quantisation, Trainer
from scoresde.data import Data, LazyData, Rows, Scaling, moments, moons, npy, split
from scoresde.nets import MLP
from scoresde.training.stream import scattered

# Lazy data


class Numbers(Rows):
    """Row i is (i, -i); counts what is read."""

    dtype = torch.float32

    def __init__(self, n: int) -> None:
        self.n = n
        self.seen: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n, 2)

    def read(self, rows: Tensor) -> Tensor:
        self.seen += rows.tolist()
        return torch.stack([rows, -rows], dim=1).float()


def numbers(n: int = 10) -> LazyData:
    levels = Quantisation(2 * n + 1, -n, n)
    return LazyData(Numbers(n), {"label": torch.arange(n)}, levels, "numbers", n)


def test_lazy_data_reads_what_is_asked_for_and_nothing_else() -> None:
    data = numbers()
    rows = data.x
    assert isinstance(rows, Numbers)
    part = data.take(torch.tensor([7, 1, 4])).take(slice(1, None))
    assert repr(part) == "LazyData(numbers: 2 x (2,) float32, cond: label)"
    assert rows.seen == []
    assert part.cond["label"].tolist() == [1, 4]
    assert part.x[:].tolist() == [[1, -1], [4, -4]]
    assert part.x[-1].tolist() == [4, -4]
    assert rows.seen == [1, 4, 4]


def test_lazy_data_selects_as_data_does() -> None:
    lazy = numbers()
    data = lazy.load()
    assert isinstance(data, Data)
    mask = torch.arange(10) % 3 == 0
    for index in (3, -1, slice(2, 8, 3), mask, torch.tensor([7, 1, 1]), torch.tensor([-2])):
        assert torch.equal(lazy[index].x, data[index].x)
        assert torch.equal(lazy[index].cond["label"], data[index].cond["label"])
        assert lazy[index].classes == data[index].classes == 10
        assert repr(lazy[index]) == repr(data[index])
    for ours, theirs in zip(lazy.split(0.3, seed=2), data.split(0.3, seed=2), strict=True):
        assert torch.equal(ours.x[:], theirs.x)
        assert isinstance(ours, LazyData)
    assert Data.of(lazy) is lazy


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d: d[10], IndexError, ["range"]),
        (lambda d: d[10:], ValueError, ["index", "one row or more"]),
        (lambda d: d[torch.tensor([10])], IndexError, ["10"]),
        (lambda d: d.x[0:2, 0], ValueError, ["index", "rows alone", "x[rows]"]),
        (lambda d: d.x[torch.tensor([0.5])], ValueError, ["index", "float32"]),
        (lambda d: d.split(1.5), ValueError, ["fraction", "1.5"]),
        (lambda d: LazyData(torch.ones(3, 2)), TypeError, ["x:", "Rows", "ArrayRows"]),
        (lambda d: Empirical(d.x), TypeError, ["data: expected", "lazy rows", "use x[:]"]),
        (lambda d: LazyData(Numbers(0)), ValueError, ["x:", "(0, 2)", "loaded"]),
        (
            lambda d: LazyData(d.x, {"label": torch.arange(10)}, classes=9),
            ValueError,
            ["cond['label']", "got 9", "0 to 8"],
        ),
        (
            lambda d: LazyData(d.x, {"y": torch.ones(9)}),
            ValueError,
            ["cond['y']", "leading length 10"],
        ),
        (
            lambda d: Data(torch.ones(2, 2) * torch.arange(2)[:, None], class_names=("a",)),
            ValueError,
            ["class_names", "0 names"],
        ),
    ],
)
def test_lazy_data_refuses(
    call: Callable[[LazyData], Any], error: type[Exception], words: list[str]
) -> None:
    refuses(lambda: call(numbers()), words, error)


def test_the_trainer_takes_lazy_data_and_ends_with_the_weights_of_data(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, moons(64).x.numpy())
    lazy = npy(file)
    weights = []
    for data in (lazy, lazy.load()):
        torch.manual_seed(0)
        model = Preconditioned(MLP(2, width=8), VPSDE())
        out = tmp_path / type(data).__name__
        fitted = Trainer(
            model, data, **grouped(steps=3, batch_size=16, out=out, tensorboard=False)
        ).fit()
        weights.append(torch.cat([p.flatten() for p in fitted.parameters()]))
    assert torch.equal(*weights)


# Splits


def sides(data: Data | LazyData, fraction: float, seed: int = 0) -> dict[tuple[float, ...], int]:
    parts = split(data, fraction, seed)
    return {tuple(row): i for i, part in enumerate(parts) for row in part.x[:].tolist()}


def test_a_split_is_disjoint_complete_and_near_the_fraction() -> None:
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    data = Data(x, {"label": torch.arange(4000)}, classes=4000)
    for fraction in (0.1, 0.5, 0.9):
        first, second = split(data, fraction)
        both = torch.cat([first.cond["label"], second.cond["label"]])
        assert both.sort().values.tolist() == list(range(4000))
        assert torch.equal(first.x, x[first.cond["label"]])
        assert abs(len(first) - 4000 * fraction) < 4 * (4000 * fraction * (1 - fraction)) ** 0.5
    assert first.classes == 4000


def test_a_split_stays_when_data_are_added_removed_or_reordered(tmp_path: Path) -> None:
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
    whole = sides(Data(x), 0.8)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    assert sides(Data(x[:300]), 0.8).items() <= whole.items()
    assert sides(Data(x[order]), 0.8) == whole
    assert sides(file_of(tmp_path, x.numpy()), 0.8) == whole
    assert sides(Data(x), 0.8, seed=1) != whole
    wider = sides(Data(x), 0.9)
    assert all(wider[row] == 0 for row, side in whole.items() if side == 0)


def test_seeds_split_independently() -> None:
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(3))
    first = [set(split(Data(x), 0.5, seed)[0].x.flatten().tolist()) for seed in (0, 1)]
    assert abs(len(first[0] & first[1]) - 1000) < 4 * (4000 * 3 / 16) ** 0.5


def test_copies_stand_on_one_side() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).repeat(4, 1)
    first, second = split(Data(x), 0.5)
    assert not {*map(tuple, first.x.tolist())} & {*map(tuple, second.x.tolist())}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d: split(d, 0.0), ValueError, ["fraction", "strictly between"]),
        (lambda d: split(d[:2], 0.001), ValueError, ["fraction", "both sides of 2"]),
        (lambda d: split(d, 0.5, seed=0.5), ValueError, ["seed", "[0, 2**63)", "0.5"]),
        (lambda d: split(d.x, 0.5), TypeError, ["data", "Data.of"]),
    ],
)
def test_a_split_refuses(
    call: Callable[[Data], Any], error: type[Exception], words: list[str]
) -> None:
    refuses(lambda: call(moons(10)), words, error)


# Moments


def test_streamed_moments_are_those_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoresde.data.rows.CHUNK", 100)  # pieces of 16 rows, and one of 8
    # A mean of 1e4 standard deviations: E x^2 - (E x)^2 would lose 8 of its digits.
    raw = np.random.default_rng(0).normal(1e4, 1.0, (1000, 3, 2)) * [1.0, 3.0]
    np.save(tmp_path / "x.npy", raw.astype(np.float32))
    exact = raw.astype(np.float32).astype(np.float64)
    flat = exact.reshape(1000, -1)
    lazy = npy(tmp_path / "x.npy", layout="ND", standardise=False)
    for data in (lazy, lazy.load(), lazy.x[:]):
        found = moments(data, covariance=True)
        assert found.count == 1000
        assert found.mean.shape == found.std.shape == (3, 2)
        assert found.covariance is not None
        np.testing.assert_allclose(found.mean.numpy(), exact.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.std.numpy(), exact.std(axis=0), rtol=1e-12)
        expected = np.cov(flat, rowvar=False, ddof=0)
        np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments(data).std.numpy(), found.std.numpy(), rtol=1e-12)


def test_moments_refuse_a_covariance_that_does_not_fit() -> None:
    refuses(
        lambda: moments(torch.rand(2, 2**14 + 1), covariance=True),
        ["covariance", "16385", "at most"],
    )


def test_scaling_goes_there_and_back_and_refuses() -> None:
    raw = torch.randn(20, 2, dtype=torch.float64) * torch.tensor([1e-3, 1e3]) + 7
    scaling = Scaling(raw.mean(0), raw.std(0), ("a", "b"))
    assert (scaling.decode(scaling.encode(raw)) - raw).abs().max() < 1e-12
    assert scaling.encode(raw.float()).dtype == torch.float32
    refuses(lambda: scaling.decode(raw[:, :1]), ["x:", "(..., 2)", "a, b"])
    refuses(lambda: Scaling(torch.zeros(1), torch.zeros(1)), ["std", "> 0", "drop"])
    refuses(lambda: Scaling(torch.zeros(2), torch.ones(1)), ["std", "(2,)"])
    refuses(lambda: Scaling(torch.zeros(1), torch.ones(1), ("a", "b")), ["columns", "1 names"])


# The order of the rows


@pytest.mark.parametrize("samples", [1, 2, 3, 17, 64, 1000, 4097, 65_536])
def test_an_order_that_is_stored_nowhere_has_every_row_once(samples: int) -> None:
    places = torch.arange(samples)
    first, second = (scattered(places, samples, key) for key in (5, 6))
    assert torch.equal(first.sort().values, places) and torch.equal(second.sort().values, places)
    cut = samples // 3
    parts = [scattered(part, samples, 5) for part in (places[:cut], places[cut:])]
    assert torch.equal(torch.cat(parts), first)
    if samples >= 1000:
        # Independent of the place, of the neighbour and of the other key: r sqrt(n) is normal.
        pairs = ((places, first), (first[:-1], first[1:]), (first, second))
        for a, b in pairs:
            r = torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1]
            assert abs(float(r)) * samples**0.5 < 4
        kept = int((first == places).sum())
        assert kept < 8  # Poisson with mean 1
