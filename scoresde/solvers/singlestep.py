"""Exponential Runge-Kutta schemes: several calls a step and no history."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias, final

from torch import Tensor

from scoresde._check import choice, fail
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Process
from scoresde.schedule.grid import Grid
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders, State, StepSolver, kept, nodes, reverse

__all__ = ["SCHEMES", "OneCallSRA", "SRA1", "ShARK", "Singlestep", "phi"]


def phi(j: int, z: float) -> float:
    """phi_0 = e^z, phi_j = (phi_{j-1} - 1/(j-1)!)/z, without cancellation at small z.

    phi_j(z) = int_0^1 e^((1 - s) z) s^(j-1)/(j-1)! ds: its power series where |z| < 1, the
    recursion elsewhere.
    """
    if abs(z) < 1.0:
        term = 1.0 / math.factorial(j)
        total, n = 0.0, j
        while total + term != total:
            total, n = total + term, n + 1
            term *= z / n
        return total
    value = math.exp(z)
    for i in range(j):
        value = (value - 1.0 / math.factorial(i)) / z
    return value


Stage: TypeAlias = tuple[float, Callable[[float], tuple[float, ...]]]
"""Where a stage lies in the step, and the weights of the calls before it, in units of h."""


def _midpoint(r: float, z: float) -> tuple[float, float]:
    slope = phi(1, z) / (2 * r)
    return phi(1, z) - slope, slope


def _third(z: float) -> tuple[float, ...]:
    slope = phi(2, z) / (2 / 3)
    return phi(1, z) - slope, 0.0, slope


def _third_stage(z: float) -> tuple[float, float]:
    slope = (2 / 3) ** 2 / (1 / 3) * phi(2, 2 / 3 * z)
    return 2 / 3 * phi(1, 2 / 3 * z) - slope, slope


def _res_second(z: float) -> tuple[float, float]:
    slope = phi(2, z) / 0.5
    return phi(1, z) - slope, slope


def _res_third_stage(z: float) -> tuple[float, float]:
    slope = 4.0 * 0.5 * phi(2, 0.5 * z) + 1.0 / 0.5 * phi(2, z)
    return phi(1, z) - slope, slope


def _res_third(z: float) -> tuple[float, float, float]:
    last = phi(2, z) / (4.0 * 0.5 + 1.0)
    return phi(1, z) - 5.0 * last, 4.0 * last, last


def _euler(c: float) -> Stage:
    return c, lambda z: (c * phi(1, c * z),)


SCHEMES: dict[str, tuple[int, tuple[Stage, ...]]] = {
    "2s": (2, (_euler(0.5), (1.0, lambda z: _midpoint(0.5, z)))),
    "3s": (3, (_euler(1 / 3), (2 / 3, _third_stage), (1.0, _third))),
    "res_2s": (2, (_euler(0.5), (1.0, _res_second))),
    "res_3s": (3, (_euler(0.5), (1.0, _res_third_stage), (1.0, _res_third))),
}
"""Scheme -> its order and its stages, the last of which is the step itself.

- "2s", "3s": DPM-Solver-2, -3 with the parametrisation "eps" (Lu et al. 2022, arXiv 2206.00927,
  alg. 1 and 2), DPM-Solver++(2S), (3S) with "x0" (arXiv 2211.01095);
- "res_2s", "res_3s": refined exponential schemes, which satisfy the stiff order conditions
  (Hochbruck and Ostermann 2005, SIAM J. Numer. Anal. 43, eq. 5.3 and 5.9 with c = 1/2, 1;
  Zhang et al. 2023, arXiv 2308.02157).
