"""Twists: approximations of log p(y | x_t) that guide particles and that their weights correct.

A twist is a density psi(x) in place of the unknown p(y | x_t). Any positive psi gives the right
result as the number of particles grows; the closer it is, the fewer are needed. For a linear
measurement y = A x_0 + n with covariance Sigma of the noise, psi(x) = N(y; A x_0hat, S), and S is

    "jacobian"    Sigma + (sigma^2 / alpha) A J A^T, the covariance of the second-order Tweedie
                  formula, J = dx_0hat / dx (Rozet et al. 2024, arXiv 2405.13712), by as many
                  vector-Jacobian products as y has numbers;
    "variance"    Sigma + r^2 A A^T with r^2 = v sigma^2 / (sigma^2 + v alpha^2), for data of
                  variance v (Song et al. 2023, PiGDM), by one product.

For every other likelihood, and for rewards, "point" is psi(x) = p(y | x_0hat)^a, by one product.
The power a = v alpha^2 / (v alpha^2 + sigma^2), the share of the signal in x for data of variance
v (1 if it is not known), makes it flat at high noise, where p(y | x_0hat) is far too sharp.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, positive, same_shape, wrong_type
from scoresde.cond import Cond
from scoresde.measurement import Denoised, Measurement
from scoresde.measurement.moments import noise_matrix, seen_jacobian
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["TWISTS", "Reward", "Target", "Twist", "Twisted", "make_twist"]

Reward = Callable[[Tensor], Tensor]
"""A log potential: x_0: (B, *D) -> (B,), in nats."""

TWISTS = ("auto", "jacobian", "variance", "point")

_MOST_PRODUCTS = 16
"""The most measured numbers for which "auto" takes the twist of one product for each."""


@final
@dataclass(frozen=True, eq=False)
class Twisted:
    """A twist at a batch of states.

    Attributes:
        plain: the prediction of the model.
        guided: the prediction whose score is shifted by the gradient of log psi.
        log_psi: log psi(x), (B,).
        products: vector-Jacobian products for each sample.
    """

    plain: Prediction
    guided: Prediction
    log_psi: Tensor
    products: int


@final
@dataclass(frozen=True, eq=False)
class Target:
    """What the particles are weighted by: the likelihood of a measurement, or a reward.

    Args:
        of: a measurement, or a function x_0 -> log potential.
    """

    of: Measurement | Reward

    def __post_init__(self) -> None:
        if not isinstance(self.of, Measurement) and not callable(self.of):
            remedy = "pass Measurement(operator, y, noise), or a function of x0"  # type: ignore[unreachable]
            raise wrong_type("measurement", "a Measurement or a reward", self.of, remedy)

    def admitting(self, model: ScoreModel) -> ScoreModel:
        """The model, which also admits the measurement as a condition."""
        return _Admitting(model, self.of) if isinstance(self.of, Measurement) else model

    def split(self, cond: Cond, x: Tensor) -> tuple[Tensor, Cond]:
        """The measurement of each state, (B, *M), and the conditions of the model."""
        if isinstance(self.of, Measurement):
            return self.of.split(cond, x)
        return x.new_zeros(len(x), 0), cond

    def log_prob(self, x0: Tensor, y: Tensor) -> Tensor:
        """log p(y | x_0), or the log potential of x_0, (B,)."""
        if isinstance(self.of, Measurement):
            return self.of.log_likelihood(x0, y)
        value = self.of(x0)
        instance("reward(x0)", value, Tensor, "return a tensor of shape (B,)")
        same_shape("reward(x0)", value, x0.flatten(1)[:, 0], "return one number for each sample")
        return value


@final
class _Admitting(ScoreModel):
    """The prior, which also admits the measurement as a condition."""

    def __init__(self, model: ScoreModel, measurement: Measurement) -> None:
        super().__init__()
        self.sde = model.sde
        self.model = model
        self.measurement = measurement

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.measurement.admit(self.model, cond)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.model.predict(node, x, self.measurement.split(cond, x)[1])


class Twist(ABC):
    """An approximation psi of p(y | x_t), with the gradient of its logarithm."""

    @abstractmethod
    def __call__(self, model: ScoreModel, node: Node, x: Tensor, y: Tensor, cond: Cond) -> Twisted:
        """The twist at states x: (B, *D) for measurements y: (B, *M)."""


@final
class _Point(Twist):
    """psi(x) = p(y | x_0hat)^a with a = v alpha^2 / (v alpha^2 + sigma^2)."""

    def __init__(self, target: Target, variance: float) -> None:
        self.target = target
        self.variance = variance

    def __call__(self, model: ScoreModel, node: Node, x: Tensor, y: Tensor, cond: Cond) -> Twisted:
        found = Denoised.of(model, node, x, cond)
        with torch.enable_grad():
            signal, noise = self.variance * node.alpha**2, node.sigma**2
            log_psi = self.target.log_prob(found.x0, y) * (signal / (signal + noise))
            if not log_psi.requires_grad:
                expected = "a differentiable function of x_0"
                raise fail("log potential", expected, "one without a gradient", "take out detach")
            grad = found.pull(torch.ones_like(log_psi), log_psi, last=True)
        return Twisted(found.prediction, found.prediction.shifted(grad), log_psi.detach(), 1)


_FAINT = 0.2
"""The largest D v alpha^2 / sigma^2 at which a state is taken to say nothing of the data.

