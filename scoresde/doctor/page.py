"""The report of an examination as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from scoresde._check import need
from scoresde.plot.page import Picture, embedded, rendered

__all__ = ["page"]

Report: TypeAlias = Any  # `scoresde.doctor.Report`, whose module imports this one

COLUMNS = {
    "t": "t",
    "log_snr": "log-SNR",
    "loss": "loss",
    "gaussian": "Gaussian",
    "reference": "best reference",
    "slope": "slope",
    "slope_error": "its error",
    "length": "length",
}
"""Columns of the table, and their titles."""


def page(report: Report, title: str) -> str:
    """The page as text; the template is `report.html`."""
    need("matplotlib", "")
    values = {
        "title": title,
        "verdict": report.verdict,
        "report": report,
        "about": report.about,
        "pictures": list(_pictures(report)),
        "head": list(COLUMNS.values()),
        "body": [[f"{row[name]:.3g}" for name in COLUMNS] for row in report.levels],
    }
    return rendered("doctor/report.html", values)


def _pictures(report: Report) -> Iterator[Picture]:
    from scoresde.plot import curve

    if not report.levels:
        return
    lambdas = [row["log_snr"] for row in report.levels]
    names = {"loss": "model", "gaussian": "Gaussian", "reference": "best reference"}
    lines = {
        title: (lambdas, [row[name] for row in report.levels]) for name, title in names.items()
    }
    figure = curve(lines, xlabel="log-SNR", ylabel="mean squared error of eps")
    text = "The loss against the log-SNR, with noise on the left and data on the right. The model "
    yield embedded(figure, "svg", f"{text}should nowhere be above a reference.")
