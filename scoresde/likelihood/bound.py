"""The variational bound on the likelihood of a chain and in continuous time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, positive, positive_int
from scoresde._html import Shown, rounded
from scoresde._progress import Progress, progress_or
from scoresde._tensor import batches, check_data, lincomb, ordinary, seeded, wide
from scoresde.cond import Cond, check_cond
from scoresde.ddpm import DDPM
from scoresde.ddpm.decoder import DECODERS, reconstruction, squared_error
from scoresde.losses import LEAST_NOISE
from scoresde.model import Preconditioned, ScoreModel, bare, warn_of_raw
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.prediction import Prediction
from scoresde.quantisation import Quantisation, check_levels
from scoresde.schedule.grid import SoftLogSNR
from scoresde.sde import AffineSDE, as_affine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PROPOSALS", "Bound", "elbo", "t_end_of"]

PROPOSALS = ("log_snr", "uniform")
"""The distribution of times: uniform in the log-SNR, or in time (in the number of the step).

Near pure noise, where the log-SNR is unbounded, `scoresde.schedule.grid.SoftLogSNR` replaces it.
"""

STEPS = 128

PLAIN_NOISE = 0.5
"""The noise, in bin widths, at which the bound ends for a network that does not see levels."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@final
@dataclass(frozen=True, eq=False, repr=False)
class Bound(Shown):
    """An upper bound on -log p of each sample, in nats, with its terms and its Monte-Carlo error.

    Attributes:
        prior: (B,), KL(q(x_T | x_0), p(x_T)); exact.
        diffusion: (B,), the sum or the integral over the steps.
        reconstruction: (B,), the decoder's term.
        draws: (S, B), independent estimates of the whole bound.
        dim: D, the number of entries of a sample.
        decoder: the quantity that is bounded, a key of `scoresde.ddpm.DECODERS`.
        quantisation: the levels, for the decoder "bins".
        nfe: network evaluations per sample.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    draws: Tensor
    dim: int
    decoder: str
    quantisation: Quantisation | None
    nfe: int

    @property
    def facts(self) -> dict[str, object]:
        """The estimate and its errors, name -> value, for a table."""
        return {
            "bound on -log p, nats": rounded(*self.estimate()),
            "samples": self.draws.shape[1],
            "prior": rounded(float(self.prior.mean())),
            "diffusion": rounded(float(self.diffusion.mean())),
            "reconstruction": rounded(float(self.reconstruction.mean())),
            "decoder": self.decoder,
            "quantisation": self.quantisation,
            "network evaluations": f"{self.nfe} for each sample",
        }

    def plot(self, *, title: str = "") -> Figure:
        """The bound of each sample in ascending order, with two standard errors over the draws."""
        from scoresde.plot import likelihoods

        label = "bound on -log p, nats"
        return likelihoods(self.nats, self.standard_error, ylabel=label, title=title)

    @property
    def nats(self) -> Tensor:
        """The bound of each sample, (B,): the mean of the draws."""
        return self.draws.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the bound of each sample over the draws, in nats: (B,).

        It is NaN for a single draw.
        """
        return _error(self.draws)

    def estimate(self, quantisation: Quantisation | None = None) -> tuple[float, float]:
        """Mean over the batch and its standard error: in nats, or in bits/dim of a quantisation.

        The error is that of the Monte-Carlo draws for these samples, from the variance of the
        batch's mean over the draws; it does not include the choice of the samples.
        """
        means = self.draws.mean(1)
        error = float(_error(means))
        if quantisation is None:
            return float(means.mean()), error
        bits = self.bits_per_dim(quantisation)
        return float(bits.mean()), error / (self.dim * math.log(2))

    def bits_per_dim(self, quantisation: Quantisation) -> Tensor:
        """The bound in bits per dimension of discrete data, (B,).

        For the decoder "bins" it is nats / (D log 2). For "gaussian", a density in model units,
        it is the bound for uniformly dequantised data: nats / (D log 2) - log2(bin width).

        Raises:
            TypeError: `quantisation` is not a `Quantisation`.
            ValueError: another quantisation than the decoder's, or the decoder "noised", whose
                density is that of noisy states.
        """
        remedy = "bits per dimension are defined by the levels: pass e.g. Quantisation(256)"
        instance("quantisation", quantisation, Quantisation, remedy)
        if self.decoder == "noised":
            remedy = "use decoder='bins' for discrete data"
            raise fail("decoder", "one that gives x_0 back", self.decoder, remedy)
        bits = self.nats / (self.dim * math.log(2))
        if self.decoder == "gaussian":
            return bits - math.log2(quantisation.bin_width)
        if quantisation != self.quantisation:
            remedy = "pass the quantisation that elbo was given"
            raise fail("quantisation", f"{self.quantisation}", quantisation, remedy)
        return bits


