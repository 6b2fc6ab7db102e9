"""The processes that solvers integrate: the reverse SDE of a model, and the forward SDE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance, nonnegative
from scoresde._html import Shown
from scoresde._tensor import Eta, Scalar, lincomb
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import SDE, AffineSDE, check_same_sde

__all__ = ["Eta", "ExtendedReverse", "ForwardSDE", "Process", "ReverseSDE", "eta_value"]


def eta_value(eta: Eta, t: float) -> float:
    """eta at time t; if eta is a function it receives a 0-dim float64 CPU tensor."""
    if not callable(eta):
        return eta
    if isinstance(eta, ExtendedReverse):
        return eta(t)
    value = eta(torch.tensor(t, dtype=torch.float64, device="cpu"))
    return nonnegative(f"eta({t:g})", value, "eta is a function of t with values >= 0")


class Process(Shown, ABC):
    """A process to integrate: its drift, as pairs (coefficient, tensor), and its diffusion.

    Attributes:
        sde: the forward SDE.
        nfe: the number of network evaluations so far.
    """

    sde: SDE
    nfe: int

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether the process has noise."""

    @abstractmethod
    def terms(self, node: Node, x: Tensor) -> tuple[tuple[Scalar, Tensor], ...]:
        """Pairs (c, m) whose sum of products c m is the drift dx/dt; x: (B, *D)."""

    @abstractmethod
    def diffusion(self, node: Node) -> float:
        """The coefficient of dw."""

    @final
    def drift(self, node: Node, x: Tensor) -> Tensor:
        """dx/dt at a node, (B, *D)."""
        return lincomb(*self.terms(node, x))


@final
class ReverseSDE(Process):
    """dx = [f - (1 + eta^2)/2 g^2 score] dt + eta g dw, with time running down.

    eta = 1 is the reverse SDE (Anderson 1982) and eta = 0 the probability flow (Song et al. 2021,
    arXiv 2011.13456, eq. 13). With the exact score every eta of at least 0, a constant or a
    function of time, gives the marginals of the forward SDE.

    Args:
        sde: the forward SDE.
        model: a score model for this SDE.
        eta: the stochasticity, a number of at least 0 or a function of t.
        cond: conditions that are passed to the model at every call.
    """

    def __init__(
        self,
        sde: SDE,
        model: ScoreModel,
        eta: Eta = 1.0,
        cond: Cond = None,
    ) -> None:
        instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        if model.sde is not sde:
            check_same_sde(sde, model.sde)
        self.sde = sde
        self.model = model
        self.eta = eta if callable(eta) else nonnegative("eta", eta, "0 is the ODE, 1 the SDE")
        self.cond = cond
        self.nfe = 0
        self._affine = isinstance(sde, AffineSDE)

    @property
    def stochastic(self) -> bool:
        return callable(self.eta) or self.eta != 0.0

    def eta_at(self, node: Node) -> float:
        """eta at a node of a grid."""
        return eta_value(self.eta, node.t)

    def predict(self, node: Node, x: Tensor) -> Prediction:
        """The prediction of the model; counts its network evaluations."""
        self.nfe += self.model.calls(node)
        return self.model.predict(node, x, self.cond)

    def terms(self, node: Node, x: Tensor) -> tuple[tuple[Scalar, Tensor], ...]:
        if self._affine and not node.batched and math.isinf(node.rate):
            got = f"t = {node.t:g}, where alpha = 0"
            remedy = "stay below T; only AdaptiveODE solves the flow up to T itself"
            raise fail("t", "a time with a finite drift", got, remedy)
        prediction = self.predict(node, x)
        strength = -0.5 * (1.0 + self.eta_at(node) ** 2) * node.g**2
        a, b = prediction.coefficients("score")
        if self._affine:
            return (node.rate + strength * a, x), (strength * b, prediction.value)
        return (1.0, self.sde.drift(node, x)), (strength * b, prediction.value)

    def diffusion(self, node: Node) -> float:
        return self.eta_at(node) * float(node.g)


@final
class ForwardSDE(Process):
    """dx = f(t, x) dt + g(t) dw, with time running up from data to noise.

    Args:
        sde: the SDE, affine or not.
    """

    def __init__(self, sde: SDE) -> None:
        instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
        self.sde = sde
        self.nfe = 0
        self._affine = isinstance(sde, AffineSDE)

    @property
    def stochastic(self) -> bool:
        return True

    def terms(self, node: Node, x: Tensor) -> tuple[tuple[Scalar, Tensor], ...]:
        return ((node.rate, x),) if self._affine else ((1.0, self.sde.drift(node, x)),)

    def diffusion(self, node: Node) -> float:
        return float(node.g)


@final
@dataclass(frozen=True)
class ExtendedReverse:
    """The stochasticity of the extended reverse-time SDE, as the eta of a `ReverseSDE`.

    With q = sigma / alpha and a noise scale phi(q), eta^2 = d log phi / d log q - 1: phi = q is
    the probability flow, q^2 the reverse SDE. Here phi = q (e^(q^0.3) + 10), so eta^2 =
    0.3 q^0.3 / (1 + 10 e^(-q^0.3)), which is large at high noise and small near the data.
    ER-SDE-Solver-p is `Adams(p, variable="rho")` at this eta; its published code approximates the
    integrals by Riemann sums of 100 terms, here they are exact. Cui et al. 2023 (arXiv
    2309.06169).

    Args:
        sde: the SDE, affine.

    Example:
        >>> from scoresde import VPSDE
        >>> eta = ExtendedReverse(VPSDE())
        >>> round(eta(1.0), 3), round(eta(0.01), 3)
        (1.105, 0.123)
    """

    sde: AffineSDE

    def __post_init__(self) -> None:
        instance("sde", self.sde, AffineSDE, "its eta is a function of sigma / alpha")

    def __call__(self, t: Tensor | float) -> float:
        power = math.exp(min(-0.3 * self.sde.log_snr(float(t)), 700.0))
        return math.sqrt(0.3 * power / (1.0 + 10.0 * math.exp(-power)))
