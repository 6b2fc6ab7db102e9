"""Log-likelihoods along the probability flow of a score model."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, warn, wrong_type
from scoresde._check import seed as as_seed
from scoresde._progress import Progress, progress_or
from scoresde._tensor import batches, check_data, ordinary, own_dtype, uncompiled, wide
from scoresde.cond import Cond, check_cond
from scoresde.likelihood.divergence import (
    Expansion,
    Trace,
    draw_probes,
)
from scoresde.likelihood.flow import Augmented, Density, score_of_slope
from scoresde.likelihood.result import LogLikelihood
from scoresde.model import ScoreModel, check_weights, warn_of_raw
from scoresde.noise import Independent
from scoresde.options import Divergence, Tolerances
from scoresde.oracles import Gaussian
from scoresde.process import ReverseSDE
from scoresde.sde import AffineSDE, as_affine
from scoresde.solvers.adaptive.base import Caller
from scoresde.solvers.adaptive.ode import AdaptiveODE, Angle
from scoresde.solvers.adaptive.way import Way
from scoresde.solvers.base import UnfinishedWarning
from scoresde.solvers.run import Tally

__all__ = ["TRUNCATIONS", "Prior", "log_prob", "span_of"]

TRUNCATIONS = ("none", "scaled", "jensen")
"""The treatment of the noise left at t_end, where sigma is not 0.

- "none": x is a state, and the density is that of x_{t_end} at x;
- "scaled": x is data, and the density at x is that of x_{t_end}/alpha, which is x_0 plus noise of
  standard deviation sigma/alpha;
- "jensen": x is data; a lower bound on log p_0(x), E[log p(x_e) + log p(x | x_e) - log q(x_e | x)]
  with x_e = alpha x + sigma eps and p(x | x_e) = N(x_0hat(x_e), sigma^2/alpha^2), estimated with
  one draw of eps per sample (Song et al. 2021, arXiv 2101.09258, sec. 4).
"""


class _Distribution(Protocol):
    def log_prob(self, x: Tensor) -> Tensor: ...


Prior: TypeAlias = _Distribution | Callable[[Tensor], Tensor] | None
"""The density of x_T: an object with `.log_prob(x)`, a function, or None for the SDE's prior."""


