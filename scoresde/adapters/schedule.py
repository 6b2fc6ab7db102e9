"""The SDE of a schedule t -> (alpha, sigma) that another library defines by a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive, wrong_type
from scoresde._tensor import Time, wide
from scoresde.sde import AffineSDE

__all__ = ["ScheduleSDE"]

BISECTIONS = 64


@final
@dataclass(frozen=True, eq=False, repr=False)
class ScheduleSDE(AffineSDE):
    """The affine SDE with these alpha(t) and sigma(t), its rates by automatic differentiation.

    rate = d log alpha/dt and g^2 = -2 sigma^2 d lambda/dt with lambda = log(alpha/sigma), computed
    in float64. The time of a log-SNR is found by bisection. The schedule may hold noise at t = 0.

    Args:
        schedule: t -> (alpha, sigma), differentiable functions of a float64 tensor of times that
            act on each entry.
        T: the largest time.

    Raises:
        TypeError: the schedule is not a function.
        ValueError: it does not return two positive tensors, or its log-SNR does not fall.

    Example:
        >>> sde = ScheduleSDE(lambda t: (torch.cos(t), torch.sin(t)))
        >>> round(sde.sigma(0.3) ** 2 + sde.alpha(0.3) ** 2, 12)
        1.0
        >>> round(sde.time_of(sde.log_snr(0.3)), 12)
        0.3
    """

    schedule: Callable[[Tensor], tuple[Tensor, Tensor]]
    T: float = 1.0

    def __post_init__(self) -> None:
        given: object = self.schedule
        if not callable(given):
            remedy = "pass t -> (alpha, sigma)"
            raise wrong_type("schedule", "a function of time", given, remedy)
        positive("T", self.T, "T is the time at which the data have become noise")
        times = torch.linspace(self.t_end, self.T, 257, dtype=torch.float64, device="cpu")
        alpha, sigma = self._pair(times)
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            instance(f"schedule: {name}", value, Tensor, "return two tensors of the shape of t")
            if value.shape != times.shape or not bool((value > 0).all()):
                remedy = "end at a T before alpha = 0"
                raise fail(f"schedule: {name}", "positive numbers, one a time", value, remedy)
        ratios = alpha.log() - sigma.log()
        if not bool((ratios.diff() < 0).all()):
            at = float(times[1:][ratios.diff() >= 0][0])
            remedy = "time runs from data at 0 to noise at T"
            raise fail(
                "schedule", "a log-SNR that falls", f"one that rises at t = {at:.4g}", remedy
            )

    def __repr__(self) -> str:
        name = getattr(self.schedule, "__qualname__", type(self.schedule).__name__)
        return f"ScheduleSDE({name}, T={self.T:g})"

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """0 if the schedule holds noise there, else 1e-5 T."""
        start = torch.zeros((), dtype=torch.float64, device="cpu")
        return 0.0 if float(self._pair(start)[1]) > 0.0 else 1e-5 * self.T

    @property
    def t_end(self) -> float:  # type: ignore[override]
        """Where sampling stops by default: t_min if that is 0, else 1e-3 T."""
        return self.t_min and 1e-3 * self.T

    def _pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times of float64."""
        pair: Any = self.schedule(t)  # of a user
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise wrong_type("schedule", "two tensors", pair, "return alpha and sigma")
        return pair[0], pair[1]

    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d log alpha/dt, d log sigma/dt and sigma."""
        with torch.inference_mode(False), torch.enable_grad():
            u = t.detach().clone().requires_grad_()
            alpha, sigma = self._pair(u)
            slopes = []
            for value in (alpha, sigma):
                if not value.requires_grad:  # a constant
                    slopes.append(torch.zeros_like(u))
                    continue
                (slope,) = torch.autograd.grad(
                    value.log().sum(), u, retain_graph=True, allow_unused=True
                )
                slopes.append(torch.zeros_like(u) if slope is None else slope)
        return slopes[0].detach(), slopes[1].detach(), sigma.detach()

    def _read(self, fn: Callable[[Tensor], Tensor], t: Any) -> Any:  # any kind of Time
        """A function of times of float64, in the kind and dtype of t."""
        if isinstance(t, Tensor):
            return fn(wide(t)).to(t.dtype)
        found = fn(torch.as_tensor(t, dtype=torch.float64, device="cpu"))
        return found.detach().numpy() if hasattr(t, "__array__") else float(found)

    def alpha(self, t: Time) -> Time:
        out: Time = self._read(lambda u: self._pair(u)[0], t)
        return out

    def sigma(self, t: Time) -> Time:
        out: Time = self._read(lambda u: self._pair(u)[1], t)
        return out

    def log_alpha(self, t: Time) -> Time:
        out: Time = self._read(lambda u: self._pair(u)[0].log(), t)
        return out

    def log_snr(self, t: Time) -> Time:
        out: Time = self._read(self._log_snr, t)
        return out

    def _log_snr(self, t: Tensor) -> Tensor:
        alpha, sigma = self._pair(t)
        return alpha.log() - sigma.log()

    def rate(self, t: Time) -> Time:
        out: Time = self._read(lambda u: self._slopes(u)[0], t)
        return out

    def g(self, t: Time) -> Time:
        out: Time = self._read(self._diffusion, t)
        return out

    def _diffusion(self, t: Tensor) -> Tensor:
        of_alpha, of_sigma, sigma = self._slopes(t)
        return sigma * (2 * (of_sigma - of_alpha)).clamp(min=0.0).sqrt()

    def time_of(self, log_snr: Time) -> Time:
        out: Time = self._read(self._time_of, log_snr)
        return out

    def _time_of(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.full_like(log_snr, self.T)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            early = self._log_snr(middle) > log_snr
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return (low + high) / 2
