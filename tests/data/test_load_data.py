"""`load_data` recognises names, files and folders."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import idx_bytes, levels, mnist_like, refuses, written, zoo

from scoresde.data import ArrayRows, image_folder, load_data, moons, npy
from scoresde.options import Pictures


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
    data = load_data(tmp_path, split="train", pictures=Pictures(size=4))
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
        (
            {"pictures": Pictures(size=3)},
            ["size", "a .csv file takes columns, label, drop, standardise, delimiter"],
        ),
        ({"split": "train"}, ["split", "leave it out"]),
        ({"levels": 256}, ["levels"]),
    ],
)
def test_options_of_another_format_are_refused(
    tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    file = written(tmp_path, "a\n1\n2\n")
    refuses(lambda: load_data(file, **options), words)
    refuses(
        lambda: load_data("digits", pictures=Pictures(size=8)),
        ["size", "the digits takes split, seed"],
    )
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
