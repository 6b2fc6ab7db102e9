"""The discrete chain of DDPM: closed forms, sampling and the variational bound, term by term."""

from scoresde.ddpm.chain import DDPM
from scoresde.ddpm.decoder import DECODERS, discretized_gaussian, squared_error
from scoresde.ddpm.schedule import ChainSDE, ChainTime
from scoresde.ddpm.terms import BoundTerms

__all__ = [
    "DDPM",
    "DECODERS",
    "BoundTerms",
    "ChainSDE",
    "ChainTime",
    "discretized_gaussian",
    "squared_error",
]
