"""The usual families of affine SDEs, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from scoresde._check import fail, finite, keep, positive
from scoresde._tensor import (
    Time,
    asinh,
    atan2,
    exp,
    expm1,
    log,
    log1p,
    over,
    sin,
    softplus,
    sqrt,
)
from scoresde.sde.base import AffineSDE

__all__ = ["EDMSDE", "VESDE", "VPSDE", "CosineSDE", "FlowSDE", "SubVPSDE"]


@dataclass(frozen=True)
class _LinearBeta:
    """beta(t) = beta_min + (beta_max - beta_min) t, its integral B(t) and the inverse of B."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    T = 1.0

    def __post_init__(self) -> None:
        keep(self, "beta_min", positive, "the noise rate at t = 0, 0.1 by default")
        keep(self, "beta_max", positive, "the noise rate at t = 1, 20 by default")
        if self.beta_max < self.beta_min:
            remedy = "swap the two: the rate grows from data to noise"
            raise fail("beta_max", f"at least beta_min = {self.beta_min:g}", self.beta_max, remedy)

    @property
    def longer(self) -> str:
        usual = "; 20 is usual" if self.beta_max < 20.0 else ""
        return f"beta_max above {self.beta_max:g}{usual}"

    def beta(self, t: Time) -> Time:
        """beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def total(self, t: Time) -> Time:
        """B(t) = int_0^t beta."""
        return self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2

    def time_of_total(self, total: Time) -> Time:
        """The time at which the integral of beta has this value."""
        slope = self.beta_max - self.beta_min
        root = sqrt(self.beta_min**2 + 2 * slope * total)
        return 2 * total / (self.beta_min + root)

    def log_alpha(self, t: Time) -> Time:
        return -self.total(t) / 2

    def rate(self, t: Time) -> Time:
        return -self.beta(t) / 2


@final
@dataclass(frozen=True)
class VPSDE(_LinearBeta, AffineSDE):
    """Variance-preserving SDE: f = -1/2 beta(t) x, g = sqrt(beta(t)), beta linear on [0, 1].

    alpha = exp(-B/2) and sigma^2 = 1 - exp(-B) with B(t) = int_0^t beta: an Ornstein-Uhlenbeck
    process in changed time, the continuous limit of DDPM. Song et al. 2021 (arXiv 2011.13456),
    eq. 32.

    Args:
        beta_min, beta_max: noise rates at t = 0 and t = 1, per unit of time.

    Example:
        >>> sde = VPSDE()
        >>> round(sde.alpha(0.5) ** 2 + sde.sigma(0.5) ** 2, 12)
        1.0
    """

    t_min = 1e-5
    t_end = 1e-3

    def g(self, t: Time) -> Time:
        return sqrt(self.beta(t))

    def sigma(self, t: Time) -> Time:
        total = self.total(t)
        return sqrt(-expm1(-total))

    def log_snr(self, t: Time) -> Time:
        total = self.total(t)
        return -(total + log(-expm1(-total))) / 2

    def time_of(self, log_snr: Time) -> Time:
        return self.time_of_total(softplus(-2 * log_snr))


@final
@dataclass(frozen=True)
class SubVPSDE(_LinearBeta, AffineSDE):
    """Sub-VP SDE: alpha as in VP, sigma = 1 - exp(-B) (no root), g^2 = beta (1 - exp(-2 B)).

    Its variance is below that of the VP SDE, which improves likelihoods. sigma is proportional to
    t near the data, so sampling stops earlier (t_end = 0.01, where sigma is 2e-3). Song et al.
    2021 (arXiv 2011.13456), eq. 14 and 29.

    Args:
        beta_min, beta_max: noise rates at t = 0 and t = 1, per unit of time.
    """

    t_min = 1e-4
    t_end = 1e-2

    def g(self, t: Time) -> Time:
        return sqrt(-self.beta(t) * expm1(-2 * self.total(t)))

    def sigma(self, t: Time) -> Time:
        return -expm1(-self.total(t))

    def log_snr(self, t: Time) -> Time:
        total = self.total(t)
        return -(total / 2 + log(-expm1(-total)))

    def time_of(self, log_snr: Time) -> Time:
        return self.time_of_total(2 * asinh(exp(-log_snr) / 2))


def _keep_last(sde: CosineSDE | FlowSDE) -> None:
    """Check the largest time of a schedule that ends at 1 or before, and store it."""
    remedy = "at t = 1 nothing is left of the data"
    last = keep(sde, "T", finite, remedy)
    if not sde.t_end < last <= 1:
        raise fail("T", f"a time in ({sde.t_end:g}, 1]", last, remedy)


def _keep_sigmas(sde: VESDE | EDMSDE) -> None:
    """Check the range of the noise, and store it."""
    low = keep(sde, "sigma_min", positive, "the noise at which sampling ends, in data units")
    high = keep(sde, "sigma_max", positive, "the noise at which sampling starts, in data units")
    if high <= low:
        remedy = "swap the two: the noise grows from data to prior"
        raise fail("sigma_max", f"more than sigma_min = {low:g}", high, remedy)


@final
@dataclass(frozen=True)
class VESDE(AffineSDE):
    """Variance-exploding SDE: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    The state holds noise of standard deviation sigma_min even at t = 0, as in Song et al. 2021
    (arXiv 2011.13456), eq. 30; the final Tweedie step of a sampler removes it. The prior is
    N(0, sigma_max^2 I), so sigma_max should exceed the largest distance between data points.

    Args:
        sigma_min, sigma_max: standard deviations of the noise at t = 0 and t = 1, in data units.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    T = 1.0
    t_min = 0.0
    t_end = 0.0

    def __post_init__(self) -> None:
        _keep_sigmas(self)

    @property
    def longer(self) -> str:
        return f"sigma_max above {self.sigma_max:g}: ten times the size of the data and more"

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def log_alpha(self, t: Time) -> Time:
        return 0.0 * t

    def sigma(self, t: Time) -> Time:
        return self.sigma_min * exp(t * self._log_ratio)

    def log_snr(self, t: Time) -> Time:
        return -math.log(self.sigma_min) - t * self._log_ratio

    def time_of(self, log_snr: Time) -> Time:
        return -(log_snr + math.log(self.sigma_min)) / self._log_ratio

    def rate(self, t: Time) -> Time:
        return 0.0 * t

    def g(self, t: Time) -> Time:
        return self.sigma(t) * math.sqrt(2 * self._log_ratio)


