"""What a folder of samples is of: settings that must not change, and whose turn each shard is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from scoresde._check import fail, show
from scoresde.data.samples import FORMAT, MANIFEST, VERSION, read_manifest, shard_name, shards_of
from scoresde.model import ScoreModel
from scoresde.process import eta_value
from scoresde.sampler.reverse import ReverseSampler
from scoresde.sde import fingerprint

__all__ = ["claim", "describe", "explained", "flush", "hash_of", "mine", "store", "sweep", "turn"]


def describe(sampler: ReverseSampler) -> dict[str, Any]:
    """The settings of a sampler: two that say the same draw the same samples."""
    grid, eta = sampler._nodes, sampler.eta
    return {
        "model": {"class": type(sampler.model).__name__, "sha256": hash_of(sampler.model)},
        "sde": {"class": type(sampler.sde).__name__, "schedule": fingerprint(sampler.sde)},
        "solver": repr(sampler.solver),
        "grid": [list(segment) for segment in grid.segments],
        "eta": [eta_value(eta, t) for t in grid.times] if callable(eta) else float(eta),
        "denoise": sampler.denoise,
    }


def hash_of(model: ScoreModel) -> str:
    """SHA-256 of a model: its modules with their plain attributes, parameters and buffers.

    A function that is no module enters by its name alone.
    """
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        digest.update(f"\n{path} {type(module).__qualname__}".encode())
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and name != "training":
                digest.update(f"\n{name} = ".encode())
                digest.update(_bytes(value))
        own = (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, value in (pair for pairs in own for pair in pairs):
            digest.update(f"\n{name} = ".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: object) -> bytes:
    """A value as bytes that are the same in every process."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        head = f"{value.dtype} {tuple(value.shape)} "
        return head.encode() + flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return b"{" + b", ".join(_bytes(k) + b": " + _bytes(v) for k, v in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b", ".join(map(_bytes, value)) + b"]"
    if value is None or isinstance(value, str | int | float):
        return repr(value).encode()
    thing: Any = value
    name = getattr(thing, "__qualname__", type(thing).__qualname__)  # in a repr are addresses
    if is_dataclass(thing) and not isinstance(thing, type):
        return name.encode() + _bytes({f.name: getattr(thing, f.name) for f in fields(thing)})
    return str(name).encode()


def turn(process: tuple[int, int] | None) -> tuple[int, int]:
    """This process's number and how many there are, by default from RANK and WORLD_SIZE."""
    if process is None:
        texts = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
        try:
            process = int(texts["RANK"] or 0), int(texts["WORLD_SIZE"] or 1)
        except ValueError:
            remedy = "unset them, or start the processes with torchrun"
            raise fail("RANK, WORLD_SIZE", "whole numbers", texts, remedy) from None
    number, count = process
    if not 0 <= number < count:
        remedy = "process r of K has 0 <= r < K; torchrun sets RANK and WORLD_SIZE"
        raise fail("process", "a number below the count", f"{number} of {count}", remedy)
    return number, count


def claim(
    out: Path, settings: dict[str, Any], threads: int | None, overwrite: bool
) -> tuple[dict[str, Any], BinaryIO]:
    """Make the folder one of samples of these settings, or see that it is; its open manifest.

    Of processes that come at once the first one writes, and the others read what it wrote.
    """
    settings = json.loads(json.dumps(settings))
    if out.exists() and not out.is_dir():
        raise _refuse("a folder", f"{out}, a file", "choose another name")
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / MANIFEST).exists():
            _check_empty(out)
            _write_first(out, settings, threads or torch.get_num_threads())
    found = read_manifest(out)
    wanted = {**settings, "threads": found["threads"] if threads is None else threads}
    present = {**found["settings"], "threads": found["threads"]}
    if wanted != present:
        if overwrite:
            _clear(out, found["settings"])
            store(out / f".{MANIFEST}.tmp", _manifest(settings, wanted["threads"]))
            os.replace(out / f".{MANIFEST}.tmp", out / MANIFEST)
            return claim(out, settings, threads, False)
        raise _other(out, present, wanted)
    with explained(out):
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied", str(out))
        return found, (out / MANIFEST).open("r+b")


