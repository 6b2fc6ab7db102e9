"""Oracles: distributions with exactly known noisy marginals, scores and posteriors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, floating, instance, positive, positive_int
from scoresde._html import Shown
from scoresde._tensor import Scalar, seeded, square_distance
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE

__all__ = ["Empirical", "Gaussian", "GaussianMixture"]


def flattened(x: Tensor, dim: int) -> Tensor:
    """Return x: (B, *D) as float64 (B, dim)."""
    floating("x", x)
    if x.ndim == 0 or math.prod(x.shape[1:]) != dim:
        remedy = "a sample has as many entries as the distribution has dimensions"
        raise fail("x", f"shape (B, {dim}) or (B, *D) with {dim} entries each", x, remedy)
    return x.reshape(x.shape[0], dim).double()


def column(value: Scalar) -> Scalar:
    """Return a value of the schedule as a float or as a float64 (B, 1)."""
    return value.reshape(-1, 1).double() if isinstance(value, Tensor) else value


def variance_at(alpha: Scalar, sigma: Scalar, variances: Tensor) -> Tensor:
    """alpha^2 Lambda + sigma^2, with a leading batch axis where the schedule has one."""
    if isinstance(alpha, Tensor) and isinstance(sigma, Tensor):
        lead = (-1,) + (1,) * variances.ndim
        alpha, sigma = alpha.reshape(lead), sigma.reshape(lead)
    total: Tensor = variances * alpha**2 + sigma**2
    return total


class _Components(Protocol):
    @property
    def means(self) -> Tensor: ...
    @property
    def log_weights(self) -> Tensor: ...
    @property
    def variances(self) -> Tensor: ...
    @property
    def basis(self) -> Tensor | None: ...


@final
class MixtureScore(ScoreModel):
    """The exact score of a Gaussian mixture under an affine SDE, computed in float64.

    In the basis of its covariance Q diag(Lambda) Q^T, with r = Q^T (x - alpha mu), component k
    has v_k = -sigma mu_k + alpha sigma Q (1 - Lambda)/(alpha^2 Lambda + sigma^2) r. The
    coordinate v is well conditioned at both ends of the log-SNR, unlike x_0 and eps.
    """

    means: Tensor
    log_weights: Tensor
    variances: Tensor
    basis: Tensor | None

    def __init__(self, mixture: GaussianMixture, sde: AffineSDE) -> None:
        super().__init__()
        instance("sde", sde, AffineSDE, "the marginals are exact under an affine SDE alone")
        self.sde = sde
        for name in ("means", "log_weights", "variances", "basis"):
            self.register_buffer(name, _double(getattr(mixture, name)))

    @property
    def data_scale(self) -> tuple[float, int] | None:
        weights, dim = torch.softmax(self.log_weights, 0), self.means.shape[1]
        inner = self.variances.sum(1) if self.variances.ndim == 2 else dim * self.variances
        second = weights @ (torch.linalg.vector_norm(self.means, dim=1).square() + inner)
        first = torch.linalg.vector_norm(weights @ self.means)
        variance = float(second - first.square()) / dim
        return (math.sqrt(variance), dim) if variance > 0.0 else None

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        flat = flattened(x, self.means.shape[1])
        alpha, sigma = column(node.alpha), column(node.sigma)
        variances = variance_at(alpha, sigma, self.variances)
        logits, rotated = log_densities(self, flat, alpha, variances)
        posterior = torch.softmax(logits, 1)
        gain = (1 - self.variances) / variances
        if rotated is None:  # isotropic components need no (B, K, D) tensor
            gain = posterior * gain
            v = alpha * gain.sum(1, True) * flat - (posterior + alpha**2 * gain) @ self.means
        else:
            weighted = posterior[..., None] * gain * rotated
            if self.basis is None:
                mean = weighted.sum(1)
            else:
                mean = torch.einsum("bkd,ked->be", weighted, self.basis)
            v = alpha * mean - posterior @ self.means
        return Prediction(x, node, (sigma * v).to(x.dtype).reshape(x.shape), "v")


def _double(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.double()


def log_densities(
    c: _Components, x: Tensor, alpha: Scalar, variances: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Log weight plus log density of each component, (B, K); and r, (B, K, D), if needed."""
    dim, means = c.means.shape[1], c.means.double()
    constant = c.log_weights.double() - 0.5 * dim * math.log(2 * math.pi)
    scale = alpha[..., None] if isinstance(alpha, Tensor) else alpha
    if c.variances.ndim == 1:
        if isinstance(scale, Tensor):
            square = (x[:, None] - scale * means).square().sum(-1)
        else:
            square = square_distance(x, scale * means)
        return constant - 0.5 * (square / variances + dim * variances.log()), None
    r = x[:, None] - scale * means
    if c.basis is not None:
        r = torch.einsum("bkd,kde->bke", r, c.basis)
    return constant - 0.5 * (r.square() / variances + variances.log()).sum(-1), r


