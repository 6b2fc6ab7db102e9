"""Stochastic differential equations that turn data into noise: dx = f(t, x) dt + g(t) dw."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, positive, same_shape, wrong_type
from scoresde._quadrature import LinearMarginals
from scoresde._tensor import Scalar, Time, expand, lincomb, log, user_time, wide, xp
from scoresde.node import Node

__all__ = [
    "SDE",
    "AffineSDE",
    "CosineSDE",
    "EDMSDE",
    "FlowSDE",
    "FunctionSDE",
    "LinearSDE",
    "SubVPSDE",
    "VESDE",
    "VPSDE",
]


class SDE(ABC):
    """A diffusion dx = f(t, x) dt + g(t) dw on [0, T]; t = 0 is data, t = T is noise.

    Calling `SDE(f, g, T=1.0)` makes one from two functions (see `FunctionSDE`); a subclass gives
    `f`, `g`, `T`, `t_min` and `t_end`. Such an SDE need not be affine: it serves every solver
    and model that asks for nothing but f, g and the score. For a linear drift, take `LinearSDE`
    or one of the families, which know their marginals.

    Attributes:
        T: the largest time.
        t_min: the smallest time at which the schedule is meaningful.
        t_end: where sampling stops by default.

    Example:
        >>> well = SDE(lambda t, x: x - x**3, lambda t: 0.5, T=2.0)
        >>> well.f(0.0, torch.ones(2, 1)).tolist()
        [[0.0], [0.0]]
    """

    T: float
    t_min: float
    t_end: float

    def __new__(cls, *args: Any, **kwargs: Any) -> SDE:
        return object.__new__(FunctionSDE if cls is SDE else cls)

    @abstractmethod
    def f(self, t: Time, x: Tensor) -> Tensor:
        """Drift at time t, a float or one time per sample; x: (B, *D) -> (B, *D)."""

    @abstractmethod
    def g(self, t: Time) -> Scalar:
        """Diffusion at time t, of the kind of t."""

    def at(self, t: Time, like: Tensor | None = None) -> Node:
        """The schedule at time t: floats for a float, columns that fit `like` for `(B,)` times.

        Raises:
            ValueError: t lies outside [0, T], or has not one entry per sample.
        """
        if not isinstance(t, Tensor):
            return self._node(self.check_time("t", t))
        if like is None:
            raise fail("like", "the state x that the times belong to", like, "pass like=x")
        if t.ndim == 0:
            t = t.expand(like.shape[0])
        if t.shape != like.shape[:1]:
            raise fail(
                "t", f"a float, () or ({like.shape[0]},), one per sample", t, "check the batch"
            )
        if t.device.type == "cpu" and t.numel():  # elsewhere a look would be a synchronisation
            for end in t.detach().aminmax():
                self.check_time("t", float(end))
        return self._node(expand(wide(t), like)).map(lambda c: c.to(like))

    def _node(self, t: Scalar) -> Node:
        if not isinstance(t, Tensor):
            return Node(t, float(self.g(torch.tensor(t, dtype=torch.float64, device="cpu"))))
        return Node(t.flatten(), torch.as_tensor(self.g(t)).to(t).expand_as(t))

    def check_time(self, name: str, t: object) -> float:
        """`t` as a float in [0, T]; T rounded to float32 may lie beyond, and is pulled back."""
        if isinstance(t, bool) or not isinstance(t, int | float):
            item = getattr(t, "item", None)
            if item is None:
                raise wrong_type(name, "a float or a tensor of times", t, "pass a time in [0, T]")
            t = item()
        time = float(t)  # type: ignore[arg-type]
        if not 0.0 <= time <= self.T * (1 + 1e-7):
            remedy = f"times of {type(self).__name__} run from 0 (data) to T (noise)"
            raise fail(name, f"a time in [0, {self.T:g}]", time, remedy)
        return min(time, self.T)

    def drift(self, node: Node, x: Tensor) -> Tensor:
        """f at a node, called as a user's function of time is (see `FunctionSDE`)."""
        out = self.f(user_time(node.t, x), x)
        same_shape("f(t, x)", out, x, "the drift must have the shape of the state")
        return out

    def sample_prior(self, z: Tensor) -> Tensor:
        """States at t = T from standard normals z: (B, *D).

        Raises:
            TypeError: this SDE does not know its prior.
        """
        raise TypeError(
            f"x_init: {type(self).__name__} knows no prior, so there is nothing to start from; "
            "pass x_init, the state at time T (for example from simulate)"
        )


