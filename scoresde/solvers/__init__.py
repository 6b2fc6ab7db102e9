"""Solvers: schemes that integrate a process on a grid."""

from scoresde.solvers.adaptive import AdaptiveODE, AdaptiveSDE
from scoresde.solvers.base import (
    Orders,
    Plan,
    Solution,
    Solver,
    Unfinished,
    UnfinishedWarning,
)
from scoresde.solvers.dpm_v3 import DPMSolverV3, Statistics
from scoresde.solvers.euler import EulerMaruyama, ReverseDiffusion
from scoresde.solvers.exponential import Adams, LearnedAdams
from scoresde.solvers.external import SciPySolver, TorchSDESolver
from scoresde.solvers.heun import Heun
from scoresde.solvers.langevin import Corrector, Langevin, PredictorCorrector
from scoresde.solvers.registry import SOLVERS
from scoresde.solvers.singlestep import Singlestep
from scoresde.solvers.sra import SRA1, OneCallSRA, ShARK
from scoresde.solvers.step import StepSolver

__all__ = [
    "SOLVERS",
    "SRA1",
    "Adams",
    "AdaptiveODE",
    "AdaptiveSDE",
    "Corrector",
    "DPMSolverV3",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "LearnedAdams",
    "OneCallSRA",
    "Orders",
    "Plan",
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
]
