"""Schemes of strong order 1.5: Roessler's SRA1, ShARK, and a scheme with one call a step.

With the integration variable c = (alpha / sigma)^2 = e^(2 lambda) and u = x alpha / sigma^2 the
reverse SDE at eta = 1 is

    du = x_0hat(u, c) dc + dB_c,

a stochastic localisation, whose noise is additive and of unit size. So one can use stochastic
Runge-Kutta schemes that need two functionals of the Brownian motion over a step: the increment W
and the space-time Levy area H, with int (B - B_s) dc = c (W/2 + H). Written in x, a step over h in
lambda with x_0hat held fixed is exact and is the ancestral step,

    x_t = sigma_t / sigma_s e^-h x_s + alpha_t (1 - e^-2h) x_0hat + sigma_t sqrt(1 - e^-2h) z,

with z = W / sqrt(c). The stages below are such steps with other noise, and the last line of a
scheme is such a step with a mean of the x_0hat of its stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeAlias, final

from torch import Tensor

from scoresde._check import fail
from scoresde._tensor import Scalar, lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, ReverseSDE
from scoresde.schedule.grid import Schedule
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.step import StepSolver

__all__ = ["SRA1", "OneCallSRA", "ShARK", "ancestral", "check_eta_is_one", "sra1_step"]

Coefficients: TypeAlias = tuple[Scalar, Scalar, Scalar]
"""Factors of the state, of x_0hat and of a unit normal: floats, or columns (B, 1, ..., 1)."""


def check_eta_is_one(eta: Eta | None, name: str) -> None:
    """Raise a ValueError unless the process is the reverse SDE with eta = 1."""
    if callable(eta) or eta != 1.0:
        remedy = "set eta=1; SA-Solver (Adams) and DPM-Solver++ SDE (Singlestep) take any eta"
        raise fail("eta", f"1 for {name}, which solves the reverse SDE", eta, remedy)


def ancestral(now: Node, nxt: Node, decay: Scalar, fresh: Scalar) -> Coefficients:
    """Coefficients of the exact step with x_0hat held fixed; decay = e^-h, fresh = 1 - e^-2h."""
    return nxt.sigma / now.sigma * decay, nxt.alpha * fresh, nxt.sigma * fresh**0.5


def sra1_step(
    x: Tensor,
    first: Tensor,
    predict: Callable[[Tensor], Tensor],
    to_stage: Coefficients,
    to_end: Coefficients,
    z: Tensor,
    area: Tensor,
) -> tuple[Tensor, Tensor]:
    """Make one step of SRA1 from x; returns the state and x_0hat at the inner stage.

    Args:
        x, first: the state and its x_0hat, (B, *D).
        predict: a function that returns x_0hat at the stage, c_s + 3/4 (c_t - c_s).
        to_stage, to_end: the `ancestral` coefficients of the steps from x to the stage and to the
            end.
        z, area: the increment and the Levy area of the step, both normalised.
    """
    state, drift, std = to_stage
    second = predict(
        lincomb((state, x), (drift, first), (std * _HALF_ROOT3, z), (std * 0.5, area))
    )
    state, drift, std = to_end
    end = lincomb((state, x), (drift / 3.0, first), (2.0 * drift / 3.0, second), (std, z))
    return end, second


_HALF_ROOT3 = math.sqrt(3.0) / 2.0


class _StrongStep(StepSolver[ReverseSDE, Node, Tensor]):
    """Schemes for the reverse SDE of an affine SDE, at eta = 1.

    The row of a step is the node of its inner stage, at the fraction `stage_at` of the step in c.
    """

    stage_at: ClassVar[float]
    serves: ClassVar[str] = "sde"
    needs: ClassVar[type] = AffineSDE

    @property
    def orders(self) -> Orders:
        return Orders(weak=2, strong=1.5)

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        check_eta_is_one(eta, type(self).__name__)

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> list[Node]:
        affine: AffineSDE = sde  # type: ignore[assignment]  # see `needs`
        rows = []
        for now, nxt in pairwise(nodes):
            start, end = now.log_snr, nxt.log_snr
            share = math.log1p(self.stage_at * math.expm1(2.0 * (end - start))) / 2.0
            rows.append(affine.at(affine.time_of(start + share)))
        return rows


@final
@dataclass(frozen=True)
class SRA1(_StrongStep):
    """Roessler's SRA1 with the SNR as integration variable: strong order 1.5, two calls a step.

    The stage at c_s + 3/4 (c_t - c_s) is an ancestral step with unit noise, so the input of the
    network has the noise level that it expects. Roessler 2010 (SIAM J. Numer. Anal. 48, table
    6.2).
    """

    stage_at: ClassVar[float] = 0.75

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Node,
        past: tuple[Tensor, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z, area = noise.levy(x, now, nxt)
        first = process.predict(now, x).x0
        steps = _exact(now, row), _exact(now, nxt)
        return sra1_step(x, first, lambda y: process.predict(row, y).x0, *steps, z, area)[0], ()


@final
@dataclass(frozen=True)
class ShARK(_StrongStep):
    """ShARK with the SNR as integration variable: strong order 1.5, two calls a step.

    Its first call is at a state with additional noise, sigma_s sqrt((e^(2h) - 1)/12), so the input
    of the network has more noise than it expects, unlike with SRA1. Foster et al. 2024 (arXiv
    2101.07330, sec. 4).
    """

    stage_at: ClassVar[float] = 5 / 6

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Node,
        past: tuple[Tensor, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z, area = noise.levy(x, now, nxt)
        extra = now.sigma * math.sqrt(math.expm1(2.0 * (nxt.log_snr - now.log_snr)) / 12.0)
        first = process.predict(now, lincomb((1.0, x), (extra, area))).x0
        state_coef, drift, std = _exact(now, row)
        mixed = ((std * math.sqrt(5 / 6), z), (std * math.sqrt(1 / 10), area))
        inner = ((state_coef, x), (drift, first), *mixed)
        second = process.predict(row, lincomb(*inner)).x0
        state_coef, drift, std = _exact(now, nxt)
        return lincomb((state_coef, x), (0.4 * drift, first), (0.6 * drift, second), (std, z)), ()


@final
@dataclass(frozen=True)
class OneCallSRA(_StrongStep):
    """Strong order 1.5 with one call a step, under the exact score.

    Derivation. Along the exact reverse SDE x_0hat(u_c, c) = E[x_0 | path to c] is a martingale,
    dx_0hat = J dB with J its derivative by u, so int x_0hat dc = h x_0hat_s + J int (B - B_s) dc +
    higher terms = h x_0hat_s + h J (W/2 + H). A single call at c_s + h/3 and
    u_s + (h/3) m + (W/2 + H), whose noise has just the variance h/3 of a true state there, has
    the value x_0hat_s + J (W/2 + H) up to the same order whatever m is up to O(sqrt(h)), since
    its mean does not drift; m is the value of the call before. So x_t = a x_s +
    alpha_t (1 - e^(-2h)) m_u + sigma_t sqrt(1 - e^(-2h)) z needs one call (two in the first step).

    Limitation: a learned x_0hat is not exactly a martingale under its own dynamics. Its drift is
    integrated to first order only, so the strong order falls to 1 as the steps shrink (a test
    shows this with half the true score). Compare with `SRA1` on your model.
    """

    stage_at: ClassVar[float] = 1 / 3

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Node,
        past: tuple[Tensor, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        z, area = noise.levy(x, now, nxt)
        before = past[0] if past else process.predict(now, x).x0
        state_coef, drift, std = _exact(now, row)
        inner = ((state_coef, x), (drift, before), (std * _HALF_ROOT3, z), (std * 0.5, area))
        value = process.predict(row, lincomb(*inner)).x0
        state_coef, drift, std = _exact(now, nxt)
        return lincomb((state_coef, x), (drift, value), (std, z)), (value,)


def _exact(now: Node, nxt: Node) -> Coefficients:
    h = nxt.log_snr - now.log_snr
    return ancestral(now, nxt, math.exp(-h), -math.expm1(-2.0 * h))
