"""A weight that is 1 % off is seen in the solvers whose order is not that of a fixed grid.

`test_order.py` guards the schemes on fixed grids. Here stand those that choose their steps or are
fitted to a model: each term of each linear combination in their modules, one call site at a time,
is multiplied by 1.01, and the checks of the solver must notice. A last test wants every solver of
the package in one of the two guards, or in a list of reasons.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresde.prediction
import scoresde.solvers.adaptive.ode
import scoresde.solvers.adaptive.sde
import scoresde.solvers.dpm_v3.solver
from scoresde import VPSDE, Empirical, Gaussian, Grid, ReverseSDE
from scoresde._tensor import lincomb
from scoresde.noise import Independent
from scoresde.schedule.grid import log_snr
from scoresde.solvers import AdaptiveODE, AdaptiveSDE, DPMSolverV3, Solution, Solver, Statistics

VP = VPSDE()
D = torch.float64
MEAN, STD = torch.tensor([0.5, -0.4], dtype=D), torch.tensor([0.3, 0.8], dtype=D)
DATA = Gaussian(MEAN, STD**2)
START = DATA.marginal(VP, VP.T).sample(8, seed=0)

Site = tuple[str, int, int]
"""Function and line of a call of `lincomb`, and the number of one of its terms."""


def walk(
    solver: Solver,
    grid: Grid,
    eta: float = 0.0,
    data: Gaussian | Empirical = DATA,
    **options: Any,
) -> Solution:
    process = ReverseSDE(VP, data.under(VP), eta)
    return solver.solve(process, START, grid, noise=Independent(0), **options)


def truth(t: float) -> Tensor:
    return DATA.flow(VP, START, VP.T, t)


def error(x: Tensor, t: float) -> float:
    return float((x - truth(t)).abs().max())


def tried(solver: AdaptiveODE | AdaptiveSDE, eta: float) -> float:
    """Steps tried, on average; infinite if a sample ran out of its budget."""
    out = walk(solver, log_snr(VP, 1), eta)
    attempts = (out.stats["accepted"] + out.stats["rejected"]).double()
    return float(attempts.mean()) if out.status == "done" else math.inf


def pair_is_right(pair: str, order: int, steps: int, bound: float) -> bool:
    """The order of the pair, that of its estimate, and the continuous extension between nodes."""

    def fixed(n: int) -> float:  # a hook makes each sample stop at each node
        solver = AdaptiveODE(pair, rtol=1e6, atol=1e6)
        grid = log_snr(VP, n)
        return error(walk(solver, grid, on_step=lambda node, x: None).x, grid.end)

    def between() -> float:
        grid = log_snr(VP, 40)
        path = walk(AdaptiveODE(pair, 1e-6, 1e-6), grid, keep_path=True).path
        assert path is not None
        return max(error(x, t) for x, t in zip(path, grid.times, strict=True))

    coarse, fine = fixed(steps), fixed(2 * steps)
    few, many = (tried(AdaptiveODE(pair, t, t, max_nfe=400), 0.0) for t in (1e-5, 1e-7))
    return (
        2 ** (order - 0.4) < coarse / fine < 2 ** (order + 1)
        and 0.8 < many / few / 100 ** (1 / order) < 1.25
        and between() < bound
    )


def sde_is_right() -> bool:
    """Work grows as an estimate of order h^1.5 says; one datum has an x_0hat without any error."""
    few, many = (tried(AdaptiveSDE(t, t, max_nfe=1000), 1.0) for t in (1e-2, 1e-3))
    point = walk(AdaptiveSDE(1e-8, 1e-8, max_nfe=100), log_snr(VP, 1), 1.0, Empirical(MEAN[None]))
    exact = point.status == "done" and not bool(point.stats["rejected"].any())
    return exact and 0.8 < many / few / 10 ** (2 / 3) < 1.25


def v3_is_right() -> bool:
    """Every step is exact on Gaussian data."""
    statistics, grid = Statistics.from_moments(VP, MEAN, STD), log_snr(VP, 6)
    return all(
        error(walk(DPMSolverV3(statistics, p, corrector), grid).x, grid.end) < 1e-8
        for p, corrector in ((1, 0), (3, 0), (2, 3), (3, 4))
    )


GUARDED: dict[str, tuple[type[Solver], tuple[ModuleType, ...], Callable[[], bool]]] = {
    "dopri5": (
        AdaptiveODE,
        (scoresde.solvers.adaptive.ode, scoresde.prediction),
        lambda: pair_is_right("dopri5", 5, 20, 2e-5),
    ),
    "bosh3": (
        AdaptiveODE,
        (scoresde.solvers.adaptive.ode, scoresde.prediction),
        lambda: pair_is_right("bosh3", 3, 40, 2e-6),
    ),
    "adaptive_sde": (AdaptiveSDE, (scoresde.solvers.adaptive.sde,), sde_is_right),
    "dpm_v3": (DPMSolverV3, (scoresde.solvers.dpm_v3.solver,), v3_is_right),
}


def off(wrong: Site | None, seen: set[Site]) -> Callable[..., Tensor]:
    """`lincomb` with one term of one call site 1 % off; notes all sites."""

    def changed(*terms: tuple[Any, Tensor]) -> Tensor:
        caller = sys._getframe(1)
        place = caller.f_code.co_name, caller.f_lineno
        sites: list[Site] = [(*place, i) for i in range(len(terms))]
        seen.update(sites)
        pairs = zip(sites, terms, strict=True)
        return lincomb(*((c * 1.01 if site == wrong else c, m) for site, (c, m) in pairs))

    return changed


def break_(patch: pytest.MonkeyPatch, key: str, wrong: Site | None) -> set[Site]:
    seen: set[Site] = set()
    for module in GUARDED[key][1]:
        patch.setattr(module, "lincomb", off(wrong, seen))
    return seen


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("key", GUARDED)
def test_a_solver_is_right_and_a_weight_one_percent_off_is_seen(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = GUARDED[key][2]
    seen = break_(monkeypatch, key, None)
    assert right()
    assert seen
    unseen = []
    for site in sorted(seen):
        break_(monkeypatch, key, site)
        unseen += [site] if right() else []
    assert unseen == []


def classes() -> list[type[Solver]]:
    """Every solver of the package that can be made."""
    found, todo = [], [Solver]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if not inspect.isabstract(kind) and kind.__module__.startswith("scoresde."):
            found.append(kind)
    return found


REASONS = {
    "SciPySolver": "the method is scipy's, to its own tolerance",
    "LearnedAdams": "its factors belong to one grid; test_learned.py compares its rows by hand",
    "Langevin": "a corrector leaves the time where it is",
    "PredictorCorrector": "its law is that of the predictor; test_schemes.py measures the bias",
}
"""Solvers that no order or weight is measured of, and why."""


def test_every_solver_is_guarded_or_has_a_reason() -> None:
    listed = json.loads((Path(__file__).parents[1] / "orders.json").read_text(encoding="utf-8"))
    measured = {expression.partition("(")[0] for expression in listed}
    guarded = {kind.__name__ for kind, _, _ in GUARDED.values()}
    names = {kind.__name__ for kind in classes()}
    assert names - measured - guarded - set(REASONS) == set()
    assert set(REASONS) & (measured | guarded) == set()
