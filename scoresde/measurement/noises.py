"""The noise of a measurement: its log-likelihood, its products and its samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, floating, keep, nonnegative, positive, refuse, show, wrong_type
from scoresde._html import Shown
from scoresde.measurement.constant import Constant
from scoresde.noise import Independent

__all__ = ["GaussianNoise", "LogLikelihood", "MeasurementNoise", "PoissonNoise", "as_noise"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class GaussianNoise:
    """Gaussian noise of the measurement: y = A(x_0) + e, e ~ N(0, Sigma_y).

    Exactly one argument is given.

    Args:
        std: the standard deviation, a number of at least 0, or a tensor (*M) of them.
        variances: the variances of independent noise, (*M).
        covariance: the covariance Sigma_y of correlated noise, (m, m) with m entries of a
            measurement in C order; symmetric and positive definite.

    Attributes:
        positive: whether all variances are above 0, so that one may divide by them.

    Raises:
        TypeError: none or several of the arguments are given.
        ValueError: a number is negative or not finite, or the covariance is not positive definite.

    Example:
        >>> import torch
        >>> GaussianNoise(variances=torch.tensor([1.0, 4.0]))
        GaussianNoise(variances=a float32 tensor of shape (2,))
    """

    std: float | Tensor | None = None
    variances: Tensor | None = None
    covariance: Tensor | None = None
    positive: bool = field(init=False, default=True)
    _held: Constant | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        given = [n for n in ("std", "variances", "covariance") if getattr(self, n) is not None]
        if len(given) != 1:
            remedy = "pass GaussianNoise(0.1), variances=... or covariance=..."
            raise wrong_type("noise", "one of std, variances and covariance", given, remedy)
        value = getattr(self, given[0])
        if given == ["std"] and not (isinstance(value, Tensor) and value.ndim > 0):
            std = nonnegative("noise", value)
            object.__setattr__(self, "std", std)
            object.__setattr__(self, "positive", std > 0.0)
            return
        floating(given[0], value)
        if not bool((value.isfinite() & ((value >= 0) | (given == ["covariance"]))).all()):
            raise fail(given[0], "finite numbers >= 0", value.min(), "check the unit")
        if given == ["covariance"]:
            _check_covariance(value)
            held = value.detach().double()
        else:
            held = value.detach().double().square() if given == ["std"] else value.detach()
            object.__setattr__(self, "positive", bool((held > 0).all()))
        object.__setattr__(self, "_held", Constant(held))

    def __repr__(self) -> str:
        if isinstance(self.std, float):
            return f"GaussianNoise({self.std:g})"
        names = ("std", "variances", "covariance")
        given = next(name for name in names if getattr(self, name) is not None)
        return f"GaussianNoise({given}={show(getattr(self, given))})"

    @property
    def correlated(self) -> bool:
        """Whether the noise has a covariance matrix."""
        return self.covariance is not None

    @property
    def scalar(self) -> float | None:
        """The standard deviation if all entries have the same, independently; else None."""
        return self.std if isinstance(self.std, float) else None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError unless the noise is that of measurements of this shape, (*M)."""
        if self._held is None:
            return
        size = math.prod(shape)
        expected = (size, size) if self.correlated else shape
        if tuple(self._held.value.shape) != expected:
            raise fail("noise", f"shape {expected}", self._held.value, f"y has shape {shape}")

    def variance(self, like: Tensor) -> Tensor:
        """The variance of each entry, (*M) or (), in the precision and on the device of `like`."""
        if self._held is None:
            square = float(self.std) ** 2  # type: ignore[arg-type]
            return torch.full((), square, dtype=like.dtype, device=like.device)
        held = self._held.at(like)
        return held.diagonal().reshape(like.shape[1:]) if self.correlated else held

    def matrix(self, like: Tensor) -> Tensor:
        """Sigma_y, (m, m), of correlated noise."""
        if self._held is None or not self.correlated:
            raise wrong_type("noise", "a covariance", self, "take variance() of independent noise")
        return self._held.at(like)

    def sample(self, mean: Tensor, seed: int) -> Tensor:
        """Draws of y given A(x_0) = mean: (B, *M)."""
        z = Independent(seed).stream("measurement").draw(mean)
        if self.correlated:
            factor: Tensor = torch.linalg.cholesky(self.matrix(mean.double())).to(mean)
            return mean + (z.flatten(1) @ factor.T).reshape(mean.shape)
        return mean + self.variance(mean).sqrt() * z