@final
@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixture(Shown):
    """A mixture of Gaussians with any covariances: exact under every affine SDE.

    Args:
        means: (K, D).
        covariances: (K,) variances of isotropic components, (K, D) diagonals, or (K, D, D).
        weights: (K,) positive numbers, which are normalised; equal by default.

    Raises:
        ValueError: shapes do not match, a weight is not positive, or a covariance is not
            symmetric and positive semi-definite.

    Example:
        >>> two = GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.01, 0.01]))
        >>> two.log_prob(torch.zeros(1, 1)).shape
        torch.Size([1])
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor = None  # type: ignore[assignment]
    variances: Tensor = field(init=False)
    basis: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        means = floating("means", self.means).detach()
        if means.ndim != 2 or means.numel() == 0:
            expected = "shape (K, D) with K >= 1 and D >= 1"
            raise fail("means", expected, means, "one row per component")
        if not bool(torch.isfinite(means).all()):
            raise fail("means", "finite numbers", "NaN or infinity", "drop such components")
        weights = torch.ones(len(means)) if self.weights is None else self.weights
        weights = floating("weights", weights).detach().to(means)
        if weights.shape != means.shape[:1] or not bool((weights > 0).all()):
            remedy = "drop components of weight 0"
            raise fail("weights", f"({len(means)},) positive weights", weights.tolist(), remedy)
        variances, basis = _decompose(floating("covariances", self.covariances).detach(), means)
        for name, value in (
            ("means", means),
            ("weights", weights / weights.sum()),
            ("variances", variances),
            ("basis", basis),
        ):
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return self.means.shape[1]

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the weights, (K,)."""
        return self.weights.log()

    def full_covariances(self) -> Tensor:
        """The covariances as (K, D, D) in float64."""
        if self.variances.ndim == 1:
            eye = torch.eye(self.dim, dtype=torch.float64, device=self.means.device)
            return self.variances.double()[:, None, None] * eye
        if self.basis is None:
            return torch.diag_embed(self.variances.double())
        return (self.basis * self.variances[:, None]) @ self.basis.transpose(1, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats; x: (B, *D) -> (B,)."""
        clean = self.variances.double()
        return torch.logsumexp(log_densities(self, flattened(x, self.dim), 1.0, clean)[0], 1).to(x)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """n samples, (n, D), in the dtype of the means."""
        n, generator = positive_int("n", n), seeded(seed)
        weights = self.weights.double().cpu()
        k = torch.multinomial(weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dim, dtype=torch.float64, generator=generator, device="cpu")
        z, k = z.to(self.means.device), k.to(self.means.device)
        std = self.variances.double().sqrt()[k]
        z = z * (std[:, None] if std.ndim == 1 else std)
        if self.basis is not None:
            for component, basis in enumerate(self.basis):  # (n, D, D) would not fit in memory
                rows = k == component
                z[rows] = z[rows] @ basis.double().T
        return self.means[k] + z.to(self.means.dtype)

    def marginal(self, sde: AffineSDE, t: float) -> GaussianMixture:
        """The distribution of x_t when x_0 follows this one."""
        instance("sde", sde, AffineSDE, "the marginals are exact under an affine SDE alone")
        node = sde.at(t)
        variances = variance_at(node.alpha, node.sigma, self.variances)
        return _with(self, node.alpha * self.means, variances, self.weights)

    def under(self, sde: AffineSDE) -> ScoreModel:
        """The exact score model of this distribution under an affine SDE."""
        return MixtureScore(self, sde)

    def posterior(self, A: Tensor, y: Tensor, std: float) -> GaussianMixture:
        """The distribution of x_0 given y = A x_0 + std n with standard normal n, a mixture.

        Args:
            A: (M, D), the linear observation operator.
            y: (M,), the observation.
            std: standard deviation of the observation noise, positive.
        """
        std = positive("std", std, "the standard deviation of the observation noise")
        for name, value in (("A", A), ("y", y)):
            if not bool(torch.isfinite(floating(name, value)).all()):
                raise fail(name, "finite numbers", "NaN or infinity", "drop such observations")
        if A.ndim != 2 or A.shape[1] != self.dim:
            raise fail("A", f"shape (M, {self.dim})", A, "one row per observed number")
        if y.shape != A.shape[:1]:
            raise fail("y", f"shape ({A.shape[0]},)", y, "one entry per row of A")
        A, y = A.double(), y.double()
        means, covariances = self.means.double(), self.full_covariances()
        eye = torch.eye(len(y), dtype=torch.float64, device=A.device)
        of_y = A @ covariances @ A.T + std**2 * eye
        gain = torch.linalg.solve(of_y, A @ covariances).transpose(1, 2)
        residual = y - means @ A.T
        left = torch.eye(self.dim, dtype=torch.float64, device=A.device) - gain @ A
        from_y = std**2 * gain @ gain.transpose(1, 2)
        half = torch.linalg.solve(of_y, residual[..., None])[..., 0]
        log_evidence = -0.5 * ((residual * half).sum(1) + torch.linalg.slogdet(of_y)[1])
        weights = torch.softmax(self.weights.double().log() + log_evidence, 0)
        positive_weight = weights.to(self.means) > 0  # in the dtype of the result
        centre = means + (gain @ residual[..., None])[..., 0]
        posterior = left @ covariances @ left.transpose(1, 2) + from_y
        parts = [part[positive_weight] for part in (centre, posterior, weights)]
        kind = self.means.dtype
        return GaussianMixture(parts[0].to(kind), parts[1], parts[2].to(kind))


def _decompose(covariances: Tensor, means: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues of the covariances, and their eigenvectors if they are matrices."""
    k, d = means.shape
    if covariances.shape not in ((k,), (k, d), (k, d, d)):
        expected = f"shape ({k},), ({k}, {d}) or ({k}, {d}, {d})"
        raise fail("covariances", expected, covariances, "one covariance per row of means")
    if covariances.ndim < 3:
        if not bool((covariances >= 0).all()):
            lowest = float(covariances.min())
            raise fail("covariances", "variances >= 0", lowest, "pass squares of the deviations")
        return covariances.to(means), None
    matrices = covariances.double()
    scale = matrices.abs().amax().clamp_min(1e-300)
    skew = (matrices - matrices.transpose(1, 2)).abs().amax()
    if not bool(skew <= 1e-6 * scale):
        got = f"a matrix that differs from its transpose by {float(skew):.3g}"
        raise fail("covariances", "symmetric matrices", got, "average it with its transpose")
    values, vectors = torch.linalg.eigh((matrices + matrices.transpose(1, 2)) / 2)
    if not bool(values.min() >= -1e-6 * scale):
        got = f"an eigenvalue of {float(values.min()):.3g}"
        raise fail("covariances", "positive semi-definite matrices", got, "check the matrix")
    return values.clamp_min(0.0), vectors


def _with(
    old: GaussianMixture, means: Tensor, variances: Tensor, weights: Tensor
) -> GaussianMixture:
    """A mixture with the eigenvectors of `old`, without a new decomposition."""
    new = object.__new__(GaussianMixture)
    covariances = variances
    if old.basis is not None:
        covariances = (old.basis * variances[:, None]) @ old.basis.transpose(1, 2)
    for name, value in (
        ("means", means),
        ("covariances", covariances),
        ("weights", weights),
        ("variances", variances),
        ("basis", old.basis),
    ):
        object.__setattr__(new, name, value)
    return new


@final
@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Shown):
    """A Gaussian with any covariance, exactly solvable under every affine SDE.

    Args:
        mean: (D,).
        covariance: a 0-dim variance, a (D,) diagonal or a (D, D) matrix.

    Example:
        >>> from scoresde import VPSDE
        >>> model = Gaussian(torch.zeros(2), torch.eye(2)).under(VPSDE())
        >>> model.score(0.5, torch.ones(1, 2)).tolist()
        [[-1.0, -1.0]]
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        floating("mean", self.mean)
        floating("covariance", self.covariance)
        if self.mean.ndim != 1 or self.mean.numel() == 0:
            raise fail("mean", "shape (D,) with D >= 1", self.mean, "flatten it")
        object.__setattr__(self, "_as_mixture", self._mixture())

    @classmethod
    def fit(cls, data: Tensor, covariance: str = "full") -> Gaussian:
        """The Gaussian with the mean and covariance of data: (N, *D).

        Args:
            data: the samples, N >= 2.
            covariance: "full" (D x D numbers), "diagonal" or "isotropic".
        """
        floating("data", data)
        if data.ndim < 2 or len(data) < 2:
            raise fail("data", "shape (N, *D) with N >= 2", data, "pass at least two samples")
        choice("covariance", covariance, ("full", "diagonal", "isotropic"))
        flat = data.detach().flatten(1).double()
        mean = flat.mean(0)
        if covariance == "full":
            return cls(mean, (flat - mean).T @ (flat - mean) / (len(flat) - 1))
        variances = flat.var(0)
        return cls(mean, variances if covariance == "diagonal" else variances.mean())

    def _mixture(self) -> GaussianMixture:
        return GaussianMixture(self.mean[None], self.covariance[None])

    @property
    def mixture(self) -> GaussianMixture:
        """This Gaussian as a mixture of one."""
        return self._as_mixture  # type: ignore[attr-defined,no-any-return]

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats; x: (B, *D) -> (B,)."""
        return self.mixture.log_prob(x)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """n samples, (n, D)."""
        return self.mixture.sample(n, seed=seed)

    def marginal(self, sde: AffineSDE, t: float) -> Gaussian:
        """The distribution of x_t when x_0 follows this one."""
        mixture = self.mixture.marginal(sde, t)
        return Gaussian(mixture.means[0], mixture.covariances[0])

    def under(self, sde: AffineSDE) -> ScoreModel:
        """The exact score model under an affine SDE."""
        return self.mixture.under(sde)

    def posterior(self, A: Tensor, y: Tensor, std: float) -> Gaussian:
        """The distribution of x_0 given y = A x_0 + std n; see `GaussianMixture.posterior`."""
        mixture = self.mixture.posterior(A, y, std)
        return Gaussian(mixture.means[0], mixture.covariances[0])

    def flow(self, sde: AffineSDE, x: Tensor, s: float, t: float) -> Tensor:
        """The exact probability-flow map from time s to time t, in either direction; x: (B, *D).

        x_t = alpha_t mu + Q sqrt((alpha_t^2 Lambda + sigma_t^2)/(alpha_s^2 Lambda + sigma_s^2))
        Q^T (x_s - alpha_s mu).
        """
        a, b = sde.at(s), sde.at(t)
        mixture, flat = self.mixture, flattened(x, self.mean.numel())
        variances, mean = (m[0].to(flat) for m in (mixture.variances, mixture.means))
        ratio = [variance_at(n.alpha, n.sigma, variances) for n in (b, a)]
        scale = (ratio[0] / ratio[1]).sqrt()
        centred = flat - a.alpha * mean
        if mixture.basis is None:
            moved = centred * scale
        else:
            basis = mixture.basis[0].to(flat)
            moved = ((centred @ basis) * scale) @ basis.T
        out: Tensor = b.alpha * mean + moved
        return out.to(x.dtype).reshape(x.shape)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Empirical(Shown):
    """The empirical distribution of a data set; its score is that of the ideal denoiser.

    x_0hat(x_t) is the average of the data y weighted by N(x_t; alpha y, sigma^2). A network of
    unlimited capacity would learn it, and a sampler then returns training points (Karras et al.
    2022, arXiv 2206.00364, eq. 57).

    Args:
        data: (N, *D).
    """

    data: Tensor

    def __post_init__(self) -> None:
        floating("data", self.data)
        if self.data.ndim < 2 or self.data.numel() == 0:
            raise fail("data", "shape (N, *D) with N >= 1", self.data, "pass at least one sample")
        if not bool(torch.isfinite(self.data).all()):
            raise fail("data", "finite numbers", "NaN or infinity", "clean the data first")

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """n draws from the data with replacement, (n, *D)."""
        k = torch.randint(
            len(self.data), (positive_int("n", n),), generator=seeded(seed), device="cpu"
        )
        return self.data[k.to(self.data.device)]

    def marginal(self, sde: AffineSDE, t: float) -> GaussianMixture:
        """The distribution of x_t over flattened samples: a mixture with one term per datum."""
        if sde.at(t).sigma == 0.0:
            raise fail("t", "a time with sigma(t) > 0", t, "the data set itself has no density")
        return self._mixture().marginal(sde, t)

    def under(self, sde: AffineSDE) -> ScoreModel:
        """The ideal denoiser as a score model under an affine SDE."""
        return MixtureScore(self._mixture(), sde)

    def _mixture(self) -> GaussianMixture:
        flat = self.data.detach().flatten(1)
        return GaussianMixture(flat, torch.zeros(len(flat)).to(flat))
