"""Posterior score models that take p(x_0 | x_t) as Gaussian: PiGDM, MMPS, TMPD.

With y = A x_0 + n, n ~ N(0, Sigma), and p(x_0 | x_t) = N(x_0hat, C),

    grad log p(y | x_t) = J^T A^T S^-1 (y - A x_0hat),    S = Sigma + A C A^T,

where J = dx_0hat / dx. The three differ in C.

In nearly pure noise the errors of a network's J are multiplied by sigma^2 / alpha, and the shift
of x_0hat, (sigma^2 / alpha) J^T A^T S^-1 (y - A x_0hat), would leave the data far behind. Of a
model that knows its data a shift longer than the limit l, twice the larger of the length of the
data and of that of the smallest change that explains y, is multiplied by (l / its length)^2.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, positive, positive_int, warn
from scoresde._tensor import Scalar, expand
from scoresde.measurement import Denoised, Measurement
from scoresde.measurement.moments import noise_matrix, seen_jacobian
from scoresde.model import ScoreModel, summary_of
from scoresde.node import Node
from scoresde.oracles import Gaussian
from scoresde.posterior.base import PosteriorModel, conjugate_gradients

__all__ = ["MMPS", "TMPD", "PiGDM"]


@final
class PiGDM(PosteriorModel):
    """Pseudo-inverse guidance: C = r^2 I with r^2 = v sigma^2 / (sigma^2 + v alpha^2).

    v is the variance of the data. With a `Gaussian` as prior C is (C_0^-1 + alpha^2/sigma^2)^-1
    for its covariance C_0, which is exact for Gaussian data. On a mixture of far components the
    bias is large, and more steps do not reduce it. One variance is far too small for averages of
    correlated values, as super-resolution of images takes them: samples then diverge.

    On mixtures of 25 far Gaussians samples are 29 to 38 times as far from the posterior as exact
    ones are from one another, on Gaussian data 1.8 to 2.6 times; with the covariance of the data 9
    to 29 and 1.0 times (docs/posteriors.md).

    Args:
        model: the score model of the prior.
        measurement: a linear measurement with Gaussian noise of positive variance.
        prior: the variance v, or a `Gaussian` such as `Gaussian.fit(data)`; by default the
            variance that the model knows of its data.
        tol: the relative residual of the conjugate gradients that solve with S.
        max_iter: the largest number of their products.

    Raises:
        TypeError: the operator is not linear, or the noise not Gaussian.
        ValueError: the noise is 0, or the variance of the data is not known.

    Source: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems".

    Example:
        >>> from scoresde import VPSDE, ReverseSampler
        >>> from scoresde.measurement import Identity
        >>> prior = Gaussian(torch.zeros(1), torch.ones(1)).under(VPSDE())
        >>> model = PiGDM(prior, Measurement(Identity(), torch.ones(1), 1.0))
        >>> x = ReverseSampler(VPSDE(), model, "ddim", steps=50).sample((4000, 1), seed=0)
        >>> abs(float(x.mean()) - 0.5) < 0.05
        True
    """

    basis: Tensor | None
    variances: Tensor

    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        prior: float | Gaussian | None = None,
        *,
        tol: float = 1e-6,
        max_iter: int = 200,
    ) -> None:
        super().__init__(model, measurement)
        measurement.need_linear("PiGDM")
        measurement.need_noise("PiGDM")
        self.tol = positive("tol", tol)
        self.max_iter = positive_int("max_iter", max_iter)
        if prior is None:
            if model.data_scale is None:
                remedy = "pass the variance of the data, or Gaussian.fit(data)"
                raise fail("prior", "a model that knows its data", None, remedy)
            prior = model.data_scale[0] ** 2
        basis = None
        if isinstance(prior, Gaussian):
            mixture = prior.mixture
            variances = mixture.variances[0].double()
            basis = None if mixture.basis is None else mixture.basis[0].double()
        else:
            variances = torch.tensor(positive("prior", prior), dtype=torch.float64)
        self.register_buffer("variances", variances)
        self.register_buffer("basis", basis)

    def _covariance(self, node: Node, v: Tensor) -> Tensor:
        """C v for v: (B, *D)."""
        flat = v.flatten(1)
        alpha, sigma = (
            c.reshape(-1, 1) if isinstance(c, Tensor) else c for c in (node.alpha, node.sigma)
        )
        known = self.variances.to(flat)
        scale = known * sigma**2 / (known * alpha**2 + sigma**2)
        if self.basis is None:
            return (scale * flat).reshape(v.shape)
        basis = self.basis.to(flat)
        return ((scale * (flat @ basis)) @ basis.T).reshape(v.shape)

    def shift(self, node: Node, found: Denoised, y: Tensor) -> Tensor:
        measurement = self.measurement

        def apply(v: Tensor) -> Tensor:
            spread = self._covariance(node, measurement.adjoint(v, y))
            return measurement.apply_noise(v, y) + measurement.forward(spread, y)

        residual = measurement.residual(found.x0 if found.kept else found.x0.detach(), y)
        w, _ = conjugate_gradients(apply, residual, self.tol, self.max_iter, "PiGDM")
        self.vjps += 1
        return _held(self, node, found.pull(measurement.adjoint(w, y), last=True), residual, y)


_FEW = 8
"""The most measured numbers for which S is written out."""


@final
class MMPS(PosteriorModel):
    """Moment matching posterior sampling: C = (sigma^2 / alpha) J.

    C is the covariance of x_0 given x_t itself (the second-order Tweedie formula), so the model is
    exact for Gaussian priors. On a mixture of far components p(x_0 | x_t) is not Gaussian at high
    noise, and a bias remains that more steps do not reduce. Each product with S costs one
    vector-Jacobian product. Of a network J need not be a covariance. For up to 8 measured numbers
    S is written out, by one product for each, with the symmetric positive part of A J A^T. For
    more, conjugate gradients need a symmetric J, and the solve of a sample ends where J turns out
    not to be symmetric and positive, with the solution of the least residual. On two mixtures in
    80 dimensions with 16 measured numbers, and a score that is wrong by 3 % of the output of its
    network, samples were 1.3 and 1.5 times as far from the posterior as exact ones, and 1.0 and
    1.4 times with the exact score. With S written out they were 3.0 and 1.4 times as far, and on
    the first, by GMRES, 15 times.

    On mixtures of 25 far Gaussians samples are 7 to 26 times as far from the posterior as exact
    ones are from one another, and on Gaussian data as near as those (docs/posteriors.md). With
    a trained network prefer a stochastic solver: the shifts by errors of J in nearly pure noise
    are limited, but they move all samples of the flow together.

    Args:
        model: the score model of the prior.
        measurement: a linear measurement with Gaussian noise of positive variance.
        tol: the relative residual of the conjugate gradients that solve with S.
        max_iter: the largest number of their products.

    Raises:
        TypeError: the operator is not linear, or the noise not Gaussian.
        ValueError: the noise is 0.

    Warns:
        UserWarning: the solve did not reach the tolerance, or J, which is symmetric and positive
            for an exact score, is not for this network.

    Source: Rozet et al. 2024 (arXiv 2405.13712), eq. 12 and algorithm 3.

    Example:
        >>> from scoresde import VPSDE, ReverseSampler
        >>> from scoresde.measurement import Mask
        >>> covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
        >>> prior = Gaussian(torch.zeros(2), covariance).under(VPSDE())
        >>> first = Mask(torch.tensor([True, False]))
        >>> model = MMPS(prior, Measurement(first, torch.tensor([2.0]), 0.5))
        >>> x = ReverseSampler(VPSDE(), model, "dpmpp_2m", steps=20).sample((4000, 2), seed=0)
        >>> [round(value, 1) for value in x.mean(0).tolist()]  # 2 / 1.25 times 1 and 0.8
        [1.6, 1.3]
        >>> model.vjps  # one in each of 21 calls
        21
    """

    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        *,
        tol: float = 1e-4,
        max_iter: int = 50,
    ) -> None:
        super().__init__(model, measurement)
        measurement.need_linear("MMPS")
        measurement.need_noise("MMPS")
        self.tol = positive("tol", tol)
        self.max_iter = positive_int("max_iter", max_iter)

    def shift(self, node: Node, found: Denoised, y: Tensor) -> Tensor:
        measurement, scale = self.measurement, _tweedie(node)

        def apply(v: Tensor) -> Tensor:
            image = measurement.forward(found.pull(measurement.adjoint(v, y)), y)
            return measurement.apply_noise(v, y) + _times(scale, image)

        residual = measurement.residual(found.x0 if found.kept else found.x0.detach(), y)
        if y[0].numel() <= _FEW and not found.kept:
            pulled, seen_J = seen_jacobian(measurement, found, y)
            S = noise_matrix(measurement, y) + _times(scale, seen_J)
            weights = torch.linalg.solve(S, residual.flatten(1).double()[..., None])[..., 0]
            self.vjps += len(pulled)
            each = weights.to(pulled).T.reshape(len(pulled), -1, *(1,) * (pulled.ndim - 2))
            return _held(self, node, (each * pulled).sum(0), residual, y)
        w, products = conjugate_gradients(
            apply,
            residual,
            self.tol,
            self.max_iter,
            "MMPS",
            floor=lambda v: measurement.apply_noise(v, y),
        )
        self.vjps += products + 1
        return _held(self, node, found.pull(measurement.adjoint(w, y), last=True), residual, y)


@final
class TMPD(PosteriorModel):
    """Tweedie moment projected diffusions: S = Sigma + the row sums of A (sigma^2 / alpha) J A^T.

    S is diagonal, so that two vector-Jacobian products suffice. It is exact where the rows of A C
    A^T have one entry, as for independent values of which some are measured. Values that are
    negatively correlated can make a sum negative; it then counts as 0, and samples can diverge,
    as those of images do of which a half is measured with little noise.

    On mixtures of 25 far Gaussians samples are 13 to 44 times as far from the posterior as exact
    ones are from one another, on Gaussian data 2.6 to 3.1 times (docs/posteriors.md).

    Args:
        model: the score model of the prior.
        measurement: a linear measurement with Gaussian noise, independent and of positive
            variance.

    Raises:
        TypeError, ValueError: as for `MMPS`; the noise is correlated.

    Warns:
        UserWarning: a row sum is negative.

    Source: Boys et al. 2023 (arXiv 2310.06721), section 3.

    Example:
        >>> from scoresde import VPSDE, ReverseSampler
        >>> from scoresde.measurement import Mask
        >>> prior = Gaussian(torch.zeros(2), torch.tensor([1.0, 4.0])).under(VPSDE())
        >>> second = Mask(torch.tensor([False, True]))
        >>> model = TMPD(prior, Measurement(second, torch.tensor([2.5]), 1.0))
        >>> x = ReverseSampler(VPSDE(), model, "dpmpp_2m", steps=20).sample((4000, 2), seed=0)
        >>> round(float(x[:, 1].mean()), 1)  # 2.5 times 4 / (4 + 1)
        2.0
    """

    def __init__(self, model: ScoreModel, measurement: Measurement) -> None:
        super().__init__(model, measurement)
        measurement.need_linear("TMPD")
        if measurement.need_noise("TMPD").correlated:
            raise fail("noise", "independent noise", repr(measurement.noise), "take MMPS")

    def shift(self, node: Node, found: Denoised, y: Tensor) -> Tensor:
        measurement = self.measurement
        ones = measurement.adjoint(torch.ones_like(y), y)
        sums = measurement.forward(found.pull(ones), y)
        if bool((_times(_tweedie(node), sums) < -0.1 * measurement.noise_variance(y)).any()):
            warn(
                "TMPD: a row of the covariance of the measured numbers has a negative sum, which "
                "counts as 0, so samples may be far off; take MMPS or PiGDM for such data",
            )
        sums = sums.clamp_min(0.0)
        spread = measurement.noise_variance(y) + _times(_tweedie(node), sums)
        residual = measurement.residual(found.x0 if found.kept else found.x0.detach(), y)
        self.vjps += 2
        shift = found.pull(measurement.adjoint(residual / spread, y), last=True)
        return _held(self, node, shift, residual, y)


_LONGEST = 2.0
"""The longest shift of x_0hat that is taken as it is, over the lengths that `_held` compares.

