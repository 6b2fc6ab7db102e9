"""What a run draws and in which order: functions of a seed and the number of a batch."""

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

__all__ = ["Stream", "digest", "own_randomness", "seed_global", "take"]


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
            order = _permutation(self.samples, self._key("order", epoch))
            parts.append(order[start : start + stop - first])
            first += len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def key(self, number: int) -> int:
        """A seed for batch number `number`."""
        return self._key("noise", number)

    def generator(self, number: int) -> torch.Generator:
        """The generator from which the loss of batch number `number` draws."""
        return torch.Generator("cpu").manual_seed(self.key(number))

    def _key(self, purpose: str, number: int) -> int:
        # torch's CPU generator keeps 32 bits, so hashes of all numbers would collide: count on.
        digest = hashlib.blake2b(f"{purpose} {self.seed}".encode(), digest_size=4).digest()
        return (int.from_bytes(digest, "little") + number) % 2**32


@lru_cache(maxsize=2)
def _permutation(samples: int, key: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(key)
    return torch.randperm(samples, generator=generator, device="cpu")


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generators: leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_global(device: torch.device, key: int) -> None:
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(key)


def take(value: Any, rows: Tensor, device: torch.device) -> Tensor:
    """The rows of a tensor, or of data that are read when needed, on a device."""
    part: Tensor = value[rows.to(value.device) if isinstance(value, Tensor) else rows]
    return part.to(device, non_blocking=True)


def digest(data: Data | LazyData) -> str:
    """A checksum of some 256 rows spread over the data, to tell other data apart."""
    rows = torch.arange(0, len(data), max(1, len(data) // 256))
    total = 0
    for name, value in (("x", data.x), *sorted(data.cond.items())):
        part = take(value, rows, torch.device("cpu")).detach().contiguous()
        content: bytes = part.flatten().view(torch.uint8).numpy().tobytes()
        total = zlib.crc32(name.encode() + content, total)
    return f"{total:08x}"
