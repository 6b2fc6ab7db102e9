"""The plan of a run: readable, frozen and checked; and what somebody who follows a call reads.

What is read is counted by `sys.setprofile`. The figures to reach are 45 functions in 9 files
before the first network call of `unipc_3`. Most of what is above them evaluates the schedule (the
formulas of the SDE, the named grid) or checks arguments. A bound here is what the code needs now:
lower it when the code needs less.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import Tensor

import scoresde
from scoresde import SDE, VPSDE, Adams, FunctionScore, Grid, Heun, ReverseSampler
from scoresde.sampler import resolve
from scoresde.schedule import Schedule
from scoresde.solvers import Plan, StepSolver
from scoresde.solvers.limits import Held

PACKAGE = str(Path(scoresde.__file__).parent)


def entered(call: Callable[[Callable[[], None]], object]) -> list[list[tuple[str, str]]]:
    """The functions of the package that a call enters, as (file, name), cut at each mark.

    Comprehensions, lambdas and bodies of modules and classes do not count. `call` receives the
    function that makes a mark.
    """
    parts: list[list[tuple[str, str]]] = [[]]

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name[0] != "<":
            parts[-1].append((code.co_filename, f"{code.co_firstlineno} {code.co_name}"))

    sys.setprofile(note)
    try:
        call(lambda: parts.append([]))
    finally:
        sys.setprofile(None)
    return parts


def test_from_a_sampler_to_its_first_network_call() -> None:
    def run(mark: Callable[[], None]) -> None:
        def score(t: Tensor, x: Tensor) -> Tensor:
            mark()
            return -x

        ReverseSampler(VPSDE(), score, "unipc_3", steps=20).sample((8, 2), seed=0)

    torch.zeros(1)
    before, *steps, _ = entered(run)
    functions, files = set(before), {file for file, _ in before}
    assert len(functions) <= 115 and len(files) <= 15, (len(functions), sorted(files))
    later = [len(step) for step in steps[1:-1]]
    assert max(later) <= 13, later  # one is the kernel, the step without its noise


SCORE = FunctionScore(VPSDE(), lambda t, x: -x)


def test_a_plan_says_all_that_the_arguments_mean() -> None:
    plan = resolve(VPSDE(), SCORE, "unipc_3", steps=20)
    assert plan == ReverseSampler(VPSDE(), SCORE, "unipc_3", steps=20).plan
    assert (plan.solver, plan.eta, plan.denoise) == (Adams(3, 4), 0.0, True)
    assert plan.schedule.grid == plan.schedule.grid and plan.schedule.steps == 20
    assert repr(plan) == (
        f"Plan({Adams(3, 4)!r}, eta=0.0, 20 steps from t=1 to t=0.001 on 'log_snr', "
        f"{VPSDE()!r}, denoise=True)"
    )
    assert "why='measured to do best with 20 steps" in repr(resolve(VPSDE(), SCORE, steps=20))
    with pytest.raises(AttributeError):
        plan.eta = 1.0  # type: ignore[misc]


def test_a_schedule_holds_the_nodes_of_its_grid() -> None:
    grid = Grid(((1.0, 0.5, 0.2), (0.4, 0.1)))
    schedule = Schedule(VPSDE(), grid)
    times = [[node.t for node in nodes] for nodes in schedule.segments]
    assert times == [[1.0, 0.5, 0.2], [0.4, 0.1]]
    assert schedule.start.alpha == VPSDE().alpha(1.0) and schedule.end.t == 0.1
    with pytest.raises(ValueError, match="grid: expected a time in"):
        Schedule(VPSDE(), Grid.of([1.5, 0.5]))


def test_a_plan_is_refused_before_any_network_call() -> None:
    schedule = Schedule(VPSDE(), Grid.of([1.0, 0.5, 0.2]))
    up = Schedule(VPSDE(), Grid.of([0.2, 0.5, 0.9]))
    with pytest.raises(ValueError, match=r"eta: expected 0 for Heun.*set eta=0"):
        Plan(Heun(), 1.0, schedule)
    with pytest.raises(ValueError, match=r"grid: expected segments that run down.*set eta=0"):
        Plan(Adams(1), 1.0, up)
    with pytest.raises(ValueError, match=r"grid: expected segments that run up"):
        Plan(scoresde.EulerMaruyama(), None, schedule)
    with pytest.raises(TypeError, match=r"process: expected a ReverseSDE for Adams"):
        Plan(Adams(1), None, up)
    with pytest.raises(ValueError, match=r"order: expected at most the 2 steps"):
        Plan(Adams(3), 0.0, schedule)
    own = SDE(lambda t, x: -x, lambda t: 1.0)
    with pytest.raises(TypeError, match=r"sde: expected an AffineSDE for Adams"):
        Plan(Adams(1), 0.0, Schedule(own, Grid.of([1.0, 0.5])))
    again = Schedule(own, Grid(((1.0, 0.5), (0.7, 0.2))))
    with pytest.raises(TypeError, match=r"grid: expected a single segment on an SDE that is not"):
        Plan(scoresde.EulerMaruyama(), 1.0, again)
    Plan(scoresde.EulerMaruyama(), 1.0, Schedule(own, Grid(((1.0, 0.5), (0.5, 0.2)))))
    with pytest.raises(ValueError, match=r"eta: expected a finite number >= 0, got -1"):
        Plan(Adams(1), -1.0, schedule)
    with pytest.raises(TypeError, match=r"solver: expected a Solver, got .*'ddim'.*Adams\(1\)"):
        Plan("ddim", 0.0, schedule)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"grid: expected a Grid, got .*Grid.of"):
        Schedule(VPSDE(), [1.0, 0.5])  # type: ignore[arg-type]


def test_a_function_is_a_model_of_a_plan_as_it_is_of_a_sampler() -> None:
    assert resolve(VPSDE(), lambda t, x: -x, "ddim") == resolve(VPSDE(), SCORE, "ddim")


def test_the_warning_of_a_fall_back_is_about_the_line_that_makes_the_sampler() -> None:
    grid = Grid.of([1.0, 0.5, 0.0])
    with pytest.warns(UserWarning, match="of first order") as told:
        ReverseSampler(scoresde.FlowSDE(T=1.0), lambda t, x: -x, grid=grid)
    assert [warning.filename for warning in told] == [__file__]


def test_coefficients_are_one_row_a_step_and_hold_x0_at_the_limits() -> None:
    flow = scoresde.FlowSDE(T=1.0)  # pure noise at T: alpha = 0
    schedule = Schedule(flow, Grid.of([1.0, 0.8, 0.5, 0.2, 0.0]))
    (rows,) = Plan(Adams(2), 0.0, schedule).coefficients
    assert len(rows) == 4 and [isinstance(row, Held) for row in rows] == [True, False, False, True]
    (plain,) = Plan(Adams(2), 0.0, Schedule(flow, Grid.of([0.8, 0.5, 0.2]))).coefficients
    assert rows[1:3] == plain
    (last,) = (row for row in rows[3:])
    assert (last.state_coef, last.data_coef, last.noise_std) == (0.0, 1.0, 0.0)
    assert isinstance(Adams(2), StepSolver)


def test_a_class_in_the_place_of_its_object_is_told_to_be_made_one() -> None:
    with pytest.raises(TypeError, match=r"the class Adams.; pass an object .* Adams\(\)"):
        ReverseSampler(VPSDE(), lambda t, x: -x, Adams)  # type: ignore[arg-type]


def test_the_reason_of_an_automatic_solver_says_on_which_grid_it_was_measured() -> None:
    for grid in ("karras", Grid.of([1.0, 0.5, 0.1])):
        why = ReverseSampler(VPSDE(), lambda t, x: -x, grid=grid).plan.why
        assert "on the grid 'tapered' in the place of yours" in why, why
    assert "in the place" not in ReverseSampler(VPSDE(), lambda t, x: -x, steps=10).plan.why
