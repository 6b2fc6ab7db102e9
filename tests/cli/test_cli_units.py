"""The command line as people use it: units, columns, classes, folders, fine-tuning, messages."""

from __future__ import annotations

import csv
import inspect
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import call, refused
from PIL import Image

from scoresde import VPSDE, Preconditioned, _progress, load, save
from scoresde._progress import Lines
from scoresde.cli.app import command
from scoresde.cli.config import written
from scoresde.cli.flags import flags_of
from scoresde.cli.loaders import loader_options
from scoresde.cli.messages import options_of, spelled
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.samples import open_samples
from scoresde.cli.source import load_source
from scoresde.data import load_data, samples
from scoresde.likelihood.bound import elbo
from scoresde.nets import MLP, UNet
from scoresde.options import Pictures, Table
from scoresde.summary import DataSummary, Scaling

QUICK = "--sample-every 0 --no-tensorboard --log-every 2 --batch-size 16 --net-option width=8"
NAMES = ("cat", "dog", "grey, small", "3")


def table(place: Path, name: str = "t.csv", kinds: tuple[str, ...] = ("cat", "dog")) -> Path:
    generator = np.random.default_rng(0)
    with (place / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "weight", "kind"])
        for row in range(60):
            height, weight = generator.normal((170.0, 70.0), (10.0, 3.0))
            writer.writerow([round(height, 2), round(weight, 2), kinds[row % len(kinds)]])
    return place / name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes, of which the third never occurred."""
    made = Preconditioned(MLP(2, width=8, classes=4), VPSDE())
    scaling = Scaling(
        torch.tensor([170.0, 1e6]).double(), torch.tensor([10.0, 1e-3]).double(), ("height", "id")
    )
    made.data = DataSummary(
        60,
        (2,),
        mean=0.0,
        std=1.0,
        low=-3.0,
        high=3.0,
        classes=4,
        class_names=NAMES,
        class_counts=(20, 20, 0, 20),
        scaling=scaling,
    )
    return save(made, tmp_path_factory.mktemp("units") / "model")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    table(place)
    line = f"train {place}/t.csv --data-option label=kind {QUICK} --steps 2"
    call(f"{line} --out {place}/run")
    return place / "run"


# Units


def test_samples_are_stored_in_model_units_and_in_those_of_the_data(
    model: Path, tmp_path: Path
) -> None:
    call(f"sample {model} --n 9 --steps 3 --label dog,cat --out {tmp_path}/s")
    shard = np.load(tmp_path / "s/shard-000000.npz")
    assert shard["columns"].tolist() == ["height", "id"]
    assert shard["class_names"].tolist() == list(NAMES)
    raw = shard["x"].astype(np.float64) * (10.0, 1e-3) + (170.0, 1e6)
    assert np.allclose(shard["raw"], raw, rtol=1e-15, atol=0)
    back = samples(tmp_path / "s")
    assert back.class_names == NAMES and back.cond["label"].tolist()[:3] == [1, 0, 1]
    assert back.scaling is not None
    assert torch.equal(back.scaling.decode(back[:].x.double()), torch.from_numpy(shard["raw"]))


def test_a_table_of_samples_has_columns_classes_and_the_digits_of_its_values(
    model: Path, tmp_path: Path
) -> None:
    line = f"sample {model} --n 9 --steps 3 --label dog,cat"
    call(f"{line} --out {tmp_path}/s")
    call(f"{line} --format csv --out {tmp_path}/t")
    raw = np.load(tmp_path / "s/shard-000000.npz")["raw"]
    with (tmp_path / "t/shard-000000.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["height", "id", "label"]
    assert [row[2] for row in rows] == [("dog", "cat")[k % 2] for k in range(9)]
    values = np.array([row[:2] for row in rows], np.float64)
    assert np.all(np.abs(values - raw) <= 1e-6 * np.array([10.0, 1e-3]))
    x = np.load(tmp_path / "s/shard-000000.npz")["x"]
    assert np.allclose(samples(tmp_path / "t").load().x, x, rtol=0, atol=1e-6)
    call(f"{line} --format csv --floats --out {tmp_path}/floats")
    with (tmp_path / "floats/shard-000000.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["x0", "x1", "label"]
    assert np.array_equal(np.array([row[:2] for row in rows], np.float32), x)


@pytest.mark.parametrize("format", ["npz", "csv"])
@pytest.mark.parametrize("floats", ["", "--floats"])
def test_samples_of_a_model_are_data_in_its_units(
    model: Path, tmp_path: Path, format: str, floats: str
) -> None:
    call(f"sample {model} --n 6 --steps 2 --out {tmp_path}/s")
    call(f"sample {model} --n 6 --steps 2 --format {format} {floats} --out {tmp_path}/t")
    wanted = torch.from_numpy(np.load(tmp_path / "s/shard-000000.npz")["x"])
    found = open_samples(open_checkpoint(model, "cpu"), str(tmp_path / "t"), None)
    assert torch.allclose(found.take(found.rows)[0], wanted, atol=1e-5)  # and not scaled again


def test_a_half_written_table_is_drawn_anew(model: Path, tmp_path: Path) -> None:
    line = f"sample {model} --n 4 --shard 2 --steps 1 --format csv --out {tmp_path}/t"
    call(line)
    file = tmp_path / "t/shard-000001.csv"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="damaged"):
        call(line)
    assert file.read_bytes() == whole


def test_decode_writes_the_units_of_the_training_data(run: Path, tmp_path: Path) -> None:
    data = run.parent / "t.csv"
    call(f"encode {run} {data} --limit 5 --out {tmp_path}/z.npz")
    call(f"decode {run} {tmp_path}/z.npz --out {tmp_path}/x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    with data.open(newline="") as file:
        wanted = list(csv.reader(file))[1:]
    number = np.load(tmp_path / "z.npz")["row"].tolist()
    assert head == ["height", "weight", "label"]
    for row, k in zip(rows, number, strict=True):
        assert row[2] == wanted[k][2]
        assert abs(float(row[0]) - float(wanted[k][0])) < 0.05
    assert (tmp_path / "x.png").exists()
    call(f"interpolate {run} {data} --between 0,1 --frames 3 --out {tmp_path}/between")
    held = np.load(tmp_path / "between/interpolation.npz")
    assert held["columns"].tolist() == ["height", "weight"]
    for end, row in ((0, wanted[0]), (-1, wanted[1])):
        assert np.abs(held["raw"][0, end] - np.array(row[:2], float)).max() < 0.05
    refused(f"decode {run} {tmp_path}/z.npz --out {tmp_path}/x.npz", "--out", "x.png")


def test_inspect_and_an_exported_file_know_the_columns(run: Path) -> None:
    found = json.loads(call(f"inspect {run} --json").stdout)
    assert found["data"]["scaling"]["columns"] == ["height", "weight"]
    assert found["class_names"] == ["cat", "dog"] and sum(found["class_counts"]) > 50
    text = call(f"inspect {run}").stdout
    assert "columns     height (" in text and "2: cat (" in text


@pytest.mark.parametrize("std", [[3.0, 0.01], 3.0, [[[3.0]], [[0.01]]]])
def test_a_density_is_one_in_the_units_of_the_data(tmp_path: Path, std: Any) -> None:
    """log p(raw) = log p(x) - sum log std: by entry, by one number and by channel."""
    scale = torch.tensor(std).double()
    net: Any = MLP(2, width=8)
    if scale.ndim == 3:
        net = UNet(2, width=8, multipliers=(1,), heads=1)
    made = Preconditioned(net, VPSDE())
    shape = (2,) if scale.ndim < 3 else (2, 4, 4)
    scaling = Scaling(torch.full_like(scale, 1000.0), scale)
    made.data = DataSummary(9, shape, 0.0, 1.0, -3.0, 3.0, scaling=scaling)
    save(made, tmp_path / "m", extra={"shape": shape})
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).double()
    np.save(tmp_path / "raw.npy", scaling.decode(x).numpy())
    layout = "--data-option layout=NCHW" if scale.ndim == 3 else ""
    line = (
        f"likelihood {tmp_path}/m {tmp_path}/raw.npy {layout} --bound --draws 2 --times 2 --json"
    )
    found = json.loads(call(line).stdout)
    wanted = bound_of(made, x.float())
    assert found["nats"] == pytest.approx(wanted, rel=1e-3)  # of x, scaled by the model's scaling
    logs = float(scale.expand(shape).log().sum())
    assert found["nats_in_units_of_the_table"] == pytest.approx(found["nats"] - logs, abs=1e-6)


def bound_of(model: Preconditioned, x: torch.Tensor) -> float:
    return -float(elbo(model, x, decoder="gaussian", steps=2, samples=2, seed=0).nats.mean())


# Classes


@pytest.mark.parametrize(
    ("wanted", "turns"),
    [
        ("dog", [1]),
        ("dog,cat", [1, 0]),
        ("grey, small", [2]),
        ("grey, small,1,cat", [2, 1, 0]),
        ("3", [3]),
        ("2", [2]),
        ("all", [0, 1, 3]),
        ("none", None),
    ],
)
def test_a_class_is_named_or_numbered(model: Path, wanted: str, turns: list[int] | None) -> None:
    assert open_checkpoint(model, "cpu").turns(wanted) == turns


def test_a_name_goes_before_a_number_and_a_word(model: Path) -> None:
    found = open_checkpoint(model, "cpu")
    made: Any = load(model)
    names = ("1", "0", "all", "none")
    made.data = DataSummary(4, (2,), 0.0, 1.0, 0.0, 1.0, classes=4, class_names=names)
    other = Opened(made, found.folder, found.config, {}, found.device)
    assert [other.turns(text) for text in ("0", "1", "2", "all", "none")] == [
        [1],
        [0],
        [2],
        [2],
        [3],
    ]


def test_a_class_that_there_is_not_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    line = f"sample {model} --out {tmp_path}/s --label"
    refused(f"{line} dgo", "--label: expected", "cat, dog, grey, small, 3", "did you mean 'dog'?")
    refused(f"{line} 4", "from 0 to 3", "'4'")
    refused(f"{line}=-1", "from 0 to 3", "'-1'")
    refused(f"{line} dog,,cat", "''")
    assert not (tmp_path / "s").exists()


def test_sample_draws_the_classes_that_occur(model: Path, tmp_path: Path) -> None:
    said = call(f"sample {model} --n 6 --steps 1 --out {tmp_path}/s").stdout
    assert samples(tmp_path / "s").cond["label"].tolist() == [0, 1, 3, 0, 1, 3]
    assert "classes in turns: cat, dog, 3" in said
    asked = call(f"sample {model} --n 2 --steps 1 --label 'grey, small' --out {tmp_path}/t")
    assert "no sample of class grey, small" in asked.stderr


def test_other_data_are_matched_by_the_names_of_their_classes(run: Path, tmp_path: Path) -> None:
    only = table(tmp_path, "dogs.csv", ("dog",))
    rows = only.read_text().splitlines()
    only.write_text("\n".join([rows[0], *rows[1:20]]) + "\n")  # of another mean
    opened = open_checkpoint(run, "cpu")
    first = torch.arange(19)
    whole, part = (
        open_samples(opened, str(file), ["label=kind"]).take(first)[0]
        for file in (run.parent / "t.csv", only)
    )
    assert torch.allclose(part, whole, atol=1e-5)  # by the scaling of the model, not by its own
    line = f"encode {run} {only} --data-option label=kind --limit 3"
    call(f"{line} --out {tmp_path}/z.npz")
    assert np.load(tmp_path / "z.npz")["label"].tolist() == [1, 1, 1]
    other = table(tmp_path, "eels.csv", ("eel", "cat"))
    line = f"encode {run} {other} --data-option label=kind --limit 3 --out {tmp_path}/y.npz"
    refused(line, "DATA: expected classes of the model (cat, dog)", "'eel'", "--unconditional")


def test_the_options_of_the_run_are_taken_for_its_own_data(run: Path, tmp_path: Path) -> None:
    data = run.parent / "t.csv"
    said = call(f"encode {run} {data} --limit 3 --out {tmp_path}/z.npz").stderr
    assert "as it was for the training: --data-option label=kind" in said
    assert "label" in np.load(tmp_path / "z.npz")
    option = "--data-option columns=height,weight --data-option label=kind"
    said = call(f"encode {run} {data} {option} --limit 3 --out {tmp_path}/y.npz").stderr
    assert "as it was for the training" not in said


# Folders


def test_a_moved_run_is_continued_where_it_is(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    line = f"train --config {tmp_path}/moved/config.json --steps 4"
    refused(line, "--out: expected a new or empty folder", "moved")
    said = call(f"{line} --resume").stderr
    assert f"--out: {tmp_path}/moved, where its config.json is, and no longer {run}" in said
    assert json.loads(call(f"inspect {tmp_path}/moved --json").stdout)["step"] == 4
    assert json.loads(call(f"inspect {run} --json").stdout)["step"] == 2
    call(f"{line} --out {tmp_path}/other")  # a flag goes before both
    assert json.loads((tmp_path / "other/config.json").read_text())["out"] == f"{tmp_path}/other"


def test_a_run_whose_data_have_moved_says_how_to_give_their_place(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(80, 2)))
    out = tmp_path / "run"
    call(f"train {tmp_path}/x.npy --steps 2 {QUICK} --out {out}")
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    line = f"--config {out}/config.json --resume --steps 3"
    wanted = f"say where to: scoresde train PLACE --config {out}/config.json"
    refused(f"train {line}", f"DATA: nothing at '{tmp_path}/x.npy'", wanted)
    call(f"train {tmp_path}/y.npy {line}")
    assert json.loads(call(f"inspect {out} --json").stdout)["step"] == 3


def test_a_run_in_the_place_of_data_is_refused(run: Path, tmp_path: Path) -> None:
    for place in (run, run / "checkpoint"):
        refused(
            f"train {place} --out {tmp_path}/x", "the folder of a trained model", "--init-from"
        )


def test_a_run_starts_from_the_weights_of_another(run: Path, tmp_path: Path) -> None:
    data = run.parent / "t.csv"
    line = f"train {data} --data-option label=kind --init-from {run} --steps 1 --batch-size 8"
    line += " --sample-every 0 --no-tensorboard"
    call(f"{line} --lr 1e-30 --ema 0 --out {tmp_path}/ft")
    one, other = (load(place / "checkpoint").state_dict() for place in (run, tmp_path / "ft"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    known = [load(place / "checkpoint").data for place in (run, tmp_path / "ft")]
    assert known[0] is not None and known[1] is not None
    assert known[0].class_names == known[1].class_names == ("cat", "dog")
    saved = json.loads((tmp_path / "ft/config.json").read_text())
    assert saved["net"] == "mlp" and "width=8" in saved["net_option"]
    call(f"train --config {tmp_path}/ft/config.json --out {tmp_path}/again")
    call(f"train --config {tmp_path}/ft/config.json --steps 2 --resume")
    refused(f"{line} --net-option width=32 --out {tmp_path}/x", "'width': 8", "'width': 32")
    refused(f"{line} --sde ve --out {tmp_path}/x", "--sde: expected vp")
    refused(f"{line} --predicts score --out {tmp_path}/x", "--predicts: expected v")
    refused(f"{line} --preset base --out {tmp_path}/x", "--preset: expected small", "got base")
    refused(f"train digits --init-from {run} --out {tmp_path}/x", "dim=2", "(1, 8, 8)")
    (tmp_path / "o.csv").write_text("a,b,c\n" + "1,2,3\n4,5,7\n8,0,1\n" * 20)
    refused(
        f"train {tmp_path}/o.csv --init-from {run} --out {tmp_path}/x", "height", "weight", "a, b"
    )
    bounded = f"{line} --data-option bounds=weight:0: --out {tmp_path}/x"
    text = refused(bounded, "bounds: expected (None, None)", "leave it out")
    assert "like" not in text
    assert not (tmp_path / "x").exists()


def test_classes_that_stay_keep_their_numbers(run: Path, tmp_path: Path) -> None:
    other = table(tmp_path, "other.csv", ("bee", "cat"))
    line = f"train {other} --data-option label=kind --init-from {run} --steps 1 --batch-size 8"
    line += f" --sample-every 0 --no-tensorboard --out {tmp_path}/ft"
    assert "the classes cat, dog of" in call(line).stderr
    known = load(tmp_path / "ft/checkpoint").data
    assert known is not None and known.class_names == ("cat", "bee")
    call(f"train --config {tmp_path}/ft/config.json --steps 2 --resume")
    known = load(tmp_path / "ft/checkpoint").data
    assert known is not None and known.class_names == ("cat", "bee")


def test_a_comparison_is_with_data_of_the_classes_that_are_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scoresde.comparison

    seen = {}

    class Enough(Exception):
        pass

    monkeypatch.setenv("SCORESDE_TRACEBACK", "1")

    def stop(*_: Any, reference: Any, **__: Any) -> Any:
        seen["x"] = reference.data
        raise Enough

    monkeypatch.setattr(scoresde.comparison, "compare", stop)

    def compared(options: str) -> Any:
        line = f"compare {run} --data {run.parent}/t.csv {options} --out {tmp_path}/c"
        with pytest.raises(Enough):
            call(line)
        return seen["x"]

    opened = open_checkpoint(run, "cpu")
    whole = open_samples(opened, f"{run.parent}/t.csv", None)
    x, cond = whole.take(whole.rows)
    assert torch.equal(compared(""), x)
    assert torch.equal(compared("--label dog"), x[cond["label"] == 1])
    other = table(tmp_path, "eels.csv", ("eel", "cat"))
    monkeypatch.delenv("SCORESDE_TRACEBACK")
    line = f"compare {run} --data {other} --data-option label=kind --out {tmp_path}/c"
    refused(f"{line} --label dog", "'eel'", "leave --label out")


def test_a_few_samples_are_trained_with_the_defaults(tmp_path: Path) -> None:
    rows = "\n".join(["a,b", "1,2", "3,5", "2,9"])
    (tmp_path / "few.csv").write_text(rows + "\n")
    call(f"train {tmp_path}/few.csv {QUICK} --steps 1 --out {tmp_path}/run")
    line = f"likelihood {tmp_path}/run {tmp_path}/few.csv --holdout 0.05"
    refused(line, "--holdout: expected a share of 3 samples", "leave --holdout out")


def test_a_few_pictures_are_enough_and_a_sheet_shows_the_samples(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(
            folder / f"{i}.png"
        )
    net = "--net-option width=8 --net-option multipliers=[1] --net-option heads=1"
    call(f"train {folder} --steps 1 {net} --sample-every 0 --out {tmp_path / 'run'}")
    found = json.loads(
        call(f"sample {tmp_path / 'run'} --n 5 --steps 1 --out {tmp_path / 's'} --json").stdout
    )
    with Image.open(found["picture"]) as picture:
        assert picture.width > 8 and picture.height > 8


# Messages


def test_remedies_are_flags() -> None:
    loader = options_of("data-option", ["size", "background", "label", "mode"], ["folder"])
    found = spelled(
        "folder: expected an opaque image, got one; pass background=255, size=(32, 48), or "
        "mode='RGBA', or image_folder(path) if they are classes",
        loader,
        plain=True,
    )
    assert found == (
        "DATA: expected an opaque image, got one; pass --data-option background=255, "
        "--data-option size=32x48, or --data-option mode=RGBA"
    )
    again = spelled("x: bad; pass --data-option label=date", {"label": "--label {}"})
    assert again == "x: bad; pass --data-option label=date"


def test_arguments_are_flags_of_the_command() -> None:
    flags = written(flags_of(command("train")))
    assert flags["json"] == "--json {}" and flags["data"] == "DATA"
    assert spelled("batch_size: expected 1, got 2; pass lr=0.1", flags) == (
        "--batch-size: expected 1, got 2; pass --lr 0.1"
    )
    assert spelled("loss: it is nan; lower lr (now 1), raise cond_dropout", flags) == (
        "loss: it is nan; lower --lr (now 1), raise --cond-dropout"
    )
    assert (
        spelled("out: is there; pass overwrite=True", flags) == "--out: is there; pass --overwrite"
    )


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("raise max_nfe, or loosen rtol and atol", "loosen --tolerance"),
        ("t: stopped. Loosen rtol and atol, or go on", "t: stopped. Loosen --tolerance, or go on"),
        ("pass e.g. AdaptiveODE(rtol=1e-6, atol=1e-6)", None),
        ("leave out runs that diverged", None),
        ("leave out out", "leave --out out"),
        ("rtol: bad; pass model.net", "--tolerance: bad; pass model.net"),
        ("t_end: 3; pass t_end=1e-3", "--t-end: 3; pass --t-end 0.001"),
        ("seed: bad; leave seed out", "--seed: bad; leave --seed out"),
    ],
)
def test_code_and_english_words_are_no_flags(said: str, wanted: str | None) -> None:
    assert spelled(said, written(flags_of(command("likelihood")))) == (
        said if wanted is None else wanted
    )


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("x (key= and label= choose others, label=\"\" none)",
         "x (-o key= and -o label= choose others, -o label='' none)"),
        ("leave it out of columns=, or pass drop=['a', 'b']",
         "leave it out of -o columns=, or pass -o drop=a,b"),
        ("size: bad; pass size=(8, 9)", "-o size: bad; pass -o size=8x9"),
        ("pass columns=[0, 1]", "pass -o columns=0,1"),
        ("pass delimiter=';'", "pass -o delimiter=';'"),
        ("pass label=...", "pass -o label="),
        ("pass label=Some(x)", None),
    ],
)  # fmt: skip
def test_options_of_the_loader_are_spelled_as_one_types_them(
    said: str, wanted: str | None
) -> None:
    flags = options_of("data-option", ["size", "key", "label", "columns", "drop", "delimiter"])
    flags = {name: flag.replace("--data-option", "-o") for name, flag in flags.items()}
    assert spelled(said, flags) == (said if wanted is None else wanted)


def test_the_data_of_a_command_are_named_as_its_argument(tmp_path: Path) -> None:
    refused(f"train nosuch --out {tmp_path}/x", "DATA: nothing at 'nosuch'")
    refused(f"inspect {tmp_path}/nosuch", "MODEL: expected a checkpoint folder")
    assert load_data("moons", n=5).x.shape == (5, 2)  # the library keeps its own words


def test_the_remedy_for_pictures_of_several_sizes_is_a_flag(tmp_path: Path) -> None:
    for i, side in enumerate((8, 9)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / f"{i}.png")
    refused(f"train {tmp_path} --out {tmp_path / 'x'}", "pass e.g. --data-option size=64")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--data-option nn=5", "scoresde: --data-option: expected one of"),
        ("--data-option n", "scoresde: --data-option: expected KEY=VALUE, got 'n'"),
        ("--sde-option beta=5", "scoresde: --sde-option of VPSDE: expected one of"),
        ("--net-option width=5 --net-option width=6", "scoresde: --net-option: expected each key"),
    ],
)
def test_options_of_a_part_are_named_as_they_are_typed(
    tmp_path: Path, option: str, words: str
) -> None:
    refused(f"train moons {option} --out {tmp_path}/x", words)


def test_columns_may_be_called_by_numbers(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(5.0, 2.0, (9, 3)).round(3).tolist()
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    for option, columns in (
        ("columns=0", ("0",)),
        ("columns=2,0", ("2", "0")),
        ("columns=[2,0]", ("2", "0")),
        ("drop=2", ("0", "1")),
    ):
        data = load_source(str(tmp_path / "t.csv"), [option])
        assert data.scaling is not None and data.scaling.columns == columns


def test_the_sub_folders_need_not_name_classes(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for name in ("a.png", "cat/b.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    refused(f"train {tmp_path} --out {tmp_path}/x", "pass --data-option labels=false")
    assert not load_source(str(tmp_path), ["labels=false"]).cond


def test_a_name_goes_before_a_run_that_is_called_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "moons")
    monkeypatch.chdir(tmp_path)
    assert len(load_source("moons", ["n=5"])) == 5
    with pytest.raises(ValueError, match="the folder of a trained model"):
        load_source("./moons", None)


def test_help_lists_the_options_of_the_loaders_from_their_own_docstrings() -> None:
    listed = loader_options()
    known = set(inspect.signature(load_data).parameters) - {"source", "like", "pictures", "table"}
    known |= {field.name for group in (Pictures, Table) for field in fields(group)}
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


def test_a_reader_that_leaves_ends_the_program_quietly() -> None:
    code = (
        "from scoresde.cli.common import as_program\n"
        "with as_program():\n"
        "    for _ in range(100_000): print('a line', flush=True)\n"
    )
    line = (
        f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a line\n141\n", "")


def test_a_refused_resume_leaves_the_options_of_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    call(f"train moons --data-option n=100 --steps 2 {QUICK} --out {out}")
    before = (out / "config.json").read_bytes()
    refused(f"train moons --steps 4 {QUICK} --out {out} --resume", "DATA: expected 99 samples")
    assert (out / "config.json").read_bytes() == before


def test_a_run_without_a_checkpoint_is_told_from_samples_and_from_damage(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early/config.json").write_bytes((run / "config.json").read_bytes())
    line = f"sample {tmp_path / 'early'} --n 2 --out {tmp_path / 'no'}"
    refused(line, "MODEL: expected a checkpoint", "has none yet", "train --config", "--overwrite")
    with pytest.raises(ValueError, match=r"path: expected a checkpoint.*has none yet"):
        load(tmp_path / "early")
    call(f"sample {run} --n 2 --steps 1 --out {tmp_path / 'drawn'}")
    refused(f"inspect {tmp_path / 'drawn'}", "MODEL: expected a checkpoint", "`scoresde sample`")


def test_classes_whose_names_are_numbers_go_by_name_alone(tmp_path: Path) -> None:
    rows = "".join(f"{k % 5},{k % 7},{1 + k % 3}\n" for k in range(30))
    (tmp_path / "t.csv").write_text(f"a,b,kind\n{rows}", encoding="utf-8")
    line = f"train {tmp_path / 't.csv'} --data-option label=kind"
    call(f"{line} --steps 1 {QUICK} --out {tmp_path / 'run'}")
    line = f"sample {tmp_path / 'run'} --n 2 --steps 1"
    assert "classes in turns: 1" in call(f"{line} --label 1 --out {tmp_path / 's'}").stdout
    expected = "--label: expected a class by name (1, 2, 3), several with commas, all or none, got"
    refused(f"{line} --label 0 --out {tmp_path / 'no'}", f"{expected} '0'")


def test_columns_are_matched_by_name(run: Path, tmp_path: Path) -> None:
    rows = (run.parent / "t.csv").read_text(encoding="utf-8").splitlines()
    turned = "".join(",".join(row.split(",")[::-1]) + "\n" for row in rows)
    (tmp_path / "turned.csv").write_text(turned, encoding="utf-8")
    found = []
    for source in (run.parent / "t.csv", tmp_path / "turned.csv"):
        line = f"likelihood {run} {source} --data-option label=kind --tolerance 1e-3 --json"
        found.append(json.loads(call(line).stdout)["nats"])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_formats_that_samples_do_not_have_are_refused_by_flag(run: Path, tmp_path: Path) -> None:
    line = f"sample {run} --n 2 --out {tmp_path / 'no'} --format"
    refused(f"{line} png", "--format: expected npz, as the samples are floats, got 'png'")


def test_options_of_a_loader_that_takes_none_are_refused(run: Path, tmp_path: Path) -> None:
    call(f"sample {run} --n 2 --steps 1 --out {tmp_path / 's'}")
    line = f"train {tmp_path / 's'} --data-option size=16 --out {tmp_path / 'no'}"
    refused(line, "a folder of samples takes no options, got 16")
