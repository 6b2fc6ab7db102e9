"""The automatic choice of solver and grid for a number of steps, from a measured table."""

from __future__ import annotations

import math
from typing import NamedTuple

from scoresde._check import warn
from scoresde.sde import SDE, AffineSDE

__all__ = ["AUTO", "FIRST_ORDER_STEPS", "STEPS", "UNIT", "Choice", "choose", "choose_for"]

STEPS = 50
"""The default number of steps."""

FIRST_ORDER_STEPS = 500
"""The default if only Euler-Maruyama applies."""

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
"""Process -> rows of (least number of steps, solver, grid), which are those of docs/choosing.md.

"ode" is the probability flow for data of about unit size (see `UNIT`), "ode_any" that for data of
another or an unknown size; "sde" is a stochastic process, with the eta of the user or, for
"auto_sde", that of the solver's name. All are solvers with one call a step on a grid in the
log-SNR, so that a row is valid under every affine SDE. `python benchmarks/choosing.py` measures
them on random problems.
"""

UNIT = 0.15, 10.0
"""The range of standard deviations of data that are of about unit size.

The solvers of the rows "ode" interpolate eps - x_0 between nodes, which is smooth only for such
data: at a standard deviation of 0.01 the error of two steps was 30 times that of one. Those of
"ode_any" depend on no scale except that of the grid.
"""


class Choice(NamedTuple):
    """An automatic choice.

    Attributes:
        solver, grid: the names of solver and grid.
        t_end: the time at which the grid ends; None for that of the SDE.
        why: the reason for the choice.
    """

    solver: str
    grid: str
    t_end: float | None
    why: str


def choose(process: str, steps: int) -> tuple[str, str]:
    """Return solver and grid of the last row whose least number of steps is reached."""
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
    """Return the solver and grid that did best with this many steps, or a fallback.

    The fallback is the Euler(-Maruyama) method. It is used if the SDE is not affine and, with a
    warning, on an explicit grid whose end has no noise. Without an explicit grid a `t_end` without
    noise becomes the `t_min` of the SDE, from which the final denoising leads to the data.

    Args:
        sde: the SDE.
        process: "ode" or "sde".
        steps: the steps of the longest segment.
        data_scale: the standard deviation of the data and the number of values of a sample, or
            None if they are unknown.
        t_end, end: the time of the end that the user asked for, and that of the grid.
        own_grid: whether the user passed a grid, by name or explicitly.
    """
    unit = data_scale is not None and UNIT[0] <= data_scale[0] <= UNIT[1]
    solver, grid = choose("ode_any" if process == "ode" and not unit else process, steps)
    why = f"measured to do best with {steps} steps, {_known(data_scale)}"
    if not isinstance(sde, AffineSDE):
        why = f"{type(sde).__name__} is not affine, so no solver of higher order applies"
        return Choice("euler_maruyama", "uniform", t_end, why)
    if own_grid:
        why = f"{why}, on the grid {grid!r} in the place of yours"
    if math.isfinite(sde.log_snr(end)):
        return Choice(solver, grid, t_end, why)
    if not own_grid:
        why = f"{why}; no noise is left at t = {end:g}, so the steps end at t = {sde.t_min:g}"
        return Choice(solver, grid, sde.t_min, why)
    first_order = "euler" if process == "ode" else "euler_maruyama"
    why = f"no noise is left at the end of the grid, t = {end:g}"
    name = "auto" if process == "ode" else "auto_sde"
    remedy = "end it at a larger time; the final denoising leads to the data"
    warn(f"grid: {why}, so {name!r} is {first_order!r}, of first order; {remedy}")
    return Choice(first_order, "uniform", t_end, why)


def _known(data_scale: tuple[float, int] | None) -> str:
    if data_scale is None:
        return "for data of unknown size"
    return (
        f"for data of standard deviation {data_scale[0]:.3g} and {data_scale[1]} values a sample"
    )
