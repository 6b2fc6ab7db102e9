"""`solver="auto"` holds under every family of SDEs and any number of steps, and says why."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    Adams,
    CosineSDE,
    EulerMaruyama,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    LinearSDE,
    ReverseSampler,
    SubVPSDE,
)
from scoresde.analytic_start import AnalyticStart
from scoresde.schedule.grid import tapered
from scoresde.sde import AffineSDE
from scoresde.solvers.limits import Held

F64 = torch.float64
FAMILIES: dict[str, AffineSDE] = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.002, 80.0),
    "cosine": CosineSDE(),
    "edm": EDMSDE(),
    "flow": FlowSDE(),
    "linear": LinearSDE(lambda t: -2 * t, lambda t: 1 + t, T=2.0),
}
MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
TWO = GaussianMixture(MEANS, torch.tensor([0.05, 0.02], dtype=F64))
WIDE = Gaussian(torch.zeros(100, dtype=F64), torch.arange(1, 101, dtype=F64) ** -1.5)
SHAPES = {TWO: (200, 2), WIDE: (4, 100)}
DATA = pytest.mark.parametrize("data", SHAPES, ids=["mixture in 2-D", "Gaussian in 100-D"])


def starts(sde: AffineSDE, data: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return sde.sample_prior(torch.randn(SHAPES[data], dtype=F64, generator=generator))


def samples(sde: AffineSDE, data: Any, solver: Any = "auto", **options: Any) -> Tensor:
    sampler = ReverseSampler(sde, data.under(sde), solver, **options)
    return sampler.sample(SHAPES[data], x_init=starts(sde, data))


def truth(sde: AffineSDE, data: Any) -> Tensor:
    if isinstance(data, GaussianMixture):
        return samples(sde, data, Adams(4, 5, "v"), eta=0, steps=800, grid="log_snr")
    x = data.flow(sde, starts(sde, data), sde.T, sde.t_end)
    return data.under(sde).predict(sde.at(sde.t_end), x).x0


def gap(x: Tensor, exact: Tensor) -> float:
    return float((x - exact).norm() / exact.norm())


@DATA
@pytest.mark.parametrize("name", FAMILIES)
def test_more_steps_are_never_much_worse(name: str, data: Any) -> None:
    sde = FAMILIES[name]
    exact, best, error = truth(sde, data), math.inf, {}
    for steps in (*range(1, 18), 20, 27, 28, 29, 30, 40, 100, 200):
        error[steps] = gap(samples(sde, data, steps=steps), exact)
        assert error[steps] < 1.2 * best + 1e-11, (steps, error)
        best = min(best, error[steps])
    assert error[20] < 0.01 and error[200] < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_more_steps_of_a_stochastic_process_are_never_much_worse(name: str) -> None:
    """The standard deviations that the steps give a Gaussian, exact by unit impulses of noise."""
    sde, variances = FAMILIES[name], torch.tensor([1.0, 0.1, 0.01], dtype=F64)
    model = Gaussian(torch.zeros(3, dtype=F64), variances).under(sde)
    end = sde.at(sde.t_end)
    exact = end.alpha * variances / (end.alpha**2 * variances + end.sigma**2).sqrt()
    best = math.inf
    for steps in (*range(1, 16), 20, 28, 39, 40, 64, 100):
        sampler = ReverseSampler(sde, model, steps=steps, eta=1.0)
        segment, rows = sampler.plan.schedule.segments[0], sampler.plan.coefficients[0]
        x, past = torch.zeros(steps + 1, 3, dtype=F64), ()
        x[0] = sde.sigma(sde.T)
        for i, row in enumerate(rows):
            keep, weights, spread = (
                (row.state_coef, (row.data_coef,), row.noise_std) if isinstance(row, Held) else row
            )
            past = (model.predict(segment[i], x).read(sampler.solver.parametrisation), *past[:4])
            x = keep * x + sum(w * m for w, m in zip(weights, past, strict=False))
            x[i + 1] += spread
        error = gap(model.predict(segment[-1], x).x0.norm(dim=0), exact)
        assert error < 1.2 * best, (steps, error, best)
        best = min(best, error)
    assert best < 1e-4


def test_it_depends_on_the_log_snr_and_not_on_time() -> None:
    """VE and EDM at the same noise levels are one schedule, told in other times."""
    one, other = VESDE(0.002, 80.0), EDMSDE(0.002, 80.0)
    for steps in (3, 7, 16, 40):
        for data in (TWO, WIDE):
            a, b = (samples(sde, data, steps=steps) for sde in (one, other))
            assert gap(a, b) < 1e-9


SETTINGS = [
    ("deis_log_rho_3", "karras"),
    ("unipc_3_flow", "quadratic"),
    ("unipc_3_bh2", "log_snr"),
    ("unipc_4", "log_snr"),
    ("ipndm_3", "quadratic"),
    ("unipc_3_v", "karras"),
]


@DATA
@pytest.mark.parametrize("name", FAMILIES)
def test_no_named_setting_is_far_better(name: str, data: Any) -> None:
    sde = FAMILIES[name]
    exact = truth(sde, data)
    for steps in (5, 10, 20, 50):
        made = [gap(samples(sde, data, s, steps=steps, grid=g), exact) for s, g in SETTINGS]
        assert gap(samples(sde, data, steps=steps), exact) < 4 * min(made), (steps, made)


def test_the_scale_of_data_and_schedule_together_changes_nothing() -> None:
    small = GaussianMixture(MEANS / 10, TWO.covariances / 100)
    for steps in (5, 12, 30):
        x = ReverseSampler(EDMSDE(0.0002, 8.0), small.under(EDMSDE(0.0002, 8.0)), steps=steps)
        y = ReverseSampler(EDMSDE(), TWO.under(EDMSDE()), steps=steps)
        assert x.plan.grid_name == y.plan.grid_name == "tapered"
        assert [10 * t for t in x.grid.times] == pytest.approx(list(y.grid.times), rel=1e-9)


def test_what_is_known_of_the_data() -> None:
    sde = VPSDE()
    model = TWO.under(sde)  # the mean variance of an entry: of the components, and of their means
    assert model.data_scale == pytest.approx((math.sqrt(0.035 + 1.0 / 2), 2))
    assert AnalyticStart(model, model, above=0.9).data_scale == model.data_scale
    assert Gaussian(torch.ones(3), torch.tensor(4.0)).under(sde).data_scale == pytest.approx(
        (2.0, 3)
    )
    assert Gaussian(torch.ones(3), torch.tensor(0.0)).under(sde).data_scale is None
    unknown = FunctionScore(sde, lambda t, x: -x)
    assert unknown.data_scale is None
    known = ReverseSampler(sde, model, steps=12)
    assert "standard deviation 0.731 and 2 values" in known.plan.why and known.plan.why in repr(
        known
    )
    assert "unknown" in ReverseSampler(sde, unknown, steps=12).plan.why
    assert ReverseSampler(sde, model, "ddim").plan.why == ""


def test_a_fall_back_is_told() -> None:
    own = ReverseSampler(SDE(lambda t, x: -x, lambda t: 1.0), lambda t, x: -x)
    assert (
        own.solver == EulerMaruyama()
        and "not affine" in own.plan.why
        and own.plan.why in repr(own)
    )
    sde = FlowSDE()
    with pytest.warns(UserWarning, match=r"grid: no noise is left.*'auto' is 'euler', of first"):
        ended = ReverseSampler(sde, TWO.under(sde), grid=[0.9, 0.5, 0.0])
    assert ended.solver == EulerMaruyama() and ended.eta == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at_data = ReverseSampler(sde, TWO.under(sde), steps=20, t_end=0.0)
    assert at_data.grid.end == sde.t_min
    assert "steps end at t = 1e-05" in at_data.plan.why
    x = at_data.sample(SHAPES[TWO], x_init=starts(sde, TWO))
    assert gap(x, truth(sde, TWO)) < 0.02


@pytest.mark.parametrize(
    "sde", [VPSDE(0.1, 200.0), FlowSDE(1 - 1e-9), CosineSDE(T=1 - 1e-9)], ids=repr
)
def test_a_schedule_that_begins_near_pure_noise(sde: AffineSDE) -> None:
    for data in (TWO, WIDE):
        assert gap(samples(sde, data, steps=20), truth(sde, data)) < 0.02


@pytest.mark.parametrize("sde", [FlowSDE(T=1), CosineSDE(T=1), VPSDE(0.1, 500.0)], ids=repr)
def test_many_steps_out_of_pure_noise(sde: AffineSDE) -> None:
    for std in (0.01, 1.0, 50.0):
        for dim in (1, 64, 100_000):
            for steps in (1, 50, 1000):
                grid = tapered(sde, steps, std=std, dim=dim)
                assert (grid.steps, grid.start, grid.end) == (steps, sde.T, sde.t_end)
                assert all(sde.alpha(t) > 1e-8 for t in grid.times[1:])
    exact = samples(sde, TWO, Adams(4, 5, "v"), eta=0, steps=800, grid="log_snr")
    assert gap(samples(sde, TWO, steps=50), exact) < 2e-4
    if sde.alpha(sde.T) == 0.0:  # a path begins at a log-SNR of -16 there
        made = ReverseSampler(sde, TWO.under(sde), "auto_sde", steps=100)
        assert bool(torch.isfinite(made.sample((2, 2), seed=0, noise="path")).all())


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE(), FlowSDE()], ids=repr)
@pytest.mark.parametrize("std", [0.01, 0.1, 50.0])
def test_data_far_from_unit_size(sde: AffineSDE, std: float) -> None:
    data = Gaussian(torch.zeros(2, dtype=F64), std**2 * torch.tensor([1.0, 0.05], dtype=F64))
    x = sde.prior_std * torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    model = data.under(sde)
    exact = model.predict(sde.at(sde.t_end), data.flow(sde, x, sde.T, sde.t_end)).x0
    error = {}
    for steps in (1, 2, 3, 5, 10, 20, 50):
        x0 = ReverseSampler(sde, model, steps=steps).sample((16, 2), x_init=x)
        error[steps] = gap(x0, exact)
        assert error[steps] < 1.2 * error[1], error
    assert error[50] < 1e-3, error
