"""Bad input of the trainer and of checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import bad_input
import pytest
import torch
from bad_input import MLPS, MODEL, NAN, NET, VP, WIDE, Row, T, V, X, check, each, score, train
from torch import nn

from scoresde import VESDE, VPSDE, FunctionScore, Preconditioned, Trainer
from scoresde.nets import MLP, Label, UNet, Vector
from scoresde.quantisation import Quantisation
from scoresde.training import EMA, load, read_config, save

LINEAR = Preconditioned(nn.Linear(2, 2), VP)  # which takes no time


def labelled() -> dict[str, Any]:
    """A model of three classes and its data."""
    return {"model": Preconditioned(MLPS[3], VP), "data": (torch.eye(2), {"label": [0, 1]})}


ROWS = [
    Row("train-raw-net", lambda: train(model=NET), T, "model", "Net", "Preconditioned(net, sde)"),
    Row(
        "train-function",
        lambda: train(model=FunctionScore(VP, score)),
        V,
        "model",
        "none",
        "wrap a network",
    ),
    Row("train-steps", lambda: train(steps=0), V, "steps", "0", "above 0"),
    Row("train-batch", lambda: train(batch_size=2.5), T, "batch_size", "2.5", "above 0"),
    Row("train-lr", lambda: train(lr=0.0), V, "lr", "0.0", "above 0"),
    Row("train-ema", lambda: train(ema=1.0), V, "ema", "1.0", "0.999 averages"),
    Row("train-seed", lambda: train(seed=-1), V, "seed", "-1", "seed=0"),
    Row("train-loss", lambda: train(loss="dsm"), T, "loss", "'dsm'", "pass dsm_loss"),
    Row(
        "train-weighting",
        lambda: train(weighting="minsnr"),
        V,
        "weighting",
        "'minsnr'",
        "did you mean 'min_snr'",
    ),
    Row("train-time", lambda: train(time="uniform"), T, "time", "'uniform'", "UniformTime()"),
    Row("train-dropout", lambda: train(cond_dropout=1.5), V, "cond_dropout", "1.5", "e.g. 0.1"),
    Row("train-warmup", lambda: train(warmup=-1), V, "warmup", "-1", "0 or a number above"),
    Row(
        "train-warmup-share",
        lambda: train(warmup=0.05),
        T,
        "warmup",
        "0.05",
        "10,000 steps is 500",
    ),
    Row("train-warmup-float", lambda: train(warmup=5.0), T, "warmup", "5.0", "warmup=5"),
    Row(
        "train-schedule",
        lambda: train(schedule="cosin"),
        V,
        "schedule",
        "'cosin'",
        "mean 'cosine'",
    ),
    Row("train-clip", lambda: train(clip=-1), V, "clip", "-1", "0 or a number above"),
    Row("train-objective", lambda: train(objective="fid"), V, "objective", "'fid'", "likelihood"),
    Row("train-precision", lambda: train(precision="bf"), V, "precision", "'bf'", "mean 'bf16'"),
    Row("train-device", lambda: train(device="gpu"), V, "device", "'gpu'", "pass 'cpu'"),
    Row("train-accumulate", lambda: train(accumulate=0), V, "accumulate", "0", "above 0"),
    Row("train-board", lambda: train(tensorboard=True), V, "tensorboard", "True", "out='runs"),
    Row("train-empty", lambda: train(data=X[:0]), V, "x:", "(0, 2)", "check what was loaded"),
    Row("train-constant", lambda: train(data=X), V, "x:", "channel 0", "drop channel 0"),
    Row("train-nan", lambda: train(data=NAN), V, "x:", "nan", "drop or repair"),
    Row(
        "validation-units",
        lambda: train(validation=100 + 50 * torch.eye(12)[:, :2]),
        V,
        "validation",
        "mean 104.2",
        "any_scale=True",
    ),
    Row(
        "validation-levels",
        lambda: train(quantisation=Quantisation(256), validation=255 * torch.eye(2)),
        V,
        "validation",
        "values from 0 to 255",
        "quantisation.encode(levels)",
    ),
    Row(
        "validation-shape",
        lambda: train(validation=torch.eye(3)),
        V,
        "validation",
        "(3,)",
        "the same shape",
    ),
    Row(
        "validation-label",
        lambda: train(**labelled(), validation=(torch.eye(2), {"label": [0, 3]})),
        V,
        "validation: cond['label']",
        "3 among them",
        "number the classes from 0",
    ),
    Row(
        "validation-condition",
        lambda: train(**labelled(), validation=(torch.eye(2), {"lable": [0, 1]})),
        V,
        "validation: cond",
        "'lable'",
        "did you mean 'label'",
    ),
    Row("train-resume", lambda: train().fit(resume=True), V, "resume", "None", "out='runs/name'"),
    Row(
        "train-shape",
        lambda: train(model=WIDE, device="cpu").fit(),
        V,
        "data",
        "float32, on which they raised",
        "reshape it, or build the network for this shape",
    ),
    Row(
        "train-foreign-network",
        lambda: train(model=LINEAR, device="cpu").fit(),
        T,
        "data",
        "Linear.forward()",
        "build the network for this data",
    ),
    Row("ema-decay", lambda: EMA(NET, -0.1), V, "decay", "-0.1", "pass 0 or a number above"),
    Row("save-raw-net", lambda: save(NET, "runs/none"), T, "model", "Net", "Preconditioned model"),
    Row(
        "save-calibrations-list",
        lambda: save(MODEL, "runs/none", calibrations=[1]),  # type: ignore[arg-type]
        T,
        "calibrations",
        "list: [1]",
        "{calibration.name: calibration}",
    ),
    Row(
        "save-calibration",
        lambda: save(MODEL, "runs/none", calibrations={"5": 3}),  # type: ignore[dict-item]
        T,
        "calibrations['5']",
        "int: 3",
        "pass what calibrate gave",
    ),
    Row(
        "save-extra-list",  # a checkpoint that load would have called damaged
        lambda: save(MODEL, "runs/none", extra=[1]),  # type: ignore[arg-type]
        T,
        "extra",
        "list: [1]",
        "pass a mapping",
    ),
    Row(
        "save-training",
        lambda: save(MODEL, "runs/none", training={"step": 3}),  # type: ignore[arg-type]
        T,
        "training",
        "dict: {'step': 3}",
        "leave it out",
    ),
    Row(
        "load-missing",
        lambda: load("runs/none"),
        FileNotFoundError,
        "path",
        "'runs/none'",
        "config.json",
    ),
    Row(
        "config-missing",
        lambda: read_config("runs/none"),
        FileNotFoundError,
        "path",
        "'runs/none'",
        "config.json",
    ),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)


# Checkpoints in files


def saved(folder: Path, net: nn.Module) -> Path:
    return save(Preconditioned(net, VP), folder / "model")


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    place = saved(tmp_path, MLP(2, width=8))
    with pytest.raises(ValueError, match="build MLP as it was") as caught:
        load(place, net=MLP(2, width=16))
    message = str(caught.value)
    assert "(8, 8) for (16, 16)" in message and str(place) in message
    assert "build MLP as it was when the checkpoint was saved" in message


@pytest.mark.parametrize(
    ("arguments", "error", "pieces"),
    [
        ({"sde": VESDE()}, ValueError, ("sde", "VESDE", "pass the SDE that the model")),
        ({"sde": "vp"}, TypeError, ("sde", "'vp'", "pass the SDE itself")),
        ({"net": MODEL}, TypeError, ("net", "Preconditioned", "pass model.net")),
        ({"net": "mlp"}, TypeError, ("net", "'mlp'", "pass the network")),
    ],
)
def test_load_refuses(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], pieces: tuple[str, ...]
) -> None:
    place = saved(tmp_path, MLP(2, width=8))
    with pytest.raises(error) as caught:
        load(place, **arguments)
    assert all(piece in str(caught.value) for piece in pieces), caught.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    place = saved(tmp_path, MLP(2, width=8))
    (place / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load(place)
    assert "model.safetensors" in str(caught.value) and str(place) in str(caught.value)
    assert "copy the whole folder" in str(caught.value)


def test_an_error_of_the_first_batch_says_its_remedy_once() -> None:
    net = UNet(1, width=8, multipliers=(1, 2, 2, 2, 2))
    trainer = train(model=Preconditioned(net, VP), data=torch.randn(8, 1, 4, 4), device="cpu")
    with pytest.raises(ValueError, match=r"network_for.*, or take a larger x$"):
        trainer.fit()
    with pytest.raises(ValueError, match=r"; reshape it, or build the network for this shape$"):
        train(model=WIDE, device="cpu").fit()


def test_validation_data_without_the_conditions_of_the_training_data_are_named() -> None:
    wanted = r"^validation: expected values for 'label', as the training data have, got none"
    with pytest.warns(UserWarning, match=wanted) as caught:
        train(**labelled(), validation=torch.eye(2))
    assert [warning.filename for warning in caught] == [bad_input.__file__]


def test_few_validation_data_may_be_alike_and_any_scale_is_taken_when_asked_for() -> None:
    """The scale of fewer than 10 samples tells nothing; a single sample has none at all."""
    for n in (1, 2, 9):
        train(validation=0.5 + 0.001 * torch.eye(12)[:n, :2])
    with pytest.raises(ValueError, match=r"^validation: expected values in model units"):
        train(validation=0.5 + 0.001 * torch.eye(12)[:, :2])
    train(validation=0.5 + 0.001 * torch.eye(12)[:, :2], any_scale=True)


def test_the_mean_of_one_entry_of_few_validation_data_may_be_far_from_zero() -> None:
    """The farthest of many entries is far by chance, above all with heavy tails."""
    wide = Preconditioned(MLP(50, width=8), VP)
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    far = x[:12].clone()
    far[:, 7] -= 3.5
    Trainer(wide, x, steps=1, validation=far)
    with pytest.raises(ValueError, match=r"^data: expected values in model units"):
        Trainer(wide, far, steps=1)


def test_a_network_whose_conditions_the_data_lack_is_named() -> None:
    """It was trained without a word, and could not use the conditions."""
    net = MLP(2, width=8, conditions={"y": Vector(1), "label": Label(2)})
    x, y = torch.randn(8, 2), {"y": torch.randn(8, 1)}
    with pytest.warns(UserWarning, match="'y', 'label', which the network takes .* got none"):
        Trainer(Preconditioned(net, VPSDE()), x, steps=1)
    with pytest.warns(UserWarning, match="data: expected values for 'label', which"):
        Trainer(Preconditioned(net, VPSDE()), (x, y), steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(Preconditioned(net, VPSDE()), (x, y | {"label": torch.arange(8) % 2}), steps=1)
