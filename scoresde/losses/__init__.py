"""Denoising score matching: the loss, its weightings and the sampling of times."""

from scoresde.losses.dsm import dsm_loss
from scoresde.losses.times import (
    LEAST_NOISE,
    TIME,
    TIMES,
    BoundTime,
    ImportanceTime,
    LogNormalTime,
    LossTime,
    TimeSampler,
    UniformTime,
)
from scoresde.losses.weightings import WEIGHTING, WEIGHTINGS

__all__ = [
    "LEAST_NOISE",
    "TIME",
    "TIMES",
    "WEIGHTING",
    "WEIGHTINGS",
    "BoundTime",
    "ImportanceTime",
    "LogNormalTime",
    "LossTime",
    "TimeSampler",
    "UniformTime",
    "dsm_loss",
]
