"""Score-based generative modelling in continuous time: SDEs, score models, solvers."""

from scoresde.analytic import Empirical, Gaussian, GaussianMixture
from scoresde.bound import Bound, elbo
from scoresde.contract import DataContract
from scoresde.ddpm import DDPM, ChainSDE, ChainTime
from scoresde.fokker_planck import Density, FokkerPlanck, score_fpe_residual
from scoresde.grid import Grid, churn, restart
from scoresde.losses import ImportanceTime, LogNormalTime, UniformTime, dsm_loss
from scoresde.model import AnalyticStart, FunctionScore, Preconditioned, ScoreModel
from scoresde.node import Node
from scoresde.noise import BrownianPath, Independent, Noise, PathOnGrid
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
    DPMSolverV3,
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
    Statistics,
    StepSolver,
    TorchSDESolver,
)
from scoresde.training import EMA, Trainer, load, save

__all__ = [
    "DDPM",
    "EDMSDE",
    "EMA",
    "SDE",
    "SRA1",
    "VESDE",
    "VPSDE",
    "Adams",
    "AffineSDE",
    "AnalyticStart",
    "Bound",
    "BrownianPath",
    "ChainSDE",
    "ChainTime",
    "Corrector",
    "CosineSDE",
    "DPMSolverV3",
    "DataContract",
    "Density",
    "Empirical",
    "EulerMaruyama",
    "ExtendedReverse",
    "FlowSDE",
    "FokkerPlanck",
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
    "Statistics",
    "StepSolver",
    "SubVPSDE",
    "TorchSDESolver",
    "Trainer",
    "UniformTime",
    "churn",
    "dsm_loss",
    "elbo",
    "load",
    "restart",
    "save",
    "score_fpe_residual",
    "simulate",
]
__version__ = "0.1.0"
