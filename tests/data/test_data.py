"""The data container, the embedded digits and the toys."""

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons, make_swiss_roll

from scoresde.data import (
    TOYS,
    Data,
    DataSummary,
    Scaling,
    digits,
    eight_gaussians_parameters,
    hold_out,
    moments,
    split,
    summarise,
    toy,
)
from scoresde.metrics import sliced_wasserstein
from scoresde.quantisation import Quantisation


def numbered(n: int = 10) -> Data:
    """Row i is (i, -i), with i as its label."""
    x = torch.arange(n, dtype=torch.float32)
    return Data(torch.stack([x, -x], dim=1), {"label": torch.arange(n)}, classes=n)


# The container


def test_rows_and_conditions_stay_together() -> None:
    data = numbered()
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[2, 7]] = True
    for index, expected in (
        (slice(2, 8, 3), [2, 5]),
        (torch.tensor([7, 1, 1]), [7, 1, 1]),
        (mask, [2, 7]),
        (-1, [9]),
    ):
        part = data[index]
        assert part.x[:, 0].tolist() == expected
        assert part.cond["label"].tolist() == expected
        assert part.classes == 10


def test_a_few_rows_may_be_constant_although_the_whole_may_not() -> None:
    assert len(numbered()[torch.tensor([3, 3, 3])]) == 3
    assert len(Data(torch.zeros(1, 2))) == 1


def test_split_is_disjoint_complete_shuffled_and_reproducible() -> None:
    data = numbered(1000)
    first, second = data.split(0.3, seed=1)
    assert (len(first), len(second)) == (300, 700)
    rows = first.x[:, 0].tolist() + second.x[:, 0].tolist()
    assert sorted(rows) == list(range(1000))
    assert abs(np.corrcoef(np.arange(300), rows[:300])[0, 1]) < 0.2
    assert torch.equal(first.x[:, 0].long(), first.cond["label"])
    again, other = data.split(0.3, seed=1)[0], data.split(0.3, seed=2)[0]
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_split_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    numbered().split(0.5, seed=3)
    toy("moons", 10, seed=3)
    digits()
    assert torch.equal(before, torch.random.get_rng_state())


def test_data_of_takes_what_is_at_hand() -> None:
    x = torch.randn(4, 2)
    data = Data(x)
    assert Data.of(data) is data
    assert Data.of(x).x is x
    assert Data.of(x.double()).x.dtype == torch.float64
    assert Data.of(x.double().numpy()).x.dtype == torch.float32
    assert torch.equal(Data.of(x.numpy()).x, x)
    pair = Data.of((x.numpy(), {"label": np.array([0, 1, 2, 0], dtype=np.uint8)}))
    assert pair.cond["label"].dtype == torch.int64
    assert pair.cond["label"].tolist() == [0, 1, 2, 0]


def test_data_owns_its_conditions_and_pickles() -> None:
    cond = {"label": torch.tensor([0, 1])}
    levels = Quantisation(17)
    data = Data(levels.encode(torch.arange(6).view(2, 3)), cond, levels, "two", 2)
    cond["late"] = torch.zeros(2)
    assert list(data.cond) == ["label"]
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.x, data.x)
    assert copy.quantisation == data.quantisation
    assert repr(data) == "Data(two: 2 x (3,) float32, cond: label)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_quantised_values_lie_on_their_levels(dtype: torch.dtype) -> None:
    """Between the levels there is nothing that bits per dimension could count."""
    levels = Quantisation(256)
    x = levels.encode(torch.arange(256), dtype=dtype).view(-1, 2)
    assert torch.equal(Data(x, quantisation=levels).x, x)
    with pytest.raises(ValueError, match="x: expected values on the quantisation's levels"):
        Data(x + 0.3 * levels.bin_width, quantisation=levels)
    with pytest.raises(ValueError, match=r"values in the quantisation's range \[-1, 1\]"):
        Data(2 * x, quantisation=levels)


