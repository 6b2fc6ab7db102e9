"""Solvers: schemes that walk a process along a grid."""

from scoresde.solvers.backends import SciPySolver, TorchSDESolver
from scoresde.solvers.base import (
    Corrector,
    Orders,
    Solution,
    Solver,
    StepSolver,
    Unfinished,
    UnfinishedWarning,
)
from scoresde.solvers.bridged import AdaptiveSDE
from scoresde.solvers.calibrate import calibrate
from scoresde.solvers.calibration import Calibration
from scoresde.solvers.deterministic import Heun
from scoresde.solvers.dpm_v3 import DPMSolverV3
from scoresde.solvers.embedded import AdaptiveODE
from scoresde.solvers.exponential import Adams
from scoresde.solvers.langevin import Langevin, PredictorCorrector
from scoresde.solvers.singlestep import SRA1, OneCallSRA, ShARK, Singlestep
from scoresde.solvers.statistics import Statistics
from scoresde.solvers.stochastic import EulerMaruyama, ReverseDiffusion

__all__ = [
    "SRA1",
    "Adams",
    "AdaptiveODE",
    "AdaptiveSDE",
    "Calibration",
    "Corrector",
    "DPMSolverV3",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "OneCallSRA",
    "Orders",
    "PredictorCorrector",
    "ReverseDiffusion",
    "SciPySolver",
    "ShARK",
    "Singlestep",
    "Solution",
    "Solver",
    "Statistics",
    "StepSolver",
    "TorchSDESolver",
    "Unfinished",
    "UnfinishedWarning",
    "calibrate",
]
