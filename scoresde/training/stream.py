"""The order of the data and the seeds of a run, as functions of a batch's number."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor

from scoresde.data.base import Data, LazyData

__all__ = ["LARGEST", "Stream", "digest", "own_randomness", "scattered", "seed_global", "take"]

LARGEST = 2**22
"""Up to this number of samples the order of an epoch is stored, in 32 MiB."""


@final
class Stream:
    """The order of the data and the randomness of the loss, as functions of a batch's number."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed

    def rows(self, number: int) -> Tensor:
        """The rows of the data in batch number `number`, (batch_size,)."""
        first = number * self.batch_size
        stop = first + self.batch_size
        parts = []
        while first < stop:
            epoch, start = divmod(first, self.samples)
            end = min(self.samples, start + stop - first)
            parts.append(_in_order(self.samples, self._key("order", epoch), start, end))
            first += len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def key(self, number: int) -> int:
        """A seed for batch number `number`."""
        return self._key("noise", number)

    def generator(self, number: int) -> torch.Generator:
        """The generator of the loss of batch number `number`."""
        return torch.Generator("cpu").manual_seed(self.key(number))

    def _key(self, purpose: str, number: int) -> int:
        # torch's CPU generator uses 32 bits, in which hashes of all numbers would collide. So
        # purpose and seed are hashed once, and the number is added.
        digest = hashlib.blake2b(f"{purpose} {self.seed}".encode(), digest_size=4).digest()
        return (int.from_bytes(digest, "little") + number) % 2**32


def _in_order(samples: int, key: int, start: int, end: int) -> Tensor:
    """Entries start ... end - 1 of a permutation of the samples."""
    if samples <= LARGEST:
        return _permutation(samples, key)[start:end]
    return scattered(torch.arange(start, end, device="cpu"), samples, key)


def scattered(places: Tensor, samples: int, key: int) -> Tensor:
    """Entries of a permutation of 0 ... samples - 1 that is computed without storing it.

    A Feistel network of six rounds on numbers of 2 h bits is a permutation for any round
    function. Results beyond the last sample are passed through it again until they are in range.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), sections 3 and 5;
    the round function is the 32-bit finaliser of MurmurHash3 (Appleby, public domain).
    """
    half = ((samples - 1).bit_length() + 1) // 2
    low = (1 << half) - 1
    rows = places.clone()
    beyond = torch.ones_like(places, dtype=torch.bool)
    while beyond.any():
        left, right = rows[beyond] >> half, rows[beyond] & low
        for turn in range(6):
            left, right = right, left ^ (_mixed(right, key + 0x9E3779B9 * turn) & low)
        rows[beyond] = (left << half) | right
        beyond = rows >= samples
    return rows


def _mixed(value: Tensor, key: int) -> Tensor:
    mixed = (value * 0x9E3779B1 + key) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * factor & 0xFFFFFFFF
    return mixed ^ (mixed >> 16)


@lru_cache(maxsize=2)
def _permutation(samples: int, key: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(key)
    return torch.randperm(samples, generator=generator, device="cpu")


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Restore the global generators, which dropout uses, at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_global(device: torch.device, key: int) -> None:
    """Seed the global generators of the CPU and, if it is a CUDA device, of the device."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)


def take(value: Any, rows: Tensor, device: torch.device) -> Tensor:  # a tensor, or lazy rows
    """Rows of a tensor or of lazy data, on a device."""
    part: Tensor = value[rows.to(value.device) if isinstance(value, Tensor) else rows]
    return part.to(device, non_blocking=True)


def digest(data: Data | LazyData) -> str:
    """A checksum of about 256 rows spread over the data, to detect other data."""
    rows = torch.arange(0, len(data), max(1, len(data) // 256), device="cpu")
    total = 0
    for name, value in (("x", data.x), *sorted(data.cond.items())):
        part = take(value, rows, torch.device("cpu")).detach().contiguous()
        content: bytes = part.flatten().view(torch.uint8).numpy().tobytes()
        total = zlib.crc32(name.encode() + content, total)
    return f"{total:08x}"
