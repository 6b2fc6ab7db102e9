"""Densities on a grid against closed forms, in space, in time, forward and in reverse."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from registry import ALL_SDES
from torch import Tensor

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    CosineSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    ReverseSDE,
    SubVPSDE,
    simulate,
)
from scoresde.fokker_planck import Density, FokkerPlanck, score_fpe_residual
from scoresde.fokker_planck.flux import Mesh, Operator
from scoresde.nets import MLP
from scoresde.process import ForwardSDE

DOUBLE = torch.float64
VP = VPSDE()


def double(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


DATA = GaussianMixture(double([-1.0], [0.8]), double(0.09, 0.2), double(0.4, 0.6))
TILTED = GaussianMixture(
    double([1.0, 0.6], [-0.8, -0.5]),
    double([[0.2, 0.1], [0.1, 0.25]], [[0.3, 0.0], [0.0, 0.15]]),
    double(0.4, 0.6),
)


def gap(density: Density, exact: Any) -> float:
    """The mass in which a density differs from the closed form."""
    values = exact.log_prob(density.box.points()).exp().reshape(density.p.shape)
    return float(((density.p - values).abs() * torch.as_tensor(density.box.volume)).sum())


def order(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


def well(noise: float = 1.0) -> SDE:
    """The double well U = (x^2 - 1)^2, f = -U'."""
    return SDE(lambda t, x: 4 * x - 4 * x**3, lambda t: noise, T=1000.0)


def resolve(equation: FokkerPlanck, noise: float = 1.0) -> Tensor:
    """exp(-2 U / g^2) on the centres, U summed over the coordinates, of mass 1."""
    depth = (equation.box.points().square() - 1).square().sum(1)
    p = (-2 * depth / noise**2).exp().reshape(equation.box.shape)
    return p / (p * torch.as_tensor(equation.box.volume)).sum()


# In space: each case fails with an upwind flux (order 1), one Gauss point aside by h/10, or a
# factor in the diffusion.


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


# In time.


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


# What is guaranteed.


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


# In reverse.


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


# A drift of the user's own.


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


# The box and its rim.

UNEVEN = 6 * np.sinh(1.5 * np.linspace(-1, 1, 121)) / math.sinh(1.5)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_the_rim_is_a_fiftieth_of_the_box(size: float) -> None:
    """500 equal cells: the centres of ten lie in the outermost 2 %, whatever the size."""
    box = FokkerPlanck(VP, [(-size, size, 500)]).box
    assert box.rim(0) == (10, 490)
    shares = dict(box.rims(np.ones(500)))
    assert shares == pytest.approx({f"the {end} end of axis 0": 0.02 for end in ("low", "high")})


def test_the_rim_counts_the_mass_and_not_the_cells() -> None:
    """A uniform density on uneven cells: the widths of the cells centred in the outermost 2 %."""
    box = FokkerPlanck(VP, [UNEVEN]).box
    width, outer = UNEVEN[-1] - UNEVEN[0], np.abs(box.centres[0]) > 0.96 * UNEVEN[-1]
    part = box.widths[0][outer].sum() / 2 / width
    assert [share for _, share in box.rims(np.ones(120))] == pytest.approx([part, part], rel=1e-12)


def test_the_rims_of_the_plane_are_those_of_its_axes() -> None:
    """Density in proportion to x on axis 0 and to (y - 3)^2 on axis 1, integrated by hand."""
    box = FokkerPlanck(VP, [(0.0, 1.0, 100), (3.0, 4.0, 50)]).box
    x, y = np.meshgrid(box.centres[0], box.centres[1] - 3, indexing="ij")
    shares = dict(box.rims(x * y**2))
    low, high = 0.02**2, 1 - 0.98**2
    assert shares["the low end of axis 0"] == pytest.approx(low, rel=1e-9)
    assert shares["the high end of axis 0"] == pytest.approx(high, rel=1e-9)
    square = [(k + 0.5) ** 2 for k in range(50)]  # the last and the first of 50 cells
    for end, k in (("low", 0), ("high", 49)):
        assert shares[f"the {end} end of axis 1"] == pytest.approx(square[k] / sum(square))


