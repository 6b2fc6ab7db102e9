"""How far posterior samplers are from the exact posterior, beside the floor of exact samples.

    python benchmarks/posteriors.py [--cells 8,1 80,4 ...] [--rows ...] [--problems 20] [--quick]

`posteriors_problems.py` describes the problems: mixtures of 25 far Gaussians in 8, 80 and 800
dimensions, and Gaussians. Every method has the exact score of the prior, so all errors are the
method's and the solver's; the row "exact score", of the posterior's own score, shows how large the
solver's are. The cells "rough" have a score that is slightly wrong. azula's samplers run over the
same nodes (`posteriors_azula.py`), and those of deepinv as `posteriors_deepinv.py` says; where a
library is not installed its rows are left out.

Measured, as means over the problems with standard errors: the sliced Wasserstein-1 distance (1,000
slices) of 1,000 samples to four exact sets of as many, beside the floor, that of exact sets to
each other; on the first 5 problems the accuracy of a classifier (an MLP) of samples and exact
ones, beside its floor; for the twisted sampler also the error of log p(y) in nats, and the root
mean square of that error over the stated one, which is 1 for honest errors. A figure is kept in
results/posteriors.json with the settings it depends on, so a run that was interrupted goes on, and
one of other settings is made anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from scoresde._io import write

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks import posteriors_azula as azula
from benchmarks import posteriors_deepinv as deepinv
from benchmarks.posteriors_page import page
from benchmarks.posteriors_problems import GAUSSIAN, ROUGH, Problem, Reference, problem_of
from benchmarks.posteriors_rows import BIAS, DEEPINV, EXACT, PEERS, ROWS, settings_of, twisted_name

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "posteriors.json"
SMALL = tuple(f"{d},{d_y}" for d in (8, 80) for d_y in (1, 2, 4))
LARGE = tuple(f"800,{d_y}" for d_y in (1, 2, 4))
GAUSSIANS = tuple(f"{GAUSSIAN}{d},{d_y}" for d, d_y in ((8, 4), (64, 32)))
ROUGHS = tuple(f"{ROUGH}{d},2" for d in (8, 80))
EVIDENCE = ("8,1", "8,4", "80,1", "80,4")
TWISTED = tuple(twisted_name(steps) for steps in (100, 300))
TDS = tuple(f"azula TDS, {steps} steps" for steps in (100, 300))

LIBRARIES = {PEERS: lambda: azula.reason(), DEEPINV: lambda: deepinv.reason()}
"""The beginning of the names of rows of another library -> its version, or why it is skipped."""

STAGES = (5, 10, 20)
"""So many problems of every cell are done before the next ones."""

Found = dict[str, dict[str, dict[str, Any]]]
"""cell -> row -> "settings" and "problems", number of the problem -> figures."""

PLAN: tuple[tuple[tuple[str, ...], tuple[str, ...], int], ...] = (
    (SMALL, (*TWISTED, *TDS), 20),
    (SMALL, (*BIAS, "azula MMPS, 300 steps", "azula DPS, 300 steps"), 10),
    (GAUSSIANS, tuple(BIAS), 10),
    (EVIDENCE, tuple(twisted_name(300, particles) for particles in (64, 4096)), 20),
    (LARGE, (*TWISTED, *TDS), 10),
    (SMALL, tuple(name for name in ROWS if name.startswith(DEEPINV)), 5),
    (ROUGHS, (TWISTED[-1], *(name for name in BIAS if name != EXACT)), 5),
)
"""Cells, rows and how many problems of each make up the tables."""


def _skipped(reason: Callable[[], str]) -> bool:
    return reason().startswith("skipped")


def work(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """The cell, row and number of each figure that was asked for; the first few of all first."""
    for first, end in pairwise((0, *STAGES)):
        for cells, rows, count in PLAN:
            for cell in cells:
                for number in range(first, min(end, count, args.problems or count)):
                    for row in rows:
                        if cell in (args.cells or cells) and row in (args.rows or rows):
                            yield cell, row, number


@lru_cache(maxsize=1)
def _problem(cell: str, number: int) -> tuple[Problem, Reference]:
    problem = problem_of(cell, number)
    return problem, Reference(problem, number, classify=number < STAGES[0])


@cache
def _first(cell: str) -> Problem:
    """A problem of the cell; all have the same SDE."""
    return problem_of(cell, 0)


def measure(cell: str, row: str, number: int) -> dict[str, float]:
    """The figures of a row on one problem."""
    problem, reference = _problem(cell, number)
    began = time.process_time()
    with warnings.catch_warnings():  # the small K of a row collapse now and then
        warnings.simplefilter("ignore", UserWarning)
        found = ROWS[row].run(problem, number)
    seconds = time.process_time() - began
    rest = {name: value for name, value in found.items() if name != "x"}
    return {**reference.judged(found["x"]), **rest, "seconds": seconds}


def missing(
    found: Found, wanted: Iterable[tuple[str, str, int]]
) -> Iterator[tuple[str, str, int]]:
    """The figures that are not in `found` with the present settings; those of others are dropped.

    Rows of a library that is not installed are left as they are.
    """
    for cell, row, number in wanted:
        if any(row.startswith(name) and _skipped(of) for name, of in LIBRARIES.items()):
            continue
        settings = settings_of(ROWS[row], _first(cell))
        kept = found.setdefault(cell, {}).get(row)
        if kept is None or kept["settings"] != settings:
            found[cell][row] = {"settings": settings, "problems": {}}
        if str(number) not in found[cell][row]["problems"]:
            yield cell, row, number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cells = list(dict.fromkeys(cell for part, _, _ in PLAN for cell in part))
    parser.add_argument("--cells", nargs="+", choices=cells, metavar="D,D_Y")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW")
    parser.add_argument("--problems", type=int, help="at most so many of each cell")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one problem, kept nowhere")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, of in LIBRARIES.items():
        print(f"{name.strip()}: {of()}")
    if args.quick:
        for row in (TWISTED[0], "MMPS"):
            print(row, measure("8,1", row, 0))
        return
    found: Found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for cell, row, number in missing(found, work(args)):
        figures = measure(cell, row, number)
        found[cell][row]["problems"][str(number)] = figures
        print(cell, row, number, f"{figures['distance'] / figures['floor']:.2f}", flush=True)
        write(FILE, (json.dumps(found, indent=1) + "\n").encode())
    write(RESULTS / "posteriors.md", page(found).encode())


if __name__ == "__main__":
    main()
