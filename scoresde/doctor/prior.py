"""The prior: sampling starts from N(0, prior_std^2 I), which x_T must follow.

KL(x_T given a datum, prior) = (alpha_T^2 size^2 / prior_std^2 + ...) / 2 nats a dimension for data
of root mean square `size` (`AffineSDE.prior_gap`). It is a number of the schedule and the data, of
relative standard error std(|x_0|^2) / (sqrt(N) E|x_0|^2).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from scoresde.doctor.finding import Finding
from scoresde.doctor.probe import Probe
from scoresde.sde import AffineSDE
from scoresde.sde.base import PRIOR_GAP

__all__ = ["mended", "prior_findings"]

FIELDS = ("beta_max", "sigma_max")
"""The fields of the SDE families that make the schedule end in more noise."""


def prior_findings(probe: Probe, size: float) -> list[Finding]:
    """A finding if the gap of the prior is above the tolerance.

    Args:
        probe: the probe.
        size: the root mean square of the data, or what it should be if they are not standardised.
    """
    sde = probe.sde
    gap = sde.prior_gap(size)
    if gap <= PRIOR_GAP:
        return []
    better = mended(sde, size)
    remedy = f"Train with {better}, or" if better else f"Train with {sde.longer}, or"
    return [
        Finding(
            name="prior",
            severity="error" if gap > 4 * PRIOR_GAP else "warning",
            number=gap,
            reference=PRIOR_GAP,
            sentence=f"Sampling starts from N(0, {sde.prior_std:.3g}^2), but at T the data are "
            f"still there with a factor of {float(sde.alpha(sde.T)):.2g}: a gap of {gap:.2g} nats "
            "a dimension.",
            remedy=f"{remedy} sample with x_init, states of x_T.",
            damage=gap,
        )
    ]


def mended(sde: AffineSDE, size: float) -> str | None:
    """The value of beta_max or sigma_max at which the gap is half of the tolerance.

    None if the family has neither, or no value below 1e6 times the present one reaches it.

    Example:
        >>> from scoresde import VPSDE
        >>> mended(VPSDE(0.1, 4.0), 1.0)
        'beta_max = 10.5'
    """
    family: Any = sde  # a frozen dataclass, if it has one of these fields
    for name in (name for name in FIELDS if hasattr(sde, name)):
        low = high = float(getattr(sde, name))

        def gap(value: float, name: str = name) -> float:
            return float(replace(family, **{name: value}).prior_gap(size))

        while gap(high) > PRIOR_GAP / 2 and high < 1e6 * low:
            high *= 2.0
        if gap(high) > PRIOR_GAP / 2:
            continue
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if gap(middle) > PRIOR_GAP / 2 else (low, middle)
        return f"{name} = {high:.3g}"
    return None
