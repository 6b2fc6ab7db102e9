"""What a step of training costs: bfloat16, channels-last weights and torch.compile.

    python benchmarks/steps.py [--only vector digits] [--ways float32 bf16] [--steps 12]

Data are random numbers of the shape of a kind, and the models those that `scoresde train` builds.
A step of `Trainer.fit` with the optimiser of the recipe is timed as a whole, in seconds of the
processor on one thread, from one call of the loss to the next: the median of the steps after the
first two. The first step has a column of its own, since with torch.compile it contains the
compilation.

A cell is kept in results/steps.json, so cells can be run one by one. `python benchmarks/page.py`
shows them in docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import Trainer
from scoresde.losses import dsm_loss
from scoresde.options import Loss, Optim, Records
from scoresde.training.processes import computes_bf16

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.built import built

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "steps.json"
SHAPES = {"vector": (2,), "signal": (1, 64), "digits": (1, 8, 8), "images": (1, 28, 28)}
WARM = 2
"""The number of first steps that are not counted."""

WAYS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "no"},
    "bf16": {"precision": "bf16"},
    "channels-last": {"precision": "no"},
    "bf16, channels-last": {"precision": "bf16"},
    "compiled": {"precision": "no", "compile": True},
}


def applies(kind: str, way: str, units: bool) -> bool:
    """Whether data of this kind have this way, on a processor with or without bfloat16.

    Only weights of images have two layouts.
    """
    return (units or "bf16" not in way) and ("channels-last" not in way or len(SHAPES[kind]) == 3)


def one(kind: str, way: str, steps: int) -> dict[str, float]:
    """The seconds of a step and of the first one."""
    shape = SHAPES[kind]
    torch.manual_seed(0)
    model = built(shape, preset="small")
    if "channels-last" in way:
        model.to(memory_format=torch.channels_last)
    began: list[float] = []

    def timed(*args: Any, **options: Any) -> Tensor:
        began.append(time.process_time())
        return dsm_loss(*args, **options)

    Trainer(
        model,
        torch.randn(1024, *shape),
        steps=steps + 1,  # the last one has no call of the loss behind it
        optim=Optim(**WAYS[way]),
        loss=Loss(function=timed),
        records=Records(calibrate=None),
        device="cpu",
    ).fit()
    each = [b - a for a, b in pairwise(began)]
    return {"seconds": statistics.median(each[WARM:]), "first": each[0], "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    if args.steps <= WARM:
        parser.error(f"--steps: expected more than {WARM}, got {args.steps}")
    torch.set_num_threads(1)
    found: dict[str, Any] = {"cells": {}}
    if FILE.exists():
        found = json.loads(FILE.read_text(encoding="utf-8"))
    units = found["bf16_units"] = bool(computes_bf16(torch.device("cpu")))
    for kind, way in product(args.only, args.ways):
        if not applies(kind, way, units):
            continue
        cell = found["cells"].setdefault(kind, {})[way] = one(kind, way, args.steps)
        print(kind, way, *(f"{k} {v:.4g}" for k, v in cell.items()), flush=True)
        RESULTS.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
