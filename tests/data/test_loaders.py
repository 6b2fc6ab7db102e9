"""Data from files: every format is written here, read back exactly, and refused when broken."""

import gzip
import importlib
import importlib.util
import io
import os
import pickle
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.format import write_array_header_1_0
from PIL import Image, ImageOps
from torch import Tensor

from scoresde import VPSDE, Preconditioned, Trainer
from scoresde.data import (
    ArrayRows,
    Data,
    LazyData,
    Rows,
    Scaling,
    cifar,
    csv_table,
    fashion_mnist,
    hugging_face,
    idx,
    idx_folder,
    image_folder,
    load_data,
    moments,
    moons,
    npy,
    npz,
    parquet_table,
    read_idx,
    read_pickle,
    split,
    table,
)
from scoresde.nets import MLP
from scoresde.quantisation import Quantisation
from scoresde.training.stream import Stream, scattered

BYTES = Quantisation(256)
FASHION = Path("/usr/share/datasets/fashion-mnist")


def levels(*shape: int, seed: int = 0, top: int = 256) -> np.ndarray[Any, Any]:
    made = np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8)
    made.flat[0], made.flat[-1] = 0, top - 1
    return made


def decoded(x: Tensor) -> np.ndarray[Any, Any]:
    return BYTES.decode(x).numpy()


def refuses(
    call: Callable[[], Any], words: list[str], error: type[Exception] = ValueError
) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


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
    return LazyData(Numbers(n), {"label": torch.arange(n)}, BYTES, "numbers", n)


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
        fitted = Trainer(model, data, steps=3, batch_size=16, out=out, tensorboard=False).fit()
        weights.append(torch.cat([p.flatten() for p in fitted.parameters()]))
    assert torch.equal(*weights)


# Splits


def file_of(folder: Path, x: np.ndarray[Any, Any], name: str = "x.npy") -> LazyData:
    np.save(folder / name, x)
    return npy(folder / name)


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


# IDX

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array: np.ndarray[Any, Any], code: str = "u1") -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, CODES[code], array.ndim]) + sizes + array.astype(code).tobytes()


def mnist_like(folder: Path, n: int = 12, packed: bool = True) -> dict[str, Any]:
    """The four files of a small data set, and what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {}
    for seed, (name, stem) in enumerate((("train", "train"), ("test", "t10k"))):
        images, labels = levels(n - seed, 28, 28, seed=seed), np.arange(n - seed) % 10
        held[name] = (images, labels)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            file = folder / f"{stem}-{kind}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content) if packed else content)
    return held


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


# CIFAR


def cifar_10(folder: Path, protocol: int = 2) -> tuple[np.ndarray[Any, Any], list[int]]:
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = levels(12, 3072), [i % 10 for i in range(12)]
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        part = slice(2 * i, 2 * i + 2)
        batch = {b"data": images[part], b"labels": labels[part], b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {b"label_names": [f"class {i}".encode() for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return images.reshape(-1, 3, 32, 32), labels


@pytest.mark.parametrize("protocol", range(6))
def test_cifar_10_comes_back_exactly(tmp_path: Path, protocol: int) -> None:
    images, labels = cifar_10(tmp_path / "cifar-10-batches-py", protocol)
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        train, test = cifar(folder), cifar(folder, "test")
        assert (decoded(train.x) == images[:10]).all()
        assert (decoded(test.x) == images[10:]).all()
        assert train.cond["label"].tolist() == labels[:10]
        assert (train.quantisation, train.classes, train.name) == (BYTES, 10, "cifar10-train")
        assert train.class_names[3] == "class 3"
    assert torch.equal(load_data(tmp_path, split="test").x[:], test.x)


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    # What Python 2 and numpy 1 write: GLOBAL, strings that are bytes, numpy.core.multiarray.
    pixels = levels(1, 3072).tobytes()
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    array += b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89T\x00\x0c\x00\x00" + pixels + b"tb"
    text = b"}U\x04data" + array + b"s" + b"U\x06labels](K\x03es."
    (tmp_path / "batch").write_bytes(b"\x80\x02" + text)
    found = read_pickle(tmp_path / "batch")
    assert found["labels"] == [3]
    assert found["data"].tobytes() == pixels
    assert found["data"].shape == (1, 3072)


def test_cifar_100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    images = levels(3, 3072)
    for name in ("train", "test"):
        batch = {"data": images, "fine_labels": [5, 99, 0], "coarse_labels": [1, 19, 0]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, 2))
    meta = {
        "fine_label_names": [f"f{i}" for i in range(100)],
        "coarse_label_names": [f"c{i}" for i in range(20)],
    }
    (tmp_path / "meta").write_bytes(pickle.dumps(meta, 2))
    fine, coarse = cifar(tmp_path), cifar(tmp_path, labels="coarse")
    assert (fine.cond["label"].tolist(), fine.classes) == ([5, 99, 0], 100)
    assert (coarse.cond["label"].tolist(), coarse.classes) == ([1, 19, 0], 20)
    assert coarse.class_names[19] == "c19"
    assert (decoded(fine.x).reshape(3, -1) == images).all()


class Runs:
    """Unpickled as usual, this makes a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    images, _ = cifar_10(tmp_path)
    evil = [
        Runs(os.system, f"touch {trace}"),
        Runs(open, str(trace), "w"),
        Runs(eval, f"open({str(trace)!r}, 'w')"),
        Runs(getattr, str, "format"),
        Runs(np.load, str(trace)),
        Runs(np.zeros, 3),
    ]
    for thing in evil:
        content = pickle.dumps({"data": images, "labels": [0], "more": [thing]}, protocol)
        (tmp_path / "data_batch_3").write_bytes(content)
        refuses(lambda: cifar(tmp_path), ["data_batch_3", "the name", "do not trust"])
        assert not trace.exists()
    pickle.loads(pickle.dumps(Runs(open, str(trace), "w"))).close()
    assert trace.exists()  # the usual reader does run it


