"""DDPM: its chains, ancestral sampling, optimal variances and the variational bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

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
from scoresde._html import Shown
from scoresde._tensor import check_data, lincomb, ordinary, state_kind, wide
from scoresde.cond import Cond, check_cond
from scoresde.ddpm.decoder import squared_error
from scoresde.ddpm.reverse import ReverseChain, Variance
from scoresde.ddpm.schedule import ChainTime, betas_of, cosine_betas, linear_betas
from scoresde.ddpm.terms import BoundTerms
from scoresde.model import Preconditioned, ScoreModel, summary_of
from scoresde.noise import Independent
from scoresde.quantisation import Quantisation
from scoresde.sde import AffineSDE

__all__ = ["DDPM"]


@final
@dataclass(frozen=True)
class DDPM(Shown, ReverseChain):
    """The discrete diffusion chain x_0, x_1, ..., x_N with its reverse: Ho et al. 2020.

    q(x_i | x_{i-1}) = N(sqrt(1 - beta_i) x_{i-1}, beta_i I). The reverse chain starts from
    N(0, I), and p(x_{i-1} | x_i) is N(mu_i, Sigma_i I), where mu_i is the mean of
    q(x_{i-1} | x_i, x_0) at x_0 = x_0hat(x_i). It works with any `ScoreModel` of a VP schedule,
    which is evaluated at the times of its own SDE whose SNR is that of the chain's steps. Steps i
    count from 1 to N; i is an int, or one per sample, (B,). Ho et al. 2020 (arXiv 2006.11239).

    Args:
        betas: beta_1 ... beta_N in (0, 1); see also `linear`, `cosine` and `from_sde`.
        variance: the reverse variances Sigma_i: "small", beta-tilde_i, with beta_1 in place of
            Sigma_1 = 0 (the beta-tilde_2 of some code is far too small for fine steps);
            "large", beta_i; a number v in [0, 1] for
            exp(v log large + (1 - v) log small) (Nichol and Dhariwal 2021, arXiv 2102.09672,
            eq. 15); or N positive numbers, such as those of `analytic_variance`.

    Raises:
        TypeError, ValueError: betas is not a 1-D sequence of numbers in (0, 1), or variances are
            unknown or not positive.

    Example:
        >>> from scoresde import GaussianMixture
        >>> data, chain = GaussianMixture(torch.zeros(1, 2), torch.ones(1)), DDPM.cosine(20)
        >>> chain.ancestral_sample(data.under(chain.to_sde()), (5, 2), seed=0).shape
        torch.Size([5, 2])
    """

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
        variance: Variance = "small",
    ) -> DDPM:
        """Betas that grow linearly from first to last; Ho et al. 2020.

        The default is 1e-4 to 0.02 for N = 1000. These betas fit 1000 steps: with 50 of them 60 %
        of the data's variance would remain in the last state, which is not N(0, I). So by default
        a chain of another length has the marginals of the chain of 1000 steps at i/N: its betas
        are about 1000/N times larger (the respacing of Nichol and Dhariwal 2021, arXiv
        2102.09672, sec. 4), and abar_N = 4e-5 for every N. `first` and `last` are used unchanged
        if you pass them, and sampling warns if such a chain does not end in noise.
        """
        return cls(linear_betas(N, first, last), variance)

    @classmethod
    def cosine(
        cls, N: int = 1000, s: float = 0.008, most: float = 0.999, *, variance: Variance = "small"
    ) -> DDPM:
        """abar_i = f(i/N)/f(0), f(t) = cos^2(pi/2 (t + s)/(1 + s)), each beta at most `most`.

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
        variance: Variance = "small",
    ) -> DDPM:
        """The chain whose step i has the exact marginal of a VP SDE at its time t_i.

        Args:
            sde: an SDE with alpha^2 + sigma^2 = 1.
            N: the number of steps.
            grid: the times t_1 < ... < t_N = T: "uniform", i T / N; "log_snr" or the name of
                another grid from t_1 = t_end to T; or the N times themselves.
            t_end: t_1 on a named grid other than "uniform"; that of the SDE by default.
            variance: see `DDPM`.

        Raises:
            TypeError, ValueError: the SDE does not preserve variance, or the times do not
                increase.
        """
        return cls(betas_of(sde, N, grid, t_end), variance)

    def with_variance(self, variance: Variance) -> DDPM:
        """The same chain with other reverse variances."""
        return replace(self, variance=variance)

    def score_model(
        self, net: nn.Module, time: str = "i", *, predicts: str = "eps", whole: bool = False
    ) -> Preconditioned:
        """A network net(x, i) that was trained on a chain, as a model of `to_sde()`.

        Args:
            net: called as net(x, time) with one time per sample.
            time: the time input of the training, a key of `ddpm.schedule.CONVENTIONS`, e.g.
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
        return Preconditioned(net, self.to_sde(), predicts, ChainTime(time, self.N, whole))

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
        """Ancestral sampling: x_N ~ N(0, I), x_{i-1} ~ p(x_{i-1} | x_i), and the mean at i = 1.

        With the variance "small" this equals `ReverseSampler(chain.to_sde(), model, "ancestral",
        grid=chain.times(...))`. Ho et al. 2020, alg. 2.

        Args:
            model: a score model of a VP schedule that covers the chain.
            shape: (B, *D).
            seed, first: seed of the noise and number of the first sample; the noise depends on
                (seed, number of the sample) alone.
            cond: conditions for the model.
            x_init: (B, *D), the state x_N instead of a random one.
            dtype, device: those of the state; by default those of the model's first parameter.
            keep_path: return x_N, ..., x_0 as (N + 1, B, *D).

        Returns:
            (B, *D) samples, or the path.
        """
        instance("model", model, ScoreModel, "wrap the network: DDPM.score_model(net)")
        sizes = tuple(positive_int("shape", n, "pass e.g. (16, 2)") for n in shape)
        if len(sizes) < 2:
            raise fail("shape", "(B, *D) with at least one dimension", shape, "pass e.g. (16, 2)")
        kind, place = state_kind(model, dtype, device)
        like = torch.empty(sizes, dtype=kind, device=place)
        cond = check_cond(model, cond, sizes[0], like.device)
        noise, nodes = Independent(seed, first), self.nodes(model.sde)
        if x_init is not None:
            same_shape("x_init", floating("x_init", x_init), like, "one state for each sample")
        if x_init is None:
            data = summary_of(model)
            self.to_sde().warn_of_prior(1.0 if data is None else data.size)
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
        |score|^2. The factor of c_i^2 is the mean variance of x_0 given x_i. It is clamped to
        [0, s_i], the bounds of the paper's theorem 2, and, if the variance v of the data is
        known, to at most s_i v/(s_i + v), the error of the best linear estimate of x_0, which the
        best estimate cannot exceed. The second bound matters at large s_i, which multiplies a
        small error of the estimate: by 1000 at the end of `cosine(1000)`. At i = 1 Sigma is the
        mean variance of x_0 given x_1. Bao et al. 2022 (Analytic-DPM, arXiv 2201.06503), theorems
        1 and 2.

        Args:
            mean_square_eps: N numbers, estimated by `analytic_variance` or known.
            quantisation: the levels of discrete data, for which Sigma_1 is at least
                (bin width / 8)^2: where x_1 almost determines x_0, x_0hat is wrong by whole bins
                or not at all, and a Gaussian of its variance would miss the next bin.
            data_variance: v, the variance of x_0, averaged over its dimensions; required if
                beta_N = 1, where x_N is independent of x_0.

        Raises:
            ValueError: there are not N finite numbers >= 0, or the variance of the data is
                missing although abar_N = 0.
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
        least = 1e-12 * self.betas[0]  # for i = 1, where beta-tilde is 0
        if quantisation is not None:
            instance("quantisation", quantisation, Quantisation, "pass e.g. Quantisation(256)")
            least = (quantisation.bin_width / 8) ** 2
        rows = zip(self.posterior_variances, self._posterior[1], unknown, strict=True)
        variances = [tilde + of_x0**2 * error for tilde, of_x0, error in rows]
        variances[0] = max(variances[0], least)
        return tuple(variances)

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
            x0: (B, *D) data; each sample is noised once at every step.
            quantisation: the levels of discrete data; see `optimal_variance`.
            estimate: "score" uses the model's predictions alone: E|eps_hat|^2 where the noise is
                below the standard deviation of the data (Bao et al. 2022) and
                E|x_0|^2 - E|x_0hat|^2 where it is above, both about the mean and both bounded by
                the data's variance (see `optimal_variance`). "error" uses E|x_0 - x_0hat|^2,
                which minimises the bound even where the model is wrong, and is not bounded. Both
                are equal for an exact model.
            seed, first: seed of the noise and number of the first sample.
            cond: conditions for the model.

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
        noise, unknown = Independent(seed, first).stream("chain"), []
        for i in range(1, self.N + 1):
            eps = noise.draw(x0, 0, i)
            with torch.no_grad():
                x = self.q_sample(i, x0, eps)
                prediction = model.predict(self._node(model.sde, i, x), x, cond)
                if estimate == "error":
                    error = squared_error(prediction, x0, eps, "x0")
                    unknown.append(float(error.mean()) / x0[0].numel())
                    continue
                most = self._least_error(i, variance)
                if self.abar[i] == 0.0:
                    value = most
                elif self._ratio(i) > variance:
                    value = variance - float((wide(prediction.x0) - middle).square().mean())
                else:
                    value = self._ratio(i) * (1.0 - float(wide(prediction.eps).square().mean()))
                unknown.append(min(max(value, 0.0), most))
        return self._optimal(unknown, quantisation)

    # The bound

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

        There is one draw of noise at every step, which makes N calls of the model, and one draw
        at step 1 for every eight steps, since L_0 varies most. `elbo` averages such draws and
        gives standard errors.

        Args:
            model: a score model of a VP schedule that covers the chain.
            x0: (B, *D) data in model units.
            quantisation: the levels of the data, for the decoder "bins".
            decoder: a key of `DECODERS`: "bins" for discrete data, "gaussian" or "noised".
            seed, first, draw: the noise depends on (seed, number of the sample, draw) alone;
                `first` is the number of the first sample.
            cond: conditions for the model.

        Raises:
            TypeError, ValueError: the data are not floating or not levels of the quantisation, or
                a required quantisation is missing.

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
        n, noise = self.N, Independent(seed, first).stream("chain")
        with torch.no_grad():
            draws = [noise.draw(x0, draw, n + 1 + k) for k in range(max(1, n // 8))]
            last = self.decode(
                model, x0, draws, quantisation=quantisation, decoder=decoder, cond=cond
            )
            steps = [
                self.step_kl(model, i, x0, noise.draw(x0, draw, i), cond) for i in range(2, n + 1)
            ]
        return BoundTerms(self.prior_kl(x0), torch.stack(steps), last)
