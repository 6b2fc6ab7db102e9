"""Marginals of dx = r(t) x dt + g(t) dw for any r and g: piecewise polynomials in float64.

With L(t) = int_0^t r, the marginal x_t | x_0 ~ N(alpha x_0, sigma^2) has alpha = exp(L) and
sigma^2 = exp(2 L(t)) int_0^t g(u)^2 exp(-2 L(u)) du. Both integrals are computed on panels that
are halved until the Legendre series of the integrands have converged, so a jump, a long horizon
or a steep rate costs panels, not accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["LinearMarginals"]

Numbers: TypeAlias = "npt.NDArray[np.float64]"
Function: TypeAlias = Callable[[float], float]

_DEGREE = 16
_NODES, _WEIGHTS = legendre.leggauss(_DEGREE)
_VANDER = legendre.legvander(_NODES, _DEGREE - 1)
_FIT = (_VANDER * _WEIGHTS[:, None]).T * (np.arange(_DEGREE) + 0.5)[:, None]
# maps the series of a function to that of its mean from the left edge to the point
_MEAN = _FIT @ (
    legendre.legval(_NODES, legendre.legint(np.eye(_DEGREE), lbnd=-1)).T / (_NODES + 1)[:, None]
)
# map the series of a function to its series on the left and on the right half
_HALVES = tuple(_FIT @ legendre.legvander((_NODES + s) / 2, _DEGREE - 1) for s in (-1, 1))
_TARGET = 1e-13  # the error of a panel, so that the sum stays far below the promised 1e-10
_PROMISE = 1e-10
_MOST_PANELS = 8192
_FEWEST_PANELS = 64  # so that nothing wider than T / 500 is missed between the nodes


class _Panel:
    """The Legendre series of r, g^2 and both integrals on one panel [a, b].

    `rate` and `square` are pairs (series, error); an error of 0 means that the series is exact.
    """

    def __init__(
        self, a: float, b: float, rate: tuple[Numbers, float], square: tuple[Numbers, float]
    ) -> None:
        self.a, self.b, self.width = a, b, b - a
        (self.rate, error_rate), (self.square, error_square) = rate, square
        self.exact = error_rate == error_square == 0.0
        # L(t) - L(a) = (t - a) R(t), so that it vanishes exactly at a; the same for V
        self.mean_rate = _MEAN @ self.rate
        growth = self.width / 2 * (_NODES + 1) * (_VANDER @ self.mean_rate)
        # where exp would overflow, the series is far from converged and the panel will be halved
        inner = _FIT @ ((_VANDER @ self.square) * np.exp(np.minimum(-2 * growth, 600.0)))
        self.mean_square = _MEAN @ inner
        self.log_gain = float(self.width * self.mean_rate.sum())
        self.variance = float(self.width * self.mean_square.sum())
        self.error_log = float(self.width * error_rate)
        tail = max(error_square, float(np.abs(inner[-2:]).max()))
        self.error_variance = float(self.width * tail)

    @classmethod
    def fit(cls, a: float, b: float, rate: Function, square: Function) -> _Panel:
        """The panel of two functions of a float."""
        width = b - a
        times = a + width / 2 * (_NODES + 1)
        edge = max(1e-12 * width, 8 * np.spacing(max(abs(a), abs(b))))
        sides = np.array([a + edge, b - edge]) if 2 * edge < width else times[[0, -1]]
        at_sides = 2 * ((sides - a) / width) - 1
        return cls(a, b, *(_fit(fn, times, sides, at_sides) for fn in (rate, square)))

    def halves(self, middle: float, rate: Function, square: Function) -> tuple[_Panel, _Panel]:
        """Both halves; the functions are evaluated again only if the series are not exact."""
        if not self.exact:
            return (
                _Panel.fit(self.a, middle, rate, square),
                _Panel.fit(middle, self.b, rate, square),
            )
        left, right = (((m @ self.rate, 0.0), (m @ self.square, 0.0)) for m in _HALVES)
        return _Panel(self.a, middle, *left), _Panel(middle, self.b, *right)


def _fit(fn: Function, times: Numbers, sides: Numbers, at_sides: Numbers) -> tuple[Numbers, float]:
    """The series of a function on a panel, and its error, which is 0 at the level of rounding."""
    series = _FIT @ np.array([fn(t) for t in times.tolist()])
    off = np.abs(legendre.legval(at_sides, series) - np.array([fn(t) for t in sides])).max()
    scale = np.abs(series).max()
    tail = max(np.abs(series[-2:]).max(), off if off > 1e-11 * scale else 0.0)
    return series, float(tail if tail > 4e-15 * scale else 0.0)


def _clenshaw(series: Any, y: Any) -> Any:  # arrays or tensors
    """Legendre series, one row of coefficients per point, at y in [-1, 1]."""
    b1 = series[..., -1]
    b2 = 0.0 * b1
    for k in range(_DEGREE - 2, -1, -1):
        b1, b2 = series[..., k] + (2 * k + 1) / (k + 1) * y * b1 - (k + 1) / (k + 2) * b2, b1
    return b1


def _panels(
    rate: Function, square: Function, T: float, t_min: float
) -> tuple[list[_Panel], list[float], list[float]]:
    """Converged panels from 0 to T, with log alpha and sigma^2 at their left edges."""
    floor = _Panel.fit(0.0, t_min, rate, square).variance
    geometric = np.geomspace(t_min, T, 2 + int(np.log2(T / t_min) / 3))[1:-1]
    even = np.linspace(0.0, T, _FEWEST_PANELS + 1)[1:-1]
    cuts = sorted({0.0, t_min, T, *geometric.tolist(), *even.tolist()})
    pending = [_Panel.fit(a, b, rate, square) for a, b in pairwise(cuts)][::-1]
    panels: list[_Panel] = []
    log_alpha, variance = [0.0], [0.0]
    error = 0.0
    while pending:
        panel = pending.pop()
        a, b = panel.a, panel.b
        size = max(variance[-1], floor if b <= t_min else 0.0) + abs(panel.variance)
        own_error = max(
            panel.error_log / (1.0 + abs(log_alpha[-1])),
            panel.error_variance / size if size > 0 else np.inf,
        )
        middle = a + (b - a) / 2
        if (
            not own_error <= _TARGET
            and a < middle < b
            and len(panels) + len(pending) < _MOST_PANELS
        ):
            pending += panel.halves(middle, rate, square)[::-1]
            continue
        error += own_error
        gained = np.exp(2 * panel.log_gain) * (variance[-1] + panel.variance)
        if not error <= _PROMISE or not np.isfinite(gained):
            raise ArithmeticError(
                f"a relative error of 1e-10 is not reached on [{a:.6g}, {b:.6g}]: "
                f"rate({a:.6g}) = {rate(a):.6g}, g({a:.6g})^2 = {square(a):.6g}"
            )
        panels.append(panel)
        log_alpha.append(log_alpha[-1] + panel.log_gain)
        variance.append(float(gained))
    return panels, log_alpha[:-1], variance[:-1]


class LinearMarginals:
    """Tables of log alpha, sigma^2, rate and g^2 on [0, T], for floats, arrays and tensors.

    Args:
        rate, diffusion: functions of a float that return a float.
        T: the end of the interval.
        t_min: the smallest time of use; sigma^2 is accurate relative to its value there.

    Raises:
        ArithmeticError: a relative error of 1e-10 cannot be reached; the message says where.
    """

    def __init__(
        self,
        rate: Callable[[float], float],
        diffusion: Callable[[float], float],
        T: float,
        t_min: float,
    ) -> None:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            panels, log_alpha, variance = _panels(rate, lambda t: diffusion(t) ** 2, T, t_min)
        self._arrays = {
            "edges": np.array([p.a for p in panels] + [T]),
            "width": np.array([p.width for p in panels]),
            "log_alpha": np.array(log_alpha),
            "variance": np.array(variance),
            "rate": np.array([p.rate for p in panels]),
            "square": np.array([p.square for p in panels]),
            "mean_rate": np.array([p.mean_rate for p in panels]),
            "joint": np.array([[p.mean_rate, p.mean_square, p.square] for p in panels]),
        }
        self._tensors: dict[torch.device, dict[str, Tensor]] = {}
        edges = self._arrays["edges"][1:]
        self._arrays["log_snr"] = np.append(np.inf, self.log_snr(edges))
        resolved = self._arrays["width"] > 64 * np.spacing(edges)
        constant = np.flatnonzero(resolved & (np.array([p.variance for p in panels]) <= 0))
        if constant.size:
            a, b = panels[constant[0]].a, panels[constant[0]].b
            raise ArithmeticError(
                f"the log-SNR does not fall on [{a:.6g}, {b:.6g}]: the diffusion vanishes there"
            )

    # Times are floats, arrays or tensors below, and results are arrays or tensors: hence Any.

    def _tables(self, t: Any) -> dict[str, Any]:
        """The tables as arrays, or as tensors on the device of t."""
        if not isinstance(t, Tensor):
            return self._arrays
        if t.device not in self._tensors:
            tables = {k: torch.as_tensor(v, device=t.device) for k, v in self._arrays.items()}
            self._tensors[t.device] = tables
        return self._tensors[t.device]

    def _locate(self, t: Any) -> tuple[dict[str, Any], Any, Any, Any]:
        """The tables, the panel of each time, the time past its left edge, and y in [-1, 1]."""
        table = self._tables(t)
        m: Any = torch if isinstance(t, Tensor) else np
        inner = table["edges"][1:-1]
        k = (
            torch.bucketize(t.contiguous(), inner, right=True)
            if m is torch
            else np.searchsorted(inner, t, "right")
        )
        past = t - table["edges"][k]
        return table, k, past, 2 * past / table["width"][k] - 1

    def log_alpha(self, t: Any) -> Any:
        """L(t) = int_0^t r."""
        table, k, past, y = self._locate(t)
        return table["log_alpha"][k] + past * _clenshaw(table["mean_rate"][k], y)

    def variance(self, t: Any) -> Any:
        """sigma(t)^2."""
        table, k, past, y = self._locate(t)
        return self._joint(table, k, past, y)[1]

    @staticmethod
    def _joint(table: dict[str, Any], k: Any, past: Any, y: Any) -> tuple[Any, Any, Any, Any]:
        """L(t), sigma(t)^2, g(t)^2 and the log-SNR, by one pass over the three series."""
        found = _clenshaw(table["joint"][k], y[..., None])
        growth, gained, square = (found[..., i] * f for i, f in enumerate((past, past, 1.0)))
        m: Any = torch if isinstance(found, Tensor) else np
        log_alpha = table["log_alpha"][k] + growth
        variance = m.exp(2 * growth) * (table["variance"][k] + gained)
        with np.errstate(divide="ignore"):  # the log-SNR is inf at t = 0
            return log_alpha, variance, square, log_alpha - m.log(variance) / 2

    def rate(self, t: Any) -> Any:
        """r(t)."""
        table, k, _, y = self._locate(t)
        return _clenshaw(table["rate"][k], y)

    def square(self, t: Any) -> Any:
        """g(t)^2."""
        table, k, _, y = self._locate(t)
        return _clenshaw(table["square"][k], y)

    def log_snr(self, t: Any) -> Any:
        """log(alpha / sigma)."""
        return self._joint(*self._locate(t))[3]

    def time_of(self, log_snr: Any) -> Any:
        """The time of a log-SNR: Newton's method, kept inside a bracket that shrinks."""
        table = self._tables(log_snr)
        m: Any = torch if isinstance(log_snr, Tensor) else np
        falling = -table["log_snr"][1:-1]
        k = m.searchsorted(falling, -log_snr)
        edge, width = table["edges"][k], table["width"][k]
        low, high = edge, table["edges"][k + 1]
        t = (low + high) / 2
        for _ in range(60):
            past = t - edge
            _, variance, square, own = self._joint(table, k, past, 2 * past / width - 1)
            above = own - log_snr  # positive if the solution is later
            low, high = m.where(above > 0, t, low), m.where(above > 0, high, t)
            newton = t + 2 * above * variance / square
            last, t = t, m.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            # on an accelerator the check would force a synchronisation, which costs more
            if (m is np or t.device.type == "cpu") and bool((abs(t - last) <= 2e-15 * t).all()):
                break
        return t
