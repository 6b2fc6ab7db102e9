"""Checkpoints: models as folders of config.json and safetensors."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import fail, instance, refuse, warn, wrong_type
from scoresde._tensor import as_device, fill, ordinary
from scoresde.adapters.network import Called
from scoresde.calibration import Calibration
from scoresde.calibration.stored import valid
from scoresde.ddpm import ChainTime
from scoresde.model import Preconditioned, ScoreModel, bare
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE
from scoresde.summary import DataSummary
from scoresde.training.description import (
    ADAPTED,
    ADAPTED_REMEDY,
    FORMAT,
    VERSION,
    as_json,
    check_same_model,
    check_same_schedule,
    describe,
    not_saved,
    rebuilt_net,
    rebuilt_sde,
)
from scoresde.training.files import (
    CONFIG,
    check_config,
    check_place,
    damaged,
    open_folder,
    read,
    rewrite,
    write,
)

__all__ = [
    "Training",
    "add_calibrations",
    "load",
    "load_calibration",
    "load_training",
    "load_weights",
    "read_config",
    "save",
    "saved_calibrations",
]

WEIGHTS, TRAINING = "model.safetensors", "training.safetensors"


@final
@dataclass(frozen=True, eq=False)
class Training:
    """The state of a run beside the averaged model.

    Args:
        tensors: raw weights and the optimiser's state, by name.
        info: values of JSON: the step, the settings that must not change, the history.
    """

    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any]


def save(
    model: ScoreModel,
    path: str | os.PathLike[str],
    *,
    quantisation: Quantisation | None = None,
    extra: Mapping[str, Any] | None = None,
    training: Training | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Path:
    """Write a model as a folder of `config.json` and `model.safetensors`, atomically.

    The folder is written under a temporary name, flushed to the disk and renamed. An existing
    checkpoint is first renamed to `.<name>.previous`, which `load` reads if the process dies
    between the two renames, and removed at the end.

    `load` rebuilds registered networks and SDEs (`scoresde.nets.NETS`, `scoresde.sde.SDES`). For
    any other network or SDE (`LinearSDE`, `SDE(f, g)`) the weights and the values of the schedule
    are stored, and you pass the object to `load`: a network of `scoresde.adapters` within its
    adapter, such as `net=from_edm(net).net`.

    Args:
        model: a `Preconditioned` model whose `time` is one of the named conventions.
        path: the folder: new, empty or a checkpoint.
        quantisation: the levels of the data, by default those of `model.data`; `read_config`
            returns them.
        extra: any values of JSON by name, for readers of the checkpoint.
        training: the state of a run, which `Trainer` writes.
        calibrations: calibrations of this model by name, by default those that it carries;
            `load` gives them to the model.

    Returns:
        The folder.

    Raises:
        TypeError: the model is not `Preconditioned`, its time is a function, `extra` or the null
            values are not values of JSON, or `calibrations` is not a mapping of calibrations.
        ValueError: `path` is a file, or a folder that contains other files, or a calibration is
            one of another model.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE
        >>> from scoresde.nets import MLP
        >>> model = Preconditioned(MLP(2, width=8), VPSDE())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load(save(model, f"{folder}/model")).sde
        VPSDE(beta_min=0.1, beta_max=20.0)
    """
    config = describe(model, quantisation=quantisation, extra=extra)
    if calibrations is None:
        calibrations = _still_valid(model) if model.calibrations else {}
    _check_calibrations(calibrations, model)
    config["calibrations"] = {k: c.to_dict() for k, c in calibrations.items()}
    place = check_place(path, (WEIGHTS, TRAINING))
    files: dict[str, Mapping[str, Tensor]] = {WEIGHTS: _net_of(model).state_dict()}
    if training is not None:
        instance("training", training, Training, "leave it out: a Trainer passes it")
        config["training"] = as_json("training", training.info)
        files[TRAINING] = training.tensors
    write(place, config, files)
    return place


@ordinary
def load(
    path: str | os.PathLike[str],
    *,
    net: nn.Module | None = None,
    sde: SDE | None = None,
    device: str | torch.device = "cpu",
) -> ScoreModel:
    """Read a model written by `save`, without unpickling.

    Args:
        path: the folder, or that of a run, whose `checkpoint` is read.
        net: the network, whose weights are replaced by those of the checkpoint; required if it is
            not one of `scoresde.nets`.
        sde: the SDE; required if it is not one of the families. Its schedule must equal that of
            the checkpoint to 1e-6.
        device: the device of the model.

    Returns:
        The model, in eval mode.

    Warns:
        UserWarning: the checkpoint has calibrations of another version, which are left out.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: a file is damaged, the format, SDE or network is unknown, keys are missing,
            unexpected or of another shape, or `sde` has another schedule.

    Example:
        >>> load("runs/none")
        Traceback (most recent call last):
        FileNotFoundError: path: expected a checkpoint folder, got 'runs/none', ...
    """
    where = as_device(device, "leave it out")
    folder, config = _open(path)
    schedule = rebuilt_sde(config, folder) if sde is None else sde
    instance("sde", schedule, SDE, "pass the SDE itself, e.g. sde=LinearSDE(rate, diffusion)")
    check_same_schedule(schedule, config["schedule"], "sde" if sde is not None else str(folder))
    if isinstance(net, ScoreModel):
        raise wrong_type("net", "the raw network", type(net).__name__, "pass model.net")
    network = rebuilt_net(config, folder) if net is None else net
    instance("net", network, nn.Module, "pass the network that the checkpoint was saved from")
    if str(config["net"].get("class")) == ADAPTED and not isinstance(bare(network), Called):
        expected = "a network in its adapter, as it was saved"
        raise wrong_type("net", expected, type(network).__name__, ADAPTED_REMEDY)
    fill(bare(network), read(folder, config, WEIGHTS), str(folder / WEIGHTS), assign=net is None)
    try:
        settings = dict(config["model"])
        if isinstance(settings.get("time"), dict):
            settings["time"] = ChainTime.from_dict(settings["time"])
        model = Preconditioned(network, schedule, **settings)
        if config.get("data") is not None:
            known = {**config["data"], "quantisation": config.get("quantisation")}
            model.data = DataSummary.from_dict(known)
        model.calibrations = saved_calibrations(config, folder)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / CONFIG, f"model settings that do not fit ({error})") from error
    return model.to(where).eval()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint's `config.json`, after the checks of format and version.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE
        >>> from scoresde.nets import MLP
        >>> model = Preconditioned(MLP(2, width=8), VPSDE())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(
        ...         model, f"{folder}/model", quantisation=Quantisation(17), extra={"epoch": 3}
        ...     )
        ...     config = read_config(f"{folder}/model")
        >>> config["extra"], Quantisation.from_dict(config["quantisation"]).levels
        ({'epoch': 3}, 17)
    """
    return _open(path)[1]


