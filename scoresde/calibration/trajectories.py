"""Trajectories of a process, and the errors of a solver on those of the probability flow.

The weights of the exponential Adams family are differentiable in the nodes and in the factors of
`LearnedAdams`, and so is a whole run of the solver over nodes whose fields are tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scoresde._tensor import Scalar, wide
from scoresde.calibration.budget import GRAPH
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.schedule.grid import Grid
from scoresde.sde import AffineSDE
from scoresde.solvers.exponential import Adams, LearnedAdams
from scoresde.solvers.exponential.adams import Term
from scoresde.solvers.exponential.coefficients import Row, Segment, table
from scoresde.solvers.exponential.learned import KINDS, corrected

__all__ = [
    "Array",
    "NoGradient",
    "Path",
    "Runs",
    "Scheme",
    "Slope",
    "Trajectories",
    "integrate_along",
    "length",
    "tensor_nodes",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

Scheme: TypeAlias = Adams | LearnedAdams
"""A solver that a calibration can run."""

_QUIET = Independent(0)  # the probability flow uses no noise


class NoGradient(Exception):
    """The endpoint of a run cannot be differentiated with respect to the nodes."""


@dataclass(frozen=True, eq=False)
class Path:
    """Exact trajectories on a fine grid, uniform in lambda.

    Attributes:
        nodes: M + 1 nodes of the schedule.
        x: the states at the nodes, (M + 1, P, *D).
        v: the predictions as v at all nodes except the last, (M, P, *D).
    """

    nodes: tuple[Node, ...]
    x: Tensor
    v: Tensor

    @property
    def log_snr(self) -> Array:
        return np.array([n.log_snr for n in self.nodes])

    def read(self, kind: str) -> Tensor:
        """A coordinate of the predictions, (M, P, *D)."""
        triples = zip(self.x[:-1], self.nodes[:-1], self.v, strict=True)
        return torch.stack([Prediction(x, n, v, "v").read(kind) for x, n, v in triples])


class Slope(NamedTuple):
    """A loss and its gradient.

    Attributes:
        loss: the mean logarithm of the errors.
        softened: the same with a floor to the errors.
        share: the gradient of `softened` by the fractions of the range of lambda, (N,).
        factors: its gradient by the factors of `LearnedAdams`, one row for each kind.
    """

    loss: float
    softened: float
    share: Tensor
    factors: Tensor


class _Recomputed(ScoreModel):
    """A model whose activations are computed again for the gradient, which saves memory."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model, self.sde = model, model.sde

    def calls(self, node: Node) -> int:
        return self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        told: Prediction = checkpoint(
            self.model.predict, node, x, cond, use_reentrant=False, preserve_rng_state=False
        )
        return told


def _unseen(rows: int) -> None:
    return


