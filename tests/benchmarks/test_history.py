"""The figures of a release: which are collected, and what is told to have changed."""

from __future__ import annotations

import json
from pathlib import Path

import scoresde
from benchmarks import history


def test_the_figures_of_this_version_are_those_of_the_results() -> None:
    """`python -m benchmarks.history` after a benchmark keeps them so."""
    kept = history.HISTORY / f"{scoresde.__version__}.json"
    assert json.loads(kept.read_text(encoding="utf-8")) == history.figures()


def test_a_figure_is_found_by_its_dotted_name(tmp_path: Path) -> None:
    rows = [{"solver": "heun", "kind": "ODE", "slopes": [1.9, 2.000004]}]
    (tmp_path / "orders.json").write_text(json.dumps(rows), encoding="utf-8")
    assert history.figures(tmp_path) == {"orders.heun.ODE": 2.0}


def test_the_least_error_of_a_named_solver_counts(tmp_path: Path) -> None:
    columns = ["problem", "family", "sde", "budget", "library", "note", "error"]
    rows = [
        ["B1", "vp", False, 10, "scoresde", "", 0.2],
        ["B1", "vp", False, 10, "scoresde", "", 0.1],
        ["B1", "vp", False, 10, "scoresde", "a setting without a name", 0.01],
        ["B1", "vp", False, 10, "azula", "", 0.001],
    ]
    content = {"columns": columns, "rows": rows}
    (tmp_path / "solvers.json").write_text(json.dumps(content), encoding="utf-8")
    assert history.figures(tmp_path) == {"solvers.B1.vp.ode.10": 0.1}


def test_changes_are_told_from_a_share_on() -> None:
    old, new = {"a": 1.0, "b": 1.0, "gone": 2.0}, {"a": 1.09, "b": 0.8, "new": 3.0}
    assert history.changes(old, new, 0.1) == ["- gone: 2, gone", "+ new: 3", "  b: 1 -> 0.8"]
