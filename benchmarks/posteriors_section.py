"""Writes the section of docs/posteriors.md that says how wrong posterior samplers are.

    python benchmarks/posteriors_section.py

Every figure is read from a JSON file of results; a test fails when the section differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks import posteriors_gaussian as gaussian
from benchmarks import posteriors_page as page
from benchmarks.posteriors_page import Results, column, mean, ratio, table
from benchmarks.posteriors_problems import COUNT, GAUSSIAN
from benchmarks.posteriors_rows import BIAS, ROWS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
DOCS = ROOT / "docs/posteriors.md"
HEADING = "## How far from the exact posterior\n"
SMALL = ("8", "80")

OPEN = """
`python benchmarks/posteriors.py` measures samplers on problems whose posteriors are known, all
with the exact score of the prior: mixtures of 25 far Gaussians in 8, 80 and 800 dimensions with
1, 2 or 4 measured numbers, and Gaussians. The distance is the sliced Wasserstein distance of
{count:,} samples, over the floor, that of two exact sets; C2ST is the accuracy of a classifier of
samples and exact ones, 0.5 at best. Ranges are over the cells, of {fewest} to {most} problems
each, and the mixtures are those in 8 and 80 dimensions: [all
tables](../benchmarks/results/posteriors.md).

"""

AFTER = """
"{exact}" has the score of the posterior itself, so it shows the error of the solver. azula's
samplers walk over the same nodes, and its TDS has the best twist that its interface takes. What
was aimed at:

"""

EVIDENCE = """
The error of log p(y) falls with the number of particles K from 64 to 4,096 as K to the power
{exponents}, in that order of the cells {cells}.
"""

SOLVERS = """
On a Gaussian prior `MMPS` is exact and the error is that of the solver: the Wasserstein distance
over sqrt(d) in 64 dimensions of which 32 are measured, for the best of our solvers, five by name
and one calibrated for this posterior, and of seven of azula's (`python
benchmarks/posteriors_gaussian.py`, [the table](../benchmarks/results/posteriors_gaussian.md)):

"""

WALKS = """
On random walks with Gaussian increments the 90 % set of samples by `MMPS` and `{solver}` in
{steps} steps covers the truth in {low:.1%} to {high:.1%} of {signals:,} signals for each of four
operators, and its mean loses at most {gap:.3f} dB on the posterior mean (`python
benchmarks/posteriors_levy.py`, [the table](../benchmarks/results/posteriors_levy.md)). Laplace
and Bernoulli-Laplace increments are not measured.

A call of `ClassifierFree` takes {free} times a plain call of twice the batch, and one of `DPS`
{dps} times a plain call (`python benchmarks/guidance.py`, [the
table](../benchmarks/results/guidance.md)).
"""


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def span(values: Sequence[float], digits: int) -> str:
    """The least and the largest value."""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def methods(results: Results) -> str:
    """A line for each method: the ratios and C2ST over mixtures and over Gaussians."""
    kinds = (
        [cell for cell in results.cells if cell.split(",")[0] in SMALL],
        [cell for cell in results.cells if cell.startswith(GAUSSIAN)],
    )
    rows = []
    for name in ROWS:
        line = [name if name not in BIAS else f"`{name}`" if name.isalnum() else name]
        for cells in kinds:
            found = [results.cells[c][name] for c in cells if name in results.cells[c]]
            judged = [mean(column(one, "c2st")) for one in found if column(one, "c2st")]
            line += [
                span([ratio(one) for one in found], 1) if found else "",
                span(judged, 2) if judged else "",
            ]
        if any(line[1:]) and "K = " not in name:
            rows.append(line)
    head = ["method", "mixtures: distance / floor", "C2ST", "Gaussians: distance / floor", "C2ST"]
    return table(head, rows)


def exponents(results: Results) -> tuple[list[float], list[str]]:
    """The exponents of K of the cells that have three numbers of particles."""
    found = [(cell, page.by_particles(results, cell)) for cell in results.cells]
    whole = [(cell, own) for cell, own in found if len(own) == 3]
    return [page.slope(own) for _, own in whole], [cell for cell, _ in whole]


def section() -> str:
    """The text of the section."""
    results = Results(read("posteriors"))
    sizes = [len(rows) for cell in results.cells.values() for rows in cell.values()]
    text = HEADING + OPEN.format(count=COUNT, fewest=min(sizes), most=max(sizes))
    text += methods(results) + AFTER.format(exact="exact score")
    text += page.aims(results).split("\n\n", 1)[1]
    powers, cells = exponents(results)
    if powers:
        said = ", ".join(f"{power:.2f}" for power in powers)
        text += EVIDENCE.format(exponents=said, cells="; ".join(cells))
    return text + SOLVERS + gaussian.aims(read("posteriors_gaussian")) + _walks()


def _walks(steps: int = 20) -> str:
    levy, cost = read("posteriors_levy"), read("guidance")
    own = [made[f"MMPS, {steps} steps"] for made in levy["operators"].values()]
    ratios = {
        name: span([made[name][1] for made in cost.values()], 2)
        for name in ("ClassifierFree", "DPS")
    }
    return WALKS.format(
        solver="unipc_3",
        steps=steps,
        low=min(f["coverage"] for f in own),
        high=max(f["coverage"] for f in own),
        signals=levy["signals"],
        gap=max(0.0, *(f["gap"] for f in own)),
        free=ratios["ClassifierFree"],
        dps=ratios["DPS"],
    )


def renewed(text: str) -> str:
    """The text of the page with the present section in place of that there."""
    before, after = text.split(HEADING, 1)
    rest = after.find("\n## ")
    return before + section() + ("" if rest < 0 else after[rest:])


if __name__ == "__main__":
    DOCS.write_text(renewed(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {DOCS}")