@pytest.mark.parametrize("cells", [4, 8, 24])
def test_a_coarse_box_is_watched_at_both_walls(cells: int) -> None:
    """Where no centre lies in the outermost fiftieth the last cell stands for it."""
    box = FokkerPlanck(VP, [(0.0, 1.0, cells)]).box
    assert box.rim(0) == (1, cells - 1)
    for end, cell in (("low", 0), ("high", cells - 1)):
        p = np.zeros(cells)
        p[cell] = 1.0
        assert dict(box.rims(p))[f"the {end} end of axis 0"] == 1.0
        with pytest.raises(ValueError, match=f"1 of it at the {end} end of axis 0"):
            FokkerPlanck(VP, [(0.0, 1.0, cells)]).evolve(p, 0.0, 0.1)


def test_mass_at_a_wall_is_named_by_its_axis() -> None:
    axes = [(0.0, 1.0, 10), (0.0, 1.0, 12)]
    for axis, end, cell in ((0, "low", (0, 5)), (0, "high", (9, 5)), (1, "high", (5, 11))):
        p = np.zeros((10, 12))
        p[cell] = 1.0
        with pytest.raises(ValueError, match=f"the {end} end of axis {axis} at t = 0"):
            FokkerPlanck(VP, axes).evolve(p, 0.0, 0.1)


@pytest.mark.parametrize(
    "axes", [[(-1, 1, 300)], [UNEVEN], [(-1, 1, 4)], [(-1, 1, 120), (0, 1, 8)]]
)
def test_the_centred_flux_gives_way_on_every_face_of_a_cell_of_the_rim(axes: list[Any]) -> None:
    box = FokkerPlanck(VP, axes).box
    for face in Mesh(box).faces:
        low, high = box.rim(face.axis)
        cell = np.arange(box.volume.size).reshape(box.shape)
        place = np.moveaxis(np.indices(box.shape)[face.axis], face.axis, 0)
        place = dict(zip(np.moveaxis(cell, face.axis, 0).ravel(), place.ravel(), strict=True))
        pairs = zip(face.left, face.right, strict=True)
        outer = [place[a] < low or place[b] >= high for a, b in pairs]
        assert face.rim.tolist() == outer
        inner = [place[a] for a in face.left[face.rim]]
        count = len(box.centres[face.axis]) - 2
        assert sorted(inner) == sorted(count - i for i in inner)  # as many at either wall


def test_equal_cells_take_a_density_bit_for_bit() -> None:
    """On other cells it is interpolated, and keeps its mass; boxes of one and two axes differ."""
    one, same = FokkerPlanck(VP, [UNEVEN]), FokkerPlanck(VP, [UNEVEN.copy()])
    plane, other = FokkerPlanck(VP, [UNEVEN, (0, 1, 9)]), FokkerPlanck(VP, [UNEVEN * 1.01])
    assert one.box.same_as(same.box)
    for unlike in (plane, other):
        assert not one.box.same_as(unlike.box) and not unlike.box.same_as(one.box)
    values = 5.0 * Gaussian(double(0.3), double(0.64)[0]).log_prob(one.box.points()).exp()
    held = Density(values, 0.0, one.box)
    end = one.evolve(values, 0.0, 0.1, tol=1e-2)
    assert torch.equal(same.evolve(held, 0.0, 0.1, tol=1e-2).p, end.p)
    moved = other.evolve(held, 0.0, 0.1, tol=1e-2)
    assert moved.mass == pytest.approx(held.mass, rel=1e-12)


