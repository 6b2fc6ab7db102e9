"""Points and paths in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scoresde._check import fail, finite, instance, positive_int
from scoresde.plot.style import (
    FAINT,
    PALETTE,
    SOFT,
    Array,
    Numbers,
    as_points,
    bare,
    blank,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["paths_2d", "scatter"]


def _square_limits(
    clouds: Sequence[Numbers], limits: tuple[float, float] | None
) -> tuple[float, float]:
    """The given limits, or common limits of both coordinates with a margin of 5 %."""
    if limits is not None:
        low, high = finite("limits", limits[0]), finite("limits", limits[1])
        if high <= low:
            raise fail("limits", "(low, high) with low < high", limits, "e.g. (-3, 3)")
        return low, high
    values = np.concatenate([cloud.ravel() for cloud in clouds])
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise fail("points", "at least one that is finite", "none", "find where sampling diverged")
    room = 0.05 * (np.ptp(values) or 1.0)
    return float(values.min() - room), float(values.max() + room)


def _note_outside(axes: Axes, points: Numbers, limits: tuple[float, float]) -> None:
    """Write the number of points outside the limits below the panel."""
    inside = ((points >= limits[0]) & (points <= limits[1])).all(axis=-1)
    if not inside.all():
        note = f"{int((~inside).sum())} of {inside.size} outside"
        axes.set_xlabel(note, size=7.5, color=SOFT)


def _dots(axes: Axes, points: Numbers, **look: Any) -> None:  # options of matplotlib
    """Draw points (N, 2) without outline, as a bitmap even in a PDF, since there may be many."""
    axes.scatter(points[:, 0], points[:, 1], **{"linewidths": 0, "rasterized": True, **look})


def _square(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    bare(axes)
    axes.spines[:].set(visible=True, color=FAINT)


def scatter(
    panels: Mapping[str, Array], *, limits: tuple[float, float] | None = None, columns: int = 4
) -> Figure:
    """Point clouds in two dimensions, one panel each, all with the same square limits.

    Args:
        panels: title -> (N, 2) points.
        limits: (low, high) of both axes; None fits all points of all panels. The number of
            points outside is written below the panel.
        columns: number of panels in a row.

    Raises:
        TypeError: `panels` is not a mapping.
        ValueError: there is no panel, points are not (N, 2), or the limits are empty.

    Example:
        >>> cloud = np.random.default_rng(0).normal(size=(100, 2))
        >>> [axes.get_title() for axes in scatter({"data": cloud, "model": cloud}).axes]
        ['data', 'model']
    """
    instance("panels", panels, Mapping, 'pass {"title": points}')
    if not panels:
        raise fail("panels", "at least one panel", panels, 'pass {"title": points}')
    clouds = {name: as_points(f"panels[{name!r}]", x, "(N, 2)") for name, x in panels.items()}
    span = _square_limits(list(clouds.values()), limits)
    across = min(positive_int("columns", columns), len(clouds))
    down = math.ceil(len(clouds) / across)
    with blank(2.3 * across, 2.62 * down) as figure:
        for place, (name, points) in enumerate(clouds.items(), start=1):
            axes = figure.add_subplot(down, across, place)
            size = float(np.clip(3000 / len(points), 0.6, 12.0))
            alpha = float(np.clip(2000 / len(points), 0.25, 0.8))
            _dots(axes, points, s=size, alpha=alpha, color=PALETTE[0])
            axes.set_title(name)
            _square(axes, span)
            _note_outside(axes, points, span)
    return figure


def paths_2d(
    path: Array,
    *,
    background: Array | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Paths of samples in two dimensions, from a ring at the start to a dot at the end.

    Args:
        path: (K, B, 2), the states of B samples at K nodes, in the order of sampling.
        background: (M, 2) points drawn pale behind, for example the data.
        limits: (low, high) of both axes; None fits everything.
        title: title of the figure.

    Raises:
        ValueError: the shape is wrong, or the limits are empty.

    Example:
        >>> steps = np.random.default_rng(0).normal(size=(20, 5, 2)).cumsum(axis=0)
        >>> len(paths_2d(steps).axes[0].lines)
        5
    """
    paths = as_points("path", path, "(K, B, 2)")
    cloud = (
        np.empty((0, 2)) if background is None else as_points("background", background, "(M, 2)")
    )
    span = _square_limits([paths, cloud], limits)
    with blank(4.2, 4.2 + (0.3 if title else 0.0)) as figure:
        axes = figure.add_subplot()
        _dots(axes, cloud, s=4, color=FAINT, zorder=1)
        thin = float(np.clip(8 / math.sqrt(paths.shape[1]), 0.4, 1.2))
        for one in paths.swapaxes(0, 1):
            axes.plot(*one.T, color=PALETTE[0], linewidth=thin, alpha=0.55, zorder=2)
        ring = {"facecolors": "white", "edgecolors": SOFT, "linewidths": 0.8}
        _dots(axes, paths[0], s=14, zorder=3, label="start", **ring)
        _dots(axes, paths[-1], s=12, zorder=4, label="end", color=PALETTE[1])
        _square(axes, span)
        figure.legend(
            loc="outside lower center",
            ncols=2,
            handletextpad=0.2,
            columnspacing=1.2,
            borderpad=0.2,
        )
        if title:
            axes.set_title(title)
    return figure
