"""Sampling: the reverse process from the prior to the data, and the forward process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from scoresde._check import choice, fail, floating, instance, need, positive_int, wrong_type
from scoresde.grid import Grid, make_grid
from scoresde.model import Cond, FunctionScore, ScoreModel, check_cond
from scoresde.node import Node
from scoresde.noise import Independent, Noise
from scoresde.process import ForwardSDE, Process, ReverseSDE
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import (
    SRA1,
    Adams,
    EulerMaruyama,
    Heun,
    Langevin,
    OneCallSRA,
    PredictorCorrector,
    ReverseDiffusion,
    SciPySolver,
    ShARK,
    Singlestep,
    Solution,
    Solver,
    StepSolver,
    TorchSDESolver,
)
from scoresde.solvers.base import OnStep, check_hook

__all__ = ["SOLVERS", "ReverseSampler", "simulate"]

SOLVERS: dict[str, tuple[Solver, float]] = {
    # the reverse SDE
    "euler_maruyama": (EulerMaruyama(), 1.0),
    "reverse_diffusion": (ReverseDiffusion(), 1.0),
    "ancestral": (Adams(1), 1.0),
    "predictor_corrector": (PredictorCorrector(Adams(1), Langevin()), 1.0),
    "dpmpp_2m_sde": (Adams(2, variant="midpoint"), 1.0),
    "dpmpp_3m_sde": (Adams(3), 1.0),
    "sa_solver_p2c2": (Adams(2, 2), 1.0),
    "sa_solver_p3c4": (Adams(3, 4), 1.0),
    "dpmpp_sde": (Singlestep("2s"), 1.0),
    "seeds_2": (Singlestep("res_2s"), 1.0),
    "seeds_3": (Singlestep("3s"), 1.0),
    "sra1": (SRA1(), 1.0),
    "shark": (ShARK(), 1.0),
    "one_call_sra": (OneCallSRA(), 1.0),
    "torchsde": (TorchSDESolver(), 1.0),
    # the probability flow
    "ddim": (Adams(1), 0.0),
    "euler": (EulerMaruyama(), 0.0),
    "heun": (Heun(), 0.0),
    "dpm_solver_2": (Singlestep("2s", "eps"), 0.0),
    "dpm_solver_3": (Singlestep("3s", "eps"), 0.0),
    "dpmpp_2s": (Singlestep("2s"), 0.0),
    "dpmpp_3s": (Singlestep("3s"), 0.0),
    "res_2s": (Singlestep("res_2s"), 0.0),
    "res_3s": (Singlestep("res_3s"), 0.0),
    "dpmpp_2m": (Adams(2, variant="midpoint"), 0.0),
    "dpmpp_3m": (Adams(3), 0.0),
    "dpmpp_3m_reference": (Adams(3, variant="reference"), 0.0),
    "ab_4": (Adams(4), 0.0),
    "unipc_2": (Adams(2, 3, variant="bh2"), 0.0),
    "unipc_3": (Adams(3, 4, variant="bh2"), 0.0),
    "unipc_3_eps": (Adams(3, 4, "eps", variant="bh2"), 0.0),
    "unipc_4": (Adams(4, 5, variant="bh2"), 0.0),
    "deis_tab3": (Adams(4, kernel="eps", clock="t"), 0.0),
    "deis_rhoab3": (Adams(3, kernel="eps", clock="rho"), 0.0),
    "ipndm_3": (Adams(3, kernel="eps", variant="ipndm"), 0.0),
    "ipndm_4": (Adams(4, kernel="eps", variant="ipndm"), 0.0),
    "scipy": (SciPySolver(), 0.0),
}
"""Name -> (solver, eta): eta = 1 walks the reverse SDE, 0 the probability flow."""

NOISES: dict[str, Callable[[int], Noise]] = {"independent": Independent}
"""Name -> noise source of a seed."""

_AUTO = "euler_maruyama"
_STEPS, _AUTO_STEPS = 50, 500


@final
class ReverseSampler:
    """Samples from a score model by walking its reverse SDE or probability flow.

    Args:
        sde: the SDE that the model was trained for.
        model: a `ScoreModel`, or a bare function score(t, x).
        solver: a name of `SOLVERS`, a solver, or "auto" (Euler-Maruyama with 500 steps).
        steps: steps of the solver; the final denoising call comes on top. 50 by default.
        grid: "log_snr" (the default under an affine SDE), "uniform", "quadratic", "karras", a
            `Grid`, or the times themselves, with which `steps` and `t_end`, if given, must agree.
        t_end: where to stop; the SDE's own by default.
        eta: the stochasticity, a number or a function of t; that of the solver's name by
            default, or 1 for a solver object that can walk an SDE and 0 for one that cannot.
        denoise: end with one Tweedie step x_0hat(x) at the state's own time. By default under
            an affine SDE; where sigma(t_end) = 0 there is nothing left to denoise.

    Raises:
        TypeError, ValueError: at construction, before any network call, whatever can be known
            then: unknown names, a solver that the SDE or eta does not suit, a model of another
            SDE, a grid outside [0, T].

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
        solver: str | Solver = "auto",
        *,
        steps: int | None = None,
        grid: str | Grid | Sequence[float] | None = None,
        t_end: float | None = None,
        eta: float | Callable[[Tensor], Any] | None = None,
        denoise: bool | None = None,
    ) -> None:
        instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
        affine = isinstance(sde, AffineSDE)
        self.sde = sde
        self.model = _as_model(sde, model)
        default_steps = _AUTO_STEPS if isinstance(solver, str) and solver == "auto" else _STEPS
        self.solver, default_eta = _as_solver(solver)
        self.eta = default_eta if eta is None else eta
        self.t_end = t_end
        if grid is None:
            grid = "log_snr" if affine else "uniform"
        if isinstance(grid, str) and steps is None:
            steps = default_steps
        self._nodes = make_grid(grid, sde, steps, t_end=t_end)
        self.grid = grid if isinstance(grid, str) else self._nodes
        self.steps = self._nodes.steps
        self.denoise = affine if denoise is None else denoise
        instance("denoise", self.denoise, bool, "pass True, False, or nothing for the default")
        if self.denoise and not affine:
            remedy = "leave denoise out: Tweedie's formula needs alpha and sigma"
            raise wrong_type("denoise", "False on an SDE that is not affine", denoise, remedy)
        process = ReverseSDE(sde, self.model, self.eta)
        self.solver.check(sde, process.stochastic)
        process.check_grid(self._nodes)

    def __repr__(self) -> str:
        return f"ReverseSampler({self.sde!r}, {self.solver!r}, eta={self.eta!r})"

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
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        on_step: OnStep | None = None,
        keep_path: bool = False,
    ) -> Tensor:
        """Samples of this shape; the `x` of `solve`, which takes the same arguments."""
        return self.solve(
            shape,
            seed=seed,
            first=first,
            noise=noise,
            cond=cond,
            x_init=x_init,
            t_start=t_start,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            progress=progress,
            on_step=on_step,
            keep_path=keep_path,
        ).x

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
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        on_step: OnStep | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """Samples with what the solver measured.

        Args:
            shape: (N, *D).
            seed: the noise's seed; drawn from torch's global generator if None. Sample number i
                of a seed has the same noise whatever the batch size, split or device.
            first: the number of the first sample, whatever a noise source of yours starts at.
            noise: "independent" or a noise source.
            cond: conditions, name -> (N, ...), handed to the model.
            x_init: (N, *D), the state at t_start in place of a draw from the prior.
            t_start: where to start; T by default. Needs x_init if below T.
            batch_size: solve this many at a time, so that memory does not grow with N.
            dtype, device: of the state; by default those of the model's parameters.
            progress: show a bar.
            on_step: called with (node, x) after each step; may return another state.
            keep_path: keep the states at all nodes, (steps + 1, N, *D).

        Raises:
            ValueError: an argument does not fit, or the samples are not finite; then the run is
                repeated with a check at each step and the error names step and time.
        """
        shape = _check_shape(shape)
        x_init, grid = self._start(shape, x_init, t_start)
        check_cond(cond, shape[0])
        check_hook(on_step)
        dtype, device = self._kind(dtype, device, x_init)
        size = shape[0] if batch_size is None else positive_int("batch_size", batch_size)
        source = _as_noise(noise, seed).from_sample(first)
        starts = range(0, shape[0], min(size, shape[0]))
        solutions = []
        with torch.no_grad(), _bar(progress, grid, self.solver, len(starts)) as advance:
            for start in starts:
                rows = slice(start, min(start + size, shape[0]))
                draw = source.from_sample(first + start)
                like = torch.empty((rows.stop - start, *shape[1:]), dtype=dtype, device=device)
                x = (
                    self.sde.sample_prior(draw.prior(like))
                    if x_init is None
                    else x_init[rows].to(like)
                )
                part = {k: v[rows].to(like.device) for k, v in cond.items()} if cond else None
                process = ReverseSDE(self.sde, self.model, self.eta, part)
                hooks = on_step, _both(on_step, advance)
                run = self._solve(process, x, grid, draw, hooks, keep_path, first + start)
                solutions.append(run)
        paths = [s.path for s in solutions if s.path is not None]
        return Solution(
            x=torch.cat([s.x for s in solutions]),
            grid=grid,
            nfe=max(s.nfe for s in solutions),
            path=torch.cat(paths, 1) if paths else None,
            solver=self.solver,
            seed=source.seed,
        )

    def _solve(
        self,
        process: ReverseSDE,
        x: Tensor,
        grid: Grid,
        noise: Noise,
        hooks: tuple[OnStep | None, OnStep | None],
        keep_path: bool,
        first: int,
    ) -> Solution:
        """One batch; `hooks` are the user's, and the same with the progress bar."""
        solution = self.solver.solve(
            process, x, grid, noise=noise, on_step=hooks[1], keep_path=keep_path
        )
        denoised = self._denoised(process, solution.x, grid)
        nfe = process.nfe
        if not bool(torch.isfinite(denoised).all()):
            again = _replay(self.solver, process, x, grid, noise, hooks[0], _MODEL_FAULT, first)
            last = self._denoised(process, again.x, grid)
            if bool(torch.isfinite(last).all()):
                remedy = "call model.eval(): dropout makes a model answer differently each time"
                raise fail("model", "the same scores in a replay", "NaN in one run only", remedy)
            where = f"in the final denoising at t = {grid.end:.6g}"
            raise _not_finite(_MODEL_FAULT, where, last, first)
        return Solution(x=denoised, grid=grid, nfe=nfe, path=solution.path)

    def _denoised(self, process: ReverseSDE, x: Tensor, grid: Grid) -> Tensor:
        """One Tweedie step at the state's own time, unless no noise is left there."""
        if not self.denoise:
            return x
        node = self.sde.at(grid.end)
        return process.predict(node, x).x0 if node.sigma > 0 else x / node.alpha

    def _start(
        self, shape: tuple[int, ...], x_init: Tensor | None, t_start: float | None
    ) -> tuple[Tensor | None, Grid]:
        """The initial state, checked, and the grid from its time."""
        grid = self._nodes
        if t_start is not None:
            grid = make_grid(self.grid, self.sde, self.steps, t_start=t_start, t_end=self.t_end)
        if x_init is None:
            if grid.start < self.sde.T:
                remedy = f"the prior is that of T = {self.sde.T:g}"
                raise fail("x_init", f"a state at t_start = {grid.start:g}", None, remedy)
            return None, grid
        floating("x_init", x_init)
        if tuple(x_init.shape) != shape:
            raise fail("x_init", f"shape {shape}", x_init, "make shape and x_init agree")
        if not bool(torch.isfinite(x_init).all()):
            raise fail("x_init", "finite numbers", "NaN or infinity", "check how it was made")
        return x_init, grid

    def _kind(
        self, dtype: torch.dtype | None, device: torch.device | str | None, x_init: Tensor | None
    ) -> tuple[torch.dtype, torch.device]:
        """dtype and device of the state: asked for, or of x_init, or of the model."""
        like = x_init
        if like is None:
            like = next(self.model.parameters(), None)
        if dtype is None:
            wide = like is not None and like.dtype in (torch.float32, torch.float64)
            dtype = like.dtype if like is not None and wide else torch.get_default_dtype()
        instance("dtype", dtype, torch.dtype, "pass e.g. torch.float32")
        if not dtype.is_floating_point:
            raise fail("dtype", "a floating-point dtype", dtype, "pass e.g. torch.float32")
        if device is not None:
            return dtype, _device(device)
        if like is None:  # an oracle has no parameters, but it has tables
            like = next(self.model.buffers(), None)
        return dtype, torch.get_default_device() if like is None else like.device


