"""Warnings are about the line of the user that led to them, however deep they arise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import scoresde
from scoresde import (
    VPSDE,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Grid,
    ReverseSampler,
    TwistedSampler,
)
from scoresde.data import csv_table, load_data
from scoresde.guidance import ClassifierFree
from scoresde.measurement import Matrix, Measurement
from scoresde.model import ScoreModel
from scoresde.posterior import DPS, posterior
from scoresde.smc import CollapsedWeights, CorrectedGuidance, flow_samples, reweight
from scoresde.solvers import AdaptiveODE, UnfinishedWarning
from scoresde.summary import DataRangeWarning

PACKAGE = Path(scoresde.__file__).parent
F64 = torch.float64
SDE, SHORT = VPSDE(), VPSDE(0.1, 2.0)
ONE = Gaussian(torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64))
TWO = GaussianMixture(torch.tensor([[-2.0], [2.0]], dtype=F64), torch.tensor([0.1, 0.1]))
Y = Measurement(Matrix(torch.ones(1, 1, dtype=F64)), torch.tensor([9.0], dtype=F64), 0.1)
X, FLAT = torch.linspace(0.0, 1.0, 30, dtype=F64)[:, None], torch.zeros(30, dtype=F64)


def collapsing() -> TwistedSampler:
    return TwistedSampler(ONE.under(SDE), Y, particles=50, steps=5, twist="point")


def guided(scale: float, sde: VPSDE = SDE) -> ClassifierFree:
    def fn(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] < 0, -x, sde.alpha(t) - x)

    return ClassifierFree(FunctionScore(sde, fn), scale, null={"label": -1})


def corrected(sde: VPSDE) -> CorrectedGuidance:
    return CorrectedGuidance(guided(2.0, sde), particles=20, steps=100)


def squared(model: ScoreModel) -> DPS:
    return DPS(model, Measurement(lambda x: x.square(), torch.ones(1, dtype=F64), 0.1))


LABEL = {"label": torch.tensor([0])}

CALLS: dict[str, tuple[type[Warning], Callable[[], object]]] = {
    "collapse": (CollapsedWeights, lambda: collapsing().sample((1, 1), seed=0)),
    "collapse in posterior": (
        CollapsedWeights,
        lambda: posterior(ONE.under(SDE), Y, (1,), method="twisted", n=100, calls=300, seed=0),
    ),
    "tail": (
        CollapsedWeights,
        lambda: TwistedSampler(
            TWO.under(SDE), lambda x: 8.0 * x[:, 0].abs(), particles=1000, steps=8, threshold=0.0
        ).sample((1, 1), seed=0),
    ),
    "tail of importance": (
        CollapsedWeights,
        lambda: reweight(
            ONE.under(SDE), lambda x: 1e3 * x[:, 0], X + torch.rand(30, 1), X[:, 0], log_p=X[:, 0]
        ),
    ),
    "prior": (
        UserWarning,
        lambda: TwistedSampler(ONE.under(SHORT), Y, particles=50, steps=5).sample((1, 1), seed=0),
    ),
    "prior of guidance": (
        UserWarning,
        lambda: corrected(SHORT).sample((1, 1), seed=0, cond=LABEL),
    ),
    "prior of a flow": (UserWarning, lambda: flow_samples(ONE.under(SHORT), 3, (1,))),
    "few steps": (UserWarning, lambda: CorrectedGuidance(guided(2.0), steps=20)),
    "first order": (
        UserWarning,
        lambda: ReverseSampler(FlowSDE(T=1.0), lambda t, x: -x, grid=Grid.of([1.0, 0.5, 0.0])),
    ),
    "unfinished": (
        UnfinishedWarning,
        lambda: ReverseSampler(SDE, ONE.under(SDE), AdaptiveODE(max_nfe=20)).solve((2, 1), seed=0),
    ),
    "divergence of a posterior model": (
        DataRangeWarning,
        lambda: ReverseSampler(
            SDE, squared(FunctionScore(SDE, lambda t, x: -x)), "sa_solver_p2_v", steps=50
        ).sample((20, 1), seed=0, dtype=F64),
    ),
    "divergence in posterior": (
        DataRangeWarning,
        lambda: posterior(
            ONE.under(SDE),
            Measurement(lambda x: x.square(), torch.ones(1, dtype=F64), 0.1),
            n=20,
            calls=100,
            seed=0,
            dtype=F64,
            method="dps",
        ),
    ),
}
"""Calls that warn, with the class of the warning."""


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_is_about_the_line_of_the_user(name: str) -> None:
    category, call = CALLS[name]
    with pytest.warns(category) as told:
        call()
    assert {one.filename for one in told} == {__file__}


def test_a_warning_below_a_function_of_the_user_is_about_its_line() -> None:
    def look(*of_a_node: object) -> None:
        flow_samples(ONE.under(SHORT), 3, (1,))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        TwistedSampler(ONE.under(SDE), Y, particles=1, steps=2).sample((1, 1), on_node=look)
    first = look.__code__.co_firstlineno
    assert {(one.filename, one.lineno) for one in told if "noise" in str(one.message)} == {
        (__file__, first + 1)
    }


def test_a_warning_about_a_file_is_about_the_line_that_loads_it(tmp_path: Path) -> None:
    """By whichever function it was loaded, and however many calls lie between."""
    (file := tmp_path / "x.csv").write_text("a;b\n1,5;2\n2,5;3\n3,5;5\n", encoding="utf-8")
    for load in (load_data, csv_table):
        with pytest.warns(UserWarning, match="decimal") as told:
            load(file)
        assert {one.filename for one in told} == {__file__}


def test_no_module_counts_the_calls_between_a_warning_and_the_user() -> None:
    """The count is wrong as soon as a function is called by another one."""
    own = {PACKAGE / "_check.py", PACKAGE / "cli/messages.py"}  # `warn` itself, and its replay
    counting = {f for f in PACKAGE.rglob("*.py") if "stacklevel" in f.read_text(encoding="utf-8")}
    assert counting == own