"""


@final
@dataclass(frozen=True)
class Singlestep(StepSolver):
    """An exponential Runge-Kutta scheme in lambda: stages within the step, no history.

    A stage at the share c of a step h in lambda has x_c = keep x_s + h B sum_j a_j m_j (+ noise)
    with the coordinate m = x_0 (B = alpha) or eps (B = -sigma) and weights a_j made of phi
    functions of -(1 + eta^2) h or h. With eta > 0 (parametrisation "x0" alone) the stages share
    one
    Brownian motion: DPM-Solver++ SDE and SEEDS-2, -3 (Gonzalez et al. 2023, arXiv 2305.14267);
    noise drawn for each stage apart would be of weak order 1.

    Args:
        scheme: a key of `SCHEMES`; two or three calls a step.
        parametrisation: "x0" or "eps".
    """

    scheme: str = "2s"
    parametrisation: str = "x0"

    needs: ClassVar[type] = AffineSDE

    def __post_init__(self) -> None:
        choice("scheme", self.scheme, SCHEMES)
        choice("parametrisation", self.parametrisation, ("x0", "eps"))

    @property
    def serves(self) -> str:  # type: ignore[override]
        """ "any" with the parametrisation "x0", else "ode"."""
        return "any" if self.parametrisation == "x0" else "ode"

    @property
    def orders(self) -> Orders:
        order = SCHEMES[self.scheme][0]
        return Orders(order, 2, 1) if self.parametrisation == "x0" else Orders(order)

    def init(self, process: Process, x: Tensor, segment: tuple[Node, ...]) -> State:
        return _stage_nodes(self.scheme, process.sde, tuple(node.t for node in segment)), 0

    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        walk, (between, i) = reverse(process), state
        k = walk.eta_at(now) ** 2
        h = nxt.log_snr - now.log_snr
        known: list[Tensor] = []
        at, here, fresh = now, x, None
        for (_, weigh), node in zip(SCHEMES[self.scheme][1], (*between[i], nxt), strict=True):
            known.append(walk.predict(at, here).read(self.parametrisation))
            if k and node is not at:
                fresh = _carried(fresh, x, at, node, k, noise)
            keep, size, z = self._step_to(now, node, k, h)
            terms = [(size * a, m) for a, m in zip(weigh(z), known, strict=True)]
            if fresh is not None:
                terms.append((1.0, fresh))
            here, at = lincomb((keep, x), *terms), node
        return here, (between, i + 1)

    def _step_to(self, now: Node, node: Node, k: float, h: float) -> tuple[float, float, float]:
        """Factor of the state, of the weights, and the argument of the phi functions."""
        if self.parametrisation == "eps":
            return node.alpha / now.alpha, -node.sigma * h, h
        keep = node.sigma / now.sigma * math.exp(-k * (node.log_snr - now.log_snr))
        return keep, node.alpha * (1.0 + k) * h, -(1.0 + k) * h


def _carried(
    old: Tensor | None, x: Tensor, at: Node, node: Node, k: float, noise: Noise
) -> Tensor:
    """The noise of the step so far: what there was, decayed, and the fresh part since."""
    h = node.log_snr - at.log_snr
    spread = node.sigma * math.sqrt(-math.expm1(-2.0 * k * h))
    new = (spread, noise.normal(x, at, node))
    if old is None:
        return lincomb(new)
    return lincomb((node.sigma / at.sigma * math.exp(-k * h), old), new)


@kept(64)
def _stage_nodes(scheme: str, sde: Any, times: tuple[float, ...]) -> tuple[tuple[Node, ...], ...]:
    """The nodes of the inner stages of every step; a stage at c = 1 lies on the grid's own."""
    segment = nodes(sde, times)
    out = []
    for now, nxt in pairwise(segment):
        h = nxt.log_snr - now.log_snr
        shares = [c for c, _ in SCHEMES[scheme][1][:-1]]
        made = (nxt if c == 1.0 else sde.at(sde.time_of(now.log_snr + c * h)) for c in shares)
        out.append(tuple(made))
    return tuple(out)


def _exact(now: Node, nxt: Node) -> tuple[float, float, float]:
    """The step of the reverse SDE with x_0hat held fixed: factors of x, x_0hat and z."""
    h = nxt.log_snr - now.log_snr
    fresh = -math.expm1(-2.0 * h)
    keep = nxt.sigma / now.sigma * math.exp(-h)
    return keep, nxt.alpha * fresh, nxt.sigma * math.sqrt(fresh)


_ROOT3 = math.sqrt(3.0) / 2.0


class _StrongStep(StepSolver):
    """Schemes of strong order 1.5 for the reverse SDE, in the clock c = (alpha / sigma)^2.

    There the reverse SDE is du = x_0hat(u, c) dc + dB_c with u = x alpha / sigma^2 (a stochastic
    localisation): additive noise of unit size, to which stochastic Runge-Kutta schemes apply that
    use the space-time Levy area of the Brownian motion beside its increment.
    """

    serves: ClassVar[str] = "sde"
    needs: ClassVar[type] = AffineSDE

    @property
    def orders(self) -> Orders:
        return Orders(weak=2, strong=1.5)

    def check_walk(self, process: Process, grid: Grid) -> None:
        eta = reverse(process).eta
        if callable(eta) or eta != 1.0:
            name = type(self).__name__
            remedy = "set eta=1; SA-Solver (Adams) and DPM-Solver++ SDE (Singlestep) take any eta"
            raise fail("eta", f"1 for {name}, which walks the reverse SDE", eta, remedy)


