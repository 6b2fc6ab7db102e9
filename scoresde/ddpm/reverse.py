"""The reverse of a DDPM chain under a score model: its steps, and their terms of the bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from torch import Tensor

from scoresde._check import choice, fail, instance
from scoresde._tensor import Scalar
from scoresde.cond import Cond
from scoresde.ddpm.decoder import DECODERS, reconstruction, squared_error
from scoresde.ddpm.forward import ForwardChain, Steps
from scoresde.ddpm.schedule import as_variance
from scoresde.model import ScoreModel
from scoresde.prediction import Prediction
from scoresde.quantisation import Quantisation, check_levels

__all__ = ["ReverseChain", "Variance"]

Variance: TypeAlias = str | float | Sequence[float]
"""The choice of the reverse variances; see `DDPM`."""


@dataclass(frozen=True)
class ReverseChain(ForwardChain):
    """p(x_{i-1} | x_i) = N(mu_i, Sigma_i I), i = N ... 1; see `DDPM`."""

    variance: Variance = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variance", as_variance(self.variance, self.N))

    @cached_property
    def variances(self) -> tuple[float, ...]:
        """The reverse variances Sigma_1 ... Sigma_N in use."""
        if isinstance(self.variance, tuple):
            return self.variance
        v = {"small": 0.0, "large": 1.0}.get(self.variance, self.variance)  # type: ignore[arg-type]
        small = (self.betas[0], *self.posterior_variances[1:])
        pairs = zip(self.betas, small, strict=True)
        if v in (0.0, 1.0):
            return small if v == 0.0 else self.betas
        return tuple(math.exp(v * math.log(a) + (1 - v) * math.log(b)) for a, b in pairs)

    def p_mean_variance(
        self, model: ScoreModel, i: Steps, x: Tensor, cond: Cond = None
    ) -> tuple[Tensor, Scalar]:
        """Mean and variance of p(x_{i-1} | x_i); the mean uses x_0hat of the model.

        Args:
            model: a score model of a VP schedule that covers the chain.
            i: the step at which x is, from 1 to N, an int or (B,) integers.
            x: (B, *D), the state at step i.
            cond: conditions for the model.

        Returns:
            (B, *D), and Sigma_i as a float or (B, 1, ..., 1).

        Raises:
            TypeError, ValueError: see `q_step` and `nodes`.
        """
        instance("model", model, ScoreModel, "wrap the network: DDPM.score_model(net)")
        i = self._check_step(i, x)
        of_x, of_x0 = (self._row(v, i, x) for v in self._posterior)
        prediction = model.predict(self._node(model.sde, i, x), x, cond)
        return prediction.mix(of_x, "x0", of_x0), self._row(self.variances, i, x)

    def step_kl(
        self, model: ScoreModel, i: Steps, x0: Tensor, eps: Tensor, cond: Cond = None
    ) -> Tensor:
        """KL(q(x_{i-1} | x_i, x_0), p(x_{i-1} | x_i)) in nats, (B,), x_i being x_0 with noise eps.

        c_i^2 |x_0 - x_0hat|^2 / (2 Sigma_i) + (D/2)(r - 1 - log r), r = beta-tilde_i / Sigma_i.

        Args:
            model: a score model of a VP schedule that covers the chain.
            i: the step of x_i, from 2 to N, an int or (B,) integers.
            x0, eps: (B, *D).
            cond: conditions for the model.

        Raises:
            TypeError, ValueError: see `p_mean_variance`; the term of i = 1 is the decoder's.
        """
        i = self._check_step(i, x0)
        if int(i.min() if isinstance(i, Tensor) else i) < 2:
            raise fail("i", f"a step from 2 to {self.N}", i, "x_0 given x_1 is the decoder's")
        x = self.q_sample(i, x0, eps)
        prediction = model.predict(self._node(model.sde, i, x), x, cond)
        error = squared_error(prediction, x0, eps, "x0")
        weight, excess = (self._row(v, i, error) for v in self._kl_tables)
        kl: Tensor = weight * error + x0[0].numel() * excess
        return kl

    @cached_property
    def _kl_tables(self) -> tuple[list[float], list[float]]:
        """c^2 / (2 Sigma) and (r - 1 - log r) / 2 for i = 1 ... N; those of i = 1 are unused."""
        tilde, sigma = self.posterior_variances, self.variances
        weight = [c**2 / (2 * s) for c, s in zip(self._posterior[1], sigma, strict=True)]
        logs = [math.log(t / s) if t else 0.0 for t, s in zip(tilde, sigma, strict=True)]
        return weight, [0.5 * (math.expm1(log) - log) for log in logs]

    def decode(
        self,
        model: ScoreModel,
        x0: Tensor,
        draws: Sequence[Tensor],
        *,
        quantisation: Quantisation | None = None,
        decoder: str = "bins",
        cond: Cond = None,
    ) -> Tensor:
        """L_0 = -log p(x_0 | x_1) in nats, averaged over draws of eps: (B,).

        Args:
            model: a score model of a VP schedule that covers the chain.
            x0: (B, *D).
            draws: noises, each (B, *D).
            quantisation: the levels of the data, for the decoder "bins".
            decoder: a key of `DECODERS`.
            cond: conditions for the model.
        """
        choice("decoder", decoder, DECODERS)
        levels = check_levels(x0, quantisation) if decoder == "bins" else None
        node = self.nodes(model.sde)[0]

        def predict(eps: Tensor) -> Prediction:
            return model.predict(node, self.q_sample(1, x0, eps), cond)

        return reconstruction(predict, x0, list(draws), decoder, self.variances[0], levels)
