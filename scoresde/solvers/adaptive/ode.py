"""Adaptive Runge-Kutta solver of the probability flow, in the angle of the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, keep, positive, switch
from scoresde._tensor import expand, lincomb
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.process import Eta
from scoresde.schedule.grid import Schedule
from scoresde.sde import AffineSDE
from scoresde.solvers.adaptive.base import (
    AdaptiveSolver,
    Caller,
    Track,
    check_control,
    error_norm,
)
from scoresde.solvers.adaptive.tableaux import PAIRS, Pair
from scoresde.solvers.base import Orders
from scoresde.solvers.run import Tally

__all__ = ["AdaptiveODE", "Angle", "Dense", "Flow"]

_LEAST_ANGLE = 1e-4
"""The length of the shortest first step, for segments that start without noise."""


@final
@dataclass(frozen=True)
class AdaptiveODE(AdaptiveSolver):
    """An embedded Runge-Kutta pair for the probability flow, with own steps for each sample.

    The integration variable is the angle u = atan(sigma / (s alpha)), where s = sigma_data, with
    the state y = x / m, m^2 = s^2 alpha^2 + sigma^2. Since y = cos(u) x_0 / s + sin(u) eps,

        dy/du = cos(u) eps - sin(u) x_0 / s

    under every affine SDE. This is minus the output F of a network with EDM's preconditioning, of
    unit size and smooth from the noise to the data (for Gaussian data of standard deviation s it
    is zero). A step is accepted if the RMS of error / (atol + rtol |y|) over the entries of the
    sample is at most 1, so a sample does not depend on the others of its batch; finished samples
    stay in the batch, unless `compact`. The step size has PI control (Gustafsson 1991). Interior
    nodes of the time grid cost no calls: `keep_path` takes them from the continuous extension.
    With `on_step`, which may change the state, each sample stops at each node.

    The tolerances are those of a step. Over a solve the errors of the steps add up, and the flow
    propagates them: towards the data it shrinks them within a mode and enlarges them where modes
    separate. On the way up from the data, the first step is at most the angle of the start, which
    is the scale of the finest possible structure, unless a call at the end of a longer step finds
    no such structure.

    `Solution.nfe` counts the network evaluations of batched calls, with compact=False as well as
    True: those of the slowest sample, and a few more if first steps differ. `Solution.stats` has,
    per sample, (B,): accepted, rejected (steps), nfe (network evaluations, of which a guided model
    may need two for a prediction), t (the last time), budget and underflow (whether the sample was
    stopped for this reason). `Solution.status` is "done"; "budget" if a sample would have needed
    more than max_nfe evaluations; "underflow" if no step met the tolerance. Such samples keep
    their state at t; `ReverseSampler.sample` raises `Unfinished` for them, `solve` warns.

    Args:
        pair: "dopri5", order 5(4), or "bosh3", order 3(2), for loose tolerances.
        rtol, atol: the relative and absolute tolerance of a step, in units of y.
        sigma_data: s, about the scale of the finer structure of the data; other values change the
            cost, and the results only within the tolerance.
        max_nfe: the largest number of network evaluations of a sample.
        compact: call the network only for the samples that are not finished. This is less work;
            the results are equal up to rounding, which may depend on the batch size.
        dense: add `stats["dense"]`, the flow at all times in between (see `Dense`).

    Raises:
        ValueError: the scores are not finite for any step size (the message names the time), or a
            tolerance is below the rounding error of the dtype of the state.

    Example:
        >>> from scoresde import VPSDE, ReverseSampler
        >>> sampler = ReverseSampler(VPSDE(), lambda t, x: -x, AdaptiveODE(), steps=1)
        >>> sampler.sample((4, 2), seed=0).shape
        torch.Size([4, 2])
    """

    pair: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    sigma_data: float = 0.5
    max_nfe: int = 10_000
    compact: bool = False
    dense: bool = False

    serves: ClassVar[str] = "ode"
    needs: ClassVar[type] = AffineSDE

    def __post_init__(self) -> None:
        cost = PAIRS[choice("pair", self.pair, PAIRS)].cost
        check_control(self, 1 + cost)
        keep(self, "sigma_data", positive, "the scale of the data, 0.5 by default")
        keep(self, "dense", switch)

    @property
    def orders(self) -> Orders:
        return Orders()

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        count = len(schedule.segments)
        if self.dense and count > 1:
            remedy = "solve the segments one by one"
            raise fail("grid", "a single segment for dense=True", f"{count} segments", remedy)

    def lands(self, keep_path: bool, hooked: bool) -> bool:
        return hooked

    def track(
        self, caller: Caller, x: Tensor, segment: tuple[float, ...], tally: Tally, noise: Noise
    ) -> Track:
        angle = Angle(caller.process.sde, self.sigma_data)  # type: ignore[arg-type]
        return Flow.start(self, angle, caller, x, segment, tally)


@final
@dataclass(frozen=True)
class Angle:
    """The integration variable u = atan(sigma / (s alpha)), from 0 (data) to pi/2 (noise)."""

    sde: AffineSDE
    s: float

    def of(self, t: float) -> float:
        return math.atan2(self.sde.sigma(t), self.s * self.sde.alpha(t))

    def size(self, node: Node) -> Any:
        """m = sqrt(s^2 alpha^2 + sigma^2), a float or a column."""
        return ((self.s * node.alpha) ** 2 + node.sigma**2) ** 0.5

    def times(self, u: Tensor, ends: dict[float, float]) -> Tensor:
        """The times of angles, (B,) in float64; those of nodes are exact, without rounding."""
        t = self.sde.time_of(-torch.log(self.s * torch.tan(u)))
        t = t.clamp(min(ends.values()), max(ends.values()))
        for angle, time in ends.items():
            t = torch.where(u == angle, time, t)
        return t


@final
class Dense:
    """The probability flow between the ends of a solve, by the continuous extension of the pair.

    Its error is of the order of the tolerance of the solve. Call it with a time to get the states,
    (B, *D).

    Raises:
        ValueError: the time is outside the segment, or a sample was stopped before it.
    """

    def __init__(self, angle: Angle, segment: tuple[float, ...], y: Tensor) -> None:
        self._angle, self._like = angle, y
        self._ends = min(segment[0], segment[-1]), max(segment[0], segment[-1])
        self._pieces: list[tuple[Tensor, Tensor, Tensor, list[Tensor]]] = []

    def add(self, rows: Tensor, u: Tensor, h: Tensor, terms: list[Tensor]) -> None:
        """Add an accepted step of some rows: y(theta) = sum_j terms[j] theta^j."""
        self._pieces.append((rows, u, h, terms))

    def __call__(self, t: float) -> Tensor:
        node = self._angle.sde.at(t)
        if not self._ends[0] <= node.t <= self._ends[1]:
            expected = f"a time in [{self._ends[0]:g}, {self._ends[1]:g}]"
            raise fail("t", expected, t, "solve over a segment that holds it")
        out, u = torch.full_like(self._like, torch.nan), self._angle.of(node.t)
        for rows, begin, h, terms in self._pieces:
            out = read(out, rows, (u - begin) / h, terms)
        if bool(torch.isnan(out).any()):
            remedy = "raise max_nfe, or look at stats['t'] first"
            raise fail("t", "a time that every sample reached", t, remedy)
        return out.mul_(self._angle.size(node))


def read(out: Tensor, rows: Tensor, theta: Tensor, terms: list[Tensor]) -> Tensor:
    """Return `out` with the values of the polynomial in the rows with theta in [0, 1]."""
    inside = (theta >= 0.0) & (theta <= 1.0)
    if not bool(inside.any()):
        return out
    share = expand(theta.nan_to_num().to(out), out)
    value = terms[-1]
    for term in reversed(terms[:-1]):
        value = value * share + term
    at = inside.nonzero().flatten()
    return out.index_copy(0, rows[at].to(out.device), value[at.to(out.device)])


@dataclass(eq=False)
class Flow(Track):
    """The samples on the probability flow: y, its slope, the angle and the next step of each."""

    solver: AdaptiveODE
    angle: Angle
    segment: tuple[float, ...]
    slope: Tensor
    u: Tensor
    h: Tensor
    last_error: Tensor
    after_rejection: Tensor
    dense: Dense | None = None
    stop: float = math.nan
    trial: tuple[Tensor, Tensor, Tensor, list[Tensor]] = field(init=False)
    spent: int = field(init=False, default=0)

    @classmethod
    def start(
        cls,
        solver: AdaptiveODE,
        angle: Angle,
        caller: Caller,
        x: Tensor,
        segment: tuple[float, ...],
        tally: Tally,
    ) -> Flow:
        u, like = angle.of(segment[0]), tally.t
        y = x / angle.size(angle.sde.at(segment[0]))
        flow = cls(
            caller,
            y,
            tally,
            solver,
            angle,
            segment,
            slope=y,
            u=torch.full_like(like, u),
            h=torch.full_like(like, math.nan),
            last_error=torch.full_like(like, 1e-4),
            after_rejection=torch.zeros_like(tally.budget),
            dense=Dense(angle, segment, y) if solver.dense else None,
        )
        flow._renew()
        flow.h = flow._first_steps()
        return flow

    @property
    def pair(self) -> Pair:
        return PAIRS[self.solver.pair]

    @property
    def cost(self) -> int:
        return self.pair.cost * self.caller.most

    @property
    def ends(self) -> dict[float, float]:
        ends = {self.angle.of(t): t for t in (self.segment[0], self.segment[-1])}
        return ends if math.isnan(self.stop) else {**ends, self.angle.of(self.stop): self.stop}

    @property
    def times(self) -> Tensor:
        return self.angle.times(self.u, self.ends)

    @property
    def x(self) -> Tensor:
        size: Tensor = self.angle.size(self.angle.sde.at(self.times, like=self.y))
        return self.y * size

    @property
    def extra(self) -> dict[str, Any]:
        return {} if self.dense is None else {"dense": self.dense}

    def begin(self, stop: int) -> None:
        self.stop = self.segment[stop]

    def waiting(self) -> Tensor:
        return self.u != self.angle.of(self.stop)

    def replace(self, x: Tensor) -> None:
        self.y = x / self.angle.size(self.angle.sde.at(self.times, like=x))
        self._renew()

    def _renew(self) -> None:
        """Compute the slope at the current states, for all rows."""
        rows = torch.arange(len(self.y), device="cpu")
        self.slope = self._slope(self.u, self.y, rows)
        self.tally.nfe += self.caller.last * self.tally.alive
        if not bool(torch.isfinite(self.slope).all()):
            self._refuse(~torch.isfinite(self.slope).flatten(1).all(1).cpu() & self.tally.alive)

    @torch.no_grad()
    def _first_steps(self) -> Tensor:
        """The first steps, (B,), which are chosen without an error estimate.

        The error estimate of the pair gives little weight to the slope at the start, so a first
        step over structure of the data close to the start would seem exact. Running down, a step
        of at most `Pair.first` |y| / |dy/du| skips little. Running up, no structure is finer than
        the angle u of the start, since the noise there has smoothed it, so a step of that length
        skips none. A longer step is taken if one more call at its end finds the score of y
        unchanged (see `_look`); otherwise a shorter step is tested.
        """
        solver, pair = self.solver, self.pair
        start, end = (self.angle.of(t) for t in (self.segment[0], self.segment[-1]))
        grown = (max(solver.rtol, solver.atol) / 1e-5) ** (1.0 / pair.order)
        longest = pair.first * min(1.5, grown)
        if end < start:
            y, slope = (v.flatten(1).square().mean(1).sqrt() for v in (self.y, self.slope))
            turn = (slope / y.clamp_min(1.0)).double().cpu()
            return (pair.first / turn).clamp(_LEAST_ANGLE, longest)
        longest = min(longest, end - start)
        least = min(longest, max(start, _LEAST_ANGLE))
        # without noise at the start the slope does not determine the score
        step = torch.full_like(self.u, longest if start > 0.0 else least)
        doubtful = (step > least) & self.tally.alive
        while True:
            spent = doubtful & (self.tally.nfe + self.caller.most + self.cost > solver.max_nfe)
            step = torch.where(spent, least, step)
            doubtful = doubtful & ~spent
            if not bool(doubtful.any()):
                return step
            factor = self._look(doubtful, step)
            step = torch.where(doubtful, (step * factor).clamp_min(least), step)
            doubtful = doubtful & (factor < 1.0) & (step > least)

    def _look(self, doubtful: Tensor, step: Tensor) -> Tensor:
        """The factors, (B,), by which to shorten first steps up, from one call at their ends.

        For data of one scale tau the score of y falls to the fraction tau^2 / (tau^2 + h^2) over a
        step h, so a step that changes it by less than half is not longer than the scale of the
        data.
        """
        rows = torch.arange(len(self.y), device="cpu")
        if self.solver.compact:
            rows = doubtful.nonzero().flatten()
        at = rows.to(self.y.device)
        y, u = self.y[at], self.u[rows]
        end = u + torch.where(doubtful[rows], step[rows], 0.0)
        before = self._score(u, y, self.slope[at])
        after = self._score(end, y, self._slope(end, y, rows))
        self.tally.nfe[rows] += self.caller.last * doubtful[rows]
        size, change = before.norm(dim=1), (after - before).norm(dim=1)
        same = (change <= 0.5 * size).cpu()
        share = (after.norm(dim=1) / size).double().cpu().nan_to_num(nan=0.0)
        factor = torch.ones_like(step)
        factor[rows] = torch.where(same, 1.0, share.sqrt().clamp(1e-3, 0.5))
        return factor

    @staticmethod
    def _score(u: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """The score of y from its slope at angles (B,), -(y + cot(u) dy/du), flat."""
        return -(y + slope / expand(torch.tan(u).to(y), y)).flatten(1)

    def _slope(self, u: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """dy/du = cos(u) eps - sin(u) x_0 / s at (B,) angles, by one call."""
        s, node = self.angle.s, self.angle.sde.at(self.angle.times(u, self.ends), like=y)
        m, square = self.angle.size(node), node.alpha**2 + node.sigma**2
        prediction = self.caller.predict(node, y * m, rows)
        own = node.alpha * node.sigma * (s - 1.0 / s) / (square * m)
        return prediction.mix(own, "v", m / (s * square))

    def attempt(self, rows: Tensor) -> Tensor:
        u, stop, pair = self.u[rows], self.angle.of(self.stop), self.pair
        left = stop - u
        h = torch.minimum(self.h[rows], left.abs()).copysign(left)
        arrives = h.abs() >= left.abs() * (1.0 - 1e-9)
        h = torch.where(arrives, left, h)
        at = rows.to(self.y.device)
        y, step = self.y[at], expand(h.to(self.y), self.y)
        slopes, new, end = [self.slope[at]], y, torch.where(arrives, stop, u + h)
        total = self.caller.total
        for c, weights in zip(pair.c, pair.a, strict=True):
            moves = [(step * a, k) for a, k in zip(weights, slopes, strict=True) if a]
            new = lincomb((1.0, y), *moves)
            slopes.append(self._slope(end if c == 1.0 else u + c * h, new, rows))
        error = lincomb(*((step * e, k) for e, k in zip(pair.e, slopes, strict=True) if e))
        self.trial = end, h, new, slopes
        self.spent = self.caller.total - total
        return error_norm(error, y, new, self.solver.rtol, self.solver.atol)

    def resolve(self, rows: Tensor, live: Tensor, error: Tensor) -> Tensor:
        end, h, new, slopes = self.trial
        self.tally.nfe[rows] += self.spent * live
        ok = (error <= 1.0) & live
        here = ok.nonzero().flatten()
        if len(here):
            self._remember(rows, torch.where(ok, h, torch.nan), h, slopes)
            moved, at = rows[here], here.to(new.device)
            into = moved.to(new.device)
            self.y = self.y.index_copy(0, into, new[at])
            self.slope = self.slope.index_copy(0, into, slopes[-1][at])
            self.u[moved] = end[here]
        return self._next_steps(rows, live, ok, error, h)

    def _next_steps(
        self, rows: Tensor, live: Tensor, ok: Tensor, error: Tensor, h: Tensor
    ) -> Tensor:
        """PI control: h' = 0.9 h error^(-1/q + 3 b/4) last^b with b = 1/(5 q), within bounds."""
        b = 0.2 / self.pair.order
        error = error.clamp_min(1e-10)
        factor = 0.9 * error ** (0.75 * b - 1.0 / self.pair.order)
        grow = torch.where(self.after_rejection[rows], 1.0, 10.0)
        up = (factor * self.last_error[rows] ** b).clamp_min(0.2).minimum(grow)
        size = h.abs() * torch.where(ok, up, factor.clamp(0.1, 0.9))
        # a step shortened by the stop is no reason to shorten the next step
        size = torch.where(ok, size.maximum(self.h[rows] * (h.abs() < self.h[rows])), size)
        self.h[rows] = torch.where(live, size, self.h[rows])
        self.last_error[rows] = torch.where(ok, error.clamp_min(1e-4), self.last_error[rows])
        self.after_rejection[rows] = torch.where(live, ~ok, self.after_rejection[rows])
        return self.h[rows] < 32.0 * torch.finfo(torch.float64).eps * self.u[rows]

    def _remember(self, rows: Tensor, taken: Tensor, h: Tensor, slopes: list[Tensor]) -> None:
        """Store the continuous extension of accepted steps for dense output and for the path.

        For rows with a rejected step `taken` is NaN. They are computed and not used, so that the
        position of a row in the batch, and so its rounding, does not depend on the other rows.
        """
        if self.dense is None and self.path is None:
            return
        step, begin = expand(h.to(self.y), self.y), self.u[rows]
        terms = [self.y[rows.to(self.y.device)]]
        for j in range(len(self.pair.p[0])):
            column = zip(self.pair.p, slopes, strict=True)
            terms.append(lincomb(*((step * p[j], k) for p, k in column if p[j])))
        if self.dense is not None:
            self.dense.add(rows, begin, taken, terms)
        if self.path is None:
            return
        for number, t in enumerate(self.segment[1:-1]):
            node = self.angle.sde.at(t)
            theta = (self.angle.of(node.t) - begin) / taken
            if bool(((theta >= 0.0) & (theta <= 1.0)).any()):
                size = self.angle.size(node)
                out = read(self.path[number] / size, rows, theta, terms)
                self.path[number] = out * size
