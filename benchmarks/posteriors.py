"""How far posterior samplers are from the exact posterior, beside the floor of exact samples.

    python benchmarks/posteriors.py [--cells 8,1 80,4 ...] [--problems 20] [--rows ...] [--quick]

The problems are those of MCGDiff (Cardoso et al. 2024, arXiv 2308.07983): in d dimensions the
prior has 25 Gaussians of unit covariance with means (8 i, 8 j, 8 i, 8 j, ...), i and j from -2 to
2, and weights z^2 / sum z^2 for normal z. y = A x + std n with d_y numbers, A = U diag(s) V^T with
U and V from a normal matrix and s sorted uniforms on [0, 1], std uniform on [0, max s]. x is a
draw of the prior. Every method has the exact score of the prior, so all errors are the method's
and the solver's. The SDE is VPSDE(0.1, 40): data of this size (a standard deviation of 11) are
not noise at the end of the default schedule.

Measured, as means over the problems with standard errors: the sliced Wasserstein-1 distance (1,000
slices) of 1,000 samples to as many exact ones, beside the floor, that of two exact sets; for the
twisted sampler also the error of log p(y) in nats, and the root mean square of that error over the
stated one, which is 1 for honest errors. A cell is kept in results/posteriors.json, so a run that
was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture, ReverseSampler, ScoreModel
from scoresde._io import write
from scoresde.measurement import Matrix, Measurement
from scoresde.posterior import DPS, MMPS, TMPD, ExactPosterior, PiGDM
from scoresde.smc import TwistedSampler

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "posteriors.json"
COUNT, SLICES = 1000, 1000
F64 = torch.float64


@dataclass(frozen=True)
class Problem:
    """One problem: the prior, the measurement, and the exact posterior."""

    prior: GaussianMixture
    measurement: Measurement
    exact: ExactPosterior

    @property
    def model(self) -> ScoreModel:
        return self.prior.under(SDE)


SDE = VPSDE(0.1, 40.0)


def make_problem(d: int, d_y: int, seed: int) -> Problem:
    """Problem number `seed` of a cell."""
    generator = torch.Generator().manual_seed(100_000 * d + 1000 * d_y + seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=F64)

    corners = [(8.0 * i, 8.0 * j) for i, j in product(range(-2, 3), repeat=2)]
    means = torch.tensor(corners, dtype=F64).repeat(1, d // 2)
    weights = normal(25).square()
    prior = GaussianMixture(means, torch.ones(25, dtype=F64), weights / weights.sum())
    u, _, vh = torch.linalg.svd(normal(d_y, d), full_matrices=False)
    s = torch.rand(d_y, generator=generator, dtype=F64).sort().values
    std = float(torch.rand(1, generator=generator, dtype=F64) * s.max())
    A = u @ torch.diag(s) @ vh
    component = int(torch.multinomial(prior.weights, 1, generator=generator))
    x = means[component] + normal(d)
    measurement = Measurement(Matrix(A), A @ x + std * normal(d_y), std)
    return Problem(prior, measurement, ExactPosterior(prior, SDE, measurement))


def guided(
    method: Callable[[ScoreModel, Measurement], ScoreModel], steps: int = 300
) -> Callable[[Problem, int], dict[str, Any]]:
    """A row: samples of a posterior score model by the reverse SDE."""

    def run(problem: Problem, seed: int) -> dict[str, Any]:
        model = method(problem.model, problem.measurement)
        sampler = ReverseSampler(SDE, model, "sa_solver_p2_v", steps=steps)
        d = problem.prior.dim
        return {"x": sampler.sample((COUNT, d), seed=seed, dtype=F64)}

    return run


def twisted(steps: int, particles: int = 1000) -> Callable[[Problem, int], dict[str, Any]]:
    """A row: the twisted sampler."""

    def run(problem: Problem, seed: int) -> dict[str, Any]:
        sampler = TwistedSampler(
            problem.model, problem.measurement, particles=particles, steps=steps
        )
        found = sampler.sample((1, problem.prior.dim), seed=seed, dtype=F64)
        gap = float(found.log_evidence[0] - problem.exact.log_evidence())
        return {
            "x": found.resample(COUNT, seed=seed)[0],
            "log_evidence": gap,
            "stated": float(found.log_evidence_error[0]),
        }

    return run


def exact_score(problem: Problem, seed: int) -> dict[str, Any]:
    """A row: the exact posterior score, so that all error is the solver's."""
    return guided(lambda model, measurement: problem.exact)(problem, seed)


