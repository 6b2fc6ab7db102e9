"""Data in model units: the container, the embedded digits and the two-dimensional toys."""

from scoresde.data.base import Data
from scoresde.data.digits import digits
from scoresde.data.toys import (
    TOYS,
    MixtureParameters,
    checkerboard,
    eight_gaussians,
    eight_gaussians_parameters,
    moons,
    swiss_roll,
    toy,
)

__all__ = [
    "TOYS",
    "Data",
    "MixtureParameters",
    "checkerboard",
    "digits",
    "eight_gaussians",
    "eight_gaussians_parameters",
    "moons",
    "swiss_roll",
    "toy",
]
