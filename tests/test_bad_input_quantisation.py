"""Bad input of the quantisation."""

from __future__ import annotations

import torch
from bad_input import NAN, Row, T, V, X, check, each

from scoresde import Quantisation

ROWS = [
    Row("quantisation-levels", lambda: Quantisation(1), V, "levels", "1", "e.g. 256"),
    Row("quantisation-range", lambda: Quantisation(4, 1.0, -1.0), V, "high", "-1.0", "low < high"),
    Row(
        "quantisation-encode",
        lambda: Quantisation(4).encode(torch.tensor([0, 9])),
        V,
        "k:",
        "9",
        "raise levels",
    ),
    Row(
        "quantisation-decode", lambda: Quantisation(4).decode(X.int()), T, "x:", "int32", "already"
    ),
    Row(
        "quantisation-decode-nan",
        lambda: Quantisation(4).decode(NAN),
        V,
        "x:",
        "nan",
        "sampler diverged",
    ),
    Row(
        "quantisation-fields",
        lambda: Quantisation.from_dict({"low": 0}),
        V,
        "fields",
        "low",
        "Quantisation.to_dict",
    ),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
