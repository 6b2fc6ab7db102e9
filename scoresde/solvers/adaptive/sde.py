"""An adaptive solver of the reverse SDE that keeps the noise of rejected steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, keep, positive
from scoresde._tensor import Scalar, expand, lincomb
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.noise.dyadic import FINEST, DyadicPath
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
from scoresde.solvers.base import Orders
from scoresde.solvers.run import Tally
from scoresde.solvers.sra import ancestral, check_eta_is_one, sra1_step

__all__ = ["AdaptiveSDE"]


@final
@dataclass(frozen=True)
class AdaptiveSDE(AdaptiveSolver):
    """SRA1 in the SNR with own steps for each sample, and a Brownian path that is never redrawn.

    In c = e^(2 lambda) and u = x alpha / sigma^2 the reverse SDE is du = x_0hat dc + dB. A step
    is that of `SRA1`; its error is estimated by the distance to the ancestral step (exponential
    Euler-Maruyama) under the same noise, 2/3 alpha_t (1 - e^(-2h)) (m_u - m_s), as an RMS over
    the entries of the sample in units of atol + rtol |x|, all divided by
    sqrt(sigma_data^2 alpha^2 + sigma^2).

    Whether a step is accepted depends on its noise. If a rejected step drew new noise, small noise
    would be favoured and the samples biased, as with Gotta Go Fast (Jolicoeur-Martineau et al.
    2021, arXiv 2105.14080, alg. 1). Here steps are the intervals of a binary tree, whose
    increments and space-time Levy areas are fixed by (seed, sample, interval): a rejected
    interval is split by a Brownian bridge, its remainder is kept for the following steps, and the
    path has the distribution of a Brownian motion whatever is rejected (see `DyadicPath`). A
    sample does not depend on the others of its batch.

    The upper levels of the tree are those of the grid, so that a long step covers many of its
    nodes; with `keep_path` or `on_step` every sample stops at each node. For `Solution.nfe`,
    `stats` and `status` see `AdaptiveODE`.

    Args:
        rtol, atol: the relative and absolute tolerance of a step.
        sigma_data: about the scale of the finer structure of the data.
        max_nfe: the largest number of calls of a sample.
        compact: call the network only for the samples that are not finished.

    Raises:
        ValueError: eta is not 1; the grid ends at sigma = 0; the scores are not finite for any
            step size.
        TypeError: the noise is not `Independent`.

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
        keep(self, "sigma_data", positive, "the scale of the data, 0.5 by default")

    @property
    def orders(self) -> Orders:
        return Orders()

    def check_schedule(self, schedule: Schedule, eta: Eta | None) -> None:
        check_eta_is_one(eta, "AdaptiveSDE")
        for segment in schedule.segments:
            if math.isinf(segment[-1].log_snr):
                got = segment[-1].t
                raise fail("t_end", "a time with a finite log-SNR", got, "end at t_end > 0")

    def track(
        self, caller: Caller, x: Tensor, segment: tuple[float, ...], tally: Tally, noise: Noise
    ) -> Track:
        remedy = "its bridges need independent normals: pass noise='independent'"
        instance("noise", noise, Independent, remedy)
        tree = DyadicPath(caller.process.sde, segment, noise, x)  # type: ignore[arg-type]
        return _Samples.start(self, tree, caller, x, tally)


