"""Models of other libraries as score models, and score models as theirs."""

from scoresde.adapters.azula import from_azula, to_azula
from scoresde.adapters.chains import chain_of, from_guided_diffusion
from scoresde.adapters.deepinv import from_deepinv, to_deepinv
from scoresde.adapters.denoiser import from_denoiser, from_edm
from scoresde.adapters.diffusers import DiffusersUNet, from_diffusers
from scoresde.adapters.functions import from_flow_matching, from_function, from_torchcfm
from scoresde.adapters.network import Called
from scoresde.adapters.outward import to_denoiser, to_velocity
from scoresde.adapters.pipeline import load_diffusers
from scoresde.adapters.sbi import OffsetFlowSDE, from_sbi, to_sbi
from scoresde.adapters.schedule import ScheduleSDE
from scoresde.adapters.scheduler import DiffusersScheduler, to_diffusers
from scoresde.adapters.score_sde import from_score_sde, load_score_sde

__all__ = [
    "Called",
    "DiffusersScheduler",
    "DiffusersUNet",
    "OffsetFlowSDE",
    "ScheduleSDE",
    "chain_of",
    "from_azula",
    "from_deepinv",
    "from_denoiser",
    "from_diffusers",
    "from_edm",
    "from_flow_matching",
    "from_function",
    "from_guided_diffusion",
    "from_sbi",
    "from_score_sde",
    "from_torchcfm",
    "load_diffusers",
    "load_score_sde",
    "to_azula",
    "to_deepinv",
    "to_denoiser",
    "to_diffusers",
    "to_sbi",
    "to_velocity",
]
