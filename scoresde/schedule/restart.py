"""Grids with added noise: restart sampling, the churn of EDM, the resampling of RePaint."""

from __future__ import annotations

import math
from itertools import pairwise

from scoresde._check import fail, instance, nonnegative, positive_int
from scoresde.schedule.grid import Grid, affine_sde, karras
from scoresde.sde import AffineSDE

__all__ = ["churn", "resampling", "restart"]


def restart(
    sde: AffineSDE, grid: Grid, *, t_min: float, t_max: float, times: int = 1, steps: int = 5
) -> Grid:
    """Restart sampling as segments: from the node nearest t_min up to t_max, and down again.

    It works with every solver, since between segments the loop adds noise to the state with the
    exact transition of the SDE and restarts the solver. Xu et al. 2023 (arXiv 2306.14878), alg. 1.

    Args:
        sde: the SDE, affine.
        grid: the main grid, of one segment that runs down.
        t_min, t_max: the interval that is repeated, within the grid.
        times: the number of repetitions.
        steps: the number of steps of each repetition, on a Karras grid.
    """
    segment = _only_segment(affine_sde(sde, "restart"), grid)
    count, inner = positive_int("times", times), positive_int("steps", steps)
    if not segment[-1] <= t_min < t_max <= segment[0]:
        remedy = "choose segment end <= t_min < t_max <= segment start"
        got = (t_min, t_max)
        raise fail(
            "t_min, t_max", f"an interval in [{segment[-1]:g}, {segment[0]:g}]", got, remedy
        )
    at = min(range(1, len(segment)), key=lambda i: abs(segment[i] - t_min))
    again = karras(sde, inner, t_start=t_max, t_end=segment[at]).segments
    rest = (segment[at:],) if at < len(segment) - 1 else ()
    return Grid((segment[: at + 1], *again * count, *rest))


def churn(
    sde: AffineSDE,
    grid: Grid,
    amount: float,
    *,
    t_min: float | None = None,
    t_max: float | None = None,
) -> Grid:
    """EDM's churn as segments: before a step noise raises sigma / alpha by the factor 1 + gamma.

    gamma = min(amount / N, sqrt(2) - 1) for nodes in [t_min, t_max]; the first step, and a
    step that would start beyond T, is not changed. Karras et al. 2022 (arXiv 2206.00364), alg. 2
    with S_noise = 1.

    Args:
        sde: the SDE, affine.
        grid: the main grid, of one segment that runs down.
        amount: S_churn, at least 0.
        t_min, t_max: the times between which noise is added; by default all times.
    """
    segment = _only_segment(affine_sde(sde, "churn"), grid)
    gamma = min(nonnegative("amount", amount) / (len(segment) - 1), math.sqrt(2.0) - 1.0)
    low = segment[-1] if t_min is None else sde.check_time("t_min", t_min)
    high = segment[0] if t_max is None else sde.check_time("t_max", t_max)
    segments: list[tuple[float, ...]] = []
    for now, nxt in pairwise(segment):
        up = sde.log_snr(now) - math.log1p(gamma)
        if segments and gamma > 0.0 and low <= now <= high and up >= sde.log_snr(sde.T):
            segments.append((sde.time_of(up), nxt))
        elif segments:
            segments[-1] = (*segments[-1], nxt)
        else:
            segments.append((now, nxt))
    return Grid(tuple(segments))


def resampling(sde: AffineSDE, grid: Grid, *, length: int = 10, times: int = 10) -> Grid:
    """RePaint's resampling as segments: every `length` steps are made `times` times.

    After the steps noise takes the state back up to their start, so that `RePaint` lets known and
    unknown entries fit together. Lugmayr et al. 2022 (arXiv 2201.09865), section 4.2.

    Args:
        sde: the SDE, affine.
        grid: the main grid, of one segment that runs down.
        length: the number of steps that are repeated together, the jump length j of the paper.
        times: how often these steps are made, r in the paper.
    """
    segment = _only_segment(affine_sde(sde, "resampling"), grid)
    length, times = positive_int("length", length), positive_int("times", times)
    segments: list[tuple[float, ...]] = []
    for start in range(0, len(segment) - 1, length):
        part = segment[start : start + length + 1]
        if segments:
            segments[-1] = (*segments[-1], *part[1:])
        else:
            segments.append(part)
        segments += [part] * (times - 1)
    return Grid(tuple(segments))


def _only_segment(sde: AffineSDE, grid: Grid) -> tuple[float, ...]:
    instance("grid", grid, Grid, "make one with log_snr(sde, steps) or Grid.of(times)")
    grid.check(sde)
    if len(grid.segments) != 1 or grid.start < grid.end:
        raise fail("grid", "one segment that runs down", grid, "start from a named grid")
    return grid.segments[0]
