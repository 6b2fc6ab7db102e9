"""SDEs with any linear drift, whose marginals are computed by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, positive, wrong_type
from scoresde._tensor import Time, sqrt, wide
from scoresde.sde.base import AffineSDE, check_interval

__all__ = ["LinearSDE"]


@final
class LinearSDE(AffineSDE):
    """The SDE f(t, x) = rate(t) x with diffusion g(t), its marginals by adaptive quadrature.

    alpha, sigma, the log-SNR and its inverse, transitions and the prior are computed in float64
    from tables that are built once, to a relative error of 1e-10; a jump of the rate, a long
    horizon or a steep rate only costs table rows. The functions are called with 0-dim float64 CPU
    tensors, only at construction, and may return Python numbers. They are evaluated at a few
    thousand times, so a pulse shorter than T / 500 can be missed.

    Args:
        rate: t -> d log alpha / dt, per unit of time.
        diffusion: t -> g(t), positive.
        T, t_min, t_end: see `SDE`; t_min defaults to 1e-5 T, t_end to 1e-3 T.

    Raises:
        ValueError: an accuracy of 1e-10 cannot be reached (for example with a singular rate), a
            function returns a value that is not finite, or g vanishes on an interval.

    Example:
        >>> from scoresde import VPSDE
        >>> own = LinearSDE(lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: (0.1 + 19.9 * t) ** 0.5)
        >>> abs(own.sigma(0.3) - VPSDE().sigma(0.3)) < 1e-12
        True
    """

    def __init__(
        self,
        rate: Callable[[Tensor], Any],  # users' functions may return any kind of number
        diffusion: Callable[[Tensor], Any],
        T: float = 1.0,
        t_min: float | None = None,
        t_end: float | None = None,
    ) -> None:
        self.T = positive("T", T, "T is the time at which the data have become noise")
        self.t_min = 1e-5 * self.T if t_min is None else positive("t_min", t_min)
        self.t_end = max(1e-3 * self.T, self.t_min) if t_end is None else t_end
        check_interval(self)
        from scoresde.sde._quadrature import LinearMarginals  # kept out of `import scoresde`

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

    def _read(self, table: Callable[[Any], Any], t: Any) -> Any:  # any kind of Time
        """A function of the tables in the kind and dtype of t, computed in float64."""
        if isinstance(t, Tensor):
            return table(wide(t)).to(t.dtype)
        return table(t) if hasattr(t, "__array__") else float(table(t))

    def log_alpha(self, t: Time) -> Time:
        out: Time = self._read(self._marginals.log_alpha, t)
        return out

    def sigma(self, t: Time) -> Time:
        variance: Time = self._read(self._marginals.variance, t)
        return sqrt(variance)

    def log_snr(self, t: Time) -> Time:
        out: Time = self._read(self._marginals.log_snr, t)
        return out

    def time_of(self, log_snr: Time) -> Time:
        out: Time = self._read(self._marginals.time_of, log_snr)
        return out

    def rate(self, t: Time) -> Time:
        out: Time = self._read(self._marginals.rate, t)
        return out

    def g(self, t: Time) -> Time:
        square: Time = self._read(self._marginals.square, t)
        return sqrt(square)


def _float_function(name: str, fn: Callable[[Tensor], Any]) -> Callable[[float], float]:
    """A user's function of a 0-dim tensor as a function of a float, its values checked."""
    if not callable(fn):
        raise wrong_type(name, "a function of time", fn, "pass a callable, e.g. lambda t: 1.0")

    def of_float(t: float) -> float:
        got = fn(torch.tensor(t, dtype=torch.float64, device="cpu"))
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
