"""The Fokker-Planck equation in space and time, forward and in reverse.

In space each case fails with an upwind flux (order 1), one Gauss point aside by h/10, or a factor
in the diffusion.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from equations import AXIS, DATA, DOUBLE, TILTED, VP, double, gap, order, well
from torch import Tensor

from scoresde import (
    SDE,
    VESDE,
    CosineSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    ReverseSDE,
    SubVPSDE,
    simulate,
)
from scoresde.fokker_planck import FokkerPlanck
from scoresde.fokker_planck.flux import Mesh, Operator
from scoresde.nets import MLP
from scoresde.process import ForwardSDE


def resolve(equation: FokkerPlanck, noise: float = 1.0) -> Tensor:
    """exp(-2 U / g^2) on the centres, U summed over the coordinates, of mass 1."""
    depth = (equation.box.points().square() - 1).square().sum(1)
    p = (-2 * depth / noise**2).exp().reshape(equation.box.shape)
    return p / (p * torch.as_tensor(equation.box.volume)).sum()


# In space


@pytest.mark.parametrize(
    ("sde", "t1", "reach", "flux", "bound"),
    [
        (VP, 0.3, 6.0, "auto", 1.3e-4),
        (VP, 0.3, 6.0, "centred", 2.2e-4),
        (SubVPSDE(), 0.4, 6.0, "centred", 2.5e-4),
        (VESDE(0.05, 2.0), 0.8, 9.0, "auto", 3.2e-4),
        (CosineSDE(), 0.9, 6.0, "auto", 1.2e-5),
    ],
)
def test_marginals_of_a_mixture_to_second_order(
    sde: Any, t1: float, reach: float, flux: str, bound: float
) -> None:
    errors, exact = [], DATA.marginal(sde, t1)
    for cells in (60, 120, 240):
        equation = FokkerPlanck(sde, [(-reach, reach, cells)], flux=flux)
        errors.append(gap(equation.evolve(DATA.marginal(sde, 0.0), 0.0, t1), exact))
    assert abs(order(errors) - 2) < 0.15, errors
    assert errors[-1] < bound


def test_noise_that_starts_at_zero_costs_the_fitted_flux_a_little_of_its_order() -> None:
    sde = SubVPSDE()
    errors = [
        gap(FokkerPlanck(sde, [(-6, 6, n)]).evolve(DATA, 0.0, 0.4), DATA.marginal(sde, 0.4))
        for n in (60, 120, 240)
    ]
    assert order(errors) > 1.7 and errors[-1] < 1.7e-4, errors


def test_marginals_in_the_plane_to_second_order() -> None:
    exact = TILTED.marginal(VP, 0.3)
    errors = []
    for cells in (24, 48, 96):
        axes = [(-5, 5, cells), (-4.5, 5.5, cells)]
        density = FokkerPlanck(VP, axes).evolve(TILTED, 0.0, 0.3, tol=2e-3)
        errors.append(gap(density, exact))
    assert abs(order(errors) - 2) < 0.2, errors
    assert errors[-1] < 1.2e-3
    full = exact.full_covariances()
    mean = exact.weights @ exact.means
    off = exact.means - mean
    covariance = (exact.weights[:, None, None] * (full + off[:, :, None] * off[:, None])).sum(0)
    assert torch.allclose(density.mean, mean, atol=1e-4)
    assert torch.allclose(density.covariance, covariance, atol=2e-3)


def test_cells_that_widen_smoothly_keep_the_order() -> None:
    errors = []
    for cells in (60, 120, 240):
        edges = 6 * np.sinh(1.5 * np.linspace(-1, 1, cells + 1)) / math.sinh(1.5)
        density = FokkerPlanck(VP, [edges]).evolve(DATA, 0.0, 0.3)
        errors.append(gap(density, DATA.marginal(VP, 0.3)))
    assert abs(order(errors) - 2) < 0.1 and errors[-1] < 8e-5, errors


@pytest.mark.parametrize("flux", ["auto", "fitted"])
def test_pure_transport(flux: str) -> None:
    """dx = -x dt moves N(1, 0.1) to N(e^-t, 0.1 e^-2t); upwind is of order 1 there."""
    sde = SDE(lambda t, x: -x, lambda t: 0.0)
    exact = Gaussian(double(math.exp(-0.5)), double(0.1)[0] * math.exp(-1.0))
    errors = []
    for cells in (100, 200, 400):
        equation = FokkerPlanck(sde, [(-1, 3, cells)], flux=flux)
        errors.append(gap(equation.evolve(Gaussian(double(1.0), double(0.1)[0]), 0, 0.5), exact))
    assert abs(order(errors) - (2 if flux == "auto" else 1)) < 0.15, errors


@pytest.mark.parametrize(
    ("sde", "flux"),
    [
        (SDE(lambda t, x: 0.02 * x, lambda t: 0.0 if t < 5 else 0.5, T=10.0), "fitted"),
        (SDE(lambda t, x: 0.02 * x, lambda t: 0.0, T=10.0), "centred"),
        (ReverseSDE(VP, DATA.under(VP), 1.0), "centred"),
        (ReverseSDE(VP, DATA.under(VP), 0.0), "centred"),
    ],
)
def test_the_flux_is_chosen_by_the_noise_on_the_whole_way(sde: Any, flux: str) -> None:
    """Fitted for a forward process with noise, be it late; centred without, and in reverse."""
    ends = (1.0, 0.5) if isinstance(sde, ReverseSDE) else (0.0, 8.0)
    values = [
        FokkerPlanck(sde, [(-6, 6, 100)], flux=name).evolve(DATA, *ends, tol=1e-2).p
        for name in ("auto", "fitted", "centred")
    ]
    assert torch.equal(values[0], values[("auto", "fitted", "centred").index(flux)])
    assert not torch.equal(values[1], values[2])


# In time


def test_the_time_error_is_second_order_and_below_the_tolerance() -> None:
    equation = FokkerPlanck(VP, [(-6, 6, 100)])
    best = equation.evolve(DATA, 0.0, 0.3, tol=5e-7)
    products = []
    for tol in (2e-3, 2e-4, 2e-5):
        density = equation.evolve(DATA, 0.0, 0.3, tol=tol)
        error = float((density.p - best.p).abs() @ torch.as_tensor(equation.box.volume))
        assert tol / 50 < error < tol
        assert error < density.stats["error"] <= tol
        products.append(error * density.stats["steps"] ** 2)
    assert max(products) < 1.3 * min(products), products


def test_a_step_of_tr_bdf2_against_the_exponential() -> None:
    """The local error falls by 8 as the step halves, for a drift that changes with time."""
    scipy = pytest.importorskip("scipy.integrate")
    sde = SDE(lambda t, x: torch.sin(5 * t) - x, lambda t: 1 + t)
    equation = FokkerPlanck(sde, [(-5, 5, 24)])
    p0 = Gaussian(double(0.2), double(0.5)[0]).log_prob(equation.box.points()).exp().numpy()

    def right(t: float, p: Any) -> Any:
        operator = Operator(mesh, velocities(t), (1 + t) ** 2 / 2, True)
        return operator.apply(p) / equation.box.volume

    def velocities(t: float) -> Any:
        return mesh.velocities((math.sin(5 * t) - mesh.points).numpy())

    mesh = Mesh(equation.box)
    errors = []
    for dt in (0.1, 0.05, 0.025):
        exact = scipy.solve_ivp(right, (0, dt), p0, method="LSODA", rtol=1e-11, atol=1e-13)
        found = equation.evolve(p0, 0.0, dt, tol=1e9, at=()).p  # the first step starts at dt/1000
        errors.append(np.abs(found.numpy() - exact.y[:, -1]).max())
    assert errors[0] > errors[1] > errors[2]
    assert order(errors) > 2.5, errors


# What is guaranteed


def test_a_stationary_density_stays_to_rounding() -> None:
    for axes in (
        [(-2.5, 2.5, 60)],
        [2.5 * np.sinh(np.linspace(-1.2, 1.2, 61)) / math.sinh(1.2)],
        [(-2.2, 2.2, 24), (-2.4, 2.1, 30)],
    ):
        equation = FokkerPlanck(well(), axes)
        p = resolve(equation)
        assert (equation.evolve(p, 0.0, 5.0).p - p).abs().max() < 1e-12


def test_a_double_well_is_reached_from_one_side() -> None:
    equation = FokkerPlanck(well(), [(-2.5, 2.5, 100)])
    start = Gaussian(double(-1.0), double(0.05)[0])
    half = equation.evolve(start, 0.0, 1.0)
    end = equation.evolve(half, 1.0, 150.0, tol=1e-5)
    assert float(half.cell_mass[:50].sum()) > 0.8
    assert (end.p - resolve(equation)).abs().max() < 1e-8
    assert end.mean.abs() < 1e-8


@pytest.mark.parametrize("fitted", [True, False])
def test_columns_sum_to_zero_and_fitted_rates_are_positive(fitted: bool) -> None:
    """Mass leaves no column; the fitted one is a Markov chain's for every cell Peclet number."""
    generator = torch.Generator().manual_seed(0)
    mesh = Mesh(FokkerPlanck(VP, [(-3, 3, 12), (-2, 4, 9)]).box)
    drift = 10 * torch.randn(*mesh.points.shape, generator=generator, dtype=DOUBLE).numpy()
    for D in (0.0, 1e-300, 1e-8, 0.1, 10.0):
        matrix = Operator(mesh, mesh.velocities(drift), D, fitted)._matrix.toarray()
        assert np.isfinite(matrix).all()
        assert np.abs(matrix.sum(0)).max() < 1e-13 * np.abs(matrix).max()
        if fitted:
            assert (matrix - np.diag(np.diag(matrix)) >= 0).all()


