"""The posterior score models against exact posteriors, and what all of them have in common."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

import pytest
import torch
from labelled import Labelled
from torch import Tensor

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    ReverseSampler,
    ScoreModel,
    SubVPSDE,
    log_prob,
)
from scoresde.guidance import ClassifierFree
from scoresde.measurement import (
    GaussianNoise,
    Identity,
    LogLikelihood,
    Mask,
    Matrix,
    Measurement,
    PoissonNoise,
)
from scoresde.node import Node
from scoresde.posterior import DPS, MMPS, TMPD, ExactPosterior, PiGDM, base
from scoresde.posterior.base import conjugate_gradients
from scoresde.prediction import Prediction
from scoresde.summary import DataRangeWarning, DataSummary

D, M = 5, 3
SDES = (VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE())
A = torch.randn(M, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def covariance() -> Tensor:
    root = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return root @ root.T / D + 0.1 * torch.eye(D, dtype=torch.float64)


PRIOR = Gaussian(torch.linspace(-1.0, 1.0, D, dtype=torch.float64), covariance())
MODELS: dict[str, Callable[[ScoreModel, Measurement], ScoreModel]] = {
    "DPS": DPS,
    "PiGDM": lambda model, measurement: PiGDM(model, measurement, 1.5),
    "MMPS": MMPS,
    "TMPD": TMPD,
}


def states(n: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(n, D, generator=generator, dtype=torch.float64)


def correlated() -> GaussianNoise:
    return GaussianNoise(
        covariance=torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.4]]).double()
    )


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("noise", [0.3, correlated()], ids=["scalar", "correlated"])
@pytest.mark.parametrize("missing", [False, True])
def test_mmps_and_pigdm_with_the_covariance_are_exact_for_gaussian_priors(
    sde: VPSDE, noise: float | GaussianNoise, missing: bool
) -> None:
    y = Y.clone()
    if missing:
        y[1] = float("nan")
    measurement = Measurement(Matrix(A), y, noise)
    exact = ExactPosterior(PRIOR, sde, measurement)
    prior, x = PRIOR.under(sde), states()
    for t in (0.05 * sde.T, 0.4 * sde.T, 0.9 * sde.T):
        truth = exact.score(t, x)
        size = float(truth.abs().max())
        for model in (
            MMPS(prior, measurement, tol=1e-13, max_iter=30),
            PiGDM(prior, measurement, PRIOR, tol=1e-13),
        ):
            assert float((model.score(t, x) - truth).abs().max()) < 1e-9 * size


def test_tmpd_is_exact_for_independent_values_of_which_some_are_measured() -> None:
    prior = Gaussian(torch.zeros(D).double(), torch.linspace(0.2, 2.0, D).double())
    mask = torch.tensor([True, False, True, True, False])
    measurement = Measurement(Mask(mask), Y, 0.3)
    for sde in SDES:
        exact, model = (
            ExactPosterior(prior, sde, measurement),
            TMPD(prior.under(sde), measurement),
        )
        gap = model.score(0.3 * sde.T, states()) - exact.score(0.3 * sde.T, states())
        assert float(gap.abs().max()) < 1e-10 * float(
            exact.score(0.3 * sde.T, states()).abs().max()
        )


def test_pigdm_takes_the_isotropic_variance_of_its_formula() -> None:
    sde, v, std = VPSDE(), 1.7, 0.4
    node, x = sde.at(0.3), states()
    measurement = Measurement(Matrix(A), Y, std)
    prior = GaussianMixture(
        torch.stack([torch.zeros(D), torch.ones(D)]).double(), torch.tensor([0.5, 1.0]).double()
    ).under(sde)
    leaf = x.clone().requires_grad_()
    x0 = prior.predict(node, leaf).x0
    r2 = v * node.sigma**2 / (node.sigma**2 + v * node.alpha**2)
    s = r2 * A @ A.T + std**2 * torch.eye(M).double()
    weights = torch.linalg.solve(s, (Y - x0.detach() @ A.T).T).T @ A
    (shift,) = torch.autograd.grad(x0, leaf, weights)
    found = PiGDM(prior, measurement, v, tol=1e-13).score(0.3, x)
    assert torch.allclose(found, prior.score(0.3, x) + shift, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_dps_has_the_published_strength_where_it_is_below_the_likelihoods(strength: float) -> None:
    sde, x, t = VPSDE(), states(), 0.5
    prior, node = PRIOR.under(sde), sde.at(0.5)
    model = DPS(prior, Measurement(Matrix(A), Y, 1e-3), strength)
    leaf = x.clone().requires_grad_()
    norms = (Y - prior.predict(node, leaf).x0 @ A.T).norm(dim=1)
    (grad,) = torch.autograd.grad(norms.sum(), leaf)
    shift = -strength * 1000 / (node.g**2 * sde.T) * grad
    assert torch.allclose(model.score(t, x) - prior.score(t, x), shift, rtol=1e-8, atol=1e-10)


def test_dps_is_never_stronger_than_the_likelihood_at_the_denoised_state() -> None:
    sde, x, t, std = VPSDE(), states(), 0.5, 40.0
    prior, node = PRIOR.under(sde), sde.at(0.5)
    measurement = Measurement(Matrix(A), Y, std)
    leaf = x.clone().requires_grad_()
    value = measurement.log_likelihood(prior.predict(node, leaf).x0, Y.expand(4, M))
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    found = DPS(prior, measurement).score(t, x) - prior.score(t, x)
    assert torch.allclose(found, grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_dps_is_defined_where_the_diffusion_is_zero(sde: VPSDE, strength: float) -> None:
    prior, x = PRIOR.under(sde), states()
    model = DPS(prior, Measurement(Matrix(A), Y, 0.3), strength)
    for t in (0.0, sde.T):
        one = model(t, x).value
        many = model(torch.full((4,), t, dtype=torch.float64), x).value
        assert bool(one.isfinite().all()) and torch.allclose(one, many, rtol=1e-11)
        if not strength:
            assert torch.equal(one, prior(t, x).value)


def test_dps_takes_any_operator_and_any_likelihood() -> None:
    sde, x = VPSDE(), states()
    prior, node = PRIOR.under(sde), sde.at(0.2)

    def squares(x0: Tensor) -> Tensor:
        return x0[:, :M].square() + 0.5

    for measurement in (
        Measurement(Identity(), torch.zeros(D).double(), LogLikelihood(_absolute)),
        Measurement(squares, torch.tensor([1.0, 2.0, 0.0]).double(), PoissonNoise()),
    ):
        y = measurement.y.expand(4, *measurement.y.shape)  # type: ignore[union-attr]
        leaf = x.clone().requires_grad_()
        value = measurement.log_likelihood(prior.predict(node, leaf).x0, y)
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        found = DPS(prior, measurement).score(0.2, x) - prior.score(0.2, x)
        assert torch.allclose(found, grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_infinite_noise_gives_the_prior_and_batched_nodes_the_same(name: str, sde: VPSDE) -> None:
    prior, x = PRIOR.under(sde), states()
    t = 0.3 * sde.T
    far = MODELS[name](prior, Measurement(Matrix(A), Y, 1e9))
    plain = prior.score(t, x)
    assert float((far.score(t, x) - plain).abs().max()) < 1e-12 * float(plain.abs().max())
    model = MODELS[name](prior, Measurement(Matrix(A), Y, 0.3))
    one = model.score(t, x)
    many = model.score(torch.full((4,), t, dtype=torch.float64), x)
    assert torch.allclose(one, many, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_does_not_depend_on_its_batch_mates(name: str) -> None:
    sde = VPSDE()
    model = MODELS[name](PRIOR.under(sde), Measurement(Matrix(A), noise=0.3))
    x, y = states(6), torch.randn(6, M, generator=torch.Generator().manual_seed(2)).double()
    other, others = x.clone(), y.clone()
    other[1:], others[1:] = 50.0 * x[1:], 1e-3 * y[1:]
    found = model.score(0.4, x, {"y": y})[0]
    assert torch.equal(found, model.score(0.4, other, {"y": others})[0])


def test_samples_of_mmps_are_those_of_the_exact_posterior() -> None:
    sde = VPSDE()
    measurement = Measurement(Matrix(A), Y, 0.3)
    model = MMPS(PRIOR.under(sde), measurement, tol=1e-8)
    x = ReverseSampler(sde, model, "dpmpp_2m", steps=40).sample((4000, D), seed=0).double()
    exact = PRIOR.mixture.posterior(A, Y, 0.3)
    spread = exact.full_covariances()[0].diagonal().sqrt()
    assert float(((x.mean(0) - exact.means[0]) / spread).abs().max()) < 0.06
    assert float((x.std(0) / spread - 1).abs().max()) < 0.05


def test_the_density_of_a_guided_flow_can_be_computed() -> None:
    sde = VPSDE()
    measurement = Measurement(Matrix(A), Y, 0.3)
    model = PiGDM(PRIOR.under(sde), measurement, PRIOR, tol=1e-12)
    exact = PRIOR.mixture.posterior(A, Y, 0.3)
    x = exact.marginal(sde, sde.t_end).sample(3, seed=1).double()
    found = log_prob(model, x, divergence="exact", t_end=sde.t_end)
    truth = exact.marginal(sde, sde.t_end).log_prob(x)
    assert float((found.nats - truth).abs().max()) < 0.02


def _absolute(x0: Tensor, y: Tensor) -> Tensor:
    return -(x0 - y).abs().sum(1)


def test_both_orders_of_guidance_and_measurement_work_with_a_y_for_each_sample() -> None:
    prior, x = Labelled(VPSDE(), D), states()
    measurement = Measurement(Matrix(A), noise=0.5)
    cond = {"label": torch.tensor([0, 1, 0, 1]), "y": Y.repeat(4, 1) + torch.arange(4)[:, None]}
    inner = PiGDM(ClassifierFree(prior, 2.0), measurement, 1.0)
    outer = ClassifierFree(PiGDM(prior, measurement, 1.0), 2.0)
    for model in (inner, outer):
        x_end = ReverseSampler(prior.sde, model, "unipc_3", steps=8).sample(
            (4, D), seed=0, cond=cond
        )
        assert bool(x_end.isfinite().all())
    none = {**cond, "label": torch.full((4,), -1)}
    guided = PiGDM(prior, measurement, 1.0)
    expected = 2.0 * guided.score(0.3, x, cond) - guided.score(0.3, x, none)
    assert torch.allclose(outer.score(0.3, x, cond), expected, rtol=1e-9, atol=1e-9)


def test_vector_jacobian_products_are_counted() -> None:
    sde, measurement = VPSDE(), Measurement(Matrix(A), Y, 0.3)
    for name, expected in (("DPS", 1), ("PiGDM", 1), ("TMPD", 2)):
        model = MODELS[name](PRIOR.under(sde), measurement)
        model.score(0.3, states())
        assert model.vjps == expected  # type: ignore[attr-defined]
    model = MMPS(PRIOR.under(sde), measurement, tol=1e-12)
    pulled = 0
    real = torch.autograd.grad

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal pulled
        pulled += 1
        return real(*args, **kwargs)  # type: ignore[arg-type]

    torch.autograd.grad = counting  # type: ignore[assignment]
    try:
        model.score(0.3, states())
    finally:
        torch.autograd.grad = real
    assert model.vjps == pulled == M  # S is written out


def test_products_of_conjugate_gradients_are_counted() -> None:
    """Nine numbers are too many to write S out; they span five directions, and the noise one."""
    wide = torch.randn(9, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measurement = Measurement(Matrix(wide), torch.ones(9, dtype=torch.float64), 0.3)
    model = MMPS(PRIOR.under(VPSDE()), measurement, tol=1e-12)
    model.score(0.3, states())
    assert D + 1 <= model.vjps <= D + 3


def test_mmps_of_a_jacobian_without_symmetry_takes_its_symmetric_part() -> None:
    """As of a network: x_0hat = x B^T with any B; conjugate gradients would not converge."""
    sde = VPSDE()
    node = sde.at(0.4)
    B = torch.randn(D, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model = FunctionScore(sde, lambda t, x: (node.alpha * x @ B.T - x) / node.sigma**2)
    x = states()
    found = MMPS(model, Measurement(Matrix(A), Y, 0.3)).predict(node, x)
    values, vectors = torch.linalg.eigh((A @ B @ A.T + A @ B.T @ A.T) / 2)
    assert float(values.min()) < 0.0 < float(values.max())
    C = node.sigma**2 / node.alpha * (vectors * values.clamp_min(0.0)) @ vectors.T
    S = C + 0.09 * torch.eye(M, dtype=torch.float64)
    shift = torch.linalg.solve(S, (Y - x @ B.T @ A.T).T).T @ A @ B
    torch.testing.assert_close(found.score - model.predict(node, x).score, shift)


def test_conjugate_gradients_freeze_what_is_done_and_warn_of_what_is_not() -> None:
    matrix = torch.diag(torch.tensor([1.0, 10.0, 100.0])).double()
    b = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).double()
    w, count = conjugate_gradients(lambda v: v @ matrix, b, 1e-12, 10, "X")
    assert count == 3 and torch.allclose(w @ matrix, b)
    with pytest.warns(UserWarning, match="X: the linear solves of some samples ended above"):
        one, _ = conjugate_gradients(lambda v: v @ matrix, b, 1e-12, 1, "X")
    assert torch.allclose(one[0] @ matrix, b[0])  # the first was done, and keeps its solution
    with pytest.warns(UserWarning, match="keep the solution of the least residual"):
        none, count = conjugate_gradients(lambda v: -v, b, 1e-12, 5, "X")
    assert count == 1 and torch.equal(none, torch.zeros_like(b))


@pytest.mark.parametrize("times", [1, 5])
def test_mmps_does_not_follow_a_jacobian_that_is_no_covariance(times: int) -> None:
    """A network whose x_0hat falls as x grows along half of the axes.

    There S = Sigma + (sigma^2 / alpha) J is nearly 0, so the step of a plain solve is 25 times the
    residual over the noise. With few numbers J counts as 0 there; else the solve ends.
    """
    sde = VPSDE()
    slopes = torch.tensor([0.5, -0.5], dtype=torch.float64).repeat(times)

    def score(t: Tensor, x: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(float(t)), sde.sigma(float(t))
        return (alpha * slopes * x - x) / sigma**2

    node = sde.at(0.5)
    noise = float((node.sigma**2 / node.alpha * 0.5 + 0.01) ** 0.5)
    y = Measurement(Identity(), torch.ones(2 * times, dtype=torch.float64), noise)
    x = torch.full((1, 2 * times), 0.3, dtype=torch.float64)
    inner = FunctionScore(sde, score)
    told = pytest.warns(UserWarning, match="MMPS: the linear solves")
    with told if times > 1 else contextlib.nullcontext():
        moved = MMPS(inner, y).predict(node, x).x0 - inner.predict(node, x).x0
    assert moved.abs().max() < 2.0, moved


def test_a_solve_ends_where_its_directions_are_not_conjugate() -> None:
    """A symmetric matrix takes as many products as before, another one ends after a few.

    S has the symmetric part diag(1 ... 30), so that all curvatures are positive.
    """
    generator = torch.Generator().manual_seed(0)
    skew = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    S = torch.diag(torch.arange(1.0, 31.0, dtype=torch.float64))
    b = torch.randn(3, 30, generator=generator, dtype=torch.float64)
    w, count = conjugate_gradients(lambda v: v @ S, b, 1e-10, 60, "X")
    assert 25 <= count <= 32 and torch.allclose(w @ S, b)
    wrong = S + 0.5 * (skew - skew.T)
    with pytest.warns(UserWarning, match="ended above the tolerance"):
        w, count = conjugate_gradients(lambda v: v @ wrong, b, 1e-10, 60, "X")
    assert count <= 3
    assert bool(((w @ wrong - b).norm(dim=1) < b.norm(dim=1)).all())


def test_a_solve_that_diverges_stops_with_its_least_residual() -> None:
    """For a matrix that is far from symmetric, as the Jacobian of a network may be."""
    generator = torch.Generator().manual_seed(0)
    skew = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    matrix = torch.eye(20, dtype=torch.float64) + 2.0 * (skew - skew.T)
    b = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    with pytest.warns(UserWarning, match="ended above the tolerance"):
        w, count = conjugate_gradients(lambda v: v @ matrix, b, 1e-8, 500, "X")
    assert count < 100  # given up as it grows
    assert ((w @ matrix - b).norm(dim=1) <= b.norm(dim=1)).all()


@pytest.mark.parametrize("method", [PiGDM, MMPS, TMPD])
def test_what_a_method_cannot_take_is_an_error_that_names_it(
    method: Callable[[ScoreModel, Measurement], ScoreModel],
) -> None:
    prior = PRIOR.under(VPSDE())
    name = method.__name__  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=f"operator.*{name}"):
        method(prior, Measurement(lambda x: x**2, torch.zeros(D), 0.1))
    with pytest.raises(TypeError, match=f"noise.*{name}"):
        method(prior, Measurement(Identity(), torch.zeros(D), PoissonNoise()))
    with pytest.raises(ValueError, match=f"noise.*{name}"):
        method(prior, Measurement(Identity(), torch.zeros(D), 0.0))


def test_other_bad_input_is_refused() -> None:
    prior = PRIOR.under(VPSDE())
    measurement = Measurement(Matrix(A), Y, 0.3)
    with pytest.raises(TypeError, match="measurement"):
        DPS(prior, Y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise"):
        TMPD(prior, Measurement(Matrix(A), Y, correlated()))
    with pytest.raises(ValueError, match="strength"):
        DPS(prior, measurement, -1.0)
    bare = Labelled(VPSDE(), D)
    with pytest.raises(ValueError, match="prior"):
        PiGDM(bare, measurement)
    with pytest.raises(ValueError, match="shape"):
        MMPS(prior, Measurement(Matrix(A), torch.zeros(M + 1), 0.3)).score(0.5, states())


def test_a_model_or_an_operator_without_derivatives_is_refused() -> None:
    """Their Jacobian would be that of a constant score, and MMPS wrong on a Gaussian prior."""
    prior = PRIOR.under(VPSDE())

    def without(t: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return prior.score(float(t), x)

    def energy(t: Tensor, x: Tensor) -> Tensor:
        return torch.autograd.grad((-0.5 * x.square()).sum(), x)[0]

    measurement = Measurement(Matrix(A), Y, 0.3)
    for score in (without, energy):
        model = FunctionScore(VPSDE(), score)
        for method in (MMPS, DPS, TMPD):
            with pytest.raises(ValueError, match="model: expected one that is differ"):
                method(model, measurement).score(0.5, states())
    for operator in (torch.Tensor.detach, torch.sign, lambda x: (x > 0).to(x)):
        seen = Measurement(operator, torch.zeros(D), 0.3)
        if operator is torch.sign:  # a derivative of 0 is one
            DPS(prior, seen).score(0.5, states())
            continue
        with pytest.raises(ValueError, match=r"measurement: expected .* differentiable in x_0"):
            DPS(prior, seen).score(0.5, states())


def test_tmpd_warns_of_sums_that_count_as_zero() -> None:
    """Two values with a correlation of -0.95 but other scales: one row sum is negative."""
    prior = Gaussian(
        torch.zeros(2, dtype=torch.float64), torch.tensor([[4.0, -1.9], [-1.9, 1.0]]).double()
    )
    y = Measurement(Identity(), torch.zeros(2, dtype=torch.float64), 0.1)
    with pytest.warns(UserWarning, match="TMPD: a row of the covariance .* negative sum"):
        TMPD(prior.under(VPSDE()), y).predict(
            VPSDE().at(0.5), torch.ones(3, 2, dtype=torch.float64)
        )


def squared(std: float) -> Measurement:
    """x_0^2 = 1 +- std."""
    return Measurement(lambda x: x.square(), torch.ones(1, dtype=torch.float64), std)


def unknown(sde: VPSDE) -> FunctionScore:
    """A standard normal prior that knows nothing of its data."""
    return FunctionScore(sde, lambda t, x: -x)


def test_a_run_that_diverges_says_so_without_a_summary_of_the_data() -> None:
    """So sharp a likelihood is too much for 50 steps of second order."""
    sde = VPSDE()
    model = DPS(unknown(sde), squared(0.1))
    sampler = ReverseSampler(sde, model, "sa_solver_p2_v", steps=50)
    for _ in range(2):  # each run says it, once
        with pytest.warns(DataRangeWarning, match=r"DPS diverges: at t = .* 'ancestral'") as said:
            x = sampler.sample((20, 1), seed=0, dtype=torch.float64)
        assert float(x.abs().max()) > 100.0
        assert len([one for one in said if issubclass(one.category, DataRangeWarning)]) == 1


def test_where_reading_back_waits_the_first_time_is_named_some_calls_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The warning of several calls is that of each call: the same time and the same states."""
    sde = VPSDE()
    model = DPS(unknown(sde), squared(0.1))
    sampler = ReverseSampler(sde, model, "sa_solver_p2_v", steps=50)
    said = []
    for at_once in (True, False):
        monkeypatch.setattr(base, "_at_once", lambda device, now=at_once: now)
        with pytest.warns(DataRangeWarning, match="DPS diverges") as found:
            sampler.sample((20, 1), seed=0, dtype=torch.float64)
        (one,) = (w for w in found if issubclass(w.category, DataRangeWarning))
        said.append(str(one.message))
    assert said[0] == said[1]


