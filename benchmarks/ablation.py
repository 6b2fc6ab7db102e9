"""Weighting x sampling of time x prediction on the digits, at equal compute, with error bars.

    python benchmarks/ablation.py [--seeds 2] [--steps 250]

One U-Net, AdamW, EMA, batch size and number of steps for all; the three choices are those of
`Preconditioned` and `dsm_loss`. The learning rate is one for all as well, and the gradient is
clipped by its norm, so that a loss of another scale does not train at another pace. Judged on the
test half by what does not favour a coordinate: the variational bound in bits/dim (17 grey levels),
and the Frechet distance of samples in a classifier's features. Means and standard errors are over
seeds (weights, order, noise, samples). A seed that is done is kept in the JSON, so a run that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from scoresde import VPSDE, Preconditioned, ReverseSampler, Trainer, elbo
from scoresde.data import Data, digits
from scoresde.losses import ImportanceTime, LogNormalTime, TimeSampler, UniformTime
from scoresde.metrics import Judge, frechet_distance
from scoresde.nets import UNet
from scoresde.options import Loss, Optim

RESULTS = Path(__file__).parent / "results"
PREDICTIONS = ("eps", "x0", "v", "edm")
WEIGHTINGS = ("eps", "v", "likelihood")
TIMES: dict[str, TimeSampler] = {
    "even": UniformTime(low_discrepancy=True),
    "importance": ImportanceTime(low_discrepancy=True),
    "log-normal": LogNormalTime(mean=-1.2, std=1.2, uniform=0.0, scale=1.0, low_discrepancy=False),
}
Cell = tuple[str, str, str]


def one(cell: Cell, seed: int, steps: int, train: Data, test: Data, judge: Judge) -> list[float]:
    """Bits/dim of the bound, Frechet distance, and the seconds of the training."""
    prediction, weighting, time_name = cell
    sde = VPSDE()
    torch.manual_seed(seed)
    model = Preconditioned(UNet(1, width=16), sde, predicts=prediction, sigma_data=1.0)
    began = time.process_time()
    trained = Trainer(
        model,
        train.x,
        steps=steps,
        optim=Optim(optimizer="adamw", batch_size=64, lr=2e-3, ema=0.99),
        loss=Loss(weighting=weighting, time=TIMES[time_name]),
        seed=seed,
    ).fit()
    seconds = time.process_time() - began
    bound = elbo(
        trained, test.x, quantisation=test.quantisation, steps=32, samples=1, t_end=1e-3, seed=seed
    )
    bits = float(bound.bits_per_dim(test.quantisation).mean())
    x = ReverseSampler(sde, trained, "unipc_3", steps=20).sample(test.x.shape, seed=seed)
    frechet = frechet_distance(judge.features(x), judge.features(test.x))
    return [bits, frechet, seconds]


def summary(values: list[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def report(found: dict[str, Any]) -> str:
    rows = []
    for key, seeds in found["cells"].items():
        bits, frechet = (summary([v[i] for v in seeds.values()]) for i in (0, 1))
        rows.append((bits[0], key.split(" / "), bits, frechet, len(seeds)))
    lines = [
        "# Weighting, sampling of time and prediction at equal compute",
        "",
        f"`{found['command']}`: digits, a U-Net, {found['steps']} steps of 64, one learning rate;",
        f"means ± standard errors over {max(r[4] for r in rows)} seeds. Two real halves have a "
        f"Frechet distance of {found['floor']:.4f}.",
        "",
        "| prediction | weighting | time | bound, bits/dim | Frechet distance |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for _, names, bits, frechet, _ in sorted(rows):
        cells = f"{bits[0]:.4f} ± {bits[1]:.4f} | {frechet[0]:.4f} ± {frechet[1]:.4f}"
        lines.append(f"| {' | '.join(names)} | {cells} |")
    lines += ["", "Medians over all that share a choice:", ""]
    lines += ["| choice | bound, bits/dim | Frechet distance |", "| --- | ---: | ---: |"]
    for place, names in enumerate((PREDICTIONS, WEIGHTINGS, tuple(TIMES))):
        for name in names:
            shared = [r for r in rows if r[1][place] == name]
            if shared:
                bits = statistics.median(r[2][0] for r in shared)
                frechet = statistics.median(r[3][0] for r in shared)
                kind = ("prediction", "weighting", "time")[place]
                lines.append(f"| {kind} {name} | {bits:.4f} | {frechet:.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--stem", default="ablation", help="name of the results")
    args = parser.parse_args()
    options = [f"--{k} {v}" for k, v in vars(args).items() if v != parser.get_default(k)]
    train, test = digits("train"), digits("test")
    judge = Judge.fit(train.x, train.cond["label"])
    floor = frechet_distance(judge.features(train.x), judge.features(test.x))
    file = RESULTS / f"{args.stem}.json"
    found: dict[str, Any] = {
        "command": " ".join(["python benchmarks/ablation.py", *options]),
        "steps": args.steps,
        "floor": floor,
        "cells": {},
    }
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["steps"] == args.steps:
            found["cells"] = kept["cells"]
    for seed, cell in product(range(args.seeds), product(PREDICTIONS, WEIGHTINGS, TIMES)):
        done = found["cells"].setdefault(" / ".join(cell), {})
        if str(seed) in done:
            continue
        done[str(seed)] = one(cell, seed, args.steps, train, test, judge)
        print(seed, *cell, *(f"{v:.4f}" for v in done[str(seed)]), flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = report(found)
    (RESULTS / f"{args.stem}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
