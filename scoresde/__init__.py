"""Score-based generative modelling in continuous time: SDEs, score models, solvers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scoresde.analytic import Empirical, Gaussian, GaussianMixture
from scoresde.contract import DataContract
from scoresde.grid import Grid, churn, restart
from scoresde.losses import ImportanceTime, LogNormalTime, UniformTime, dsm_loss
from scoresde.model import AnalyticStart, FunctionScore, Preconditioned, ScoreModel
from scoresde.node import Node
from scoresde.noise import BrownianPath, Independent, Noise, PathOnGrid
from scoresde.prediction import Prediction
from scoresde.process import ExtendedReverse, ForwardSDE, ReverseSDE
from scoresde.sampler import Latent, ReverseSampler, decode, encode, simulate, slerp
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
    AdaptiveODE,
    AdaptiveSDE,
    Calibration,
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
    calibrate,
)

if TYPE_CHECKING:
    from scoresde.bound import Bound, elbo
    from scoresde.ddpm import DDPM, ChainSDE, ChainTime
    from scoresde.diagnose import TransportGap, transport_gap
    from scoresde.fokker_planck import Density, FokkerPlanck, score_fpe_residual
    from scoresde.likelihood import (
        DiscreteLogLikelihood,
        LogLikelihood,
        discrete_log_prob,
        log_prob,
    )
    from scoresde.training import (
        EMA,
        PowerEMA,
        Trainer,
        load,
        load_calibration,
        posthoc_ema,
        save,
    )

__all__ = [
    "DDPM",
    "EDMSDE",
    "EMA",
    "SDE",
    "SRA1",
    "VESDE",
    "VPSDE",
    "Adams",
    "AdaptiveODE",
    "AdaptiveSDE",
    "AffineSDE",
    "AnalyticStart",
    "Bound",
    "BrownianPath",
    "Calibration",
    "ChainSDE",
    "ChainTime",
    "Corrector",
    "CosineSDE",
    "DPMSolverV3",
    "DataContract",
    "Density",
    "DiscreteLogLikelihood",
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
    "Latent",
    "LinearSDE",
    "LogLikelihood",
    "LogNormalTime",
    "Node",
    "OneCallSRA",
    "Noise",
    "Orders",
    "PathOnGrid",
    "Preconditioned",
    "Prediction",
    "PowerEMA",
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
    "TransportGap",
    "UniformTime",
    "calibrate",
    "churn",
    "decode",
    "discrete_log_prob",
    "dsm_loss",
    "elbo",
    "encode",
    "load",
    "load_calibration",
    "log_prob",
    "posthoc_ema",
    "restart",
    "save",
    "score_fpe_residual",
    "simulate",
    "slerp",
    "transport_gap",
]
__version__ = "0.1.0"

_LATER = {
    "DiscreteLogLikelihood": "scoresde.likelihood",
    "LogLikelihood": "scoresde.likelihood",
    "discrete_log_prob": "scoresde.likelihood",
    "log_prob": "scoresde.likelihood",
    "PowerEMA": "scoresde.training",
    "posthoc_ema": "scoresde.training",
    "TransportGap": "scoresde.diagnose",
    "transport_gap": "scoresde.diagnose",
    "Bound": "scoresde.bound",
    "ChainSDE": "scoresde.ddpm",
    "ChainTime": "scoresde.ddpm",
    "DDPM": "scoresde.ddpm",
    "Density": "scoresde.fokker_planck",
    "EMA": "scoresde.training",
    "FokkerPlanck": "scoresde.fokker_planck",
    "Trainer": "scoresde.training",
    "elbo": "scoresde.bound",
    "load": "scoresde.training",
    "load_calibration": "scoresde.training",
    "save": "scoresde.training",
    "score_fpe_residual": "scoresde.fokker_planck",
}
"""Applications, imported at their first use, so that `import scoresde` stays quick."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
