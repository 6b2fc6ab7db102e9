"""A log-likelihood and what is known of its errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import brief, fail, instance
from scoresde.quantisation import Quantisation

__all__ = ["LogLikelihood"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood:
    """Log-likelihoods of samples in nats, each with its error budget.

    What is not known is NaN, never 0. A sample that the solver had to stop (see `status`) has
    the value NaN.

    Attributes:
        draws: (K, B), one independent estimate for each probe; (1, B) for the exact divergence.
        prior: (B,), log p_T(x_T), the share of the prior.
        z: (B, *D), x_T: the latent code.
        solver_error: (B,), how much log p may be off by the steps: the effects on it of the
            embedded errors and of a coarser estimate, to first order, summed by absolute value.
            It is meant to be too large rather than too small: as a rule by some 10 to 100 times,
            more at tight tolerances. What was measured, by family, data and tolerance, is in
            benchmarks/results/stated_errors-quick.md.
        truncation: (B,), an estimate of the reported log p less log p_0(x), for the stop at t_end
            instead of 0: first order in sigma^2, so good where p_0 is smooth on the scale of the
            noise there, else a warning; NaN for "jensen", which is a bound instead.
        prior_mismatch: (B,), log p(x_T) of the Gaussian with the control's moments less that of
            the prior; NaN without a control.
        nfe: (B,), network evaluations of each sample.
        accepted, rejected: (B,), steps.
        status: "done"; "budget" or "underflow" if a sample was stopped.
        t_end: the time whose density it is.
        noise: sigma/alpha at t_end, the noise left, in units of the data.
        divergence, truncated: how the trace was found, and what was done about t_end.
        dim: D, the entries of a sample.
        extent: least and greatest entry of x.
    """

    draws: Tensor
    prior: Tensor
    z: Tensor
    solver_error: Tensor
    truncation: Tensor
    prior_mismatch: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    status: str
    t_end: float
    noise: float
    divergence: str
    truncated: str
    dim: int
    extent: tuple[float, float]

    def __repr__(self) -> str:
        return brief(self)

    @property
    def nats(self) -> Tensor:
        """log p of each sample, (B,): the mean over the probes."""
        return self.draws.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """That of each sample's log p over the probes, (B,), in nats.

        0 for the exact divergence; NaN, unknown, for a single probe.
        """
        draws = self.draws.detach()
        if self.divergence == "exact":
            return torch.zeros_like(draws[0])
        if len(draws) == 1:
            return torch.full_like(draws[0], math.nan)
        return draws.std(0) / math.sqrt(len(draws))

    def estimate(self, quantisation: Quantisation | None = None) -> tuple[float, float]:
        """Mean over the batch and its standard error: log p in nats, or bits/dim of a
        quantisation.

        The error is that of the probes, which are independent between samples; how the samples
        stand for the data is another matter.
        """
        error = float(self.standard_error.square().sum().sqrt()) / self.draws.shape[1]
        if quantisation is None:
            return float(self.nats.detach().mean()), error
        bits = self.bits_per_dim(quantisation).detach()
        return float(bits.mean()), error / (self.dim * math.log(2))

    def budget(self) -> dict[str, float]:
        """The error budget, in nats: means over the batch, all but the standard error's RMS.

        Keys: "log_prob", "standard_error" (of one sample), "solver_error", "truncation",
        "prior_mismatch".
        """
        return {
            "log_prob": float(self.nats.detach().mean()),
            "standard_error": float(self.standard_error.square().mean().sqrt()),
            "solver_error": float(self.solver_error.mean()),
            "truncation": float(self.truncation.mean()),
            "prior_mismatch": float(self.prior_mismatch.mean()),
        }

    def bits_per_dim(self, quantisation: Quantisation) -> Tensor:
        """-log2 of a bin's probability, by the density at x, per dimension: (B,).

        -nats / (D log 2) - log2(bin width). For x = level + uniform noise of one bin its mean is
        an upper bound on the code length of the levels; `discrete_log_prob` draws that noise.
        At levels without noise it is no bound of anything.

        Raises:
            TypeError: no quantisation.
            ValueError: x reaches beyond the quantisation's range by more than half a bin.
        """
        remedy = "bits per dimension are defined by the levels: pass e.g. Quantisation(256)"
        instance("quantisation", quantisation, Quantisation, remedy)
        reach = quantisation.bin_width * (0.5 + 1e-6 * quantisation.levels)
        low, high = self.extent
        if low < quantisation.low - reach or high > quantisation.high + reach:
            expected = (
                f"values in the quantisation's range [{quantisation.low:g}, {quantisation.high:g}]"
            )
            got = f"values from {low:g} to {high:g}"
            raise fail("x", expected, got, "rescale x, or mend the quantisation")
        return -self.nats / (self.dim * math.log(2)) - math.log2(quantisation.bin_width)