@uncompiled()
@ordinary
def log_prob(
    model: ScoreModel,
    x: Tensor,
    *,
    cond: Cond = None,
    prior: Prior = None,
    divergence: str | Divergence = Divergence(),
    seed: int = 0,
    first: int = 0,
    tolerances: Tolerances = Tolerances(),
    t_end: float | None = None,
    t_start: float | None = None,
    truncation: str = "none",
    batch_size: int | None = None,
    create_graph: bool = False,
    progress: bool | Progress = False,
) -> LogLikelihood:
    """The log-likelihood along the probability flow, in nats, with its error budget.

    log p(x) = log p_T(x_T) + int div(dx/dt) dt from t_end to T (Chen et al. 2018; Song et al.
    2021, arXiv 2011.13456, eq. 39). The integration variable is the angle u = atan(sigma /
    (s alpha)) and the state y = x/m, m^2 = s^2 alpha^2 + sigma^2, for which the slope has unit
    size at both ends of the log-SNR (see `AdaptiveODE`); s is 0.5 or the control's standard
    deviation. D log m and the expansion of the control have closed forms. The steps of each
    sample are controlled by their errors in y and in log p itself. One call of the network gives
    the slope and, through vector-Jacobian products, the divergence.

    A `control`, a Gaussian with about the moments of the data, is a control variate: tr J =
    tr J_G + E[v^T (J - J_G) v], with tr J_G known (Hutchinson's variance is that of J - J_G).
    Probes are fixed within a solve and depend on (seed, number of the sample) alone; the value of
    a sample does not depend, to the bit, on the other samples of its batch. Dropout and batch
    normalisation would break this: call `model.eval()` first.

    The result is the likelihood of the flow, which is another model than the generative SDE,
    whose likelihood `elbo` bounds; the two differ unless the score is exact.

    Args:
        model: a score model of an affine SDE. It is called in the precision of its weights (or of
            its buffers, or of x); the state is float64.
        x: (B, *D), floats; `truncation` defines their meaning.
        cond: conditions, name -> (B, ...).
        prior: the density of x at t_start: an object with `.log_prob(x)`, such as the exact
            `data.marginal(sde, sde.T)`, or a function. The default is the prior that a sampler
            starts from, `sde.prior_log_prob`; at a t_start below T it is N(0, sigma^2 I).
        divergence: how the divergence is estimated: options, or the name of an estimator with
            the defaults of the others, "hutchinson", "exact" or "hutch++"; see `Divergence`.
        seed, first: seed of the probes and number of the first sample.
        tolerances: of a step, for y and, in nats per dimension, for log p; see `Tolerances`.
        t_end: where the integration starts; the SDE's t_min by default, or its t_end if
            sigma(t_min) is 0.
        t_start: the time of the prior; T by default.
        truncation: "none", "scaled" or "jensen": the treatment of the noise left at t_end.
        batch_size: number of samples in one solve.
        create_graph: keep the graph, so that `nats` can be differentiated with respect to the
            parameters and x. The steps are treated as constants.
        progress: show a bar with the time left, or lines if stderr is not a terminal; or a bar of
            yours, such as one of tqdm, which is advanced by one for each sample.

    Warns:
        DataRangeWarning: x seems to be in the original units of the data, not in model units.
        UnfinishedWarning: samples were stopped and are NaN, since they would have needed more
            calls or shorter steps; `LogLikelihood.status` gives the reason.

    Raises:
        TypeError: x has integers, the SDE is not affine, or the control is not a Gaussian.
        ValueError: there are no probes, a tolerance is below the rounding of the model's
            precision, scores are not finite (the message gives the time), the model cannot be
            differentiated in x, or x is not finite.

    Example:
        >>> from scoresde import VPSDE, Gaussian
        >>> sde, data = VPSDE(), Gaussian(torch.zeros(2).double(), torch.eye(2).double() / 4)
        >>> x, prior = data.sample(3), data.marginal(sde, sde.T)
        >>> result = log_prob(data.under(sde), x, prior=prior, divergence="exact")
        >>> truth = data.marginal(sde, sde.t_min).log_prob(x)
        >>> bool((result.nats - truth).abs().max() < 1e-6)
        True
    """
    instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
    check_weights(model)
    x = check_data(x)
    warn_of_raw(model, x)
    cond = check_cond(model, cond, len(x), x.device)
    sde, ends = span_of(model, t_end, t_start)
    how = Divergence.of(divergence)
    instance("tolerances", tolerances, Tolerances, "pass e.g. Tolerances(1e-6, 1e-6)")
    choice("truncation", truncation, TRUNCATIONS)
    seed, first = as_seed(seed), as_seed(first, "first")
    dtype = own_dtype(model) or x.dtype
    _check_tolerances(tolerances, dtype)
    s = 0.5 if how.control is None else _scale(how.control)
    rtol, atol, max_nfe = tolerances.rtol, tolerances.atol, tolerances.max_nfe
    solver = AdaptiveODE("dopri5", rtol, atol, sigma_data=s, max_nfe=max_nfe)
    job = _Job(
        model,
        solver,
        ends,
        dtype,
        how,
        prior,
        truncation,
        seed,
        create_graph,
    )
    parts, status = [], "done"
    shown, quiet = progress_or(progress, len(x), "log_prob", "samples"), progress is False
    with nullcontext() if create_graph else torch.no_grad(), shown as bar:
        for rows, part in batches(len(x), batch_size, cond):
            values, stopped = job.run(x[rows], part, first + rows.start, None if quiet else bar)
            parts.append(values)
            status = status if stopped == "done" else stopped
    whole = {k: torch.cat([p[k] for p in parts], int(k == "draws")) for k in parts[0]}
    halted, reached = whole.pop("stopped"), whole.pop("reached")
    if status != "done":
        _warn(halted, reached, status, ends[1])
    low, high = (float(v) for v in x.detach().aminmax())
    return LogLikelihood(
        **whole,
        status=status,
        t_end=ends[0],
        noise=math.exp(-sde.log_snr(ends[0])),
        divergence=how.kind,
        truncated=truncation,
        dim=x[0].numel(),
        extent=(low, high),
    )


def _warn(stopped: Tensor, reached: Tensor, status: str, end: float) -> None:
    first = int(stopped.nonzero()[0])
    count = f"{int(stopped.sum())} of {len(stopped)} samples are NaN"
    where = f"stopped before t = {end:g} ({status}), first row {first} at t = {reached[first]:.6g}"
    remedy = "raise max_nfe, or loosen rtol and atol"
    warn(f"log_prob: {count}, {where}; {remedy}", UnfinishedWarning)


