"""Diffusions dx = f(t, x) dt + g(t) dw, and those with a linear drift."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, positive, same_shape, warn, wrong_type
from scoresde._html import Shown
from scoresde._tensor import Scalar, Time, exp, expand, lincomb, user_time, wide
from scoresde.node import AffineNode, Node

__all__ = ["SDE", "AffineSDE", "FunctionSDE", "as_affine", "check_interval"]


class SDE(Shown, ABC):
    """A diffusion dx = f(t, x) dt + g(t) dw on [0, T]; t = 0 is data, t = T is noise.

    Calling `SDE(f, g, T=1.0)` makes a `FunctionSDE` of two functions; a subclass defines `f`,
    `g`, `T`, `t_min` and `t_end`. The drift need not be linear in x: such an SDE works with every
    solver and model that needs only f, g and the score. For a linear drift use `LinearSDE` or one
    of the families, whose marginals are known.

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

    def __new__(cls, *args: object, **kwargs: object) -> SDE:
        """`SDE(f, g)` makes a `FunctionSDE`; a subclass reads its arguments in `__init__`."""
        return object.__new__(FunctionSDE if cls is SDE else cls)

    @abstractmethod
    def f(self, t: Scalar, x: Tensor) -> Tensor:
        """Drift at time t, a float or one time per sample; x: (B, *D) -> (B, *D)."""

    @abstractmethod
    def g(self, t: Time) -> Time:
        """Diffusion coefficient at time t, of the same kind as t."""

    def at(self, t: Scalar, like: Tensor | None = None) -> Node:
        """The schedule at time t, as floats, or for times (B,) as columns that multiply `like`.

        Times of the form (B, 1, ..., 1), which a function of (t, x) receives, are taken as (B,).

        Raises:
            ValueError: t lies outside [0, T], or does not have one entry per sample.
        """
        if not isinstance(t, Tensor):
            return self._node(self.check_time("t", t))
        if like is None:
            raise fail("like", "the state x that the times belong to", like, "pass like=x")
        if t.ndim == 0:
            t = t.expand(like.shape[0])
        n = like.shape[0]
        if t.shape[0] != n or t.shape[1:].numel() != 1:
            raise fail("t", f"a float, () or ({n},), one per sample", t, "check the batch")
        t = t.flatten()
        # on an accelerator this check would force a synchronisation
        if t.device.type == "cpu" and t.numel():
            for end in t.detach().aminmax():
                self.check_time("t", float(end))
        return self._node(expand(wide(t), like)).fitted(like)

    def _node(self, t: Scalar) -> Node:
        if not isinstance(t, Tensor):
            return Node(t, float(self.g(torch.tensor(t, dtype=torch.float64, device="cpu"))))
        g = torch.as_tensor(self.g(t), dtype=t.dtype, device=t.device)
        return Node(t.flatten(), g.expand_as(t))

    def check_time(self, name: str, t: object) -> float:
        """Return `t` as a float in [0, T]; T rounded to float32 may exceed T and is clamped."""
        if isinstance(t, bool) or not isinstance(t, int | float):
            item = getattr(t, "item", None)
            if item is None or math.prod(getattr(t, "shape", ())) != 1:
                raise wrong_type(name, "a float or a tensor of times", t, "pass a time in [0, T]")
            t = item()
        time = float(t)  # type: ignore[arg-type]
        if not 0.0 <= time <= self.T * (1 + 1e-7):
            remedy = f"times of {type(self).__name__} run from 0 (data) to T (noise)"
            raise fail(name, f"a time in [0, {self.T:g}]", time, remedy)
        return min(time, self.T)

    def drift(self, node: Node, x: Tensor) -> Tensor:
        """The drift f at a node, with the time in the form that `FunctionSDE` describes."""
        out = self.f(user_time(node.t, x), x)
        same_shape("f(t, x)", out, x, "the drift must have the shape of the state")
        return out

    @property
    def prior_std(self) -> float:
        """The standard deviation of the normal prior at t = T.

        Raises:
            TypeError: this SDE has no known prior.
        """
        raise TypeError(
            f"x_init: {type(self).__name__} knows no prior, so there is nothing to start from; "
            "pass x_init, the state at time T (for example from simulate)"
        )

    def sample_prior(self, z: Tensor) -> Tensor:
        """States at t = T, N(0, prior_std^2 I), from standard normals z: (B, *D).

        Raises:
            TypeError: this SDE has no known prior.
        """
        std = self.prior_std
        return z if std == 1.0 else lincomb((std, z))


