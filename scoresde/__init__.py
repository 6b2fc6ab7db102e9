"""Score-based generative modelling in continuous time: SDEs, score models, solvers."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scoresde.analytic import Empirical, Gaussian, GaussianMixture
    from scoresde.bound import Bound, elbo
    from scoresde.comparison import Comparison, compare
    from scoresde.contract import DataContract
    from scoresde.ddpm import DDPM, ChainSDE, ChainTime
    from scoresde.diagnose import TransportGap, transport_gap
    from scoresde.export import Exported, export_onnx, export_program
    from scoresde.fokker_planck import Density, FokkerPlanck, score_fpe_residual
    from scoresde.grid import Grid, churn, restart
    from scoresde.likelihood import (
        DiscreteLogLikelihood,
        LogLikelihood,
        discrete_log_prob,
        log_prob,
    )
    from scoresde.losses import (
        ImportanceTime,
        LogNormalTime,
        LossTime,
        UniformTime,
        dsm_loss,
    )
    from scoresde.model import AnalyticStart, FunctionScore, Preconditioned, ScoreModel
    from scoresde.node import Node
    from scoresde.noise import BrownianPath, Independent, Noise, PathOnGrid
    from scoresde.prediction import Prediction
    from scoresde.process import ExtendedReverse, ForwardSDE, ReverseSDE
    from scoresde.sampler import (
        Latent,
        ReverseSampler,
        Shards,
        decode,
        encode,
        sample_to,
        simulate,
        slerp,
    )
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
    from scoresde.training import EMA, PowerEMA, Trainer, load, load_calibration, posthoc_ema, save

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
    "Comparison",
    "Corrector",
    "CosineSDE",
    "DPMSolverV3",
    "DataContract",
    "Density",
    "DiscreteLogLikelihood",
    "Empirical",
    "EulerMaruyama",
    "Exported",
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
    "LossTime",
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
    "Shards",
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
    "compare",
    "decode",
    "discrete_log_prob",
    "dsm_loss",
    "elbo",
    "encode",
    "export_onnx",
    "export_program",
    "load",
    "load_calibration",
    "log_prob",
    "posthoc_ema",
    "restart",
    "sample_to",
    "save",
    "score_fpe_residual",
    "simulate",
    "slerp",
    "transport_gap",
]
__version__ = "0.1.0"

_NAMES = {
    "analytic": "Empirical Gaussian GaussianMixture",
    "bound": "Bound elbo",
    "comparison": "Comparison compare",
    "contract": "DataContract",
    "ddpm": "ChainSDE ChainTime DDPM",
    "diagnose": "TransportGap transport_gap",
    "export": "Exported export_onnx export_program",
    "fokker_planck": "Density FokkerPlanck score_fpe_residual",
    "grid": "Grid churn restart",
    "likelihood": "DiscreteLogLikelihood LogLikelihood discrete_log_prob log_prob",
    "losses": "ImportanceTime LogNormalTime LossTime UniformTime dsm_loss",
    "model": "AnalyticStart FunctionScore Preconditioned ScoreModel",
    "node": "Node",
    "noise": "BrownianPath Independent Noise PathOnGrid",
    "prediction": "Prediction",
    "process": "ExtendedReverse ForwardSDE ReverseSDE",
    "sampler": "Latent ReverseSampler Shards decode encode sample_to simulate slerp",
    "sde": "AffineSDE CosineSDE EDMSDE FlowSDE LinearSDE SDE SubVPSDE VESDE VPSDE",
    "solvers": (
        "Adams AdaptiveODE AdaptiveSDE Calibration Corrector DPMSolverV3 EulerMaruyama Heun "
        "Langevin OneCallSRA Orders PredictorCorrector ReverseDiffusion SRA1 SciPySolver "
        "ShARK Singlestep Solution Solver Statistics StepSolver TorchSDESolver calibrate"
    ),
    "training": "EMA PowerEMA Trainer load load_calibration posthoc_ema save",
}
"""Module -> the names that it gives to the package."""

_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
"""Name -> the module it is imported from at its first use, so that `import scoresde` is quick."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
