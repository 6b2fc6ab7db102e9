"""Score-based generative modelling in continuous time: SDEs, score models, solvers."""

from scoresde.analytic import Empirical, Gaussian, GaussianMixture
from scoresde.contract import DataContract
from scoresde.grid import Grid, churn, restart
from scoresde.losses import ImportanceTime, LogNormalTime, UniformTime, dsm_loss
from scoresde.model import AnalyticStart, FunctionScore, Preconditioned, ScoreModel
from scoresde.node import Node
from scoresde.noise import Independent, Noise, PathOnGrid
from scoresde.prediction import Prediction
from scoresde.process import ExtendedReverse, ForwardSDE, ReverseSDE
from scoresde.sampler import ReverseSampler, simulate
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    LinearSDE,
    SubVPSDE,
)
from scoresde.solvers import (
    SRA1,
    Adams,
    Corrector,
    EulerMaruyama,
    Heun,
    Langevin,
    OneCallSRA,
    Orders,
    PredictorCorrector,
    ReverseDiffusion,
    SciPySolver,
    ShARK,
    Singlestep,
    Solution,
    Solver,
    StepSolver,
    TorchSDESolver,
)
from scoresde.training import EMA, Trainer, load, save

__all__ = [
    "EDMSDE",
    "EMA",
    "SDE",
    "SRA1",
    "VESDE",
    "VPSDE",
    "Adams",
    "AffineSDE",
    "AnalyticStart",
    "Corrector",
    "CosineSDE",
    "DataContract",
    "Empirical",
    "EulerMaruyama",
    "ExtendedReverse",
    "FlowSDE",
    "ForwardSDE",
    "FunctionScore",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "Heun",
    "ImportanceTime",
    "Independent",
    "Langevin",
    "LinearSDE",
    "LogNormalTime",
    "Node",
    "OneCallSRA",
    "Noise",
    "Orders",
    "PathOnGrid",
    "Preconditioned",
    "Prediction",
    "PredictorCorrector",
    "ReverseDiffusion",
    "ReverseSDE",
    "ReverseSampler",
    "SciPySolver",
    "ShARK",
    "Singlestep",
    "ScoreModel",
    "Solution",
    "Solver",
    "StepSolver",
    "SubVPSDE",
    "TorchSDESolver",
    "Trainer",
    "UniformTime",
    "churn",
    "dsm_loss",
    "load",
    "restart",
    "save",
    "simulate",
]
__version__ = "0.1.0"
