"""Figures for samples, paths, losses and solver comparisons: arrays in, matplotlib Figure out.

Nothing global is touched: figures are built with matplotlib's object-oriented API (no pyplot, no
window, no display needed) under a style that ends with the call. `save` writes them to a file, a
notebook shows them, and `figure.axes` leads to whatever should look otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor

from scoresde._check import choice, fail, finite, instance, nonnegative, positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

__all__ = [
    "curve",
    "image_grid",
    "paths_2d",
    "quality_against_nfe",
    "save",
    "scatter",
    "trajectories",
]

Array: TypeAlias = Tensor | np.ndarray[Any, Any]
Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

# Dark enough to print, apart for the colour-blind; after Okabe and Ito (2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#8A5FA8", "#B8860B", "#56A0D3", "#555555", "#A0522D")
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
# Where a label may stand, best first: points away from its mark, and in which direction.
REACHES = (6, 10, 15)
TOWARD = np.array([(1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0)])
INK, SOFT, FAINT = "#222222", "#7A7A7A", "#D9D9D9"

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlepad": 7.0,
    "axes.titlesize": 11.0,
    "figure.dpi": 150.0,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": "#ECECEC",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
}


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches, under the house style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # rc_context names its keys
        yield Figure(figsize=(width, height), layout="constrained")


def _numbers(name: str, value: Array) -> Numbers:
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    array = np.asarray(value, dtype=np.float64)
    if array.size == 0:
        raise fail(name, "at least one number", array, "check what was computed")
    return array


def _points(name: str, value: Array, shape: str) -> Numbers:
    points = _numbers(name, value)
    if points.ndim != shape.count(",") + 1 or points.shape[-1] != 2:
        raise fail(name, f"shape {shape}", points, "project it on two coordinates first")
    return points


def _images(name: str, x: Array, low: float, high: float, axes: str = "N") -> Numbers:
    """Images (*axes, C, H, W) or (*axes, H, W) as (*axes, H, W, 3) in [0, 1], NaN in red."""
    images = _numbers(name, x)
    lead = len(axes.split(", "))
    if images.ndim == lead + 2:
        images = np.expand_dims(images, lead)
    if images.ndim != lead + 3 or images.shape[lead] not in (1, 3):
        expected = f"shape ({axes}, C, H, W) with C = 1 or 3, or ({axes}, H, W)"
        raise fail(name, expected, images, "select or average the channels")
    if not finite("high", high) > finite("low", low):
        raise fail("high", f"a number above low = {low}", high, "pass the range of the data")
    grey = np.clip((np.moveaxis(images, lead, -1) - low) / (high - low), 0.0, 1.0)
    return np.where(np.isnan(grey), (0.85, 0.1, 0.1), grey)


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _mosaic(tiles: Numbers, title: str | None, labels: Sequence[str] = ()) -> Figure:
    """Tiles (R, K, H, W, 3) on one white canvas with thin gaps, labels above the columns."""
    rows, columns, height, width, _ = tiles.shape
    zoom = math.ceil(64 / max(height, width))
    gap = max(2, round(zoom * max(height, width) / 20))
    down, across = zoom * height + gap, zoom * width + gap
    large = tiles.repeat(zoom, axis=2).repeat(zoom, axis=3)
    cells = np.pad(large, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0)
    canvas = cells.swapaxes(1, 2).reshape(rows * down, columns * across, 3)[:-gap, :-gap]
    inches = min(7.5, max(2.5, 0.7 * columns))
    room = 0.33 * bool(title) + 0.22 * bool(labels)
    with _figure(inches, inches * canvas.shape[0] / canvas.shape[1] + room) as figure:
        axes = figure.add_subplot()
        axes.imshow(canvas, interpolation="antialiased")
        _bare(axes)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=2, labelsize=8)
        axes.set_xticks([(column + 0.5) * across for column in range(len(labels))], labels)
        axes.set_title(title or "")
    return figure


def image_grid(
    x: Array,
    *,
    columns: int | None = None,
    title: str | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Images side by side, row by row.

    Args:
        x: (N, C, H, W) with one or three channels, or (N, H, W), in model units.
        columns: images in a row; None makes the grid nearly square.
        title: above the grid.
        low, high: the values drawn black and white; those outside are clipped, NaN is red.

    Raises:
        ValueError: another shape, an empty range, or `columns` < 1.

    Example:
        >>> figure = image_grid(np.zeros((6, 1, 8, 8)), columns=3, title="samples")
        >>> figure.axes[0].get_title()
        'samples'
    """
    images = _images("x", x, low, high)
    count = len(images)
    across = math.ceil(math.sqrt(count)) if columns is None else positive_int("columns", columns)
    across = min(across, count)
    down = math.ceil(count / across)
    tiles = np.ones((down * across, *images.shape[1:]))
    tiles[:count] = images
    return _mosaic(tiles.reshape(down, across, *images.shape[1:]), title)


