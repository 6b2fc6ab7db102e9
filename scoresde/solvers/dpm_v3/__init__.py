"""DPM-Solver-v3: a multistep solver fitted to the statistics of one model."""

from scoresde.solvers.dpm_v3.solver import DPMSolverV3
from scoresde.solvers.dpm_v3.statistics import Statistics

__all__ = ["DPMSolverV3", "Statistics"]
