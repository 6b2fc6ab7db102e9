"""Twisted sequential Monte Carlo: samples of a posterior, and the evidence, as K grows exactly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive_int, refuse, wrong_type
from scoresde._tensor import Eta, Scalar, batches, ordinary, state_kind
from scoresde.measurement import Measurement
from scoresde.model import Cond, ScoreModel, check_cond, summary_of
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.sampler.plan import as_noise, check_shape, resolve
from scoresde.schedule.grid import Grid
from scoresde.sde import AffineSDE, as_affine
from scoresde.smc.particles import (
    CollapsedWeights,
    Particles,
    effective,
    relative_variance,
    systematic,
)
from scoresde.smc.twists import Reward, Target, Twisted, make_twist
from scoresde.solvers.base import GaussianStep, Solver
from scoresde.solvers.limits import Held
from scoresde.solvers.registry import SOLVERS

__all__ = ["TwistedSampler"]


@final
class TwistedSampler:
    """Twisted sequential Monte Carlo for a measurement or a reward (Wu et al. 2023, TDS).

    K particles follow the reverse SDE whose score is shifted by the gradient of a twist
    psi_t(x) in place of p(y | x_t). With p the transition of the plain and q that of the shifted
    step, the weights grow by p(x' | x) / q(x' | x) psi'(x') / psi(x), and by the likelihood itself
    at the end, so that particles and evidence are right as K grows, whatever the twist; what
    remains is the error of the solver's steps. Particles are resampled systematically, where the
    effective sample size falls below `threshold` K.

    Args:
        model: the score model of the prior, under an affine SDE.
        measurement: a `Measurement`, or a reward: any differentiable function of x_0: (B, *D) that
            returns a log potential in nats, (B,); the target is then p(x_0) e^reward.
        particles: K, the number of particles of each posterior.
        solver: a name of `SOLVERS` or a solver whose steps add one Gaussian (`GaussianStep`). The
            default is of second order: steps of first order, such as "ancestral", leave an error
            of log p(y) that can be larger than the stated one.
        steps, grid, t_end, eta: as in `ReverseSampler`; eta above 0.
        twist: "jacobian", "variance", "point" or "auto"; see `scoresde.smc.twists`.
        variance: that of the data, for the twists "variance" and "point"; by default the one that
            the model knows.
        threshold: the share of K of the effective sample size below which to resample; 1
            resamples at every step and 0 never.

    Raises:
        TypeError, ValueError: the solver has no kernel (those that have one are named), eta is 0,
            the SDE is not affine, the grid goes up and down, or the twist does not fit.

    Source: Wu et al. 2023 (arXiv 2306.17775), algorithm 1; the covariance of the twist is that of
    Rozet et al. 2024 (arXiv 2405.13712).

    Example:
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.measurement import Matrix
        >>> prior = GaussianMixture(torch.tensor([[-2.0], [2.0]]), torch.tensor([0.1, 0.1]))
        >>> y = Measurement(Matrix(torch.ones(1, 1)), torch.tensor([0.5]), 1.0)
        >>> sampler = TwistedSampler(prior.under(VPSDE()), y, particles=500, steps=100)
        >>> found = sampler.sample((1, 1), seed=0)
        >>> exact = prior.posterior(torch.ones(1, 1), torch.tensor([0.5]), 1.0)
        >>> bool((found.mean[0] - exact.weights @ exact.means).abs() < 0.3)
        True
    """

    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement | Reward,
        *,
        particles: int = 1000,
        solver: str | Solver = "sa_solver_p2_v",
        steps: int | None = None,
        grid: str | Grid | Sequence[float] | None = None,
        t_end: float | None = None,
        eta: Eta | None = None,
        twist: str = "auto",
        variance: float | None = None,
        threshold: float = 0.5,
    ) -> None:
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        if not isinstance(measurement, Measurement) and not callable(measurement):
            remedy = "pass Measurement(operator, y, noise), or a function of x0"  # type: ignore[unreachable]
            raise wrong_type("measurement", "a Measurement or a reward", measurement, remedy)
        remedy = "twisted samplers need E[x_0 | x_t], which only an affine SDE determines"
        self.sde = as_affine("model.sde", model.sde, remedy)
        self.particles = positive_int("particles", particles, "1000 is usual")
        if not 0.0 <= float(threshold) <= 1.0:
            remedy = "0.5 is usual; 1 resamples at every step and 0 never"
            raise fail("threshold", "a number from 0 to 1", threshold, remedy)
        self.threshold = float(threshold)
        self.model = model
        self.target = Target(measurement)
        self.twist = make_twist(twist, self.target, model, variance)
        self.plan = resolve(
            model.sde,
            model,
            solver,
            steps=steps,
            grid=grid,
            t_end=t_end,
            eta=eta,
            denoise=False,
        )
        if not isinstance(self.plan.solver, GaussianStep):
            named = (name for name, (own, _) in SOLVERS.items() if isinstance(own, GaussianStep))
            expected = "a solver whose steps add one Gaussian (a GaussianStep)"
            got = type(self.plan.solver).__name__
            raise refuse("solver", expected, got, f"take one of {', '.join(named)}")
        if not self.plan.stochastic:
            remedy = "pass eta=1: without noise a step has no density"
            raise fail("eta", "more than 0", self.plan.eta, remedy)
        if len(self.plan.schedule.segments) > 1:
            got = f"{len(self.plan.schedule.segments)} segments"
            raise fail("grid", "one segment", got, "leave out restart and churn")
        self.solver: GaussianStep[Any, Any, Any] = self.plan.solver  # any scheme

    def __repr__(self) -> str:
        twist = type(self.twist).__name__.strip("_").lower()
        return f"TwistedSampler(particles={self.particles}, twist={twist!r}, {self.plan!r})"

    @ordinary
    def sample(
        self,
        shape: Sequence[int],
        *,
        seed: int | None = None,
        cond: Cond = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        keep_ancestry: bool = False,
        keep_path: bool = False,
        on_node: Callable[[Node, Tensor, Tensor], None] | None = None,
    ) -> Particles:
        """Particles of P posteriors.

        Args:
            shape: (P, *D): P independent runs, each with its own measurement and conditions if
                they are in `cond`, else all of the same one.
            seed: the seed of the noise. The particles of run number i depend on the seed, on i
                and on the number of particles alone.
            cond: name -> (P, ...): the measurement of each run, and conditions of the model.
            batch_size: the number of particles of one call of the model, all at once by default.
            dtype, device: those of the particles; by default those of the model.
            keep_ancestry: keep the parents of all particles at each step.
            keep_path: keep the particles at all nodes.
            on_node: a function called with the node, the particles (P, K, *D) and their
                normalised log weights (P, K) at each node, before resampling.

        Raises:
            ValueError: a condition is not valid, or all weights of a run are 0 or not finite; the
                message names the step.

        Warns:
            CollapsedWeights: the effective sample size at the end is below 10, or below 1 % of K.
            UserWarning: the schedule does not reach noise for data of this size; see
                `AffineSDE.prior_gap`.
        """
        shape = check_shape(shape)
        dtype, device = state_kind(self.model, dtype, device)
        admitted = check_cond(self._admitting(), cond, shape[0], device)
        noise = as_noise("independent", seed, self.model.sde, 1.0)
        self.sde.warn_of_prior(self._data_size(), stacklevel=3)
        with torch.no_grad():
            run = _Run(self, shape, admitted, noise, batch_size, dtype, device)
            return run.solve(keep_ancestry, keep_path, on_node)

    def _data_size(self) -> float:
        """The root mean square of the data, 1 if the model does not know it."""
        known, scale = summary_of(self.model), self.model.data_scale
        if known is not None:
            return known.size
        return 1.0 if scale is None else scale[0]

    def _admitting(self) -> ScoreModel:
        """A model that takes the conditions of the prior and the measurement."""
        measurement = self.target.of
        if not isinstance(measurement, Measurement):
            return self.model
        return _Admitting(self.model, measurement)


@final
class _Admitting(ScoreModel):
    """The prior, which also admits the measurement as a condition."""

    def __init__(self, model: ScoreModel, measurement: Measurement) -> None:
        super().__init__()
        self.sde = model.sde
        self.model = model
        self.measurement = measurement

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.measurement.admit(self.model, cond)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.model.predict(node, x, self.measurement.split(cond, x)[1])


@final
class _Given(ScoreModel):
    """A prediction that is there already, as the model of a process."""

    def __init__(self, sde: AffineSDE, prediction: Prediction) -> None:
        super().__init__()
        self.sde = sde
        self.prediction = prediction

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.prediction


@dataclass(eq=False)
class _State:
    """The particles of all runs at a node, flattened to (P K, ...)."""

    x: Tensor
    twisted: Twisted
    log_weights: Tensor
    past: tuple[Any, ...]
    past_guided: tuple[Any, ...]
    eve: Tensor


@final
class _Run:
    """One call of `TwistedSampler.sample`."""

    def __init__(
        self,
        sampler: TwistedSampler,
        shape: tuple[int, ...],
        cond: dict[str, Tensor] | None,
        noise: Noise,
        batch_size: int | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.sampler = sampler
        self.runs, self.size = shape[0], sampler.particles
        self.noise = noise
        self.batch_size = batch_size
        self.like = torch.empty(self.runs * self.size, *shape[1:], dtype=dtype, device=device)
        self.cond = {k: v.repeat_interleave(self.size, 0) for k, v in (cond or {}).items()}
        self.y, _ = sampler.target.split(self.cond, self.like)
        self.calls = self.products = 0

    def twisted(self, node: Node, x: Tensor, last: bool) -> Twisted:
        """The twist at all particles; at the last node psi is the target at x_0hat itself."""
        sampler, parts = self.sampler, []
        self.calls += sampler.model.calls(node)
        for rows, cond in batches(len(x), self.batch_size, self.cond):
            own, y = sampler.target.split(cond, x[rows])[1], self.y[rows]
            if last:
                plain = sampler.model.predict(node, x[rows], own)
                value = sampler.target.log_prob(plain.x0, y)
                parts.append(Twisted(plain, plain, value, 0))
            else:
                parts.append(sampler.twist(sampler.model, node, x[rows], y, own))
        self.products += parts[0].products
        return _joined(node, x, parts)

    def grouped(self, values: Tensor) -> Tensor:
        """(P K, ...) as (P, K, ...)."""
        return values.reshape(self.runs, self.size, *values.shape[1:])

    def solve(
        self,
        keep_ancestry: bool,
        keep_path: bool,
        on_node: Callable[[Node, Tensor, Tensor], None] | None,
    ) -> Particles:
        sampler = self.sampler
        sde = sampler.sde
        (nodes,), (rows,) = sampler.plan.schedule.segments, sampler.plan.coefficients
        rows = sampler.solver.rows_like(rows, self.like)
        x = sde.sample_prior(self.noise.prior(self.like))
        numbers = torch.arange(self.size, device=x.device).repeat(self.runs)
        first = self.twisted(nodes[0], x, len(nodes) == 1)
        state = _State(x, first, first.log_psi.double(), (), (), numbers)
        evidence = torch.zeros(self.runs, dtype=torch.float64, device=x.device)
        sizes, flags, parents, path = [], [], [], [self.grouped(x)] if keep_path else []
        for number, node in enumerate(nodes):
            weights = self.grouped(state.log_weights)
            self._check(weights, number, node)
            normal = weights - torch.logsumexp(weights, 1, keepdim=True)
            sizes.append(effective(normal))
            if on_node is not None:
                on_node(node, self.grouped(state.x), normal)
            if number == len(nodes) - 1:
                flags.append(torch.zeros(self.runs, dtype=torch.bool, device=x.device))
                break
            low = sizes[-1] < sampler.threshold * self.size
            flags.append(low)
            parent = self._parents(normal, low, node)
            if bool(low.any()):
                mean = torch.logsumexp(weights, 1) - math.log(self.size)
                evidence = evidence + torch.where(low, mean, 0.0)
                self._take(state, parent, low)
            if keep_ancestry:
                parents.append(parent)
            self._step(state, sde, node, nodes[number + 1], rows[number], number + 2 == len(nodes))
            if keep_path:
                path.append(self.grouped(state.x))
        weights = self.grouped(state.log_weights)
        total = torch.logsumexp(weights, 1, keepdim=True)
        evidence = evidence + total[:, 0] - math.log(self.size)
        normal, eve = weights - total, self.grouped(state.eve)
        error = relative_variance(normal, eve).sqrt()
        _warn_of_collapse(sizes[-1], self.size)
        return Particles(
            x=self.grouped(state.twisted.plain.x0),
            log_weights=normal.to(self.like.dtype),
            log_evidence=evidence,
            log_evidence_error=error,
            ess=torch.stack(sizes, 1),
            resampled=torch.stack(flags, 1),
            eve=eve,
            ancestry=torch.stack(parents) if keep_ancestry else None,
            path=torch.stack(path) if keep_path else None,
            plan=sampler.plan,
            nfe=self.calls,
            products=self.products,
            seed=self.noise.seed,
        )

    def _check(self, weights: Tensor, number: int, node: Node) -> None:
        """Raise a ValueError if a run has no finite weight, or one that is not a number."""
        bad = ~torch.isfinite(torch.logsumexp(weights, 1)) | weights.isnan().any(1)
        if bool(bad.any()):
            got = f"none in run {int(bad.nonzero()[0])} at step {number}, t = {node.t:.6g}"
            remedy = (
                "check that the measurement has the units of the data, take more steps, or a "
                "larger noise"
            )
            raise fail("weights", "finite weights of particles", got, remedy)

    def _parents(self, normal: Tensor, low: Tensor, node: Node) -> Tensor:
        """The parent of each particle, (P, K); its own number where nothing is resampled."""
        own = torch.arange(self.size, device=normal.device).expand(self.runs, -1)
        if not bool(low.any()):
            return own
        like = torch.empty(self.runs, 1, dtype=torch.float64, device=normal.device)
        draw = self.noise.stream("resample").draw(like, at=node.t)
        u = torch.special.ndtr(draw).clamp_max(1.0 - 1e-9)
        return torch.where(low[:, None], systematic(normal.exp(), u, self.size), own)

    def _take(self, state: _State, parent: Tensor, low: Tensor) -> None:
        """Replace the particles of the runs that are resampled by copies of their parents."""
        start = torch.arange(self.runs, device=parent.device)[:, None] * self.size
        rows = (parent + start).flatten()
        state.x = state.x[rows]
        plain, guided = (
            Prediction(state.x, p.node, p.value[rows], p.kind)
            for p in (state.twisted.plain, state.twisted.guided)
        )
        twisted = state.twisted
        state.twisted = Twisted(plain, guided, twisted.log_psi[rows], twisted.products)
        state.past, state.past_guided = (
            tuple((c, m[rows]) for c, m in kept) for kept in (state.past, state.past_guided)
        )
        state.eve = state.eve[rows]
        keep = ~low.repeat_interleave(self.size)
        state.log_weights = torch.where(keep, state.log_weights, 0.0)

    def _step(
        self, state: _State, sde: AffineSDE, now: Node, nxt: Node, row: Any, last: bool
    ) -> None:
        """Move the particles by the guided step, and weight them by the ratio of the densities."""
        x, eta = state.x, self.sampler.plan.eta
        plain, guided = (
            ReverseSDE(sde, _Given(sde, prediction), 0.0 if eta is None else eta)
            for prediction in (state.twisted.plain, state.twisted.guided)
        )
        if isinstance(row, Held):
            std: Scalar = row.noise_std
            mean, moved = row.mean(plain, x, now), row.mean(guided, x, now)
            past = past_guided = ()
        else:
            solver = self.sampler.solver
            mean, std, past = solver.kernel(plain, x, now, nxt, row, state.past)
            moved, _, past_guided = solver.kernel(guided, x, now, nxt, row, state.past_guided)
        z = self.noise.normal(x, now, nxt)
        if not std:  # without noise both transitions are points, so the plain one is taken
            moved, gain = mean, z.new_zeros(len(z), dtype=torch.float64)
        else:
            shift = (moved - mean) / std
            gain = -(z * shift + 0.5 * shift.square()).flatten(1).double().sum(1)
        before = state.twisted.log_psi
        state.x = moved + std * z
        state.past, state.past_guided = past, past_guided
        state.twisted = self.twisted(nxt, state.x, last)
        change = state.twisted.log_psi.double() - before.double() + gain
        state.log_weights = state.log_weights + change


def _joined(node: Node, x: Tensor, parts: list[Twisted]) -> Twisted:
    """The twists of parts of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    plain, guided = (
        Prediction(x, node, torch.cat([p.value for p in found]), found[0].kind)
        for found in ([t.plain for t in parts], [t.guided for t in parts])
    )
    return Twisted(plain, guided, torch.cat([t.log_psi for t in parts]), parts[0].products)


def _warn_of_collapse(sizes: Tensor, count: int) -> None:
    least = min(max(10.0, 0.01 * count), float(count))
    if bool((sizes < least).any()) and count > 1:
        run = int(sizes.argmin())
        warnings.warn(
            f"the weights have collapsed in run {run}: the effective sample size is "
            f"{float(sizes[run]):.1f} of {count} particles; take more steps, more particles, or "
            "a twist that is closer to the likelihood (twist='jacobian')",
            CollapsedWeights,
            stacklevel=5,
        )
