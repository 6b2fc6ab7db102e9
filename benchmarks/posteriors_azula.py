"""The posterior samplers of azula on the problems of `posteriors.py`, by the same exact score.

The oracle is wrapped as an azula denoiser over the nodes of our own sampler: azula's times are
the numbers of the nodes, so that its samplers walk over the same grid. `check` holds the wrapped
denoiser against the closed form of E[x_0 | x_t] of a mixture, written out here once more.
TDS is handed the best twist that its interface allows, a function of x_0hat and sigma/alpha:
N(y; A x_0hat, Sigma_y + r^2 A A^T) with r^2 = v rho^2 / (v + rho^2) and the true variance v of the
data. MMPS makes as many conjugate gradients as y has numbers, with which it is solved in full.
Without azula there is none of these rows.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from benchmarks.posteriors_problems import COUNT, F64, Problem, path_of
from scoresde import Gaussian, GaussianMixture
from scoresde.node import AffineNode, Node

__all__ = ["check", "dps", "matched", "mmps", "over", "part", "reason", "tds", "wrapped"]

LIBRARY = "azula"


@cache
def reason() -> str:
    """The version of azula, or why there are no rows of it."""
    if importlib.util.find_spec(LIBRARY) is None:
        return f"skipped: {LIBRARY} is not installed"
    return importlib.metadata.version(LIBRARY)


Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Time -> alpha and sigma, as azula has them."""


def over(nodes: Sequence[Node]) -> Schedule:
    """The schedule of our nodes: time i is the node i steps before the end."""
    alphas, sigmas = (
        torch.tensor([getattr(node, name) for node in nodes[::-1]], dtype=F64)
        for name in ("alpha", "sigma")
    )

    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        number = t.round().long()
        return alphas[number], sigmas[number]

    return schedule


def wrapped(problem: Problem, own: Schedule) -> Any:  # azula's Denoiser
    """The exact prior as an azula denoiser under a schedule."""
    denoise = importlib.import_module("azula.denoise")

    class Oracle(denoise.Denoiser):  # type: ignore[misc, name-defined]
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return own(t)

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = map(float, own(t))
            node = AffineNode(0.0, 0.0, alpha, sigma, math.log(alpha / sigma), 0.0)
            return denoise.DiracPosterior(mean=problem.model.predict(node, x).x0)

    return Oracle()


def check(problem: Problem, denoiser: Any, times: Sequence[float]) -> float:
    """The largest relative error of the wrapped E[x_0 | x_t]; more than 1e-10 is an error."""
    worst = 0.0
    for number, time in enumerate(times):
        t = torch.tensor(time, dtype=F64)
        alpha, sigma = denoiser.schedule(t)
        start = problem.prior.sample(50, seed=number)
        generator = torch.Generator().manual_seed(number)
        x = alpha * start + sigma * torch.randn(start.shape, generator=generator, dtype=F64)
        truth = _closed(problem.prior, float(alpha), float(sigma), x)
        gap = (denoiser(x, t).mean - truth).abs().max() / truth.abs().max()
        worst = max(worst, float(gap))
    if not worst <= 1e-10:
        raise AssertionError(f"azula's denoiser is off by {worst:.2g}: the rows compare nothing")
    return worst


def _closed(prior: Gaussian | GaussianMixture, alpha: float, sigma: float, x: Tensor) -> Tensor:
    """E[x_0 | x_t = x] in closed form, of a Gaussian or of a mixture with covariances v_k I.

    For N(mu, C) it is mu + alpha C S^-1 (x - alpha mu) with S = alpha^2 C + sigma^2 I; the
    components of a mixture are weighted by w_k N(x; alpha mu_k, S_k).
    """
    if isinstance(prior, Gaussian):
        spread = alpha**2 * prior.covariance + sigma**2 * torch.eye(prior.mean.numel(), dtype=F64)
        gain = torch.linalg.solve(spread, alpha * prior.covariance)
        return prior.mean + (x - alpha * prior.mean) @ gain
    total = alpha**2 * prior.variances + sigma**2
    gap = x[:, None] - alpha * prior.means
    logits = prior.weights.log() - 0.5 * gap.square().sum(-1) / total
    shares = torch.softmax(logits - 0.5 * prior.dim * total.log(), 1)
    each = prior.means + (alpha * prior.variances / total)[:, None] * gap
    return (shares[..., None] * each).sum(1)


Row = Callable[[Problem, int], dict[str, Tensor]]


def _row(steps: int, make: Callable[[Any, Problem, dict[str, Any]], Any]) -> Row:
    """A row: `make` builds the sampler of a denoiser, a problem and the options of the grid."""

    def run(problem: Problem, seed: int) -> dict[str, Tensor]:
        nodes = path_of(problem, steps)
        denoiser = wrapped(problem, over(nodes))
        check(problem, denoiser, [steps * k / 10 for k in range(11)])
        grid = {"start": float(steps), "stop": 0.0, "steps": steps, "silent": True, "dtype": F64}
        sampler = make(denoiser, problem, grid)
        with torch.random.fork_rng():  # azula draws from the global generator
            torch.manual_seed(seed)
            start = problem.sde.prior_std * torch.randn(COUNT, problem.dim, dtype=F64)
            x = sampler(start)
        return {"x": x.detach() / nodes[-1].alpha}

    return run


def part(name: str) -> Any:
    """A module of azula."""
    return importlib.import_module(f"azula.{name}")


def _seen(problem: Problem) -> Callable[[Tensor], Tensor]:
    return lambda x: x @ problem.A.T


def tds(steps: int) -> Row:
    """Twisted diffusion sampling with COUNT particles."""

    def make(denoiser: Any, problem: Problem, grid: dict[str, Any]) -> Any:
        v = _variance(problem)
        gram = problem.A @ problem.A.T
        noise = problem.std**2 * torch.eye(len(gram), dtype=F64)

        def twist(x: Tensor, rho: Tensor) -> Tensor:
            spread = noise + v * rho**2 / (v + rho**2) * gram
            law = MultivariateNormal(x @ problem.A.T, spread)
            return law.log_prob(problem.y)

        return part("guidance").TDSSampler(denoiser, twist, **grid)

    return _row(steps, make)


def _variance(problem: Problem) -> float:
    """The variance of the data, as our own PiGDM takes it."""
    scale = problem.model.data_scale
    if scale is None:
        raise ValueError("an oracle knows its data")
    return scale[0] ** 2


def dps(steps: int) -> Row:
    """DPS with its default strength."""

    def make(denoiser: Any, problem: Problem, grid: dict[str, Any]) -> Any:
        return part("guidance").DPSSampler(denoiser, problem.y, _seen(problem), **grid)

    return _row(steps, make)


def mmps(steps: int) -> Row:
    """MMPS by DDPM with as many conjugate gradients as y has numbers."""

    def make(denoiser: Any, problem: Problem, grid: dict[str, Any]) -> Any:
        return part("sample").DDPMSampler(matched(denoiser, problem), **grid)

    return _row(steps, make)


def matched(denoiser: Any, problem: Problem, times: int = 1) -> Any:
    """The MMPS denoiser.

    It solves by as many conjugate gradients as y has numbers, or `times` as many, to make up for
    rounding.
    """
    return part("guidance").MMPSDenoiser(
        denoiser,
        problem.y,
        _seen(problem),
        part("linalg.covariance").IsotropicCovariance(problem.std**2),
        solver="cg",
        iterations=times * len(problem.y),
    )