@dataclass(eq=False)
class Runs(ABC):
    """Runs of solvers from fixed initial states, with their network evaluations.

    Attributes:
        sde, model: as in `ReverseSDE`.
        x: the states at T, (P, *D).
        cond: conditions, one entry per trajectory.
        t_end: the time at which the trajectories end.
        batch: the number of trajectories solved at a time.
        eta: the stochasticity of the process, 0 for the probability flow.
        seed: the seed of the noise.
        shift: the number of the first trajectory in the noise.
        rows, calls, gradients: the numbers of network evaluations of single states, of batched
            calls, and of evaluations of single states that were differentiated.
        seen: a function that is told the network evaluations, as they are made, for a display.
    """

    sde: AffineSDE
    model: ScoreModel
    x: Tensor
    cond: dict[str, Tensor]
    t_end: float
    batch: int
    eta: float = 0.0
    seed: int = 0
    shift: int = 0
    rows: int = 0
    calls: int = 0
    gradients: int = 0
    seen: Callable[[int], object] = _unseen

    @property
    def evaluations(self) -> int:
        """The network evaluations so far; one that was differentiated counts as three."""
        return self.rows + 2 * self.gradients

    def times(self, log_snr: Array) -> Grid:
        """The grid through these log-SNRs, which runs exactly from T to t_end."""
        inner = [self.sde.time_of(float(at)) for at in log_snr[1:-1]]
        return Grid.of([self.sde.T, *inner, self.t_end])

    def log_snr(self, grid: Grid) -> Array:
        return np.array([self.sde.log_snr(t) for t in grid.times])

    @property
    @abstractmethod
    def size(self) -> float:
        """The root mean square of the values of the exact end states."""

    @abstractmethod
    def errors(self, solver: Scheme, grid: Grid, which: slice) -> Tensor:
        """The errors of a solver for some of the trajectories."""

    @abstractmethod
    def loss(self, solver: Scheme, log_snr: Array, which: slice) -> float:
        """The logarithm of a mean of these errors."""

    @abstractmethod
    def _losses(self, end: Tensor, part: slice, floor: float) -> tuple[Tensor, float]:
        """The softened loss of end states, which is differentiated, and the loss."""

    def _chunks(self, which: slice) -> Iterator[tuple[ReverseSDE, slice]]:
        first, stop, _ = which.indices(len(self.x))
        for start in range(first, stop, self.batch):
            part = slice(start, min(start + self.batch, stop))
            cond = {k: c[part] for k, c in self.cond.items()} or None
            yield ReverseSDE(self.sde, self.model, self.eta, cond), part

    def _count(self, process: ReverseSDE, part: slice, gradient: bool = False) -> None:
        rows: int = process.nfe * (part.stop - part.start)
        self.rows, self.calls = self.rows + rows, self.calls + process.nfe
        self.gradients += rows if gradient else 0
        self.seen(3 * rows if gradient else rows)

    def _noise(self, part: slice) -> Noise:
        return Independent(self.seed, self.shift + part.start)

    def run(self, solver: Scheme, grid: Grid, which: slice) -> Tensor:
        """The end states of a solver for some of the trajectories."""
        ends = []
        for process, part in self._chunks(which):
            noise = self._noise(part)
            with torch.no_grad():
                ends.append(solver.solve(process, self.x[part], grid, noise=noise).x)
            self._count(process, part)
        return torch.cat(ends)

    def gradient(
        self,
        solver: Adams,
        share: Tensor,
        which: slice,
        floor: float = 0.0,
        factors: Tensor | None = None,
    ) -> Slope:
        """The loss and its gradient.

        Args:
            solver: the Adams method.
            share: the fractions of the range of lambda in each step, (N,).
            which: the trajectories.
            floor: the size of an error below which the softened loss changes little.
            factors: the factors of each step, (2, N) for the probability flow, or (3, N); 1 if
                None.

        Raises:
            NoGradient: the end of a run cannot be differentiated.
        """
        first, last = (self.sde.log_snr(t) for t in (self.sde.T, self.t_end))
        share = share.detach().requires_grad_()
        ones = share.new_ones(KINDS if self.eta else KINDS - 1, len(share))
        factors = (ones if factors is None else factors).detach().requires_grad_()
        loss, softened = 0.0, 0.0
        total = [torch.zeros_like(share), torch.zeros_like(factors)]
        count = len(self.x[which])
        for process, part in self._chunks(which):
            again = self.x[part].numel() * len(share) > GRAPH
            if again:
                process.model = _Recomputed(process.model)
            try:
                with torch.enable_grad():
                    way = torch.cat([share.new_zeros(1), share.cumsum(0)])
                    nodes = tensor_nodes(self.sde, first + (last - first) * way)
                    noise = self._noise(part)
                    walk = integrate_along(solver, process, self.x[part], nodes, factors, noise)
                    for x, _ in walk:
                        end = x
                    value, plain = self._losses(end, part, floor)
                    value = value * ((part.stop - part.start) / count)
                    slopes = torch.autograd.grad(value, (share, factors))
            except RuntimeError as error:
                raise NoGradient(str(error).partition("\n")[0]) from error
            total = [t + s for t, s in zip(total, slopes, strict=True)]
            softened += float(value.detach())
            loss += plain * (part.stop - part.start) / count
            self._count(process, part, gradient=True)
            if again:
                self._count(process, part)
        return Slope(loss, softened, *total)


