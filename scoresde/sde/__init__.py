"""Stochastic differential equations that turn data into noise: dx = f(t, x) dt + g(t) dw."""

from scoresde.sde.base import SDE, AffineSDE, FunctionSDE
from scoresde.sde.families import EDMSDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE
from scoresde.sde.fingerprint import fingerprint, same_schedule, same_sde
from scoresde.sde.linear import LinearSDE

__all__ = [
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "AffineSDE",
    "CosineSDE",
    "FlowSDE",
    "FunctionSDE",
    "LinearSDE",
    "SubVPSDE",
    "fingerprint",
    "same_schedule",
    "same_sde",
]
