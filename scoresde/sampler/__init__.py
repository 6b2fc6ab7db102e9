"""Sampling: the reverse process from the prior to the data, and the forward process."""

from scoresde.sampler.forward import simulate
from scoresde.sampler.latent import Latent, decode, encode, slerp
from scoresde.sampler.names import SOLVERS
from scoresde.sampler.reverse import ReverseSampler
from scoresde.sampler.shards import Shards, sample_to

__all__ = [
    "SOLVERS",
    "Latent",
    "ReverseSampler",
    "Shards",
    "decode",
    "encode",
    "sample_to",
    "simulate",
    "slerp",
]
