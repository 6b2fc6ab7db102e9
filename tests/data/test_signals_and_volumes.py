"""Signals and volumes as arrays, the place of their channel, and conditions beside them."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refuses

from scoresde import Trainer
from scoresde.data import LAYOUTS, LazyData, array_folder, load_data, npy, npz, summarise
from scoresde.data.layouts import CHANNELS, layout_of
from scoresde.options import Table


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("shape", "channels", "made"),
    [
        ((6, 50), "none", (6, 1, 50)),
        ((6, 2, 50), "first", (6, 2, 50)),
        ((6, 50, 2), "last", (6, 2, 50)),
        ((6, 9, 7), "none", (6, 1, 9, 7)),
        ((6, 5, 9, 7), "first", (6, 5, 9, 7)),
        ((6, 9, 7, 5), "last", (6, 5, 9, 7)),
        ((6, 8, 9, 7), "none", (6, 1, 8, 9, 7)),
        ((6, 5, 8, 9, 7), "first", (6, 5, 8, 9, 7)),
        ((6, 8, 9, 7, 5), "last", (6, 5, 8, 9, 7)),
    ],
)
def test_the_place_of_the_channel_says_what_the_axes_are(
    tmp_path: Path, shape: tuple[int, ...], channels: str, made: tuple[int, ...]
) -> None:
    raw = floats(*shape)
    np.save(tmp_path / "x.npy", raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(tmp_path / "x.npy", channels=channels)
        assert isinstance(data, LazyData)  # mapped, not read
    assert tuple(data.x.shape) == made
    expected = {"none": raw.reshape(made), "first": raw, "last": np.moveaxis(raw, -1, 1)}[channels]
    np.testing.assert_allclose(data.x[:].numpy(), expected, rtol=1e-6)
    layout = CHANNELS[channels][len(shape)]
    assert npy(tmp_path / "x.npy", layout=layout).x.shape == made
    assert len(layout) == len(shape)
    assert layout in LAYOUTS


def test_volumes_and_signals_are_standardised_by_channel_and_keep_their_units(
    tmp_path: Path,
) -> None:
    scale = np.array([10.0, 0.01])[:, None, None, None]
    raw = 300.0 * scale + scale * floats(40, 2, 4, 4, 4)
    np.save(tmp_path / "x.npy", raw)
    with pytest.warns(UserWarning, match="standardised, each channel"):
        data = load_data(tmp_path / "x.npy", channels="first")
    x = data.x[:].double()
    axes = (0, 2, 3, 4)
    torch.testing.assert_close(x.mean(axes), torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        x.std(axes, correction=0), torch.ones(2).double(), atol=1e-5, rtol=0
    )
    assert data.scaling is not None
    np.testing.assert_allclose(data.scaling.decode(x).numpy(), raw, rtol=1e-5)
    raw = 5.0 + 40.0 * floats(30, 64)
    np.save(tmp_path / "s.npy", raw)
    with pytest.warns(UserWarning, match="each channel"):
        signals = load_data(tmp_path / "s.npy", channels="none")
    assert signals.scaling is not None
    assert signals.scaling.mean.shape == (1, 1)
    np.testing.assert_allclose(signals.scaling.decode(signals.x[:].double())[:, 0], raw, atol=1e-4)


def test_what_the_sizes_alone_say_is_told(tmp_path: Path) -> None:
    assert layout_of((50, 8, 8, 8)) == "NDHW"
    assert layout_of((50, 3, 8, 8)) == "NCHW"
    assert layout_of((50, 8, 32, 32)) == "NCHW"
    assert layout_of((50, 4, 4, 4, 1)) == "NDHWC"
    np.save(tmp_path / "x.npy", floats(50, 8, 8, 8))
    with pytest.warns(UserWarning, match="volumes without a channel, which get one .layout=NDHW"):
        assert npy(tmp_path / "x.npy").x.shape == (50, 1, 8, 8, 8)
    np.save(tmp_path / "x.npy", floats(50, 9, 8))
    with pytest.warns(UserWarning, match="images without a channel"):
        assert npy(tmp_path / "x.npy").x.shape == (50, 1, 9, 8)
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(4):
        np.save(folder / f"{i}.npy", floats(6, 6, 6, seed=i))
    with pytest.warns(UserWarning, match="volumes without a channel"):
        assert array_folder(folder).x.shape == (4, 1, 6, 6, 6)
    for i in range(4):
        np.save(folder / f"{i}.npy", floats(50, 2, seed=i))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert array_folder(folder, channels="last").x.shape == (4, 2, 50)
        assert load_data(folder, channels="last").x.shape == (4, 2, 50)


def test_bad_places_of_channels_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", floats(6, 10, 11, 12))
    file = tmp_path / "x.npy"
    refuses(lambda: npy(file), ["layout", "'auto'", "channels=none, first or last", "'NDHW' is"])
    refuses(lambda: npy(file, channels="front"), ["channels", "'first', 'last', 'none'"])
    refuses(lambda: npy(file, channels="first", layout="NCHW"), ["layout", "beside channels"])
    np.save(file, floats(6, 10))
    refuses(lambda: npy(file, channels="first"), ["x.npy", "channels='first'", "(N, C, L)"])


def test_arrays_beside_the_samples_are_conditions(tmp_path: Path) -> None:
    theta = floats(20, 3, seed=1)
    theta[0, 1] = math.nan
    arrays = {
        "x": floats(20, 4),
        "label": np.arange(20) % 2,
        "theta": theta,
        "kind": np.arange(20) % 5,
        "points": floats(20, 6, 2, seed=2),
        "points_mask": np.arange(120).reshape(20, 6) % 3 > 0,
        "names": np.array(["a"] * 20),
        "grid": floats(7),
        "x_test": floats(20, 4),
        "y_test": np.arange(20) % 2,
    }
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    said = r"'theta', 'kind', 'points', 'points_mask' have a row for each sample"
    with (
        pytest.warns(UserWarning, match=said),
        pytest.warns(UserWarning, match="'label' their labels"),
    ):
        data = npz(tmp_path / "x.npz", key="x")
    assert list(data.cond) == ["label", "theta", "kind", "points", "points_mask"]
    kinds = [torch.int64, torch.float32, torch.int64, torch.float32, torch.bool]
    assert [value.dtype for value in data.cond.values()] == kinds
    np.testing.assert_allclose(data.cond["theta"], theta, rtol=1e-6)
    assert data[:1].cond["theta"].isnan().tolist() == [[False, True, False]]
    assert summarise(data).conditions["points"].shape == (6, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = npz(tmp_path / "x.npz", "x", "label", condition=["theta"])
        assert list(one.cond) == ["label", "theta"]
        assert list(npz(tmp_path / "x.npz", "x", "", condition=[]).cond) == []
        table = Table(condition=["theta"])
        loaded = load_data(tmp_path / "x.npz", key="x", label="label", table=table)
        assert list(loaded.cond) == ["label", "theta"]
    for names, words in (
        (["z"], ["condition", "one of 'x'", "'z'"]),
        (["grid"], ["condition 'grid'", "20 rows"]),
    ):
        refuses(lambda n=names: npz(tmp_path / "x.npz", "x", "", condition=n), words)
    refuses(
        lambda: npz(tmp_path / "x.npz", "x", "", condition=["names"]),
        ["condition 'names'", "np.unique"],
        TypeError,
    )
    refuses(
        lambda: npz(tmp_path / "x.npz", "x", condition="theta"),  # type: ignore[arg-type]
        ["condition", "['theta']"],
        TypeError,
    )


def test_the_samples_are_found_beside_named_conditions(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", fields=floats(9, 2), theta=floats(9, 3))
    assert npz(tmp_path / "x.npz", condition=["theta"]).x.shape == (9, 2)
    refuses(lambda: npz(tmp_path / "x.npz"), ["key", "'fields', 'theta'"])


@pytest.mark.parametrize("shape", [(12, 8, 8, 8), (12, 32)])
def test_a_network_of_other_axes_names_the_shape_of_the_data(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    from scoresde import VPSDE, Preconditioned
    from scoresde.nets import UNet

    np.save(tmp_path / "x.npy", floats(*shape))
    data = npy(tmp_path / "x.npy", channels="none")
    model = Preconditioned(UNet(1, preset="tiny"), VPSDE())
    refuses(lambda: Trainer(model, data, steps=1).fit(), [str(len(shape) - 1), "dims"])