def test_what_is_far_is_measured_by_the_noise_of_the_time_and_the_data() -> None:
    """States of size 30 are far from unit data at sigma = 1, though sigma starts at 80."""
    sde = EDMSDE()
    prior = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    y = Measurement(Identity(), torch.full((1,), 100.0, dtype=torch.float64), 0.01)
    x = torch.full((3, 1), 30.0, dtype=torch.float64)
    for t, size, far in ((1.0, 30.0, True), (1.0, 10.0, False), (30.0, 100.0, False)):
        model = PiGDM(prior.under(sde), y)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.predict(sde.at(t), x / 30.0 * size)
        assert [w.category for w in said] == [DataRangeWarning] * far, (t, size)


def test_a_run_that_stays_with_the_data_says_nothing() -> None:
    sde = VPSDE()
    model = DPS(unknown(sde), squared(0.3))
    sampler = ReverseSampler(sde, model, "ancestral", steps=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = sampler.sample((20, 1), seed=0, dtype=torch.float64)
    assert float((x.abs() - 1.0).abs().max()) < 0.8


class Coarse(ScoreModel):
    """The score of `PRIOR` with an x_0hat that is wrong by a wave of x, more so in more noise.

    The error is as large as that of a trained network: it stays below 0.3, and its derivative is
    multiplied by sigma^2 / alpha.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sde, self.inner = VPSDE(), PRIOR.under(VPSDE())
        x = PRIOR.sample(1000, seed=0)
        low, high = float(x.min()), float(x.max())
        self.data = DataSummary(1000, (D,), float(x.mean()), float(x.std()), low, high)

    def predict(self, node: Node, x: Tensor, cond: object = None) -> Prediction:
        x0 = self.inner.predict(node, x).x0 + 0.3 * node.sigma**2 * torch.sin(2.0 * x.roll(1, 1))
        return Prediction(x, node, x0, "x0")


@pytest.mark.parametrize("method", ["PiGDM", "MMPS", "TMPD"])
@pytest.mark.parametrize("solver", ["auto", "auto_sde"])
@pytest.mark.filterwarnings("ignore:TMPD")  # its sums are those of a wrong Jacobian here
def test_errors_of_a_network_in_nearly_pure_noise_do_not_carry_samples_away(
    method: str, solver: str
) -> None:
    """The shift of x_0hat stays at a size that data can have; so the samples stay in place."""
    y, coarse = Measurement(Mask(torch.arange(D) < 2), Y[:2], 0.1), Coarse()
    model = MODELS[method](coarse, y)
    node, x = coarse.sde.at(1.0), states(200)
    moved = model.predict(node, x).x0 - coarse.predict(node, x).x0
    residual = (Y[:2] - coarse.predict(node, x).x0[:, :2]).norm(dim=1)
    longest = 2.0 * residual.clamp_min(coarse.data.size * D**0.5)
    assert bool((moved.norm(dim=1) <= longest * (1 + 1e-9)).all())
    means = [
        ReverseSampler(one.sde, MODELS[method](one, y), solver, steps=20)
        .sample((300, D), seed=0)
        .mean(0)
        for one in (coarse, coarse.inner)
    ]
    assert (means[0] - means[1]).abs().max() < coarse.data.size, means


def test_the_exact_score_of_a_model_that_knows_its_data_is_shifted_in_full() -> None:
    """A limit does not touch what is right, at any time, for y within the data and far outside."""
    known = PRIOR.under(VPSDE())
    plain = {float(far): MMPS(known, Measurement(Matrix(A), far * Y, 0.3)) for far in (1.0, 20.0)}
    node, x = VPSDE().at(0.9), 0.3 * states(200)
    before = {far: model.predict(node, x).x0 for far, model in plain.items()}
    known.data = Coarse().data
    for far, model in plain.items():
        assert torch.equal(model.predict(node, x).x0, before[far]), far
