"""Denoising score matching: the loss, its weightings and the sampling of times."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from scoresde._check import choice, fail, finite, floating, instance, positive
from scoresde._tensor import Scalar, expand, lincomb, state_dtype, wide
from scoresde.model import Cond, ScoreModel, check_cond, summary_of
from scoresde.node import AffineNode, Node
from scoresde.prediction import COORDINATES, Prediction
from scoresde.schedule.grid import SoftLogSNR
from scoresde.sde import SDE, AffineSDE, as_affine

__all__ = [
    "LEAST_NOISE",
    "TIME",
    "TIMES",
    "WEIGHTING",
    "WEIGHTINGS",
    "ImportanceTime",
    "LogNormalTime",
    "LossTime",
    "TimeSampler",
    "UniformTime",
    "dsm_loss",
]

LEAST_NOISE = 0.2
"""The least noise that matters for the likelihood of quantised data, in bin widths."""

CELLS = 1000  # the cells of constant density in `LossTime`

Weighting = tuple[str, Callable[[Node], Scalar]]


def _edm(node: Node, sigma_data: float = 1.0) -> Scalar:
    square: Scalar = (node.sigma / node.alpha) ** 2
    return (square + sigma_data**2) / (square * sigma_data**2)


def _min_snr(node: Node, gamma: float = 5.0) -> Scalar:
    snr = (node.alpha / node.sigma) ** 2
    return snr.clamp_max(gamma) if isinstance(snr, Tensor) else min(snr, gamma)


WEIGHTINGS: dict[str, Weighting] = {
    "eps": ("eps", lambda n: 1.0),
    "x0": ("x0", lambda n: 1.0),
    "v": ("v", lambda n: 1.0),
    "likelihood": ("score", lambda n: 0.5 * n.g**2),
    "min_snr": ("x0", _min_snr),
    "edm": ("x0", _edm),
}
"""Weighting -> (the coordinate whose squared error is averaged, its weight at a node).

- "eps": |eps - eps_theta|^2, the simple loss of Ho et al. 2020 (sigma^2 on the score's error);
- "x0", "v": the same in these coordinates;
- "likelihood": g^2/2 on the score's error, which bounds the likelihood (Song et al. 2021, arXiv
  2101.09258, thm 1);
- "min_snr": min(snr, 5) on x_0's error (Hang et al. 2023, arXiv 2303.09556);
- "edm": (s^2 + 1)/s^2 on x_0's error, s = sigma/alpha (Karras et al. 2022, arXiv 2206.00364,
  table 1, with data of unit standard deviation).
