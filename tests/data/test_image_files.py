"""Folders as they are: links, hidden files, depths, palettes, animations, orientations, arrays."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refuses
from PIL import Image, features

from scoresde import Quantisation
from scoresde.data import image_folder, load_data
from scoresde.data.files import files_below
from scoresde.options import Pictures


def picture(seed: int = 0, mode: str = "RGB", side: int = 8) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).convert(mode)


def silent(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_data(folder, pictures=Pictures(**options))


def test_links_are_followed_and_nothing_is_taken_twice(tmp_path: Path) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside"
    for place in (folder / "a", folder / "b", outside):
        place.mkdir(parents=True)
        picture().save(place / "0.PNG")
    (folder / "a" / "back").symlink_to(folder)
    (folder / "b" / "other").symlink_to(folder / "a")
    (folder / "aa").symlink_to(folder / "b")  # before b, whose own place it must not take
    (folder / "a" / "again.png").symlink_to(folder / "b" / "0.PNG")
    (folder / "c").symlink_to(outside)
    for hidden in (".git", "__MACOSX"):
        (folder / hidden).mkdir()
        picture().save(folder / hidden / "x.png")
    picture().save(folder / "a" / "._0.png")
    (folder / "notes.txt").write_text("x")
    assert files_below(folder, {".png"}) == ["a/0.PNG", "b/0.PNG", "c/0.PNG"]
    data = silent(folder)
    assert (data.cond["label"].tolist(), data.class_names) == ([0, 1, 2], ("a", "b", "c"))


def test_a_broken_link_is_named_and_passed_over(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.warns(UserWarning, match=r"1 of 2 files are damaged and skipped, first b.png"):
        assert len(image_folder(tmp_path)) == 1


def turned(x: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """The picture that is to be seen, by the table of the EXIF standard (tag 0x0112)."""
    row_from_right = orientation in (2, 3, 7, 8)
    row_from_below = orientation in (3, 4, 6, 7)
    if orientation >= 5:  # the stored rows are columns of what is seen
        x = x.swapaxes(0, 1)
        return x[:: -1 if orientation in (7, 8) else 1, :: -1 if orientation in (6, 7) else 1]
    return x[:: -1 if row_from_below else 1, :: -1 if row_from_right else 1]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff", "lzw"])
@pytest.mark.parametrize("verify", [True, False])
def test_every_orientation_in_every_format(tmp_path: Path, ending: str, verify: bool) -> None:
    if ending == "webp" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :12, 0] = stored[:8, 12:, 1] = stored[8:, :12, 2] = 255
    how: dict[str, Any] = {
        "jpg": {"quality": 100, "subsampling": 0},
        "webp": {"lossless": True},
        "lzw": {"compression": "tiff_lzw"},
    }.get(ending, {})
    name = "a.tiff" if ending == "lzw" else f"a.{ending}"
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / name, exif=exif, **how)
        data = image_folder(tmp_path, verify=verify)
        seen = Quantisation(256).decode(data.x[0]).permute(1, 2, 0).numpy().astype(int)
        expected = turned(stored, orientation)
        assert seen.shape == expected.shape
        assert np.abs(seen - expected).max() <= 4, orientation


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("P", "png"),
        ("P", "gif"),
        ("CMYK", "jpg"),
        ("CMYK", "tiff"),
        ("YCbCr", "jpg"),
        ("1", "png"),
    ],
)
def test_modes_become_grey_or_colour(tmp_path: Path, mode: str, ending: str) -> None:
    image = picture().quantize(16) if mode == "P" else picture(mode=mode)
    image.save(tmp_path / f"a.{ending}")
    with Image.open(tmp_path / f"a.{ending}") as again:
        expected = np.asarray(again.convert("L" if mode == "1" else "RGB"))
    data = silent(tmp_path)
    levels = Quantisation(256).decode(data.x[0]).permute(1, 2, 0).numpy()
    assert (levels.squeeze() == expected).all()


def test_palettes_colour_and_grey_go_together(tmp_path: Path) -> None:
    for i, mode in enumerate(("L", "RGB", "CMYK", "1", "LA", "RGBA", "L")):
        image = picture(i, mode)
        image.save(tmp_path / f"{i}.{'tiff' if mode == 'CMYK' else 'png'}")
    picture().quantize(8).save(tmp_path / "p.png")
    assert silent(tmp_path).x[:].shape == (8, 3, 8, 8)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
def test_of_an_animation_the_first_picture_is_taken_and_it_is_said(
    tmp_path: Path, ending: str
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=f"1 files with several pictures, first a.{ending}"):
        data = image_folder(tmp_path)
    assert (data.x[0][:, 0, 0] - torch.tensor([1.0, -1.0, -1.0])).abs().max() < 0.05


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize(("top", "levels"), [(65536, 65536), (3000, 4096), (1000, 1024)])
def test_grey_pictures_of_16_bits_keep_all_of_them(
    tmp_path: Path, ending: str, top: int, levels: int
) -> None:
    raw = np.random.default_rng(0).integers(0, top, (6, 8, 12)).astype(np.uint16)
    raw[0, 0, 0] = top - 1
    for i, array in enumerate(raw):
        (tmp_path / "xy"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "xy"[i % 2] / f"{i}.{ending}")
    data = silent(tmp_path)
    assert data.quantisation == Quantisation(levels)
    order = [0, 2, 4, 1, 3, 5]
    assert (data.quantisation.decode(data.x[:].double()).numpy()[:, 0] == raw[order]).all()
    assert data.class_names == ("x", "y")
    refuses(lambda: load_data(tmp_path, pictures=Pictures(size=4)), ["size", "8 bits"])


def test_pictures_of_floats_are_brought_into_model_units(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    for i, array in enumerate(raw):
        Image.fromarray(280 + 20 * array).save(tmp_path / f"{i}.tif")
    with pytest.warns(UserWarning, match="standardised"):
        data = load_data(tmp_path)
    assert data.scaling is not None
    assert np.allclose(data.scaling.decode(data.x[:].double())[:, 0], 280 + 20 * raw, atol=1e-4)
    plain = load_data(tmp_path, standardise=False)
    assert np.allclose(plain.x[:][:, 0], 280 + 20 * raw)


def test_a_folder_of_arrays_has_one_sample_a_file(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    for i, array in enumerate(raw):
        (tmp_path / "ab"[i // 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[i // 2] / f"{i}.npy", array)
    data = silent(tmp_path)
    assert torch.equal(data.x[:], torch.from_numpy(raw))
    assert (data.cond["label"].tolist(), data.class_names) == ([0, 0, 1, 1], ("a", "b"))
    assert torch.equal(data[2:].x, data.load().x[2:])
    np.save(tmp_path / "b" / "5.npy", raw[0][:, :4])
    refuses(lambda: load_data(tmp_path), ["5.npy", "shape (3, 8, 8), as", "a/0.npy", "(3, 4, 8)"])
    np.save(tmp_path / "b" / "5.npy", np.array([{}], dtype=object), allow_pickle=True)
    refuses(lambda: load_data(tmp_path), ["5.npy", "whole file of one array"])


@pytest.mark.parametrize(
    ("array", "shape", "quantisation"),
    [
        (np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, (1, 8, 8), 256),
        (np.arange(192, dtype=np.uint8).reshape(8, 8, 3), (3, 8, 8), 256),
        (np.linspace(-1, 1, 8), (8,), None),
        (np.linspace(-1, 1, 200).reshape(2, 100), (2, 100), None),
        (np.linspace(-1, 1, 512).reshape(1, 8, 8, 8), (1, 8, 8, 8), None),
        (np.float64(0.5), (1,), None),
    ],
)
def test_files_of_any_number_of_axes(
    tmp_path: Path, array: Any, shape: tuple[int, ...], quantisation: int | None
) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", array if quantisation else array * (1 + i))
    data = silent(tmp_path)
    assert data.x.shape == (3, *shape)
    assert data.quantisation == (None if quantisation is None else Quantisation(quantisation))
