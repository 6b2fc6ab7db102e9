"""The box and its rim, the density on its cells, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from equations import AXIS, DATA, DOUBLE, TILTED, VP, double, gap, order
from registry import ALL_SDES
from torch import Tensor

from scoresde import SDE, FunctionScore, Gaussian, GaussianMixture, ReverseSDE
from scoresde.fokker_planck import Density, FokkerPlanck
from scoresde.fokker_planck.flux import Mesh

UNEVEN = 6 * np.sinh(1.5 * np.linspace(-1, 1, 121)) / math.sinh(1.5)


# The box and its rim


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


# The density object


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


# Bad input


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
