"""The virtual tree of a Brownian path: its intervals, its splits, and their cache."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

__all__ = ["MOST_BYTES", "Fresh", "Piece", "Records", "Samples", "Store", "Tree", "split_weights"]


@final
@dataclass(frozen=True)
class Samples:
    """The samples of a tree, which include those of a batch, and their precision.

    The place of a sample in the tensors of a tree does not depend on the batch, and so neither
    does its rounding in vectorised arithmetic.

    Args:
        first, count: the samples are number first ... first + count - 1.
        size: number of entries of a sample.
        dtype: float64 for states in float64, otherwise float32.
    """

    first: int
    count: int
    size: int
    dtype: torch.dtype

    @classmethod
    def around(cls, like: Tensor, first: int, group: Callable[[int], int]) -> Samples:
        """The samples of a batch, extended to whole groups of `group(size)` samples."""
        size = max(1, math.prod(like.shape[1:]))
        step = group(size)
        start, stop = first // step * step, -(-(first + like.shape[0]) // step) * step
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return cls(start, stop - start, size, dtype)

    def like(self) -> Tensor:
        """An empty tensor (count, size) on the CPU, a template for draws."""
        return torch.empty((self.count, self.size), dtype=self.dtype, device="cpu")

    def take(self, values: Tensor, like: Tensor, first: int) -> Tensor:
        """The rows of a batch whose first sample is number `first`, in the form of `like`."""
        start = first - self.first
        part = values[start : start + like.shape[0]]
        return part.reshape(like.shape).to(like.device, like.dtype)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """An interval [a, b] of the tree: a root, or one side of a cut of its parent."""

    a: float
    b: float
    parent: Piece | None = None
    right: bool = False
    of_leaf: bool = False

    def cut_at(self, s: float, leaf: bool = False) -> tuple[Piece, Piece]:
        return Piece(self.a, s, self, False, leaf), Piece(s, self.b, self, True, leaf)


Weights = tuple[tuple[float, float, float, float], ...]


def split_weights(theta: float, rest: float) -> Weights:
    """(z_l, z_r, h_l, h_r) from (z, h, n_1, n_2), all standard normals: an orthogonal matrix.

    An interval with increment W = sqrt(c) z and Levy area H = sqrt(c / 12) h is cut at the share
    theta = 1 - rest. With q = 1 - 3 theta rest and w = sqrt(c theta rest q) n_1,
    n = sqrt(c theta rest^3 / (12 q)) n_2, independent of (W, H),

        W_l = theta W + 6 theta rest H + w,             W_r = W - W_l,
        H_l = theta^2 H - theta^2 / (2 q) w + n,
        H_r = rest^2 H - rest^2 / (2 q) w - theta / rest n.
    """
    q = 1.0 - 3.0 * theta * rest
    r, s, k = math.sqrt(theta), math.sqrt(rest), math.sqrt(q)
    root3 = math.sqrt(3.0)
    return (
        (r, root3 * r * rest, s * k, 0.0),
        (s, -root3 * theta * s, -r * k, 0.0),
        (0.0, r**3, -root3 * theta**2 * s / k, s**3 / k),
        (0.0, s**3, -root3 * rest**2 * r / k, -(r**3) / k),
    )


_Z, _H, _CUT, _LEAF = 0, 1, 2, 4
"""The use of a new normal; a cut and a leaf need two."""

Fresh: TypeAlias = Callable[[float, int], Tensor]
"""Standard normals for a place in the tree and one of the four kinds above, or kind + 1."""


@final
@dataclass(eq=False, slots=True)
class _Record:
    """z of a root, or of both sides of a cut, and h, or the tensors from which h is computed."""

    z: tuple[Tensor, ...]
    h: tuple[Tensor, ...] = ()
    above: tuple[Tensor, ...] = ()


@final
class Tree:
    """(z, h) of pieces, computed from normals that depend on their place in the tree.

    Args:
        share: the share of [p, q] in [a, b], measured by the clock.
        fresh: standard normals for (place, kind) in the shape of the records.
        records: the cache; results do not depend on it.
    """

    def __init__(
        self,
        share: Callable[[float, float, float, float], float],
        fresh: Fresh,
        records: Records,
    ) -> None:
        self._share, self._fresh, self.records = share, fresh, records

    def z(self, piece: Piece) -> Tensor:
        """The normalised increment over a piece."""
        return self._record(piece).z[piece.right]

    def both(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """The normalised increment and Levy area over a piece."""
        record = self._record(piece)
        if not record.h:  # computed on demand, since many areas are never used
            record.h, record.above = self._areas(piece, record), ()
        return record.z[piece.right], record.h[piece.right]

    def touch(self, piece: Piece) -> None:
        """Keep the ancestors of a piece in the cache, since their other sides may follow."""
        ancestors = [piece]
        while ancestors[-1].parent is not None:
            ancestors.append(ancestors[-1].parent)
        for ancestor in reversed(ancestors):
            self.records.touch(self._at(ancestor))

    def _at(self, piece: Piece) -> tuple[float, ...]:
        parent = piece.parent
        if parent is None:
            return piece.a, piece.b
        return parent.a, parent.b, piece.a if piece.right else piece.b

    def _record(self, piece: Piece) -> _Record:
        parent = piece.parent
        if parent is None:
            return self.records.get(self._at(piece), lambda: _Record((self._fresh(piece.a, _Z),)))
        s = piece.a if piece.right else piece.b
        return self.records.get(self._at(piece), lambda: self._split(piece, parent, s))

    def _split(self, piece: Piece, parent: Piece, s: float) -> _Record:
        z, h = self.both(parent)
        n = self._fresh(*_name(piece))
        left, right = self._weights(parent, s)[:2]
        return _Record((_mix(left, z, h, n), _mix(right, z, h, n)), (), (h, n))

    def _areas(self, piece: Piece, record: _Record) -> tuple[Tensor, ...]:
        parent = piece.parent
        if parent is None:
            return (self._fresh(piece.a, _H),)
        s = piece.a if piece.right else piece.b
        (h, n), (place, kind) = record.above, _name(piece)
        other = self._fresh(place, kind + 1)
        left, right = self._weights(parent, s)[2:]
        first = _mix(left[1:], h, n, other)
        second = other.mul_(right[3]).add_(h, alpha=right[1]).add_(n, alpha=right[2])
        return first, second

    def _weights(self, parent: Piece, s: float) -> Weights:
        a, b = parent.a, parent.b
        return split_weights(self._share(a, s, a, b), self._share(s, b, a, b))


def _name(piece: Piece) -> tuple[float, int]:
    """Place and kind of the normals of a piece: each point, and each leaf, is cut only once."""
    if piece.of_leaf and piece.parent is not None:
        return piece.parent.a, _LEAF
    return (piece.a if piece.right else piece.b), _CUT


def _mix(weights: tuple[float, ...], x: Tensor, y: Tensor, n: Tensor) -> Tensor:
    out = x * weights[0]
    return out.add_(y, alpha=weights[1]).add_(n, alpha=weights[2])


MOST_BYTES = 1 << 28
"""The most bytes in a cache, with four tensors per record."""


@final
class Records:
    """A cache of the records of the last query, which the next step in either direction reuses.

    They are dropped after the next query, so that large buffers are reused while still in cache.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[tuple[float, ...], _Record] = {}
        self._touched: dict[tuple[float, ...], _Record] = {}

    def get(self, at: tuple[float, ...], make: Callable[[], _Record]) -> _Record:
        record = self._touched.get(at) or self._kept.get(at) or make()
        self._touched[at] = record
        return record

    def touch(self, at: tuple[float, ...]) -> None:
        if at in self._kept:
            self._touched[at] = self._kept[at]

    def forget(self) -> None:
        """End a query: keep only the records that it used."""
        last = list(self._touched.items())[-self.most :]
        self._kept, self._touched = dict(last), {}


@final
class Store:
    """The caches of a path; a copy of the store, or of its path, starts with empty ones."""

    def __init__(self, most: int) -> None:
        self.places: dict[float, float] = {}
        self._most = most
        self._lock = threading.Lock()
        self._of: Samples | None = None
        self._records = Records(most)

    def __reduce__(self) -> tuple[type[Store], tuple[int]]:
        return Store, (self._most,)

    @contextmanager
    def of(self, samples: Samples) -> Iterator[Records]:
        """The records of these samples, for one thread at a time."""
        with self._lock:
            if self._of != samples:
                size = samples.count * samples.size * samples.dtype.itemsize
                self._of = samples
                self._records = Records(max(2, min(self._most, MOST_BYTES // max(1, 4 * size))))
            try:
                yield self._records
            finally:
                self._records.forget()
