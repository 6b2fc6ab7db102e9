"""Exponential Runge-Kutta schemes, which make several calls a step and keep no history."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeAlias, final

from torch import Tensor

from scoresde._check import choice
from scoresde._tensor import lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta, ReverseSDE
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.step import StepSolver

__all__ = ["SCHEMES", "Singlestep", "phi"]


def phi(j: int, z: float) -> float:
    """phi_0 = e^z, phi_j = (phi_{j-1} - 1/(j-1)!)/z, without cancellation at small z.

    phi_j(z) = int_0^1 e^((1 - s) z) s^(j-1)/(j-1)! ds: the power series if |z| < 1, and the
    recursion otherwise.
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
"""The position of a stage in the step, and the weights of the earlier calls, in units of h."""


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
class Singlestep(StepSolver[ReverseSDE, tuple[Node, ...], Tensor]):
    """An exponential Runge-Kutta scheme in lambda, with stages within the step and no history.

    The stage at the fraction c of a step h in lambda is x_c = a x_s + h B sum_j a_j m_j (+ noise),
    where a is the factor of the state, m = x_0 (B = alpha) or eps (B = -sigma) is the coordinate
    and the weights a_j are combinations of phi functions of -(1 + eta^2) h or h. With eta > 0
    (only for the parametrisation "x0") the stages share one Brownian motion: DPM-Solver++ SDE and
    SEEDS-2, -3 (Gonzalez et al. 2023, arXiv 2305.14267); independent noise for each stage would
    give weak order 1.

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

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> list[tuple[Node, ...]]:
        """The nodes of the inner stages of every step, except stages at c = 1."""
        shares = [c for c, _ in SCHEMES[self.scheme][1][:-1]]
        return [
            tuple(nxt if c == 1.0 else _between(sde, now, nxt, c) for c in shares)
            for now, nxt in pairwise(nodes)
        ]

    def step(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: tuple[Node, ...],
        past: tuple[Tensor, ...],
        noise: Noise,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        k = process.eta_at(now) ** 2
        h = nxt.log_snr - now.log_snr
        known: list[Tensor] = []
        at, here, fresh = now, x, None
        for (_, weigh), node in zip(SCHEMES[self.scheme][1], (*row, nxt), strict=True):
            known.append(process.predict(at, here).read(self.parametrisation))
            if k and node is not at:
                fresh = _carried(fresh, x, at, node, k, noise)
            state_coef, size, z = self._step_to(now, node, k, h)
            terms = [(size * a, m) for a, m in zip(weigh(z), known, strict=True)]
            if fresh is not None:
                terms.append((1.0, fresh))
            here, at = lincomb((state_coef, x), *terms), node
        return here, ()

    def _step_to(self, now: Node, node: Node, k: float, h: float) -> tuple[float, float, float]:
        """The factors of the state and of the weights, and the argument of the phi functions."""
        if self.parametrisation == "eps":
            return node.alpha / now.alpha, -node.sigma * h, h
        state_coef = node.sigma / now.sigma * math.exp(-k * (node.log_snr - now.log_snr))
        return state_coef, node.alpha * (1.0 + k) * h, -(1.0 + k) * h


def _carried(
    old: Tensor | None, x: Tensor, at: Node, node: Node, k: float, noise: Noise
) -> Tensor:
    """The noise of the step up to a stage: the earlier noise, decayed, and the noise since."""
    h = node.log_snr - at.log_snr
    std = node.sigma * math.sqrt(-math.expm1(-2.0 * k * h))
    new = (std, noise.normal(x, at, node))
    if old is None:
        return lincomb(new)
    return lincomb((node.sigma / at.sigma * math.exp(-k * h), old), new)


def _between(sde: SDE, now: Node, nxt: Node, share: float) -> Node:
    """The node at a fraction of a step in lambda."""
    affine: AffineSDE = sde  # type: ignore[assignment]  # see `needs`
    return affine.at(affine.time_of(now.log_snr + share * (nxt.log_snr - now.log_snr)))
