"""A comparison as one HTML file: text, tables and embedded figures, nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

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

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #222; line-height: 1.55;
  font: 16px/1.55 -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p { max-width: 42rem; margin: .5rem 0; }
.lead { color: #555; margin-bottom: 1.5rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; white-space: nowrap; }
th { border-bottom: 1.5px solid #222; font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid #e6e6e6; }
.text { text-align: left; }
tr.front td { background: #f1f7fc; }
table.facts td { white-space: normal; text-align: left; vertical-align: top; }
table.facts td:first-child { color: #555; white-space: nowrap; padding-right: 1.6rem; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { max-width: 42rem; color: #444; font-size: .9rem; margin-top: .4rem; }
table.samples td { vertical-align: middle; border: 0; padding: .12rem .9rem .12rem 0; }
table.samples img { display: block; max-width: 100%; height: auto; }
code, pre { font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { background: #f6f6f6; padding: .7rem .9rem; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: .5rem 0; }
"""


def page(found: Results, title: str, low: float, high: float) -> str:
    """The whole page as text."""
    need("matplotlib", "")
    about = dict(found.about)
    call = about.pop("command", None)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(found))}</p>',
        "<h2>Which to take</h2>",
        *_recommended(found),
        "<h2>Accuracy against cost</h2>",
        *_curves(found),
        "<h2>All measurements</h2>",
        *_table(found),
        *_pictures(found, low, high),
        "<h2>What was compared</h2>",
        _facts({key: str(value) for key, value in about.items()}),
        "<h2>How to read this</h2>",
        *_method(found),
    ]
    if call is not None:
        parts += ["<h2>To repeat it</h2>", f"<pre>{escape(str(call))}</pre>"]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _lead(found: Results) -> str:
    solvers = len({row.solver for row in found.rows})
    model = f"{found.about.get('network', 'model')} under {found.about.get('SDE', 'its SDE')}"
    return f"{solvers} solvers in {len(found.rows)} settings on one model: {model}."


def _grid(rows: Sequence[Row]) -> list[str]:
    """A column for the grid, if there are several."""
    return ["grid"] if len({row.grid for row in rows}) > 1 else []


def _html_table(head: Sequence[str], body: Sequence[Sequence[str]], front: set[int]) -> str:
    left = {"solver", "grid", "method"}
    kinds = [' class="text"' if name in left else "" for name in head]
    cells = "".join(f"<th{k}>{escape(n)}</th>" for k, n in zip(kinds, head, strict=True))
    lines = [f"<tr>{cells}</tr>"]
    for number, row in enumerate(body):
        mark = ' class="front"' if number in front else ""
        cells = "".join(f"<td{k}>{escape(v)}</td>" for k, v in zip(kinds, row, strict=True))
        lines.append(f"<tr{mark}>{cells}</tr>")
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _recommended(found: Results) -> Iterator[str]:
    for measure in found.measures:
        why = found.no_advice(measure)
        if why is not None:
            yield f"<p>{escape(why[0].upper() + why[1:])}.</p>"
            continue
        rows = found.front(measure)
        grids = _grid(found.rows)
        head = ["at most this many calls", "solver", *grids, "steps", NAMES[measure], "seconds"]
        body = []
        for row in rows:
            line = [str(row.nfe), _name(row), *([row.grid] if grids else []), count(row)]
            body.append([*line, found.show(row, measure), short(row.seconds)])
        yield f"<p>By {NAMES[measure]}:</p>" if len(found.measures) > 1 else ""
        yield _html_table(head, body, set())
        floor = [row for row in rows if found.at_floor(row, measure)]
        if floor:
            yield (
                f"<p>From {floor[0].nfe} calls on, the {NAMES[measure]} of "
                f"{escape(floor[0].solver)} is at the floor: more "
                "calls buy nothing that can be measured here.</p>"
            )


def _name(row: Row) -> str:
    """The solver, and what stands behind an automatic one."""
    known = row.method != row.solver and row.method.isidentifier()
    return f"{row.solver} ({row.method})" if known else row.solver


def _curves(found: Results) -> Iterator[str]:
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
            yield _figure(figure, _caption(found, measure, xlabel, len(lines), near))


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