Chosen on one network of 1,500 steps for Gaussian data in 6 dimensions, with a blur, a mask and a
sum, three y each. Means of MMPS by the flow were 3.6 to 370 posterior deviations off for blur and
mask without a limit, and 0.1 to 0.3 with it; for the sum 0.04 in both cases. Half the limit, with
the same square, left up to 0.75. In 16 dimensions, with 12 numbers and a network of 1,200 steps,
PiGDM was 6.4 off without it and 0.95 with it, and MMPS 0.4 in both cases.
"""


def _held(model: PosteriorModel, node: Node, shift: Tensor, residual: Tensor, y: Tensor) -> Tensor:
    """The shift of the score, shortened where it would move x_0hat farther than data can be.

    The length of the least x with A x = r is |r| for a mask, and about |r| |A^T r| / |A A^T r|.
    """
    known = summary_of(model)
    if known is None:
        return shift
    measurement = model.measurement
    back = measurement.adjoint(residual, y)
    off, pulled, seen, moved = (
        v.flatten(1).norm(dim=1)
        for v in (residual, back, measurement.forward(back, y), _times(_tweedie(node), shift))
    )
    tiny = torch.finfo(seen.dtype).tiny
    least = off * pulled / seen.clamp_min(tiny)
    limit = _LONGEST * least.clamp_min(known.size * math.sqrt(shift[0].numel()))
    return expand((limit / moved.clamp_min(tiny)).clamp_max(1.0).square(), shift) * shift


def _tweedie(node: Node) -> Scalar:
    """sigma^2 / alpha; 0 where alpha = 0, since J is 0 there."""
    alpha, sigma = node.alpha, node.sigma
    if isinstance(alpha, Tensor):
        none = alpha == 0.0
        return torch.where(none, 0.0, sigma**2 / torch.where(none, 1.0, alpha))
    return float(sigma**2 / alpha) if alpha else 0.0


def _times(scale: Scalar, v: Tensor) -> Tensor:
    """A coefficient of a node, of which a batched one has the axes of x, times v: (B, *M)."""
    if isinstance(scale, Tensor):
        return scale.reshape(-1, *(1,) * (v.ndim - 1)) * v
    return scale * v
