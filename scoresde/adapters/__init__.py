"""Models of other libraries as score models, and score models as theirs."""

from scoresde.adapters.chains import chain_of, from_guided_diffusion
from scoresde.adapters.diffusers import DiffusersUNet, from_diffusers
from scoresde.adapters.network import Called
from scoresde.adapters.pipeline import load_diffusers

__all__ = [
    "Called",
    "DiffusersUNet",
    "chain_of",
    "from_diffusers",
    "from_guided_diffusion",
    "load_diffusers",
]
