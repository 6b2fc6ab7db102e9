"""What the defaults give under each SDE, beside uniform times and a network that predicts eps.

    python benchmarks/defaults.py [--seeds 2]

Small networks and short trainings, as in the first minutes with a data set of one's own: an MLP
on the moons (1500 steps of 128) and a U-Net on the digits (300 steps of 64), sampled by `auto`.
The distance is the sliced Wasserstein distance for the moons and the Frechet distance in a
classifier's features for the digits; both stand beside that of two real sets. The spread is the
standard deviation of the samples over that of the data. Medians are over seeds. A cell that is
done is kept in the JSON, so a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import torch

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    Preconditioned,
    ReverseSampler,
    SubVPSDE,
    Trainer,
)
from scoresde.data import Data, digits, toy
from scoresde.losses import UniformTime
from scoresde.metrics import Judge, frechet_distance, sliced_wasserstein
from scoresde.nets import MLP, UNet
from scoresde.options import Loss, Optim, Records

RESULTS = Path(__file__).parent / "results"
SDES = {s.__name__: s() for s in (VPSDE, SubVPSDE, CosineSDE, FlowSDE, VESDE, EDMSDE)}
EVEN = UniformTime(low_discrepancy=True)
CHOICES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "uniform times": ({}, {"loss": Loss(time=EVEN)}),
    "predicts eps, uniform times": ({"predicts": "eps"}, {"loss": Loss(time=EVEN)}),
}
STEPS = (10, 50)
ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3}


class Problem:
    """Data to train on, data to judge by, a network, and a distance."""

    def __init__(self, name: str) -> None:
        self.image = name == "digits"
        self.train, self.test = (
            (digits("train"), digits("test"))
            if self.image
            else (toy(name, 4000, seed=0), toy(name, 4000, seed=1))
        )
        self.judge = Judge.fit(self.train.x, self.train.cond["label"]) if self.image else None
        self.options = {"steps": 300, "optim": Optim(**ADAMW, batch_size=64, ema=0.99)}
        if not self.image:
            self.options = {"steps": 1500, "optim": Optim(**ADAMW, batch_size=128, ema=0.999)}

    def distance(self, x: torch.Tensor) -> float:
        if self.judge is None:
            return sliced_wasserstein(x, self.test.x)
        return frechet_distance(self.judge.features(x), self.judge.features(self.test.x))

    def one(self, sde: str, choice: str, seed: int) -> list[list[float]]:
        """(distance, spread) at each number of steps."""
        reading, training = CHOICES[choice]
        torch.manual_seed(seed)
        net = UNet(1, width=16) if self.image else MLP(2)
        process = SDES[sde]
        model = Preconditioned(net, process, **reading)
        data = Data(self.train.x)
        records = Records(calibrate=None)
        options = {**self.options, **training, "records": records}
        trained = Trainer(model, data, seed=seed, **options).fit()
        found = []
        for steps in STEPS:
            x = ReverseSampler(process, trained, steps=steps).sample(self.test.x.shape, seed=seed)
            found.append([self.distance(x), float(x.std() / self.test.x.std())])
        return found


def report(found: dict[str, Any]) -> str:
    lines = [
        "# What the defaults give",
        "",
        f"`{found['command']}`: an MLP on the moons (1500 steps of 128; sliced Wasserstein, real "
        f"halves {found['floor']['moons']:.3f}) and a",
        f"U-Net on the digits (300 steps of 64; Frechet distance, real halves "
        f"{found['floor']['digits']:.4f}), sampled by `auto` at 10 and 50",
        "steps. Each cell is the distance, and the standard deviation over that of the data; "
        f"medians over {found['seeds']} seeds.",
        "",
        "| SDE | choices | moons, 10 | moons, 50 | digits, 10 | digits, 50 |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for sde, choice in product(SDES, CHOICES):
        cells = []
        for problem in ("moons", "digits"):
            runs = list(found["cells"].get(f"{problem} / {sde} / {choice}", {}).values())
            for i in range(len(STEPS)):
                if not runs:
                    cells.append("")
                    continue
                distance, spread = (statistics.median(run[i][k] for run in runs) for k in (0, 1))
                cells.append(f"{distance:.3f}, {spread:.2f}")
        if any(cells):
            lines.append(f"| {sde} | {choice} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    file = RESULTS / "defaults.json"
    problems = {name: Problem(name) for name in ("moons", "digits")}
    found: dict[str, Any] = {
        "command": f"python benchmarks/defaults.py --seeds {args.seeds}",
        "seeds": args.seeds,
        "floor": {name: p.distance(p.train.x) for name, p in problems.items()},
        "cells": json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else {},
    }
    cells = product(range(args.seeds), CHOICES, SDES, problems)
    for seed, choice, sde, problem in cells:
        if choice.startswith("predicts eps") and sde not in ("VPSDE", "FlowSDE"):
            continue
        done = found["cells"].setdefault(f"{problem} / {sde} / {choice}", {})
        if str(seed) not in done:
            done[str(seed)] = problems[problem].one(sde, choice, seed)
            print(seed, problem, sde, choice, done[str(seed)], flush=True)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = report(found)
    (RESULTS / "defaults.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
