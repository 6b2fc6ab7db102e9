"""The default solver and grid for a number of steps, from the measured table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from scoresde._check import positive_int
from scoresde.process import Eta
from scoresde.sampler.registry import AUTOMATIC, FIRST_ORDER_STEPS, STEPS, as_solver
from scoresde.schedule.grid import Grid, make_grid
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import Solver

__all__ = ["AUTO", "Settled", "choose", "resolve"]

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


@final
@dataclass(frozen=True)
class Settled:
    """What the arguments of a sampler mean.

    Attributes:
        solver, eta: the solver and the stochasticity of the process.
        grid: a name, or a grid of the user's own.
        steps: of a named grid; of the user's own grid None, or what it must agree with.
        t_end: where a named grid stops; None for the SDE's own.
        why: how an automatic choice was made; "" where the user chose.
    """

    solver: Solver
    eta: Eta
    grid: str | Grid
    steps: int | None
    t_end: float | None
    why: str


def choose(process: str, steps: int) -> tuple[str, str]:
    """The names of a solver and a grid for this many steps: those of the last row begun."""
    _, solver, grid = max(row for row in AUTO[process] if row[0] <= steps)
    return solver, grid


def resolve(
    sde: SDE,
    spread: tuple[float, int] | None,
    solver: str | Solver,
    steps: int | None,
    grid: str | Grid | Sequence[float] | None,
    t_end: float | None,
    eta: Eta | None,
) -> Settled:
    """What these arguments of a sampler mean.

    An automatic solver is that of `AUTO` for the number of steps, on a grid of the user's own for
    those of its longest segment. It falls back to the Euler(-Maruyama) method where the SDE is not
    affine, and, with a warning, on a grid that the user chose and whose end has no noise left. A
    `t_end` without noise and without a grid becomes the SDE's `t_min`, from which the final
    denoising leads to the data.

    Args:
        spread: standard deviation of the data and number of values of a sample, if known.
        the others: as of `ReverseSampler`.
    """
    automatic = isinstance(solver, str) and solver in AUTOMATIC
    affine = isinstance(sde, AffineSDE)
    if grid is not None and not isinstance(grid, str):
        grid = make_grid(grid, sde, steps, t_end=t_end)
        count, end = max(len(segment) - 1 for segment in grid.segments), grid.end
    else:
        if steps is None:
            steps = FIRST_ORDER_STEPS if automatic and not affine else STEPS
        count = positive_int("steps", steps, "the number of steps is a whole number above 0")
        end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    default, why = "log_snr" if affine else "uniform", ""
    if automatic:
        process = "ode" if solver == "auto" and eta in (None, 0) else "sde"
        unit = spread is not None and UNIT[0] <= spread[0] <= UNIT[1]
        chosen = choose("ode_any" if process == "ode" and not unit else process, count)
        why = f"measured to do best with {count} steps, {_known(spread)}"
        if not isinstance(sde, AffineSDE):
            chosen = "euler_maruyama", "uniform"
            why = f"{type(sde).__name__} is not affine, so no solver of higher order applies"
        elif not math.isfinite(sde.log_snr(end)):
            if grid is None:
                t_end = sde.t_min
                why = f"{why}; no noise is left at t = {end:g}, so the steps end at t = {t_end:g}"
            else:
                chosen = "euler" if process == "ode" else "euler_maruyama", "uniform"
                why = f"no noise is left at the end of the grid, t = {end:g}"
                remedy = "end it before, for the final denoising leads to the data"
                text = f"grid: {why}, so {solver!r} is {chosen[0]!r}, of first order; {remedy}"
                warnings.warn(text, stacklevel=3)
        solver, default = chosen
    made, own = as_solver(solver, sde)
    return Settled(
        made, own if eta is None else eta, default if grid is None else grid, steps, t_end, why
    )


def _known(spread: tuple[float, int] | None) -> str:
    if spread is None:
        return "for data of unknown size"
    return f"for data of standard deviation {spread[0]:.3g} and {spread[1]} values a sample"
