"""Densities in one dimension: over time, and beside samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from scoresde._check import fail, instance, positive_int
from scoresde.plot.style import FAINT, INK, PALETTE, SOFT, Array, Numbers, as_numbers, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

__all__ = ["density_evolution", "marginals"]

BRIGHT = 0.998  # the quantile at which the colour scale ends, so that a peak does not dominate
DASHES = ((0, (3, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))  # all densities but the first


def as_times(name: str, times: Array) -> Numbers:
    t = as_numbers(name, times)
    steps = np.diff(t)
    if t.ndim != 1 or not np.isfinite(t).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise fail(name, "(K,) finite times that all rise or all fall", times, "sort them")
    return t


def as_centres(name: str, x: Array, cells: int) -> Numbers:
    """The centres (n,) of cells given by their centres (n,) or edges (n + 1,)."""
    points = as_numbers(name, x)
    if points.shape not in ((cells,), (cells + 1,)):
        expected = f"{cells} centres or {cells + 1} edges, as the density has {cells} values"
        raise fail(name, expected, points, "pass the cells of the density")
    if not np.isfinite(points).all() or not (np.diff(points) > 0).all():
        raise fail(name, "finite numbers that rise strictly", points, "sort them")
    return points if len(points) == cells else (points[1:] + points[:-1]) / 2


def as_density(name: str, p: Array, times: int, axes: int = 1) -> Numbers:
    """Finite values >= 0 of shape (K, n), or (K, n, m) with two axes."""
    density = as_numbers(name, p)
    if density.ndim != axes + 1 or len(density) != times or min(density.shape[1:]) < 2:
        cells = "n" if axes == 1 else "n, m"
        expected = f"shape ({times}, {cells}), a row per time, two cells at least"
        raise fail(name, expected, density, "stack the densities of all times")
    if not np.isfinite(density).all() or (density < 0).any():
        got = "NaN or infinity" if not np.isfinite(density).all() else f"{density.min():.3g}"
        raise fail(name, "a density, finite and >= 0", got, "check how it was computed")
    return density


def as_particles(name: str, paths: Array, times: int) -> Numbers:
    """Particles (K, B) in one dimension, also from (K, B, 1)."""
    particles = as_numbers(name, paths)
    if particles.ndim == 3 and particles.shape[-1] == 1:
        particles = particles[..., 0]
    if particles.ndim != 2 or len(particles) != times:
        expected = f"shape ({times}, B) or ({times}, B, 1), a row per time"
        raise fail(name, expected, particles, "project it on one coordinate first")
    return particles


def bright(density: Numbers) -> float:
    """The density at the end of a colour scale."""
    return float(np.quantile(density, BRIGHT)) or float(density.max()) or 1.0


def density_evolution(
    times: Array,
    x: Array,
    density: Array,
    *,
    paths: Array | None = None,
    path_times: Array | None = None,
    exact: Array | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """A density in one dimension as a heat map over time, with paths of particles.

    Time runs to the right in the given order. Colours show the square root of the density, which
    makes tails visible, and end at its 99.8 % quantile. The right panel shows the last density.

    Args:
        times: (K,) increasing or decreasing times, K >= 2.
        x: (n,) centres of the cells or (n + 1,) edges.
        density: (K, n), the density in every cell at every time, per unit of length.
        paths: (J, B) or (J, B, 1), states of B particles.
        path_times: their J times; `times` by default.
        exact: (n,), the exact last density, drawn as a dashed line.
        limits: (low, high) of x; None shows all cells.
        title: title of the figure.

    Raises:
        ValueError: shapes do not match, times or cells are not in order, or a density is negative.

    Example:
        >>> t, x = np.linspace(0.1, 1, 30), np.linspace(-3, 3, 60)
        >>> p = np.exp(-(x**2) / (2 * t[:, None])) / np.sqrt(2 * np.pi * t[:, None])
        >>> figure = density_evolution(t, x, p, paths=np.zeros((30, 2)), title="heat")
        >>> figure.axes[0].get_title(), len(figure.axes[0].lines)
        ('heat', 2)
    """
    t = as_times("times", times)
    p = as_density("density", density, len(t))
    if len(t) < 2:
        raise fail("times", "two at least", t, "for one time use marginals")
    centres = as_centres("x", x, p.shape[1])
    truth = None if exact is None else as_density("exact", as_numbers("exact", exact)[None], 1)[0]
    if truth is not None and truth.shape != centres.shape:
        raise fail("exact", f"{len(centres)} values, one per cell", truth, "use the same cells")
    with blank(7.2, 3.3) as figure:
        heat, side = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
        mesh = _heat(heat, t, centres, p)
        if paths is not None:
            at = t if path_times is None else as_times("path_times", path_times)
            particles = as_particles("paths", paths, len(at))
            thin = float(np.clip(2.2 / math.sqrt(particles.shape[1]), 0.35, 0.9))
            heat.plot(at, particles, color=PALETTE[1], linewidth=thin, alpha=0.8)
        heat.set(xlim=(t[0], t[-1]), xlabel="t", ylabel="x", title=title or "")
        low, high = (centres[0], centres[-1]) if limits is None else _span(limits)
        heat.set_ylim(low, high)
        _last(side, centres, p[-1], truth, f"p at t = {t[-1]:.3g}")
        bar = figure.colorbar(mesh, ax=side, extend="max", aspect=28, pad=0.06)
        bar.set_label("density")
        bar.outline.set_visible(False)
    return figure


def _heat(axes: Axes, t: Numbers, x: Numbers, p: Numbers) -> QuadMesh:
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, 0.0, bright(p))
    axes.grid(False)
    return axes.pcolormesh(t, x, p.T, norm=norm, cmap="Blues", shading="gouraud", rasterized=True)


def _last(axes: Axes, x: Numbers, p: Numbers, truth: Numbers | None, label: str) -> None:
    axes.fill_betweenx(x, p, color=PALETTE[0], alpha=0.25, linewidth=0)
    axes.plot(p, x, color=PALETTE[0])
    if truth is not None:
        axes.plot(truth, x, color=INK, linestyle=DASHES[0], linewidth=1.0, label="exact")
        axes.legend(loc="upper right", fontsize=7.5, labelcolor=SOFT, handlelength=1.6)
    axes.set(xlim=(0, None), xticks=[], xlabel=label)
    axes.tick_params(labelleft=False)


def _span(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(end) for end in limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise fail("limits", "(low, high) with low < high", limits, "e.g. (-3, 3)")
    return low, high


def marginals(
    times: Array,
    samples: Mapping[str, Array],
    *,
    x: Array | None = None,
    densities: Mapping[str, Array] | None = None,
    bins: int = 60,
    limits: tuple[float, float] | None = None,
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Marginals in one dimension, a panel per time: particles as histograms, densities as lines.

    It compares, for example, particles of the SDE, of the probability flow and of a chain with
    the solution of the Fokker-Planck equation and the closed form.

    Args:
        times: (K,) times, one panel each, in this order.
        samples: name -> (K, B) or (K, B, 1), the particles at every time; B may differ.
        x: (n,) centres or (n + 1,) edges of the cells of the densities.
        densities: name -> (K, n), per unit of length. The first is filled, the others dashed.
        bins: number of equal bins of the histograms between the limits. The normalisation
            includes the particles outside, whose number is written below the panel.
        limits: (low, high) of x; None shows all cells and particles.
        columns: number of panels in a row.
        title: title of the figure.

    Raises:
        TypeError: `samples` or `densities` is not a mapping.
        ValueError: there is nothing to show, shapes do not match, or a density is negative.

    Example:
        >>> x = np.linspace(-4, 4, 100)
        >>> p = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        >>> z = np.random.default_rng(0).normal(size=(1, 500))
        >>> figure = marginals([1.0], {"SDE": z}, x=x, densities={"exact": p[None]})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['exact', 'SDE']
    """
    t = as_numbers("times", times)
    if t.ndim != 1 or not np.isfinite(t).all():
        raise fail("times", "(K,) finite times", t, "pass one per panel")
    clouds, curves = _marginals(len(t), samples, densities or {})
    centres = np.empty(0)
    if curves:
        cells = next(iter(curves.values())).shape[1]
        for name, p in curves.items():
            if p.shape[1] != cells:
                raise fail(f"densities[{name!r}]", f"shape ({len(t)}, {cells})", p, "use one x")
        if x is None:
            raise fail("x", "the cells of the densities", x, "pass their centres or edges")
        centres = as_centres("x", x, cells)
    span = _reach([centres, *clouds.values()]) if limits is None else _span(limits)
    edges = np.linspace(*span, positive_int("bins", bins) + 1)
    across = min(positive_int("columns", columns), len(t))
    down = math.ceil(len(t) / across)
    with blank(2.6 * across + 0.3, 2.1 * down + 0.4 + 0.25 * bool(title)) as figure:
        for k, at in enumerate(t):
            axes = figure.add_subplot(down, across, k + 1, title=f"t = {at:.3g}")
            _curves(axes, centres, {name: p[k] for name, p in curves.items()})
            _histograms(axes, edges, {name: cloud[k] for name, cloud in clouds.items()})
            axes.set(xlim=span, ylim=(0, None), yticks=[])
            axes.grid(False)
            axes.spines["left"].set_visible(False)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(len(clouds) + len(curves), 2 * across),
        )
        if title:
            figure.suptitle(title, size=11.0)
    return figure