_Fault: TypeAlias = tuple[str, str, str]
"""What a state that is not finite is blamed on: the argument, what was expected, the remedy."""

_MODEL_FAULT: _Fault = (
    "model",
    "finite scores",
    "check the model's output there, take more steps, or end at a larger t_end",
)
_HOOK_FAULT: _Fault = ("on_step", "a finite state", "mend the hook")
_SDE_FAULT: _Fault = ("sde", "a finite state", "take more steps, or check f and g")


def _replay(
    solver: Solver,
    process: Process,
    x: Tensor,
    grid: Grid,
    noise: Noise,
    on_step: OnStep | None,
    fault: _Fault,
    first: int = 0,
) -> Solution:
    """The same run with a look at each step, which raises where a state is not finite.

    Noise is a function of the seed, so the run is the same; a good one never pays for the looks.
    """
    steps = [pair for leg in grid.legs for pair in pairwise(leg)]
    left = enumerate(steps, 1)

    def look(step: tuple[int, tuple[float, float]], state: Tensor, at: _Fault) -> None:
        if not bool(torch.isfinite(state).all()):
            number, (before, after) = step
            where = f"at step {number}, from t = {before:.6g} to t = {after:.6g}"
            raise _not_finite(at, where, state, first)

    def watch(node: Node, state: Tensor) -> Tensor | None:
        step = next(left)
        look(step, state, fault)
        changed = None if on_step is None else on_step(node, state)
        if changed is not None:
            look(step, changed, _HOOK_FAULT)
        return changed

    if isinstance(solver, StepSolver):
        return solver.solve(process, x, grid, noise=noise, on_step=watch)
    solution = solver.solve(process, x, grid, noise=noise, keep_path=True)
    for step, state in zip(left, solution.path[1:], strict=True):  # type: ignore[index]
        look(step, state, fault)
    return solution


