"""Boxes of cells, and densities on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, finite, floating, positive_int, show, wrong_type
from scoresde._html import Shown, rounded

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Box", "Density", "Numbers", "make_box"]

Numbers: TypeAlias = "npt.NDArray[np.float64]"

FEWEST = 4  # the least number of cells along an axis
RIM = 0.02  # the share of the length, at each end of an axis, that should be empty
FLOOR = 1e-300  # log_prob treats smaller densities as this one
HOW = "pass [(low, high, cells)] or [edges] in 1-D, a list of two of them in 2-D"


@final
@dataclass(frozen=True, eq=False)
class Box:
    """Cells by their edges along one or two axes.

    Attributes:
        edges: per axis (n + 1,), increasing.
        centres, widths: per axis (n,).
        volume: the volume of every cell, of the shape of a density.
    """

    edges: tuple[Numbers, ...]
    centres: tuple[Numbers, ...]
    widths: tuple[Numbers, ...]
    volume: Numbers

    @property
    def dim(self) -> int:
        """1 or 2."""
        return len(self.edges)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of cells along each axis."""
        return tuple(len(w) for w in self.widths)

    def points(self) -> Tensor:
        """The centres of all cells, (cells, D); the index of the last axis varies fastest."""
        grids = np.meshgrid(*self.centres, indexing="ij")
        return torch.as_tensor(np.stack([g.ravel() for g in grids], axis=1))

    def same_as(self, other: Box) -> bool:
        """Whether both have the very same cells."""
        pairs = zip(self.edges, other.edges, strict=False)
        return self.dim == other.dim and all(np.array_equal(a, b) for a, b in pairs)

    def rim(self, axis: int) -> tuple[int, int]:
        """Return (low, high); cells before low and from high on are in the rim of this axis."""
        edges, centres = self.edges[axis], self.centres[axis]
        reach = RIM * (edges[-1] - edges[0])
        low = max(1, int(np.searchsorted(centres, edges[0] + reach)))
        return low, min(len(centres) - 1, int(np.searchsorted(centres, edges[-1] - reach)))

    def rims(self, p: Numbers) -> list[tuple[str, float]]:
        """The share of the mass in the outermost fiftieth at each end, at least one cell."""
        mass = p * self.volume
        total, shares = mass.sum(), []
        for axis in range(self.dim):
            low, high = self.rim(axis)
            along = mass.sum(axis=1 - axis) if self.dim == 2 else mass
            for end, part in (("low", along[:low]), ("high", along[high:])):
                shares.append((f"the {end} end of axis {axis}", float(part.sum() / total)))
        return shares


def make_box(axes: object) -> Box:
    """The box of one or two axes, each (low, high, cells) or an array of increasing edges."""
    if not isinstance(axes, Sequence) or isinstance(axes, str):
        raise wrong_type("axes", "a list of one or two axes", axes, HOW)
    if len(axes) not in (1, 2):
        raise fail("axes", "one or two axes", f"{len(axes)}: {axes!r}", HOW)
    edges = tuple(_edges(f"axes[{i}]", axis) for i, axis in enumerate(axes))
    widths = tuple(np.diff(e) for e in edges)
    volume = widths[0] if len(edges) == 1 else np.multiply.outer(*widths)
    return Box(edges, tuple((e[1:] + e[:-1]) / 2 for e in edges), widths, volume)


