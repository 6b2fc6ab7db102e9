"""Bad input of grids."""

from __future__ import annotations

import math

from bad_input import OWN, VP, Row, T, V, check, each

from scoresde import Grid
from scoresde.schedule.grid import karras, log_snr, quadratic, uniform

ROWS = [
    Row("grid-steps-zero", lambda: uniform(VP, 0), V, "steps", "0", "whole number above 0"),
    Row("grid-steps-negative", lambda: log_snr(VP, -5), V, "steps", "-5", "above 0"),
    Row("grid-steps-half", lambda: quadratic(VP, 2.5), T, "steps", "2.5", "whole number"),
    Row("grid-t-end-late", lambda: uniform(VP, 3, t_end=2.0), V, "t_end", "2.0", "to T (noise)"),
    Row(
        "grid-no-length",
        lambda: uniform(VP, 3, t_start=0.001),
        V,
        "t_start, t_end",
        "0.001",
        "move one",
    ),
    Row("grid-no-sde", lambda: uniform("vp", 3), T, "sde", "'vp'", "VPSDE()"),
    Row("grid-to-no-noise", lambda: log_snr(VP, 3, t_end=0.0), V, "t_end", "0", "t_end > 0"),
    Row("grid-rho-zero", lambda: karras(VP, 3, rho=0), V, "rho", "0", "7 is the value"),
    Row("grid-karras-own", lambda: karras(OWN, 3), T, "grid", "FunctionSDE", "grid='uniform'"),
    Row("grid-turns", lambda: Grid.of([1.0, 0.5, 0.7]), V, "grid", "0.5 followed by 0.7", "sort"),
    Row("grid-repeats", lambda: Grid.of([1.0, 0.5, 0.5]), V, "grid", "position 1", "duplicates"),
    Row("grid-one-time", lambda: Grid.of([1.0]), V, "grid", "(1.0,)", "N + 1 times"),
    Row("grid-nan", lambda: Grid.of([1.0, math.nan]), V, "times", "nan", "remove it"),
    Row("times-number", lambda: Grid.of(0.5), T, "grid", "0.5", "[1.0, 0.5, 0.1]"),
    Row("grid-no-segments", lambda: Grid(()), V, "segments", "()", "Grid.of(times)"),
    Row(
        "grid-bare-times", lambda: Grid((1.0, 0.5)), T, "segments", "(1.0, 0.5)", "Grid.of(times)"
    ),
    Row(
        "grid-segments-part",
        lambda: Grid(((1.0, 0.5), (0.2, 0.1))),
        V,
        "segments",
        "from 0.2 after",
        "noisier",
    ),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