def test_log_p_is_interpolated_between_centres_and_constant_beyond_them() -> None:
    edges = [0.0, 1.0, 2.0, 4.0, 5.0, 8.0]
    centres = [0.5, 1.5, 3.0, 4.5, 6.5]
    p = double(0.1, 0.4, 0.2, 0.0, 0.3)
    density = Density(p, 0.0, FokkerPlanck(VP, [edges]).box)
    logs = np.log([0.1, 0.4, 0.2, 1e-300, 0.3])
    x = np.array([0.0, 0.3, 0.5, 0.75, 1.4, 1.5, 2.0, 3.5, 5.0, 6.4, 6.5, 7.0, 8.0])
    found = density.log_prob(torch.as_tensor(x)[:, None])
    assert found.tolist() == pytest.approx(np.interp(x, centres, logs).tolist(), rel=1e-12)
    assert density.log_prob(double([-1e-9], [8.0 + 1e-9])).tolist() == [-math.inf] * 2


def test_mean_and_covariance_are_those_of_the_cells() -> None:
    """On uneven cells, of a density whose mass is not 1."""
    box = FokkerPlanck(VP, [[0.0, 1.0, 2.0, 4.0, 5.0]]).box
    density = Density(double(1.0, 0.0, 2.0, 3.0), 0.0, box)
    mass, x = np.array([1.0, 0.0, 4.0, 3.0]), np.array([0.5, 1.5, 3.0, 4.5])
    mean = mass @ x / 8
    assert density.mass == 8.0 and float(density.mean) == pytest.approx(mean, rel=1e-14)
    assert float(density.covariance) == pytest.approx(mass @ (x - mean) ** 2 / 8, rel=1e-14)


# The density object.


def test_log_prob_interpolates_to_second_order() -> None:
    x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 6 - 3
    errors = []
    for cells in (40, 80):
        equation = FokkerPlanck(VP, [(-5, 5, cells)] * 2)
        p = TILTED.log_prob(equation.box.points()).exp().reshape(cells, cells)
        density = Density(p, 0.0, equation.box)
        errors.append(float((density.log_prob(x) - TILTED.log_prob(x)).abs().mean()))
    assert abs(order(errors) - 2) < 0.15
    corners = density.log_prob(double([5.1, 0.0], [0.0, -5.1], [5.0, 5.0]))
    assert corners[:2].tolist() == [-math.inf] * 2 and bool(torch.isfinite(corners[2]))
    assert density.log_prob(x.float()).dtype == torch.float32
    assert density.covariance.shape == (2, 2) and density.centres[0].shape == (80,)


def test_what_p0_may_be() -> None:
    equation = FokkerPlanck(VP, [(-5, 5, 100)])
    mean, std = double(0.3)[0], double(0.8)[0]
    one = Gaussian(double(0.3), double(0.64)[0])
    values = one.log_prob(equation.box.points()).exp()
    for p0 in (
        one,
        torch.distributions.Normal(mean, std),
        lambda x: one.log_prob(x).exp(),
        values,
        values.numpy(),
        values.tolist(),
        Density(values, 0.0, equation.box),
    ):
        end = equation.evolve(p0, 0.0, 0.2, tol=1e-3)
        assert gap(end, one.marginal(VP, 0.2)) < 2e-3
    finer = FokkerPlanck(VP, [(-5, 5, 150)]).evolve(end, 0.2, 0.3, tol=1e-2)
    assert gap(finer, one.marginal(VP, 0.3)) < 4e-3
    assert torch.equal(values, one.log_prob(equation.box.points()).exp())
    at_the_end = equation.evolve(one, 0.0, 0.2, at=(0.1, 0.2), tol=1e-2)
    assert [d.t for d in at_the_end.path] == [0.1, 0.2]
    assert equation.evolve(one, 0.0, 0.2, at=(0.1,), tol=1e-2).path[0].t == 0.1
    assert end.stats["evaluations"] >= 2 * end.stats["steps"]


# Bad input.

