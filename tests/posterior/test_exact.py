"""The exact posterior: against the mixture posterior of the oracle, quadrature and sampling."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    Gaussian,
    GaussianMixture,
    ReverseSampler,
    SubVPSDE,
)
from scoresde.measurement import (
    Fourier,
    GaussianNoise,
    Identity,
    Mask,
    Matrix,
    Measurement,
    PoissonNoise,
)
from scoresde.posterior import ExactPosterior
from scoresde.sde import AffineSDE

F64 = torch.float64
NAN = math.nan
SDES = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE()]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def spd(k: int, d: int) -> Tensor:
    root = randn(k, d, d, seed=4)
    return root @ root.transpose(1, 2) / d + 0.05 * torch.eye(d, dtype=F64)


D = 4
A, Y = randn(2, D, seed=1), randn(3, 2, seed=2)
MEANS, WEIGHTS = 2.0 * randn(3, D, seed=3), torch.tensor([0.2, 0.5, 0.3], dtype=F64)
PRIORS: dict[str, Gaussian | GaussianMixture] = {
    "isotropic": GaussianMixture(MEANS, torch.tensor([0.1, 1.0, 0.5], dtype=F64), WEIGHTS),
    "diagonal": GaussianMixture(MEANS, randn(3, D, seed=5).square() + 0.1, WEIGHTS),
    "full": GaussianMixture(MEANS, spd(3, D), WEIGHTS),
    "gaussian": Gaussian(MEANS[0], spd(1, D)[0]),
    "variance": Gaussian(MEANS[0], torch.tensor(0.7, dtype=F64)),
}
STD = 0.4
CORRELATED = torch.tensor([[0.3, 0.2], [0.2, 0.5]], dtype=F64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def times(sde: AffineSDE) -> list[float]:
    return [sde.t_end, 0.1 * sde.T, 0.5 * sde.T, sde.T]


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("name", PRIORS)
def test_it_is_the_score_of_the_posterior_of_the_oracle(name: str, sde: AffineSDE) -> None:
    prior = PRIORS[name]
    own = ExactPosterior(prior, sde, Measurement(Matrix(A), noise=STD))
    shared = ExactPosterior(prior, sde, Measurement(Matrix(A), Y[0], noise=STD))
    for t in times(sde):
        node = sde.at(t)
        x = node.alpha * randn(3, D, seed=6) * 2 + node.sigma * randn(3, D, seed=7)
        wanted = torch.cat(
            [
                prior.posterior(A, y, STD).under(sde).predict(node, x[i : i + 1]).v
                for i, y in enumerate(Y)
            ]
        )
        close(own.predict(node, x, {"y": Y}).v, wanted)
        close(shared.predict(node, x).v[:1], wanted[:1])


@pytest.mark.parametrize("name", PRIORS)
def test_correlated_noise_is_whitened(name: str) -> None:
    """With L L^T = Sigma_y this is the problem L^-1 A, L^-1 y with noise 1."""
    prior, sde = PRIORS[name], VPSDE()
    inverse = torch.linalg.inv(torch.linalg.cholesky(CORRELATED))
    noise = GaussianNoise(covariance=CORRELATED)
    model = ExactPosterior(prior, sde, Measurement(Matrix(A), noise=noise))
    white = ExactPosterior(prior, sde, Measurement(Matrix(inverse @ A), noise=1.0))
    x, t = randn(3, D, seed=8), 0.3
    close(model.score(t, x, {"y": Y}), white.score(t, x, {"y": Y @ inverse.T}))
    shift = torch.linalg.slogdet(inverse)[1]
    close(model.log_evidence(Y), white.log_evidence(Y @ inverse.T) + shift)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("correlated", [False, True])
def test_unobserved_entries_are_left_out(name: str, correlated: bool) -> None:
    prior, sde = PRIORS[name], VPSDE()
    noise = GaussianNoise(covariance=CORRELATED) if correlated else GaussianNoise(STD)
    one = GaussianNoise(variances=CORRELATED[1:, 1]) if correlated else GaussianNoise(STD)
    y = Y.clone()
    y[0, 0], y[2] = NAN, NAN
    x, t = randn(3, D, seed=8), torch.tensor([0.3, 0.5, 0.02])
    model = ExactPosterior(prior, sde, Measurement(Matrix(A), noise=noise))
    small = ExactPosterior(prior, sde, Measurement(Matrix(A[1:]), noise=one))
    full = model.score(t, x, {"y": Y})
    score = model.score(t, x, {"y": y})
    close(score[:1], small.score(t[:1], x[:1], {"y": Y[:1, 1:]}))
    assert torch.equal(score[1], full[1])
    close(score[2:], prior.under(sde).score(t[2:], x[2:]))
    shared = ExactPosterior(prior, sde, Measurement(Matrix(A), y[0], noise=noise))
    close(shared.score(t[:1], x[:1]), score[:1])
    evidence = model.log_evidence(y)
    close(evidence[:1], small.log_evidence(Y[:1, 1:]))
    close(evidence[1:], torch.stack([model.log_evidence(Y)[1], torch.zeros((), dtype=F64)]))
    close(shared.log_evidence(), evidence[0])
    a, b = shared.posterior(), small.posterior(Y[0, 1:])
    close(a.means, b.means)
    close(a.full_covariances(), b.full_covariances())


def test_the_evidence_is_the_integral_of_the_likelihood() -> None:
    prior = GaussianMixture(
        torch.tensor([[-1.0], [2.0]], dtype=F64), torch.tensor([0.2, 0.5], dtype=F64)
    )
    model = ExactPosterior(prior, VPSDE(), Measurement(Matrix(randn(2, 1)), noise=STD))
    a = randn(2, 1)[:, 0]

    def integrand(x: float) -> float:
        density = float(prior.log_prob(torch.tensor([[x]], dtype=F64)).exp())
        return density * float(stats.norm(a.numpy() * x, STD).pdf(Y[0].numpy()).prod())

    wanted, _ = integrate.quad(integrand, -12.0, 12.0, epsabs=1e-13, limit=400)
    assert math.isclose(float(model.log_evidence(Y[0]).exp()), wanted, rel_tol=1e-9)
    close(model.log_evidence(Y)[0], model.log_evidence(Y[0]))


@pytest.mark.parametrize("name", PRIORS)
def test_nodes_of_a_batch_are_those_of_a_grid(name: str) -> None:
    sde = VPSDE()
    model = ExactPosterior(PRIORS[name], sde, Measurement(Matrix(A), noise=STD))
    x, y = randn(3, D, seed=8), Y.clone()
    y[1, 0] = NAN
    for t in (0.001, 0.3, 1.0):
        batched = model(torch.full((3,), t, dtype=F64), x, {"y": y}).x0
        close(batched, model(t, x, {"y": y}).x0, 1e-12)


@pytest.mark.parametrize("name", PRIORS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    model = ExactPosterior(PRIORS[name], VPSDE(), Measurement(Matrix(A), noise=STD))
    x, y = randn(3, D, seed=8), Y.clone()
    other, of_other = 50.0 * randn(3, D, seed=9), 9.0 * randn(3, 2, seed=9)
    other[0], of_other[0], of_other[2, 1] = x[0], y[0], NAN
    for t in (0.02, torch.tensor([0.2, 0.4, 0.9])):
        a, b = model(t, x, {"y": y}), model(t, other, {"y": of_other})
        assert torch.equal(a.value[0], b.value[0])


@pytest.mark.parametrize("name", PRIORS)
def test_exact_samples_have_the_moments_of_the_posterior(name: str) -> None:
    """10,000 draws: each moment within 4.5 standard errors."""
    model = ExactPosterior(PRIORS[name], VPSDE(), Measurement(Matrix(A), noise=STD))
    posterior = model.posterior(Y[1])
    if isinstance(posterior, GaussianMixture):
        mixture = posterior
    n = 10_000
    x = model.sample(n, Y[1], seed=3)
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    covariance = (
        mixture.weights[:, None, None]
        * (mixture.full_covariances() + centred[:, :, None] * centred[:, None, :])
    ).sum(0)
    assert ((x.mean(0) - mean) / (covariance.diagonal() / n).sqrt()).abs().max() < 4.5
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = (products.mean(0) - covariance) / (products.std(0) / math.sqrt(n))
    assert error.abs().max() < 4.5
    assert torch.equal(x, model.sample(n, Y[1], seed=3))


def test_a_sampler_reaches_it() -> None:
    """Moments of 20,000 samples of the flow, with a measurement of each sample's own."""
    prior, sde = PRIORS["isotropic"], VPSDE()
    model = ExactPosterior(prior, sde, Measurement(Matrix(A), noise=STD))
    y = Y[:2].repeat_interleave(4000, 0)
    sampler = ReverseSampler(sde, model, "unipc_3", steps=30)
    x = sampler.sample((8000, D), seed=0, cond={"y": y}, dtype=F64).reshape(2, 4000, D)
    for part, one in zip(x, Y[:2], strict=True):
        exact = model.sample(4000, one, seed=1)
        assert ((part.mean(0) - exact.mean(0)) / (exact.std(0) / 40)).abs().max() < 3
        assert (part.std(0) / exact.std(0) - 1).abs().max() < 0.06


