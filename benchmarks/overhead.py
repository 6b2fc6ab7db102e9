"""What a solver's step costs beyond the network: ratio to bare calls, and microseconds.

    python benchmarks/overhead.py [--threads 1 2] [--steps 50] [--rounds 15]

The network is small (batch 256, dimension 2, three layers of width 64), so that Python and small
tensor operations show. Its output is bounded, so states stay of unit size. Bare calls are made on
the states at which the solver called the network, with the times ready; the noise is drawn again
by itself. Rounds are interleaved; figures are medians of one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from scoresde import VPSDE, Independent, Noise, Preconditioned, ReverseSampler
from scoresde.node import Node
from scoresde.sampler import SOLVERS

SHAPE = (256, 2)
RESULTS = Path(__file__).parent / "results"


class Bounded(nn.Module):
    """0.9 x + 1e-3 net(x, t)."""

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        layers = [nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.9 * x + 1e-3 * self.net(torch.cat([x, t[:, None]], 1))


class Recorded(Noise):
    """The default noise, with the intervals that a solver asked for."""

    def __init__(self) -> None:
        self.inner, self.seed = Independent(0), 0
        self.asked: list[tuple[Node, Node, int]] = []

    def normal(self, like: Tensor, now: Node, nxt: Node, stage: int = 0) -> Tensor:
        self.asked.append((now, nxt, stage))
        return self.inner.normal(like, now, nxt, stage)

    def on_leg(self, leg: int) -> Noise:
        return self

    def from_sample(self, first: int) -> Noise:
        return self


def seconds(fn: object) -> float:
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


class Case:
    """One solver: its run, the bare calls on its states, and its noise."""

    def __init__(self, name: str, net: Bounded, steps: int) -> None:
        self.name, self.net = name, net
        model = Preconditioned(net, VPSDE())
        self.sampler = ReverseSampler(model.sde, model, name, steps=steps, denoise=False)
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.noise = Recorded()
        hook = net.register_forward_pre_hook(lambda _, inputs: self.calls.append(inputs))
        self.sampler.sample(SHAPE, noise=self.noise)
        hook.remove()
        self.like = torch.empty(SHAPE)

    def run(self) -> None:
        self.sampler.sample(SHAPE, seed=0)

    def bare(self) -> None:
        with torch.no_grad():
            for inputs in self.calls:
                self.net(*inputs)

    def draw(self) -> None:
        inner = self.noise.inner
        for now, nxt, stage in self.noise.asked:
            inner.normal(self.like, now, nxt, stage)


def measure(steps: int, rounds: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    net = Bounded(SHAPE[1])
    cases = [Case(name, net, steps) for name in SOLVERS]
    parts = ("run", "bare", "draw")
    times: dict[str, dict[str, list[float]]] = {c.name: {p: [] for p in parts} for c in cases}
    for turn in range(rounds + 1):
        for case in cases:
            for part in parts:
                taken = seconds(getattr(case, part))
                if turn:  # the first round warms up
                    times[case.name][part].append(taken)
    rows = []
    for case in cases:
        t = {part: statistics.median(values) for part, values in times[case.name].items()}
        own = statistics.median(
            r - b - d for r, b, d in zip(*times[case.name].values(), strict=True)
        )
        rows.append(
            {
                "solver": case.name,
                "calls": len(case.calls),
                "ratio": t["run"] / t["bare"],
                "bare us/call": 1e6 * t["bare"] / len(case.calls),
                "noise us/step": 1e6 * t["draw"] / steps,
                "own us/step": 1e6 * own / steps,
                "own us/call": 1e6 * own / len(case.calls),
            }
        )
    return rows


def table(rows: list[dict[str, object]]) -> str:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        cells = [f"{v:.2f}" if k == "ratio" else f"{v:.0f}" for k, v in list(row.items())[1:]]
        lines.append(f"| {row['solver']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    text = [
        "# Overhead of a step beyond the network and the noise",
        "",
        f"`python benchmarks/overhead.py --steps {args.steps} --rounds {args.rounds}`; "
        f"torch {torch.__version__}, {platform.machine()}, batch {SHAPE[0]} x {SHAPE[1]}.",
    ]
    results = {}
    for threads in args.threads:
        torch.set_num_threads(threads)
        rows = results[f"{threads} threads"] = measure(args.steps, args.rounds)
        text += ["", f"## {threads} thread{'s' * (threads > 1)}", "", table(rows)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overhead.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "overhead.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
