"""Score-based generative modelling in continuous time: SDEs, score models, solvers.

The names below are what most programs need. All else is imported from its room:
`scoresde.solvers.ShARK`, `scoresde.noise.BrownianPath`, `scoresde.schedule.restart`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scoresde.calibration import calibrate as calibrate
    from scoresde.comparison import compare as compare
    from scoresde.ddpm import DDPM as DDPM
    from scoresde.fokker_planck import FokkerPlanck as FokkerPlanck
    from scoresde.guidance import ClassifierFree as ClassifierFree
    from scoresde.likelihood import discrete_log_prob as discrete_log_prob
    from scoresde.likelihood import elbo as elbo
    from scoresde.likelihood import log_prob as log_prob
    from scoresde.losses import dsm_loss as dsm_loss
    from scoresde.measurement import Measurement as Measurement
    from scoresde.model import FunctionScore as FunctionScore
    from scoresde.model import Preconditioned as Preconditioned
    from scoresde.model import ScoreModel as ScoreModel
    from scoresde.oracles import Empirical as Empirical
    from scoresde.oracles import Gaussian as Gaussian
    from scoresde.oracles import GaussianMixture as GaussianMixture
    from scoresde.process import ReverseSDE as ReverseSDE
    from scoresde.quantisation import Quantisation as Quantisation
    from scoresde.sampler import ReverseSampler as ReverseSampler
    from scoresde.sampler import decode as decode
    from scoresde.sampler import encode as encode
    from scoresde.sampler import sample_to as sample_to
    from scoresde.sampler import simulate as simulate
    from scoresde.schedule import Grid as Grid
    from scoresde.sde import EDMSDE as EDMSDE
    from scoresde.sde import SDE as SDE
    from scoresde.sde import VESDE as VESDE
    from scoresde.sde import VPSDE as VPSDE
    from scoresde.sde import AffineSDE as AffineSDE
    from scoresde.sde import CosineSDE as CosineSDE
    from scoresde.sde import FlowSDE as FlowSDE
    from scoresde.sde import LinearSDE as LinearSDE
    from scoresde.sde import SubVPSDE as SubVPSDE
    from scoresde.smc import TwistedSampler as TwistedSampler
    from scoresde.solvers import Adams as Adams
    from scoresde.solvers import AdaptiveODE as AdaptiveODE
    from scoresde.solvers import AdaptiveSDE as AdaptiveSDE
    from scoresde.solvers import EulerMaruyama as EulerMaruyama
    from scoresde.solvers import Heun as Heun
    from scoresde.solvers import Solution as Solution
    from scoresde.training import EMA as EMA
    from scoresde.training import Trainer as Trainer
    from scoresde.training import load as load
    from scoresde.training import posthoc_ema as posthoc_ema
    from scoresde.training import save as save

__version__ = "0.1.0"

_ROOMS = {
    "calibration": "calibrate",
    "comparison": "compare",
    "ddpm": "DDPM",
    "fokker_planck": "FokkerPlanck",
    "guidance": "ClassifierFree",
    "likelihood": "discrete_log_prob elbo log_prob",
    "losses": "dsm_loss",
    "measurement": "Measurement",
    "model": "FunctionScore Preconditioned ScoreModel",
    "oracles": "Empirical Gaussian GaussianMixture",
    "process": "ReverseSDE",
    "quantisation": "Quantisation",
    "sampler": "ReverseSampler decode encode sample_to simulate",
    "schedule": "Grid",
    "sde": "AffineSDE CosineSDE EDMSDE FlowSDE LinearSDE SDE SubVPSDE VESDE VPSDE",
    "smc": "TwistedSampler",
    "solvers": "Adams AdaptiveODE AdaptiveSDE EulerMaruyama Heun Solution",
    "training": "EMA Trainer load posthoc_ema save",
}
"""Room -> the names that it gives to the top level; those imported above for type checkers."""

_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}
"""Name -> the room it is imported from at its first use, so that `import scoresde` is quick."""

__all__ = sorted(_HOME)


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