@pytest.mark.parametrize(
    "content",
    [
        # BUILD on a name that the reader knows: its attributes must not change.
        b"cnumpy\ndtype\nN(X\x08\x00\x00\x00__init__K\x01d\x86b.",
        b"cnumpy\nndarray\nN(X\x08\x00\x00\x00__init__K\x01d\x86b.",
        b"c_codecs\nencode\nN(X\x07\x00\x00\x00__new__K\x01d\x86b.",
        b"cnumpy.core.numeric\n_frombuffer\nN(X\x07\x00\x00\x00__new__K\x01d\x86b.",
        b"c_codecs\nencode\n(X\x03\x00\x00\x00abcX\x04\x00\x00\x00idnatR.",
        b"cnumpy\ndtype\n(U\x01OtR.",
        b"cnumpy\ndtype.__init__\n.",
        b"\x80\x04\x8c\x05numpy\x94\x8c\x0bdtype.names\x94\x93.",
        b"Pid\n.",
        b"\x80\x02\x82\x01.",
        b"cbuiltins\nset\n(tR.",
        b"(lp0\ng0\na.",
    ],
)
def test_a_pickle_cannot_change_its_reader_or_reach_beyond_it(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="expected"):
        read_pickle(tmp_path / "x")
    for protocol in (2, 5):
        images, _ = cifar_10(tmp_path, protocol)
        assert (decoded(cifar(tmp_path).x) == images[:10]).all()


def test_arrays_of_objects_in_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps(np.array([1, "a", None], dtype=object), 2))
    refuses(lambda: read_pickle(tmp_path / "x"), ["plain values", "array", "trust"])


def test_damaged_cifar_is_refused(tmp_path: Path) -> None:
    words = ["data_batch_1", "cifar-10-python.tar.gz"]
    refuses(lambda: cifar(tmp_path), words, FileNotFoundError)
    cifar_10(tmp_path)
    file = tmp_path / "data_batch_2"
    good = file.read_bytes()
    pixels = levels(2, 3072)
    for content, words in (
        (good[:100], ["data_batch_2", "whole pickle", "copy"]),
        (b"junk", ["whole pickle"]),
        (b"", ["whole pickle"]),
        (pickle.dumps([1, 2]), ["a mapping with data, labels", "list"]),
        (pickle.dumps({"data": pixels}), ["a mapping with data, labels"]),
        (pickle.dumps({"data": pixels[:, :-1], "labels": [0, 1]}), ["(N, 3072)", "(2, 3071)"]),
        (pickle.dumps({"data": pixels, "labels": ["a", "b"]}), ["labels of", "integers"]),
        (pickle.dumps({"data": pixels, "labels": [0, 10]}), ["from 0 to 9", "10 in row 3"]),
        (pickle.dumps({"data": pixels, "labels": [0]}), ["labels", "(10,)", "(9,)"]),
    ):
        file.write_bytes(content)
        refuses(lambda: cifar(tmp_path), words)
    file.unlink()
    refuses(lambda: cifar(tmp_path), ["no file data_batch_2"], FileNotFoundError)
    refuses(lambda: cifar(tmp_path, "valid"), ["split", "'valid'"])


