"""The average of the weights: it is at least as good as the raw weights.

Averages take the parameters. Buffers (frequencies, statistics of a normalisation) belong to the
network and are copied; averaged, they are those of no network.
"""

from __future__ import annotations

from copy import deepcopy

import torch

from scoresde.doctor.probe import Probe, eps_of
from scoresde.doctor.repair import Repair
from scoresde.model import ScoreModel

__all__ = ["average_repairs"]


def average_repairs(probe: Probe, raw: ScoreModel | None) -> list[Repair]:
    """The averaged model with the buffers of the raw one, and the raw model.

    The gain is the mean difference of the losses of each row.
    """
    if raw is None:
        return []
    found = []
    own, other = dict(probe.model.named_buffers()), dict(raw.named_buffers())
    wrong = [
        name
        for name, value in own.items()
        if name in other and not torch.allclose(value.double(), other[name].to(value).double())
    ]
    if wrong:
        fixed = deepcopy(probe.model)
        for name, buffer in fixed.named_buffers():
            if name in wrong:
                buffer.copy_(other[name])
        found.append(
            _repair(probe, fixed, f"Its buffers are not those of the network: {', '.join(wrong)}.")
        )
    found.append(_repair(probe, raw, "The raw weights have a lower loss than their average."))
    return found


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
