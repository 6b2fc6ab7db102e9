"""Measurements: operators, noises and likelihoods of inverse problems."""

from scoresde.measurement.base import Composition, LinearOperator, check_adjoint
from scoresde.measurement.denoised import Denoised
from scoresde.measurement.measurement import Measurement
from scoresde.measurement.noises import GaussianNoise, LogLikelihood, PoissonNoise
from scoresde.measurement.simple import Identity, Mask, Matrix, dense
from scoresde.measurement.users import Linear

__all__ = [
    "Measurement",
    "LinearOperator",
    "Composition",
    "Denoised",
    "Identity",
    "Linear",
    "Mask",
    "Matrix",
    "GaussianNoise",
    "LogLikelihood",
    "PoissonNoise",
    "check_adjoint",
    "dense",
]
