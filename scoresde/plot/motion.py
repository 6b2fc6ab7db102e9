"""Animations of densities and particles."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scoresde._check import fail, need, path_of, positive, positive_int, wrong_type
from scoresde._io import replacing
from scoresde.plot.density import as_centres, as_density, as_particles, as_times, bright
from scoresde.plot.plane import _square_limits
from scoresde.plot.style import (
    FAINT,
    INK,
    PALETTE,
    Array,
    Numbers,
    as_numbers,
    as_points,
    bare,
    blank,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

__all__ = ["animate"]

Draw: TypeAlias = "Callable[[int], None]"

LARGEST, LONGEST = 1200, 400  # pixels along a side, and frames
FOLLOWED = 40  # particles in one dimension that are also drawn as dots
STEEPEST = 4.0  # the axis ends at this multiple of the median peak
BINS = 60
DOTS_PER_INCH = 100
GOLDEN = (math.sqrt(5) - 1) / 2


def animate(
    path: str | os.PathLike[str],
    times: Array,
    *,
    particles: Array | None = None,
    density: Array | None = None,
    cells: Array | tuple[Array, Array] | None = None,
    limits: tuple[float, float] | None = None,
    frames: int = 60,
    fps: float = 15.0,
    pixels: int = 400,
    hold: float = 1.5,
    title: str | None = None,
) -> Path:
    """Write an animated GIF of particles and densities in one or two dimensions.

    In one dimension the density is filled and the particles are a histogram, the first forty also
    dots below it; in two dimensions the density is a heat map and the particles are dots. Axes
    and colours are the same in all frames. The size of the file is bounded by `frames` and
    `pixels`, and it has one palette of 124 colours. It is written atomically.

    Args:
        path: a path that ends in .gif; folders are created.
        times: (K,) increasing or decreasing times, shown in this order.
        particles: (K, B) or (K, B, 1) in one dimension, (K, B, 2) in two.
        density: (K, n) in one dimension, (K, n, m) in two, with axis 1 along the first coordinate.
        cells: centres or edges of the cells of the density: (n,) or (n + 1,), and in two
            dimensions a pair of them.
        limits: (low, high) of every coordinate; None fits everything.
        frames: the most frames; they are evenly spaced, first and last time included.
        fps: frames per second.
        pixels: length of the longer side, at most 1200.
        hold: seconds for which the last frame is shown before the animation repeats.
        title: text beside the time.

    Returns:
        The path of the file.

    Raises:
        ImportError: Pillow is not installed; the message says how to install it.
        ValueError: there is nothing to show, shapes do not match, the suffix is not .gif, or the
            size is too large.

    Example:
        >>> import tempfile
        >>> walk = np.random.default_rng(0).normal(size=(20, 100, 2)).cumsum(axis=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     animate(f"{folder}/walk.gif", np.arange(20), particles=walk, frames=5).name
        'walk.gif'
    """
    target = path_of("path", path)
    if target.suffix.lower() != ".gif":
        raise fail("path", "a name that ends in .gif", str(path), "animations are GIF files")
    image = need("PIL.Image", "data")
    t = as_times("times", times)
    side = _bounded("pixels", pixels, LARGEST)
    shown = np.linspace(0, len(t) - 1, min(_bounded("frames", frames, LONGEST), len(t)))
    rate, stay = positive("fps", fps), positive("hold", hold, "pass seconds, above 0")
    with blank(1, 1) as figure:
        draw, tall = _scene(figure, len(t), particles, density, cells, limits)
        inches = side / DOTS_PER_INCH / max(1.0, tall)
        figure.set_size_inches(inches, inches * tall)
        label = f"{title},  t" if title else "t"

        def bitmap(k: int) -> Any:  # an image of Pillow, which is optional
            draw(k)
            figure.axes[0].set_title(f"{label} = {t[k]:.3f}")
            return image.fromarray(_pixels(figure))

        colors = _colors(image)
        chosen = np.unique(shown.round().astype(int))
        pictures = [bitmap(int(k)).quantize(palette=colors, dither=0) for k in chosen]
    lengths = [round(1000 / rate)] * (len(pictures) - 1) + [round(1000 * stay)]
    _write(target, pictures, lengths)
    return target


def _bounded(name: str, value: int, most: int) -> int:
    number = positive_int(name, value)
    if number > most:
        raise fail(name, f"at most {most}", number, "larger GIF files are unwieldy")
    return number


def _scene(
    figure: Figure,
    count: int,
    particles: Array | None,
    density: Array | None,
    cells: Array | tuple[Array, Array] | None,
    limits: tuple[float, float] | None,
) -> tuple[Draw, float]:
    """The function that draws frame k, and the ratio of height to width."""
    if particles is None and density is None:
        raise fail("particles", "particles, a density, or both", None, "pass what to show")
    if (density is None) != (cells is None):
        raise fail("cells", "cells with a density, and only with one", cells, "pass both")
    cloud = None if particles is None else as_numbers("particles", particles)
    values = None if density is None else as_numbers("density", density)
    flat = cloud is not None and (cloud.ndim == 2 or cloud.shape[-1:] == (1,))
    if flat if values is None else values.ndim == 2:
        points = None if cloud is None else as_particles("particles", cloud, count)
        return _line(figure, points, values, cells, count, limits), 0.68
    points = None if cloud is None else as_points("particles", cloud, "(K, B, 2)")
    if points is not None and len(points) != count:
        raise fail("particles", f"shape ({count}, B, 2), a row per time", points, "match times")
    return _plane(figure, points, values, cells, count, limits), 1.06


def _line(
    figure: Figure,
    points: Numbers | None,
    density: Numbers | None,
    cells: Any,  # an array; `_scene` checks that it is there
    count: int,
    limits: tuple[float, float] | None,
) -> Draw:
    p = None if density is None else as_density("density", density, count)
    x = np.empty(0) if p is None else as_centres("cells", cells, p.shape[1])
    held = [] if points is None else [points]
    if p is not None and limits is None:
        low, high = float(x[0]), float(x[-1])
    else:
        low, high = _square_limits([x, *held], limits)
    edges = np.linspace(low, high, BINS + 1)
    heights = [] if points is None else [_heights(edges, each) for each in points]
    axes = figure.add_subplot(xlabel="x")
    # A peak of one or two frames must not flatten all others.
    peaks = np.array([row.max() for row in (*(() if p is None else p), *heights)])
    top = 1.08 * (float(min(peaks.max(), STEEPEST * np.median(peaks))) or 1.0)
    floor = -0.13 * top if points is not None else 0.0
    axes.set(xlim=(low, high), ylim=(floor, top), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    area = None if p is None else axes.fill(x, p[0], color=FAINT, linewidth=0)[0]
    stairs = None if points is None else axes.stairs(heights[0], edges, color=PALETTE[0])
    dots = None
    if points is not None:
        axes.axhline(0.0, color=FAINT, linewidth=0.8)
        shown = min(FOLLOWED, points.shape[1])
        rows = floor * (0.2 + 0.6 * (np.arange(1, shown + 1) * GOLDEN % 1))
        dots = axes.scatter(points[0, : len(rows)], rows, s=7, color=PALETTE[1], linewidths=0)

    def draw(k: int) -> None:
        if area is not None and p is not None:
            area.set_xy(np.column_stack([[x[0], *x, x[-1]], [0.0, *p[k], 0.0]]))
        if stairs is not None and dots is not None and points is not None:
            stairs.set_data(heights[k])
            dots.set_offsets(np.stack([points[k, : len(rows)], rows], axis=1))

    return draw


def _heights(edges: Numbers, cloud: Numbers) -> Numbers:
    """A histogram whose normalisation includes the particles outside."""
    return np.histogram(cloud, edges)[0] / (cloud.size * np.diff(edges))


def _plane(
    figure: Figure,
    points: Numbers | None,
    density: Numbers | None,
    cells: Array | tuple[Array, Array] | None,
    count: int,
    limits: tuple[float, float] | None,
) -> Draw:
    from matplotlib.colors import PowerNorm

    axes = figure.add_subplot()
    axes.set_aspect("equal")
    mesh, dots, held = None, None, [] if points is None else [points]
    p = None
    if density is not None:
        p = as_density("density", density, count, axes=2)
        if not isinstance(cells, Sequence) or len(cells) != 2:
            raise wrong_type("cells", "a pair of centres or edges", cells, "pass (x, y)")
        x, y = (as_centres(f"cells[{i}]", cells[i], p.shape[i + 1]) for i in range(2))
        norm = PowerNorm(0.5, 0.0, bright(p))
        mesh = axes.pcolormesh(x, y, p[0].T, norm=norm, cmap="Blues", shading="gouraud")
    if p is not None and limits is None:
        low, high = float(min(x[0], y[0])), float(max(x[-1], y[-1]))
    else:
        low, high = _square_limits(held, limits)
    if points is not None:
        size = float(np.clip(2500 / points.shape[1], 1.0, 10.0))
        color = PALETTE[0] if p is None else PALETTE[1]
        alpha = float(np.clip(1500 / points.shape[1], 0.3, 0.9))
        dots = axes.scatter(
            points[0, :, 0], points[0, :, 1], s=size, color=color, alpha=alpha, linewidths=0
        )
    axes.set(xlim=(low, high), ylim=(low, high))
    bare(axes)
    axes.spines[:].set(visible=True, color=FAINT)

    def draw(k: int) -> None:
        if mesh is not None and p is not None:
            mesh.set_array(p[k].T)
        if dots is not None and points is not None:
            dots.set_offsets(points[k])

    return draw


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as (H, W, 3) bytes; all frames have the layout of the first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    figure.set_dpi(DOTS_PER_INCH)
    canvas.draw()
    figure.set_layout_engine("none")
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _colors(image: Any) -> Any:  # the module and an image of Pillow, which is optional
    """The palette of all frames; with one per frame the background would flicker."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    blues = colormaps["Blues"](np.linspace(0.0, 1.0, 64))[:, :3]
    ends = [(INK, "white"), (PALETTE[0], "white"), (PALETTE[1], "white"), (PALETTE[0], FAINT)]
    pairs = [*((to_rgb(a), to_rgb(b)) for a, b in ends), (to_rgb(PALETTE[1]), blues[48])]
    shares = np.linspace(0.0, 1.0, 12)[:, None]
    ramps = [np.multiply(1 - shares, a) + np.multiply(shares, b) for a, b in pairs]
    palette = image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * np.concatenate([blues, *ramps])).astype(np.uint8).tobytes())
    return palette


def _write(target: Path, pictures: Sequence[Any], lengths: Sequence[int]) -> None:
    """An endless GIF, beside its place and then renamed."""
    first, *others = pictures
    duration: list[int] | int = list(lengths) if others else lengths[0]
    with replacing(target) as half:
        first.save(
            half,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=duration,
            loop=0,
            optimize=False,
        )
