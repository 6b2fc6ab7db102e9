"""The estimates that rank solvers, and which of the candidates a search returns."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from scoresde import VESDE, VPSDE, Adams, Gaussian, ReverseSDE
from scoresde.calibration.budget import (
    CHECKED,
    GRAPH,
    Effort,
    affordable,
    efforts,
    pilots,
    reference_cost,
    rounds,
    split,
)
from scoresde.calibration.estimate import ErrorEstimate
from scoresde.calibration.optimise import Found
from scoresde.calibration.result import Calibration, Errors
from scoresde.calibration.search import calibrate
from scoresde.calibration.trajectories import Trajectories
from scoresde.noise import Independent
from scoresde.schedule.grid import make_grid
from scoresde.sde import AffineSDE
from scoresde.solvers import LearnedAdams

MODULE = importlib.import_module("scoresde.calibration.strategy")
VP = VPSDE()
DOUBLE = torch.float64


def gaussian(sde: AffineSDE, std: float) -> Trajectories:
    data = Gaussian(torch.zeros(3, dtype=DOUBLE), torch.tensor(std**2, dtype=DOUBLE))
    x = sde.sample_prior(Independent(0).prior(torch.empty(8, 3, dtype=DOUBLE)))
    return Trajectories(sde, data.under(sde), x, {}, sde.t_end, 8)


@pytest.mark.parametrize("sde", [VP, VESDE(0.01, 30.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "solver",
    [Adams(1), Adams(2, 3, "v"), Adams(3, parametrisation="eps"), Adams(2, 3, "flow", "flow")],
    ids=repr,
)
def test_the_estimate_is_exact_for_isotropic_gaussian_data(sde: AffineSDE, solver: Adams) -> None:
    """Their prediction is linear in x, with the Jacobian that the estimate assumes."""
    std = 0.3
    group = gaussian(sde, std)
    path = group.follow(Adams(3, 4, "v"), 512, 512, 8)
    nodes = group.log_snr(make_grid("quadratic", sde, 7))
    estimate = ErrorEstimate(sde, path, 2 * std).loss(
        solver, nodes
    )  # it halves the scale of the data
    assert estimate == pytest.approx(group.loss(solver, nodes, slice(0, 8)), abs=1e-3)
    assert abs(ErrorEstimate(sde, path, 4 * std).loss(solver, nodes) - estimate) > 1e-2


def calibrated(**options: Any) -> Calibration:
    """A calibration on Gaussian data, of one scale."""
    given = {"steps": 4, "trajectories": 24, "dtype": DOUBLE} | options
    return calibrate(ReverseSDE(VP, gaussian(VP, 0.3).model, 0.0), (3,), **given)


def test_factors_that_do_not_help_held_back_trajectories_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minimise = MODULE.minimise

    def worse(group: Trajectories, found: Found, *rest: Any) -> Found:
        learn = rest[-1]
        if not learn:
            return minimise(group, found, *rest)  # type: ignore[no-any-return]
        return replace(found, factors=np.full((2, len(found.log_snr) - 1), 1.3))

    monkeypatch.setattr(MODULE, "minimise", worse)
    made = calibrated(solver=Adams(2))
    assert isinstance(made.solver, Adams) and made.held.typical < made.held_before.typical
    assert "the learned factors were dropped: held-back trajectories have larger" in made.note


@pytest.mark.parametrize("factor", [1.2, 1.3])
def test_a_result_that_raises_the_largest_errors_is_refused(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the typical error, and up to 1.25 times the root mean square, are better."""
    errors = MODULE.Search.errors

    def tailed(self: Any, found: Found, which: slice) -> Errors:
        told: Errors = errors(self, found, which)
        if which == self.train or found.loss > -90.0:
            return replace(told, typical=1.0, rms=2.0)
        return replace(told, typical=0.5, rms=2.0 * factor)

    def marked(group: Trajectories, found: Found, *rest: Any) -> Found:
        return replace(found, loss=-99.0)

    monkeypatch.setattr(MODULE.Search, "errors", tailed)
    monkeypatch.setattr(MODULE, "minimise", marked)
    made = calibrated(solver=Adams(2))
    assert made.held.rms == (2.4 if factor < 1.25 else 2.0)
    refused = "fell back to the start: held-back trajectories have a larger root mean square"
    assert (refused in made.note) == (factor > 1.25)