def _check_empty(out: Path) -> None:
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    # Another process may have written the manifest and a shard since it was looked for.
    if others and not (out / MANIFEST).exists():
        remedy = "nothing was changed there: choose a new folder"
        got = f"{out} with {', '.join(others[:4])}"
        raise _refuse(f"a new folder, an empty one or one with {MANIFEST}", got, remedy)


def _manifest(settings: dict[str, Any], threads: int) -> bytes:
    head = {"format": FORMAT, "version": VERSION, "torch": torch.__version__, "threads": threads}
    return json.dumps({**head, "settings": settings}, indent=1).encode()


def _write_first(out: Path, settings: dict[str, Any], threads: int) -> None:
    made = out / f".{MANIFEST}.{os.urandom(4).hex()}.tmp"
    store(made, _manifest(settings, threads))
    try:
        os.link(made, out / MANIFEST)  # which fails if it is there, as a rename would not
    except (FileExistsError, FileNotFoundError):
        pass  # another process was first, and may have removed what it saw as left over
    except OSError:  # a file system without links
        os.replace(made, out / MANIFEST)
    made.unlink(missing_ok=True)
    flush(out)


def _other(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> ValueError:
    keys = [k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)]
    parts = [f"{k}: {show(found.get(k))} there, {show(wanted.get(k))} now" for k in keys]
    remedy = "nothing was changed: choose another folder, give the same settings, or overwrite"
    return _refuse(f"the settings of {out}", "; ".join(parts), remedy)


def _refuse(expected: str, got: str, remedy: str) -> ValueError:
    """As `fail` of the folder, with all of its path, however long."""
    return ValueError(f"out: expected {expected}, got {got}; {remedy}")


def _clear(out: Path, settings: dict[str, Any]) -> None:
    """Remove the shards of a run that is to be overwritten."""
    with (out / MANIFEST).open("r+b") as file:
        count = len(shards_of(settings))
        mine(file, range(count), out)
        sweep(out, range(count), settings["format"])
        with explained(out):
            for k in range(count):
                remove(out / shard_name(k, settings["format"]))


def mine(file: BinaryIO, shards: Iterable[int], out: Path) -> None:
    """Lock these shards, byte k of the manifest for shard k, for as long as the process lives.

    Two processes that would write the same shard are told apart, whatever their numbers; a
    process that was killed holds nothing.
    """
    try:
        import fcntl
    except ImportError:  # not posix: no lock, and the user sees to it
        return
    for k in shards:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, k)
        except (BlockingIOError, PermissionError):
            got = f"{out}, where another process draws shard {k}"
            remedy = "wait for it, or end it; processes of one run differ in RANK"
            raise _refuse("a folder that no other run writes to", got, remedy) from None
        except OSError:  # a file system without locks
            return


def sweep(out: Path, shards: Iterable[int], format: str) -> list[Path]:
    """Remove what a killed process left half-written of these shards and of the manifest."""
    halves = [half_of(out / shard_name(k, format)) for k in shards]
    halves = [half for half in halves if half.exists()]
    with explained(out):
        for half in [*halves, *out.glob(f".{MANIFEST}.*tmp")]:
            remove(half)
    return halves


def half_of(place: Path) -> Path:
    """Where a shard is written before it is renamed."""
    return place.with_name(f".{place.name}.tmp")


def remove(place: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def store(file: Path, content: bytes | memoryview) -> None:
    """Write a file and flush it to the disk."""
    with file.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def flush(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def explained(place: Path) -> Iterator[None]:
    """What the system says of a write that failed, with the place and the remedy."""
    try:
        yield
    except OSError as error:
        message = (
            f"out: expected to write {place}, got {type(error).__name__}: {error}; what was "
            "finished before is intact: free some space, raise the quota or mend the permissions, "
            "and make the same call again"
        )
        raise OSError(error.errno or 5, message) from error
