"""Sequential Monte Carlo: posteriors and evidences that are exact as particles grow in number."""

from scoresde.smc.corrected import CorrectedGuidance
from scoresde.smc.importance import Importance, flow_samples, reweight
from scoresde.smc.particles import CollapsedWeights, Particles
from scoresde.smc.tails import pareto_shape
from scoresde.smc.twisted import TwistedSampler

__all__ = [
    "TwistedSampler",
    "CorrectedGuidance",
    "Particles",
    "Importance",
    "reweight",
    "flow_samples",
    "pareto_shape",
    "CollapsedWeights",
]
