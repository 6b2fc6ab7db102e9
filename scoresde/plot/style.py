"""Style of the figures, checks of arrays, and saving."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor

from scoresde._check import choice, fail, no_mask, path_of
from scoresde._io import replacing

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "INK",
    "PALETTE",
    "SOFT",
    "Array",
    "Numbers",
    "as_numbers",
    "as_points",
    "bare",
    "blank",
    "plain_ticks",
    "save",
]

Array: TypeAlias = Tensor | np.ndarray[Any, Any] | Sequence[Any]  # of any numbers
Numbers: TypeAlias = "npt.NDArray[np.float64]"

# Dark enough to print and distinct for colour-blind readers; after Okabe and Ito (2008).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#8A5FA8", "#B8860B", "#56A0D3", "#555555", "#A0522D")
INK, SOFT, FAINT = "#222222", "#7A7A7A", "#D9D9D9"

STYLE: dict[str, object] = {
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
def blank(width: float, height: float) -> Iterator[Figure]:
    """An empty figure with its size in inches, in the style of this package."""
    import matplotlib

    from scoresde.plot.figure import ShownFigure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # rc_context names its keys
        yield ShownFigure(figsize=(width, height), layout="constrained")


def as_numbers(name: str, value: Array) -> Numbers:
    """Return a non-empty float64 array, or raise."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    no_mask(name, value)
    array = np.asarray(value, dtype=np.float64)
    if array.size == 0:
        raise fail(name, "at least one number", array, "check what was computed")
    return array


def as_points(name: str, value: Array, shape: str) -> Numbers:
    """Return an array of points with two coordinates, of the given shape, or raise."""
    points = as_numbers(name, value)
    if points.ndim != shape.count(",") + 1 or points.shape[-1] != 2:
        raise fail(name, f"shape {shape}", points, "project it on two coordinates first")
    return points


def bare(axes: Axes) -> None:
    """Remove grid, ticks and spines."""
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def plain_ticks(axis: Axis) -> None:
    """Label ticks as 10, 20, 50 instead of powers, and limit their number."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = sorted(axis.get_view_interval())
    # With 1, 2 and 5 in many decades there would be too many, and matplotlib would show none.
    subs = (1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,)
    narrow = high < 10 * low  # 1, 2 and 5 in each decade would give only two or three ticks
    axis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(base=10, subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure to a file in the format of its suffix; folders are created.

    The file is written atomically, under a temporary name that is then renamed.

    Args:
        figure: any matplotlib figure.
        path: a path that ends in .png, .pdf, .svg or another suffix of matplotlib.
        dpi: dots per inch of a bitmap.

    Returns:
        The path of the file.

    Raises:
        ValueError: matplotlib cannot write this suffix; the message lists those it can.

    Example:
        >>> import tempfile
        >>> from scoresde.plot import image_grid
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(image_grid(np.zeros((4, 8, 8))), f"{folder}/new/grid.png")
        ...     path.exists()
        True
    """
    target = path_of("path", path)
    kinds = figure.canvas.get_supported_filetypes()
    kind = choice("the suffix of path", target.suffix.removeprefix(".").lower(), kinds)
    with replacing(target) as half:
        figure.savefig(half, format=kind, dpi=dpi, facecolor="white")
    return target
