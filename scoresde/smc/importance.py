"""Importance weights for the samples of any proposal, with the evidence and a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import (
    fail,
    floating,
    instance,
    positive,
    positive_int,
    refuse,
    show,
    sizes,
    warn,
)
from scoresde._html import Shown, rounded
from scoresde.cond import Cond, check_cond
from scoresde.likelihood import log_prob
from scoresde.likelihood.density import span_of
from scoresde.measurement import Measurement
from scoresde.model import ScoreModel
from scoresde.options import Divergence, Tolerances
from scoresde.sampler import ReverseSampler
from scoresde.smc.particles import CollapsedWeights, drawn, effective, expected
from scoresde.smc.tails import heavy, pareto_shape
from scoresde.smc.twists import Reward, Target
from scoresde.solvers import AdaptiveODE

__all__ = ["Importance", "flow_samples", "reweight"]

EXACT = Divergence("exact")


@final
@dataclass(frozen=True, eq=False, repr=False)
class Importance(Shown):
    """Samples of a proposal with the weights that make them samples of the posterior.

    Attributes:
        x: the samples, (N, *D).
        log_weights: normalised, their exponentials sum to 1: (N,).
        log_evidence: the estimate of log p(y), in nats.
        log_evidence_error: its standard error by the delta method, in nats; at most 1, which it
            reaches when one sample has all the weight, and NaN for one sample.
        ess: the effective sample size.
        pareto_k: the shape of the tail of the weights, see `pareto_shape`. Below 0.5 their
            variance is finite; above `scoresde.smc.tails.heavy`, 0.7 for many samples, results and
            stated errors cannot be relied upon. A smaller one is no proof: places that no sample
            has reached leave no trace. NaN for fewer than 25 samples.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: float
    log_evidence_error: float
    ess: float
    pareto_k: float

    @property
    def facts(self) -> dict[str, object]:
        """The estimate of the evidence and its reliability, name -> value, for a table."""
        return {
            "x": show(self.x),
            "log evidence, nats": rounded(self.log_evidence, self.log_evidence_error),
            "effective size": f"{self.ess:.0f} of {len(self.x)}",
            "shape of the tail": None if math.isnan(self.pareto_k) else f"{self.pareto_k:.2f}",
        }

    def __repr__(self) -> str:
        return (
            f"Importance({len(self.x)} samples, ess {self.ess:.0f}, pareto_k {self.pareto_k:.2f}, "
            f"log_evidence {self.log_evidence:.3f} +- {self.log_evidence_error:.3f})"
        )

    def expectation(self, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """The posterior expectation of fn: (N, *D) -> (N, ...)."""
        return expected(self.x[None], self.log_weights[None], fn)[0]

    @property
    def mean(self) -> Tensor:
        """The posterior mean, (*D)."""
        return self.expectation(lambda x: x)

    def resample(self, n: int, *, seed: int = 0) -> Tensor:
        """n samples with equal weights, (n, *D), by systematic resampling; see `Particles`."""
        return drawn(self.x[None], self.log_weights[None], n, seed)[0]


def flow_samples(
    proposal: ScoreModel,
    n: int,
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    cond: Cond = None,
    tolerance: float = 1e-5,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Samples of the probability flow of a model, with their log densities: (n, *shape), (n,).

    Any score model serves, such as one of a posterior, which is differentiated twice. The
    divergence is exact, one product for each number of a sample, so it suits low dimension.

    Args:
        proposal: the score model, under an affine SDE.
        n: the number of samples.
        shape: the shape of a sample, (*D).
        seed: the seed of the samples.
        cond: conditions, name -> (n, ...).
        tolerance: that of a step.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Example:
        >>> from scoresde import Gaussian, VPSDE
        >>> normal = Gaussian(torch.zeros(2), torch.ones(2))
        >>> x, log_q = flow_samples(normal.under(VPSDE()), 3, (2,))
        >>> bool((log_q - normal.log_prob(x)).abs().max() < 1e-3)
        True
    """
    n = positive_int("n", n, "pass the number of samples")
    instance("proposal", proposal, ScoreModel, "wrap a function score(t, x) in FunctionScore")
    shape = sizes("shape", shape, "the shape (*D) of a sample", "pass e.g. shape=(2,)")
    _check_options(tolerance, progress)
    sde, (end, _) = span_of(proposal, None, None)
    solver = AdaptiveODE("dopri5", tolerance, tolerance)
    sampler = ReverseSampler(sde, proposal, solver, t_end=end, eta=0.0, denoise=False)
    x = sampler.sample((n, *shape), seed=seed, cond=cond, dtype=torch.float64, progress=progress)
    return x, _density(proposal, x, cond, tolerance, progress)


def _check_options(tolerance: float, progress: bool) -> None:
    positive("tolerance", tolerance, "1e-5 is usual")
    instance("progress", progress, bool, "pass True or False")


def _density(model: ScoreModel, x: Tensor, cond: Cond, tolerance: float, progress: bool) -> Tensor:
    bounds = Tolerances(tolerance, tolerance)
    return log_prob(
        model, x, cond=cond, divergence=EXACT, tolerances=bounds, progress=progress
    ).nats


def reweight(
    model: ScoreModel,
    measurement: Measurement | Reward,
    x: Tensor,
    log_q: Tensor,
    *,
    log_p: Tensor | None = None,
    cond: Cond = None,
    tolerance: float = 1e-5,
    progress: bool = False,
) -> Importance:
    """Importance weights p(x) p(y | x) / q(x) for samples of any proposal q.

    Args:
        model: the score model of the prior, whose `log_prob` gives log p(x).
        measurement: the measurement, or a reward (see `TwistedSampler`).
        x: the samples, (N, *D), at the time at which `log_prob` ends, as from `flow_samples`.
        log_q: their log densities under the proposal, (N,).
        log_p: their log densities under the prior, (N,), if these are known.
        cond: conditions of the prior, name -> (N, ...), and the measurement if it holds none, the
            same in all rows, since the evidence is that of one.
        tolerance: that of a step of `log_prob`.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Raises:
        TypeError, ValueError: an argument is not valid, the rows of the measurement differ, or no
            weight is finite.

    Warns:
        CollapsedWeights: `pareto_k` is above 0.7.

    Source: Vehtari et al. 2024 (arXiv 1507.02646) for the diagnosis.

    Example:
        >>> from scoresde import Gaussian, VPSDE
        >>> from scoresde.measurement import Identity
        >>> prior = Gaussian(torch.zeros(1), torch.ones(1)).under(VPSDE())
        >>> x, log_q = flow_samples(prior, 2000, (1,))
        >>> y = Measurement(Identity(), torch.tensor([1.0]), 1.0)
        >>> found = reweight(prior, y, x, log_q, log_p=log_q)
        >>> abs(float(found.mean) - 0.5) < 0.1
        True
    """
    instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
    if floating("x", x).ndim < 2:
        raise fail("x", "shape (N, *D)", x, "give scalars a column: x[:, None]")
    _check_options(tolerance, progress)
    sde, (end, _) = span_of(model, None, None)
    target = Target(measurement)
    given = check_cond(target.admitting(model), cond, len(x), x.device)
    with torch.no_grad():
        data = x / sde.at(end).alpha
        y, rest = target.split(given, data)
        if not bool(torch.isclose(y, y[:1], rtol=0.0, atol=0.0, equal_nan=True).all()):
            remedy = "repeat one measurement in all rows, and call reweight for each of several"
            raise fail("cond", "one measurement for all samples", "rows that differ", remedy)
        prior = _density(model, x, rest, tolerance, progress) if log_p is None else log_p
        for name, value in (("log_q", log_q), ("log_p", prior)):
            if floating(name, value).shape != x.shape[:1]:
                raise fail(name, f"shape ({len(x)},)", value, "one number for each sample")
        raw = (prior - log_q).double() + target.log_prob(data, y).double()
    total = torch.logsumexp(raw, 0)
    if not bool(torch.isfinite(total)) or bool(raw.isnan().any()):
        remedy = "log_prob may have stopped samples, or the proposal misses the posterior"
        raise refuse("weights", "finite weights", f"log sum {float(total)}", remedy)
    normal, count = raw - total, len(x)
    size = float(effective(normal[None])[0])
    error = math.nan
    if count > 1:
        error = math.sqrt(max(1.0 / size - 1.0 / count, 0.0) * count / (count - 1))
    k = pareto_shape(normal)
    if k > heavy(count) or size < min(10.0, 0.5 * count):
        warn(
            f"the weights have a heavy tail, pareto_k = {k:.2f}, and {count} samples are worth "
            f"{size:.1f} independent ones: take a proposal that is closer to the posterior, or "
            "TwistedSampler",
            CollapsedWeights,
        )
    return Importance(data, normal, float(total) - math.log(count), error, size, k)
