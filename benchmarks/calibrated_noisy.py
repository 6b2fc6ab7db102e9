"""Calibration of the stochastic process: how close the samples of few steps come to the limit.

    python benchmarks/calibrated_noisy.py [--quick] [--only moons digits] [--steps 5 10]

The networks are those of `calibrated.py`: an MLP on two moons and a U-Net on digits, trained here.
The reverse SDE, eta = 1, is calibrated for each number of steps. Then samples with seeds that the
calibration has not seen are compared with as many of a fine run of 200 steps, by the sliced
Wasserstein distance: by the automatic choice
(`auto_sde`, as it is and with eta = 1), by the calibration, and by a second fine run, which is the
floor. Writes calibrated_noisy.json and .md to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from scoresde import ReverseSampler, ReverseSDE
from scoresde.calibration import calibrate_each
from scoresde.metrics import sliced_wasserstein
from scoresde.solvers import LearnedAdams

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.calibrated import network

RESULTS = Path(__file__).parent / "results"
FINE = 200
SEEDS = (3, 4, 5)


@dataclass(frozen=True)
class Line:
    """One line of the table: distances from a fine run.

    Args:
        auto, auto_eta: of the automatic choice, and of that with eta = 1.
        calibrated: of the calibration.
        floor: of a second fine run.
        seconds: the processor time of the calibration.
    """

    network: str
    steps: int
    samples: int
    auto: float
    auto_eta: float
    calibrated: float
    floor: float
    solver: str
    evaluations: int
    seconds: float
    note: str


def lines(name: str, steps: tuple[int, ...], quick: bool) -> list[Line]:
    model, data, _ = network(name, quick, calibrate=False)
    shape, count = tuple(data.x.shape[1:]), 500 if quick else 2000 if name == "digits" else 8000

    def samples(seed: int, solver: object, number: int | None, eta: float | None) -> Tensor:
        sampler = ReverseSampler(model.sde, model, solver, steps=number, eta=eta)  # type: ignore[arg-type]
        return sampler.sample((count, *shape), seed=seed, batch_size=500)

    fine = samples(1, "sa_solver_p3c4_flow", FINE, 1.0)
    floor = sliced_wasserstein(samples(2, "sa_solver_p3c4_flow", FINE, 1.0), fine)

    def distance(solver: object, number: int | None, eta: float | None) -> float:
        sets = [samples(seed, solver, number, eta) for seed in SEEDS]
        return sum(sliced_wasserstein(x, fine) for x in sets) / len(SEEDS)

    found = []
    for n in steps:
        began = time.process_time()
        process = ReverseSDE(model.sde, model, 1.0)
        made = calibrate_each(process, shape, steps=(n,), trajectories=96 if quick else None)[n]
        spent = time.process_time() - began
        kind = made.solver.base if isinstance(made.solver, LearnedAdams) else made.solver
        factors = " with factors" if isinstance(made.solver, LearnedAdams) else ""
        found.append(
            Line(
                name,
                n,
                count,
                distance("auto_sde", n, None),
                distance("auto_sde", n, 1.0),
                distance(made, None, None),
                floor,
                f"Adams({kind.order}, {kind.corrector}, {kind.parametrisation}){factors}",
                made.cost.evaluations,
                spent,
                made.note,
            )
        )
        print(found[-1], flush=True)
    return found


def page(rows: list[Line], command: str) -> str:
    head = (
        "network", "steps", "auto_sde", "auto_sde, eta = 1", "calibrated", "a second fine run",
        "solver", "network evaluations", "seconds",
    )  # fmt: skip
    text = [
        "# Calibration with noise",
        "",
        f"`{command}`; torch {torch.__version__}, one thread.",
        "",
        f"Sliced Wasserstein distance of samples from as many of a run of {FINE} steps of the "
        "reverse SDE: 2,000 digits, 8,000 points of two moons. The seeds are others than those of "
        "the calibration, and the distances are means of three. A second fine run shows what "
        "sampling alone leaves. With 10 steps the automatic choice was kept, since the held-back "
        "samples of it could not be told from those of the fine run.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
    ]
    for r in rows:
        cells = (
            r.network, str(r.steps), f"{r.auto:.3f}", f"{r.auto_eta:.3f}", f"{r.calibrated:.3f}",
            f"{r.floor:.3f}", r.solver, f"{r.evaluations:,}", f"{r.seconds:.0f}",
        )  # fmt: skip
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a check of this program")
    parser.add_argument("--only", nargs="+", default=["moons", "digits"])
    parser.add_argument("--steps", nargs="+", type=int, default=[5, 10])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [line for name in args.only for line in lines(name, tuple(args.steps), args.quick)]
    command = "python benchmarks/calibrated_noisy.py" + (" --quick" if args.quick else "")
    text = page(rows, command)
    print(text)
    if not args.quick:
        saved = json.dumps([asdict(r) for r in rows], indent=1) + "\n"
        (RESULTS / "calibrated_noisy.json").write_text(saved, encoding="utf-8")
        (RESULTS / "calibrated_noisy.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
