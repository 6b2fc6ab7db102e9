"""Likelihoods along the probability flow, each with its error budget."""

from scoresde.likelihood.bound import Bound, elbo, t_end_of
from scoresde.likelihood.density import TRUNCATIONS, log_prob
from scoresde.likelihood.discrete import DEQUANTISERS, DiscreteLogLikelihood, discrete_log_prob
from scoresde.likelihood.result import LogLikelihood
from scoresde.options import DIVERGENCES, PROBES, Divergence, Tolerances

__all__ = [
    "DEQUANTISERS",
    "DIVERGENCES",
    "PROBES",
    "TRUNCATIONS",
    "Bound",
    "DiscreteLogLikelihood",
    "Divergence",
    "LogLikelihood",
    "Tolerances",
    "discrete_log_prob",
    "elbo",
    "log_prob",
    "t_end_of",
]
