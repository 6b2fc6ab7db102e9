"""A Brownian path on the intervals of a given grid."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isfinite
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, finite, keep, nonnegative
from scoresde._check import seed as as_seed
from scoresde._html import Shown
from scoresde.node import Node
from scoresde.noise.base import Independent, Noise
from scoresde.noise.clock import Clock, Part, merge
from scoresde.sde import SDE

__all__ = ["PathOnGrid"]


@final
@dataclass(frozen=True, repr=False)
class PathOnGrid(Shown, Noise):
    """One Brownian path, drawn on the intervals of a finest grid and summed over coarser ones.

    All grids whose nodes are on the finest one follow the same path, as strong errors and
    comparisons of solvers require; Levy areas are consistent as well. It costs one draw for each
    interval of the finest grid, two with Levy areas; if the grids are not known in advance, use
    `BrownianPath`. The clock of an affine SDE is exp(2 eta^2 lambda), in which the exact noise of
    the reverse SDE is a Brownian motion; that of any other SDE, or with `clock="t"`, is the time.
    For intervals in the direction of increasing t the increments are the same, and the Levy areas
    have the opposite sign.

    Args:
        seed: an integer in [0, 2**63).
        sde: the SDE on whose schedule the solver runs.
        times: the nodes of the finest grid, strictly monotone.
        eta: the stochasticity of the process.
        clock: "snr" or "t"; by default "snr" if the SDE is affine.
        first: the number of the first row's sample.
        segment: the number of the grid's segment.

    Raises:
        ValueError: a solver uses a time that is not on the finest grid.

    Example:
        >>> from scoresde import VPSDE
        >>> sde, like = VPSDE(), torch.empty(4, 2)
        >>> noise = PathOnGrid(0, sde, (0.9, 0.6, 0.3), clock="t")
        >>> nodes = [sde.at(t) for t in noise.times]
        >>> halves = noise.normal(like, *nodes[:2]) + noise.normal(like, *nodes[1:])
        >>> torch.allclose(halves / 2**0.5, noise.normal(like, nodes[0], nodes[2]), atol=1e-6)
        True
    """

    seed: int
    sde: SDE
    times: Sequence[float]
    eta: float = 1.0
    clock: str = ""
    first: int = 0
    segment: int = 0
    _up: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _clock: Clock = field(init=False, repr=False, compare=False)
    _at: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("seed", "first", "segment"):
            object.__setattr__(self, name, as_seed(getattr(self, name), name))
        keep(self, "eta", nonnegative, "the stochasticity of the process, a number")
        times = tuple(finite("times", t, "remove it from the grid") for t in self.times)
        up = times[::-1] if times and times[0] > times[-1] else times
        if len(up) < 2 or any(b <= a for a, b in pairwise(up)):
            raise fail("times", "at least two strictly monotone times", up, "sort the grid")
        clock = Clock.of(self.sde, self.eta, self.clock, up[-1])
        self.sde.at(up[0])
        at = tuple(clock.position(t) for t in up)
        if not isfinite(at[0]):
            raise fail("times", "times with a finite log-SNR", up[0], "end above t = 0")
        object.__setattr__(self, "_up", up)
        object.__setattr__(self, "_clock", clock)
        object.__setattr__(self, "_at", at)

    def check(self, times: Sequence[float]) -> None:
        for t in times:
            self._index(t)

    def _index(self, t: float) -> int:
        i = bisect_left(self._up, t)
        if i == len(self._up) or self._up[i] != t:
            remedy = "give PathOnGrid a finest grid that contains every node of the solver's grid"
            raise fail("times", "a grid that contains every node of the solver", t, remedy)
        return i

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        if now.t == nxt.t:
            return self.draw(like, at=now.t)
        return merge(self._parts(like, now.t, nxt.t, levy=False))[0].to(like.dtype)

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        if now.t == nxt.t:
            return super().levy(like, now, nxt)
        w, h = merge(self._parts(like, now.t, nxt.t, levy=True))
        h = torch.zeros_like(w) if h is None else h
        return w.to(like.dtype), (h if now.t > nxt.t else h.neg_()).to(like.dtype)

    def _parts(self, like: Tensor, now: float, nxt: float, levy: bool) -> Iterator[Part]:
        """The intervals of the finest grid between, in the same order for both directions."""
        (i, j), clock = sorted((self._index(now), self._index(nxt))), self._clock
        start, end = self._at[j], self._at[i]
        wide = torch.empty_like(like, dtype=torch.float64)
        increments = Independent(self.seed, self.first, self.segment)
        areas = increments.stream("levy")
        nodes = [Node(t, 0.0) for t in self._up[i : j + 1]]
        for k in range(i, j):
            share = clock.share(self._at[k + 1], self._at[k], start, end)
            rest = clock.share(self._at[k + 1], end, start, end)
            ends = nodes[k - i], nodes[k - i + 1]
            area = areas.normal(wide, *ends) if levy else None
            yield share, rest, increments.normal(wide, *ends), area

    def on_segment(self, segment: int) -> PathOnGrid:
        return replace(self, segment=segment)

    def from_sample(self, first: int) -> PathOnGrid:
        return replace(self, first=first)