@final
@dataclass(frozen=True)
class SRA1(_StrongStep):
    """Roessler's SRA1 in the SNR clock: strong order 1.5, two calls a step.

    The stage at c_s + 3/4 (c_t - c_s) is an ancestral step with unit noise, so the network meets
    the noise level it expects. Roessler 2010 (SIAM J. Numer. Anal. 48, table 6.2).
    """

    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        walk = reverse(process)
        stage = _node_at(walk.sde, now, nxt, 0.75)
        z, area = noise.levy(x, now, nxt)
        first = walk.predict(now, x).x0
        keep, pull, spread = _exact(now, stage)
        inner = ((keep, x), (pull, first), (spread * _ROOT3, z), (spread * 0.5, area))
        second = walk.predict(stage, lincomb(*inner)).x0
        keep, pull, spread = _exact(now, nxt)
        return lincomb((keep, x), (pull / 3, first), (2 * pull / 3, second), (spread, z)), None


@final
@dataclass(frozen=True)
class ShARK(_StrongStep):
    """ShARK in the SNR clock: strong order 1.5, two calls a step.

    Its first call is at a state with extra noise, sigma_s sqrt((e^(2h) - 1)/12), so a network
    meets more noise than it expects; SRA1 does not have that. Foster et al. 2024 (arXiv
    2101.07330, sec. 4).
    """

    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        walk = reverse(process)
        stage = _node_at(walk.sde, now, nxt, 5 / 6)
        z, area = noise.levy(x, now, nxt)
        extra = now.sigma * math.sqrt(math.expm1(2.0 * (nxt.log_snr - now.log_snr)) / 12.0)
        first = walk.predict(now, lincomb((1.0, x), (extra, area))).x0
        keep, pull, spread = _exact(now, stage)
        mixed = ((spread * math.sqrt(5 / 6), z), (spread * math.sqrt(1 / 10), area))
        inner = ((keep, x), (pull, first), *mixed)
        second = walk.predict(stage, lincomb(*inner)).x0
        keep, pull, spread = _exact(now, nxt)
        return lincomb((keep, x), (0.4 * pull, first), (0.6 * pull, second), (spread, z)), None


@final
@dataclass(frozen=True)
class OneCallSRA(_StrongStep):
    """Strong order 1.5 with one call a step, under the exact score.

    Derivation. Along the exact reverse SDE x_0hat(u_c, c) = E[x_0 | path to c] is a martingale,
    dx_0hat = J dB with J its derivative by u, so int x_0hat dc = h x_0hat_s + J int (B - B_s) dc +
    higher terms = h x_0hat_s + h J (W/2 + H). A single call at c_s + h/3 and
    u_s + (h/3) m + (W/2 + H), whose noise has just the variance h/3 of a true state there, has
    the value x_0hat_s + J (W/2 + H) up to the same order whatever m is up to O(sqrt(h)), since
    its mean does not drift; m is the value of the call before. So x_t = keep x_s +
    alpha_t (1 - e^(-2h)) m_u + sigma_t sqrt(1 - e^(-2h)) z needs one call (two in the first step).

    Where it stops holding: a learned x_0hat is no exact martingale under its own dynamics. The
    drift that it then has is integrated to first order only, so the strong order falls to 1
    as the steps shrink (a test shows it, on a score that is half the true one). Compare with
    `SRA1` on your model.
    """

    def init(self, process: Process, x: Tensor, segment: tuple[Node, ...]) -> State:
        return None

    def step(
        self, process: Process, x: Tensor, now: Node, nxt: Node, state: State, noise: Noise
    ) -> tuple[Tensor, State]:
        walk = reverse(process)
        stage = _node_at(walk.sde, now, nxt, 1 / 3)
        z, area = noise.levy(x, now, nxt)
        before = walk.predict(now, x).x0 if state is None else state
        keep, pull, spread = _exact(now, stage)
        inner = ((keep, x), (pull, before), (spread * _ROOT3, z), (spread * 0.5, area))
        value = walk.predict(stage, lincomb(*inner)).x0
        keep, pull, spread = _exact(now, nxt)
        return lincomb((keep, x), (pull, value), (spread, z)), value


def _node_at(sde: SDE, now: Node, nxt: Node, share: float) -> Node:
    """The node at a share of the step in the clock c = e^(2 lambda)."""
    return _kept_node(sde, now.log_snr, nxt.log_snr, share)


@kept(4096)
def _kept_node(sde: Any, start: float, end: float, share: float) -> Node:
    log_snr = start + math.log1p(share * math.expm1(2.0 * (end - start))) / 2.0
    return sde.at(sde.time_of(log_snr))  # type: ignore[no-any-return]
