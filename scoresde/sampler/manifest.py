"""The manifest of a folder of samples: its settings, and the locks of its shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from scoresde._check import fail, refuse, show
from scoresde._io import create, digest, explained, lock, remove, sweep, write
from scoresde.data.samples import FORMAT, MANIFEST, VERSION, read_manifest, shard_name, shards_of
from scoresde.noise import SCHEME
from scoresde.process import eta_value
from scoresde.sampler.reverse import ReverseSampler
from scoresde.sde.fingerprint import fingerprint, model_hashes

__all__ = ["claim", "settings_of", "explained_shard", "mine", "sweep_shards", "turn"]


def settings_of(sampler: ReverseSampler) -> dict[str, Any]:
    """The settings of a sampler; samplers with equal settings draw equal samples."""
    grid, eta = sampler.grid, sampler.eta
    return {
        "model": {"class": type(sampler.model).__name__, "sha256": hash_of(sampler.model)},
        "sde": {"class": type(sampler.sde).__name__, "schedule": fingerprint(sampler.sde)},
        "solver": repr(sampler.solver),
        "grid": [list(segment) for segment in grid.segments],
        "eta": [eta_value(eta, t) for t in grid.times] if callable(eta) else float(eta),
        "denoise": sampler.plan.denoise,
    }


def hash_of(model: nn.Module) -> str:
    """SHA-256 of the classes, settings and weights of a model, dtypes included."""
    dtypes = [str(value.dtype) for value in model.state_dict().values()]
    return digest([model_hashes(model), dtypes])


def turn(process: tuple[int, int] | None) -> tuple[int, int]:
    """The number of this process and the number of processes, by default RANK and WORLD_SIZE."""
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
    out: Path,
    settings: dict[str, Any],
    threads: int | None,
    before: Callable[[int], object] | None = None,
) -> tuple[dict[str, Any], BinaryIO]:
    """Write the settings into the manifest of the folder, or compare them with it; return it open.

    If several processes start at once, the first one writes the manifest and the others read it.

    Args:
        out: the folder.
        settings: the settings.
        threads: the number of threads; by default that of the manifest, or that of torch.
        before: a function of the number of threads that is called before samples of other settings
            are removed, and must succeed; None if they may not be removed.
    """
    settings = json.loads(json.dumps(settings))
    if out.exists() and not out.is_dir():
        raise refuse("out", "a folder", f"{out}, a file", "choose another name")
    with explained_shard(out):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / MANIFEST).exists():
            _check_empty(out)
            create(out / MANIFEST, _manifest(settings, threads or torch.get_num_threads()))
    found = read_manifest(out)
    wanted = {**settings, "threads": found["threads"] if threads is None else threads}
    present = {**found["settings"], "threads": found["threads"]}
    scheme = found.get("noise_scheme", 1)  # folders of scheme 1 do not name it
    if scheme != SCHEME or wanted != present:
        if before is not None:
            with _locked(out, found["settings"]):
                before(wanted["threads"])
                _clear(out, found["settings"])
            write(out / MANIFEST, _manifest(settings, wanted["threads"]))
            return claim(out, settings, threads)
        raise _other(out, present, wanted) if scheme == SCHEME else _of_scheme(out, scheme)
    with explained_shard(out):
        if not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied", str(out))
        return found, (out / MANIFEST).open("r+b")


def _check_empty(out: Path) -> None:
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    # Another process may have written the manifest and a shard since the check for it.
    if others and not (out / MANIFEST).exists():
        remedy = "nothing was changed there: choose a new folder"
        got = f"{out} with {', '.join(others[:4])}"
        raise refuse("out", f"a new folder, an empty one or one with {MANIFEST}", got, remedy)


def _manifest(settings: dict[str, Any], threads: int) -> bytes:
    head = {"format": FORMAT, "version": VERSION, "noise_scheme": SCHEME}
    made = {"torch": torch.__version__, "threads": threads}
    return json.dumps({**head, **made, "settings": settings}, indent=1).encode()


def _other(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> ValueError:
    keys = [k for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)]
    parts = [f"{k}: {show(found.get(k))} there, {show(wanted.get(k))} now" for k in keys]
    remedy = "nothing was changed: choose another folder, give the same settings, or overwrite"
    return refuse("out", f"the settings of {out}", "; ".join(parts), remedy)


def _of_scheme(out: Path, scheme: object) -> ValueError:
    remedy = (
        "nothing was changed: the shards that are missing would not belong to those that are "
        "there, since a seed stands for other numbers in each scheme; choose another folder, "
        "overwrite, or finish it with the version of scoresde that began it"
    )
    expected = f"{out} to hold samples of noise scheme {SCHEME}"
    return refuse("out", expected, f"scheme {scheme}", remedy)


@contextmanager
def _locked(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Lock all shards of a run that is to be overwritten."""
    with (out / MANIFEST).open("r+b") as file:
        mine(file, range(len(shards_of(settings))), out)
        yield


def _clear(out: Path, settings: dict[str, Any]) -> None:
    """Remove the shards of a run that is to be overwritten."""
    count = len(shards_of(settings))
    sweep_shards(out, range(count), settings["format"])
    with explained_shard(out):
        for k in range(count):
            remove(out / shard_name(k, settings["format"]))


def mine(file: BinaryIO, shards: Iterable[int], out: Path) -> None:
    """Lock these shards, byte k of the manifest for shard k, for as long as the process lives.

    Of two processes that would write the same shard the second one gets an error, whatever their
    numbers; the locks of a killed process are released.
    """
    for k in shards:
        if not lock(file, k):
            got = f"{out}, where another process draws shard {k}"
            remedy = "wait for it, or end it; processes of one run differ in RANK"
            raise refuse("out", "a folder that no other run writes to", got, remedy)


def sweep_shards(out: Path, shards: Iterable[int], format: str) -> list[Path]:
    """Remove the half-written shards, and a half-written manifest, that a killed process left."""
    with explained_shard(out):
        sweep(out, (MANIFEST,))
        return sweep(out, {shard_name(k, format) for k in shards})


def explained_shard(place: Path) -> AbstractContextManager[None]:
    """Add the remedy to the error of the system if a shard cannot be written."""
    return explained(
        "out", place, "what was finished before is intact", "make the same call again"
    )
