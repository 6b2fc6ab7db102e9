"""The variational bound, term by term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from scoresde._check import fail, instance, positive_int
from scoresde.plot.style import INK, PALETTE, Array, Numbers, as_numbers, blank, plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bound_terms"]

# (prior, steps, reconstruction)
Terms: TypeAlias = tuple[Array | float, Array, Array | float]

GROUPS = ("prior", "all steps", "reconstruction", "bound")
DECADES = 6.0  # the axis ends this far below the largest term; smaller terms are negligible


def bound_terms(
    chains: Mapping[str, Terms],
    *,
    dim: int | None = None,
    at: Mapping[str, Array] | None = None,
    xlabel: str | None = None,
    title: str | None = None,
) -> Figure:
    """The variational bounds of chains, with the term of every step.

    The left panel shows L_1 ... L_(N-1), on a logarithmic axis of at most six decades if all are
    positive, with a band of two standard errors of the mean over samples. The right panel shows
    the prior's term L_T, the sum over the steps, the reconstruction term L_0 and the whole bound,
    each with its value. Ho et al. 2020 (arXiv 2006.11239), eq. 5.

    Args:
        chains: name -> (prior, steps, reconstruction) in nats, in the order of the fields of
            `BoundTerms`: () or (B,), (N - 1,) or (N - 1, B), () or (B,); samples are averaged.
        dim: the dimension D of a sample; if given, values are in bits/dim, nats / (D log 2).
        at: name -> (N - 1,), the abscissas of the steps, for example their log-SNR; by default
            the numbers of the steps.
        xlabel: label of the axis of the steps.
        title: title of the figure.

    Raises:
        TypeError: `chains` is not a mapping.
        ValueError: there is no chain, shapes do not match, numbers are not finite, or `dim` < 1.

    Example:
        >>> steps = 1 / np.arange(1, 100) ** 2
        >>> figure = bound_terms({"N = 100": (1e-4, steps, 0.8)}, dim=2)
        >>> figure.axes[0].get_ylabel()
        'bits/dim'
    """
    instance("chains", chains, Mapping, 'pass {"name": (prior, steps, reconstruction)}')
    if not chains:
        raise fail("chains", "at least one", chains, 'pass {"name": (prior, steps, recon)}')
    unit = 1.0 if dim is None else positive_int("dim", dim) * math.log(2)
    terms_of = {name: _terms(f"chains[{name!r}]", terms, unit) for name, terms in chains.items()}
    where = {} if at is None else at
    for name in where:
        if name not in terms_of:
            raise fail("at", f"names of chains, {sorted(terms_of)}", name, "name them alike")
    with blank(8.6, 3.5 + 0.25 * bool(title)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        for (name, (_, steps, _)), color in zip(terms_of.items(), cycle(PALETTE), strict=False):
            _steps(left, name, steps, where.get(name), color)
        _limits(left, np.concatenate([steps.mean(1) for _, steps, _ in terms_of.values()]))
        left.set(xlabel=xlabel or ("step k" if at is None else ""), title="Each step $L_k$")
        left.set_ylabel("nats" if dim is None else "bits/dim")
        left.margins(x=0.02)
        if len(terms_of) > 1:
            left.legend()
        _bars(right, {name: [each.mean(1).sum() for each in t] for name, t in terms_of.items()})
        if title:
            figure.suptitle(title, size=11.0)
    return figure


def _terms(name: str, terms: Terms, unit: float) -> tuple[Numbers, Numbers, Numbers]:
    """Prior (1, B), steps (N - 1, B) and reconstruction (1, B), with B = 1 for averages."""
    if not isinstance(terms, tuple) or len(terms) != 3:
        raise fail(name, "(prior, steps, reconstruction)", terms, "pass three arrays in nats")
    prior, steps, last = (
        as_numbers(name, np.asarray(each) if isinstance(each, int | float) else each) / unit
        for each in terms
    )
    if steps.ndim not in (1, 2) or prior.ndim > 1 or last.ndim > 1:
        expected = "steps (N - 1,) or (N - 1, B) between two terms () or (B,)"
        raise fail(name, expected, [a.shape for a in (prior, steps, last)], "average the rest")
    if not all(np.isfinite(each).all() for each in (prior, steps, last)):
        raise fail(name, "finite numbers", "NaN or infinity", "check the model and the data")
    return prior.reshape(1, -1), steps.reshape(len(steps), -1), last.reshape(1, -1)


def _steps(axes: Axes, name: str, steps: Numbers, at: Array | None, color: str) -> None:
    x = np.arange(1.0, len(steps) + 1) if at is None else as_numbers(f"at[{name!r}]", at)
    if x.shape != (len(steps),):
        raise fail(f"at[{name!r}]", f"{len(steps)} numbers, one per step", x, "see chains")
    mean, count = steps.mean(1), steps.shape[1]
    if count > 1:
        error = 2 * steps.std(1, ddof=1) / math.sqrt(count)
        axes.fill_between(x, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
    marker = "o" if len(steps) < 25 else ""
    axes.plot(x, mean, color=color, marker=marker, markersize=3.5, label=name)


def _limits(axes: Axes, values: Numbers) -> None:
    if not (values > 0).all():
        axes.axhline(0.0, color=INK, linewidth=0.8)
        return
    low, high = float(values.min()), float(values.max())
    axes.set_yscale("log")
    axes.set_ylim(max(low, high * 10**-DECADES) / 1.6, high * 1.6)
    if high / low < 30:
        plain_ticks(axes.yaxis)


def _bars(axes: Axes, terms: Mapping[str, Sequence[float]]) -> None:
    """Draw the terms and their sum as bars for every chain, each with its value."""
    width = 0.8 / len(terms)
    small = 8.0 if len(terms) < 3 else 6.5
    for index, (values, color) in enumerate(zip(terms.values(), cycle(PALETTE), strict=False)):
        heights = [*values, sum(values)]
        offset = (index - (len(terms) - 1) / 2) * width
        bars = axes.bar(np.arange(4) + offset, heights, 0.92 * width, color=color)
        turn = 90 if len(terms) > 2 else 0
        labels = [_short(value) for value in heights]
        axes.bar_label(bars, labels, padding=2, fontsize=small, rotation=turn)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_xticks(range(4), GROUPS)
    axes.tick_params(axis="x", length=0, labelsize=8.5)
    axes.grid(False, axis="x")
    axes.margins(y=0.18 if len(terms) > 2 else 0.1)
    axes.set_title("The terms and their sum")


def _short(value: float) -> str:
    text = f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    return text.replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")
