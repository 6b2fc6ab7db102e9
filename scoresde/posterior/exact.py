"""The exact posterior of a Gaussian or a mixture given a linear measurement."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive_int
from scoresde._tensor import Scalar, seeded
from scoresde.cond import Cond
from scoresde.measurement import Measurement
from scoresde.measurement.base import pairs
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.oracles import (
    Gaussian,
    GaussianMixture,
    column,
    flattened,
    log_densities,
    variance_at,
)
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE

__all__ = ["ExactPosterior"]


@final
class ExactPosterior(ScoreModel):
    """The exact score of p(x_t | y) for a Gaussian or a mixture prior, with y = A x_0 + e.

    Component k of the prior, N(mu_k, C_k), given the state alone has the mean m_k(x) and the
    covariance C'_k = sigma^2 C_k (alpha^2 C_k + sigma^2)^-1. Given y as well, with
    S_k = A C'_k A^T + Sigma_y, its mean is m_k + C'_k A^T S_k^-1 (y - A m_k), and its weight is
    multiplied by N(y; A m_k, S_k). So all work is in the space of y, and nothing but products
    with A has the size of a sample. It is computed in float64, as v, which is well conditioned at
    both ends of the log-SNR. It has no bias: it is what the other posterior models approximate.

    Args:
        prior: a `Gaussian` or `GaussianMixture` with D dimensions.
        sde: the SDE, affine.
        measurement: a linear operator with Gaussian noise of positive variance; y is shared or
            a condition of each sample, with NaN where nothing was observed.
        shape: the shape of a sample, with D entries in all; (D,) by default.

    Raises:
        TypeError: the prior, the operator or the noise is of another kind.
        ValueError: the noise has a variance of 0, or a shape does not fit.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.measurement import Identity
        >>> prior = Gaussian(torch.zeros(1), torch.ones(1))
        >>> model = ExactPosterior(prior, VPSDE(), Measurement(Identity(), noise=1.0))
        >>> round(float(model.log_evidence(torch.zeros(1)).exp() * (4 * torch.pi) ** 0.5), 6)
        1.0
    """

    means: Tensor
    log_weights: Tensor
    variances: Tensor
    basis: Tensor | None
    A: Tensor
    noise: Tensor
    rows: Tensor
    root: Tensor
    white: Tensor
    spectrum: Tensor
    seen_means: Tensor
    seen_basis: Tensor

    def __init__(
        self,
        prior: Gaussian | GaussianMixture,
        sde: AffineSDE,
        measurement: Measurement,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        instance("prior", prior, (Gaussian, GaussianMixture), "fit one with Gaussian.fit(data)")
        instance("sde", sde, AffineSDE, "the marginals are exact under an affine SDE alone")
        instance("measurement", measurement, Measurement, "pass Measurement(operator, y, noise)")
        mixture = prior.mixture if isinstance(prior, Gaussian) else prior
        self.sde, self.measurement, self.prior = sde, measurement, mixture
        self.unconditional = mixture.under(sde)
        self.shape = tuple(shape) or (mixture.dim,)
        if math.prod(self.shape) != mixture.dim:
            expected = f"a shape with {mixture.dim} entries, as the prior has"
            raise fail("shape", expected, self.shape, "it is the shape of one sample")
        for name in ("means", "log_weights", "variances", "basis"):
            value = getattr(mixture, name)
            self.register_buffer(name, None if value is None else value.double())
        self._hold_measurement()

    def _hold_measurement(self) -> None:
        """Store A and Sigma_y as matrices, without the rows that a shared y does not observe."""
        operator = self.measurement.need_linear("ExactPosterior")
        noise = self.measurement.need_noise("ExactPosterior")
        one = torch.zeros((1, *self.shape), dtype=torch.float64, device=self.means.device)
        y = one.new_zeros((1, *self.measurement.shape(one)))
        spread = noise.matrix(y) if noise.correlated else self.measurement.noise_variance(y)
        whole = spread if noise.correlated else torch.diag(spread.flatten())
        seen = (y if self.measurement.y is None else self.measurement.y).flatten().isfinite()
        rows = seen.nonzero().flatten().to(y.device)
        A, covariance = operator.matrix(self.shape).to(y)[rows], whole[rows][:, rows]
        # W = U^T R^-1 with Sigma_y = R R^T makes the S_k of isotropic components diagonal.
        root = torch.linalg.cholesky(covariance)
        inverse = torch.linalg.solve_triangular(root, torch.eye(len(A)).to(A), upper=False)
        spectrum, vectors = torch.linalg.eigh(inverse @ A @ A.T @ inverse.T)
        parts = {
            "A": A,
            "noise": covariance,
            "rows": rows,
            "root": root,
            "white": vectors.T @ inverse,
            "spectrum": spectrum.clamp_min(0.0),
            "seen_means": self.means @ A.T,
            "seen_basis": A[None] if self.basis is None else A @ self.basis,
        }
        for name, part in parts.items():
            self.register_buffer(name, part)

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.unconditional.data_scale

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        checked = self.measurement.admit(self.unconditional, cond)
        more = [name for name in checked if name != self.measurement.name]
        if more:
            expected = f"{self.measurement.name!r} alone, as the prior takes no conditions"
            raise fail("cond", expected, more, "leave them out")
        return checked

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        flat = flattened(x, self.means.shape[1])
        y = self._values(cond, len(flat))
        alpha, sigma = column(node.alpha), column(node.sigma)
        spread = variance_at(alpha, sigma, self.variances)
        logits, r = log_densities(self, flat, alpha, spread)
        ratio, gain = self.variances / spread, (1 - self.variances) / spread
        if r is None:
            residual = (flat @ self.A.T)[:, None] - _lifted(alpha) * self.seen_means
            seen = self.seen_means + _lifted(alpha * ratio) * residual
        else:
            seen = torch.einsum("bkd,kmd->bkm", ratio * r, self._seen_basis)
            seen = self.seen_means + _lifted(alpha) * seen
        left = (sigma if r is None else _lifted(sigma)) ** 2 * ratio
        log_density, u = self._innovation(y, seen, left)
        weights = torch.softmax(logits + log_density, 1)
        both = alpha**2 + sigma**2
        if r is None:  # isotropic components need no (B, K, D) tensor
            back = (weights * ratio)[..., None] * u
            gain = weights * gain
            v = alpha * gain.sum(1, True) * flat - (weights + alpha**2 * gain) @ self.means
            v = v - both * (back.sum(1) @ self.A)
        else:
            back = torch.einsum("bkm,kmd->bkd", u, self._seen_basis)
            terms = _lifted(alpha) * gain * r - _lifted(both) * ratio * back
            v = self._unrotated(weights[..., None] * terms) - weights @ self.means
        return Prediction(x, node, (sigma * v).to(x.dtype).reshape(x.shape), "v")

    @property
    def _seen_basis(self) -> Tensor:
        return self.seen_basis.expand(len(self.means), -1, -1)

    def _unrotated(self, terms: Tensor) -> Tensor:
        """The sum of Q_k times a vector over the components: (B, K, D) -> (B, D)."""
        if self.basis is None:
            return terms.sum(1)
        return torch.einsum("bkd,ked->be", terms, self.basis)

    def _values(self, cond: Cond, n: int) -> Tensor:
        """The observed rows of y in float64, (n, m)."""
        like = torch.zeros((n, *self.shape), dtype=torch.float64, device=self.means.device)
        y, _ = self.measurement.split(cond, like)
        return y.flatten(1).index_select(1, self.rows)

    def _innovation(self, y: Tensor, seen: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """log N(y; A m_k, S_k), (B, K), and S_k^-1 (y - A m_k), (B, K, m).

        Each sample is computed from its own entries alone: complete ones by the S_k of all, the
        others by those of the rows that they observe.

        Args:
            y: (B, m), NaN where nothing was observed.
            seen: A m_k, (B, K, m).
            left: the eigenvalues of C'_k, (K) or (K, D), with a leading B for a batched node.
        """
        holes = y.isnan()
        residual = y.masked_fill(holes, 0.0)[:, None] - seen
        if self.variances.ndim == 1:
            log_density, u = self._by_spectrum(residual, left)
        else:
            log_density, u = self._by_factor(residual, self._covariance(left))
        shared = self.measurement.y is not None
        if shared or (y.device.type == "cpu" and not bool(holes.any())):
            return log_density, u
        kept = (~holes).to(y)[:, None]
        part = kept[..., None] * kept[..., None, :] * self._covariance(left)
        part = part + torch.diag_embed(1.0 - kept)
        masked = self._by_factor(kept * residual, part, kept.sum(-1))
        some = holes.any(1)[:, None]
        return (
            torch.where(some, masked[0], log_density),
            torch.where(some[..., None], masked[1], u),
        )

    def _covariance(self, left: Tensor) -> Tensor:
        """S_k = A C'_k A^T + Sigma_y: (K, m, m), with a leading B for a batched node."""
        if self.variances.ndim == 1:
            return left[..., None, None] * (self.A @ self.A.T) + self.noise
        basis = self._seen_basis
        return torch.einsum("kmd,...kd,knd->...kmn", basis, left, basis) + self.noise

    def _by_spectrum(self, residual: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """`_innovation` of isotropic components: W S_k W^T = c'_k diag(spectrum) + 1."""
        white = residual @ self.white.T
        total = left[..., None] * self.spectrum + 1.0
        log_det = total.log().sum(-1) + 2.0 * self.root.diagonal().log().sum()
        square = (white.square() / total).sum(-1)
        constant = residual.shape[-1] * math.log(2 * math.pi)
        return -0.5 * (square + log_det + constant), (white / total) @ self.white

    def _by_factor(
        self, residual: Tensor, covariance: Tensor, count: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`_innovation` by Cholesky factors, for `count` observed entries, all by default."""
        factor = torch.linalg.cholesky(covariance)
        if factor.ndim == 3:
            u = torch.cholesky_solve(residual.permute(1, 2, 0), factor).permute(2, 0, 1)
        else:
            u = torch.cholesky_solve(residual[..., None], factor)[..., 0]
        log_det = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        entries = residual.shape[-1] if count is None else count
        square = (residual * u).sum(-1)
        return -0.5 * (square + log_det + entries * math.log(2 * math.pi)), u

    def _batch(self, y: Tensor | None) -> tuple[Tensor, bool]:
        """The observed rows of y: (B, m), and whether y was that of one sample or None."""
        if y is None:
            return self._values(None, 1), True
        instance("y", y, Tensor, "convert it with torch.as_tensor")
        own = pairs(y)
        axes = len(self.measurement.shape(self.means.reshape(-1, *self.shape)))
        single = own.ndim == axes
        own = own[None] if single else own
        return self._values({self.measurement.name: own}, len(own)), single

    def log_evidence(self, y: Tensor | None = None) -> Tensor:
        """log p(y) in nats, exactly: of the observed entries, with all constants.

        Args:
            y: (*M) or (B, *M); None for the y of the measurement.

        Returns:
            A 0-dim tensor, or (B,), in float64.
        """
        values, single = self._batch(y)
        each, _ = self._innovation(values, self.seen_means[None], self.variances)
        total = torch.logsumexp(self.log_weights + each, 1)
        return total[0] if single else total

    def posterior(self, y: Tensor | None = None) -> GaussianMixture:
        """The distribution of x_0 given y, with D x D covariances.

        Args:
            y: (*M), the measurement; None for the y of the measurement.
        """
        A, root, values = self._single(y)
        inverse = torch.linalg.solve_triangular(root, torch.eye(len(A)).to(A), upper=False)
        return self.prior.posterior(inverse @ A, inverse @ values, 1.0)

    def _single(self, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """A, the Cholesky factor of Sigma_y and y itself, for the observed rows of one sample."""
        values, single = self._batch(y)
        if not single:
            raise fail("y", "the measurement of one sample", y, "call it once for each")
        kept = values[0].isfinite()
        factor = torch.linalg.cholesky(self.noise[kept][:, kept])
        return self.A[kept], factor, values[0][kept]

    def sample(self, n: int, y: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """n exact samples of x_0 given y: (n, *shape), in the dtype of the prior's means.

        A draw (x, e) of the prior and of the noise becomes x + C_k A^T S_k^-1 (y - A x - e), so no
        D x D matrix is needed (Matheron's rule; Doucet 2010).

        Args:
            n: the number of samples.
            y: (*M), the measurement; None for the y of the measurement.
            seed: the seed.
        """
        A, root, values = self._single(y)
        generator = seeded(seed)
        each, _ = self._innovation(self._batch(y)[0], self.seen_means[None], self.variances)
        weights = torch.softmax(self.log_weights + each[0], 0).cpu()
        drawn = torch.multinomial(
            weights, positive_int("n", n), replacement=True, generator=generator
        )
        z, e = (
            torch.randn(n, size, dtype=A.dtype, generator=generator, device="cpu").to(A)
            for size in (A.shape[1], len(A))
        )
        out = torch.empty_like(z)
        for k in sorted(set(drawn.tolist())):
            chosen = (drawn == k).to(A.device)
            variances = self.variances[k].expand(A.shape[1])
            basis = None if self.basis is None else self.basis[k]
            x, seen = z[chosen] * variances.sqrt(), A
            if basis is not None:
                x, seen = x @ basis.T, A @ basis
            x = self.means[k] + x
            both = (seen * variances) @ seen.T + root @ root.T
            gap = values - x @ A.T - e[chosen] @ root.T
            step = torch.linalg.solve(both, gap.T).T @ (seen * variances)
            out[chosen] = x + (step if basis is None else step @ basis.T)
        return out.reshape(n, *self.shape).to(self.prior.means.dtype)


def _lifted(value: Scalar) -> Scalar:
    """A float, or a tensor with one more axis at its end."""
    return value[..., None] if isinstance(value, Tensor) else value
