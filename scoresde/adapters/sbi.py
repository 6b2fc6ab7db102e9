"""Estimators of sbi as score models, and score models as posteriors of sbi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from scoresde._check import fail, instance, keep, need, positive, refuse, wrong_type
from scoresde._tensor import Time, exp, log, log1p, over, softplus, sqrt
from scoresde.adapters.network import Called, tensor_of
from scoresde.adapters.schedule import ScheduleSDE
from scoresde.likelihood import Divergence, log_prob
from scoresde.model import Preconditioned
from scoresde.oracles import Gaussian
from scoresde.sampler import ReverseSampler
from scoresde.sde import VESDE, VPSDE, AffineSDE, FlowSDE, SubVPSDE, as_affine

__all__ = ["OffsetFlowSDE", "from_sbi", "to_sbi"]


@final
@dataclass(frozen=True)
class OffsetFlowSDE(AffineSDE):
    """The path of the flow matching of sbi: alpha = 1 - t, sigma = t + offset.

    Its flow d x_t/dt is E[eps - x_0 | x_t], as that of `FlowSDE`, and the state at t = 0 has noise
    of `offset`, which the final denoising removes.

    Args:
        offset: sigma at t = 0, the `noise_scale` of sbi.

    Example:
        >>> sde = OffsetFlowSDE(0.001)
        >>> round(sde.time_of(sde.log_snr(0.25)), 12)
        0.25
    """

    offset: float

    T = 1.0
    t_min = 0.0
    t_end = 0.0

    def __post_init__(self) -> None:
        keep(self, "offset", positive, "where there is no noise at t = 0, take FlowSDE(T=1.0)")

    def log_alpha(self, t: Time) -> Time:
        return log1p(-t)

    def alpha(self, t: Time) -> Time:
        return 1.0 - t

    def sigma(self, t: Time) -> Time:
        return t + self.offset

    def log_snr(self, t: Time) -> Time:
        return log1p(-t) - log(t + self.offset)

    def time_of(self, log_snr: Time) -> Time:
        return (1.0 + self.offset) * exp(-softplus(log_snr)) - self.offset

    def rate(self, t: Time) -> Time:
        return over(-1.0, 1.0 - t)

    def g(self, t: Time) -> Time:
        return sqrt(2 * (1.0 + self.offset) * (t + self.offset) * over(1.0, 1.0 - t))


def from_sbi(
    estimator: Any,  # of sbi, which is optional
    *,
    standardised: bool = False,
) -> Preconditioned:
    """A trained estimator of NPSE or FMPE as a score model of p(theta | x_o).

    The state is theta, and the observation is the condition "x_o": (B, *C), one a sample. The
    estimator scales both and embeds the observation itself. What it returns is passed on:

    | estimator | SDE | prediction |
    | --- | --- | --- |
    | `VPScoreEstimator` | `VPSDE(beta_min, beta_max)` | score |
    | `SubVPScoreEstimator` | `SubVPSDE(beta_min, beta_max)` | score |
    | `VEScoreEstimator` | `VESDE(sigma_min, sigma_max)` | score |
    | `FlowMatchingEstimator` | `OffsetFlowSDE(noise_scale)` | flow |
    | another `ConditionalScoreEstimator` | `ScheduleSDE` of its `mean_t_fn` and `std_fn` | score |

    The `score` of a `FlowMatchingEstimator` of sbi 0.27 is 1 + noise_scale times that of its own
    path; the one here follows from its flow. The default of sbi, beta from 0.01 to 10, does not
    reach pure noise: alpha(1) = 0.08. sbi then starts from N(mean_base, std_base^2), the moments
    of theta at t = 1; draws from it are `x_init` of a sampler, and it is `prior` of `log_prob`.

    Args:
        estimator: what `train()` of NPSE or FMPE returns, or the `vector_field_estimator` of a
            posterior, in eval mode.
        standardised: that x is (theta - shift)/scale, which an estimator built with
            compose_standardization=True needs: `estimator.from_z(x)` is theta, and
            `estimator.log_abs_det()` is subtracted from its log-density.

    Raises:
        TypeError: it is no such estimator, or the path of a file.
        ValueError: `standardised` does not fit the estimator; when called, theta or x_o has
            another shape than in its training.
    """
    _check_estimator(estimator)
    composed = bool(getattr(estimator, "compose_enabled", False))
    if composed != standardised:
        expected = "True for" if composed else "False for"
        how = "with" if composed else "without"
        remedy = "x is theta unless compose_standardization=True"
        expected = f"{expected} an estimator {how} compose_standardization"
        raise fail("standardised", expected, standardised, remedy)
    kinds = [c.__name__ for c in type(estimator).__mro__]
    predicts = "flow" if FLOW in kinds else "score"
    shapes = [("x", tuple(estimator.input_shape)), ("x_o", tuple(estimator.condition_shape))]

    def call(own: Callable[..., Any], x: Tensor, time: Tensor, x_o: Tensor) -> Tensor:
        for (name, shape), value in zip(shapes, (x, x_o), strict=True):
            if tuple(value.shape[1:]) != shape:
                expected = f"shape (B, {', '.join(map(str, shape))}), as in its training"
                raise fail(name, expected, value, "pass one row a sample")
        return tensor_of(own(x, x_o, time), "score", "estimator")

    return Preconditioned(Called(estimator, call), _schedule(estimator), predicts, null={})


FLOW, SCORE = "FlowMatchingEstimator", "ConditionalScoreEstimator"


def _check_estimator(estimator: Any) -> None:
    """Raise a TypeError that says what to pass, unless this estimates a vector field."""
    names = {c.__name__ for c in type(estimator).__mro__}
    if names & {FLOW, SCORE}:
        return
    expected = "an estimator of NPSE or FMPE"
    if isinstance(estimator, str | bytes) or hasattr(estimator, "__fspath__"):
        got = f"the path {str(estimator)!r}: sbi writes pickles, which can run any code"
        remedy = "load it with sbi, where you trust it, and pass its estimator"
        raise TypeError(str(refuse("estimator", expected, got, remedy)))
    remedy = "pass what train() of NPSE or FMPE returns; flows and ratios have no score"
    if hasattr(estimator, "vector_field_estimator"):
        remedy = "pass posterior.vector_field_estimator"
    raise wrong_type("estimator", expected, type(estimator).__name__, remedy)


def _schedule(estimator: Any) -> AffineSDE:
    """The SDE of an estimator: a family for the classes of sbi, else from its own functions."""
    kind, usual = type(estimator).__name__, float(estimator.t_max) == 1.0
    if kind == FLOW:
        offset = float(estimator.noise_scale)
        return OffsetFlowSDE(offset) if offset else FlowSDE(T=1.0)
    if usual and kind in ("VPScoreEstimator", "SubVPScoreEstimator"):
        family = VPSDE if kind == "VPScoreEstimator" else SubVPSDE
        return family(float(estimator.beta_min), float(estimator.beta_max))
    if usual and kind == "VEScoreEstimator":
        return VESDE(float(estimator.sigma_min), float(estimator.sigma_max))

    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = estimator.mean_t_fn(t.reshape(-1)), estimator.std_fn(t.reshape(-1))
        return alpha.reshape(t.shape), sigma.reshape(t.shape)

    return ScheduleSDE(schedule, float(estimator.t_max))


def to_sbi(
    sampler: ReverseSampler,
    prior: Distribution,
    *,
    condition: str = "x_o",
    start: Gaussian | None = None,
    divergence: str | Divergence = "exact",
    batch_size: int | None = None,
) -> Any:  # of sbi, which is optional
    """A conditional score model as a `NeuralPosterior` of sbi, which its diagnostics take.

    `sample((n,), x=x_o)`, `sample_batched((n,), x=xs)` and `log_prob(theta, x=x_o)` have the
    shapes and the arguments of sbi. Samples outside of the prior's support are drawn again, and
    log_prob is -inf there, as in sbi's `VectorFieldPosterior`; the density inside is not divided
    by its mass. Seeds come from torch's global generator, so `torch.manual_seed` repeats a run.
    Observations are float32, as sbi makes them.

    Args:
        sampler: the sampler of the model, with its solver and steps.
        prior: the prior of the parameters, in the units of the model; its `event_shape` is the
            shape of theta.
        condition: the name of the observation among the conditions of the model.
        start: a Gaussian with the moments of theta, for a schedule that does not reach pure noise:
            its marginal at time T takes the place of the SDE's prior. By default there is none.
        divergence: of the likelihood; see `log_prob`.
        batch_size: the number of samples in one solve.

    Raises:
        ImportError: sbi is not installed.
        TypeError: this is no sampler, its SDE is not affine, or the prior is no distribution.
        ValueError: when called, x has several observations: they are not combined.
    """
    remedy = 'pass e.g. ReverseSampler(model.sde, model, "unipc_3", steps=19)'
    instance("sampler", sampler, ReverseSampler, remedy)
    instance("prior", prior, Distribution, "sbi.utils.process_prior makes one")
    sde = as_affine("sampler.sde", sampler.sde, "its likelihood needs alpha and sigma")
    posteriors = need("sbi.inference.posteriors.base_posterior", "")
    rejection = need("sbi.samplers.rejection.rejection", "")
    utils = need("sbi.utils.sbiutils", "")
    model, shape = sampler.model, tuple(prior.event_shape)
    last = None if start is None else start.marginal(sde, sde.T)

    def density(theta: Tensor, x_o: Tensor) -> Tensor:
        """log p(theta | x_o), (B,)."""
        cond = {condition: _alone(x_o).expand(len(theta), *x_o.shape[1:])}
        found = log_prob(
            model,
            theta,
            cond=cond,
            prior=last,
            divergence=divergence,
            batch_size=batch_size,
            create_graph=torch.is_grad_enabled(),
        )
        inside = utils.within_support(prior, theta)
        return torch.where(inside, found.nats.to(theta), -torch.inf)

    class ScorePosterior(posteriors.NeuralPosterior):  # type: ignore[misc, name-defined]  # of sbi
        """A score model of p(theta | x) as a posterior of sbi; see `to_sbi`."""

        def __init__(self) -> None:
            weight = next(model.parameters(), torch.empty(0))
            super().__init__(density, utils.mcmc_transform(prior), device=weight.device)
            self.sampler, self.prior = sampler, prior

        def log_prob(
            self, theta: Tensor, x: Tensor | None = None, track_gradients: bool = False
        ) -> Tensor:
            found: Tensor = self.potential(theta, x, track_gradients)
            return found

        def sample(
            self,
            sample_shape: Any = (),
            x: Tensor | None = None,
            show_progress_bars: bool = True,
            reject_outside_prior: bool = True,
            max_sampling_time: float | None = None,
        ) -> Tensor:
            alone = _alone(self._x_else_default_x(x))
            options = (show_progress_bars, reject_outside_prior, max_sampling_time)
            return self.sample_batched(sample_shape, alone, *options).squeeze(len(sample_shape))

        def sample_batched(
            self,
            sample_shape: Any,
            x: Tensor,
            show_progress_bars: bool = True,
            reject_outside_prior: bool = True,
            max_sampling_time: float | None = None,
        ) -> Tensor:
            given = self._x_else_default_x(x).to(self._device)
            n, many = torch.Size(sample_shape).numel(), len(given)

            def propose(size: torch.Size) -> Tensor:
                rows = given.expand(size.numel(), *given.shape).flatten(0, 1)
                first = None
                if last is not None:
                    seed = int(torch.randint(2**62, ()))
                    first = last.sample(len(rows), seed=seed).reshape(-1, *shape).to(rows.device)
                drawn = sampler.sample(
                    (len(rows), *shape),
                    cond={condition: rows},
                    x_init=first,
                    batch_size=batch_size,
                )
                return drawn.reshape(size.numel(), many, *shape)

            drawn: Tensor
            if reject_outside_prior:
                drawn, _ = rejection.accept_reject_sample(
                    proposal=propose,
                    accept_reject_fn=lambda theta: utils.within_support(prior, theta),
                    num_samples=n,
                    num_xos=many,
                    show_progress_bars=show_progress_bars,
                    max_sampling_time=max_sampling_time,
                )
            else:
                drawn = propose(torch.Size((n,)))
            return drawn.reshape(*sample_shape, many, *shape)

    return ScorePosterior()


def _alone(x: Tensor) -> Tensor:
    """The observation, (1, *C), which must be one."""
    if len(x) != 1:
        remedy = "sample_batched takes many, each for samples of its own; i.i.d. observations of "
        remedy += "one theta are not combined"
        raise fail("x", "one observation, (1, *C)", x, remedy)
    return x
