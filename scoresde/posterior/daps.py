"""Decoupled annealing posterior sampling: x_0 is drawn anew at each noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, positive, positive_int, warn
from scoresde._html import Shown
from scoresde._tensor import batches, lincomb, ordinary, state_kind
from scoresde.cond import Cond, check_cond
from scoresde.measurement import Measurement
from scoresde.model import ScoreModel, summary_of
from scoresde.node import Node
from scoresde.noise import Noise
from scoresde.posterior.base import MeasuredModel
from scoresde.posterior.draws import SHARE, gaussian_draw, langevin
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.sampler.plan import as_noise, check_shape, resolve
from scoresde.sampler.replay import Fault, model_fault, not_finite
from scoresde.schedule.grid import Grid
from scoresde.sde import as_affine
from scoresde.solvers.base import Plan, integrate

__all__ = ["DAPS"]


@final
class DAPS(Shown):
    """Decoupled annealing posterior sampling: at each node x_0 is drawn anew, and noised again.

    From a state x_t the sampler draws x_0 from N(x_0hat, r^2 I) times p(y | x_0), with r^2 = v
    sigma^2 / (sigma^2 + v alpha^2) for data of variance v, and continues at the next node from
    alpha x_0 + sigma z. So consecutive states are not tied to one another, and errors of high
    noise can be undone. For a linear operator with Gaussian noise x_0 is drawn exactly; otherwise
    by Langevin steps with Metropolis correction, which go on from the x_0 of the node before and
    need no network call. The result is the x_0 of the last node.

    x_0hat is E[x_0 | x_t] by default (ode_steps = 1). Then the sampler is exact for data of
    independent values of variance v, with any number of steps, and for other data the bias
    becomes smaller with more of them. In 8 correlated dimensions of which 4 are measured, with
    noise of 0.5, W2/sqrt(8) from the posterior is 0.14, 0.05 and 0.02 with 20, 100 and 400 steps,
    where the prior is at 0.73 and as many exact samples at 0.01. The paper takes the end of the
    probability flow as x_0hat, with r = sigma / alpha. That end is a sample already, to which r^2
    adds more variance, so that samples are too wide where y says little: ode_steps = 5 is at 0.14
    there with 100 steps as with 400.

    On mixtures of 25 far Gaussians in 8 dimensions, with 2 measured numbers
    (`benchmarks/posteriors.py`), the sliced W1 distance is 2.5 with 100 and 1.7 with 300 steps,
    where `PiGDM` is at 3.2 and exact samples at 0.10, since modes are chosen at a noise at which
    p(x_0 | x_t) is no Gaussian (tests/posterior/test_daps.py).

    Args:
        model: the score model of the prior, under an affine SDE.
        measurement: a measurement by any differentiable operator, with any noise.
        steps, grid, t_end: the nodes, as in `ReverseSampler`; one segment.
        ode_steps: the network calls of each node: 1 for E[x_0 | x_t], or more for the end of the
            probability flow by this number of DDIM steps.
        langevin_steps: the proposals of each node where x_0 cannot be drawn exactly; each costs
            one gradient of the log-likelihood.
        variance: v, that of the data; by default the one that the model knows.
        tol, max_iter: the relative residual, and the largest number of products, of the conjugate
            gradients of exact draws for operators without known singular values.

    Raises:
        TypeError, ValueError: an argument is of another type or not valid, the SDE is not affine,
            Gaussian noise has a variance of 0, or the variance of the data is not known.

    Source: Zhang et al. 2024 (arXiv 2407.01521), algorithm 1.

    Example:
        >>> from scoresde import Gaussian, VPSDE
        >>> from scoresde.measurement import Identity
        >>> prior = Gaussian(torch.zeros(1), torch.ones(1)).under(VPSDE())
        >>> sampler = DAPS(prior, Measurement(Identity(), torch.ones(1), 1.0), steps=10)
        >>> x = sampler.sample((4000, 1), seed=0)
        >>> round(float(x.mean()), 1), round(float(x.var()), 1)
        (0.5, 0.5)
    """

    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        *,
        steps: int | None = None,
        grid: str | Grid | Sequence[float] | None = None,
        t_end: float | None = None,
        ode_steps: int = 1,
        langevin_steps: int = 50,
        variance: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 200,
    ) -> None:
        self.model = _Prior(model, measurement)
        self.sde = as_affine("model.sde", model.sde, "x_0hat is E[x_0 | x_t] of an affine SDE")
        self.measurement = measurement
        if measurement.gaussian:
            measurement.need_noise("DAPS")
        self.exact = measurement.linear and measurement.gaussian
        self.ode_steps = positive_int("ode_steps", ode_steps, "1 takes E[x_0 | x_t]")
        self.langevin_steps = positive_int("langevin_steps", langevin_steps, "50 are usual")
        self.tol = positive("tol", tol)
        self.max_iter = positive_int("max_iter", max_iter)
        if variance is None:
            if model.data_scale is None:
                remedy = "pass variance=, that of the data"
                raise fail("variance", "a model that knows its data", None, remedy)
            variance = model.data_scale[0] ** 2
        self.variance = positive("variance", variance, "that of the data")
        self.plan = resolve(self.sde, model, "ddim", steps=steps, grid=grid, t_end=t_end)
        if len(self.plan.schedule.segments) > 1:
            got = f"{len(self.plan.schedule.segments)} segments"
            raise fail("grid", "one segment", got, "leave out restart and churn")
        (self.nodes,) = self.plan.schedule.segments
        self._flows = tuple(self._flow(node) for node in self.nodes)

    def _flow(self, node: Node) -> Plan | None:
        """The probability flow from a node to the last one; None where x_0hat is E[x_0 | x_t]."""
        end, steps = self.nodes[-1].t, self.ode_steps - 1
        if steps == 0 or node.t == end:
            return None
        return resolve(self.sde, self.model, "ddim", steps=steps, t_start=node.t, t_end=end)

    def __repr__(self) -> str:
        draws = "exact draws" if self.exact else f"langevin_steps={self.langevin_steps}"
        return (
            f"DAPS({self.measurement!r}, steps={len(self.nodes) - 1}, "
            f"ode_steps={self.ode_steps}, {draws})"
        )

    @ordinary
    def sample(
        self,
        shape: Sequence[int],
        *,
        seed: int | None = None,
        cond: Cond = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Samples of the posterior, (N, *D).

        Args:
            shape: (N, *D).
            seed: the seed of the noise; drawn from torch's global generator if None. Sample i of a
                seed has the same noise whatever the batch size.
            cond: conditions, name -> (N, ...): the measurement of each sample, if it has none of
                its own, and conditions of the model.
            batch_size: the number of samples of one call of the model, all by default.
            dtype, device: those of the samples; by default those of the model.

        Raises:
            ValueError: an argument is not valid, or x_0hat, the log-likelihood or a draw of x_0 is
                not finite; the message names step and time.

        Warns:
            UserWarning: the Langevin steps of the last node are too short to move x_0 by r, the
                linear solve of an exact draw did not reach its tolerance, or the schedule does
                not reach noise for data of this size; see `AffineSDE.prior_gap`.
        """
        shape = check_shape(shape)
        dtype, device = state_kind(self.model, dtype, device)
        admitted = check_cond(self.model, cond, shape[0], device)
        noise = as_noise("independent", seed, self.sde, 1.0)
        known = summary_of(self.model)
        self.sde.warn_of_prior(1.0 if known is None else known.size)
        parts, shares = [], []
        with torch.no_grad():
            for rows, own in batches(shape[0], batch_size, admitted):
                size = (rows.stop - rows.start, *shape[1:])
                like = torch.empty(size, dtype=dtype, device=device)
                x0, share = self._batch(like, own, noise.from_sample(rows.start), rows.start)
                parts.append(x0)
                shares.append(share)
        if not self.exact:
            self._warn_of_short_steps(torch.cat(shares))
        return torch.cat(parts)

    def _batch(self, like: Tensor, cond: Cond, noise: Noise, first: int) -> tuple[Tensor, Tensor]:
        """x_0 of one batch, and the length of its last Langevin steps over r^2."""
        y, _ = self.measurement.split(cond, like)
        process = ReverseSDE(self.sde, self.model, 0.0, cond)
        x = self.sde.sample_prior(noise.prior(like))
        x0, share = None, like.new_full((len(like),), SHARE, dtype=torch.float64)
        for number, (node, flow) in enumerate(zip(self.nodes, self._flows, strict=True)):
            where = f"at step {number}, t = {node.t:.6g}"
            if x0 is not None:
                z = noise.stream("renoise").draw(like, at=node.t)
                x = lincomb((node.alpha, x0), (node.sigma, z))
            centre = _denoised(process, node, flow, x, noise)
            _check(model_fault(self.model), where, centre, first)
            start = centre if x0 is None else x0
            x0, share = self._drawn(node, centre, start, y, share, noise)
            remedy = "check the units of y, and that the operator is finite at any x_0"
            _check(("measurement", "finite draws of x_0", remedy), where, x0, first)
        return x0, share  # type: ignore[return-value]  # there is a node

    def _drawn(
        self, node: Node, centre: Tensor, start: Tensor, y: Tensor, share: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """A draw from N(x_0hat, r^2 I) p(y | x_0) at a node; Langevin goes on from `start`."""
        v, t = self.variance, node.t
        r2 = v * node.sigma**2 / (node.sigma**2 + v * node.alpha**2)
        if not self.exact:
            source, steps = noise.stream("langevin"), self.langevin_steps
            return langevin(self.measurement, start, centre, r2, y, share, source, t, steps)
        source = noise.stream("posterior")
        normals = source.draw(centre, at=t), source.draw(y, 1, at=t)
        limits = self.tol, self.max_iter
        return gaussian_draw(self.measurement, centre, r2, y, normals, *limits), share

    def _warn_of_short_steps(self, share: Tensor) -> None:
        """Warn if the chains diffuse by less than r, sqrt(2 f steps) of it, at the last node."""
        short = int((2.0 * share * self.langevin_steps < 1.0).sum())
        if short:
            warn(
                f"DAPS: the Langevin steps of {short} of {len(share)} samples at the last node "
                f"are down to {float(share.min()):.2g} r^2, and {self.langevin_steps} of them do "
                "not move x_0 by r; raise langevin_steps, or check that the log-likelihood is "
                "smooth and its noise has the unit of y",
            )


@final
class _Prior(MeasuredModel):
    """The prior itself, whose conditions may hold the measurement."""

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.model.predict(node, x, self.measurement.split(cond, x)[1])


def _denoised(
    process: ReverseSDE, node: Node, flow: Plan | None, x: Tensor, noise: Noise
) -> Tensor:
    """x_0hat: E[x_0 | x_t], or the end of the probability flow with a last Tweedie step."""
    if flow is not None:
        x, node = integrate(flow, process, x, noise).x, flow.schedule.end
    found = process.predict(node, x)
    found.check_signal()
    return found.x0


def _check(fault: Fault, where: str, x: Tensor, first: int) -> None:
    """Raise a ValueError that names step and time unless x is finite."""
    if not bool(x.isfinite().all()):
        raise not_finite(fault, where, x, first)