@final
@dataclass(frozen=True)
class FunctionSDE(SDE):
    """The user's own dx = f(t, x) dt + g(t) dw; also made by `SDE(f, g)`.

    Along a grid both functions receive t as a 0-dim float64 CPU tensor, which mixes with any
    device and dtype; for one time per sample they receive it as `(B, 1, ..., 1)`. g may return a
    Python number.

    Args:
        drift_fn: f(t, x) -> tensor of the shape of x.
        diffusion_fn: g(t) -> number or tensor of the shape of t.
        T, t_min, t_end: see `SDE`.
    """

    drift_fn: Callable[[Tensor, Tensor], Tensor]
    diffusion_fn: Callable[[Tensor], Any]
    T: float = 1.0
    t_min: float = 0.0
    t_end: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drift_fn", "diffusion_fn"):
            if not callable(getattr(self, name)):
                got = getattr(self, name)
                raise wrong_type(name, "a function of time", got, "pass SDE(f, g) as callables")
        _check_interval(self)

    def f(self, t: Time, x: Tensor) -> Tensor:
        return self.drift_fn(t, x)

    def g(self, t: Time) -> Scalar:
        return self.diffusion_fn(t)


def _check_interval(sde: SDE) -> None:
    positive("T", sde.T, "T is the time at which the data have become noise")
    if not 0 <= sde.t_min <= sde.t_end < sde.T:
        got = (sde.t_min, sde.t_end, sde.T)
        raise fail("t_min, t_end, T", "0 <= t_min <= t_end < T", got, "reorder the times")