def _error(draws: Tensor) -> Tensor:
    """Standard error of the mean over the first axis."""
    n = len(draws)
    return draws.std(0) / math.sqrt(n) if n > 1 else torch.full_like(draws[0], math.nan)


@ordinary
def elbo(
    model: ScoreModel,
    x: Tensor,
    *,
    quantisation: Quantisation | None = None,
    chain: DDPM | None = None,
    decoder: str = "bins",
    steps: int | None = None,
    samples: int = 4,
    proposal: str = "log_snr",
    t_end: float | None = None,
    decoder_variance: float | None = None,
    cond: Cond = None,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    progress: bool | Progress = False,
) -> Bound:
    """The evidence lower bound, as an upper bound on -log p of each sample, in nats.

    With a chain it is L_T + sum of L_{i-1} + L_0 (Ho et al. 2020, eq. 5), where the sum is exact
    or over steps drawn in proportion to their length in the log-SNR. Without a chain it is, in
    continuous time,

    -log p(x_0) <= KL(q(x_T | x_0), p(x_T)) + 1/2 int (-dSNR/dt) E|x_0 - x_0hat|^2 dt
    + E[-log p(x_0 | x_{t_end})],

    the integral from t_end to T (Kingma et al. 2021, VDM, arXiv 2107.00630, eq. 11 and 17),
    under any affine SDE. The integral equals int g^2/2 E(|score error|^2) dt, the
    likelihood-weighted loss of Song et al. 2021 (arXiv 2101.09258), and int E|eps - eps_hat|^2
    dlambda; times are uniform in the log-SNR lambda, or in t for proposal="uniform". Each sample
    has the times (u + k/K) mod 1 of VDM's low-discrepancy rule, with u shifted by the golden
    ratio from sample to sample, so the bound of a sample does not depend on its batch.

    The bounded quantity depends on the decoder: "bins", -log P of discrete data; "gaussian", -log
    of a density on x_0, p(x_0 | x_{t_end}) = N(x_0hat, decoder_variance); "noised",
    E[-log p_{t_end}(x_{t_end}) | x_0], the cross-entropy of the data noised to t_end, without a
    decoder. The bound holds for the *generative SDE* (or chain) that starts at the SDE's prior
    (N(0, I) for a chain), with any model; its mean over data bounds their entropy. The
    probability-flow ODE has another density unless the score is exact.

    Args:
        model: a score model; call `model.eval()` first if it has dropout.
        x: (B, *D) data in model units; for the decoder "bins" exactly the quantisation's levels.
        quantisation: the levels; required by the decoder "bins".
        chain: a discrete chain; None for continuous time.
        decoder: "bins", "gaussian" or "noised".
        steps: K, the number of times of a draw; by default 128 in continuous time and all steps
            of a chain.
        samples: S, independent draws of the whole bound; two or more give standard errors.
        proposal: "log_snr" or "uniform".
        t_end: the end of the integral; continuous time only. By default it is that of `t_end_of`
            for the decoder "bins", and the SDE's t_min for the others.
        decoder_variance: the variance of p(x_0 | x_{t_end}); by default sigma^2 / alpha^2 at
            t_end, that of x_0 given x_{t_end} under a flat prior. A chain uses Sigma_1.
        cond: conditions, name -> (B, ...).
        seed, first: the noise depends on (seed, number of the sample, draw) alone; `first` is the
            number of the first sample.
        batch_size: number of samples in one call of the model.
        progress: show a bar with the time left, or lines if stderr is not a terminal; or a bar of
            yours, such as one of tqdm, which is advanced by one for each sample and draw.

    Warns:
        DataRangeWarning: x seems to be in the original units of the data, not in model units.

    Raises:
        TypeError, ValueError: "bins" without a quantisation; data that are integers, not finite,
            out of the quantisation's range or between its levels; an SDE that is not affine or
            has an infinite log-SNR at t_end.

    Example:
        >>> from scoresde import Empirical, VPSDE
        >>> quantisation = Quantisation(4)
        >>> x = quantisation.encode(torch.arange(4)[:, None])
        >>> bound = elbo(Empirical(x).under(VPSDE()), x, quantisation=quantisation, steps=512)
        >>> round(bound.estimate(quantisation)[0], 1)  # four equally likely levels: 2 bits
        2.0
    """
    remedy = "wrap the network: Preconditioned(net, sde)"
    instance("model", model, ScoreModel, remedy)
    x = check_data(x)
    warn_of_raw(model, x)
    cond = check_cond(model, cond, len(x), x.device)
    choice("decoder", decoder, DECODERS)
    choice("proposal", proposal, PROPOSALS)
    count = positive_int("samples", samples, "two or more give standard errors")
    if decoder == "bins":
        check_levels(x, quantisation)
        if t_end is None and chain is None and quantisation is not None:
            t_end = t_end_of(model, quantisation)
    source = _source(model, chain, t_end, decoder_variance, steps, proposal)
    noise = Independent(seed, first).stream("bound")
    shifts = _shifts(noise.seed, count)
    parts: list[list[tuple[Tensor, Tensor]]] = []
    with torch.no_grad(), progress_or(progress, count * len(x), "elbo", "draws") as bar:
        for rows, part in batches(len(x), batch_size, cond):
            own = noise.from_sample(noise.first + rows.start)
            job = _Batch(model, x[rows], quantisation, decoder, part, own)
            parts.append([])
            for number, shift in enumerate(shifts):
                parts[-1].append(source.draw(job, number, shift))
                bar.update(len(job.x))
    # (S, 2, B): the diffusion and the reconstruction of each draw
    drawn = torch.cat([torch.stack([torch.stack(d) for d in part]) for part in parts], 2)
    prior = source.prior_kl(wide(x))
    diffusion, last = drawn.mean(0)
    nfe = count * source.calls(decoder)
    total = prior + drawn.sum(1)
    return Bound(prior, diffusion, last, total, x[0].numel(), decoder, quantisation, nfe)