@final
@dataclass(frozen=True, repr=False)
class FunctionSDE(SDE):
    """The SDE dx = f(t, x) dt + g(t) dw of two functions; `SDE(f, g)` makes one.

    Along a grid both functions receive t as a 0-dim float64 CPU tensor, which mixes with any
    device and dtype; for one time per sample they receive it as `(B, 1, ..., 1)`. g may return a
    Python number.

    Args:
        drift_fn: f(t, x) -> tensor of the shape of x.
        diffusion_fn: g(t) -> number or tensor of the shape of t.
        T, t_min, t_end: see `SDE`.
    """

    drift_fn: Callable[[Tensor, Tensor], Tensor]
    diffusion_fn: Callable[[Tensor], Any]  # a user's function may return any kind of number
    T: float = 1.0
    t_min: float = 0.0
    t_end: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drift_fn", "diffusion_fn"):
            if not callable(getattr(self, name)):
                got = getattr(self, name)
                raise wrong_type(name, "a function of time", got, "pass SDE(f, g) as callables")
        check_interval(self)

    def f(self, t: Scalar, x: Tensor) -> Tensor:
        return self.drift_fn(t, x)  # type: ignore[arg-type]  # `drift` passes a tensor

    def g(self, t: Time) -> Time:
        return self.diffusion_fn(t)  # type: ignore[arg-type, no-any-return]  # `_node` as well


def check_interval(sde: SDE) -> None:
    positive("T", sde.T, "T is the time at which the data have become noise")
    if not 0 <= sde.t_min <= sde.t_end < sde.T:
        got = (sde.t_min, sde.t_end, sde.T)
        raise fail("t_min, t_end, T", "0 <= t_min <= t_end < T", got, "reorder the times")


def as_affine(name: str, sde: object, remedy: str, expected: str = "an AffineSDE") -> AffineSDE:
    """Return the SDE if it is affine, or raise a TypeError."""
    if not isinstance(sde, AffineSDE):
        raise wrong_type(name, expected, sde, remedy)
    return sde


PRIOR_GAP = 0.005
"""The largest gap between x_T and the prior, in nats a dimension, that causes no warning."""


