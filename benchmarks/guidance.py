"""What a call of a guided model costs beside the plain call, in time of the processor.

    python benchmarks/guidance.py [--rounds 41]

Classifier-free guidance calls the network once, on a batch of twice the size: it is compared with
a plain call of such a batch, which leaves what the guidance itself costs. The posterior models are
compared with the plain call of the same batch: DPS needs one vector-Jacobian product, PiGDM one,
and TMPD two. The networks are an MLP on 256 x 64 numbers and U-Nets on images of 28 x 28, as
`network_for` builds them, in float32 on one thread. In each round all calls are timed one after
the other; the figure is the median over the rounds of the ratio within a round, which other work
on the machine disturbs least, with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, ClassifierFree, Measurement, Preconditioned, ScoreModel
from scoresde._io import write
from scoresde.measurement import Mask
from scoresde.nets import network_for
from scoresde.posterior import DPS, TMPD, PiGDM

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.posteriors_page import table

RESULTS = Path(__file__).parent / "results"
NAME = "guidance"
CLASSES = 10
CASES: dict[str, tuple[tuple[int, ...], str, int]] = {
    "MLP, 256 x 64": ((64,), "small", 256),
    "U-Net (tiny), 16 x 1 x 28 x 28": ((1, 28, 28), "tiny", 16),
    "U-Net (small), 8 x 1 x 28 x 28": ((1, 28, 28), "small", 8),
}
"""Name -> shape of a sample, preset of the network, batch."""

AIMS = {"ClassifierFree": 1.1, "DPS": 2.5}
BESIDE = {"ClassifierFree": "a plain call of twice the batch"}
PLAIN = "the plain call"


def calls(shape: tuple[int, ...], preset: str, batch: int) -> dict[str, Callable[[], Any]]:
    """Name -> one call; "plain" and "twice" are those of the network alone."""
    torch.manual_seed(0)
    sde = VPSDE()
    model = Preconditioned(network_for(shape, classes=CLASSES, preset=preset), sde)
    for weight in model.parameters():  # an untrained network returns 0 before its last layer
        torch.nn.init.normal_(weight, std=0.02)
    node = sde.at(0.5)
    x, label = torch.randn(2 * batch, *shape), torch.arange(2 * batch) % CLASSES
    mask = torch.arange(x[0].numel()).reshape(shape) % 2 == 0
    measured = Measurement(Mask(mask), torch.zeros(int(mask.sum())), 0.1)
    guided: dict[str, ScoreModel] = {
        "ClassifierFree": ClassifierFree(model, 2.0),
        "DPS": DPS(model, measured),
        "PiGDM": PiGDM(model, measured, prior=1.0),
        "TMPD": TMPD(model, measured),
    }

    def call(of: ScoreModel, n: int) -> Callable[[], Tensor]:
        return lambda: of.predict(node, x[:n], {"label": label[:n]}).value

    return {
        "plain": call(model, batch),
        "twice": call(model, 2 * batch),
        **{name: call(one, batch) for name, one in guided.items()},
    }


def ratios(found: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The time of every guided call over that of the plain call that it stands beside."""
    made: dict[str, list[float]] = {name: [] for name in found if name not in ("plain", "twice")}
    for number in range(rounds + 2):
        seconds = {}
        for name, call in found.items():
            began = time.process_time()
            call()
            seconds[name] = time.process_time() - began
        for name, values in made.items():
            if number >= 2:  # the first rounds warm the caches
                values.append(seconds[name] / seconds["twice" if name in BESIDE else "plain"])
    return made


def page(found: Mapping[str, Any]) -> str:
    """The text of results/guidance.md."""
    rows = []
    for case, made in found.items():
        for name, values in made.items():
            most = AIMS.get(name)
            said = f"{most:g}, " + ("reached" if values[1] <= most else "missed") if most else ""
            low, middle, high = (f"{value:.2f}" for value in values)
            beside = BESIDE.get(name, PLAIN)
            rows.append([case, name, beside, middle, f"{low} to {high}", said])
    head = ["network, batch", "model", "beside", "ratio", "quartiles", "at most"]
    text = (
        "# The cost of guided calls\n\n"
        f"`python benchmarks/{NAME}.py` writes this page from `{NAME}.json`; its docstring says "
        "what is\nmeasured and how.\n\n"
    )
    return text + table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        found = {
            case: {
                name: statistics.quantiles(values, n=4)
                for name, values in ratios(calls(*case_of), args.rounds).items()
            }
            for case, case_of in CASES.items()
        }
    write(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
    write(RESULTS / f"{NAME}.md", page(found).encode())
    print(page(found))


if __name__ == "__main__":
    main()
