"""Posterior score models: p(x_0 | y) for measurements y, with any solver."""

from scoresde.posterior.base import PosteriorModel
from scoresde.posterior.daps import DAPS
from scoresde.posterior.ddnm import DDNM
from scoresde.posterior.ddrm import DDRM
from scoresde.posterior.dps import DPS
from scoresde.posterior.exact import ExactPosterior
from scoresde.posterior.gaussian import MMPS, TMPD, PiGDM
from scoresde.posterior.repaint import RePaint

__all__ = [
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
