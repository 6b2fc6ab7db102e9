"""The SDE families against the formulas of their papers in 40 digits, and their identities."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given
from registry import ALL_SDES, FAMILIES, times_of
from scipy.integrate import quad, solve_ivp
from shared import normal
from torch import Tensor

from scoresde.sde import (
    EDMSDE,
    SDE,
    SDES,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    FunctionSDE,
    SubVPSDE,
)

F64 = torch.float64
each_family = pytest.mark.parametrize("sde", FAMILIES.values(), ids=FAMILIES)
each_sde = pytest.mark.parametrize("sde", ALL_SDES.values(), ids=ALL_SDES)


@pytest.mark.parametrize("kind", SDES.values(), ids=SDES)
@pytest.mark.parametrize("foreign", [np.float32, torch.tensor])
def test_numbers_of_numpy_and_torch_are_kept_as_floats(kind: type, foreign: Any) -> None:
    own = [f.default for f in dataclasses.fields(kind)]
    made = kind(*map(foreign, own))
    found = [getattr(made, f.name) for f in dataclasses.fields(kind)]
    assert found == [float(np.float32(value)) for value in own]
    assert {type(value) for value in found} == {float}


def close(got: Any, want: Any, rtol: float, atol: float = 0.0) -> None:
    """Relative closeness that NaN fails and that says by how much it is missed."""
    got, want = (torch.as_tensor(x, dtype=F64) for x in (got, want))
    assert got.shape == want.shape
    wrong = (got - want).abs() - atol
    assert bool((wrong <= rtol * want.abs()).all()), float((wrong / want.abs()).max())


# The papers' formulas, in 40 digits


def paper(sde: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """alpha(t) and sigma(t) as the papers write them, in mpmath; beta is integrated."""
    if isinstance(sde, VPSDE | SubVPSDE):
        low, high = mp.mpf(sde.beta_min), mp.mpf(sde.beta_max)

        def alpha(t: Any) -> Any:
            return mp.exp(-mp.quad(lambda u: low + u * (high - low), [0, t]) / 2)

        if isinstance(sde, VPSDE):
            return alpha, lambda t: mp.sqrt(1 - alpha(t) ** 2)
        return alpha, lambda t: 1 - alpha(t) ** 2
    if isinstance(sde, VESDE):
        low, high = mp.mpf(sde.sigma_min), mp.mpf(sde.sigma_max)
        return lambda t: mp.mpf(1), lambda t: low * (high / low) ** t
    if isinstance(sde, CosineSDE):
        s = mp.mpf(sde.s)

        def alpha(t: Any) -> Any:
            return mp.cos((t + s) / (1 + s) * mp.pi / 2) / mp.cos(s / (1 + s) * mp.pi / 2)

        return alpha, lambda t: mp.sqrt(1 - alpha(t) ** 2)
    if isinstance(sde, EDMSDE):
        return lambda t: mp.mpf(1), lambda t: t
    assert isinstance(sde, FlowSDE)
    return lambda t: 1 - t, lambda t: t


@each_family
def test_the_formulas_of_the_papers_to_twelve_digits(sde: AffineSDE) -> None:
    alpha, sigma = paper(sde)
    with mp.workdps(40):
        for t in times_of(sde, 6).tolist():
            u = mp.mpf(t)
            close(sde.alpha(t), float(alpha(u)), 1e-12)
            close(sde.log_alpha(t), float(mp.log(alpha(u))), 1e-12, atol=1e-14)
            close(sde.sigma(t), float(sigma(u)), 1e-12)
            close(sde.log_snr(t), float(mp.log(alpha(u) / sigma(u))), 1e-12, atol=1e-13)
            step = min(u, mp.mpf("0.001")) / 10**6 or mp.mpf("1e-9")
            rate = mp.diff(lambda v: mp.log(alpha(v)), u, h=step)
            square = mp.diff(lambda v: sigma(v) ** 2, u, h=step) - 2 * rate * sigma(u) ** 2
            close(sde.rate(t), float(rate), 1e-9)
            close(sde.g(t) ** 2, float(square), 1e-9)


@pytest.mark.parametrize("family", [VPSDE, SubVPSDE])
@pytest.mark.parametrize("t", [1e-4, 0.03, 0.5, 1.0])
def test_the_variance_is_the_integral_of_decayed_noise(family: Any, t: float) -> None:
    # sigma^2 = int g(u)^2 exp(-int_u^t beta) du, with g and beta written out from the paper
    sde = family()

    def total(u: float) -> float:
        return 0.1 * u + 9.95 * u * u

    def beta(u: float) -> float:
        return 0.1 + 19.9 * u

    def square(u: float) -> float:
        return beta(u) * (1.0 if family is VPSDE else -math.expm1(-2 * total(u)))

    wanted, _ = quad(
        lambda u: square(u) * math.exp(total(u) - total(t)), 0, t, epsabs=0, epsrel=1e-13
    )
    close(sde.sigma(t) ** 2, wanted, 1e-12)
    close(sde.g(t) ** 2, square(t), 1e-12)


def test_values_from_the_literature() -> None:
    vp, sub = VPSDE(), SubVPSDE()
    assert vp.alpha(1.0) == pytest.approx(0.0065716, abs=5e-8)  # Song et al. 2021
    assert vp.sigma(1e-3) == pytest.approx(1.05e-2, rel=5e-3)
    assert sub.sigma(1e-3) == pytest.approx(1.1e-4, rel=5e-3)
    assert VPSDE(0.01, 10.0).alpha(1.0) == pytest.approx(0.082, abs=5e-4)  # sbi's VP
    assert VESDE(0.01, 50.0).sigma(0.5) == pytest.approx(math.sqrt(0.01 * 50), rel=1e-14)
    middle = math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert CosineSDE().alpha(0.5) == pytest.approx(middle, rel=1e-14)  # Nichol and Dhariwal


def test_the_std_of_sub_vp_is_the_variance_of_vp() -> None:
    t = times_of(SubVPSDE())
    close(SubVPSDE().sigma(t), VPSDE().sigma(t) ** 2, 1e-13)
    assert bool((SubVPSDE().sigma(t) < VPSDE().sigma(t)).all())


@pytest.mark.parametrize("name", ["vp", "vp_short", "cosine", "cosine_early", "linear_jump"])
def test_variance_preserving(name: str) -> None:
    sde = ALL_SDES[name]
    t = times_of(sde)
    close(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, torch.ones_like(t), 1e-12)


def test_variance_exploding_starts_at_sigma_min() -> None:
    # documented: p_0 already holds noise of std sigma_min; it is not 0
    sde = VESDE(0.02, 30.0)
    assert sde.sigma(0.0) == 0.02
    assert sde.log_snr(0.0) == -math.log(0.02)
    assert sde.sigma(1.0) == pytest.approx(30.0, rel=1e-14)


# Identities over the whole range of times


def derivative(fn: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(fn(t).sum(), t)
    return slope


@each_family
def test_rate_and_diffusion_follow_from_alpha_and_sigma(sde: AffineSDE) -> None:
    t = times_of(sde, 500)
    rate, variance = derivative(sde.log_alpha, t), sde.sigma(t) ** 2
    close(sde.rate(t), rate, 1e-10)
    square = derivative(lambda u: sde.sigma(u) ** 2, t) - 2 * rate * variance
    close(sde.g(t) ** 2, square, 1e-10)
    close(sde.g(t) ** 2, -2 * variance * derivative(sde.log_snr, t), 1e-10)


@each_sde
def test_log_snr_is_the_log_of_the_quotient(sde: AffineSDE) -> None:
    t = times_of(sde, 300)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    inside = alpha > 1e-6
    close(sde.log_snr(t)[inside], (alpha / sigma).log()[inside], 1e-9, atol=1e-9)
    close(sde.log_snr(t), sde.log_alpha(t) - sigma.log(), 1e-9, atol=1e-9)
    close(alpha, sde.log_alpha(t).exp(), 1e-12, atol=1e-300)


@each_sde
def test_time_of_inverts_the_log_snr(sde: AffineSDE) -> None:
    t = times_of(sde, 300)
    close(sde.time_of(sde.log_snr(t)), t, 1e-10, atol=1e-12 if sde.t_min == 0 else 0.0)
    array = t.numpy()
    back = sde.time_of(sde.log_snr(array))
    assert isinstance(back, np.ndarray)
    close(back, t, 1e-10, atol=1e-12 if sde.t_min == 0 else 0.0)
    for u in t.tolist()[::20]:
        back = sde.time_of(sde.log_snr(u))
        assert isinstance(back, float)
        assert back == pytest.approx(u, rel=1e-10, abs=1e-12 if sde.t_min == 0 else 0.0)


@each_sde
def test_floats_arrays_and_tensors_agree(sde: AffineSDE) -> None:
    t = times_of(sde, 20)
    for name in ("alpha", "sigma", "log_alpha", "log_snr", "rate", "g"):
        fn = getattr(sde, name)
        of_tensor, of_array = fn(t), fn(t.numpy())
        of_floats = [fn(u) for u in t.tolist()]
        assert all(isinstance(value, float) for value in of_floats), name
        assert isinstance(of_array, np.ndarray) and of_tensor.dtype == F64, name
        close(of_array, of_tensor, 1e-13, atol=1e-13)
        close(of_floats, of_tensor, 1e-13, atol=1e-13)


@each_sde
def test_nothing_is_nan_and_the_log_snr_falls(sde: AffineSDE) -> None:
    t = times_of(sde, 2000)
    for name in ("alpha", "sigma", "log_alpha", "log_snr", "rate", "g"):
        assert bool(getattr(sde, name)(t).isfinite().all()), name
    apart = t[1:] > t[:-1] * (1 + 1e-9)
    assert bool((sde.log_snr(t).diff()[apart] < 0).all())
    assert bool((sde.sigma(t) > 0).all()) and bool((sde.g(t) > 0).all())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALL_SDES)
def test_the_data_end(name: str) -> None:
    sde = ALL_SDES[name]
    zero = torch.zeros(1, dtype=F64)
    assert sde.alpha(0.0) == 1.0 == sde.alpha(zero)
    if name.startswith("ve"):
        return
    assert sde.sigma(0.0) == 0.0 == sde.sigma(zero)
    assert sde.log_snr(0.0) == math.inf == sde.log_snr(zero)
    assert sde.time_of(math.inf) == pytest.approx(0.0, abs=1e-20)


@each_sde
def test_float32_is_right_to_five_digits_at_both_ends_too(sde: AffineSDE) -> None:
    t = times_of(sde, 400).float()
    for name in ("alpha", "sigma", "log_snr", "g", "rate"):
        got, want = getattr(sde, name)(t), getattr(sde, name)(t.double())
        assert got.dtype == torch.float32
        assert bool(got.isfinite().all()), name
        wrong = (got.double() - want).abs()
        # lambda passes through 0, and alpha below 1e-38 is no float32
        scale = want.abs().clamp_min({"log_snr": 1.0, "alpha": 1e-33}.get(name, 0.0))
        assert bool((wrong <= 1e-5 * scale).all()), (name, float((wrong / scale).max()))


@given(data=st.data())
def test_a_nodes_coefficients_in_float32_are_the_rounded_float64_ones(data: st.DataObject) -> None:
    sde = ALL_SDES[data.draw(st.sampled_from(sorted(ALL_SDES)))]
    t = torch.tensor(data.draw(st.floats(sde.t_min, sde.T)), dtype=torch.float32)
    node = sde.at(t.expand(3), like=torch.zeros(3, 2))
    time = min(float(t), sde.T)
    for name in ("alpha", "sigma", "log_snr", "rate", "g"):
        got = getattr(node, name)
        assert got.dtype == torch.float32
        # 2e-7: rounding; a time beyond T by float32 rounding is not pulled back in a batch
        want = torch.full((3, 1), getattr(sde, name)(time), dtype=F64)
        close(got, want, 2e-7 if time == float(t) else 1e-4, atol=1e-38)


# Transitions


@given(data=st.data())
def test_transitions_compose(data: st.DataObject) -> None:
    sde = ALL_SDES[data.draw(st.sampled_from(sorted(ALL_SDES)))]
    r, s, t = sorted(data.draw(st.floats(0.0, 1.0)) * sde.T for _ in range(3))
    scale_rs, std_rs = sde.transition(r, s)
    scale_st, std_st = sde.transition(s, t)
    scale, std = sde.transition(r, t)
    close(scale_rs * scale_st, scale, 1e-9, atol=1e-300)
    close(math.hypot(scale_st * std_rs, std_st), std, 1e-9, atol=1e-9 * sde.sigma(t))


@each_sde
def test_the_transition_from_the_data_is_the_marginal(sde: AffineSDE) -> None:
    for t in times_of(sde, 10).tolist():
        scale, std = sde.transition(0.0, t)
        close(scale, sde.alpha(t), 1e-12)
        close(std**2, sde.sigma(t) ** 2 - sde.sigma(0.0) ** 2, 1e-12, atol=1e-15)
    assert sde.transition(sde.T, sde.T) == (1.0, 0.0)


@pytest.mark.parametrize("name", [*FAMILIES, "linear_vp", "linear_growing"])
def test_transitions_against_the_moment_equations(name: str) -> None:
    sde = ALL_SDES[name]
    low = max(sde.t_min, 0.01 * sde.T)
    for s, t in ((low, sde.T), (0.3 * sde.T, 0.7 * sde.T)):

        def moments(u: float, y: Any) -> list[float]:
            return [sde.rate(u) * y[0], 2 * sde.rate(u) * y[1] + sde.g(u) ** 2]

        solved = solve_ivp(moments, (s, t), [1.0, 0.0], "DOP853", rtol=1e-12, atol=1e-14)
        scale, std = sde.transition(s, t)
        close([scale, std**2], solved.y[:, -1], 1e-9)


@pytest.mark.parametrize("name", ["vp", "ve", "edm", "flow", "linear_vp"])
def test_short_transitions_do_not_cancel(name: str) -> None:
    sde = ALL_SDES[name]
    s, h = 0.5 * sde.T, 1e-7 * sde.T
    _, std = sde.transition(s, s + h)
    close(std**2, h * sde.g(s + h / 2) ** 2, 1e-6)


def test_transitions_run_from_data_to_noise() -> None:
    with pytest.raises(ValueError, match=r"s: .*not after t = 0.2.*0.5.*data to noise"):
        VPSDE().transition(0.5, 0.2)
    with pytest.raises(ValueError, match=r"t: .*\[0, 1\].*1\.5"):
        VPSDE().transition(0.5, 1.5)


# Marginals, perturbation, prior


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 2, 4, 4)])
@pytest.mark.parametrize("name", ["subvp", "ve", "linear_jump"])
def test_marginal_and_perturb_by_hand(name: str, shape: tuple[int, ...]) -> None:
    sde, x0, eps = ALL_SDES[name], normal(*shape), normal(*shape, seed=1)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    mean, std = sde.marginal(t, x0)
    noisy = sde.perturb(t, x0, eps)
    for i in range(3):
        u = float(t[i])
        close(mean[i], sde.alpha(u) * x0[i], 1e-12)
        close(std[i].flatten()[0], sde.sigma(u), 1e-12)
        close(noisy[i], sde.alpha(u) * x0[i] + sde.sigma(u) * eps[i], 1e-12, atol=1e-12)
    mean, std = sde.marginal(0.5, x0)
    close(mean, sde.alpha(0.5) * x0, 1e-12)
    assert std == sde.sigma(0.5)
    assert sde.perturb(0.5, x0.float(), eps.float()).dtype == torch.float32
    assert sde.perturb(t.float(), x0.float(), eps.float()).dtype == torch.float32


@each_sde
def test_the_prior(sde: AffineSDE) -> None:
    z, sigma, alpha = normal(5, 3), sde.sigma(sde.T), sde.alpha(sde.T)
    x = sde.sample_prior(z)
    close(x, sigma * z, 1e-14)
    prior = torch.distributions.Normal(torch.zeros(3, dtype=F64), sigma)
    close(sde.prior_log_prob(x), prior.log_prob(x).sum(1), 1e-12)
    close(sde.prior_log_prob(x.reshape(5, 3, 1, 1)), prior.log_prob(x).sum(1), 1e-12)
    for std in (None, 1.0, 0.3):
        width = torch.tensor(sigma if std is None else std, dtype=F64)
        reference = torch.distributions.Normal(torch.zeros(3, dtype=F64), width)
        end = torch.distributions.Normal(alpha * z, torch.full_like(z, sigma))
        want = torch.distributions.kl_divergence(end, reference).sum(1)
        close(sde.prior_kl(z, std=std), want, 1e-9, atol=1e-14)


def test_the_distance_of_the_prior_by_quadrature_and_by_the_literature() -> None:
    sde, x0 = VPSDE(0.01, 10.0), 3.0
    mean, sigma = sde.alpha(1.0) * x0, sde.sigma(1.0)

    def integrand(x: float) -> float:
        log_ratio = -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma) + 0.5 * x * x
        density = math.exp(-0.5 * ((x - mean) / sigma) ** 2) / sigma / math.sqrt(2 * math.pi)
        return density * log_ratio

    truth, _ = quad(integrand, -12, 12, epsabs=0, epsrel=1e-11)
    close(sde.prior_kl(torch.full((1, 1), x0, dtype=F64), std=1.0)[0], truth, 1e-8)
    assert truth == pytest.approx(3e-2, rel=2e-2)  # sbi's VP, data mean 3
    three = torch.full((1, 1), 3.0, dtype=F64)
    assert float(VPSDE().prior_kl(three, std=1.0)) == pytest.approx(2e-4, rel=5e-2)


@pytest.mark.parametrize("name", ["vp", "subvp", "linear_vp", "linear_long"])
def test_variance_preserving_data_end_as_standard_normals(name: str) -> None:
    kl = ALL_SDES[name].prior_kl(torch.ones(1, 1, dtype=F64), std=1.0)
    assert 0.0 <= float(kl) < 5e-5


# The functions f and g, and the nodes


@each_sde
def test_drift_and_diffusion_take_a_float_and_one_time_per_sample(sde: AffineSDE) -> None:
    x = normal(3, 3)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=F64) * sde.T
    drift = sde.f(t, x)
    for i in range(3):
        u = float(t[i])
        close(sde.f(u, x), sde.rate(u) * x, 1e-13)
        close(sde.f(t[i], x), sde.rate(u) * x, 1e-13)
        close(drift[i], sde.rate(u) * x[i], 1e-13)
        close(sde.g(t)[i], sde.g(u), 1e-13)
        close(sde.g(t[i]), sde.g(u), 1e-13)
    assert sde.f(t, x.float()).dtype == torch.float32
    assert sde.f(0.5, x.float()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 5), (3, 1, 3, 3)])
@each_sde
def test_a_float_node_is_the_batched_node(sde: AffineSDE, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    t = torch.tensor([sde.t_min, 0.3 * sde.T, sde.T], dtype=F64)
    batched = sde.at(t, like=x)
    assert batched.batched and batched.t.shape == (3,)
    for i in range(3):
        node = sde.at(float(t[i]))
        assert not node.batched and node.t == float(t[i])
        for name in ("alpha", "sigma", "log_snr", "rate", "g"):
            column = getattr(batched, name)
            assert column.shape == (3,) + (1,) * (len(shape) - 1)
            assert isinstance(getattr(node, name), float)
            close(column.flatten()[i], getattr(node, name), 1e-12, atol=1e-14)
    column = t.reshape(batched.alpha.shape)  # the form in which a function of (t, x) receives it
    assert sde.at(column, like=x).t.tolist() == batched.t.tolist()
    assert torch.equal(sde.at(column, like=x).alpha, batched.alpha)
    close(sde.at(t[1], like=x).alpha.flatten(), [sde.alpha(float(t[1]))] * 3, 1e-12, atol=1e-300)


def test_nodes_map_and_give_columns() -> None:
    x, sde = normal(4, 2).float(), VPSDE()
    node = sde.at(torch.tensor([0.1, 0.2, 0.3, 0.4]), like=x)
    twice = node.map(lambda c: torch.cat([c, c]))
    assert twice.t.shape == (8,) and twice.alpha.shape == (8, 1)
    assert node.map(lambda c: c[1:2]).t.tolist() == node.t[1:2].tolist()
    assert sde.at(0.5).map(lambda c: 1 / 0).t == 0.5
    assert node.column(x).tolist() == node.t.tolist()
    column = sde.at(0.5).column(x)
    assert column.dtype == torch.float32 and column.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("t", "error", "words"),
    [
        (1.5, ValueError, r"t: .*\[0, 1\].*1\.5"),
        (-0.1, ValueError, r"t: .*\[0, 1\].*-0\.1"),
        (math.nan, ValueError, r"t: .*nan"),
        ("0.5", TypeError, r"t: .*'0\.5'"),
        (True, TypeError, r"t: .*True"),
        (torch.tensor([0.1, 0.2]), ValueError, r"t: .*\(4,\).*shape \(2,\)"),
        (torch.tensor([0.1]), ValueError, r"t: .*\(4,\).*shape \(1,\)"),
        (torch.tensor([[0.1, 0.2]] * 4), ValueError, r"t: .*\(4,\).*shape \(4, 2\)"),
        (torch.tensor([[0.1]] * 2), ValueError, r"t: .*\(4,\).*shape \(2, 1\)"),
        (torch.tensor([0.1, 0.2, 0.3, 1.5]), ValueError, r"t: .*\[0, 1\].*1\.5"),
        (torch.tensor([0.1, 0.2, 0.3, math.nan]), ValueError, r"t: .*nan"),
    ],
)
def test_times_out_of_range(t: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        VPSDE().at(t, like=torch.zeros(4, 2))


def test_a_batch_of_times_needs_the_state() -> None:
    with pytest.raises(ValueError, match="like"):
        VPSDE().at(torch.tensor([0.1, 0.2]))


@each_sde
def test_the_end_of_time_rounded_to_float32_is_in_range(sde: AffineSDE) -> None:
    t = torch.tensor(sde.T, dtype=torch.float32)
    assert sde.at(float(t)).t <= sde.T
    assert bool(sde.at(t.expand(2), like=torch.zeros(2, 1)).g.isfinite().all())
    with pytest.raises(ValueError, match="t: "):
        sde.at(sde.T * (1 + 1e-5))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: VPSDE(beta_min=0.0), ValueError, "beta_min.*> 0.*0.0"),
        (lambda: VPSDE(beta_min=3.0, beta_max=1.0), ValueError, "beta_max.*at least.*3.*swap"),
        (lambda: SubVPSDE(beta_max=math.inf), ValueError, "beta_max.*inf"),
        (lambda: VPSDE("0.1"), TypeError, "beta_min.*'0.1'"),
        (lambda: VESDE(sigma_min=0.0), ValueError, "sigma_min"),
        (lambda: VESDE(5.0, 1.0), ValueError, "sigma_max.*more than.*5.*swap"),
        (lambda: EDMSDE(5.0, 1.0), ValueError, "sigma_max.*more than.*5.*swap"),
        (lambda: CosineSDE(s=-1.0), ValueError, "s: .*-1"),
        (lambda: CosineSDE(T=1.1), ValueError, r"T: .*1\.1"),
        (lambda: FlowSDE(T=1.1), ValueError, r"T: .*1\.1"),
        (
            lambda: VPSDE().perturb(0.5, torch.zeros(2, 1).long(), torch.zeros(2, 1)),
            TypeError,
            "x0",
        ),
        (lambda: VPSDE().perturb(0.5, torch.zeros(2, 1), torch.zeros(2, 2)), ValueError, "eps"),
    ],
)
def test_bad_parameters(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@each_family
def test_equal_parameters_make_equal_sdes(sde: AffineSDE) -> None:
    twin = dataclasses.replace(sde)  # type: ignore[type-var]
    assert twin == sde and hash(twin) == hash(sde)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sde.s = 1.0  # type: ignore[attr-defined]


# The user's own f and g


def test_a_non_affine_sde_from_two_functions() -> None:
    seen: list[Tensor] = []

    def g(t: Tensor) -> Any:
        seen.append(t)
        return 0.3 + t

    sde = SDE(lambda t, x: x - t * x**3, g, T=2.0)
    assert isinstance(sde, FunctionSDE) and sde.T == 2.0
    node = sde.at(0.5)
    assert (node.t, node.g) == (0.5, 0.8) and not node.affine
    assert seen[0].shape == () and seen[0].dtype == F64
    x = normal(3, 3)
    close(sde.drift(node, x), x - 0.5 * x**3, 1e-14)
    t = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    batched = sde.at(t, like=x)
    assert seen[-1].shape == (3, 1) and batched.g.shape == (3, 1)
    close(batched.g[:, 0], 0.3 + t, 1e-14)
    close(sde.drift(batched, x), x - t[:, None] * x**3, 1e-14)
    for name in ("alpha", "sigma", "log_snr", "rate"):
        with pytest.raises(TypeError, match=f"{name}: .*not affine.*LinearSDE"):
            getattr(node, name)
    with pytest.raises(TypeError, match="x_init"):
        sde.sample_prior(x)


@pytest.mark.parametrize("g", [lambda t: 0.5, lambda t: torch.tensor(0.5), lambda t: 0.5 + 0 * t])
def test_a_non_affine_node_has_the_dtype_of_the_state(g: Any) -> None:
    sde, x = SDE(lambda t, x: -x, g), torch.zeros(2, 3, 4)
    node = sde.at(torch.tensor([0.1, 0.2], dtype=F64), like=x)
    assert node.g.dtype == node.t.dtype == torch.float32
    assert node.g.shape == (2, 1, 1) and node.t.shape == (2,)
    assert (node.g * x).dtype == torch.float32
    assert sde.at(0.1).g == 0.5


def test_bad_functions() -> None:
    with pytest.raises(TypeError, match=r"diffusion_fn.*0\.5"):
        SDE(lambda t, x: x, 0.5)
    with pytest.raises(ValueError, match=r"t_min, t_end, T.*0 <= t_min <= t_end < T"):
        SDE(lambda t, x: x, lambda t: 1.0, T=1.0, t_end=2.0)
    short = SDE(lambda t, x: x[:, :1], lambda t: 1.0)
    with pytest.raises(ValueError, match=r"f\(t, x\).*\(2, 3\).*\(2, 1\)"):
        short.drift(short.at(0.5), torch.zeros(2, 3))


def test_every_registered_family_is_among_those_that_the_tests_range_over() -> None:
    assert set(SDES.values()) <= {type(sde) for sde in ALL_SDES.values()}
