"""Posteriors: p(x_0 | y) for measurements y, by score models for any solver, or in one call."""

from scoresde.posterior.base import PosteriorModel
from scoresde.posterior.daps import DAPS
from scoresde.posterior.ddnm import DDNM
from scoresde.posterior.ddrm import DDRM
from scoresde.posterior.dps import DPS
from scoresde.posterior.exact import ExactPosterior
from scoresde.posterior.gaussian import MMPS, TMPD, PiGDM
from scoresde.posterior.repaint import RePaint
from scoresde.posterior.sample import PosteriorSamples, posterior

__all__ = [
    "posterior",
    "PosteriorSamples",
    "DPS",
    "PiGDM",
    "MMPS",
    "TMPD",
    "DDRM",
    "DDNM",
    "RePaint",
    "DAPS",
    "ExactPosterior",
    "PosteriorModel",
]
