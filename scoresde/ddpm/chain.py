"""The discrete chain of DDPM, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import (
    choice,
    fail,
    finite,
    floating,
    instance,
    nonnegative,
    positive_int,
    same_shape,
)
from scoresde._tensor import Scalar, lincomb, ordinary, state_dtype, wide
from scoresde.ddpm.decoder import DECODERS, check_levels, reconstruction, squared_error
from scoresde.ddpm.forward import ForwardChain, Steps
from scoresde.ddpm.schedule import (
    ChainTime,
    as_variance,
    betas_of,
    cosine_betas,
    linear_betas,
)
from scoresde.ddpm.terms import BoundTerms, check_data
from scoresde.model import Cond, Preconditioned, ScoreModel, check_cond, summary_of
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.prediction import Prediction
from scoresde.quantisation import Quantisation
from scoresde.sde import AffineSDE

__all__ = ["DDPM"]


@final
@dataclass(frozen=True)
class DDPM(ForwardChain):
    """The discrete diffusion chain x_0, x_1, ..., x_N with its reverse: Ho et al. 2020.

    q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I); the reverse p(x_{i-1} | x_i) is
    N(mu_i, Sigma_i I), mu_i being the mean of q(x_{i-1} | x_i, x_0) at x_0 = x_0hat(x_i), and
    starts from N(0, I). Any `ScoreModel` of a VP schedule serves: it is asked at the times of
    its own SDE at which the SNR is that of the chain's steps. Steps i count from 1 to N, an int
    or one for each sample, (B,). Ho et al. 2020 (arXiv 2006.11239).

    Args:
        betas: beta_1 ... beta_N in (0, 1); see also `linear`, `cosine` and `from_sde`.
        variance: the reverse variances Sigma_i: "small", beta-tilde_i, with beta_1 for Sigma_1,
            where it would be 0 (the beta-tilde_2 of some code is far too small where the steps
            are fine); "large", beta_i; a number v in [0, 1] for
            exp(v log large + (1 - v) log small) (Nichol and Dhariwal 2021, arXiv 2102.09672,
            eq. 15); or N positive numbers, such as those of `analytic_variance`.

    Raises:
        TypeError, ValueError: betas that are not a 1-D sequence of numbers in (0, 1), unknown or
            non-positive variances.

    Example:
        >>> from scoresde import GaussianMixture
        >>> data, chain = GaussianMixture(torch.zeros(1, 2), torch.ones(1)), DDPM.cosine(20)
        >>> chain.ancestral_sample(data.under(chain.to_sde()), (5, 2), seed=0).shape
        torch.Size([5, 2])
    """

    variance: str | float | tuple[float, ...] = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variance", as_variance(self.variance, self.N))

    def __repr__(self) -> str:
        kind = "own" if isinstance(self.variance, tuple) else self.variance
        return f"DDPM(N={self.N}, {self.betas[0]:g} to {self.betas[-1]:g}, variance={kind!r})"

    @classmethod
    def linear(
        cls,
        N: int = 1000,
        first: float | None = None,
        last: float | None = None,
        *,
        variance: Any = "small",
    ) -> DDPM:
        """Betas that grow linearly from first to last; Ho et al. 2020.

        By default 1e-4 to 0.02 for N = 1000. These are made for 1000 steps: 50 of them would leave
        60 % of the data's variance in the last state, which is no N(0, I). So by default a chain
        of another length passes through the marginals of that of 1000 steps, at i/N: its betas
        are about 1000/N times larger (the respacing of Nichol and Dhariwal 2021, arXiv
        2102.09672, sec. 4), and abar_N = 4e-5 for every N. If you pass `first` and `last`, they
        are taken as they are, and sampling warns where such a chain does not reach noise.
        """
        return cls(linear_betas(N, first, last), variance)

    @classmethod
    def cosine(
        cls, N: int = 1000, s: float = 0.008, most: float = 0.999, *, variance: Any = "small"
    ) -> DDPM:
        """abar_i = f(i/N)/f(0), f(t) = cos^2(pi/2 (t + s)/(1 + s)), each beta at the `most`.

        Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17.
        """
        return cls(cosine_betas(N, s, most), variance)

    @classmethod
    def from_sde(
        cls,
        sde: AffineSDE,
        N: int,
        *,
        grid: str | Sequence[float] = "uniform",
        t_end: float | None = None,
        variance: Any = "small",
    ) -> DDPM:
        """The chain whose step i has the exact marginal of a VP SDE at its time t_i.

        Args:
            sde: an SDE with alpha^2 + sigma^2 = 1.
            N: the number of steps.
            grid: where t_1 < ... < t_N = T lie: "uniform", at i T / N; "log_snr" (or any name
                of a grid) from t_1 = t_end to T; or the N times.
            t_end: t_1 on a named grid other than "uniform"; the SDE's own by default.
            variance: see `DDPM`.

        Raises:
            TypeError, ValueError: the SDE does not preserve variance, or the times do not rise.
        """
        return cls(betas_of(sde, N, grid, t_end), variance)

    def with_variance(self, variance: str | float | Sequence[float]) -> DDPM:
        """The same chain with other reverse variances."""
        return replace(self, variance=variance)  # type: ignore[arg-type]

    def score_model(
        self, net: nn.Module, time: str = "i", *, predicts: str = "eps", whole: bool = False
    ) -> Preconditioned:
        """A network net(x, i) that was trained on a chain, as a model of `to_sde()`.

        Args:
            net: called as net(x, time) with one time for each sample.
            time: what it was trained to be told: a key of `ddpm.schedule.CONVENTIONS`, e.g.
                "i-1" for timesteps 0 ... N - 1.
            predicts: "eps", "x0", "v" or "score".
            whole: round times between the steps, for a network with a table of embeddings.

        Example:
            >>> from scoresde.nets import MLP
            >>> chain = DDPM.linear()
            >>> model = chain.score_model(MLP(2), "i-1")
            >>> model(0.5, torch.zeros(3, 2)).eps.shape
            torch.Size([3, 2])
        """
        told = ChainTime(time, self.N, whole)
        return Preconditioned(net, self.to_sde(), predicts, told)

    @cached_property
    def variances(self) -> tuple[float, ...]:
        """The reverse variances Sigma_1 ... Sigma_N in use."""
        if isinstance(self.variance, tuple):
            return self.variance
        v = {"small": 0.0, "large": 1.0}.get(self.variance, self.variance)  # type: ignore[arg-type]
        small = (self.betas[0], *self.posterior_variances[1:])
        pairs = zip(self.betas, small, strict=True)
        if v in (0.0, 1.0):
            return small if v == 0.0 else self.betas
        return tuple(math.exp(v * math.log(a) + (1 - v) * math.log(b)) for a, b in pairs)

    def p_mean_variance(
        self, model: ScoreModel, i: Steps, x: Tensor, cond: Cond = None
    ) -> tuple[Tensor, Scalar]:
        """Mean and variance of p(x_{i-1} | x_i), the mean by x_0hat of the model.

        Args:
            model: a score model of a VP schedule that covers the chain.
            i: the step left, from 1 to N, an int or (B,) integers.
            x: (B, *D), the state at step i.
            cond: conditions handed to the model.

        Returns:
            (B, *D), and Sigma_i as a float or (B, 1, ..., 1).

        Raises:
            TypeError, ValueError: as `q_step`, and those of `nodes`.
        """
        instance("model", model, ScoreModel, "wrap the network: DDPM.score_model(net)")
        i = self._check_step(i, x)
        of_x, of_x0 = (self._row(v, i, x) for v in self._posterior)
        prediction = model.predict(self._node(model.sde, i, x), x, cond)
        return prediction.mix(of_x, "x0", of_x0), self._row(self.variances, i, x)

    @ordinary
    def ancestral_sample(
        self,
        model: ScoreModel,
        shape: Sequence[int],
        *,
        seed: int = 0,
        first: int = 0,
        cond: Cond = None,
        x_init: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        keep_path: bool = False,
    ) -> Tensor:
        """Ancestral sampling: x_N from N(0, I), then each p(x_{i-1} | x_i), the last its mean.

        With the variance "small" this is `ReverseSampler(chain.to_sde(), model, "ancestral",
        grid=chain.times(...))`, number for number. Ho et al. 2020, alg. 2.

        Args:
            model: a score model of a VP schedule that covers the chain.
            shape: (B, *D).
            seed, first: of the noise, which depends on (seed, number of the sample) alone.
            cond: conditions handed to the model.
            x_init: (B, *D), x_N in place of a draw.
            dtype, device: of the state; by default those of the model's first parameter.
            keep_path: return x_N, ..., x_0 as (N + 1, B, *D).

        Returns:
            (B, *D) samples, or the path.
        """
        instance("model", model, ScoreModel, "wrap the network: DDPM.score_model(net)")
        sizes = tuple(positive_int("shape", n, "pass e.g. (16, 2)") for n in shape)
        if len(sizes) < 2:
            raise fail("shape", "(B, *D) with at least one dimension", shape, "pass e.g. (16, 2)")
        own = next(model.parameters(), torch.empty(0))
        like = torch.empty(
            sizes, dtype=dtype or state_dtype(own.dtype), device=device or own.device
        )
        cond = check_cond(model, cond, sizes[0], like.device)
        noise, nodes = Independent(seed, first), self.nodes(model.sde)
        if x_init is not None:
            same_shape("x_init", floating("x_init", x_init), like, "one state for each sample")
        if x_init is None:
            known = summary_of(model)
            self.to_sde().warn_of_prior(1.0 if known is None else known.size)
        x = noise.prior(like) if x_init is None else x_init
        path = [x]
        with torch.no_grad():
            for i in range(self.N, 0, -1):
                x, variance = self.p_mean_variance(model, i, x, cond)
                if i > 1:
                    z = noise.normal(x, nodes[i - 1], nodes[i - 2])
                    x = lincomb((1.0, x), (math.sqrt(float(variance)), z))
                if keep_path:
                    path.append(x)
        return torch.stack(path) if keep_path else x

    # Optimal variances

    def optimal_variance(
        self,
        mean_square_eps: Sequence[float] | Tensor,
        *,
        quantisation: Quantisation | None = None,
        data_variance: float | None = None,
    ) -> tuple[float, ...]:
        """The reverse variances that are optimal given E|eps_hat|^2 / D at steps 1 ... N.

        Sigma_i = beta-tilde_i + c_i^2 s_i (1 - E|eps_hat(x_i)|^2 / D), s_i = (1 - abar_i)/abar_i,
        with c_i the coefficient of x_0 in the posterior mean; |eps_hat|^2 = (1 - abar_i)
        |score|^2. The factor of c_i^2 is the mean variance of x_0 given x_i; it is kept in
        [0, s_i], the bounds of the paper's theorem 2, and, where the variance v of the data is
        known, below s_i v/(s_i + v), the error of the best linear estimate of x_0, which the best
        estimate cannot exceed. The second bound counts where s_i is large, since there a small
        error of the estimate would be multiplied by s_i: by 1000 at the end of `cosine(1000)`.
        At i = 1 Sigma is the mean variance of x_0 given x_1. Bao et al. 2022 (Analytic-DPM, arXiv
        2201.06503), theorems 1 and 2.

        Args:
            mean_square_eps: N numbers, estimated by `analytic_variance` or known.
            quantisation: of discrete data, for which Sigma_1 is then not below (bin width / 8)^2:
                where x_1 leaves little unknown, x_0hat is wrong by whole bins or not at all, and
                a Gaussian of its variance misses the next bin.
            data_variance: v, the variance of x_0, a mean over its dimensions; needed where
                beta_N = 1, so that x_N knows nothing of x_0.

        Raises:
            ValueError: not N finite numbers of at least 0; no variance of the data where
                abar_N = 0.
        """
        remedy = "estimate them with analytic_variance(model, x0)"
        values = [finite("mean_square_eps", g, remedy) for g in mean_square_eps]
        if len(values) != self.N or min(values) < 0:
            raise fail("mean_square_eps", f"{self.N} numbers >= 0", mean_square_eps, remedy)
        v = math.inf
        if data_variance is not None:
            v = nonnegative("data_variance", data_variance, "pass the variance of x_0")
        elif self.abar[-1] == 0.0:
            remedy = "pass the variance of x_0, a mean over its dimensions"
            raise fail("data_variance", "a number where abar_N = 0", None, remedy)
        unknown = []
        for i, g in enumerate(values, 1):
            most = self._least_error(i, v)
            share = min(max(1.0 - g, 0.0), 1.0)
            unknown.append(min(self._ratio(i) * share, most) if self.abar[i] else most)
        return self._optimal(unknown, quantisation)

    def _ratio(self, i: int) -> float:
        """s_i = (1 - abar_i) / abar_i, the variance of x_i / sqrt(abar_i) given x_0."""
        return self.bbar[i] / self.abar[i] if self.abar[i] else math.inf

    def _least_error(self, i: int, variance: float) -> float:
        """The mean squared error of the best linear estimate of x_0 from x_i."""
        if not variance:
            return 0.0
        return 1.0 / (self.abar[i] / self.bbar[i] + 1.0 / variance)

    def _optimal(
        self, unknown: Sequence[float], quantisation: Quantisation | None
    ) -> tuple[float, ...]:
        """Sigma from the mean squared error of x_0hat at each step."""
        least = 1e-12 * self.betas[0]  # at i = 1, where beta-tilde is 0
        if quantisation is not None:
            instance("quantisation", quantisation, Quantisation, "pass e.g. Quantisation(256)")
            least = (quantisation.bin_width / 8) ** 2
        rows = zip(self.posterior_variances, self._posterior[1], unknown, strict=True)
        found = [tilde + of_x0**2 * error for tilde, of_x0, error in rows]
        found[0] = max(found[0], least)
        return tuple(found)

    def analytic_variance(
        self,
        model: ScoreModel,
        x0: Tensor,
        *,
        quantisation: Quantisation | None = None,
        estimate: str = "score",
        seed: int = 0,
        first: int = 0,
        cond: Cond = None,
    ) -> tuple[float, ...]:
        """Optimal reverse variances, estimated on data: N numbers for `with_variance`.

        Args:
            model: a score model of a VP schedule that covers the chain.
            x0: (B, *D) data; each is noised once at every step.
            quantisation: of discrete data; see `optimal_variance`.
            estimate: "score", from the model's answers alone, which needs no noise to compare
                with: E|eps_hat|^2 where the noise is below the data's spread (Bao et al. 2022),
                E|x_0|^2 - E|x_0hat|^2 where it is above, both about the mean and both bounded by
                the data's variance (see `optimal_variance`); "error", from E|x_0 - x_0hat|^2, the
                least bound also where the model is wrong, and therefore not bounded. Equal for
                an exact model.
            seed, first: of the noise.
            cond: conditions handed to the model.

        Example:
            >>> from scoresde import Gaussian
            >>> chain, data = DDPM.cosine(10), Gaussian(torch.zeros(2), torch.tensor(0.25))
            >>> x0 = data.sample(500)
            >>> variance = chain.analytic_variance(data.under(chain.to_sde()), x0)
            >>> chain.with_variance(variance)
            DDPM(N=10, 0.0279073 to 0.999, variance='own')
        """
        instance("model", model, ScoreModel, "wrap the network: DDPM.score_model(net)")
        choice("estimate", estimate, ("score", "error"))
        x0 = check_data(x0)
        cond = check_cond(model, cond, len(x0), x0.device)
        middle = wide(x0).mean(0)
        variance = float((wide(x0) - middle).square().mean())
        unknown = []
        for i in range(1, self.N + 1):
            eps = self._noise(x0, seed, first, 0, i)
            with torch.no_grad():
                x = self.q_sample(i, x0, eps)
                prediction = model.predict(self._node(model.sde, i, x), x, cond)
                if estimate == "error":
                    error = squared_error(prediction, x0, eps, "x0")
                    unknown.append(float(error.mean()) / x0[0].numel())
                    continue
                most = self._least_error(i, variance)
                if self.abar[i] == 0.0:
                    found = most
                elif self._ratio(i) > variance:
                    found = variance - float((wide(prediction.x0) - middle).square().mean())
                else:
                    found = self._ratio(i) * (1.0 - float(wide(prediction.eps).square().mean()))
                unknown.append(min(max(found, 0.0), most))
        return self._optimal(unknown, quantisation)

    # The bound

    def _noise(self, like: Tensor, seed: int, first: int, draw: int, stage: int) -> Tensor:
        start = Node(0.0, 0.0)
        return Independent(seed, first).on_segment(draw).normal(like, start, start, stage)

    def step_kl(
        self, model: ScoreModel, i: Steps, x0: Tensor, eps: Tensor, cond: Cond = None
    ) -> Tensor:
        """KL(q(x_{i-1} | x_i, x_0), p(x_{i-1} | x_i)) in nats at x_i of this noise: (B,).

        c_i^2 |x_0 - x_0hat|^2 / (2 Sigma_i) + (D/2)(r - 1 - log r), r = beta-tilde_i / Sigma_i.

        Args:
            model: a score model of a VP schedule that covers the chain.
            i: the step left, from 2 to N, an int or (B,) integers.
            x0, eps: (B, *D).
            cond: conditions handed to the model.

        Raises:
            TypeError, ValueError: as `p_mean_variance`; i = 1, whose term is the decoder's.
        """
        i = self._check_step(i, x0)
        if int(i.min() if isinstance(i, Tensor) else i) < 2:
            raise fail("i", f"a step from 2 to {self.N}", i, "x_0 given x_1 is the decoder's")
        x = self.q_sample(i, x0, eps)
        prediction = model.predict(self._node(model.sde, i, x), x, cond)
        error = squared_error(prediction, x0, eps, "x0")
        weight, spread = self._kl_tables
        rows = [self._row(v, i, error) for v in (weight, spread)]
        kl: Tensor = rows[0] * error + x0[0].numel() * rows[1]
        return kl

    @cached_property
    def _kl_tables(self) -> tuple[list[float], list[float]]:
        """c^2 / (2 Sigma) and (r - 1 - log r) / 2, from i = 1, where neither is used."""
        tilde, sigma = self.posterior_variances, self.variances
        weight = [c**2 / (2 * s) for c, s in zip(self._posterior[1], sigma, strict=True)]
        logs = [math.log(t / s) if t else 0.0 for t, s in zip(tilde, sigma, strict=True)]
        return weight, [0.5 * (math.expm1(log) - log) for log in logs]

    def decode(
        self,
        model: ScoreModel,
        x0: Tensor,
        draws: Sequence[Tensor],
        *,
        quantisation: Quantisation | None = None,
        decoder: str = "bins",
        cond: Cond = None,
    ) -> Tensor:
        """L_0 = -log p(x_0 | x_1) in nats, averaged over draws of eps: (B,).

        Args:
            model: a score model of a VP schedule that covers the chain.
            x0: (B, *D).
            draws: noises, each (B, *D).
            quantisation: the levels of the data, for the decoder "bins".
            decoder: a key of `DECODERS`.
            cond: conditions handed to the model.
        """
        choice("decoder", decoder, DECODERS)
        known = check_levels(x0, quantisation) if decoder == "bins" else None
        node = self.nodes(model.sde)[0]

        def predict(eps: Tensor) -> Prediction:
            return model.predict(node, self.q_sample(1, x0, eps), cond)

        return reconstruction(predict, x0, list(draws), decoder, self.variances[0], known)

    def bound_terms(
        self,
        model: ScoreModel,
        x0: Tensor,
        *,
        quantisation: Quantisation | None = None,
        decoder: str = "bins",
        seed: int = 0,
        first: int = 0,
        draw: int = 0,
        cond: Cond = None,
    ) -> BoundTerms:
        """L_T, every L_{i-1} and L_0 for each sample, in nats: Ho et al. 2020, eq. 5.

        One draw of noise at every step, N calls of the model, and one at step 1 for every eight
        steps, as L_0 varies most. `elbo` averages and gives standard errors.

        Args:
            model: a score model of a VP schedule that covers the chain.
            x0: (B, *D) data in model units.
            quantisation: the levels of the data, for the decoder "bins".
            decoder: a key of `DECODERS`: "bins" for discrete data, "gaussian" or "noised".
            seed, first, draw: of the noise, which depends on (seed, number of the sample, draw).
            cond: conditions handed to the model.

        Raises:
            TypeError, ValueError: data that are not floating, not levels of the quantisation, or
                no quantisation where one is needed.

        Example:
            >>> from scoresde import Quantisation, Empirical
            >>> quantisation, chain = Quantisation(4), DDPM.cosine(10)
            >>> x0 = quantisation.encode(torch.arange(4)[:, None])
            >>> terms = chain.bound_terms(
            ...     Empirical(x0).under(chain.to_sde()), x0, quantisation=quantisation
            ... )
            >>> terms.steps.shape
            torch.Size([9, 4])
        """
        instance("model", model, ScoreModel, "wrap the network: DDPM.score_model(net)")
        x0 = check_data(x0)
        cond = check_cond(model, cond, len(x0), x0.device)
        n = self.N
        with torch.no_grad():
            draws = [self._noise(x0, seed, first, draw, n + 1 + k) for k in range(max(1, n // 8))]
            last = self.decode(
                model, x0, draws, quantisation=quantisation, decoder=decoder, cond=cond
            )
            steps = [
                self.step_kl(model, i, x0, self._noise(x0, seed, first, draw, i), cond)
                for i in range(2, n + 1)
            ]
        return BoundTerms(self.prior_kl(x0), torch.stack(steps), last)