def test_mass_stays_and_nothing_is_negative_from_a_rough_start() -> None:
    equation = FokkerPlanck(VP, [(-5, 5, 80)])
    p0 = torch.zeros(80, dtype=DOUBLE)
    p0[30], p0[47] = 3.0, 1.0
    end = equation.evolve(p0, 0.0, 0.5, at=(1e-6, 1e-4, 0.01, 0.1), tol=1e-3)
    assert [d.t for d in end.path] == [1e-6, 1e-4, 0.01, 0.1] and end.t == 0.5
    for density in (*end.path, end):
        assert abs(density.mass / (4 * 10 / 80) - 1) < 1e-12
        assert bool((density.p >= 0).all())
    assert end.stats["clipped"] <= 2e-3


def test_negative_values_are_clipped_and_counted() -> None:
    """Where the flow empties cells that are barely fine enough, the centred flux undershoots."""
    equation = FokkerPlanck(ReverseSDE(VP, DATA.under(VP), 0.0), [(-6, 6, 90)])
    start = DATA.marginal(VP, 1.0)
    end = equation.evolve(start, 1.0, 0.01, at=(0.1, 0.05))
    assert 1e-6 < end.stats["clipped"] < 1e-3
    for density in (*end.path, end):
        assert bool((density.p >= 0).all())
        assert abs(density.mass - 1) < 1e-7  # of which the box holds all but 2e-9


