"""Any data set with a length and items by number: of torch, torchvision and Hugging Face."""

from typing import Any

import numpy as np
import pytest
import torch
from data_files import BYTES, Items, Streamed, decoded, missing, picture, refuses
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from scoresde import VPSDE, Preconditioned, Trainer
from scoresde.data import Data, from_dataset
from scoresde.nets import MLP
from scoresde.quantisation import Quantisation


class Vision(Dataset[Any]):
    """What torchvision's data sets have: pictures that are decoded at each access, and targets."""

    classes = ("cat", "dog", "eel")

    def __init__(self, n: int, transform: Any = None, target_transform: Any = None) -> None:
        self.data = [picture(4, 6, seed=i) for i in range(n)]
        self.targets: Any = [i % 3 for i in range(n)]
        self.transform, self.target_transform = transform, target_transform
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        image, target = self.data[index], index % 3
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)


def to_tensor(image: Any) -> torch.Tensor:
    """As torchvision's ToTensor: (C, H, W) floats from 0 to 1."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def pixels_of(dataset: Vision) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image) for image in dataset.data]).transpose(0, 3, 1, 2)


def test_pictures_of_torchvision_are_levels_read_when_needed() -> None:
    dataset = Vision(200)
    data = from_dataset(dataset)
    assert len(set(dataset.read)) < 20  # the labels are those of `targets`, not of the items
    assert (data.quantisation, data.name) == (BYTES, "Vision")
    assert (data.class_names, data.classes) == (Vision.classes, 3)
    assert data.cond["label"].tolist() == dataset.targets
    dataset.read.clear()
    part = data[torch.tensor([7, 3])]
    assert dataset.read == [7, 3]
    assert (decoded(part.x) == pixels_of(dataset)[[7, 3]]).all()
    assert part.cond["label"].tolist() == [1, 0]
    assert from_dataset(dataset, size=2, mode="L").x.shape == (200, 1, 2, 2)


def test_tensors_of_torchvision_come_into_model_units() -> None:
    dataset = Vision(9, transform=to_tensor)
    with pytest.warns(UserWarning, match=r"floats from 0 to 1.*brought to \[-1, 1\]"):
        data = from_dataset(dataset)
    assert data.scaling is not None
    expected = torch.from_numpy(pixels_of(dataset)).double() / 255
    assert torch.allclose(data.scaling.decode(data.x[:].double()), expected, atol=1e-7)
    assert data.cond["label"].tolist() == dataset.targets


def test_labels_are_what_the_items_say() -> None:
    """`targets` is taken only where it says the same."""
    data = from_dataset(Vision(9, target_transform=lambda label: 2 - label))
    assert data.cond["label"].tolist() == [2 - i % 3 for i in range(9)]
    rare = from_dataset(Vision(192, target_transform=lambda label: 2 * (label > 0)))
    assert rare.cond["label"].tolist() == [2 * (i % 3 > 0) for i in range(192)]
    other = Vision(40)
    for targets in (torch.arange(40) % 3, np.arange(40) % 3, [0] * 40, [0] * 41, "other"):
        other.targets = targets
        assert from_dataset(other).cond["label"].tolist() == [i % 3 for i in range(40)]


def test_parts_of_a_data_set_keep_its_labels_and_names() -> None:
    dataset = Vision(30)
    data = from_dataset(Subset(Subset(dataset, range(1, 30)), [0, 3, 8]))
    assert (data.cond["label"].tolist(), data.class_names) == ([1, 1, 0], Vision.classes)
    assert (decoded(data.x[:]) == pixels_of(dataset)[[1, 4, 9]]).all()


X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
LABEL = torch.arange(20) % 3


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(X, LABEL),
        Items(*zip(X, LABEL.tolist(), strict=True)),
        Items(*[{"x": a, "y": int(b), "more": 0.5} for a, b in zip(X, LABEL, strict=True)]),
        [(a, int(b)) for a, b in zip(X, LABEL, strict=True)],
        Items(*zip(X.numpy(), LABEL.numpy(), strict=True)),
    ],
)
def test_tensors_tuples_and_mappings_are_data_sets(dataset: Any) -> None:
    data = from_dataset(dataset)
    assert torch.equal(data.x[:], X)
    assert data.cond["label"].tolist() == LABEL.tolist()


def test_the_parts_are_named_or_there_are_none() -> None:
    assert from_dataset(TensorDataset(X)).cond == {}
    assert torch.equal(from_dataset(Items(*X)).x[:], X)
    triples = Items(*[("a", row, int(k)) for row, k in zip(X, LABEL, strict=True)])
    data = from_dataset(triples, x=1, label=2)
    assert torch.equal(data.x[:], X)
    assert data.cond["label"].tolist() == LABEL.tolist()
    assert from_dataset(triples, x=1, label=0).class_names == ("a",)
    pairs = Items(*[(row, row) for row in X])
    refuses(lambda: from_dataset(pairs), ["label", "second part", "label=False"])
    assert from_dataset(pairs, label=False).cond == {}
    half = Items(*X.to(torch.bfloat16))
    assert torch.equal(from_dataset(half).x[:], X.to(torch.bfloat16).float())


def test_one_trains_on_a_data_set_as_on_its_tensors() -> None:
    trained = []
    for data in (from_dataset(TensorDataset(X, LABEL)), Data(X, {"label": LABEL}, classes=3)):
        torch.manual_seed(0)
        model = Preconditioned(MLP(2, width=8, classes=3), VPSDE())
        trained.append(Trainer(model, data, steps=3).fit().state_dict())
    first, second = trained
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_items_are_refused() -> None:
    noisy = Vision(4, transform=lambda image: to_tensor(image) + torch.randn(()))
    refuses(lambda: from_dataset(noisy), ["same item", "random transforms", "Data.of"])


@pytest.mark.parametrize(
    ("dataset", "options", "error", "words"),
    [
        (Streamed(), {}, TypeError, ["dataset", "Streamed"]),
        (DataLoader(TensorDataset(torch.zeros(3, 2))), {}, TypeError, ["loader.dataset"]),
        (torch.zeros(3, 2), {}, TypeError, ["Data.of"]),
        (Items(), {}, ValueError, ["one row"]),
        (Items("a", "b"), {}, ValueError, ["row 0", "images or numbers"]),
        (Items(1.0, 2.0), {"x": 1}, ValueError, ["x:", "None for such items"]),
        (Items((1.0, 0)), {"x": 2}, ValueError, ["x:", "one of 0, 1"]),
        (Items((1.0, 0)), {"label": 2}, ValueError, ["label", "one of 0, 1"]),
        (Items((1.0, 0), (2.0, -1)), {}, ValueError, ["label", "-1 in row 1"]),
        (Items({"x": 1.0, "w": 1.0}), {"label": "y"}, ValueError, ["label", "'x', 'w'"]),
        (Vision(3), {"quantisation": BYTES}, ValueError, ["quantisation", "images"]),
    ],
)
def test_what_is_no_data_set_is_refused(
    dataset: Any, options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    refuses(lambda: from_dataset(dataset, **options), words, error)


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
    data = from_dataset(FakeDataset(image=made, label=[1, 0, 1]))
    for i, image in enumerate(made):
        assert (decoded(data.x[i]) == np.asarray(image).transpose(2, 0, 1)).all()
    assert data.x.shape == (3, 3, 4, 6)
    assert (data.cond["label"].tolist(), data.classes, data.quantisation) == ([1, 0, 1], 2, BYTES)
    assert from_dataset(FakeDataset(image=made), size=2, mode="L").x.shape == (3, 1, 2, 2)
    arrays = from_dataset(FakeDataset(x=[[0.5, 1.5], [2.5, 3.5]]))
    assert arrays.x[:].tolist() == [[0.5, 1.5], [2.5, 3.5]]
    assert arrays.quantisation is None
    whole = from_dataset(FakeDataset(x=[[0, 2], [1, 2]]), quantisation=Quantisation(3))
    assert whole.x[:].tolist() == [[-1, 1], [0, 1]]
    assert whole.quantisation == Quantisation(3)
    times = 1.7e9 + np.arange(8.0)[:, None]  # that float32 does not tell apart
    with pytest.warns(UserWarning, match="standardised"):
        exact = from_dataset(FakeDataset(x=times.tolist()))
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
        ({"text": ["a"]}, {}, ValueError, ["row 0 of part 'text'", "images or numbers"]),
        ({"a": [1.0], "b": [1.0]}, {}, ValueError, ["x:", "'a', 'b'"]),
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
    refuses(lambda: from_dataset(FakeDataset(**made), **options)[:], words, error)


def test_hugging_face_refuses_what_is_no_data_set() -> None:
    splits = {"train": FakeDataset(x=[1.0])}
    refuses(lambda: from_dataset(splits), ["one of its splits", "'train'"], TypeError)
    refuses(lambda: from_dataset(iter([1])), ["streaming", "Data.of"], TypeError)


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
    data = from_dataset(datasets.Dataset.from_dict(content, features=features))
    for i, image in enumerate(made):
        assert (decoded(data.x[i]) == np.asarray(image).transpose(2, 0, 1)).all()
    assert (data.cond["label"].tolist(), data.class_names) == ([1, 0, 1], ("cat", "dog"))
    streamed = datasets.Dataset.from_dict({"x": [1.0]}).to_iterable_dataset()
    refuses(lambda: from_dataset(streamed), ["streaming"], TypeError)
    both = datasets.DatasetDict(train=datasets.Dataset.from_dict({"x": [1.0]}))
    refuses(lambda: from_dataset(both), ["one of its splits", "'train'"], TypeError)