def _not_finite(fault: _Fault, where: str, x: Tensor, first: int) -> ValueError:
    name, what, remedy = fault
    rows = torch.isfinite(x).flatten(1).all(1).logical_not().nonzero().flatten()
    got = f"NaN or infinity in {len(rows)} of {len(x)} samples, first in {first + int(rows[0])}"
    return fail(name, f"{what} {where}", got, remedy)


def _device(device: str | torch.device) -> torch.device:
    try:
        made = torch.device(device)
        torch.empty(0, device=made)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        remedy = f"pass 'cpu', or leave it out for the model's own ({error})"
        raise fail("device", "a device of this machine", device, remedy) from error
    return made


def _as_model(sde: SDE, model: object) -> ScoreModel:
    if isinstance(model, ScoreModel):
        return model
    if isinstance(model, nn.Module):
        remedy = (
            "wrap a network net(x, t) in Preconditioned(net, sde), "
            "or a module that returns the score of (t, x) in FunctionScore(sde, module)"
        )
        raise wrong_type("model", "a ScoreModel or a function score(t, x)", model, remedy)
    if not callable(model) or isinstance(model, type):
        remedy = "pass Preconditioned(net, sde) or a function of (t, x)"
        raise wrong_type("model", "a ScoreModel or a function score(t, x)", model, remedy)
    return FunctionScore(sde, model)


