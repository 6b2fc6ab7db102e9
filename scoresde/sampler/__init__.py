"""Sampling: the reverse process from the prior to the data, and the forward process."""

from scoresde.sampler.forward import simulate
from scoresde.sampler.latent import Latent, decode, encode, slerp
from scoresde.sampler.names import SOLVERS
from scoresde.sampler.reverse import ReverseSampler

__all__ = ["SOLVERS", "Latent", "ReverseSampler", "decode", "encode", "simulate", "slerp"]