def span_of(
    model: ScoreModel, t_end: float | None, t_start: float | None
) -> tuple[AffineSDE, tuple[float, float]]:
    """Check and return the SDE of a model and the ends (t_end, t_start) of the flow."""
    remedy = "the flow is integrated in the log-SNR; use LinearSDE for a linear drift"
    sde = as_affine("model.sde", model.sde, remedy)
    if t_end is None:
        t_end = sde.t_min if math.isfinite(sde.log_snr(sde.t_min)) else sde.t_end
    start = sde.T if t_start is None else sde.check_time("t_start", t_start)
    remedy = "stop where a little noise is left, e.g. at sde.t_end"
    end = sde.check_finite("t_end", t_end, remedy)
    if end >= start:
        raise fail("t_end", f"a time below t_start = {start:g}", end, "data come before noise")
    return sde, (end, start)


def _scale(control: Gaussian) -> float:
    """The standard deviation of a Gaussian, per dimension."""
    instance("control", control, Gaussian, "pass e.g. Gaussian.fit(data)")
    return math.sqrt(max(float(control.mixture.variances.mean()), 1e-12))


def _check_tolerances(tolerances: Tolerances, dtype: torch.dtype) -> None:
    least = 10 * torch.finfo(dtype).eps
    for name, value in (("rtol", tolerances.rtol), ("atol", tolerances.atol)):
        if value < least:
            kind = str(dtype).removeprefix("torch.")
            remedy = "loosen it, or give the model in more digits: copy.deepcopy(model).double()"
            raise fail(name, f"at least {least:.2g}, the rounding of {kind}", value, remedy)


