"""Columns in memory as cells: masks, kinds and names of arrays, frames and tables."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from data_files import refuses

from scoresde.data import Data, table

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
