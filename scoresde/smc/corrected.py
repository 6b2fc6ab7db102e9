"""Corrected guidance: samples of the density that classifier-free guidance approximates.

With w the scale, p_t(x) and p_t(x | c) the noised densities and s_u, s_c their scores, let

    q_t(x) = p_t(x | c)^w p_t(x)^(1-w),    s = grad log q_t = w s_c + (1 - w) s_u.

q_0 is the tilted density. Each factor obeys, as t runs down, with f the linear drift of the SDE,

    d log p_i = [div f + f . s_i - g^2/2 (div s_i + |s_i|^2)] dt,

and a density whose score is s changes under the guided reverse SDE of any eta by the same
expression with s. The weights w and 1 - w add up to 1, so in the difference of d log q_t and this
change all terms cancel but the squares, and along a path the log weight must grow by

    d log weight = g^2/2 (|s|^2 - w |s_c|^2 - (1 - w) |s_u|^2) dt
                 = g^2/2 w (w - 1) |s_c - s_u|^2 dt
                 = w (w - 1) |eps_c - eps_u|^2 dlambda,

in the log-SNR lambda, since g^2/2 dt = sigma^2 dlambda, whatever eta is. It is integrated by the
trapezoidal rule, which is of second order as the steps of the default solver. Beyond the last node
the scores hardly change, so |eps_c - eps_u|^2 falls as 1 / SNR, and its integral up to lambda =
infinity is half its value there: with it the weights are those of q_0 at x_0hat. The mean of the
weights is the ratio of the integrals of q at both ends, and at T, where both densities are the
prior, that integral is 1.

What is exact in which limit: as K grows, the weighted particles follow the law that the chain of
finite steps gives, and that tends to q_0 as the steps become short, with second order. The start
takes both densities at T as the prior, an error of O(alpha_T), and x_0hat at t_end stands for x_0,
an error of O(sigma^2) there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, nonnegative, warn
from scoresde._html import Shown
from scoresde._tensor import Eta, batches, ordinary
from scoresde.cond import Cond
from scoresde.guidance import ClassifierFree
from scoresde.guidance.scale import between
from scoresde.model import data_size
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sampler.plan import resolve
from scoresde.schedule.grid import Grid
from scoresde.sde import as_affine
from scoresde.smc.loop import Cloud, Field, Loop, OnNode, Past, Records, Remedies, kept
from scoresde.smc.particles import Particles
from scoresde.solvers.base import Solver
from scoresde.solvers.limits import Held

__all__ = ["CorrectedGuidance"]

STEPS, ETA = 200, 1.5
"""The steps and the stochasticity by default; scales above 2 or below -1 take more steps."""

MOST_STEPS = 10_000
"""The default takes no more; a scale that needs more is likely a mistake."""

REMEDIES = Remedies(
    invalid="take a scale nearer to 1, or more steps: at this scale p(x | c)^w p(x)^(1-w) may "
    "have no finite integral",
    collapsed="a scale nearer to 1",
)


@final
class CorrectedGuidance(Shown):
    """Samples of p(x | c)^w p(x)^(1-w) / Z, by classifier-free guidance with weights.

    K particles follow the reverse SDE of the guided score s_u + w (s_c - s_u). Their log weights
    grow by w (w - 1) |eps_c - eps_u|^2 for each unit of the log-SNR, and they are resampled where
    the effective sample size falls below `threshold` K. With equal weights they would be the
    samples of plain guidance, which have other means and spreads; with these they are right as K
    and the steps grow. The module derives the weights and says what is exact in which limit.

    `Particles.log_evidence` is log Z, the log of the integral of p(x | c)^w p(x)^(1-w), or w - 1
    times the Renyi divergence of order w of p(x | c) from p(x). Z is 1 at the scales 0 and 1, at
    most 1 between them and at least 1 beyond. For a class of probability P it is at most
    P^(1-w) at w above 1. For other conditions Z can be infinite, as for Gaussians with
    w / v_c <= (w - 1) / v_u. There is nothing to sample then: nearly all particles descend from
    a few, which the warning and `log_evidence_error` say, or the weights exceed all numbers.

    The variance of the weights grows with |w - 1|. A larger eta lowers it, since particles forget
    where they came from, but needs shorter steps, and so does a larger scale, since rare particles
    with large weights are exaggerated by long ones. Steps that are too long make log Z too large,
    by an error of second order. For normal densities with variances 1 and v_c, at scale 4 and with
    infinitely many particles, it is 0.14, 0.024 and 0.005 with 100, 200 and 400 steps if v_c =
    0.2, and infinite, 0.17 and 0.03 if v_c = 0.05. So the default number of steps is 200 for
    scales from -1 to 2 and grows in proportion to (1 + eta^2) max(|w|, |1 - w|) beyond. Half of it
    leaves up to 0.06 nats at scale 2 and 0.17 at scale 4; fewer get a warning. A log Z that
    changes with twice the steps shows that they are still too long.

    Args:
        guided: the guided model, whose scale is one number without an interval.
        particles: K, the number of particles of each run.
        solver: as in `TwistedSampler`. The default is of second order; steps of first order, such
            as "ancestral", change the variance by several per cent even at 300 steps.
        steps: the number of steps; by default on a named grid 200, or more for large scales.
        grid, t_end: as in `ReverseSampler`.
        eta: the stochasticity, above 0; None is that of the solver.
        threshold: as in `TwistedSampler`.

    Raises:
        TypeError, ValueError: the scale depends on the log-SNR, so that the weights are unknown,
            or an argument is not valid, as in `TwistedSampler`.

    Warns:
        UserWarning: there are fewer than half of the default number of steps.

    Source: Skreta et al. 2025 (arXiv 2503.02819), for the geometric average of two densities.

    Example:
        >>> from scoresde import FunctionScore, VPSDE
        >>> sde = VPSDE()
        >>> def fn(t, x, label):  # N(0, 1) without a label, N(1, 1) with label 0
        ...     return torch.where(label[:, None] < 0, -x, sde.alpha(t) - x)
        >>> guided = ClassifierFree(FunctionScore(sde, fn), 2.0, null={"label": -1})
        >>> sampler = CorrectedGuidance(guided, particles=500, steps=100)
        >>> found = sampler.sample((1, 1), seed=0, cond={"label": torch.tensor([0])})
        >>> abs(float(found.mean) - 2.0) < 0.2, abs(float(found.log_evidence) - 1.0) < 0.01
        (True, True)
    """

    def __init__(
        self,
        guided: ClassifierFree,
        *,
        particles: int = 1000,
        solver: str | Solver = "sa_solver_p2_v",
        steps: int | None = None,
        grid: str | Grid | Sequence[float] | None = None,
        t_end: float | None = None,
        eta: Eta | None = ETA,
        threshold: float = 0.5,
    ) -> None:
        instance("guided", guided, ClassifierFree, "pass ClassifierFree(model, scale)")
        scale = guided.scale
        if callable(scale.value) or scale.interval is not None:
            remedy = "pass one number and no interval; else the weights are unknown"
            raise fail("scale", "one number at all noise levels", scale, remedy)
        self.guided = guided
        self.scale = float(scale.value)
        remedy = "the weights need the log-SNR, which only an affine SDE has"
        self.sde = as_affine("guided.sde", guided.sde, remedy)
        enough = _steps(self.scale, eta)
        if steps is None and (grid is None or isinstance(grid, str)):
            if enough > MOST_STEPS:
                remedy = "pass steps, or a scale and an eta nearer to 0"
                expected = f"a scale that {MOST_STEPS} steps are enough for"
                raise fail("scale", expected, f"{self.scale:g}, which takes {enough}", remedy)
            steps = enough
        self.plan = resolve(
            self.sde, guided, solver, steps=steps, grid=grid, t_end=t_end, eta=eta, denoise=False
        )
        taken = sum(len(nodes) - 1 for nodes in self.plan.schedule.segments)
        if 2 * taken < enough and self.scale not in (0.0, 1.0):  # where all weights are 1
            warn(
                f"steps: expected about {enough} at scale {self.scale:g}, got {taken}; log Z may "
                "come out too large, and rare particles be exaggerated; pass steps=None for the "
                "default, or compare with twice the steps",
            )
        self.loop = Loop(self.sde, self.plan, particles, threshold, REMEDIES)

    def __repr__(self) -> str:
        return (
            f"CorrectedGuidance(scale={self.scale:g}, particles={self.loop.particles}, "
            f"{self.plan!r})"
        )

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
        """Particles of P tilted densities.

        Args:
            shape: (P, *D): P independent runs, each with its own conditions.
            cond: the conditions of each run, name -> (P, ...).
            batch_size: the number of particles of one call of the model, all at once by default;
                the model makes two predictions for each.
            seed, dtype, device, keep_ancestry, keep_path, on_node, progress: as of
                `TwistedSampler.sample`.

        Raises:
            ValueError: a condition is not valid, or the weights of a run are not finite; the
                message names the step.

        Warns:
            CollapsedWeights: as `TwistedSampler.sample`.
            UserWarning: the schedule does not reach noise for data of this size, of which the mean
                may be |w| + |1 - w| times that of the model's own.
        """
        field = self.loop.field(self.guided, shape, seed, cond, dtype, device)
        size = (abs(self.scale) + abs(1.0 - self.scale)) * data_size(self.guided)
        self.sde.warn_of_prior(size)
        records = Records(keep_ancestry, keep_path, on_node, progress)
        return self.loop.run(field, _Run(self, field, batch_size).start, records)


def _steps(scale: float, eta: Eta | None) -> int:
    """The default number of steps, in proportion to the rate at which the guided score acts."""
    factor = max(abs(scale), abs(1.0 - scale)) / 2.0
    if eta is not None and not callable(eta):
        factor *= (1.0 + nonnegative("eta", eta) ** 2) / (1.0 + ETA**2)
    return math.ceil(STEPS * max(1.0, factor))


@final
class _Run:
    """One call of `CorrectedGuidance.sample`: guided predictions and rates of weights."""

    def __init__(self, sampler: CorrectedGuidance, field: Field, batch_size: int | None) -> None:
        self.sampler = sampler
        self.field = field
        self.batch_size = batch_size

    def start(self, x: Tensor, node: Node, last: bool) -> tuple[_Cloud, Tensor]:
        """The particles at the first node, and their log weights."""
        guided, rate = self.read(node, x)
        return _Cloud(self, guided, rate, (), self.sampler.guided.calls(node)), 0.0 * rate

    def read(self, node: Node, x: Tensor) -> tuple[Prediction, Tensor]:
        """The guided prediction, and w (w - 1) |eps_c - eps_u|^2, (P K,) in float64."""
        model, w, parts = self.sampler.guided, self.sampler.scale, []
        for rows, cond in batches(len(x), self.batch_size, self.field.cond):
            if w in (0.0, 1.0):
                plain = model.predict(node, x[rows], cond)
                parts.append((plain.value, x.new_zeros(len(plain.x), dtype=torch.float64)))
            else:
                given, left_out = model.pair(node, x[rows], cond)
                gap = (given.value - left_out.value).flatten(1).double().square().sum(1)
                per_value = given.coefficients("eps")[1] if node.sigma else 0.0
                rate = w * (w - 1.0) * float(per_value) ** 2 * gap
                plain = Prediction(
                    x[rows], node, between(left_out.value, given.value, w), given.kind
                )
                parts.append((plain.value, rate))
        value, rate = (torch.cat(found) for found in zip(*parts, strict=True))
        return Prediction(x, node, value, plain.kind), rate


@final
@dataclass(frozen=True, eq=False)
class _Cloud(Cloud):
    """Particles with their guided predictions, and the rates at which their log weights grow."""

    run: _Run
    guided: Prediction
    rate: Tensor
    past: Past
    calls: int

    @property
    def x(self) -> Tensor:
        return self.guided.x

    @property
    def x0(self) -> Tensor:
        return self.guided.x0

    @property
    def cost(self) -> tuple[int, int]:
        return self.calls, 0

    def take(self, rows: Tensor) -> _Cloud:
        past = tuple((c, m[rows]) for c, m in self.past)
        return _Cloud(self.run, kept(self.guided, rows), self.rate[rows], past, self.calls)

    def step(self, now: Node, nxt: Node, row: Any, last: bool) -> tuple[_Cloud, Tensor]:
        """Move the particles by the guided step, and integrate the rates of their weights."""
        run, sampler = self.run, self.run.sampler
        mean, std, past = sampler.loop.kernel(self.guided, nxt, row, self.past)
        x = mean + std * run.field.noise.normal(self.x, now, nxt)
        guided, rate = run.read(nxt, x)
        if isinstance(row, Held):  # x_0hat is held, or the score at the end: see `Held`
            change = 0.5 * (rate - self.rate) if nxt.sigma else 0.5 * self.rate
        else:
            change = 0.5 * (nxt.log_snr - now.log_snr) * (self.rate + rate)
        if last:
            change = change + 0.5 * rate
        calls = self.calls + sampler.guided.calls(nxt)
        return _Cloud(run, guided, rate, past, calls), change
