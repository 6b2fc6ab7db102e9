"""`scoresde doctor`: text, JSON and page, the data of the run, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import answer, call, refused

from scoresde import VPSDE, Preconditioned, Trainer
from scoresde.nets import UNet
from scoresde.options import Records


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("doctor") / "moons"
    call(
        f"train moons --steps 60 --batch-size 64 --net-option width=16 --calibrate 0 "
        f"--sample-every 0 --device cpu --out {place}"
    )
    return place


def test_the_data_are_those_of_the_run_and_the_raw_weights_are_read(run: Path) -> None:
    result = call(f"doctor {run} --n 100 --device cpu")
    assert "the data are those of the run: moons" in result.stderr
    assert "checks: sign, scale" in result.stdout
    assert "not made: memory" not in result.stdout  # 5 % of the data were held out
    found = answer(f"doctor {run} moons --n 100 --device cpu")
    assert (
        "memory" in found["skipped"]
        and "average" not in found["skipped"]
        and "labels" in found["skipped"]
    )
    assert found["about"]["rows"] == 100


def test_a_late_end_is_found_and_the_page_is_written(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "doctor.html"
    found = answer(f"doctor {run} moons --t-end 0.3 --html {page} --device cpu")
    assert not found["healthy"] and found["page"] == str(page)
    (late,) = [finding for finding in found["findings"] if finding["name"] == "t_end"]
    assert late["number"] > late["reference"]
    text = page.read_text(encoding="utf-8")
    assert late["sentence"] in text and "data:image/svg+xml" in text
    refused(f"doctor {run} moons --html {page}", "expected a new file", "--overwrite")


def test_bad_input_names_its_flag(run: Path, tmp_path: Path) -> None:
    refused(f"doctor {run} moons --levels 0", "--levels: expected", "above 0")
    refused(f"doctor {run} moons --html x.txt", "--html: expected a name that ends in .html")
    refused(f"doctor {run} moons --t-end 2.0", "--t-end: expected a time")
    refused(f"doctor {run} moons --data-option n=20", "DATA: expected at least 64 samples")
    refused(f"doctor {tmp_path / 'none'}", "MODEL: expected a checkpoint folder")


def test_a_checkpoint_without_a_run_needs_data(run: Path, tmp_path: Path) -> None:
    from scoresde import load, save

    alone = save(load(run), tmp_path / "alone")
    refused(f"doctor {alone}", "DATA: expected data, got none", "scoresde doctor")
    assert call(f"doctor {alone} moons --n 100").stdout


def test_a_model_of_a_tensor_is_examined_on_its_file(tmp_path: Path) -> None:
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = Preconditioned(UNet(1, width=8, multipliers=(1,)), VPSDE())
    records = Records(calibrate=None, tensorboard=False)
    Trainer(model, x, steps=1, records=records, out=tmp_path / "run", device="cpu").fit()
    np.save(tmp_path / "levels.npy", ((x + 1) * 127.5).round().byte().numpy())
    refused(
        f"doctor {tmp_path}/run {tmp_path}/levels.npy --device cpu",
        "expected no levels, as those of the model, got Quantisation(levels=256",
        "save that tensor as .npy and name the file",
    )
    np.save(tmp_path / "x.npy", x.numpy())
    line = f"doctor {tmp_path}/run {tmp_path}/x.npy --n 64 --levels 2 --device cpu"
    assert "checks:" in call(line).stdout


def test_the_usage_shows_which_arguments_may_be_left_out() -> None:
    assert "MODEL [DATA]" in call("doctor --help").stdout
    assert "MODEL DATA" in call("likelihood --help").stdout
