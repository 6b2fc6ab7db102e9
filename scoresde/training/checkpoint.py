"""Checkpoints: models as folders of config.json and safetensors."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import fail, instance, refuse, to_load, wrong_type
from scoresde._tensor import as_device, fill, ordinary
from scoresde.adapters.diffusers import DiffusersUNet
from scoresde.adapters.network import Called
from scoresde.calibration import Calibration
from scoresde.calibration.stored import valid
from scoresde.ddpm import ChainSDE, ChainTime
from scoresde.model import TIMES, Preconditioned, ScoreModel, bare
from scoresde.nets import NETS
from scoresde.noise import SCHEME
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE, SDES, fingerprint, same_schedule
from scoresde.summary import DataSummary
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
    "families",
    "load",
    "load_calibration",
    "load_training",
    "load_weights",
    "networks",
    "read_config",
    "save",
    "saved_calibrations",
]

FORMAT, VERSION = "scoresde checkpoint", 1
WEIGHTS, TRAINING = "model.safetensors", "training.safetensors"
ADAPTED = f"{Called.__module__}.{Called.__qualname__}"
ADAPTED_REMEDY = (
    "build it, and pass it through its adapter, e.g. load(path, net=from_edm(net).net)"
)


def families() -> dict[str, type[SDE]]:
    """The SDEs that a checkpoint rebuilds from their fields, by class name.

    These are the registered ones (`scoresde.sde.SDES`) and that of a DDPM chain.
    """
    known: list[type[SDE]] = [*SDES.values(), ChainSDE]
    return {c.__name__: c for c in known}


def networks() -> dict[str, type[nn.Module]]:
    """The networks that a checkpoint rebuilds from their `config`, by class name.

    These are the registered ones (`scoresde.nets.NETS`) and that of diffusers.
    """
    return {c.__name__: c for c in [*NETS.values(), DiffusersUNet]}


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
        extra: any values of JSON, for readers of the checkpoint.
        training: the state of a run, which `Trainer` writes.
        calibrations: calibrations of this model by name, by default those that it carries;
            `load` gives them to the model.

    Returns:
        The folder.

    Raises:
        TypeError: the model is not `Preconditioned`, its time is a function, or `extra` or the
            null values are not values of JSON.
        ValueError: `path` is a file, or a folder that contains other files.

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
    for calibration in calibrations.values():
        calibration.check(model.sde, model)
    config["calibrations"] = {k: c.to_dict() for k, c in calibrations.items()}
    place = check_place(path, (WEIGHTS, TRAINING))
    files: dict[str, Mapping[str, Tensor]] = {WEIGHTS: _net_of(model).state_dict()}
    if training is not None:
        config["training"] = _json("training", training.info)
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
    schedule = _rebuild_sde(config, folder) if sde is None else sde
    instance("sde", schedule, SDE, "pass the SDE itself, e.g. sde=LinearSDE(rate, diffusion)")
    _same_schedule(schedule, config["schedule"], "sde" if sde is not None else str(folder))
    if isinstance(net, ScoreModel):
        raise wrong_type("net", "the raw network", type(net).__name__, "pass model.net")
    network = _rebuild_net(config, folder) if net is None else net
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
        warnings.warn(
            f"{folder}: its calibrations for {', '.join(outdated)} steps are of another version "
            "of scoresde and are left out; calibrate it anew",
            stacklevel=4,
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
    _same_model(model, folder, config)
    for calibration in calibrations.values():
        calibration.check(model.sde, model)
    known = {k: c.to_dict() for k, c in calibrations.items()}
    config["calibrations"] = {**config.get("calibrations", {}), **known}
    rewrite(folder, config)


def _still_valid(model: ScoreModel) -> Mapping[str, Calibration]:
    """The calibrations that a model carries; stale ones are left out with a warning."""
    found = valid(model)
    stale = [name for name in model.calibrations if name not in found]
    if stale:
        warnings.warn(
            f"model: its calibrations for {', '.join(stale)} steps were made before its weights "
            "or settings were changed, and are not saved; calibrate it anew",
            stacklevel=4,
        )
    return found


def _same_model(model: ScoreModel, folder: Path, config: Mapping[str, Any]) -> None:
    mine = describe(model)
    for key in ("net", "model"):
        if mine[key] != config[key]:
            remedy = "build the same model, or train anew in another folder"
            raise refuse("model", f"that of {folder}, {config[key]}", mine[key], remedy)
    _same_schedule(model.sde, config["schedule"], "model.sde")


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
    _same_model(model, folder, config)
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
        raise _not_saved(model)
    return bare(model.net)


def _not_saved(model: object) -> TypeError:
    remedy = "save the Preconditioned model inside, or its weights with safetensors"
    got = type(model).__name__
    return wrong_type("model", "a Preconditioned model", got, to_load(model) or remedy)


# The description of a model in config.json


def describe(
    model: ScoreModel,
    quantisation: Quantisation | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `config.json`; raise if the model cannot be saved."""
    if not isinstance(model, Preconditioned):
        raise _not_saved(model)
    if not isinstance(model.time, str | ChainTime):
        remedy = (
            f"name a convention ({', '.join(map(repr, TIMES))}), or put the function in the net"
        )
        raise wrong_type("model.time", "a name, for a function is no data", model.time, remedy)
    summary = model.data
    if quantisation is None and summary is not None:
        quantisation = summary.quantisation
    if quantisation is not None:
        instance("quantisation", quantisation, Quantisation, "pass e.g. Quantisation(256)")
    net, sde = bare(model.net), model.sde
    known = networks().get(type(net).__name__) is type(net)
    family = families().get(type(sde).__name__) is type(sde)
    null = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in model.null.items()}
    own = getattr(net, "nulls", None)  # with NaN, which equals nothing
    return {
        "format": FORMAT,
        "version": VERSION,
        "library": _library(),
        "noise_scheme": SCHEME,
        "sde": {
            "class": _name(sde, family),
            "fields": _fields(sde) if family else None,
        },
        "schedule": fingerprint(sde),
        "net": {
            "class": _name(net, known),
            "config": _json("net.config", net.config) if known else None,
        },
        "model": {
            "predicts": model.predicts,
            "time": model.time.to_dict() if isinstance(model.time, ChainTime) else model.time,
            "sigma_data": model.sigma_data,
            "null": None if repr(null) == repr(own) else _json("model.null", null),
        },
        "quantisation": None if quantisation is None else quantisation.to_dict(),
        "data": None if summary is None else replace(summary, quantisation=None).to_dict(),
        "extra": _json("extra", {} if extra is None else extra),
    }