No direction of the data has a variance above D v, so psi would change by little. A network says
more than nothing there: its Jacobian has errors, which sigma^2 / alpha makes large. On points of a
plane log p(y) was off by 4 nats, at a stated error of 0.3; it is right with bounds of 0.2 and 1.
"""


@final
class _Jacobian(Twist):
    """psi(x) = N(y; A x_0hat, Sigma + (sigma^2 / alpha) A J A^T), and 1 in nearly pure noise."""

    def __init__(self, measurement: Measurement, variance: float | None) -> None:
        self.variance = variance
        measurement.need_linear("the twist 'jacobian'")
        measurement.need_noise("the twist 'jacobian'")
        self.measurement = measurement

    def __call__(self, model: ScoreModel, node: Node, x: Tensor, y: Tensor, cond: Cond) -> Twisted:
        if self.variance is not None:
            signal = x[0].numel() * self.variance * node.alpha**2
            if signal < _FAINT * node.sigma**2:
                plain = model.predict(node, x, cond)
                return Twisted(plain, plain, x.new_zeros(len(x)), 0)
        measurement, found = self.measurement, Denoised.of(model, node, x, cond)
        residual = measurement.residual(found.x0.detach(), y).flatten(1).double()
        pulled, seen_J = seen_jacobian(measurement, found, y)
        spread = node.sigma**2 / node.alpha if node.alpha else 0.0  # J is 0 in pure noise
        covariance, noise = spread * seen_J, noise_matrix(measurement, y)
        factor = torch.linalg.cholesky(covariance + noise)
        weights = torch.cholesky_solve(residual[..., None], factor)[..., 0]
        log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        seen = (~y.isnan()).flatten(1).sum(1).double()
        log_psi = -0.5 * ((residual * weights).sum(1) + log_det + seen * math.log(2 * math.pi))
        grad = torch.einsum("bm,mb...->b...", weights.to(x), pulled)
        guided = found.prediction.shifted(grad)
        return Twisted(found.prediction, guided, log_psi.to(x), len(pulled))


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether two masks are on other devices, or are not the same."""
    return a.device != b.device or not torch.equal(a, b)


