"""Calibration: the solver and grid of a given number of steps that suit one model best."""

from scoresde.calibration.result import Calibration
from scoresde.calibration.search import calibrate

__all__ = ["Calibration", "calibrate"]