def _marginals(
    times: int, samples: Mapping[str, Array], densities: Mapping[str, Array]
) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
    instance("samples", samples, Mapping, 'pass {"name": (K, B) particles}')
    instance("densities", densities, Mapping, 'pass {"name": (K, n) values}')
    if not samples and not densities:
        raise fail("samples", "samples, or densities", samples, 'pass {"name": (K, B) particles}')
    clouds = {n: as_particles(f"samples[{n!r}]", each, times) for n, each in samples.items()}
    curves = {n: as_density(f"densities[{n!r}]", each, times) for n, each in densities.items()}
    return clouds, curves


def _reach(values: Sequence[Numbers]) -> tuple[float, float]:
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    if finite.size == 0:
        raise fail("samples", "a particle that is finite", "none", "find where sampling diverged")
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _curves(axes: Axes, x: Numbers, curves: Mapping[str, Numbers]) -> None:
    for index, (name, p) in enumerate(curves.items()):
        if index == 0:
            axes.fill_between(x, p, color=FAINT, linewidth=0, label=name, zorder=1)
        else:
            dash = DASHES[(index - 1) % len(DASHES)]
            axes.plot(x, p, color=INK, linewidth=1.1, linestyle=dash, label=name, zorder=4)


def _histograms(axes: Axes, edges: Numbers, clouds: Mapping[str, Numbers]) -> None:
    outside = total = 0
    for (name, cloud), color in zip(clouds.items(), cycle(PALETTE), strict=False):
        counts = np.histogram(cloud, edges)[0]
        outside, total = outside + cloud.size - int(counts.sum()), total + cloud.size
        heights = counts / (cloud.size * np.diff(edges))
        axes.stairs(heights, edges, color=color, linewidth=1.1, alpha=0.9, label=name, zorder=3)
    if outside:
        axes.set_xlabel(f"{outside} of {total} outside", size=7.5, color=SOFT)
