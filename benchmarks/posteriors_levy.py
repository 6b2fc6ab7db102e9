"""Coverage and the loss of the posterior mean, on random walks with Gaussian increments.

    python benchmarks/posteriors_levy.py [--signals 10000] [--quick]

The problems are those of arXiv 2509.12821 (ICLR 2026) whose posterior has a closed form: x in 64
dimensions is the cumulative sum of independent increments of variance 0.25. It is measured through
the identity, a Gaussian blur of 13 taps with a standard deviation of 2 (periodic here), a mask
that keeps each entry with probability 0.4, and some frequencies of the real Fourier transform: the
5 lowest, and each other one with probability 0.4. The variance of the noise is 25 dB below the
median over the signals of the mean of |A x|^2.

A posterior score model that is affine in x and y makes a deterministic scheme an affine map of its
start x_T and of y, so the map is read off by impulses, and samples for any number of signals are
then products with it: they are those of the solver, to rounding errors. Measured over the signals:
the share that lie in the 90 % set of highest posterior density of 99 samples each (more than 9 of
them have a lower density than the signal), which is 0.9 on average for samples of the posterior;
and the gap, 10 log10 of the squared error of the mean of the samples over that of the posterior
mean. The same two figures with exact samples show the noise of the signals.

`posteriors_sparse.py` does the same for Laplace and Bernoulli-Laplace increments, whose posteriors
have no closed form.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, Gaussian, ReverseSampler, ScoreModel
from scoresde._io import write
from scoresde.measurement import Blur, Identity, LinearOperator, Mask, Matrix, Measurement
from scoresde.posterior import MMPS, TMPD, PiGDM

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.posteriors_gaussian import affine
from benchmarks.posteriors_page import table
from benchmarks.posteriors_problems import F64

RESULTS = Path(__file__).parent / "results"
NAME = "posteriors_levy"
DIM, VARIANCE, DECIBEL = 64, 0.25, 25.0
DRAWS, SHARE = 99, 0.9
KEPT = 0.4
SDE = VPSDE(0.1, 40.0)
SOLVER = "unipc_3"
CHUNK = 500
AIM_COVERAGE, AIM_GAP, DIVERGED = 0.02, 0.1, 100.0

METHODS: dict[str, tuple[Callable[[ScoreModel, Measurement], ScoreModel], tuple[int, ...]]] = {
    "MMPS": (lambda model, of: MMPS(model, of, tol=1e-12, max_iter=200), (10, 20, 50)),
    "PiGDM": (lambda model, of: PiGDM(model, of, tol=1e-12), (50,)),
    "TMPD": (TMPD, (50,)),
}
"""Name -> how to make it, and the numbers of steps."""


def blur() -> Tensor:
    """The kernel: 13 taps of a Gaussian of standard deviation 2, with sum 1."""
    taps = torch.exp(-0.5 * (torch.arange(-6, 7, dtype=F64) / 2.0) ** 2)
    return taps / taps.sum()


def real_fourier(kept: Tensor) -> Tensor:
    """Rows of the orthonormal real Fourier transform, for the frequencies kept of 0 to DIM / 2.

    The rows of frequencies between 0 and DIM / 2 come in pairs, of a cosine and a sine.
    """
    rows = []
    place = torch.arange(DIM, dtype=F64)
    for number in kept.nonzero().flatten().tolist():
        phase = 2 * math.pi * number * place / DIM
        alone = number in (0, DIM // 2)
        scale = math.sqrt((1.0 if alone else 2.0) / DIM)
        rows += [scale * torch.cos(phase)] + ([] if alone else [scale * torch.sin(phase)])
    return torch.stack(rows)


def operators() -> dict[str, LinearOperator]:
    """The four operators, the same in every run."""
    generator = torch.Generator().manual_seed(64)
    kept = torch.rand(DIM, generator=generator) < KEPT
    frequencies = torch.rand(DIM // 2 + 1, generator=generator) < KEPT
    frequencies[:5] = True
    return {
        "identity": Identity(),
        "blur": Blur(blur()),
        "mask": Mask(kept),
        "Fourier": Matrix(real_fourier(frequencies)),
    }


def prior() -> Gaussian:
    """The law of the signals."""
    below = torch.ones(DIM, DIM, dtype=F64).tril()
    return Gaussian(torch.zeros(DIM, dtype=F64), VARIANCE * below @ below.T)


@dataclass(frozen=True, eq=False)
class Signals:
    """Signals x: (N, DIM), their measurements y: (N, M) and the exact posterior.

    Given y it is N(gain y, C), and root is the Cholesky factor of C.
    """

    A: Tensor
    x: Tensor
    seed: int

    @classmethod
    def of(cls, operator: LinearOperator, count: int, seed: int) -> Signals:
        increments = torch.randn(
            count, DIM, generator=torch.Generator().manual_seed(seed), dtype=F64
        )
        return cls(operator.matrix((DIM,)).double(), (0.5 * increments).cumsum(1), seed)

    @cached_property
    def std(self) -> float:
        power = (self.x @ self.A.T).square().mean(1).median()
        return math.sqrt(float(power) / 10 ** (DECIBEL / 10))

    @cached_property
    def y(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1)
        noise = torch.randn(len(self.x), len(self.A), generator=generator, dtype=F64)
        return self.x @ self.A.T + self.std * noise

    @cached_property
    def gain(self) -> Tensor:
        C = prior().covariance
        spread = self.A @ C @ self.A.T + self.std**2 * torch.eye(len(self.A), dtype=F64)
        return torch.linalg.solve(spread, self.A @ C).T

    @cached_property
    def root(self) -> Tensor:
        C = prior().covariance
        left = C - self.gain @ self.A @ C
        return torch.linalg.cholesky((left + left.T) / 2)

    def judged(self, map_x: Tensor, map_y: Tensor, b: Tensor, seed: int = 2) -> dict[str, float]:
        """Coverage and gap of samples map_x z + map_y y + b with normal z."""
        generator = torch.Generator().manual_seed(self.seed + seed)
        inside = 0
        for start in range(0, len(self.x), CHUNK):
            x, y = self.x[start : start + CHUNK], self.y[start : start + CHUNK]
            z = torch.randn(len(x), DRAWS, DIM, generator=generator, dtype=F64)
            samples = z @ map_x.T + (y @ map_y.T + b)[:, None]
            mean = y @ self.gain.T
            lower = self._distance(samples - mean[:, None]) > self._distance(x - mean)[:, None]
            inside += int((lower.sum(1) >= round((1 - SHARE) * (DRAWS + 1))).sum())
        errors = (
            (self.x - guess).square().sum(1).mean()
            for guess in (self.y @ map_y.T + b, self.y @ self.gain.T)
        )
        gap = 10 * math.log10(float(next(errors)) / float(next(errors)))
        coverage = inside / len(self.x)
        error = math.sqrt(coverage * (1 - coverage) / len(self.x))
        return {"coverage": coverage, "error": error, "gap": gap}

    def _distance(self, gap: Tensor) -> Tensor:
        """gap^T C^-1 gap, which is -2 log p up to a constant."""
        flat = gap.reshape(-1, DIM).T
        white = torch.linalg.solve_triangular(self.root, flat, upper=False)
        return white.square().sum(0).reshape(gap.shape[:-1])


def measure(operator: LinearOperator, signals: Signals, method: str, steps: int) -> dict[str, Any]:
    """The figures of a method with so many steps of the solver."""
    measurement = Measurement(operator, noise=signals.std)
    model = METHODS[method][0](prior().under(SDE), measurement)
    sampler = ReverseSampler(SDE, model, SOLVER, steps=steps)
    width = len(signals.A)
    shape = measurement.shape(torch.zeros(1, DIM, dtype=F64))

    def run(both: Tensor) -> Tensor:
        x, y = both[:, :DIM], both[:, DIM:]
        cond = {"y": y.reshape(len(y), *shape)}
        return sampler.sample(x.shape, x_init=x, seed=0, cond=cond)

    matrix, b = affine(run, DIM + width)
    scale = SDE.prior_std
    return signals.judged(scale * matrix[:, :DIM], matrix[:, DIM:], b)


def page(found: Mapping[str, Any]) -> str:
    """The text of results/posteriors_levy.md."""
    rows = []
    for name, made in found["operators"].items():
        for method, f in made.items():
            reached = abs(f["coverage"] - SHARE) <= AIM_COVERAGE and f["gap"] <= AIM_GAP
            rows.append(
                [
                    name,
                    method,
                    f"{f['coverage']:.3f} ± {f['error']:.3f}",
                    f"{f['gap']:.3f}" if f["gap"] < DIVERGED else "diverges",
                    "yes" if reached else "no",
                ]
            )
    head = ["operator", "method", "coverage of the 90 % set", "gap in dB", "within the aim"]
    return (
        "# Random walks with Gaussian increments\n\n"
        f"`python benchmarks/{NAME}.py` writes this page from `{NAME}.json`; its docstring\nsays "
        f"what is measured and how. There are {found['signals']} signals for each operator, and "
        f"the solver is `{SOLVER}`.\nThe aim is a coverage within {AIM_COVERAGE:g} of {SHARE:g} "
        f"and a gap of at most {AIM_GAP:g} dB.\n\n"
    ) + table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--signals", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="500 signals, kept nowhere")
    args = parser.parse_args()
    count = 500 if args.quick else args.signals
    made: dict[str, Any] = {}
    for name, operator in operators().items():
        signals = Signals.of(operator, count, seed=0)
        zero = torch.zeros(DIM, dtype=F64)
        made[name] = {"exact samples": signals.judged(signals.root, signals.gain, zero)}
        for method, (_, every) in METHODS.items():
            for steps in every:
                figures = measure(operator, signals, method, steps)
                made[name][f"{method}, {steps} steps"] = figures
                print(name, method, steps, figures, flush=True)
    found = {"signals": count, "operators": made}
    if not args.quick:
        write(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
        write(RESULTS / f"{NAME}.md", page(found).encode())
    print(page(found))


if __name__ == "__main__":
    main()