def test_a_walk_is_linear_in_its_mass() -> None:
    """Steps, error and what was clipped are shares: 200 times the density has the same."""
    equation = FokkerPlanck(ReverseSDE(VP, DATA.under(VP), 0.0), [(-6, 6, 90)])
    p = DATA.marginal(VP, 1.0).log_prob(equation.box.points()).exp()
    one, many = (equation.evolve(c * p, 1.0, 0.01, tol=1e-2) for c in (1.0, 200.0))
    assert one.stats["clipped"] > 1e-6
    assert many.stats == pytest.approx(dict(one.stats), rel=1e-9)
    torch.testing.assert_close(many.p, 200 * one.p, rtol=1e-9, atol=1e-9)
    assert one.stats["evaluations"] == 1 + 2 * (one.stats["steps"] + one.stats["rejected"])


def test_the_share_that_may_be_clipped_does_not_depend_on_the_mass() -> None:
    sharp = GaussianMixture(double([-1.0], [1.0]), double(1e-4, 1e-4))
    flow = FokkerPlanck(ReverseSDE(VP, sharp.under(VP), 0.0), AXIS)
    p = sharp.marginal(VP, 1.0).log_prob(flow.box.points()).exp()
    told = []
    for mass in (1e-3, 1e3):
        with pytest.raises(ValueError, match=r"at most 0\.01 of the mass is clipped") as caught:
            flow.evolve(mass * p, 1.0, 0.001, tol=1e-2)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_mass_is_kept_by_the_scheme_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rescaling of every step the mass drifts by rounding alone."""
    from scoresde.fokker_planck import evolve

    monkeypatch.setattr(evolve._Integration, "corrected", lambda self, p, mass: p)
    for axes, data in (([(-5, 5, 100)], DATA), ([(-5, 5, 30)] * 2, TILTED)):
        equation = FokkerPlanck(VP, axes)
        first = float(
            (
                data.log_prob(equation.box.points()).exp().numpy() * equation.box.volume.ravel()
            ).sum()
        )
        assert abs(equation.evolve(data, 0.0, 0.5, tol=1e-3).mass - first) < 1e-12


# In reverse


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_the_exact_score_brings_the_data_back_to_second_order(eta: float) -> None:
    process, errors = ReverseSDE(VP, DATA.under(VP), eta), []
    for cells in (100, 200, 400):
        equation = FokkerPlanck(process, [(-6, 6, cells)])
        end = equation.evolve(DATA.marginal(VP, 1.0), 1.0, 0.01)
        errors.append(gap(end, DATA.marginal(VP, 0.01)))
    assert abs(order(errors) - 2) < 0.15, errors
    assert errors[-1] < {1.0: 3.5e-4, 0.5: 5.5e-4, 0.0: 7.5e-4}[eta]


def test_reverse_in_the_plane() -> None:
    for eta in (1.0, 0.0):
        equation = FokkerPlanck(ReverseSDE(VP, TILTED.under(VP), eta), [(-5, 5, 48)] * 2)
        end = equation.evolve(TILTED.marginal(VP, 0.5), 0.5, 0.1, tol=1e-3)
        assert gap(end, TILTED.marginal(VP, 0.1)) < 0.02


def test_the_probability_flow_runs_up_too_and_eta_may_be_a_function() -> None:
    up, down = [], []
    for cells in (120, 240, 480):
        axes = [(-6, 6, cells)]
        flow = FokkerPlanck(ReverseSDE(VP, DATA.under(VP), 0.0), axes)
        end = flow.evolve(DATA.marginal(VP, 0.05), 0.05, 0.4)
        up.append(gap(end, DATA.marginal(VP, 0.4)))
        back = FokkerPlanck(ReverseSDE(VP, DATA.under(VP), lambda t: 2 * t), axes)
        down.append(gap(back.evolve(end, 0.4, 0.05), DATA.marginal(VP, 0.05)))
    assert abs(order(up) - 2) < 0.15 and up[-1] < 4e-4, up
    assert abs(order(down) - 2) < 0.2 and down[-1] < 1e-3, down


def test_a_wrong_score_generates_a_wrong_density() -> None:
    """s = -c x for data N(0, 1): variance 1 + (1 - 1/c) e^... in closed form by the moment ODE."""
    c, B = 1.2, VP.total(1.0) - VP.total(0.2)
    model = FunctionScore(VP, lambda t, x: -c * x)
    unit = Gaussian(double(0.0), double(1.0)[0])
    for eta in (1.0, 0.0):
        # dv/dtau = (1 - (1 + eta^2) c) v + eta^2 with dtau = beta dt, backwards
        k = 1 - (1 + eta**2) * c
        variance = math.exp(k * B) * (1 + eta**2 / k) - eta**2 / k
        equation = FokkerPlanck(ReverseSDE(VP, model, eta), [(-6, 6, 200)])
        end = equation.evolve(unit, 1.0, 0.2)
        assert abs(float(end.covariance) - variance) < 2e-3


def test_conditions_and_networks_of_float32() -> None:
    def score(t: Tensor, x: Tensor, shift: Tensor) -> Tensor:
        return shift[:, None] - x

    model = FunctionScore(VP, score)
    process = ReverseSDE(VP, model, 1.0, cond={"shift": double(0.5)})
    start = Gaussian(double(0.5), double(1.0)[0])
    end = FokkerPlanck(process, [(-5.5, 6.5, 100)]).evolve(start, 1.0, 0.5)
    # dm/dtau = m/2 + (shift - m), to shift/(1/2) from m = 0.5
    decay = math.exp(-(VP.total(1.0) - VP.total(0.5)) / 2)
    assert abs(float(end.mean) - (1.0 - 0.5 * decay)) < 1e-3
    two = ReverseSDE(VP, model, 1.0, cond={"shift": double(0.5, 0.1)})
    with pytest.raises(ValueError, match=r"cond\['shift'\].*leading 1"):
        FokkerPlanck(two, [(-5, 5, 50)]).evolve(start, 1.0, 0.5)
    network = Preconditioned(MLP(1), VP, "eps")  # zero before training: the flow only stretches
    flow = FokkerPlanck(ReverseSDE(VP, network, 0.0), [(-14, 14, 280)])
    end = flow.evolve(Gaussian(torch.zeros(1), torch.tensor(1.0)), 1.0, 0.9, tol=1e-3)
    assert abs(end.mass - 1) < 1e-12 and end.p.dtype == DOUBLE
    variance = math.exp(VP.total(1.0) - VP.total(0.9))
    assert abs(float(end.covariance) / variance - 1) < 3e-3


# A drift of the user's own


def test_a_drift_of_the_users_own_against_particles() -> None:
    """f = (1 + t) sin 2x - x, g = 0.6 + 0.4 t: no closed form; 1.95 / sqrt(N) holds in 99.9 %."""
    sde = SDE(lambda t, x: (1 + t) * torch.sin(2 * x) - x, lambda t: 0.6 + 0.4 * t)
    start = Gaussian(double(-0.3), double(0.3)[0])
    density = FokkerPlanck(ForwardSDE(sde), [(-5, 5, 300)]).evolve(start, 0.0, 1.0)
    n = 40_000
    times = torch.linspace(0, 1, 251, dtype=DOUBLE).tolist()
    x = simulate(sde, start.sample(n, seed=0), times, seed=1).x[:, 0].sort().values
    cdf = torch.cat([double(0.0), density.cell_mass.cumsum(0)])
    empirical = torch.searchsorted(x, density.edges[0]) / n
    assert (cdf - empirical).abs().max() < 1.95 / math.sqrt(n)
    frozen = SDE(lambda t, x: torch.sin(2 * x) - x, lambda t: 0.6)
    wrong = FokkerPlanck(frozen, [(-5, 5, 300)]).evolve(start, 0.0, 1.0)
    assert (wrong.cell_mass.cumsum(0) - empirical[1:]).abs().max() > 4 / math.sqrt(n)