@final
@dataclass(frozen=True)
class CosineSDE(AffineSDE):
    """Cosine schedule in continuous time: alpha = cos(u) / cos(u_0), u = (t + s)/(1 + s) pi/2.

    It preserves variance, so sigma^2 = sin(u - u_0) sin(u + u_0) / cos(u_0)^2, a form in which
    nothing cancels at small t. Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17. beta grows
    without bound as t -> 1, so T = 0.9946 by default (log-SNR -4.8). With T = 1 the schedule ends
    in pure noise, alpha = 0, which requires a model that predicts v, x0 or the flow.

    Args:
        s: the offset that keeps beta finite and non-zero at t = 0.
        T: the largest time, at most 1.
    """

    s: float = 0.008
    T: float = 0.9946

    t_min = 1e-5
    t_end = 1e-3

    def __post_init__(self) -> None:
        keep(self, "s", positive, "the offset of the cosine schedule, 0.008 by default")
        _keep_last(self)

    @property
    def longer(self) -> str:
        return f"T above {self.T:g}, at most 1"

    @property
    def _speed(self) -> float:
        return math.pi / 2 / (1 + self.s)

    @property
    def _u0(self) -> float:
        return self._speed * self.s

    def _cos(self, t: Time) -> Time:
        # cos(u) = sin(pi/2 - u): 1 - t is exact where cos(u) is small
        return sin(self._speed * (1.0 - t))

    def log_alpha(self, t: Time) -> Time:
        return log(self._cos(t)) - math.log(math.cos(self._u0))

    def sigma(self, t: Time) -> Time:
        past = self._speed * t
        return sqrt(sin(past) * sin(past + 2 * self._u0)) / math.cos(self._u0)

    def log_snr(self, t: Time) -> Time:
        past = self._speed * t
        return log(self._cos(t)) - (log(sin(past)) + log(sin(past + 2 * self._u0))) / 2

    def time_of(self, log_snr: Time) -> Time:
        alpha = exp(-softplus(-2 * log_snr) / 2)
        sigma = exp(-softplus(2 * log_snr) / 2)
        cos0, sin0 = math.cos(self._u0), math.sin(self._u0)
        cosine = cos0 * alpha
        sine = sqrt(sin0**2 + (cos0 * sigma) ** 2)
        # By the angle difference, sin(u - u_0) = (cos0 sigma)^2 / (sine cos0 + cosine sin0).
        upper = (cos0 * sigma) ** 2 / (sine * cos0 + cosine * sin0)
        return atan2(upper, cosine * cos0 + sine * sin0) / self._speed

    def rate(self, t: Time) -> Time:
        return -self._speed * sin(self._speed * t + self._u0) * over(1.0, self._cos(t))

    def g(self, t: Time) -> Time:
        return sqrt(-2 * self.rate(t))


