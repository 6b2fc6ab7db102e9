"""Tables as people have them: European, from pandas and R, in other encodings."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import missing, refuses
from groups import tabled

from scoresde.data import Data, csv_table, load_data, parquet_table, table
from scoresde.options import Table

RAW = [[1.5, 2.25], [2.5, -3.0], [3.5, 1000.0]]


def written(folder: Path, text: str, encoding: str = "utf-8", name: str = "t.csv") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def raw_of(data: Any) -> list[list[float]]:
    assert isinstance(data, Data)
    assert data.scaling is not None
    found: list[list[float]] = data.scaling.decode(data.x.double()).tolist()
    return found


def silent(file: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_data(file, **tabled(**options))


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["", "mark"])
@pytest.mark.parametrize("names", [True, False])
def test_the_delimiter_is_told_from_the_file(
    tmp_path: Path, mark: str, end: str, names: bool
) -> None:
    tail = mark if end else ""
    rows = [f"{a}{mark} {b}{tail}\n" for a, b in RAW]
    head = f'"a"{mark}b{tail}\n' if names else ""
    data = silent(written(tmp_path, "\n# comment\n" + head + "\n".join(rows) + f"{mark}\n\n"))
    assert np.allclose(raw_of(data), RAW, atol=1e-4)
    assert data.scaling.columns == (("a", "b") if names else ("0", "1"))
    assert np.allclose(raw_of(silent(tmp_path / "t.csv", delimiter=mark)), RAW, atol=1e-4)


def test_a_delimiter_that_ends_the_rows_alone_is_no_column(tmp_path: Path) -> None:
    data = silent(written(tmp_path, "a;b\n1,5;2,25;\n2,5;-3;\n3,5;1e3;\n"), decimal=",")
    assert np.allclose(raw_of(data), RAW, atol=1e-4)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_are_read_and_it_is_said(tmp_path: Path, mark: str) -> None:
    text = f"a{mark}b\n" + "".join(f"{a}{mark}{b}\n" for a, b in RAW).replace(".", ",")
    file = written(tmp_path, text)
    with pytest.warns(UserWarning, match="numbers of 'a', 'b' have decimal commas"):
        assert np.allclose(raw_of(load_data(file)), RAW, atol=1e-4)
    assert np.allclose(raw_of(silent(file, decimal=",")), RAW, atol=1e-4)
    refuses(
        lambda: load_data(file, table=Table(decimal=".")),
        ["column 'a'", "'1,5' in row 1", "decimal=','"],
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('a,b\n"1,500",2\n"2,500",3\n', ["column 'a'", "'1,500' in row 1", "thousands"]),
        ("a;b\n1.500,5;2\n2.500,5;3\n", ["column 'a'", "'1.500,5' in row 1", "thousands"]),
        ("a;b\n1.500;2,5\n2.500;3,5\n", ["column 'a'", "'1.500' in row 1", "thousands"]),
        ("a;b\n1 500;2\n2 500;3\n", ["column 'a'", "'1 500' in row 1", "thousands"]),
        ("a;b\n1'500;2\n2'500;3\n", ["column 'a'", "500", "thousands"]),
        ("a,b\n2020-01-31,2\n2020-02-01,3\n", ["column 'a'", "dates", "drop=['a']"]),
        ("a,b\n31.01.2020,2\n01.02.2020,3\n", ["column 'a'", "dates", "drop=['a']"]),
    ],
)
def test_separators_of_thousands_and_dates_are_refused(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuses(lambda: load_data(written(tmp_path, text)), words)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8-sig", False), ("utf-16", False), ("utf-16-le", False), ("latin-1", True)],
)
def test_encodings_are_told_from_the_file(tmp_path: Path, encoding: str, said: bool) -> None:
    text = "größe,art\n1.5,süß\n2.5,bitter\n4,süß\n"
    file = written(tmp_path, text, encoding)
    if said:
        with pytest.warns(UserWarning, match="not in UTF-8, and is read as latin-1"):
            data = load_data(file, label="art")
    else:
        data = silent(file, label="art")
    assert data.scaling is not None
    assert (data.scaling.columns, data.class_names) == (("größe",), ("bitter", "süß"))


def test_names_that_pandas_numbers_are_no_row(tmp_path: Path) -> None:
    file = written(tmp_path, "0,1\n" + "".join(f"{i * 0.5},{i * i}\n" for i in range(9)))
    with pytest.warns(UserWarning, match=r"first line, 0,1\.\.\., is taken as names"):
        assert len(load_data(file)) == 9
    assert len(silent(file, header=False)) == 10
    assert len(silent(written(tmp_path, "1,0\n3,5\n"))) == 2


@pytest.mark.parametrize("head", ["", '""', "Unnamed: 0"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_column_without_name_that_counts_the_rows_is_left_out(
    tmp_path: Path, head: str, first: int
) -> None:
    text = f"{head},a,b\n" + "".join(f"{i + first},{i * 0.5},{i**2}\n" for i in range(9))
    file = written(tmp_path, text)
    with pytest.warns(UserWarning, match="counts the rows and has no name, so it is left out"):
        data = load_data(file)
    assert data.scaling is not None
    assert data.scaling.columns == ("a", "b")
    assert silent(file, columns=["a"]).x.shape == (9, 1)


def test_row_numbers_and_dates_are_named_and_can_be_dropped(tmp_path: Path) -> None:
    rows = "".join(f"{7 * i + 3},{20200101 + i},{i % 4},{0.5 * i}\n" for i in range(9))
    file = written(tmp_path, "customer_id,date,kind,value\n" + rows)
    with pytest.warns(UserWarning, match=r"'customer_id', 'date' seem to number .*drop=\['cust"):
        assert load_data(file).x.shape == (9, 4)
    assert silent(file, drop=["customer_id", "date"]).x.shape == (9, 2)
    many = "a,day\n" + "".join(f"{i},2020-{i}\n" for i in range(30))
    file = written(tmp_path, many)
    refuses(lambda: load_data(file, label="day"), ["column 'day'", "30 classes for 30 samples"])
    refuses(
        lambda: load_data(file, label="a", table=Table(drop=["day"])), ["columns", "0 columns"]
    )


def test_constant_columns_are_named_with_what_drops_them(tmp_path: Path) -> None:
    file = written(tmp_path, "a,b,c\n1,5,0.1\n2,5,0.1\n4,5,0.1\n")
    refuses(lambda: load_data(file), ["columns that vary", "'b', 'c'", "drop=['b', 'c']"])
    assert silent(file, drop=["b", "c"]).x.shape == (3, 1)


def test_columns_of_any_magnitude_are_standardised(tmp_path: Path) -> None:
    scales = (1e-310, 1e-30, 1.0, 1e30, 1e300)
    x = np.linspace(-1, 1, 9)[:, None] * np.array(scales)
    rows = "".join(",".join(map(repr, row)) + "\n" for row in x.tolist())
    data = silent(written(tmp_path, "a,b,c,d,e\n" + rows), standardise=True)
    assert (data.x.double().std(dim=0, correction=0) - 1).abs().max() < 1e-5


class Frame(dict[str, Any]):
    """What `table` asks of a frame of pandas."""

    @property
    def columns(self) -> list[str]:
        return list(self)


def test_frames_and_structured_arrays_are_tables() -> None:
    columns = {"a": [1.0, 2.0, 4.0], "b": [0.5, 0.0, 7.0]}
    rows = list(zip(*columns.values(), strict=True))
    structured = np.array(rows, [("a", "f4"), ("b", "f8")])
    expected = table(columns).x
    for found in (Frame(columns), structured):
        assert torch.equal(table(found).x, expected)
    refuses(lambda: table([1.0]), ["found", "columns"], TypeError)  # type: ignore[arg-type]


@pytest.mark.skipif(missing("pyarrow"), reason="needs pyarrow")
def test_tables_of_pyarrow_and_the_index_of_pandas(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"a": [1.0, 2.0, 4.0], "b": [0.5, 0.0, 7.0], "__index_level_0__": [0, 1, 2]}
    arrow = pa.table(columns)
    assert torch.equal(table(arrow.select(["a", "b"])).x, table(dict(list(columns.items())[:2])).x)
    pq.write_table(arrow, tmp_path / "t.parquet")
    with pytest.warns(UserWarning, match="counts the rows"):
        assert parquet_table(tmp_path / "t.parquet").x.shape == (3, 2)
    assert parquet_table(tmp_path / "t.parquet", drop=["b", "__index_level_0__"]).x.shape == (3, 1)


def test_a_long_file_with_a_late_text_is_refused_by_its_row(tmp_path: Path) -> None:
    text = "a,b\n" + "".join(f"{i},{i % 7}\n" for i in range(5000)) + "x,1\n"
    refuses(lambda: csv_table(written(tmp_path, text)), ["column 'a'", "'x' in row 5001"])