AXIS = [(-5.0, 5.0, 60)]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([(-1, 1, 10)] * 3, "axes: expected one or two axes"),
        ([], "one or two axes"),
        ((-4, 4, 200), "one or two axes"),
        (torch.linspace(-1, 1, 9), "axes: expected a list"),
        ([(4, -4, 200)], r"axes\[0\].*low < high"),
        ([(-4, 4, 0)], r"axes\[0\]\[2\]"),
        ([(-4, 4, 2.5)], r"axes\[0\]\[2\]"),
        ([(-4, math.nan, 20)], r"axes\[0\]\[1\]"),
        ([(-4, 4, 3)], "at least 4 cells"),
        ([[0.0, 1.0, 1.0, 2.0, 3.0, 4.0]], "rise strictly"),
        ([[4.0, 3.0, 2.0, 1.0, 0.0]], "rise strictly"),
        ([(-1, 1, 10), np.zeros((3, 3))], r"axes\[1\]"),
        (["left"], r"axes\[0\]"),
    ],
)
def test_bad_axes(axes: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        FokkerPlanck(VP, axes)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda e: e.evolve(-torch.ones(60), 0, 1), "p0.*>= 0, got '-1'"),
        (lambda e: e.evolve(torch.full((60,), math.nan), 0, 1), "p0.*NaN"),
        (lambda e: e.evolve(torch.zeros(60), 0, 1), "p0: expected a positive mass"),
        (lambda e: e.evolve(torch.ones(61), 0, 1), r"p0: expected shape \(60,\)"),
        (lambda e: e.evolve("normal", 0, 1), "p0: expected numbers"),
        (lambda e: e.evolve(lambda x: x, 0, 1), r"p0: expected shape \(60,\)"),
        (lambda e: e.evolve(Gaussian(double(4.0), double(1.0)[0]), 0, 1), "mass 0.84"),
        (
            lambda e: e.evolve(Gaussian(double(0.0), double(1e-6)[0]), 0, 1),
            "mass 1, got|mass 0|positive",
        ),
        (
            lambda e: e.evolve(torch.ones(60), 0, 1),
            r"holds the mass.*0\.0167 of it at the (low|high) end of axis 0 at t = 0",
        ),
        (lambda e: e.evolve(DATA, 0.5, 0.2), "t1.*after t0 = 0.5.*ReverseSDE"),
        (lambda e: e.evolve(DATA, 0.5, 0.5), "t1.*other than t0"),
        (lambda e: e.evolve(DATA, 0.0, 1.5), r"t1: expected a time in \[0, 1\]"),
        (
            lambda e: e.evolve(DATA, 0.0, 0.5, at=(0.3, 0.2)),
            "at: expected times after 0, up to 0.5",
        ),
        (lambda e: e.evolve(DATA, 0.0, 0.5, at=(0.6,)), "at: expected"),
        (lambda e: e.evolve(DATA, 0.0, 0.5, tol=0.0), "tol"),
        (lambda e: e.evolve(DATA, 0.0, 0.5, max_steps=3), "max_steps: expected t = 0.5 within 3"),
    ],
)
def test_bad_runs(run: Callable[[FokkerPlanck], Density], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        run(FokkerPlanck(VP, AXIS))


def test_bad_equations() -> None:
    with pytest.raises(TypeError, match="sde: expected a SDE or ForwardSDE or ReverseSDE"):
        FokkerPlanck(DATA, AXIS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'centred'"):
        FokkerPlanck(VP, AXIS, flux="centered")
    noisy = FokkerPlanck(ReverseSDE(VP, DATA.under(VP), 1.0), AXIS)
    with pytest.raises(ValueError, match=r"t1: expected a time before t0.*eta=0"):
        noisy.evolve(DATA, 0.2, 0.5)


def test_mass_that_comes_to_a_wall_is_named_with_its_time() -> None:
    sde = SDE(lambda t, x: 4.0 + 0 * x, lambda t: 1.0)
    start = Gaussian(double(-3.0), double(0.1)[0])
    with pytest.raises(ValueError, match=r"at the high end of axis 0 at t = ") as caught:
        FokkerPlanck(sde, [(-5.0, 0.5, 60)]).evolve(start, 0.0, 1.0)
    assert 0.25 < float(re.findall(r"at t = ([\d.]+)", str(caught.value))[0]) < 0.29
    walled = FokkerPlanck(sde, [(-5.0, 0.5, 60)], edge=1.0).evolve(start, 0.0, 1.0)
    assert abs(walled.mass - 1) < 1e-6  # the walls reflect


def test_cells_that_are_too_coarse_are_named() -> None:
    sharp = GaussianMixture(double([-1.0], [1.0]), double(1e-4, 1e-4))
    flow = FokkerPlanck(ReverseSDE(VP, sharp.under(VP), 0.0), AXIS)
    with pytest.raises(ValueError, match=r"axes: expected cells fine enough"):
        flow.evolve(sharp.marginal(VP, 1.0), 1.0, 0.001)


def test_a_score_that_breaks_is_named_with_time_and_place() -> None:
    def score(t: Tensor, x: Tensor) -> Tensor:
        return torch.where((t < 0.6) & (x > 4.0), math.nan, -x)

    equation = FokkerPlanck(ReverseSDE(VP, FunctionScore(VP, score)), AXIS)
    message = r"score or drift: .*NaN or infinity at t = 0\.[45]\d*, x = \[4\.\d+\], at \d+ of 118"
    with pytest.raises(ValueError, match=message):
        equation.evolve(Gaussian(double(0.0), double(1.0)[0]), 1.0, 0.1)


def test_a_drift_that_jumps_costs_a_few_small_steps() -> None:
    sde = ALL_SDES["linear_jump"]
    density = FokkerPlanck(sde, [(-6, 6, 240)]).evolve(DATA, 0.0, 0.6)
    assert gap(density, DATA.marginal(sde, 0.6)) < 2e-4
    assert density.stats["steps"] < 300 and density.stats["error"] < 1.05e-4


def test_a_drift_without_a_limit_ends_with_an_error() -> None:
    """Its sign changes with every call, so that no step is short enough."""
    calls = []

    def drift(t: Tensor, x: Tensor) -> Tensor:
        calls.append(t)
        return 1e9 * (-1) ** len(calls) + 0 * x

    with pytest.raises(ValueError, match=r"tol: expected time steps above .* at t = 0'"):
        FokkerPlanck(SDE(drift, lambda t: 1.0), AXIS).evolve(DATA, 0.0, 1.0)


# The score's own equation.


@pytest.mark.parametrize("name", sorted(ALL_SDES))
def test_exact_scores_satisfy_the_equation_of_the_score(name: str) -> None:
    sde = ALL_SDES[name]
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    for share in (0.05, 0.3, 0.8):
        t, oracle = share * sde.T, TILTED.under(sde)
        state = x * sde.sigma(t) + sde.alpha(t)
        residual = score_fpe_residual(oracle, t, state)
        scale = max(1.0, float(oracle.score(t, state).abs().max()) ** 3)
        assert residual.shape == x.shape and residual.abs().max() < 1e-8 * scale


def test_a_score_that_is_wrong_by_one_per_cent_is_seen() -> None:
    """For s = -c x under VP the residual is -beta c (c - 1) x, in closed form."""
    x = torch.linspace(-2, 2, 5, dtype=DOUBLE)[:, None].expand(5, 3)
    t = torch.linspace(0.1, 0.9, 5, dtype=DOUBLE)
    for c in (1.0, 1.01, 0.5):
        model = FunctionScore(VP, lambda t, x, c=c: -c * x)
        exact = -VP.beta(t)[:, None] * c * (c - 1) * x
        assert torch.allclose(score_fpe_residual(model, t, x), exact, rtol=1e-10, atol=1e-12)
    late = FunctionScore(VP, lambda t, x: -(1 + t) * x)  # ds/dt = -x beside it
    exact = -x - VP.beta(t)[:, None] * ((1 + t) * t)[:, None] * x
    assert torch.allclose(score_fpe_residual(late, t, x), exact, rtol=1e-10)


def test_the_residual_of_a_drift_of_the_users_own() -> None:
    """The score -2 U'/g^2 of the settled double well; div f and its gradient are not constant."""
    x = torch.linspace(-2, 2, 21, dtype=DOUBLE)[:, None]
    exact = FunctionScore(well(0.7), lambda t, x: 2 * (4 * x - 4 * x**3) / 0.7**2)
    wrong = FunctionScore(well(0.75), lambda t, x: 2.02 * (4 * x - 4 * x**3) / 0.7**2)
    assert score_fpe_residual(exact, 1.0, x).abs().max() < 1e-9
    assert score_fpe_residual(wrong, 1.0, x).abs().max() > 1.0


def test_hutchinson_probes_are_exact_in_one_dimension_and_unbiased_beyond() -> None:
    x = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    bend = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    def score(t: Tensor, x: Tensor) -> Tensor:
        return torch.sin(x.flatten(1) @ bend).reshape(x.shape) * (1 + t)

    def estimate(model: FunctionScore, x: Tensor, probes: int, seed: int = 0) -> Tensor:
        return score_fpe_residual(model, 0.4, x, divergence="hutchinson", probes=probes, seed=seed)

    model = FunctionScore(VP, score)
    line = FunctionScore(well(), lambda t, x: torch.sin(3 * x) - x)
    flat = x.reshape(-1, 1)
    exact = score_fpe_residual(line, 0.4, flat)
    assert torch.allclose(estimate(line, flat, 1), exact, rtol=1e-12)
    exact = score_fpe_residual(model, 0.4, x)
    draws = torch.stack([estimate(model, x, 1, seed) for seed in range(400)])
    spread = draws.std(0)
    assert ((draws.mean(0) - exact).abs() < 4.5 * spread / 20).all()
    assert spread.max() > 0.1
    many = torch.stack([estimate(model, x, 16, seed) for seed in range(40)])
    assert 0.18 < float((many.std(0) / spread).mean()) < 0.32  # 1 / sqrt(16)
    assert torch.equal(estimate(model, x, 2, 7), estimate(model, x, 2, 7))
    assert torch.allclose(estimate(model, x[:3], 2, 7), estimate(model, x, 2, 7)[:3])


def test_the_residual_can_be_trained_on() -> None:
    torch.manual_seed(0)
    model = Preconditioned(MLP(2), VP)
    for parameter in model.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(8, 2, requires_grad=True)
    residual = score_fpe_residual(model, 0.5, x, create_graph=True)
    residual.square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0
    assert not score_fpe_residual(model, 0.5, x).requires_grad and x.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": lambda t, x: -x}, "model: expected a ScoreModel"),
        ({"divergence": "hutch"}, "did you mean 'hutchinson'"),
        ({"probes": 0, "divergence": "hutchinson"}, "probes"),
        ({"seed": -1, "divergence": "hutchinson"}, "seed"),
        ({"x": torch.zeros(3)}, "x: expected a non-empty batch"),
        ({"x": torch.zeros(3, 1, dtype=torch.long)}, "x: expected a floating"),
        ({"t": torch.ones(2)}, r"t: expected a float, \(\) or \(3,\)"),
        ({"t": 1.5}, r"t: expected a time in \[0, 1\]"),
        ({"t": "noon"}, "t: expected"),
        ({"t": 0.0}, "NaN or infinity|determine"),
    ],
)
def test_bad_input_of_the_residual(change: dict[str, Any], message: str) -> None:
    sharp = GaussianMixture(double([0.0]), double(0.0))
    given: dict[str, Any] = {"model": sharp.under(VP), "t": 0.5, "x": double([0.1], [0.2], [0.3])}
    given |= change
    with pytest.raises((ValueError, TypeError), match=message):
        score_fpe_residual(**given)


# The example.


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples/fokker_planck_1d.py"
    spec = importlib.util.spec_from_file_location("fokker_planck_1d", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numbers_of_the_example(example: ModuleType) -> None:
    _, errors = example.noised(cells=200)
    assert errors.keys() == {0.1, 0.5, 1.0} and max(errors.values()) < 2e-3
    assert example.generated(1.0, cells=200) < 7e-3
    assert example.generated(0.0, cells=200) < 1.2e-2
    assert example.generated(0.0, cells=200, wrong=1.05) > 0.15
    _, error, rate, kramers = example.resolve(cells=120)
    assert error < 1e-6 and 0.9 < rate / kramers < 1