"""


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
        if self.least is not None:
            positive("least", self.least, "the smallest sigma / alpha that matters")

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        if self.least is not None or bin_width is None:
            return self
        return replace(self, least=LEAST_NOISE * bin_width)

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        affine = _affine(sde)
        first = affine.t_min
        if self.least is not None and -math.log(self.least) < affine.log_snr(first):
            first = float(affine.time_of(-math.log(self.least)))
        affine.check_finite("t_min", first, "take t_min > 0")
        u = _uniforms(n, self.low_discrepancy, generator)
        t, slope = SoftLogSNR.between(affine, first).drawn(u, first)
        density = (affine.g(t) / affine.sigma(t)) ** 2 / (2 * slope)
        return t, 1.0 / (density * (affine.T - first))


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
        if self.std is not None:
            positive("std", self.std, "the standard deviation of the data")
        if not 0.0 < finite("uniform", self.uniform, "pass e.g. 0.2") <= 1.0:
            raise fail("uniform", "a share in (0, 1]", self.uniform, "pass e.g. 0.2")

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        return replace(self, std=std) if self.std is None else self

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        std = 1.0 if self.std is None else self.std
        share = _shares(_affine(sde), self.weighting, std, self.uniform)
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
    node = _Drawn(sde, sde.t_min + (sde.T - sde.t_min) * middle, middle[:, None])
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
        finite("mean", self.mean, "EDM takes -1.2 with scale=1.0")
        positive("std", self.std, "EDM takes 1.2")
        if not 0.0 <= finite("uniform", self.uniform, "pass e.g. 0.1") < 1.0:
            raise fail("uniform", "a share in [0, 1)", self.uniform, "pass e.g. 0.1")
        if self.scale is not None:
            positive("scale", self.scale, "the standard deviation of the data")

    def fitted(self, std: float, bin_width: float | None = None) -> TimeSampler:
        return replace(self, scale=std) if self.scale is None else self

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        affine = _affine(sde)
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
    "loss": LossTime,
}
"""Name -> distribution of the times, as the command line builds it."""

REACH = 12.0  # how far `LogNormalTime` extends from its centre where the log-SNR is unbounded


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


TIME = LogNormalTime()
"""The default distribution of the times of a loss."""

WEIGHTING = "eps"
"""The default weighting of a loss, a key of `WEIGHTINGS`."""


def _affine(sde: SDE) -> AffineSDE:
    remedy = "denoising score matching needs x_t given x_0 in closed form; see LinearSDE"
    return as_affine("model.sde", sde, remedy)


def dsm_loss(
    model: ScoreModel,
    x0: Tensor,
    *,
    weighting: str | Callable[[Node], Scalar] = WEIGHTING,
    time: TimeSampler | None = None,
    cond: Cond = None,
    cond_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Denoising score matching: w(t) |score_theta(t, x_t) + eps / sigma(t)|^2 for each sample.

    The error is computed in the model's own coordinate and scaled to that of the weighting, so
    nothing is divided by a small alpha or sigma. Vincent 2011; Song et al. 2021 (arXiv
    2011.13456), eq. 7.

    Args:
        model: the score model, of an affine SDE.
        x0: (B, *D) data in model units.
        weighting: a key of `WEIGHTINGS`, or w(node) on the squared error of eps.
        time: the distribution of times. The default `TIME` is log-normal around the scale of
            the data, if the model has it, with low discrepancy within the batch.
        cond: conditions, name -> (B, ...).
        cond_dropout: the probability that a sample's conditions are replaced by the model's
            `null`.
        generator: a CPU generator; the global one by default.

    Returns:
        (B,) losses, means over the dimensions; call `.mean()` for a training loss.

    Raises:
        TypeError, ValueError: x0 is not floating or is empty, the SDE is not affine, a name is
            unknown, or a probability is outside [0, 1].

    Example:
        >>> from scoresde import VPSDE, GaussianMixture
        >>> oracle = GaussianMixture(torch.zeros(1, 2), torch.ones(1)).under(VPSDE())
        >>> dsm_loss(oracle, torch.randn(8, 2)).shape
        torch.Size([8])
    """
    instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
    sde = _affine(model.sde)
    if floating("x0", x0).ndim < 2 or x0.numel() == 0:
        raise fail("x0", "a non-empty batch of shape (B, *D)", x0, "add a batch axis")
    kind, weigh = _weighting(weighting)
    time = TIME if time is None else time
    instance("time", time, TimeSampler, "pass LogNormalTime(), UniformTime(), ...")
    data = summary_of(model)
    scale = getattr(model, "sigma_data", None) if data is None else data.std
    if scale:
        time = time.fitted(scale)
    if generator is not None:
        instance("generator", generator, torch.Generator, "pass torch.Generator()")
    x0, cond = x0.to(state_dtype(x0.dtype)), check_cond(model, cond, len(x0), x0.device)
    _check_dropout(model, cond, cond_dropout)
    drawn, importance = time.sample(sde, len(x0), generator)
    node = _Drawn(sde, drawn, x0)
    eps = _normal_like(x0, generator)
    x = lincomb((node.alpha, x0), (node.sigma, eps))
    prediction = model.predict(node, x, _drop(model, cond, cond_dropout, generator))
    p, q = COORDINATES[prediction.kind](node)
    value = prediction.value.to(x0.dtype)
    target = eps if prediction.kind == "eps" else lincomb((q, eps), (p, x0))
    error = mse_loss(value, target, reduction="none").flatten(1).mean(1)
    scale = prediction.coefficients(kind)[1]
    for factor in (weigh(node) * scale**2, importance):
        if isinstance(factor, Tensor):
            error = error * _moved(factor, error).to(error.dtype).flatten()
        elif factor is not None and factor != 1.0:
            error = error * factor
    return error