@final
@dataclass(eq=False)
class _Samples(Track):
    """The samples on the reverse SDE, with y = x and the position and level of the next step."""

    solver: AdaptiveSDE
    tree: DyadicPath
    x0: Tensor
    ticks: Tensor
    level: Tensor
    last_error: Tensor
    stop: int = 0
    trial: tuple[Tensor, Tensor] = field(init=False)
    ahead: Tensor = field(init=False)

    @classmethod
    def start(
        cls, solver: AdaptiveSDE, tree: DyadicPath, caller: Caller, x: Tensor, tally: Tally
    ) -> _Samples:
        ticks = torch.zeros_like(tally.nfe)
        level = 0
        while level < tree.levels:
            ends = tree.log_snr(torch.tensor([0, 1 << (tree.levels - level)], device="cpu"))
            if float(ends[1] - ends[0]) <= 1.0:
                break
            level += 1
        samples = cls(
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
        samples.replace(x)
        return samples

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
        self.stop = stop << FINEST
        self._fit()

    def waiting(self) -> Tensor:
        return self.ticks < self.stop

    def replace(self, x: Tensor) -> None:
        self.y = x
        rows = torch.arange(len(x), device="cpu")
        self.x0 = self._x0(self.ticks, x, rows)
        self.tally.nfe += self.caller.last * self.tally.alive
        if not bool(torch.isfinite(self.x0).all()):
            self._refuse(~torch.isfinite(self.x0).flatten(1).all(1).cpu() & self.tally.alive)

    def _x0(self, ticks: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        node = self.tree.sde.at(self.tree.times(ticks), like=x)
        return self.caller.predict(node, x, rows).x0

    def _fit(self) -> None:
        """Shorten the steps that would pass the stop."""
        if self.stop < self.tree.end:
            waiting = self.waiting()
            while bool((over := waiting & (self._after() > self.stop)).any()):
                self.level += over

    def _after(self) -> Tensor:
        return self.ticks + (torch.ones_like(self.level) << (self.tree.levels - self.level))

    def attempt(self, rows: Tensor) -> Tensor:
        at = rows.to(self.y.device)
        x, m, tree = self.y[at], self.x0[at], self.tree
        begin, waiting = self.ticks[rows], self.waiting() & self.tally.alive
        end = torch.where(waiting[rows], self._after()[rows], begin)
        start, last = tree.log_snr(begin), tree.log_snr(end)
        stage = last + torch.log(0.75 + torch.exp(2.0 * (start - last)) / 4.0) / 2.0
        z, a = (part[at] for part in tree.increments(self.ticks, self.level, waiting))
        t_begin, t_end = tree.times(begin), tree.times(end)
        t_stage = torch.clamp(tree.sde.time_of(stage), t_end, t_begin)
        now, middle, nxt = (tree.sde.at(t, like=x) for t in (t_begin, t_stage, t_end))
        steps = _exact(now, middle, stage - start, x), _exact(now, nxt, last - start, x)
        new, inner = sra1_step(
            x, m, lambda y: self.caller.predict(middle, y, rows).x0, *steps, z, a
        )
        self.tally.nfe[rows] += self.caller.last * waiting[rows]
        drift = 2.0 / 3.0 * steps[1][1]
        error = lincomb((drift, inner), (-drift, m))
        size, before = self._size(nxt), self._size(now)
        rtol, atol = self.solver.rtol, self.solver.atol
        error = error_norm(error / size, x / before, new / size, rtol, atol)
        self.trial = end, new
        return self._predict_ahead(rows, waiting[rows] & (error <= 1.0), error)

    def _predict_ahead(self, rows: Tensor, good: Tensor, error: Tensor) -> Tensor:
        """Evaluate x_0hat at the ends of accepted steps, and reject steps where it is not finite.

        At the end of the segment it is not evaluated.
        """
        end, new = self.trial
        on = good & (end < self.tree.end)
        self.ahead = self.x0[rows.to(new.device)]
        if not bool(on.any()):
            return error
        called = (
            on.nonzero().flatten()
            if self.solver.compact
            else torch.arange(len(rows), device="cpu")
        )
        at, into = called.to(new.device), on.nonzero().flatten().to(new.device)
        values = self._x0(end[called], new[at], rows[called])
        if self.solver.compact:
            self.ahead = self.ahead.index_copy(0, into, values)
        else:
            self.ahead = self.ahead.index_copy(0, into, values[into])
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
            self.x0 = self.x0.index_copy(0, into, self.ahead[at])
            self.ticks[moved] = end[here].clamp_max(self.tree.end)
        self._next_levels(rows, live, ok, error)
        return self.level[rows] >= self.tree.levels

    def _next_levels(self, rows: Tensor, live: Tensor, ok: Tensor, error: Tensor) -> None:
        """Set the next step, in powers of two: 0.9 h error^(-2/3), for an error of order h^1.5.

        An estimate from one draw is sometimes small by chance, more often if a sample has few
        entries. So a step is at most doubled, and only if the last estimate, scaled to the length
        of this step, allows it too.
        """
        wish = 0.9 * error.clamp(1e-6, 1e6).maximum(self.last_error[rows]) ** (-2.0 / 3.0)
        level, ticks = self.level[rows], self.ticks[rows]
        wider = torch.ones_like(level) << (self.tree.levels - level + 1)
        rise = ok & (wish >= 2.0) & (level > 0) & (ticks % wider == 0)
        fall = live & ~ok
        # error ~ h^1.5: scale the estimate to a step of half or twice the length
        scale = torch.where(rise, 2.0**1.5, torch.where(fall, 0.5**1.5, 1.0))
        known = torch.where(torch.isfinite(error), error, self.last_error[rows])
        self.last_error[rows] = torch.where(live, known * scale, self.last_error[rows])
        self.level[rows] = (level - rise.long() + fall.long()).clamp_max(self.tree.levels)
        self._fit()


def _exact(now: Node, nxt: Node, h: Tensor, x: Tensor) -> tuple[Scalar, Scalar, Scalar]:
    """The `ancestral` coefficients of steps h in lambda, one for each sample, as columns."""
    decay, fresh = torch.exp(-h), -torch.expm1(-2.0 * h)
    return ancestral(now, nxt, expand(decay.to(x), x), expand(fresh.to(x), x))
