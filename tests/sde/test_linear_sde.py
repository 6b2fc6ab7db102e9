"""LinearSDE: marginals by quadrature against the closed forms of the families and in 40 digits."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from registry import FAMILIES, LINEAR, jump, steep, times_of
from torch import Tensor

from scoresde.sde import VESDE, AffineSDE, LinearSDE, _quadrature

F64 = torch.float64
NAMES = ("alpha", "sigma", "log_snr", "rate", "g")


def close(got: Any, want: Any, rtol: float = 1e-10, atol: float = 0.0) -> None:
    got, want = (torch.as_tensor(x, dtype=F64) for x in (got, want))
    assert got.shape == want.shape
    wrong = (got - want).abs() - atol
    assert bool((wrong <= rtol * want.abs()).all()), float((wrong / want.abs()).max())


# The families, from nothing but their rate and diffusion


@pytest.mark.parametrize("name", [n for n in FAMILIES if not n.startswith("ve")])
def test_the_closed_forms_of_the_families(name: str) -> None:
    sde = FAMILIES[name]
    own = LinearSDE(sde.rate, sde.g, T=sde.T, t_min=max(sde.t_min, 1e-5 * sde.T))
    t = times_of(own, 200)
    for field in NAMES:
        atol = 1e-10 if field == "log_snr" else 0.0  # it passes through 0
        close(getattr(own, field)(t), getattr(sde, field)(t), atol=atol)
    close(own.log_alpha(t), sde.log_alpha(t), atol=1e-15)
    close(own.time_of(sde.log_snr(t)), t)
    s, u = 0.2 * sde.T, 0.9 * sde.T
    close(own.transition(s, u), sde.transition(s, u))
    x = torch.ones(2, 3, dtype=F64)
    close(own.prior_log_prob(x), sde.prior_log_prob(x))
    close(own.f(0.3, x), sde.f(0.3, x))


@pytest.mark.parametrize("sde", [VESDE(), VESDE(0.5, 3.0)])
def test_variance_exploding_without_the_noise_at_the_start(sde: VESDE) -> None:
    # the SDE alone starts from the data themselves: sigma^2 lacks the sigma_min^2 of VESDE
    own = LinearSDE(sde.rate, sde.g)
    t, ratio = times_of(own, 200), math.log(sde.sigma_max / sde.sigma_min)
    close(own.sigma(t) ** 2, sde.sigma_min**2 * torch.expm1(2 * t * ratio))
    close(own.sigma(t) ** 2 + sde.sigma_min**2, sde.sigma(t) ** 2)
    assert own.sigma(0.0) == 0.0


# Closed forms in the logarithm: a jump, a long horizon, an oscillation


def check_variance_preserving(own: LinearSDE, total: Callable[[Any], Any], t: Tensor) -> None:
    """alpha^2 + sigma^2 = 1 with B(t) = total(t), compared where alpha underflows too."""
    with mp.workdps(40):
        for u in t.tolist():
            b = total(mp.mpf(u))
            close(own.log_alpha(u), float(-b / 2), atol=1e-15)
            close(own.sigma(u), float(mp.sqrt(-mp.expm1(-b))))
            close(own.log_snr(u), float(-(b + mp.log(-mp.expm1(-b))) / 2), atol=1e-10)


def test_a_rate_with_a_jump() -> None:
    own = LINEAR["linear_jump"]
    t = torch.cat([times_of(own, 50), torch.tensor([0.37 - 1e-9, 0.37, 0.37 + 1e-9]).double()])
    check_variance_preserving(own, lambda u: 2 * u if u < 0.37 else 2 * 0.37 + 15 * (u - 0.37), t)
    away = t[(t - 0.37).abs() > 1e-12]
    close(own.rate(away), torch.tensor([-0.5 * jump(u) for u in away]).double())
    close(own.g(away) ** 2, torch.tensor([jump(u) for u in away]).double())


@pytest.mark.parametrize("start", [0.011, 0.3, 0.5625, 0.871, 0.99])
def test_a_short_pulse_is_not_overlooked(start: float) -> None:
    own = LinearSDE(lambda t: 0.0, lambda t: 3.0 if start <= t < start + 0.003 else 0.1)
    close(own.sigma(1.0) ** 2, 0.01 + 0.003 * (9 - 0.01))


def test_a_long_horizon_and_beta_to_500() -> None:
    own = LINEAR["linear_long"]
    t = times_of(own, 100)
    check_variance_preserving(own, lambda u: u / 10 + mp.mpf("24.995") * u * u, t)
    assert own.alpha(10.0) == 0.0  # exp(-1250)
    assert own.log_snr(10.0) == pytest.approx(-1250.25, rel=1e-10)
    close(own.rate(t), -0.5 * steep(t))
    close(own.time_of(own.log_snr(t)), t)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_time_of_a_log_snr_takes_few_evaluations(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding must not keep Newton's method going, nor a series be summed more than once."""
    own = LinearSDE(lambda t: -1 + 0 * t, lambda t: 1 + torch.sin(9 * t) ** 2, T=3.0)
    t = 2e-3 + scale * torch.rand(64, dtype=F64, generator=torch.Generator().manual_seed(0))
    log_snr, passes = own.log_snr(t), []
    clenshaw = _quadrature._clenshaw
    monkeypatch.setattr(_quadrature, "_clenshaw", lambda *a: passes.append(a) or clenshaw(*a))
    close(own.time_of(log_snr), t, rtol=1e-14)
    assert len(passes) <= 9


