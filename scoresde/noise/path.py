"""A Brownian path that is a function of (seed, sample, interval) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import final

from torch import Tensor

from scoresde._check import fail, whole, wrong_type
from scoresde._check import seed as as_seed
from scoresde._html import Shown
from scoresde._tensor import Eta
from scoresde.node import Node
from scoresde.noise.base import Independent, Noise, samples_per_block
from scoresde.noise.clock import Clock, Part, check_eta, merge
from scoresde.noise.lattice import lattice, pieces_between
from scoresde.noise.tree import Fresh, Piece, Samples, Store, Tree
from scoresde.sde import SDE

__all__ = ["BrownianPath"]

_LEAST = -16.0
"""The log-SNR at the start of a path if the SDE ends in pure noise; c is 0 to 14 digits there."""

_NEAR = 1e-9
"""A time this close to a round fraction of the range is identified with it, due to rounding."""


@final
@dataclass(frozen=True, repr=False)
class BrownianPath(Shown, Noise):
    """One Brownian path for every grid, solver, batch size and order of queries, with Levy areas.

    All runs with the same seed follow the same path, so runs of N steps and of 2 N or 3 N steps
    are consistent, W = W_l + W_r and int (B - B_s) dc = int_l + int_r + c_r W_l, to rounding. The
    clock c is that of `PathOnGrid`: exp(2 eta^2 lambda) under an affine SDE, otherwise the time.
    The laws of increments and areas are exact, N(0, I) when normalised, and those of disjoint
    intervals are independent. For intervals in the direction of increasing t the increments are
    the same, and the Levy areas have the opposite sign.

    The path is a virtual tree over the log-SNR from T to t_end, repeated beyond these ends. An
    interval is cut at its roundest point, the fraction i/d of the range with the smallest
    d = 2^a 5^b (b <= 3), and (W, H) of its parts follow from those of the interval and two new
    normals (Foster et al. 2020, SIAM J. Numer. Anal. 58; as a virtual tree Jelincic et al. 2024,
    arXiv 2405.06464). Intervals between neighbours of d <= 20 are roots, drawn independently.

    The cost is that of the normals. A grid of N = 2^a 5^b equal steps in the log-SNR between the
    same ends needs only the cuts i/N: 1.6 normals a step at N = 20, 2 at 16 and 32, 3 at 40 and
    64, 4 at 25, 50 and 100, and two for each of 32 roots if Levy areas are used. Any other time
    requires a search through `depth` levels and a cut of the last interval, the leaf: about 18
    normals a step on a Karras grid of 20 or 50 steps. Exactness requires it, since each level
    below the last one shared with a neighbour takes two normals. On 64 x 3 x 32 x 32 numbers the
    time was that of 2.3 calls of torch.randn at 20 steps, 3.3 at 32, 6 to 7 at 50, and 28 to 40
    off the round fractions; benchmarks/noise.py prints the table.

    Each leaf holds one time. A step inside one leaf, which is at most 2^-depth of the range, is an
    error, since its noise would be too smooth. So the law is exact within a run. Two runs may use
    different times in the same leaf; between those two the path is interpolated smoothly rather
    than by a Brownian bridge. This is the only approximation.

    Args:
        seed: an integer in [0, 2**63).
        sde: the SDE on whose schedule the solver runs.
        eta: the stochasticity of the process. For a function of t the clock is that of eta = 1:
            the law is exact, but steps compose only to first order in their length.
        depth: from 5 to 20; 11 allows steps down to 1/2048 of the range. Paths of two depths
            agree at common cuts, for example at i/20.
        first: the number of the first row's sample.
        segment: the number of the grid's segment; paths of different segments are independent.

    Raises:
        ValueError: there is no noise at a time, or a step is inside one leaf.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.schedule.grid import log_snr
        >>> sde, like = VPSDE(), torch.empty(4, 2)
        >>> path = BrownianPath(0, sde)
        >>> nodes = [sde.at(t) for t in log_snr(sde, 20).times]
        >>> whole = path.normal(like, nodes[4], nodes[9])
        >>> part = path.from_sample(2).normal(like[2:], nodes[4], nodes[9])
        >>> torch.equal(whole[2:], part)
        True
    """

    seed: int
    sde: SDE
    eta: Eta = field(default=1.0, kw_only=True)
    depth: int = field(default=11, kw_only=True)
    first: int = field(default=0, kw_only=True)
    segment: int = field(default=0, kw_only=True)
    _clock: Clock = field(init=False, repr=False, compare=False)
    _range: tuple[float, float] = field(init=False, repr=False, compare=False)
    _store: Store = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("seed", "first", "segment"):
            object.__setattr__(self, name, as_seed(getattr(self, name), name))
        if not isinstance(self.sde, SDE):
            raise wrong_type("sde", "an SDE", self.sde, "pass the SDE of the solver")
        check_eta(self.eta)
        depth = whole(self.depth)
        if depth is None or not 5 <= depth <= 20:
            remedy = "11 serves steps down to 1/2048 of the range"
            raise fail("depth", "an integer from 5 to 20", self.depth, remedy)
        object.__setattr__(self, "depth", depth)
        clock = Clock.of(self.sde, self.eta, "", self.sde.T)
        ends = (clock.position(t) for t in (self.sde.t_end, self.sde.t_min))
        end = next((u for u in ends if math.isfinite(u)), math.inf)
        start = clock.position(self.sde.T)
        if start == -math.inf:  # pure noise, where c = 0
            start = clock.strength * _LEAST
        if not (math.isfinite(start) and math.isfinite(end)):
            remedy = "give the SDE a T and a t_end where sigma and alpha are above 0"
            raise fail("sde", "finite log-SNR at T and at t_end", (start, end), remedy)
        object.__setattr__(self, "_clock", clock)
        object.__setattr__(self, "_range", (start, end))
        object.__setattr__(self, "_store", Store(3 * self.depth))

    def check(self, times: Sequence[float]) -> None:
        for now, nxt in pairwise(times):
            if now != nxt:
                self._pieces(now, nxt)

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        if now.t == nxt.t:
            return self.draw(like, at=now.t)
        return self._merged(like, now.t, nxt.t, levy=False)[0]

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        if now.t == nxt.t:
            return super().levy(like, now, nxt)
        z, h = self._merged(like, now.t, nxt.t, levy=True)
        up = self._place(now.t) > self._place(nxt.t)
        return z, h.neg_() if up else h

    def _merged(self, like: Tensor, now: float, nxt: float, levy: bool) -> tuple[Tensor, ...]:
        pieces, samples = (
            self._pieces(now, nxt),
            Samples.around(like, self.first, samples_per_block),
        )
        with self._store.of(samples) as records:
            tree = Tree(self._share, self._fresh(samples), records)
            for piece in (pieces[0], pieces[-1]):
                tree.touch(piece)
            merged = merge(self._parts(tree, pieces, levy))
        return tuple(samples.take(x, like, self.first) for x in merged if x is not None)

    def _parts(self, tree: Tree, pieces: list[Piece], levy: bool) -> Iterator[Part]:
        a, b = pieces[0].a, pieces[-1].b
        for piece in pieces:
            share, rest = self._share(piece.a, piece.b, a, b), self._share(piece.a, b, a, b)
            yield (share, rest, *(tree.both(piece) if levy else (tree.z(piece), None)))

    def _fresh(self, samples: Samples) -> Fresh:
        noise, like = Independent(self.seed, samples.first, self.segment, "path"), samples.like()
        size = lattice(self.depth)  # fractions of the range do not depend on the depth
        return lambda place, kind: noise.draw(like, kind, at=place / size)

    def _share(self, p: float, q: float, a: float, b: float) -> float:
        """The share of [p, q] in [a, b], measured by the clock, for places of the lattice."""
        start, end = self._range
        unit = (end - start) / lattice(self.depth)
        return self._clock.share(*(start + unit * x for x in (p, q, a, b)))

    def _pieces(self, now: float, nxt: float) -> list[Piece]:
        """The nodes of the tree and the parts of leaves that compose the interval, in order."""
        a, b = sorted((self._place(now), self._place(nxt)))
        pieces = pieces_between(self.depth, a, b)
        if not pieces:
            got = f"the step from t = {now:.9g} to {nxt:.9g}"
            remedy = f"take longer steps, or pass depth={min(self.depth + 4, 20)}"
            expected = f"steps longer than 2^-{self.depth} of the path's range"
            raise fail("depth", expected, got, remedy)
        return pieces

    def _place(self, t: float) -> float:
        """The place of a time in units of the lattice; an int for a round fraction."""
        cached = self._store.places.get(t)
        if cached is not None:
            return cached
        u, (start, end) = self._clock.position(t), self._range
        if u == -math.inf:
            u = start
        if not math.isfinite(u):
            raise fail("t", "a time with a finite log-SNR", t, "end above t = 0")
        if u < start and self._clock.position(self.sde.T) == -math.inf:
            remedy = "start the grid with a longer step, or take noise='independent'"
            raise fail("t", f"times with a log-SNR above {_LEAST:g}, or T", t, remedy)
        size = lattice(self.depth)
        place = (u - start) / (end - start) * size
        near = round(place)
        round_one = size // math.gcd(near, size) <= 1 << self.depth
        if abs(place - near) <= _NEAR * size and round_one:
            place = near
        if len(self._store.places) > 1 << 16:
            self._store.places.clear()
        self._store.places[t] = place
        return place

    def on_segment(self, segment: int) -> BrownianPath:
        return replace(self, segment=segment)

    def from_sample(self, first: int) -> BrownianPath:
        return replace(self, first=first)