ROWS: dict[str, Callable[[Problem, int], dict[str, Any]]] = {
    "twisted, 100 steps": twisted(100),
    "twisted, 300 steps": twisted(300),
    "twisted, 300 steps, K = 64": twisted(300, 64),
    "twisted, 300 steps, K = 4096": twisted(300, 4096),
    "exact score": exact_score,
    "MMPS": guided(MMPS),
    "PiGDM": guided(PiGDM),
    "TMPD": guided(TMPD),
    "DPS": guided(DPS),
}


def sliced_w1(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """The mean over directions of the Wasserstein-1 distance of projections; (N, D) each."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], SLICES, generator=generator, dtype=F64)
    directions = directions / directions.norm(dim=0)
    ends = ((one.double() @ directions).sort(0).values for one in (x, y))
    return float((next(ends) - next(ends)).abs().mean())


def judged(problem: Problem, found: dict[str, Any], seed: int) -> dict[str, float]:
    """The distance of the samples, the floor, and what the row says of the evidence."""
    exact, other = (problem.exact.sample(COUNT, seed=number) for number in (seed, 10_000 + seed))
    rest = {name: value for name, value in found.items() if name != "x"}
    return {"distance": sliced_w1(found["x"], exact), "floor": sliced_w1(other, exact), **rest}


def run_cells(cells: list[str], rows: list[str], problems: int, keep: bool) -> dict[str, Any]:
    """All cells that are not done yet; cell -> row -> problem -> figures."""
    found: dict[str, Any] = json.loads(FILE.read_text()) if keep and FILE.exists() else {}
    for cell, row, number in product(cells, rows, range(problems)):
        done = found.setdefault(cell, {}).setdefault(row, {})
        if str(number) in done:
            continue
        d, d_y = map(int, cell.split(","))
        problem = make_problem(d, d_y, number)
        began = time.process_time()
        with warnings.catch_warnings():  # the small K of a row collapse now and then
            warnings.simplefilter("ignore", UserWarning)
            result = ROWS[row](problem, number)
        seconds = time.process_time() - began
        done[str(number)] = judged(problem, result, number) | {"seconds": seconds}
        if keep:
            RESULTS.mkdir(exist_ok=True)
            write(FILE, (json.dumps(found, indent=1) + "\n").encode())
    return found


def table(found: dict[str, Any]) -> str:
    """The results as a table of Markdown, a line for each cell and row."""
    head = (
        "| d, d_y | method | problems | sliced W | floor | ratio | error of log p(y) | "
        "rms of it over the stated one | s of the processor |\n| --- | --- |"
        + " ---: |" * 7
        + "\n"
    )
    lines = []
    for cell, rows in found.items():
        for row, problems in rows.items():
            values = list(problems.values())
            if not values:
                continue
            mean = {
                key: math.fsum(v[key] for v in values) / len(values)
                for key in ("distance", "floor", "seconds")
            }
            spread = math.sqrt(
                math.fsum((v["distance"] - mean["distance"]) ** 2 for v in values)
                / max(len(values) - 1, 1)
                / len(values)
            )
            evidence = over = ""
            if "log_evidence" in values[0]:
                gaps = [(v["log_evidence"], v["stated"]) for v in values]
                evidence = f"{math.fsum(abs(gap) for gap, _ in gaps) / len(gaps):.3f}"
                square = math.fsum((gap / stated) ** 2 for gap, stated in gaps) / len(gaps)
                over = f"{math.sqrt(square):.2f}"
            lines.append(
                f"| {cell} | {row} | {len(values)} | {mean['distance']:.3f} +- {spread:.3f} | "
                f"{mean['floor']:.3f} | {mean['distance'] / mean['floor']:.2f} | {evidence} | "
                f"{over} | {mean['seconds']:.1f} |\n"
            )
    return head + "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cells = [f"{d},{d_y}" for d in (8, 80, 800) for d_y in (1, 2, 4)]
    parser.add_argument("--cells", nargs="+", default=cells, metavar="D,D_Y")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one problem, kept nowhere")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        print(table(run_cells(args.cells[:1], args.rows[:1], 1, keep=False)))
        return
    found = run_cells(args.cells, args.rows, args.problems, keep=True)
    text = "# Posterior samplers\n\n`python benchmarks/posteriors.py`; its docstring says what is "
    text += "measured and how.\n\n" + table(found)
    write(RESULTS / "posteriors.md", text.encode())
    print(table(found))


if __name__ == "__main__":
    main()