def load_calibration(path: str | os.PathLike[str], name: str) -> Calibration:
    """A calibration that was saved with a model; `ReverseSampler` checks that they match.

    Raises:
        FileNotFoundError, ValueError: see `load`; there is no calibration of this name.
    """
    folder, config = _open(path)
    saved = config.get("calibrations", {})
    if name not in saved:
        remedy = "save it with save(model, path, calibrations={name: calibration})"
        raise fail("name", f"one of {', '.join(saved) or 'none'} in {folder}", name, remedy)
    return Calibration.from_dict(saved[name])


def saved_calibrations(config: Mapping[str, Any], folder: Path) -> dict[str, Calibration]:
    """The calibrations of a checkpoint by name, from the content of its `config.json`.

    Raises:
        TypeError, ValueError: one of them is damaged.

    Warns:
        UserWarning: some are of another version, and are left out.
    """
    saved = config.get("calibrations") or {}
    outdated = [name for name, values in saved.items() if Calibration.outdated(values)]
    if outdated:
        warn(
            f"{folder}: its calibrations for {', '.join(outdated)} steps are of another version "
            "of scoresde and are left out; calibrate it anew"
        )
    return {k: Calibration.from_dict(c) for k, c in saved.items() if k not in outdated}


def add_calibrations(
    path: str | os.PathLike[str], model: ScoreModel, calibrations: Mapping[str, Calibration]
) -> None:
    """Add calibrations to a checkpoint of this model, beside or in place of those of their names.

    Only `config.json` is written anew, atomically.

    Raises:
        FileNotFoundError, ValueError: see `load`; the checkpoint has another network, other
            settings or another schedule, or a calibration is one of another model.
        OSError: it cannot be written; the checkpoint is intact.
    """
    folder, config = _open(path)
    check_same_model(model, folder, config)
    _check_calibrations(calibrations, model)
    known = {k: c.to_dict() for k, c in calibrations.items()}
    config["calibrations"] = {**config.get("calibrations", {}), **known}
    rewrite(folder, config)


