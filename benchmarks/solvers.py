"""Every solver of ours beside every peer: error against network calls and time, in one run.

    python benchmarks/solvers.py [--quick] [--only B1 B2] [--families vp ve cosine subvp flow]

All methods start from the same states, walk the same nodes to the same end and ask the same exact
denoiser; a budget of N calls is as many steps as fit in it, with no final denoising. Where solvers
and peers have an anchor, a figure computed apart from both, it comes first. Writes solvers.json,
solvers.md and the Pareto plots to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import SDE, VPSDE, Adams, Grid, ReverseSDE
from scoresde.sampler.plan import as_solver
from scoresde.solvers import SOLVERS, Solver, StepSolver

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks import peers
from benchmarks.problems import (
    ANCHORS,
    FAMILIES,
    Denoiser,
    Draws,
    FromDraws,
    Impulses,
    Normals,
    Problem,
    b1,
    b2,
    b3,
    b4,
    spectral_w2,
)

RESULTS = Path(__file__).parent / "results"
BUDGETS = (5, 10, 20, 50, 100)
OURS = "scoresde"

VARIANTS: dict[str, tuple[Solver, float]] = {
    "unipc_3 exact": (Adams(3, 4), 0.0),
    "unipc_3_eps exact": (Adams(3, 4, parametrisation="eps"), 0.0),
    "ab_2": (Adams(2), 0.0),
    "sa_p2": (Adams(2), 1.0),
    "sa_p2c2": (Adams(2, 2), 1.0),
    "sa_p3c4": (Adams(3, 4), 1.0),
    "sa_p2c2_half": (Adams(2, 2), 0.5),
    "sa_p2c2_more": (Adams(2, 2), 1.5),
    "sa_p1_v": (Adams(1, parametrisation="v"), 1.0),
    "sa_p2c2_v": (Adams(2, 2, parametrisation="v"), 1.0),
    "sa_p3c4_v": (Adams(3, 4, parametrisation="v"), 1.0),
    "ab_3_eps": (Adams(3, parametrisation="eps"), 0.0),
    "ab_3_v_rho": (Adams(3, parametrisation="v", variable="rho"), 0.0),
    "unipc_2_v": (Adams(2, 3, parametrisation="v"), 0.0),
    "unipc_3_v": (Adams(3, 4, parametrisation="v"), 0.0),
    "unipc_3_v_t": (Adams(3, 4, parametrisation="v", variable="t"), 0.0),
    "unipc_3_lower": (Adams(3, 4, variant="bh2", lower_final=True), 0.0),
    "unipc_4_eps_t_lower": (
        Adams(4, 5, parametrisation="eps", variable="t", lower_final=True),
        0.0,
    ),
}
"""Settings of the engine beside the named ones: for an anchor, or good at few calls."""

UNNAMED = "a setting without a name"
SETTING_OF = " exact"
"""What a variant may add to the name of its anchor."""

SHORTCUT = "B(h) of the paper in its first steps, where the anchor has exact weights"
KNOWN = {
    ("unipc_3", "B2", "log_snr"): SHORTCUT,
    ("unipc_3_eps", "B1", "quadratic"): SHORTCUT,
    ("diffusers UniPC 3", "B2", "log_snr"): SHORTCUT,
    ("diffusers SA-Solver P3C4", "B2", "log_snr"): "a term of its own at order 2, its second step",
    ("diffusers UniPC 3 eps", "B1", "quadratic"): SHORTCUT,
}
"""Why a method differs from its anchor by more than 15 %."""

FLOAT32 = 2e-6
"""An error of this size may be the rounding of a state that is cast to float32 at every step."""


@dataclass(frozen=True)
class Run:
    """Where a method arrived, in states of unit size, and what it took."""

    x: Tensor
    calls: int
    dtype: str


@dataclass(frozen=True)
class Method:
    """A solver of ours or a peer, on one footing."""

    label: str
    library: str
    sde: bool
    same_as: str
    run: Callable[[Problem, Grid, Tensor, Draws], Run]
    note: str = ""


@dataclass(frozen=True)
class Record:
    """One figure of the benchmark."""

    problem: str
    family: str
    grid: str
    method: str
    library: str
    sde: bool
    budget: int
    calls: int
    steps: int
    error: float
    rms: float
    median: float
    floor: float
    seconds: float
    dtype: str
    note: str = field(default="")

    @property
    def ours(self) -> bool:
        return self.library == OURS

    def brief(self) -> dict[str, Any]:
        """For the file: four digits of each number."""
        fields = asdict(self).items()
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in fields}


def of_ours(name: str) -> Method:
    def bound(sde: SDE) -> tuple[Solver, Any]:
        return VARIANTS[name] if name in VARIANTS else as_solver(name, sde)

    def run(problem: Problem, grid: Grid, starts: Tensor, draws: Draws) -> Run:
        solver, eta = bound(problem.sde)
        process = ReverseSDE(problem.sde, problem.model, eta)
        x = starts * problem.norm(grid.start)
        solution = solver.solve(process, x, grid, noise=FromDraws(draws))
        return Run(solution.x / problem.norm(grid.end), solution.nfe, "float64")

    note = "" if name in SOLVERS else UNNAMED
    sde = bound(VPSDE())[1] != 0.0
    return Method(name, OURS, sde, name.removesuffix(SETTING_OF), run, note)


def of_peer(peer: peers.Peer) -> Method:
    def run(problem: Problem, grid: Grid, starts: Tensor, draws: Draws) -> Run:
        sigmas = tuple(math.exp(-float(problem.sde.log_snr(t))) for t in grid.times)
        net = Denoiser(problem.model)
        start = starts * math.hypot(1.0, sigmas[0])
        with torch.no_grad():
            y = peer.run(peers.Task(start, sigmas, net, draws))
        return Run(y / math.hypot(1.0, sigmas[-1]), net.calls, str(net.dtype).split(".")[-1])

    return Method(peer.label, peer.library, peer.sde, peer.same_as, run, peer.note)


def methods() -> list[Method]:
    """Ours on fixed grids by the table of names, then the peers."""
    table = {**VARIANTS, **SOLVERS}
    ours = [of_ours(name) for name, (s, _) in table.items() if isinstance(s, StepSolver)]
    return [*ours, *map(of_peer, peers.peers())]


@lru_cache(maxsize=1)
def _probe() -> Problem:
    return b1()


@lru_cache(maxsize=512)
def calls_per_step(method: Method) -> tuple[int, int]:
    """Network calls a step, and beyond the steps, from two short runs."""
    probe = _probe()
    few, many = (
        method.run(probe, probe.grid("log_snr", n), probe.starts[:1], Normals()).calls
        for n in (12, 24)
    )
    each = (many - few) // 12
    return each, few - 12 * each


def steps_for(method: Method, budget: int) -> int:
    """As many steps as fit in a budget of calls."""
    each, extra = calls_per_step(method)
    return (budget - extra) // each


def spectrum(method: Method, problem: Problem, grid: Grid) -> tuple[float, Run, float]:
    """Exact W2, by the response to the start and to each noise; and the run on the start alone.

    Raises:
        RuntimeError: the response to all impulses at once is not the sum of the responses.
    """
    impulses = Impulses()
    began = time.perf_counter()
    alone = method.run(problem, grid, problem.starts, impulses)
    seconds = time.perf_counter() - began
    impulses.listening = False
    starts = torch.zeros(impulses.rows, problem.starts.shape[1], dtype=torch.float64)
    starts[0] = starts[-1] = problem.starts[0]
    x = method.run(problem, grid, starts, impulses).x.double()
    gap = (x[:-1].sum(0) - x[-1]).abs().max()
    if gap > 1e-4 * max(1.0, float(x.abs().max())):
        raise RuntimeError(f"{method.label} is not linear: off by {float(gap):.2g}")
    variances = (x[:-1] * problem.norm(grid.end)).square().sum(0)
    return spectral_w2(problem, variances), alone, seconds


def measure(
    method: Method, problem: Problem, grid_name: str, budget: int, seed: int = 0
) -> Record | None:
    """One figure, or None where the budget is too small for the method."""
    steps = steps_for(method, budget)
    if steps < 1:
        return None
    try:
        grid = problem.grid(grid_name, steps)
        if problem.kind == "spectrum":
            w2, run, seconds = spectrum(method, problem, grid)
            errors = dict.fromkeys(("error", "rms", "median"), w2)
        else:
            began = time.perf_counter()
            run = method.run(problem, grid, problem.starts, Normals(seed))
            seconds = time.perf_counter() - began
            errors = problem.error(run.x * problem.norm(grid.end))
    except (ValueError, IndexError, AssertionError) as failure:
        # too few steps for its order, or a peer's own limit
        print(f"  {method.label}, {problem.name}, {grid_name}, {budget} calls: {failure}")
        return None
    return Record(
        problem.name,
        problem.family,
        grid_name,
        method.label,
        method.library,
        method.sde,
        budget,
        run.calls,
        steps,
        errors["error"],
        errors["rms"],
        errors["median"],
        problem.floor if method.sde else 0.0,
        seconds,
        run.dtype,
        method.note,
    )


@dataclass(frozen=True)
class Part:
    """A problem, the grids on which it is run, and the kinds of method that it measures."""

    problem: Problem
    grids: tuple[str, ...]
    sde: bool

    def admits(self, method: Method) -> bool:
        return method.sde == self.sde


ALL_GRIDS = ("log_snr", "quadratic", "karras", "uniform")


def parts(quick: bool, only: Iterable[str], families: Iterable[str]) -> list[Part]:
    """What is run: endpoints for ODEs, exact W2 for both kinds, W2 in 1-D for both."""
    paths = 4000 if quick else 20000
    one, few = ALL_GRIDS[:1], ALL_GRIDS[:2]
    made = [Part(b1(), few if quick else ALL_GRIDS, False)]
    every = one if quick else ALL_GRIDS
    made += [Part(b2(), every, sde) for sde in (False, True)]
    made += [Part(b3(), every, False), Part(b3(points=paths), every, True)]
    made += [Part(b4(), every, False)]
    if not quick:
        made += [Part(b3(std=0.02), few, False), Part(b4(std=0.01), one, False)]
        made += [Part(b4(3072), ALL_GRIDS, False)]
    for family in families:
        if family != "vp":
            made += [Part(b1(family), few, False), Part(b3(family), one, False)]
            made += [Part(b2(family), one, sde) for sde in (False, True)]
    return [p for p in made if any(p.problem.name.startswith(name) for name in only)]


@dataclass(frozen=True)
class Anchored:
    """A method at an anchor: what it gave, what was expected."""

    method: str
    problem: str
    grid: str
    dtype: str
    rows: tuple[tuple[int, float, float], ...]

    def off(self, slack: float = 0.0) -> list[int]:
        """Calls at which the two differ by more than 15 % and this slack."""
        return [n for n, got, want in self.rows if abs(got - want) > 0.15 * want + slack]

    @property
    def verdict(self) -> str:
        off = self.off()
        if not off:
            return "yes"
        where = ", ".join(map(str, off))
        if "float32" in self.dtype and not self.off(FLOAT32):
            return f"yes, but for float32's rounding at {where}"
        why = KNOWN.get((self.method, self.problem, self.grid), "not explained")
        return f"no, at {where}: {why}"


def anchored(all_methods: list[Method], quick: bool) -> list[Anchored]:
    """Every method that has an anchor, at its anchor."""
    problems = {"B1": b1(), "B2": b2()}
    found = []
    for (name, grid, algorithm), (calls, errors) in ANCHORS.items():
        for method in all_methods:
            if method.same_as != algorithm:
                continue
            rows, kind = [], ""
            for n, want in zip(calls, errors, strict=True):
                if n > 100 and quick:
                    continue
                record = measure(method, problems[name], grid, n)
                if record is not None:
                    rows.append((n, record.error, want))
                    kind = record.dtype + (", float32" if "float32" in record.note else "")
            found.append(Anchored(method.label, name, grid, kind, tuple(rows)))
    return found


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _table(head: list[str], rows: Iterable[list[object]]) -> list[str]:
    return [_cells(head), _cells(["---"] * len(head)), *map(_cells, rows)]


def anchor_table(found: list[Anchored]) -> list[str]:
    rows = []
    for a in found:
        got = ", ".join(f"{n}: {g:.2g} ({w:.2g})" for n, g, w in a.rows)
        rows.append([a.method, f"{a.problem} {a.grid}", a.dtype, got, a.verdict])
    head = ["method", "where", "dtype", "calls: error (anchor)", "reproduces within 15 %"]
    return _table(head, rows)


def error_table(records: list[Record]) -> list[str]:
    """One line a method, one column a budget; the best of each column is bold."""
    best = {n: min((r.error for r in records if r.budget == n), default=0.0) for n in BUDGETS}
    lines: dict[str, list[object]] = {}
    for r in records:
        row = lines.setdefault(r.method, [r.method, r.dtype, *[""] * len(BUDGETS), r.note])
        text = f"{r.error:.2g}"
        row[2 + BUDGETS.index(r.budget)] = f"**{text}**" if r.error == best[r.budget] else text
    return _table(["method", "dtype", *map(str, BUDGETS), "note"], lines.values())


def _above_floor(record: Record) -> float:
    """The error, or what an exact sampler would score by chance if that is more."""
    return max(record.error, record.floor)


def _best(records: list[Record], ours: bool, budget: int) -> Record | None:
    fit = [r for r in records if r.ours == ours and r.budget == budget]
    return min(fit, key=lambda r: r.error, default=None)


def ratio_row(records: list[Record]) -> list[object]:
    """Our best over the peers' best at each budget; bold where it is behind by more than 2 %."""
    cells: list[object] = []
    for n in BUDGETS:
        us, them = _best(records, True, n), _best(records, False, n)
        if us is None or them is None:
            cells.append("")
            continue
        ratio = _above_floor(us) / _above_floor(them)
        text = f"**{ratio:.2g}**" if ratio > 1.02 else f"{ratio:.2g}"
        cells.append(f"{text} ({us.method} / {them.method})")
    return cells