@final
@dataclass(frozen=True, eq=False)
class _Job:
    """The arguments that all batches share."""

    model: ScoreModel
    solver: AdaptiveODE
    ends: tuple[float, float]
    dtype: torch.dtype
    how: Divergence
    prior: Prior
    truncation: str
    seed: int
    graph: bool

    @property
    def sde(self) -> AffineSDE:
        return self.model.sde  # type: ignore[return-value]

    def run(
        self, x: Tensor, cond: Cond, first: int, bar: Progress | None
    ) -> tuple[dict[str, Tensor], str]:
        """The fields of a batch's result, and its status."""
        state, offset, extra = self._entry(wide(x), cond, first)
        angle, flat = Angle(self.sde, self.solver.sigma_data), state.flatten(1)
        field = Augmented(self.model, angle, x.shape[1:], self.dtype, self.graph)
        control = None
        if self.how.control is not None:
            control = Expansion.of(self.how.control, angle.s, flat.detach())
        field.trace, sketch = self._trace(field, flat, cond, control, first)
        tally = Tally.of(len(x), self.ends[0])
        tally.nfe += sketch + extra
        caller = Caller(ReverseSDE(self.sde, field, 0.0, cond), len(x))
        augmented = torch.cat([flat, flat.new_zeros(len(flat), field.trace.columns)], 1)
        start = Density.start(self.solver, angle, caller, augmented, self.ends, tally)
        flow = cast(Density, start)
        flow.dim, flow.nats = flat.shape[1], torch.zeros_like(tally.t)
        off = self._truncation(flow, flat, control)
        if bar is not None:
            flow.watch = Way(bar)
        flow.run(1, self.solver.max_nfe, compact=False)

        dim, last = flat.shape[1], self.sde.at(self.ends[1])
        z = (flow.y[:, :dim] * angle.size(last)).reshape(x.shape)
        prior = self._prior(z)
        exact = dim * math.log(angle.size(last) / angle.size(self.sde.at(self.ends[0])))
        if control is not None:
            exact += control.integral(*(angle.of(t) for t in self.ends))
        stopped = torch.where(tally.alive, 0.0, math.nan).to(flat)
        draws = (prior + offset + exact + stopped)[:, None] + flow.y[:, dim:]
        columns = {"solver_error": flow.nats, "truncation": off}
        columns["prior_mismatch"] = self._mismatch(z.detach(), prior.detach())
        counts = {name: getattr(tally, name) for name in ("nfe", "accepted", "rejected")}
        counts |= {"stopped": ~tally.alive, "reached": flow.times}
        moved = {k: v.to(x.device) for k, v in (columns | counts).items()}
        return {"draws": draws.T, "prior": prior.detach(), "z": z.detach(), **moved}, tally.status

    def _entry(self, x: Tensor, cond: Cond, first: int) -> tuple[Tensor, Tensor, int]:
        """The state at t_end, the term to add to its log p, and the calls it took."""
        node, zero = self.sde.at(self.ends[0]), x.new_zeros(len(x))
        dim = x[0].numel()
        if self.truncation == "none":
            return x, zero, 0
        if self.truncation == "scaled":
            return node.alpha * x, zero + dim * math.log(node.alpha), 0
        eps = Independent(self.seed, first).stream("jensen").draw(x.detach())
        noisy = node.alpha * x + node.sigma * eps
        times = self.sde.at(torch.full((len(x),), self.ends[0], dtype=torch.float64), like=noisy)
        called = noisy.to(self.dtype)
        x0 = self.model.predict(times.fitted(called), called, cond).x0.to(x)
        std = node.sigma / node.alpha
        # log N(x; x0hat, std^2) - log N(x_e; alpha x, sigma^2); their constants give D log alpha
        square = ((x - x0) / std).flatten(1).square().sum(1) - eps.flatten(1).square().sum(1)
        calls = self.model.calls(times)
        return noisy, zero + dim * math.log(node.alpha) - 0.5 * square, calls

    def _trace(
        self, field: Augmented, flat: Tensor, cond: Cond, control: Expansion | None, first: int
    ) -> tuple[Trace, int]:
        """The estimator of the trace, and the network evaluations that it took to set it up."""
        if self.how.kind == "exact":
            return Trace(None, control=control), 0
        vectors = draw_probes(self.seed, first, flat.detach(), self.how.probes, self.how.probe)
        if self.how.kind == "hutchinson":
            return Trace.by_probes(vectors, control), 0
        times = torch.full((len(flat),), self.ends[0], dtype=torch.float64, device=flat.device)
        node = self.sde.at(times, like=flat)
        at = field.linearise(node, flat, cond)[1]
        return Trace.by_probes(vectors, control, at), field.calls(node)

    def _truncation(self, flow: Density, flat: Tensor, control: Expansion | None) -> Tensor:
        """log p_{t_end}(x) - log p_0(x) to first order, from the slope at the start."""
        node, dim = self.sde.at(self.ends[0]), flat.shape[1]
        if self.truncation == "jensen":
            return torch.full_like(flow.nats, math.nan).to(flat)
        u, m = flow.u.to(flat)[:, None], flow.angle.size(node)
        y, slope = (v[:, :dim].detach() for v in (flow.y, flow.slope))
        score = score_of_slope(u, y, slope) / m
        trace = flow.slope[:, dim:].detach().mean(1)
        if control is not None:
            trace = trace + control.rates(u).sum(1)
        curvature = -(dim + trace / torch.tan(u[:, 0])) / m**2
        # d log p/dt = -rate (D + x . s) + g^2/2 (div s + |s|^2); the integrals of the rate and of
        # g^2/2 are log alpha and, to first order, sigma^2/2
        heat: Tensor = 0.5 * node.sigma**2 * (curvature + score.square().sum(1))
        if self.truncation == "scaled":
            return heat
        both: Tensor = heat - math.log(node.alpha) * (dim + (flat.detach() * score).sum(1))
        return both

    def _prior(self, z: Tensor) -> Tensor:
        start = self.ends[1]
        if self.prior is None:
            std = None if start == self.sde.T else self.sde.sigma(start)
            return self.sde.prior_log_prob(z, std)
        density: object = getattr(self.prior, "log_prob", self.prior)
        if not callable(density):
            remedy = "pass e.g. data.marginal(sde, sde.T)"
            raise wrong_type("prior", "a distribution with log_prob", self.prior, remedy)
        value = density(z)
        if not isinstance(value, Tensor) or value.shape != z.shape[:1]:
            raise fail("prior", f"log densities of shape ({len(z)},)", value, "one per sample")
        return value.to(z)

    def _mismatch(self, z: Tensor, prior: Tensor) -> Tensor:
        if self.how.control is None:
            return torch.full_like(prior, math.nan)
        marginal = self.how.control.marginal(self.sde, self.ends[1])
        return marginal.log_prob(z) - prior  # type: ignore[no-any-return]  # of a Gaussian
