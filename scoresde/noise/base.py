"""Noise as a pure function of seed, stream, sample and interval, and independent normals."""

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

from scoresde._check import choice
from scoresde._check import seed as as_seed
from scoresde.node import Node
from scoresde.noise.streams import STREAMS

__all__ = ["Independent", "Noise", "key", "normals", "samples_per_block"]


class Noise(ABC):
    """Random numbers that depend on seed, stream, segment, sample, and interval or counter alone.

    Sample number i of a seed has the same bits whatever the batch size, the split into calls or
    the device: numbers are drawn on the CPU in float32 and moved.

    A source begins in the stream "steps", the increments of the motion that a solver follows;
    `stream(name)` gives the numbers for any other purpose. Streams are disjoint: `STREAMS` lists
    them.

    Attributes:
        seed: an integer in [0, 2**63).
        first: the number of the sample in the first row of a batch.
        segment: the number of the grid's segment that is being integrated.
    """

    seed: int
    first: int
    segment: int

    @abstractmethod
    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        """Normalised increment over [now, nxt], shaped as `like`: N(0, I).

        At a single node (now.t = nxt.t) this is `draw(like, at=now.t)`.
        """

    @abstractmethod
    def on_segment(self, segment: int) -> Noise:
        """The same noise on another segment of a grid."""

    @abstractmethod
    def from_sample(self, first: int) -> Noise:
        """The same noise for a batch whose first row is sample number `first`."""

    def stream(self, name: str) -> Noise:
        """The noise for another purpose: independent normals, for all but the "steps".

        Args:
            name: a key of `STREAMS`.

        Raises:
            ValueError: an unknown name; the message lists those there are.
        """
        return self if name == "steps" else Independent(self.seed, self.first, self.segment, name)

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        """Standard normals that belong to no interval, shaped as `like`.

        Args:
            like: (B, *D); gives shape, dtype and device.
            number: which draw of the stream this is: any count of integers of at least 0.
            at: the time of the node, where draws at several nodes have the same number.
        """
        return Independent(self.seed, self.first, self.segment).draw(like, *number, at=at)

    def check(self, times: Sequence[float]) -> None:
        """Raise if a solver on a grid with these nodes would ask for what this noise lacks."""
        return

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        """Increment and space-time Levy area over [now, nxt], both normalised: W, H sqrt(12)."""
        return self.normal(like, now, nxt), self.stream("levy").normal(like, now, nxt)

    def prior(self, like: Tensor) -> Tensor:
        """Standard normals for the state at t = T: the same on all segments."""
        return self.on_segment(0).stream("prior").draw(like)


@lru_cache(maxsize=4096)
def key(seed: int, stream: str, segment: int, now: float, nxt: float, *number: int) -> int:
    """The 64 bits that stand for one draw."""
    for value in number:
        as_seed(value, "number")
    form = f"<QQQdd{len(number)}Q"
    packed = struct.pack(form, seed, STREAMS[stream].number, segment, now, nxt, *number)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def samples_per_block(size: int) -> int:
    """How many samples of this many entries share a generator."""
    return max(1, (1024 if size < 256 else 16384) // size)


def normals(key: int, first: int, like: Tensor) -> Tensor:
    """Standard normals for samples number first, first + 1, ..., shaped as `like`.

    Each block of samples has a generator of its own and is drawn whole, as a matrix of samples by
    entries, so that a sample's bits depend on its number alone.
    """
    size = max(1, math.prod(like.shape[1:]))
    rows = samples_per_block(size)
    start, stop = first // rows, -(-(first + like.shape[0]) // rows)
    generator = torch.Generator()
    out = torch.empty((stop - start, rows * size), dtype=torch.float32, device="cpu")
    for block, numbers in enumerate(out.unbind(), start):
        numbers.normal_(generator=generator.manual_seed(_mixed(key, block)))
    skip = first - start * rows
    part = out.view(-1, size)[skip : skip + like.shape[0]]
    return part.reshape(like.shape).to(like.device, like.dtype)


def _mixed(key: int, block: int) -> int:
    """splitmix64 of key + block: one 64-bit seed per block of samples."""
    z = (key + (block + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


@final
@dataclass(frozen=True)
class Independent(Noise):
    """Independent normals for every interval: the fast default.

    Right wherever a solver asks for disjoint intervals. Refining the grid gives other noise; use
    a path (`BrownianPath`) where runs on several grids are to follow the same Brownian motion.
    torch's CPU generator keeps 32 bits of a seed, so of a million draws about a hundred pairs
    coincide, at unrelated samples and times.

    Args:
        seed: an integer in [0, 2**63).
        first: the number of the first row's sample.
        segment: the number of the grid's segment.
        name: of the stream, a key of `STREAMS`.

    Example:
        >>> from scoresde import VPSDE
        >>> now, nxt = VPSDE().at(0.5), VPSDE().at(0.4)
        >>> whole = Independent(0).normal(torch.empty(6, 2), now, nxt)
        >>> part = Independent(0, first=2).normal(torch.empty(3, 2), now, nxt)
        >>> torch.equal(whole[2:5], part)
        True
        >>> probe = Independent(0).stream("probe")
        >>> torch.equal(probe.draw(whole, 3), probe.draw(whole, 4))
        False
    """

    seed: int
    first: int = 0
    segment: int = 0
    name: str = "steps"

    def __post_init__(self) -> None:
        for field in ("seed", "first", "segment"):
            object.__setattr__(self, field, as_seed(getattr(self, field), field))
        if self.name not in STREAMS:
            choice("stream", self.name, STREAMS)

    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        number = key(self.seed, self.name, self.segment, now.t, nxt.t)
        return normals(number, self.first, like)

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        return normals(key(self.seed, self.name, self.segment, at, at, *number), self.first, like)

    def seed_of(self, *number: int) -> int:
        """A seed that belongs to a draw of this stream, for what is given a seed of its own."""
        return key(self.seed, self.name, self.segment, 0.0, 0.0, *number) >> 1

    def on_segment(self, segment: int) -> Independent:
        return replace(self, segment=segment)

    def from_sample(self, first: int) -> Independent:
        return replace(self, first=first)

    def stream(self, name: str) -> Independent:
        return replace(self, name=name)
