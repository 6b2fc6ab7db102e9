"""Reproducible noise: a pure function of (seed, sample, segment, interval, stage)."""

from scoresde.noise.base import PRIOR, RENOISE, Independent, Noise
from scoresde.noise.grid import PathOnGrid
from scoresde.noise.path import BrownianPath

__all__ = ["PRIOR", "RENOISE", "BrownianPath", "Independent", "Noise", "PathOnGrid"]
