"""Coefficients of exponential Adams methods, derived.

**Problem.** In lambda, the log-SNR, and with k = eta^2, the reverse process of the coordinate x_0
is dx = [-(dlog sigma) - k] x dlambda + alpha (1 + k) x_0hat dlambda + noise. If
x_0hat is a function of lambda alone this is linear in x, and so it is for every coordinate m of
the
prediction: x_0, eps, v or eps - x_0.

**Integral.** So a step from s to t is, without approximation,
x_t = state_coef x_s + int K(lambda) m(lambda) dlambda + noise_std z. For x_0, with h the step,
state_coef = sigma_t/sigma_s e^(-k h), K = alpha_t (1 + k) e^(-(1 + k)(lambda_t - lambda)) and
noise_std = sigma_t sqrt(1 - e^(-2 k h)), as in the exact posterior.

**Interpolation.** m is replaced by the polynomial through its values at past nodes, in one of the
`VARIABLES`. Its Lagrange basis L_j turns the integral into a sum, int K m = sum_j w_j m_j with
w_j = int K L_j, by Gauss-Legendre quadrature with 32 points, which is exact to rounding.

**Example.** DPM-Solver++(2M) takes m = x_0 at two nodes, and its published weights. At eta = 0,
with r the last step over this one, D = x_0 + (x_0 - x_0') / (2 r) and
x_t = sigma_t/sigma_s x_s - alpha_t (e^(-h) - 1) D:

>>> import math
>>> from scoresde import VPSDE
>>> from scoresde.solvers import Adams
>>> a, s, t = (VPSDE().at(t) for t in (0.5, 0.4, 0.3))
>>> h, r = t.log_snr - s.log_snr, (s.log_snr - a.log_snr) / (t.log_snr - s.log_snr)
>>> gain = -t.alpha * math.expm1(-h)
>>> by_hand = t.sigma / s.sigma, gain * (1 + 1 / (2 * r)), -gain / (2 * r)
>>> row = Adams(2, variant="midpoint").rows(VPSDE(), (a, s, t), 0.0)[1]
>>> all(abs(x - y) < 1e-14 for x, y in zip(by_hand, (row.state_coef, *row.weights)))
True

All integrals are relative to the step, in float64; in absolute lambda the weights would lose
digits by cancellation. Nodes of floats are computed with numpy; nodes of 0-dim tensors with torch
by the same lines, and the rows are then differentiable with respect to the nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from scoresde._tensor import Scalar
from scoresde.node import Node

__all__ = [
    "PARAMETRISATIONS",
    "VARIABLES",
    "VARIANTS",
    "Parametrisation",
    "Row",
    "Scheme",
    "Segment",
    "depth",
    "table",
]

Array: TypeAlias = Any
"""A float64 array of numpy for nodes of floats, and of torch for nodes of tensors."""


class Row(NamedTuple):
    """The coefficients of one step.

    Attributes:
        state_coef: the factor of the state.
        weights: the factors of the predictions, newest first.
        noise_std: the standard deviation of the fresh noise.
    """

    state_coef: Scalar
    weights: tuple[Scalar, ...]
    noise_std: Scalar


class Scheme(Protocol):
    """The fields of an Adams method that its coefficients depend on; see `Adams`."""

    @property
    def order(self) -> int: ...
    @property
    def corrector(self) -> int: ...
    @property
    def parametrisation(self) -> str: ...
    @property
    def variable(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def lower_final(self) -> bool: ...


@cache
def _gauss() -> tuple[Any, Any, Any]:
    """Gauss points p and weights on [0, 1], and S with (S f)_q = int_{p_q}^1 f."""
    from numpy.polynomial import legendre

    y, weights = legendre.leggauss(32)
    fit = np.linalg.inv(legendre.legvander(y, len(y) - 1))
    tails = [-legendre.legval(y, legendre.legint(row, lbnd=1)) / 2 for row in np.eye(len(y))]
    return (y + 1.0) / 2, weights / 2, np.array(tails).T @ fit


class Segment:
    """The nodes of a segment as arrays, and the stochasticity on its steps.

    Attributes:
        xp: numpy, or torch if the fields of the nodes are 0-dim tensors.
        t, alpha, sigma, log_snr: the values at the nodes, (N + 1,).
        share: the Gauss points of [0, 1], (Q,).
        h: the steps in lambda, (N,), negative towards noise.
        ahead: lambda_t - lambda at the Gauss points of each step, (N, Q).
        k: eta^2 at the Gauss points, (N, Q).
    """

    def __init__(
        self,
        nodes: tuple[Node, ...],
        time_of: Callable[[Array], Array],
        eta: float | Callable[[float], float],
    ) -> None:
        names = ("t", "alpha", "sigma", "log_snr")
        smooth = isinstance(nodes[0].t, Tensor)
        self.xp: Any = torch if smooth else np  # the two modules share the names used here
        array: Any = torch.stack if smooth else np.array
        fields: list[Array] = [array([getattr(n, name) for n in nodes]) for name in names]
        self.t, self.alpha, self.sigma, self.log_snr = fields
        self.share, self._weights, self._tails = map(self.xp.asarray, _gauss())
        self.h = self.xp.diff(self.log_snr)
        self.ahead = self.h[:, None] * (1.0 - self.share)
        self.points = self.log_snr[1:, None] - self.ahead
        self.time_of = time_of
        if callable(eta):
            times = time_of(self.points)
            of_rows = [[eta(t) ** 2 for t in row] for row in times.tolist()]
            self.k = self.xp.asarray(of_rows, dtype=self.xp.float64)
        else:
            self.k = self.xp.full_like(self.ahead, eta**2)

    def tail(self, f: Array) -> Array:
        """int f dlambda from each Gauss point to the end of its step; f: (N, Q)."""
        out: Array = self.h[:, None] * (f @ self._tails.T)
        return out

    def whole(self, f: Array, steps: Any = slice(None)) -> Array:
        """int f dlambda over each step, or over some steps; f: (n, Q)."""
        out: Array = self.h[steps] * (f @ self._weights)
        return out


@dataclass(frozen=True)
class Parametrisation:
    """The dependence of the state on one coordinate of the prediction over the steps of a segment.

    Attributes:
        state_coef: the factor of the state, (N,).
        density: K at the Gauss points of each step, (N, Q).
        at_end: K at the end of each step, (N,).
        noise_std: the standard deviation of the fresh noise, (N,).
        unit: factor applied to the coordinate at each node, so that K depends on lambda alone.
    """

    state_coef: Callable[[Segment], Array]
    density: Callable[[Segment], Array]
    at_end: Callable[[Segment], Array]
    noise_std: Callable[[Segment], Array]
    unit: Callable[[Segment], Array]


def _ratio(values: Array) -> Array:
    out: Array = values[1:] / values[:-1]
    return out


def _norm(segment: Segment) -> Array:
    out: Array = segment.xp.hypot(segment.alpha, segment.sigma)
    return out


def _share(segment: Segment) -> Array:
    """sigma^2 / (alpha^2 + sigma^2) at the Gauss points."""
    m = segment.xp
    out: Array = m.exp(-m.logaddexp(m.zeros_like(segment.points), 2.0 * segment.points))
    return out


def _noise(segment: Segment) -> Array:
    """sigma / (alpha + sigma), the time of a rectified flow, at the Gauss points."""
    out: Array = 1.0 / (1.0 + segment.xp.exp(segment.points))
    return out


PARAMETRISATIONS: dict[str, Parametrisation] = {
    "x0": Parametrisation(
        state_coef=lambda g: _ratio(g.sigma) * g.xp.exp(-g.whole(g.k)),
        density=lambda g: g.alpha[1:, None] * (1.0 + g.k) * g.xp.exp(-g.ahead - g.tail(g.k)),
        at_end=lambda g: g.alpha[1:] * (1.0 + g.k[:, -1]),
        noise_std=lambda g: g.sigma[1:] * g.xp.sqrt(-g.xp.expm1(-2.0 * g.whole(g.k))),
        unit=lambda g: g.xp.ones_like(g.t),
    ),
    "eps": Parametrisation(
        state_coef=lambda g: _ratio(g.alpha),
        density=lambda g: -g.sigma[1:, None] * (1.0 + g.k) * g.xp.exp(g.ahead),
        at_end=lambda g: -g.sigma[1:] * (1.0 + g.k[:, -1]),
        noise_std=lambda g: g.sigma[1:] * g.xp.sqrt(g.whole(2.0 * g.k * g.xp.exp(2.0 * g.ahead))),
        unit=lambda g: g.xp.ones_like(g.t),
    ),
    "v": Parametrisation(
        state_coef=lambda g: _ratio(_norm(g)) * g.xp.exp(-g.whole(g.k * _share(g))),
        density=lambda g: (
            -_norm(g)[1:, None]
            * (1.0 + g.k)
            * g.xp.exp(-g.tail(g.k * _share(g)))
            / (2.0 * g.xp.cosh(g.points))
        ),
        at_end=lambda g: -_norm(g)[1:] * (1.0 + g.k[:, -1]) / (2.0 * g.xp.cosh(g.log_snr[1:])),
        noise_std=lambda g: _norm(g)[1:] * g.xp.sqrt(-g.xp.expm1(-2.0 * g.whole(g.k * _share(g)))),
        unit=lambda g: 1.0 / _norm(g),
    ),
    "flow": Parametrisation(
        state_coef=lambda g: _ratio(g.alpha + g.sigma) * g.xp.exp(-g.whole(g.k * _noise(g))),
        density=lambda g: (
            -(g.alpha + g.sigma)[1:, None]
            * (1.0 + g.k)
            * g.xp.exp(-g.tail(g.k * _noise(g)))
            / (2.0 + 2.0 * g.xp.cosh(g.points))
        ),
        at_end=lambda g: (
            -(g.alpha + g.sigma)[1:] * (1.0 + g.k[:, -1]) / (2.0 + 2.0 * g.xp.cosh(g.log_snr[1:]))
        ),
        noise_std=lambda g: (
            (g.alpha + g.sigma)[1:]
            * g.xp.sqrt(
                g.whole(2.0 * g.k * _noise(g) ** 2 * g.xp.exp(-2.0 * g.tail(g.k * _noise(g))))
            )
        ),
        unit=lambda g: g.xp.ones_like(g.t),
    ),
}
"""The coordinates to interpolate; with x0 the noise of a step is that of the exact posterior."""

VARIABLES: dict[str, Callable[[Segment, Array], Array]] = {
    "log_snr": lambda g, lam: lam,
    "rho": lambda g, lam: g.xp.exp(-lam),
    "t": lambda g, lam: g.time_of(lam),
    "flow": lambda g, lam: 1.0 / (1.0 + g.xp.exp(lam)),
}
"""The variables of the interpolating polynomial, as functions of lambda."""

_SHIFTS = {"log_snr": 1.0, "rho": 1.0}
"""Variables that a shift of lambda only scales; they are relative to the start of the step, so
that no digits cancel."""

VARIANTS = ("exact", "midpoint", "bh1", "bh2", "reference", "ipndm")
"""The variants of the weights: exact integrals, or the approximations of a paper or its code."""

_IPNDM = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True, eq=False)
class _Weights:
    """Weights of the predictions for the steps of a segment."""

    segment: Segment
    density: Array
    at_end: Array
    variable: str
    variant: str

    def integrals(self, i: Any, nodes: Any) -> Array:
        """int K L_j over steps i, (n,), for interpolation through `nodes`, (n, q)."""
        segment = self.segment
        if self.variable == "t":
            point, at = segment.time_of(segment.points[i]), segment.t[nodes]
        else:
            start, change = (
                segment.log_snr[i] * _SHIFTS.get(self.variable, 0.0),
                VARIABLES[self.variable],
            )
            point = change(segment, segment.points[i] - start[:, None])
            at = change(segment, segment.log_snr[nodes] - start[:, None])
        whole = []
        for j in range(at.shape[1]):
            part = self.density[i]
            for other in set(range(at.shape[1])) - {j}:
                gap = at[:, j] - at[:, other]
                part = part * ((point - at[:, other, None]) / gap[:, None])
            whole.append(segment.whole(part, i))
        return segment.xp.stack(whole, 1)

    def predictor(self, i: Any, q: int) -> Array:
        """Weights of the predictions at nodes i, ..., i - q + 1 for steps i."""
        m, h, whole = self.segment.xp, self.segment.h, self.segment.whole(self.density)
        if self.variant == "ipndm":
            constant = m.asarray(_IPNDM[q - 1], dtype=m.float64)
            return whole[i][:, None] * constant
        if q == 2 and self.variant in ("midpoint", "bh1", "bh2", "reference"):
            half = self._slope(i) * h[i] / h[i - 1]
            return m.stack([whole[i] + half, -half], 1)
        weights = self.integrals(i, i[:, None] - np.arange(q))
        if q == 3 and self.variant == "reference":
            # the published third-order update takes half of the second derivative
            r0, r1 = h[i - 1] / h[i], h[i - 2] / h[i]
            second = m.stack([1 / r0, -1 / r0 - 1 / r1, 1 / r1], 1) / (r0 + r1)[:, None]
            curved = self.segment.whole(self.density * self.segment.share**2 / 2)
            weights = weights - curved[i, None] * second
        return weights

    def corrector(self, i: Any, q: int) -> Array:
        """Weights of the predictions at nodes i + 1, ..., i - q + 2 for steps i."""
        if q == 2 and self.variant in ("bh1", "bh2"):
            half = self._slope(i)
            return self.segment.xp.stack([half, self.segment.whole(self.density)[i] - half], 1)
        return self.integrals(i, i[:, None] + 1 - np.arange(q))

    def _slope(self, i: Any) -> Array:
        """B(h)/2, the factor that papers use in place of the integral of a difference."""
        segment = self.segment
        size = segment.h * self.at_end if self.variant == "bh1" else segment.whole(self.density)
        half: Array = size[i] / 2
        return half


def _ramped(first: int, steps: int, most: int) -> list[tuple[Any, int]]:
    """Group the steps by the number of past predictions available, `first` at the start."""
    step = np.arange(steps)
    ready = np.minimum(step + first, most)
    return [(step[ready == q], q) for q in range(1, most + 1) if (ready == q).any()]


def depth(order: int, corrector: int) -> int:
    """The number of predictions that a step combines, the newest included."""
    return max(order + 1, corrector) if corrector else order


def table(segment: Segment, scheme: Scheme) -> tuple[Row, ...]:
    """Compute the rows of a segment, one per step.

    With a corrector a step first adds to its state the (corrector - predictor) weights of the step
    before, in which the earlier state and the noise cancel. Correction and step are then one
    linear combination (the PEC mode of SA-Solver and UniPC, with one network call a step).
    """
    parametrisation, n = PARAMETRISATIONS[scheme.parametrisation], len(segment.h)
    m, order, corrector = segment.xp, scheme.order, scheme.corrector
    width = depth(order, corrector)
    state_coef, noise_std, units = (
        f(segment)
        for f in (parametrisation.state_coef, parametrisation.noise_std, parametrisation.unit)
    )
    density, at_end = parametrisation.density(segment), parametrisation.at_end(segment)
    weigh = _Weights(segment, density, at_end, scheme.variable, scheme.variant)
    ahead, back = (m.zeros((n, width), dtype=m.float64) for _ in range(2))
    for steps, q in _ramped(1, n, order):
        left = np.minimum(q, n - steps) if scheme.lower_final else np.full_like(steps, q)
        for lower in np.unique(left).tolist():
            part = steps[left == lower]
            ahead[part, :lower] = weigh.predictor(part, lower)
    if corrector and n > 1:
        for steps, q in _ramped(2, n - 1, corrector):
            back[steps + 1, :q] += weigh.corrector(steps, q)
            back[steps + 1, 1:] -= ahead[steps, : width - 1]
    weights = ahead + state_coef[:, None] * back
    rows = []
    for step in range(n):
        known = min(width, step + 1)
        row = state_coef[step], weights[step, :known] * units[step - np.arange(known)]
        if m is torch:
            rows.append(Row(row[0], row[1].unbind(), noise_std[step]))
        else:
            rows.append(Row(float(row[0]), tuple(row[1].tolist()), float(noise_std[step])))
    return tuple(rows)
