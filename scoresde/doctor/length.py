"""The length of the score: 1 - e <= E|sigma score|^2 / D <= 1 at every noise level.

E|eps_theta|^2 / D = 1 - mmse for eps_theta = E[eps | x], with the least mean squared error mmse of
eps. It is at most 1, and at least 1 - e, where e is the error of the best linear denoiser, which
the covariance of the data determines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.doctor.finding import Finding, limit
from scoresde.doctor.probe import Probe
from scoresde.doctor.reference import LinearDenoiser
from scoresde.doctor.repair import SYMPTOM

__all__ = ["length_findings", "lengths"]

MARGIN = 0.05
"""The part of a length that the estimate of the covariance may be wrong by."""


def lengths(probe: Probe, eps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """E|sigma score|^2 / D at each level and its standard error, (K,) each.

    It is a mean over rows of |eps_theta|^2 / D, minus that of |eps|^2 / D - 1, whose expectation
    is 0 and which at high noise fluctuates as the first does.
    """
    rows = torch.stack(
        [
            value.square().mean(1) - level.eps.square().mean(1) + 1.0
            for level, value in zip(probe.levels, eps, strict=True)
        ]
    )
    return rows.mean(1), rows.std(1) / math.sqrt(rows.shape[1])


def length_findings(probe: Probe, linear: LinearDenoiser, eps: Sequence[Tensor]) -> list[Finding]:
    """A finding about the level at which the length is farthest from its bounds.

    The damage is (|eps_theta| - bound)^2 / D in root mean square, the least change that reaches
    the bound.
    """
    means, errors = lengths(probe, eps)
    damage, worst = 0.0, (0.0, 0.0, 1.0, probe.levels[0])
    for level, mean, error in zip(probe.levels, means.tolist(), errors.tolist(), strict=True):
        low = 1.0 - linear.expected(level.node)
        bound = min(max(mean, low - MARGIN), 1.0 + MARGIN)
        z = (mean - bound) / max(error, 1e-12)
        if abs(z) > abs(worst[0]):
            worst = (z, mean, bound, level)
        damage += (math.sqrt(max(mean, 0.0)) - math.sqrt(max(bound, 0.0))) ** 2 * probe.width
    z, number, bound, level = worst
    if abs(z) < limit(len(probe.levels)) or damage < SYMPTOM:
        return []
    side = "above its upper" if z > 0 else "below its lower"
    return [
        Finding(
            name="length",
            severity="warning",
            number=number,
            reference=bound,
            sentence=f"The mean of |sigma score|^2 / D at t = {level.node.t:.3g} is {number:.3g}, "
            f"{side} bound of {bound:.3g}.",
            remedy="The score has another size than that of any such data: check its scale, its "
            "coordinate and the units of the data.",
            damage=damage,
            z=z,
        )
    ]
