"""Twisted sequential Monte Carlo: samples of a posterior, and the evidence, as K grows exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import instance
from scoresde._html import Shown
from scoresde._tensor import Eta, batches, ordinary
from scoresde.cond import Cond
from scoresde.measurement import Measurement
from scoresde.model import ScoreModel, data_size
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sampler.plan import resolve
from scoresde.schedule.grid import Grid
from scoresde.sde import as_affine
from scoresde.smc.loop import Cloud, Field, Loop, OnNode, Past, Records, Remedies, kept
from scoresde.smc.particles import Particles
from scoresde.smc.twists import Reward, Target, Twisted, make_twist
from scoresde.solvers.base import Solver

__all__ = ["TwistedSampler"]

REMEDIES = Remedies(
    invalid="check that the measurement has the units of the data, take more steps, or a larger "
    "noise",
    collapsed="a target that is less sharp, as a larger noise makes it",
)
CLOSER = "a twist that is closer to the likelihood (twist='jacobian')"
"""In place of a less sharp target, where that twist applies and is not in use."""


@final
class TwistedSampler(Shown):
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
        self.target = Target(measurement)
        remedy = "twisted samplers need E[x_0 | x_t], which only an affine SDE determines"
        self.sde = as_affine("model.sde", model.sde, remedy)
        self.model = model
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
        closer = (
            isinstance(measurement, Measurement)
            and measurement.linear
            and measurement.gaussian
            and self._twist != "jacobian"
        )
        remedies = replace(REMEDIES, collapsed=CLOSER) if closer else REMEDIES
        self.loop = Loop(self.sde, self.plan, particles, threshold, remedies)

    @property
    def facts(self) -> dict[str, object]:
        """What a run will do, name -> value, for a table."""
        return {
            "model": self.model.composition,
            "particles": self.loop.particles,
            "twist": self._twist,
            **self.plan.facts,
        }

    @property
    def _twist(self) -> str:
        return type(self.twist).__name__.strip("_").lower()

    def __repr__(self) -> str:
        given = f"particles={self.loop.particles}, twist={self._twist!r}"
        return f"TwistedSampler({given}, {self.plan!r})"

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
        on_node: OnNode | None = None,
        progress: bool = False,
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
            progress: show a bar with the time left, or lines if stderr is not a terminal.

        Raises:
            ValueError: a condition is not valid, or all weights of a run are 0 or not finite; the
                message names the step.

        Warns:
            CollapsedWeights: the effective sample size at the end is below 10 or 1 % of K, or the
                particles descend from so few that the standard error of the evidence is that of
                fewer than 10 independent ones, or `pareto_k` is too large.
            UserWarning: the schedule does not reach noise for data of this size; see
                `AffineSDE.prior_gap`.
        """
        field = self.loop.field(
            self.target.admitting(self.model), shape, seed, cond, dtype, device
        )
        self.sde.warn_of_prior(data_size(self.model))
        records = Records(keep_ancestry, keep_path, on_node, progress)
        return self.loop.run(field, _Run(self, field, batch_size).start, records)


@final
class _Run:
    """One call of `TwistedSampler.sample`: the twist at any states of it."""

    def __init__(self, sampler: TwistedSampler, field: Field, batch_size: int | None) -> None:
        self.sampler = sampler
        self.field = field
        self.batch_size = batch_size
        self.y, _ = sampler.target.split(field.cond, field.like)

    def start(self, x: Tensor, node: Node, last: bool) -> tuple[_Cloud, Tensor]:
        """The particles at the first node, and their log weights."""
        twisted = self.twisted(node, x, last)
        return _Cloud(self, twisted, (), (), self.spent(node, twisted)), twisted.log_psi

    def spent(self, node: Node, twisted: Twisted) -> tuple[int, int]:
        """Network evaluations and vector-Jacobian products for a twist."""
        return self.sampler.model.calls(node), twisted.products

    def twisted(self, node: Node, x: Tensor, last: bool) -> Twisted:
        """The twist at all particles; at the last node psi is the target at x_0hat itself."""
        sampler, parts = self.sampler, []
        for rows, cond in batches(len(x), self.batch_size, self.field.cond):
            own, y = sampler.target.split(cond, x[rows])[1], self.y[rows]
            if last:
                plain = sampler.model.predict(node, x[rows], own)
                value = sampler.target.log_prob(plain.x0, y)
                parts.append(Twisted(plain, plain, value, 0))
            else:
                parts.append(sampler.twist(sampler.model, node, x[rows], y, own))
        return _joined(node, x, parts)


@final
@dataclass(frozen=True, eq=False)
class _Cloud(Cloud):
    """Particles with their twists, and the histories of the plain and of the guided process."""

    run: _Run
    twisted: Twisted
    past: Past
    past_guided: Past
    spent: tuple[int, int]

    @property
    def x(self) -> Tensor:
        return self.twisted.plain.x

    @property
    def x0(self) -> Tensor:
        return self.twisted.plain.x0

    @property
    def cost(self) -> tuple[int, int]:
        return self.spent

    def take(self, rows: Tensor) -> _Cloud:
        old = self.twisted
        plain, guided = kept(old.plain, rows), kept(old.guided, rows)
        past, past_guided = (
            tuple((c, m[rows]) for c, m in past) for past in (self.past, self.past_guided)
        )
        twisted = Twisted(plain, guided, old.log_psi[rows], old.products)
        return _Cloud(self.run, twisted, past, past_guided, self.spent)

    def step(self, now: Node, nxt: Node, row: Any, last: bool) -> tuple[_Cloud, Tensor]:
        """Move the particles by the guided step, and weight them by the ratio of the densities."""
        run, loop, old = self.run, self.run.sampler.loop, self.twisted
        mean, std, past = loop.kernel(old.plain, nxt, row, self.past)
        moved, _, past_guided = loop.kernel(old.guided, nxt, row, self.past_guided)
        z = run.field.noise.normal(self.x, now, nxt)
        if not std:  # without noise both transitions are points, so the plain one is taken
            moved, gain = mean, z.new_zeros(len(z), dtype=torch.float64)
        else:
            shift = (moved - mean) / std
            gain = -(z * shift + 0.5 * shift.square()).flatten(1).double().sum(1)
        twisted = run.twisted(nxt, moved + std * z, last)
        calls, products = run.spent(nxt, twisted)
        spent = self.spent[0] + calls, self.spent[1] + products
        change = twisted.log_psi.double() - old.log_psi.double() + gain
        return _Cloud(run, twisted, past, past_guided, spent), change


def _joined(node: Node, x: Tensor, parts: list[Twisted]) -> Twisted:
    """The twists of parts of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    plain, guided = (
        Prediction(x, node, torch.cat([p.value for p in found]), found[0].kind)
        for found in ([t.plain for t in parts], [t.guided for t in parts])
    )
    return Twisted(plain, guided, torch.cat([t.log_psi for t in parts]), parts[0].products)
