"""The Radon transform of square images: line integrals in parallel beams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, finite, keep, positive_int
from scoresde.measurement.base import LinearOperator
from scoresde.measurement.constant import Constant

__all__ = ["Radon"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Radon(LinearOperator):
    """Parallel-beam projections: (B, *C, S, S) -> (B, *C, angles, S), in data units times pixels.

    The ray at angle a and at distance r from the centre of the image is the set of points (x, y)
    with x cos a + y sin a = r, x along the columns and y up the rows, for r = -(S-1)/2, ...,
    (S-1)/2. Its line integral is the sum, over points one pixel apart on the ray, of the image
    interpolated bilinearly; outside of the square the image is 0. This is one sparse matrix, so
    the adjoint is exact. It is not decomposable; for a small image take `dense`.

    Args:
        size: S, the number of rows and of columns.
        angles: the angles in degrees; or their number, for angles spread evenly over 180 degrees.

    Raises:
        TypeError, ValueError: the size or an angle is not valid, or images have another size.

    Example:
        >>> import torch
        >>> Radon(8, 4)(torch.ones(1, 1, 8, 8)).shape
        torch.Size([1, 1, 4, 8])
    """

    size: int
    angles: int | Sequence[float]
    _degrees: tuple[float, ...] = field(init=False)
    _rays: Constant = field(init=False)
    _pixels: Constant = field(init=False)
    _weights: Constant = field(init=False)

    def __post_init__(self) -> None:
        keep(self, "size", positive_int)
        if isinstance(self.angles, int):
            count = positive_int("angles", self.angles)
            degrees = tuple(180.0 * k / count for k in range(count))
        else:
            degrees = tuple(finite("angles", angle) for angle in self.angles)
        if not degrees:
            raise fail("angles", "an angle or more", self.angles, "pass e.g. 60")
        object.__setattr__(self, "_degrees", degrees)
        for name, part in zip(("_rays", "_pixels", "_weights"), self._entries(), strict=True):
            object.__setattr__(self, name, Constant(part))

    def __repr__(self) -> str:
        return f"Radon({self.size}, {len(self._degrees)} angles)"

    def _entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ray, pixel and weight of every non-zero entry of the matrix."""
        n, middle = self.size, (self.size - 1) / 2
        distance = torch.arange(n, dtype=torch.float64, device="cpu")[:, None] - middle
        reach = math.ceil(n * math.sqrt(0.5))
        along = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
        a = torch.tensor(self._degrees, dtype=torch.float64, device="cpu").deg2rad()[:, None, None]
        x = middle + distance * a.cos() - along * a.sin()
        y = middle - distance * a.sin() - along * a.cos()
        ray = torch.arange(len(a) * n, device="cpu").reshape(len(a), n, 1).expand_as(x)
        places, weights = [], []
        for column in (x.floor(), x.floor() + 1):
            for row in (y.floor(), y.floor() + 1):
                weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
                inside = (column >= 0) & (column < n) & (row >= 0) & (row < n) & (weight > 0)
                pixel = (row * n + column).long()
                places.append(torch.stack([ray[inside], pixel[inside]]))
                weights.append(weight[inside])
        shape = (len(a) * n, n * n)
        whole = torch.sparse_coo_tensor(
            torch.cat(places, 1), torch.cat(weights), shape, check_invariants=True
        ).coalesce()
        rays, pixels = whole.indices()
        return rays.contiguous(), pixels.contiguous(), whole.values()

    def _sums(self, x: Tensor, source: Constant, target: Constant, shape: list[int]) -> Tensor:
        """Weighted sums of the entries `source` of x, as the entries `target`."""
        flat = x.flatten(-2)
        terms = flat.index_select(-1, source.at(x)) * self._weights.at(x)
        zero = torch.zeros((*flat.shape[:-1], math.prod(shape)), dtype=x.dtype, device=x.device)
        return zero.index_add(-1, target.at(x), terms).reshape(*flat.shape[:-1], *shape)

    def __call__(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:][-2:]) != (self.size, self.size):
            remedy = "the size of the operator is that of the images"
            raise fail("x", f"images (B, *C, {self.size}, {self.size})", x, remedy)
        return self._sums(x, self._pixels, self._rays, [len(self._degrees), self.size])

    def adjoint(self, y: Tensor) -> Tensor:
        return self._sums(y, self._rays, self._pixels, [self.size, self.size])
