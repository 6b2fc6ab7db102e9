"""Log-likelihoods and estimates of their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from scoresde._check import fail, instance
from scoresde._html import Shown, rounded
from scoresde.quantisation import Quantisation
from scoresde.summary import Units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LogLikelihood"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood(Shown):
    """Log-likelihoods of samples in nats, each with its error budget.

    Unknown values are NaN, never 0. A sample that the solver stopped (see `status`) has the value
    NaN.

    Attributes:
        draws: (K, B), one independent estimate per probe; (1, B) for the exact divergence.
        prior: (B,), log p_T(x_T), the contribution of the prior.
        z: (B, *D), x_T: the latent code.
        solver_error: (B,), the estimated discretisation error of log p: the embedded errors and a
            coarser estimate, propagated to first order, their absolute values summed. It is
            pessimistic, usually by a factor of 10 to 100 and more at tight tolerances.
            benchmarks/results/stated_errors-quick.md has measurements by family, data and
            tolerance.
        truncation: (B,), an estimate of the reported log p minus log p_0(x), the effect of
            stopping at t_end instead of 0. It is of first order in sigma^2: accurate if p_0 is
            smooth on the scale of the noise there, otherwise only a warning. NaN for "jensen",
            which is a bound.
        prior_mismatch: (B,), log p(x_T) of the Gaussian with the control's moments minus that of
            the prior; NaN without a control.
        nfe: (B,), network evaluations of each sample.
        accepted, rejected: (B,), numbers of steps.
        status: "done", or "budget" or "underflow" if a sample was stopped.
        t_end: the time of the density.
        noise: sigma/alpha at t_end, the remaining noise in units of the data.
        divergence, truncated: the estimator of the trace and the treatment of t_end.
        dim: D, the number of entries of a sample.
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

    @property
    def facts(self) -> dict[str, object]:
        """The estimate and its errors, name -> value, for a table."""
        budget = self.budget()
        least, most = int(self.nfe.min()), int(self.nfe.max())
        return {
            "log p, nats": rounded(*self.estimate()),
            "samples": self.draws.shape[1],
            "standard error of a sample": rounded(budget["standard_error"]),
            "solver error": rounded(budget["solver_error"]),
            "truncation": rounded(budget["truncation"]),
            "prior mismatch": rounded(budget["prior_mismatch"]),
            "divergence": f"{self.divergence}, estimates of a sample: {len(self.draws)}",
            "density at": f"t={self.t_end:g}, truncated by {self.truncated!r}",
            "network evaluations": f"{least} to {most} for each sample",
            "status": self.status,
        }

    def __repr__(self) -> str:
        told, budget = rounded(*self.estimate()), self.budget()
        spread, error = (rounded(budget[key]) for key in ("standard_error", "solver_error"))
        return (
            f"LogLikelihood({self.draws.shape[1]} samples of {self.dim} entries, "
            f"log p {told} nats on average; of a sample: standard error {spread}, "
            f"solver error {error}; status {self.status!r})"
        )

    def plot(self, *, title: str = "") -> Figure:
        """log p of each sample in ascending order, with two standard errors over the probes.

        The other errors are in `budget`.

        Raises:
            ValueError: no sample has a value; see `status`.
        """
        from scoresde.plot import likelihoods

        return likelihoods(self.nats, self.standard_error, title=title)

    @property
    def nats(self) -> Tensor:
        """log p of each sample, (B,): the mean over the probes."""
        return self.draws.mean(0)

    def nats_in_units(self, scaling: Units | None, x: Tensor) -> Tensor:
        """log p of each sample in the units of the raw values, (B,): `nats` + log |det dx/draw|.

        Args:
            scaling: the map from raw values to model units, such as `model.data.scaling`; None if
                they are the same.
            x: (B, *D), the samples in model units, as passed to `log_prob`.

        Raises:
            ValueError: x has another number of samples, or the raw values have no density, since
                a table has categories, missing cells or numbers on a bound.
        """
        if len(x) != self.draws.shape[1]:
            expected = f"the {self.draws.shape[1]} samples of log_prob"
            raise fail("x", expected, x, "pass the same x")
        return self.nats if scaling is None else self.nats + scaling.log_abs_det(x).to(self.nats)

    @property
    def standard_error(self) -> Tensor:
        """The standard error of each sample's log p over the probes, (B,), in nats.

        It is 0 for the exact divergence and NaN, unknown, for a single probe.
        """
        draws = self.draws.detach()
        if self.divergence == "exact":
            return torch.zeros_like(draws[0])
        if len(draws) == 1:
            return torch.full_like(draws[0], math.nan)
        return draws.std(0) / math.sqrt(len(draws))

    def estimate(self, quantisation: Quantisation | None = None) -> tuple[float, float]:
        """Mean over the batch and its standard error, in nats or, with a quantisation, bits/dim.

        The error is that of the probes, which are independent between samples; it does not
        include the choice of the samples.
        """
        error = float(self.standard_error.square().sum().sqrt()) / self.draws.shape[1]
        if quantisation is None:
            return float(self.nats.detach().mean()), error
        bits = self.bits_per_dim(quantisation).detach()
        return float(bits.mean()), error / (self.dim * math.log(2))

    def budget(self) -> dict[str, float]:
        """The error budget in nats: means over the batch, for the standard error the RMS.

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

        It is -nats / (D log 2) - log2(bin width). For x = level + uniform noise of one bin its
        mean is an upper bound on the code length of the levels; `discrete_log_prob` draws this
        noise. For levels without noise it is not a bound.

        Raises:
            TypeError: `quantisation` is not a `Quantisation`.
            ValueError: x exceeds the range of the quantisation by more than half a bin.
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
            raise fail("x", expected, got, "rescale x, or correct the quantisation")
        return -self.nats / (self.dim * math.log(2)) - math.log2(quantisation.bin_width)