class AffineSDE(SDE):
    """dx = rate(t) x dt + g(t) dw, whose marginals are x_t | x_0 ~ N(alpha x_0, sigma^2 I).

    With lambda = log(alpha / sigma), the log-SNR (half the logarithm of the SNR):
    rate = d log alpha / dt and g^2 = d sigma^2/dt - 2 rate sigma^2 = -2 sigma^2 d lambda / dt.
    Every function of time takes a float, a numpy array or a tensor and returns the same kind.
    """

    @abstractmethod
    def log_alpha(self, t: Time) -> Time:
        """log alpha(t)."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """Standard deviation of x_t given x_0."""

    @abstractmethod
    def log_snr(self, t: Time) -> Time:
        """lambda(t) = log(alpha / sigma), from logs and expm1, never from the quotient."""

    @abstractmethod
    def time_of(self, log_snr: Time) -> Time:
        """The time at which the log-SNR has this value: the inverse of `log_snr`."""

    @abstractmethod
    def rate(self, t: Time) -> Time:
        """d log alpha / dt."""

    def alpha(self, t: Time) -> Time:
        """Scale of x_0 in x_t."""
        value = self.log_alpha(t)
        return xp(value).exp(value)

    def f(self, t: Time, x: Tensor) -> Tensor:
        rate = self.rate(t)
        return lincomb((expand(rate, x).to(x) if isinstance(rate, Tensor) else rate, x))

    def _node(self, t: Scalar) -> Node:
        time = t.flatten() if isinstance(t, Tensor) else t
        fields = self.g(t), self.alpha(t), self.sigma(t), self.log_snr(t), self.rate(t)
        return Node(time, *fields)

    def marginal(self, t: Time, x0: Tensor) -> tuple[Tensor, Scalar]:
        """Mean alpha x_0, of shape (B, *D), and standard deviation sigma of x_t given x_0."""
        node = self.at(t, like=x0)
        return node.alpha * x0, node.sigma

    def perturb(self, t: Time, x0: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma eps; x0, eps: (B, *D), t a float or (B,)."""
        floating("x0", x0)
        same_shape("eps", eps, x0, "draw the noise with torch.randn_like(x0)")
        node = self.at(t, like=x0)
        return lincomb((node.alpha, x0), (node.sigma, eps))

    def transition(self, s: float, t: float) -> tuple[float, float]:
        """Scale and standard deviation of x_t given x_s, for s <= t.

        x_t | x_s ~ N(alpha_t/alpha_s x_s, sigma_t^2 (1 - exp(-2 (lambda_s - lambda_t)))).
        """
        s, t = self.check_time("s", s), self.check_time("t", t)
        if s > t:
            raise fail("s", f"a time not after t = {t:g}", s, "transitions run from data to noise")
        if s == t:
            return 1.0, 0.0
        scale = math.exp(self.log_alpha(t) - self.log_alpha(s))
        fresh = -math.expm1(2 * (self.log_snr(t) - self.log_snr(s)))
        return scale, self.sigma(t) * math.sqrt(fresh)

    def sample_prior(self, z: Tensor) -> Tensor:
        """States at t = T, N(0, sigma(T)^2 I), from standard normals z: (B, *D)."""
        return lincomb((self.sigma(self.T), z))

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log density of N(0, sigma(T)^2 I) at x: (B, *D) -> (B,), in nats."""
        std = float(self.sigma(self.T))
        square = (x / std).flatten(1).square().sum(1)
        return -0.5 * square - x[0].numel() * (math.log(std) + 0.5 * math.log(2 * math.pi))

    def prior_kl(self, x0: Tensor, std: float | None = None) -> Tensor:
        """KL(N(alpha_T x_0, sigma_T^2 I), N(0, std^2 I)) in nats; x0: (B, *D) -> (B,).

        `std` defaults to sigma(T), the prior that `sample_prior` draws from; 1 compares with
        the standard normal (Ho et al. 2020, the term L_T of the bound).
        """
        sigma = float(self.sigma(self.T))
        ratio = 2 * (math.log(sigma) - math.log(sigma if std is None else std))
        square = x0.flatten(1).square().sum(1) * float(self.alpha(self.T) / sigma) ** 2
        return 0.5 * (square * math.exp(ratio) + x0[0].numel() * (math.expm1(ratio) - ratio))


def _softplus(x: Time) -> Time:
    """log(1 + e^x) without overflow."""
    if isinstance(x, Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    m = xp(x)
    if m is math:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    return m.logaddexp(x, 0.0)


def _asinh(x: Time) -> Time:
    m = xp(x)
    return m.arcsinh(x) if hasattr(m, "arcsinh") else m.asinh(x)


def _atan2(y: Time, x: Time) -> Time:
    m = xp(x)
    return m.arctan2(y, x) if hasattr(m, "arctan2") else m.atan2(y, x)


@dataclass(frozen=True)
class _LinearBeta:
    """beta(t) = beta_min + (beta_max - beta_min) t, its integral B(t) and the inverse of that."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    T = 1.0

    def __post_init__(self) -> None:
        positive("beta_min", self.beta_min, "the noise rate at t = 0, 0.1 by default")
        positive("beta_max", self.beta_max, "the noise rate at t = 1, 20 by default")
        if self.beta_max < self.beta_min:
            remedy = "swap the two: the rate grows from data to noise"
            raise fail("beta_max", f"at least beta_min = {self.beta_min:g}", self.beta_max, remedy)

    def beta(self, t: Time) -> Time:
        """beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def total(self, t: Time) -> Time:
        """B(t) = int_0^t beta."""
        return self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2

    def time_of_total(self, total: Time) -> Time:
        """The time at which the integral of beta has this value."""
        slope = self.beta_max - self.beta_min
        root = xp(total).sqrt(self.beta_min**2 + 2 * slope * total)
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
        beta = self.beta(t)
        return xp(beta).sqrt(beta)

    def sigma(self, t: Time) -> Time:
        total = self.total(t)
        m = xp(total)
        return m.sqrt(-m.expm1(-total))

    def log_snr(self, t: Time) -> Time:
        total = self.total(t)
        return -(total + log(-xp(total).expm1(-total))) / 2

    def time_of(self, log_snr: Time) -> Time:
        return self.time_of_total(_softplus(-2 * log_snr))


@final
@dataclass(frozen=True)
class SubVPSDE(_LinearBeta, AffineSDE):
    """Sub-VP SDE: alpha as VP, sigma = 1 - exp(-B) (not its root), g^2 = beta (1 - exp(-2 B)).

    Its variance stays below the VP one, which helps likelihoods. sigma falls like t towards the
    data, so sampling stops earlier (t_end = 0.01, where sigma is 2e-3). Song et al. 2021
    (arXiv 2011.13456), eq. 14 and 29.

    Args:
        beta_min, beta_max: noise rates at t = 0 and t = 1, per unit of time.
    """

    t_min = 1e-4
    t_end = 1e-2

    def g(self, t: Time) -> Time:
        square = -self.beta(t) * xp(t).expm1(-2 * self.total(t))
        return xp(square).sqrt(square)

    def sigma(self, t: Time) -> Time:
        return -xp(t).expm1(-self.total(t))

    def log_snr(self, t: Time) -> Time:
        total = self.total(t)
        return -(total / 2 + log(-xp(total).expm1(-total)))

    def time_of(self, log_snr: Time) -> Time:
        return self.time_of_total(2 * _asinh(xp(log_snr).exp(-log_snr) / 2))


@final
@dataclass(frozen=True)
class VESDE(AffineSDE):
    """Variance-exploding SDE: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    Already at t = 0 the state holds noise of standard deviation sigma_min, as in Song et al.
    2021 (arXiv 2011.13456), eq. 30; the final Tweedie step of a sampler removes it. The prior is
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
        positive("sigma_min", self.sigma_min, "the noise left at t = 0, in data units")
        positive("sigma_max", self.sigma_max, "the noise at t = 1, in data units")
        if self.sigma_max <= self.sigma_min:
            remedy = "swap the two: the noise grows from data to prior"
            above = f"more than sigma_min = {self.sigma_min:g}"
            raise fail("sigma_max", above, self.sigma_max, remedy)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def log_alpha(self, t: Time) -> Time:
        return 0.0 * t

    def sigma(self, t: Time) -> Time:
        return self.sigma_min * xp(t).exp(t * self._log_ratio)

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

    Variance preserving, so sigma^2 = sin(u - u_0) sin(u + u_0) / cos(u_0)^2, written so that it
    does not cancel at small t. Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17. beta grows
    without bound as t -> 1, so T = 0.9946 by default (log-SNR -4.8).

    Args:
        s: the offset that keeps beta finite and non-zero at t = 0.
        T: the largest time, below 1.
    """

    s: float = 0.008
    T: float = 0.9946

    t_min = 1e-5
    t_end = 1e-3

    def __post_init__(self) -> None:
        positive("s", self.s, "the offset of the cosine schedule, 0.008 by default")
        if not self.t_end < self.T < 1:
            remedy = "beta(t) is infinite at t = 1, so stay just below"
            raise fail("T", f"a time in ({self.t_end:g}, 1)", self.T, remedy)

    @property
    def _speed(self) -> float:
        return math.pi / 2 / (1 + self.s)

    @property
    def _u0(self) -> float:
        return self._speed * self.s

    def _cos(self, t: Time) -> Time:
        # cos(u) as the sine of what is left to pi/2: 1 - t is exact where cos(u) is small
        return xp(t).sin(self._speed * (1.0 - t))

    def log_alpha(self, t: Time) -> Time:
        return log(self._cos(t)) - math.log(math.cos(self._u0))

    def sigma(self, t: Time) -> Time:
        past, m = self._speed * t, xp(t)
        return m.sqrt(m.sin(past) * m.sin(past + 2 * self._u0)) / math.cos(self._u0)

    def log_snr(self, t: Time) -> Time:
        past, m = self._speed * t, xp(t)
        return log(self._cos(t)) - (log(m.sin(past)) + log(m.sin(past + 2 * self._u0))) / 2

    def time_of(self, log_snr: Time) -> Time:
        m = xp(log_snr)
        alpha = m.exp(-_softplus(-2 * log_snr) / 2)
        sigma = m.exp(-_softplus(2 * log_snr) / 2)
        cos0, sin0 = math.cos(self._u0), math.sin(self._u0)
        cos = cos0 * alpha
        sin = m.sqrt(sin0**2 + (cos0 * sigma) ** 2)
        # u - u_0 by the angle difference: sin(u - u_0) = (cos0 sigma)^2 / (sin cos0 + cos sin0)
        upper = (cos0 * sigma) ** 2 / (sin * cos0 + cos * sin0)
        return _atan2(upper, cos * cos0 + sin * sin0) / self._speed

    def rate(self, t: Time) -> Time:
        return -self._speed * xp(t).sin(self._speed * t + self._u0) / self._cos(t)

    def g(self, t: Time) -> Time:
        return xp(t).sqrt(-2 * self.rate(t))


@final
@dataclass(frozen=True)
class EDMSDE(AffineSDE):
    """The schedule of EDM: alpha = 1, sigma(t) = t, g = sqrt(2 t). Karras et al. 2022, table 1.

    Args:
        sigma_min, sigma_max: where sampling ends and starts, in data units.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        positive("sigma_min", self.sigma_min, "the noise at which sampling ends, in data units")
        positive("sigma_max", self.sigma_max, "the noise at which sampling starts, in data units")
        if self.sigma_max <= self.sigma_min:
            remedy = "swap the two: the noise grows from data to prior"
            above = f"more than sigma_min = {self.sigma_min:g}"
            raise fail("sigma_max", above, self.sigma_max, remedy)

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

    def log_alpha(self, t: Time) -> Time:
        return 0.0 * t

    def sigma(self, t: Time) -> Time:
        return 1.0 * t

    def log_snr(self, t: Time) -> Time:
        return -log(t)

    def time_of(self, log_snr: Time) -> Time:
        return xp(log_snr).exp(-log_snr)

    def rate(self, t: Time) -> Time:
        return 0.0 * t

    def g(self, t: Time) -> Time:
        return xp(t).sqrt(2 * t)