def _square_limits(
    clouds: Sequence[Numbers], limits: tuple[float, float] | None
) -> tuple[float, float]:
    """The given limits, or the smallest common ones for both coordinates, with 5 % of room."""
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
    """Say how many points a panel does not show, so that limits cannot hide them."""
    inside = ((points >= limits[0]) & (points <= limits[1])).all(axis=-1)
    if not inside.all():
        note = f"{int((~inside).sum())} of {inside.size} outside"
        axes.set_xlabel(note, size=7.5, color=SOFT)


def _dots(axes: Axes, points: Numbers, **look: Any) -> None:
    """Points (N, 2) without outline, as a bitmap even in a PDF: there may be many."""
    axes.scatter(points[:, 0], points[:, 1], **{"linewidths": 0, "rasterized": True, **look})


def _square(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    _bare(axes)
    axes.spines[:].set(visible=True, color=FAINT)


def scatter(
    panels: Mapping[str, Array], *, limits: tuple[float, float] | None = None, columns: int = 4
) -> Figure:
    """Point clouds in the plane, one panel each, all with the same square limits.

    Args:
        panels: title -> (N, 2) points.
        limits: (low, high) of both axes; None fits all points of all panels. Points outside are
            counted below the panel.
        columns: panels in a row.

    Raises:
        TypeError: `panels` is not a mapping.
        ValueError: no panel, points that are not (N, 2), or empty limits.

    Example:
        >>> cloud = np.random.default_rng(0).normal(size=(100, 2))
        >>> [axes.get_title() for axes in scatter({"data": cloud, "model": cloud}).axes]
        ['data', 'model']
    """
    instance("panels", panels, Mapping, 'pass {"title": points}')
    if not panels:
        raise fail("panels", "at least one panel", panels, 'pass {"title": points}')
    clouds = {name: _points(f"panels[{name!r}]", x, "(N, 2)") for name, x in panels.items()}
    span = _square_limits(list(clouds.values()), limits)
    across = min(positive_int("columns", columns), len(clouds))
    down = math.ceil(len(clouds) / across)
    with _figure(2.3 * across, 2.62 * down) as figure:
        for place, (name, points) in enumerate(clouds.items(), start=1):
            axes = figure.add_subplot(down, across, place)
            size = float(np.clip(3000 / len(points), 0.6, 12.0))
            alpha = float(np.clip(2000 / len(points), 0.25, 0.8))
            _dots(axes, points, s=size, alpha=alpha, color=PALETTE[0])
            axes.set_title(name)
            _square(axes, span)
            _note_outside(axes, points, span)
    return figure


def trajectories(
    path: Array,
    *,
    times: Sequence[float] | None = None,
    columns: int = 10,
    title: str | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Images on their way from noise to data: one row per sample, one column per time.

    Args:
        path: (K, B, C, H, W) or (K, B, H, W), B samples at K nodes, in walking order.
        times: the K times, written above the columns; None writes nothing.
        columns: how many of the K nodes to show, evenly spaced, first and last included.
        title: above the picture.
        low, high: the values drawn black and white; those outside are clipped, NaN is red.

    Raises:
        ValueError: another shape, a number of times other than K, or `columns` < 1.

    Example:
        >>> path = np.zeros((51, 3, 1, 8, 8))
        >>> figure = trajectories(path, times=np.linspace(1, 0, 51), columns=6)
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()][:2]
        ['t = 1.00', '0.80']
    """
    images = _images("path", path, low, high, axes="K, B")
    nodes = len(images)
    if times is not None and len(times) != nodes:
        raise fail("times", f"{nodes} numbers, one per state", times, "pass the grid's nodes")
    count = min(positive_int("columns", columns), nodes)
    shown = np.linspace(0, nodes - 1, count).round().astype(int) if count > 1 else np.array([-1])
    labels = [] if times is None else [f"{float(times[node]):.2f}" for node in shown]
    if labels:
        labels[0] = f"t = {labels[0]}"
    return _mosaic(images[shown].swapaxes(0, 1), title, labels)


def paths_2d(
    path: Array,
    *,
    background: Array | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Paths of samples in the plane, from a ring at the start to a dot at the end.

    Args:
        path: (K, B, 2), the states of B samples at K nodes, in walking order.
        background: (M, 2) points drawn pale behind, for example the data.
        limits: (low, high) of both axes; None fits everything.
        title: above the picture.

    Raises:
        ValueError: another shape, or empty limits.

    Example:
        >>> steps = np.random.default_rng(0).normal(size=(20, 5, 2)).cumsum(axis=0)
        >>> len(paths_2d(steps).axes[0].lines)
        5
    """
    walks = _points("path", path, "(K, B, 2)")
    cloud = np.empty((0, 2)) if background is None else _points("background", background, "(M, 2)")
    span = _square_limits([walks, cloud], limits)
    with _figure(4.2, 4.2 + (0.3 if title else 0.0)) as figure:
        axes = figure.add_subplot()
        _dots(axes, cloud, s=4, color=FAINT, zorder=1)
        thin = float(np.clip(8 / math.sqrt(walks.shape[1]), 0.4, 1.2))
        for walk in walks.swapaxes(0, 1):
            axes.plot(*walk.T, color=PALETTE[0], linewidth=thin, alpha=0.55, zorder=2)
        ring = {"facecolors": "white", "edgecolors": SOFT, "linewidths": 0.8}
        _dots(axes, walks[0], s=14, zorder=3, label="start", **ring)
        _dots(axes, walks[-1], s=12, zorder=4, label="end", color=PALETTE[1])
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


def _smoothed(steps: Numbers, values: Numbers, span: float) -> Numbers:
    """Exponential moving average over `span` steps, unbiased from the start on.

    m_i = sum_j w_ij v_j / sum_j w_ij with w_ij = exp((s_j - s_i) / span), over j <= i and the v_j
    that are finite.
    """
    total, weight, means = 0.0, 0.0, np.full(len(values), np.nan)
    decays = np.exp(-np.diff(steps, prepend=steps[0]) / span)
    for i, (decay, value) in enumerate(zip(decays, values, strict=True)):
        total, weight = decay * total, decay * weight
        if np.isfinite(value):
            total, weight = total + value, weight + 1.0
        if weight > 0:
            means[i] = total / weight
    return means


def curve(
    series: Mapping[str, tuple[Array, Array]],
    *,
    logy: bool = False,
    smooth: float = 0.0,
    xlabel: str = "step",
    ylabel: str = "loss",
    title: str | None = None,
) -> Figure:
    """Values against steps, one line per name, for example losses.

    Args:
        series: name -> (steps, values), each (K,).
        logy: logarithmic values.
        smooth: span of a moving average, in steps, so that series logged at different intervals
            are smoothed alike; the raw values stay, pale, behind it. 0 for none.
        xlabel: below the steps.
        ylabel: beside the values.
        title: above the picture.

    Raises:
        TypeError: `series` is not a mapping.
        ValueError: no series, unequal lengths, steps that fall, `smooth` below 0.

    Example:
        >>> steps = np.arange(100)
        >>> figure = curve({"train": (steps, 1 / (1 + steps))}, logy=True, smooth=20)
        >>> figure.axes[0].get_yscale()
        'log'
    """
    instance("series", series, Mapping, 'pass {"name": (steps, values)}')
    if not series:
        raise fail("series", "at least one series", series, 'pass {"name": (steps, values)}')
    nonnegative("smooth", smooth)
    with _figure(5.6, 3.4) as figure:
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, title=title or "")
        for (name, pair), color in zip(series.items(), cycle(PALETTE), strict=False):
            steps, values = _series(f"series[{name!r}]", *pair)
            if smooth > 0:
                pale = float(np.clip(14 / math.sqrt(len(steps)), 0.2, 0.6))
                axes.plot(steps, values, color=color, linewidth=0.7, alpha=pale)
                values = _smoothed(steps, values, smooth)
            axes.plot(steps, values, color=color, label=name)
        if logy:
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
        axes.margins(x=0.02)
        if len(series) > 1:
            axes.legend()
    return figure


