"""Coverage and the loss of the posterior mean, on random walks with sparse increments.

    python benchmarks/posteriors_sparse.py [--laws Laplace] [--rows ...] [--quick]

The walks of `posteriors_levy.py` with increments that are Laplace of scale 1, or
Bernoulli-Laplace: 0 with the probability 0.9 and Laplace of scale 1 otherwise. The operators and
the noise are those there.
These posteriors have no closed form. The reference is a Gibbs sampler (`posteriors_gibbs.py`): two
chains for every signal, of which the page says how well they agree.

The methods get two priors. One is exact: independent increments are the state, so E[z | z_t] is a
closed form for each of them, y = A L z with the cumulative sum L, and all errors are those of the
methods. The other is a small network, trained by `Trainer` with its defaults on 100,000 walks,
whose own errors come on top.

Measured: the gap 10 log10(1 + b / v) in dB, where v is the mean over signals of the posterior
variance and b that of |m - mean|^2 for the mean m of the method's distribution, without the part
that a finite number of draws adds: by so much the squared error of m exceeds that of the posterior
mean. The variance of the samples over v. And the share of signals in the 90 % set of highest
posterior density of 19 draws each (of which more than one has a lower density than the signal),
0.9 for samples of the posterior. Increments of 0 have no density, so that of Bernoulli-Laplace is
the density of the increments plus normal noise of standard deviation 0.05; the set of a smoothed
density covers the same share. A method "diverges" if it is refused for values that are not finite,
or if the variance of its samples is more than 100 v.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import ReverseSampler, ScoreModel
from scoresde._io import write
from scoresde.measurement import Matrix, Measurement
from scoresde.posterior import DAPS, DDRM, DPS, MMPS, TMPD, PiGDM
from scoresde.smc import TwistedSampler

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.posteriors_gibbs import chains
from benchmarks.posteriors_increments import (
    BELOW,
    SDE,
    SHARES,
    TRAINED,
    Increments,
    Prior,
    Sides,
    increments,
    trained,
)
from benchmarks.posteriors_levy import DECIBEL, DIM, SHARE, operators
from benchmarks.posteriors_page import table
from benchmarks.posteriors_problems import F64, SOLVER

RESULTS = Path(__file__).parent / "results"
NAME = "posteriors_sparse"
SWEEPS = {"Laplace": 500, "Bernoulli-Laplace": 2000}
WARM = 200
"""The sweeps of a chain that are kept, and those before them."""

DRAWS, SMOOTH, STEPS, MORE = 19, 0.05, 50, 100
PARTICLES, FEW = 256, 20
DIVERGED = 100.0


@dataclass(frozen=True, eq=False)
class Problem:
    """Signals, their measurements, and the moments of their posteriors by Gibbs sampling.

    Args:
        A: the operator on walks, (M, DIM).
        share: the probability that an increment is not 0.
        count: the number of signals.
    """

    A: Tensor
    share: float
    count: int

    @cached_property
    def z(self) -> Tensor:
        return increments(self.share, self.count, seed=0)

    @cached_property
    def std(self) -> float:
        many = increments(self.share, 10_000, seed=2) @ (self.A @ BELOW).T
        return math.sqrt(float(many.square().mean(1).median()) / 10 ** (DECIBEL / 10))

    @cached_property
    def y(self) -> Tensor:
        clean = self.z @ (self.A @ BELOW).T
        generator = torch.Generator().manual_seed(1)
        return clean + self.std * torch.randn(clean.shape, generator=generator, dtype=F64)

    @cached_property
    def gibbs(self) -> tuple[Tensor, Tensor]:
        """The states of two chains, (2, sweeps, count, DIM), as walks; and those drawn of them.

        The second are DRAWS increments of each signal, (count, DRAWS, DIM).
        """
        A, y = (self.A @ BELOW).numpy(), self.y.numpy()
        (sweeps,) = (SWEEPS[law] for law, share in SHARES.items() if share == self.share)
        both = [
            torch.from_numpy(np.stack(list(chains(A, y, self.std, self.share, sweeps, WARM, k))))
            for k in (3, 4)
        ]
        every = torch.linspace(0, sweeps - 1, DRAWS).round().long()
        return torch.stack([z @ BELOW.T for z in both]), both[0][every].transpose(0, 1)

    @cached_property
    def means(self) -> Tensor:
        """The mean walks of each of the two chains, (2, count, DIM)."""
        return self.gibbs[0].mean(1)

    @cached_property
    def variance(self) -> float:
        """The mean over signals and places of the posterior variance."""
        walks = self.gibbs[0]
        return float(walks.flatten(0, 1).var(0).mean())

    def gap(self, means: Tensor, noise: float) -> float:
        """10 log10(1 + b / v) for means (n, DIM) of the first n signals.

        The product of the errors to the two chains has no part of their own noise.

        Args:
            means: the means of the samples of the method.
            noise: the variance of such a mean, because of the number of samples.
        """
        first, second = (means - own[: len(means)] for own in self.means)
        bias = float((first * second).mean()) - noise
        return 10 * math.log10(1.0 + max(bias, 0.0) / self.variance)

    def judged(self, samples: Tensor) -> dict[str, float]:
        """Coverage and gap of samples (n, DRAWS, DIM) of the increments of the first n signals."""
        samples = samples.double()
        walks = samples @ BELOW.T
        noise = float(walks.var(1).mean()) / samples.shape[1]
        lower = self._log_density(samples) < self._log_density(self.z[: len(samples), None])
        inside = lower.sum(1) >= round((1 - SHARE) * (samples.shape[1] + 1))
        coverage = float(inside.double().mean())
        error = math.sqrt(max(coverage * (1 - coverage), 1e-9) / len(samples))
        gap = self.gap(walks.mean(1), noise)
        spread = noise * samples.shape[1] / self.variance
        return {"coverage": coverage, "error": error, "gap": gap, "spread": spread}

    def _log_density(self, z: Tensor) -> Tensor:
        """The log posterior density of increments (n, K, DIM), up to a constant; (n, K)."""
        if self.share < 1.0:
            prior = Sides.of(z, SMOOTH, self.share).log_density.sum(-1)
        else:
            prior = -z.abs().sum(-1)
        r = self.y[: len(z), None] - z @ (self.A @ BELOW).T
        return prior - 0.5 * r.square().sum(-1) / self.std**2


Draw = Callable[[Prior, Measurement, Tensor], Tensor]
"""From a prior, a measurement and y: (n, M) to states, (n DRAWS, DIM)."""


def _guided(
    make: Callable[[Prior, Measurement], ScoreModel], solver: str = SOLVER, steps: int = STEPS
) -> Draw:
    def run(prior: Prior, of: Measurement, y: Tensor) -> Tensor:
        sampler = ReverseSampler(SDE, make(prior, of), solver, steps=steps)
        return sampler.sample((len(y) * DRAWS, DIM), **_options(prior, y))

    return run


def _options(prior: Prior, y: Tensor) -> dict[str, Any]:
    """Seed, type and the measurement of each sample."""
    own = y.repeat_interleave(DRAWS, 0).to(prior.dtype)
    return {"seed": 0, "dtype": prior.dtype, "cond": {"y": own}}


def _daps(prior: Prior, of: Measurement, y: Tensor) -> Tensor:
    sampler = DAPS(prior.model, of, steps=STEPS, variance=prior.variance)
    return sampler.sample((len(y) * DRAWS, DIM), **_options(prior, y))


def _twisted(prior: Prior, of: Measurement, y: Tensor) -> Tensor:
    sampler = TwistedSampler(
        prior.model,
        of,
        particles=PARTICLES,
        solver=SOLVER,
        steps=STEPS,
        twist="variance",
        variance=prior.variance,
    )
    cond = {"y": y.to(prior.dtype)}
    found = sampler.sample((len(y), DIM), seed=0, cond=cond, dtype=prior.dtype)
    return found.resample(DRAWS, seed=0).flatten(0, 1)


METHODS: dict[str, Draw] = {
    "twisted": _twisted,
    "MMPS": _guided(lambda prior, of: MMPS(prior.model, of)),
    "PiGDM, covariance of the data": _guided(lambda own, of: PiGDM(own.model, of, own.law)),
    "TMPD": _guided(lambda prior, of: TMPD(prior.model, of)),
    "DPS": _guided(lambda prior, of: DPS(prior.model, of), "ancestral", MORE),
    "DDRM": _guided(lambda prior, of: DDRM(prior.model, of)),
    "DAPS": _daps,
}
PRIORS = {"exact": tuple(METHODS), "network": ("MMPS", "PiGDM, covariance of the data", "DPS")}
"""Name of the prior -> the methods that get it."""

ROWS = {f"{method}, {prior}": (method, prior) for prior, own in PRIORS.items() for method in own}


def measure(problem: Problem, row: str) -> dict[str, float]:
    """The figures of a row, with the seconds of the processor."""
    method, name = ROWS[row]
    exact = name == "exact"
    prior = Prior((Increments if exact else trained)(problem.share), problem.share)
    A = (problem.A @ prior.walks).to(prior.dtype)
    of = Measurement(Matrix(A), noise=problem.std)
    few = not exact or method == "twisted"
    began = time.process_time()
    with warnings.catch_warnings():  # of networks whose Jacobian is no covariance, and of weights
        warnings.simplefilter("ignore", UserWarning)
        try:
            x = METHODS[method](prior, of, problem.y[: FEW if few else None])
        except ValueError:  # states, or all weights of a run, are not finite
            return {"failed": 1.0}
    seconds = time.process_time() - began
    walks = x.double().reshape(-1, DRAWS, DIM) @ prior.walks.T
    z = torch.diff(walks, dim=-1, prepend=walks.new_zeros(*walks.shape[:2], 1))
    return {**problem.judged(z), "seconds": seconds}


def reference(problem: Problem) -> dict[str, float]:
    """The figures of the Gibbs sampler: coverage of its draws, and the gap of its two chains."""
    found = problem.judged(problem.gibbs[1])
    apart = float((problem.means[0] - problem.means[1]).square().mean()) / 4
    return {**found, "gap": 10 * math.log10(1.0 + apart / problem.variance)}


GIBBS = "Gibbs sampler"


def settings(count: int) -> dict[str, Any]:
    """What the figures depend on."""
    own = dict(signals=count, draws=DRAWS, sweeps=SWEEPS, steps=[STEPS, MORE], solver=SOLVER)
    return {**own, "particles": PARTICLES, "trained": TRAINED}


def work(laws: list[str], rows: list[str]) -> Iterator[tuple[str, str, str]]:
    """Law, operator and row of each figure."""
    for law in laws:
        for name in operators():
            yield from ((law, name, row) for row in (GIBBS, *rows))


def _figures(f: Mapping[str, float]) -> list[str]:
    """The figures of a row as the page shows them."""
    if "failed" in f or f["spread"] > DIVERGED:
        return ["diverges", "", "", ""]
    seconds = f"{f['seconds']:.0f}" if "seconds" in f else ""
    coverage = f"{f['coverage']:.2f} ± {f['error']:.2f}"
    return [coverage, f"{f['gap']:.2f}", f"{f['spread']:.2f}", seconds]


def page(found: Mapping[str, Any]) -> str:
    """The text of results/posteriors_sparse.md."""
    kept = found["settings"]
    text = (
        "# Random walks with sparse increments\n\n"
        f"`python benchmarks/{NAME}.py` writes this page from `{NAME}.json`; its docstring\nsays "
        f"what is measured and how. There are {kept['signals']} signals for each operator "
        f"({FEW} for the network\nand for the twisted sampler, which has "
        f"{kept['particles']} particles), and "
        f"{kept['steps'][0]} steps of `{kept['solver']}`;\nfor DPS {kept['steps'][1]} of "
        "`ancestral`. The gap of the Gibbs sampler is that of the mean of\nits two chains, "
        "by how far they are apart.\n"
    )
    for law, cells in found["laws"].items():
        rows = [[name, row, *_figures(f)] for name, own in cells.items() for row, f in own.items()]
        head = [
            "operator",
            "method, prior",
            "coverage of the 90 % set",
            "gap in dB",
            "variance",
            "s",
        ]
        body = table(head, rows).replace("| --- | ---: |", "| --- | --- |", 1)
        text += f"\n## {law} increments\n\n{body}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--laws", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--signals", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="10 signals, kept nowhere")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / f"{NAME}.json"
    own = settings(10 if args.quick else args.signals)
    found: dict[str, Any] = {"settings": own, "laws": {}}
    if file.exists() and not args.quick:
        old = json.loads(file.read_text(encoding="utf-8"))
        found = old if old["settings"] == own else found
    problem, at = None, ("", "")
    for law, name, row in work(args.laws, args.rows):
        cell = found["laws"].setdefault(law, {}).setdefault(name, {})
        if row in cell:
            continue
        if problem is None or at != (law, name):
            A = operators()[name].matrix((DIM,)).double()
            problem, at = Problem(A, SHARES[law], own["signals"]), (law, name)
        cell[row] = reference(problem) if row == GIBBS else measure(problem, row)
        print(law, name, row, cell[row], flush=True)
        if not args.quick:
            write(file, (json.dumps(found, indent=1) + "\n").encode())
            write(RESULTS / f"{NAME}.md", page(found).encode())
    if args.quick:
        print(page(found))


if __name__ == "__main__":
    main()
