"""Measurements: operators, noises and likelihoods of inverse problems."""

from scoresde.measurement.base import Composition, LinearOperator, check_adjoint
from scoresde.measurement.denoised import Denoised
from scoresde.measurement.measurement import Measurement
from scoresde.measurement.noises import GaussianNoise, LogLikelihood, PoissonNoise
from scoresde.measurement.radon import Radon
from scoresde.measurement.simple import Identity, Mask, Matrix, dense
from scoresde.measurement.spectral import Blur, Fourier, SuperResolution, gaussian_kernel
from scoresde.measurement.users import Linear

__all__ = [
    "Measurement",
    "LinearOperator",
    "Blur",
    "Composition",
    "Denoised",
    "Fourier",
    "Identity",
    "Linear",
    "Mask",
    "Matrix",
    "Radon",
    "SuperResolution",
    "GaussianNoise",
    "LogLikelihood",
    "PoissonNoise",
    "check_adjoint",
    "dense",
    "gaussian_kernel",
]
