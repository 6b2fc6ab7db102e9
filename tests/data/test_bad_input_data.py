"""Bad input of data sets."""

from __future__ import annotations

import torch
from bad_input import NAN, Row, T, V, X, check, each

from scoresde.data import Data, digits, load_data, moons, table, toy

ROWS = [
    Row("data-empty", lambda: Data(X[:0]), V, "x:", "(0, 2)", "check what was loaded"),
    Row("data-flat", lambda: Data(X[0]), V, "x:", "(2,)", "x[:, None]"),
    Row("data-integers", lambda: Data(X.long()), T, "x:", "int64", "Quantisation"),
    Row("data-nan", lambda: Data(NAN), V, "x:", "nan in row 0", "4 bad row(s)"),
    Row("data-constant", lambda: Data(X), V, "x:", "channel 0", "drop channel 0"),
    Row(
        "data-labels",
        lambda: Data(torch.eye(2), {"label": torch.tensor([0, 7])}, classes=3),
        V,
        "label",
        "7",
        "renumber",
    ),
    Row("data-split", lambda: Data(torch.eye(2)).split(1.0), V, "fraction", "1.0", "e.g. 0.8"),
    Row("data-toy", lambda: toy("moon", 5), V, "name", "'moon'", "did you mean 'moons'"),
    Row("data-toy-size", lambda: moons(-5), V, "n:", "-5", "above 0"),
    Row(
        "table-like",
        lambda: table({"a": [0.0, 1.0]}, like=toy("moons", 5)),  # type: ignore[arg-type]
        T,
        "like",
        "Data(",
        "model.data",
    ),
    Row("load-frame", lambda: load_data({"a": [1.0]}), T, "source", "dict", "data.table"),  # type: ignore[arg-type]
    Row("data-digits", lambda: digits("tests"), V, "split", "'tests'", "did you mean 'test'"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
