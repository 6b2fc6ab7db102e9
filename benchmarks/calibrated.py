"""Calibrated grids beside the best solver of every library on its best named grid.

    python benchmarks/calibrated.py [--quick] [--only B1 B2-768] [--budgets 5 10] [--method gits]

A calibration chooses solver and nodes on 48 trajectories; here it walks other starts, which it has
not seen. Ours on named grids and the peers get the better hand: of all their solvers and grids the
one with the least error on these very starts. Errors are against DOP853 at 1e-13 (B1, B4) or the
closed form (B2). The budget is in network calls, with no final denoising; what the calibration
cost is given as the number of samples that its network evaluations would have made. Writes
calibrated.md and calibrated.json to benchmarks/results; peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from scoresde import Gaussian, ReverseSDE
from scoresde.calibration.result import Calibration
from scoresde.calibration.search import METHODS, calibrate
from scoresde.noise import Independent

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.problems import SPECTRUM, Problem, b1, b4
from benchmarks.solvers import OURS, RESULTS, Method, Record, measure, methods

BUDGETS = (5, 10, 20, 50)
GRIDS = ("log_snr", "quadratic", "karras", "uniform")
TARGETS = {5: 0.4, 10: 0.3, 20: 0.2, 50: 0.2}
"""Median error over that of the best peer; at 5 calls on a Gaussian 0.9."""
FIXED = (
    "ddim", "dpmpp_2m", "dpmpp_3m", "ab_4", "unipc_2", "unipc_3", "unipc_3_eps", "unipc_3_v",
    "unipc_4", "deis_tab3", "ipndm_3", "ipndm_4", "heun",
)  # fmt: skip
"""Ours on named grids."""


@dataclass(frozen=True)
class Row:
    """One line of the table; `fixed` and `peer` are the best on their best grids."""

    problem: str
    budget: int
    method: str
    solver: str
    median: float
    rms: float
    fixed: Record
    peer: Record | None
    samples: float
    gradients: float
    seconds: float
    note: str

    @property
    def target(self) -> float:
        return 0.9 if self.budget == 5 and "B2" in self.problem else TARGETS[self.budget]

    @property
    def ratio(self) -> float:
        return math.nan if self.peer is None else self.median / self.peer.median


def gaussian(dim: int) -> Problem:
    """B2 in some dimensions, from 64 random starts; the flow is known in closed form."""
    variances = SPECTRUM[:dim] * (0.25 / SPECTRUM[:dim].mean())
    data = Gaussian(torch.zeros(dim, dtype=torch.float64), variances)
    starts = torch.from_numpy(np.random.default_rng(0).standard_normal((64, dim)))
    problem = Problem(f"B2-{dim}", "vp", data.mixture, "endpoints", starts, b1().t_end)
    x = problem.starts * problem.norm(problem.sde.T)
    ends = data.flow(problem.sde, x, problem.sde.T, problem.t_end) / problem.norm(problem.t_end)
    problem.__dict__["truth"] = ends  # in place of the one by DOP853
    return problem


PROBLEMS = {"B1": b1, "B2-768": lambda: gaussian(768), "B2": lambda: gaussian(3072), "B4-64": b4}


def best(rivals: Iterable[Method], problem: Problem, budget: int) -> Record | None:
    """The solver and named grid of the least median error on the test starts themselves."""
    found = [measure(m, problem, grid, budget) for m in rivals for grid in GRIDS]
    return min((r for r in found if r is not None), key=lambda r: r.median, default=None)


def calibrated(problem: Problem, budget: int, method: str) -> tuple[Calibration, float]:
    """The calibration of this problem, and the seconds that it took."""
    flow = ReverseSDE(problem.sde, problem.model, 0.0)
    shape = problem.starts.shape[1:]
    began = time.perf_counter()
    made = calibrate(
        flow, shape, steps=budget, method=method, t_end=problem.t_end, dtype=torch.float64
    )
    return made, time.perf_counter() - began


def row(problem: Problem, budget: int, method: str, rivals: list[Method]) -> Row:
    made, seconds = calibrated(problem, budget, method)
    flow = ReverseSDE(problem.sde, problem.model, 0.0)
    x = problem.starts * problem.norm(problem.sde.T)
    with torch.no_grad():
        end = made.solver.solve(flow, x, made.grid, noise=Independent(0)).x
    if flow.nfe != budget:
        raise RuntimeError(f"{flow.nfe} calls for a budget of {budget}")
    errors = problem.error(end)
    ours = [m for m in rivals if m.library == OURS]
    fixed = best(ours, problem, budget)
    if fixed is None:
        raise RuntimeError(f"no solver runs with {budget} calls")
    return Row(
        problem.name,
        budget,
        method,
        repr(made.solver),
        errors["median"],
        errors["rms"],
        fixed,
        best([m for m in rivals if m.library != OURS], problem, budget),
        made.cost.rows / budget,
        made.cost.gradients / budget,
        seconds,
        made.note,
    )


def _of(record: Record | None) -> str:
    if record is None:
        return "none installed"
    return f"{record.median:.2g} ({record.rms:.2g}), {record.method} on {record.grid}"


def table(rows: list[Row]) -> list[str]:
    head = [
        "problem", "calls", "calibrated: median (RMS), solver", "ours on named grids", "best peer",
        "over the peer", "target", "over ours", "cost in samples", "differentiated", "seconds",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        met = "" if math.isnan(r.ratio) else ", met" if r.ratio <= r.target else ", **not met**"
        cells = [
            r.problem, str(r.budget), f"{r.median:.2g} ({r.rms:.2g}), `{r.solver}`", _of(r.fixed),
            _of(r.peer), f"{r.ratio:.2g}", f"{r.target:g}{met}",
            f"{r.median / r.fixed.median:.2g}",
            f"{r.samples:.0f}", f"{r.gradients:.0f}", f"{r.seconds:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer problems and budgets")
    parser.add_argument("--only", nargs="+", default=None, choices=list(PROBLEMS))
    parser.add_argument("--budgets", nargs="+", type=int, default=None)
    parser.add_argument("--method", default="optimise", choices=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only or (["B1", "B2-768", "B4-64"] if args.quick else list(PROBLEMS))
    budgets = args.budgets or (BUDGETS[:2] if args.quick else BUDGETS)
    rivals = [m for m in methods() if not m.sde and (m.library != OURS or m.label in FIXED)]
    rows = []
    for name in names:
        problem = PROBLEMS[name]()
        for budget in budgets:
            rows.append(row(problem, budget, args.method, rivals))
            print(table(rows[-1:])[-1], rows[-1].note, flush=True)
    text = [
        "# Calibrated grids",
        "",
        f"`{shlex.join(['python', *sys.argv])}`; torch {torch.__version__}, "
        f"{platform.machine()}, one thread, float64, VP.",
        "",
        "Median (RMS) distance of endpoints over sqrt(d), B1 without the root, on 64 starts that "
        "the calibration has not seen. The rivals' solvers and grids were picked on them.",
        "",
        *table(rows),
    ]
    stem = "calibrated-quick" if args.quick else "calibrated"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    saved = [asdict(r) | {"ratio": r.ratio, "target": r.target} for r in rows]
    (RESULTS / f"{stem}.json").write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {stem}.md and {stem}.json to {RESULTS}")


if __name__ == "__main__":
    main()