@final
class _Drawn(AffineNode):
    """`sde.at(t, like)` for random times, which computes g, log_snr and rate on first access.

    Most losses need only alpha and sigma, and schedule evaluations dominate their cost beside
    the network.
    """

    __slots__ = ("_like", "_sde", "_time")

    def __init__(self, sde: AffineSDE, t: Tensor, like: Tensor) -> None:
        if t.shape != like.shape[:1]:
            remedy = "return as many as requested"
            raise fail("time", f"times of shape ({len(like)},)", t, remedy)
        moved = _moved(t, like)
        if moved.device.type == "cpu":  # on an accelerator this would force a synchronisation
            for end in moved.aminmax():
                sde.check_time("t", float(end))
        self._sde, self._like = sde, like
        self._time = expand(wide(moved), like)
        self.t = self.column_of(self._time, like)
        self.alpha = sde.alpha(self._time).to(like)
        self.sigma = sde.sigma(self._time).to(like)

    def __getattr__(self, name: str) -> Any:  # as in Node
        if name not in ("g", "log_snr", "rate"):
            return super().__getattr__(name)
        value = getattr(self._sde, name)(self._time)
        dtype = self.t.dtype if name == "log_snr" else self._like.dtype  # as in Node.fitted
        value = value.to(self._like.device, dtype)
        setattr(self, name, value)
        return value


def _weighting(weighting: str | Callable[[Node], Scalar]) -> Weighting:
    if callable(weighting):
        return "eps", weighting
    return WEIGHTINGS[choice("weighting", weighting, WEIGHTINGS)]


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return torch.randn_like(x)
    return _moved(torch.randn(x.shape, generator=generator, device="cpu", dtype=x.dtype), x)


def _moved(drawn: Tensor, like: Tensor) -> Tensor:
    """Move random numbers from the CPU to the device of `like`, without a synchronisation."""
    if like.device.type == "mps" and drawn.dtype == torch.float64:
        drawn = drawn.float()
    return drawn.to(like.device, non_blocking=like.device.type != "mps")


def _check_dropout(model: ScoreModel, cond: Cond, probability: float) -> None:
    if not 0.0 <= finite("cond_dropout", probability, "pass e.g. 0.1") <= 1.0:
        raise fail("cond_dropout", "a probability in [0, 1]", probability, "pass e.g. 0.1")
    null = getattr(model, "null", {})
    missing = sorted(set(cond or {}) - set(null))
    if missing and probability:
        remedy = "name the value that means 'no condition' in Preconditioned(..., null=...)"
        raise fail("cond", f"conditions among {sorted(null)}", missing, remedy)


def _drop(
    model: ScoreModel, cond: Cond, probability: float, generator: torch.Generator | None
) -> Cond:
    """Replace all conditions of a sample by the model's `null`, with this probability."""
    if not cond or probability == 0.0:
        return cond
    null: Mapping[str, object] = getattr(model, "null", {})
    n = next(iter(cond.values())).shape[0]
    drop = torch.rand(n, generator=generator, device="cpu") < probability
    dropped = {}
    for name, value in cond.items():
        empty = _moved(_null_of(name, null[name], value), value)
        dropped[name] = torch.where(expand(_moved(drop, value), value), empty, value)
    return dropped


def _null_of(name: str, null: object, value: Tensor) -> Tensor:
    """The null value of a condition in its dtype, on the CPU.

    Raises:
        ValueError: the dtype cannot hold it, such as NaN among whole numbers.
    """
    if value.is_floating_point() or value.is_complex() or not isinstance(null, int | float):
        fits = True
    elif value.dtype == torch.bool:
        fits = isinstance(null, bool)
    else:
        limits = torch.iinfo(value.dtype)
        fits = limits.min <= null <= limits.max and float(null).is_integer()
    if not fits:
        remedy = "convert the condition, e.g. with .float() or .long()"
        raise fail(f"cond[{name!r}]", f"a dtype that holds its null value {null}", value, remedy)
    return torch.as_tensor(null, device="cpu").to(value.dtype)
