"""Samples of any kind that has a picture, and the values of samples with their errors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from scoresde._check import fail, positive_int
from scoresde.plot.images import image_grid
from scoresde.plot.plane import scatter
from scoresde.plot.series import MOST, columns_of, signals
from scoresde.plot.style import INK, PALETTE, Array, as_numbers, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawable", "likelihoods", "samples", "thumbnail"]


SIGNALS = 8
"""The number of signals that are drawn below each other by default."""


def _kind(shape: Sequence[int]) -> str | None:
    """The kind of picture of samples of this shape, or None."""
    if len(shape) == 1:
        kind = "points" if shape[0] == 2 else "columns"
        return kind if 0 < shape[0] <= MOST else None
    if len(shape) == 2:
        return "signals"
    if len(shape) in (3, 4) and shape[0] in (1, 3, 4):
        return "images" if len(shape) == 3 else "volumes"
    return None


def drawable(shape: Sequence[int]) -> bool:
    """Whether samples of this shape are images or points, pictures that need no axes."""
    return _kind(shape) in ("points", "images")


def samples(
    x: Array,
    *,
    most: int | None = None,
    columns: int | None = None,
    title: str | None = None,
    labels: Sequence[str] = (),
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Samples as a picture: images side by side, points in the plane, signals, or histograms.

    Args:
        x: in model units: (N, C, H, W) images with one channel, three or four; (N, C, D, H, W)
            volumes, of which the middle slice is drawn; (N, 2) points; (N, C, L) signals, each
            with a panel; or (N, D) rows of a table, with a histogram for each column.
        most: the number of samples to draw, the first ones; None draws all, but of signals 8.
        columns, labels: as in `image_grid`, for images.
        title: title of the figure.
        low, high: the values of an image that are drawn black and white.

    Raises:
        ValueError: samples of this shape have no picture, or `most` < 1.

    Example:
        >>> samples(np.zeros((6, 2))).axes[0].get_title()
        'samples'
    """
    values = as_numbers("x", x)
    kind = _kind(values.shape[1:])
    if kind is None:
        remedy = "select the channels or the columns, or call a function of scoresde.plot"
        expected = "images, volumes, points, signals or at most 12 columns, (N, *D)"
        raise fail("x", expected, values, remedy)
    if most is not None:
        values = values[: positive_int("most", most)]
    if kind == "points":
        return scatter({title or "samples": values})
    if kind == "columns":
        return columns_of(values, title=title)
    if kind == "signals":
        return signals(values if most is not None else values[:SIGNALS], title=title)
    if kind == "volumes":
        values = values[:, :, values.shape[2] // 2]
    return image_grid(values, columns=columns, title=title, labels=labels, low=low, high=high)


def thumbnail(x: Tensor) -> bytes | None:
    """A small PNG of the first samples (N, *D); None if none is finite or has a picture."""
    kind = _kind(x.shape[1:])
    if kind is None or not x.numel() or not bool(x.isfinite().flatten(1).any(0).all()):
        return None
    file = io.BytesIO()
    figure = samples(x, most={"images": 16, "volumes": 16, "signals": 4}.get(kind, 2000))
    figure.savefig(file, format="png", dpi=80, facecolor="white")
    return file.getvalue()


def likelihoods(
    values: Array, error: Array | None = None, *, ylabel: str = "log p, nats", title: str = ""
) -> Figure:
    """Log-likelihoods, or bounds on them, of samples in ascending order, and their mean.

    Args:
        values: (B,), one for each sample. Those that are not finite, such as those of samples
            that a solver stopped, are left out, and their number is written below the axis.
        error: (B,), the standard errors, or None; bars are two of them long on each side, and
            those that are unknown are left out.
        ylabel: label of the values.
        title: title of the figure.

    Raises:
        ValueError: no value is finite, or the shapes are others.

    Example:
        >>> figure = likelihoods([-1.0, -3.0, -2.0], [0.1, 0.1, 0.1])
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [-3.0, -2.0, -1.0]
    """
    each = as_numbers("values", values)
    spread = np.zeros_like(each) if error is None else as_numbers("error", error)
    if each.ndim != 1 or spread.shape != each.shape:
        raise fail("error", f"one number for each of {each.shape} values", spread, "pass (B,)")
    known = np.isfinite(each)
    if not known.any():
        raise fail("values", "at least one that is finite", each, "see the status of the solve")
    order = np.argsort(each[known])
    shown = each[known][order]
    bars = 2 * np.where(np.isfinite(spread), spread, 0.0)[known][order]
    ranks = np.arange(1, len(shown) + 1)
    lost = len(each) - len(shown)
    below = f"sample, in order; {lost} of {len(each)} without a value" if lost else None
    with blank(5.6, 3.4) as figure:
        axes = figure.add_subplot(xlabel=below or "sample, in order", ylabel=ylabel, title=title)
        axes.plot(ranks, shown, "o", color=PALETTE[0], markersize=3.5)
        if bars.any():
            axes.errorbar(ranks, shown, bars, fmt="none", ecolor=PALETTE[0], alpha=0.4)
        axes.axhline(shown.mean(), color=INK, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"mean {shown.mean():.4g}",
            (0.02, shown.mean()),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            size=8,
        )
        axes.margins(x=0.02)
    return figure
