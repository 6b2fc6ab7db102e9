"""Noise as a pure function of seed, sample and interval, and independent normals."""

from __future__ import annotations

import hashlib
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from scoresde._check import seed as as_seed
from scoresde.node import Node

__all__ = ["LEVY", "PRIOR", "RENOISE", "Independent", "Noise", "Rows", "check_seed", "draw", "key"]

PRIOR = -1
"""The segment under which the state at t = T is drawn."""


RENOISE = 1 << 21
"""The stage under which a state is noised from one segment of a grid up to the next."""


class Noise(ABC):
    """Normal increments that depend on (seed, sample, segment, interval, stage) and nothing else.

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
    def on_segment(self, segment: int) -> Noise:
        """The same noise on another segment of a grid."""

    @abstractmethod
    def from_sample(self, first: int) -> Noise:
        """The same noise for a batch whose first row is sample number `first`."""

    def check(self, times: Sequence[float]) -> None:
        """Raise if a solver on a grid with these nodes would ask for what this noise lacks."""
        return

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        """Increment and space-time Levy area over [now, nxt], both normalised: W, H sqrt(12)."""
        return self.normal(like, now, nxt), self.normal(like, now, nxt, stage=LEVY)

    def prior(self, like: Tensor) -> Tensor:
        """Standard normals for the state at t = T."""
        end = Node(0.0, 0.0)
        return self.on_segment(PRIOR).normal(like, end, end)


LEVY = 1 << 20
"""The stage under which Levy areas are drawn; no corrector reaches it."""


@lru_cache(maxsize=4096)
def key(seed: int, segment: int, now: float, nxt: float, stage: int) -> int:
    """64 bits that stand for one draw."""
    packed = struct.pack("<QqddQ", seed, segment, now, nxt, stage)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def _stream(key: int, block: int) -> int:
    """splitmix64 of key + block: one 64-bit seed per block of samples."""
    z = (key + (block + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


@final
@dataclass(frozen=True)
class Rows:
    """Where the samples of a batch lie in the blocks that have a generator each.

    Numbers are drawn for whole blocks, as a matrix of samples by entries, so that a sample's
    bits depend on its number alone.
    """

    size: int
    rows: int
    start: int
    stop: int
    skip: int

    @classmethod
    def of(cls, like: Tensor, first: int) -> Rows:
        batch, size = like.shape[0], max(1, math.prod(like.shape[1:]))
        rows = max(1, (1024 if size < 256 else 16384) // size)
        start, stop = first // rows, -(-(first + batch) // rows)
        return cls(size, rows, start, stop, first - start * rows)

    def normals(self, key: int) -> Tensor:
        """Standard normals for all samples of the blocks, float32 on the CPU."""
        generator = torch.Generator()
        shape = self.stop - self.start, self.rows * self.size
        out = torch.empty(shape, dtype=torch.float32, device="cpu")
        for block, numbers in enumerate(out.unbind(), self.start):
            numbers.normal_(generator=generator.manual_seed(_stream(key, block)))
        return out.view(-1, self.size)

    def take(self, values: Tensor, like: Tensor) -> Tensor:
        """The batch's own rows, with shape, dtype and device of `like`."""
        part = values[self.skip : self.skip + like.shape[0]]
        return part.reshape(like.shape).to(like.device, like.dtype)


def draw(key: int, first: int, like: Tensor) -> Tensor:
    """Standard normals for samples first, first + 1, ... from one generator per block."""
    rows = Rows.of(like, first)
    return rows.take(rows.normals(key), like)


def check_seed(seed: object, first: object) -> tuple[int, int]:
    """Both as ints in [0, 2**63), or a ValueError."""
    return as_seed(seed), as_seed(first, "first")


@final
@dataclass(frozen=True)
class Independent(Noise):
    """Independent normals for every interval: the fast default.

    Right wherever a solver asks for disjoint intervals. Refining the grid gives other noise; use
    a path (`BrownianPath`) where runs on several grids are to follow the same Brownian motion.
    torch's CPU generator keeps 32 bits of a seed, so of a million streams about a hundred pairs
    coincide, at unrelated samples and times.

    Args:
        seed: an integer in [0, 2**63).
        first: the number of the first row's sample.
        segment: the number of the grid's segment.

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
    segment: int = 0

    def __post_init__(self) -> None:
        for name, value in zip(("seed", "first"), check_seed(self.seed, self.first), strict=True):
            object.__setattr__(self, name, value)

    def normal(self, like: Tensor, now: Node, nxt: Node, stage: int = 0) -> Tensor:
        return draw(key(self.seed, self.segment, now.t, nxt.t, stage), self.first, like)

    def on_segment(self, segment: int) -> Independent:
        return replace(self, segment=segment)

    def from_sample(self, first: int) -> Independent:
        return replace(self, first=first)