def test_a_constant_pixel_is_fine_and_a_constant_channel_is_not() -> None:
    x = torch.randn(5, 3, 4, 4)
    x[:, :, 0, 0] = 0.0
    assert len(Data(x)) == 5
    x[:, 1] = 0.25
    with pytest.raises(
        ValueError, match=r"x: .*0\.25 everywhere in channel 1 of 3.*drop channel 1"
    ):
        Data(x)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: Data(x.long()), TypeError, ["x:", "int64", "encode"]),
        (lambda x: Data(x.numpy()), TypeError, ["x:", "torch.Tensor", "as_tensor"]),
        (lambda x: Data(x[:, 0]), ValueError, ["x:", "(6,)", "x[:, None]"]),
        (lambda x: Data(x[:0]), ValueError, ["x:", "(0, 2)", "loaded"]),
        (lambda x: Data(x / (x - x[3])), ValueError, ["x:", "row 3", "1 bad row(s) of 6"]),
        (
            lambda x: Data(x * torch.tensor([1.0, 0.0])),
            ValueError,
            ["x:", "channel 1 of 2", "drop"],
        ),
        (lambda x: Data(x, {"y": x[:5]}), ValueError, ["cond['y']", "(5, 2)", "length 6"]),
        (lambda x: Data(x, {"y": x.log()}), ValueError, ["cond['y']", "-inf in row 0", "repair"]),
        (
            lambda x: Data(x, {"y": np.ones(6)}),  # type: ignore[dict-item]
            TypeError,
            ["cond['y']", "as_tensor"],
        ),
        (lambda x: Data(x, {"label": x[:, 0]}), TypeError, ["cond['label']", "float32", "class"]),
        (
            lambda x: Data(x, {"label": torch.arange(6)}, classes=5),
            ValueError,
            ["cond['label']", "got 5", "0 to 4", "renumber"],
        ),
        (lambda x: Data(x, x), TypeError, ["cond", "Mapping", '{"label": labels}']),
        (lambda x: Data.of((x, x[:, 0])), TypeError, ["x:", "pair", '{"label": labels}']),
        (lambda x: Data.of(x.long().numpy()), TypeError, ["x:", "int64", "encode"]),
        (lambda x: Data(x)[6:], ValueError, ["index", "slice(6, None, None)", "one row"]),
        (lambda x: Data(x)[6], IndexError, ["range"]),
        (lambda x: Data(x).split(1.0, 0), ValueError, ["fraction", "1.0", "0.8"]),
        (lambda x: Data(x).split(0.01, 0), ValueError, ["fraction", "0.01", "both sides of 6"]),
        (
            lambda x: Data(x).split("half", 0),  # type: ignore[arg-type]
            TypeError,
            ["fraction", "'half'"],
        ),
        (lambda x: digits("valid"), ValueError, ["split", "'valid'", "'train'", "'test'"]),
        (lambda x: digits(test_fraction=0), ValueError, ["test_fraction", "0.5"]),
        (lambda x: toy("moon", 10, 0), ValueError, ["name", "'moon'", "did you mean 'moons'"]),
        (lambda x: toy("moons", 0, 0), ValueError, ["n:", "0", "positive"]),
        (
            lambda x: toy("moons", 1.5, 0),  # type: ignore[arg-type]
            TypeError,
            ["n:", "1.5", "positive"],
        ),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[Any], Any], error: type[Exception], words: list[str]
) -> None:
    x = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    with pytest.raises(error) as caught:
        call(x)
    for word in words:
        assert word in str(caught.value)


# The digits


def test_the_digits_are_those_of_scikit_learn() -> None:
    images, labels = load_digits(return_X_y=True)
    data = digits("all")
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.x.dtype == torch.float32
    assert (data.x.min().item(), data.x.max().item()) == (-1.0, 1.0)
    assert (data.classes, data.quantisation) == (10, Quantisation(17))
    decoded = Quantisation(17).decode(data.x).flatten(1)
    assert torch.equal(decoded, torch.as_tensor(images).long())
    assert data.cond["label"].tolist() == labels.tolist()


@pytest.mark.parametrize("share", [0.5, 0.1, 1 / 3])
def test_the_halves_are_disjoint_complete_and_stratified(share: float) -> None:
    parts = [digits(split, test_fraction=share) for split in ("all", "train", "test")]
    whole, train, test = ({tuple(row) for row in part.x.flatten(1).tolist()} for part in parts)
    assert len(whole) == 1797  # no image occurs twice, so sets of rows are faithful
    assert train | test == whole
    assert not train & test
    counts = [torch.bincount(part.cond["label"], minlength=10) for part in parts]
    assert torch.equal(counts[1] + counts[2], counts[0])
    assert (counts[2] - share * counts[0]).abs().max() < 1
    assert len(test) == math.floor(share * 1797)


