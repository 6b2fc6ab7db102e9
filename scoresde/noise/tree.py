"""The virtual tree of a Brownian path: its intervals, its splits, and what is kept of them."""

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
    """The samples that a tree holds, and in which precision: more than those of a batch.

    A sample then has the same place in the tensors of a tree whatever the batch, and with it the
    same rounding in vectorised arithmetic.

    Args:
        first, count: their numbers are first ... first + count - 1.
        size: entries of a sample.
        dtype: float64 for states of float64, else float32.
    """

    first: int
    count: int
    size: int
    dtype: torch.dtype

    @classmethod
    def around(cls, like: Tensor, first: int, group: Callable[[int], int]) -> Samples:
        """Those of a batch, filled up to whole groups of `group(size)` samples."""
        size = max(1, math.prod(like.shape[1:]))
        step = group(size)
        start, stop = first // step * step, -(-(first + like.shape[0]) // step) * step
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return cls(start, stop - start, size, dtype)

    def like(self) -> Tensor:
        """An empty tensor (count, size) on the CPU, for draws to be shaped as."""
        return torch.empty((self.count, self.size), dtype=self.dtype, device="cpu")

    def take(self, values: Tensor, like: Tensor, first: int) -> Tensor:
        """The rows of a batch that begins with sample number `first`, in its form."""
        start = first - self.first
        part = values[start : start + like.shape[0]]
        return part.reshape(like.shape).to(like.device, like.dtype)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """An interval [a, b] of the tree: a root, or what a cut of its parent has made."""

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
"""What a fresh normal is for; a cut and a leaf take two."""

Fresh: TypeAlias = Callable[[float, int], Tensor]
"""Standard normals for a place in the tree and one of the four kinds above, or its successor."""


@final
@dataclass(eq=False, slots=True)
class _Record:
    """z of a root, or of both halves of a cut; h, or what it takes to make it when asked for."""

    z: tuple[Tensor, ...]
    h: tuple[Tensor, ...] = ()
    above: tuple[Tensor, ...] = ()


@final
class Tree:
    """(z, h) of pieces, from fresh normals that their place in the tree names.

    Args:
        share: the share that [p, q] has of [a, b] in the clock.
        fresh: standard normals for (place, kind), shaped as the records.
        records: what is kept; results do not depend on it.
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
        if not record.h:  # many a cut is never asked for it
            record.h, record.above = self._areas(piece, record), ()
        return record.z[piece.right], record.h[piece.right]

    def touch(self, piece: Piece) -> None:
        """Keep what lies above a piece: the walk may come back to the other halves."""
        line = [piece]
        while line[-1].parent is not None:
            line.append(line[-1].parent)
        for above in reversed(line):
            self.records.touch(self._at(above))

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
    """Place and kind of the normals that made a piece: a point is cut once, a leaf once too."""
    if piece.of_leaf and piece.parent is not None:
        return piece.parent.a, _LEAF
    return (piece.a if piece.right else piece.b), _CUT


def _mix(weights: tuple[float, ...], x: Tensor, y: Tensor, n: Tensor) -> Tensor:
    out = x * weights[0]
    return out.add_(y, alpha=weights[1]).add_(n, alpha=weights[2])


MOST_BYTES = 1 << 28
"""Bytes kept at most, four tensors to a record."""


@final
class Records:
    """What the last query touched: all that a walk in either direction asks for again.

    Kept no longer, so that the memory of big tensors is used anew while it is warm.
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
        """The end of a query."""
        last = list(self._touched.items())[-self.most :]
        self._kept, self._touched = dict(last), {}


@final
class Store:
    """What a path remembers to be fast; a copy of it, or of its owner, begins empty."""

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
