"""The figures of the README are those of benchmarks/results, and its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks.faults import NAMES
from benchmarks.posteriors_page import ratio
from benchmarks.training import passing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.split("## What it is best at\n\n")[1].split("\n\n")[0].splitlines()[2:]
ROWS = {cells[1].strip(): cells[2:4] for cells in (row.split("|") for row in TABLE)}


def results(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def few_calls() -> str:
    ratios = [row["ratio"] for row in results("calibrated")]
    budgets = [row["budget"] for row in results("calibrated")]
    return (
        f"have {min(ratios):.3f} to {max(ratios):.2f} of the error of the best other library on "
        f"its best grid, at {min(budgets)} to {max(budgets)} calls"
    )


def orders() -> str:
    found = results("wild")["figures"]["A third-order solver of second order"]
    ours, k_diffusion, diffusers = (
        next(value[0] for name, value in found.items() if name.startswith(library))
        for library in ("scoresde", "k-diffusion", "diffusers")
    )
    return (
        f"is of observed order {ours:.2f}; those of k-diffusion and diffusers are of "
        f"{k_diffusion:.2f} and {diffusers:.2f}"
    )


def exact_cells() -> list[Any]:
    """The cells of the benchmark of posteriors in which the score is exact."""
    return [
        cell
        for name, cell in results("posteriors").items()
        if "twisted, 300 steps" in cell and not name.startswith("rough")
    ]


def posteriors() -> str:
    cells = exact_cells()
    ours = [ratio(cell["twisted, 300 steps"]["problems"]) for cell in cells]
    azula = "azula TDS, 300 steps"
    theirs = [ratio(cell[azula]["problems"]) for cell in cells if azula in cell]
    return (
        f"are {min(ours):.2f} to {max(ours):.2f} times as far from the exact posterior as exact "
        f"samples are; those of azula {min(theirs):.1f} to "
        f"{max(theirs):.1f} times"
    )


def evidence() -> str:
    cells = exact_cells()
    errors = [
        fmean(
            abs(problem["log_evidence"])
            for problem in cell["twisted, 300 steps"]["problems"].values()
        )
        for cell in cells
    ]
    return f"is {min(errors):.2f} to {max(errors):.2f} nats off in 8 to 800 dimensions"


def stated() -> str:
    cells = [
        cell for cell in results("stated_errors-quick")["cells"] if cell["what"] == "log_prob"
    ]
    worst = max(cell["worst"] for cell in cells)
    return f"in {len(cells)} settings is off by more than {worst:.1f} times its stated error"


def faults() -> str:
    rows = [row for row in results("doctor")["rows"] if row["on"] == "network"]
    planted, healthy = ([row for row in rows if bool(row["fault"]) == sick] for sick in (1, 0))
    named = sum(row["findings"][:1] == [NAMES[row["fault"]]] for row in planted)
    assert not any(row["findings"] for row in healthy)
    return (
        f"{named} of {len(planted)} faults planted in networks are named first, without a false "
        f"alarm about {len(healthy)} healthy ones"
    )


def batch() -> str:
    found = results("wild")["figures"]["One seed, another batch size, another sample"]
    (ours,) = (value[0] for name, value in found.items() if name.startswith("scoresde"))
    theirs = [
        next(value[0] for name, value in found.items() if name.startswith(library))
        for library in ("k-diffusion", "azula")
    ]
    return f"by {ours:.0f}; by {theirs[0]:.1f} and {theirs[1]:.1f} in k-diffusion and azula"


def training() -> str:
    shares = {}
    for data, run in results("training")["races"].items():
        _, passed = passing(run)
        ours = passed.pop("scoresde")
        for key, (seconds, _) in ours.items():
            shares[data, key] = seconds / min(theirs[key][0] for theirs in passed.values())
    return (
        f"takes {shares['digits', 'loss']:.2f} of the time of the fastest on digits and "
        f"{shares['fashion', 'loss']:.2f} on Fashion-MNIST; their lowest Frechet distance "
        f"{shares['digits', 'frechet']:.2f} and {shares['fashion', 'frechet']:.2f}"
    )


def kills() -> str:
    return f"{results('kills')['runs']['1']['summary']['kills']} kills of a training run"


def overhead() -> str:
    rows = {row["solver"]: row["own us/call"] for row in results("overhead")["mlp, 1 threads"]}
    return (
        f"`unipc_3` adds {rows['unipc_3']:.0f} microseconds to a call of a small network, that of "
        f"diffusers {rows['diffusers UniPC 3']:.0f}"
    )


FIGURES = {
    "few network calls": few_calls,
    "solvers of the order they claim": orders,
    "posteriors": posteriors,
    "the evidence of a measurement": evidence,
    "honest errors": stated,
    "finding out what is wrong": faults,
    "the same samples again": batch,
    "short trainings": training,
    "runs that survive": kills,
    "little overhead": overhead,
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_its_benchmark_measured(row: str) -> None:
    assert FIGURES[row]() in ROWS[row][0]


@pytest.mark.parametrize("command", [cells[1].strip(" `") for cells in ROWS.values()])
def test_the_command_of_a_row_exists(command: str) -> None:
    program, *options = command.removeprefix("python ").split()
    text = (ROOT / program).read_text(encoding="utf-8")
    assert all(f'"{option}"' in text for option in options if option.startswith("--")), options


def test_no_result_is_without_its_row_and_the_page_is_short() -> None:
    assert set(FIGURES) == set(ROWS)
    assert len(README.splitlines()) < 100
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code) == 1 and len(code[0].splitlines()) == 10
