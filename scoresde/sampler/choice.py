"""The automatic choice of solver and grid for a number of steps, from a measured table."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

from scoresde.sde import SDE, AffineSDE

__all__ = ["AUTO", "FIRST_ORDER_STEPS", "STEPS", "UNIT", "Choice", "choose", "choose_for"]

STEPS = 50
"""The default number of steps."""

FIRST_ORDER_STEPS = 500
"""The default where no solver of higher order than Euler-Maruyama applies."""

AUTO: dict[str, tuple[tuple[int, str, str], ...]] = {
    "ode": (
        (1, "ddim", "tapered"),
        (4, "unipc_2_flow", "tapered"),
        (10, "unipc_3_flow", "tapered"),
        (28, "unipc_4_flow", "tapered"),
    ),
    "ode_any": (
        (1, "ddim", "tapered"),
        (2, "dpmpp_2m", "tapered"),
        (16, "unipc_3", "tapered"),
        (30, "unipc_4", "tapered"),
    ),
    "sde": (
        (1, "ancestral", "tapered"),
        (4, "er_sde_3", "tapered"),
        (12, "sa_solver_p2_v", "tapered"),
        (40, "sa_solver_p3c4_flow", "tapered"),
    ),
}
"""Process -> rows of (the steps from which it holds, solver, grid), those of docs/choosing.md.

"ode" is the probability flow of data of about unit size (see `UNIT`), "ode_any" that of data of
another size and of data that the model does not know; "sde" is a stochastic process, with the eta
of the user or, for "auto_sde", that of the solver's name. All are solvers with one call a step on
a grid in the log-SNR, so that a row means the same under every affine SDE. `python
benchmarks/choosing.py` measures them on random problems.
"""

UNIT = 0.15, 10.0
"""Standard deviations between which data are about of unit size.

The solvers of the rows "ode" interpolate eps - x_0 between nodes, which is smooth for
such data alone: at a standard deviation of 0.01 two steps were 30 times worse than one. Those of
"ode_any" see no scale but that of the grid.
"""


class Choice(NamedTuple):
    """An automatic choice.

    Attributes:
        solver, grid: their names.
        t_end: where the grid stops; None for the SDE's own.
        why: how it was made.
    """

    solver: str
    grid: str
    t_end: float | None
    why: str


def choose(process: str, steps: int) -> tuple[str, str]:
    """The names of a solver and a grid for this many steps: those of the last row begun."""
    _, solver, grid = max(row for row in AUTO[process] if row[0] <= steps)
    return solver, grid


def choose_for(
    sde: SDE,
    process: str,
    steps: int,
    data_scale: tuple[float, int] | None,
    t_end: float | None,
    end: float,
    own_grid: bool,
) -> Choice:
    """The solver and grid measured to do best with this many steps, or what it falls back to.

    It falls back to the Euler(-Maruyama) method where the SDE is not affine, and, with a warning,
    on a grid that the user chose and whose end has no noise left. A `t_end` without noise and
    without a grid becomes the SDE's `t_min`, from which the final denoising leads to the data.

    Args:
        sde: the SDE.
        process: "ode" or "sde".
        steps: those of the longest segment.
        data_scale: standard deviation of the data and number of values of a sample, if known.
        t_end, end: where to stop: as asked for, and as it is.
        own_grid: whether the user chose the grid.
    """
    unit = data_scale is not None and UNIT[0] <= data_scale[0] <= UNIT[1]
    solver, grid = choose("ode_any" if process == "ode" and not unit else process, steps)
    why = f"measured to do best with {steps} steps, {_known(data_scale)}"
    if not isinstance(sde, AffineSDE):
        why = f"{type(sde).__name__} is not affine, so no solver of higher order applies"
        return Choice("euler_maruyama", "uniform", t_end, why)
    if math.isfinite(sde.log_snr(end)):
        return Choice(solver, grid, t_end, why)
    if not own_grid:
        why = f"{why}; no noise is left at t = {end:g}, so the steps end at t = {sde.t_min:g}"
        return Choice(solver, grid, sde.t_min, why)
    first_order = "euler" if process == "ode" else "euler_maruyama"
    why = f"no noise is left at the end of the grid, t = {end:g}"
    name = "auto" if process == "ode" else "auto_sde"
    remedy = "end it before, for the final denoising leads to the data"
    warnings.warn(
        f"grid: {why}, so {name!r} is {first_order!r}, of first order; {remedy}", stacklevel=5
    )
    return Choice(first_order, "uniform", t_end, why)


def _known(spread: tuple[float, int] | None) -> str:
    if spread is None:
        return "for data of unknown size"
    return f"for data of standard deviation {spread[0]:.3g} and {spread[1]} values a sample"