def _as_solver(solver: object) -> tuple[Solver, float]:
    if isinstance(solver, str):
        return SOLVERS[_AUTO if solver == "auto" else choice("solver", solver, ["auto", *SOLVERS])]
    instance("solver", solver, Solver, f"pass a solver or one of {', '.join(SOLVERS)}")
    assert_solver: Solver = solver  # type: ignore[assignment]
    return assert_solver, 0.0 if assert_solver.serves == "ode" else 1.0


def _as_noise(noise: object, seed: object) -> Noise:
    if isinstance(noise, Noise):
        if seed is not None and seed != noise.seed:
            raise fail("seed", f"the noise's own seed {noise.seed}", seed, "leave seed out")
        return noise
    make = NOISES[choice("noise", noise, NOISES)]
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    return make(seed)  # type: ignore[arg-type]


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(shape, int) or not isinstance(shape, Sequence):
        raise wrong_type("shape", "(N, *D)", shape, "pass for example shape=(16, 2)")
    sizes = tuple(positive_int("shape", n, "pass sizes above 0, e.g. (16, 2)") for n in shape)
    if len(sizes) < 2:
        raise fail("shape", "(N, *D) with at least one dimension D", shape, "pass e.g. (16, 2)")
    return sizes


def _both(first: OnStep | None, second: OnStep | None) -> OnStep | None:
    if first is None or second is None:
        return first or second

    def both(node: Node, x: Tensor) -> Tensor | None:
        changed = first(node, x)
        second(node, x if changed is None else changed)
        return changed

    return both


