"""Bounds on the probability of discrete data under a density, by dequantisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, positive_int
from scoresde._html import Shown, rounded
from scoresde._progress import Progress, progress_or
from scoresde._tensor import check_data, ordinary, wide
from scoresde.cond import Cond
from scoresde.likelihood.density import Prior, log_prob, span_of
from scoresde.model import ScoreModel
from scoresde.noise import Independent
from scoresde.options import Divergence, Tolerances
from scoresde.quantisation import Quantisation, check_levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DEQUANTISERS", "DiscreteLogLikelihood", "discrete_log_prob"]


def _uniform(u: Tensor, half: float) -> tuple[Tensor, Tensor]:
    z = half * (2.0 * u - 1.0)
    return z, torch.full_like(z, -math.log(2.0 * half))


def _truncated_normal(u: Tensor, half: float) -> tuple[Tensor, Tensor]:
    mass = math.erf(half / math.sqrt(2.0))
    z = math.sqrt(2.0) * torch.special.erfinv((2.0 * u - 1.0) * mass)
    return z, -0.5 * z.square() - math.log(mass * math.sqrt(2.0 * math.pi))


DEQUANTISERS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "uniform": _uniform,
    "truncated_normal": _truncated_normal,
}
"""Name -> function of uniforms u and tau that returns z in (-tau, tau) and its log density.

- "uniform": uniform over the bin (Theis et al. 2016, arXiv 1511.01844);
- "truncated_normal": the noise of the SDE at t_end, truncated to the bin (Zheng et al. 2023,
  i-DODE, arXiv 2305.03935, sec. 4.2), for a model of discrete data: tight if tau, half a bin over
  sigma/alpha, is about 4 or more. For a density that is smooth across the bin, such as that of
  dequantised data, a large tau is far from tight; compare the bound at two t_end.
"""


@final
@dataclass(frozen=True, eq=False, repr=False)
class DiscreteLogLikelihood(Shown):
    """A lower bound on the log probability of discrete samples, in nats and in bits/dim.

    Attributes:
        draws: (S, B), independent estimates of the bound.
        tau: half a bin in units of the noise at t_end, sigma/alpha.
        solver_error: (B,), as in `LogLikelihood`, the mean over the solves.
        nfe: (B,), network evaluations of each sample over all solves.
        quantisation: the levels.
        dim: D.
        dequantise, importance: the arguments of that name.
        status: as in `LogLikelihood`; samples that were stopped have the value NaN.
    """

    draws: Tensor
    tau: float
    solver_error: Tensor
    nfe: Tensor
    quantisation: Quantisation
    dim: int
    dequantise: str
    importance: int
    status: str

    @property
    def facts(self) -> dict[str, object]:
        """The estimate and its errors, name -> value, for a table."""
        least, most = int(self.nfe.min()), int(self.nfe.max())
        return {
            "bits/dim, at most": rounded(*self.estimate()),
            "samples": self.draws.shape[1],
            "solver error, nats": rounded(float(self.solver_error.mean())),
            "half a bin over the noise": rounded(self.tau),
            "draws": f"{len(self.draws)}, {self.dequantise}, importance {self.importance}",
            "quantisation": self.quantisation,
            "network evaluations": f"{least} to {most} for each sample",
            "status": self.status,
        }

    def plot(self, *, title: str = "") -> Figure:
        """The bound on log P of each sample in ascending order, with two standard errors.

        Raises:
            ValueError: no sample has a value; see `status`.
        """
        from scoresde.plot import likelihoods

        label = "lower bound on log P, nats"
        return likelihoods(self.nats, self.standard_error, ylabel=label, title=title)

    @property
    def nats(self) -> Tensor:
        """The bound on log P of each sample, (B,): the mean of the draws."""
        return self.draws.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of each sample's bound over dequantisation and probes, in nats: (B,)."""
        return self.draws.std(0) / math.sqrt(len(self.draws))

    def bits_per_dim(self, quantisation: Quantisation | None = None) -> Tensor:
        """The bound in bits per dimension, -nats / (D log 2), already of bins: (B,).

        Raises:
            ValueError: the quantisation is not that of the data.
        """
        if quantisation is not None and quantisation != self.quantisation:
            remedy = "the levels are those that discrete_log_prob was given"
            raise fail("quantisation", f"{self.quantisation}", quantisation, remedy)
        return -self.nats / (self.dim * math.log(2))

    def estimate(self) -> tuple[float, float]:
        """Mean bits/dim over the batch and its standard error over the draws."""
        means = -self.draws.mean(1) / (self.dim * math.log(2))
        return float(means.mean()), float(means.std()) / math.sqrt(len(means))


