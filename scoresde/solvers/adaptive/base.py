"""The loop of step-size control, in which every sample has its own steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor

from scoresde._check import fail, keep, positive, positive_int, same_shape, switch
from scoresde._tensor import expand
from scoresde.cond import check_cond
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.solvers.base import Solver
from scoresde.solvers.run import OnStep, Run, Tally

__all__ = ["AdaptiveSolver", "Caller", "Track", "check_control", "error_norm"]


@final
class Caller:
    """Calls the process at one time per sample, for all rows of the batch or for some.

    Attributes:
        last, most, total: the network evaluations of the last prediction, the largest number for
            one prediction so far, and the total.
    """

    def __init__(self, process: ReverseSDE, batch: int) -> None:
        self.process = process
        self.batch = batch
        self.last, self.most, self.total = 1, 1, 0
        check_cond(process.model, process.cond, batch)

    def predict(self, node: Node, x: Tensor, rows: Tensor) -> Prediction:
        """Make one prediction for the rows of the batch with these numbers."""
        process = self.process
        self.last = process.model.calls(node)
        self.most = max(self.most, self.last)
        self.total += self.last
        if len(rows) == self.batch or not process.cond:
            prediction = process.predict(node, x)
        else:
            cond = {name: value[rows.to(value.device)] for name, value in process.cond.items()}
            process.nfe += self.last
            prediction = process.model.predict(node, x, cond)
        prediction.check_signal()
        return prediction


@dataclass(eq=False)
class Track:
    """The state of the samples of one segment, each with its own time.

    A scheme implements the abstract methods. Positions, steps and errors are on the CPU, so that
    an attempt costs one synchronisation.

    Attributes:
        caller: calls the process.
        y: the states in the variable of the scheme, (B, *D).
        tally: the counts so far.
        path: a buffer for the states at the nodes of the segment, or None.
        watch: a function that is called with the track after every attempt, or None.
    """

    caller: Caller
    y: Tensor
    tally: Tally
    path: Tensor | None = field(default=None, kw_only=True)
    watch: Callable[[Track], None] | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def cost(self) -> int:
        """The largest number of calls of an attempt."""

    @property
    @abstractmethod
    def x(self) -> Tensor:
        """The states, (B, *D)."""

    @property
    @abstractmethod
    def times(self) -> Tensor:
        """The time of each sample, (B,) in float64."""

    @property
    def extra(self) -> dict[str, Any]:
        """Other statistics of the scheme."""
        return {}

    @abstractmethod
    def begin(self, stop: int) -> None:
        """Prepare the steps up to node number `stop` of the segment."""

    @abstractmethod
    def waiting(self) -> Tensor:
        """The rows that have not reached the stop, (B,)."""

    @abstractmethod
    def attempt(self, rows: Tensor) -> Tensor:
        """Try a step for each of these rows; returns errors in units of the tolerance, (n,)."""

    @abstractmethod
    def resolve(self, rows: Tensor, live: Tensor, error: Tensor) -> Tensor:
        """Advance the rows with an error of at most 1, and set the next step of all rows.

        Only the rows of the mask `live` are considered. Returns the mask of the rows whose next
        step cannot be made shorter.
        """

    @abstractmethod
    def replace(self, x: Tensor) -> None:
        """Replace the states."""

    @final
    def run(self, stop: int, max_nfe: int, compact: bool) -> None:
        """Attempt, accept or reject, and choose the next steps, until all rows reach the stop."""
        tally, finite = self.tally, torch.ones_like(self.tally.budget)
        everyone = torch.arange(len(self.y), device="cpu")
        self.begin(stop)
        while True:
            open_ = self.waiting() & tally.alive
            spent = open_ & (tally.nfe + self.cost > max_nfe)
            self._refuse(spent & ~finite)
            tally.budget |= spent
            open_ &= ~spent
            rows = open_.nonzero().flatten() if compact else everyone
            if not bool(open_.any()):
                return
            error, live = self.attempt(rows), open_[rows]
            ok = (error <= 1.0) & live
            finite[rows] = torch.isfinite(error) | ~live
            tally.accepted[rows] += ok
            tally.rejected[rows] += live & ~ok
            stuck = torch.zeros_like(open_)
            stuck[rows] = self.resolve(rows, live, error) & live & ~ok
            self._refuse(stuck & ~finite)
            tally.underflow |= stuck
            if self.watch is not None:
                self.watch(self)

    @final
    def _refuse(self, bad: Tensor) -> None:
        """Raise an error if a row is stopped at a step that is not finite."""
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            where = f"finite scores just past t = {float(self.times[row]):.6g}"
            got = f"NaN or infinity in {int(bad.sum())} of {len(bad)} samples, first in row {row}"
            raise fail("model", where, got, "check the model there, or end sooner (t_end)")


class AdaptiveSolver(Solver):
    """A solver that chooses the steps of each sample by an estimate of the local error.

    Attributes:
        rtol, atol: the tolerances of a step.
        max_nfe: the largest number of calls of a sample.
        compact: call the network only for the samples that are not finished.
        starts_in_noise: whether the variable of the scheme is finite at alpha = 0.
    """

    rtol: float
    atol: float
    max_nfe: int
    compact: bool

    starts_in_noise: ClassVar[bool] = True

    @abstractmethod
    def track(
        self, caller: Caller, x: Tensor, segment: tuple[float, ...], tally: Tally, noise: Noise
    ) -> Track:
        """The samples at the start of a segment."""

    @final
    def tally(self, x: Tensor, t: float) -> Tally:
        least = 10 * torch.finfo(x.dtype).eps
        if max(self.rtol, self.atol) < least:
            remedy = "loosen it, or solve in float64"
            name = str(x.dtype).removeprefix("torch.")
            raise fail("rtol", f"at least {least:.2g} in {name}, its rounding", self.rtol, remedy)
        return Tally.of(len(x), t)

    @final
    def solve_segment(
        self, run: Run, x: Tensor, nodes: tuple[Node, ...], rows: tuple[Any, ...]
    ) -> Tensor:
        tally, process = cast(Tally, run.tally), cast(ReverseSDE, run.process)  # see `forward`
        if not self.starts_in_noise:
            calls = process.nfe
            x, nodes = run.leave_noise(x, nodes, exactly=True)
            tally.nfe += process.nfe - calls
            if len(nodes) < 2:
                tally.t = torch.where(tally.alive, nodes[0].t, tally.t)
                return x
        segment = tuple(float(node.t) for node in nodes)
        track = self.track(Caller(process, len(x)), x, segment, tally, run.noise)
        track.watch = run.watch
        if run.path is not None:
            track.path = x.new_full((len(segment) - 1, *x.shape), torch.nan)
        before = tally.alive
        self._walk(track, segment, run.on_step)
        x, tally.t = track.x, torch.where(before, track.times, tally.t)
        run.extra = track.extra
        if run.path is not None and track.path is not None:
            run.path += _held(track.path, x, tally.alive).unbind()
        return x

    def lands(self, keep_path: bool, hooked: bool) -> bool:
        """Whether the samples stop at every node of the grid, or only at its end."""
        return keep_path or hooked

    def _walk(self, track: Track, segment: tuple[float, ...], on_step: OnStep | None) -> None:
        last = len(segment) - 1
        lands = self.lands(track.path is not None, on_step is not None)
        for stop in range(1, last + 1) if lands else (last,):
            track.run(stop, self.max_nfe, self.compact)
            x = track.x
            if on_step is not None:
                changed = on_step(track.caller.process.sde.at(segment[stop]), x)
                if changed is not None:
                    same_shape("on_step", changed, x, "return the new state, or None")
                    alive = expand(track.tally.alive.to(x.device), x)
                    x = torch.where(alive, changed, x)
                    track.replace(x)
            if track.path is not None and (lands or stop == last):
                track.path[stop - 1] = x


def _held(path: Tensor, x: Tensor, alive: Tensor) -> Tensor:
    """Fill the path with the last state of a sample at the nodes that the sample did not reach."""
    if bool(alive.all()):
        return path
    stopped = expand(~alive.to(x.device), x) & torch.isnan(path)
    return torch.where(stopped, x, path)


def check_control(solver: AdaptiveSolver, least_nfe: int) -> None:
    """Check tolerances, budget and `compact` of a solver, which keeps the checked values."""
    keep(solver, "rtol", positive, "a relative tolerance such as 1e-5")
    keep(solver, "atol", positive, "an absolute tolerance such as 1e-5")
    if keep(solver, "max_nfe", positive_int) < least_nfe:
        remedy = "a single attempt makes that many calls"
        raise fail("max_nfe", f"at least {least_nfe}", solver.max_nfe, remedy)
    keep(solver, "compact", switch)


def error_norm(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    """RMS of error / (atol + rtol max(|before|, |after|)) over the entries of each sample.

    (B, *D) -> (B,) in float64 on the CPU, infinite if an entry is not finite. The norm of a sample
    does not depend on the other samples.
    """
    scale = torch.maximum(before.abs(), after.abs()).mul_(rtol).add_(atol)
    norm = (error / scale).flatten(1).square().mean(1).sqrt()
    return norm.double().cpu().nan_to_num(nan=torch.inf)
