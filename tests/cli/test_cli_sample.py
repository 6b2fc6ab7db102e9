"""`scoresde sample`: what the library draws, and errors that lose nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call
from shared import contents

from scoresde import VPSDE, Preconditioned, Quantisation, ReverseSampler, load, sample_to, save
from scoresde.data import samples
from scoresde.nets import MLP, UNet
from scoresde.sampler import ShardFiles

ROOT = Path(__file__).parents[2]


def shards(out: Path) -> dict[str, bytes]:
    return {k: v for k, v in contents(out).items() if k.startswith("shard-")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = UNet(1, width=4, multipliers=(1,), attention=(), heads=1, classes=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2, generator=generator)
    place = tmp_path_factory.mktemp("model") / "run"
    return save(Preconditioned(net, VPSDE()), place, quantisation=Quantisation(256))


def test_the_samples_are_those_of_the_library(model: Path, tmp_path: Path) -> None:
    line = f"sample {model} --n 11 --shape 1x8x8 --steps 3 --seed 2 --shard 4 --batch-size 2"
    found = answer(f"{line} --out {tmp_path / 'a'} --solver ancestral --device cpu")
    assert (found["shards"], found["drawn"], found["missing"], found["nfe"]) == (3, 3, 0, 4)
    net = load(model)
    sampler = ReverseSampler(net.sde, net, "ancestral", steps=3)
    options: dict[str, Any] = {
        "seed": 2,
        "labels": range(3),
        "files": ShardFiles(quantisation=Quantisation(256), shard=4),
    }
    sample_to(sampler, tmp_path / "b", 11, (1, 8, 8), batch_size=2, **options)
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    # The same call goes on, and the config repeats it elsewhere.
    (tmp_path / "a/shard-000001.npz").unlink()
    text = call(f"{line} --out {tmp_path / 'a'} --solver ancestral --device cpu").stdout
    assert "11 samples in 3 shards; 1 shard drawn in " in text and "2 kept" in text
    assert "s, 4 network calls a sample, 2 kept" in text
    again = f"sample --config {tmp_path / 'a/config.json'} --out {tmp_path / 'c'}"
    assert answer(again)["drawn"] == 3
    assert shards(tmp_path / "a") == shards(tmp_path / "c") == shards(tmp_path / "b")


@pytest.mark.parametrize(
    ("option", "labels"),
    [
        ("", [0, 1, 2, 0]),
        ("--label balanced", [0, 1, 2, 0]),
        ("--label all", [0, 1, 2, 0]),
        ("--label 2", [2, 2, 2, 2]),
        ("--label 2,0", [2, 0, 2, 0]),
        ("--label none", None),
    ],
)
def test_labels_take_turns(
    model: Path, tmp_path: Path, option: str, labels: list[int] | None
) -> None:
    call(f"sample {model} --n 4 --shape 1x8x8 --steps 1 --out {tmp_path} {option}")
    found = samples(tmp_path).cond
    assert (found["label"].tolist() if labels else None) == labels
    assert labels is not None or found == {}


def test_pictures_and_floats(model: Path, tmp_path: Path) -> None:
    line = f"sample {model} --n 3 --shape 1x8x8 --steps 2 --label 1"
    call(f"{line} --format png --out {tmp_path / 'png'}")
    assert sorted(os.listdir(tmp_path / "png/shard-000000")) == [f"{i:09d}.png" for i in range(3)]
    call(f"{line} --floats --out {tmp_path / 'floats'}")
    x = samples(tmp_path / "floats").load().x
    levels = Quantisation(256).decode(samples(tmp_path / "png").load().x)
    assert torch.equal(Quantisation(256).decode(x), levels)


def test_vectors_without_classes(tmp_path: Path) -> None:
    place = save(Preconditioned(MLP(2, width=8), VPSDE()), tmp_path / "model")
    call(f"sample {place} --n 5 --steps 2 --out {tmp_path / 'out'}")
    data = samples(tmp_path / "out")
    assert data.x.shape == (5, 2) and data.quantisation is None and data.cond == {}
    result = call(f"sample {place} --label 1 --out {tmp_path / 'other'}", 2)
    assert "the model has no classes" in result.stderr and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--seed 1", "seed: 0 there, 1 now; nothing was changed: choose another folder"),
        (
            "--label 3",
            "--label: expected a class by number from 0 to 2, several with commas, all or "
            "none, got '3'",
        ),
        ("--shape 8", "shape"),
        ("--format jpg", "format: expected one of 'csv', 'npz', 'png', got 'jpg'"),
        ("--solver dpm", "solver: expected one of"),
        ("--first -1", "first: expected an integer"),
    ],
)
def test_bad_input_loses_nothing(model: Path, tmp_path: Path, options: str, words: str) -> None:
    line = f"sample {model} --n 3 --shape 1x8x8 --steps 1 --out {tmp_path / 'out'}"
    call(line)
    before = contents(tmp_path)
    result = call(f"{line} {options}", 2)
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert words in text and "Traceback" not in text and result.stdout == ""
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    """A checkpoint, which has a config.json of its own, even with --overwrite."""
    before = contents(model)
    line = f"sample {model} --n 3 --shape 1x8x8 --steps 1 --out {model}"
    for option in ("", "--overwrite"):
        result = call(f"{line} {option}", 2)
        assert "out: expected a new folder" in result.stderr
    assert contents(model) == before
    call(f"sample {model} --n 3 --shape 1x8x8 --steps 1 --out {tmp_path}")
    call(f"sample {model} --n 3 --shape 1x8x8 --steps 1 --seed 1 --out {tmp_path} --overwrite")
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_the_picture_of_other_samples_goes_when_they_are_overwritten(tmp_path: Path) -> None:
    for dim in (2, 3):
        save(Preconditioned(MLP(dim, width=8), VPSDE()), tmp_path / str(dim))
    line = f"--n 4 --steps 2 --out {tmp_path / 'out'} --overwrite"
    call(f"sample {tmp_path / '2'} {line}")
    assert (tmp_path / "out/grid.png").exists()
    call(f"sample {tmp_path / '3'} {line}")
    assert not (tmp_path / "out/grid.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="torchrun")
def test_torchrun(model: Path, tmp_path: Path) -> None:
    line = ["sample", str(model), "-n", "11", "--shape", "1x8x8", "--steps", "2", "--shard", "3"]
    line += ["--device", "cpu", "--json", "--out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "scoresde", *line, str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["drawn"] == 2  # one object, of the first process
    call(shlex.join([*line, str(tmp_path / "one")]))
    assert len(shards(tmp_path / "two")) == 4
    assert shards(tmp_path / "two") == shards(tmp_path / "one")