def test_the_split_follows_its_seed() -> None:
    assert torch.equal(digits(seed=1).x, digits(seed=1).x)
    assert not torch.equal(digits(seed=1).x, digits(seed=2).x)


# The toys


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_zero_mean_and_unit_variance(name: str) -> None:
    x = toy(name, 1_000_000, seed=0).x.double()
    assert x.mean(dim=0).abs().max() < 4e-3
    assert x.var(dim=0).mean().item() == pytest.approx(1.0, abs=3e-3)


@pytest.mark.parametrize("name", TOYS)
def test_toys_follow_their_seed_and_are_float32(name: str) -> None:
    data = toy(name, 50, seed=1)
    assert data.x.dtype == torch.float32
    assert data.name == name
    assert torch.equal(data.x, TOYS[name](50, 1).x)
    assert not torch.equal(data.x, toy(name, 50, seed=2).x)


def test_moons_and_roll_are_those_of_scikit_learn() -> None:
    n = 20_000
    raw, _ = make_moons(n, noise=0.1, random_state=0)
    expected = (raw - [0.5, 0.25]) / math.sqrt((0.75 + 9 / 16 - 1 / math.pi) / 2 + 0.01)
    assert sliced_wasserstein(toy("moons", n, seed=0).x, expected, projections=32) < 0.02
    raw = make_swiss_roll(n, noise=0.5, random_state=0)[0][:, [0, 2]]
    mean = np.array([2.0, 2 / (3 * math.pi)])
    expected = (raw - mean) / math.sqrt((9.75 * math.pi**2 - mean @ mean) / 2 + 0.25)
    assert sliced_wasserstein(toy("swiss_roll", n, seed=0).x, expected, projections=32) < 0.02


def test_the_checkerboard_is_uniform_on_its_dark_squares() -> None:
    n = 80_000
    board = (toy("checkerboard", n, seed=0).x.double() / math.sqrt(3) + 1) * 2  # [0, 4]^2
    square = board.floor().long()
    assert ((square.sum(dim=1) % 2) == 0).all()
    counts = torch.bincount(4 * square[:, 0] + square[:, 1], minlength=16)
    dark = counts[counts > 0]
    assert len(dark) == 8
    assert (dark - n / 8).abs().max() < 5 * math.sqrt(n / 8)
    within = board - square
    assert (within.mean(dim=0) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / n)
    assert (within.var(dim=0) - 1 / 12).abs().max() < 5e-3 / 12


def test_the_eight_gaussians_are_the_mixture_they_say() -> None:
    means, std, weights = eight_gaussians_parameters()
    assert weights.sum().item() == 1.0
    covariance = (weights[:, None] * means).T @ means + std**2 * torch.eye(2).double()
    assert torch.allclose(covariance, torch.eye(2).double(), atol=1e-14)
    assert (weights @ means).abs().max() < 1e-15
    x = toy("eight_gaussians", 200_000, seed=0).x.double()
    nearest = torch.cdist(x, means).argmin(dim=1)
    for k in range(8):
        own = x[nearest == k]
        assert len(own) / len(x) == pytest.approx(1 / 8, abs=4e-3)
        assert (own.mean(dim=0) - means[k]).abs().max() < 6e-3
        radial = (own - means[k]) @ (means[k] / means[k].norm())
        assert radial.std().item() == pytest.approx(std, rel=0.02)


# What came with the loaders


def test_a_split_by_hash_keeps_the_sides_and_a_random_one_its_share() -> None:
    data = digits("all")
    fewer = data[torch.arange(0, len(data), 2)]
    first, second = split(data, 0.8)
    sides = {row.tobytes(): 0 for row in first.x.numpy()}
    sides |= {row.tobytes(): 1 for row in second.x.numpy()}
    assert len(sides) == 1797
    for side, part in enumerate(split(fewer, 0.8)):
        assert all(sides[row.tobytes()] == side for row in part.x.numpy())
    assert abs(len(first) - 0.8 * 1797) < 4 * math.sqrt(1797 * 0.16)
    assert len(data.split(0.8)[0]) == round(0.8 * 1797)