@final
@dataclass(frozen=True)
class FlowSDE(AffineSDE):
    """The straight path of rectified flow and flow matching: alpha = 1 - t, sigma = t.

    rate = -1/(1 - t) and g^2 = 2 t / (1 - t) make its reverse SDE; its probability-flow ODE is
    the flow that flow matching learns. Lipman et al. 2023 (arXiv 2210.02747), example II. alpha
    vanishes at t = 1, so T = 0.999 by default (log-SNR -6.9).

    Args:
        T: the largest time, below 1.
    """

    T: float = 0.999

    t_min = 1e-5
    t_end = 1e-3

    def __post_init__(self) -> None:
        if not self.t_end < self.T < 1:
            remedy = "the drift is infinite at t = 1, so stay just below"
            raise fail("T", f"a time in ({self.t_end:g}, 1)", self.T, remedy)

    def log_alpha(self, t: Time) -> Time:
        return xp(t).log1p(-t)

    def alpha(self, t: Time) -> Time:
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        return 1.0 * t

    def log_snr(self, t: Time) -> Time:
        return xp(t).log1p(-t) - log(t)

    def time_of(self, log_snr: Time) -> Time:
        return xp(log_snr).exp(-_softplus(log_snr))

    def rate(self, t: Time) -> Time:
        return -1.0 / (1.0 - t)

    def g(self, t: Time) -> Time:
        return xp(t).sqrt(2 * t / (1.0 - t))