def ratio_table(parts_of: dict[tuple[str, str, str, bool], list[Record]]) -> list[str]:
    head = ["problem", "SDE family", "grid", "kind", *map(str, BUDGETS)]
    rows = [
        [problem, family, grid, "SDE" if sde else "ODE", *ratio_row(part)]
        for (problem, family, grid, sde), part in parts_of.items()
    ]
    return _table(head, rows)


def groups(records: list[Record]) -> dict[tuple[str, str, str, bool], list[Record]]:
    found: dict[tuple[str, str, str, bool], list[Record]] = {}
    for r in records:
        found.setdefault((r.problem, r.family, r.grid, r.sde), []).append(r)
    return found


def headlines(all_methods: list[Method], records: list[Record]) -> list[str]:
    """B2: few calls of the best solvers against 1000 steps of the ancestral sampler."""
    thousand = next(
        measure(m, b2(), "log_snr", 1000) for m in all_methods if m.label == "ancestral"
    )
    lines = [f"- ancestral, 1000 calls: exact W2 {thousand.error:.2g}"]
    for sde, budget in ((False, 20), (True, 50)):
        fit = [r for r in records if r.problem == "B2" and r.family == "vp" and r.sde == sde]
        best = _best(fit, True, budget)
        if best is not None:
            verdict = "below" if best.error < thousand.error else "NOT below"
            kind = "SDE" if sde else "ODE"
            where = f"{best.method} on {best.grid}"
            lines.append(f"- best {kind}, {budget} calls: {best.error:.2g} ({where}): {verdict}")
    return lines


