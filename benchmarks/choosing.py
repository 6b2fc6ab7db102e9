"""docs/choosing.md from the measured errors, and the rows of `solver="auto"` beside them.

    python benchmarks/choosing.py           # after benchmarks/solvers.py: writes the page
    python benchmarks/choosing.py --check   # exit code 1 if the page or the rows are old

A row holds for every problem at once. For a number of network calls it is the named solver of ours
with one call a step, and the grid, whose worst error over the problems, relative to that of the
best default of other libraries, is the smallest. The defaults are all solvers of diffusers and
azula on uniform times, and of k-diffusion on the Karras grid, so "best default" is already a
choice made after seeing the errors, in favour of the others.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde import StepSolver
from scoresde.sampler import SOLVERS
from scoresde.sampler.auto import AUTO

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "solvers.json"
PAGE = HERE.parent / "docs" / "choosing.md"
TEMPLATE = HERE / "choosing.md"
BUDGETS = (5, 10, 20, 50, 100)
PROBLEMS = {"ode": ("B1", "B2", "B3", "B4-64", "B4-3072"), "sde": ("B2", "B3")}
DEFAULTS = {"diffusers": "uniform", "azula": "uniform", "k-diffusion": "karras"}
OURS = "scoresde"

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """What does best at a number of calls, over all problems."""

    calls: int
    solver: str
    grid: str
    errors: dict[str, float]
    ratios: dict[str, float]


def load() -> Records:
    """The figures that `solvers.py` wrote, each with the names of its columns."""
    saved = json.loads(RESULTS.read_text(encoding="utf-8"))
    return [dict(zip(saved["columns"], row, strict=True)) for row in saved["rows"]]


def _admitted(record: dict[str, Any], process: str) -> bool:
    """A named solver with one call a step, of the process."""
    name = record["method"]
    if record["library"] != OURS or record["calls"] > record["steps"] + 1 or name not in SOLVERS:
        return False
    solver, eta = SOLVERS[name]
    return isinstance(solver, StepSolver) and (process != "sde" or eta == 1.0)


def _told_apart(record: dict[str, Any]) -> float:
    """The error, but no less than half of what an exact sampler would score by chance."""
    return max(record["error"], record["floor"] / 2)


def choose(records: Records, process: str, calls: int) -> Choice:
    """The setting with the smallest worst ratio; see the head of this file."""
    problems = PROBLEMS["ode" if process == "ode" else "sde"]
    mine = [
        r
        for r in records
        if r["family"] == "vp"
        and r["problem"] in problems
        and r["sde"] == (process != "ode")
        and r["budget"] == calls
    ]
    rival = dict.fromkeys(problems, math.inf)
    settings: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for r in mine:
        if DEFAULTS.get(r["library"]) == r["grid"]:
            rival[r["problem"]] = min(rival[r["problem"]], _told_apart(r))
        if _admitted(r, process):
            settings[r["method"], r["grid"]][r["problem"]] = r
    made = [
        Choice(
            calls,
            *key,
            {p: of[p]["error"] for p in problems},
            {p: _told_apart(of[p]) / rival[p] for p in problems},
        )
        for key, of in settings.items()
        if set(of) == set(problems)
    ]
    return min(made, key=lambda c: (sorted(c.ratios.values(), reverse=True), c.solver, c.grid))


def choices(records: Records) -> dict[str, list[Choice]]:
    return {process: [choose(records, process, n) for n in BUDGETS] for process in AUTO}


def rows(found: dict[str, list[Choice]]) -> dict[str, tuple[tuple[int, str, str], ...]]:
    """As they stand in `scoresde.sampler.auto.AUTO`."""
    return {k: tuple((c.calls, c.solver, c.grid) for c in cs) for k, cs in found.items()}


HEADS = {
    "ode": "The probability flow: `ReverseSampler(sde, model, steps=n)`",
    "sde": "The reverse SDE: `ReverseSampler(sde, model, steps=n, eta=1.0)`",
    "any_eta": 'The best stochastic process: `ReverseSampler(sde, model, "auto_sde", steps=n)`',
}


def _table(found: list[Choice]) -> list[str]:
    problems = list(found[0].ratios)
    head = ["calls", "solver", "grid", *problems]
    lines = ["| " + " | ".join(head) + " |", "| ---: | --- | --- |" + " ---: |" * len(problems)]
    for c in found:
        cells = [f"{c.errors[p]:.2g} ({c.ratios[p]:.2g})" for p in problems]
        lines.append(f"| {c.calls} | `{c.solver}` | `{c.grid}` | " + " | ".join(cells) + " |")
    return lines


def page(found: dict[str, list[Choice]]) -> str:
    tables = []
    for process, made in found.items():
        tables += ["", f"### {HEADS[process]}", "", *_table(made)]
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.replace("{tables}", "\n".join(tables[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args()
    found = choices(load())
    text = page(found)
    old = [k for k, made in rows(found).items() if AUTO[k] != made]
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE}")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is old: run python benchmarks/choosing.py")
    if old:
        sys.exit(f"scoresde/sampler/auto.py is old; measured: {json.dumps(rows(found), indent=1)}")


if __name__ == "__main__":
    main()
