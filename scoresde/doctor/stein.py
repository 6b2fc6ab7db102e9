"""Stein's identities: E score = 0 and E<x, score> = -D at every time.

Both follow from integration by parts for any density that vanishes at infinity. With
eps_theta = -sigma score they say E eps_theta = 0 and E<x, eps_theta> = sigma D. Since the noise
itself has these means, E eps = 0 and E<x, eps> = sigma D, they are tested on the error
eps_theta - eps, whose spread is far smaller than that of eps_theta at high noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.doctor.finding import Finding, limit
from scoresde.doctor.probe import Level, Probe
from scoresde.doctor.repair import SYMPTOM, Repair

__all__ = ["stein_findings", "stein_repairs"]


def stein_findings(probe: Probe, eps: Sequence[Tensor]) -> list[Finding]:
    """Findings about the two identities for predicted noise."""
    return [*_mean(probe, eps), *_pull(probe, eps)]


def stein_repairs(probe: Probe) -> list[Repair]:
    """The model without the error that breaks an identity: a constant or a multiple of x.

    At each level either is estimated from one half of the rows and subtracted on the other, so the
    gain is that of new rows.
    """
    corrections = {"stein_mean": _constant, "stein_pull": _multiple}
    found = []
    for finding in stein_findings(probe, probe.eps):
        correct = corrections[finding.name]
        eps = tuple(
            torch.cat(
                [
                    value[half] - correct(level, value, other, half)
                    for half, other in _halves(value)
                ]
            )
            for level, value in zip(probe.levels, probe.eps, strict=True)
        )
        found.append(
            Repair(
                name=finding.name,
                number=finding.number,
                reference=finding.reference,
                sentence=finding.sentence,
                remedy=finding.remedy,
                gain=probe.gain(eps),
                eps=eps,
            )
        )
    return found


def _halves(value: Tensor) -> list[tuple[slice, slice]]:
    """Both halves of the rows, each with the other."""
    middle = len(value) // 2
    first, second = slice(0, middle), slice(middle, len(value))
    return [(first, second), (second, first)]


def _constant(level: Level, value: Tensor, fit: slice, rows: slice) -> Tensor:
    """The mean error of the rows `fit`, for the rows `rows`."""
    return (value - level.eps)[fit].mean(0)


def _multiple(level: Level, value: Tensor, fit: slice, rows: slice) -> Tensor:
    """The multiple of x that is nearest to the error of the rows `fit`, at the rows `rows`."""
    x = level.x.flatten(1).double()
    slope = (x * (value - level.eps))[fit].sum() / x[fit].square().sum()
    return slope * x[rows]


def _mean(probe: Probe, eps: Sequence[Tensor]) -> list[Finding]:
    """E score = 0.

    Each entry of the mean error is a mean over rows; the largest of all entries and levels, in
    standard errors, is compared with the limit for so many. The damage is the squared mean error,
    less what chance adds to it.
    """
    worst, damage, where, size = 0.0, 0.0, probe.levels[0], 0.0
    for level, value in zip(probe.levels, eps, strict=True):
        error = value - level.eps
        mean, spread = error.mean(0), error.std(0).clamp_min(1e-12) / math.sqrt(len(error))
        z = float((mean / spread).abs().max())
        if z > worst:
            worst, where, size = z, level, float(mean.abs().max())
        damage += max(0.0, float((mean.square() - spread.square()).mean())) * probe.width
    if worst < limit(probe.dim * len(eps)) or damage < SYMPTOM:
        return []
    return [
        Finding(
            name="stein_mean",
            severity="warning",
            number=size,
            reference=0.0,
            sentence="The mean score of noised data is not 0, as it is for every density: at "
            f"t = {where.node.t:.3g} sigma times it is {size:.2g}, {worst:.0f} standard errors.",
            remedy="Check that the model was trained on data with this mean, and train it longer.",
            damage=damage,
            z=worst,
        )
    ]


def _pull(probe: Probe, eps: Sequence[Tensor]) -> list[Finding]:
    """E<x, score> = -D.

    E<x, eps_theta - eps> is a mean over rows at each level. The damage is what subtracting the
    best multiple of x would save, E<x, error>^2 / E|x|^2 / D.
    """
    scores, damage = [], 0.0
    for level, value in zip(probe.levels, eps, strict=True):
        x = level.x.flatten(1).double()
        product = (x * (value - level.eps)).mean(1)
        mean, error = float(product.mean()), float(product.std()) / math.sqrt(len(product))
        scores.append((mean, mean / error if error > 0.0 else 0.0, level))
        saved = (mean**2 - error**2) / float(x.square().mean())
        damage += max(0.0, saved) * probe.width
    mean, z, level = max(scores, key=lambda one: abs(one[1]))
    if abs(z) < limit(len(scores)) or damage < SYMPTOM:
        return []
    number = -1.0 - mean / level.node.sigma
    return [
        Finding(
            name="stein_pull",
            severity="warning",
            number=number,
            reference=-1.0,
            sentence="The mean of <x, score> / D is not -1, as it is for every density: at "
            f"t = {level.node.t:.3g} it is {number:.5g}, {abs(z):.0f} standard errors away.",
            remedy="The score is too strong or too weak along x: check its scale, sigma and the "
            "units of the data, and train it longer.",
            damage=damage,
            z=z,
        )
    ]
