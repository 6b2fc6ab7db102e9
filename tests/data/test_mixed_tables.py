"""Tables with categories, missing cells, bounds and columns of conditions."""

import csv
import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import missing, refuses, written
from groups import tabled

from scoresde.columns import Category, Number, TableScaling
from scoresde.data import Data, csv_table, load_data, parquet_table, split, summarise, table
from scoresde.options import Table

HEAD = ["age", "income", "share", "kind", "code"]


def cells(n: int = 200, seed: int = 0) -> list[list[str]]:
    """Rows with every kind of column, as texts."""
    rng = np.random.default_rng(seed)
    age = np.round(rng.uniform(1, 119, n), 1)
    income = np.round(np.exp(rng.normal(8, 1.5, n)), 2)
    share = np.round(rng.uniform(0.001, 0.999, n), 3)
    share[:5], share[5:9] = 0.0, 1.0
    kind = rng.choice(["ox", "emu, wild", "yak"], n)
    code = rng.integers(0, 6, n)
    rows = [[str(v) for v in row] for row in zip(age, income, share, kind, code, strict=True)]
    for i in range(0, n, 7):
        rows[i][0] = ""
        rows[i][3] = ""
    return rows


BOUNDS = {"age": (0, 120), "income": (0, None), "share": (0, 1)}


def file_of(folder: Path, rows: list[list[str]], name: str = "t.csv") -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEAD, *rows])
    return written(folder, text.getvalue(), name)


def quiet(file: Path, **options: Any) -> Data:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_data(file, **tabled(bounds=BOUNDS, categories=["code"], **options))
    assert isinstance(found, Data)
    return found


def numbers(rows: list[list[str]]) -> list[list[str]]:
    """Cells with numbers in one form, to compare."""
    return [[f"{float(c):g}" if k < 3 and c else c for k, c in enumerate(row)] for row in rows]


