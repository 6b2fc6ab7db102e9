"""Data come into model units, and samples go back to the units that the data had."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import DataContract
from scoresde.data import ArrayRows, Data, LazyData, split, summarise, unit_fault


def refuses(call: Any, words: list[str], error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "std", "noise", "fits"),
    [
        (0.0, 1.0, 1.0, True),
        (2.9, 0.11, 1.0, True),
        (-3.1, 1.0, 1.0, False),
        (0.0, 3.1, 1.0, False),
        (0.0, 0.09, 1.0, False),
        (7.0, 7.0, 80.0, True),
        (0.0, 9.0, 80.0, False),
        (0.0, 0.09, 80.0, False),
    ],
)
def test_plainly_not_in_model_units(mean: float, std: float, noise: float, fits: bool) -> None:
    assert (unit_fault(mean, std, noise=noise) is None) == fits


@pytest.mark.parametrize(
    ("by", "shape", "axes", "kept"),
    [
        ("auto", (50, 3), (0,), (3,)),
        ("entry", (50, 3), (0,), (3,)),
        ("entry", (50, 2, 4), (0,), (2, 4)),
        ("auto", (50, 2, 4), (0, 2), (2, 1)),
        ("auto", (50, 3, 4, 5), (0, 2, 3), (3, 1, 1)),
        ("channel", (50, 3), (0,), (3,)),
        ("all", (50, 3, 4, 5), (0, 1, 2, 3), ()),
        ("all", (50, 3), (0, 1), ()),
    ],
)
def test_standardised_data_have_mean_0_and_variance_1_and_go_back(
    by: str, shape: tuple[int, ...], axes: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    raw = normal(*shape) * normal(*shape[1:], seed=1).exp() + 1000 * normal(*shape[1:], seed=2)
    data = Data(raw).standardised(by)
    assert data.scaling is not None
    assert data.scaling.mean.shape == kept
    assert data.x.mean(dim=axes).abs().max() < 1e-12
    assert (data.x.var(dim=axes, correction=0) - 1).abs().max() < 1e-12
    assert (data.scaling.decode(data.x) - raw).abs().max() < 1e-10
    lazy = LazyData(ArrayRows(raw.numpy(), dtype=torch.float64)).standardised(by)
    assert torch.equal(lazy.x[:], data.x)
    assert lazy.scaling is not None
    assert torch.equal(lazy.scaling.std, data.scaling.std)
    assert lazy[:3].scaling is lazy.load().scaling is lazy.scaling
    known = summarise(lazy).scaling
    assert known is lazy.scaling


def test_two_scalings_in_a_row_go_back_in_one() -> None:
    raw = normal(40, 2) * 7 + 3
    once = Data(raw).standardised()
    twice = Data(5 + 2 * once.x, scaling=once.scaling)  # no longer in model units
    assert twice.scaling is not None
    back = twice.standardised()
    assert back.scaling is not None
    expected = once.scaling.decode(5 + 2 * once.x)  # type: ignore[union-attr]
    assert (back.scaling.decode(back.x) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e307])
def test_scales_at_the_ends_of_float64_are_standardised(scale: float) -> None:
    data = Data(scale * torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]).standardised()
    expected = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    expected = expected / expected.std(correction=0)
    assert (data.x - expected).abs().max() < 1e-10


def test_what_cannot_be_standardised_is_named() -> None:
    raw = normal(20, 4)
    raw[:, [1, 3]] = 0.1
    rows = LazyData(ArrayRows(raw.numpy()))
    refuses(rows.standardised, ["entries (axis 1) that vary", "in 1, 3 of 4", "drop"])
    refuses(lambda: rows.standardised("row"), ["by", "'entry'"])
    levels = DataContract(4).encode(torch.arange(4))[:, None]
    refuses(Data(levels, contract=DataContract(4)).standardised, ["contract", "leave them"])


def test_scaled_rows_keep_their_side_of_a_split_when_rows_are_added() -> None:
    raw = normal(400, 2).numpy() * 50 + 1000

    def side(n: int) -> dict[tuple[float, ...], int]:
        data = LazyData(ArrayRows(raw[:n], dtype=torch.float64)).standardised()
        assert data.scaling is not None
        parts = split(data, 0.7)
        return {
            tuple(row): i
            for i, part in enumerate(parts)
            for row in data.scaling.decode(part.x[:]).round(decimals=6).tolist()
        }

    assert side(200).items() <= side(400).items()
