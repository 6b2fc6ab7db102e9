"""Tables of categories, missing cells, bounds and conditions on the command line."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call, refused

import scoresde
from scoresde.columns import TableScaling
from scoresde.data import load_data, samples
from scoresde.likelihood import log_prob

HEAD = ["age", "share", "kind", "code", "temp", "sky"]


def rows_of(n: int = 300) -> list[list[str]]:
    rng = np.random.default_rng(0)
    kind, share = rng.choice(["ox", "emu"], n), rng.beta(2, 3, n)
    return [
        [
            "" if i % 4 == 0 else f"{rng.normal(40, 5):.2f}",
            f"{s:.4f}",
            k,
            str(i % 3),
            f"{20 + i % 5}",
            ("clear", "grey")[i % 2],
        ]
        for i, (k, s) in enumerate(zip(kind, share, strict=True))
    ]


def table_in(folder: Path, rows: list[list[str]], head: list[str] = HEAD) -> str:
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return str(folder / "t.csv")


def options(**given: str) -> str:
    return " ".join(f"--data-option {shlex.quote(f'{k}={v}')}" for k, v in given.items())


SMALL = "--net-option width=16 --net-option depth=1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a table with every kind of column, trained for a few steps."""
    folder = tmp_path_factory.mktemp("tables")
    table = table_in(folder, rows_of())
    data = options(bounds="share:0:1,age:0:", categories="code")
    given = "--condition temp --condition sky"
    call(f"train {table} {given} --steps 20 --out {folder}/run {data} {SMALL}")
    return folder


