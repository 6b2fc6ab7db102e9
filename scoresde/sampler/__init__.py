"""Sampling: the reverse process from the prior to the data, and the forward process."""

from typing import TYPE_CHECKING, Any

from scoresde.sampler.latent import Latent, decode, encode, slerp
from scoresde.sampler.plan import resolve
from scoresde.sampler.reverse import ReverseSampler
from scoresde.sampler.simulate import simulate

if TYPE_CHECKING:
    from scoresde.sampler.shards import ShardFiles, Shards, sample_to

__all__ = [
    "Latent",
    "ReverseSampler",
    "ShardFiles",
    "Shards",
    "decode",
    "encode",
    "resolve",
    "sample_to",
    "simulate",
    "slerp",
]


def __getattr__(name: str) -> Any:
    """Import the names of `shards` at their first use; the module loads the readers of data."""
    if name not in ("ShardFiles", "Shards", "sample_to"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scoresde.sampler import shards

    return getattr(shards, name)
