"""Every SDE that the tests range over, and the times at which they look at it."""

import math

import torch
from torch import Tensor

from scoresde.sde import (
    EDMSDE,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    LinearSDE,
    SubVPSDE,
)

FAMILIES: dict[str, AffineSDE] = {
    "vp": VPSDE(),
    "vp_short": VPSDE(0.01, 10.0),
    "vp_constant": VPSDE(7.0, 7.0),
    "subvp": SubVPSDE(),
    "subvp_slow": SubVPSDE(1.0, 5.0),
    "ve": VESDE(),
    "ve_narrow": VESDE(0.5, 3.0),
    "cosine": CosineSDE(),
    "cosine_early": CosineSDE(s=0.1, T=0.7),
    "edm": EDMSDE(),
    "edm_narrow": EDMSDE(0.1, 5.0),
    "flow": FlowSDE(),
    "flow_early": FlowSDE(T=0.8),
}
"""Each family with its default and with unusual parameters."""


def vp_like(t: Tensor) -> Tensor:
    """beta of the default VP SDE."""
    return 0.1 + 19.9 * t


def jump(t: Tensor) -> float:
    """A rate of noise that jumps."""
    return 2.0 if t < 0.37 else 15.0


def steep(t: Tensor) -> Tensor:
    """A rate of noise that reaches 500 at t = 10, where alpha has long underflowed to 0."""
    return 0.1 + 49.99 * t


LINEAR: dict[str, LinearSDE] = {
    "linear_vp": LinearSDE(lambda t: -0.5 * vp_like(t), lambda t: vp_like(t).sqrt()),
    "linear_jump": LinearSDE(lambda t: -0.5 * jump(t), lambda t: math.sqrt(jump(t))),
    "linear_growing": LinearSDE(lambda t: 0.7, lambda t: 0.2 + t, T=2.0),
    "linear_long": LinearSDE(lambda t: -0.5 * steep(t), lambda t: steep(t).sqrt(), T=10.0),
}
"""The user's own rate and diffusion: smooth, with a jump, growing, and long and steep."""

ALL_SDES: dict[str, AffineSDE] = {**FAMILIES, **LINEAR}


def times_of(sde: AffineSDE, n: int = 60) -> Tensor:
    """n times over all of [t_min, T] and n more that crowd at t_min, float64, ends included."""
    low = max(sde.t_min, 1e-6 * sde.T)
    crowd = torch.logspace(math.log10(low), math.log10(sde.T), n, dtype=torch.float64)
    even = torch.linspace(sde.t_min, sde.T, n, dtype=torch.float64)
    return torch.cat([even, crowd]).clamp(sde.t_min, sde.T).unique()
