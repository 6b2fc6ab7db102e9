"""The oracles against automatic differentiation, quadrature and brute force."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from registry import ALL_SDES, times_of
from scipy.integrate import quad, solve_ivp
from shared import normal
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scoresde.oracles import Empirical, Gaussian, GaussianMixture
from scoresde.sde import SDE, VESDE, VPSDE

F64 = torch.float64
KINDS = ("isotropic", "diagonal", "full")
each_sde = pytest.mark.parametrize("sde", ALL_SDES.values(), ids=ALL_SDES)
each_kind = pytest.mark.parametrize("kind", KINDS)


def mixture(kind: str, k: int = 3, d: int = 2, dtype: torch.dtype = F64) -> GaussianMixture:
    means, weights = 2 * normal(k, d, seed=1), torch.arange(1.0, k + 1)
    root = normal(k, d, d, seed=2)
    full = root @ root.transpose(1, 2) + 0.05 * torch.eye(d, dtype=F64)
    covariances = {
        "isotropic": full[:, 0, 0],
        "diagonal": full.diagonal(dim1=1, dim2=2),
        "full": full,
    }[kind]
    return GaussianMixture(means.to(dtype), covariances.to(dtype), weights)


def reference(m: GaussianMixture, alpha: float = 1.0, sigma: float = 0.0) -> MixtureSameFamily:
    """The law of alpha x_0 + sigma eps, by torch.distributions."""
    eye = torch.eye(m.dim, dtype=F64)
    covariances = m.covariances.double()
    if covariances.ndim == 1:
        covariances = covariances[:, None, None] * eye
    elif covariances.ndim == 2:
        covariances = torch.diag_embed(covariances)
    parts = MultivariateNormal(alpha * m.means.double(), alpha**2 * covariances + sigma**2 * eye)
    return MixtureSameFamily(Categorical(m.weights.double()), parts)


def gradient(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(fn(x).sum(), x)
    return slope


# Densities and scores


@each_kind
def test_densities_are_those_of_torch(kind: str) -> None:
    m, x = mixture(kind), 3 * normal(20, 2)
    assert torch.allclose(m.log_prob(x), reference(m).log_prob(x), rtol=1e-11)
    assert m.log_prob(x.float()).dtype == torch.float32
    one = Gaussian(m.means[0], m.covariances[0])
    own = MultivariateNormal(m.means[0], m.full_covariances()[0])
    assert torch.allclose(one.log_prob(x), own.log_prob(x), rtol=1e-11)


@each_kind
@each_sde
def test_marginal_and_score_under_every_sde(sde: Any, kind: str) -> None:
    m = mixture(kind)
    model = m.under(sde)
    for t in times_of(sde, 6).tolist():
        truth = reference(m, sde.alpha(t), sde.sigma(t))
        x = truth.sample((6,)) + 0.1 * sde.sigma(t)
        marginal = m.marginal(sde, t)
        assert torch.allclose(marginal.log_prob(x), truth.log_prob(x), rtol=1e-10, atol=1e-10)
        for density in (truth, marginal):
            want = gradient(density.log_prob, x)
            got = model.score(t, x)
            assert torch.allclose(got, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


@each_sde
def test_x0_is_the_posterior_mean_by_quadrature(sde: Any) -> None:
    m = GaussianMixture(
        torch.tensor([[-1.0], [0.5], [2.0]], dtype=F64),
        torch.tensor([0.3, 0.01, 0.2], dtype=F64),
        torch.tensor([1.0, 2.0, 0.5]),
    )
    model = m.under(sde)
    for t in times_of(sde, 4).tolist():
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        x = alpha * 0.3 + 0.7 * sigma
        # where the likelihood of x_0 and the prior both have mass
        low, high = -8.0, 8.0
        if alpha > 0:
            low = max(low, (x - 12 * sigma) / alpha)
            high = min(high, (x + 12 * sigma) / alpha)
        y = torch.linspace(low, high, 200_001, dtype=F64)[:, None]
        log_weight = m.log_prob(y) - ((x - alpha * y[:, 0]) / sigma) ** 2 / 2
        weight = (log_weight - log_weight.max()).exp()
        want = float((weight * y[:, 0]).sum() / weight.sum())
        state = torch.full((1, 1), x, dtype=F64)
        assert float(model(t, state).x0) == pytest.approx(want, rel=1e-8, abs=1e-8)
        noise = (x - alpha * want) / sigma
        assert float(model(t, state).eps) == pytest.approx(noise, rel=1e-6, abs=1e-6)
        assert float(model(t, state).v) == pytest.approx(
            alpha * noise - sigma * want, rel=1e-6, abs=1e-6 * max(1, sigma)
        )


@pytest.mark.parametrize("name", ["vp", "ve", "flow", "linear_jump"])
def test_the_kinds_of_covariance_agree_where_they_must(name: str) -> None:
    sde, means = ALL_SDES[name], normal(3, 2)
    variances = torch.tensor([0.3, 1.0, 0.02], dtype=F64)
    diagonal = torch.stack([variances, variances * 2], 1)
    turn = torch.linalg.qr(normal(2, 2, seed=3)).Q
    x = normal(5, 2, seed=4)
    pairs = [
        (variances, variances[:, None].expand(3, 2), means, x),
        (variances, variances[:, None, None] * torch.eye(2, dtype=F64), means, x),
        (diagonal, torch.diag_embed(diagonal), means, x),
        # a turned problem has the turned score
        (diagonal, turn.T @ torch.diag_embed(diagonal) @ turn, means @ turn, x @ turn),
    ]
    for i, (a, b, centres, points) in enumerate(pairs):
        one, two = GaussianMixture(means, a), GaussianMixture(centres, b)
        assert torch.allclose(one.log_prob(x), two.log_prob(points), rtol=1e-11)
        for t in (0.01, 0.5 * sde.T, sde.T):
            score = one.under(sde).score(t, x)
            score = score @ turn if i == 3 else score
            assert torch.allclose(two.under(sde).score(t, points), score, rtol=1e-10)
            assert torch.allclose(
                two.marginal(sde, t).log_prob(points), one.marginal(sde, t).log_prob(x)
            )


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm", "flow", "linear_growing"])
@each_kind
def test_the_fokker_planck_equation(name: str, kind: str) -> None:
    # d log p/dt = -div f - f . score + g^2/2 (div score + |score|^2), t by difference
    sde, m = ALL_SDES[name], mixture(kind)
    model = m.under(sde)
    for fraction in (0.05, 0.4, 0.9):
        t = fraction * sde.T
        h = 1e-4 * t
        x = reference(m, sde.alpha(t), sde.sigma(t)).sample((8,))
        values = [m.marginal(sde, t + k * h).log_prob(x) for k in (-2, -1, 1, 2)]
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
        jacobian = torch.func.vmap(
            torch.func.jacrev(lambda y: model.score(t, y[None])[0])  # noqa: B023
        )(x)
        score = model.score(t, x)
        spread = jacobian.diagonal(dim1=1, dim2=2).sum(1) + score.square().sum(1)
        rate = sde.rate(t)
        terms = -2 * rate, -rate * (x * score).sum(1), 0.5 * sde.g(t) ** 2 * spread
        want = sum(terms[1:], start=torch.full((8,), terms[0], dtype=F64))
        scale = sum(float(torch.as_tensor(term).abs().max()) for term in terms)
        assert torch.allclose(slope, want, rtol=0, atol=1e-7 * scale)


# Extremes, precision, shapes


@each_kind
@each_sde
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_finite_and_right_at_extreme_log_snr(sde: Any, kind: str, dtype: torch.dtype) -> None:
    m = mixture(kind)
    model = m.under(sde)
    tolerance = 1e-9 if dtype == F64 else 2e-6
    ends = [sde.t_min, sde.T]
    if sde.t_min > 0 and sde.log_snr(sde.t_min) < 18:
        ends.append(float(sde.time_of(18.0)))
    for t in ends:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        truth = reference(m, alpha, sigma)
        x = truth.sample((6,)).to(dtype)
        want = gradient(truth.log_prob, x.double())
        prediction = model(t, x)
        for kind_ in ("x0", "eps", "score", "v"):
            value = prediction.read(kind_)
            assert value.dtype == dtype and bool(value.isfinite().all())
        score = prediction.score.double()
        assert torch.allclose(
            score, want, rtol=tolerance, atol=tolerance * (1 / sigma + float(want.abs().max()))
        )
        x0 = (x.double() + sigma**2 * want) / alpha if alpha > 1e-3 else None
        if x0 is not None:
            atol = tolerance * (1 + float(x0.abs().max())) * max(1, sigma)
            assert torch.allclose(prediction.x0.double(), x0, rtol=tolerance, atol=atol)


def test_where_alpha_is_zero_the_model_knows_the_mean_alone() -> None:
    sde, m = ALL_SDES["linear_long"], mixture("full")
    prediction = m.under(sde)(10.0, normal(4, 2))
    mean = (m.weights[:, None] * m.means).sum(0)
    assert torch.allclose(prediction.x0, mean.expand(4, 2), rtol=1e-12)
    assert torch.allclose(prediction.score, -normal(4, 2), rtol=1e-12)


def test_far_away_the_softmax_does_not_underflow() -> None:
    m = GaussianMixture(
        torch.tensor([[-1.0], [1.0]], dtype=F64), torch.tensor([1e-4, 1e-4], dtype=F64)
    )
    x = torch.tensor([[-300.0], [300.0]], dtype=F64)
    score = m.under(VPSDE()).score(1e-3, x)
    node = VPSDE().at(1e-3)
    spread = node.alpha**2 * 1e-4 + node.sigma**2
    want = -(x - node.alpha * x.sign()) / spread
    assert torch.allclose(score, want, rtol=1e-12)
    assert bool(m.log_prob(x).isfinite().all())


@pytest.mark.parametrize("name", ["vp", "ve", "flow", "linear_jump"])
@pytest.mark.parametrize("kind", [*KINDS, "empirical"])
def test_a_float_node_and_the_same_times_per_sample(name: str, kind: str) -> None:
    sde = ALL_SDES[name]
    oracle = Empirical(normal(7, 2)) if kind == "empirical" else mixture(kind, k=2)
    model, x = oracle.under(sde), normal(2, 2, seed=5)  # B == D == K
    for t in times_of(sde, 4).tolist():
        one = model.predict(sde.at(t), x)
        two = model.predict(sde.at(torch.full((2,), t, dtype=F64), like=x), x)
        for coordinate in ("v", "score", "x0", "eps"):
            a, b = one.read(coordinate), two.read(coordinate)
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-11 * float(a.abs().max()))
    times = torch.tensor([0.2, 0.8], dtype=F64) * sde.T
    many = model.score(times, x)
    for i in range(2):
        assert torch.allclose(many[i], model.score(float(times[i]), x[i : i + 1])[0], rtol=1e-11)


def test_any_shape_of_state_and_float32() -> None:
    m = mixture("full", d=12)
    x = normal(3, 12)
    score = m.under(VPSDE()).score(0.3, x)
    image = m.under(VPSDE()).score(0.3, x.reshape(3, 3, 2, 2))
    assert torch.equal(image, score.reshape(3, 3, 2, 2))
    single = mixture("full", d=12, dtype=torch.float32).under(VPSDE()).score(0.3, x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), score, rtol=1e-4, atol=1e-4)


@each_kind
@pytest.mark.parametrize("time", [0.4, torch.tensor([0.1, 0.4, 0.9], dtype=F64)], ids=["t", "ts"])
def test_the_score_can_be_differentiated(kind: str, time: Any) -> None:
    # backward, twice, forward and under vmap: divergences and guidance use them all
    model, x = mixture(kind).under(VPSDE()), normal(3, 2)

    def score(x: Tensor) -> Tensor:
        return model.score(time, x)

    y = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(score, (y,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(score, (y,))
    whole = torch.autograd.functional.jacobian(score, x)
    assert torch.allclose(torch.func.jacrev(score)(x), whole, rtol=1e-10)
    assert torch.allclose(torch.func.jacfwd(score)(x), whole, rtol=1e-10)
    if isinstance(time, float):
        each = torch.func.vmap(torch.func.jacrev(lambda y: score(y[None])[0]))(x)
        assert torch.allclose(each, torch.stack([whole[i, :, i] for i in range(3)]), rtol=1e-10)
        forward = torch.func.vmap(torch.func.jacfwd(lambda y: score(y[None])[0]))(x)
        assert torch.allclose(forward, each, rtol=1e-10)


# Samples


@each_kind
def test_samples_have_the_moments(kind: str) -> None:
    m = mixture(kind)
    x = m.sample(100_000, seed=3)
    mean = (m.weights[:, None] * m.means).sum(0)
    second = m.full_covariances() + m.means[:, :, None] * m.means[:, None]
    covariance = (m.weights[:, None, None] * second).sum(0) - mean[:, None] * mean
    assert torch.allclose(x.mean(0), mean, atol=0.03)
    assert torch.allclose(x.T.cov(), covariance, atol=0.1)
    # within each component too: the distance to its centre, where the components are apart
    apart = GaussianMixture(100 * m.means, m.covariances, m.weights)
    x = apart.sample(50_000, seed=1)
    nearest = torch.cdist(x, apart.means).argmin(1)
    for k in range(3):
        own = x[nearest == k]
        assert len(own) / 50_000 == pytest.approx(float(m.weights[k]), abs=0.01)
        close = torch.allclose((own - apart.means[k]).T.cov(), m.full_covariances()[k], atol=0.2)
        assert close


def test_samples_are_turned_the_right_way() -> None:
    # three dimensions: the eigenvectors of a 2 x 2 matrix may come as a symmetric reflection
    m = mixture("full", k=1, d=3)
    x = Gaussian(m.means[0], m.covariances[0]).sample(100_000, seed=0)
    assert torch.allclose(x.T.cov(), m.covariances[0], rtol=0.02, atol=0.03)


def test_samples_depend_on_the_seed_alone() -> None:
    m = mixture("full")
    state = torch.get_rng_state()
    assert torch.equal(m.sample(5, seed=1), m.sample(5, seed=1))
    assert not torch.equal(m.sample(5, seed=1), m.sample(5, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert mixture("full", dtype=torch.float32).sample(2).dtype == torch.float32
    data = normal(4, 1, 2, 2)
    drawn = Empirical(data).sample(200, seed=0)
    assert drawn.shape == (200, 1, 2, 2)
    found = (drawn[:, None] == data).flatten(2).all(2)
    assert bool(found.any(1).all()) and bool((found.sum(0) > 20).all())


# The exact flow of a Gaussian


@each_kind
@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm_narrow", "flow", "linear_growing"])
def test_the_flow_is_the_probability_flow(name: str, kind: str) -> None:
    sde, m = ALL_SDES[name], mixture(kind, k=1)
    g = Gaussian(m.means[0], m.covariances[0])
    s, t = 0.9 * sde.T, 0.05 * sde.T
    x = normal(1, 2) * sde.sigma(s)
    model = g.under(sde)

    def velocity(u: float, y: Any) -> Any:
        y = torch.as_tensor(y)[None]
        return (sde.rate(u) * y - 0.5 * sde.g(u) ** 2 * model.score(u, y))[0].numpy()

    for a, b in ((s, t), (t, s)):
        solved = solve_ivp(velocity, (a, b), x[0].numpy(), "DOP853", rtol=1e-12, atol=1e-13)
        assert torch.allclose(
            g.flow(sde, x, a, b)[0], torch.as_tensor(solved.y[:, -1]), rtol=1e-9, atol=1e-9
        )
    assert torch.allclose(g.flow(sde, g.flow(sde, x, s, t), t, s), x, rtol=1e-12, atol=1e-12)
    assert torch.allclose(g.flow(sde, x, s, s), x, rtol=1e-13, atol=1e-13)
    images = x.float().reshape(1, 1, 2, 1)
    assert g.flow(sde, images, s, t).shape == (1, 1, 2, 1)
    assert g.flow(sde, images, s, t).dtype == torch.float32


def test_the_flow_carries_one_marginal_into_the_other() -> None:
    m = mixture("full", k=1)
    g, sde = Gaussian(m.means[0], m.covariances[0]), VESDE()
    x = g.marginal(sde, 0.8).sample(5)
    y = g.flow(sde, x, 0.8, 0.1)
    jacobian = torch.func.jacrev(lambda u: g.flow(sde, u[None], 0.8, 0.1)[0])(x[0])
    change = torch.linalg.slogdet(jacobian)[1]
    before, after = (g.marginal(sde, t).log_prob(z) for t, z in ((0.8, x), (0.1, y)))
    assert torch.allclose(before, after + change, rtol=1e-10)


# Posteriors


def test_the_posterior_of_a_gaussian_is_the_conjugate_one() -> None:
    m = mixture("full", k=1, d=3)
    g = Gaussian(m.means[0], m.covariances[0])
    A, y, std = normal(2, 3), normal(2, seed=1), 0.3
    precision = torch.linalg.inv(m.covariances[0]) + A.T @ A / std**2
    covariance = torch.linalg.inv(precision)
    shift = torch.linalg.solve(m.covariances[0], m.means[0]) + A.T @ y / std**2
    posterior = g.posterior(A, y, std)
    assert torch.allclose(posterior.mean, covariance @ shift, rtol=1e-10)
    assert torch.allclose(posterior.covariance, covariance, rtol=1e-10)


@pytest.mark.parametrize("std", [1e-2, 1e-5, 1e-9])
def test_a_posterior_keeps_its_digits_under_a_nearly_exact_observation(std: float) -> None:
    prior = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=F64)
    A, y = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([0.3], dtype=F64)
    g = Gaussian(torch.zeros(2, dtype=F64), prior)
    s2 = std**2  # the rows by hand, without a difference of nearly equal numbers
    want = torch.tensor([[s2, 0.5 * s2], [0.5 * s2, 0.75 + s2]], dtype=F64) / (1 + s2)
    for posterior in (g.posterior(A, y, std), g.mixture.posterior(A, y, std)):
        found = posterior.covariance if isinstance(posterior, Gaussian) else posterior.covariances
        found = found.reshape(2, 2)
        assert torch.allclose(found, want, rtol=1e-6, atol=0)
        assert torch.equal(found, found.T)
    mean = g.posterior(A, y, std).mean
    assert torch.allclose(mean, torch.tensor([0.3, 0.15], dtype=F64) / (1 + s2), rtol=1e-12)


@each_kind
@pytest.mark.parametrize(
    "A", [[[1.0, 0.0]], [[0.8, -0.5]], [[1.0, 0.3], [-0.2, 0.7]], [[1.0, 0.9], [0.9, 1.0]]]
)
def test_the_posterior_on_a_grid(kind: str, A: list[list[float]]) -> None:
    m, matrix = mixture(kind), torch.tensor(A, dtype=F64)
    y, std = matrix @ torch.tensor([0.4, -0.3], dtype=F64) + 0.1, 0.5
    posterior = m.posterior(matrix, y, std)
    axis = torch.linspace(-14, 14, 561, dtype=F64)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    log_likelihood = -((y - x @ matrix.T) / std).square().sum(1) / 2
    weight = torch.softmax(reference(m).log_prob(x) + log_likelihood, 0)
    density = weight / (axis[1] - axis[0]) ** 2
    assert torch.allclose(posterior.log_prob(x).exp(), density, rtol=1e-6, atol=1e-8)
    mean = (posterior.weights[:, None] * posterior.means).sum(0)
    assert torch.allclose(mean, (weight[:, None] * x).sum(0), atol=1e-7)
    # the evidence of each component, which is what the weights are made of
    seen = matrix @ m.full_covariances() @ matrix.T + std**2 * torch.eye(len(y), dtype=F64)
    evidence = MultivariateNormal(m.means @ matrix.T, seen).log_prob(y)
    assert torch.allclose(
        posterior.weights, torch.softmax(m.weights.log() + evidence, 0), rtol=1e-10
    )


def test_a_component_that_the_observation_rules_out_is_dropped() -> None:
    m = GaussianMixture(torch.tensor([[-50.0], [0.0], [50.0]]), torch.full((3,), 1e-4))
    posterior = m.posterior(torch.eye(1), torch.tensor([50.0]), 0.01)
    assert posterior.means.tolist() == [[50.0]] and posterior.weights.tolist() == [1.0]
    assert posterior.means.dtype == torch.float32
    score = posterior.under(VPSDE()).score(0.5, torch.zeros(2, 1))
    assert score.dtype == torch.float32 and bool(score.isfinite().all())


# The data set itself


@pytest.mark.parametrize("shape", [(9, 3), (9, 1, 8, 8)])
@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm", "flow", "linear_long"])
def test_the_ideal_denoiser_is_the_weighted_average(name: str, shape: tuple[int, ...]) -> None:
    sde, data = ALL_SDES[name], normal(*shape)
    model = Empirical(data).under(sde)
    for t in times_of(sde, 5).tolist():
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        x = alpha * data[:4] + sigma * normal(4, *shape[1:], seed=1)
        square = (x[:, None] - alpha * data).flatten(2).square().sum(2)
        weight = torch.softmax(-square / (2 * sigma**2), 1)
        want = torch.einsum("bn,n...->b...", weight, data)
        got = model(t, x).x0
        assert got.shape == x.shape
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)


def test_the_marginal_of_a_data_set() -> None:
    data = normal(5, 2)
    oracle, sde = Empirical(data), VPSDE()
    marginal = oracle.marginal(sde, 0.3)
    node, x = sde.at(0.3), normal(4, 2, seed=2)
    parts = torch.stack(
        [
            MultivariateNormal(node.alpha * y, node.sigma**2 * torch.eye(2, dtype=F64)).log_prob(x)
            for y in data
        ]
    )
    assert torch.allclose(marginal.log_prob(x), parts.logsumexp(0) - math.log(5), rtol=1e-11)
    want = gradient(marginal.log_prob, x)
    assert torch.allclose(oracle.under(sde).score(0.3, x), want, rtol=1e-9)


def test_entropy_of_a_marginal_by_quadrature() -> None:
    m = GaussianMixture(torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([0.1, 0.2]).double())
    marginal = m.marginal(VPSDE(), 0.4)

    def density(x: float) -> float:
        return math.exp(float(marginal.log_prob(torch.full((1, 1), x, dtype=F64))))

    mass, _ = quad(density, -8, 8, epsabs=1e-11)
    mean, _ = quad(lambda x: x * density(x), -8, 8, epsabs=1e-11)
    assert mass == pytest.approx(1, abs=1e-9) and mean == pytest.approx(0, abs=1e-9)


def test_inputs_are_not_changed_and_models_carry_their_buffers() -> None:
    means, covariances = normal(3, 2), torch.ones(3, dtype=F64)
    before = means.clone(), covariances.clone()
    model = GaussianMixture(means, covariances).under(VPSDE())
    x = normal(4, 2)
    kept = x.clone()
    model.score(0.3, x), model.score(torch.full((4,), 0.3, dtype=F64), x)
    assert torch.equal(x, kept)
    assert torch.equal(means, before[0]) and torch.equal(covariances, before[1])
    assert {"means", "variances"} <= set(dict(model.named_buffers()))
    assert list(model.parameters()) == []


@each_kind
def test_of_no_states_there_are_no_scores(kind: str) -> None:
    """As of a network."""
    two, none = mixture(kind), torch.zeros(0, 2, dtype=F64)
    assert two.log_prob(none).shape == (0,)
    for time in (0.5, torch.zeros(0, dtype=F64)):
        assert two.under(VPSDE()).score(time, none).shape == (0, 2)
    single = Gaussian(two.means[0], torch.eye(2, dtype=F64))
    assert single.flow(VPSDE(), none.reshape(0, 1, 2), 0.1, 1.0).shape == (0, 1, 2)


# Errors

EYE = torch.eye(2)
ONES = torch.ones(2, 2)
SKEW = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
NEGATIVE = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: GaussianMixture(torch.ones(2), torch.ones(2)), ValueError, r"means: .*\(K, D\)"),
        (
            lambda: GaussianMixture(torch.ones(2, 2).int(), torch.ones(2)),
            TypeError,
            "means.*int32",
        ),
        (
            lambda: GaussianMixture(ONES, torch.ones(3)),
            ValueError,
            r"covariances: .*\(2,\).*\(3,\)",
        ),
        (lambda: GaussianMixture(ONES, -torch.ones(2)), ValueError, "covariances: .*>= 0.*-1"),
        (lambda: GaussianMixture(ONES[:1], SKEW), ValueError, "covariances: .*symmetric.*2"),
        (
            lambda: GaussianMixture(ONES[:1], NEGATIVE),
            ValueError,
            "covariances: .*eigenvalue of -1",
        ),
        (
            lambda: GaussianMixture(ONES, torch.ones(2), torch.tensor([1.0, 0.0])),
            ValueError,
            r"weights: .*positive.*\[1\.0, 0\.0\]",
        ),
        (lambda: GaussianMixture(ONES, torch.ones(2), torch.ones(3)), ValueError, "weights"),
        (
            lambda: GaussianMixture(ONES, torch.ones(2)).log_prob(torch.zeros(4, 3)),
            ValueError,
            r"x: .*\(B, 2\).*\(4, 3\)",
        ),
        (
            lambda: GaussianMixture(ONES, torch.ones(2)).under(SDE(lambda t, x: x, lambda t: 1.0)),
            TypeError,
            "sde: .*AffineSDE",
        ),
        (lambda: Gaussian(EYE, EYE), ValueError, r"mean: .*\(D,\).*\(2, 2\)"),
        (lambda: Gaussian(EYE[0], torch.ones(3)), ValueError, "covariance"),
        (
            lambda: Gaussian(EYE[0], EYE).posterior(torch.ones(1, 3), torch.ones(1), 1.0),
            ValueError,
            r"A: .*\(M, 2\).*\(1, 3\)",
        ),
        (
            lambda: Gaussian(EYE[0], EYE).posterior(torch.ones(1, 2), torch.ones(2), 1.0),
            ValueError,
            r"y: .*\(1,\).*\(2,\)",
        ),
        (
            lambda: Gaussian(EYE[0], EYE).posterior(torch.ones(1, 2), torch.ones(1), 0.0),
            ValueError,
            "std: .*0.0",
        ),
        (
            lambda: Gaussian(torch.zeros(0), torch.zeros(0, 0)),
            ValueError,
            r"mean: .*D >= 1.*\(0,\)",
        ),
        (lambda: GaussianMixture(torch.zeros(2, 0), torch.ones(2)), ValueError, "means: .*D >= 1"),
        (lambda: Gaussian(EYE[0], EYE).log_prob(torch.tensor(1.0)), ValueError, "x: .*got 1.0"),
        (lambda: Empirical(torch.zeros(0, 2)), ValueError, r"data: .*N >= 1.*\(0, 2\)"),
        (lambda: Empirical(torch.zeros(3)), ValueError, r"data: .*\(3,\)"),
        (lambda: Empirical(torch.full((2, 2), math.nan)), ValueError, "data: .*finite"),
        (lambda: Empirical(torch.zeros(2, 2).long()), TypeError, "data: .*int64"),
        (lambda: Empirical(EYE).marginal(VPSDE(), 0.0), ValueError, "t: .*sigma"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_numpy_is_not_needed_to_compare() -> None:
    # the same mixture in numpy, written out: an implementation that shares nothing with ours
    m, t, sde = mixture("full"), 0.35, VPSDE()
    x = normal(3, 2).numpy()
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    total, weighted = np.zeros(3), np.zeros((3, 2))
    for w, mu, c in zip(m.weights, m.means.numpy(), m.covariances.numpy(), strict=True):
        c_t = alpha**2 * c + sigma**2 * np.eye(2)
        r = x - alpha * mu
        pulled = np.linalg.solve(c_t, r.T).T
        density = float(w) * np.exp(-(r * pulled).sum(1) / 2) / np.sqrt(np.linalg.det(c_t))
        total, weighted = total + density, weighted - density[:, None] * pulled
    want = torch.as_tensor(weighted / total[:, None])
    assert torch.allclose(m.under(sde).score(t, torch.as_tensor(x)), want, rtol=1e-11)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "isotropic"])
def test_a_gaussian_with_the_moments_of_data(covariance: str) -> None:
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.3, 0.1]])
    data = normal(500, 3) @ mix.to(normal(1, 3)).T + 1.5
    fitted = Gaussian.fit(data.reshape(500, 1, 3), covariance)
    assert torch.allclose(fitted.mean, data.mean(0), rtol=1e-12)
    exact = torch.cov(data.T)
    expected = {"full": exact, "diagonal": exact.diag(), "isotropic": exact.diag().mean()}
    assert torch.allclose(fitted.covariance, expected[covariance], rtol=1e-12, atol=1e-12)


def test_more_dimensions_than_samples_still_flow() -> None:
    data = normal(4, 10)
    fitted = Gaussian.fit(data)
    assert torch.isfinite(fitted.flow(VPSDE(), normal(2, 10), 1.0, 0.3)).all()
    with pytest.raises(ValueError, match="data: expected shape"):
        Gaussian.fit(data[:1])


def test_a_far_measurement_leaves_the_components_that_are_not_ruled_out() -> None:
    """The weight of the other is below the least number of float32, though not of float64."""
    prior = GaussianMixture(torch.tensor([[-2.0], [2.0]]), torch.tensor([0.1, 0.1]))
    found = prior.posterior(torch.ones(1, 1), torch.tensor([4.0]), 0.1)
    assert found.weights.tolist() == [1.0]
    assert float(found.means) == pytest.approx(2.0 + 2.0 * 0.1 / 0.11)
