"""A comparison as one HTML file: text, tables and embedded figures, nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from scoresde._check import need
from scoresde.comparison.rows import NOT_TOLD, Results, Row, count, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["page"]

SHOWN = 6  # solvers in a figure, so that their names fit
ACROSS = 12  # images in a row
FAR = 1 / 30  # a floor that far below the least point would squeeze the figure
NAMES = {"error": "RMS error", "distance": "distance"}


class Picture(NamedTuple):
    """An image that holds its own data: its width in pixels, its source and its caption."""

    width: int
    source: str
    text: str


def page(found: Results, title: str, low: float, high: float) -> str:
    """The whole page as text; its words and its layout stand in `report.html`."""
    from jinja2 import Environment, PackageLoader

    need("matplotlib", "")
    head, body = found.cells()
    chosen = _chosen(found)
    template = Environment(
        loader=PackageLoader("scoresde", "comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    return template.render(
        title=title,
        found=found,
        about={name: str(value) for name, value in found.about.items() if name != "command"},
        command=found.about.get("command"),
        solvers=len({row.solver for row in found.rows}),
        recommended=[_recommended(found, measure) for measure in found.measures],
        curves=list(_curves(found)),
        head=head,
        body=[[cell.removesuffix(" *") for cell in row] for row in body],
        front={found.rows.index(row) for name in found.measures for row in found.front(name)},
        not_told=NOT_TOLD if any("≤" in cell for line in body for cell in line) else "",
        strips=list(_strips(found, chosen, low, high)),
        cloud=_cloud(found, chosen),
        short=short,
    )


def _recommended(found: Results, measure: str) -> dict[str, Any]:  # what the template shows
    """The Pareto front of a measure as a table, or why there is no advice."""
    rows = found.front(measure)
    grids = ["grid"] if len({row.grid for row in found.rows}) > 1 else []
    body = []
    for row in rows:
        known = row.method != row.solver and row.method.isidentifier()
        name = f"{row.solver} ({row.method})" if known else row.solver
        line = [str(row.nfe), name, *([row.grid] if grids else []), count(row)]
        body.append([*line, found.show(row, measure), short(row.seconds)])
    return {
        "name": NAMES[measure],
        "why": found.no_advice(measure),
        "head": ["at most this many calls", "solver", *grids, "steps", NAMES[measure], "seconds"],
        "body": body,
        "floor": next((row for row in rows if found.at_floor(row, measure)), None),
    }


def _curves(found: Results) -> Iterator[Picture]:
    from scoresde.plot import quality_against_nfe

    units = {"error": "RMS error (units of the data)", "distance": "distance between sets"}
    names = {"error": "error of the reference", "distance": "between halves of the reference"}
    if found.about.get("distance from", "").endswith("of data"):
        names["distance"] = "real data against real data"
    for measure in found.measures:
        floor, ranked = found.floors[measure], found.ranked(measure)
        lines = list(dict.fromkeys(_line(found, row) for row in ranked))
        # In an order that is the same in all figures, and so in the same colours.
        shown = sorted(
            (row for row in ranked if _line(found, row) in lines[:SHOWN]),
            key=lambda row: (row.process, _line(found, row)),
        )
        costs: dict[str, Callable[[Row], float]] = {
            "network evaluations per sample (NFE)": lambda row: row.nfe,
            f"seconds for {found.about.get('samples', 'the batch').split(' of')[0]} samples": (
                lambda row: row.seconds
            ),
        }
        for xlabel, cost in costs.items():
            points = [(_line(found, r), cost(r), max(getattr(r, measure), 1e-16)) for r in shown]
            near = floor.mean > FAR * min(point[2] for point in points)
            figure = quality_against_nfe(
                points,
                floor=floor.mean if near else None,
                floor_label=names[measure],
                xlabel=xlabel,
                ylabel=units[measure],
            )
            yield _image(figure, "svg", _caption(found, measure, xlabel, len(lines), near))


def _line(found: Results, row: Row) -> str:
    """The name of a line of a figure: with the grid, if the solver was tried on several."""
    alike = {r.grid for r in found.rows if (r.solver, r.steps) == (row.solver, row.steps)}
    return f"{row.solver}, {row.grid}" if len(alike) > 1 else row.solver


def _caption(found: Results, measure: str, xlabel: str, lines: int, near: bool) -> str:
    floor = found.floors[measure]
    text = f"{NAMES[measure].capitalize() if measure != 'error' else NAMES[measure]} against "
    text += f"{xlabel}, both axes logarithmic; lower and further left is better. "
    where = "Dashed" if near else "Far below the picture"
    text += f"{where}: {floor.what}, {short(floor.mean)}."
    if lines > SHOWN:
        text += (
            f" The {SHOWN} of {lines} lines with the lowest points are drawn; the table has all."
        )
    return text


def _chosen(found: Results) -> list[int]:
    """Rows with few steps and with more, of the best solvers, by number."""
    names: set[str] = set()
    for measure in found.measures:
        for process, most in (("ode", 3), ("sde", 1)):
            rows = [row for row in found.ranked(measure) if row.process == process]
            names |= set(list(dict.fromkeys(row.solver for row in rows))[:most])
    counts = sorted({row.steps for row in found.rows if row.steps is not None})
    wanted = {*counts[:1], *counts[len(counts) // 2 :][:1]}
    kept = [k for k, row in enumerate(found.rows) if row.solver in names and row.steps in wanted]
    return kept[:10] or [0]


def _title(row: Row) -> str:
    return f"{row.solver}, {row.nfe} NFE"


def _clouds(found: Results, chosen: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    if found.reference is not None:
        yield "reference", found.reference[:, :2]
    if found.target is not None:
        yield "compared with", found.target[:, :2]
    for k in chosen:
        yield _title(found.rows[k]), found.samples[k][:, :2]


def _cloud(found: Results, chosen: Sequence[int]) -> Picture | None:
    """Points in the plane, of the chosen rows; None for other samples."""
    from scoresde.plot import scatter

    first = found.samples[chosen[0]]
    if first.ndim != 2 or first.shape[1] < 2:
        return None
    what = "The first two coordinates of the samples" if first.shape[1] > 2 else "Samples"
    figure = scatter(dict(_clouds(found, chosen)), columns=3)
    return _image(figure, "png", f"{what}, all from the same noise, on the same axes.")


def _strips(
    found: Results, chosen: Sequence[int], low: float, high: float
) -> Iterator[dict[str, Any]]:  # what the template shows
    """Images side by side, of the chosen rows; none for other samples."""
    from scoresde.plot import image_grid

    first = found.samples[chosen[0]]
    if first.ndim != 4 or first.shape[1] not in (1, 3):
        return
    sets = [] if found.reference is None else [("reference", found.reference)]
    sets += [(_title(found.rows[k]), found.samples[k]) for k in chosen]
    for name, images in sets:
        figure = image_grid(images[:ACROSS], columns=ACROSS, low=low, high=high)
        yield {"name": name, "picture": _image(figure, "png", f"samples of {name}")}


def _image(figure: Figure, kind: str, text: str) -> Picture:
    import matplotlib

    file = io.BytesIO()
    # Letters as outlines: the reader may lack the font that they were set in.
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        figure.savefig(file, format=kind, dpi=144, facecolor="white")
    mime = "svg+xml" if kind == "svg" else "png"
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width = round(figure.get_size_inches()[0] * 96)
    return Picture(width, f"data:image/{mime};base64,{data}", text)
