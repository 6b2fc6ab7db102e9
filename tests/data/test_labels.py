"""Classes have numbers for the model and names for people, which stay together."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import idx_bytes, missing, refuses
from PIL import Image

from scoresde.data import Data, LazyData, csv_table, digits, idx, image_folder, load_data, npy, npz
from scoresde.data.labels import numbered


@pytest.mark.parametrize(
    ("values", "label", "names"),
    [
        ([7, 3, 7], [1, 0, 1], ("3", "7")),
        ([1, 1, 1], [0, 0, 0], ("1",)),
        (np.array([2019, 2021, 2019], np.uint16), [0, 1, 0], ("2019", "2021")),
        (torch.tensor([[5], [4], [5]]), [1, 0, 1], ("4", "5")),
        ([3.0, 7.0, 3.0], [0, 1, 0], ("3", "7")),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        ([1, -1, 1], [1, 0, 1], ("-1", "1")),
        (["10", "9", "10"], [1, 0, 1], ("9", "10")),
        (["dog", " cat", "dog "], [1, 0, 1], ("cat", "dog")),
        (np.array([b"u", b"v", b"u"]), [0, 1, 0], ("u", "v")),
        (np.array(["b", 1, "b"], object), [1, 0, 1], ("1", "b")),
    ],
)
def test_the_values_that_occur_are_the_classes(
    values: Any, label: list[int], names: tuple[str, ...]
) -> None:
    found = numbered(values, 3, "label")
    assert found.label.tolist() == label
    assert found.label.dtype == torch.int64
    assert (found.classes, found.names) == (len(names), names)


def test_numbers_of_known_classes_stay_as_they_are() -> None:
    found = numbered([3, 0], 2, "label", classes=5)
    assert (found.label.tolist(), found.classes, found.names) == ([3, 0], 5, tuple("01234"))
    assert numbered([1, 1], 2, "label", classes=2, names=("a", "b")).names == ("a", "b")


@pytest.mark.parametrize(
    ("values", "options", "words", "error"),
    [
        ([0.5, 1.0], {}, ["label", "integers or texts", "cond"], TypeError),
        ([1, np.nan], {}, ["integers or texts"], TypeError),
        (["a", None], {}, ["label for every sample", "row 1"], ValueError),
        ([0, -1], {}, ["labels from 0", "-1 in row 1"], ValueError),
        ([0, 3], {"classes": 3}, ["0 to 2", "3 in row 1"], ValueError),
        (["a", "b"], {"classes": 3}, ["classes"], TypeError),
        ([0, 1, 2], {}, ["(2,)"], ValueError),
        (np.eye(2), {}, ["(2,)", "argmax"], ValueError),
    ],
)
def test_what_is_no_class_is_refused(
    values: Any, options: dict[str, Any], words: list[str], error: type[Exception]
) -> None:
    refuses(lambda: numbered(values, 2, "label", **options), words, error)


def test_a_class_for_every_row_is_refused_and_one_for_two_is_told() -> None:
    dates = [f"2020-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    refuses(lambda: numbered(dates, len(dates), "column 'date'"), ["336 classes for 336", "date"])
    with pytest.warns(UserWarning, match="label: 20 classes for 30 samples"):
        numbered([*range(20), *range(10)], 30, "label")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbered([*range(15), *range(15)], 30, "label")


def folder_of(root: Path, **counts: int) -> Path:
    for kind, count in counts.items():
        (root / kind).mkdir(parents=True)
        for i in range(count):
            grey = np.full((4, 4), 10 * i, np.uint8)
            Image.fromarray(grey).save(root / kind / f"{i}.png")
    return root


def test_another_folder_is_matched_by_name(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", a=1, b=2, c=1)
    folder_of(tmp_path / "test", a=1, c=2)
    train = load_data(tmp_path, split="train")
    assert train.class_names == ("a", "b", "c")
    test = load_data(tmp_path, split="test", class_names=train.class_names)
    assert isinstance(test, LazyData)
    assert (test.cond["label"].tolist(), test.classes) == ([0, 2, 2], 3)
    assert test.class_names == train.class_names
    loaded = image_folder(tmp_path / "test").load().with_classes(["c", "b", "a"])
    assert isinstance(loaded, Data)
    assert loaded.cond["label"].tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match="names: expected the classes of the data among a, b, got "
                                         "'also c'"):  # fmt: skip
        load_data(tmp_path, split="test", class_names=("a", "b"))
    refuses(lambda: test.with_classes("abc"), ["names", "a sequence of names"], TypeError)
    refuses(lambda: test.with_classes(("a", "c", "a")), ["different names", "a"])
    refuses(lambda: load_data("moons", class_names=("a",)), ["names", "data with labels"])
    plain = Data(torch.randn(3, 2), {"label": torch.tensor([0, 2, 2])})
    assert plain.with_classes(("2", "0")).cond["label"].tolist() == [1, 0, 0]


def test_the_classes_of_training_number_those_of_the_other_parts(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", a=1, b=2, c=1)
    folder_of(tmp_path / "test", a=1, c=2, aa=1)
    assert load_data(tmp_path, split="train").class_names == ("a", "b", "c")
    test = load_data(tmp_path, split="test")
    assert test.class_names == ("a", "b", "c", "aa")
    assert test.cond["label"].tolist() == [0, 3, 2, 2]


def test_every_loader_names_its_classes(tmp_path: Path) -> None:
    x = np.arange(16, dtype=np.uint8).reshape(8, 2) * 10
    y = np.array([3, 7] * 4, np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.where(y == 3, "cat", "dog"))
    np.savez(tmp_path / "z.npz", x=x, y=y)
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i},{k}\n" for i, k in enumerate(y)))
    images = np.zeros((8, 2, 2), np.uint8)
    images[:, 0, 0] = np.arange(8)
    (tmp_path / "i").write_bytes(idx_bytes(images))
    (tmp_path / "l").write_bytes(idx_bytes(y))
    gap = [0, 1] * 4
    for data, names in (
        (npy(tmp_path / "x.npy", tmp_path / "y.npy"), ("cat", "dog")),
        (npz(tmp_path / "z.npz", label="y"), ("3", "7")),
        (csv_table(tmp_path / "t.csv", label="y"), ("3", "7")),
        (idx(tmp_path / "i", tmp_path / "l"), ("3", "7")),
    ):
        assert data.cond["label"].tolist() == gap
        assert (data.classes, data.class_names) == (2, names)
    whole = npz(tmp_path / "z.npz", label="y", classes=10)
    assert (whole.cond["label"].tolist(), whole.classes) == (y.tolist(), 10)
    assert digits().class_names == tuple("0123456789")


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
def test_missing_labels_of_a_column_of_pyarrow_are_refused() -> None:
    """numpy gets a neighbouring label for a null of a chunked dictionary."""
    import pyarrow as pa

    column = pa.chunked_array([pa.array(["u", None, "v"]).dictionary_encode()])
    refuses(lambda: numbered(column, 3, "label"), ["a label for every sample", "row 1"])