def t_end_of(model: ScoreModel, quantisation: Quantisation) -> float:
    """The time at which the bound on the likelihood of discrete data ends by default.

    The bound holds for any end. With much noise left, the decoder cannot tell the levels apart;
    with little, the network would have to, and most do not see that the data lie on levels. There
    sigma / alpha is `PLAIN_NOISE` bin widths for a network, `LEAST_NOISE` bin widths for one with
    Fourier features of its input (Kingma et al. 2021, appendix C), and t_min for a model without a
    network, such as an oracle, whose prediction knows the levels.

    On 8 x 8 digits of 17 levels a U-Net after 1000 steps has 2.03 bits/dim at 0.3 and at 0.5 bin
    widths, 2.17 at 0.2 and 2.13 at 1; with Fourier features 1.98 at 0.2, 2.01 at 0.1 and at 0.3,
    2.15 at 1.

    Args:
        model: the score model, of an affine SDE.
        quantisation: the levels of the data.

    Example:
        >>> from scoresde import Preconditioned, VPSDE
        >>> from scoresde.nets import UNet
        >>> model = Preconditioned(UNet(1, width=8, multipliers=(1,)), VPSDE())
        >>> round(t_end_of(model, Quantisation(256)), 6)
        0.000152
    """
    sde = as_affine("model.sde", model.sde, "the bound needs x_t given x_0; see LinearSDE")
    parts = (part for part in model.modules() if isinstance(part, Preconditioned))
    inner = next(parts, None)
    if inner is None:
        return sde.t_min
    sees = getattr(bare(inner.net), "config", {}).get("input_fourier")
    noise = (LEAST_NOISE if sees else PLAIN_NOISE) * quantisation.bin_width
    if -math.log(noise) >= sde.log_snr(sde.t_min):
        return sde.t_min
    return float(sde.time_of(-math.log(noise)))


@dataclass(frozen=True, eq=False)
class _Batch:
    """One batch with its conditions and the seed of its noise."""

    model: ScoreModel
    x: Tensor
    quantisation: Quantisation | None
    decoder: str
    cond: Cond
    noise: Noise

    def uniforms(self, shift: float, k: int, steps: int) -> Tensor:
        """One number in [0, 1) for each sample: point k of the low-discrepancy rule."""
        number = torch.arange(len(self.x), dtype=torch.float64, device="cpu") + self.noise.first
        return (shift + number * _GOLDEN + k / steps) % 1.0


def _shifts(seed: int, count: int) -> list[float]:
    generator = seeded(seed)
    one = (
        torch.rand((), dtype=torch.float64, generator=generator, device="cpu")
        for _ in range(count)
    )
    return [float(u) for u in one]


