"""Measurements: likelihoods against torch.distributions and scipy, shapes, noise, NaN."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, Poisson

from scoresde import VPSDE, FunctionScore
from scoresde.measurement import (
    Blur,
    GaussianNoise,
    Identity,
    Linear,
    LogLikelihood,
    Mask,
    Matrix,
    Measurement,
    PoissonNoise,
    SuperResolution,
)

F64 = torch.float64
NAN = math.nan


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def covariance(m: int) -> Tensor:
    root = randn(m, m, seed=9)
    return root @ root.T + 0.1 * torch.eye(m, dtype=F64)


A, X, Y = randn(3, 5, seed=1), randn(4, 5, seed=2), randn(4, 3, seed=3)
NOISES = {
    "scalar": (0.3, torch.eye(3, dtype=F64) * 0.09),
    "stds": (torch.tensor([0.1, 0.2, 2.0], dtype=F64), None),
    "variances": (GaussianNoise(variances=torch.tensor([0.01, 0.04, 4.0], dtype=F64)), None),
    "covariance": (GaussianNoise(covariance=covariance(3)), covariance(3)),
}
HOLES = [(), (1,), (0, 2), (0, 1, 2)]


def full(name: str) -> Tensor:
    given = NOISES[name][1]
    return torch.diag(torch.tensor([0.01, 0.04, 4.0], dtype=F64)) if given is None else given


def test_the_likelihood_is_that_of_torch_and_scipy() -> None:
    """A factor 2 in the constant, or variances taken for deviations, would not pass."""
    for name, (noise, _) in NOISES.items():
        value = Measurement(Matrix(A), noise=noise).log_likelihood(X, Y)
        close(value, MultivariateNormal(X @ A.T, full(name)).log_prob(Y))
        by_scipy = stats.multivariate_normal((X @ A.T)[1].numpy(), full(name).numpy())
        assert math.isclose(float(value[1]), by_scipy.logpdf(Y[1].numpy()), rel_tol=1e-11)
    value = Measurement(Matrix(A), noise=0.3).log_likelihood(X, Y)
    close(value, Normal(X @ A.T, torch.tensor(0.3, dtype=F64)).log_prob(Y).sum(1))


@pytest.mark.parametrize(("name", "holes"), list(product(NOISES, HOLES)))
@pytest.mark.parametrize("shared", [False, True])
def test_unobserved_entries_are_marginalised(
    name: str, holes: tuple[int, ...], shared: bool
) -> None:
    """The density of the observed entries: of the sub-matrix of the covariance, not of its
    inverse; and every product is that of the sub-problem."""
    if shared and len(holes) == 3:
        return
    y = Y.clone() if not shared else Y[:1].repeat(4, 1)
    y[0 if shared else 2 :, list(holes)] = NAN
    measured = Measurement(Matrix(A), y[0] if shared else None, noise=NOISES[name][0])
    kept = [i for i in range(3) if i not in holes]
    small = Measurement(
        Matrix(A[kept]) if kept else Identity(),
        noise=GaussianNoise(covariance=full(name)[kept][:, kept]) if kept else 1.0,
    )
    v = randn(4, 3, seed=5)
    rows = slice(0 if shared else 2, 4)
    part = y[rows][:, kept]
    likelihood = measured.log_likelihood(X, y)[rows]
    if not kept:
        assert torch.equal(likelihood, torch.zeros_like(likelihood))
    else:
        close(likelihood, small.log_likelihood(X[rows], part))
        close(measured.solve_noise(v, y)[rows][:, kept], small.solve_noise(v[rows][:, kept], part))
        close(measured.apply_noise(v, y)[rows][:, kept], small.apply_noise(v[rows][:, kept], part))
        close(measured.log_det_noise(y)[rows], small.log_det_noise(part))
    close(measured.solve_noise(measured.apply_noise(v, y), y), v)
    close(measured.apply_noise(v, y)[rows][:, list(holes)], v[rows][:, list(holes)])
    close(
        measured.noise_variance(y)[rows][:, kept],
        full(name).diagonal()[kept].expand(len(part), -1),
    )
    residual = measured.residual(X, y)
    assert bool(residual.isfinite().all()) and not residual[rows][:, list(holes)].any()
    close(measured.forward(X, y)[rows][:, kept], (X @ A[kept].T)[rows])
    w = randn(4, 3, seed=6)
    left = (measured.forward(X, y) * w).sum(1)
    close(left, (X * measured.adjoint(w, y)).sum(1))


def test_gradients_of_unobserved_entries_are_zero_and_not_nan() -> None:
    y = Y.clone()
    y[:, 1] = NAN
    for noise in (NOISES["scalar"][0], NOISES["covariance"][0]):
        x = X.clone().requires_grad_()
        (grad,) = torch.autograd.grad(
            Measurement(Matrix(A), noise=noise).log_likelihood(x, y).sum(), x
        )
        assert bool(grad.isfinite().all())
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(
        Measurement(Mask(torch.arange(5) < 3), noise=0.5).log_likelihood(x, y).sum(), x
    )
    close(grad[:, [0, 2]], (y - X[:, :3])[:, [0, 2]] / 0.25)
    assert not grad[:, [1, 3, 4]].any()


def test_poisson_counts() -> None:
    """p(y) for the counts y / gain: without the gain the rates would be wrong by a factor."""
    rates = torch.tensor([[0.2, 3.0, 40.0, 0.0]], dtype=F64)
    counts = torch.tensor([[0.0, 4.0, 37.0, 0.0]], dtype=F64)
    measured = Measurement(Identity(), noise=PoissonNoise(gain=0.1))
    value = measured.log_likelihood(0.1 * rates, 0.1 * counts)
    close(value, Poisson(rates, validate_args=False).log_prob(counts).nan_to_num().sum(1))
    assert math.isclose(
        float(value), stats.poisson(rates.numpy()).logpmf(counts.numpy()).sum(), rel_tol=1e-12
    )
    gone = counts.clone()
    gone[0, 2] = NAN
    part = measured.log_likelihood(0.1 * rates, 0.1 * gone)
    close(part - value, -Poisson(rates[:, 2]).log_prob(counts[:, 2]))


def test_negative_rates_have_a_gradient_that_leads_back() -> None:
    x = torch.tensor([[-0.5, -0.5, 0.0]], dtype=F64, requires_grad=True)
    y = torch.tensor([[3.0, 0.0, 2.0]], dtype=F64)
    value = Measurement(Identity(), noise=PoissonNoise()).log_likelihood(x, y)
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert bool((value < -100).all()) and bool(grad.isfinite().all()) and bool((grad > 0).all())


@pytest.mark.parametrize(
    "noise", [0.5, GaussianNoise(covariance=covariance(3)), PoissonNoise(0.5)]
)
def test_simulated_measurements_have_the_moments_of_their_noise(noise: object) -> None:
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64).expand(20000, 3)
    measured = Measurement(Identity(), noise=noise)  # type: ignore[arg-type]
    y = measured.simulate(x, seed=1)
    wanted = covariance(3) if isinstance(noise, GaussianNoise) else torch.eye(3, dtype=F64) * 0.25
    if isinstance(noise, PoissonNoise):
        wanted = torch.diag(0.5 * x[0])
    error = (y.mean(0) - x[0]) / (wanted.diagonal() / 20000).sqrt()
    assert error.abs().max() < 4
    assert (torch.cov(y.T) - wanted).abs().max() < 0.04 * wanted.abs().max()
    assert torch.equal(measured.simulate(x[:7], seed=1), y[:7])
    assert not torch.equal(measured.simulate(x[:7], seed=2), y[:7])


def test_y_is_shared_or_a_condition_of_each_sample() -> None:
    model = FunctionScore(VPSDE(), lambda t, x, c: -x)
    x, c = X.float(), torch.zeros(4, 1)
    shared = Measurement(Matrix(A), Y[0], noise=0.1)
    y, rest = shared.split({"c": c}, x)
    assert y.dtype == torch.float32 and torch.equal(y, Y[0].float().expand(4, 3))
    assert rest is not None and list(rest) == ["c"]
    assert list(shared.admit(model, {"c": c})) == ["c"]
    own = Measurement(Matrix(A), noise=0.1, name="seen")
    y, rest = own.split({"seen": Y}, x)
    assert torch.equal(y, Y.float()) and rest is None
    assert set(own.admit(model, {"c": c, "seen": Y})) == {"c", "seen"}
    with pytest.raises(ValueError, match="'seen', got None"):
        own.split(None, x)
    with pytest.raises(ValueError, match=r"cond\['y'\]: expected nothing"):
        shared.split({"y": Y}, x)
    with pytest.raises(ValueError, match=r"y: expected shape \(4, 3\), got .*\(4, 2\)"):
        own.split({"seen": Y[:, :2]}, x)
    with pytest.raises(ValueError, match=r"^y: expected shape \(3,\), got .*\(2,\)"):
        Measurement(Matrix(A), Y[0, :2], noise=0.1).split(None, x)
    single = Y[0].float().numpy()[2]  # a float32 scalar of numpy is a number too
    assert repr(Measurement(Matrix(A), Y[0], noise=abs(single)).noise).startswith("GaussianNoise(")
    with pytest.raises(ValueError, match=r"noise: expected shape \(3,\), got .*\(2,\)"):
        Measurement(Matrix(A), Y[0], noise=torch.ones(2))


def test_complex_values_are_pairs() -> None:
    y = torch.tensor([1 + 2j, 3 - 1j])
    measured = Measurement(lambda x: torch.fft.fft(x, norm="ortho"), y, noise=0.5)
    values, _ = measured.split(None, torch.zeros(1, 2))
    assert values.tolist() == [[[1.0, 2.0], [3.0, -1.0]]]
    residual = measured.residual(torch.zeros(1, 2), values)
    assert torch.equal(residual, values)


def test_a_method_that_needs_what_is_not_there_says_so() -> None:
    exact = Measurement(Matrix(A), Y[0], noise=0.0)
    with pytest.raises(ValueError, match="variances above 0, since MMPS divides by them"):
        exact.need_noise("MMPS")
    with pytest.raises(ValueError, match="noise: expected variances above 0"):
        exact.log_likelihood(X, Y)
    partly = Measurement(Matrix(A), Y[0], noise=torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="noise of the instrument"):
        partly.need_noise("MMPS")
    bent = Measurement(lambda x: x.square(), noise=PoissonNoise())
    with pytest.raises(TypeError, match="a LinearOperator, as DDRM needs"):
        bent.need_decomposable("DDRM")
    with pytest.raises(TypeError, match="Gaussian noise, as PiGDM needs"):
        bent.need_gaussian("PiGDM")
    composed = Measurement(Matrix(A) @ Mask(torch.arange(9) < 5), noise=0.1)
    with pytest.raises(TypeError, match="known singular values, as DDRM needs"):
        composed.need_decomposable("DDRM")
    assert composed.linear and composed.gaussian and not bent.linear and not bent.gaussian


def test_the_user_s_log_likelihood() -> None:
    laplace = LogLikelihood(lambda x0, y: -(y - x0).abs().nansum(1))
    measured = Measurement(Identity(), noise=laplace)
    close(measured.log_likelihood(X, X + 1), torch.full((4,), -5.0, dtype=F64))
    wrong = Measurement(Identity(), noise=LogLikelihood(lambda x0, y: (y - x0).sum()))
    with pytest.raises(ValueError, match=r"log_likelihood: expected shape \(4,\)"):
        wrong.log_likelihood(X, X)
    with pytest.raises(TypeError, match="a noise with a known distribution"):
        measured.simulate(X)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Measurement(3, noise=0.1), TypeError, "operator: expected a LinearOperator or"),
        (lambda: Measurement(Identity(), noise="0.1"), TypeError, "noise: expected the noise"),
        (lambda: Measurement(Identity(), noise=True), TypeError, "noise: expected the noise"),
        (lambda: Measurement(Identity(), noise=-0.1), ValueError, "noise: expected a finite"),
        (lambda: Measurement(Identity(), [1.0], noise=0.1), TypeError, "y: expected a Tensor"),
        (lambda: GaussianNoise(), TypeError, "one of std, variances and covariance"),
        (lambda: GaussianNoise(1.0, torch.ones(2)), TypeError, "one of std, variances"),
        (lambda: GaussianNoise(variances=-torch.ones(2)), ValueError, "variances: expected"),
        (
            lambda: GaussianNoise(covariance=torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
            ValueError,
            "positive definite matrix, got eigenvalue -1",
        ),
        (
            lambda: GaussianNoise(covariance=torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            ValueError,
            "symmetric matrix, got one that differs",
        ),
        (
            lambda: Measurement(Identity(), torch.tensor([NAN]), noise=0.1),
            ValueError,
            "y: expected an observed entry",
        ),
        (
            lambda: Measurement(Identity(), torch.tensor([math.inf]), noise=0.1),
            ValueError,
            "y: expected finite numbers",
        ),
        (
            lambda: Measurement(Identity(), torch.tensor([1.5]), noise=PoissonNoise()),
            ValueError,
            "whole numbers >= 0 times the gain 1, got 1.5, which is 1.5 counts",
        ),
        (
            lambda: Measurement(Identity(), torch.tensor([-1.0]), noise=PoissonNoise()),
            ValueError,
            "whole numbers >= 0",
        ),
        (lambda: PoissonNoise(0.0), ValueError, "gain: expected a finite number > 0"),
    ],
)
def test_bad_input(make: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()  # type: ignore[operator]


def test_reprs_say_what_was_measured() -> None:
    text = repr(Measurement(Mask(torch.tensor([True, False])), noise=0.1))
    assert (
        text == "Measurement(Mask(1 of 2 entries of (2,)), y=cond['y'], noise=GaussianNoise(0.1))"
    )


def test_a_measurement_as_an_image_of_the_samples() -> None:
    """y where it has their shape, A^+ y or A^T y elsewhere, NaN where a mask saw nothing."""
    x = torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4)
    half = torch.zeros(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    seen = Measurement(Mask(half), noise=0.1)
    back = seen.back_projection(seen.mean(x))
    assert torch.equal(back[:, half], x[:, half]) and bool(back[:, ~half].isnan().all())
    blur = Measurement(Blur(torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)), noise=0.1)
    y = blur.mean(x)
    assert torch.equal(blur.back_projection(y), y)
    coarse = Measurement(SuperResolution(2), noise=0.1)
    blocks = coarse.back_projection(coarse.mean(x))
    assert blocks[0, 0, 0, 0] == blocks[0, 0, 1, 1] == 2.5
    double = Linear(lambda v: 2.0 * v.flatten(1)[:, :3], shape=(1, 4, 4))
    ones = torch.ones(1, 3, dtype=torch.float64)
    own = Measurement(double, noise=0.1).back_projection(ones)
    assert own.shape == x.shape and float(own.sum()) == 6.0
    with pytest.raises(TypeError, match="as back_projection needs"):
        Measurement(lambda v: v.square(), noise=0.1).back_projection(ones)
