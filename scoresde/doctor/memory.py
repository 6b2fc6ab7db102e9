"""Memorisation: samples and loss do not tell the training data from held-out data.

A model that has learned the law of the data has the same mean loss on both, and its samples are as
far from the training data as held-out data are.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from scoresde.cond import Cond
from scoresde.doctor.finding import Finding, limit
from scoresde.doctor.probe import Probe, mean_error, probe_of
from scoresde.doctor.repair import SYMPTOM
from scoresde.metrics import nearest_distance
from scoresde.sampler import ReverseSampler

__all__ = ["memory_findings"]

SAMPLES, STEPS = 128, 20
"""The samples that are drawn, and their steps."""

MOST = 1024
"""The held-out data whose distances are taken."""

NEAR = 0.5
"""Samples whose median distance is below this share of that of held-out data are copies."""


def memory_findings(probe: Probe, x: Tensor, held_out: Tensor, cond: Cond) -> list[Finding]:
    """Findings about the loss on held-out data, and about samples near to training data.

    Args:
        probe: the probe on training data.
        x: all training data.
        held_out: (M, *D), data that were not used for the training.
        cond: their conditions.
    """
    return [*_gap(probe, held_out, cond), *_copies(probe, x, held_out)]


def _gap(probe: Probe, held_out: Tensor, cond: Cond) -> list[Finding]:
    """The losses are means over independent rows, so the variances of their errors add."""
    rows = min(len(probe.x0), len(held_out))
    other = probe_of(
        probe.model,
        held_out,
        cond,
        probe.t_end,
        rows=rows,
        count=len(probe.levels),
        seed=probe.seed + 1,
        batch_size=probe.batch_size,
    )
    # Where eps itself is short or long the loss is too, which has nothing to do with the model.
    seen, unseen = (
        mean_error(one.nats(one.losses - _lengths(one) + 1.0)) for one in (probe, other)
    )
    gap, error = unseen.mean - seen.mean, math.hypot(unseen.error, seen.error)
    if gap < SYMPTOM or gap < limit(2) * error:
        return []
    return [
        Finding(
            name="overfit",
            severity="warning",
            number=unseen.mean,
            reference=seen.mean,
            sentence=f"On held-out data the loss is {gap:.2g} nats a dimension above that on the "
            "training data.",
            remedy="Stop the training earlier, augment the data, or take a smaller network.",
            damage=gap,
            z=gap / error,
        )
    ]


def _lengths(probe: Probe) -> Tensor:
    """|eps|^2 / D at each level, (K, n), whose mean is 1."""
    return torch.stack([level.eps.square().mean(1) for level in probe.levels])


def _copies(probe: Probe, x: Tensor, held_out: Tensor) -> list[Finding]:
    """Distances to the nearest training data, by the rank test of Mann and Whitney.

    The share of pairs in which the sample is nearer is 1/2 on average, with a variance of
    (n + m + 1) / (12 n m), if both sets of distances have one law.
    """
    count = min(SAMPLES, len(probe.x0))
    cond = None if probe.cond is None else {n: v[:count] for n, v in probe.cond.items()}
    sampler = ReverseSampler(probe.sde, probe.model, steps=STEPS, t_end=probe.t_end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other checks tell of the prior and of the range
        samples = sampler.sample(
            (count, *x.shape[1:]), seed=probe.seed, cond=cond, dtype=x.dtype, device=x.device
        )
    near, usual = nearest_distance(samples, x), nearest_distance(held_out[:MOST], x)
    n, m = len(near), len(usual)
    nearer = float((near[:, None] < usual).double().mean())
    z = (nearer - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
    ratio = float(near.median() / usual.median().clamp_min(1e-300))
    if ratio > NEAR or z < limit(2):
        return []
    return [
        Finding(
            name="memorised",
            severity="warning",
            number=ratio,
            reference=1.0,
            sentence="Samples are copies of training data: their median distance to the nearest "
            f"is {ratio:.2g} of that of held-out data.",
            remedy="Train on more data, augment them, or stop the training earlier.",
            z=z,
        )
    ]