def test_samples_are_rows_of_the_table(run: Path) -> None:
    draw = f"sample {run}/run -n 50 --given temp=22 --given sky=grey --steps 5"
    call(f"{draw} --format csv --out {run}/rows")
    with (run / "rows/shard-000000.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["age", "share", "kind", "code"]
    for age, share, kind, code in rows:
        assert age == "" or float(age) > 0
        assert 0 < float(share) < 1
        assert kind in ("ox", "emu")
        assert code in ("0", "1", "2")
    read = samples(run / "rows")
    assert isinstance(read.scaling, TableScaling)
    again = read.scaling.texts(read.scaling.decode(read.load().x.double()))
    for one, other in zip(again, rows, strict=True):
        assert one[2:] == other[2:]
        assert [float(v or "nan") for v in one[:2]] == pytest.approx(
            [float(v or "nan") for v in other[:2]], rel=1e-5, nan_ok=True
        )
    call(f"{draw} --out {run}/arrays")
    with np.load(run / "arrays/shard-000000.npz") as held:
        raw = torch.from_numpy(held["raw"])
    assert read.scaling.texts(raw) == rows


def test_what_is_given_changes_the_samples_and_is_checked(run: Path) -> None:
    drawn = {}
    for given in ("--given temp=20 --given sky=", "--given temp=24 --given sky=grey", ""):
        place = run / f"given{len(drawn)}"
        call(f"sample {run}/run -n 4 --steps 3 {given} --out {place}")
        drawn[given] = samples(place).load().x
    first, second, third = drawn.values()
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    out = f"--steps 3 --out {run}/none"
    for given, words in (
        ("temp=warm", ["--given", "a number for temp", "'warm'"]),
        ("temp=3,sky=grey", ["--given", "a number for temp", "repeat the flag"]),
        ("tmp=3", ["--given", "NAME=VALUE", "(temp, sky)", "'tmp=3'"]),
        ("temp", ["--given", "NAME=VALUE"]),
        ("sky=blue", ["--given", "a category of 'sky'", "'clear', 'grey'", "'blue'"]),
        ("temp=3 --given temp=4", ["--given", "once", "temp"]),
        ("temp=20", ["--given", "also sky", "only temp", "--given sky=VALUE"]),
    ):
        message = refused(f"sample {run}/run -n 4 --given {given} {out}")
        for word in words:
            assert word in message
    assert not (run / "none").exists()


def test_codes_come_back_with_the_conditions_they_were_made_with(run: Path) -> None:
    table = f"{run}/run {run}/t.csv"
    call(f"encode {table} --limit 6 --tolerance 1e-5 --out {run}/codes.npz")
    with np.load(run / "codes.npz") as held:
        rows = torch.from_numpy(held["row"])
        assert held["cond_given"].shape == (6, 3)
    call(f"decode {run}/run {run}/codes.npz --tolerance 1e-5 --out {run}/back.npz")
    data = load_data(run / "t.csv", like=scoresde.load(run / "run/checkpoint").data)
    with np.load(run / "back.npz") as held:
        np.testing.assert_allclose(held["x"], data.x[rows].numpy(), atol=1e-3)
    call(f"interpolate {table} --between 1,2 --frames 3 --tolerance 1e-5 --out {run}/path")
    with np.load(run / "path/interpolation.npz") as held:
        np.testing.assert_allclose(held["x"][0, 0], data.x[1].numpy(), atol=1e-3)


def test_a_table_with_probabilities_has_no_density(run: Path) -> None:
    found = answer(f"likelihood {run}/run {run}/t.csv --limit 8")
    assert found["no_density"] == "cells of 'age' may be missing"
    assert "nats_in_units_of_the_table" not in found
    assert "rows have no density" in call(f"likelihood {run}/run {run}/t.csv --limit 8").stdout


def test_other_rows_are_read_by_the_columns_of_the_training(run: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of() if row[0] and row[2] == "ox"][:6]
    order = [4, 2, 5, 0, 3, 1]
    other = table_in(tmp_path, [[row[k] for k in order] for row in rows], [HEAD[k] for k in order])
    found = answer(f"likelihood {run}/run {other}")
    known = scoresde.load(run / "run/checkpoint")
    data = load_data(other, like=known.data)
    cond = dict(data.cond)
    expected = log_prob(known, data.x[:], cond=cond, seed=0).nats.mean()
    assert found["nats"] == pytest.approx(float(expected), abs=1e-3)
    bad = table_in(tmp_path, [["30", "0.5", "cow", "1", "20", "grey"], *rows_of(5)])
    assert "'cow' in row 1" in refused(f"likelihood {run}/run {bad}")
    assert "age (numbers of at least 0, missing cells)" in call(f"inspect {run}/run").stdout


def test_a_bounded_table_has_a_density_in_its_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = zip(rng.beta(2, 3, 200), rng.gamma(2, 9, 200), strict=True)
    rows = [[f"{share:.5f}", f"{income:.4f}"] for share, income in cells]
    table = table_in(tmp_path, rows, ["share", "income"])
    bounds = options(bounds='{"share": [0, 1], "income": [0, null]}')
    call(f"train {table} --steps 20 --out {tmp_path}/run {bounds} {SMALL}")
    out = f"{tmp_path}/values.npz"
    found = answer(f"likelihood {tmp_path}/run {table} --limit 20 --out {out}")
    with np.load(out) as held:
        shift = held["nats_in_units_of_the_table"] - held["nats"]
        row = held["row"]
    data = load_data(table, like=scoresde.load(tmp_path / "run/checkpoint").data)
    assert isinstance(data.scaling, TableScaling)
    x = data.x[torch.from_numpy(row)]
    a, b = data.scaling.decode(x.double()).T
    stds = [part.std for part in data.scaling.parts]  # type: ignore[union-attr]
    exact = -(a * (1 - a) * stds[0]).log() - (b * stds[1]).log()
    np.testing.assert_allclose(shift, exact.numpy(), atol=1e-6)
    assert found["nats_in_units_of_the_table"] == pytest.approx(found["nats"] + shift.mean())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bounds": "share:0.2:1"}, ["column 'share'", "from 0.2 to 1", "in row"]),
        ({"bounds": "share:low:1"}, ["--data-option bounds", "NAME:LOW:HIGH", "'share:low:1'"]),
        ({"bounds": "share"}, ["--data-option bounds", "NAME:LOW:HIGH"]),
        ({"missing": "refuse"}, ["column 'age'", "a missing value in row 1"]),
        ({"missing": "skip"}, ["--data-option missing", "'drop', 'model', 'refuse'"]),
        ({"like": "x"}, ["--data-option", "one of", "'like'"]),
    ],
)
def test_bad_options_name_flag_and_row(
    tmp_path: Path, given: dict[str, str], words: list[str]
) -> None:
    table = table_in(tmp_path, rows_of(40))
    message = refused(f"train {table} --out {tmp_path}/run {options(**given)}")
    for word in words:
        assert word in message, message


def test_an_option_of_the_loader_that_is_given_as_a_flag_is_explained(tmp_path: Path) -> None:
    words = f"train {table_in(tmp_path, rows_of(40))} --out {tmp_path}/run"
    refused(f"{words} --bounds age:0:120", "pass --data-option bounds=VALUE")
    refused(f"{words} --class-names a", "pass --data-option class_names=VALUE")
    assert "--data-option bounds" not in refused(f"{words} --condition", "condition")


def test_too_few_samples_for_a_validation_are_told(tmp_path: Path) -> None:
    table = table_in(tmp_path, [row[:2] for row in rows_of(30) if row[0]][:12], HEAD[:2])
    said = call(f"train {table} --steps 2 --out {tmp_path}/run {SMALL}").stderr
    assert "none of 12 samples is held out" in said
