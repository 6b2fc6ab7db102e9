"""A Brownian path for each sample of a batch, on the halves of a grid's intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from scoresde.noise.base import Independent, samples_per_block
from scoresde.noise.clock import Clock
from scoresde.noise.tree import MOST_BYTES, Piece, Records, Samples, Tree
from scoresde.sde import AffineSDE

__all__ = ["FINEST", "DyadicPath"]

FINEST = 24
"""The largest number of halvings of an interval of the grid."""


@final
class DyadicPath:
    """A Brownian path per sample, in the clock c = e^(2 lambda) over a segment of a grid.

    It is the noise of a solver whose samples have different times and step sizes. Intervals of the
    grid are joined in pairs, level by level, until one interval is the whole segment, and are
    halved in lambda in the other direction. A position is an integer number of ticks, 2^24 per
    interval of the grid; an interval of level l has 2^(levels - l) ticks. The increment and the
    space-time Levy area of an interval, with two new normals, determine those of its halves (see
    `split_weights`). So the law is exact, and every value is a function of (seed, segment, sample,
    interval) alone, independent of earlier queries and of the other samples of the batch.

    Only new intervals cost time: about 0.1 ms for each group of samples in the same interval.

    Args:
        sde: the SDE.
        times: the decreasing times of the segment.
        noise: independent normals.
        like: a batch of states, whose rows are the samples of the noise.

    Attributes:
        end: the last position.
        levels: the level of the shortest interval, of one tick.
        upper: the level of the intervals of the grid.
    """

    def __init__(
        self, sde: AffineSDE, times: tuple[float, ...], noise: Independent, like: Tensor
    ) -> None:
        self.sde, self.like = sde, like
        intervals = len(times) - 1
        self.upper = math.ceil(math.log2(intervals))
        self.levels = self.upper + FINEST
        self.end = intervals << FINEST
        extended = [*times, times[-1]]  # no noise beyond the end
        self._nodes = [float(sde.at(t).log_snr) for t in extended]
        self._t = torch.tensor(extended, dtype=torch.float64, device="cpu")
        self._log_snr = torch.tensor(self._nodes, dtype=torch.float64, device="cpu")
        self._clock = Clock(sde, 2.0)
        self._samples = Samples.around(like, noise.first, _together)
        self._group = _together(self._samples.size)
        self._offset = noise.first - self._samples.first
        self._pieces = {1: Piece(0, 1 << self.levels)}
        starts = range(0, self._samples.count, self._group)
        draws = noise.stream("adaptive")
        self._trees = [self._tree(draws, start, len(starts)) for start in starts]

    def log_snr(self, ticks: Tensor) -> Tensor:
        """lambda at positions, (n,)."""
        ticks = ticks.clamp_max(self.end)
        i, part = ticks >> FINEST, (ticks & ((1 << FINEST) - 1)).double() / (1 << FINEST)
        return torch.lerp(
            self._log_snr[i], self._log_snr[(i + 1).clamp_max(len(self._t) - 1)], part
        )

    def times(self, ticks: Tensor) -> Tensor:
        """Times of positions, (n,); at the nodes of the grid exactly the times of the grid."""
        ticks = ticks.clamp_max(self.end)
        t = self.sde.time_of(self.log_snr(ticks)).clamp(float(self._t[-1]), float(self._t[0]))
        inside = (ticks & ((1 << FINEST) - 1)) != 0
        return torch.where(inside, t, self._t[ticks >> FINEST])

    def width(self, level: int) -> int:
        """The number of ticks of an interval of a level."""
        return 1 << (self.levels - level)

    def increments(self, ticks: Tensor, level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The increment and Levy area of an interval for each sample, both normalised: (B, *D).

        Args:
            ticks: (B,) the starts of the intervals, multiples of their widths below `end`.
            level: (B,) levels of the intervals.
            rows: (B,) a mask of the requested samples; the results of all others are zeros.
        """
        z = torch.zeros((len(ticks), self._samples.size), dtype=self._samples.dtype, device="cpu")
        area = torch.zeros_like(z)
        asked = rows.nonzero().flatten()
        place = asked + self._offset
        tree, own = place // self._group, place % self._group
        # intervals are numbered as a heap: 1 is the root, 2 i and 2 i + 1 are the halves of i
        number = (torch.ones_like(level) << level)[asked]
        number += ticks[asked] >> (self.levels - level[asked])
        order = torch.argsort(number, stable=True)
        order = order[torch.argsort(tree[order], stable=True)]
        asked, tree, own, number = (v[order] for v in (asked, tree, own, number))
        cuts = ((tree.diff() != 0) | (number.diff() != 0)).nonzero().flatten() + 1
        for run in torch.tensor_split(torch.arange(len(asked), device="cpu"), cuts.tolist()):
            if len(run):
                values = self._of(int(tree[run[0]]), int(number[run[0]]))
                for out, value in zip((z, area), values, strict=True):
                    out[asked[run]] = value[own[run]]
        for k in set(tree.tolist()):
            self._trees[k].records.forget()
        shaped = (part.reshape(self.like.shape) for part in (z, area))
        first, second = (part.to(self.like.device, self.like.dtype) for part in shaped)
        return first, second

    def _tree(self, draws: Independent, start: int, count: int) -> Tree:
        """One of `count` trees, each for a group of samples."""
        samples = replace(self._samples, first=self._samples.first + start, count=self._group)
        like, source = samples.like(), draws.from_sample(samples.first)
        records = Records(max(2, MOST_BYTES // (4 * like.numel() * like.element_size() * count)))
        fresh = lambda place, kind: source.draw(like, kind, at=place)  # noqa: E731
        return Tree(self._share, fresh, records)

    def _of(self, tree: int, number: int) -> tuple[Tensor, Tensor]:
        piece = self._piece(number)
        self._trees[tree].touch(piece)
        return self._trees[tree].both(piece)

    def _piece(self, number: int) -> Piece:
        """The interval with this number."""
        if number not in self._pieces:
            whole = self._piece(number >> 1)
            left, right = whole.cut_at((whole.a + whole.b) / 2)
            self._pieces[number & ~1], self._pieces[number | 1] = left, right
        return self._pieces[number]

    def _share(self, p: float, q: float, a: float, b: float) -> float:
        """The share of [p, q] in [a, b], measured by the clock, for positions."""
        return self._clock.share(*(2.0 * self._level_of(tick) for tick in (p, q, a, b)))

    def _level_of(self, tick: float) -> float:
        """lambda at one position, equal to `log_snr`."""
        i, part = divmod(min(tick, self.end), 1 << FINEST)
        a, b = self._nodes[int(i)], self._nodes[min(int(i) + 1, len(self._nodes) - 1)]
        return a + (b - a) * (part / (1 << FINEST))


def _together(size: int) -> int:
    """The number of samples of this size that share a tree: whole blocks of about 4096 entries."""
    block = samples_per_block(size)
    return block * max(1, 4096 // (block * size))
