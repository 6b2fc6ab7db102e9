"""Time grids: the nodes of a solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from scoresde._check import (
    choice,
    fail,
    finite,
    instance,
    positive,
    positive_int,
    wrong_type,
)
from scoresde._html import Shown
from scoresde._tensor import log
from scoresde.node import Node
from scoresde.schedule.taper import Taper
from scoresde.sde import SDE, AffineSDE

__all__ = [
    "FAR",
    "GRIDS",
    "LEAST_SIGNAL",
    "Grid",
    "SoftLogSNR",
    "karras",
    "log_snr",
    "Schedule",
    "affine_sde",
    "in_noise",
    "make_grid",
    "quadratic",
    "sigmoid",
    "tapered",
    "uniform",
]


@final
@dataclass(frozen=True, repr=False)
class Grid(Shown):
    """Segments, each a strictly monotone tuple of times: down to sample, up to add noise.

    Between two segments the solving loop adds noise to the state with the exact transition of the
    SDE from the end of the first to the start of the second, and restarts the solver.

    Args:
        segments: the segments; `Grid.of(times)` makes a grid of one.

    Raises:
        ValueError: a segment has fewer than two times or is not strictly monotone, or it starts at
            less noise than that at which the previous one ended.

    Example:
        >>> Grid.of([1.0, 0.5, 0.1]).steps
        2
    """

    segments: tuple[tuple[float, ...], ...]

    def __repr__(self) -> str:
        return f"Grid({', '.join(map(_few, self.segments))})"

    @property
    def facts(self) -> dict[str, object]:
        """The numbers of steps and the times, name -> value, for a table."""
        return {"steps": self.steps, "times": "; ".join(map(_few, self.segments))}

    def __post_init__(self) -> None:
        if not isinstance(self.segments, tuple) or not all(
            isinstance(g, tuple) for g in self.segments
        ):
            raise wrong_type(
                "segments", "a tuple of tuples of times", self.segments, "use Grid.of(times)"
            )
        if not self.segments:
            raise fail("segments", "at least one segment", self.segments, "use Grid.of(times)")
        for segment in self.segments:
            if len(segment) < 2 or not all(a > b for a, b in pairwise(segment)):
                _check_segment(segment)
        for before, after in pairwise(self.segments):
            if after[0] < before[-1]:
                remedy = "start each segment at the end of the one before, or at a noisier time"
                got = f"a segment from {after[0]:g} after one that ends at {before[-1]:g}"
                raise fail("segments", "segments that go back up in noise", got, remedy)

    @classmethod
    def of(cls, times: Sequence[float]) -> Grid:
        """A grid of one segment through `times`."""
        if not isinstance(times, Iterable) or getattr(times, "shape", (0,)) == ():
            raise wrong_type("grid", "a sequence of times", times, "pass e.g. [1.0, 0.5, 0.1]")
        return cls((tuple(finite("times", t, "remove it from the grid") for t in times),))

    @property
    def steps(self) -> int:
        """The number of steps over all segments."""
        return sum(len(segment) - 1 for segment in self.segments)

    @property
    def start(self) -> float:
        """The first time."""
        return self.segments[0][0]

    @property
    def end(self) -> float:
        """The last time."""
        return self.segments[-1][-1]

    @property
    def times(self) -> tuple[float, ...]:
        """The times of all segments, in the order of the solve."""
        return tuple(t for segment in self.segments for t in segment)

    def check(self, sde: SDE) -> None:
        """Raise a ValueError unless every time lies in [0, T] of this SDE."""
        for t in (min(self.times), max(self.times)):
            sde.check_time("grid", t)


def _check_segment(segment: tuple[float, ...]) -> None:
    if len(segment) < 2:
        raise fail("grid", "at least two times", segment, "a grid of N steps has N + 1 times")
    gaps = [b - a for a, b in pairwise(segment)]
    if all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps):
        return
    sign = 1 if segment[-1] > segment[0] else -1
    wrong = next(i for i, gap in enumerate(gaps) if not gap * sign > 0)
    got = f"{segment[wrong]!r} followed by {segment[wrong + 1]!r} at position {wrong}"
    raise fail("grid", "strictly monotone times", got, "sort them and drop duplicates")


def _few(times: tuple[float, ...]) -> str:
    """The times of a segment, of which long ones show the first and the last."""
    shown = [f"{t:.4g}" for t in times]
    if len(times) > 8:
        shown = [*shown[:3], "...", *shown[-2:]]
    return f"{len(times) - 1} steps: {', '.join(shown)}"


@final
@dataclass(frozen=True, repr=False)
class Schedule(Shown):
    """A grid and its nodes under one SDE. Nodes are computed here once, and nowhere else.

    Args:
        sde: the SDE.
        grid: the grid, within [0, T] of the SDE.

    Attributes:
        segments: the nodes of each segment of the grid.

    Raises:
        ValueError: a time of the grid lies outside [0, T].

    Example:
        >>> from scoresde import VPSDE
        >>> schedule = Schedule(VPSDE(), Grid.of([1.0, 0.5, 0.1]))
        >>> [node.t for node in schedule.segments[0]]
        [1.0, 0.5, 0.1]
    """

    sde: SDE
    grid: Grid
    segments: tuple[tuple[Node, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        instance("sde", self.sde, SDE, "pass an SDE such as VPSDE()")
        instance("grid", self.grid, Grid, "make one with Grid.of(times)")
        self.grid.check(self.sde)
        at, segments = self.sde.at, self.grid.segments
        object.__setattr__(self, "segments", tuple(tuple(map(at, times)) for times in segments))

    @property
    def steps(self) -> int:
        """The number of steps over all segments."""
        return self.grid.steps

    @property
    def start(self) -> Node:
        """The first node."""
        return self.segments[0][0]

    @property
    def end(self) -> Node:
        """The last node."""
        return self.segments[-1][-1]


def _ends(
    sde: SDE, steps: object, t_start: float | None, t_end: float | None
) -> tuple[int, float, float]:
    instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
    count = positive_int("steps", steps, "the number of steps is a whole number above 0")
    start = sde.T if t_start is None else sde.check_time("t_start", t_start)
    end = sde.t_end if t_end is None else sde.check_time("t_end", t_end)
    if start == end:
        raise fail("t_start, t_end", "two different times", (start, end), "move one of them")
    return count, start, end


def affine_sde(sde: SDE, name: str) -> AffineSDE:
    if not isinstance(sde, AffineSDE):
        remedy = "use grid='uniform', grid='quadratic' or your own times"
        raise wrong_type("grid", f"an affine SDE for the {name} grid", type(sde).__name__, remedy)
    return sde


LEAST_SIGNAL = 1e-3
"""The alpha below which the named grids neglect the data, of about unit size, beside the noise."""

FAR = 7.0
"""The length of a step in the log-SNR that is too long for every scheme."""


def in_noise(now: Node, nxt: Node) -> bool:
    """Whether a step down starts in (almost) pure noise, so that x_0hat is held fixed over it.

    Such a step starts at alpha < 1e-3, and either ends there too or is too long for a scheme.
    """
    if not now.affine or now.t < nxt.t or now.alpha >= LEAST_SIGNAL:
        return False
    return bool(nxt.alpha <= LEAST_SIGNAL or nxt.log_snr - now.log_snr > FAR)


@dataclass(frozen=True)
class SoftLogSNR:
    """w = log(alpha/sigma + q), the log-SNR with a floor: finite where alpha = 0.

    q = max(1e-3 - alpha(T), 0) / sigma(T), which is 0 under the default families, so that w is the
    log-SNR itself. Near pure noise equal steps in w are equal steps in alpha; in the log-SNR one
    step would start at minus infinity.

    Args:
        sde: the SDE, affine.
        end: the log-SNR at the less noisy end of the interval; q is at most alpha/sigma there.
    """

    sde: AffineSDE
    end: float = math.inf

    @cached_property
    def floor(self) -> float:
        """The floor q."""
        sde = self.sde
        lacking: float = max(0.0, LEAST_SIGNAL - sde.alpha(sde.T)) / float(sde.sigma(sde.T))
        return lacking if self.end >= 0.0 else min(lacking, math.exp(self.end))

    @classmethod
    def between(cls, sde: AffineSDE, *times: float) -> SoftLogSNR:
        """The variable for an interval between these times."""
        return cls(sde, max(sde.log_snr(t) for t in times))

    def of(self, log_snr: float) -> float:
        """The w of a log-SNR."""
        q = self.floor
        if not q or (math.isinf(log_snr) and log_snr > 0):
            return log_snr
        high, low = max(log_snr, math.log(q)), min(log_snr, math.log(q))
        return high + math.log1p(math.exp(low - high))

    def log_snr(self, w: float) -> float:
        """The log-SNR of a w."""
        q = self.floor
        return w if not q else w + log(max(-math.expm1(math.log(q) - w), 0.0))

    def drawn(self, u: Tensor, t_end: float) -> tuple[Tensor, Tensor]:
        """Times uniform in w from T to t_end for u in [0, 1), and |dlambda/du| at these times."""
        sde, q = self.sde, self.floor
        low, high = (self.of(sde.log_snr(t)) for t in (sde.T, t_end))
        w = low + (high - low) * u
        slope = torch.full_like(u, high - low)
        if q:
            share = -torch.expm1(math.log(q) - w).clamp_max(-1e-12)  # alpha/sigma of e^w
            w, slope = w + share.log(), slope / share
        return sde.time_of(w).clamp(t_end, sde.T), slope


def _joined(start: float, inner: list[float], end: float) -> Grid:
    return Grid(((start, *inner, end),))


def uniform(
    sde: SDE, steps: int, *, t_start: float | None = None, t_end: float | None = None
) -> Grid:
    """Equal steps in time: N + 1 nodes from t_start (T by default) to t_end (that of the SDE)."""
    n, start, end = _ends(sde, steps, t_start, t_end)
    return _joined(start, [start + (end - start) * i / n for i in range(1, n)], end)


def quadratic(
    sde: SDE, steps: int, *, t_start: float | None = None, t_end: float | None = None
) -> Grid:
    """Equal steps in the square root of time: finer towards the data."""
    n, start, end = _ends(sde, steps, t_start, t_end)
    a, b = math.sqrt(start), math.sqrt(end)
    return _joined(start, [(a + (b - a) * i / n) ** 2 for i in range(1, n)], end)


def log_snr(
    sde: SDE, steps: int, *, t_start: float | None = None, t_end: float | None = None
) -> Grid:
    """Equal steps in the log-SNR, the integration variable of exponential integrators.

    If alpha(T) is below 1e-3, near or at pure noise, the steps are equal in `SoftLogSNR`.
    """
    n, start, end = _ends(sde, steps, t_start, t_end)
    affine = affine_sde(sde, "log-SNR")
    soft = SoftLogSNR.between(affine, start, end)
    a, b = (soft.of(affine.log_snr(t)) for t in (start, end))
    if not (math.isfinite(a) and math.isfinite(b)):
        remedy = "pass t_end > 0, or another grid"
        raise fail("t_end", "a time with a finite log-SNR for grid='log_snr'", end, remedy)
    inner = [affine.time_of(soft.log_snr(a + (b - a) * i / n)) for i in range(1, n)]
    return _joined(start, inner, end)


def karras(
    sde: SDE,
    steps: int,
    *,
    rho: float = 7.0,
    t_start: float | None = None,
    t_end: float | None = None,
) -> Grid:
    """Equal steps in (sigma / alpha)^(1 / rho): Karras et al. 2022 (arXiv 2206.00364), eq. 5.

    If alpha(T) is below 1e-3, alpha/sigma is replaced as in `SoftLogSNR`.
    """
    n, start, end = _ends(sde, steps, t_start, t_end)
    positive("rho", rho, "7 is the value of the paper")
    affine = affine_sde(sde, "Karras")
    soft = SoftLogSNR.between(affine, start, end)
    a, b = (math.exp(-soft.of(affine.log_snr(t)) / rho) for t in (start, end))
    shares = [-rho * math.log(a + (b - a) * i / n) for i in range(1, n)]
    inner = [affine.time_of(soft.log_snr(w)) for w in shares]
    return _joined(start, inner, end)


def sigmoid(
    sde: SDE,
    steps: int,
    *,
    width: float = 3.0,
    t_start: float | None = None,
    t_end: float | None = None,
) -> Grid:
    """Equal steps of the argument of a sigmoid in [-width, width]: finer at both ends of time."""
    n, start, end = _ends(sde, steps, t_start, t_end)
    wide = positive("width", width, "3 makes the steps at the ends a fifth")
    inner = [math.tanh(wide * (i / n - 0.5)) / math.tanh(wide / 2) for i in range(1, n)]
    return _joined(start, [start + (end - start) * (1 + y) / 2 for y in inner], end)


def tapered(
    sde: SDE,
    steps: int,
    *,
    std: float = 1.0,
    dim: int = 64,
    t_start: float | None = None,
    t_end: float | None = None,
) -> Grid:
    """Equal steps in the log-SNR where the data have structure, and longer steps elsewhere.

    A sample of D values has structure on scales of sigma / alpha from std sqrt(D), the distance
    between samples, down to the scale of its details. The density of nodes in lambda is 1 on [a,
    b] and 1 / (1 + d / w)^2 at a distance d outside; a = -log(std) - log(D) / 2 - 0.3 and w = 2.5
    towards the noise; towards the data b = -log(std) + 1 and w = 4, and for D of at least 64 b =
    -log(std) + 3 and w = 8. The integral is finite, so that a schedule may start in pure noise;
    the first step then ends at lambda = max(a - 13, -16) or above, since below it the data are
    lost in noise and times near T are equal to rounding. The nodes depend only on sigma / alpha,
    so they are the same under every family of SDEs. The constants are measured, see
    docs/choosing.md.

    Args:
        std: the standard deviation of the data; a sampler takes it from its model, if that has it.
        dim: the number of values of a sample, D; a sampler takes it from its model too.
        the others: those of `uniform`.
    """
    n, start, end = _ends(sde, steps, t_start, t_end)
    affine = affine_sde(sde, "tapered")
    taper = Taper.of(positive("std", std), positive_int("dim", dim))
    ends = [affine.log_snr(t) for t in (start, end)]
    deepest = min(taper.deepest, max(ends) - 1.0)
    a, b = (taper.integral(max(value, deepest)) for value in ends)
    if max(a, b) >= taper.whole:
        raise fail("t_end", "a time with a finite log-SNR", end, "pass t_end > 0")
    inner = [affine.time_of(taper.at(a + (b - a) * i / n)) for i in range(1, n)]
    return _joined(start, inner, end)


GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "karras": karras,
    "sigmoid": sigmoid,
    "tapered": tapered,
}
"""The named grids."""


def make_grid(
    grid: str | Grid | Sequence[float],
    sde: SDE,
    steps: int | None,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    data_scale: tuple[float, int] | None = None,
) -> Grid:
    """Return the grid of a name and a number of steps, or of times, or a `Grid` unchanged.

    `data_scale`, the standard deviation of the data and the number of values of a sample, is read
    by the grid "tapered" only.

    Raises:
        TypeError, ValueError: an unknown name, times that are no grid or lie outside [0, T];
            steps, t_start or t_end that differ from those of an explicit grid.
    """
    if isinstance(grid, str):
        of_data = {}
        if data_scale is not None and grid == "tapered":
            of_data = {"std": data_scale[0], "dim": data_scale[1]}
        rule = GRIDS[choice("grid", grid, GRIDS)]
        return rule(sde, steps, t_start=t_start, t_end=t_end, **of_data)
    explicit = grid if isinstance(grid, Grid) else Grid.of(grid)
    explicit.check(sde)
    own = {"steps": explicit.steps, "t_start": explicit.start, "t_end": explicit.end}
    for name, value in (("steps", steps), ("t_start", t_start), ("t_end", t_end)):
        if value is not None and value != own[name]:
            remedy = f"leave {name} out, or name a grid ({', '.join(GRIDS)})"
            raise fail(name, f"{own[name]:g}, that of the grid passed", value, remedy)
    return explicit
