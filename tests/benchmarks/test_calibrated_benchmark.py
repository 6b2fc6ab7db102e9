"""The page of the calibrations is that of its files, and rows come back from them."""

from __future__ import annotations

import json
from dataclasses import asdict

from benchmarks.calibrated import RESULTS, kept, row_of, table, trained_of, trained_table

PAGE = RESULTS / "calibrated.md"


def test_the_page_is_that_of_the_files() -> None:
    rows = [row_of(saved) for saved in kept(RESULTS / "calibrated.json")]
    nets = [trained_of(saved) for saved in kept(RESULTS / "calibrated-trained.json")]
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(table(rows)) in text
    assert "\n".join(trained_table(nets)) in text
    named = {row.problem for row in rows} | {net.problem for net in nets}
    assert named <= set(text.split("`")[1].split())  # the command


def test_rows_come_back_from_their_file_as_they_were() -> None:
    saved = json.loads((RESULTS / "calibrated.json").read_text(encoding="utf-8"))
    for row in saved:
        made = row_of(row)
        assert asdict(made) | {"ratio": made.ratio, "target": made.target} == row
