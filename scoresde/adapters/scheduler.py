"""Solvers of scoresde as schedulers of diffusers, whose pipelines call the network themselves."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import choice, fail, positive_int, wrong_type
from scoresde._html import Shown
from scoresde._tensor import state_dtype
from scoresde.adapters.diffusers import PREDICTIONS, schedule_of
from scoresde.adapters.network import mean_of
from scoresde.cond import Cond
from scoresde.ddpm import ChainTime
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.noise import Independent
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.sampler.plan import resolve
from scoresde.solvers.base import Plan, Solver
from scoresde.solvers.limits import Held
from scoresde.solvers.step import GaussianStep

__all__ = ["DiffusersScheduler", "to_diffusers"]


class _Given(ScoreModel):
    """A model that returns the output that the pipeline got from its network."""

    def __init__(self, sde: Any, kind: str) -> None:
        super().__init__()
        self.sde, self.kind = sde, kind
        self.value = torch.empty(0)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return Prediction(x, node, self.value, self.kind)


@final
class DiffusersScheduler(Shown):
    """A solver of scoresde with the methods of a scheduler of diffusers; see `to_diffusers`.

    Attributes:
        timesteps: the timesteps of a run, in the order in which the network is asked, set by
            `set_timesteps`; fractions in general.
        config: that of the scheduler it was made from.
        init_noise_sigma, order: 1, as of every scheduler that preserves variance.
    """

    init_noise_sigma = 1.0
    order = 1

    def __init__(
        self,
        scheduler: Any,  # of diffusers, or bare alphas
        solver: str | Solver,
        predicts: str | None,
        eta: float | None,
        grid: str | None,
    ) -> None:
        chain, told = schedule_of(scheduler)
        kind = choice("predicts", predicts or told, PREDICTIONS.values())
        self.config: Any = getattr(scheduler, "config", {"num_train_timesteps": chain.N})
        self._chain, self._model = chain, _Given(chain.to_sde(), kind)
        self._choice: tuple[Any, ...] = (solver, eta, grid)
        self.timesteps = torch.empty(0)
        self._plan: Plan | None = None
        if isinstance(solver, Solver) and not isinstance(solver, GaussianStep):
            remedy = "take a multistep one, such as unipc_3"
            raise wrong_type("solver", "a solver with one call a step", solver, remedy)

    def __len__(self) -> int:
        return self._chain.N

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Plan a run with this number of network calls, the last of which denoises.

        Raises:
            ValueError: it is below 2, or the solver makes several calls a step.
        """
        n = positive_int("num_inference_steps", num_inference_steps, "the number of calls")
        if n < 2:
            raise fail("num_inference_steps", "2 or more", n, "the last call denoises")
        solver, eta, grid = self._choice
        sde = self._model.sde
        plan = resolve(sde, self._model, solver, steps=n - 1, grid=grid, eta=eta, denoise=True)
        if not isinstance(plan.solver, GaussianStep):
            remedy = "take a multistep one, such as unipc_3"
            raise fail("solver", "a solver with one call a step", plan.solver, remedy)
        (self._nodes,) = plan.schedule.segments
        (self._rows,) = plan.solver.prepare(plan.schedule, plan.eta)
        self._process = ReverseSDE(sde, self._model, plan.eta)  # type: ignore[arg-type]
        time = ChainTime("i-1", self._chain.N)
        told = [time(node) for node in self._nodes]
        kind = torch.float32 if str(device).startswith("mps") else torch.float64
        self.timesteps = torch.tensor(told, dtype=kind, device=device)
        self._plan, self._at, self._past = plan, 0, ()
        self._noise: Independent | None = None

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The sample itself, since the state of a chain preserves variance."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:  # an output object or a tuple, as of diffusers
        """The sample at the next timestep, as `.prev_sample` or the only entry of a tuple.

        Args:
            model_output: of the network at the sample, (B, C, *D), or (B, 2 C, *D) with variances.
            timestep: the next of `timesteps`.
            sample: (B, C, *D).
            generator: the source of the seed of a stochastic solver, by default torch's own.
            return_dict: whether to return an object.

        Raises:
            ValueError: the timestep is not the next one, or the output has another shape.
        """
        x = sample.to(state_dtype(sample.dtype))
        at = self._check(timestep)
        if at == 0:
            seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
            self._noise, self._past = Independent(seed), ()
        self._model.value = mean_of(model_output, sample, "model_output").to(x)
        x = self._next(x, at).to(sample.dtype)
        self._at = at + 1
        return SimpleNamespace(prev_sample=x) if return_dict else (x,)

    def _check(self, timestep: Tensor | float) -> int:
        """The number of the step, which begins a new run behind the last one."""
        if self._plan is None:
            raise fail("timestep", "a plan", None, "call set_timesteps first")
        at = self._at % len(self.timesteps)
        expected, got = float(self.timesteps[at]), float(timestep)
        if abs(got - expected) > 1e-3:
            remedy = "call step once for each of timesteps, in order"
            raise fail("timestep", f"the next one, {expected:g}", got, remedy)
        return at

    def _next(self, x: Tensor, at: int) -> Tensor:
        """The state behind step number `at`; behind the last one it is x_0hat."""
        if at == len(self._nodes) - 1:
            return self._model.predict(self._nodes[at], x).x0
        (now, nxt), row = list(pairwise(self._nodes))[at], self._rows[at]
        if isinstance(row, Held):
            return row.step(self._process, x, now, nxt, self._noise)  # type: ignore[arg-type]
        solver: Any = self._plan.solver  # type: ignore[union-attr]  # a `GaussianStep`
        (row,) = solver.rows_like((row,), x)
        x, self._past = solver.step(self._process, x, now, nxt, row, self._past, self._noise)
        return x


def to_diffusers(
    scheduler: Any,  # of diffusers, which is optional
    solver: str | Solver = "unipc_3",
    *,
    predicts: str | None = None,
    eta: float | None = None,
    grid: str | None = None,
) -> DiffusersScheduler:
    """A solver of scoresde as the scheduler of a pipeline of diffusers.

    Its timesteps start at pure noise and lie on a grid of scoresde, so they are fractions, which a
    sinusoidal embedding takes. n inference steps make n - 1 steps of the solver and the final
    denoising: n calls. Samples are those of `ReverseSampler` for `from_diffusers`.

    Args:
        scheduler: the scheduler of the training, or its alphas_cumprod; see `from_diffusers`.
        solver: the name of a solver with one call a step (UniPC, DPM-Solver++ 2M and 3M, DDIM,
            ancestral, SA-Solver ...), or such a solver.
        predicts: "eps", "v" or "x0"; by default what the scheduler's `prediction_type` says.
        eta, grid: see `ReverseSampler`.

    Raises:
        TypeError, ValueError: the scheduler has no alphas, or the solver makes several calls a
            step.

    Example:
        >>> ours = to_diffusers([0.9, 0.5, 0.1], "ddim", predicts="eps")
        >>> ours.set_timesteps(3)
        >>> x = torch.ones(1, 1, 2)
        >>> for t in ours.timesteps:
        ...     x = ours.step(0.5 * x, t, x).prev_sample
        >>> x.shape
        torch.Size([1, 1, 2])
    """
    return DiffusersScheduler(scheduler, solver, predicts, eta, grid)
