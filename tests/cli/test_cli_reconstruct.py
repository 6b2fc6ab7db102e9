"""`scoresde reconstruct`: what the library computes, in the units of the file, and its errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("tyro")
from command_line import answer, call, refused

from scoresde import VPSDE, Measurement, Preconditioned, Quantisation, load, save
from scoresde.conditioned import Conditioned
from scoresde.measurement import LinearOperator, Mask, Matrix, SuperResolution
from scoresde.nets import MLP, UNet
from scoresde.posterior import posterior
from scoresde.summary import DataSummary

LEVELS = Quantisation(17, -1.0, 1.0)


def filled(net: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.05, generator=generator)
    return net


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = filled(UNet(1, width=8, multipliers=(1,), classes=3))
    made = Preconditioned(net, VPSDE())
    made.data = DataSummary(9, (1, 4, 4), 0.0, 0.5, -1.0, 1.0, classes=3)
    return save(
        made,
        tmp_path_factory.mktemp("images") / "run",
        quantisation=LEVELS,
        extra={"shape": [1, 4, 4]},
    )


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Preconditioned(filled(MLP(2, width=8)), VPSDE())
    made.data = DataSummary(5, (2,), 0.0, 1.0, -3.0, 3.0)
    return save(made, tmp_path_factory.mktemp("points") / "run")


HALF = np.zeros((4, 4), dtype=bool)
HALF[:2] = True
PIXELS = np.random.default_rng(0).integers(0, 17, (2, 1, 4, 4)).astype(float)


def arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / "reconstruction.npz") as file:
        return {name: file[name] for name in file.files}


def run(model: Path, out: Path, data: Path, options: str) -> dict[str, Any]:
    line = f"reconstruct {model} --data {data} --out {out} --device cpu --steps 4 --n 3 {options}"
    found: dict[str, Any] = answer(line)
    return found


@pytest.mark.parametrize("name", ["mask", "superresolution"])
@pytest.mark.parametrize("method", ["mmps", "twisted"])
def test_results_are_those_of_the_library_in_levels(
    images: Path, tmp_path: Path, name: str, method: str
) -> None:
    """y in levels with noise of 1 level is the y in model units with noise of one bin."""
    operator: LinearOperator = Mask(torch.from_numpy(HALF).expand(1, 4, 4))
    if name == "superresolution":
        operator = SuperResolution(2)
    y = operator(torch.from_numpy(PIXELS))
    np.savez(tmp_path / "y.npz", y=y.numpy(), mask=HALF)
    options = f"--operator {name} --noise 1 --method {method} --label 1 --calls 200"
    told = run(images, tmp_path / "out", tmp_path / "y.npz", options)
    model = Conditioned(load(images), {"label": torch.tensor(1)})
    scaled = operator(torch.from_numpy(-1.0 + LEVELS.bin_width * PIXELS))
    truth = posterior(
        model,
        Measurement(operator, noise=LEVELS.bin_width),
        (1, 4, 4),
        method=method,
        n=3,
        calls=200,
        steps=4,
        seed=0,
        cond={"y": scaled.float()},
        dtype=torch.float32,
    )
    made = arrays(tmp_path / "out")
    for key, value in (("x", truth.x), ("mean", truth.mean)):
        wanted = (value.double().numpy() + 1.0) / LEVELS.bin_width
        np.testing.assert_allclose(made[key], wanted, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        made["std"], truth.std.double() / LEVELS.bin_width, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(made["y"], y, rtol=1e-9, atol=1e-9)
    assert (told["method"], told["nfe"], told["measurements"]) == (method, truth.nfe, 2)
    if truth.log_evidence is not None:
        count = y[0].numel()
        wanted = truth.log_evidence.double() + count * math.log(LEVELS.bin_width)
        np.testing.assert_allclose(told["log_evidence"], wanted, rtol=1e-4, atol=1e-3)
    assert (tmp_path / "out" / "grid.png").exists()
    saved = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert saved["method"] == method and saved["bias"] == told["bias"]


def test_of_whole_samples_the_mask_selects(images: Path, tmp_path: Path) -> None:
    """y as the mask gives it, and the samples themselves, of which the rest is not read."""
    whole = np.where(HALF, PIXELS, np.nan)
    content = {"seen": PIXELS[:, 0][:, HALF], "whole": whole, "one": whole[0]}
    for name, y in content.items():
        np.savez(tmp_path / f"{name}.npz", y=y, mask=HALF)
        options = "--operator mask --noise 1 --method pigdm"
        run(images, tmp_path / name, tmp_path / f"{name}.npz", options)
    seen, found, one = (arrays(tmp_path / name) for name in content)
    np.testing.assert_array_equal(seen["y"], found["y"])
    np.testing.assert_array_equal(seen["x"], found["x"])
    np.testing.assert_array_equal(seen["y"][:1], one["y"])


def test_simulated_measurements_are_judged_by_the_truth(images: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=PIXELS)
    options = "--operator blur --blur 0.4 --noise 0.5 --simulate --method pigdm"
    told = run(images, tmp_path / "out", tmp_path / "x.npz", options)
    made = arrays(tmp_path / "out")
    np.testing.assert_allclose(made["truth"], PIXELS, atol=1e-9)
    error = np.square(made["mean"] - PIXELS).mean()
    peak = PIXELS.max() - PIXELS.min()
    assert told["psnr"] == pytest.approx(10 * math.log10(peak**2 / error), abs=1e-4)
    inside = (made["low"] <= PIXELS) & (made["high"] >= PIXELS)
    assert told["coverage_90"] == pytest.approx(inside.mean())
    # The same call by the config.json that it left.
    again = f"reconstruct --config {tmp_path / 'out' / 'config.json'} --out {tmp_path / 'again'}"
    call(again)
    np.testing.assert_array_equal(arrays(tmp_path / "again")["x"], made["x"])


def test_vectors_by_a_matrix_in_model_units(points: Path, tmp_path: Path) -> None:
    matrix = np.array([[1.0, -1.0]])
    np.savez(tmp_path / "y.npz", y=np.array([0.3]), matrix=matrix)
    options = "--operator matrix --noise 0.2 --method twisted --calls 1000"
    told = run(points, tmp_path / "out", tmp_path / "y.npz", options)
    truth = posterior(
        load(points),
        Measurement(Matrix(torch.from_numpy(matrix)), noise=0.2),
        method="twisted",
        n=3,
        calls=1000,
        steps=4,
        seed=0,
        cond={"y": torch.tensor([[0.3]])},
    )
    np.testing.assert_allclose(arrays(tmp_path / "out")["x"], truth.x, rtol=1e-5, atol=1e-5)
    assert told["picture"] is None
    assert told["log_evidence"] == pytest.approx(truth.log_evidence.tolist(), abs=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        ("--operator masque", {"y": PIXELS}, "did you mean"),
        ("--operator mask", {"y": PIXELS}, "--data: expected an array mask in"),
        ("--operator identity", {"x": PIXELS}, "--data: expected an array y in"),
        ("--operator identity --simulate", {"y": PIXELS}, "--data: expected an array x in"),
        (
            "--operator identity",
            {"y": PIXELS[..., :2]},
            "--data: expected y of shape (1, 4, 4)",
        ),
        ("--operator mask", {"y": PIXELS, "mask": HALF[:3]}, "--data: expected a mask of shape"),
        (
            "--operator mask",
            {"y": PIXELS[..., :2], "mask": HALF},
            "y of shape (8,), or (P, 8) for P measurements, or whole samples, (P, 1, 4, 4)",
        ),
        ("--operator identity --noise=-1", {"y": PIXELS}, "--noise: expected"),
        ("--operator identity --label 0,1", {"y": PIXELS}, "--label: expected one class"),
        ("--operator identity --label 7", {"y": PIXELS}, "--label: expected a class by number"),
        (
            "--operator superresolution --factor 3",
            {"y": PIXELS},
            "expected 2 last axes that 3 divides",
        ),
    ],
)
def test_errors_name_the_flag(
    images: Path, tmp_path: Path, options: str, content: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "y.npz", **content)
    out = tmp_path / "out"
    refused(f"reconstruct {images} --data {tmp_path / 'y.npz'} --out {out} {options}", message)
    assert not out.exists()


def test_other_files_are_refused(images: Path, tmp_path: Path) -> None:
    line = f"reconstruct {images} --out {tmp_path / 'out'} --operator identity"
    for name, said in (("y.npy", "expected a .npz file"), ("none.npz", "expected a .npz file")):
        refused(f"{line} --data {tmp_path / name}", said)


def test_the_picture_of_another_model_goes_when_it_is_overwritten(
    images: Path, points: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=PIXELS)
    np.savez(tmp_path / "p.npz", x=np.zeros((1, 2)))
    options = "--operator identity --method dps --simulate --overwrite"
    run(images, tmp_path / "out", tmp_path / "x.npz", options)
    assert (tmp_path / "out/grid.png").exists()
    told = run(points, tmp_path / "out", tmp_path / "p.npz", options)
    assert told["psnr"] is None  # the truth is constant and has no peak
    assert arrays(tmp_path / "out")["x"].shape == (1, 3, 2)
    assert not (tmp_path / "out/grid.png").exists()
