"""Curves of values over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np

from scoresde._check import fail, instance, nonnegative
from scoresde.plot.style import (
    PALETTE,
    Array,
    Numbers,
    as_numbers,
    blank,
    plain_ticks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curve"]

MANY = 6
"""With more series than this the legend is beside the axes."""


def _smoothed(steps: Numbers, values: Numbers, span: float) -> Numbers:
    """Exponential moving average over `span` steps, with bias correction.

    m_i = sum_j w_ij v_j / sum_j w_ij with w_ij = exp((s_j - s_i) / span), over j <= i with finite
    v_j.
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
        logy: use a logarithmic axis of values.
        smooth: span of a moving average in steps, so that series with different logging
            intervals are smoothed equally; the raw values are drawn behind it. 0 disables it.
        xlabel: label of the steps.
        ylabel: label of the values.
        title: title of the figure.

    Raises:
        TypeError: `series` is not a mapping.
        ValueError: there is no series, lengths differ, steps decrease, or `smooth` is below 0.

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
    many = len(series) > MANY
    with blank(7.2 if many else 5.6, 3.4) as figure:
        axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, title=title or "")
        looks = product(("-", "--", ":", "-."), PALETTE)  # colours repeat with another dash
        for (name, pair), (dash, color) in zip(series.items(), cycle(looks), strict=False):
            steps, values = _series(f"series[{name!r}]", *pair)
            if smooth > 0:
                pale = float(np.clip(14 / math.sqrt(len(steps)), 0.2, 0.6))
                axes.plot(steps, values, color=color, linewidth=0.7, alpha=pale)
                values = _smoothed(steps, values, smooth)
            axes.plot(steps, values, color=color, linestyle=dash, label=name)
        if logy:
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
        axes.margins(x=0.02)
        if many:
            figure.legend(loc="outside right upper")
        elif len(series) > 1:
            axes.legend()
    return figure


def _series(name: str, steps: Array, values: Array) -> tuple[Numbers, Numbers]:
    x, y = as_numbers(name, steps), as_numbers(name, values)
    if x.ndim != 1 or x.shape != y.shape:
        expected = f"values of shape {x.shape}, that of the steps"
        raise fail(name, expected, y, "pass (steps, values), each (K,)")
    if not (np.diff(x) >= 0).all():
        raise fail(name, "steps that do not fall", x, "sort them, or plot two runs as two series")
    return x, y
