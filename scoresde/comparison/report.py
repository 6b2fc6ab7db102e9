"""The report of a comparison: one HTML file of text, tables and embedded figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from scoresde._check import need
from scoresde.comparison.rows import AT_FLOOR, Results, Row, count, short
from scoresde.plot.page import Picture, embedded, rendered

__all__ = ["page"]

SHOWN = 6  # solvers in a figure, so that their names fit
ACROSS = 12  # images in a row
FAR = 1 / 30  # a floor that far below the least point would squeeze the figure
NAMES = {"error": "RMS error", "distance": "distance"}


def page(results: Results, title: str, low: float, high: float) -> str:
    """The page as text; the template is `report.html`."""
    need("matplotlib", "")
    head, body = results.cells()
    chosen = _chosen(results)
    values = {
        "title": title,
        "results": results,
        "about": {name: str(value) for name, value in results.about.items() if name != "command"},
        "command": results.about.get("command"),
        "solvers": len({row.solver for row in results.rows}),
        "recommended": [_recommended(results, measure) for measure in results.measures],
        "curves": list(_curves(results)),
        "head": head,
        "body": [[cell.removesuffix(" *") for cell in row] for row in body],
        "front": {
            results.rows.index(row) for name in results.measures for row in results.front(name)
        },
        "at_floor": AT_FLOOR if any("≤" in cell for line in body for cell in line) else "",
        "strips": list(_strips(results, chosen, low, high)),
        "cloud": _cloud(results, chosen),
        "short": short,
    }
    return rendered("comparison/report.html", values)


def _recommended(results: Results, measure: str) -> dict[str, Any]:  # what the template shows
    """The Pareto front of a measure as a table, or the reason why there is none."""
    rows = results.front(measure)
    grids = ["grid"] if len({row.grid for row in results.rows}) > 1 else []
    body = []
    for row in rows:
        known = row.method != row.solver and row.method.isidentifier()
        name = f"{row.solver} ({row.method})" if known else row.solver
        line = [str(row.nfe), name, *([row.grid] if grids else []), count(row)]
        body.append([*line, results.show(row, measure), short(row.seconds)])
    return {
        "name": NAMES[measure],
        "why": results.no_advice(measure),
        "head": ["at most this many calls", "solver", *grids, "steps", NAMES[measure], "seconds"],
        "body": body,
        "floor": next((row for row in rows if results.at_floor(row, measure)), None),
    }


def _curves(results: Results) -> Iterator[Picture]:
    from scoresde.plot import quality_against_nfe

    units = {"error": "RMS error (units of the data)", "distance": "distance between sets"}
    names = {"error": "error of the reference", "distance": "between halves of the reference"}
    if results.about.get("distance from", "").endswith("of data"):
        names["distance"] = "real data against real data"
    for measure in results.measures:
        floor, ranked = results.floors[measure], results.ranked(measure)
        lines = list(dict.fromkeys(_line(results, row) for row in ranked))
        # The same order, and so the same colours, in all figures.
        shown = sorted(
            (row for row in ranked if _line(results, row) in lines[:SHOWN]),
            key=lambda row: (row.process, _line(results, row)),
        )
        costs: dict[str, Callable[[Row], float]] = {
            "network evaluations per sample (NFE)": lambda row: row.nfe,
            f"seconds for {results.about.get('samples', 'the batch').split(' of')[0]} samples": (
                lambda row: row.seconds
            ),
        }
        for xlabel, cost in costs.items():
            points = [(_line(results, r), cost(r), max(getattr(r, measure), 1e-16)) for r in shown]
            near = floor.mean > FAR * min(point[2] for point in points)
            figure = quality_against_nfe(
                points,
                floor=floor.mean if near else None,
                floor_label=names[measure],
                xlabel=xlabel,
                ylabel=units[measure],
            )
            yield embedded(figure, "svg", _caption(results, measure, xlabel, len(lines), near))


def _line(results: Results, row: Row) -> str:
    """The name of a line in a figure, with the grid if the solver ran on several."""
    alike = {r.grid for r in results.rows if (r.solver, r.steps) == (row.solver, row.steps)}
    return f"{row.solver}, {row.grid}" if len(alike) > 1 else row.solver


def _caption(results: Results, measure: str, xlabel: str, lines: int, near: bool) -> str:
    floor = results.floors[measure]
    text = f"{NAMES[measure].capitalize() if measure != 'error' else NAMES[measure]} against "
    text += f"{xlabel}, both axes logarithmic; lower and further left is better. "
    where = "Dashed" if near else "Far below the picture"
    text += f"{where}: {floor.what}, {short(floor.mean)}."
    if lines > SHOWN:
        text += (
            f" The {SHOWN} of {lines} lines with the lowest points are drawn; the table has all."
        )
    return text


def _chosen(results: Results) -> list[int]:
    """The numbers of rows of the best solvers, with few steps and with more."""
    names: set[str] = set()
    for measure in results.measures:
        for process, most in (("ode", 3), ("sde", 1)):
            rows = [row for row in results.ranked(measure) if row.process == process]
            names |= set(list(dict.fromkeys(row.solver for row in rows))[:most])
    counts = sorted({row.steps for row in results.rows if row.steps is not None})
    wanted = {*counts[:1], *counts[len(counts) // 2 :][:1]}
    kept = [k for k, row in enumerate(results.rows) if row.solver in names and row.steps in wanted]
    return kept[:10] or [0]


def _title(row: Row) -> str:
    return f"{row.solver}, {row.nfe} NFE"


def _clouds(results: Results, chosen: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    if results.reference is not None:
        yield "reference", results.reference[:, :2]
    if results.target is not None:
        yield "compared with", results.target[:, :2]
    for k in chosen:
        yield _title(results.rows[k]), results.samples[k][:, :2]


def _cloud(results: Results, chosen: Sequence[int]) -> Picture | None:
    """A figure of points in two dimensions for the chosen rows; None for other samples."""
    from scoresde.plot import scatter

    first = results.samples[chosen[0]]
    if first.ndim != 2 or first.shape[1] < 2:
        return None
    what = "The first two coordinates of the samples" if first.shape[1] > 2 else "Samples"
    figure = scatter(dict(_clouds(results, chosen)), columns=3)
    return embedded(figure, "png", f"{what}, all from the same noise, on the same axes.")


def _strips(
    results: Results, chosen: Sequence[int], low: float, high: float
) -> Iterator[dict[str, Any]]:  # what the template shows
    """Rows of images for the chosen rows; none for other samples."""
    from scoresde.plot import image_grid

    first = results.samples[chosen[0]]
    if first.ndim != 4 or first.shape[1] not in (1, 3):
        return
    sets = [] if results.reference is None else [("reference", results.reference)]
    sets += [(_title(results.rows[k]), results.samples[k]) for k in chosen]
    for name, images in sets:
        figure = image_grid(images[:ACROSS], columns=ACROSS, low=low, high=high)
        yield {"name": name, "picture": embedded(figure, "png", f"samples of {name}")}