def test_images_and_complex_measurements() -> None:
    prior = Gaussian(torch.zeros(6, dtype=F64), spd(1, 6)[0])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    operator = Fourier(mask)
    model = ExactPosterior(prior, VPSDE(), Measurement(operator, noise=STD), shape=(2, 3))
    y = operator(randn(1, 2, 3))
    dense = prior.posterior(operator.matrix((2, 3)), y.flatten(), STD).under(VPSDE())
    x = randn(1, 2, 3, seed=1)
    close(model.score(0.2, x, {"y": y}).flatten(1), dense.score(0.2, x.flatten(1)))
    close(
        model.score(0.2, x, {"y": torch.view_as_complex(y)}), model.score(0.2, x, {"y": y}), 1e-12
    )
    assert model.sample(5, y[0]).shape == (5, 2, 3)
    assert model.log_evidence(y[0]).shape == () and model.log_evidence(y).shape == (1,)


def test_a_large_mixture_needs_no_matrix_of_its_size() -> None:
    """d = 800 with 25 components: no tensor of D x D, nor of B x K x D, is made."""
    prior = GaussianMixture(randn(25, 800), torch.ones(25, dtype=F64))
    model = ExactPosterior(prior, VPSDE(), Measurement(Matrix(randn(4, 800)), noise=STD))
    largest = []
    x, y = randn(100, 800), randn(100, 4)
    with _Sizes(largest):
        model.predict(VPSDE().at(0.5), x, {"y": y})
    assert max(largest) <= 100 * 800


