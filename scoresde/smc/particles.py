"""Weighted particles: the result of a particle sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, listed, positive_int, show, wrong_type
from scoresde._html import Shown
from scoresde._tensor import seeded
from scoresde.solvers.base import Plan

__all__ = [
    "CollapsedWeights",
    "Particles",
    "drawn",
    "effective",
    "expected",
    "relative_variance",
    "systematic",
]


class CollapsedWeights(UserWarning):
    """Few particles hold nearly all the weight, or all descend from few, or the tail is heavy."""


def expected(x: Tensor, log_weights: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Weighted means of fn: (N, *D) -> (N, ...) over x: (P, K, *D), (P, ...)."""
    if not callable(fn):
        raise wrong_type("fn", "a function", fn, "pass a function of x: (N, *D), e.g. lambda x: x")
    count, size = x.shape[:2]
    values = fn(x.flatten(0, 1))
    if not isinstance(values, Tensor) or values.shape[:1] != (count * size,):
        leading = f"a tensor with leading {count * size}"
        raise fail("fn(x)", leading, values, "return one value for each particle")
    values = values.reshape(count, size, *values.shape[1:])
    return torch.einsum("pk,pk...->p...", log_weights.exp().to(values), values)


def drawn(x: Tensor, log_weights: Tensor, n: int, seed: int) -> Tensor:
    """n draws with equal weights of each of P sets x: (P, K, *D), in random order."""
    n, generator = positive_int("n", n), seeded(seed)
    count = len(x)
    u = torch.rand(count, 1, generator=generator, dtype=torch.float64, device="cpu")
    chosen = systematic(log_weights.double().exp(), u.to(x.device), n)
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(count)])
    chosen = chosen.gather(1, order.to(chosen.device))
    return torch.stack([own[rows] for own, rows in zip(x, chosen, strict=True)])


