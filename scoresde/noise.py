"""Reproducible noise: a pure function of (seed, sample, leg, interval, stage)."""

from __future__ import annotations

import hashlib
import math
import struct
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, finite, nonnegative, wrong_type
from scoresde.node import Node

__all__ = ["Independent", "Noise", "PathOnGrid"]


class Schedule(Protocol):
    """Anything that tells the schedule at a time: an SDE."""

    def at(self, t: float) -> Node:
        """The schedule at time t."""


PRIOR = -1
"""The leg under which the state at t = T is drawn."""


class Noise(ABC):
    """Normal increments that depend on (seed, sample, leg, interval, stage) and nothing else.

    Sample number i of seed s gets the same bits whatever the batch size, the split into calls
    or the device: numbers are drawn on the CPU in float32 and moved.
    """

    seed: int

    @abstractmethod
    def normal(self, like: Tensor, now: Node, nxt: Node, stage: int = 0) -> Tensor:
        """Normalised increment over [now, nxt], shaped as `like`: N(0, I).

        `now is nxt` with a `stage` asks for fresh noise at one node (a Langevin step).
        """

    @abstractmethod
    def on_leg(self, leg: int) -> Noise:
        """The same noise on another leg of a grid."""

    @abstractmethod
    def from_sample(self, first: int) -> Noise:
        """The same noise for a batch whose first row is sample number `first`."""

    def check(self, times: Sequence[float]) -> None:
        """Raise if a solver on a grid with these nodes would ask for what this noise lacks."""
        return

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        """Increment and space-time Levy area over [now, nxt], both normalised: W, H sqrt(12)."""
        return self.normal(like, now, nxt), self.normal(like, now, nxt, stage=_LEVY)

    def prior(self, like: Tensor) -> Tensor:
        """Standard normals for the state at t = T."""
        end = Node(0.0, 0.0)
        return self.on_leg(PRIOR).normal(like, end, end)


_LEVY = 1 << 20  # a stage that no corrector reaches