def test_a_steep_decay_under_constant_noise() -> None:
    # sigma^2 = int exp(B(u) - B(t)) du = Dawson's integral, where alpha^2 + sigma^2 is not 1
    own = LinearSDE(lambda t: -0.5 * steep(t), lambda t: 1.0, T=10.0)
    with mp.workdps(60):
        low, slope = mp.mpf("0.1"), mp.mpf("49.99")
        root = mp.sqrt(2 * slope)
        start = mp.erfi(low / root)
        for t in [1e-4, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0]:
            u = mp.mpf(t)
            scale = (
                mp.sqrt(mp.pi) / root * mp.exp(-(low**2) / (2 * slope) - u * (low + slope * u / 2))
            )
            variance = scale * (mp.erfi((low + slope * u) / root) - start)
            close(own.sigma(t) ** 2, float(variance))
            close(own.log_snr(t), float(-u * (low + slope * u / 2) / 2 - mp.log(variance) / 2))


def test_an_oscillating_rate_of_both_signs() -> None:
    own = LinearSDE(lambda t: -1 - 20 * torch.cos(40 * t), lambda t: 1 + 0.5 * torch.sin(60 * t))

    def log_alpha(u: Any) -> Any:
        return -u - mp.sin(40 * u) / 2

    with mp.workdps(25):
        for t in [1e-5, 0.013, 0.2, 0.77, 1.0]:
            pieces = mp.linspace(0, mp.mpf(t), 2 + int(40 * t))
            noise = mp.quad(
                lambda u: (1 + mp.sin(60 * u) / 2) ** 2 * mp.exp(-2 * log_alpha(u)), pieces
            )
            close(own.log_alpha(t), float(log_alpha(mp.mpf(t))), atol=1e-15)
            close(own.sigma(t) ** 2, float(mp.exp(2 * log_alpha(mp.mpf(t))) * noise))


def test_constant_functions_are_the_ornstein_uhlenbeck_process() -> None:
    own = LinearSDE(lambda t: -1.5, lambda t: 2, T=4.0)  # Python numbers, an int too
    t = times_of(own, 50)
    close(own.alpha(t), torch.exp(-1.5 * t))
    close(own.sigma(t) ** 2, -4 / 3 * torch.expm1(-3 * t))
    still = LinearSDE(lambda t: 0.0, lambda t: torch.tensor(3.0), T=2.0)
    close(still.sigma(times_of(still)), 3 * times_of(still).sqrt())
    assert still.alpha(1.7) == 1.0


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0, 1.5])
def test_a_diffusion_that_vanishes_at_the_data(power: float) -> None:
    own = LinearSDE(lambda t: 0.0, lambda t: t**power)
    t = times_of(own, 100)
    close(own.sigma(t) ** 2, t ** (2 * power + 1) / (2 * power + 1))


@given(
    knots=st.lists(st.integers(1, 249), min_size=1, max_size=4, unique=True),
    values=st.lists(st.tuples(st.floats(-20, 5), st.floats(0.3, 3)), min_size=5, max_size=5),
)
@settings(max_examples=15)
def test_piecewise_constant_functions(
    knots: list[float], values: list[tuple[float, float]]
) -> None:
    # pieces of T / 250 and more, with no knot where a panel ends
    knots = sorted(k / 250 + 0.0007 for k in knots)
    own = LinearSDE(
        lambda t: values[sum(float(t) >= k for k in knots)][0],
        lambda t: values[sum(float(t) >= k for k in knots)][1],
    )
    log_alpha, variance, now = 0.0, 0.0, 0.0
    for end, (r, g) in zip([*knots, 1.0], values, strict=False):
        h = end - now
        gained = g * g * (math.expm1(2 * r * h) / (2 * r) if abs(r) > 1e-12 else h)
        variance = variance * math.exp(2 * r * (end - now)) + gained
        log_alpha, now = log_alpha + r * (end - now), end
        close(own.log_alpha(end), log_alpha, atol=1e-10)
        close(own.sigma(end) ** 2, variance)


