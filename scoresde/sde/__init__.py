"""Stochastic differential equations that turn data into noise: dx = f(t, x) dt + g(t) dw."""

from scoresde.sde.base import SDE, AffineSDE, FunctionSDE, as_affine
from scoresde.sde.families import EDMSDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE
from scoresde.sde.fingerprint import check_same_sde, fingerprint, same_schedule, same_sde
from scoresde.sde.linear import LinearSDE

__all__ = [
    "EDMSDE",
    "SDE",
    "SDES",
    "VESDE",
    "VPSDE",
    "AffineSDE",
    "CosineSDE",
    "FlowSDE",
    "FunctionSDE",
    "LinearSDE",
    "SubVPSDE",
    "as_affine",
    "check_same_sde",
    "fingerprint",
    "same_schedule",
    "same_sde",
]

SDES: dict[str, type[AffineSDE]] = {
    "vp": VPSDE,
    "sub_vp": SubVPSDE,
    "ve": VESDE,
    "cosine": CosineSDE,
    "edm": EDMSDE,
    "flow": FlowSDE,
}
"""Name -> family, a dataclass of numbers, which checkpoints and the command line build by name."""
