"""Sequential Monte Carlo: posteriors and evidences that are exact as particles grow in number."""

from scoresde.smc.particles import Particles
from scoresde.smc.twisted import CollapsedWeights, TwistedSampler

__all__ = ["TwistedSampler", "Particles", "CollapsedWeights"]