@contextmanager
def _bar(progress: bool, grid: Grid, solver: Solver, batches: int) -> Iterator[OnStep | None]:
    """A progress bar over the steps of all batches; over batches where a solver has no steps."""
    if not progress:
        yield None
        return
    stepwise = isinstance(solver, StepSolver)
    with need("tqdm", "").tqdm(total=grid.steps * batches if stepwise else batches) as bar:
        if not stepwise:
            yield None
            bar.update(batches)
            return

        def advance(node: Node, x: Tensor) -> None:
            bar.update()

        yield advance


def simulate(
    sde: SDE,
    x0: Tensor,
    grid: str | Grid | Sequence[float] = "uniform",
    *,
    steps: int | None = None,
    seed: int | None = None,
    noise: str | Noise = "independent",
    on_step: OnStep | None = None,
    keep_path: bool = False,
) -> Solution:
    """The forward SDE from data to noise by Euler-Maruyama, on a grid that runs up.

    Under an affine SDE the state at the first node is drawn from the exact marginal there, so
    the marginals at every node are those of the closed form as the steps shrink. Under any other
    SDE the state starts as x0.

    Args:
        sde: any SDE.
        x0: (B, *D) data.
        grid: "uniform", "quadratic", ..., a `Grid` or times, running up; the named ones go from
            t_min to T.
        steps: steps of a named grid; 500 by default.
        seed, noise, on_step, keep_path: as in `ReverseSampler.solve`.

    Example:
        >>> from scoresde import VPSDE
        >>> simulate(VPSDE(), torch.ones(5, 2), steps=20, seed=0).x.shape
        torch.Size([5, 2])
    """
    instance("sde", sde, SDE, "pass an SDE such as VPSDE()")
    if floating("x0", x0).ndim < 2 or x0.numel() == 0:
        raise fail("x0", "a non-empty batch of shape (B, *D)", x0, "add a batch axis")
    if not bool(torch.isfinite(x0).all()):
        raise fail("x0", "finite numbers", "NaN or infinity", "clean the data first")
    check_hook(on_step)
    if isinstance(grid, str):
        count = _AUTO_STEPS if steps is None else steps
        made = make_grid(grid, sde, count, t_start=sde.t_min, t_end=sde.T)
    else:
        made = make_grid(grid, sde, steps)
    process, solver = ForwardSDE(sde), EulerMaruyama()
    process.check_grid(made)
    source = _as_noise(noise, seed)
    with torch.no_grad():
        x = x0
        if isinstance(sde, AffineSDE):
            x = sde.perturb(made.start, x0, source.prior(x0))
        solution = solver.solve(
            process, x, made, noise=source, on_step=on_step, keep_path=keep_path
        )
        if not bool(torch.isfinite(solution.x).all()):
            _replay(solver, process, x, made, source, on_step, _SDE_FAULT)
            remedy = "f, g and on_step must be functions of their arguments alone"
            raise fail("sde", "the same states in a replay", "NaN in one run only", remedy)
    return replace(solution, seed=source.seed)