@final
class _Variance(Twist):
    """psi(x) = N(y; A x_0hat, Sigma + r^2 A A^T), in the eigenvectors of the whitened A A^T.

    With Sigma = L L^T and L^-1 A A^T L^-T = U diag(e) U^T the covariance is
    L U (I + r^2 diag(e)) U^T L^T at every time, so it is decomposed once. If each run brings its
    own y, all must observe the same entries. One variance is too small for averages of correlated
    values, such as blocks of pixels: then take "jacobian".
    """

    def __init__(self, measurement: Measurement, variance: float) -> None:
        measurement.need_linear("the twist 'variance'")
        measurement.need_noise("the twist 'variance'")
        self.measurement = measurement
        self.variance = variance
        self._seen: Tensor | None = None
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    def _decomposed(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e: (m,), U^T L^-1: (m, m), log det Sigma of the observed numbers: (), in float64."""
        seen = ~y[:1].isnan()
        if self.measurement.y is None and bool((seen != ~y.isnan()).any()):
            remedy = "reconstruct them one at a time, or take twist='jacobian'"
            expected = "the same entries observed in all runs for the twist 'variance'"
            raise fail("y", expected, "other NaN in some runs", remedy)
        stored = self._seen
        if self._parts is None or stored is None or _differ(stored, seen):
            one, measurement = y[:1].double(), self.measurement
            count = one[0].numel()
            eye = torch.eye(count, dtype=torch.float64, device=y.device)
            units = eye.reshape(count, *one.shape[1:])
            many = one.expand(count, *one.shape[1:])
            gram = measurement.forward(measurement.adjoint(units, many), many).flatten(1)
            noise = torch.linalg.cholesky(noise_matrix(measurement, one)[0])
            white = torch.linalg.solve_triangular(noise, gram, upper=False)
            white = torch.linalg.solve_triangular(noise, white.T, upper=False)
            values, vectors = torch.linalg.eigh((white + white.T) / 2)
            turned = vectors.T @ torch.linalg.solve_triangular(noise, eye, upper=False)
            log_det = 2.0 * noise.diagonal().log().sum()
            self._seen, self._parts = seen, (values.clamp_min(0.0), turned, log_det)
        return self._parts

    def __call__(self, model: ScoreModel, node: Node, x: Tensor, y: Tensor, cond: Cond) -> Twisted:
        measurement, found = self.measurement, Denoised.of(model, node, x, cond)
        values, turned, log_det = self._decomposed(y)
        residual = measurement.residual(found.x0.detach(), y).flatten(1).double() @ turned.T
        v = self.variance
        scale = 1.0 + v * node.sigma**2 / (node.sigma**2 + v * node.alpha**2) * values
        square = (residual.square() / scale).sum(1)
        seen = (~y.isnan()).flatten(1).sum(1).double()
        whole = log_det + scale.log().sum(-1) + seen * math.log(2 * math.pi)
        weights = (residual / scale @ turned).to(x).reshape(y.shape)
        grad = found.pull(measurement.adjoint(weights, y), last=True)
        log_psi = (-0.5 * (square + whole)).to(x)
        return Twisted(found.prediction, found.prediction.shifted(grad), log_psi, 1)


def make_twist(name: str, target: Target, model: ScoreModel, variance: float | None) -> Twist:
    """The twist of this name.

    Args:
        name: a name of `TWISTS`; "auto" is "jacobian" for linear measurements of at most 16
            numbers with Gaussian noise or with y in `cond`, "variance" for more numbers, else
            "point".
        target: the target.
        model: the model, whose data have the variance if it is not given.
        variance: the variance v of the data, for "variance" and "point".
    """
    choice("twist", name, TWISTS)
    of = target.of
    known = variance
    if known is not None:
        known = positive("variance", known, "pass the variance of the data, or None")
    elif model.data_scale is not None:
        known = model.data_scale[0] ** 2
    if name == "auto":
        name = "point"
        if isinstance(of, Measurement) and of.linear and of.gaussian:
            few = of.y is not None and of.y.numel() <= _MOST_PRODUCTS
            name = "jacobian" if few or of.y is None or known is None else "variance"
    if name == "point":
        return _Point(target, 1.0 if known is None else known)
    if not isinstance(of, Measurement):
        remedy = "leave twist out: a reward has the twist 'point'"
        raise wrong_type("measurement", f"a Measurement for twist={name!r}", of, remedy)
    if name == "jacobian":
        return _Jacobian(of, known)
    if known is None:
        remedy = "pass variance=, that of the data, or take another twist"
        raise fail("variance", "the variance of the data, which the model lacks", None, remedy)
    return _Variance(of, known)
