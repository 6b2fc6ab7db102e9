"""CIFAR's files come back exactly; pickles run nothing."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import BYTES, decoded, levels, refuses

from scoresde.data import cifar, load_data, read_pickle


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
