"""Bad input of the noise sources."""

from __future__ import annotations

import math

from bad_input import OWN, VP, Row, T, V, check, each, sample

from scoresde.noise import Independent, PathOnGrid

ROWS = [
    Row("noise-seed-negative", lambda: Independent(-1), V, "seed", "-1", "seed=0"),
    Row("noise-seed-wide", lambda: Independent(2**63), V, "seed", str(2**63), "seed=0"),
    Row("noise-seed-float", lambda: Independent(1.0), V, "seed", "1.0", "seed=0"),
    Row("noise-first-negative", lambda: Independent(0, -2), V, "first", "-2", "first=0"),
    Row("path-seed", lambda: PathOnGrid("s", VP, [1.0, 0.5]), V, "seed", "'s'", "seed=0"),
    Row("path-empty", lambda: PathOnGrid(0, VP, []), V, "times", "()", "sort the grid"),
    Row("path-turns", lambda: PathOnGrid(0, VP, [1.0, 0.2, 0.5]), V, "times", "0.2", "sort"),
    Row("path-nan", lambda: PathOnGrid(0, VP, [1.0, math.nan]), V, "times", "nan", "remove it"),
    Row("path-late", lambda: PathOnGrid(0, VP, [1.5, 0.5]), V, "t:", "1.5", "times of VPSDE"),
    Row("path-early", lambda: PathOnGrid(0, VP, [1.0, -0.5]), V, "t:", "-0.5", "times of VPSDE"),
    Row("path-at-0", lambda: PathOnGrid(0, VP, [1.0, 0.0]), V, "times", "0.0", "above t = 0"),
    Row("path-eta", lambda: PathOnGrid(0, VP, [1.0, 0.5], -1), V, "eta", "-1", "stochasticity"),
    Row(
        "path-no-sde",
        lambda: PathOnGrid(0, "vp", [1.0, 0.5]),
        T,
        "sde",
        "'vp'",
        "SDE of the solver",
    ),
    Row(
        "path-clock-typo",
        lambda: PathOnGrid(0, VP, [1.0, 0.5], clock="snt"),
        V,
        "clock",
        "'snt'",
        "did you mean 'snr'",
    ),
    Row(
        "path-clock-own",
        lambda: PathOnGrid(0, OWN, [1.0, 0.5], clock="snr"),
        V,
        "clock",
        "'snr'",
        "leave it out",
    ),
    Row(
        "path-off-grid",
        lambda: sample(noise=PathOnGrid(0, VP, [1.0, 0.5, 0.001]), seed=None),
        V,
        "times",
        "0.6",
        "a finest grid that contains every node",
    ),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