@final
@dataclass(frozen=True)
class EDMSDE(AffineSDE):
    """The schedule of EDM: alpha = 1, sigma(t) = t, g = sqrt(2 t). Karras et al. 2022, table 1.

    Args:
        sigma_min, sigma_max: the noise at which sampling ends and starts, in data units.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _keep_sigmas(self)

    @property
    def T(self) -> float:  # type: ignore[override]
        """The largest time, sigma_max."""
        return self.sigma_max

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """The smallest time of training and likelihood, sigma_min."""
        return self.sigma_min

    @property
    def t_end(self) -> float:  # type: ignore[override]
        """Where sampling stops by default, sigma_min."""
        return self.sigma_min

    @property
    def longer(self) -> str:
        return f"sigma_max above {self.sigma_max:g}: ten times the size of the data and more"

    def log_alpha(self, t: Time) -> Time:
        return 0.0 * t

    def sigma(self, t: Time) -> Time:
        return 1.0 * t

    def log_snr(self, t: Time) -> Time:
        return -log(t)

    def time_of(self, log_snr: Time) -> Time:
        return exp(-log_snr)

    def rate(self, t: Time) -> Time:
        return 0.0 * t

    def g(self, t: Time) -> Time:
        return sqrt(2 * t)


@final
@dataclass(frozen=True)
class FlowSDE(AffineSDE):
    """The straight path of rectified flow and flow matching: alpha = 1 - t, sigma = t.

    rate = -1/(1 - t) and g^2 = 2 t / (1 - t) make its reverse SDE; its probability-flow ODE is
    the flow that flow matching learns. Lipman et al. 2023 (arXiv 2210.02747), example II. alpha
    vanishes at t = 1, so T = 0.999 by default (log-SNR -6.9). With T = 1 the schedule ends in
    pure noise, which requires a model that predicts v, x0 or the flow.

    Args:
        T: the largest time, at most 1.
    """

    T: float = 0.999

    t_min = 1e-5
    t_end = 1e-3

    def __post_init__(self) -> None:
        _keep_last(self)

    @property
    def longer(self) -> str:
        return f"T above {self.T:g}, at most 1"

    def log_alpha(self, t: Time) -> Time:
        return log1p(-t)

    def alpha(self, t: Time) -> Time:
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        return 1.0 * t

    def log_snr(self, t: Time) -> Time:
        return log1p(-t) - log(t)

    def time_of(self, log_snr: Time) -> Time:
        return exp(-softplus(log_snr))

    def rate(self, t: Time) -> Time:
        return over(-1.0, 1.0 - t)

    def g(self, t: Time) -> Time:
        return sqrt(2 * t * over(1.0, 1.0 - t))
