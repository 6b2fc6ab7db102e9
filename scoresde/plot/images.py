"""Grids of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scoresde._check import fail, finite, positive_int
from scoresde.plot.style import (
    Array,
    Numbers,
    as_numbers,
    bare,
    blank,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["image_grid", "trajectories"]


def _images(name: str, x: Array, low: float, high: float, axes: str = "N") -> Numbers:
    """Images (*axes, C, H, W) or (*axes, H, W) as (*axes, H, W, 3) in [0, 1], NaN in red.

    The fourth channel is opacity over a white background.
    """
    images = as_numbers(name, x)
    lead = len(axes.split(", "))
    if images.ndim == lead + 2:
        images = np.expand_dims(images, lead)
    if images.ndim != lead + 3 or images.shape[lead] not in (1, 3, 4):
        expected = f"shape ({axes}, C, H, W) with C = 1, 3 or 4, or ({axes}, H, W)"
        raise fail(name, expected, images, "select or average the channels")
    if not finite("high", high) > finite("low", low):
        raise fail("high", f"a number above low = {low}", high, "pass the range of the data")
    grey = np.clip((np.moveaxis(images, lead, -1) - low) / (high - low), 0.0, 1.0)
    if grey.shape[-1] == 4:
        grey = grey[..., 3:] * grey[..., :3] + (1.0 - grey[..., 3:])
    return np.where(np.isnan(grey), (0.85, 0.1, 0.1), grey)


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
    with blank(inches, inches * canvas.shape[0] / canvas.shape[1] + room) as figure:
        axes = figure.add_subplot()
        axes.imshow(canvas, interpolation="antialiased")
        bare(axes)
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
    labels: Sequence[str] = (),
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Images side by side, row by row.

    Args:
        x: (N, C, H, W) with one channel, three, or four of which the last is opacity, or
            (N, H, W), in model units.
        columns: number of images in a row; None makes the grid nearly square.
        title: title of the figure.
        labels: label of each column; () for none.
        low, high: the values drawn black and white; values outside are clipped, NaN is red.

    Raises:
        ValueError: the shape is wrong, the range is empty, `columns` < 1, or the number of labels
            is not that of the columns.

    Example:
        >>> figure = image_grid(np.zeros((6, 1, 8, 8)), columns=3, title="samples")
        >>> figure.axes[0].get_title()
        'samples'
    """
    images = _images("x", x, low, high)
    count = len(images)
    across = math.ceil(math.sqrt(count)) if columns is None else positive_int("columns", columns)
    if labels and len(labels) != across:
        raise fail("labels", f"{across} texts, one for each column", labels, "pass columns too")
    labels, across = labels[:count], min(across, count)
    down = math.ceil(count / across)
    tiles = np.ones((down * across, *images.shape[1:]))
    tiles[:count] = images
    return _mosaic(tiles.reshape(down, across, *images.shape[1:]), title, labels)


def trajectories(
    path: Array,
    *,
    times: Array | None = None,
    columns: int = 10,
    title: str | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Images along sampling paths: one row per sample, one column per time.

    Args:
        path: (K, B, C, H, W) or (K, B, H, W), B samples at K nodes, in the order of sampling.
        times: the K times, written above the columns; None writes nothing.
        columns: number of the K nodes to show, evenly spaced, first and last included.
        title: title of the figure.
        low, high: the values drawn black and white; values outside are clipped, NaN is red.

    Raises:
        ValueError: the shape is wrong, the number of times is not K, or `columns` < 1.

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
