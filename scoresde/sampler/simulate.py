"""The forward process, from the data to the prior."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance
from scoresde._tensor import ordinary
from scoresde.noise import Noise
from scoresde.process import ForwardSDE
from scoresde.sampler.plan import as_noise
from scoresde.sampler.replay import SDE_FAULT, bar, both, replay
from scoresde.schedule.grid import Grid, Schedule, make_grid
from scoresde.sde import SDE, AffineSDE
from scoresde.solvers import EulerMaruyama
from scoresde.solvers.base import Plan, Solution, integrate
from scoresde.solvers.choice import FIRST_ORDER_STEPS
from scoresde.solvers.run import OnStep, check_hook

__all__ = ["simulate"]


@ordinary
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
    progress: bool = False,
) -> Solution:
    """Simulate the forward SDE from data to noise by Euler-Maruyama, on a grid that runs up.

    Under an affine SDE the state at the first node is drawn from the exact marginal, so that the
    marginals at all nodes converge to the closed form as the steps shrink. Under any other SDE the
    state at the first node is x0.

    Args:
        sde: any SDE.
        x0: the data, (B, *D).
        grid: "uniform", "quadratic", ..., a `Grid` or increasing times; the named grids run from
            t_min to T.
        steps: the number of steps of a named grid; 500 by default.
        seed, noise, on_step, keep_path, progress: as in `ReverseSampler.solve`.

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
        count = FIRST_ORDER_STEPS if steps is None else steps
        resolved = make_grid(grid, sde, count, t_start=sde.t_min, t_end=sde.T)
    else:
        resolved = make_grid(grid, sde, steps)
    process, plan = ForwardSDE(sde), Plan(EulerMaruyama(), None, Schedule(sde, resolved))
    source = as_noise(noise, seed, sde, 1.0)
    with torch.no_grad():
        x = x0
        if isinstance(sde, AffineSDE):
            x = sde.perturb(resolved.start, x0, source.prior(x0))
        source.check(resolved.times)
        with bar(plan, 1, "simulate") if progress else nullcontext() as advance:
            hook = on_step if advance is None else both(on_step, advance)
            solution = integrate(plan, process, x, source, hook, keep_path)
        if not bool(torch.isfinite(solution.x).all()):
            replay(plan, process, x, source, on_step, SDE_FAULT)
            remedy = "f, g and on_step must be functions of their arguments alone"
            raise fail("sde", "the same states in a replay", "NaN in one run only", remedy)
    return replace(solution, seed=source.seed)