def _series(name: str, steps: Array, values: Array) -> tuple[Numbers, Numbers]:
    x, y = _numbers(name, steps), _numbers(name, values)
    if x.ndim != 1 or x.shape != y.shape:
        expected = f"values of shape {x.shape}, that of the steps"
        raise fail(name, expected, y, "pass (steps, values), each (K,)")
    if not (np.diff(x) >= 0).all():
        raise fail(name, "steps that do not fall", x, "sort them, or plot two runs as two series")
    return x, y


def quality_against_nfe(
    rows: Sequence[tuple[str, float, float]],
    *,
    floor: float | None = None,
    ylabel: str = "Fréchet distance",
    title: str | None = None,
) -> Figure:
    """Quality of samples against the number of network evaluations, solver by solver.

    Both axes are logarithmic; the points of one solver are joined and its name stands beside the
    last of them, placed where it covers neither a point nor another name.

    Args:
        rows: (solver, nfe, quality) each, in any order; nfe and quality above 0, smaller better.
        floor: the quality of real data against real data, drawn as a dashed line.
        ylabel: what the quality is.
        title: above the picture.

    Raises:
        ValueError: no rows, or numbers that are not finite and above 0.

    Example:
        >>> rows = [("ddim", 10, 0.2), ("ddim", 20, 0.1), ("heun", 19, 0.06)]
        >>> figure = quality_against_nfe(rows, floor=0.01)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['real data against real data', 'ddim', 'heun']
    """
    solvers = _by_solver(rows)
    with _figure(6.2, 4.2) as figure:
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", ylabel=ylabel, title=title or "")
        axes.set_xlabel("network evaluations per sample (NFE)")
        for points, color in zip(solvers.values(), cycle(PALETTE), strict=False):
            axes.plot(*points.T, color=color, marker="o", markersize=4.5, linewidth=1.3)
        if floor is not None:
            _draw_floor(axes, floor)
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
        axes.margins(x=0.12, y=0.1)
        _place_labels(figure, axes, solvers)
    return figure


