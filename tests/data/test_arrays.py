""".npy and .npz files in every layout, also larger than memory."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import BYTES, decoded, file_of, levels, refuses
from numpy.lib.format import write_array_header_1_0
from torch import Tensor

from benchmarks import loading
from scoresde.data import Rows, load_data, npy, npz
from scoresde.quantisation import Quantisation
from scoresde.training.stream import Stream


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
    saved(np.zeros((50, 3)))
    for content in (file.read_bytes()[:900], b"no array", b""):  # a copy that was interrupted
        file.write_bytes(content)
        refuses(lambda: npy(file), ["a whole file", "write it again"])
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
@pytest.mark.nightly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("case", "gigabytes"), [("images", 2), ("columns", 2), ("moments", 0.2)])
def test_training_on_a_large_file_takes_little_memory(
    tmp_path: Path, case: str, gigabytes: float
) -> None:
    """Of 2 GB of narrow rows the order of an epoch would take as much again."""
    found = loading.measure(case, gigabytes, 5, tmp_path)
    assert found["grown_mb"] < 300, found


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


def test_arrays_of_a_file_that_become_nothing_are_named(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    others = {"y": x + 1, "two words": x, "short": x[:2], "x_test": x[:1], "texts": ["a"] * 3}
    np.savez(tmp_path / "x.npz", x=x, obs=x, **others)
    with pytest.warns(UserWarning, match="condition") as caught:
        data = npz(tmp_path / "x.npz", key="x", label="")
    assert list(data.cond) == ["obs"]
    (said,) = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert all(repr(key) in said for key in ("y", "two words", "short", "texts"))
    assert "x_test" not in said and "3 rows" in said