# Folders of images


def picture(h: int, w: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(levels(h, w, *channels, seed=seed))


def zoo(folder: Path, ending: str = "png", mode: str = "RGB") -> list[Image.Image]:
    made = []
    for i, name in enumerate(("cat/1", "cat/2", "dog/1", "dog/deep/3")):
        file = folder / f"{name}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        made.append(picture(6, 8, mode, seed=i))
        made[-1].save(file)
    return made


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


# Arrays


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("NCHW", (5, 3, 4, 6), (5, 3, 4, 6)),
        ("NHWC", (5, 4, 6, 3), (5, 3, 4, 6)),
        ("NHW", (5, 4, 6), (5, 1, 4, 6)),
        ("ND", (5, 4, 6), (5, 4, 6)),
        ("ND", (5,), (5, 1)),
        ("auto", (5,), (5, 1)),
        ("auto", (5, 7), (5, 7)),
        ("auto", (5, 3, 8, 6), (5, 3, 8, 6)),
        ("auto", (5, 8, 6, 3), (5, 3, 8, 6)),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_come_back_exactly_in_every_layout(
    tmp_path: Path, layout: str, shape: tuple[int, ...], expected: tuple[int, ...], kind: str
) -> None:
    array = levels(*shape)
    moved = array.transpose(0, 3, 1, 2) if array.ndim == 4 and shape[3] == 3 else array
    file = tmp_path / f"x.{kind}"
    np.save(file, array) if kind == "npy" else np.savez_compressed(file, x=array)
    data = (npy if kind == "npy" else npz)(file, layout=layout)
    assert data.x.shape == expected
    assert (decoded(data.x[:]) == moved.reshape(expected)).all()
    assert data.quantisation == BYTES
    assert torch.equal(data.x[2], data.x[:][2])
    floats = moved.reshape(expected).astype(np.float32) / 7
    np.save(tmp_path / "f.npy", array.astype(np.float32) / 7)
    plain = npy(tmp_path / "f.npy", layout=layout, standardise=False)
    assert (plain.x[:].numpy() == floats).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 16], [3, 4]], np.uint8), 17),
        (np.array([[0, 128], [3, 4]], np.uint8), 256),
        (np.array([[0, 128], [3, 4]], np.int64), 129),
        (np.array([[0, 70000], [3, 4]], ">u4"), 70001),
        (np.array([[0, 1], [1, 0]], bool), 2),
        (np.array([[0.0, 1.0], [1.0, 0.5]]), None),
    ],
)
def test_integers_have_the_quantisation_of_their_range(
    tmp_path: Path, array: np.ndarray[Any, Any], expected: int | None
) -> None:
    data = file_of(tmp_path, array)
    assert data.quantisation == (None if expected is None else Quantisation(expected))
    if data.quantisation is not None:
        assert (data.quantisation.decode(data.x[:]).numpy() == array).all()
    else:
        assert (data.x[:].numpy() == array).all()


def test_labels_and_quantisations_of_arrays(tmp_path: Path) -> None:
    file, labels = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(file, np.linspace(-1, 1, 6).reshape(3, 2))
    np.save(labels, np.array([2, 0, 1], np.uint8))
    for given in (labels, np.array([2, 0, 1]), torch.tensor([2, 0, 1])):
        data = npy(file, given, quantisation=BYTES)
        assert (data.cond["label"].tolist(), data.classes) == ([2, 0, 1], 3)
        assert data.quantisation == BYTES
    np.savez(tmp_path / "x.npz", x=np.load(file), y=np.load(labels))
    assert npz(tmp_path / "x.npz", label="y").cond["label"].tolist() == [2, 0, 1]
    assert npz(tmp_path / "x.npz", "x", label="").cond == {}
    lazy = load_data(file, labels=labels)
    assert lazy.cond["label"].tolist() == [2, 0, 1]
    assert load_data(tmp_path / "x.npz", key="x", label="y").x.shape == (3, 2)


