"""The scale: regressing eps on its prediction gives the slope 1 at every noise level.

For eps_theta = E[eps | x], E<eps_theta, eps> = E|eps_theta|^2, so the slope
E<eps_theta, eps> / E|eps_theta|^2 is 1. If the score is multiplied by c, it is 1 / c everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.doctor.probe import Probe
from scoresde.doctor.repair import Repair

__all__ = ["scale_repairs", "slopes"]

TOLERANCE = 0.02
"""A slope this close to 1 is no finding: networks in training are that far off."""


def slopes(probe: Probe) -> tuple[Tensor, Tensor]:
    """The slope of each level and its standard error, (K,) each.

    The slope is a ratio of means over rows, and its error is that of the mean of
    <eps_theta, eps - slope eps_theta> / E|eps_theta|^2.
    """
    found, errors = [], []
    for level, value in zip(probe.levels, probe.eps, strict=True):
        square = value.square().mean(1)
        slope = (value * level.eps).mean() / square.mean().clamp_min(1e-300)
        residual = (value * (level.eps - slope * value)).mean(1) / square.mean().clamp_min(1e-300)
        found.append(slope)
        errors.append(residual.std() / math.sqrt(len(residual)))
    return torch.stack(found), torch.stack(errors)


def scale_repairs(probe: Probe) -> list[Repair]:
    """The model with its score divided by the one factor that fits all levels best.

    The factor is the slope over all levels together, by least squares; negative ones belong to
    the check of the sign.
    """
    pairs = list(zip(probe.levels, probe.eps, strict=True))
    product = sum(float((value * level.eps).mean()) for level, value in pairs)
    square = sum(float(value.square().mean()) for _, value in pairs)
    slope = product / square if square > 0.0 else 1.0
    if slope <= 0.0 or abs(slope - 1.0) < TOLERANCE:
        return []
    eps = tuple(slope * value for value in probe.eps)
    return [
        Repair(
            name="scale",
            number=1.0 / slope,
            reference=1.0,
            sentence=f"The score of the model is {1.0 / slope:.3g} times that of the data at all "
            "noise levels.",
            remedy=f"Divide the score by {1.0 / slope:.3g}: look for a factor that is lost "
            "between loss and sampler, such as a reduced loss, guidance or another sigma.",
            gain=probe.gain(eps),
            harms=probe.harms(eps),
            eps=eps,
        )
    ]
