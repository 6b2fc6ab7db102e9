"""The checks of `wild.py`, and the packages and formulas that are asked.

Each check is a function of a few lines, which the page shows, and knows nothing of a package.
Below them stand those that are asked; a package is imported where it is needed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import (
    VPSDE,
    Gaussian,
    GaussianMixture,
    Measurement,
    ReverseSampler,
    ReverseSDE,
    ScoreModel,
    TwistedSampler,
    log_prob,
)
from scoresde.measurement import Identity
from scoresde.node import AffineNode
from scoresde.noise import Independent
from scoresde.options import Divergence
from scoresde.posterior import DPS
from scoresde.schedule.grid import log_snr
from scoresde.solvers import SOLVERS

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.peers import LIBRARIES, Task, k_sampling
from benchmarks.problems import Normals

F64 = torch.float64
SDE = VPSDE()
MEANS, STD = (-1.0, 1.0), 0.1
"""Of the two modes in one dimension on which solvers are checked; both have the same weight."""


def levels(steps: int) -> tuple[float, ...]:
    """sigma/alpha at nodes that are uniform in the log-SNR."""
    ends = SDE.log_snr(SDE.T), SDE.log_snr(SDE.t_end)
    return tuple(torch.linspace(*ends, steps + 1, dtype=F64).neg().exp().tolist())


def denoiser(y: Tensor, level: float) -> Tensor:
    """E[x_0 | x_t] of the two modes, as a function of y = x_t/alpha."""
    total = STD**2 + level**2
    away = (y / total).tanh()  # the weight of the right mode less that of the left one
    return away + STD**2 / total * (y - away)


START = 60.0


def exact_end() -> float:
    """Where the probability flow takes y = START: in one dimension it keeps quantiles."""
    first, last = levels(1)

    def share(y: float, level: float) -> float:
        """The probability of more than y."""
        scale = math.hypot(STD, level) * math.sqrt(2.0)
        return sum(math.erfc((y - mean) / scale) for mean in MEANS) / 4

    low, high = -3.0, 3.0
    for _ in range(80):
        middle = (low + high) / 2
        above = share(middle, last) > share(START, first)
        low, high = (middle, high) if above else (low, middle)
    return low


Ending = Callable[[int], float]


def order(end: Ending, exact: float) -> float:
    """Half the step divides the error by 2 to the power of the order."""
    coarse, fine = abs(end(160) - exact), abs(end(320) - exact)
    return math.log2(coarse / fine)


def variance_ratio(x: Tensor, exact: float) -> float:
    """The variance of samples about the mode they are in, over that of the data."""
    return float((x.abs() - 1.0).square().mean() / exact)


def of_flow(
    sigma: Callable[[float], float], slope: Callable[[float], float], end: Callable[[float], float]
) -> tuple[float, float]:
    """The slope of sigma that is used, over that of sigma; and where the flow takes one standard
    deviation of noise, over that of the data, 1/2."""
    true = (sigma(0.5 + 1e-4) - sigma(0.5 - 1e-4)) / 2e-4
    return slope(0.5) / true, end(1.0) / 0.5


def together_over_alone(guidance: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The guidance of one sample among 64, over that of the same sample alone."""
    return float(guidance(x.expand(64, 1))[0] / guidance(x)[0])


def spread(log_p: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, float]:
    """One point, asked 1,000 times: the mean and the standard deviation of its log p."""
    found = log_p(x.expand(1000, -1))
    return float(found.mean()), float(found.std())


def changed_by_mates(sample: Callable[[int], Tensor]) -> float:
    """How far the first sample of a seed moves if eight are drawn in place of four."""
    return float((sample(8)[0] - sample(4)[0]).abs().max())