class OnlyWideOnCPU(TorchFunctionMode):
    """float64 for none but tensors that were moved to the CPU, as a device without it requires."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        caller = sys._getframe(1).f_code.co_filename.replace("\\", "/")
        if func is torch.Tensor.double and "/calibration/" in caller and "tests" not in caller:
            assert getattr(args[0], "_moved", False), caller
        made = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            made = made.view_as(made)
            made._moved = True
        return made


def test_states_are_moved_before_they_are_made_float64() -> None:
    """A device such as MPS has no float64; `wide` takes float32 there."""
    data = Gaussian(torch.zeros(3), torch.tensor([1.0, 0.1, 0.01]))
    process = ReverseSDE(VP, data.under(VP), 0.0)
    with OnlyWideOnCPU():
        made = calibrate(process, (3,), steps=3, trajectories=12, iterations=2, solver=Adams(2))
    assert made.held.typical <= made.held_before.typical


def test_factors_that_help_are_kept() -> None:
    """On Gaussian data of one scale a step of first order is right but for a factor."""
    made = calibrated(solver=Adams(1, parametrisation="v"))
    assert isinstance(made.solver, LearnedAdams)
    assert made.solver.slopes == (1.0,) * 4  # a method of first order extrapolates by nothing
    assert made.held.typical < 0.2 * made.held_before.typical


def test_the_start_is_the_automatic_choice() -> None:
    data = Gaussian(torch.zeros(2, dtype=DOUBLE), torch.tensor([0.5, 0.1], dtype=DOUBLE))
    made = calibrate(
        ReverseSDE(VP, data.under(VP), 0.0), (2,), steps=5, trajectories=12, iterations=4
    )
    assert made.start_solver == Adams(2, 3, "flow", "flow")
    scale = data.under(VP).data_scale
    assert made.start_grid.times == pytest.approx(
        make_grid("tapered", VP, 5, data_scale=scale).times
    )


@pytest.mark.parametrize("dim", [2, 8, 64])
def test_a_plan_costs_what_its_parts_do(dim: int) -> None:
    counts = [5, 10]
    sizes = split(pilots(dim))
    assert sum(sizes) == pilots(dim) and sizes[0] == 2 * sizes[1]
    made, total = efforts(counts, None, sizes, 64, None, dim)
    parts = sum(made[n].cost(n, *sizes, dim) for n in counts)
    assert total == reference_cost(pilots(dim), 64) + parts + 80
    less, spent = efforts(counts, None, sizes, 64, total - 1, dim)
    assert spent < total and less[5].iterations < made[5].iterations


def test_few_steps_of_small_samples_get_more_iterations_at_a_like_cost() -> None:
    """With as many for each number of steps, 5 on two moons missed half of the error."""
    sizes = split(pilots(2))
    made, total = efforts([5, 10, 20], None, sizes, 104, None, 2)
    assert [made[n].iterations for n in (5, 10, 20)] == [rounds(2, n) for n in (5, 10, 20)]
    assert [rounds(2, n) for n in (3, 5, 10, 20, 50)] == [96, 96, 48, 24, 24]
    less, spent = efforts([5, 10, 20], None, sizes, 104, total // 2, 2)
    most, middle, least = (less[n].iterations for n in (5, 10, 20))
    assert spent <= total // 2 and most == pytest.approx(2 * middle, abs=1)
    assert middle == pytest.approx(2 * least, abs=1)
    given, _ = efforts([5, 10], 7, sizes, 104, None, 2)
    assert given[5] == given[10] and given[5].iterations == 7
    assert rounds(64, 5) == rounds(64, 20) == 24


def test_a_plan_counts_the_evaluations_that_replace_stored_activations() -> None:
    made = Effort(leaders=2, short=3, iterations=5, batch=16)
    extra = 10 * (16 * (2 * 3 + 5) + CHECKED)
    assert made.cost(10, 16, 8, GRAPH) - made.cost(10, 16, 8, 1) == extra
    only = GRAPH // (10 * CHECKED)  # the batch is recomputed, and the check of the gradient is not
    assert made.cost(10, 16, 8, only) - made.cost(10, 16, 8, 1) == extra - 10 * CHECKED


def test_a_smaller_budget_takes_fewer_trajectories_and_then_fewer_steps() -> None:
    found = [affordable([5, 10, 20], 2, b) for b in (10**6, 40_000, 20_000, 6000, 100)]
    assert [steps for steps, _ in found] == [[5, 10, 20], [5, 10, 20], [5, 10, 20], [5], []]
    assert [count for _, count in found] == [96, 96, 24, 48, 24]