@pytest.mark.parametrize("coding", ["bits", "one_hot"])
def test_every_cell_comes_back(tmp_path: Path, coding: str) -> None:
    rows = cells()
    data = quiet(file_of(tmp_path, rows), coding=coding)
    scaling = data.scaling
    assert isinstance(scaling, TableScaling)
    assert scaling.columns == tuple(HEAD)
    widths = {"bits": [2, 1, 1, 2, 3], "one_hot": [2, 1, 1, 4, 6]}
    assert [part.width for part in scaling.parts] == widths[coding]
    assert numbers(scaling.texts(scaling.decode(data.x.double()))) == numbers(rows)
    means, stds = data.x.mean(0), data.x.std(0, correction=0)
    torch.testing.assert_close(means[2:4], torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(stds[2:4], torch.ones(2), rtol=0, atol=1e-5)
    present = data.x[data.x[:, 1] < 0, 0]
    assert present.mean().abs() < 1e-5
    assert abs(present.std(correction=0) - 1) < 1e-5
    assert (data.x[data.x[:, 1] > 0, 0] == 0).all()
    share = scaling.decode(data.x)[:, 2]
    assert ((share == 0).sum(), (share == 1).sum()) == (5, 4)  # on the bounds, also in float32


def test_what_was_inferred_is_said(tmp_path: Path) -> None:
    file = file_of(tmp_path, cells())
    with (
        pytest.warns(UserWarning, match=r"'kind' \(3\) are names and are taken as categories"),
        pytest.warns(UserWarning, match=r"missing of 200 cells: 'age' \(29\), 'kind' \(29\)"),
    ):
        load_data(file)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2\n3,9\n", {"bounds": {"b": (0, 5)}}, ["'b'", "from 0 to 5", "9 in row 2"]),
        ("a,b\n1,2\n3,-9\n", {"bounds": {"b": (0, None)}}, ["at least 0", "-9 in row 2"]),
        ("a,b\n1,2\n3,9\n", {"bounds": {"c": (0, 5)}}, ["bounds", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,9\n", {"bounds": {"b": (5, 0)}}, ["bounds['b']", "low < high"]),
        ("a,b\n1,2\n3,9\n", {"bounds": {"b": 5}}, ["bounds['b']", "(low, high)"]),
        ("a,b\n1,2\n3,9\n", {"bounds": {"b": (None, None)}}, ["bounds['b']", "a bound"]),
        ("a,b\n1,u\n3,v\n", {"bounds": {"b": (0, 1)}}, ["bounds", "column of numbers"]),
        ("a,b\n1,2\n3,inf\n", {"bounds": {"b": (0, None)}}, ["'b'", "finite", "inf in row 2"]),
        ("a,b\n1,2\n3,4\n", {"missing": "ignore"}, ["missing", "'model'", "'refuse'"]),
        ("a,b\n1,2\n3,4\n", {"coding": "gray"}, ["coding", "'bits'", "'one_hot'"]),
        ("a,b\n1,2\n3,4\n", {"categories": ["c"]}, ["categories", "'a', 'b'", "'c'"]),
        ("a,b\n1,u\n3,u\n", {}, ["'b' constant", "drop=['b']"]),
        ("a,b\n1,\n3,\n5,\n", {}, ["column 'b'", "drop=['b']"]),
        ("a,b\n1,4\n3,\n5,4\n", {}, ["'b' constant"]),
        ("a,b\n1,\n,3\n", {"missing": "drop"}, ["missing", "none of 2"]),
        ("a,b\n1,2\n3,4\n", {"condition": ["c"]}, ["condition", "'a', 'b'", "'c'"]),
        (
            "a,b\n1,2\n3,4\n",
            {"condition": ["a", "b"]},
            ["0 columns", "out of label="],
        ),
        ("a,b\n1,2\n3,4\n", {"condition": ["a"], "label": "a"}, ["label", "condition"]),
        ("a,b\n1,2\n3,4\n", {"condition": ["a"], "drop": ["a"]}, ["condition", "drop", "once"]),
        ("a,b\n1,2\n3,4\n", {"condition": {"label": ["a"]}}, ["condition", "not label"]),
        ("a,b\n1,2\n3,4\n", {"condition": {"c": ["a"], "d": ["a"]}}, ["each column once", "a"]),
        ("a,b\n1,2\n3,inf\n", {"condition": ["b"]}, ["column 'b'", "finite", "inf in row 2"]),
    ],
)
def test_bad_tables_are_refused(
    tmp_path: Path, text: str, options: dict[str, Any], words: list[str]
) -> None:
    file = written(tmp_path, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuses(lambda: csv_table(file, **options), words)


def test_names_of_which_each_occurs_once_are_no_categories() -> None:
    columns = {"a": np.arange(30.0) ** 2, "who": [f"name {i}" for i in range(30)]}
    refuses(lambda: table(columns), ["column 'who'", "30 classes for 30 samples"])


def test_rows_with_missing_cells_can_be_dropped_or_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path, cells())
    assert quiet(file).x.shape == (200, 9)
    assert quiet(file, missing="drop").x.shape == (171, 8)
    with pytest.warns(UserWarning, match="left out with their rows, and 171 rows remain"):
        load_data(file, table=Table(missing="drop"))
    refuses(lambda: quiet(file, missing="refuse"), ["column 'age'", "row 1", "29 of its 200"])
    other = written(tmp_path, "a,y\n1,u\n,v\n3,u\n4,v\n", "y.csv")
    with pytest.warns(UserWarning, match="3 rows remain"):
        labels = csv_table(other, label="y", missing="drop")
    assert labels.cond["label"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"z": [0.1, 0.2, 0.3, 0.4, 2]}, {"bounds": {"z": (0, 1)}}, ["'z'", "2 in row 5"]),
        ({"z": [0, 1, 2, 3, -4]}, {"bounds": {"z": (0, None)}}, ["'z'", "-4 in row 5"]),
        ({"z": [2, 1, 0, 1, -3]}, {"label": "z"}, ["'z'", "-3 in row 5"]),
    ],
)
def test_rows_in_messages_count_those_that_are_dropped(
    columns: dict[str, Any], options: dict[str, Any], words: list[str]
) -> None:
    found = {"w": [math.nan, 1.0, 2.0, 1.0, 1.0], **columns}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuses(lambda: table(found, missing="drop", **options), words)
        good = {**found, "z": [5.0, 0.2, 0.3, 0.4, 0.5]}  # 5 is in a row that is dropped
        first = table(good, missing="drop", bounds={"z": (0, 1)})
        like = summarise(first)
        assert len(table(good, missing="drop", like=like)) == len(first) == 4
        bad = {**good, "z": [5.0, 0.2, 0.3, 0.4, 2.0]}
        refuses(lambda: table(bad, missing="drop", like=like), ["'z'", "2 in row 5"])


