"""The end: sampling stops at t_end, where x = alpha x_0 + sigma eps still holds noise.

The final denoising returns E[x_0 | x], whose variance is that of x_0 less the mean squared error
(sigma / alpha)^2 E|eps - eps_theta|^2. The share of the variance that is lost is what the samples
are too narrow by; for a Gaussian it costs log(1 + share) / 2 nats a dimension.
"""

from __future__ import annotations

import math

from scoresde.doctor.finding import Finding
from scoresde.doctor.probe import Probe

__all__ = ["TOLERATED", "end_findings", "lost"]

TOLERATED = 0.01
"""The share of the variance that may be lost."""


def lost(probe: Probe, loss: float, std: float) -> float:
    """The share of the variance of data of this deviation that denoising at t_end loses.

    Args:
        probe: the probe.
        loss: the least known loss of eps at t_end, which is a mean over rows.
        std: the standard deviation of the data.
    """
    node = probe.sde.at(probe.t_end)
    return float((node.sigma / node.alpha) ** 2 * min(loss, 1.0) / std**2)


def end_findings(probe: Probe, loss: float, std: float) -> list[Finding]:
    """A finding if more than a hundredth of the variance is lost; see `lost`."""
    share = lost(probe, loss, std)
    if share <= TOLERATED:
        return []
    wanted = -0.5 * math.log(TOLERATED / 10) - math.log(std)
    better = probe.sde.time_of(min(wanted, probe.sde.log_snr(probe.sde.t_min)))
    return [
        Finding(
            name="t_end",
            severity="error" if share > 4 * TOLERATED else "warning",
            number=share,
            reference=TOLERATED,
            sentence=f"Sampling stops at t_end = {probe.t_end:.3g}, where the noise hides "
            f"{100 * share:.2g} % of the variance of the data, which the samples then lack.",
            remedy=f"Sample with t_end={better:.2g}.",
            damage=0.5 * math.log1p(share),
        )
    ]
