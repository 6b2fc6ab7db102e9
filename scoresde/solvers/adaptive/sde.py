"""An adaptive solver of the reverse SDE whose rejected steps keep the noise they revealed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive
from scoresde._tensor import Scalar, expand, lincomb
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.process import Process
from scoresde.schedule.grid import Grid
from scoresde.sde import AffineSDE
from scoresde.solvers.adaptive.base import (
    AdaptiveSolver,
    Caller,
    Tally,
    Track,
    check_control,
    error_norm,
)
from scoresde.solvers.base import Orders
from scoresde.solvers.sra import ancestral, check_eta_is_one, sra1_step

__all__ = ["AdaptiveSDE", "BrownianTree"]

_FINEST = 24
"""Halvings of an interval of the grid, at most."""

_ROOT3 = math.sqrt(3.0)


@final
@dataclass(frozen=True)
class AdaptiveSDE(AdaptiveSolver):
    """SRA1 in the SNR clock with steps for each sample, and a Brownian path that is never redrawn.

    In c = e^(2 lambda) and u = x alpha / sigma^2 the reverse SDE is du = x_0hat dc + dB. A step
    is that of `SRA1`; its error is estimated by the distance to the ancestral step (exponential
    Euler-Maruyama) under the same noise, 2/3 alpha_t (1 - e^(-2h)) (m_u - m_s), as an RMS over
    the sample's own entries in units of atol + rtol |x|, all divided by
    sqrt(sigma_data^2 alpha^2 + sigma^2).

    A step is accepted or rejected after a look at its noise. Drawing that noise anew would
    favour small noise, hence bias the samples, as Gotta Go Fast does (Jolicoeur-Martineau et al.
    2021, arXiv 2105.14080, alg. 1). Here steps are the intervals of a binary tree, whose
    increments and space-time Levy areas are fixed by (seed, sample, interval): a rejected
    interval is split by a Brownian bridge, its remainder is kept for the steps that follow, and
    the path keeps the law of a Brownian motion whatever is rejected (see `BrownianTree`). A
    sample does not depend on its batch mates.

    The tree's upper levels are those of the grid, so that a long step passes many of its nodes;
    `keep_path` and `on_step` make every sample stop at each. For `Solution.nfe`, `stats` and
    `status` see `AdaptiveODE`.

    Args:
        rtol, atol: relative and absolute tolerance of a step.
        sigma_data: about the scale of the data's finer structure.
        max_nfe: calls that a sample may use.
        compact: call the network for the samples on their way alone.

    Raises:
        ValueError: eta is not 1; the grid ends where sigma = 0; the scores are not finite
            however short the step.
        TypeError: noise that is not `Independent`.

    Example:
        >>> from scoresde import VPSDE, ReverseSampler
        >>> sampler = ReverseSampler(VPSDE(), lambda t, x: -x, AdaptiveSDE(), steps=4)
        >>> sampler.sample((4, 2), seed=0).shape
        torch.Size([4, 2])
    """

    rtol: float = 1e-2
    atol: float = 1e-2
    sigma_data: float = 0.5
    max_nfe: int = 10_000
    compact: bool = False

    serves: ClassVar[str] = "sde"
    needs: ClassVar[type] = AffineSDE
    starts_in_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_control(self, 3)
        positive("sigma_data", self.sigma_data, "the scale of the data, 0.5 by default")

    @property
    def orders(self) -> Orders:
        return Orders()

    def check_walk(self, process: Process, grid: Grid) -> None:
        check_eta_is_one(process, "AdaptiveSDE")
        for segment in grid.segments:
            if math.isinf(process.sde.at(segment[-1]).log_snr):
                raise fail(
                    "t_end", "a time with a finite log-SNR", segment[-1], "end at t_end > 0"
                )

    def track(
        self, caller: Caller, x: Tensor, segment: tuple[float, ...], tally: Tally, noise: Noise
    ) -> Track:
        remedy = "its bridges are made of independent normals: pass noise='independent'"
        instance("noise", noise, Independent, remedy)
        tree = BrownianTree(caller.walk.sde, segment, noise, x)  # type: ignore[arg-type]
        return _Walk.start(self, tree, caller, x, tally)


@final
class BrownianTree:
    """A Brownian path in the clock c = e^(2 lambda) for each sample, on a binary tree over a
    segment.

    Intervals of the grid are joined in pairs upwards, until one holds the segment, and halved in
    lambda downwards. A position is a whole number of ticks, 2^24 to an interval of the grid; an
    interval of level l has 2^(levels - l) ticks. The increment z and the space-time Levy area a
    of an interval, both normalised to N(0, 1), give those of its halves (theta the share of the
    first in c, q = 1 - 3 theta (1 - theta), g and g' fresh normals of that interval): the first's

        z' = sqrt(theta) z + sqrt(3 theta) (1 - theta) a + sqrt((1 - theta) q) g
        a' = theta^1.5 a - sqrt(3 (1 - theta)/q) theta^2 g + sqrt((1 - theta)^3/q) g'

    and likewise for the second: the exact law given (z, a), at any share (after Foster et al.
    2020, SIAM J. Numer. Anal. 58; Jelincic et al. 2024, arXiv 2405.06464). Every value is a
    function of (seed, sample, interval) alone. Drawing them costs some milliseconds an attempt
    on 64 samples, since samples that part have draws of their own.

    Args:
        sde: the SDE.
        segment: times that run down.
        noise: independent normals.
        like: a batch of states; rows are the samples of the noise.
    """

    def __init__(
        self, sde: AffineSDE, segment: tuple[float, ...], noise: Independent, like: Tensor
    ) -> None:
        self.sde, self.noise, self.like = sde, noise, like
        intervals = len(segment) - 1
        self.upper = math.ceil(math.log2(intervals))
        self.levels = self.upper + _FINEST
        self.end = intervals << _FINEST
        held = [*segment, segment[-1]]  # beyond the end the tree holds nothing
        self._t = torch.tensor(held, dtype=torch.float64, device="cpu")
        self._log_snr = torch.tensor(
            [sde.at(t).log_snr for t in held], dtype=torch.float64, device="cpu"
        )
        self._known: list[tuple[Tensor, Tensor, Tensor]] = []

    def log_snr(self, ticks: Tensor) -> Tensor:
        """lambda at positions, (n,)."""
        ticks = ticks.clamp_max(self.end)
        i, part = ticks >> _FINEST, (ticks & ((1 << _FINEST) - 1)).double() / (1 << _FINEST)
        a, b = self._log_snr[i], self._log_snr[i + 1 - (i == len(self._t) - 1).long()]
        return torch.lerp(a, b, part)

    def times(self, ticks: Tensor) -> Tensor:
        """Times of positions, (n,): at the nodes of the grid exactly its own."""
        ticks = ticks.clamp_max(self.end)
        t = self.sde.time_of(self.log_snr(ticks)).clamp(float(self._t[-1]), float(self._t[0]))
        inside = (ticks & ((1 << _FINEST) - 1)) != 0
        return torch.where(inside, t, self._t[ticks >> _FINEST])

    def increments(self, ticks: Tensor, level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(z, a) of the interval of `level` that begins at `ticks`, for the mask `rows`: (B, *D).

        All arithmetic runs over the whole batch, where a row's place, and with it the rounding of
        vectorised code, does not depend on the other rows.
        """
        z, a = torch.zeros_like(self.like), torch.zeros_like(self.like)
        for depth in range(int(level[rows].max()) + 1):
            if depth == len(self._known):
                unknown = torch.full_like(ticks, -1)
                self._known.append((unknown, torch.zeros_like(z), torch.zeros_like(z)))
            number = ticks >> (self.levels - depth)
            new = rows & (level >= depth) & (self._known[depth][0] != number)
            if bool(new.any()):
                self._reveal(depth, new, number)
            here = expand((rows & (level == depth)).to(z.device), z)
            z = torch.where(here, self._known[depth][1], z)
            a = torch.where(here, self._known[depth][2], a)
        return z, a

    def _reveal(self, depth: int, new: Tensor, number: Tensor) -> None:
        """Work out (z, a) of intervals of one level from those of the level above."""
        known, z, a = self._known[depth]
        if depth == 0:
            drawn = self._normals(new, number, 0, _ROOT)
        else:
            _, whole_z, whole_a = self._known[depth - 1]
            fresh = self._normals(new, number >> 1, depth - 1, _SPLIT)
            drawn = self._half(depth, number, whole_z, whole_a, *fresh)
        here = expand(new.to(z.device), z)
        z, a = torch.where(here, drawn[0], z), torch.where(here, drawn[1], a)
        self._known[depth] = torch.where(new, number, known), z, a

    def _half(
        self, depth: int, number: Tensor, z: Tensor, a: Tensor, g: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One half of each interval: the first where `number` is even, else the second."""
        begin = (number >> 1) << (self.levels - depth + 1)
        width = 1 << (self.levels - depth)
        start, middle, end = (self.log_snr(begin + i * width) for i in range(3))
        whole = -torch.expm1(2.0 * (start - end))
        first = torch.exp(2.0 * (middle - end)) * -torch.expm1(2.0 * (start - middle)) / whole
        second = -torch.expm1(2.0 * (middle - end)) / whole
        even = (number & 1) == 0
        own, other = torch.where(even, first, second), torch.where(even, second, first)
        sign, q = 1.0 - 2.0 * (number & 1).double(), 1.0 - 3.0 * own * other

        def c(value: Tensor) -> Tensor:
            return expand(value.to(z), z)

        of_z = c(own.sqrt()), c(sign * _ROOT3 * own.sqrt() * other), c(sign * (other * q).sqrt())
        of_a = (
            c(own**1.5),
            c(-_ROOT3 * own**2 * (other / q).sqrt()),
            c(sign * (other**3 / q).sqrt()),
        )
        return (
            lincomb(*zip(of_z, (z, a, g), strict=True)),
            lincomb(*zip(of_a, (a, g, k), strict=True)),
        )

    def _normals(
        self, new: Tensor, number: Tensor, depth: int, stages: int
    ) -> tuple[Tensor, Tensor]:
        """The fresh normals of intervals of one level, two for each row of the mask: (B, *D).

        One draw serves neighbouring rows in the same interval; the noise makes numbers for whole
        blocks of samples, so rows far apart are drawn apart. Intervals are known to the noise
        by their positions, whole numbers, and not by times, which are rounded.
        """
        out = torch.zeros_like(self.like), torch.zeros_like(self.like)
        far = max(1, 8192 // max(1, math.prod(self.like.shape[1:])))
        rows = new.nonzero().flatten()
        rows = rows[torch.argsort(number[rows], stable=True)]
        apart = (number[rows].diff() != 0) | (rows.diff() > far)
        for run in torch.tensor_split(rows, (apart.nonzero().flatten() + 1).tolist()):
            low, high = int(run[0]), int(run[-1])
            begin = int(number[low]) << (self.levels - depth)
            now, nxt = Node(float(begin), 0.0), Node(float(begin + self.width(depth)), 0.0)
            source = self.noise.from_sample(self.noise.first + low)
            like, into = self.like[low : high + 1], run.to(self.like.device)
            for stage, part in enumerate(out, stages + 2 * depth):
                part[into] = source.normal(like, now, nxt, stage)[into - low]
        return out

    def width(self, depth: int) -> int:
        """Ticks of an interval of a level."""
        return 1 << (self.levels - depth)


_ROOT, _SPLIT = 1 << 16, 1 << 17
"""Stages of the normals of the roots and of the splits, apart from those of other schemes."""


@final
@dataclass(eq=False)
class _Walk(Track):
    """Samples on the reverse SDE: y is x itself, with the position and level of the next step."""

    solver: AdaptiveSDE
    tree: BrownianTree
    told: Tensor
    ticks: Tensor
    level: Tensor
    last_error: Tensor
    stop: int = 0
    trial: tuple[Tensor, Tensor] = field(init=False)
    ahead: Tensor = field(init=False)

    @classmethod
    def start(
        cls, solver: AdaptiveSDE, tree: BrownianTree, caller: Caller, x: Tensor, tally: Tally
    ) -> _Walk:
        ticks = torch.zeros_like(tally.nfe)
        level = 0
        while level < tree.levels:
            ends = tree.log_snr(torch.tensor([0, 1 << (tree.levels - level)], device="cpu"))
            if float(ends[1] - ends[0]) <= 1.0:
                break
            level += 1
        walk = cls(
            caller,
            x,
            tally,
            solver,
            tree,
            x,
            ticks,
            torch.full_like(ticks, level),
            torch.zeros_like(tally.t),
        )
        walk.replace(x)
        return walk

    @property
    def cost(self) -> int:
        return 2 * self.caller.most

    @property
    def times(self) -> Tensor:
        return self.tree.times(self.ticks)

    @property
    def x(self) -> Tensor:
        return self.y

    def begin(self, stop: int) -> None:
        self.stop = stop << _FINEST
        self._fit()

    def waiting(self) -> Tensor:
        return self.ticks < self.stop

    def replace(self, x: Tensor) -> None:
        self.y = x
        rows = torch.arange(len(x), device="cpu")
        self.told = self._x0(self.ticks, x, rows)
        self.tally.nfe += self.caller.last * self.tally.alive
        if not bool(torch.isfinite(self.told).all()):
            self._refuse(~torch.isfinite(self.told).flatten(1).all(1).cpu() & self.tally.alive)

    def _x0(self, ticks: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        node = self.tree.sde.at(self.tree.times(ticks), like=x)
        return self.caller.predict(node, x, rows).x0

    def _fit(self) -> None:
        """Shorten the steps that would pass the stop; the end of the segment cuts them off."""
        if self.stop < self.tree.end:
            waiting = self.waiting()
            while bool((over := waiting & (self._after() > self.stop)).any()):
                self.level += over

    def _after(self) -> Tensor:
        return self.ticks + (torch.ones_like(self.level) << (self.tree.levels - self.level))

    def attempt(self, rows: Tensor) -> Tensor:
        at = rows.to(self.y.device)
        x, m, tree = self.y[at], self.told[at], self.tree
        begin, waiting = self.ticks[rows], self.waiting() & self.tally.alive
        end = torch.where(waiting[rows], self._after()[rows], begin)
        start, last = tree.log_snr(begin), tree.log_snr(end)
        stage = last + torch.log(0.75 + torch.exp(2.0 * (start - last)) / 4.0) / 2.0
        z, a = (part[at] for part in tree.increments(self.ticks, self.level, waiting))
        t_begin, t_end = tree.times(begin), tree.times(end)
        t_stage = torch.clamp(tree.sde.time_of(stage), t_end, t_begin)
        now, middle, nxt = (tree.sde.at(t, like=x) for t in (t_begin, t_stage, t_end))
        steps = _exact(now, middle, stage - start, x), _exact(now, nxt, last - start, x)
        new, told = sra1_step(
            x, m, lambda y: self.caller.predict(middle, y, rows).x0, *steps, z, a
        )
        self.tally.nfe[rows] += self.caller.last * waiting[rows]
        drift = 2.0 / 3.0 * steps[1][1]
        error = lincomb((drift, told), (-drift, m))
        size, before = self._size(nxt), self._size(now)
        rtol, atol = self.solver.rtol, self.solver.atol
        error = error_norm(error / size, x / before, new / size, rtol, atol)
        self.trial = end, new
        return self._ask_ahead(rows, waiting[rows] & (error <= 1.0), error)

    def _ask_ahead(self, rows: Tensor, good: Tensor, error: Tensor) -> Tensor:
        """x_0hat where the good steps lead: a place without a finite one is no place to go.

        At the end of the segment nobody asks.
        """
        end, new = self.trial
        on = good & (end < self.tree.end)
        self.ahead = self.told[rows.to(new.device)]
        if not bool(on.any()):
            return error
        asked = (
            on.nonzero().flatten()
            if self.solver.compact
            else torch.arange(len(rows), device="cpu")
        )
        at, into = asked.to(new.device), on.nonzero().flatten().to(new.device)
        told = self._x0(end[asked], new[at], rows[asked])
        if self.solver.compact:
            self.ahead = self.ahead.index_copy(0, into, told)
        else:
            self.ahead = self.ahead.index_copy(0, into, told[into])
        self.tally.nfe[rows] += self.caller.last * on
        lost = on & ~torch.isfinite(self.ahead).flatten(1).all(1).cpu()
        return torch.where(lost, torch.inf, error)

    def _size(self, node: Node) -> Scalar:
        square: Scalar = (self.solver.sigma_data * node.alpha) ** 2 + node.sigma**2
        return square**0.5

    def resolve(self, rows: Tensor, live: Tensor, error: Tensor) -> Tensor:
        end, new = self.trial
        ok = (error <= 1.0) & live
        here = ok.nonzero().flatten()
        if len(here):
            moved, at = rows[here], here.to(new.device)
            into = moved.to(new.device)
            self.y = self.y.index_copy(0, into, new[at])
            self.told = self.told.index_copy(0, into, self.ahead[at])
            self.ticks[moved] = end[here].clamp_max(self.tree.end)
        self._next_levels(rows, live, ok, error)
        return self.level[rows] >= self.tree.levels

    def _next_levels(self, rows: Tensor, live: Tensor, ok: Tensor, error: Tensor) -> None:
        """The next step in powers of two: 0.9 h error^(-2/3), for an error of order h^1.5.

        An estimate made of one draw is small now and then by chance, the more so the fewer
        entries a sample has. So a step is doubled at most, and only if the last estimate, for
        a step scaled to this one's length, agrees.
        """
        wish = 0.9 * error.clamp(1e-6, 1e6).maximum(self.last_error[rows]) ** (-2.0 / 3.0)
        level, ticks = self.level[rows], self.ticks[rows]
        wider = torch.ones_like(level) << (self.tree.levels - level + 1)
        rise = ok & (wish >= 2.0) & (level > 0) & (ticks % wider == 0)
        fall = live & ~ok
        # error ~ h^1.5: what was estimated for this step says as much of one half or twice as long
        scale = torch.where(rise, 2.0**1.5, torch.where(fall, 0.5**1.5, 1.0))
        known = torch.where(torch.isfinite(error), error, self.last_error[rows])
        self.last_error[rows] = torch.where(live, known * scale, self.last_error[rows])
        self.level[rows] = (level - rise.long() + fall.long()).clamp_max(self.tree.levels)
        self._fit()


def _exact(now: Node, nxt: Node, h: Tensor, x: Tensor) -> tuple[Scalar, Scalar, Scalar]:
    """The exact step over h in lambda, one for each sample: `ancestral` with columns."""
    decay, fresh = torch.exp(-h), -torch.expm1(-2.0 * h)
    return ancestral(now, nxt, expand(decay.to(x), x), expand(fresh.to(x), x))
