"""Reproducible noise: a pure function of seed, stream, sample, and interval or counter."""

from scoresde.noise.base import Independent, Noise
from scoresde.noise.grid import PathOnGrid
from scoresde.noise.path import BrownianPath
from scoresde.noise.streams import SCHEME, STREAMS

__all__ = ["SCHEME", "STREAMS", "BrownianPath", "Independent", "Noise", "PathOnGrid"]