LABELS = {"calls": "network calls", "seconds": "seconds, those of the peers' adapters included"}


def plots(records: list[Record]) -> list[Path]:
    """Error against calls and against time, with the front of ours and of the peers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = []
    for (problem, family, grid, sde), part in groups(records).items():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
        for axis, of in zip(axes, ("calls", "seconds"), strict=True):
            for ours, colour, name in ((False, "tab:orange", "peers"), (True, "tab:blue", OURS)):
                mine = [r for r in part if r.ours == ours and 0 < r.error < 10]
                points = sorted((getattr(r, of), r.error) for r in mine)
                axis.scatter(*zip(*points, strict=True), s=9, c=colour, alpha=0.35)
                front = [
                    p for i, p in enumerate(points) if p[1] <= min(q[1] for q in points[: i + 1])
                ]
                axis.plot(*zip(*front, strict=True), c=colour, label=f"best of {name}")
            axis.set(xscale="log", yscale="log", xlabel=LABELS[of])
            axis.grid(alpha=0.3)
        kind = "SDE" if sde else "ODE"
        axes[0].set(ylabel="error", title=f"{problem} {family}, {grid} grid, {kind}")
        axes[0].legend()
        path = RESULTS / f"pareto-{problem}-{family}-{grid}-{kind}.png".lower()
        figure.savefig(path, dpi=110)
        plt.close(figure)
        made.append(path)
    return made


def report(found: list[Anchored], records: list[Record], heads: list[str], line: str) -> str:
    text = [
        "# Solvers",
        "",
        f"`{line}`; torch {torch.__version__}, {platform.machine()}, one thread.",
        "Peers: " + ", ".join(f"{n} {v}" for n, v in peers.installed().items()) + ".",
        "",
        "B1: RMS distance of endpoints; B2: exact W2/sqrt(d); B3: W2 between quantiles, from "
        "sampled paths for SDEs; B4: median distance over sqrt(d). Same start, nodes, endpoint. "
        "The dtype is that in which the denoiser was called.",
        "",
        "## Against the anchors",
        "",
        *anchor_table(found),
        "",
        "## Fewer calls than the ancestral sampler (B2, VP, log-SNR grid)",
        "",
        *heads,
        "",
        "## Best of ours over best of the peers, at each number of calls",
        "",
    ]
    parts_of = groups(records)
    named = groups([r for r in records if r.note != UNNAMED])
    text += [*ratio_table(parts_of), "", "The same for our named solvers alone:", ""]
    text += ratio_table(named)
    for (problem, family, grid, sde), part in parts_of.items():
        kind = "SDE" if sde else "ODE"
        text += ["", f"## {problem}, {family}, {grid} grid, {kind}", ""]
        if part[0].floor:
            text += [f"An exact sampler would score {part[0].floor:.2g} by chance.", ""]
        text += error_table(part)
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer problems and grids")
    parser.add_argument("--only", nargs="+", default=["B"], help="problems by name, as B1 B2")
    parser.add_argument("--families", nargs="+", default=None, choices=list(FAMILIES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    families = args.families or (["vp"] if args.quick else list(FAMILIES))
    everyone = methods()
    found = anchored(everyone, args.quick)
    print("\n".join(anchor_table(found)))
    records = []
    for part in parts(args.quick, args.only, families):
        print(f"{part.problem.name} {part.problem.family}", flush=True)
        for grid in part.grids:
            for method in filter(part.admits, everyone):
                made = [measure(method, part.problem, grid, n) for n in BUDGETS]
                records += [r for r in made if r is not None]
    RESULTS.mkdir(exist_ok=True)
    flags = " --quick" if args.quick else ""
    text = report(
        found, records, headlines(everyone, records), f"python benchmarks/solvers.py{flags}"
    )
    stem = "solvers-quick" if args.quick else "solvers"
    (RESULTS / f"{stem}.md").write_text(text, encoding="utf-8")
    briefs = [r.brief() for r in records]
    saved = {
        "anchors": [asdict(a) for a in found],
        "columns": list(briefs[0]),
        "rows": [list(brief.values()) for brief in briefs],
    }
    text = json.dumps(saved, separators=(",", ":")).replace("],[", "],\n[")
    (RESULTS / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
    made = plots(records)
    print(f"wrote {stem}.md, {stem}.json and {len(made)} plots to {RESULTS}")


if __name__ == "__main__":
    main()
