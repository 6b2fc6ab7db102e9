"""The fit: the loss of a trained model is below that of denoisers that need no training.

The score of any law is a valid denoiser, so the least possible loss is at most that of the
Gaussian with the covariance of the data, and at most that of a kernel estimate of the density.
Their losses and that of the model are of the same noised data, so their differences are means over
rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from scoresde.doctor.finding import Finding, limit
from scoresde.doctor.probe import Probe, mean_error
from scoresde.doctor.repair import SYMPTOM

__all__ = ["fit_findings", "progress", "untrained"]

UNTRAINED = 0.2
"""Below this progress a model is as good as untrained."""

ROOM = 0.003
"""Levels count at which the reference is better than a network at its start by this much."""

POOR = 0.25
"""How far the loss of a level may be above that of the reference."""


def progress(start: Tensor, now: Tensor, least: Tensor) -> float:
    """The share of the way from the loss of a network at its start to that of the reference.

    The most at any of the levels with a way to go, for sure; 1 if there is none. All arguments are
    (K, n). Two standard errors are taken off, since it is the largest of several.
    """
    found = []
    for way, gone in zip(start - least, start - now, strict=True):
        whole = mean_error(way)
        if whole.mean > ROOM and whole.z > limit(len(start)):
            made = mean_error(gone / whole.mean)
            found.append(made.mean - 2 * made.error)
    return max(found, default=1.0)


def fit_findings(
    probe: Probe, losses: Tensor, start: Tensor, gaussian: Tensor, best: Tensor
) -> list[Finding]:
    """Findings about a model that is untrained, or far from what is possible.

    Args:
        probe: the probe.
        losses: (K, n), those of the model.
        start: those of the isotropic Gaussian with the mean and deviation of the data, which a
            network whose last layer is 0 has at its start.
        gaussian: those of the Gaussian with the covariance of the data.
        best: those of the reference that is best at each level.
    """
    made = progress(start, losses, best)
    damage = mean_error(probe.nats(losses - best))
    if made < UNTRAINED and damage.mean > SYMPTOM and damage.z > limit(2):
        how = (
            "of the way from a Gaussian of the size of the data to the best reference it has gone "
            f"{100 * made:.0f} %."
            if made > 0
            else "it is worse than a Gaussian of the size of the data, where training starts."
        )
        return [
            Finding(
                name="untrained",
                severity="error",
                number=made,
                reference=1.0,
                sentence=f"The model is no better than an untrained network: {how}",
                remedy="Check that the weights were loaded and that the loss fell in training.",
                damage=damage.mean,
                z=damage.z,
            )
        ]
    return _by_level(probe, losses, best) or _overall(probe, losses, gaussian)


def untrained(findings: Sequence[Finding]) -> bool:
    """Whether the model is no better than an untrained network, by these findings of its fit."""
    return any(finding.name == "untrained" for finding in findings)


def _by_level(probe: Probe, losses: Tensor, best: Tensor) -> list[Finding]:
    """A finding about the levels at which the model is worse than the reference."""
    rows = losses - best
    gains = [mean_error(row) for row in rows]
    bad = [k for k, gain in enumerate(gains) if gain.mean > POOR and gain.z > limit(len(gains))]
    if not bad:
        return []
    damage = mean_error(rows[bad].sum(0) * probe.width)
    worst = max(bad, key=lambda k: gains[k].mean)
    low = min(bad) >= len(gains) / 3
    where = "low noise" if low else "some noise levels"
    t = probe.levels[worst].node.t
    latest = max(probe.levels[k].node.t for k in bad)
    return [
        Finding(
            name="low_noise" if low else "poor_fit",
            severity="error" if damage.mean > 1.0 else "warning",
            number=float(losses[worst].mean()),
            reference=float(best[worst].mean()),
            sentence=f"At {where} a reference without training is better: at t = {t:.3g} the loss "
            f"is {float(losses[worst].mean()):.3g}, and that of the reference "
            f"{float(best[worst].mean()):.3g}.",
            remedy=f"Train longer, with more of the times below {latest:.2g}."
            if low
            else "Train longer, or with a larger network.",
            damage=damage.mean,
            z=gains[worst].z,
        )
    ]


def _overall(probe: Probe, losses: Tensor, gaussian: Tensor) -> list[Finding]:
    """A finding about a model whose loss, summed over the levels, is above that of a Gaussian."""
    excess = mean_error(probe.nats(losses - gaussian))
    if excess.mean < SYMPTOM or excess.z < limit(1):
        return []
    own, other = (float(probe.nats(value).mean()) for value in (losses, gaussian))
    return [
        Finding(
            name="poor_fit",
            severity="warning",
            number=own,
            reference=other,
            sentence=f"The loss, {own:.4g} nats a dimension, is above that of a Gaussian with the "
            f"covariance of the data, {other:.4g}, which needs no training.",
            remedy="Train longer, or with a larger network.",
            damage=excess.mean,
            z=excess.z,
        )
    ]
