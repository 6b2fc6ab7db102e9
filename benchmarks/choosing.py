"""Measures `solver="auto"` on problems drawn at random and writes docs/choosing.md.

    python benchmarks/choosing.py measure   # some 10 minutes on a core; goes on where it stopped
    python benchmarks/choosing.py           # writes the page from results/choosing.json
    python benchmarks/choosing.py --check   # exit code 1 if the page or its figures are old

A problem is a Gaussian or a mixture in 1 to 768 dimensions under an SDE of any family, see
`problems.drawn`. Each named deterministic multistep solver, with one call a step, walks each
named grid, and so does "auto". The constants of the tapered grid and the rows of `auto.AUTO` were
chosen on other problems drawn in the same way, with seeds below 176: the figures are those of
problems that were held out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import VPSDE, Adams, FunctionScore, Grid, ReverseSampler
from scoresde.prediction import Prediction
from scoresde.schedule import Schedule
from scoresde.schedule.grid import GRIDS, make_grid, tapered
from scoresde.solvers import SOLVERS
from scoresde.solvers.choice import AUTO, choose

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.problems import Drawn, drawn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "choosing.json"
PAGE = HERE.parent / "docs" / "choosing.md"
TEMPLATE = HERE / "choosing.md"
BUDGETS = (5, 10, 20, 50, 100)
HELD_OUT = range(1000, 1060)

Record = dict[str, Any]


def named() -> dict[str, Adams]:
    """The deterministic multistep solvers by name."""
    return {n: s for n, (s, eta) in SOLVERS.items() if eta == 0.0 and isinstance(s, Adams)}


def walk(problem: Drawn, solvers: Sequence[Adams], grids: Sequence[Grid]) -> Tensor:
    """What each solver on its grid, all of as many steps, makes of the starts, (C, B, D).

    All walk at once, stacked along the batch: every sample has its own time, and each solver's
    weights are its own. A solver by itself, in a `ReverseSampler`, does the same.
    """
    sde, count, size = problem.sde, len(solvers), len(problem.starts)
    x = sde.sample_prior(problem.starts).repeat(count, 1)
    made = [
        s.rows(sde, Schedule(sde, g).segments[0], 0.0) for s, g in zip(solvers, grids, strict=True)
    ]
    times = torch.tensor([g.times for g in grids], dtype=torch.float64)

    def columns(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(size)[:, None]

    def predict(step: int) -> Prediction:
        t = times[:, step].repeat_interleave(size)
        return problem.model.predict(sde.at(t, like=x), x)

    past: list[Tensor] = []
    for step in range(grids[0].steps):
        prediction = predict(step)
        read = {
            parametrisation: prediction.read(parametrisation)
            for parametrisation in {s.parametrisation for s in solvers}
        }
        kinds = [read[s.parametrisation].view(count, size, -1)[i] for i, s in enumerate(solvers)]
        past = [torch.cat(kinds), *past[:5]]
        rows = [of[step] for of in made]
        x = columns([row[0] for row in rows]) * x
        for k, known in enumerate(past):
            weights = [row[1][k] if k < len(row[1]) else 0.0 for row in rows]
            x = x + columns(weights) * known
    return predict(grids[0].steps).x0.view(count, size, -1)


def settings(problem: Drawn, calls: int) -> dict[str, float]:
    """The error of every named solver on every named grid; of "tapered" with the data's spread."""
    keys = [(s, g) for s, a in named().items() for g in GRIDS if a.order <= calls]
    spread, errors = problem.model.data_scale, {}
    grids = {g: make_grid(g, problem.sde, calls, data_scale=spread) for g in GRIDS}
    size = max(1, 4_000_000 // (problem.starts.numel() * len(problem.data.means)))
    for at in range(0, len(keys), size):
        part = keys[at : at + size]
        ends = walk(problem, [named()[s] for s, _ in part], [grids[g] for _, g in part])
        for (s, g), end in zip(part, ends, strict=True):
            errors[f"{s} {g}"] = float(f"{problem.error(end):.3g}")
    return errors


def automatic(problem: Drawn) -> dict[str, dict[str, float]]:
    """The errors of "auto" as a user would run it, with what the model knows of its data and
    with a score function that says nothing of them, by number of calls."""
    models = {
        "auto": problem.model,
        "ignorant": FunctionScore(problem.sde, problem.model.score),
    }
    return {
        name: {
            str(n): problem.error(problem.sample(ReverseSampler(problem.sde, model, steps=n)))
            for n in BUDGETS
        }
        for name, model in models.items()
    }


def measured(seed: int) -> Record:
    """The errors of every setting on a problem, by number of calls."""
    problem = drawn(seed)
    std, dim = problem.model.data_scale or (0.0, 0)
    about = {"seed": seed, "family": problem.family, "kind": problem.kind, "dim": dim, "std": std}
    return {
        **about,
        **automatic(problem),
        "named": {str(n): settings(problem, n) for n in BUDGETS},
    }


def measure(seeds: Iterable[int]) -> None:
    """Measure the problems that the file lacks; "auto" alone on all when a choice has changed."""
    saved = load() if RESULTS.exists() else {}
    if saved.get("nodes") != fingerprint():
        saved = {"nodes": fingerprint(), "taken": taken(), "problems": []}
    if saved["taken"] != taken():
        for problem in saved["problems"]:
            problem.update(automatic(drawn(problem["seed"])))
        saved["taken"] = taken()
    for seed in sorted(set(seeds) - {p["seed"] for p in saved["problems"]}):
        saved["problems"].append(measured(seed))
        RESULTS.write_text(json.dumps(saved) + "\n", encoding="utf-8")
        print(seed, end=" ", flush=True)
    RESULTS.write_text(json.dumps(saved) + "\n", encoding="utf-8")
    print()


def fingerprint() -> list[list[float]]:
    """Nodes of the tapered grid, by which the figures know it."""
    nodes = [tapered(VPSDE(), 6, std=0.5, dim=dim).times for dim in (2, 200)]
    return [[round(t, 9) for t in times] for times in nodes]


def taken() -> dict[str, dict[str, list[str]]]:
    """The choices that the figures are of, at each number of calls."""
    return {p: {str(n): list(choose(p, n)) for n in BUDGETS} for p in ("ode", "ode_any")}


def load() -> Record:
    saved: Record = json.loads(RESULTS.read_text(encoding="utf-8"))
    return saved


def ratios(problems: list[Record], calls: int, mine: str, tapered: bool = True) -> Any:
    """Error over the smallest one of all named settings, for each problem, (P,)."""
    out = []
    for problem in problems:
        named = problem["named"][str(calls)]
        others = [e for k, e in named.items() if tapered or not k.endswith(" tapered")]
        own = problem[mine][str(calls)] if mine in ("auto", "ignorant") else named[mine]
        out.append(own / min(others))
    return np.array(out)


def best(problems: list[Record], calls: int) -> str:
    """The setting that one would have taken with all errors known, by the 80 % quantile."""
    settings = problems[0]["named"][str(calls)]
    return min(settings, key=lambda k: float(np.quantile(ratios(problems, calls, k), 0.8)))


def _line(calls: int, name: str, r: Any) -> str:
    figures = [np.median(r), np.quantile(r, 0.8), np.quantile(r, 0.95), r.max()]
    cells = " | ".join(f"{x:.2g}" for x in figures)
    return f"| {calls} | {name} | {cells} | {int((r > 6).sum())} of {len(r)} |"


def held_out(problems: list[Record]) -> str:
    """The table of ratios."""
    lines = ["| calls | setting | median | 80 % | 95 % | worst | above 6 |"]
    lines += ["| ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for calls in BUDGETS:
        one = best(problems, calls)
        lines.append(_line(calls, "`auto`", ratios(problems, calls, "auto")))
        without = ratios(problems, calls, "auto", tapered=False)
        lines.append(_line(calls, "`auto`, over the best without `tapered`", without))
        ignorant = ratios(problems, calls, "ignorant")
        lines.append(_line(calls, "`auto`, data not known", ignorant))
        lines.append(_line(calls, f"`{one.replace(' ', '` on `')}`", ratios(problems, calls, one)))
    return "\n".join(lines)


def groups(problems: list[Record]) -> str:
    """Medians of the ratios by family of the SDE and by kind of data."""
    lines = ["| problems | " + " | ".join(f"{n} calls" for n in BUDGETS) + " |"]
    lines += ["| --- |" + " ---: |" * len(BUDGETS)]
    many = {p["seed"]: "64 values or more" if p["dim"] >= 64 else "fewer" for p in problems}
    for key in ("family", "kind", "values"):
        found = sorted({many[p["seed"]] if key == "values" else p[key] for p in problems})
        for name in found:
            its = [p for p in problems if name in (p.get(key), many[p["seed"]])]
            cells = [f"{np.median(ratios(its, n, 'auto')):.2g}" for n in BUDGETS]
            lines.append(f"| {name} ({len(its)}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


HEADS = {
    "ode": 'The probability flow, data of about unit size: `"auto"`',
    "ode_any": 'The probability flow, data of another size, or not known: `"auto"`',
    "sde": 'A stochastic process: `"auto"` with `eta=1.0`, or `"auto_sde"`',
}


def tables() -> str:
    """The rows of "auto"."""
    lines = []
    for process, of in AUTO.items():
        lines += [
            "",
            f"### {HEADS[process]}",
            "",
            "| steps | solver | grid |",
            "| --- | --- | --- |",
        ]
        for (first, solver, grid), after in zip(of, [*of[1:], None], strict=True):
            span = f"from {first}" if after is None else f"{first} to {after[0] - 1}"
            span = str(first) if after is not None and after[0] == first + 1 else span
            lines.append(f"| {span} | `{solver}` | `{grid}` |")
    return "\n".join(lines[1:])


def page(saved: Record) -> str:
    problems = [p for p in saved["problems"] if p["seed"] in HELD_OUT]
    text = TEMPLATE.read_text(encoding="utf-8")
    filled = {"rows": tables(), "held_out": held_out(problems), "groups": groups(problems)}
    counts = {"problems": len(problems), "settings": len(problems[0]["named"]["5"])}
    for name, value in {**filled, **counts}.items():
        text = text.replace("{" + name + "}", str(value))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["measure"], help="run the problems first")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "END"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what:
        measure(range(*args.seeds) if args.seeds else HELD_OUT)
    saved = load()
    if (saved["nodes"], saved["taken"]) != (fingerprint(), taken()):
        sys.exit(f"{RESULTS} is old: run python benchmarks/choosing.py measure")
    if not args.check:
        PAGE.write_text(page(saved), encoding="utf-8")
        print(f"wrote {PAGE}")
    elif PAGE.read_text(encoding="utf-8") != page(saved):
        sys.exit(f"{PAGE} is old: run python benchmarks/choosing.py")


if __name__ == "__main__":
    main()
