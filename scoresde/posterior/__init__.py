"""Posterior score models: p(x_0 | y) for measurements y, with any solver."""

from scoresde.posterior.base import PosteriorModel
from scoresde.posterior.dps import DPS
from scoresde.posterior.exact import ExactPosterior
from scoresde.posterior.gaussian import MMPS, TMPD, PiGDM

__all__ = ["DPS", "PiGDM", "MMPS", "TMPD", "ExactPosterior", "PosteriorModel"]