@final
class LinearSDE(AffineSDE):
    """The user's own f(t, x) = rate(t) x and g(t), with marginals by adaptive quadrature.

    alpha, sigma, the log-SNR and its inverse, transitions and the prior are computed in float64
    from tables that are built once, to a relative error of 1e-10; a jump of the rate, a long
    horizon or a steep rate only costs table rows. The functions are called on 0-dim float64 CPU
    tensors, at construction alone, and may return Python numbers.

    Args:
        rate: t -> d log alpha / dt, per unit of time.
        diffusion: t -> g(t), positive.
        T, t_min, t_end: see `SDE`; t_min defaults to 1e-5 T, t_end to 1e-3 T.

    Raises:
        ValueError: an accuracy of 1e-10 cannot be reached (a singular rate, say), a function
            returns a value that is not finite, or g vanishes on an interval.

    Example:
        >>> own = LinearSDE(lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: (0.1 + 19.9 * t) ** 0.5)
        >>> abs(own.sigma(0.3) - VPSDE().sigma(0.3)) < 1e-12
        True
    """

    def __init__(
        self,
        rate: Callable[[Tensor], Any],
        diffusion: Callable[[Tensor], Any],
        T: float = 1.0,
        t_min: float | None = None,
        t_end: float | None = None,
    ) -> None:
        self.T = positive("T", T, "T is the time at which the data have become noise")
        self.t_min = 1e-5 * self.T if t_min is None else positive("t_min", t_min)
        self.t_end = max(1e-3 * self.T, self.t_min) if t_end is None else t_end
        _check_interval(self)
        rate_fn, diffusion_fn = _float_function("rate", rate), _float_function("g", diffusion)
        try:
            self._marginals = LinearMarginals(rate_fn, diffusion_fn, self.T, self.t_min)
        except ArithmeticError as error:
            raise ValueError(
                f"rate, diffusion: {error}; keep both finite, g positive, and end at a T before "
                "any singularity"
            ) from error

    def __repr__(self) -> str:
        return f"LinearSDE(T={self.T:g}, t_min={self.t_min:g}, t_end={self.t_end:g})"

    def _ask(self, fn: Callable[[Any], Any], t: Time) -> Time:
        if isinstance(t, Tensor):
            return fn(wide(t)).to(t.dtype)
        return fn(t) if hasattr(t, "__array__") else float(fn(t))

    def log_alpha(self, t: Time) -> Time:
        return self._ask(self._marginals.log_alpha, t)

    def sigma(self, t: Time) -> Time:
        variance = self._ask(self._marginals.variance, t)
        return xp(variance).sqrt(variance)

    def log_snr(self, t: Time) -> Time:
        return self._ask(self._marginals.log_snr, t)

    def time_of(self, log_snr: Time) -> Time:
        return self._ask(self._marginals.time_of, log_snr)

    def rate(self, t: Time) -> Time:
        return self._ask(self._marginals.rate, t)

    def g(self, t: Time) -> Time:
        square = self._ask(self._marginals.square, t)
        return xp(square).sqrt(square)


def _float_function(name: str, fn: Callable[[Tensor], Any]) -> Callable[[float], float]:
    if not callable(fn):
        raise wrong_type(name, "a function of time", fn, "pass a callable, e.g. lambda t: 1.0")

    def of_float(t: float) -> float:
        got = fn(torch.tensor(t, dtype=torch.float64))
        try:
            value = float(got)
        except (TypeError, ValueError, RuntimeError):
            raise wrong_type(
                f"{name}({t:g})", "one number", got, "return a number or a 0-dim tensor"
            ) from None
        if not math.isfinite(value):
            raise fail(
                f"{name}({t:g})", "a finite number", value, "choose T before the singularity"
            )
        return value

    return of_float