@ordinary
def discrete_log_prob(
    model: ScoreModel,
    x: Tensor,
    quantisation: Quantisation,
    *,
    dequantise: str = "uniform",
    draws: int = 5,
    importance: int = 1,
    cond: Cond = None,
    prior: Prior = None,
    divergence: str | Divergence = Divergence(),
    seed: int = 0,
    first: int = 0,
    tolerances: Tolerances = Tolerances(),
    t_end: float | None = None,
    batch_size: int | None = None,
    progress: bool | Progress = False,
) -> DiscreteLogLikelihood:
    """The log probability of discrete data along the probability flow, bounded from below.

    The model gives a level the integral of p(x_{t_end}/alpha) over its bin, so

        log P(k) >= E log (1/K) sum_k p_e(x_e) / q(x_e | k),   x_e = alpha x + sigma z,

    with z from a `dequantise` distribution and K the `importance` (Burda et al. 2016, arXiv
    1509.00519). x_e is a state at t_end, so stopping there causes no error, and log K is
    included. Each draw has its own probes, and its solve costs the calls of one `log_prob`.

    Args:
        model: a score model of an affine SDE.
        x: (B, *D), exactly the quantisation's levels in model units, `quantisation.encode(k)`.
        quantisation: the levels.
        dequantise: "uniform" or "truncated_normal".
        draws: S >= 5 independent draws, which give the standard error.
        importance: K; above 1 the bound is tighter. The noise of probes would enter the weights
            and invalidate the bound, so K > 1 requires divergence="exact".
        progress: as in `log_prob`; a bar of yours is advanced by one for each sample and draw.
        the others: as in `log_prob`.

    Warns:
        UnfinishedWarning: as in `log_prob`.

    Raises:
        TypeError: the quantisation is missing, or x has integers.
        ValueError: x is not on the levels, there are fewer than 5 draws, importance > 1 with
            probes, and every error of `log_prob`.

    Example:
        >>> from scoresde import VPSDE, Empirical
        >>> quantisation = Quantisation(4)
        >>> x = quantisation.encode(torch.arange(4)[:, None], dtype=torch.float64)
        >>> result = discrete_log_prob(
        ...     Empirical(x).under(VPSDE()),
        ...     x,
        ...     quantisation,
        ...     dequantise="truncated_normal",
        ...     divergence="exact",
        ...     t_end=1e-2,
        ... )
        >>> round(result.estimate()[0], 2)  # four equally likely levels: 2 bits
        2.0
    """
    check_levels(check_data(x), quantisation)
    choice("dequantise", dequantise, DEQUANTISERS)
    count = positive_int("draws", draws)
    if count < 5:
        raise fail("draws", "at least 5", draws, "fewer say little about the error")
    weights = positive_int("importance", importance, "1 is the plain bound")
    how = Divergence.of(divergence)
    if weights > 1 and how.kind != "exact":
        remedy = "pass divergence='exact', or importance=1 and more draws"
        raise fail("importance", "1 with an estimated divergence", importance, remedy)
    instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
    noise = Independent(seed, first).stream("dequantise")
    sde, (end, _) = span_of(model, t_end, None)
    node, dim = sde.at(end), x[0].numel()
    tau = quantisation.bin_width * math.exp(sde.log_snr(end)) / 2
    values, errors, calls, status = [], [], [], "done"
    total = count * weights * len(x)
    with progress_or(progress, total, "discrete_log_prob", "draws") as bar:
        for number in range(count * weights):
            u: Tensor = torch.special.ndtr(noise.draw(wide(x), number))  # uniform in (0, 1)
            z, log_q = DEQUANTISERS[dequantise](u, tau)
            result = log_prob(
                model,
                node.alpha * wide(x) + node.sigma * z,
                cond=cond,
                prior=prior,
                divergence=how,
                seed=noise.seed_of(number),
                first=first,
                tolerances=tolerances,
                t_end=end,
                batch_size=batch_size,
                progress=progress is not False and bar,
            )
            # in each entry the density of x_e is that of z divided by sigma
            values.append(result.nats - log_q.flatten(1).sum(1) + dim * math.log(node.sigma))
            errors.append(result.solver_error)
            calls.append(result.nfe)
            status = status if result.status == "done" else result.status
    logs = torch.stack(values).reshape(count, weights, len(x))
    return DiscreteLogLikelihood(
        draws=logs.logsumexp(1) - math.log(weights),
        tau=tau,
        solver_error=torch.stack(errors).mean(0),
        nfe=torch.stack(calls).sum(0),
        quantisation=quantisation,
        dim=dim,
        dequantise=dequantise,
        importance=weights,
        status=status,
    )
