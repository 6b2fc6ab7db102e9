"""Columns in memory as cells: masks, kinds and names of arrays, frames and tables."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refuses

from scoresde.columns import Category, TableScaling
from scoresde.data import Data, parquet_table, table

A = np.random.default_rng(0).normal(size=20)


def quiet(found: Any, **options: Any) -> Data:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return table(found, **options)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int16])
def test_masked_numbers_are_missing(kind: Any) -> None:
    numbers = np.arange(20).astype(kind)
    masked = np.ma.masked_array(np.where(numbers < 3, -9999, numbers), numbers < 3)
    with pytest.warns(UserWarning, match=r"missing of 20 cells: 'a' \(3\)"):
        data = table({"a": masked, "b": A})
    assert data.scaling is not None
    raw = data.scaling.decode(data.x.double())[:, 0]
    assert raw[:3].isnan().all()
    torch.testing.assert_close(raw[3:], torch.arange(3.0, 20).double(), rtol=0, atol=1e-5)
    dropped = quiet({"a": masked, "b": A}, missing="drop")
    assert dropped.scaling is not None
    assert math.isclose(float(dropped.scaling.mean[0]), 11.0)  # type: ignore[union-attr]


def test_masked_texts_labels_and_fields_are_missing() -> None:
    texts = np.ma.masked_equal(np.array(["u", "v"] * 10), "u")
    texts[0] = "w"
    data = quiet({"a": A, "kind": texts})
    assert data.scaling is not None
    assert data.scaling.texts(data.scaling.decode(data.x.double()))[2][1] == ""
    refuses(lambda: table({"a": A, "kind": texts}, label="kind"), ["'kind'", "missing", "row 3"])
    fields = np.ma.zeros(20, [("a", "f8"), ("b", "f8")])
    fields["a"], fields["b"] = A, np.arange(20)
    fields["b"][4] = np.ma.masked
    assert quiet(fields).x.shape == (20, 3)  # with an indicator
    fields.mask = False
    assert table(fields).x.shape == (20, 2)


def test_declared_categories_are_categories() -> None:
    pa = pytest.importorskip("pyarrow")
    codes, flags = np.arange(20) % 4 * 10, A > 0
    columns = {
        "a": pa.array(A),
        "code": pa.array(codes).dictionary_encode(),
        "flag": pa.array(flags),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = table(pa.table(columns))
    assert isinstance(data.scaling, TableScaling)
    assert data.scaling.parts[1:] == (
        Category("code", ("0", "10", "20", "30")),
        Category("flag", ("False", "True")),
    )
    assert table({"a": A, "flag": flags}).scaling.parts[1] == data.scaling.parts[2]  # type: ignore[union-attr]


def test_a_column_of_categories_of_pandas_is_one() -> None:
    class Codes:
        dtype = type("CategoricalDtype", (), {"categories": (3, 5)})()

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return np.where(A > 0, 3, 5)

    found = table({"a": A, "code": Codes()}).scaling
    assert isinstance(found, TableScaling)
    assert found.parts[1] == Category("code", ("3", "5"))


def test_booleans_beside_missing_cells_are_categories() -> None:
    flags = np.where(A > 1, None, (A > 0).astype(object))
    with pytest.warns(UserWarning, match="'flag' .2. are names and are taken as categories"):
        found = table({"a": A, "flag": flags}).scaling
    assert isinstance(found, TableScaling)
    assert found.parts[1] == Category("flag", ("False", "True"), missing=True)


def test_booleans_in_a_parquet_file_are_categories(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": A, "flag": A > 0}), tmp_path / "t.parquet")
    found = parquet_table(tmp_path / "t.parquet").scaling
    assert isinstance(found, TableScaling)
    assert found.parts[1] == Category("flag", ("False", "True"))


class Frame(dict[Any, Any]):
    """A frame of a library that is not installed: its columns by name, in order."""

    def __init__(self, names: list[Any], columns: Any) -> None:
        super().__init__(zip(names, columns, strict=True))
        self.columns = names


@pytest.mark.parametrize("names", [[0, "0"], ["0", "0"], [1.5, "1.5"]])
def test_a_name_that_occurs_twice_is_refused(names: list[Any]) -> None:
    words = ["found", "different names", f"{names[1]} twice", "rename"]
    refuses(lambda: table(Frame(names, [A, 2 * A])), words)
    assert table(Frame(["a", 0], [A, 2 * A])).x.shape == (20, 2)


@pytest.mark.parametrize(
    "column",
    [
        torch.from_numpy(A).requires_grad_(),
        torch.from_numpy(A).bfloat16(),
        torch.from_numpy(A).half(),
        [torch.tensor(v) for v in A],
    ],
    ids=["requires_grad", "bfloat16", "float16", "list"],
)
def test_columns_that_are_tensors(column: Any) -> None:
    data = table({"a": column, "b": A})
    torch.testing.assert_close(data.x[:, 0], data.x[:, 1], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (1.0, ["column 'b'", "a value for each row", "got 1.0", "[1.0] * N"]),
        ([[1, 2]] * 19 + [[1]], ["column 'b'", "one value a row", "several lengths", "apart"]),
        ([[1, 2]] * 20, ["column 'b'", "one value a row", "(20, 2)", "apart"]),
        (np.array([[1], [1, 2]] * 10, object), ["column 'b'", "one value a row", "[1] in row 1"]),
    ],
)
def test_columns_of_another_shape_are_refused_by_name(column: Any, words: list[str]) -> None:
    refuses(lambda: table({"a": A, "b": column}), words)


@pytest.mark.parametrize("dtype", [np.float32, "float32", torch.int64])
@pytest.mark.parametrize("condition", [None, ["b"]])
def test_another_dtype_than_one_of_torch_is_refused(dtype: Any, condition: Any) -> None:
    words = ["dtype", "a floating-point torch.dtype", "torch.float32"]
    columns = {"a": A, "b": A}
    refuses(lambda: table(columns, dtype=dtype, condition=condition), words, TypeError)