def test_bad_arrays_are_refused(tmp_path: Path) -> None:
    file, other = tmp_path / "x.npy", tmp_path / "x.npz"

    def saved(array: Any) -> None:
        np.save(file, array, allow_pickle=True)

    for array, words in (
        (np.array([1, "a"], dtype=object), ["Python objects", "run code"]),
        (np.zeros((0, 2)), ["at least one sample"]),
        (np.array(3.0), ["at least one sample"]),
        (np.array([[0, -1]]), ["levels from 0", "-1", "shift"]),
        (np.zeros((5, 6, 7)), ["layout", "'auto'", "(5, 6, 7)", "'NHW'", "'ND'"]),
        (np.zeros((5, 3, 7, 3)), ["layout", "(5, 3, 7, 3)", "'NCHW'", "'NHWC'"]),
    ):
        saved(array)
        refuses(lambda: npy(file), words)
    for array in (np.array(["a"]), np.zeros((2, 2), complex)):
        saved(array)
        refuses(lambda: npy(file), ["integers or floats"], TypeError)
    saved(np.array([[0.0, 1.0], [2.0, np.nan], [3.0, 1.0]]))
    refuses(lambda: npy(file), ["x.npy", "nan in row 1", "repair"])
    data = npy(file, standardise=False)
    assert data[:1].x.tolist() == [[0.0, 1.0]]
    refuses(lambda: data.take(slice(1, None))[:1], ["x.npy", "nan in row 1", "repair"])
    saved(np.array([[0.0, 1.0], [2.0, 0.5], [3.0, 1.0]]))
    refuses(lambda: npy(file, levels=4), ["levels", "floats", "quantisation="])
    refuses(lambda: npy(file, classes=4), ["classes", "labels"])
    refuses(lambda: npy(file, layout="NHW"), ["3 axes", "(3, 2)"])
    refuses(lambda: npy(file, layout="nhwc"), ["layout", "did you mean 'NHWC'"])
    refuses(
        lambda: npy(file, quantisation=BYTES)[2], ["from -1 to 1", "3 in row 2", "quantisation"]
    )
    refuses(lambda: npy(file, levels=2, quantisation=BYTES), ["levels", "one of the two"])
    refuses(lambda: npy(file, np.array([0, 1])), ["labels", "(3,)", "(2,)"])
    refuses(lambda: npy(file, np.array([0, 1, -1])), ["labels", "-1 in row 2"])
    refuses(lambda: npy(file, np.array([0, 1, 5]), classes=3), ["0 to 2", "5 in row 2"])
    refuses(lambda: npy(file, np.array([0, 1, 0.5])), ["labels", "integers"], TypeError)
    saved(np.array([[0, 1], [2, 9]], np.uint8))
    refuses(lambda: npy(file, levels=4)[:], ["0 to 3", "9 in row 1", "levels="])
    content = file.read_bytes()
    for damaged in (content[:20], content[:-1], b"junk", b""):
        file.write_bytes(damaged)
        refuses(lambda: npy(file), ["x.npy"])
    refuses(lambda: npy(tmp_path / "none.npy"), ["no file"], FileNotFoundError)
    np.savez_compressed(other, a=np.eye(64), b=np.eye(2))
    refuses(lambda: npz(other), ["key", "'a', 'b'"])
    refuses(lambda: npz(other, "c"), ["key", "'a', 'b'", "'c'"])
    refuses(lambda: npz(other, "a", "c"), ["label", "'c'"])
    refuses(lambda: npy(other), ["npz"])
    content = other.read_bytes()
    other.write_bytes(content[: len(content) // 2])
    refuses(lambda: npz(other, "a"), ["x.npz", "write it again"])
    other.write_bytes(content[:60] + b"\0" * 30 + content[90:])
    refuses(lambda: npz(other, "a"), ["x.npz"])
    np.savez(other, a=np.array([None]))
    refuses(lambda: npz(other), ["Python objects"])


RESIDENT = """
import sys, numpy, torch
from scoresde.quantisation import Quantisation
from scoresde.data import ArrayRows, npy
def kilobytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
ArrayRows(numpy.zeros((2, 3, 64, 64), numpy.uint8), "NCHW", Quantisation(256))[:2]  # warms up
before = kilobytes()
data = npy(sys.argv[1], layout="NCHW", levels=256)
generator = torch.Generator().manual_seed(0)
for _ in range(150):
    x = data.x[torch.randint(len(data), (64,), generator=generator)]
first, _ = data.split(0.9)
for start in range(0, 2000, 200):  # neighbours, then pieces of a shuffled part
    data.x[start : start + 200], first[start : start + 200]
print(len(data), tuple(x.shape), kilobytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_file_larger_than_memory_is_not_loaded(tmp_path: Path) -> None:
    shape = (200_000, 3, 64, 64)  # 2.46 GB, of which the disk holds the header
    file = tmp_path / "large.npy"
    head = io.BytesIO()
    write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    file.write_bytes(head.getvalue())
    with file.open("r+b") as open_file:
        open_file.truncate(len(head.getvalue()) + int(np.prod(shape)))
    assert file.stat().st_size > 2.4e9
    assert file.stat().st_blocks * 512 < 1e6
    command = [sys.executable, "-c", RESIDENT, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    count, *size, grown = done.stdout.replace("(", "").replace(")", "").replace(",", "").split()
    assert (count, size) == ("200000", ["64", "3", "64", "64"])
    assert int(grown) < 100_000, f"{int(grown) / 1000:.0f} MB"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("case", "gigabytes"), [("images", 2), ("columns", 2), ("moments", 0.2)])
def test_training_on_a_large_file_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, gigabytes: float
) -> None:
    """Of 2 GB of narrow rows the order of an epoch would take as much again."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    found = importlib.import_module("loading").measure(case, gigabytes, 5, tmp_path)
    assert found["grown_mb"] < 300, found


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


def test_billions_of_rows_take_no_memory_for_their_order() -> None:
    """A list of them would be 32 GB."""
    began = time.perf_counter()
    stream = Stream(4_000_000_000, 256, seed=0)
    batches = [stream.rows(number) for number in (0, 1, 15_624_999, 15_625_000)]
    assert time.perf_counter() - began < 20
    rows = torch.cat(batches)
    assert len(rows.unique()) == 1024 and int(rows.max()) < 4_000_000_000
    assert 1.7e9 < float(rows.double().mean()) < 2.3e9


def test_a_few_of_a_billion_rows_are_found_without_a_list_of_all() -> None:
    class Many(Rows):
        shape, dtype = (10**12, 1), torch.float64

        def read(self, rows: Tensor) -> Tensor:
            return rows.double()[:, None]

    rows = Many()
    assert rows[torch.tensor([3, -1, 10**12 - 2])].flatten().tolist() == [3, 1e12 - 1, 1e12 - 2]
    for index in (10**12, -(10**12) - 1):
        with pytest.raises(IndexError, match="1000000000000"):
            rows[torch.tensor([0, index])]


# Tables


def written(folder: Path, text: str, name: str = "t.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_table_is_standardised_and_comes_back(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(5, [0.1, 10.0], (5000, 2))  # more than one piece
    lines = [f"{a!r},x{i % 3},{b!r}" for i, (a, b) in enumerate(raw.tolist())]
    file = written(tmp_path, "\ufeffheight,kind,weight\n" + "\n".join(lines) + "\n\n")
    data = csv_table(file, label="kind", dtype=torch.float64)
    assert data.scaling is not None
    assert data.scaling.columns == ("height", "weight")
    np.testing.assert_allclose(data.scaling.mean.numpy(), raw.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.scaling.std.numpy(), raw.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.x.numpy(), (raw - raw.mean(0)) / raw.std(0), atol=1e-11)
    np.testing.assert_allclose(data.scaling.decode(data.x).numpy(), raw, rtol=1e-12)
    assert data.cond["label"].tolist() == [i % 3 for i in range(5000)]
    assert (data.class_names, data.classes) == (("x0", "x1", "x2"), 3)
    assert csv_table(file, label="kind").x.dtype == torch.float32
    plain = csv_table(file, columns=["weight"], standardise=False, dtype=torch.float64)
    assert (plain.x[:, 0].numpy() == raw[:, 1]).all()
    assert plain.scaling is None
    first, _ = split(data, 0.5)
    assert first.scaling is data.scaling


def test_tables_without_names_with_tabs_and_semicolons(tmp_path: Path) -> None:
    data = csv_table(written(tmp_path, "1,2\n3,5\n"), standardise=False)
    assert data.x.tolist() == [[1, 2], [3, 5]]
    assert csv_table(written(tmp_path, "1,2\n3,5\n")).scaling.columns == ("0", "1")  # type: ignore[union-attr]
    for name, text in (("t.tsv", "a\tb\n1\t2\n3\t5\n"), ("u.csv", '"a";b\n1;2\n"3";5\n')):
        file = written(tmp_path, text, name)
        options = {"delimiter": ";"} if name == "u.csv" else {}
        found = load_data(file, **options)  # type: ignore[arg-type]
        assert found.x[:].tolist() == [[-1, -1], [1, 1]]
    integers = csv_table(written(tmp_path, "a,y\n1,2\n3,0\n"), label="y")
    assert (integers.cond["label"].tolist(), integers.class_names) == ([1, 0], ("0", "2"))


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2\n3,red\n", {}, ["column 'b'", "'red' in row 2", "label='b'", "columns="]),
        ("a,b\n1,2\n3,\n5,6\n", {}, ["column 'b'", "missing value in row 2", "1 of its 3"]),
        ("a,b\n1,2\nNA,3\n,4\n", {}, ["column 'a'", "missing value in row 2", "2 of its 3"]),
        ("a,b\n1,2\n3,nan\n", {}, ["column 'b'", "missing value in row 2"]),
        ("a,b\n1,2\n3,inf\n", {}, ["column 'b'", "inf in row 2"]),
        ("a,b,c\n1,7,0\n3,7,0\n", {}, ["columns", "'b', 'c' constant", "columns="]),
        ("a,b\n1,2\n3\n", {}, ["2 cells in every row", "1 in row 2"]),
        ("a,b\n1,2\n3,4,5\n", {}, ["2 cells in every row", "3 in row 2"]),
        ("a,a\n1,2\n", {}, ["different names", "'a'"]),
        ("", {}, ["empty file"]),
        ("a,b\n", {}, ["rows below the names"]),
        ("a,b\n1,2\n", {}, ["standardise", "two rows"]),
        ("a,b\n1,2\n3,4\n", {"columns": ["c"]}, ["columns", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"label": "c"}, ["label", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"columns": ["a", "b"], "label": "b"}, ["label", "once"]),
        ("a;b\n1;2\n3;4\n", {"columns": ["c"]}, ["columns", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"drop": ["c"]}, ["drop", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"columns": ["a"], "drop": ["b"]}, ["drop", "one of the two"]),
        ("a,b\n1,2\n3,4\n", {"label": "b", "drop": ["b"]}, ["label", "drop", "once"]),
        ("a,b\n1,2\n3,4\n", {"decimal": ";"}, ["decimal", "'.' or ','"]),
        ("a,b\n1,x\n3,\n", {"label": "b"}, ["column 'b'", "missing value in row 2"]),
        ("a,b\n1,0\n3,-1\n", {"label": "b"}, ["column 'b'", "-1 in row 1"]),
        ("a,b\n1,0\n3,1\n", {"delimiter": ";;"}, ["delimiter", "one character"]),
        ("b\nx\ny\n", {"label": "b"}, ["columns", "0 columns"]),
    ],
)
def test_bad_tables_are_refused(
    tmp_path: Path, text: str, options: dict[str, Any], words: list[str]
) -> None:
    file = written(tmp_path, text)
    refuses(lambda: csv_table(file, **options), words)


def test_tables_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"a,b\n1,\x81\n")
    refuses(lambda: csv_table(file), ["CSV file of text", "convert"])
    for read in (csv_table, parquet_table):
        refuses(lambda r=read: r(tmp_path / "none"), ["no file"], FileNotFoundError)
    refuses(lambda: csv_table(written(tmp_path, "a\n1\n2\n"), columns="a"), ["['a']"], TypeError)


