"""The command line as people use it: class names, units, moved folders, fine-tuning, logs."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

typer = pytest.importorskip("typer")
from PIL import Image  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from scoresde import _progress, load  # noqa: E402
from scoresde._progress import Lines  # noqa: E402
from scoresde.cli.app import app  # noqa: E402
from scoresde.cli.flags import spelled  # noqa: E402
from scoresde.cli.loaders import loader_options  # noqa: E402
from scoresde.cli.opened import open_checkpoint  # noqa: E402
from scoresde.cli.samples import open_samples  # noqa: E402
from scoresde.data import load_data, samples  # noqa: E402

QUICK = "--sample-every 0 --no-tensorboard --log-every 2 --batch-size 16 --holdout 0 --ema 0"
SMALL = "--net-option width=8 --net-option depth=1"


def call(line: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def answer(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(f"{line} --json").stdout)
    return found


def refused(line: str, *words: str) -> None:
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", call(line, 2).stderr).split())
    for word in words:
        assert word in text


PEOPLE = [("cat", 170.0, 7.0), ("dog", 180.0, 9.0), ("cow, old", 150.0, 5.0)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heights and weights of three kinds; one name holds a comma."""
    draw, place = np.random.default_rng(0), tmp_path_factory.mktemp("table")
    rows = [
        (height + draw.normal() * 4, weight + draw.normal(), kind)
        for kind, height, weight in PEOPLE
        for _ in range(20)
    ]
    with open(place / "animals.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("height", "weight", "kind"), *rows])
    return place / "animals.csv"


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    out = table.parent / "run"
    call(f"train {table} --data-option label=kind --steps 3 {SMALL} {QUICK} --out {out}")
    return out


def test_samples_of_a_table_come_back_in_its_units_and_with_its_names(
    run: Path, tmp_path: Path
) -> None:
    line = f"sample {run} --n 12 --steps 4 --label dog"
    call(f"{line} --out {tmp_path / 'npz'}")
    call(f"{line} --format csv --out {tmp_path / 'csv'}")
    arrays = np.load(tmp_path / "npz" / "shard-000000.npz")
    scaling = load(run / "checkpoint").data.scaling  # type: ignore[union-attr]
    assert arrays["columns"].tolist() == ["height", "weight"]
    by_hand = arrays["x"].astype(np.float64) * scaling.std.numpy() + scaling.mean.numpy()
    assert np.abs(arrays["raw"] - by_hand).max() < 1e-12
    text = (tmp_path / "csv" / "shard-000000.csv").read_text(encoding="utf-8")
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["height", "weight", "label"]
    assert [row[2] for row in rows] == ["dog"] * 12
    assert np.abs(np.array([row[:2] for row in rows], float) - by_hand).max() < 1e-5
    back = samples(tmp_path / "csv")  # in model units again
    assert np.abs(back[:].x.numpy() - arrays["x"]).max() < 1e-6
    found = answer(f"inspect {run}")
    assert found["data"]["scaling"]["columns"] == ["height", "weight"]
    assert found["class_names"] == sorted(kind for kind, *_ in PEOPLE)


def test_classes_go_by_name_or_number_and_names_may_hold_commas(run: Path, tmp_path: Path) -> None:
    def labels(wanted: str) -> list[int]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        call(f"sample {run} --n 4 --steps 1 --label '{wanted}' --out {out}")
        found: list[int] = np.load(out / "shard-000000.npz")["label"].tolist()
        return found

    assert labels("cow, old") == [1, 1, 1, 1]
    assert labels("dog,cow, old") == [2, 1, 2, 1]
    assert labels("0,dog") == [0, 2, 0, 2]
    assert labels("all") == [0, 1, 2, 0]
    for wrong in ("cta", "3", "-1"):
        refused(
            f"sample {run} --n 4 --label={wrong} --out {tmp_path / 'no'}",
            f"--label: expected a class by number from 0 to 2 or by name (cat, cow, old, dog), "
            f"several with commas, all or none, got '{wrong}'",
        )
    refused(f"sample {run} --n 4 --label cta --out {tmp_path / 'no'}", "did you mean 'cat'?")


def test_another_table_is_matched_by_the_names_of_its_classes(
    run: Path, table: Path, tmp_path: Path
) -> None:
    rows = table.read_text(encoding="utf-8").splitlines()
    part = tmp_path / "dogs.csv"
    part.write_text("\n".join([rows[0], *(r for r in rows if "dog" in r)]), encoding="utf-8")
    opened = open_checkpoint(run)
    whole, own = (open_samples(opened, str(p), ["label=kind"]) for p in (table, part))
    (x, cond), (x_own, cond_own) = whole.take(torch.arange(20, 40)), own.take(torch.arange(20))
    assert (
        cond_own["label"].tolist() == cond["label"].tolist() == [2] * 20
    )  # by name, not by place
    assert torch.allclose(x_own, x, atol=1e-6)  # by the scaling of the model, not by its own
    part.write_text(part.read_text(encoding="utf-8").replace("dog", "wolf"), encoding="utf-8")
    refused(f"likelihood {run} {part} --data-option label=kind", "classes of the model", "wolf")


def test_the_options_of_the_run_are_taken_again_for_its_own_data(run: Path, table: Path) -> None:
    said = call(f"likelihood {run} {table} --bound --draws 2 --times 4").stderr
    assert "--data-option label=kind" in said


def test_a_moved_run_goes_on_where_it_is(tmp_path: Path) -> None:
    call(f"train moons --data-option n=100 --steps 2 {SMALL} {QUICK} --out {tmp_path / 'run'}")
    (tmp_path / "run").rename(tmp_path / "moved")
    said = call(f"train --config {tmp_path / 'moved/config.json'} --steps 4 --resume").stderr
    assert str(tmp_path / "moved") in said
    assert sorted(place.name for place in tmp_path.iterdir()) == ["moved"]
    assert len((tmp_path / "moved/history.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_a_run_is_no_data(run: Path, tmp_path: Path) -> None:
    refused(f"train {run} --out {tmp_path / 'x'}", "the folder of a trained model", "--init-from")


def test_fine_tuning_starts_from_the_weights_of_another_run(
    run: Path, table: Path, tmp_path: Path
) -> None:
    line = f"train {table} --data-option label=kind --init-from {run} {QUICK}"
    call(f"{line} --steps 1 --lr 1e-30 --out {tmp_path / 'same'}")
    first, again = load(run / "checkpoint"), load(tmp_path / "same/checkpoint")
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert again.data.to_dict() == first.data.to_dict()  # type: ignore[union-attr]
    refused(f"{line} --predicts score --out {tmp_path / 'no'}", "--predicts", "score")
    refused(f"train digits --init-from {run} --out {tmp_path / 'no'}", "DATA", "shape (1, 8, 8)")


def test_a_few_pictures_are_enough_and_a_sheet_shows_the_samples(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(
            folder / f"{i}.png"
        )
    net = "--net-option width=8 --net-option multipliers=[1] --net-option heads=1"
    call(f"train {folder} --steps 1 {net} --sample-every 0 --out {tmp_path / 'run'}")
    found = answer(f"sample {tmp_path / 'run'} --n 5 --steps 1 --out {tmp_path / 's'}")
    with Image.open(found["picture"]) as picture:
        assert picture.width > 8 and picture.height > 8


def test_remedies_are_spelled_in_flags(tmp_path: Path) -> None:
    flags = {"size": "--data-option size={}", "n": "-n {}", "max_nfe": "--max-nfe {}"}
    assert spelled("size: expected 2; pass size=(32, 48)", flags) == (
        "--data-option size: expected 2; pass --data-option size=32x48"
    )
    assert spelled("raise max_nfe", flags) == "raise --max-nfe"
    folder = tmp_path / "sizes"
    folder.mkdir()
    for i, side in enumerate((8, 9)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(folder / f"{i}.png")
    refused(f"train {folder} --out {tmp_path / 'x'}", "--data-option size=")


def test_help_lists_the_options_of_the_loaders_from_their_own_docstrings() -> None:
    import inspect

    listed = loader_options()
    known = set(inspect.signature(load_data).parameters) - {"source"}
    assert set(listed) == known
    shown = call("train --help").stdout
    assert "--data-option KEY=VALUE" in shown
    for name in known:
        assert re.search(rf"^  {name}$", shown, re.M), name


def test_where_nobody_watches_there_are_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    lines = Lines(100, "train", "steps", initial=20, file=file)
    lines.set_postfix_str("loss 0.5000")
    for _ in range(40):  # a step a second
        now[0] += 1.0
        lines.update()
    lines.close()
    assert file.getvalue().splitlines() == [
        "train: 30 of 100 steps, loss 0.5000, 1:10 left",
        "train: 40 of 100 steps, loss 0.5000, 1:00 left",
        "train: 50 of 100 steps, loss 0.5000, 0:50 left",
        "train: 60 of 100 steps, loss 0.5000, 0:40 left",
    ]
