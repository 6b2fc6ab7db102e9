"""Signals, and the columns of tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scoresde._check import fail
from scoresde.plot.style import PALETTE, SOFT, Array, as_numbers, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["columns_of", "signals"]

MOST = 12
"""The largest number of columns that have room beside each other."""


def signals(x: Array, *, title: str | None = None) -> Figure:
    """Signals below each other, each with a line for each of its channels, on common axes.

    Args:
        x: (N, C, L), N signals of C channels and L values, or (N, L).
        title: title of the figure.

    Raises:
        ValueError: the shape is wrong, or no value is finite.

    Example:
        >>> figure = signals(np.zeros((3, 2, 100)), title="sound")
        >>> len(figure.axes), len(figure.axes[0].lines)
        (3, 2)
    """
    values = as_numbers("x", x)
    if values.ndim == 2:
        values = values[:, None]
    if values.ndim != 3 or 0 in values.shape:
        raise fail("x", "shape (N, C, L) or (N, L)", values, "select the signals to draw")
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise fail("x", "at least one value that is finite", "none", "find where it diverged")
    low, high = float(finite.min()), float(finite.max())
    room = 0.05 * ((high - low) or 1.0)
    with blank(6.0, 0.35 + 0.55 * len(values)) as figure:
        panels = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
        for panel, signal in zip(panels, values, strict=True):
            for number, channel in enumerate(signal):
                panel.plot(channel, lw=0.8, color=PALETTE[number % len(PALETTE)])
            panel.set_ylim(low - room, high + room)
            panel.set_xlim(0, max(1, values.shape[2] - 1))
            panel.tick_params(labelsize=7)
        panels[0].set_title(title or "")
    return figure


def columns_of(x: Array, *, title: str | None = None) -> Figure:
    """The distribution of each column of a table, as a histogram, the columns side by side.

    Args:
        x: (N, D), with D of at most 12.
        title: title of the figure.

    Raises:
        ValueError: the shape is wrong, there are more columns, or one has no finite value.

    Example:
        >>> figure = columns_of(np.random.default_rng(0).normal(size=(500, 3)))
        >>> [axes.get_title() for axes in figure.axes]
        ['0', '1', '2']
    """
    values = as_numbers("x", x)
    if values.ndim != 2 or not 0 < values.shape[1] <= MOST or len(values) == 0:
        remedy = "select the columns to draw"
        raise fail("x", f"shape (N, D) with D of at most {MOST}", values, remedy)
    if not np.isfinite(values).any(0).all():
        raise fail("x", "a finite value in every column", "none", "find where it diverged")
    across = min(4, values.shape[1])
    down = math.ceil(values.shape[1] / across)
    with blank(1.9 * across, 0.3 * bool(title) + 1.6 * down) as figure:
        for number, column in enumerate(values.T):
            panel = figure.add_subplot(down, across, number + 1)
            kept = column[np.isfinite(column)]
            bins = min(60, max(8, round(2 * len(kept) ** (1 / 3))))
            panel.hist(kept, bins=bins, color=PALETTE[0])
            panel.set_title(str(number), fontsize=8)
            panel.set_yticks([])
            panel.tick_params(labelsize=7)
            if len(kept) < len(column):
                panel.set_xlabel(f"{len(column) - len(kept)} not finite", size=7, color=SOFT)
        if title:
            figure.suptitle(title, fontsize=10)
    return figure
