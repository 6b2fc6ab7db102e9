"""Low noise: a model is there no worse than itself at more noise.

A denoiser for more noise is a valid one for less: it smooths too much, and the model that has
learned a level is better. A model that has not learned the times below tau, since training or
sampling of times left them out, is worse there than itself at tau.
"""

from __future__ import annotations

from torch import Tensor

from scoresde.doctor.convention import Retimed
from scoresde.doctor.probe import Probe, eps_of, loss_of
from scoresde.doctor.repair import Repair

__all__ = ["blind_repairs"]

BLIND = 0.06
"""The least damage: networks early in their training are worse than themselves by up to half."""

ROWS = 128
"""Each time is tried with these rows."""


def blind_repairs(probe: Probe) -> list[Repair]:
    """The model that is asked at tau for the score at all times below it, for the best tau.

    tau is the time of a level. The gain is a mean difference over rows.
    """
    start = len(probe.levels) // 3
    found = []
    for k in range(start, len(probe.levels) - 1):
        losses = loss_of(_asked_at(probe, k, ROWS), probe.levels[k + 1 :])
        saved = (probe.losses[k + 1 :, :ROWS] - losses).sum(0) * probe.width
        found.append((float(saved.mean()), k))
    most, k = max(found, default=(0.0, 0))
    if most < BLIND / 2:
        return []
    eps = [*probe.eps[: k + 1], *_asked_at(probe, k, len(probe.x0))]
    gain = probe.gain(eps)
    if gain.mean < BLIND:
        return []
    t = probe.levels[k].node.t
    return [
        Repair(
            name="low_noise",
            number=float(probe.losses[k + 1 :].mean()),
            reference=float(probe.loss(eps)[k + 1 :].mean()),
            sentence=f"Below t = {t:.2g} the model is worse than itself at t = {t:.2g}: it has "
            "not learned the score at low noise.",
            remedy=f"Train longer, with more of the times below {t:.2g}.",
            gain=gain,
            eps=eps,
            tests=len(found),
        )
    ]


def _asked_at(probe: Probe, k: int, rows: int) -> list[Tensor]:
    """The predicted noise of the levels after level k, with the score at the time of k."""
    tau = probe.levels[k].node.t
    cond = None if probe.cond is None else {n: v[:rows] for n, v in probe.cond.items()}
    later = probe.levels[k + 1 :]
    predictions = probe.predict(Retimed(probe.model, lambda t: tau), cond, rows=rows, levels=later)
    return [eps_of(one) for one in predictions]
