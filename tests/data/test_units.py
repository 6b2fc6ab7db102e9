"""Data come into model units, and samples go back to the units that the data had."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import refuses
from torch import Tensor

from scoresde import Quantisation
from scoresde.data import (
    ArrayRows,
    Data,
    LazyData,
    hold_out,
    load_data,
    npy,
    npz,
    split,
    summarise,
    unit_fault,
)
from scoresde.data.units import levels_up_to


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
    levels = Quantisation(4).encode(torch.arange(4))[:, None]
    refuses(
        Data(levels, quantisation=Quantisation(4)).standardised, ["quantisation", "leave them"]
    )


def test_rows_of_a_table_keep_their_side_of_a_split_when_rows_are_added(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = np.round(draw.normal((170.0, 1e6), (10.0, 0.1), (400, 2)), 3)
    rows[300:] += 5.0  # so mean and standard deviation change

    def held_out(n: int) -> set[int]:
        text = "\n".join(f"{a},{b}" for a, b in rows[:n].tolist())
        (tmp_path / "t.csv").write_text(f"a,b\n{text}\n")
        data = load_data(tmp_path / "t.csv")
        part = hold_out(data, 0.2)[1]
        assert part is not None and part.scaling is not None
        found = part.scaling.decode(part.x.double()).numpy()
        return {int(np.abs(rows - row).sum(1).argmin()) for row in found}

    assert held_out(300) == {row for row in held_out(400) if row < 300}


def test_a_single_sample_is_not_standardised(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.array([[1000.0, 1200.0]]))
    with pytest.raises(ValueError, match="two samples or more"):
        load_data(tmp_path / "one.npy")


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


@pytest.mark.parametrize("layout", ["auto", "NDHWC", "NCDHW"])
def test_volumes_have_their_channel_first(tmp_path: Path, layout: str) -> None:
    raw = normal(4, 6, 6, 5, 2).numpy() if layout != "NCDHW" else normal(4, 2, 6, 6, 5).numpy()
    data = npy(saved(tmp_path, raw), layout=layout, standardise=False)
    wanted = raw if layout == "NCDHW" else np.moveaxis(raw, -1, 1)
    assert np.array_equal(data.x[:].numpy(), wanted.astype(np.float32))


def saved(folder: Path, array: object) -> Path:
    np.save(folder / "x.npy", np.asarray(array))
    return folder / "x.npy"


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((200, 3), (3,)),
        ((200,), (1,)),
        ((200, 2, 16), (2, 1)),
        ((200, 12, 12), (1, 1, 1)),
        ((200, 5, 6, 3), (3, 1, 1)),
        ((200, 2, 8, 8, 8), (2, 1, 1, 1)),
        ((200, 5, 6, 7, 2), (2, 1, 1, 1)),
    ],
)
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_of_a_file_are_standardised_and_it_is_said(
    tmp_path: Path, shape: tuple[int, ...], kept: tuple[int, ...], kind: str
) -> None:
    raw = (1000 + 50 * normal(*shape).numpy()).astype(kind)
    with pytest.warns(UserWarning, match=r"x.npy: mean .* standardised, each .*standardise=Fa"):
        data = npy(saved(tmp_path, raw))
    assert data.scaling is not None
    assert data.scaling.mean.shape == kept
    assert data.x.dtype == torch.float32
    axes = [axis for axis in range(data.x.ndim) if axis != 1]
    assert data.x[:].double().mean(dim=axes).abs().max() < 1e-6
    assert (data.x[:].double().var(dim=axes, correction=0) - 1).abs().max() < 1e-5
    back = data.scaling.decode(data.x[:].double())
    plain = npy(tmp_path / "x.npy", standardise=False)
    assert plain.scaling is None
    assert (back - plain.x[:]).abs().max() < 1e-3
    assert data[3:5].scaling is data.scaling
    assert torch.equal(data[3:5].x, data.load().x[3:5])


def test_small_spread_about_a_large_mean_survives_float32(tmp_path: Path) -> None:
    raw = 1.7e9 + np.linspace(0, 1, 11)[:, None]  # seconds since 1970; float32 steps by 128
    with pytest.warns(UserWarning, match="standardised"):
        x = npy(saved(tmp_path, raw)).load().x
    expected = torch.linspace(-1, 1, 11, dtype=torch.float64)[:, None]
    assert (x - expected / expected.std(correction=0)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "raw",
    [
        normal(100, 3),
        0.5 + 0.5 * normal(100, 3),
        normal(100, 2, 8, 8) * 2,
        torch.linspace(0, 1, 300).reshape(100, 3),
        normal(100, 3) * torch.tensor([1.0, 0.02, 2.5]),
    ],
)
def test_floats_in_model_units_are_left_alone(tmp_path: Path, raw: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = npy(saved(tmp_path, raw.numpy()))
    assert data.scaling is None
    assert torch.equal(data.x[:], raw.float())


def test_columns_of_mixed_magnitude_are_each_standardised(tmp_path: Path) -> None:
    raw = normal(500, 4) * torch.tensor([1.0, 1e30, 1e-30, 1e-310], dtype=torch.float64)
    with pytest.warns(UserWarning, match="each entry"):
        data = npy(saved(tmp_path, raw.numpy()))
    assert (data.x[:].double().std(dim=0, correction=0) - 1).abs().max() < 1e-5
    hidden = normal(500, 2) * torch.tensor([1.0, 1e-4])
    with pytest.warns(UserWarning, match="entry 1 has mean .* and standard deviation 9.9"):
        assert npy(saved(tmp_path, hidden.numpy())).scaling is not None


@pytest.mark.parametrize("shape", [(60, 1, 8, 8), (60, 8, 8, 3), (60, 28, 28)])
def test_pictures_of_floats_are_recognised(tmp_path: Path, shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape)
    exact = npy(saved(tmp_path, levels.astype(np.uint8)))
    with pytest.warns(UserWarning, match="whole numbers are taken as 256 levels"):
        whole = npy(saved(tmp_path, levels.astype(np.float32)))
    assert whole.quantisation == Quantisation(256)
    assert torch.equal(whole.x[:], exact.x[:])
    assert torch.equal(whole.load().x, exact.x[:])
    few = levels % 17
    with pytest.warns(UserWarning, match="17 levels"):
        assert npy(saved(tmp_path, few.astype(float))).quantisation == Quantisation(17)
    for top in (1, 255):
        raw = np.random.default_rng(0).random(shape) * top
        with pytest.warns(UserWarning, match=rf"floats from 0 to {top}; .* \[-1, 1\]"):
            data = npy(saved(tmp_path, raw))
        assert data.quantisation is None
        assert data.scaling is not None
        assert data.scaling.mean.item() == data.scaling.std.item() == top / 2
        assert -1 <= data.x[:].min() <= -0.99
        assert 0.99 <= data.x[:].max() <= 1
    with pytest.warns(UserWarning, match="standardised"):  # a field, which does not fill 0 to 255
        assert (
            npy(saved(tmp_path, 90 + 20 * np.random.default_rng(0).random(shape))).quantisation
            is None
        )
    with pytest.warns(UserWarning, match="standardised"):
        assert (
            npy(saved(tmp_path, 0.01 * np.random.default_rng(0).random(shape))).quantisation
            is None
        )


def test_dark_images_have_the_levels_of_their_file(tmp_path: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 101, (20, 8, 8)).astype(np.uint8)
    for array, levels in (
        (dark, 256),
        (dark[..., None].repeat(3, axis=-1), 256),
        (dark.astype(np.int64), 256),
        (dark.astype(np.uint16) * 30, 4096),
        (dark.astype(np.uint16) * 600, 65536),
        (dark % 17, 17),
        (dark % 2, 2),
        (dark[:, 0], 101),
    ):
        layout = "NHW" if array.ndim == 3 else "auto"
        assert npy(saved(tmp_path, array), layout=layout).quantisation == Quantisation(levels)
    assert npy(saved(tmp_path, dark), levels=101).quantisation == Quantisation(101)
    assert npy(saved(tmp_path, dark)).x.shape == (20, 1, 8, 8)


def test_integers_as_numbers_are_standardised_on_request(tmp_path: Path) -> None:
    file = saved(tmp_path, np.array([[-3, 10**6], [5, 2 * 10**6], [9, 10**6]]))
    refuses(lambda: npy(file), ["levels from 0", "-3", "standardise=True"])
    data = load_data(file, standardise=True)
    assert data.quantisation is None
    assert data.scaling is not None
    assert data.scaling.decode(data.x[:].double())[1].tolist() == pytest.approx([5, 2e6])
    refuses(lambda: npy(file, levels=9, standardise=True), ["standardise", "levels"])
    refuses(lambda: npy(file, standardise="yes"), ["standardise", "'auto'", "'yes'"])


def test_constant_entries_and_channels_of_a_file_are_refused_as_those_of_a_tensor(
    tmp_path: Path,
) -> None:
    raw = normal(20, 3)
    raw[:, 1] = 0.1
    refuses(lambda: Data(raw), ["channels that vary", "channel 1 of 3"])
    refuses(lambda: npy(saved(tmp_path, raw.numpy())), ["entries that vary", "in 1 of 3", "drop"])
    images = normal(20, 3, 8, 8)
    images[:, 2] = 7
    refuses(lambda: npy(saved(tmp_path, images.numpy())), ["channels that vary", "in 2 of 3"])


def test_the_obvious_arrays_of_an_npz_are_taken_and_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    y, file = np.array([3, 7, 3, 7, 3, 7]), tmp_path / "d.npz"
    for key, label in (
        ("x", "y"),
        ("images", "labels"),
        ("data", "label"),
        ("X_train", "y_train"),
        ("train_images", "train_labels"),
        ("arr_0", "arr_1"),
        ("pixels", "target"),
    ):
        more = {key.replace("train", "test"): x[:2], label.replace("train", "test"): y[:2]}
        np.savez(file, **{**more, label: y, key: x})
        with pytest.warns(UserWarning, match=f"{key!r} holds the samples and {label!r} their"):
            data = npz(file)
        assert (data.x.shape, data.class_names) == ((6, 1, 8, 8), ("3", "7"))
        assert npz(file, key, "").cond == {}
        assert npz(file, key, label).classes == 2
    np.savez(file, x=x, y=np.linspace(0, 1, 6))  # no classes
    assert npz(file, "x").cond == {}
    np.savez(file, a=x, b=x)
    refuses(lambda: npz(file), ["key", "'a', 'b'"])


@pytest.mark.parametrize(
    ("largest", "levels"),
    [
        (1, 2),
        (16, 17),
        (17, 256),
        (255, 256),
        (256, 1024),
        (1023, 1024),
        (4096, 16384),
        (65535, 65536),
        (65536, 65537),
    ],
)
def test_images_have_the_next_depth_in_bits(largest: int, levels: int) -> None:
    assert levels_up_to(largest, image=True) == levels
    assert levels_up_to(largest, image=False) == largest + 1