# What it takes and gives


@pytest.mark.parametrize("own", LINEAR.values(), ids=LINEAR)
def test_below_t_min_and_at_the_data(own: LinearSDE) -> None:
    assert (own.alpha(0.0), own.sigma(0.0), own.log_snr(0.0)) == (1.0, 0.0, math.inf)
    t = own.t_min / 7
    assert own.time_of(own.log_snr(t)) == pytest.approx(t, rel=1e-10)
    assert isinstance(own.sigma(np.array([0.5])), np.ndarray)
    assert own.sigma(torch.tensor([0.5])).dtype == torch.float32
    assert own.sigma(torch.full((2, 3), 0.5)).shape == (2, 3)


def test_the_functions_see_scalar_float64_tensors_and_only_at_construction() -> None:
    seen: list[Tensor] = []

    def rate(t: Tensor) -> Tensor:
        seen.append(t)
        return -t

    own = LinearSDE(rate, lambda t: math.sqrt(1 + t))  # math takes a 0-dim tensor
    assert all(t.shape == () and t.dtype == F64 for t in seen)
    calls = len(seen)
    assert calls < 2000  # the series of a polynomial is known after one look at each panel
    own.at(0.3), own.time_of(0.0), own.transition(0.1, 0.2)
    own.at(torch.rand(5), like=torch.zeros(5, 2))
    assert len(seen) == calls


def test_few_calls_where_only_the_integral_is_steep() -> None:
    calls = 0

    def rate(t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -0.5 * steep(t)

    LinearSDE(rate, lambda t: 1.0, T=10.0)
    assert calls < 2000


def decay(t: Tensor) -> Tensor:
    """A rate that can be pickled, as functions without a name cannot."""
    return -0.5 * steep(t)


def test_it_survives_pickle() -> None:
    own = LinearSDE(decay, steep)
    assert pickle.loads(pickle.dumps(own)).log_snr(0.4) == own.log_snr(0.4)


def test_times_may_be_chosen() -> None:
    own = LinearSDE(lambda t: -1.0, lambda t: 1.0, T=5.0, t_min=0.01, t_end=0.1)
    assert (own.T, own.t_min, own.t_end) == (5.0, 0.01, 0.1)
    assert repr(own) == "LinearSDE(T=5, t_min=0.01, t_end=0.1)"
    default = LinearSDE(lambda t: -1.0, lambda t: 1.0, T=5.0)
    assert (default.t_min, default.t_end) == (5e-5, 5e-3)


# What it refuses


def bad(rate: Any = lambda t: -1.0, diffusion: Any = lambda t: 1.0, **times: Any) -> AffineSDE:
    return LinearSDE(rate, diffusion, **times)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bad(lambda t: -1 / (1 - t)), ValueError, r"1e-10 is not reached.*singularity"),
        (
            lambda: bad(diffusion=lambda t: 0.0 if t > 0.5 else 1.0),
            ValueError,
            r"diffusion: the log-SNR does not fall on \[0\.5.*vanishes.*positive",
        ),
        (lambda: bad(diffusion=lambda t: 0.0), ValueError, r"diffusion.*g\(.*\)\^2 = 0.*positive"),
        (lambda: bad(diffusion=lambda t: 0.0 if t < 0.2 else 1.0), ValueError, "g positive"),
        (lambda: bad(lambda t: math.nan), ValueError, r"rate\(.*\): .*nan.*singularity"),
        (lambda: bad(lambda t: t / 0.0), ValueError, r"rate\(.*\): .*inf"),
        (lambda: bad(diffusion=lambda t: math.nan), ValueError, r"g\(.*\): .*nan"),
        (lambda: bad(lambda t: 800.0), ValueError, "not reached"),
        (lambda: bad(lambda t: torch.ones(3)), TypeError, r"rate\(.*one number.*shape \(3,\)"),
        (lambda: bad(lambda t: None), TypeError, r"rate\(.*one number.*None"),
        (lambda: bad(-1.0), TypeError, "rate: .*function of time.*-1.0.*lambda"),
        (lambda: bad(diffusion=2.0), TypeError, "g: .*function of time.*2.0"),
        (lambda: bad(T=0.0), ValueError, "T: .*0.0"),
        (lambda: bad(t_min=-1.0), ValueError, "t_min.*-1.0"),
        (lambda: bad(t_end=2.0), ValueError, "t_min, t_end, T.*2.0.*reorder"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_input(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
