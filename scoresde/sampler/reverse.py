"""The reverse process, from the prior to the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, warn
from scoresde._html import Shown
from scoresde._tensor import batches, ordinary, state_kind
from scoresde.calibration import Calibration
from scoresde.cond import Cond, check_cond
from scoresde.model import ScoreModel, summary_of
from scoresde.noise import Noise
from scoresde.oracles import Gaussian
from scoresde.process import Eta, ExtendedReverse, ReverseSDE
from scoresde.sampler.latent import Latent, decode, encode
from scoresde.sampler.plan import (
    as_model,
    as_noise,
    check_gaussian_start,
    check_shape,
    check_start,
    resolve,
    starting_at,
)
from scoresde.sampler.replay import bar, both, model_fault, not_finite, replay, warn_of_departure
from scoresde.schedule.grid import Grid
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import Adams
from scoresde.solvers.base import Plan, Solution, Solver, Unfinished, UnfinishedWarning, integrate
from scoresde.solvers.run import BatchHook, OnStep, check_hook

__all__ = ["ReverseSampler"]


@final
class ReverseSampler(Shown):
    """Samples from a score model, by its reverse SDE or probability flow.

    Args:
        sde: the SDE that the model was trained for.
        model: a `ScoreModel`, or a bare function score(t, x).
        solver: a name of `SOLVERS`, a solver, or "auto": the calibration that the model
            carries for this number of steps (see `ScoreModel.calibrations`), or else the solver
            that did best in measurements with this number of steps on the probability flow, or on
            the reverse SDE if eta is not 0; "auto_sde" is the best stochastic solver, with its
            eta, or a calibration with noise. `Solution.solver` holds the choice, and `plan.why`
            the reason.
        steps: the number of steps of the solver, 50 by default; the final denoising makes one more
            call.
        grid: "log_snr", "uniform", "quadratic", "karras", "sigmoid", "tapered", a `Grid`, or the
            times themselves, with which `steps` and `t_end`, if given, must agree. By default
            the grid of an automatic solver, else "log_snr" ("uniform" if the SDE is not
            affine). "tapered" uses the standard deviation of the data, if the model has it.
        t_end: the time at which the solve ends; that of the SDE by default.
        eta: the stochasticity of dx = [f - (1 + eta^2)/2 g^2 score] dt + eta g dw, a number or a
            function of t: 0 is the probability flow and 1 the reverse SDE, and all have the same
            marginals; see `ReverseSDE`. By default that of the solver's name, or for a solver
            object 1 if it can integrate an SDE and 0 if it cannot.
        denoise: end with one Tweedie step x_0hat(x) at the time of the state; by default if the
            SDE is affine. If sigma(t_end) = 0 no step is made, since no noise is left.

    Attributes:
        plan: the solver, eta, schedule and denoising of a run; `plan.why` holds the reason for the
            choice, or the fallback, of "auto" and "auto_sde".

    Raises:
        TypeError, ValueError: a name is unknown, the solver cannot serve the SDE or eta, the model
            has another SDE, or the grid is outside [0, T]; all are checked at construction, before
            any network call.

    Example:
        >>> from scoresde import VPSDE
        >>> normal = ReverseSampler(VPSDE(), lambda t, x: -x, "ddim", steps=10)
        >>> normal.sample((1000, 2), seed=0).shape
        torch.Size([1000, 2])
    """

    def __init__(
        self,
        sde: SDE,
        model: ScoreModel | Callable[..., Tensor],
        solver: str | Solver | Calibration = "auto",
        *,
        steps: int | None = None,
        grid: str | Grid | Sequence[float] | None = None,
        t_end: float | None = None,
        eta: float | Callable[[Tensor], Any] | None = None,
        denoise: bool | None = None,
    ) -> None:
        instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
        self.sde = sde
        self.model = as_model(sde, model)
        self.plan = resolve(
            sde,
            self.model,
            solver,
            steps=steps,
            grid=grid,
            t_end=t_end,
            eta=eta,
            denoise=denoise,
        )

    @property
    def solver(self) -> Solver:
        """The solver of the plan."""
        return self.plan.solver

    @property
    def eta(self) -> Eta:
        """The stochasticity of the plan."""
        return cast(Eta, self.plan.eta)  # None is for the forward SDE alone

    @property
    def grid(self) -> Grid:
        """The grid of the plan."""
        return self.plan.schedule.grid

    def __repr__(self) -> str:
        return f"ReverseSampler({self.plan!r})"

    @property
    def facts(self) -> dict[str, object]:
        """The model, and the facts of the plan, name -> value, for a table."""
        return {"model": self.model.composition, **self.plan.facts}

    def calibrate(
        self,
        shape: Sequence[int],
        *,
        method: str = "optimise",
        solver: Adams | None = None,
        trajectories: int | None = None,
        seed: int = 0,
        cond: Cond = None,
        budget: int | None = None,
        progress: bool = False,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Calibration:
        """Calibrate solver and grid for this model and number of steps; see `scoresde.calibrate`.

        Pass the result to a new sampler: `ReverseSampler(sde, model, calibration)`. The process is
        that of the sampler, with its eta; where that is the function that belongs to a solver's
        name, as with "auto_sde", it is the reverse SDE, eta = 1.

        Args:
            shape: the shape of one sample, (*D).
            cond: the conditions of the trajectories, name -> (trajectories, ...); with noise each
                of them serves for 8.
            method, solver, trajectories, seed, budget, progress, batch_size: as in
                `scoresde.calibrate`.
            dtype, device: those of the trajectories; by default those of the model's parameters.
        """
        from scoresde.calibration.search import calibrate  # which only this method needs

        dtype, device = state_kind(self.model, dtype, device)
        eta = 1.0 if isinstance(self.eta, ExtendedReverse) else self.eta
        return calibrate(
            ReverseSDE(self.sde, self.model, eta, cond),
            shape,
            steps=self.grid.steps,
            method=method,
            solver=solver,
            trajectories=trajectories,
            seed=seed,
            t_end=self.grid.end,
            budget=budget,
            progress=progress,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        )

    def encode(
        self,
        x: Tensor,
        *,
        solver: Solver | None = None,
        cond: Cond = None,
        check: bool = False,
        progress: bool = False,
    ) -> Latent:
        """Latent codes of data x: (B, *D), along the probability flow; see `scoresde.encode`."""
        return encode(
            self.sde,
            self.model,
            x,
            solver=solver,
            t=self.grid.end,
            cond=cond,
            check=check,
            progress=progress,
        )

    def decode(
        self,
        z: Tensor,
        *,
        solver: Solver | None = None,
        cond: Cond = None,
        progress: bool = False,
    ) -> Tensor:
        """The inverse of `encode`: data from latent codes z: (B, *D)."""
        end = self.grid.end
        return decode(self.sde, self.model, z, solver=solver, t=end, cond=cond, progress=progress)

    def sample(
        self,
        shape: Sequence[int],
        *,
        seed: int | None = None,
        first: int = 0,
        noise: str | Noise = "independent",
        cond: Cond = None,
        x_init: Tensor | None = None,
        t_start: float | None = None,
        gaussian_start: Gaussian | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        on_step: OnStep | BatchHook | None = None,
        keep_path: bool = False,
        differentiable: bool | None = None,
    ) -> Tensor:
        """Samples of this shape; the `x` of `solve`, which takes the same arguments.

        All samples are finished, or an error is raised; `solve` returns unfinished ones too, with
        a warning.

        Raises:
            Unfinished: an adaptive solver stopped some samples before the end, because they had
                used all calls or the step became too short; the message says how many, where, and
                the remedy, and the `solution` of the error holds the states. It is a RuntimeError.
            ValueError: see `solve`.
        """
        solution = self._samples(
            shape,
            seed=seed,
            first=first,
            noise=noise,
            cond=cond,
            x_init=x_init,
            t_start=t_start,
            gaussian_start=gaussian_start,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            progress=progress,
            on_step=on_step,
            keep_path=keep_path,
            differentiable=differentiable,
        )
        if solution.status != "done":
            message = f"solver: {solution.unfinished}, or take the states from solve()"
            raise Unfinished(message, solution)
        return solution.x

    def solve(
        self,
        shape: Sequence[int],
        *,
        seed: int | None = None,
        first: int = 0,
        noise: str | Noise = "independent",
        cond: Cond = None,
        x_init: Tensor | None = None,
        t_start: float | None = None,
        gaussian_start: Gaussian | None = None,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        on_step: OnStep | BatchHook | None = None,
        keep_path: bool = False,
        differentiable: bool | None = None,
    ) -> Solution:
        """Samples and the statistics of the solver.

        Args:
            shape: (N, *D).
            seed: the seed of the noise; drawn from torch's global generator if None. Sample i
                of a seed has the same noise whatever the batch size, split or device.
            first: the number of the first sample; it replaces that of a noise source.
            noise: "independent"; "path", one Brownian motion for all grids and solvers; or a
                noise source.
            cond: conditions, name -> (N, ...), which are passed to the model.
            x_init: (N, *D), the state at t_start in place of a draw from the prior.
            t_start: the time of the start; T by default. A time below T needs x_init or
                gaussian_start.
            gaussian_start: a Gaussian whose exact probability flow replaces the solve on
                [t_start, T], without network calls, since there any data are close to Gaussian;
                `Gaussian.fit(data)` has the moments of the data. After Wang and Vastola 2024
                (arXiv 2412.09726).
            batch_size: the number of samples solved at a time, so that memory does not grow with
                N.
            dtype, device: those of the state; by default those of x_init or of the model's
                parameters. If these are of half precision the state is float32 and only the
                network is called in half precision, in which a state would lose the last steps to
                rounding.
            progress: show a bar.
            on_step: a function called with (node, x) after each step; it may return another
                state. Or a hook that knows the samples of a batch, such as `RePaint`.
            keep_path: keep the states at all nodes, (steps + 1, N, *D).
            differentiable: keep the graph, so that samples can be differentiated in x_init, the
                weights of the model and conditions, for a given seed; by default if x_init
                requires gradients. Memory then grows with the calls of the network; the nodes and
                the steps of an adaptive solver are held fixed.

        Warns:
            UserWarning: the schedule does not reach pure noise, so the prior differs from the
                distribution of the state at T: their KL divergence is above 0.005 nats per
                dimension for data of the size that the model has stored, or of unit size; see
                `AffineSDE.prior_gap`.
            DataRangeWarning: the range or the standard deviation of the samples is not that of the
                training data, if the model has stored it; see `DataSummary.departure`.
            UnfinishedWarning: an adaptive solver stopped some samples before the end. They are
                denoised from their last states; `Solution.status` names the reason, and `stats`
                the samples.

        Raises:
            ValueError: an argument is not valid, or the samples are not finite; the run is then
                repeated with a check at each step, and the error names step and time.
        """
        solution = self._samples(
            shape,
            seed=seed,
            first=first,
            noise=noise,
            cond=cond,
            x_init=x_init,
            t_start=t_start,
            gaussian_start=gaussian_start,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            progress=progress,
            on_step=on_step,
            keep_path=keep_path,
            differentiable=differentiable,
        )
        if solution.status != "done":
            warn(f"solver: {solution.unfinished}", UnfinishedWarning)
        return solution

    @ordinary
    def _samples(
        self,
        shape: Sequence[int],
        *,
        seed: int | None,
        first: int,
        noise: str | Noise,
        cond: Cond,
        x_init: Tensor | None,
        t_start: float | None,
        gaussian_start: Gaussian | None,
        batch_size: int | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        progress: bool,
        on_step: OnStep | BatchHook | None,
        keep_path: bool,
        differentiable: bool | None,
    ) -> Solution:
        shape, plan = check_shape(shape), self.plan
        if t_start is not None:
            plan = starting_at(plan, self.model, t_start)
        if gaussian_start is not None:
            check_gaussian_start(gaussian_start, self.sde, shape, x_init)
        check_start(x_init, shape, plan.schedule, gaussian_start)
        if on_step is not None and not isinstance(on_step, BatchHook):
            check_hook(on_step)
        dtype, device = state_kind(self.model, dtype, device, x_init)
        cond = check_cond(self.model, cond, shape[0], device)
        parts = list(batches(shape[0], batch_size, cond))
        source = as_noise(noise, seed, self.sde, self.eta).from_sample(first)
        if plan.stochastic:
            source.check(plan.schedule.grid.times)
        if x_init is None and isinstance(self.sde, AffineSDE):
            known = summary_of(self.model)
            self.sde.warn_of_prior(1.0 if known is None else known.size)
        solutions = []
        shown = bar(plan, len(parts)) if progress else nullcontext()
        with torch.set_grad_enabled(self._graph(differentiable, x_init)), shown as advance:
            for rows, part in parts:
                draw = source.from_sample(first + rows.start)
                size = (rows.stop - rows.start, *shape[1:])
                like = torch.empty(size, dtype=dtype, device=device)
                if x_init is not None:
                    x = x_init[rows].to(like)
                else:
                    x = self.sde.sample_prior(draw.prior(like))
                if gaussian_start is not None and isinstance(self.sde, AffineSDE):
                    x = gaussian_start.flow(self.sde, x, self.sde.T, plan.schedule.grid.start)
                process = ReverseSDE(self.sde, self.model, self.eta, part)
                own = on_step
                if isinstance(own, BatchHook):
                    own = own.of_batch(draw, rows, shape[0])
                hooks = own, both(own, advance) if advance else own
                run = _batch(plan, process, x, draw, hooks, keep_path, first + rows.start)
                if isinstance(on_step, BatchHook) and plan.denoise:
                    run = replace(run, x=on_step.at_end(run.x, rows))
                solutions.append(run)
            solution = Solution.joined(solutions, source.seed)
            if torch.is_grad_enabled() and not solution.x.requires_grad:
                remedy = "let weights, x_init or a condition require them; take out detach"
                raise fail("model", "one that gradients pass through", "one that stops", remedy)
        if solution.status == "done":
            warn_of_departure(self.model, plan, solution.x.detach(), cond)
        return solution

    def _graph(self, wanted: bool | None, x_init: Tensor | None) -> bool:
        """Whether to keep the graph."""
        if wanted is None:
            wanted = torch.is_grad_enabled() and x_init is not None and x_init.requires_grad
        instance("differentiable", wanted, bool, "pass True, False, or nothing for the default")
        if wanted and not self.solver.differentiable:
            remedy = "take another solver, such as 'dopri5', or detach x_init"
            got = type(self.solver).__name__
            raise fail("solver", "one that gradients pass through", got, remedy)
        return wanted


def _batch(
    plan: Plan,
    process: ReverseSDE,
    x: Tensor,
    noise: Noise,
    hooks: tuple[OnStep | None, OnStep | None],
    keep_path: bool,
    first: int,
) -> Solution:
    """Solve and denoise one batch; `hooks` are the hook of the user without and with progress bar.

    If the states are not finite the run is repeated with a check at each step.
    """
    solution = integrate(plan, process, x, noise, hooks[1], keep_path)
    denoised = _denoised(plan, process, solution)
    nfe = process.nfe
    if not bool(torch.isfinite(denoised).all()):
        fault = model_fault(process.model)
        again = replay(plan, process, x, noise, hooks[0], fault, first)
        last = _denoised(plan, process, again)
        if bool(torch.isfinite(last).all()):
            remedy = "call model.eval(): dropout changes the prediction at every call"
            raise fail("model", "the same scores in a replay", "NaN in one run only", remedy)
        where = f"in the final denoising at t = {plan.schedule.end.t:.6g}"
        raise not_finite(fault, where, last, first)
    stats = dict(solution.stats)
    if "nfe" in stats:  # the counts of each sample include the final denoising
        stats["nfe"] = stats["nfe"] + (nfe - solution.nfe)
    return replace(solution, x=denoised, nfe=nfe, stats=stats)


def _denoised(plan: Plan, process: ReverseSDE, solution: Solution) -> Tensor:
    """Make one Tweedie step at the time of the state, unless it has no noise."""
    x, node = solution.x, plan.schedule.end
    if not plan.denoise:
        return x
    if solution.status != "done":  # some samples were stopped before the end, at different times
        return process.predict(process.sde.at(solution.stats["t"], like=x), x).x0
    return process.predict(node, x).x0 if node.sigma > 0 else x / node.alpha
