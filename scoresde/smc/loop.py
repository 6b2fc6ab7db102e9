"""The loop of particle samplers: particles are moved, weighted, and resampled where uneven."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, final

import torch
from torch import Tensor

from scoresde._check import fail, finite, instance, keep, positive_int, refuse, warn, wrong_type
from scoresde._progress import progress as progress_of
from scoresde._tensor import Scalar, state_kind
from scoresde.cond import Cond, check_cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.sampler.plan import as_noise, check_shape
from scoresde.sde import AffineSDE
from scoresde.smc.particles import (
    CollapsedWeights,
    Particles,
    effective,
    relative_variance,
    systematic,
)
from scoresde.smc.tails import heavy, pareto_shape
from scoresde.solvers.base import Plan
from scoresde.solvers.limits import Held
from scoresde.solvers.registry import SOLVERS
from scoresde.solvers.step import GaussianStep

__all__ = ["Cloud", "Field", "Loop", "OnNode", "Past", "Records", "Remedies", "kept"]

OnNode: TypeAlias = Callable[[Node, Tensor, Tensor], None]
"""A function of a node, the particles (P, K, *D) and their normalised log weights (P, K)."""

Past: TypeAlias = tuple[Any, ...]
"""The history of a scheme: pairs of a coefficient and a tensor (P K, *D)."""

LARGEST = 1e14
"""The largest size of a log weight: beyond it rounding changes weights by more than 1 %."""

CloudT = TypeVar("CloudT", bound="Cloud")


class Cloud(ABC):
    """The particles of all P runs at a node, flattened to (P K, *D), and the way they move."""

    @property
    @abstractmethod
    def x(self) -> Tensor:
        """The states, (P K, *D)."""

    @property
    @abstractmethod
    def x0(self) -> Tensor:
        """The denoised states that the result shows, (P K, *D)."""

    @property
    @abstractmethod
    def cost(self) -> tuple[int, int]:
        """Network evaluations and vector-Jacobian products of one particle so far."""

    @abstractmethod
    def take(self: CloudT, rows: Tensor) -> CloudT:
        """The cloud of the particles with these numbers, (P K,)."""

    @abstractmethod
    def step(self: CloudT, now: Node, nxt: Node, row: Any, last: bool) -> tuple[CloudT, Tensor]:
        """The cloud at the next node, and the change of the log weights, (P K,) in float64.

        Args:
            now, nxt: the nodes of the step.
            row: the coefficients of the step.
            last: whether `nxt` is the last node, where the weights become those of x0.
        """


@final
class _Given(ScoreModel):
    """A prediction that is there already, as the model of a process."""

    def __init__(self, sde: AffineSDE, prediction: Prediction) -> None:
        super().__init__()
        self.sde = sde
        self.prediction = prediction

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.prediction


@final
@dataclass(frozen=True)
class Remedies:
    """What to do about weights, for messages.

    Attributes:
        invalid: the remedies if no weight of a run is finite.
        collapsed: one more remedy if they collapse, beside more steps and more particles.
    """

    invalid: str
    collapsed: str


@final
@dataclass(frozen=True, eq=False)
class Field:
    """The states of P runs of K particles, what is given of each, and the noise.

    Attributes:
        like: a tensor of the shape, dtype and device of the states, (P K, *D).
        cond: the conditions, name -> (P K, ...).
        noise: the noise.
    """

    like: Tensor
    cond: dict[str, Tensor]
    noise: Noise


@final
@dataclass(frozen=True)
class Records:
    """What a run keeps and shows beside its result; see `TwistedSampler.sample`."""

    keep_ancestry: bool = False
    keep_path: bool = False
    on_node: OnNode | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("keep_ancestry", "keep_path", "progress"):
            instance(name, getattr(self, name), bool, "pass True or False")
        if self.on_node is not None and not callable(self.on_node):
            remedy = "pass a function of (node, x, log_weights), or None"  # type: ignore[unreachable]
            raise wrong_type("on_node", "a function", self.on_node, remedy)


@final
@dataclass(frozen=True)
class Loop:
    """A plan for K particles, with the threshold of resampling.

    Args:
        sde: the SDE of the plan.
        plan: the solver, stochasticity and schedule.
        particles: K, the particles of each run.
        threshold: the share of K of the effective sample size below which to resample.
        remedies: what messages advise.

    Raises:
        ValueError: the solver has no kernel (those that have one are named), eta is 0, the grid
            goes up and down, or a number is not valid.
    """

    sde: AffineSDE
    plan: Plan
    particles: int
    threshold: float
    remedies: Remedies

    def __post_init__(self) -> None:
        keep(self, "particles", positive_int, "1000 is usual")
        remedy = "0.5 is usual; 1 resamples at every step and 0 never"
        threshold = keep(self, "threshold", finite, remedy)
        if not 0.0 <= threshold <= 1.0:
            raise fail("threshold", "a number from 0 to 1", self.threshold, remedy)
        plan = self.plan
        if not isinstance(plan.solver, GaussianStep):
            named = (name for name, (own, _) in SOLVERS.items() if isinstance(own, GaussianStep))
            expected = "a solver whose steps add one Gaussian (a GaussianStep)"
            got = type(plan.solver).__name__
            raise refuse("solver", expected, got, f"take one of {', '.join(named)}")
        if not plan.stochastic:
            remedy = "pass eta=1: without noise a step has no density"
            raise fail("eta", "more than 0", plan.eta, remedy)
        if len(plan.schedule.segments) > 1:
            got = f"{len(plan.schedule.segments)} segments"
            raise fail("grid", "one segment", got, "leave out restart and churn")

    @property
    def solver(self) -> GaussianStep[Any, Any, Any]:
        """The solver, of any scheme."""
        return self.plan.solver  # type: ignore[return-value]  # as checked above

    def field(
        self,
        model: ScoreModel,
        shape: Sequence[int],
        seed: int | None,
        cond: Cond,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> Field:
        """The states and conditions of P runs, from the arguments of a sampler.

        Args:
            model: a model that admits the conditions.
            shape: (P, *D).
            cond: name -> (P, ...).
            seed, dtype, device: see `TwistedSampler.sample`.
        """
        runs, *own = check_shape(shape)
        dtype, device = state_kind(model, dtype, device)
        given = check_cond(model, cond, runs, device) or {}
        like = torch.empty(runs * self.particles, *own, dtype=dtype, device=device)
        each = {k: v.repeat_interleave(self.particles, 0) for k, v in given.items()}
        return Field(like, each, as_noise("independent", seed, self.sde, 1.0))

    def kernel(
        self, prediction: Prediction, nxt: Node, row: Any, past: Past
    ) -> tuple[Tensor, Scalar, Past]:
        """Mean, standard deviation and history of the step of a prediction from its own state.

        Args:
            prediction: the prediction at the node of the step.
            nxt: the next node.
            row: the coefficients of the step.
            past: the history.
        """
        eta = 0.0 if self.plan.eta is None else self.plan.eta
        process = ReverseSDE(self.sde, _Given(self.sde, prediction), eta)
        x, now = prediction.x, prediction.node
        if isinstance(row, Held):
            return row.mean(process, x, now), row.noise_std, ()
        return self.solver.kernel(process, x, now, nxt, row, past)

    @torch.no_grad()
    def run(
        self,
        field: Field,
        start: Callable[[Tensor, Node, bool], tuple[CloudT, Tensor]],
        records: Records,
    ) -> Particles:
        """The weighted particles at the end of the schedule.

        Args:
            field: the states, conditions and noise.
            start: the function that makes the cloud of the states (P K, *D) at the first node,
                with its log weights, (P K,). The third argument is whether it is the last node.
            records: what is kept and shown.

        Raises:
            ValueError: all weights of a run are 0 or one is not a number; the message names the
                step.

        Warns:
            CollapsedWeights: a run is worth fewer than 10 independent particles, or its weights
                had a heavy tail.
        """
        size, like, noise = self.particles, field.like, field.noise
        (nodes,), (rows,) = self.plan.schedule.segments, self.plan.coefficients
        rows = self.solver.rows_like(rows, like)
        cloud, flat = start(self.sde.sample_prior(noise.prior(like)), nodes[0], len(nodes) == 1)
        weights = self._grouped(flat.double())
        runs, device = len(weights), like.device
        eve = torch.arange(size, device=device).expand(runs, -1)
        evidence = torch.zeros(runs, dtype=torch.float64, device=device)
        none = torch.zeros(runs, dtype=torch.bool, device=device)
        shapes, at = [math.nan] * runs, [nodes[0].t] * runs
        sizes, flags, parents, path = [], [], [], []
        shown = progress_of(len(nodes), "particles", "nodes", shown=records.progress)
        with closing(shown) as bar:
            for number, node in enumerate(nodes):
                total = self._total(weights, number, node)
                normal = weights - total[:, None]
                sizes.append(effective(normal))
                if records.keep_path:
                    path.append(self._grouped(cloud.x))
                if records.on_node is not None:
                    records.on_node(node, self._grouped(cloud.x), normal)
                bar.update()
                last = number == len(nodes) - 1
                low = none if last else sizes[-1] < self.threshold * size
                flags.append(low)
                for i in range(runs) if last else low.nonzero().flatten().tolist():
                    shape = pareto_shape(normal[i])
                    if not shape <= shapes[i]:  # the first is compared with NaN
                        shapes[i], at[i] = shape, node.t
                if last:
                    break
                parent = self._parents(normal, low, noise, node)
                if bool(low.any()):
                    evidence = evidence + torch.where(low, total - math.log(size), 0.0)
                    weights = torch.where(low[:, None], 0.0, weights)
                    eve = eve.gather(1, parent)
                    first = torch.arange(runs, device=device)[:, None] * size
                    cloud = cloud.take((parent + first).flatten())
                if records.keep_ancestry:
                    parents.append(parent)
                end = number + 2 == len(nodes)
                cloud, change = cloud.step(node, nodes[number + 1], rows[number], end)
                weights = weights + self._grouped(change)
        evidence = evidence + total - math.log(size)
        error = relative_variance(normal, eve).sqrt()
        collapsed = self._warn_of_collapse(sizes[-1], error)
        self._warn_of_tails(shapes, at, collapsed)
        nfe, products = cloud.cost
        return Particles(
            x=self._grouped(cloud.x0),
            log_weights=normal.to(like.dtype),
            log_evidence=evidence,
            log_evidence_error=error,
            ess=torch.stack(sizes, 1),
            resampled=torch.stack(flags, 1),
            pareto_k=torch.tensor(shapes, dtype=torch.float64, device=device),
            eve=eve,
            ancestry=torch.stack(parents) if records.keep_ancestry else None,
            path=torch.stack(path) if records.keep_path else None,
            plan=self.plan,
            nfe=nfe,
            products=products,
            seed=noise.seed,
        )

    def _grouped(self, values: Tensor) -> Tensor:
        """(P K, ...) as (P, K, ...)."""
        return values.reshape(-1, self.particles, *values.shape[1:])

    def _total(self, weights: Tensor, number: int, node: Node) -> Tensor:
        """The log of the sum of the weights, (P,), or an error if a run has no valid weights."""
        total = torch.logsumexp(weights, 1)
        bad = ~(total.abs() < LARGEST) | weights.isnan().any(1)
        if bool(bad.any()):
            run = int(bad.nonzero()[0])
            got = f"a log sum of {float(total[run]):.3g} in run {run} at step {number}"
            expected = "finite weights of particles"
            raise refuse("weights", expected, f"{got}, t = {node.t:.6g}", self.remedies.invalid)
        return total

    def _parents(self, normal: Tensor, low: Tensor, noise: Noise, node: Node) -> Tensor:
        """The parent of each particle, (P, K); its own number where nothing is resampled."""
        own = torch.arange(self.particles, device=normal.device).expand(len(normal), -1)
        if not bool(low.any()):
            return own
        like = torch.empty(len(normal), 1, dtype=torch.float64, device=normal.device)
        u = torch.special.ndtr(noise.stream("resample").draw(like, at=node.t))
        drawn = systematic(normal.exp(), u.clamp_max(1.0 - 1e-9), self.particles)
        return torch.where(low[:, None], drawn, own)

    def _warn_of_collapse(self, sizes: Tensor, error: Tensor) -> list[bool]:
        """Warn if a run rests on fewer than 10 particles, or than 1 % of K; return which do.

        Args:
            sizes: the effective sample sizes at the end, (P,).
            error: the standard errors of the log evidence, (P,): those of 1 / error^2 independent
                particles, which are few if nearly all descend from one.
        """
        count = self.particles
        if count == 1:
            return [False] * len(sizes)
        families = 1.0 / (error.square() + 1.0 / count)
        most = 0.5 * count  # a few particles may well have equal weights
        enough = (sizes >= min(max(10.0, 0.01 * count), most)) & (families >= min(10.0, most))
        if not bool(enough.all()):
            worth = torch.minimum(sizes, families)
            run, others = int(worth.argmin()), int((~enough).sum()) - 1
            more = f" and in {others} others" if others else ""
            warn(
                f"the weights have collapsed in run {run}{more}: {count} particles are worth "
                f"{float(worth[run]):.1f} independent ones; take more steps, more particles, "
                f"or {self.remedies.collapsed}",
                CollapsedWeights,
            )
        return (~enough).tolist()

    def _warn_of_tails(self, shapes: list[float], at: list[float], told: list[bool]) -> None:
        """Warn if the weights of a run had a heavy tail.

        Args:
            shapes: the largest shape of the tail of each run, NaN for a few particles.
            at: the time of it.
            told: whether a warning of the run was given already.
        """
        found = [i for i, k in enumerate(shapes) if k > heavy(self.particles) and not told[i]]
        if found:
            run = max(found, key=lambda i: shapes[i])
            warn(
                f"the weights of {len(found)} of {len(shapes)} runs had a heavy tail, that of run "
                f"{run} with pareto_k = {shapes[run]:.2f} at t = {at[run]:.3g}: the log evidence "
                "may be further off than its standard error says; take more particles or more "
                "steps",
                CollapsedWeights,
            )


def kept(prediction: Prediction, rows: Tensor) -> Prediction:
    """The prediction at some of its states, whose numbers are rows: (N,)."""
    node, kind = prediction.node, prediction.kind
    return Prediction(prediction.x[rows], node, prediction.value[rows], kind)
