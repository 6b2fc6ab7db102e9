"""How far resident memory grows when 50,000 images are sampled, over one batch.

    python benchmarks/memory.py [--n 50000]

`sample_to` draws 1 x 28 x 28 images with a tiny network, in a process of its own for each number
of samples; the figure is the difference of their peaks of resident memory, which the system keeps.
All the images together, as floats, are beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import VPSDE, Preconditioned, Quantisation, ReverseSampler, sample_to
from scoresde.sampler import ShardFiles

RESULTS = Path(__file__).parent / "results"
SHAPE, SHARD = (1, 28, 28), 500


class Tiny(nn.Module):
    """A network of two layers, so that 50,000 images take seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(784, 16), nn.Linear(16, 784)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = self.first(x.flatten(1)) + t[:, None]
        out: Tensor = self.last(hidden.tanh())
        return out.view_as(x)


def peak(n: int, format: str) -> float:
    """Sample n images here; the peak of this process's resident memory in MB."""
    torch.manual_seed(0)
    model = Preconditioned(Tiny(), VPSDE()).eval()
    sampler = ReverseSampler(model.sde, model, "dpmpp_2m_sde", steps=3)
    with tempfile.TemporaryDirectory() as out:
        files = ShardFiles(quantisation=Quantisation(256), format=format, shard=SHARD)
        done = sample_to(sampler, out, n, SHAPE, files=files)
    if done.missing or done.drawn != -(-n // SHARD):
        raise RuntimeError(f"not all was drawn: {done}")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measured(n: int, format: str) -> tuple[float, float]:
    """The peak in a fresh process in MB, and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--child", str(n), "--format", format]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout), time.perf_counter() - began


def report(found: dict[str, Any]) -> str:
    figures = found["figures"].items()
    rows = "\n".join(f"| {key} | {value:.5g} |" for key, value in figures if key != "seconds")
    return (
        f"# Memory of sampling\n\n`{found['command']}`, torch {torch.__version__}, "
        f"{platform.machine()}\n\n| | |\n| --- | ---: |\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--format", default="npz", choices=["npz", "png"])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(peak(args.child, args.format))
        return
    one, _ = measured(SHARD, args.format)
    many, seconds = measured(args.n, args.format)
    figures = {
        "samples": args.n,
        "a batch": SHARD,
        "peak with one batch, MB": one,
        "peak with all samples, MB": many,
        "growth, MB": many - one,
        "bound, MB": 300,
        "all samples as floats, MB": 4e-6 * args.n * 784,
        "seconds": seconds,
    }
    found = {"command": f"python benchmarks/memory.py --n {args.n}", "figures": figures}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (RESULTS / "memory.md").write_text(report(found), "utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
