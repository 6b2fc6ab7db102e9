"""Data sets of the library `datasets`."""

from typing import Any

import numpy as np
import pytest
import torch
from data_files import BYTES, decoded, missing, picture, refuses
from PIL import Image

from scoresde.data import hugging_face
from scoresde.quantisation import Quantisation


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
