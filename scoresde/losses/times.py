"""Distributions of the times of a loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from scoresde._check import choice, fail, finite, keep, positive
from scoresde._tensor import log
from scoresde.losses.drawn import Drawn, affine_of
from scoresde.losses.weightings import WEIGHTINGS
from scoresde.prediction import Prediction
from scoresde.schedule.grid import SoftLogSNR
from scoresde.sde import SDE, AffineSDE

__all__ = [
    "LEAST_NOISE",
    "TIME",
    "TIMES",
    "BoundTime",
    "ImportanceTime",
    "LogNormalTime",
    "LossTime",
    "TimeSampler",
    "UniformTime",
]

LEAST_NOISE = 0.2
"""The least noise that matters for the likelihood of quantised data, in bin widths."""

CELLS = 1000  # the cells of constant density in `LossTime`


class TimeSampler(ABC):
    """The distribution of the times of a batch, with weights that preserve the mean loss."""

    @abstractmethod
    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """n times in [t_min, T], (n,) float64 on the CPU, and importance weights (n,) or None."""

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        """The same sampler for data of this scale, unless it has been told one already.

        Args:
            std: the standard deviation of the data.
            bin_width: the distance of the levels of quantised data; None for any other.
        """
        return self


def _uniforms(n: int, low_discrepancy: bool, generator: torch.Generator | None) -> Tensor:
    if low_discrepancy:  # u_i = (u_0 + i/n) mod 1: Kingma et al. 2021 (VDM), app. I.1
        start = torch.rand((), dtype=torch.float64, generator=generator, device="cpu")
        return (start + torch.arange(n, dtype=torch.float64, device="cpu") / n) % 1.0
    return torch.rand(n, dtype=torch.float64, generator=generator, device="cpu")


@final
@dataclass(frozen=True)
class UniformTime(TimeSampler):
    """Times uniform on [t_min, T].

    Args:
        low_discrepancy: space the times of a batch evenly over the interval, which lowers the
            variance of the loss and preserves its mean (Kingma et al. 2021, arXiv 2107.00630,
            app. I.1).
    """

    low_discrepancy: bool = True

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        u = _uniforms(n, self.low_discrepancy, generator)
        return sde.t_min + (sde.T - sde.t_min) * u, None


@final
@dataclass(frozen=True)
class ImportanceTime(TimeSampler):
    """Times drawn in proportion to g^2 / sigma^2, the size of the likelihood-weighted loss.

    Under every affine SDE g^2 / sigma^2 = -2 d lambda / dt, so this is uniform in the log-SNR and
    its inverse CDF is `sde.time_of`, in closed form for the families; near pure noise, where the
    log-SNR is unbounded, it is uniform in `SoftLogSNR`. The weights 1 / (p(t) (T - t_0))
    preserve the mean of the loss over times uniform on [t_0, T], where t_0 is the time of the
    least noise. Song et al. 2021 (arXiv 2101.09258), sec. 5.1.

    Args:
        low_discrepancy: see `UniformTime`.
        least: the smallest sigma / alpha. If None, a `Trainer` on quantised data sets it to
            `LEAST_NOISE` bin widths, below which the levels are plain to see and the bound on
            the likelihood has nothing to gain; otherwise times begin at t_min.
    """

    low_discrepancy: bool = True
    least: float | None = None

    def __post_init__(self) -> None:
        keep(self, "least", positive, "the smallest sigma / alpha that matters", optional=True)

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        if self.least is not None or bin_width is None:
            return self
        return replace(self, least=LEAST_NOISE * bin_width)

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        affine = affine_of(sde)
        first = _first(affine, self.least)
        u = _uniforms(n, self.low_discrepancy, generator)
        t, slope = SoftLogSNR.between(affine, first).drawn(u, first)
        density = (affine.g(t) / affine.sigma(t)) ** 2 / (2 * slope)
        return t, 1.0 / (density * (affine.T - first))


@final
@dataclass(frozen=True)
class BoundTime(TimeSampler):
    """Times for the bound on the likelihood, drawn in proportion to its loss for Gaussian data.

    The likelihood-weighted loss is the integral of the error of eps over the log-SNR lambda. For
    data N(0, std^2 I) the best prediction has the mean squared error m(lambda) = 1 / (1 +
    e^(-2 lambda) / std^2). `ImportanceTime` takes all lambda alike, as for an error of 1
    everywhere, and so spends most samples where noise hides the data and there is nothing to
    learn. Here the density over lambda is in proportion to m, whose integral is a softplus, and a
    share of the times is uniform as in `ImportanceTime`, which bounds the weights by those of that
    one divided by the share. The weights 1 / (p(t) (T - t_0)) preserve the mean of the loss over
    times uniform on [t_0, T], where t_0 is the time of the least noise. Kingma et al. 2021 (VDM,
    arXiv 2107.00630), section 5.2, learn a schedule to the same end.

    Args:
        std: standard deviation of the data. If None, a `Trainer` measures it; otherwise it is 1.
        uniform: the share of times that are uniform in the log-SNR, in (0, 1].
        least: see `ImportanceTime`.
        low_discrepancy: see `UniformTime`.

    Example:
        >>> from scoresde import VPSDE
        >>> t, weight = BoundTime().sample(VPSDE(), 10_000, torch.Generator().manual_seed(0))
        >>> round(float(weight.mean()), 1)
        1.0
    """

    std: float | None = None
    uniform: float = 0.3
    least: float | None = None
    low_discrepancy: bool = True

    def __post_init__(self) -> None:
        for name in ("std", "least"):
            keep(self, name, positive, "leave it out to have it measured", optional=True)
        if not 0.0 < keep(self, "uniform", finite, "pass e.g. 0.3") <= 1.0:
            raise fail("uniform", "a share in (0, 1]", self.uniform, "pass e.g. 0.3")

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        least = None if bin_width is None else LEAST_NOISE * bin_width
        return replace(
            self,
            std=std if self.std is None else self.std,
            least=least if self.least is None else self.least,
        )

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        affine = affine_of(sde)
        first = _first(affine, self.least)
        soft = SoftLogSNR.between(affine, first)
        low, high = (soft.of(affine.log_snr(t)) for t in (affine.T, first))
        u = _uniforms(n, self.low_discrepancy, generator)
        plain, _ = soft.drawn((u / self.uniform).clamp_max(1.0), first)
        share = ((u - self.uniform) / max(1.0 - self.uniform, 1e-12)).clamp(0.0, 1.0)
        shift = math.log(1.0 if self.std is None else self.std)
        below, above = (_softplus(2 * (affine.log_snr(t) + shift)) for t in (affine.T, first))
        area = below + (above - below) * share.clamp_min(1e-9)
        focused = affine.time_of(area.expm1().log() / 2 - shift)
        t = torch.where(u < self.uniform, plain, focused.clamp(first, affine.T))
        log_snr = affine.log_snr(t)
        # The densities of lambda: dw/dlambda / (high - low), and m over its integral.
        even = torch.sigmoid(log_snr - log(soft.floor)) / (high - low)
        weighted = 2 * torch.sigmoid(2 * (log_snr + shift)) / (above - below)
        density = self.uniform * even + (1 - self.uniform) * weighted
        speed = (affine.g(t) / affine.sigma(t)) ** 2 / 2  # -dlambda/dt
        return t, 1.0 / (density * speed * (affine.T - first))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _first(sde: AffineSDE, least: float | None) -> float:
    """The time at which sigma / alpha is `least`, but t_min at the earliest."""
    first = sde.t_min
    if least is not None and -math.log(least) < sde.log_snr(first):
        first = float(sde.time_of(-math.log(least)))
    sde.check_finite("t_min", first, "take t_min > 0")
    return first


@final
@dataclass(frozen=True)
class LossTime(TimeSampler):
    """Times drawn in proportion to the loss of the optimal model of Gaussian data.

    For data N(0, std^2 I) the best prediction of eps has the mean squared error m(t) = alpha^2
    std^2 / (alpha^2 std^2 + sigma^2), so the loss of a weighting is m(t) times its weight on the
    error of eps. Among all densities p with weights 1 / (p(t) (T - t_min)), which preserve the
    mean of the loss over uniform times, this one minimises the variance of the weighted loss of
    that model, by the Cauchy-Schwarz inequality. Real data are not Gaussian, so a share of the
    times is uniform, which bounds the weights by 1 / uniform (defensive importance sampling:
    Hesterberg 1995, Technometrics 37). The density is constant in each of 1000 equal cells of
    time, and the weights are exact for it.

    Args:
        weighting: the weighting of the loss, a key of `WEIGHTINGS`.
        std: standard deviation of the data. If None, a `Trainer` measures it; otherwise it is 1.
        uniform: the share of uniform times, in (0, 1].
        low_discrepancy: see `UniformTime`.

    Example:
        >>> from scoresde import VPSDE
        >>> t, weight = LossTime().sample(VPSDE(), 1000, torch.Generator().manual_seed(0))
        >>> bool(t.median() < 0.3), bool(weight.max() <= 5)
        (True, True)
    """

    weighting: str = "eps"
    std: float | None = None
    uniform: float = 0.2
    low_discrepancy: bool = True

    def __post_init__(self) -> None:
        choice("weighting", self.weighting, WEIGHTINGS)
        keep(self, "std", positive, "the standard deviation of the data", optional=True)
        if not 0.0 < keep(self, "uniform", finite, "pass e.g. 0.2") <= 1.0:
            raise fail("uniform", "a share in (0, 1]", self.uniform, "pass e.g. 0.2")

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        return replace(self, std=std) if self.std is None else self

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        std = 1.0 if self.std is None else self.std
        share = _shares(affine_of(sde), self.weighting, std, self.uniform)
        upper = share.cumsum(0)
        u = _uniforms(n, self.low_discrepancy, generator) * upper[-1]
        cell = torch.searchsorted(upper, u, right=True).clamp_max(len(share) - 1)
        within = 1.0 - (upper[cell] - u) / share[cell]
        t = sde.t_min + (sde.T - sde.t_min) * (cell + within) / len(share)
        return t.clamp(sde.t_min, sde.T), 1.0 / (share[cell] * len(share))


def _shares(sde: AffineSDE, weighting: str, std: float, uniform: float) -> Tensor:
    """The probabilities of the cells of `LossTime`, (CELLS,).

    They are recomputed per batch, since a user's SDE may be mutable or unhashable.
    """
    kind, weigh = WEIGHTINGS[weighting]
    middle = (torch.arange(CELLS, dtype=torch.float64, device="cpu") + 0.5) / CELLS
    node = Drawn(sde, sde.t_min + (sde.T - sde.t_min) * middle, middle[:, None])
    signal, noise = (node.alpha * std) ** 2, node.sigma**2
    scale = Prediction(signal, node, signal, "eps").coefficients(kind)[1]
    loss = (weigh(node) * scale**2 * signal / (signal + noise)).flatten()
    out: Tensor = (1 - uniform) * loss / loss.sum() + uniform / CELLS
    return out


@final
@dataclass(frozen=True)
class LogNormalTime(TimeSampler):
    """Times at which log(sigma / alpha) is normal around the scale of the data.

    A network learns most where the noise is comparable with the data, which depends on sigma /
    (alpha scale): much smaller noise is invisible, much larger noise hides all but the mean. This
    density is centred between the two under every schedule. It is that of Karras et al. 2022
    (arXiv 2206.00364), table 1: their mean of -1.2 for data of standard deviation 0.5 is -1.2 -
    log(0.5), about -0.5, here. The density is part of the weighting there, so the weights are 1.

    A normal density would leave the ends of the schedule without a single sample, although a
    sampler starts at one end and stops at the other. So the normal is truncated at the ends of
    the schedule, and a share of the times is uniform in the log-SNR from t_min to T. Where an end
    has no finite log-SNR, the range ends where sigma / alpha is exp(12) or exp(-12) times its
    value at the centre.

    Args:
        mean, std: mean and standard deviation of log(sigma / (alpha scale)).
        uniform: the share of times that are uniform in the log-SNR, in [0, 1).
        scale: standard deviation of the data. If None, a `Trainer` measures it; otherwise it is 1.
        low_discrepancy: see `UniformTime`.

    Example:
        >>> from scoresde import EDMSDE
        >>> t, _ = LogNormalTime(scale=10.0).sample(EDMSDE(), 1000, torch.Generator())
        >>> bool(2 < t.median() < 20)
        True
    """

    mean: float = -0.5
    std: float = 1.2
    uniform: float = 0.1
    scale: float | None = None
    low_discrepancy: bool = True

    def __post_init__(self) -> None:
        keep(self, "mean", finite, "EDM takes -1.2 with scale=1.0")
        keep(self, "std", positive, "EDM takes 1.2")
        if not 0.0 <= keep(self, "uniform", finite, "pass e.g. 0.1") < 1.0:
            raise fail("uniform", "a share in [0, 1)", self.uniform, "pass e.g. 0.1")
        keep(self, "scale", positive, "the standard deviation of the data", optional=True)

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        return replace(self, scale=std) if self.scale is None else self

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        affine = affine_of(sde)
        low, high = -affine.log_snr(affine.t_min), -affine.log_snr(affine.T)
        centre = self.mean + math.log(1.0 if self.scale is None else self.scale)
        centre = min(max(centre, low), high)
        low = low if math.isfinite(low) else centre - REACH
        high = high if math.isfinite(high) else centre + REACH
        u = _uniforms(n, self.low_discrepancy, generator)
        flat = low + (high - low) * (u / self.uniform if self.uniform else u)
        share = ((u - self.uniform) / (1.0 - self.uniform)).clamp_min(0.0)
        below, above = (_normal_cdf((end - centre) / self.std) for end in (low, high))
        z = torch.special.ndtri(below + (above - below) * share)
        noise = torch.where(u < self.uniform, flat, (centre + self.std * z).clamp(low, high))
        return affine.time_of(-noise).clamp(affine.t_min, affine.T), None


TIMES: dict[str, type[TimeSampler]] = {
    "log_normal": LogNormalTime,
    "uniform": UniformTime,
    "importance": ImportanceTime,
    "bound": BoundTime,
    "loss": LossTime,
}
"""Name -> distribution of the times, as the command line builds it."""

REACH = 12.0  # how far `LogNormalTime` extends from its centre where the log-SNR is unbounded


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


TIME = LogNormalTime()
"""The default distribution of the times of a loss."""