def _by_solver(rows: Sequence[tuple[str, float, float]]) -> dict[str, Numbers]:
    """Solver -> (K, 2) of (nfe, quality), by rising nfe."""
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


def _draw_floor(axes: Axes, floor: float) -> None:
    if not finite("floor", floor) > 0:
        raise fail("floor", "a number above 0 (the axis is logarithmic)", floor, "pass None")
    axes.axhline(floor, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
    axes.annotate(
        "real data against real data",
        (0.0, floor),
        (4, 3),
        size=8,
        color=SOFT,
        va="bottom",
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        bbox=PAPER,
    )


def _plain_ticks(axis: Axis) -> None:
    """10, 20, 50 instead of powers, and ticks that are few enough to read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _place_labels(figure: Figure, axes: Axes, solvers: Mapping[str, Numbers]) -> None:
    """Write each name beside one of its points, at the freest spot, by preference at the last."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles the layout: extents in pixels are final after it
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
    """Points (J, 2) close together along the line through `points` (K, 2)."""
    where = np.linspace(0, len(points) - 1, 24 * len(points))
    return np.stack([np.interp(where, np.arange(len(points)), x) for x in points.T], axis=1)


def _cost(box: Bbox, frame: Bbox, taken: Sequence[Bbox], own: Numbers, others: Numbers) -> float:
    """How bad a label would be there: cut off, on another label, on a line, near a wrong line."""
    (low, high), (least, most) = box.get_points(), frame.get_points()
    cut = bool((low < least).any() or (high > most).any())
    overlaps = sum(box.overlaps(other) for other in taken)
    covered = ((own > low) & (own < high)).all(axis=1).sum()
    near = ((others > low - 4) & (others < high + 4)).all(axis=1).sum()
    return float(10_000 * cut + 1000 * overlaps + covered + near)


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure to a file, in the format of its suffix; folders are made.

    The file appears whole or not at all: it is written beside its place and then renamed.

    Args:
        figure: any matplotlib figure.
        path: ending in .png, .pdf, .svg or what else matplotlib writes.
        dpi: dots per inch of a bitmap.

    Returns:
        The path written.

    Raises:
        ValueError: a suffix matplotlib cannot write; the message lists those it can.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(image_grid(np.zeros((4, 8, 8))), f"{folder}/new/grid.png")
        ...     path.exists()
        True
    """
    target = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    kind = choice("the suffix of path", target.suffix.removeprefix(".").lower(), kinds)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        figure.savefig(partial, format=kind, dpi=dpi, facecolor="white")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target
