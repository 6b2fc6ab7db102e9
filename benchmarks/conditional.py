"""p(x | y) for a measured vector y, learned with the defaults, beside the exact conditional.

    python benchmarks/conditional.py [--quick] [--seeds 3] [--steps 6000]

Data are linear and Gaussian: x ~ N(0, S) in D dimensions, y = A x + noise of standard deviation
0.3 in K, so x | y is Gaussian in closed form, for every subset of the entries of y as well. S has
eigenvalues from 0.1 to 2 in random directions; A is random. There are four problems: D = 2 with
K = 1, D = 8 with K = 4, and the latter with every entry of y missing (NaN) in 0.3 of the rows; and
D = 2 with two numbers that are conditions of their own, of which samples are given one.

The network is that of `network_for`, trained by `Trainer(model, data, steps=n)` with nothing else
said, on 100,000 pairs. For each of 20 values of y (for the third problem, with entries missing as
in the data) 2,000 samples by `auto` in at most 20 network calls stand beside 2,000 exact ones: the
sliced W2 distance between them, and the floor, that between two exact sets. The ratio is the mean
distance over the mean floor; the aim is at most 2.

A training that is done is kept in results/conditional.json, unless its recipe was another, so a
run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, Preconditioned, ReverseSampler, Trainer
from scoresde._io import write
from scoresde.data import Data
from scoresde.metrics import sliced_wasserstein
from scoresde.nets import Vector, network_for
from scoresde.training.recipe import recipe_for

RESULTS = Path(__file__).parent / "results"
NOISE = 0.3
CALLS = 20
AIM = 2.0


@dataclass(frozen=True)
class Problem:
    """x ~ N(0, S), y = A x + noise, with entries of y missing at random.

    Args:
        dim, measured: the sizes of x and y.
        missing: the share of entries of y that are missing.
        apart: whether every number of y is a condition of its own, of which samples are given one.
    """

    dim: int
    measured: int
    missing: float = 0.0
    apart: bool = False

    @property
    def name(self) -> str:
        if self.apart:
            return f"{self.dim}-D given one of {self.measured} conditions"
        partly = f", {self.missing:.0%} of y missing" if self.missing else ""
        numbers = "number" if self.measured == 1 else f"{self.measured} numbers"
        return f"{self.dim}-D given {'a ' * (self.measured == 1)}{numbers}{partly}"

    def parameters(self) -> tuple[Tensor, Tensor]:
        """S and A, the same in every run."""
        generator = torch.Generator().manual_seed(self.dim)
        turn = torch.linalg.qr(
            torch.randn(self.dim, self.dim, generator=generator, dtype=torch.float64)
        ).Q
        eigenvalues = torch.logspace(math.log10(0.1), math.log10(2.0), self.dim).double()
        a = torch.randn(self.measured, self.dim, generator=generator, dtype=torch.float64)
        return (turn * eigenvalues) @ turn.T, a

    def draw(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n pairs (x, y) in float64."""
        generator = torch.Generator().manual_seed(seed)
        s, a = self.parameters()
        x = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        x = x @ torch.linalg.cholesky(s).T
        noise = torch.randn(n, self.measured, generator=generator, dtype=torch.float64)
        y = x @ a.T + NOISE * noise
        gone = torch.rand(y.shape, generator=generator, dtype=torch.float64) < self.missing
        return x, y.masked_fill(gone, math.nan)

    def exact(self, y: Tensor, n: int, seed: int) -> Tensor:
        """n exact samples of x given the entries of y (K,) that are numbers."""
        mean, covariance = self.moments(y)
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return mean + z @ torch.linalg.cholesky(covariance).T

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x given y (K,): m = G y, C = S - G A S, G the gain."""
        s, a = self.parameters()
        here = ~y.isnan()
        a, y = a[here], y[here]
        gain = torch.linalg.solve(a @ s @ a.T + NOISE**2 * torch.eye(len(y)).double(), a @ s).T
        return gain @ y, s - gain @ a @ s


PROBLEMS = (
    Problem(2, 1),
    Problem(8, 4),
    Problem(8, 4, missing=0.3),
    Problem(2, 2, apart=True),
)


def conditions(problem: Problem, y: Tensor) -> dict[str, Tensor]:
    """The conditions that the values y (n, K) make."""
    if problem.apart:
        return {f"y{k}": y[:, k : k + 1].float() for k in range(problem.measured)}
    return {"y": y.float()}


def sampler_of(model: Any, calls: int) -> ReverseSampler:
    """`auto` in as many steps as fit into so many network calls."""
    for steps in range(calls, 0, -1):
        sampler = ReverseSampler(model.sde, model, steps=steps)
        specs = model.net.config["conditions"]
        cond = {name: torch.zeros(1, spec["size"]) for name, spec in specs.items()}
        if sampler.solve((1, model.net.config["dim"]), seed=0, cond=cond).nfe <= calls:
            return sampler
    raise AssertionError("one step takes more calls")


def one(problem: Problem, seed: int, steps: int, rows: int, values: int, n: int) -> dict[str, Any]:
    """Train once, and compare at so many values of y."""
    x, y = problem.draw(rows, seed)
    torch.manual_seed(seed)
    cond = conditions(problem, y)
    net = network_for(
        (problem.dim,), conditions={name: Vector(value.shape[1]) for name, value in cond.items()}
    )
    data = Data(x.float(), cond)
    began = time.process_time()
    model = Trainer(Preconditioned(net, VPSDE()), data, steps=steps, seed=seed).fit()
    seconds = time.process_time() - began
    sampler, pairs = sampler_of(model, CALLS), []
    for i, given in enumerate(problem.draw(values, 10_000 + seed)[1]):
        if problem.apart:
            given = given.where(torch.arange(problem.measured) == i % problem.measured, math.nan)
        made = conditions(problem, given.expand(n, -1)).items()
        cond = {name: value for name, value in made if not (problem.apart and value.isnan().all())}
        solution = sampler.solve((n, problem.dim), seed=i, cond=cond)
        first, second = (problem.exact(given, n, 2 * i + k) for k in (0, 1))
        pairs.append([sliced_wasserstein(solution.x, first), sliced_wasserstein(second, first)])
    distance, floor = (statistics.fmean(p[k] for p in pairs) for k in (0, 1))
    return {
        "distance": distance,
        "floor": floor,
        "ratio": distance / floor,
        "worst": max(d for d, _ in pairs) / floor,
        "calls": solution.nfe,
        "solver": str(sampler.plan.solver),
        "seconds": seconds,
        "parameters": sum(p.numel() for p in net.parameters()),
    }


def report(found: dict[str, Any]) -> str:
    lines = [
        "# Conditional samples beside the exact conditional",
        "",
        f"`{found['command']}`: {found['steps']} steps of training; the sliced W2 distance of "
        f"{found['samples']} samples to exact ones, means over {found['values']} values of y, and "
        "the floor, between two exact sets; the worst of these values over the mean floor. The "
        f"aim is a ratio of at most {AIM:g}.",
        "",
        "| problem | seed | calls | distance | floor | ratio | worst | training, s of the "
        "processor |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, seeds in found["cells"].items():
        for seed, row in seeds.items():
            figures = " | ".join(f"{row[k]:.3g}" for k in ("distance", "floor", "ratio", "worst"))
            lines.append(
                f"| {name} | {seed} | {row['calls']} | {figures} | {row['seconds']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--seeds", type=int, help="trainings of each problem (3; quick: 1)")
    parser.add_argument("--steps", type=int, help="of a training (6000; quick: 200)")
    args = parser.parse_args()
    quick = args.quick
    sizes = {"rows": 2000, "values": 3, "n": 300} if quick else {}
    sizes = {"rows": 100_000, "values": 20, "n": 2000} | sizes
    stem = RESULTS / ("conditional-quick" if quick else "conditional")
    found: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/conditional.py", *sys.argv[1:]]),
        "steps": args.steps or (200 if quick else 6000),
        "values": sizes["values"],
        "samples": sizes["n"],
        "cells": {},
    }
    file = stem.with_suffix(".json")
    if file.exists() and not quick:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["steps"] == found["steps"]:
            found["cells"] = kept["cells"]
    RESULTS.mkdir(exist_ok=True)
    for problem, seed in product(PROBLEMS, range(args.seeds or (1 if quick else 3))):
        done = found["cells"].setdefault(problem.name, {})
        recipe = str(recipe_for((problem.dim,)))
        if done.get(str(seed), {}).get("recipe") != recipe:
            done[str(seed)] = one(problem, seed, found["steps"], **sizes) | {"recipe": recipe}
            print(problem.name, seed, done[str(seed)], flush=True)
            write(file, (json.dumps(found, indent=1) + "\n").encode())
    text = report(found)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
