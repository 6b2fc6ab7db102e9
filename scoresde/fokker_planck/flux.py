"""Finite-volume fluxes between cells, and the linear systems of implicit steps.

J = v p - D dp/dx between neighbouring centres at distance d, with the Peclet number
z = int v / D dx = v d / D and B(z) = z / (e^z - 1):

- fitted:  J = D/d (B(-z) p_i - B(z) p_{i+1}), the flux of the two-point problem J' = 0 with
  constant v (Scharfetter and Gummel 1969; Chang and Cooper 1970). It vanishes for p = exp(int
  v / D) with cells of any size, and tends to the upwind flux as D -> 0;
- centred: J = v (p_i + p_{i+1})/2 - D/d (p_{i+1} - p_i), which adds no diffusion at any z. In
  the rim of the box, which should be empty, the fitted flux replaces it: where mass accumulates
  at a wall, the centred flux would send oscillations of the size of a cell back into the box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from scoresde._check import need
from scoresde.fokker_planck.box import Box, Numbers

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Face", "Mesh", "Operator", "coefficients"]


@final
@dataclass(frozen=True, eq=False)
class Face:
    """The inner faces across one axis, flattened.

    Attributes:
        axis: the axis across which they lie.
        left, right: (faces,) the flat indices of the cells on either side.
        gap: (faces,) the distance of their centres.
        area: (faces,) the area of the face; 1 in 1-D.
        rim: (faces,) whether the face is at either end of the axis.
    """

    axis: int
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    gap: Numbers
    area: Numbers
    rim: npt.NDArray[np.bool_]


def _faces(box: Box, axis: int) -> Face:
    index = np.moveaxis(np.arange(box.volume.size).reshape(box.shape), axis, 0)
    gap = np.diff(box.centres[axis])
    others = np.ones(1) if box.dim == 1 else box.widths[1 - axis]
    low, high = box.rim(axis)
    rim = np.arange(len(gap)) < low
    rim[high - 1 :] = True
    return Face(
        axis,
        index[:-1].ravel(),
        index[1:].ravel(),
        np.repeat(gap, len(others)),
        np.tile(others, len(gap)),
        np.repeat(rim, len(others)),
    )


def coefficients(v: Numbers, D: float, face: Face, fitted: bool) -> tuple[Numbers, Numbers]:
    """(l, r) of the flux l p_left + r p_right through every face; v: (faces,)."""
    slope = D / face.gap
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = np.abs(v) / slope
        bernoulli = np.where(z > 0, z / np.expm1(z), 1.0)
    # B(-z) = B(z) + z, and slope z = |v|: finite even where D = 0
    diffusive = slope * np.where(np.isfinite(z), np.nan_to_num(bernoulli), 0.0)
    left, right = diffusive + v.clip(0.0), -diffusive - (-v).clip(0.0)
    if not fitted:
        left = np.where(face.rim, left, v / 2 + slope)
        right = np.where(face.rim, right, v / 2 - slope)
    return face.area * left, face.area * right


@final
class Mesh:
    """The data shared by all operators on a box: faces, points of the drift, the sparsity."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.volume = box.volume.ravel()
        self.faces = [_faces(box, axis) for axis in range(box.dim)]
        self.points = torch.cat([self._gauss(face) for face in self.faces])
        self._pattern()

    def _gauss(self, face: Face) -> Tensor:
        """Two Gauss points between the centres, which integrate a cubic drift exactly."""
        centres = self.box.points()
        reach = torch.as_tensor(face.gap) / (2 * math.sqrt(3))
        middle = (centres[face.left] + centres[face.right]) / 2
        step = torch.zeros_like(middle)
        step[:, face.axis] = reach
        return torch.cat([middle - step, middle + step])

    def velocities(self, drift: Numbers) -> list[Numbers]:
        """The mean drift between the centres, per axis, from its values at `points`: (P, D)."""
        out, start = [], 0
        for face in self.faces:
            count = len(face.left)
            both = drift[start : start + 2 * count, face.axis]
            out.append((both[:count] + both[count:]) / 2)
            start += 2 * count
        return out

    def _pattern(self) -> None:
        """Compute the place of each coefficient in the compressed columns of the matrix."""
        n = len(self.volume)
        rows, cols = [np.arange(n)], [np.arange(n)]
        for face in self.faces:  # -l and -r to the left cell, +l and +r to the right one
            rows += [face.left, face.left, face.right, face.right]
            cols += [face.left, face.right, face.left, face.right]
        key = np.concatenate(cols) * n + np.concatenate(rows)
        unique, self._slots = np.unique(key, return_inverse=True)
        self._indices = unique % n
        self._indptr = np.searchsorted(unique, n * np.arange(n + 1))
        self._diagonal = self._slots[:n]

    def data(self, flux: list[tuple[Numbers, Numbers]]) -> Numbers:
        """Entries of K, with V dp/dt = K p."""
        values = [np.zeros(len(self.volume))]
        for left, right in flux:
            values += [-left, -right, left, right]
        entries = np.concatenate(values)
        out: Numbers = np.bincount(self._slots, entries, len(self._indices)).astype(np.float64)
        return out

    def matrix(self, data: Numbers) -> Any:  # scipy has no types
        """The sparse matrix with these entries."""
        n = len(self.volume)
        sparse = need("scipy.sparse", "")
        return sparse.csc_array((data, self._indices, self._indptr), shape=(n, n))

    def shifted(self, data: Numbers, c: float) -> Any:  # scipy has no types
        """V - c K."""
        shifted = -c * data
        shifted[self._diagonal] += self.volume
        return self.matrix(shifted)


@final
class Operator:
    """K at one time, with V dp/dt = K p; its columns sum to zero, which conserves mass."""

    def __init__(self, mesh: Mesh, velocities: list[Numbers], D: float, fitted: bool) -> None:
        pairs = zip(velocities, mesh.faces, strict=True)
        self._data = mesh.data([coefficients(v, D, face, fitted) for v, face in pairs])
        self._mesh = mesh
        self._matrix = mesh.matrix(self._data)
        self._factor: tuple[float, Any] | None = None  # c and scipy's factorisation

    def apply(self, p: Numbers) -> Numbers:
        """K p: (cells,) -> (cells,), mass per unit of time."""
        out: Numbers = self._matrix @ p
        return out

    def solve(self, c: float, b: Numbers) -> Numbers:
        """The solution of (V - c K) u = b; the last factorisation is cached."""
        if self._factor is None or self._factor[0] != c:
            linalg = need("scipy.sparse.linalg", "")
            order = "NATURAL" if self._mesh.box.dim == 1 else "MMD_AT_PLUS_A"
            matrix = self._mesh.shifted(self._data, c)
            options = {"SymmetricMode": True}
            lu = linalg.splu(matrix, order, diag_pivot_thresh=0.01, options=options)
            self._factor = c, lu
        out: Numbers = self._factor[1].solve(b)
        return out
