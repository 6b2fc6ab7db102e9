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

    The bits of sample number i of a seed do not depend on the batch size, the division into calls
    or the device: numbers are drawn on the CPU in float32 and moved.

    A source starts in the stream "steps", the increments of the Brownian motion of a solver;
    `stream(name)` gives the numbers for any other purpose. `STREAMS` lists the streams, which are
    disjoint.

    Attributes:
        seed: an integer in [0, 2**63).
        first: the number of the sample in the first row of a batch.
        segment: the number of the current segment of the grid.
    """

    seed: int
    first: int
    segment: int

    @abstractmethod
    def normal(self, like: Tensor, now: Node, nxt: Node) -> Tensor:
        """Normalised increment over [now, nxt] in the shape of `like`: N(0, I).

        At a single node (now.t = nxt.t) this is `draw(like, at=now.t)`.
        """

    @abstractmethod
    def on_segment(self, segment: int) -> Noise:
        """The same noise on another segment of a grid."""

    @abstractmethod
    def from_sample(self, first: int) -> Noise:
        """The same noise for a batch whose first row is sample number `first`."""

    def stream(self, name: str) -> Noise:
        """The noise for another purpose; except for "steps" it is independent normals.

        Args:
            name: a key of `STREAMS`.

        Raises:
            ValueError: the name is unknown; the message lists all names.
        """
        return self if name == "steps" else Independent(self.seed, self.first, self.segment, name)

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        """Standard normals without an interval, in the shape of `like`.

        Args:
            like: (B, *D); its shape, dtype and device are those of the result.
            number: the number of the draw in the stream: any number of non-negative integers.
            at: the time of the node, if draws at several nodes have the same number.
        """
        return Independent(self.seed, self.first, self.segment).draw(like, *number, at=at)

    def check(self, times: Sequence[float]) -> None:
        """Raise if this noise cannot serve a solver on a grid with these nodes."""
        return

    def levy(self, like: Tensor, now: Node, nxt: Node) -> tuple[Tensor, Tensor]:
        """Increment and space-time Levy area over [now, nxt], both normalised: W, H sqrt(12)."""
        return self.normal(like, now, nxt), self.stream("levy").normal(like, now, nxt)

    def prior(self, like: Tensor) -> Tensor:
        """Standard normals for the state at t = T, the same on all segments."""
        return self.on_segment(0).stream("prior").draw(like)


@lru_cache(maxsize=4096)
def key(seed: int, stream: str, segment: int, now: float, nxt: float, *number: int) -> int:
    """The 64-bit key of one draw."""
    for value in number:
        as_seed(value, "number")
    form = f"<QQQdd{len(number)}Q"
    packed = struct.pack(form, seed, STREAMS[stream].number, segment, now, nxt, *number)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def samples_per_block(size: int) -> int:
    """The number of samples of this size that share a generator."""
    return max(1, (1024 if size < 256 else 16384) // size)


def normals(key: int, first: int, like: Tensor) -> Tensor:
    """Standard normals for samples number first, first + 1, ... in the shape of `like`.

    Each block of samples has its own generator and is drawn completely, as a matrix of samples by
    entries, so that the bits of a sample depend on its number alone.
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

    They are correct for a solver that uses disjoint intervals. A refined grid has other noise; use
    a path (`BrownianPath`) if runs on several grids must follow the same Brownian motion. torch's
    CPU generator uses 32 bits of a seed, so among a million draws about a hundred pairs coincide,
    at unrelated samples and times.

    Args:
        seed: an integer in [0, 2**63).
        first: the number of the first row's sample.
        segment: the number of the grid's segment.
        name: the name of the stream, a key of `STREAMS`.

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
        # nodes of tensors have a graph, which must not be kept as a key
        times = (t.item() if isinstance(t, Tensor) else t for t in (now.t, nxt.t))
        number = key(self.seed, self.name, self.segment, *times)
        return normals(number, self.first, like)

    def draw(self, like: Tensor, *number: int, at: float = 0.0) -> Tensor:
        return normals(key(self.seed, self.name, self.segment, at, at, *number), self.first, like)

    def seed_of(self, *number: int) -> int:
        """The seed of a draw of this stream, for functions that take a seed."""
        return key(self.seed, self.name, self.segment, 0.0, 0.0, *number) >> 1

    def on_segment(self, segment: int) -> Independent:
        return replace(self, segment=segment)

    def from_sample(self, first: int) -> Independent:
        return replace(self, first=first)

    def stream(self, name: str) -> Independent:
        return replace(self, name=name)
