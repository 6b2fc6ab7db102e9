"""The diffusion samplers of deepinv on the problems of `posteriors.py`, by the same exact score.

`PosteriorDiffusion` with its VP diffusion and its ancestral solver, which is DDPM here, over times
uniform in log-SNR from t = 1 to 1e-3, as our own nodes are. deepinv's r_t^2 = s^2 / (1 + s^2) is
that of data of unit variance, so its state is x_0 over the standard deviation of the data, and the
operator is multiplied by it. The solves have as many conjugate gradients as y has numbers, and all
weights are 1, the default. deepinv calls denoisers in float32. The row of DPS has
guidance="annealed", whose strength does not depend on the scale of y; deepinv's other one, the
norm of the residual, wants a weight tuned for each problem, as its documentation says. DDRM needs
an operator with known singular values, and is left out. Without deepinv there is none of these
rows.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.posteriors_problems import COUNT, F64, Problem
from scoresde import VPSDE
from scoresde.node import AffineNode
from scoresde.schedule.grid import log_snr

__all__ = ["METHODS", "denoiser", "reason", "sampled"]

LIBRARY = "deepinv"
METHODS = {
    "DPS": lambda of, count: of.DPSDataFidelity(guidance="annealed"),
    "PiGDM": lambda of, count: of.PiGDMDataFidelity(cg_max_iter=count),
    "moment matching": lambda of, count: of.MomentMatchingDataFidelity(cg_max_iter=count),
}
"""Name -> how to make the fidelity, from deepinv's module and the count of measured numbers."""


@cache
def reason() -> str:
    """The version of deepinv, or why there are no rows of it."""
    if importlib.util.find_spec(LIBRARY) is None:
        return f"skipped: {LIBRARY} is not installed"
    try:
        importlib.import_module(f"{LIBRARY}.sampling")
    except (ImportError, RuntimeError) as error:  # of torchvision, which it needs
        return f"skipped: {error}"
    return importlib.metadata.version(LIBRARY)


def scale_of(problem: Problem) -> float:
    """The standard deviation of the data."""
    scale = problem.model.data_scale
    if scale is None:
        raise ValueError("an oracle knows its data")
    return scale[0]


def denoiser(problem: Problem) -> torch.nn.Module:
    """E[x_0 | x_0 + sigma n] of data over their standard deviation, as deepinv calls it."""
    unit = scale_of(problem)

    class Oracle(torch.nn.Module):
        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            level = float(torch.as_tensor(sigma).flatten()[0]) * unit
            node = AffineNode(0.0, 0.0, 1.0, level, -math.log(level), 0.0)
            found = problem.model.predict(node, unit * x.double().flatten(1))
            return (found.x0 / unit).to(x).reshape(x.shape)

    return Oracle()


def sampled(method: str, steps: int) -> Callable[[Problem, int], dict[str, Tensor]]:
    """A row: samples by a method with so many steps."""

    def run(problem: Problem, seed: int) -> dict[str, Tensor]:
        library = importlib.import_module(f"{LIBRARY}.sampling")
        physics = importlib.import_module(f"{LIBRARY}.physics")
        unit, sde = scale_of(problem), VPSDE()
        A = (unit * problem.A).float()
        operator = physics.LinearPhysics(
            A=lambda x, **_: (x.flatten(1).to(A) @ A.T)[:, None, None],
            A_adjoint=lambda y, **_: (y.flatten(1).to(A) @ A)[:, None, None],
            noise_model=physics.GaussianNoise(problem.std),
        )
        (nodes,) = log_snr(sde, steps).segments
        times = torch.tensor(nodes, dtype=F64)
        fidelities = importlib.import_module(f"{LIBRARY}.sampling.noisy_datafidelity")
        sampler = library.PosteriorDiffusion(
            data_fidelity=METHODS[method](fidelities, len(problem.y)),
            denoiser=denoiser(problem),
            sde=library.VariancePreservingDiffusion(),
            solver=library.AncestralSolver(timesteps=times, rng=torch.Generator()),
            minus_one_one=False,
        )
        y = problem.y.expand(COUNT, -1)[:, None, None]
        x = sampler(y, operator, x_init=(COUNT, 1, 1, problem.dim), seed=seed)
        return {"x": unit * x.detach().double().flatten(1)}

    return run
