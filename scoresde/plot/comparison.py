"""Figures that compare solvers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np

from scoresde._check import fail, finite
from scoresde.plot.style import (
    PALETTE,
    SOFT,
    Numbers,
    blank,
    plain_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

__all__ = ["quality_against_nfe"]

PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
# Candidate positions of a label, best first: distances from its mark in points, and directions.
REACHES = (6, 10, 15)
TOWARD = np.array([(1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0)])


def _by_solver(rows: Sequence[tuple[str, float, float]]) -> dict[str, Numbers]:
    """Solver -> (K, 2) of (nfe, quality), in the order of nfe."""
    if not rows:
        raise fail("rows", "at least one (solver, nfe, quality)", rows, "measure something first")
    solvers: dict[str, list[tuple[float, float]]] = {}
    for index, (name, nfe, quality) in enumerate(rows):
        for field, value in (("nfe", nfe), ("quality", quality)):
            if not (value > 0 and math.isfinite(value)):
                expected = f"a finite {field} above 0 for {name!r}"
                raise fail(f"rows[{index}]", expected, value, "leave out runs that diverged")
        solvers.setdefault(name, []).append((float(nfe), float(quality)))
    return {name: np.array(sorted(points)) for name, points in solvers.items()}


def _draw_floor(axes: Axes, floor: float, label: str) -> None:
    if not finite("floor", floor) > 0:
        raise fail("floor", "a number above 0 (the axis is logarithmic)", floor, "pass None")
    axes.axhline(floor, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
    axes.annotate(
        label,
        (0.0, floor),
        (4, 3),
        size=8,
        color=SOFT,
        va="bottom",
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        bbox=PAPER,
    )


def _place_labels(figure: Figure, axes: Axes, solvers: Mapping[str, Numbers]) -> None:
    """Write each name beside one of its points with the least overlap, preferably the last."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # computes the layout, so that extents in pixels are final
    lines = [_along(line.get_transform().transform(line.get_xydata())) for line in axes.lines]
    taken = [text.get_window_extent() for text in axes.texts]
    for index, (name, points) in enumerate(solvers.items()):
        others = np.concatenate([np.empty((0, 2)), *lines[:index], *lines[index + 1 :]])
        color = PALETTE[index % len(PALETTE)]
        label = axes.annotate(name, points[-1], (0, 0), textcoords="offset points", color=color)
        label.set(in_layout=False, bbox=PAPER, size=8.5, ha="center", va="center")
        half = np.asarray(label.get_window_extent().size) / 2
        spots = []
        for mark, reach, toward in product(range(len(points))[::-1], REACHES, TOWARD):
            offset = reach * figure.dpi / 72 * toward + half * np.sign(toward)
            centre = axes.transData.transform(points[mark]) + offset
            spots.append((points[mark], offset, Bbox([centre - half - 3, centre + half + 3])))
        costs = [_cost(box, axes.bbox, taken, lines[index], others) for _, _, box in spots]
        label.xy, offset, box = spots[int(np.argmin(costs))]
        label.set_position(offset * 72 / figure.dpi)
        taken.append(box)


def _along(points: Numbers) -> Numbers:
    """Closely spaced points (J, 2) on the line through `points` (K, 2)."""
    where = np.linspace(0, len(points) - 1, 24 * len(points))
    return np.stack([np.interp(where, np.arange(len(points)), x) for x in points.T], axis=1)


def _cost(box: Bbox, frame: Bbox, taken: Sequence[Bbox], own: Numbers, others: Numbers) -> float:
    """The cost of a label: cut off, over another label, over a line, or near another line."""
    (low, high), (least, most) = box.get_points(), frame.get_points()
    cut = bool((low < least).any() or (high > most).any())
    overlaps = sum(box.overlaps(other) for other in taken)
    covered = ((own > low) & (own < high)).all(axis=1).sum()
    near = ((others > low - 4) & (others < high + 4)).all(axis=1).sum()
    return float(10_000 * cut + 1000 * overlaps + covered + near)


def quality_against_nfe(
    rows: Sequence[tuple[str, float, float]],
    *,
    floor: float | None = None,
    floor_label: str = "real data against real data",
    xlabel: str = "network evaluations per sample (NFE)",
    ylabel: str = "Fréchet distance",
    title: str | None = None,
) -> Figure:
    """Quality of samples against the number of network evaluations, a line for each solver.

    Both axes are logarithmic. The name of a solver is written beside one of its points, preferably
    the last, where it covers neither a point nor another name.

    Args:
        rows: (solver, nfe, quality) each, in any order; nfe and quality are above 0, and a
            smaller quality is better.
        floor: the quality of real data against real data, drawn as a dashed line.
        floor_label: label of that line.
        xlabel: label of the cost, for example if it is in seconds.
        ylabel: label of the quality.
        title: title of the figure.

    Raises:
        ValueError: there are no rows, or numbers are not finite and above 0.

    Example:
        >>> rows = [("ddim", 10, 0.2), ("ddim", 20, 0.1), ("heun", 19, 0.06)]
        >>> figure = quality_against_nfe(rows, floor=0.01)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['real data against real data', 'ddim', 'heun']
    """
    solvers = _by_solver(rows)
    with blank(6.2, 4.2) as figure:
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", ylabel=ylabel, title=title or "")
        axes.set_xlabel(xlabel)
        for points, color in zip(solvers.values(), cycle(PALETTE), strict=False):
            axes.plot(*points.T, color=color, marker="o", markersize=4.5, linewidth=1.3)
        if floor is not None:
            _draw_floor(axes, floor, floor_label)
        axes.margins(x=0.12, y=0.1)
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        _place_labels(figure, axes, solvers)
    return figure
