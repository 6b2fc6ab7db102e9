"""Denoising diffusion restoration models: a measurement in its singular directions."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, nonnegative
from scoresde._tensor import wide
from scoresde.cond import Cond
from scoresde.measurement import Measurement
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.posterior.base import MeasuredModel
from scoresde.prediction import Prediction

__all__ = ["DDRM"]


@final
class DDRM(MeasuredModel):
    """Denoising diffusion restoration: each singular direction of A takes its own share of y.

    With A = U diag(s) V^T and noise of standard deviation std, y tells the entry s of V^T x_0 up
    to an error of std / s, and the state up to one of sigma / alpha. In each direction x_0hat
    becomes x_0hat + w (y / s - x_0hat), with

        w = eta_b                                       where sigma / alpha >= std / s,
        w = sqrt(1 - eta^2) (sigma / alpha) / (std / s) elsewhere, and 0 where s = 0,

    the mean of the paper's update at the noise of the state. That is all that a score model can
    keep of DDRM: the update also replaces the noise of the state, by one that is narrower by what
    y contributes, while here the solver makes all of the noise. Without noise and with eta_b = 1
    it is `DDNM`, and with infinite noise the model itself. w jumps where the two errors are equal.

    It is biased, as the paper's chain is, even for Gaussian data. In 8 correlated dimensions of
    which 4 are measured, with noise of 0.5, W2/sqrt(8) from the posterior is 0.19 with "ancestral"
    and 0.25 with "ddim" with 100 steps, where the chain of the paper is at 0.25, the prior at 0.73
    and as many exact samples at 0.01. On mixtures of 25 far Gaussians in 8 dimensions, with 2
    measured numbers (`benchmarks/posteriors.py`), the sliced W1 distance is 4.9 with 100 steps, as
    with 300, where `PiGDM` is at 3.2 and exact samples at 0.10 (tests/posterior/test_ddrm.py).

    Args:
        model: the score model of the prior.
        measurement: a measurement by a decomposable operator, with Gaussian noise of one standard
            deviation, which may be 0; NaN in y only for `Identity` and `Mask`.
        eta: from 0 to 1; 1 ignores y in the directions that the state tells better.
        eta_b: from 0 to 1, the share of y in the directions that y tells better.

    Raises:
        TypeError: the operator has no known singular values, or the noise is not Gaussian.
        ValueError: the noise is correlated or not of one number, y has NaN with another operator,
            or eta or eta_b is not from 0 to 1.

    Source: Kawar et al. 2022 (arXiv 2201.11793), section 3.2; eta and eta_b are those of its
    experiments.

    Example:
        >>> import torch
        >>> from scoresde import Gaussian, ReverseSampler, VPSDE
        >>> from scoresde.measurement import Mask
        >>> prior = Gaussian(torch.zeros(2), torch.ones(2)).under(VPSDE())
        >>> y = Measurement(Mask(torch.tensor([True, False])), torch.tensor([1.5]), 0.1)
        >>> x = ReverseSampler(VPSDE(), DDRM(prior, y), steps=20).sample((1000, 2), seed=0)
        >>> [round(value, 1) for value in x.mean(0).abs().tolist()]
        [1.5, 0.0]
    """

    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        *,
        eta: float = 0.85,
        eta_b: float = 1.0,
    ) -> None:
        super().__init__(model, measurement)
        self.operator = measurement.need_decomposable("DDRM")
        self.std = measurement.need_equal("DDRM")
        measurement.need_complete("DDRM")
        self.eta, self.eta_b = _share("eta", eta, 0.85), _share("eta_b", eta_b, 1.0)

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        self.measurement.need_complete("DDRM", cond)
        return super().admit(cond)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        y, rest = self.measurement.split(cond, x)
        x0 = self.model.predict(node, x, rest).x0
        # In float64, since y / s of a small s is large before its w makes it small.
        missed = self.operator.pinv(wide(self.measurement.residual(x0, y)))
        moved = self.operator.gram_function(lambda s: self._weights(node, s), missed)
        # As x_0, since eps and score of a state off the measurement are infinite at t = 0.
        return Prediction(x, node, x0 + moved.to(x0), "x0")

    def _weights(self, node: Node, s: Tensor) -> Tensor:
        """w for singular values s, with coefficients of a batched node for each sample."""
        of_state, of_y = node.sigma * s, node.alpha * self.std * torch.ones_like(s)
        known = of_state >= of_y
        less = math.sqrt(1.0 - self.eta**2) * of_state / torch.where(known, 1.0, of_y)
        return torch.where(s > 0.0, torch.where(known, self.eta_b, less), 0.0)


def _share(name: str, value: float, usual: float) -> float:
    """A number from 0 to 1."""
    number = nonnegative(name, value, f"{usual:g} is usual")
    if number > 1.0:
        raise fail(name, "a number from 0 to 1", value, f"{usual:g} is usual")
    return number