def _table(found: Results) -> Iterator[str]:
    head, body = found.cells()
    front = {found.rows.index(row) for name in found.measures for row in found.front(name)}
    yield _html_table(head, [[cell.removesuffix(" *") for cell in row] for row in body], front)
    note = "Sorted by network evaluations (NFE, the final denoising among them), then by error. "
    note += "Shaded: the Pareto front, which no setting with as few evaluations beats. "
    note += f"Seconds: for one batch, the median of {found.about.get('rounds', 'several')} rounds."
    if any("≤" in cell for line in body for cell in line):
        note += f" {NOT_TOLD}"
    if "error" in found.measures:
        note += " Errors in units of the data; median: over samples."
    yield f"<p>{note}</p>"
    for solver, why in found.failed:
        yield f"<p><b>{escape(solver)}</b> made no samples: {escape(why)}</p>"


def _pictures(found: Results, low: float, high: float) -> Iterator[str]:
    """Images side by side, or points in the plane, of a few rows."""
    chosen = _chosen(found)
    first = found.samples[chosen[0]]
    if first.ndim == 4 and first.shape[1] in (1, 3):
        yield "<h2>Samples</h2>"
        yield from _strips(found, chosen, low, high)
    elif first.ndim == 2 and first.shape[1] > 1:
        from scoresde.plot import scatter

        panels = dict(_clouds(found, chosen))
        what = "The first two coordinates of the samples" if first.shape[1] > 2 else "Samples"
        yield "<h2>Samples</h2>"
        figure = scatter(panels, columns=3)
        yield _figure(figure, f"{what}, all from the same noise, on the same axes.", "png")


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


def _strips(found: Results, chosen: Sequence[int], low: float, high: float) -> Iterator[str]:
    from scoresde.plot import image_grid

    sets: list[tuple[str, Tensor]] = []
    if found.reference is not None:
        sets.append(("reference", found.reference))
    sets += [(_title(found.rows[k]), found.samples[k]) for k in chosen]
    lines = []
    for name, images in sets:
        figure = image_grid(images[:ACROSS], columns=ACROSS, low=low, high=high)
        image = _image(figure, "png", f"samples of {name}")
        lines.append(f'<tr><td class="text">{escape(name)}</td><td>{image}</td></tr>')
    rows = "\n".join(lines)
    yield f'<figure><table class="samples">\n{rows}\n</table><figcaption>'
    yield (
        "Each column starts from the same noise. An accurate solver of the probability flow "
        "repeats the reference; one of a reverse SDE makes images of its own."
        "</figcaption></figure>"
    )


def _facts(facts: dict[str, str]) -> str:
    rows = (f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts.items())
    return '<table class="facts">\n' + "\n".join(rows) + "\n</table>"


def _method(found: Results) -> Iterator[str]:
    if "error" in found.measures:
        yield (
            "<p><b>RMS error.</b> Each solver of the probability flow starts from the same noise "
            "as the reference, an adaptive solver at a tight tolerance, and ends at the same time "
            "with the same denoising step. The error is the root mean square of the difference "
            f"over all entries and samples. Its floor, {short(found.floors['error'].value)}, is "
            f"{escape(found.floors['error'].what)}; rows below it are not told apart, and of them "
            "the one with fewest evaluations is preferred.</p>"
        )
    if "distance" in found.measures:
        yield (
            f"<p><b>Distance.</b> Of the set of samples from {escape(_target(found))}. "
            f"Floor: the {escape(found.floors['distance'].what)}; a value up to "
            f"{short(found.floors['distance'].value)} (two standard deviations more) cannot be "
            "told from none.</p>"
        )
    yield (
        "<p>These numbers say how well the solvers follow the model. Whether the model is good is "
        "another question, which a small error here does not answer.</p>"
    )


def _target(found: Results) -> str:
    return str(found.about.get("distance from", "the target"))


def _figure(figure: Figure, caption: str, kind: str = "svg") -> str:
    image = _image(figure, kind, caption)
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(figure: Figure, kind: str, alt: str) -> str:
    """A figure as an element that holds its own data."""
    import matplotlib

    file = io.BytesIO()
    # Letters as outlines: the reader may lack the font that they were set in.
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        figure.savefig(file, format=kind, dpi=144, facecolor="white")
    width = round(figure.get_size_inches()[0] * 96)
    mime = "svg+xml" if kind == "svg" else "png"
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img width="{width}" alt="{escape(alt)}" src="data:image/{mime};base64,{data}">'
