"""Exponential integrators, which are exact in the linear part, with the log-SNR as variable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, TypeAlias, final

from torch import Tensor

from scoresde._check import choice, fail, keep, positive_int, switch
from scoresde._tensor import Scalar, lincomb
from scoresde.node import Node
from scoresde.process import Eta, ReverseSDE, eta_value
from scoresde.schedule.grid import Schedule
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers.base import Orders
from scoresde.solvers.exponential.coefficients import (
    PARAMETRISATIONS,
    VARIABLES,
    VARIANTS,
    Row,
    Segment,
    depth,
    table,
)
from scoresde.solvers.step import GaussianStep, check_enough_steps, corrector_nodes

__all__ = ["Adams"]

_MAX_ORDER = 5

Term: TypeAlias = tuple[Scalar, Tensor]
"""A prediction kept for later steps, as (c, m) with the coordinate c m."""


@final
@dataclass(frozen=True)
class Adams(GaussianStep[ReverseSDE, Row, Term]):
    """Exponential Adams: the prediction is interpolated through past nodes and integrated exactly.

    This is the implementation of the multistep solvers. For a step from node s to node t, with
    lambda = log(alpha / sigma) the log-SNR, h = lambda_t - lambda_s, k = eta^2 and the
    parametrisation "x0",

        x_t = sigma_t/sigma_s e^(-k h) x_s
              + alpha_t int (1 + k) e^(-(1 + k)(lambda_t - lambda)) x_0hat dlambda
              + sigma_t sqrt(1 - e^(-2 k h)) z,

    where x_0hat is interpolated through s and the `order` - 1 nodes before it. A `corrector`
    through c nodes, t among them, corrects the state at the start of the next step, whose
    prediction it reuses, so that a step makes one network call. The first steps use the
    predictions available. The derivation is that of `scoresde.solvers.exponential.coefficients`.

    | name | Adams |
    | --- | --- |
    | DDIM, DPM-Solver-1 and ++1; ancestral at eta = 1 | `Adams(1)` |
    | DPM-Solver++(2M) and its SDE form | `Adams(2, variant="midpoint")` |
    | DPM-Solver++(3M); as published, of second order | `Adams(3)`; `variant="reference"` |
    | UniPC-p; with its B(h) in the first steps | `Adams(p, p + 1)`; `variant="bh1"`, `"bh2"` |
    | SA-Solver P-k/C-m | `Adams(k, m)` at eta = tau |
    | DEIS tAB-k, of degree k | `Adams(k + 1, parametrisation="eps", variable="t")` |
    | DEIS rhoAB, k nodes | `Adams(k, parametrisation="eps", variable="rho")` |
    | DEIS in log rho | `Adams(k, parametrisation="eps")` |
    | Adams-Bashforth of a rectified flow | `Adams(k, parametrisation="flow", variable="flow")` |
    | iPNDM-k | `Adams(k, parametrisation="eps", variant="ipndm")` |

    Song et al. 2021 (arXiv 2010.02502), Lu et al. 2022 (arXiv 2211.01095), Zhao et al. 2023
    (arXiv 2302.04867), Xue et al. 2023 (arXiv 2309.05019), Zhang and Chen 2023 (arXiv 2204.13902).

    Args:
        order: the number of nodes of the predictor, 1 to 5, or to 4 for "ipndm".
        corrector: the number of nodes of the corrector, 2 to 6, or 0 for none.
        parametrisation: the coordinate that is interpolated: "x0", "eps", "v" or "flow" (eps -
            x_0).
        variable: the variable of the interpolation: "log_snr", "rho" (sigma / alpha), "t" or
            "flow" (sigma / (alpha + sigma)).
        variant: "exact", the exact integrals of the interpolation, or the weights of a paper in
            their place: "midpoint" (DPM-Solver++ 2M), "bh1" and "bh2" (UniPC, whose B(h) is h or
            e^h - 1, while two nodes are used), "reference" (the published code of DPM-Solver++
            3M) and "ipndm" (constant weights of equal steps).
        lower_final: lower the order to the number of remaining steps, which can help with few
            steps; with many steps the last step of order 1 reduces the global order to 2.
    """

    order: int = 1
    corrector: int = 0
    parametrisation: str = "x0"
    variable: str = "log_snr"
    variant: str = "exact"
    lower_final: bool = False

    needs: ClassVar[type] = AffineSDE

    def __post_init__(self) -> None:
        most = 4 if self.variant == "ipndm" else _MAX_ORDER
        if keep(self, "order", positive_int) > most:
            remedy = "higher orders are unstable at usual step sizes"
            raise fail("order", f"an integer from 1 to {most}", self.order, remedy)
        keep(self, "corrector", corrector_nodes, _MAX_ORDER, "order + 1 is usual, as in UniPC")
        choice("parametrisation", self.parametrisation, PARAMETRISATIONS)
        choice("variable", self.variable, VARIABLES)
        choice("variant", self.variant, VARIANTS)
        keep(self, "lower_final", switch)

    @property
    def orders(self) -> Orders:
        order = min(self.order + 1, self.corrector) if self.corrector else self.order
        if self.lower_final or self.variant in ("midpoint", "reference", "ipndm"):
            order = min(order, 2)
        return Orders(ode=order, weak=min(order, 2), strong=1)

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        check_enough_steps(self.order, schedule.grid)

    def rows(self, sde: SDE, nodes: tuple[Node, ...], eta: Eta | None) -> tuple[Row, ...]:
        affine: AffineSDE = sde  # type: ignore[assignment]  # see `needs`
        eta_at = partial(eta_value, eta) if callable(eta) else eta or 0.0
        return table(Segment(nodes, affine.time_of, eta_at), self)

    def kernel(
        self,
        process: ReverseSDE,
        x: Tensor,
        now: Node,
        nxt: Node,
        row: Row,
        past: tuple[Term, ...],
    ) -> tuple[Tensor, Scalar, tuple[Term, ...]]:
        state_coef, weights, noise_std = row
        prediction = process.predict(now, x)
        if not self._past:  # no later step reads the prediction: three passes over x
            return prediction.mix(state_coef, self.parametrisation, weights[0]), noise_std, ()
        known = (prediction.scaled(self.parametrisation), *past)
        terms = [(w * c, m) for w, (c, m) in zip(weights, known, strict=False)]
        return lincomb((state_coef, x), *terms), noise_std, known[: self._past]

    @cached_property
    def _past(self) -> int:
        """The number of past predictions that the next step reads."""
        return depth(self.order, self.corrector) - 1
