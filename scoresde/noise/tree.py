"""The virtual tree of a Brownian path: its intervals, its splits, and what is kept of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from scoresde.noise.base import Rows

__all__ = ["Piece", "Records", "Store", "Tree", "lattice", "pieces_between", "split_weights"]

_FIVES = 125
_ROOT = 20


def lattice(depth: int) -> int:
    """Units of the range: every round fraction is a whole number of them."""
    return _FIVES << depth


@lru_cache(maxsize=32)
def _denominators(depth: int) -> tuple[int, ...]:
    """2^a 5^b up to 2^depth, the roundest first.

    25 comes after 32, 50 after 64 and so on: grids of 16, 20, 32 or 40 steps then cost two thirds
    of what they would, those of 25, 50 or 100 steps a third more.
    """
    found = (b << a for b in (1, 5, 25, _FIVES) for a in range(depth + 1))
    known = (d for d in found if d <= 1 << depth)
    return tuple(sorted(known, key=lambda d: 1.3 * d if d % 25 == 0 else d))


@lru_cache(maxsize=32)
def _roots(depth: int) -> tuple[int, ...]:
    """The ends of the intervals that are drawn independently, over one range."""
    size = lattice(depth)
    known = (d for d in _denominators(depth) if d <= _ROOT)
    return tuple(sorted({i * size // d for d in known for i in range(d + 1)}))


@lru_cache(maxsize=1 << 16)
def _cut(depth: int, a: int, b: int) -> int | None:
    """The roundest point in (a, b), nearest the middle; None in a leaf. 0 <= a, b <= range."""
    if b - a <= lattice(depth) >> depth:
        return None
    for d in _denominators(depth):
        step = lattice(depth) // d
        inside = range(a // step + 1, (b - 1) // step + 1)
        if inside:
            return min(inside, key=lambda i: abs(2 * i * step - a - b)) * step
    return None


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


def pieces_between(depth: int, a: float, b: float) -> list[Piece]:
    """The pieces that make up [a, b], in order; none if both ends lie inside one leaf."""
    size, out = lattice(depth), list[Piece]()
    for turn in range(math.floor(a / size), math.ceil(b / size)):
        for low, high in pairwise(_roots(depth)):
            if a < turn * size + high and turn * size + low < b:
                root = Piece(turn * size + low, turn * size + high)
                if not _cover(depth, root, turn * size, a, b, out):
                    return []
    return out


def _cover(depth: int, piece: Piece, origin: int, a: float, b: float, out: list[Piece]) -> bool:
    """Append the parts of a piece that lie in [a, b]; False if that takes two cuts of a leaf."""
    if a <= piece.a and piece.b <= b:
        out.append(piece)
        return True
    inner = _cut(depth, int(piece.a) - origin, int(piece.b) - origin)
    if inner is None:
        begins = piece.a < a
        out.append(piece.cut_at(a if begins else b, leaf=True)[begins])
        return not (begins and b < piece.b)
    left, right = piece.cut_at(origin + inner)
    if a < left.b and not _cover(depth, left, origin, a, b, out):
        return False
    return right.a >= b or _cover(depth, right, origin, a, b, out)


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
        fresh: standard normals for (place, kind).
        stage: tells the paths apart in what is kept.
        records: what is kept; results do not depend on it.
    """

    def __init__(
        self,
        share: Callable[[float, float, float, float], float],
        fresh: Callable[[float, int], Tensor],
        stage: int,
        records: Records,
    ) -> None:
        self._share, self._fresh, self._stage, self._records = share, fresh, stage, records

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
            self._records.touch(self._at(above))

    def _at(self, piece: Piece) -> tuple[float, ...]:
        parent = piece.parent
        if parent is None:
            return self._stage, piece.a, piece.b
        return self._stage, parent.a, parent.b, piece.a if piece.right else piece.b

    def _record(self, piece: Piece) -> _Record:
        parent = piece.parent
        if parent is None:
            return self._records.get(self._at(piece), lambda: _Record((self._fresh(piece.a, _Z),)))
        s = piece.a if piece.right else piece.b
        return self._records.get(self._at(piece), lambda: self._split(piece, parent, s))

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


_MOST = 1 << 28
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
        self._of: tuple[Rows, torch.dtype] | None = None
        self._records = Records(most)

    def __reduce__(self) -> tuple[type[Store], tuple[int]]:
        return Store, (self._most,)

    @contextmanager
    def of(self, rows: Rows, dtype: torch.dtype) -> Iterator[Records]:
        """The records of the samples in these rows, for one thread at a time."""
        with self._lock:
            if self._of != (rows, dtype):
                size = (rows.stop - rows.start) * rows.rows * rows.size * dtype.itemsize
                self._of = rows, dtype
                self._records = Records(max(2, min(self._most, _MOST // max(1, 4 * size))))
            try:
                yield self._records
            finally:
                self._records.forget()
