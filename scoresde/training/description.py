"""The description of a model in the `config.json` of a checkpoint, and its inverse."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._check import instance, refuse, show, to_load, wrong_type
from scoresde.adapters.diffusers import DiffusersUNet
from scoresde.adapters.network import Called
from scoresde.ddpm import ChainSDE, ChainTime
from scoresde.model import TIMES, Preconditioned, ScoreModel, bare
from scoresde.nets import NETS
from scoresde.noise import SCHEME
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE, SDES, fingerprint, same_schedule
from scoresde.training.files import CONFIG, damaged

__all__ = [
    "ADAPTED",
    "ADAPTED_REMEDY",
    "FORMAT",
    "VERSION",
    "as_json",
    "check_same_model",
    "check_same_schedule",
    "describe",
    "families",
    "networks",
    "not_saved",
    "rebuilt_net",
    "rebuilt_sde",
]

FORMAT, VERSION = "scoresde checkpoint", 1
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


def not_saved(model: object) -> TypeError:
    remedy = "save the Preconditioned model inside, or its weights with safetensors"
    got = type(model).__name__
    return wrong_type("model", "a Preconditioned model", got, to_load(model) or remedy)


def describe(
    model: ScoreModel,
    quantisation: Quantisation | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `config.json`; raise if the model cannot be saved."""
    if not isinstance(model, Preconditioned):
        raise not_saved(model)
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
    if extra is not None:
        instance("extra", extra, Mapping, 'pass a mapping, e.g. {"epoch": 3}')
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
            "config": as_json("net.config", net.config) if known else None,
        },
        "model": {
            "predicts": model.predicts,
            "time": model.time.to_dict() if isinstance(model.time, ChainTime) else model.time,
            "sigma_data": model.sigma_data,
            "null": None if repr(null) == repr(own) else as_json("model.null", null),
        },
        "quantisation": None if quantisation is None else quantisation.to_dict(),
        "data": None if summary is None else replace(summary, quantisation=None).to_dict(),
        "extra": as_json("extra", {} if extra is None else extra),
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


def as_json(name: str, value: Any) -> Any:
    """`value` after a round trip through JSON, so that later comparisons are exact."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        remedy = "keep to numbers, strings, lists and dicts with string keys"
        raise wrong_type(name, f"what json can hold ({error})", value, remedy) from error


def check_same_model(model: ScoreModel, folder: Path, config: Mapping[str, Any]) -> None:
    """Raise unless a model has the schedule, the network and the settings of a checkpoint."""
    mine = describe(model)
    remedy = f"pass the SDE that the model was trained with, {_told_sde(config['sde'])}"
    check_same_schedule(model.sde, config["schedule"], "model.sde", remedy)
    for key in ("net", "model"):
        saved, own = _flat(config[key]), _flat(mine[key])
        names = [name for name in {**saved, **own} if saved.get(name) != own.get(name)]
        if names:
            remedy = "build the same model, or train anew in another folder"
            expected = f"that of {folder} with {_told(saved, names)}"
            raise refuse("model", expected, _told(own, names), remedy)


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an entry, with those of its mapping "config" among them."""
    config = entry.get("config") or {}
    return {**{name: value for name, value in entry.items() if name != "config"}, **config}


def _told(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={show(values.get(name))}" for name in names)


def _told_sde(entry: Mapping[str, Any]) -> str:
    """An SDE as it is built, or the name of its class."""
    given = entry.get("fields")
    name = str(entry.get("class"))
    return name if given is None else f"{name}({_told(given, list(given))})"


def check_same_schedule(
    sde: SDE,
    saved: Mapping[str, list[float]],
    argument: str,
    remedy: str = "pass the SDE that the model was trained with",
) -> None:
    """Raise unless an SDE has the schedule of a checkpoint."""
    same_schedule(sde, saved, argument, "checkpoint", remedy, refuse)


def rebuilt_sde(config: Mapping[str, Any], folder: Path) -> SDE:
    return _rebuilt(config["sde"], "fields", families(), "sde", folder)  # type: ignore[no-any-return]


def rebuilt_net(config: Mapping[str, Any], folder: Path) -> nn.Module:
    with torch.device("meta"):  # no initial weights are drawn; all tensors come from the file
        return _rebuilt(config["net"], "config", networks(), "net", folder)  # type: ignore[no-any-return]


def _rebuilt(
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
