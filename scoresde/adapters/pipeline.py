"""Pipeline folders of diffusers: model_index.json, unet/ and scheduler/."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde._check import fail, need, path_of, refuse, warn
from scoresde._io import read_json
from scoresde._tensor import fill
from scoresde.adapters.diffusers import KIND, built, from_diffusers, options_of
from scoresde.model import Preconditioned

__all__ = ["load_diffusers"]

INDEX, WEIGHTS = "model_index.json", "diffusion_pytorch_model.safetensors"


def load_diffusers(
    path: str | os.PathLike[str],
    *,
    predicts: str | None = None,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """The model in a pipeline folder of diffusers, without unpickling or download.

    Read are `model_index.json`, `unet/` (a `UNet2DModel` in safetensors) and `scheduler/`. The
    model can be saved by `scoresde.save`, since its network is rebuilt from its config.

    Args:
        path: the folder that `pipeline.save_pretrained` wrote.
        predicts, null: see `from_diffusers`.

    Returns:
        The model, in eval mode.

    Raises:
        ImportError: diffusers is not installed.
        FileNotFoundError: the folder or a part of it is missing.
        ValueError: a part is of an unknown class, the weights are a pickle or do not fit, or the
            scheduler is not one of a chain.

    Warns:
        UserWarning: the folder claims a later version of diffusers than the one installed, or the
            samples are latents of another network in it.

    Example:
        >>> load_diffusers("pipelines/none")
        Traceback (most recent call last):
        FileNotFoundError: path: expected a pipeline folder of diffusers, got 'pipelines/none', ...
    """
    folder = path_of("path", path)
    index = _index(folder, path)
    diffusers = need("diffusers", "")
    _check_version(folder, index, diffusers.__version__)
    kind = _kind(folder, index, "unet")
    if kind != KIND:
        remedy = "build such a network with diffusers and pass it to from_diffusers"
        raise refuse(f"{folder / 'unet'}", f"a {KIND}", kind, remedy)
    latent = sorted({"vae", "vqvae", "movq"} & set(index))
    if latent:
        warn(f"{folder}: the samples are latents of its {latent[0]}, which decodes them")
    model = from_diffusers(
        _network(folder / "unet"), _scheduler(folder, index), predicts=predicts, null=null
    )
    return model.eval()


def _index(folder: Path, given: object) -> dict[str, Any]:
    """The index of a pipeline folder; raise with the kind of folder that it is instead."""
    file = folder / INDEX
    if file.is_file():
        return _json(file)
    got = "which does not exist"
    if folder.is_file():
        got = "which is a file"
    elif (folder / "model.safetensors").exists() or (folder / "checkpoint").is_dir():
        got = "a checkpoint of scoresde, which scoresde.load reads as it is"
    elif (folder / "config.json").is_file():
        got = "a network without a scheduler"
    elif (folder / "scheduler_config.json").is_file():
        got = "a scheduler without a network"
    elif folder.is_dir():
        got = f"which has no {INDEX}"
    raise FileNotFoundError(
        f"path: expected a pipeline folder of diffusers, got {str(given)!r}, {got}; "
        "pass what pipeline.save_pretrained wrote, with unet/ and scheduler/ in it"
    )


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of the folder."""
    try:
        return read_json(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"path: expected {file}, got none; copy the whole folder"
        ) from None
    except ValueError as error:
        raise refuse(str(file), "a file of JSON", str(error), "copy the file again") from error


def _kind(folder: Path, index: Mapping[str, Any], part: str) -> str:
    """The class of a part of a pipeline."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or not entry[1]:
        parts = ", ".join(sorted(k for k in index if not k.startswith("_"))) or "no part"
        remedy = "save the whole pipeline, DDPMPipeline(unet=..., scheduler=...)"
        raise refuse(str(folder / INDEX), f"a {part}", parts, remedy)
    if not (folder / part).is_dir():
        remedy = "copy the whole folder"
        raise FileNotFoundError(f"path: expected {part}/ in {folder}, got none; {remedy}")
    return str(entry[1])


def _check_version(folder: Path, index: Mapping[str, Any], own: str) -> None:
    claimed = str(index.get("_diffusers_version", own))
    if _numbers(claimed)[:2] > _numbers(own)[:2]:
        warn(
            f"{folder} was written by diffusers {claimed}, and {own} is installed; options that "
            "this one does not know are refused. Install that version to be sure"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _network(folder: Path) -> Any:  # of diffusers
    """The `UNet2DModel` of a folder with its weights, which must fit exactly."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        if pickles:
            remedy = (
                "load it where you trust it, and save_pretrained(..., safe_serialization=True)"
            )
            got = f"{pickles[0]}, a pickle, which can run any code when it is read"
            raise refuse(str(folder), WEIGHTS, got, remedy)
        found = ", ".join(sorted(p.name for p in folder.iterdir()))
        raise FileNotFoundError(f"path: expected {WEIGHTS} in {folder}, got {found}; copy it too")
    options = options_of(_json(folder / "config.json"))
    net = built(options)
    try:
        fill(net, load_file(file), str(file))
    except SafetensorError as error:
        remedy = "copy the file again"
        raise refuse(str(file), "safetensors", f"a damaged file ({error})", remedy) from error
    return net


def _scheduler(folder: Path, index: Mapping[str, Any]) -> Any:  # of diffusers
    """The scheduler of a folder, built from its config."""
    kind, file = _kind(folder, index, "scheduler"), folder / "scheduler/scheduler_config.json"
    config = _json(file)
    scheduler: Any = getattr(need("diffusers", ""), kind, None)
    if not hasattr(scheduler, "from_config"):
        remedy = "install the version of diffusers that has it, or build the model from its alphas"
        raise fail(str(file), "a scheduler of diffusers", kind, remedy)
    return scheduler.from_config(config)
