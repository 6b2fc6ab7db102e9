"""The average of the weights: it is at least as good as the raw weights.

Averages take the parameters. Buffers (frequencies, statistics of a normalisation) belong to the
network and are copied; averaged, they are those of no network.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from scoresde._check import listed
from scoresde.doctor.finding import Finding
from scoresde.doctor.probe import Probe, eps_of
from scoresde.doctor.repair import Repair
from scoresde.model import ScoreModel

__all__ = ["average_repairs", "buffer_findings"]

LATE = 0.05
"""How far the average may be behind the raw weights, as it is early in a training."""


def average_repairs(probe: Probe, raw: ScoreModel | None) -> list[Repair]:
    """The averaged model with the buffers of the raw one, and the raw model.

    The gain is the mean difference of the losses of each row. The raw model is examined on all
    rows only if it may be better by what a few of them say.
    """
    if raw is None:
        return []
    found = _of_buffers(probe, raw)
    if probe.may_gain(raw, probe.cond):
        of_raw = _repair(probe, raw, "The raw weights have a lower loss than their average.")
        found += [of_raw] if of_raw.gain.mean > LATE else []
    return found


def buffer_findings(probe: Probe, raw: ScoreModel | None) -> list[Finding]:
    """The finding that buffers differ, where it costs next to nothing."""
    repairs = [] if raw is None else _of_buffers(probe, raw)
    return [
        replace(repair.finding(), severity="warning", damage=max(0.0, repair.gain.mean))
        for repair in repairs
    ]


def _of_buffers(probe: Probe, raw: ScoreModel) -> list[Repair]:
    """The averaged model with the buffers of the raw one, if they differ."""
    own, other = dict(probe.model.named_buffers()), dict(raw.named_buffers())
    wrong = [
        name
        for name, value in own.items()
        if name in other and not torch.allclose(value.double(), other[name].to(value).double())
    ]
    if not wrong:
        return []
    fixed = deepcopy(probe.model)
    for name, buffer in fixed.named_buffers():
        if name in wrong:
            buffer.copy_(other[name])
    return [_repair(probe, fixed, f"Its buffers are not those of the network: {listed(wrong)}.")]


def _repair(probe: Probe, model: ScoreModel, sentence: str) -> Repair:
    eps = tuple(eps_of(p) for p in probe.predict(model, probe.cond))
    buffers = "buffers" in sentence
    return Repair(
        name="average",
        number=float(probe.nats(probe.losses).mean()),
        reference=float(probe.nats(probe.loss(eps)).mean()),
        sentence=f"The averaged model is worse than it should be. {sentence}",
        remedy="Average the parameters alone, and copy the buffers."
        if buffers
        else "Take a shorter average, or train longer, so that it does not remember the start.",
        gain=probe.gain(eps),
        eps=eps,
        tests=2,
    )
