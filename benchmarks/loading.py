"""Resident memory while data that are larger than memory are read and trained on.

    python benchmarks/loading.py [--gigabytes 10] [--steps 50]

Each case is a process of its own that opens a .npy file of bytes, of which the disk holds the
header alone (its holes read as zeros, through the page cache as any file), and notes its highest
resident memory (VmHWM) after the first batch and at the end:

- images: `Trainer.fit` on batches of 64 random rows of 3 x 64 x 64;
- columns: the same on rows of 8 values, of which there are more than a billion, so that even the
  order of an epoch would not fit;
- moments: mean and deviation over all rows of the first gigabyte, in one pass.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde import VPSDE, Preconditioned, Trainer
from scoresde.data import LazyData, moments, npy
from scoresde.nets import MLP, UNet
from scoresde.options import Optim

RESULTS = Path(__file__).parent / "results"

SHAPES = {"images": (3, 64, 64), "columns": (8,), "moments": (3, 64, 64)}


def sparse(file: Path, shape: tuple[int, ...], bytes_in_all: int) -> None:
    """A .npy file of unsigned bytes that takes no room."""
    rows = bytes_in_all // math.prod(shape)
    with file.open("wb") as handle:
        head = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(handle, head)
        handle.truncate(handle.tell() + rows * math.prod(shape))


def peak() -> float:
    """The highest resident memory of this process so far, in megabytes."""
    with Path("/proc/self/status").open(encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1000


def work(case: str, file: str, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    shape = SHAPES[case]
    data = npy(file, layout="NCHW" if len(shape) == 3 else "ND", levels=256)
    if case == "moments":
        rows = min(len(data), 10**9 // math.prod(shape))
        first: LazyData = data.take(slice(0, 64))
        moments(first)
        before, began = peak(), time.perf_counter()
        assert moments(data.take(slice(0, rows))).count == rows
    else:
        net = UNet(3, width=8) if len(shape) == 3 else MLP(shape[0], width=32)
        model, optim = Preconditioned(net, VPSDE()), Optim(batch_size=64)
        batch = data[torch.arange(0, len(data), len(data) // 64)[:64]]
        Trainer(model, (batch.x + torch.randn_like(batch.x), {}), steps=2, optim=optim).fit()
        before, began, rows = peak(), time.perf_counter(), len(data)
        Trainer(model, data, steps=steps, optim=optim).fit()
    seconds = time.perf_counter() - began
    return {"rows": rows, "before_mb": before, "grown_mb": peak() - before, "seconds": seconds}


def measure(case: str, gigabytes: float, steps: int, folder: Path) -> dict[str, float]:
    """One case in a process of its own."""
    file = folder / f"{case}.npy"
    sparse(file, SHAPES[case], int(gigabytes * 1e9))
    command = [sys.executable, __file__, "--work", case, str(file), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(found: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {case} | {f['rows']:,.0f} | {f['before_mb']:.0f} | {f['grown_mb']:.0f} | "
        f"{f['seconds']:.1f} |"
        for case, f in found["cases"].items()
    )
    return (
        f"# Loading\n\n`{found['command']}`, torch {torch.__version__}, {platform.machine()}\n\n"
        f"A .npy file of {found['gigabytes']:g} GB. The bound is 300 MB over one batch.\n\n"
        "| case | rows | after one batch, MB | grown, MB | seconds |\n"
        f"| --- | ---: | ---: | ---: | ---: |\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(*args.work, args.steps)))
        return
    command = f"python benchmarks/loading.py --gigabytes {args.gigabytes:g} --steps {args.steps}"
    found: dict[str, Any] = {"command": command, "gigabytes": args.gigabytes, "cases": {}}
    for case in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            found["cases"][case] = measure(case, args.gigabytes, args.steps, Path(folder))
        print(case, found["cases"][case], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loading.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "loading.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