def mean_start(pairs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> float:
    """The mean noise that is paired with the class +1; one draws it from N(0, 1) to sample."""
    label = torch.arange(512) % 2 * 2.0 - 1.0
    noise, label = pairs(torch.randn(512, 1), label[:, None])
    return float(noise[label > 0].mean())


def spread_of_share(sample: Callable[[int], Tensor]) -> float:
    """The share of 256 particles in the right one of two equal modes, over 120 seeds."""
    shares = torch.tensor([float((sample(seed) > 0).double().mean()) for seed in range(120)])
    return float(shares.std())


# Solvers


def peer(library: str, name: str, y: Tensor, steps: int) -> Tensor:
    (found,) = (each for each in LIBRARIES[library]() if each.name == name)
    return found.run(Task(y, levels(steps), denoiser, Normals(1)))


def own(name: str, y: Tensor, steps: int) -> Tensor:
    solver, eta = SOLVERS[name]
    process = ReverseSDE(SDE, modes(), eta)
    x = SDE.alpha(SDE.T) * y
    grid = log_snr(SDE, steps)
    return solver.solve(process, x, grid, noise=Independent(1)).x / SDE.alpha(SDE.t_end)


def modes(std: float = STD) -> ScoreModel:
    means = torch.tensor(MEANS, dtype=F64)[:, None]
    return GaussianMixture(means, torch.full((2,), std**2, dtype=F64)).under(SDE)


def third(factor: float, y: Tensor, steps: int) -> Tensor:
    """The multistep update of DPM-Solver++ (Lu et al. 2022) with three values.

    The integral of e^lambda x_0hat is taken by the parabola through the last three: its second
    derivative is `factor` times the second divided difference, and 2 is what a parabola has.
    """
    nodes = [-math.log(level) for level in levels(steps)]
    seen: list[Tensor] = []
    for i in range(steps):
        h = nodes[i + 1] - nodes[i]
        seen.insert(0, denoiser(y, math.exp(-nodes[i])))
        first = second = torch.zeros_like(y)
        if i > 0:
            near = (seen[0] - seen[1]) / (nodes[i] - nodes[i - 1])
            first = near
        if i > 1:
            far = (seen[1] - seen[2]) / (nodes[i - 1] - nodes[i - 2])
            divided = (near - far) / (nodes[i] - nodes[i - 2])
            first = near + (nodes[i] - nodes[i - 1]) * divided
            second = factor * divided
        p1 = -math.expm1(-h)
        p2 = h - p1  # integrals of e^(-(h - u)) times u^k / k! over the step
        p3 = h**2 / 2 - p2
        y = math.exp(-h) * y + p1 * seen[0] + p2 * first + p3 * second
    return y


def order_of(solve: Callable[[Tensor, int], Tensor]) -> list[float]:
    start = torch.full((1, 1), START, dtype=F64)
    return [order(lambda steps: float(solve(start, steps)), exact_end())]


def ratios_of(solve: Callable[[Tensor, int], Tensor]) -> list[float]:
    first, last = levels(1)
    generator = torch.Generator().manual_seed(0)
    side, z = torch.randn(2, 40_000, 1, dtype=F64, generator=generator)
    start = side.sign() + math.hypot(STD, first) * z
    return [variance_ratio(solve(start, steps), STD**2 + last**2) for steps in (50, 100, 400)]


def own_flow() -> list[float]:
    """That sigma is sigma/alpha here, and its slope is g^2/(2 alpha sigma)."""
    data = Gaussian(torch.zeros(1, dtype=F64), torch.full((1,), 0.25, dtype=F64)).under(SDE)
    sampler = ReverseSampler(SDE, data, "heun", steps=100)

    def slope(t: float) -> float:
        return float(SDE.g(t)) ** 2 / (2 * float(SDE.alpha(t)) * float(SDE.sigma(t)))

    def end(start: float) -> float:
        x = torch.full((1, 1), start, dtype=F64)
        return float(sampler.solve((1, 1), x_init=x, seed=0).x)

    return list(of_flow(lambda t: float(SDE.sigma(t)) / float(SDE.alpha(t)), slope, end))


# Conditions


def azula_oracle(prior: ScoreModel) -> Any:
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Oracle(Denoiser):  # type: ignore[misc]
        schedule = VPSchedule()

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            a, s = map(float, self.schedule(t))
            node = AffineNode(0.0, 0.0, a, s, math.log(a / s), 0.0)
            return DiracPosterior(mean=prior.predict(node, x).x0)

    return Oracle()


def azula_guidance(x: Tensor) -> Tensor:
    """What DPS adds to a step: the step with guidance less the one without, by one seed."""
    from azula.guidance import DPSSampler

    found = []
    for strength in (1.0, 0.0):
        torch.manual_seed(0)
        sampler = DPSSampler(
            azula_oracle(modes()), torch.zeros(1, dtype=F64), lambda x: x, zeta=strength
        )
        now, then = (torch.tensor(t, dtype=F64) for t in (0.5, 0.4))
        found.append(sampler.step(x, now, then))
    return found[0] - found[1]


def batch_norm(x: Tensor) -> Tensor:
    """The gradient of |y - x_0hat| with the norm of the whole batch, for y = 0."""
    x = x.clone().requires_grad_()
    norm = denoiser(x, 1.0).norm()
    return torch.autograd.grad(norm, x)[0]


def own_guidance(x: Tensor) -> Tensor:
    prior = modes()
    guided = DPS(prior, Measurement(Identity(), torch.zeros(1, dtype=F64), 0.1))
    return guided.score(0.5, x) - prior.score(0.5, x)


def torchcfm_pairs(name: str, noise: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    matcher = getattr(importlib.import_module("torchcfm"), name)(sigma=0.0)
    x1, t = 3 * label + 0.5 * torch.randn(label.shape), torch.zeros(len(noise))
    if name == "ConditionalFlowMatcher":
        return matcher.sample_location_and_conditional_flow(noise, x1, t=t)[1], label
    found = matcher.guided_sample_location_and_conditional_flow(noise, x1, y1=label, t=t)
    return found[1], found[4]  # at t = 0 the location is the noise


def sorted_pairs(noise: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Optimal transport in one dimension: both sides in order."""
    places = (3 * label + 0.5 * torch.randn(label.shape)).argsort(0)[:, 0]
    return noise.sort(0).values, label[places]


def start_of(pairs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> list[float]:
    torch.manual_seed(0)
    np.random.seed(0)  # torchcfm draws from its plan by numpy
    return [sum(mean_start(pairs) for _ in range(20)) / 20]


def azula_particles(name: str, steps: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"steps": steps, "silent": True, "dtype": F64}
    oracle = azula_oracle(modes())
    if name == "TDSSampler":
        found = importlib.import_module("azula.guidance").TDSSampler(
            oracle, lambda x, _: 0 * x, **options
        )
    else:
        found = getattr(importlib.import_module("azula.sample"), name)(oracle, **options)
    return found(torch.randn(256, 1, dtype=F64))


def own_particles(steps: int, seed: int) -> Tensor:
    sampler = TwistedSampler(
        modes(), lambda x: 0 * x.sum(1), particles=256, steps=steps, twist="point"
    )
    return sampler.sample((1, 1), seed=seed).x


def shares_of(sample: Callable[[int, int], Tensor]) -> list[float]:
    return [spread_of_share(partial(sample, steps)) for steps in (30, 100, 300)]


# Likelihood and seeds


def correlated() -> tuple[Tensor, Tensor]:
    """A covariance in 16 dimensions and a point of that law."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(16, 16, dtype=F64, generator=generator) / 4
    covariance = root @ root.T + 0.05 * torch.eye(16, dtype=F64)
    z = torch.randn(16, dtype=F64, generator=generator)
    return covariance, torch.linalg.cholesky(covariance) @ z


def flow_matching_log_p(exact_divergence: bool, x: Tensor) -> Tensor:
    from flow_matching.solver import ODESolver

    covariance = correlated()[0].float()
    eye = torch.eye(16)  # in float32, which its probes have

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        """E[x_1 - x_0 | x_t] for x_t = t x_1 + (1 - t) x_0."""
        total = t**2 * covariance + (1 - t) ** 2 * eye
        return torch.linalg.solve(total, x.T).T @ (t * covariance - (1 - t) * eye)

    normal = torch.distributions.Normal(0.0, 1.0)
    torch.manual_seed(0)
    return ODESolver(velocity).compute_likelihood(
        x.float(), lambda z: normal.log_prob(z).sum(1), 0.01, "midpoint",
        exact_divergence=exact_divergence,
    )[1].double()  # fmt: skip


def own_log_p(divergence: str | Divergence, x: Tensor) -> Tensor:
    covariance, _ = correlated()
    model = Gaussian(torch.zeros(16, dtype=F64), covariance).under(SDE)
    return log_prob(model, x, t_end=1e-5, divergence=divergence).nats


def nats_of(log_p: Callable[[Tensor], Tensor]) -> list[float]:
    covariance, point = correlated()
    law = torch.distributions.MultivariateNormal(torch.zeros(16, dtype=F64), covariance)
    mean, std = spread(log_p, point)
    return [mean - float(law.log_prob(point)), std]


def by_randn(count: int) -> Tensor:
    """Euler-Maruyama for dx = -x dt + dw, with torch.randn_like at every step."""
    torch.manual_seed(0)
    x = torch.randn(count, 64)
    for _ in range(10):
        x = 0.9 * x + math.sqrt(0.1) * torch.randn_like(x)
    return x


def by_k_diffusion(count: int) -> Tensor:
    torch.manual_seed(0)
    start = levels(1)[0] * torch.randn(count, 64, dtype=F64)
    return k_sampling().sample_euler_ancestral(
        lambda y, level: denoiser(y, float(level[0])), start,
        torch.tensor(levels(10), dtype=F64), disable=True,
    )  # fmt: skip


def by_azula(count: int) -> Tensor:
    from azula.sample import DDPMSampler

    torch.manual_seed(0)
    sampler = DDPMSampler(azula_oracle(modes()), steps=10, silent=True, dtype=F64)
    return sampler(torch.randn(count, 64, 1, dtype=F64).reshape(-1, 1)).reshape(count, 64)


def by_own(count: int) -> Tensor:
    sampler = ReverseSampler(SDE, modes(), "ancestral", steps=10)
    return sampler.sample((count, 1), seed=0)
