"""Labels: the loss with the right conditions is below that with wrong or without conditions.

For a conditional model L(given) <= L(without) <= L(another's), the first with equality only if the
conditions say nothing about x. All losses are of the same noised data, so their differences are
means over rows with the standard error of paired rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde._tensor import seeded
from scoresde.cond import without
from scoresde.doctor.finding import Finding, limit
from scoresde.doctor.probe import SURELY, Gain, Probe, eps_of, mean_error
from scoresde.doctor.reference import LinearDenoiser
from scoresde.doctor.repair import LEAST, Repair

__all__ = ["label_findings", "label_repairs", "relation"]

SHUFFLES = 64
"""Random orders of the labels, whose class means are compared with those of the labels."""

USED = 0.2
"""The share of what the class means are worth that a model must gain from the labels."""


def label_repairs(probe: Probe) -> list[Repair]:
    """The model without its conditions, if it is better so."""
    cond, nulls = probe.cond or {}, probe.model.nulls
    if not set(cond) & set(nulls):
        return []
    eps = tuple(eps_of(p) for p in probe.predict(probe.model, without(cond, nulls)))
    return [
        Repair(
            name="labels",
            number=float(probe.nats(probe.losses).mean()),
            reference=float(probe.nats(probe.loss(eps)).mean()),
            sentence="The loss with the given conditions is above that without any: they do not "
            "belong to these samples.",
            remedy="Check that samples and conditions are in the same order and that the classes "
            "have the numbers of the training.",
            gain=probe.gain(eps),
            eps=eps,
        )
    ]


class Relation(NamedTuple):
    """How labels relate to the data.

    Attributes:
        z: the squared distances of the class means from the mean, in standard deviations above
            those of shuffled labels.
        worth: what a Gaussian denoiser gains from the class means, in nats a dimension.
    """

    z: float
    worth: float


def relation(probe: Probe, x: Tensor, label: Tensor) -> Relation:
    """How labels (N,) relate to data (N, *D); see `Relation`."""
    flat = x.flatten(1).double()
    flat = flat - flat.mean(0)
    _, label = torch.unique(label, return_inverse=True)

    def between(of: Tensor) -> float:
        one = torch.nn.functional.one_hot(of).to(flat)
        return float(((one.T @ flat).square().sum(1) / one.sum(0).clamp_min(1.0)).sum())

    generator = seeded(0)
    orders = [torch.randperm(len(label), generator=generator) for _ in range(SHUFFLES)]
    shuffled = torch.tensor([between(label[order.to(label.device)]) for order in orders])
    z = (between(label) - float(shuffled.mean())) / max(float(shuffled.std()), 1e-12)
    one = torch.nn.functional.one_hot(label).to(flat)
    means = (one.T @ flat) / one.sum(0).clamp_min(1.0)[:, None]
    pooled = LinearDenoiser.fit(flat)
    within = LinearDenoiser.fit(flat - means[label])
    worth = sum(
        pooled.expected(level.node) - within.expected(level.node) for level in probe.levels
    )
    return Relation(z, worth * probe.width)


def label_findings(probe: Probe, related: Relation | None) -> list[Finding]:
    """Findings about labels that say nothing, and about a model that does not use them.

    The first compares the class means with those of shuffled labels. Classes of one mean may
    differ in shape, so it asks the model too, whether it loses by the labels of other samples. The
    second compares this loss with what a Gaussian denoiser gains from the class means.
    """
    if not probe.cond:
        return []
    others = of_others(probe)
    if related is not None and related.z < limit(1):
        if _lost(probe, others).z > limit(1):
            return []
        return [
            Finding(
                name="labels",
                severity="warning",
                number=related.z,
                reference=limit(1),
                sentence="The labels say nothing about the data: the means of the classes are no "
                "farther apart than those of shuffled labels, and the model loses nothing with "
                "the labels of other samples.",
                remedy="Check that samples and labels are in the same order.",
                z=related.z - limit(1),
            )
        ]
    worth = LEAST if related is None else max(LEAST, USED * related.worth)
    seen = probe.glance(probe.model, others)
    if -seen.mean - SURELY * seen.error > worth:
        return []
    used = _lost(probe, others)
    if used.mean + limit(1) * used.error >= worth:
        return []
    return [
        Finding(
            name="labels",
            severity="warning",
            number=used.mean,
            reference=worth,
            sentence="The model does not use its conditions: those of other samples cost it "
            f"{used.mean:.2g} nats a dimension, where the class means alone are worth "
            f"{worth / USED:.2g}."
            if related is not None
            else "The model does not use its conditions: those of other samples change nothing.",
            remedy="Check that samples and conditions were in the same order in the training.",
            damage=max(0.0, worth - used.mean),
            z=(used.mean - worth) / used.error if used.error > 0.0 else -math.inf,
        )
    ]


def _lost(probe: Probe, cond: dict[str, Tensor]) -> Gain:
    """What the model loses with other conditions, in nats a dimension."""
    losses = probe.loss([eps_of(p) for p in probe.predict(probe.model, cond)])
    return mean_error(probe.nats(losses - probe.losses))


def of_others(probe: Probe) -> dict[str, Tensor]:
    """The conditions of the rows in a random order."""
    order = torch.randperm(len(probe.x0), generator=seeded(1))
    return {name: value[order.to(value.device)] for name, value in (probe.cond or {}).items()}
