"""The result of a comparison, which can write itself down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import final

from scoresde._check import fail, path_of
from scoresde._io import write
from scoresde.comparison.report import page
from scoresde.comparison.rows import Results

__all__ = ["Comparison"]


@final
class Comparison(Results):
    """What `compare` found; see `Results` for its fields and how it ranks.

    `rows` are the measurements, `best(nfe)` the recommended one for a budget of network
    evaluations, `front()` the Pareto front, `table()` Markdown, `to_json()` all numbers, and
    `html(path)` a report of one file.
    """

    def html(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "Solvers compared",
        low: float = -1.0,
        high: float = 1.0,
    ) -> Path:
        """Write a report: figures, tables, samples, what the model is, and how it was made.

        One file that refers to no other and runs no script; its figures are embedded. It appears
        whole or not at all.

        Args:
            path: ending in .html; folders are made.
            title: of the page.
            low, high: the values that are black and white, if samples are images.

        Raises:
            ValueError: another ending.
            ImportError: matplotlib is not installed.
        """
        place = path_of("path", path)
        if place.suffix != ".html":
            raise fail("path", "a file that ends in .html", str(path), "add the ending")
        text = page(self, title, low, high)
        write(place, text.encode())
        return place