class AffineSDE(SDE):
    """dx = rate(t) x dt + g(t) dw, whose marginals are x_t | x_0 ~ N(alpha x_0, sigma^2 I).

    With lambda = log(alpha / sigma), the log-SNR (half the logarithm of the SNR):
    rate = d log alpha / dt and g^2 = d sigma^2/dt - 2 rate sigma^2 = -2 sigma^2 d lambda / dt.
    Every function of time accepts a float, a numpy array or a tensor and returns the same kind.
    """

    @property
    def facts(self) -> dict[str, object]:
        """The schedule in numbers, name -> value, for a table."""
        end, start = self.at(self.t_end), self.at(self.T)
        return {
            **super().facts,
            "times": f"0 (data) to {self.T:g} (noise); sampling stops at {self.t_end:g}",
            "log-SNR": f"{end.log_snr:.3g} at t={self.t_end:g}, {start.log_snr:.3g} at T",
            "alpha and sigma at T": f"{start.alpha:.3g} and {start.sigma:.3g}",
        }

    @abstractmethod
    def log_alpha(self, t: Time) -> Time:
        """log alpha(t)."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """Standard deviation of x_t given x_0."""

    @abstractmethod
    def log_snr(self, t: Time) -> Time:
        """lambda(t) = log(alpha / sigma), computed from logs and expm1, not from the quotient."""

    @abstractmethod
    def time_of(self, log_snr: Time) -> Time:
        """The time at which the log-SNR has this value: the inverse of `log_snr`."""

    @abstractmethod
    def rate(self, t: Time) -> Time:
        """d log alpha / dt."""

    def alpha(self, t: Time) -> Time:
        """Scale of x_0 in x_t."""
        return exp(self.log_alpha(t))

    def f(self, t: Scalar, x: Tensor) -> Tensor:
        rate = self.rate(t)
        return lincomb((expand(rate, x).to(x) if isinstance(rate, Tensor) else rate, x))

    def _node(self, t: Scalar) -> Node:
        time = t.flatten() if isinstance(t, Tensor) else t
        fields = self.g(t), self.alpha(t), self.sigma(t), self.log_snr(t), self.rate(t)
        return AffineNode(time, *fields)

    def check_finite(self, name: str, t: object, remedy: str, below_T: bool = False) -> float:
        """Return `t` as a float if its log-SNR is finite and, where asked for, it is below T."""
        time = self.check_time(name, t)
        if not math.isfinite(self.log_snr(time)) or (below_T and time >= self.T):
            place = f"a time below T = {self.T:g}" if below_T else "a time"
            raise fail(name, f"{place} with a finite log-SNR", time, remedy)
        return time

    def marginal(self, t: Scalar, x0: Tensor) -> tuple[Tensor, Scalar]:
        """Mean alpha x_0, of shape (B, *D), and standard deviation sigma of x_t given x_0."""
        node = self.at(t, like=x0)
        return node.alpha * x0, node.sigma

    def perturb(self, t: Scalar, x0: Tensor, eps: Tensor) -> Tensor:
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

    @property
    def prior_std(self) -> float:
        """The standard deviation of the prior N(0, prior_std^2 I), from which sampling starts.

        It is sigma(T), and 1 for the SDE of a DDPM chain. Sampling, densities and bounds all use
        this value.
        """
        return float(self.sigma(self.T))

    def prior_log_prob(self, x: Tensor, std: float | None = None) -> Tensor:
        """Log density of N(0, std^2 I) at x: (B, *D) -> (B,), in nats; std is `prior_std`."""
        std = self.prior_std if std is None else std
        square = (x / std).flatten(1).square().sum(1)
        return -0.5 * square - x[0].numel() * (math.log(std) + 0.5 * math.log(2 * math.pi))

    def prior_kl(self, x0: Tensor, std: float | None = None) -> Tensor:
        """KL(N(alpha_T x_0, sigma_T^2 I), N(0, std^2 I)) in nats; x0: (B, *D) -> (B,).

        `std` defaults to `prior_std`, the prior that `sample_prior` draws from; 1 compares with
        the standard normal (Ho et al. 2020, the term L_T of the bound).
        """
        sigma = float(self.sigma(self.T))
        ratio = 2 * (math.log(sigma) - math.log(self.prior_std if std is None else std))
        square = x0.flatten(1).square().sum(1) * float(self.alpha(self.T) / sigma) ** 2
        return 0.5 * (square * math.exp(ratio) + x0[0].numel() * (math.expm1(ratio) - ratio))

    def prior_gap(self, size: float = 1.0) -> float:
        """The error of the prior: KL(x_T given a datum, prior) in nats per dimension.

        Args:
            size: root mean square of the data's values; 1 by default. With alpha(T) = 0 the gap
                is 0; otherwise it is about (alpha(T) size / prior_std)^2 / 2, half the square of
                the signal left in x_T relative to the prior, which a draw from the prior lacks.

        Example:
            >>> from scoresde import VPSDE
            >>> VPSDE().prior_gap() < 1e-4 < 0.1 < VPSDE(0.1, 2.0).prior_gap()
            True
        """
        sigma, std = float(self.sigma(self.T)), self.prior_std
        ratio = 2 * (math.log(sigma) - math.log(std))
        square = (size * float(self.alpha(self.T)) / std) ** 2
        return 0.5 * (square + math.expm1(ratio) - ratio)

    def warn_of_prior(self, size: float = 1.0) -> None:
        """Warn if the schedule ends so early that the prior differs from the law of x_T.

        At a gap above 0.005 nats a dimension the mean of the samples of the probability flow is
        wrong by more than 10 % of that of the data.

        Args:
            size: see `prior_gap`.
        """
        gap = self.prior_gap(size)
        if gap <= PRIOR_GAP:
            return
        alpha, sigma = float(self.alpha(self.T)), float(self.sigma(self.T))
        train = "Scale the data to about unit size, or train" if size > 3.0 else "Train"
        warn(
            f"{self!r} does not reach noise: at T = {self.T:g} the state still holds "
            f"{alpha:.2g} x_0 beside noise of {sigma:.2g}, "
            f"but sampling starts from N(0, {self.prior_std:.3g}^2): a gap of {gap:.2g} nats a "
            f"dimension for data of size {size:.3g} (tolerated: {PRIOR_GAP:g}), so mean and "
            f"standard deviation of the samples are wrong. {train} with a schedule that ends in "
            f"noise ({self.longer}), or pass x_init, states of x_T",
            UserWarning,
        )

    @property
    def longer(self) -> str:
        """The change that makes the schedule end in noise, for a message."""
        return "a larger T"
