"""The precision: half precision of the network costs no loss."""

from __future__ import annotations

from copy import deepcopy

import torch

from scoresde.doctor.finding import Finding
from scoresde.doctor.probe import Probe, eps_of, loss_of, mean_error
from scoresde.doctor.repair import LEAST, Repair
from scoresde.model import own_dtype

__all__ = ["precision_notes", "precision_repairs"]

ROWS, EVERY = 128, 2
"""The note is about these rows, at every second level."""


def precision_repairs(probe: Probe) -> list[Repair]:
    """A network in half precision, computed in float32.

    The rounding of the weights stays; that of the activations goes. The gain is the mean
    difference of the losses of each row.
    """
    kind = own_dtype(probe.model)
    if kind not in (torch.bfloat16, torch.float16):
        return []
    eps = tuple(eps_of(p) for p in probe.predict(deepcopy(probe.model).float(), probe.cond))
    name = str(kind).removeprefix("torch.")
    return [
        Repair(
            name="precision",
            number=float(probe.nats(probe.losses).mean()),
            reference=float(probe.nats(probe.loss(eps)).mean()),
            sentence=f"The network computes in {name}, and its loss is lower in float32.",
            remedy="Sample with model.float(), or keep the first and the last layer in float32.",
            gain=probe.gain(eps),
            eps=eps,
        )
    ]


def precision_notes(probe: Probe) -> list[Finding]:
    """A note about a network in float32 whose loss would be higher in bfloat16."""
    if own_dtype(probe.model) != torch.float32:
        return []
    levels = probe.levels[::EVERY]
    cond = None if probe.cond is None else {n: v[:ROWS] for n, v in probe.cond.items()}
    try:
        half = deepcopy(probe.model).bfloat16()
        eps = [eps_of(p) for p in probe.predict(half, cond, rows=ROWS, levels=levels)]
    except (RuntimeError, TypeError, ValueError):  # a layer that has no such kernel
        return []
    raised = (loss_of(eps, levels) - probe.losses[::EVERY, :ROWS]).sum(0) * probe.width * EVERY
    cost = mean_error(raised)
    if not cost.mean > LEAST or cost.z < 3.0:
        return []
    return [
        Finding(
            name="precision",
            severity="note",
            number=cost.mean,
            reference=0.0,
            sentence=f"In bfloat16 the loss would be {cost.mean:.2g} nats a dimension higher.",
            remedy="Keep the network in float32 for sampling.",
            z=cost.z,
        )
    ]