def test_a_share_is_held_out_of_any_number_of_samples() -> None:
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    for n in range(1, 60):
        for shift in range(5):
            data = Data(x[shift : shift + n])
            seen, held_out = hold_out(data, 0.05)
            if n < 20:
                assert seen is data
                assert held_out is None
            else:
                assert held_out is not None
                assert len(seen) + len(held_out) == n
                assert 1 <= len(held_out) <= 0.05 * n + 4 * (0.05 * n) ** 0.5
    data = Data(x)
    for share in (0.05, 0.4, 0.999):
        first, second = hold_out(data, share)
        assert second is not None
        assert len(first) >= 1
    by_hash = split(data, 0.6)
    again = hold_out(data, 0.4)
    assert all(torch.equal(a.x, b.x) for a, b in zip(by_hash, again, strict=True) if b)
    assert hold_out(data, 0)[1] is None
    copies = Data(x[:1].repeat(100, 1, 1, 1))
    assert hold_out(copies, 0.05)[1] is None
    with pytest.raises(ValueError, match="share: expected a number from 0 up to 1, got 1"):
        hold_out(data, 1)


def test_moments_of_data_are_those_of_numpy() -> None:
    data = digits("all")
    flat = data.x.double().flatten(1).numpy()
    found = moments(data, covariance=True)
    assert found.covariance is not None
    np.testing.assert_allclose(found.mean.flatten(), flat.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std.flatten(), flat.std(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(flat.T, ddof=0), rtol=0, atol=1e-12)


def test_names_of_classes_and_the_scaling_stay_with_the_rows() -> None:
    scaling = Scaling(torch.zeros(2), torch.ones(2), ("a", "b"))
    x = torch.arange(8.0).reshape(4, 2)
    data = Data(x, {"label": torch.arange(4) % 2}, classes=2, class_names=("u", "v"))
    data = Data(data.x, data.cond, classes=2, class_names=data.class_names, scaling=scaling)
    for part in (data[1:3], *data.split(0.5), *split(Data(x, scaling=scaling), 0.5)):
        assert part.scaling is scaling
    assert data[:1].class_names == ("u", "v")
    with pytest.raises(ValueError, match=r"class_names: expected 2 names.*got \('u',\)"):
        Data(x, classes=2, class_names=("u",))


def test_a_summary_measures_the_data_and_comes_back_from_json() -> None:
    x = torch.tensor([[0.0, 10.0], [2.0, 14.0], [4.0, 18.0]], dtype=torch.float64)
    data = Data(x, {"label": torch.tensor([0, 1, 1])}, classes=2, class_names=("cat", "dog"))
    found = summarise(data)
    assert (found.count, found.shape, found.low, found.high) == (3, (2,), 0.0, 18.0)
    assert found.mean == pytest.approx(8.0)
    assert found.std == pytest.approx(math.sqrt((8 / 3 + 32 / 3) / 2))
    scaling = Scaling(torch.tensor([1.0]).double(), torch.tensor([3.0]).double(), ("height",))
    full = replace(found, scaling=scaling, quantisation=Quantisation(17))
    again = DataSummary.from_dict(json.loads(json.dumps(full.to_dict())))
    assert again.class_names == ("cat", "dog")
    assert again.quantisation == Quantisation(17)
    assert again.scaling is not None
    assert again.scaling.decode(torch.tensor([[2.0]])).tolist() == [[7.0]]


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 4, 4)])
def test_a_scaling_takes_any_shape_that_broadcasts_against_a_sample(
    shape: tuple[int, ...],
) -> None:
    scaling = Scaling(torch.full(shape, 5.0).double(), torch.full(shape, 2.0).double())
    raw = torch.full((7, 3, 4, 4), 9.0)
    assert torch.equal(scaling.encode(raw), torch.full_like(raw, 2.0))
    assert torch.equal(scaling.decode(scaling.encode(raw)), raw)
    if shape:
        with pytest.raises(ValueError, match=r"raw: expected shape \(\.\.\., 3"):
            scaling.encode(torch.zeros(7, 2, 4, 4))


def test_nan_in_a_floating_condition_means_not_given() -> None:
    x, y = torch.randn(3, 2), torch.tensor([[1.0, math.nan], [math.nan, math.nan], [0.0, 2.0]])
    data = Data(x, {"y": y})
    assert torch.equal(data[:2].cond["y"].isnan(), y[:2].isnan())
    with pytest.raises(ValueError, match=r"inf in row 2"):
        Data(x, {"y": torch.tensor([math.nan, 1.0, math.inf])})
    assert summarise(data).conditions["y"].shape == (2,)