def _fields(sde: Any) -> dict[str, float]:
    return {f.name: getattr(sde, f.name) for f in fields(sde)}


def _library() -> str:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms to import

    try:
        return version("scoresde")
    except PackageNotFoundError:
        return "unknown"


def _name(thing: object, known: bool) -> str:
    kind = type(thing)
    return kind.__name__ if known else f"{kind.__module__}.{kind.__qualname__}"


def _json(name: str, value: Any) -> Any:
    """`value` after a round trip through JSON, so that later comparisons are exact."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        remedy = "keep to numbers, strings, lists and dicts with string keys"
        raise wrong_type(name, f"what json can hold ({error})", value, remedy) from error


def _same_schedule(sde: SDE, saved: Mapping[str, list[float]], argument: str) -> None:
    remedy = "pass the SDE that the model was trained with"
    same_schedule(sde, saved, argument, "checkpoint", remedy, refuse)


def _rebuild_sde(config: Mapping[str, Any], folder: Path) -> SDE:
    return _rebuild(config["sde"], "fields", families(), "sde", folder)  # type: ignore[no-any-return]


def _rebuild_net(config: Mapping[str, Any], folder: Path) -> nn.Module:
    with torch.device("meta"):  # no initial weights are drawn; all tensors come from the file
        return _rebuild(config["net"], "config", networks(), "net", folder)  # type: ignore[no-any-return]


def _rebuild(
    entry: Mapping[str, Any], key: str, table: Mapping[str, Any], argument: str, folder: Path
) -> Any:
    name = str(entry.get("class"))
    if name not in table:
        remedy = f"this checkpoint cannot rebuild its own: call load(path, {argument}=...)"
        if argument == "net":
            remedy += (
                "; for the command line, register its class in NETS (see How do I use my own "
                "network?)"
            )
        if name == ADAPTED:
            remedy = f"the network is of another library: {ADAPTED_REMEDY}"
        known = f"one of {', '.join(table)} in {folder / CONFIG}"
        raise refuse(argument, known, name, remedy)
    try:
        return table[name](**entry[key])
    except (TypeError, ValueError) as error:
        raise damaged(folder / CONFIG, f"arguments that {name} does not take ({error})") from error


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
            f"scoresde train --config {file} --overwrite"
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
