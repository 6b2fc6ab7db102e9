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
from benchmarks.posteriors_problems import COUNT, ERROR, GAUSSIAN, ROUGH
from benchmarks.posteriors_rows import BIAS, ROWS, twisted_name
from benchmarks.posteriors_sparse import DIVERGED, METHODS

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
samplers walk over the same nodes, and its TDS has the best twist that its interface takes;
deepinv's take its default weights and data of unit variance, as they assume. The rows "twisted" in
800 dimensions are from before the twist was left out in nearly pure noise. What was aimed at:

"""

ROUGHS = """
The score of a trained network is a little wrong, and its derivatives are more so in nearly pure
noise. With an error of {error:.0%} of the output of such a network, distance / floor changes as
follows, and the error of log p(y) of the twisted sampler from {exact} to {wrong} nats; they are
means over those of the cells {cells} that were measured, with {problems} problems each:

{table}"""

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
benchmarks/posteriors_levy.py`, [the table](../benchmarks/results/posteriors_levy.md)).

Walks with sparse increments have no exact formula; the reference is a Gibbs sampler, and the state
consists of the increments, of which the score is exact (`python benchmarks/posteriors_sparse.py`,
[the table](../benchmarks/results/posteriors_sparse.md), which has a small trained network too).
Over {sparse_counts} operators, with {sparse_signals} signals each:

{sparse}
"gap" is what the mean loses on the posterior mean, and "coverage" that of the 90 % set. A row with
"diverges" does so for at least one operator. Increments that are mostly 0 have posteriors of many
modes, on which every method is biased.

A call of `ClassifierFree` takes {free} times a plain call of twice the batch, and one of `DPS`
{dps} times a plain call (`python benchmarks/guidance.py`, [the
table](../benchmarks/results/guidance.md)).
"""


def _roughs(results: Results) -> str:
    """What a score that is slightly wrong changes, by method, as means over the cells."""
    cells = [cell for cell in results.cells if cell.startswith(ROUGH)]
    every = {name: [page.both_scores(results, cell, name) for cell in cells] for name in ROWS}
    found = {name: [pair for pair in pairs if pair[0]] for name, pairs in every.items()}
    rows = [
        [name, *(f"{mean([ratio(pair[k]) for pair in pairs]):.1f}" for k in (0, 1))]
        for name, pairs in found.items()
        if pairs
    ]
    own = found[twisted_name(300)]
    exact, wrong = (f"{mean([mean(page.gaps(pair[k])) for pair in own]):.2f}" for k in (0, 1))
    return ROUGHS.format(
        error=ERROR,
        problems=span([len(pair[1]) for pair in own], 0),
        cells=" and ".join(cell.removeprefix(ROUGH) for cell in cells),
        exact=exact,
        wrong=wrong,
        table=table(["method", "exact score", "wrong score"], rows),
    )


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
    sizes = [
        len(rows)
        for cell, own in results.cells.items()
        if not cell.startswith(ROUGH)
        for rows in own.values()
    ]
    text = HEADING + OPEN.format(count=COUNT, fewest=min(sizes), most=max(sizes))
    text += methods(results) + AFTER.format(exact="exact score")
    text += page.aims(results).split("\n\n", 1)[1]
    text += _roughs(results)
    powers, cells = exponents(results)
    if powers:
        said = ", ".join(f"{power:.2f}" for power in powers)
        text += EVIDENCE.format(exponents=said, cells="; ".join(cells))
    return text + SOLVERS + gaussian.aims(read("posteriors_gaussian")) + _walks()


def _walks(steps: int = 20) -> str:
    levy, cost = read("posteriors_levy"), read("guidance")
    own = [made[f"MMPS, {steps} steps"] for made in levy["operators"].values()]
    sparse = read("posteriors_sparse")
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
        sparse_counts=" and ".join(str(len(own)) for own in sparse["laws"].values()),
        sparse_signals=sparse["settings"]["signals"],
        sparse=_sparse(sparse),
    )


def _sparse(found: Any) -> str:
    """A line for each method: the gap and the coverage over the operators, by law."""
    laws = list(found["laws"].values())
    rows = []
    for method in METHODS:
        line = [f"`{method}`" if method != "twisted" else method]
        for cells in laws:
            own = [
                cell[f"{method}, exact"] for cell in cells.values() if f"{method}, exact" in cell
            ]
            if len(own) < len(cells):
                break
            good = [f for f in own if "failed" not in f and f["spread"] <= DIVERGED]
            said = "" if len(good) == len(own) else "diverges"
            line += [
                span([f["gap"] for f in good], 2) + f" {said}".rstrip() if good else said,
                span([f["coverage"] for f in good], 2) if good else "",
            ]
        else:
            rows.append(line)
    head = ["method"] + [
        text for law in found["laws"] for text in (f"{law}: gap in dB", "coverage")
    ]
    return table(head, rows)


def renewed(text: str) -> str:
    """The text of the page with the present section in place of that there."""
    before, after = text.split(HEADING, 1)
    rest = after.find("\n## ")
    return before + section() + ("" if rest < 0 else after[rest:])


if __name__ == "__main__":
    DOCS.write_text(renewed(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {DOCS}")
