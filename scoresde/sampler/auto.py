"""The default solver and grid for a number of steps, from the measured table."""

from __future__ import annotations

import math

from scoresde.sde import SDE, AffineSDE

__all__ = ["AUTO", "choose"]

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