def _edges(name: str, axis: Any) -> Numbers:  # any array, or a tuple: checked here
    if isinstance(axis, tuple) and len(axis) == 3:
        low, high = finite(f"{name}[0]", axis[0]), finite(f"{name}[1]", axis[1])
        cells = positive_int(f"{name}[2]", axis[2], "the number of cells, for example 200")
        if low >= high:
            raise fail(
                name, "(low, high, cells) with low < high", axis, "for example (-4, 4, 200)"
            )
        edges = np.linspace(low, high, cells + 1)
    else:
        try:
            edges = np.array(axis, dtype=np.float64)
        except (TypeError, ValueError):
            raise wrong_type(name, "(low, high, cells) or the edges", axis, HOW) from None
        if edges.ndim != 1:
            raise wrong_type(name, "(low, high, cells) or the (n + 1,) edges", axis, HOW)
        if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            raise fail(name, "finite edges that rise strictly", axis, "sort them, drop doubles")
    if len(edges) <= FEWEST:
        raise fail(name, f"at least {FEWEST} cells", f"{len(edges) - 1}", "refine the axis")
    return edges


@final
@dataclass(frozen=True, eq=False, repr=False)
class Density(Shown):
    """A density on cells at one time, the result of `FokkerPlanck.evolve`.

    Attributes:
        p: the density per unit of volume, float64 of shape (n,) or (n, m), axis 0 first.
        t: the time.
        box: the cells.
        path: the densities at the requested times, in the order of integration.
        stats: accepted `steps`, `rejected` ones, `evaluations` of the drift (each on the faces of
            all cells), `error`, the estimated time error in total mass, and `clipped`, the
            negative mass that was set to zero.
    """

    p: Tensor
    t: float
    box: Box
    path: tuple[Density, ...] = ()
    stats: Mapping[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, object]:
        """The time, the cells and the errors, name -> value, for a table."""
        stats = {name: rounded(value) for name, value in self.stats.items()}
        return {"p": show(self.p), "time": f"{self.t:g}", "mass": rounded(self.mass), **stats}

    @property
    def edges(self) -> tuple[Tensor, ...]:
        """The edges of the cells, per axis (n + 1,)."""
        return tuple(torch.as_tensor(e) for e in self.box.edges)

    @property
    def centres(self) -> tuple[Tensor, ...]:
        """The centres of the cells, per axis (n,)."""
        return tuple(torch.as_tensor(c) for c in self.box.centres)

    @property
    def cell_mass(self) -> Tensor:
        """The mass in every cell, of the shape of p."""
        return self.p * torch.as_tensor(self.box.volume)

    @property
    def mass(self) -> float:
        """The total mass."""
        return float(self.cell_mass.sum())

    @property
    def mean(self) -> Tensor:
        """The mean, (D,)."""
        return self.cell_mass.flatten() @ self.box.points() / self.mass

    @property
    def covariance(self) -> Tensor:
        """The covariance, (D, D)."""
        off = self.box.points() - self.mean
        return (off * self.cell_mass.flatten()[:, None]).T @ off / self.mass

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats at x: (B, D) -> (B,); -inf outside the box.

        Between the centres of cells log p is interpolated linearly in each coordinate (second
        order; smaller densities are replaced by 1e-300); in the outer half cells it is constant.
        """
        floating("x", x)
        if x.ndim != 2 or x.shape[1] != self.box.dim:
            raise fail("x", f"shape (B, {self.box.dim})", x, "one row per point")
        points = x.detach().cpu().double()
        inside = torch.ones(len(x), dtype=torch.bool)
        corners: list[tuple[tuple[Tensor, Tensor], ...]] = []
        for i, (edges, centres) in enumerate(zip(self.edges, self.centres, strict=True)):
            at = points[:, i].contiguous()
            inside &= (at >= edges[0]) & (at <= edges[-1])
            right = torch.searchsorted(centres, at).clamp(1, len(centres) - 1)
            near, far = centres[right - 1], centres[right]
            weight = ((at - near) / (far - near)).clamp(0.0, 1.0)
            corners.append(((right - 1, 1 - weight), (right, weight)))
        logs, out = self.p.clamp_min(FLOOR).log(), torch.zeros(len(x), dtype=torch.float64)
        for corner in product(*corners):
            weights = torch.stack([w for _, w in corner]).prod(0)
            out += weights * logs[tuple(index for index, _ in corner)]
        return torch.where(inside, out, -math.inf).to(x)
