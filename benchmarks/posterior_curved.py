"""How far methods for any likelihood are from the posterior, for operators that are not linear.

    python benchmarks/posterior_curved.py            # measures what is not there, writes the page
    python benchmarks/posterior_curved.py --check    # exit code 1 if the page is old

`scoresde.posterior.posterior(method="auto")` chooses by these figures for measurements that are
not linear with Gaussian noise. The priors are a Gaussian with correlations of 0.5 and a mixture of
four modes, in 5 dimensions, with the exact score under VPSDE. The reference is 400,000
draws of the prior, weighted by the likelihood. What is measured is the sliced Wasserstein-1
distance of 500 samples from 500 of the reference, over that of two sets of 500 of it (the floor).
DPS and DAPS make 100 steps, as "auto" does, and the particles of the twisted sampler 100 too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, Gaussian, GaussianMixture
from scoresde._io import write
from scoresde.measurement import LogLikelihood, Measurement, PoissonNoise
from scoresde.posterior import posterior

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.posteriors_problems import sliced_w1

HERE = Path(__file__).parent
FILE, PAGE = HERE / "results" / "posterior_curved.json", HERE / "results" / "posterior_curved.md"
DIM, COUNT, DRAWS, SEEDS = 5, 500, 400_000, 2
F64 = torch.float64


def laplace(x0: Tensor, y: Tensor) -> Tensor:
    """Laplacian noise of scale 0.3 on the first three numbers."""
    return -(y - x0[:, :3]).abs().sum(1) / 0.3


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], object]] = {
    "square": (torch.square, 0.3),
    "modulus": (torch.abs, 0.3),
    "norm": (lambda x: x.norm(dim=1, keepdim=True), 0.1),
    "exponential": (torch.exp, 0.5),
    "tanh of three": (lambda x: torch.tanh(2 * x[:, :3]), 0.1),
    "products of neighbours": (lambda x: x[:, :2] * x[:, 1:3], 0.2),
    "saturated": (lambda x: x.clamp(-1, 1), 0.2),
    "Poisson counts": (torch.exp, PoissonNoise(1.0)),
    "Laplacian noise": (lambda x: x[:, :3], LogLikelihood(laplace)),
}
ROWS = {"dps": ("dps", 400), "daps": ("daps", 100), "twisted, K = 1000": ("twisted", 400)}
"""Row -> the method and its calls for each sample."""


def priors() -> dict[str, GaussianMixture]:
    """The priors by name."""
    generator = torch.Generator().manual_seed(0)
    means = 1.5 * torch.randn(4, DIM, generator=generator, dtype=F64)
    variances = torch.tensor([0.3, 0.5, 0.4, 0.2], dtype=F64)
    covariance = 0.5 * torch.eye(DIM, dtype=F64) + 0.5
    normal = Gaussian(torch.zeros(DIM, dtype=F64), covariance)
    return {"Gaussian": normal.mixture, "mixture": GaussianMixture(means, variances)}


PROBLEMS = [f"{prior}, {operator}" for prior in ("Gaussian", "mixture") for operator in OPERATORS]


def make(name: str, seed: int) -> tuple[GaussianMixture, Measurement]:
    """The prior and the measurement of a problem."""
    which, operator = name.split(", ")
    prior = priors()[which]
    fn, noise = OPERATORS[operator]
    drawn = noise if not isinstance(noise, LogLikelihood) else 0.4
    truth = prior.sample(1, seed=seed)
    y = Measurement(fn, noise=drawn).simulate(truth, seed=seed)[0]  # type: ignore[arg-type]
    return prior, Measurement(fn, y, noise)  # type: ignore[arg-type]


def measured(name: str, seed: int) -> dict[str, dict[str, Any]]:
    """The figures of all methods on one problem."""
    prior, measurement = make(name, seed)
    draws = prior.sample(DRAWS, seed=1000 + seed)
    assert measurement.y is not None
    y = measurement.y.expand(DRAWS, *measurement.y.shape)
    weights = torch.softmax(measurement.log_likelihood(draws, y), 0)
    generator = torch.Generator().manual_seed(seed)
    sets = [
        draws[torch.multinomial(weights, COUNT, replacement=True, generator=generator)]
        for _ in range(2)
    ]
    floor, found = sliced_w1(*sets), {}
    for row, (method, calls) in ROWS.items():
        began = time.process_time()
        with warnings.catch_warnings():  # divergence and collapsed weights are figures here
            warnings.simplefilter("ignore", UserWarning)
            model = prior.under(VPSDE())
            try:
                out = posterior(
                    model, measurement, method=method, n=COUNT, calls=calls, seed=seed, dtype=F64
                )
            except ValueError as error:  # a run that diverges so far that it says so
                found[row] = {"ratio": math.inf, "error": str(error)}
                continue
        ratio = sliced_w1(out.x, sets[0]) / floor
        seconds = time.process_time() - began
        found[row] = {"ratio": ratio, "floor": floor, "calls": out.nfe, "seconds": seconds}
    found["prior"] = {"ratio": sliced_w1(draws[:COUNT], sets[0]) / floor}
    found["reference"] = {"draws": float(1.0 / weights.square().sum())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--check", action="store_true", help="only compare the page")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if args.check:
        sys.exit("posterior_curved.md is old" if PAGE.read_text() != page(found) else 0)
    torch.set_num_threads(1)
    for seed in range(SEEDS):
        for name in args.problems:
            if str(seed) in found.setdefault(name, {}):
                continue
            found[name][str(seed)] = measured(name, seed)
            print(name, seed, json.dumps(found[name][str(seed)]), flush=True)
            write(FILE, (json.dumps(found, indent=1) + "\n").encode())
    write(PAGE, page(found).encode())


def each(found: dict[str, Any], row: str) -> list[float]:
    """The distances of a row over the floor, problem by problem."""
    return [seeds[seed][row]["ratio"] for seeds in found.values() for seed in seeds]


def bias(found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The least and largest distance of every method over the floor, in two digits."""
    return {
        row.split(",")[0]: tuple(float(f"{f(each(found, row)):.2g}") for f in (min, max))
        for row in ROWS
    }


def closer(found: dict[str, Any], row: str) -> float:
    """The share of problems in which DAPS is closer than the method `row`."""
    (name,) = (name for name in ROWS if name.startswith(row))
    pairs = list(zip(each(found, "daps"), each(found, name), strict=True))
    return sum(a < b for a, b in pairs) / len(pairs)


def page(found: dict[str, Any]) -> str:
    """The page: a line for each kind of problems, a column for each method."""
    rows = [*ROWS, "prior"]
    text = (
        "# Posterior methods on measurements that are not linear with Gaussian noise\n\n"
        "`python benchmarks/posterior_curved.py`; its docstring says what is measured. Sliced\n"
        "Wasserstein distance over the floor of samples of the reference, by seed: 1 is exact,\n"
        'infinity a run that ended in an error since it diverged. "prior" is the distance of\n'
        "samples of the prior. `DAPS` takes 100 calls for a sample, `DPS` as many products more,\n"
        f"and the particles 400. It is closer than `DPS` in {closer(found, 'dps'):.0%} of the\n"
        f"problems, and than the particles in {closer(found, 'twisted'):.0%}.\n"
    )
    text += "\n| problem | " + " | ".join(rows) + " |\n| --- |" + " ---: |" * len(rows) + "\n"
    for name, seeds in found.items():
        cells = (", ".join(f"{at[row]['ratio']:.2g}" for at in seeds.values()) for row in rows)
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


if __name__ == "__main__":
    main()
