"""The variance-preserving diffusion of deepinv, also of a version that is not in the environment.

    python -m benchmarks.wild_deepinv

prints the figures of the deepinv that is found first. `older` runs it with a version that `make
bench` put into a folder of its own, .venv/bench/older/deepinv-0.4.2, and changes nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.stand_ins import standing_in
from benchmarks.wild_checks import F64, of_flow

__all__ = ["figures", "folder", "older"]

OTHERS = ("torchvision", "h5py", "natsort", "torchmetrics")
"""Packages that deepinv imports and its diffusions do not use."""


class _Exact(torch.nn.Module):
    """The mean of x_0 given x_0 plus noise of a level, for normal data of deviation 1/2."""

    def forward(self, x: Tensor, level: Tensor, **_: object) -> Tensor:
        return 0.25 / (0.25 + level.to(x) ** 2) * x


def figures() -> list[float]:
    """The check `of_flow`, for the probability flow in 100 steps of Heun."""
    with standing_in(*OTHERS):
        library = importlib.import_module("deepinv.sampling")
    flow = library.VariancePreservingDiffusion(_Exact())  # alpha = 0: no noise
    solver = library.HeunSolver(torch.linspace(1.0, 1e-3, 101, dtype=F64))

    def end(start: float) -> float:
        x = torch.full((1, 1, 1, 1), start, dtype=F64)
        # States go to the denoiser as they are, in both versions.
        return float(solver.sample(flow, x, input_in_minus_one_one=True).sample)

    return list(
        of_flow(lambda t: float(flow.sigma_t(t)), lambda t: float(flow.sigma_prime_t(t)), end)
    )


def folder(package: str, version: str) -> Path:
    """Where an older version lies."""
    return Path(sys.prefix, "older", f"{package}-{version}")


def older(version: str) -> list[float]:
    """The figures of an older deepinv, in a process of its own."""
    found = (str(folder("deepinv", version)), str(Path(__file__).parents[1]))
    path = os.pathsep.join([*found, *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.wild_deepinv"],
        env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [float(figure) for figure in json.loads(run.stdout.splitlines()[-1])]


if __name__ == "__main__":
    print(json.dumps(figures()))