def test_columns_in_memory_are_a_table() -> None:
    data = table({"a": [1, 2, 3], "b": [True, False, True], "y": ["u", "v", "u"]}, label="y")
    assert data.x.shape == (3, 2)
    assert data.cond["label"].tolist() == [0, 1, 0]
    refuses(lambda: table({"a": [1, 2], "b": [1]}), ["one length", "2"])
    refuses(lambda: table({"a": np.array(["2020-01-01"], "M8[D]")}), ["column 'a'", "numbers"])
    refuses(lambda: table({"a": [1.0, None]}), ["column 'a'", "missing value in row 2"])
    refuses(lambda: table({"a": [1, 2], "y": [0.5, 1]}, label="y"), ["column 'y'"], TypeError)


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
def test_parquet_comes_back_and_is_refused_as_csv(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def saved(**columns: Any) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    raw = np.random.default_rng(0).normal(3, 2, 100)
    file = saved(a=raw, b=np.arange(100), kind=["u", "v"] * 50)
    data = parquet_table(file, label="kind", dtype=torch.float64)
    assert data.scaling is not None
    expected = np.stack([raw, np.arange(100)], axis=1)
    np.testing.assert_allclose(data.scaling.decode(data.x).numpy(), expected, rtol=1e-12)
    assert data.class_names == ("u", "v")
    assert load_data(file, columns=["a"]).x.shape == (100, 1)
    refuses(lambda: parquet_table(file), ["column 'kind'", "'u' in row 1", "label='kind'"])
    refuses(lambda: parquet_table(file, columns=["z"]), ["columns", "'z'"])
    missing_one = saved(a=pa.array([1.0, None, 3.0]))
    refuses(lambda: parquet_table(missing_one), ["column 'a'", "missing value in row 2", "1 of"])
    constant = saved(a=[1.0, 2.0], b=[3, 3])
    refuses(lambda: parquet_table(constant), ["'b' constant"])
    dates = saved(a=np.array(["2020-01-01", "2021-01-01"], "M8[s]"))
    refuses(lambda: parquet_table(dates), ["column 'a'", "numbers"])
    file.write_bytes(b"junk")
    refuses(lambda: parquet_table(file), ["a parquet file"])


def test_parquet_is_read_by_pandas_where_there_is_no_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Frame(dict[str, Any]):
        columns = ("a", "b")

    class Column(list[Any]):
        def to_numpy(self) -> np.ndarray[Any, Any]:
            return np.asarray(list(self))

    frame = Frame(a=Column([1.0, 2.0]), b=Column(["u", "v"]))
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    pandas: Any = SimpleNamespace(read_parquet=lambda path: frame)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    file = written(tmp_path, "x", "t.parquet")
    data = parquet_table(file, label="b")
    assert data.x.tolist() == [[-1.0], [1.0]]
    assert data.class_names == ("u", "v")


def test_parquet_without_a_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    file = written(tmp_path, "x", "t.parquet")
    refuses(lambda: parquet_table(file), ["pip install", "scoresde[tables]"], ImportError)


# Hugging Face


class FakeDataset:
    """What is used of datasets.Dataset."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns
        self.column_names = list(columns)
        self.features: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def test_images_and_arrays_of_hugging_face() -> None:
    made = [picture(4, 6, seed=i) for i in range(3)]
    data = hugging_face(FakeDataset(image=made, label=[1, 0, 1]))
    for i, image in enumerate(made):
        assert (decoded(data.x[i]) == np.asarray(image).transpose(2, 0, 1)).all()
    assert data.x.shape == (3, 3, 4, 6)
    assert (data.cond["label"].tolist(), data.classes, data.quantisation) == ([1, 0, 1], 2, BYTES)
    assert hugging_face(FakeDataset(image=made), size=2, mode="L").x.shape == (3, 1, 2, 2)
    arrays = hugging_face(FakeDataset(x=[[0.5, 1.5], [2.5, 3.5]]))
    assert arrays.x[:].tolist() == [[0.5, 1.5], [2.5, 3.5]]
    assert arrays.quantisation is None
    whole = hugging_face(FakeDataset(x=[[0, 2], [1, 2]]), quantisation=Quantisation(3))
    assert whole.x[:].tolist() == [[-1, 1], [0, 1]]
    assert whole.quantisation == Quantisation(3)
    times = 1.7e9 + np.arange(8.0)[:, None]  # that float32 does not tell apart
    with pytest.warns(UserWarning, match="standardised"):
        exact = hugging_face(FakeDataset(x=times.tolist()))
    assert exact.scaling is not None
    assert torch.allclose(
        exact.scaling.decode(exact.x[:].double()), torch.tensor(times), rtol=1e-15
    )


@pytest.mark.parametrize(
    ("made", "options", "error", "words"),
    [
        ({"image": [picture(4, 4), picture(4, 5)]}, {}, ValueError, ["row 1", "size=64"]),
        ({"x": [[1.0], [1.0, 2.0]]}, {}, ValueError, ["row 1", "shape (1,)"]),
        ({"x": [[1, 2]]}, {}, ValueError, ["quantisation", "integers", "Quantisation(256)"]),
        ({"text": ["a"]}, {}, ValueError, ["column 'text'", "images or numbers"]),
        ({"a": [1.0], "b": [1.0]}, {}, ValueError, ["column", "'a', 'b'"]),
        ({"a": [1.0]}, {"label": "b"}, ValueError, ["label", "'b'"]),
        ({"x": []}, {}, ValueError, ["dataset", "one row"]),
        ({"x": [[1.0]]}, {"size": 4}, ValueError, ["size", "arrays"]),
        ({"x": [[1.0]], "label": [-1]}, {}, ValueError, ["label", "-1 in row 0"]),
        ({"image": [Image.new("I;16", (4, 4))]}, {}, ValueError, ["8 bits"]),
        ({"image": [picture(4, 4), None]}, {}, ValueError, ["row 1", "an image", "None"]),
    ],
)
def test_hugging_face_refuses(
    made: dict[str, list[Any]], options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    refuses(lambda: hugging_face(FakeDataset(**made), **options)[:], words, error)


def test_hugging_face_refuses_what_is_no_data_set() -> None:
    splits = {"train": FakeDataset(x=[1.0])}
    refuses(lambda: hugging_face(splits), ["one of its splits", "'train'"], TypeError)
    refuses(lambda: hugging_face(iter([1])), ["streaming", "Data.of"], TypeError)


@pytest.mark.skipif(missing("datasets"), reason="needs datasets")
def test_hugging_face_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    # The hash of a table fails with some versions of pyarrow, and is nothing that is read here.
    monkeypatch.setattr("datasets.arrow_dataset.generate_fingerprint", lambda *_, **__: "0")
    made = [picture(4, 6, seed=i) for i in range(3)]
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog"]),
        text=datasets.Value("string"),
    )
    content = {"image": made, "label": [1, 0, 1], "text": ["a", "b", "c"]}
    data = hugging_face(datasets.Dataset.from_dict(content, features=features))
    for i, image in enumerate(made):
        assert (decoded(data.x[i]) == np.asarray(image).transpose(2, 0, 1)).all()
    assert (data.cond["label"].tolist(), data.class_names) == ([1, 0, 1], ("cat", "dog"))
    streamed = datasets.Dataset.from_dict({"x": [1.0]}).to_iterable_dataset()
    refuses(lambda: hugging_face(streamed), ["streaming"], TypeError)
    both = datasets.DatasetDict(train=datasets.Dataset.from_dict({"x": [1.0]}))
    refuses(lambda: hugging_face(both), ["one of its splits", "'train'"], TypeError)


# One entry to all


def test_names_are_loaded() -> None:
    assert load_data("digits", split="test").name == "digits-test"
    assert len(load_data("moons")) == 10_000
    assert torch.equal(load_data("moons", n=7, seed=3).x[:], moons(7, 3).x)


def test_a_single_idx_file_is_recognised_by_its_content(tmp_path: Path) -> None:
    mnist_like(tmp_path)
    files = [tmp_path / f"t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    assert load_data(files[0]).x.shape == (11, 1, 28, 28)
    assert load_data(str(files[0]), labels=files[1]).classes == 10


def test_folders_of_parts_are_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        zoo(tmp_path / part)
    refuses(lambda: load_data(tmp_path), ["split", "'train'", "sub-folder"])
    data = load_data(tmp_path, split="train", size=4)
    assert (data.x.shape, data.class_names) == ((4, 3, 4, 4), ("cat", "dog"))
    refuses(lambda: load_data(tmp_path, split="dev"), ["split", "'dev'", "['test', 'train']"])


def test_what_is_not_recognised_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    everything = ["digits", "IDX", "CIFAR", "images", ".npy, .npz, .csv", "did you mean 'moons'?"]
    refuses(lambda: load_data("moon"), everything, FileNotFoundError)
    refuses(lambda: load_data(tmp_path), ["source", "IDX", "CIFAR", "images", str(tmp_path)])
    refuses(lambda: load_data(written(tmp_path, "x", "x.txt")), ["source", ".parquet", "x.txt"])
    refuses(lambda: load_data(written(tmp_path, "x", "x.tar.gz")), ["source", "unpack"])
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(levels(2, 3, 3)))
    refuses(lambda: load_data(tmp_path), ["labels-idx1"], FileNotFoundError)
    refuses(lambda: load_data(torch.ones(3)), ["source", "Data.of"], TypeError)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 3}, ["size", "a .csv file takes columns, label, drop, standardise, delimiter"]),
        ({"split": "train"}, ["split", "leave it out"]),
        ({"levels": 256}, ["levels"]),
    ],
)
def test_options_of_another_format_are_refused(
    tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    file = written(tmp_path, "a\n1\n2\n")
    refuses(lambda: load_data(file, **options), words)
    refuses(lambda: load_data("digits", size=8), ["size", "the digits takes split, seed"])
    with pytest.raises(TypeError, match="sise"):
        load_data("digits", sise=8)  # type: ignore[call-arg]


def test_lazy_rows_survive_pickling(tmp_path: Path) -> None:
    zoo(tmp_path / "zoo")
    np.save(tmp_path / "x.npy", levels(5, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (image_folder(tmp_path / "zoo"), npy(tmp_path / "x.npy")):
            copy = pickle.loads(pickle.dumps(data.take(slice(1, 3))))
            assert torch.equal(copy.x[:], data.x[1:3])


def test_rows_of_an_array_in_memory_are_not_changed() -> None:
    array = np.arange(6.0).reshape(3, 2)
    rows = ArrayRows(array)
    rows[:].zero_()
    assert array.tolist() == [[0, 1], [2, 3], [4, 5]]