@final
@dataclass(frozen=True, eq=False, repr=False)
class Particles(Shown):
    """Weighted samples of P posteriors or tilted densities, K for each, with the evidence.

    Attributes:
        x: the particles, (P, K, *D).
        log_weights: normalised, their exponentials sum to 1 over K: (P, K).
        log_evidence: the estimate of log p(y), in nats: (P,). For a reward it is that of the log
            mean of its exponential, for a tilted density that of the log of its integral.
        log_evidence_error: its standard error, (P,), in nats. It is that of the estimate for this
            solver and grid; the error of the time steps comes on top. It is at most 1, which it
            reaches when all particles descend from one, and NaN for one particle.
        ess: the effective sample size at every node, before resampling: (P, steps + 1).
        resampled: whether the particles were resampled at a node, (P, steps + 1).
        pareto_k: the largest shape of the tail of the weights, at the end or before a resampling,
            see `pareto_shape`: (P,). Above `scoresde.smc.tails.heavy`, 0.67 for 1000, the evidence
            may be further off than its standard error says. A smaller one is no proof: places that
            no particle has reached leave no trace. NaN for fewer than 25 particles.
        eve: the number of the particle at the start that each one descends from, (P, K).
        ancestry: the parent of every particle at each step, (steps, P, K), if it was asked for.
        path: the particles at all nodes, (steps + 1, P, K, *D), if it was asked for; `ancestry`
            joins them.
        plan: the solver and the schedule.
        nfe: network evaluations of one particle.
        products: vector-Jacobian products of one particle.
        seed: the seed of the noise.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor
    ess: Tensor
    resampled: Tensor
    pareto_k: Tensor
    eve: Tensor
    ancestry: Tensor | None
    path: Tensor | None
    plan: Plan
    nfe: int
    products: int
    seed: int

    @property
    def facts(self) -> dict[str, object]:
        """The particles and the evidence, name -> value, for a table."""
        return {
            "x": show(self.x),
            "log evidence, nats": self._evidence,
            "effective size at the end": self._effective,
            "shape of the tail": self._tail,
            "resampled at": f"{float(self.resampled.double().mean()):.0%} of the nodes",
            "network evaluations": f"{self.nfe} for each particle",
            "seed": self.seed,
            **self.plan.facts,
        }

    @property
    def _evidence(self) -> str:
        each = zip(self.log_evidence.tolist(), self.log_evidence_error.tolist(), strict=True)
        return listed([f"{value:.3f} ± {error:.3f}" for value, error in each], 3)

    @property
    def _tail(self) -> str | None:
        largest = float(self.pareto_k.max())
        return None if math.isnan(largest) else f"at most {largest:.2f}"

    @property
    def _effective(self) -> str:
        return f"at least {float(self.ess[:, -1].min()):.0f} of {self.x.shape[1]}"

    def _picture(self) -> bytes | None:
        from scoresde.plot.picture import thumbnail  # for notebooks alone

        return thumbnail(self.resample(self.x.shape[1])[0])

    def __repr__(self) -> str:
        return (
            f"Particles({show(self.x)}, ess {self._effective}, log_evidence {self._evidence}, "
            f"nfe={self.nfe})"
        )

    @property
    def weights(self) -> Tensor:
        """The normalised weights, (P, K)."""
        return self.log_weights.exp()

    def expectation(self, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """The posterior expectation of fn: (N, *D) -> (N, ...), (P, ...)."""
        return expected(self.x, self.log_weights, fn)

    @property
    def mean(self) -> Tensor:
        """The posterior mean, (P, *D)."""
        return self.expectation(lambda x: x)

    @property
    def std(self) -> Tensor:
        """The posterior standard deviation of each number, (P, *D)."""
        centre = self.mean.repeat_interleave(self.x.shape[1], 0)
        return self.expectation(lambda x: (x - centre).square()).sqrt()

    def resample(self, n: int, *, seed: int = 0) -> Tensor:
        """n samples of each posterior with equal weights, (P, n, *D), by systematic resampling.

        Args:
            n: the number of samples. A particle can occur more than once.
            seed: the seed of the draw.
        """
        return drawn(self.x, self.log_weights, n, seed)


def systematic(weights: Tensor, u: Tensor, n: int) -> Tensor:
    """Systematic resampling: the indices of n draws by one uniform number each, (P, n).

    Args:
        weights: normalised, (P, K), float64.
        u: uniform on [0, 1), (P, 1).
        n: the number of draws. Index k occurs floor(n w_k) or ceil(n w_k) times.
    """
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + u) / n
    edges = weights.cumsum(1)
    edges = edges / edges[:, -1:]
    return torch.searchsorted(edges, points, right=True).clamp_max(weights.shape[1] - 1)


def effective(log_weights: Tensor) -> Tensor:
    """The effective sample size 1 / sum w^2 of normalised weights, (P,)."""
    return (-torch.logsumexp(2.0 * log_weights, 1)).exp()


def relative_variance(log_weights: Tensor, eve: Tensor) -> Tensor:
    """The relative variance of the estimate of the evidence, (P,), from one run.

    The estimate is a mean over the K families of descendants of the particles at the start, so its
    variance is that between the families, sum_e (W_e - 1/K)^2 K / (K - 1), with W_e the weight of
    family e; without resampling it is that of importance sampling. It takes the families as
    independent. Chan and Lai 2013 (Annals of Statistics 41); the correction of Lee and Whiteley
    2018 (Biometrika 105) for multinomial resampling would be too large for the systematic one.

    Args:
        log_weights: normalised, (P, K).
        eve: the ancestor at the start, (P, K).

    It is NaN for one particle.
    """
    size = eve.shape[1]
    families = torch.zeros_like(log_weights).scatter_add_(1, eve, log_weights.exp())
    spread = (families - 1.0 / size).square().sum(1)
    return spread * (size / (size - 1)) if size > 1 else torch.full_like(spread, math.nan)
