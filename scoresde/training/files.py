"""Folders of json and safetensors: replaced as a whole, checked when read, never unpickled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde._check import fail, instance, path_of

__all__ = [
    "CONFIG",
    "Damaged",
    "check_config",
    "check_place",
    "damaged",
    "drop_previous",
    "leftovers",
    "link",
    "listed",
    "open_folder",
    "read",
    "refuse",
    "remove",
    "unwritten",
    "write",
]

CONFIG = "config.json"


class Damaged(ValueError):
    """A file is not as it was written; another copy of it may be."""


def refuse(argument: str, expected: str, got: object, remedy: str) -> ValueError:
    """As `fail`, with all of `got`, however long."""
    return ValueError(f"{argument}: expected {expected}, got {got}; {remedy}")


def damaged(file: Path, why: str) -> ValueError:
    """The error of a file that is not as it was written."""
    remedy = "it was cut short or edited: save it again, or take another copy"
    return Damaged(str(refuse(str(file), "an intact file of a checkpoint", why, remedy)))


def listed(names: list[str]) -> str:
    """Some of many names, for a message."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def check_place(path: str | os.PathLike[str], files: Iterable[str]) -> Path:
    """The absolute path, if a folder of these files may be written or replaced there."""
    place = path_of("path", path).resolve()
    if place.exists() and not place.is_dir():
        raise fail("path", "a folder", str(path), "a checkpoint is a folder; choose another name")
    present = {file.name for file in place.iterdir()} if place.exists() else set()
    others = sorted(present - {CONFIG, *files})
    if others:
        remedy = f"it would be replaced as a whole: pass {str(place / 'checkpoint')!r}"
        got = f"{place} with {listed(others)}"
        raise refuse("path", "a new folder, an empty one or a checkpoint", got, remedy)
    return place


def write(
    place: Path, config: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write a folder of `config.json` and files of tensors in the place of what was there.

    All is written beside the place and flushed to the disk; then it is renamed. The config gets
    the size and the hash of every file, and a checksum of itself.

    Raises:
        OSError: the disk is full, a quota is reached or the place cannot be written to; what stood
            there is intact.
    """
    made = place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp")
    with _explained(place), _removed_on_failure(made):
        made.mkdir(parents=True)
        sums = {name: _write_tensors(made / name, tensors) for name, tensors in files.items()}
        content = json.loads(json.dumps({**config, "files": sums}))  # as it will be read
        content["checksum"] = _checksum(content)
        with (made / CONFIG).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _flush_folder(made)
        _swap(made, place)


def link(source: Path, place: Path) -> None:
    """Another name for a folder that `write` made, sharing its files where the disk can."""
    made = place.with_name(f".{place.name}.{os.urandom(4).hex()}.tmp")
    with _explained(place), _removed_on_failure(made):
        made.mkdir(parents=True)
        for file in source.iterdir():
            try:
                os.link(file, made / file.name)
            except OSError:  # a file system without links
                shutil.copy2(file, made / file.name)
        _flush_folder(made)
        _swap(made, place)


def remove(folder: Path) -> None:
    """Remove a folder under another name, so that a half-removed one never stands at its place."""
    gone = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.tmp")
    os.replace(folder, gone)
    shutil.rmtree(gone)


def leftovers(place: Path) -> list[Path]:
    """The folders that a writer of `place` left half-written when it was killed."""
    return sorted(place.parent.glob(f".{place.name}.{'[0-9a-f]' * 8}.tmp"))


@contextmanager
def _removed_on_failure(made: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """What the system says of a write that failed, with the place and the remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        before = "the one before it is intact" if place.exists() else "nothing was left there"
        raise unwritten("path", place, error, f"{before}: ") from error


def unwritten(argument: str, place: Path, error: Exception, before: str = "") -> OSError:
    """The error of a place that could not be written to, of the system's kind."""
    # safetensors, written in Rust, says the number in its text alone.
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = getattr(error, "errno", None) or (int(told[1]) if told else errno.EIO)
    remedy = "free some space, raise the quota or choose another disk, and resume"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "choose a folder that this user may write to"
    got = f"{type(error).__name__}: {error}"
    return OSError(number, f"{argument}: expected to write {place}, got {got}; {before}{remedy}")


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    from safetensors.torch import save_file

    plain = {}
    for name, value in tensors.items():
        instance(f"state_dict[{name!r}]", value, Tensor, "safetensors holds tensors alone")
        # Copied, because tied weights share memory, which the format refuses.
        plain[name] = value.detach().to("cpu", copy=True).contiguous()
    save_file(plain, file)
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _checksum(config: Mapping[str, Any]) -> str:
    """The hash of what json says, apart from the entry for the checksum itself."""
    content = {key: value for key, value in config.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def drop_previous(place: Path) -> None:
    """Remove what stood at `place` before, if a killed writer of what stands there now did not."""
    if place.exists():
        shutil.rmtree(_previous(place), ignore_errors=True)


def _previous(place: Path) -> Path:
    return place.with_name(f".{place.name}.previous")


def _swap(made: Path, place: Path) -> None:
    """Rename `made` to `place`; what stood there stays whole under another name until then."""
    previous = _previous(place)
    if not place.exists():
        os.replace(made, place)
    else:
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(place, previous)
        try:
            os.replace(made, place)
        except BaseException:
            os.replace(previous, place)
            raise
    _flush_folder(place.parent)
    shutil.rmtree(previous, ignore_errors=True)


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint that a path means: itself, or `checkpoint/` in a run's folder."""
    inside = path / "checkpoint"
    own = (path / "model.safetensors").exists()
    if not own and (inside.is_dir() or _previous(inside).is_dir()):
        return inside
    return path


def open_folder(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The folder, or the previous one if a writer died between its two renames; its config."""
    place = checkpoint_folder(path_of("path", path).resolve())
    folder = next((f for f in (place, _previous(place)) if f.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"path: expected a checkpoint folder, got {str(path)!r}, which "
            f"{'is a file' if place.exists() else 'does not exist'}; "
            "pass the folder that holds config.json and model.safetensors"
        )
    file = folder / CONFIG
    if not file.exists():
        remedy = "pass the folder that save wrote"
        raise FileNotFoundError(f"path: expected {CONFIG} in {folder}, got none; {remedy}")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"no json ({error})") from error
    if not isinstance(config, dict):
        raise damaged(file, "no json object")
    return folder, config


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config that does not say what was written; asked once its version is known.

    Older checkpoints of the same version have no checksum, and are taken as they are.
    """
    if config.get("checksum", (own := _checksum(config))) != own:
        raise damaged(folder / CONFIG, "another content than the one whose checksum it holds")


def read(folder: Path, config: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, if it is the very file that was written."""
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
    if _sha256(file) != entry.get("sha256"):
        raise damaged(file, "another content than the one whose hash stands in config.json")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise damaged(file, f"no safetensors ({error})") from error
    return {key: value.clone() for key, value in tensors.items()}  # off the mapped file