@lru_cache(maxsize=4096)
def _key(seed: int, leg: int, now: float, nxt: float, stage: int) -> int:
    packed = struct.pack("<QqddQ", seed, leg, now, nxt, stage)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def _stream(key: int, block: int) -> int:
    """splitmix64 of key + block: one 64-bit seed per block of samples."""
    z = (key + (block + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


def _rows(size: int) -> int:
    """Samples per block: a function of the sample's size alone."""
    return max(1, (1024 if size < 256 else 16384) // size)


def _draw(key: int, first: int, like: Tensor) -> Tensor:
    """Standard normals for samples first, first + 1, ... from one generator per block."""
    batch, size = like.shape[0], max(1, math.prod(like.shape[1:]))
    rows = _rows(size)
    start, stop = first // rows, -(-(first + batch) // rows)
    generator = torch.Generator()
    out = torch.empty(((stop - start) * rows, size), dtype=torch.float32, device="cpu")
    for i in range(stop - start):
        generator.manual_seed(_stream(key, start + i))
        out[i * rows : (i + 1) * rows].normal_(generator=generator)
    skip = first - start * rows
    return out[skip : skip + batch].reshape(like.shape).to(like.device, like.dtype)


def _check_seed(seed: object, first: object) -> None:
    for name, value in (("seed", seed), ("first", first)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise fail(name, "an integer in [0, 2**63)", value, f"pass for example {name}=0")


@final
@dataclass(frozen=True)
class Independent(Noise):
    """Independent normals for every interval: the fast default.

    Right wherever a solver asks for disjoint intervals. Refining the grid gives other noise; use
    a path (`PathOnGrid`) where runs on several grids are to follow the same Brownian motion.
    torch's CPU generator keeps 32 bits of a seed, so of a million streams about a hundred pairs
    coincide, at unrelated samples and times.

    Args:
        seed: an integer in [0, 2**63).
        first: the number of the first row's sample.

    Example:
        >>> from scoresde import VPSDE
        >>> now, nxt = VPSDE().at(0.5), VPSDE().at(0.4)
        >>> whole = Independent(0).normal(torch.empty(6, 2), now, nxt)
        >>> part = Independent(0, first=2).normal(torch.empty(3, 2), now, nxt)
        >>> torch.equal(whole[2:5], part)
        True
    """

    seed: int
    first: int = 0
    leg: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed, self.first)

    def normal(self, like: Tensor, now: Node, nxt: Node, stage: int = 0) -> Tensor:
        return _draw(_key(self.seed, self.leg, now.t, nxt.t, stage), self.first, like)

    def on_leg(self, leg: int) -> Independent:
        return replace(self, leg=leg)

    def from_sample(self, first: int) -> Independent:
        return replace(self, first=first)


@final
@dataclass(frozen=True)
class PathOnGrid(Noise):
    """One Brownian path, drawn on the intervals of a finest grid and summed over coarser ones.

    Every grid whose nodes lie on the finest one follows the same path, which is what strong
    errors and solver against solver comparisons need; its Levy areas compose as well. The clock
    of an affine SDE is exp(2 eta^2 lambda), in which the exact noise of the reverse SDE is a
    Brownian motion; that of any other SDE, or with `clock="t"`, is the time.

    Args:
        seed: an integer in [0, 2**63).
        sde: the SDE on whose schedule the solver runs.
        times: the nodes of the finest grid, strictly monotone.
        eta: the stochasticity of the process.
        clock: "snr" or "t"; by default "snr" where the SDE is affine.
        first: the number of the first row's sample.

    Raises:
        ValueError: a solver asks for a time that is not on the finest grid.
    """

    seed: int
    sde: Schedule
    times: Sequence[float]
    eta: float = 1.0
    clock: str = ""
    first: int = 0
    leg: int = 0
    _up: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _log_spread: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_seed(self.seed, self.first)
        nonnegative("eta", self.eta, "the stochasticity of the process, a number")
        if not hasattr(self.sde, "at"):
            raise wrong_type("sde", "an SDE", self.sde, "pass the SDE that the solver walks")
        times = tuple(finite("times", t, "remove it from the grid") for t in self.times)
        up = times[::-1] if times and times[0] > times[-1] else times
        if len(up) < 2 or any(b <= a for a, b in pairwise(up)):
            raise fail("times", "at least two strictly monotone times", up, "sort the grid")
        self.sde.at(up[0])
        affine = self.sde.at(up[-1]).affine
        clock = choice("clock", self.clock or ("snr" if affine else "t"), ("snr", "t"))
        if clock == "snr" and not affine:
            expected = "'t' on an SDE that is not affine"
            raise fail("clock", expected, clock, "leave it out for the default")
        object.__setattr__(self, "_up", up)
        object.__setattr__(self, "_log_spread", self._log_gaps(clock, up))

    def _log_gaps(self, clock: str, up: tuple[float, ...]) -> tuple[float, ...]:
        if clock == "t" or self.eta == 0:
            return tuple(math.log(b - a) for a, b in pairwise(up))
        lam = [2 * self.eta**2 * self.sde.at(t).log_snr for t in up]
        if not math.isfinite(lam[0]):
            raise fail("times", "times with a finite log-SNR", up[0], "end above t = 0")
        # in logarithms, so that a wide range of log-SNR neither overflows nor vanishes
        return tuple(a + math.log(-math.expm1(b - a)) for a, b in pairwise(lam))

    def check(self, times: Sequence[float]) -> None:
        for t in times:
            self._index(t)

    def _index(self, t: float) -> int:
        i = bisect_left(self._up, t)
        if i == len(self._up) or self._up[i] != t:
            remedy = "give PathOnGrid a finest grid that holds every node of the solver's grid"
            raise fail("times", "a grid that holds every node asked for", t, remedy)
        return i

    def normal(self, like: Tensor, now: Node, nxt: Node, stage: int = 0) -> Tensor:
        if now.t == nxt.t or self.leg == PRIOR:
            return _draw(_key(self.seed, self.leg, now.t, nxt.t, stage), self.first, like)
        out = torch.zeros_like(like, dtype=torch.float64)
        for k, share, _ in sorted(self._leaves(now.t, nxt.t)):  # the same bits either way
            out = out.add_(self._leaf(k, out, stage), alpha=math.sqrt(share))
        return out.to(like.dtype)

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        w = torch.zeros_like(like, dtype=torch.float64)
        h = torch.zeros_like(w)
        for k, share, rest in sorted(self._leaves(now.t, nxt.t)):
            z = self._leaf(k, w, 0)
            w = w.add_(z, alpha=math.sqrt(share))
            # int (B - B_s) dc = c (W/2 + H): a leaf's increment counts for the time after it
            h = h.add_(z, alpha=math.sqrt(12.0 * share) * (rest - share / 2 - 0.5))
            h = h.add_(self._leaf(k, w, _LEVY), alpha=share**1.5)
        return w.to(like.dtype), h.to(like.dtype)

    def _leaves(self, now: float, nxt: float) -> list[tuple[int, float, float]]:
        """The leaves on the way: number, share of the way in the clock, and share left at it."""
        i, j = self._index(now), self._index(nxt)
        numbers = range(i, j) if i < j else range(i - 1, j - 1, -1)
        widest = max(self._log_spread[k] for k in numbers)
        spread = [math.exp(self._log_spread[k] - widest) for k in numbers]
        total, out = math.fsum(spread), []
        for n, k in enumerate(numbers):
            out.append((k, spread[n] / total, math.fsum(spread[n:]) / total))
        return out

    def _leaf(self, k: int, like: Tensor, stage: int) -> Tensor:
        key = _key(self.seed, self.leg, self._up[k], self._up[k + 1], stage)
        return _draw(key, self.first, like)

    def on_leg(self, leg: int) -> PathOnGrid:
        return replace(self, leg=leg)

    def from_sample(self, first: int) -> PathOnGrid:
        return replace(self, first=first)
