"""What noise costs: ratio to torch.randn over the steps of a sampler, one thread.

    python benchmarks/noise.py [--shape 64 3 32 32] [--rounds 7] [--threads 1]

Each row is one grid, walked from its first step to its last by a fresh noise source, as a sampler
does; its cost is divided by that of as many calls of torch.randn. Rounds are interleaved, and the
figures are medians of CPU time on one machine. With (W, H) the source gives Levy areas as well,
and the best ratio possible is 2. torchsde's BrownianTree, if installed, is asked for the same
increments at a tolerance of one leaf of our path; it is timed once, since it takes seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from scoresde import VPSDE, Grid
from scoresde.noise import BrownianPath, Independent, Noise, PathOnGrid
from scoresde.schedule.grid import karras, log_snr, uniform

SDE = VPSDE()

GRIDS: dict[str, Grid] = {
    **{f"log-SNR, {n} steps": log_snr(SDE, n) for n in (10, 16, 20, 25, 32, 50, 64, 100)},
    "log-SNR, 18 steps": log_snr(SDE, 18),
    "Karras, 20 steps": karras(SDE, 20),
    "Karras, 50 steps": karras(SDE, 50),
    "uniform in t, 50 steps": uniform(SDE, 50),
}

SOURCES: dict[str, Callable[[Grid], Noise]] = {
    "independent": lambda grid: Independent(0),
    "on grid": lambda grid: PathOnGrid(0, SDE, grid.times),
    "path": lambda grid: BrownianPath(0, SDE),
}


def seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def walk(make: Callable[[Grid], Noise], grid: Grid, like: Tensor, levy: bool) -> None:
    noise, nodes = make(grid), [SDE.at(t) for t in grid.times]
    for now, nxt in pairwise(nodes):
        if levy:
            noise.levy(like, now, nxt)
        else:
            noise.normal(like, now, nxt)


def plain(grid: Grid, like: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(grid.steps):
        torch.randn(like.shape, generator=generator)


def tree(grid: Grid, like: Tensor) -> float | None:
    """torchsde's BrownianTree on the same places, in seconds; None without torchsde."""
    try:
        import torchsde
    except ImportError:
        return None
    at = [SDE.at(t).log_snr for t in grid.times]
    w = torchsde.BrownianTree(at[0], torch.zeros_like(like), at[-1], entropy=0, tol=1 / 2048)

    def run() -> None:
        for a, b in pairwise(at):
            w(a, b)

    return seconds(run)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs="+", default=[64, 3, 32, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grids", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--no-torchsde", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    like = torch.empty(args.shape)
    columns = [(name, levy) for name in SOURCES for levy in (False, True)]
    heads = [f"{name}{' (W, H)' if levy else ''}" for name, levy in columns]
    print("| grid | " + " | ".join([*heads, "torchsde tree"]) + " |")
    print("| --- |" + " ---: |" * (len(heads) + 1))
    for label in args.grids:
        grid = GRIDS[label]
        times: dict[str, list[float]] = {head: [] for head in ["randn", *heads]}
        for _ in range(args.rounds):
            times["randn"].append(seconds(lambda g=grid: plain(g, like)))
            for head, (name, levy) in zip(heads, columns, strict=True):
                run = seconds(lambda g=grid, n=name, h=levy: walk(SOURCES[n], g, like, h))
                times[head].append(run)
        base = statistics.median(times["randn"])
        figures = [f"{statistics.median(times[head]) / base:.2f}" for head in heads]
        slow = None if args.no_torchsde else tree(grid, like)
        figures.append("-" if slow is None else f"{slow / base:.0f}")
        print(f"| {label} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
