"""Randomness: two calls of a model with the same input give the same output."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from scoresde.doctor.finding import Finding
from scoresde.doctor.probe import Probe, eps_of, mean_error
from scoresde.doctor.repair import Repair

__all__ = ["randomness_findings", "randomness_repairs", "spread"]

ROUNDING = 1e-3
"""The difference of two calls, relative to the output, that an accelerator may make."""


def spread(probe: Probe) -> float:
    """The root mean square difference of two calls at the middle level, relative to the output."""
    middle = len(probe.levels) // 2
    (again,) = probe.predict(probe.model, probe.cond, levels=[probe.levels[middle]])
    first = probe.predictions[middle].value.double()
    size = float(first.square().mean().sqrt())
    return float((again.value.double() - first).square().mean().sqrt()) / max(size, 1e-12)


def randomness_findings(probe: Probe) -> list[Finding]:
    """The finding of `randomness_repairs`, where it costs next to nothing."""
    repairs = randomness_repairs(probe)
    return [
        replace(repair.finding(), severity="warning", damage=max(0.0, repair.gain.mean))
        for repair in repairs
    ]


def randomness_repairs(probe: Probe) -> list[Repair]:
    """The model in eval mode, if its output is random.

    Two calls must agree exactly, so the number has no standard error but rounding. The gain is the
    mean difference of the losses of each row. Where the output is random in eval mode too, it is
    the variance of a call, which adds to the loss: half of the squared difference of two calls.
    """
    number = spread(probe)
    if number <= ROUNDING:
        return []
    model = deepcopy(probe.model).eval()
    eps, again = ([eps_of(p) for p in probe.predict(model, probe.cond)] for _ in range(2))
    mean = [(one + other) / 2 for one, other in zip(eps, again, strict=True)]
    rest = max(float((one - other).abs().max()) for one, other in zip(eps, again, strict=True))
    still = rest > ROUNDING
    apart = [(one - other).square().mean(1) / 2 for one, other in zip(eps, again, strict=True)]
    kinds = nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm
    on = sorted(
        {type(m).__name__ for m in probe.model.modules() if isinstance(m, kinds) and m.training}
    )
    cause = f"{', '.join(on)} is in training mode" if on else "something draws random numbers"
    if still:
        cause = "something draws random numbers, in eval mode too"
    return [
        Repair(
            name="dropout",
            number=number,
            reference=0.0,
            sentence=f"Two calls with the same input differ by {100 * number:.2g} %: {cause}.",
            remedy="Find what the model draws, such as dropout in a function, and turn it off."
            if still
            else "Call model.eval() before sampling.",
            gain=mean_error(probe.nats(torch.stack(apart))) if still else probe.gain(mean),
            eps=mean,
        )
    ]
