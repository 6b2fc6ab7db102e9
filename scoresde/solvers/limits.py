"""Steps at the limits of the log-SNR, where the coefficients of a scheme are not defined.

A step that starts in (almost) pure noise, or ends at sigma = 0, holds x_0hat fixed. With h the
step in lambda and k = eta^2 at its start this is x_t = sigma_t/sigma_s e^(-k h) x_s + alpha_t (1 -
e^(-(1 + k) h)) x_0hat + sigma_t sqrt(1 - e^(-2 k h)) z. From pure noise (h infinite) it is
sigma_t/sigma_s x_s + alpha_t x_0hat for the probability flow, and alpha_t x_0hat + sigma_t z with
noise, as the first reverse step of a chain with beta_N = 1. At sigma = 0 it is alpha_t x_0hat. For
data of about unit size x_0hat changes by O(alpha) near pure noise, so holding it fixed causes an
error of O(alpha^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, ReverseSDE, eta_value

__all__ = ["Held"]


@final
@dataclass(frozen=True)
class Held:
    """The coefficients of a step that holds x_0hat fixed; see the docstring of this module.

    Attributes:
        state_coef, data_coef, noise_std: factors of the state, of x_0hat and of a unit normal.
    """

    state_coef: float
    data_coef: float
    noise_std: float

    @classmethod
    def of(cls, now: Node, nxt: Node, eta: Eta) -> Held:
        """The step between two nodes at this stochasticity."""
        k, h = eta_value(eta, now.t) ** 2, nxt.log_snr - now.log_snr
        decay = k * h if k else 0.0
        return cls(
            nxt.sigma / now.sigma * math.exp(-decay),
            -nxt.alpha * math.expm1(-(1.0 + k) * h),
            nxt.sigma * math.sqrt(-math.expm1(-2.0 * decay)),
        )

    def mean(self, process: ReverseSDE, x: Tensor, now: Node) -> Tensor:
        """The mean of the state at the next node, (B, *D)."""
        prediction = process.predict(now, x)
        prediction.check_signal()
        return prediction.mix(self.state_coef, "x0", self.data_coef)

    def step(self, process: ReverseSDE, x: Tensor, now: Node, nxt: Node, noise: Noise) -> Tensor:
        """The state at the next node, (B, *D)."""
        mean = self.mean(process, x, now)
        if not self.noise_std:
            return mean
        return mean.add_(noise.normal(x, now, nxt), alpha=self.noise_std)
