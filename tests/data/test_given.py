"""Data from what people have at hand: views, lists, pictures, torch's data sets and loaders."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import Items, Streamed, refuses
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from scoresde import Quantisation
from scoresde.data import ArrayRows, Data, LazyData, load_data

X = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
LABELS = np.arange(20) % 3


class Named(Items):
    classes = ("cat", "dog", "eel")


def read_only() -> np.ndarray[Any, Any]:
    array = X.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (X[::-1], X[::-1]),
        (X[:, ::-1], X[:, ::-1]),
        (X[::3], X[::3]),
        (np.asfortranarray(X), X),
        (X.astype(">f4"), X),
        (X.astype(np.float16), X.astype(np.float16)),
        (X.astype(np.longdouble), X),
        (read_only(), X),
        (X.tolist(), X),
        (list(X), X),
        (np.ma.masked_less(X, -9999), X),
        (list(torch.from_numpy(X)), X),
        (torch.from_numpy(X).requires_grad_(), X),
        (TensorDataset(torch.from_numpy(X)), X),
        (Items(*X), X),
        (Items(*[(row,) for row in X]), X),
        (Subset(Items(*X), [4, 2, 7]), X[[4, 2, 7]]),
    ],
)
def test_samples_of_any_kind(x: Any, expected: np.ndarray[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Data.of(x)
    assert data.x.dtype == torch.float32
    assert not data.x.requires_grad
    assert (data.x.numpy() == expected.astype(np.float32)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_precision(dtype: torch.dtype) -> None:
    assert Data.of(torch.from_numpy(X).to(dtype)).x.dtype == dtype
    assert Data.of([row.to(dtype) for row in torch.from_numpy(X)]).x.dtype == dtype


@pytest.mark.parametrize(
    "x",
    [
        (X, {"label": LABELS[::1]}),
        (X[::-1].copy()[::-1], {"label": LABELS[::-1][::-1].astype(">u2")}),
        TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)),
        Items(*zip(X, LABELS.tolist(), strict=True)),
        Items(*zip(torch.from_numpy(X), torch.from_numpy(LABELS), strict=True)),
        Items(*[{"x": a, "label": b} for a, b in zip(X, LABELS, strict=True)]),
        list(zip(torch.from_numpy(X), LABELS.tolist(), strict=True)),
        [{"x": a, "label": b} for a, b in zip(X, LABELS, strict=True)],
        Named(*zip(X, LABELS.tolist(), strict=True)),
    ],
)
def test_labels_come_along(x: Any) -> None:
    data = Data.of(x)
    assert (data.x.numpy() == X).all()
    assert data.cond["label"].tolist() == LABELS.tolist()
    assert data.class_names == (Named.classes if isinstance(x, Named) else ())


def test_names_of_classes_come_from_texts_and_through_subsets() -> None:
    pairs = [(row, int(label)) for row, label in zip(X, LABELS, strict=True)]
    part = Data.of(Subset(Subset(Named(*pairs), range(1, 20)), [0, 3]))
    assert (part.class_names, part.classes) == (Named.classes, 3)
    assert part.cond["label"].tolist() == [1, 1]
    texts = [(row, Named.classes[label]) for row, label in pairs]
    for items in (texts, [{"x": row, "label": text, "w": 1.0} for row, text in texts]):
        data = Data.of(Items(*items))
        assert (data.class_names, data.cond["label"].tolist()) == (Named.classes, LABELS.tolist())
    assert data.cond["w"].tolist() == [1.0] * 20


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_names_of_classes_of_a_pair_are_numbered(kind: Any) -> None:
    found = Data.of((np.eye(3), {"y": [0.5, 0.5, 1.0], "label": kind(["dog", "cat", "dog"])}))
    assert (found.classes, found.class_names) == (2, ("cat", "dog"))
    assert found.cond["label"].tolist() == [1, 0, 1]
    assert list(found.cond) == ["y", "label"]


def test_other_conditions_keep_their_name() -> None:
    y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    data = Data.of(TensorDataset(torch.from_numpy(X), y))
    assert torch.equal(data.cond["y"], y)
    data = Data.of(Items(*[{"image": a, "angle": float(i)} for i, a in enumerate(X)]))
    assert data.cond["angle"].tolist() == list(range(20))
    assert data.cond["angle"].dtype == torch.float32
    assert Data.of((X, {"y": [0.5] * 20})).cond["y"].dtype == torch.float32


def test_of_a_loader_its_data_set_is_taken_and_it_is_said() -> None:
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4, shuffle=True)
    with pytest.warns(UserWarning, match="its dataset is read as a whole"):
        data = Data.of(loader)
    assert (data.x.numpy() == X).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_become_levels(mode: str) -> None:
    greys = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    pictures = [Image.fromarray(a).convert(mode) for a in greys]
    for x in (pictures, Items(*pictures), Items(*zip(pictures, range(5), strict=True))):
        data = Data.of(x)
        assert data.quantisation == Quantisation(256)
        levels = Quantisation(256).decode(data.x).numpy()
        expected = np.stack([np.asarray(p) for p in pictures])
        expected = expected[:, None] if mode == "L" else expected.transpose(0, 3, 1, 2)
        assert (levels == expected).all()


@pytest.mark.parametrize(
    ("x", "words", "error"),
    [
        (Streamed(), ["x:", "Streamed", "collect"], TypeError),
        (iter(X), ["x:", "torch.stack(list(x))"], TypeError),
        ("moons", ["x:", "load_data('moons')"], TypeError),
        (torch.eye(3).to_sparse(), ["x:", "dense", "to_dense"], TypeError),
        (X + 1j, ["x:", "real numbers", "imag"], TypeError),
        (torch.zeros(3, 2, dtype=torch.complex64), ["x:", "real numbers", "imag"], TypeError),
        (np.zeros(3, [("a", "f4"), ("b", "f4")]), ["x:", "structured", "table"], TypeError),
        (np.array(["a", "b"]), ["x:", "real numbers"], TypeError),
        ({"a": [1.0]}, ["x:", "scoresde.data.table"], TypeError),
        (np.zeros((3, 2), np.uint8), ["x:", "Quantisation"], TypeError),
        ([torch.zeros(2), torch.zeros(3)], ["x:", "one shape", "(3,) at 1"], ValueError),
        ([[1.0, 2.0], [3.0]], ["x:", "one shape"], ValueError),
        (np.array([[1e300], [1.0]]), ["x:", "float32 holds", "1e+300"], ValueError),
        (TensorDataset(*[torch.zeros(3, 2)] * 3), ["x:", "3 parts"], TypeError),
        (Items(), ["x:", "empty Items"], ValueError),
        (Items({"a": X}), ["x:", "'x'", "['a']"], ValueError),
        ((X, {"y": ["a"] * 20}), ["cond['y']", "real numbers", "'label' alone"], TypeError),
        (X.astype(object), ["x:", "real numbers", ".astype(float)"], TypeError),
        ((X, LABELS), ["x:", "(x, cond)"], TypeError),
        (np.ma.masked_less(X, 0), ["x:", "masked entries", ".filled"], ValueError),
        ([np.ma.masked_less(row, 0) for row in X], ["x:", "masked entries"], ValueError),
        ((X, {"y": np.ma.masked_equal(LABELS, 0)}), ["cond['y']", "7 masked"], ValueError),
    ],
)
def test_what_is_no_data_is_refused_by_name(
    x: Any, words: list[str], error: type[Exception]
) -> None:
    refuses(lambda: Data.of(x), words, error)


def test_a_pair_of_a_data_set_and_conditions_keeps_its_units() -> None:
    """The way to give conditions of your own to what `load_data` has read."""
    read = Data(torch.as_tensor(X) * 50.0 + 7.0, {"old": torch.ones(20, 1)}).standardised()
    found = Data.of((read, {"y": X.sum(1), "label": [f"c{k}" for k in LABELS]}))
    assert set(found.cond) == {"old", "y", "label"} and found.class_names == ("c0", "c1", "c2")
    assert found.x is read.x and found.scaling is read.scaling
    other = Data.of((found, {"label": LABELS}))  # numbers, whose names are not known
    assert other.class_names == () and set(other.cond) == set(found.cond)
    rows = LazyData(ArrayRows(X), {"y": torch.zeros(20)})
    lazy = Data.of((rows, {"y": torch.ones(20)}))
    assert isinstance(lazy, LazyData) and lazy.x is rows.x and bool((lazy.cond["y"] == 1).all())
    with pytest.raises(ValueError, match=r"cond\['y'\]"):
        Data.of((read, {"y": torch.ones(19)}))


def test_the_columns_of_a_condition_that_is_replaced_are_forgotten() -> None:
    columns = {"given": {"age": ()}, "other": {"sky": ("clear", "cloudy")}}
    cond = {"given": torch.ones(20, 1), "other": torch.ones(20, 2)}
    read = Data(torch.as_tensor(X), cond, cond_columns=columns)
    found = Data.of((read, {"given": torch.zeros(20, 3)}))
    assert found.cond_columns == {"other": {"sky": ("clear", "cloudy")}}


def test_a_warning_of_a_file_names_the_line_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("age,town\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(20)))
    with pytest.warns(UserWarning, match="are taken as categories") as told:
        load_data(str(file))
    assert {one.filename for one in told} == {__file__}
