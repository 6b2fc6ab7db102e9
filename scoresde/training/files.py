"""Folders of JSON and safetensors: written atomically, verified when read, never unpickled."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde._check import fail, instance, listed, path_of, refuse
from scoresde._io import digest, explained, link_folder, previous, read_json, replacing, sha256
from scoresde._io import write as write_file

__all__ = [
    "CONFIG",
    "Damaged",
    "check_config",
    "check_place",
    "damaged",
    "known_shape",
    "link",
    "open_folder",
    "read",
    "rewrite",
    "write",
]

CONFIG = "config.json"


class Damaged(ValueError):
    """The file is corrupt; another copy may be intact."""


def damaged(file: Path, why: str) -> ValueError:
    """The error of a corrupt file."""
    remedy = "it was cut short or edited: save it again, or take another copy"
    return Damaged(str(refuse(str(file), "an intact file of a checkpoint", why, remedy)))


def check_place(
    path: str | os.PathLike[str], files: Iterable[str], argument: str = "path"
) -> Path:
    """The absolute path; raise unless a folder of these files may be written or replaced there."""
    place = path_of(argument, path).resolve()
    if place.exists() and not place.is_dir():
        remedy = "a checkpoint is a folder; choose another name"
        raise fail(argument, "a folder", str(path), remedy)
    present = {file.name for file in place.iterdir()} if place.exists() else set()
    others = sorted(present - {CONFIG, *files})
    if others:
        remedy = f"it would be replaced as a whole: pass {str(place / 'checkpoint')!r}"
        got = f"{place} with {listed(others, 4)}"
        raise refuse(argument, "a new folder, an empty one or a checkpoint", got, remedy)
    return place


def write(
    place: Path, config: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write a folder of `config.json` and files of tensors, replacing an existing one.

    Sizes and hashes of the files, and a checksum of the config, are added to the config.

    Raises:
        OSError: the disk is full, a quota is reached or the place is not writable; the existing
            folder is intact.
    """
    with _explained(place), replacing(place) as half:
        half.mkdir()
        sums = {name: _write_tensors(half / name, tensors) for name, tensors in files.items()}
        content = json.loads(json.dumps({**config, "files": sums}))  # as it will be read
        content["checksum"] = _checksum(content)
        (half / CONFIG).write_text(json.dumps(content, indent=1), encoding="utf-8")


def rewrite(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the `config.json` of a folder of `write` anew; its other files stay as they are.

    Raises:
        OSError: see `write`.
    """
    content = {key: value for key, value in config.items() if key != "checksum"}
    content = json.loads(json.dumps(content))  # as it will be read
    content["checksum"] = _checksum(content)
    with _explained(folder):
        write_file(folder / CONFIG, json.dumps(content, indent=1).encode())


def link(source: Path, place: Path) -> None:
    """Give a folder of `write` a second name that shares its files.

    Raises:
        OSError: see `write`.
    """
    with _explained(place):
        link_folder(source, place)


def _explained(place: Path) -> AbstractContextManager[None]:
    before = "the one before it is intact" if place.exists() else "nothing was left there"
    return explained("path", place, before, "resume")


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {}
    for name, value in tensors.items():
        instance(f"state_dict[{name!r}]", value, Tensor, "safetensors holds tensors alone")
        # Tied weights share memory, which the format refuses, so tensors are copied.
        plain[name] = value.detach().to("cpu", copy=True).contiguous()
    try:
        save_file(plain, file)
    except SafetensorError as error:  # the error number is only in the text of the message
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _checksum(config: Mapping[str, Any]) -> str:
    """The hash of a config without its checksum."""
    return digest({key: value for key, value in config.items() if key != "checksum"})


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint at a path: the folder itself, or the model that the run in it returns.

    That is `checkpoint/`, the model after the last step, or with patience `best/`, the model of
    the lowest validation loss.
    """
    inside, best = path / "checkpoint", path / "best"
    own = (path / "model.safetensors").exists()
    if own or not (inside.is_dir() or previous(inside).is_dir()):
        return path
    return best if best.is_dir() and _with_patience(inside) else inside


def _with_patience(checkpoint: Path) -> bool:
    """Whether the run of a checkpoint returns the model of the lowest validation loss."""
    try:
        choices = read_json(checkpoint / CONFIG)["training"]["choices"]
        return choices.get("patience") is not None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def known_shape(
    net: Mapping[str, Any], extra: Mapping[str, Any], about: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The shape of a sample from the options of the network or the description, or None."""
    if "dim" in net:
        return (int(net["dim"]),)
    if "size" in net:
        return (int(net["channels"]), *map(int, net["size"]))
    noted = extra.get("shape") or about.get("shape")
    return tuple(map(int, noted)) if noted else None


def open_folder(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The folder, or the previous one if a writer died between its two renames, and its config."""
    place = checkpoint_folder(path_of("path", path).resolve())
    folder = next((f for f in (place, previous(place)) if f.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"path: expected a checkpoint folder, got {str(path)!r}, which "
            f"{'is a file' if place.exists() else 'does not exist'}; "
            "pass the folder that holds config.json and model.safetensors"
        )
    file = folder / CONFIG
    if not file.exists():
        remedy = "pass the folder that save wrote"
        if (folder / "model_index.json").exists():
            remedy = "a pipeline of diffusers becomes one by scoresde import, or load_diffusers"
        raise FileNotFoundError(f"path: expected {CONFIG} in {folder}, got none; {remedy}")
    try:
        return folder, read_json(file)
    except ValueError as error:
        raise damaged(file, str(error)) from error


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Verify the checksum of a config whose version is known.

    Older checkpoints of the same version have no checksum and are accepted.
    """
    if config.get("checksum", (own := _checksum(config))) != own:
        raise damaged(folder / CONFIG, "another content than the one whose checksum it holds")


def read(folder: Path, config: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; raise if the file was changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file, entry = folder / name, config["files"].get(name)
    if not file.exists():
        remedy = "copy the whole folder, or take another checkpoint"
        raise FileNotFoundError(f"path: expected {name} in {folder}, got none; {remedy}")
    if not isinstance(entry, dict):
        raise damaged(folder / CONFIG, f"no entry for {name}")
    size = file.stat().st_size
    if size != entry.get("bytes"):
        raise damaged(file, f"{size} bytes instead of {entry.get('bytes')}")
    if sha256(file) != entry.get("sha256"):
        raise damaged(file, "another content than the one whose hash stands in config.json")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise damaged(file, f"no safetensors ({error})") from error
    return {key: value.clone() for key, value in tensors.items()}  # a copy, not the memory map
