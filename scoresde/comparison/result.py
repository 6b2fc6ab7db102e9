"""The result of a comparison, with its report."""

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
    """The result of `compare`; see `Results` for its fields and the ranking.

    `rows` are the measurements, `best(nfe)` is the recommended row for a budget of network
    evaluations, `front()` the Pareto front, `table()` a table in Markdown, `to_json()` all
    numbers, and `html(path)` writes a report.
    """

    def html(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "Solvers compared",
        low: float = -1.0,
        high: float = 1.0,
    ) -> Path:
        """Write a report: figures, tables, samples, the model, and the settings of the runs.

        The report is one HTML file with embedded figures, without scripts or links to other
        files. It is written atomically.

        Args:
            path: the file, ending in .html; folders are created.
            title: title of the page.
            low, high: the values drawn black and white if samples are images.

        Raises:
            ValueError: the suffix is not .html.
            ImportError: matplotlib is not installed.
        """
        place = path_of("path", path)
        if place.suffix != ".html":
            raise fail("path", "a file that ends in .html", str(path), "add the ending")
        text = page(self, title, low, high)
        write(place, text.encode())
        return place
