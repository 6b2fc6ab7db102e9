"""The default solver and grid for a number of steps, from the measured table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scoresde._check import positive_int
from scoresde.grid import Grid, make_grid
from scoresde.process import Eta
from scoresde.sampler.names import AUTOMATIC, FIRST_ORDER_STEPS, STEPS, as_solver
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import Solver

__all__ = ["AUTO", "choose", "settle"]

AUTO: dict[str, tuple[tuple[int, str, str], ...]] = {
    "ode": (
        (5, "deis_log_rho_3", "log_snr"),
        (10, "ipndm_3", "log_snr"),
        (20, "ipndm_3", "quadratic"),
        (50, "unipc_4", "log_snr"),
        (100, "unipc_3_v", "log_snr"),
    ),
    "sde": (
        (5, "dpmpp_2m_sde", "log_snr"),
        (10, "dpmpp_2m_sde", "log_snr"),
        (20, "dpmpp_2m_sde", "log_snr"),
        (50, "sa_solver_p3c4", "log_snr"),
        (100, "sa_solver_p2c2_v", "quadratic"),
    ),
    "any_eta": (
        (5, "dpmpp_2m_sde", "log_snr"),
        (10, "er_sde_2", "uniform"),
        (20, "er_sde_3", "log_snr"),
        (50, "er_sde_3", "karras"),
        (100, "sa_solver_p2c2_v", "quadratic"),
    ),
}
"""Process -> (network calls, solver, grid), the rows of docs/choosing.md.

"ode" is the probability flow, "sde" the reverse SDE at eta = 1, "any_eta" whatever stochastic
process does best. One row serves every problem: it is the setting with one call a step whose
worst error over the problems of `benchmarks/solvers.py`, relative to that of the best default of
other libraries, is the smallest. `python benchmarks/choosing.py` writes the page and
compares these rows with the measured ones.
"""

_SHORT = {"ode": "ddim", "sde": "ancestral", "any_eta": "ancestral"}


def choose(sde: SDE, steps: int, end: float, process: str) -> tuple[str, str]:
    """The names of a solver and a grid for this many steps to this time.

    The row with the nearest number of calls, by ratio, is taken. Fewer steps than a third-order
    solver needs leave first order; an SDE that is not affine, or a last node at which nothing is
    left of the noise, leaves Euler's method.
    """
    if not isinstance(sde, AffineSDE) or not math.isfinite(sde.log_snr(end)):
        affine = isinstance(sde, AffineSDE)
        return "euler" if affine and process == "ode" else "euler_maruyama", "uniform"
    if steps < 4:
        return _SHORT[process], "log_snr"
    _, solver, grid = min(AUTO[process], key=lambda row: max(row[0] / steps, steps / row[0]))
    return solver, grid


def settle(
    sde: SDE,
    solver: str | Solver,
    steps: int | None,
    grid: str | Grid | Sequence[float] | None,
    t_end: float | None,
    eta: Eta | None,
) -> tuple[Solver, Eta, str | Grid, int | None]:
    """What these arguments of a sampler mean: the solver, its eta, the grid and its steps.

    A grid of the user's own keeps `steps` as it is: None, or what the grid must agree with.
    """
    affine = isinstance(sde, AffineSDE)
    automatic = isinstance(solver, str) and solver in AUTOMATIC
    if grid is not None and not isinstance(grid, str):
        grid = make_grid(grid, sde, steps, t_end=t_end)
        count, end = grid.steps, grid.end
    else:
        if steps is None:
            steps = FIRST_ORDER_STEPS if automatic and not affine else STEPS
        count = positive_int("steps", steps, "the number of steps is a whole number above 0")
        end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    default = "log_snr" if affine else "uniform"
    if automatic:
        process = "any_eta" if solver == "auto_sde" else "ode" if eta in (None, 0) else "sde"
        solver, default = choose(sde, count, end, process)
    made, own = as_solver(solver, sde)
    return made, own if eta is None else eta, default if grid is None else grid, steps