def _check_calibrations(calibrations: Mapping[str, Calibration], model: ScoreModel) -> None:
    """Raise unless these are calibrations of this model by name."""
    remedy = "pass a mapping, e.g. {calibration.name: calibration}"
    instance("calibrations", calibrations, Mapping, remedy)
    for name, calibration in calibrations.items():
        instance("a name in calibrations", name, str, remedy)
        instance(f"calibrations[{name!r}]", calibration, Calibration, "pass what calibrate gave")
        calibration.check(model.sde, model)


def _still_valid(model: ScoreModel) -> Mapping[str, Calibration]:
    """The calibrations that a model carries; stale ones are left out with a warning."""
    found = valid(model)
    stale = [name for name in model.calibrations if name not in found]
    if stale:
        warn(
            f"model: its calibrations for {', '.join(stale)} steps were made before its weights "
            "or settings were changed, and are not saved; calibrate it anew"
        )
    return found


def load_training(
    path: str | os.PathLike[str], model: ScoreModel
) -> tuple[dict[str, Tensor], Training]:
    """The saved weights and the state of a run, checked against the model.

    Raises:
        FileNotFoundError, ValueError: see `load`; the checkpoint has no state of a run, or its
            architecture, settings or schedule differ from those of the model.
    """
    folder, config = _open(path)
    if "training" not in config:
        remedy = "resume from the checkpoint that the Trainer wrote"
        raise fail("resume", "a checkpoint with a training state", str(folder), remedy)
    check_same_model(model, folder, config)
    state = Training(read(folder, config, TRAINING), config["training"])
    return read(folder, config, WEIGHTS), state


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a saved network, and the content of `config.json`.

    Raises:
        FileNotFoundError, ValueError: see `load`.
    """
    folder, config = _open(path)
    return read(folder, config, WEIGHTS), config


def _net_of(model: ScoreModel) -> nn.Module:
    if not isinstance(model, Preconditioned):
        raise not_saved(model)
    return bare(model.net)


def _open(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The folder of a checkpoint and its config, after the check of the format."""
    folder, config = open_folder(path)
    file = folder / CONFIG
    about = config.get("about")
    if isinstance(about, dict) and "command" in about:  # what a command of scoresde left
        if about["command"] != "train":
            got = f"{str(folder)!r}, which `scoresde {about['command']}` wrote"
            remedy = "pass the folder of a run, or one that save wrote"
            raise refuse("path", "a checkpoint", got, remedy)
        got = f"{str(folder)!r}, a run that has none yet"
        remedy = (
            "wait for its first one, or, if it was killed before that, train it anew: "
            f"scoresde train --config {shlex.quote(str(file))} --overwrite"
        )
        raise refuse("path", "a checkpoint", got, remedy)
    if config.get("format") != FORMAT:
        raise fail(str(file), f"format {FORMAT!r}", config.get("format"), "pass what save wrote")
    if config.get("version") != VERSION:
        remedy = f"it is of scoresde {config.get('library')}: install that version or a newer one"
        raise fail(str(file), f"version {VERSION}", config.get("version"), remedy)
    check_config(folder, config)
    for key in ("sde", "schedule", "net", "model", "files", "extra"):
        if not isinstance(config.get(key), dict):
            raise damaged(file, f"no entry {key!r}")
    return folder, config
