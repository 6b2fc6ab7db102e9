"""IDX files come back exactly, and damaged ones are refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import BYTES, CODES, decoded, idx_bytes, levels, mnist_like, refuses

from scoresde.data import Data, fashion_mnist, idx, idx_folder, load_data, read_idx

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_come_back_exactly(tmp_path: Path, packed: bool) -> None:
    held = mnist_like(tmp_path, packed=packed)
    for name, (images, labels) in held.items():
        for data in (fashion_mnist(tmp_path, name), idx_folder(tmp_path, name)):
            assert isinstance(data, Data)
            assert data.x.shape == (len(images), 1, 28, 28)
            assert (decoded(data.x)[:, 0] == images).all()
            assert data.cond["label"].tolist() == labels.tolist()
            assert (data.quantisation, data.classes) == (BYTES, 10)
    train = fashion_mnist(tmp_path)
    assert (train.x.min().item(), train.x.max().item()) == (-1.0, 1.0)
    assert train.class_names[0] == "T-shirt/top"
    assert train.class_names[9] == "Ankle boot"
    assert train.name == "fashion_mnist-train"
    assert isinstance(load_data(tmp_path, split="test"), Data)
    assert len(load_data(tmp_path, split="test")) == 11


@pytest.mark.parametrize("code", CODES)
def test_every_type_of_idx_is_read(tmp_path: Path, code: str) -> None:
    array = np.array([[1, 2, 3], [4, 5, 100]]).astype(code)
    (tmp_path / "x").write_bytes(idx_bytes(array, code))
    found = read_idx(tmp_path / "x")
    assert found.tolist() == array.tolist()
    assert found.dtype.isnative
    if code == ">f4":
        with pytest.warns(UserWarning, match="standardised"):
            data = idx(tmp_path / "x")
        assert data.scaling is not None
        assert data.scaling.decode(data.x).tolist() == array.tolist()
        assert data.quantisation is None


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    for name, n in (("train", 60_000), ("test", 10_000)):
        data = fashion_mnist(split=name)
        assert data.x.shape == (n, 1, 28, 28)
        assert torch.bincount(data.cond["label"]).tolist() == [n // 10] * 10


def test_damaged_idx_is_refused(tmp_path: Path) -> None:
    good = idx_bytes(levels(4, 3, 3))
    packed = gzip.compress(good)
    labels = tmp_path / "labels"
    labels.write_bytes(idx_bytes(np.arange(4)))
    file = tmp_path / "images"
    huge = good[:4] + b"\xff" * 12 + good[16:]
    for content, words in (
        (good[:-1], ["images", "36 bytes of values", "(4, 3, 3)", "got '35 bytes'", "damaged"]),
        (good + b"x", ["36 bytes", "more"]),
        (huge, ["4294967295", "36 bytes"]),
        (good[:9], ["3 sizes", "5 bytes"]),
        (b"\x89PNG", ["an IDX file", "PNG"]),
        (b"", ["an IDX file"]),
        (packed[:-12], ["whole gzip", "copy"]),
        (packed[:15] + b"\0\0" + packed[17:], ["copy"]),
        (idx_bytes(np.ones((4, 3)), ">i2"), ["unsigned bytes", "levels="]),
    ):
        file.write_bytes(content)
        refuses(lambda: idx(file, labels), words)
    file.write_bytes(good)
    assert len(idx(file, labels)) == 4
    refuses(lambda: idx(file, labels, classes=3), ["labels from 0 to 2", "3 in row 3", "renumber"])
    labels.write_bytes(idx_bytes(np.arange(5)))
    refuses(lambda: idx(file, labels), ["labels", "(4,)", "(5,)"])
    labels.write_bytes(idx_bytes(np.array([0, 1, -1, 2]), "i1"))
    refuses(lambda: idx(file, labels), ["labels from 0", "-1 in row 2"])
    labels.write_bytes(idx_bytes(np.full(4, 0.5), ">f4"))
    refuses(lambda: idx(file, labels), ["labels", "integers"], TypeError)
    refuses(lambda: idx(tmp_path / "none"), ["no file", "downloaded"], FileNotFoundError)


def test_a_missing_fashion_mnist_says_where_to_get_it(tmp_path: Path) -> None:
    words = [
        str(tmp_path),
        "train-images-idx3-ubyte",
        "apt install dataset-fashion-mnist",
        "folder=",
    ]
    refuses(lambda: fashion_mnist(tmp_path), words, FileNotFoundError)
    refuses(lambda: fashion_mnist(tmp_path, "valid"), ["split", "'test'", "'train'"])