def test_decimal_commas_beside_missing_cells_and_names(tmp_path: Path) -> None:
    file = written(tmp_path, "a;b;kind\n1,5;NA;u\n2,5;3,25;v\n-;4,5;u\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = csv_table(file)
    assert data.scaling is not None
    raw = data.scaling.decode(data.x.double())
    expected = [[1.5, math.nan, 0], [2.5, 3.25, 1], [math.nan, 4.5, 0]]
    torch.testing.assert_close(raw, torch.tensor(expected).double(), equal_nan=True)


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
def test_parquet_with_nulls(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"a": [1, None, 4, 9], "kind": ["u", "v", None, "v"], "n": [3, 1, 1, None]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = parquet_table(tmp_path / "t.parquet", categories=["n"])
    scaling = data.scaling
    assert isinstance(scaling, TableScaling)
    texts = scaling.texts(scaling.decode(data.x.double()))
    assert texts == [["1.0", "u", "3"], ["", "v", "1"], ["4.0", "", "1"], ["9.0", "v", ""]]


class Missing:
    """The missing value of pandas, which has no truth."""

    def __repr__(self) -> str:
        return "<NA>"

    def __ne__(self, other: object) -> Any:
        return self

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __hash__(self) -> int:
        return 0


def test_missing_values_of_frames() -> None:
    gone = Missing()
    columns = {
        "i": np.array([1, gone, 4, 7], object),
        "k": np.array(["u", "v", gone, "u"], object),
        "t": np.array([0.5, math.nan, None, 2.0], object),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scaling = (data := table(columns)).scaling
    assert isinstance(scaling, TableScaling)
    texts = scaling.texts(scaling.decode(data.x.double()))
    assert texts == [["1.0", "u", "0.5"], ["", "v", ""], ["4.0", "", ""], ["7.0", "u", "2.0"]]


def test_columns_become_conditions_in_their_units(tmp_path: Path) -> None:
    rows = "".join(
        f"{i * 0.1},{20 + i if i else ''},{'abc'[i % 3] if i > 1 else 'NA'}\n" for i in range(9)
    )
    file = written(tmp_path, "y,temperature,sky\n" + rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = csv_table(file, condition=["temperature", "sky"])
    assert data.x.shape == (9, 1)
    given = data.cond["given"]
    assert given.dtype == torch.float32
    nan = math.nan
    expected = [[nan] * 4, [21, nan, nan, nan], [22, 0, 0, 1], [23, 1, 0, 0]]
    torch.testing.assert_close(given[:4], torch.tensor(expected), equal_nan=True)
    known = summarise(data).conditions["given"]
    assert known.columns == {"temperature": (), "sky": ("a", "b", "c")}
    assert known.encode({"temperature": 22, "sky": "c"}).tolist() == given[2].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        two = csv_table(file, condition={"air": ["temperature"], "look": ["sky"]})
    assert {name: value.shape[1] for name, value in two.cond.items()} == {"air": 1, "look": 3}
    assert torch.equal(two[:3].cond["look"].isnan(), given[:3, 1:].isnan())


def test_other_data_are_read_like_those_of_the_training(tmp_path: Path) -> None:
    rows = cells()
    data = quiet(file_of(tmp_path, rows), condition=["code"])
    known = summarise(data)
    picked = [row for row in rows if row[0] and row[3] == "yak"]  # nothing missing, one kind
    order = [3, 1, 0, 4, 2]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [[line[k] for k in order] for line in [HEAD, *picked]]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = csv_table(written(tmp_path, text.getvalue(), "u.csv"), like=known)
    assert other.scaling == data.scaling
    chosen = [i for i, row in enumerate(rows) if row[0] and row[3] == "yak"]
    assert torch.equal(other.x, data.x[chosen])
    assert torch.equal(other.cond["given"], data.cond["given"][chosen])
    for bad, words in (
        (["1", "2", "0.5", "cow", "1"], ["column 'kind'", "ox", "'cow' in row 1"]),
        (["130", "2", "0.5", "ox", "1"], ["column 'age'", "from 0 to 120", "130 in row 1"]),
        (["1", "", "0.5", "ox", "1"], ["column 'income'", "a missing cell in row 1"]),
        (["1", "2", "0.5", "ox", "9"], ["column 'code'", "'9' in row 1"]),
    ):
        file = file_of(tmp_path, [bad, rows[1]], "bad.csv")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refuses(lambda f=file: csv_table(f, like=known), words)
    refuses(
        lambda: csv_table(written(tmp_path, "age,code\n1,2\n3,4\n"), like=known),
        ["the columns ('age'", "without income, share, kind"],
    )


def test_a_plain_table_is_read_like_another_one() -> None:
    known = summarise(table({"a": [1.0, 2.0, 4.0], "b": [0.0, 5.0, 1.0]}))
    other = table({"b": [7.0, 7.0], "a": [2.0, 3.0]}, like=known)
    assert other.scaling is known.scaling
    raw = other.scaling.decode(other.x.double())  # type: ignore[union-attr]
    torch.testing.assert_close(raw, torch.tensor([[2.0, 7.0], [3.0, 7.0]]).double())


def test_a_table_like_one_without_scaling_keeps_its_numbers() -> None:
    rows = {"a": [1.0, 2.0, 4.0], "b": [0.0, 5.0, 1.0]}
    for data in (table(rows, standardise=False), Data(torch.tensor([[3.0, 1.0], [5.0, 2.0]]))):
        other = table({"a": [1.5, 7.0], "b": [2.0, 9.0]}, like=summarise(data))
        assert other.scaling is None and other.x.tolist() == [[1.5, 2.0], [7.0, 9.0]]
    known = summarise(Data(torch.tensor([[3.0, 1.0], [5.0, 2.0]])).standardised())
    other = table({"a": [4.0, 5.0], "b": [1.5, 2.0]}, like=known)
    assert other.x.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    refuses(lambda: table({"a": [1.0, 2.0]}, like=known), ["shape (2,)", "columns a"])
    refuses(lambda: table({"a": ["u", "v"], "b": [1.0, 2.0]}, like=known), ["'a'", "'u'"])


def test_options_of_a_table_may_not_contradict_the_other_data() -> None:
    rows = {"a": [0.2, 0.5, 0.9], "k": ["u", "v", "u"], "b": [1.0, 2.0, 5.0]}
    bounds = {"a": (0, 1)}
    known = summarise(table(rows, categories=["k"], coding="one_hot", bounds=bounds))
    agreeing: dict[str, Any] = {"categories": ["k"], "coding": "one_hot", "bounds": bounds}
    first, second = table(rows, like=known), table(rows, like=known, standardise=True, **agreeing)
    assert torch.equal(first.x, second.x) and first.scaling == known.scaling
    bare = summarise(table({"a": [1.0, 2.0]}, standardise=False))
    plain = summarise(table({"a": [1.0, 2.0]}))
    for like, options, words in (
        (known, {"categories": ["b"]}, ["categories", "the other data, k", "'b'"]),
        (known, {"coding": "bits"}, ["coding", "one_hot, as in the other data", "'bits'"]),
        (known, {"bounds": {"a": (0, 2)}}, ["bounds", "(0.0, 1.0) for 'a'", "(0.0, 2.0)"]),
        (known, {"bounds": {"b": (0, None)}}, ["bounds", "(None, None) for 'b'"]),
        (known, {"standardise": False}, ["standardise", "True, as in the other data", "False"]),
        (plain, {"standardise": False}, ["standardise", "True, as in the other data", "False"]),
        (plain, {"bounds": {"a": (0, 9)}}, ["bounds", "(None, None) for 'a'", "leave like out"]),
        (bare, {"standardise": True}, ["standardise", "False, as in the other data", "True"]),
    ):
        cells = {name: rows[name] for name in (rows if like is known else ["a"])}
        refuses(lambda c=cells, o=options, k=like: table(c, like=k, **o), words)


def test_numbers_keep_their_part_when_others_are_added(tmp_path: Path) -> None:
    """The identity of a row is its cells, which do not depend on the moments of the table."""
    rows = cells(400)
    one, more = (quiet(file_of(tmp_path, part)) for part in (rows[:300], rows))
    names = ["".join(row) for row in rows]
    parts: list[set[str]] = []
    for data, own in ((one, names[:300]), (more, names)):
        first, _ = split(data, 0.5)
        kept = {tuple(row) for row in first.x.tolist()}
        parts.append(
            {n for n, row in zip(own, data.x.tolist(), strict=True) if tuple(row) in kept}
        )
    assert len(parts[0] ^ {n for n in parts[1] if n in set(names[:300])}) <= 2


def test_values_on_one_bound_alone_and_on_both() -> None:
    data = table({"a": [0.0, 0.0, 1.0, 1.0], "b": [1.0, 2.0, 3.0, 5.0]}, bounds={"a": (0, 1)})
    scaling = data.scaling
    assert isinstance(scaling, TableScaling)
    assert scaling.decode(data.x)[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
    part = scaling.parts[0]
    assert isinstance(part, Number)
    assert (part.low_gap, part.high_gap) == (0.25, 0.25)
    kind = table({"k": ["u", None, "u"], "b": [1.0, 2.0, 3.0]}, categories=["k"]).scaling
    assert isinstance(kind, TableScaling)
    assert kind.parts[0] == Category("k", ("u",), "bits", True)


def test_what_is_not_standardised_keeps_its_numbers() -> None:
    data = table({"a": [10.0, 30.0], "k": ["u", "v"]}, standardise=False, categories=["k"])
    assert data.x.tolist() == [[10.0, -1.0], [30.0, 1.0]]
    refuses(lambda: data.standardised(), ["scaling", "a, k", "leave"])
