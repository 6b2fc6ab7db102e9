"""Folders of images come back exactly, in every mode; damaged files are counted or refused."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import BYTES, decoded, picture, refuses, zoo
from PIL import Image, ImageOps

from scoresde.data import LazyData, image_folder, load_data, split


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "PNG"])
def test_images_come_back_exactly(tmp_path: Path, ending: str, mode: str) -> None:
    made = zoo(tmp_path, ending, mode)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    data = image_folder(tmp_path)
    assert data.x.shape == (4, {"L": 1, "RGB": 3}[mode], 6, 8)
    for i, image in enumerate(made):
        array = np.asarray(image).reshape(6, 8, -1)
        assert (decoded(data.x[i]) == array.transpose(2, 0, 1)).all()
    assert data.cond["label"].tolist() == [0, 0, 1, 1]
    assert (data.class_names, data.classes, data.quantisation) == (("cat", "dog"), 2, BYTES)
    loaded = load_data(tmp_path)
    assert isinstance(loaded, LazyData)
    assert torch.equal(loaded.load().x, data.x[:])


def test_images_are_resized_cut_and_mirrored(tmp_path: Path) -> None:
    # Black, white, black: covering 6 x 6 halves 12 x 40 to 6 x 20, of which the middle is white.
    array = np.zeros((12, 40), np.uint8)
    array[:, 6:34] = np.linspace(100, 200, 28).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    picture(7, 5, "L").save(tmp_path / "b.png")
    data = image_folder(tmp_path, size=6, flip=True)
    assert data.x.shape == (4, 1, 6, 6)
    x = data.x[:]
    middle = array[:, 14:26].reshape(6, 2, 6, 2).mean(axis=(1, 3))  # columns 7 to 12 of 20
    assert np.abs(decoded(x[0, 0]) - middle).max() <= 1.5
    assert torch.equal(x[2:], x[:2].flip(-1))
    expected = ImageOps.fit(picture(7, 5, "L"), (6, 6), method=Image.Resampling.LANCZOS)
    assert (decoded(x[1, 0]) == np.asarray(expected)).all()
    assert image_folder(tmp_path, size=(4, 9)).x.shape == (2, 1, 4, 9)
    refuses(lambda: image_folder(tmp_path), ["size", "12 x 40 (1)", "7 x 5 (1)", "size=64"])
    refuses(lambda: image_folder(tmp_path, size=(1, 2, 3)), ["size", "(height, width)"])
    refuses(lambda: image_folder(tmp_path, size=0), ["size", "0", "positive"])


def test_a_large_jpeg_that_is_decoded_small_looks_the_same(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(200), np.arange(300))[..., None] % 256 * [1, 0, 0]
    smooth[..., 1] = np.abs(np.arange(300) - 150)
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(ImageOps.fit(image, (12, 8), method=Image.Resampling.LANCZOS))
    found = decoded(image_folder(tmp_path, size=(8, 12)).x[0]).transpose(1, 2, 0)
    assert np.abs(found - expected.astype(int)).mean() < 2


def test_a_mirrored_folder_repeats_its_labels_and_stays_together_in_a_split(
    tmp_path: Path,
) -> None:
    for i in range(40):
        file = tmp_path / str(i % 2) / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        picture(4, 4, seed=i).save(file)
    data = image_folder(tmp_path, flip=True)
    assert data.cond["label"].tolist() == [0] * 20 + [1] * 20 + [0] * 20 + [1] * 20
    first, second = split(data, 0.5)
    n = len(first) // 2
    assert len(first) + len(second) == 80
    assert torch.equal(first.x[n:], first.x[:n].flip(-1))
    names = {str(path): i for i, part in enumerate((first, second)) for path in part.x.identity(
        torch.arange(len(part)))}  # fmt: skip
    picture(4, 4, seed=99).save(tmp_path / "0" / "0a.png")
    again = split(image_folder(tmp_path), 0.5)
    later = {str(path): i for i, part in enumerate(again) for path in part.x.identity(
        torch.arange(len(part)))}  # fmt: skip
    assert names.items() <= later.items()
    assert len(later) == 41


def test_modes_are_handled_or_refused(tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    picture(4, 4, "L").save(grey / "a.png")
    Image.fromarray(np.eye(4, dtype=bool)).save(grey / "b.png")
    assert image_folder(grey).x.shape == (2, 1, 4, 4)
    assert image_folder(grey).x[1].shape == (1, 4, 4)
    assert decoded(image_folder(grey).x[1])[0].tolist() == (255 * np.eye(4)).tolist()
    assert image_folder(grey, mode="RGB").x.shape == (2, 3, 4, 4)

    palette = tmp_path / "palette"
    palette.mkdir()
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)).quantize(4)
    colours.save(palette / "a.png")
    assert Image.open(palette / "a.png").mode == "P"
    assert image_folder(palette).x[0][:, 0].T.tolist() == [[1, -1, -1], [-1, 1, -1]]

    alpha = tmp_path / "alpha"
    alpha.mkdir()
    array = np.full((2, 2, 4), 255, np.uint8)
    array[..., 1] = 0
    Image.fromarray(array).save(alpha / "a.png")
    assert image_folder(alpha).x[0][:, 0, 0].tolist() == [1, -1, 1]
    array[0, 0, 3] = 0
    Image.fromarray(array).save(alpha / "a.png")
    with pytest.warns(UserWarning, match="drawn on white.*background=255.*mode='RGBA'"):
        assert decoded(image_folder(alpha).x[0])[:, 0, 0].tolist() == [255, 255, 255]
    assert decoded(image_folder(alpha, background=10).x[0])[:, 0, 0].tolist() == [10, 10, 10]
    assert decoded(image_folder(alpha, background=10).x[0])[:, 1, 1].tolist() == [255, 0, 255]
    assert decoded(image_folder(alpha, mode="RGBA").x[0])[3].tolist() == [[0, 255], [255, 255]]
    refuses(lambda: image_folder(alpha, background=300), ["background", "300"])
    refuses(lambda: image_folder(alpha, mode="rgb"), ["mode", "did you mean 'RGB'"])

    for i, kind in enumerate((np.uint16, np.int32, np.float32)):
        deep = tmp_path / f"deep{i}"
        deep.mkdir()
        Image.fromarray(np.ones((4, 4), kind)).save(deep / "a.tiff")
        picture(4, 4, "L").save(deep / "b.png")
        refuses(lambda d=deep: image_folder(d), ["a.tiff", "8 bits", "levels=65536"])


def test_colours_of_16_bits_are_refused_and_not_cut(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    for colour, channels in ((2, 3), (6, 4)):  # RGB and RGBA
        head = b"\0\0\0\1\0\0\0\1\x10" + bytes([colour, 0, 0, 0])
        rows = zlib.compress(b"\0" + b"\x01\xff" * channels)
        content = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        Image.open(tmp_path / "a.png").load()
        refuses(lambda: image_folder(tmp_path), ["a.png", "8 bits a channel", ";16"])


def test_a_photograph_is_turned_as_it_says(tmp_path: Path) -> None:
    image = picture(4, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    data = image_folder(tmp_path)
    assert data.x.shape == (1, 3, 8, 4)
    turned = np.rot90(np.asarray(image), -1).transpose(2, 0, 1)
    assert (decoded(data.x[0]) == turned).all()


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_damaged_images_are_skipped_and_counted_or_refused(tmp_path: Path, ending: str) -> None:
    zoo(tmp_path, ending)
    for name in ("cat/1", "cat/2", "dog/1", "dog/deep/3"):  # so large that a half has its header
        picture(64, 80).save(tmp_path / f"{name}.{ending}")
    whole = (tmp_path / f"cat/2.{ending}").read_bytes()
    (tmp_path / f"cat/2.{ending}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"cat/empty.{ending}").write_bytes(b"")
    (tmp_path / f"dog/text.{ending}").write_text("this is no image")
    with pytest.warns(
        UserWarning, match=f"3 of 6 files are damaged and skipped, first cat/2.{ending}"
    ):
        data = image_folder(tmp_path)
    assert data.cond["label"].tolist() == [0, 1, 1]
    assert [name.split(" ")[0] for name in data.x.skipped] == [  # type: ignore[attr-defined]
        f"cat/2.{ending}",
        f"cat/empty.{ending}",
        f"dog/text.{ending}",
    ]
    data.load()
    words = ["folder", "3 damaged of 6", "cat/2", "leave strict out"]
    refuses(lambda: image_folder(tmp_path, strict=True), words)
    with pytest.warns(UserWarning, match="2 of 6"):
        trusting = image_folder(tmp_path, verify=False)
    refuses(lambda: trusting[1], [f"cat/2.{ending}", "an image", "verify=True"])


def test_folders_without_sound_images_are_refused(tmp_path: Path) -> None:
    refuses(lambda: image_folder(tmp_path / "none"), ["no folder"], FileNotFoundError)
    (tmp_path / "notes.txt").write_text("x")
    refuses(lambda: image_folder(tmp_path), ["folder", "a folder with images", ".png", "path"])
    (tmp_path / "a.png").write_bytes(b"x")
    refuses(lambda: image_folder(tmp_path), ["1 damaged of 1"])
    picture(6, 8).save(tmp_path / "a.png")
    assert image_folder(tmp_path).cond == {}
    zoo(tmp_path)
    refuses(lambda: image_folder(tmp_path), ["labels", "a.png beside", "labels=False"])
    assert len(image_folder(tmp_path, labels=False)) == 5
    assert image_folder(tmp_path, labels=False).cond == {}