def _check_covariance(covariance: Tensor) -> None:
    """Raise unless this is a symmetric and positive definite matrix."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise fail("covariance", "shape (m, m)", covariance, "one row per entry of y in C order")
    matrix = covariance.detach().double()
    skew = float((matrix - matrix.T).abs().max())
    if skew > 1e-6 * float(matrix.abs().max()):
        got = f"one that differs from its transpose by {skew:.3g}"
        raise refuse("covariance", "a symmetric matrix", got, "average it with its transpose")
    if int(torch.linalg.cholesky_ex(matrix).info) > 0:
        least = float(torch.linalg.eigvalsh(matrix)[0])
        remedy = "add a small multiple of the identity"
        raise refuse("covariance", "a positive definite matrix", f"eigenvalue {least:.3g}", remedy)


@final
@dataclass(frozen=True)
class PoissonNoise:
    """Counts: y / gain ~ Poisson(A(x_0) / gain), so the variance of y is gain A(x_0).

    The log-likelihood is that of the counts k = y / gain at rate r = A(x_0) / gain,
    k log r - r - log k!. A denoised state can have rates of 0 or below, at which it is not
    defined; there log r continues as its tangent at r = floor, and -r as -|r|, so that gradients
    lead back to positive rates.

    Args:
        gain: the value of y per count, above 0.
        floor: the rate, in counts, below which the tangent is taken.

    Raises:
        ValueError: the gain or the floor is not above 0.

    Example:
        >>> import torch
        >>> noise = PoissonNoise(gain=0.5)
        >>> float(
        ...     noise.log_prob(torch.tensor([[1.0]]), torch.tensor([[1.0]])).exp()
        ... )  # 2 at rate 2
        0.2706...
    """

    gain: float = 1.0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        keep(self, "gain", positive, "the value of one count")
        keep(self, "floor", positive, "a small rate in counts")

    def check_values(self, y: Tensor) -> None:
        """Raise a ValueError unless the observed entries of y are counts times the gain."""
        counts = torch.where(y.isnan(), torch.zeros_like(y), y).double() / self.gain
        wrong = (counts < 0) | ((counts - counts.round()).abs() > 1e-5 * counts.abs() + 1e-4)
        if bool(wrong.any()):
            got = (
                f"{float(y.double()[wrong][0]):.6g}, which is {float(counts[wrong][0]):.6g} counts"
            )
            remedy = "pass the gain of the detector, and y without an offset"
            raise refuse("y", f"whole numbers >= 0 times the gain {self.gain:g}", got, remedy)

    def log_prob(self, mean: Tensor, y: Tensor) -> Tensor:
        """The log-probability of each entry of y given A(x_0) = mean."""
        rate, k = mean / self.gain, (y / self.gain).round()
        low = rate < self.floor
        safe = torch.where(low, torch.full_like(rate, self.floor), rate)
        log_rate = safe.log() + torch.where(low, rate / self.floor - 1.0, torch.zeros_like(rate))
        # A count of 0 has no such term, not even at a rate of 0.
        hits = torch.where(k > 0, k * log_rate, torch.zeros_like(rate))
        return hits - rate.abs() - torch.lgamma(k + 1.0)

    def sample(self, mean: Tensor, seed: int) -> Tensor:
        """Draws of y given A(x_0) = mean: (B, *M); sample i has its own generator."""
        source = Independent(seed).stream("measurement")
        rates = (mean / self.gain).double().cpu()
        if bool((rates < 0).any()):
            remedy = "shift the data so that the operator gives positive rates"
            raise fail("x0", "A(x0) >= 0", float(mean.min()), remedy)
        draws = [
            torch.poisson(rate, generator=torch.Generator().manual_seed(source.seed_of(i)))
            for i, rate in enumerate(rates)
        ]
        return (torch.stack(draws) * self.gain).to(mean)


@final
@dataclass(frozen=True, repr=False)
class LogLikelihood(Shown):
    """The user's own log p(y | x_0).

    Args:
        fn: a differentiable function (x0, y) -> (B,), in nats, with x0: (B, *D) and y: (B, *M). It
            receives y as it is, with NaN where nothing was observed.

    Raises:
        TypeError: `fn` is not a function.

    Example:
        >>> import torch
        >>> laplace = LogLikelihood(lambda x0, y: -(y - x0).abs().sum(1))
    """

    fn: Callable[[Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise wrong_type("fn", "a function of (x0, y)", self.fn, "pass lambda x0, y: ...")


MeasurementNoise: TypeAlias = GaussianNoise | PoissonNoise | LogLikelihood
"""The kinds of noise of a measurement."""


def as_noise(noise: object) -> MeasurementNoise:
    """The noise itself, or Gaussian noise with this standard deviation, a number or (*M)."""
    if isinstance(noise, GaussianNoise | PoissonNoise | LogLikelihood):
        return noise
    if not isinstance(noise, bool) and isinstance(noise, Real | Tensor):
        return GaussianNoise(noise if isinstance(noise, Tensor) else float(noise))
    remedy = "pass a standard deviation, GaussianNoise, PoissonNoise or LogLikelihood"
    raise wrong_type("noise", "the noise of a measurement", noise, remedy)