class _Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.sizes += [out.numel()] if isinstance(out, Tensor) else []
        return out


@pytest.mark.parametrize(
    ("measurement", "kind", "message"),
    [
        (Measurement(lambda x: x**2, noise=0.1), TypeError, "LinearOperator, as ExactPosterior"),
        (Measurement(Identity(), noise=PoissonNoise()), TypeError, "Gaussian noise, as Exact"),
        (Measurement(Identity(), noise=0.0), ValueError, "since ExactPosterior divides"),
        (Measurement(Matrix(randn(2, 3)), noise=0.1), ValueError, r"x: expected shape \(B, 3\)"),
        (
            Measurement(Identity(), noise=torch.ones(3)),
            ValueError,
            r"noise: expected shape \(4,\)",
        ),
    ],
)
def test_bad_input(measurement: Measurement, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ExactPosterior(PRIORS["full"], VPSDE(), measurement)


def test_bad_values() -> None:
    model = ExactPosterior(PRIORS["full"], VPSDE(), Measurement(Matrix(A), noise=STD))
    x = torch.zeros(2, D)
    with pytest.raises(ValueError, match=r"cond\['y'\]: expected a tensor with leading 2"):
        model.score(0.5, x, {"y": Y})
    with pytest.raises(ValueError, match="cond: expected the measurement 'y'"):
        model.score(0.5, x)
    with pytest.raises(ValueError, match="as the prior takes no conditions"):
        ReverseSampler(VPSDE(), model, steps=3).sample(
            (2, D), seed=0, cond={"y": Y[:2], "label": torch.zeros(2)}
        )
    with pytest.raises(ValueError, match="a shape with 4 entries"):
        ExactPosterior(PRIORS["full"], VPSDE(), Measurement(Mask(A[0] > 0), noise=STD), (3,))
    with pytest.raises(ValueError, match="the measurement of one sample"):
        model.posterior(Y)