def _last_draws(steps: int) -> int:
    """The number of draws of the reconstruction, which varies most: one for every eight steps."""
    return max(1, steps // 8)


@dataclass(frozen=True)
class _Chain:
    """Draws of a chain's bound: every step once, or K steps by importance sampling."""

    chain: DDPM
    steps: int | None
    proposal: str

    def prior_kl(self, x: Tensor) -> Tensor:
        return self.chain.prior_kl(x)

    def calls(self, decoder: str) -> int:
        n = self.chain.N if self.steps is None else self.steps + 1
        return n - 1 + (0 if decoder == "noised" else _last_draws(n - 1))

    def draw(self, job: _Batch, draw: int, shift: float) -> tuple[Tensor, Tensor]:
        chain, n = self.chain, self.chain.N
        count = n - 1 if self.steps is None else self.steps
        total = wide(job.x).new_zeros(len(job.x))
        for k in range(count):
            eps = job.noise.draw(job.x, draw, k)
            if self.steps is None:
                total += chain.step_kl(job.model, k + 2, job.x, eps, job.cond)
                continue
            i, weight = self._steps(job.uniforms(shift, k, count))
            kl = chain.step_kl(job.model, i, job.x, eps, job.cond)
            total += kl * weight.to(kl) / count
        draws = [job.noise.draw(job.x, draw, count + k) for k in range(_last_draws(count))]
        last = chain.decode(
            job.model,
            job.x,
            draws,
            quantisation=job.quantisation,
            decoder=job.decoder,
            cond=job.cond,
        )
        return total, last

    def _steps(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Steps from 2 to N by inverse transform sampling, and 1 / probability."""
        soft = SoftLogSNR(self.chain.to_sde())  # the last gap may be infinite
        levels = [soft.of(value) for value in self.chain.log_snr[1:]]
        gaps = -torch.tensor(levels, dtype=torch.float64, device="cpu").diff()
        p = (
            gaps / gaps.sum()
            if self.proposal == "log_snr"
            else torch.full_like(gaps, 1 / len(gaps))
        )
        k = torch.searchsorted(p.cumsum(0), u, right=True).clamp_max(len(p) - 1)
        return k + 2, 1 / p[k]


@dataclass(frozen=True)
class _Continuous:
    """Draws of the bound in continuous time."""

    sde: AffineSDE
    t_end: float
    variance: float
    steps: int
    proposal: str

    def prior_kl(self, x: Tensor) -> Tensor:
        return self.sde.prior_kl(x)

    def calls(self, decoder: str) -> int:
        return self.steps + (0 if decoder == "noised" else _last_draws(self.steps))

    def draw(self, job: _Batch, draw: int, shift: float) -> tuple[Tensor, Tensor]:
        total = wide(job.x).new_zeros(len(job.x))
        for k in range(self.steps):
            t, weight = self._times(job.uniforms(shift, k, self.steps))
            node = self.sde.at(t, like=job.x)
            eps = job.noise.draw(job.x, draw, k)
            error = squared_error(self._predict(job, node, eps), job.x, eps, "eps")
            total += error * weight.to(error) / self.steps
        node, count = self.sde.at(self.t_end), _last_draws(self.steps)
        draws = [job.noise.draw(job.x, draw, self.steps + k) for k in range(count)]

        def predict(eps: Tensor) -> Prediction:
            return self._predict(job, node, eps)

        last = reconstruction(predict, job.x, draws, job.decoder, self.variance, job.quantisation)
        return total, last

    def _predict(self, job: _Batch, node: Node, eps: Tensor) -> Prediction:
        x = lincomb((node.alpha, job.x), (node.sigma, eps))
        return job.model.predict(node, x, job.cond)

    def _times(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times in [t_end, T], and the weight |dlambda| / density of |eps error|^2."""
        if self.proposal == "log_snr":
            return SoftLogSNR.between(self.sde, self.t_end).drawn(u, self.t_end)
        t = self.t_end + (self.sde.T - self.t_end) * u
        speed = (self.sde.g(t) / self.sde.sigma(t)) ** 2 / 2  # -dlambda/dt
        return t, (self.sde.T - self.t_end) * speed


def _source(
    model: ScoreModel,
    chain: DDPM | None,
    t_end: float | None,
    variance: float | None,
    steps: int | None,
    proposal: str,
) -> _Chain | _Continuous:
    count = steps if steps is None else positive_int("steps", steps, "the times of each draw")
    if chain is not None:
        instance("chain", chain, DDPM, "pass DDPM(betas), or None for continuous time")
        for name, value in (("t_end", t_end), ("decoder_variance", variance)):
            if value is not None:
                remedy = "a chain ends at its own first step, with its own variances"
                raise fail(name, "None with a chain", value, remedy)
        chain.nodes(model.sde)
        return _Chain(chain, count, proposal)
    remedy = "the bound needs x_t given x_0 in closed form; see LinearSDE"
    sde = as_affine("model.sde", model.sde, remedy)
    remedy = "stop where a little noise is left, e.g. at sde.t_end"
    end = sde.check_finite("t_end", sde.t_min if t_end is None else t_end, remedy, below_T=True)
    if variance is None:
        variance = math.exp(-2 * sde.log_snr(end))
    variance = positive("decoder_variance", variance, "leave it out for sigma^2 / alpha^2")
    return _Continuous(sde, end, variance, STEPS if count is None else count, proposal)
