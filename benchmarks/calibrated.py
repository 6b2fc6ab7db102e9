"""Calibrated grids beside the best solver of every library on its best named grid.

    python benchmarks/calibrated.py [--quick] [--only B1 moons] [--budgets 5 10] [--method gits]

A calibration chooses solver, nodes and factors on trajectories of its own; here it walks other
starts, which it has not seen. On oracles its rivals are the solvers of every library on the named
grids, with the least error on these very starts; errors are against DOP853 at 1e-13 (B1, B4) or
the closed form (B2). On networks that are trained here (moons: an MLP, digits: a U-Net) the rival
is the automatic choice, and the calibrations are those that `Trainer.fit` makes at its end; the
cost is their share of the training's network evaluations, of which one that is differentiated
counts as three. The budget is in network calls, with no final denoising. Writes calibrated.md and
calibrated.json, for networks calibrated-trained.json, to benchmarks/results, where the rows of
problems and budgets that a call leaves out stay as they are; peers that are not installed are left
out.
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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scoresde import (
    VPSDE,
    Gaussian,
    Preconditioned,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
    Trainer,
)
from scoresde.calibration.result import Calibration, Errors
from scoresde.calibration.search import calibrate
from scoresde.calibration.strategy import METHODS
from scoresde.calibration.trajectories import length
from scoresde.data import Data, load_data
from scoresde.nets import MLP, UNet
from scoresde.noise import Independent
from scoresde.options import Optim, Records
from scoresde.schedule.grid import make_grid
from scoresde.solvers import Adams, LearnedAdams

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.problems import SPECTRUM, Problem, b1, b4
from benchmarks.solvers import OURS, RESULTS, Method, Record, measure, methods

BUDGETS = (5, 10, 20, 50)
GRIDS = ("log_snr", "quadratic", "karras", "uniform")
TARGETS = {5: 0.4, 10: 0.3, 20: 0.2, 50: 0.2}
"""Median error over that of the best peer; at 5 calls on a Gaussian 0.9."""
ITERATIONS = 72
"""On oracles, whose errors are small: three times the default of large samples."""
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
    evaluations: int
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


TRAINED = ("moons", "digits")
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
        flow,
        shape,
        steps=budget,
        method=method,
        iterations=ITERATIONS,
        t_end=problem.t_end,
        dtype=torch.float64,
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
        _named(made.solver),
        errors["median"],
        errors["rms"],
        fixed,
        best([m for m in rivals if m.library != OURS], problem, budget),
        made.cost.evaluations,
        seconds,
        made.note,
    )


def _named(solver: Adams | LearnedAdams) -> str:
    """A solver in a few words."""
    base = solver if isinstance(solver, Adams) else solver.base
    kind = "" if base.variant == "exact" else f", {base.variant}"
    factors = "" if base is solver else " with factors"
    return f"Adams({base.order}, {base.corrector}, {base.parametrisation}{kind}){factors}"


@dataclass(frozen=True)
class Trained:
    """One line of the table of trained networks: typical errors on starts of their own."""

    problem: str
    calls: int
    auto: float
    auto_rms: float
    error: float
    rms: float
    promised: float
    solver: str
    evaluations: int
    share: float

    @property
    def ratio(self) -> float:
        return self.error / self.auto


def network(name: str, quick: bool, calibrate: bool = True) -> tuple[ScoreModel, Data, int]:
    """A network that is trained here, its data, and the samples that the training took."""
    torch.manual_seed(0)
    digits = name == "digits"
    data = load_data(name) if digits else load_data(name, n=20_000)
    net = UNet(1, width=32) if digits else MLP(2)
    steps = (600 if digits else 2000) // (4 if quick else 1)
    trainer = Trainer(
        Preconditioned(net, VPSDE()),
        data.x,
        steps=steps,
        optim=Optim(batch_size=128 if digits else 512),
        quantisation=data.quantisation,
        records=Records() if calibrate else Records(calibrate=None),
        device="cpu",
    )
    return trainer.fit(), data, steps * trainer.batch_size


def trained(name: str, quick: bool) -> list[Trained]:
    """Train a network, and measure its own calibrations against the automatic choice."""
    model, data, samples = network(name, quick)
    told = dict(model.calibrations)
    flow = ReverseSDE(model.sde, model, 0.0)
    shape = (32 if quick else 64 if name == "digits" else 256, *data.x.shape[1:])
    x = model.sde.sample_prior(Independent(77).prior(torch.empty(shape)))
    fine = make_grid("log_snr", model.sde, 256)
    rows = []
    with torch.no_grad():
        true = Adams(3, 4, "v").solve(flow, x, fine, noise=Independent(0)).x
        for label, calibration in sorted(told.items(), key=lambda pair: pair[1].steps):
            model.calibrations = {}
            plan = ReverseSampler(model.sde, model, steps=int(label)).plan
            rivals = (plan.solver, plan.schedule.grid), (calibration.solver, calibration.grid)
            ends = [s.solve(flow, x, g, noise=Independent(0)).x for s, g in rivals]
            found = [Errors.of(length(end - true)) for end in ends]
            spent = calibration.cost.evaluations
            rows.append(
                Trained(
                    name,
                    calibration.steps,
                    found[0].typical,
                    found[0].rms,
                    found[1].typical,
                    found[1].rms,
                    1.0 / calibration.gain,
                    _named(calibration.solver),
                    spent,
                    spent / (3 * samples),
                )
            )
    return rows


def trained_table(rows: list[Trained]) -> list[str]:
    head = [
        "network", "calls", "auto's table: typical (RMS)", "calibrated", "over auto", "promised",
        "solver", "network evaluations", "share of the training",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        met = "met" if r.ratio <= 0.5 else "**not met**"
        cells = [
            r.problem, str(r.calls), f"{r.auto:.2g} ({r.auto_rms:.2g})",
            f"{r.error:.2g} ({r.rms:.2g})", f"{r.ratio:.2f}, {met}", f"{r.promised:.2f}",
            r.solver, f"{r.evaluations:,}", f"{100 * r.share:.1f} %",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _of(record: Record | None) -> str:
    if record is None:
        return "none installed"
    return f"{record.median:.2g} ({record.rms:.2g}), {record.method} on {record.grid}"


def table(rows: list[Row]) -> list[str]:
    head = [
        "problem", "calls", "calibrated: median (RMS), solver", "ours on named grids", "best peer",
        "over the peer", "target", "over ours", "network evaluations", "seconds",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        met = "" if math.isnan(r.ratio) else ", met" if r.ratio <= r.target else ", **not met**"
        cells = [
            r.problem, str(r.budget), f"{r.median:.2g} ({r.rms:.2g}), {r.solver}", _of(r.fixed),
            _of(r.peer), f"{r.ratio:.2g}", f"{r.target:g}{met}",
            f"{r.median / r.fixed.median:.2g}",
            f"{r.evaluations:,}", f"{r.seconds:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def kept(file: Path) -> list[dict[str, Any]]:
    """The rows of earlier calls."""
    found: list[dict[str, Any]] = []
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
    return found


def row_of(saved: dict[str, Any]) -> Row:
    """A row from its file."""
    values = {f.name: saved[f.name] for f in fields(Row)}
    for name in ("fixed", "peer"):
        values[name] = None if saved[name] is None else Record(**saved[name])
    return Row(**values)


def trained_of(saved: dict[str, Any]) -> Trained:
    return Trained(**{f.name: saved[f.name] for f in fields(Trained)})


def page(rows: list[Row], nets: list[Trained], command: str) -> str:
    """calibrated.md."""
    text = [
        "# Calibrated grids",
        "",
        f"`{command}`; torch {torch.__version__}, {platform.machine()}, one thread.",
        "",
        "Oracles, in float64 under VP: median (RMS) distance of endpoints over sqrt(d), B1 "
        "without the root, on 64 starts that the calibration has not seen. The solvers and grids "
        "beside it were picked on them.",
        "",
        *table(rows),
        "",
        "Networks that were trained for this, in float32: typical (RMS) distances of other starts "
        "over sqrt(d), beside the automatic choice; the target is half of its error. `promised` "
        "is the ratio that the calibration says of its own held-back trajectories.",
        "",
        *trained_table(nets),
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer problems and budgets")
    parser.add_argument("--only", nargs="+", default=None, choices=[*PROBLEMS, *TRAINED])
    parser.add_argument("--budgets", nargs="+", type=int, default=None)
    parser.add_argument("--method", default="optimise", choices=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.only or [*(["B1", "B2-768", "B4-64"] if args.quick else PROBLEMS), *TRAINED]
    budgets = args.budgets or (BUDGETS[:2] if args.quick else BUDGETS)
    rivals = [m for m in methods() if not m.sde and (m.library != OURS or m.label in FIXED)]
    stem = "calibrated-quick" if args.quick else "calibrated"
    oracles, networks = RESULTS / f"{stem}.json", RESULTS / f"{stem}-trained.json"
    RESULTS.mkdir(exist_ok=True)

    def write(file: Path, rows: list[dict[str, Any]], key: str) -> None:
        """Keep these rows, in place of those of the same problems and budgets."""
        new = {(r["problem"], r[key]) for r in rows}
        rows = [r for r in kept(file) if (r["problem"], r[key]) not in new] + rows
        rows.sort(key=lambda r: (r["problem"], r[key]))
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    for name in names:
        if name in TRAINED:
            nets = trained(name, args.quick)
            print("\n".join(trained_table(nets)), flush=True)
            write(networks, [asdict(r) | {"ratio": r.ratio} for r in nets], "calls")
            continue
        problem = PROBLEMS[name]()
        for budget in budgets:
            made = row(problem, budget, args.method, rivals)
            print(table([made])[-1], made.note, flush=True)
            saved = asdict(made) | {"ratio": made.ratio, "target": made.target}
            write(oracles, [saved], "budget")
    rows, nets = [row_of(r) for r in kept(oracles)], [trained_of(r) for r in kept(networks)]
    problems = list(dict.fromkeys(r.problem for r in [*rows, *nets]))
    quick = ["--quick"] if args.quick else []
    command = shlex.join(["python", "benchmarks/calibrated.py", *quick, "--only", *problems])
    (RESULTS / f"{stem}.md").write_text(page(rows, nets, command), encoding="utf-8")
    print(f"wrote {stem}.md and {stem}.json to {RESULTS}")


if __name__ == "__main__":
    main()