@dataclass(eq=False)
class Trajectories(Runs):
    """Trajectories of the probability flow from fixed initial states, with their exact ends.

    Attributes:
        ends: the states at t_end, (P, *D), which `follow` computes.
        accuracy: the estimated error of `ends`.
        rounding: the rounding error of a run at t_end, in the dtype of the trajectories.
    """

    ends: Tensor = field(init=False)
    accuracy: float = 0.0
    rounding: float = 0.0

    @property
    def size(self) -> float:
        return float(length(wide(self.ends)).square().mean().sqrt())

    def errors(self, solver: Scheme, grid: Grid, which: slice) -> Tensor:
        """Distances from the exact ends over sqrt(D), (P,); infinite if a run diverged."""
        gap = wide(self.run(solver, grid, which)) - wide(self.ends[which])
        return length(gap).nan_to_num(math.inf, math.inf)

    def loss(self, solver: Scheme, log_snr: Array, which: slice) -> float:
        """Mean logarithm of the errors, which are floored at the accuracy of the exact ends."""
        return float(self._log(self.errors(solver, self.times(log_snr), which)).mean())

    def _losses(self, end: Tensor, part: slice, floor: float) -> tuple[Tensor, float]:
        """Mean logarithms of the errors; a floor is added to those that are differentiated."""
        gap = length(wide(end) - wide(self.ends[part]))
        return self._log(gap, floor).mean(), float(self._log(gap.detach()).mean())

    def _log(self, errors: Tensor, floor: float = 0.0) -> Tensor:
        return 0.5 * (errors.square() + max(self.accuracy, self.rounding, floor) ** 2).log()

    def follow(self, solver: Adams, steps: int, keep: int, few: int) -> Path:
        """Compute the exact ends by a fine run of `steps` steps, a multiple of `keep`.

        The path of the first `few` trajectories is kept at `keep` + 1 nodes. A run of these
        trajectories on every other node estimates the error of the ends.
        """
        ends = [self.sde.log_snr(t) for t in (self.sde.T, self.t_end)]
        fine = self.times(np.linspace(ends[0], ends[1], steps + 1))
        nodes = tuple(self.sde.at(t) for t in fine.times)
        process, part = next(self._chunks(slice(0, min(few, self.batch))))
        x, told = [self.x[part]], []
        with torch.no_grad():
            for state, past in integrate_along(solver, process, self.x[part], nodes):
                x.append(state)
                scale, newest = past[0]
                told.append(scale * newest)
        self._count(process, part)
        rest = self.run(solver, fine, slice(part.stop, None)) if part.stop < len(self.x) else None
        self.ends = x[-1] if rest is None else torch.cat([x[-1], rest])
        self.rounding = 32.0 * max(self.size, 1e-6) * torch.finfo(self.x.dtype).eps
        coarse = self.errors(solver, Grid.of(fine.times[::2]), part)
        # both have an error of C h^q, with q at least 4
        self.accuracy = float(coarse.median()) / (2**4 - 1)
        every = steps // keep
        return Path(nodes[::every], torch.stack(x[::every]), torch.stack(told[::every]))


def length(gap: Tensor) -> Tensor:
    """Norms over sqrt(D), (P,)."""
    flat = gap.flatten(1)
    out: Tensor = torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])
    return out


def smooth_times(sde: AffineSDE, log_snr: Tensor) -> Tensor:
    """The times of log-SNRs, with their derivative dt/dlambda = -2 sigma^2 / g^2.

    The derivative has this closed form, since an SDE may compute its times by iteration.
    """
    with torch.no_grad():
        times = sde.time_of(log_snr).clamp(0.0, sde.T)
        slope = -2.0 * (sde.sigma(times) / sde.g(times)) ** 2
    out: Tensor = times + slope * (log_snr - log_snr.detach())
    return out


def tensor_nodes(sde: AffineSDE, log_snr: Tensor) -> tuple[Node, ...]:
    """Nodes whose fields are 0-dim tensors, differentiable in the log-SNRs, (N + 1,)."""
    times = smooth_times(sde, log_snr)
    at = sde.at(times, like=times)
    return tuple(at.map(lambda c, i=i: c[i]) for i in range(len(times)))  # type: ignore[misc]


def integrate_along(
    solver: Adams,
    process: ReverseSDE,
    x: Tensor,
    nodes: tuple[Node, ...],
    factors: Tensor | None = None,
    noise: Noise = _QUIET,
) -> Iterator[tuple[Tensor, tuple[Term, ...]]]:
    """Yield the state and history after each step of a solver on nodes of floats or of tensors.

    With nodes of tensors the coefficients are tensors too, and the states are differentiable with
    respect to the nodes and to the factors of `LearnedAdams`, (2, N) or, with noise, (3, N).
    """
    sde: AffineSDE = process.sde  # type: ignore[assignment]  # a calibration checks it
    smooth = nodes[0].batched
    time_of = partial(smooth_times, sde) if smooth else sde.time_of
    segment = Segment(nodes, time_of, process.eta)  # type: ignore[arg-type]  # a number
    rows = (
        table(segment, solver)
        if factors is None
        else corrected(segment, solver, *(f.unbind() for f in factors))
    )

    def to_x(coefficient: Scalar) -> Scalar:
        return torch.as_tensor(coefficient).to(x)

    if smooth:  # on the device of the state
        rows = tuple(
            Row(
                to_x(r.state_coef),
                tuple(map(to_x, r.weights)),
                to_x(r.noise_std) if process.eta else 0.0,
            )
            for r in rows
        )
        nodes = tuple(n.fitted(x) for n in nodes)
    return solver.steps(process, x, nodes, rows, noise)
