"""Pictures of reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scoresde._check import fail
from scoresde.plot.images import image_grid
from scoresde.plot.style import Array, as_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["reconstructions"]


def reconstructions(
    measured: Array,
    mean: Array,
    std: Array,
    samples: Array,
    *,
    truth: Array | None = None,
    title: str | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Posteriors of images, a row for each measurement.

    The columns are the truth, if it is given, what was measured, the posterior mean, the posterior
    standard deviation (black is 0, white the largest of all rows, which its label says; without
    it if all of it is NaN, as that of one sample), and samples.

    Args:
        measured: (P, C, H, W), the measurements as images, such as those of
            `Measurement.back_projection`; NaN, which is red, where nothing was observed.
        mean, std: (P, C, H, W).
        samples: (P, n, C, H, W).
        truth: (P, C, H, W).
        title: the title of the figure.
        low, high: the values drawn black and white.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> one, many = np.zeros((2, 1, 8, 8)), np.zeros((2, 3, 1, 8, 8))
        >>> figure = reconstructions(one, one, one + 0.5, many)
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()][:3]
        ['measured', 'mean', 'std, to 0.5']
    """
    arrays = {"measured": measured, "mean": mean, "std": std, "samples": samples}
    if truth is not None:
        arrays["truth"] = truth
    found = {name: as_numbers(name, value) for name, value in arrays.items()}
    shape = found["mean"].shape
    for name, value in found.items():
        own = (value.shape[0], *value.shape[2:]) if name == "samples" else value.shape
        if own != shape:
            remedy = "pass one of each for every measurement"
            raise fail(name, f"the shape of mean, {shape}", value, remedy)
    columns = {} if truth is None else {"truth": found["truth"]}
    columns |= {"measured": found["measured"], "mean": found["mean"]}
    if not np.isnan(found["std"]).all():
        largest = float(np.nanmax(found["std"]))
        scaled = low + (high - low) * found["std"] / max(largest, 1e-12)
        columns |= {f"std, to {largest:.2g}": scaled}
    columns |= {
        f"sample {k + 1}": found["samples"][:, k] for k in range(found["samples"].shape[1])
    }
    tiles = np.stack(list(columns.values()), 1)
    return image_grid(
        tiles.reshape(-1, *shape[1:]),
        columns=len(columns),
        labels=list(columns),
        title=title,
        low=low,
        high=high,
    )
