"""Tables from CSV and Parquet files and from memory."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import missing, refuses, written

from scoresde.columns import TableScaling
from scoresde.data import csv_table, load_data, parquet_table, split, table
from scoresde.options import Table


def test_a_table_is_standardised_and_comes_back(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(5, [0.1, 10.0], (5000, 2))  # more than one piece
    lines = [f"{a!r},x{i % 3},{b!r}" for i, (a, b) in enumerate(raw.tolist())]
    file = written(tmp_path, "\ufeffheight,kind,weight\n" + "\n".join(lines) + "\n\n")
    data = csv_table(file, label="kind", dtype=torch.float64)
    assert data.scaling is not None
    assert data.scaling.columns == ("height", "weight")
    np.testing.assert_allclose(data.scaling.mean.numpy(), raw.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.scaling.std.numpy(), raw.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.x.numpy(), (raw - raw.mean(0)) / raw.std(0), atol=1e-11)
    np.testing.assert_allclose(data.scaling.decode(data.x).numpy(), raw, rtol=1e-12)
    assert data.cond["label"].tolist() == [i % 3 for i in range(5000)]
    assert (data.class_names, data.classes) == (("x0", "x1", "x2"), 3)
    assert csv_table(file, label="kind").x.dtype == torch.float32
    plain = csv_table(file, columns=["weight"], standardise=False, dtype=torch.float64)
    assert (plain.x[:, 0].numpy() == raw[:, 1]).all()
    assert plain.scaling is None
    first, _ = split(data, 0.5)
    assert first.scaling is data.scaling


def test_tables_without_names_with_tabs_and_semicolons(tmp_path: Path) -> None:
    data = csv_table(written(tmp_path, "1,2\n3,5\n"), standardise=False)
    assert data.x.tolist() == [[1, 2], [3, 5]]
    assert csv_table(written(tmp_path, "1,2\n3,5\n")).scaling.columns == ("0", "1")  # type: ignore[union-attr]
    for name, text in (("t.tsv", "a\tb\n1\t2\n3\t5\n"), ("u.csv", '"a";b\n1;2\n"3";5\n')):
        file = written(tmp_path, text, name)
        marks = Table(delimiter=";" if name == "u.csv" else None)
        found = load_data(file, table=marks)
        assert found.x[:].tolist() == [[-1, -1], [1, 1]]
    integers = csv_table(written(tmp_path, "a,y\n1,2\n3,0\n"), label="y")
    assert (integers.cond["label"].tolist(), integers.class_names) == ([1, 0], ("0", "2"))


REFUSE = {"missing": "refuse"}


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2\n3,red\n", {}, ["column 'b'", "'red' in row 2", "label='b'", "columns="]),
        ("a,b\n1,2\n3,\n5,6\n", REFUSE, ["column 'b'", "missing value in row 2", "1 of its 3"]),
        ("a,b\n1,2\nNA,3\n,4\n", REFUSE, ["column 'a'", "missing value in row 2", "2 of its 3"]),
        ("a,b\n1,2\n3,nan\n", REFUSE, ["column 'b'", "missing value in row 2"]),
        ("a,b\n1,2\n3,inf\n", {}, ["column 'b'", "inf in row 2"]),
        ("a,b,c\n1,7,0\n3,7,0\n", {}, ["columns", "'b', 'c' constant", "columns="]),
        ("a,b\n1,2\n3\n", {}, ["2 cells in every row", "1 in row 2"]),
        ("a,b\n1,2\n3,4,5\n", {}, ["2 cells in every row", "3 in row 2"]),
        ("a,a\n1,2\n", {}, ["different names", "'a'"]),
        ("", {}, ["empty file"]),
        ("a,b\n", {}, ["rows below the names"]),
        ("a,b\n1,2\n", {}, ["standardise", "two rows"]),
        ("a,b\n1,2\n3,4\n", {"columns": ["c"]}, ["columns", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"label": "c"}, ["label", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"columns": ["a", "b"], "label": "b"}, ["label", "once"]),
        ("a;b\n1;2\n3;4\n", {"columns": ["c"]}, ["columns", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"drop": ["c"]}, ["drop", "'a', 'b'", "'c'"]),
        ("a,b\n1,2\n3,4\n", {"columns": ["a"], "drop": ["b"]}, ["drop", "one of the two"]),
        ("a,b\n1,2\n3,4\n", {"label": "b", "drop": ["b"]}, ["label", "drop", "once"]),
        ("a,b\n1,2\n3,4\n", {"decimal": ";"}, ["decimal", "'.' or ','"]),
        (
            "a,b\n1,x\n3,\n",
            {"label": "b"},
            ["column 'b'", "a label in every row", "missing value in row 2", "missing='drop'"],
        ),
        ("a,b\n1,\n3,\n", {"label": "b", "missing": "drop"}, ["fill the 2 of its 2 values"]),
        ("a b\n1 2\n3 4\n", {}, ["a delimiter between them", "'3 4'", "delimiter=' '"]),
        ("a,b\n1,0\n3,-1\n", {"label": "b"}, ["column 'b'", "-1 in row 2"]),
        ("a,b\n1,0\n3,1\n", {"delimiter": ";;"}, ["delimiter", "one character"]),
        ("b\nx\ny\n", {"label": "b"}, ["columns", "0 columns"]),
    ],
)
def test_bad_tables_are_refused(
    tmp_path: Path, text: str, options: dict[str, Any], words: list[str]
) -> None:
    file = written(tmp_path, text)
    refuses(lambda: csv_table(file, **options), words)


def test_rows_without_a_label_are_dropped_if_that_is_asked(tmp_path: Path) -> None:
    file = written(tmp_path, "a,b,y\n1,2,u\n3,4,\n5,7,v\n,9,u\n8,9,na\n")
    with pytest.warns(UserWarning, match=r"missing of 5 labels: 'y' \(2\); .* 2 rows remain"):
        data = csv_table(file, label="y", missing="drop")
    assert data.cond["label"].tolist() == [0, 1]
    assert data.x.shape == (2, 2)


def test_rows_that_are_left_out_as_comments_are_told(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert csv_table(written(tmp_path, "# by us, in May\na,b\n1,2\n# note\n3,5\n")).x.shape == (
        2,
        2,
    )
    assert not recwarn.list
    file = written(tmp_path, "a,tag\n1,x\n#5,y\n 3,y\n")
    with pytest.warns(UserWarning, match=r"1 rows that begin with # .* first '#5,y'"):
        assert csv_table(file, categories=["tag"]).x.shape == (2, 2)


def test_a_spreadsheet_may_name_its_delimiter(tmp_path: Path) -> None:
    data = csv_table(written(tmp_path, "sep=;\na;b\n1;2\n3;5\n"))
    assert data.scaling is not None
    assert data.scaling.columns == ("a", "b")


def test_tables_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"a,b\n1,\x81\n")
    refuses(lambda: csv_table(file), ["CSV file of text", "convert"])
    for read in (csv_table, parquet_table):
        refuses(lambda r=read: r(tmp_path / "none"), ["no file"], FileNotFoundError)
    refuses(lambda: csv_table(written(tmp_path, "a\n1\n2\n"), columns="a"), ["['a']"], TypeError)


def test_columns_in_memory_are_a_table() -> None:
    data = table({"a": [1, 2, 3], "b": [True, False, True], "y": ["u", "v", "u"]}, label="y")
    assert data.x.shape == (3, 2)
    assert data.cond["label"].tolist() == [0, 1, 0]
    refuses(lambda: table({"a": [1, 2], "b": [1]}), ["one length", "2"])
    refuses(lambda: table({"a": [1, 10**400]}), ["column 'a'", "in row 2"])  # beyond float64
    refuses(lambda: table({"a": np.array(["2020-01-01"], "M8[D]")}), ["column 'a'", "numbers"])
    holes = {"a": [1.0, None]}
    refuses(lambda: table(holes, missing="refuse"), ["column 'a'", "missing value in row 2"])
    refuses(lambda: table({"a": [1, 2], "y": [0.5, 1]}, label="y"), ["column 'y'"], TypeError)


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
def test_parquet_comes_back_and_is_refused_as_csv(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def saved(**columns: Any) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    raw = np.random.default_rng(0).normal(3, 2, 100)
    file = saved(a=raw, b=np.arange(100), kind=["u", "v"] * 50)
    data = parquet_table(file, label="kind", dtype=torch.float64)
    assert data.scaling is not None
    expected = np.stack([raw, np.arange(100)], axis=1)
    np.testing.assert_allclose(data.scaling.decode(data.x).numpy(), expected, rtol=1e-12)
    assert data.class_names == ("u", "v")
    assert load_data(file, table=Table(columns=["a"])).x.shape == (100, 1)
    with pytest.warns(UserWarning, match=r"'kind' \(2\) are names and are taken as categories"):
        assert parquet_table(file).x.shape == (100, 3)
    refuses(lambda: parquet_table(file, columns=["z"]), ["columns", "'z'"])
    missing_one = saved(a=pa.array([1.0, None, 3.0]))
    refuses(
        lambda: parquet_table(missing_one, missing="refuse"),
        ["column 'a'", "missing value in row 2", "1 of"],
    )
    twice = pa.Table.from_arrays([pa.array([1.0, 2.0])] * 2, ["a", "a"])
    pq.write_table(twice, tmp_path / "t.parquet")
    refuses(lambda: parquet_table(tmp_path / "t.parquet"), ["different names", "'a'"])
    constant = saved(a=[1.0, 2.0], b=[3, 3])
    refuses(lambda: parquet_table(constant), ["'b' constant"])
    dates = saved(a=np.array(["2020-01-01", "2021-01-01"], "M8[s]"))
    refuses(lambda: parquet_table(dates), ["column 'a'", "numbers"])
    file.write_bytes(b"junk")
    refuses(lambda: parquet_table(file), ["a parquet file"])


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
@pytest.mark.parametrize("about", ["arrow", "pandas"])
def test_categories_of_numbers_come_back_from_parquet(tmp_path: Path, about: str) -> None:
    """Parquet keeps only the numbers of such a column; the metadata say that they are categories.

    So does a categorical column of a DataFrame, whose file has both kinds of metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "t.parquet"
    kinds = pa.array([3, 4, None, 5] * 5)
    columns = {"a": pa.array(np.arange(20.0) ** 2), "k": kinds}
    if about == "arrow":
        columns["k"] = kinds.dictionary_encode()
        pq.write_table(pa.table(columns), file)
    else:
        said = {"columns": [{"name": "k", "pandas_type": "categorical", "numpy_type": "int8"}]}
        whole = pa.table(columns).replace_schema_metadata({"pandas": json.dumps(said)})
        pq.write_table(whole, file)
    columns["k"] = kinds.dictionary_encode()
    with pytest.warns(UserWarning, match=r"missing of 20 cells: 'k' \(5\)"):
        data, memory = parquet_table(file), table(columns)
    scaling = data.scaling
    assert scaling == memory.scaling
    assert data.x.equal(memory.x)
    assert isinstance(scaling, TableScaling)
    assert scaling.parts[1].names == ("3", "4", "5")
    texts = [row[1] for row in scaling.texts(scaling.decode(data.x.double()))]
    assert texts == ["3", "4", "", "5"] * 5


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
def test_missing_categories_of_texts_are_missing_in_parquet_and_in_memory(tmp_path: Path) -> None:
    """numpy gets a neighbouring category for a null of a chunked dictionary of pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = pa.array(["u", None, "v", "u"] * 5).dictionary_encode()
    whole = pa.table({"a": np.arange(20.0) ** 2, "k": kinds})
    pq.write_table(whole, tmp_path / "t.parquet")
    for read in (lambda: table(whole), lambda: parquet_table(tmp_path / "t.parquet")):
        with pytest.warns(UserWarning, match=r"missing of 20 cells: 'k' \(5\)"):
            data = read()
        assert isinstance(data.scaling, TableScaling)
        texts = [row[1] for row in data.scaling.texts(data.scaling.decode(data.x.double()))]
        assert texts == ["u", "", "v", "u"] * 5


@pytest.mark.parametrize("read", [csv_table, parquet_table])
def test_tables_without_pyarrow_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any]
) -> None:
    for name in ("pyarrow", "pyarrow.csv", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    file = written(tmp_path, "a,b\n1,2\n3,4\n")
    refuses(lambda: read(file), ["pip install", "scoresde[data]"], ImportError)
