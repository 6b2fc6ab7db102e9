"""Kills a sampling run at random moments, over and over, and compares what is left in the end.

    python benchmarks/kill_sampling.py [--kills 50] [--formats npz png]

One run is left alone. The other one is killed with SIGKILL, each time at a moment drawn at random
(some shards later), every second time while it writes a shard; the same call then goes on. After
each kill, every shard that is there must equal that of the run left alone, to the bit: a shard
that is half written must never be seen under its name. In the end the folders must be equal, name
by name and byte by byte.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import signal
import tempfile
import time
import warnings
from dataclasses import fields
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from scoresde import VPSDE, Preconditioned, Quantisation, ReverseSampler, load, sample_to, save
from scoresde.nets import UNet
from scoresde.sampler import ShardFiles

RESULTS = Path(__file__).parent / "results"


def tiny(folder: Path) -> ReverseSampler:
    """A tiny U-Net with classes and random weights, from a checkpoint."""
    net = UNet(1, width=8, multipliers=(1,), attention=(), heads=1, classes=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1, generator=generator)
    model = load(save(Preconditioned(net, VPSDE()), folder))
    return ReverseSampler(model.sde, model, "dpmpp_2m_sde", steps=2)


def run(sampler: ReverseSampler, out: Path, options: dict[str, Any]) -> None:
    """One run: 8 x 8 images of three classes."""
    warnings.simplefilter("ignore")  # half-written shards are what this is about
    size = options["n"], (1, 8, 8)
    rest = {key: value for key, value in options.items() if key != "n"}
    names = {field.name for field in fields(ShardFiles)} & rest.keys()
    files = ShardFiles(quantisation=Quantisation(256), **{k: rest.pop(k) for k in names})
    sample_to(sampler, out, *size, seed=5, labels=range(3), files=files, **rest)


def started(sampler: ReverseSampler, out: Path, options: dict[str, Any]) -> BaseProcess:
    """A run in a process of its own: a fork, which spares it the imports."""
    child = get_context("fork").Process(target=run, args=(sampler, out, options))
    child.start()
    return child


def contents(out: Path) -> dict[str, bytes]:
    """Name -> bytes of every file below a folder, hidden ones too."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def halves(out: Path) -> list[str]:
    """What is being written just now, or was when the process died."""
    return [path.name for path in out.glob(".*.tmp*")]


def done(child: BaseProcess) -> None:
    child.join(600)
    if child.exitcode != 0:
        raise RuntimeError(f"the run failed with exit code {child.exitcode}")


def shards(out: Path) -> int:
    """How many whole shards there are."""
    return len(list(out.glob("shard-*")))


def killed(child: BaseProcess, out: Path, more: int, delay: float, writing: bool) -> bool:
    """Kill a run some time after so many more shards, or at the next write; was it writing?"""
    wanted, until = shards(out) + more, time.monotonic() + 60
    while shards(out) < wanted and child.is_alive() and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(delay)
    while writing and not halves(out) and child.is_alive() and time.monotonic() < until:
        time.sleep(0.0002)
    child.kill()
    child.join()
    if child.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the run ended before it was killed, with {child.exitcode}")
    return bool(halves(out))


def survive(place: Path, kills: int, options: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Kill a run, resume it, and compare it with one that was left alone.

    Raises:
        RuntimeError: anything differs.
    """
    sampler, whole, parts = tiny(place / "model"), place / "whole", place / "parts"
    began, draw, writing = time.monotonic(), random.Random(seed), 0
    done(started(sampler, whole, options))
    expected = contents(whole)
    for number in range(kills):
        more, delay = draw.randrange(4), draw.uniform(0.0, 0.03)
        child = started(sampler, parts, options)
        writing += killed(child, parts, more, delay, number % 2 == 1)
        for name, content in contents(parts).items() if parts.exists() else ():
            if not name.startswith(".") and expected.get(name) != content:
                raise RuntimeError(f"after kill {number + 1}, {name} is not as it should be")
    before = shards(parts)
    done(started(sampler, parts, options))
    found = contents(parts)
    if found != expected:
        names = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
        raise RuntimeError(f"other contents than the undisturbed run: {names[:5]}")
    return {
        "kills": kills,
        "while_writing": writing,
        "files": len(expected),
        "shards_after_last_kill": before,
        "bytes": sum(map(len, expected.values())),
        "equal_to_the_bit": True,
        "seconds": round(time.monotonic() - began, 1),
    }


def report(found: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {name} | {r['kills']} | {r['while_writing']} | {r['files']} | {r['bytes']} "
        f"| {'yes' if r['equal_to_the_bit'] else 'no'} |"
        for name, r in found["runs"].items()
    )
    return (
        f"# Sampling, killed\n\n`{found['command']}`, torch {torch.__version__}, "
        f"{platform.machine()}, 1 thread\n\n"
        "| shards | kills | while writing | files | bytes | equal to the bit |\n"
        f"| --- | ---: | ---: | ---: | ---: | --- |\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--formats", nargs="+", default=["npz", "png"], choices=["npz", "png"])
    args = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    command = f"python benchmarks/kill_sampling.py --kills {args.kills}"
    found: dict[str, Any] = {"command": command, "runs": {}}
    for format in args.formats:
        options = {"n": 3 * (8 * args.kills + 20), "shard": 3, "format": format}
        with tempfile.TemporaryDirectory() as folder:
            found["runs"][format] = survive(Path(folder), args.kills, options)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "kill_sampling.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (RESULTS / "kill_sampling.md").write_text(report(found), "utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
