"""Whether stated errors are true: log p, latent codes and decoded data beside exact answers.

    python benchmarks/stated_errors.py [--quick] [--families VP flow] [--against FOLDER]

For every SDE family, kind of data and tolerance, and for each sample on its own, the error that
the package states is set beside the error that it makes:

- log p: |log p - truth|, the closed form of the noised data at t_min, beside
  `LogLikelihood.solver_error`, with the exact divergence and the exact prior;
- encode: the code taken back along the exact flow, RMS distance from what was encoded, beside
  `Latent.error` (earlier versions: `Latent.round_trip`);
- decode: RMS distance from where the exact flow takes the code, beside the tolerance of a step,
  m (atol + rtol |y|) at the end (see `AdaptiveODE`), which is all that is stated there.

The flow of Gaussian data is linear and known in closed form. For mixtures the exact flow is
`AdaptiveODE` at 1e-11 in float64, which is checked against scipy's DOP853 at 1e-12, one
sample at a time in the log-SNR. A sample is off if its error is more than 5 times what was stated,
and more than the rounding of the closed forms. Calls are mean network evaluations of a sample.
`--against` runs the same cells with the package in another folder, a checkout of an earlier
version, in the same run. Writes results/stated_errors.json and results/stated_errors.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    AdaptiveODE,
    CosineSDE,
    FlowSDE,
    Gaussian,
    GaussianMixture,
    Grid,
    LinearSDE,
    ReverseSDE,
    SubVPSDE,
    decode,
    encode,
    log_prob,
)
from scoresde.ddpm import ChainSDE
from scoresde.noise import Independent
from scoresde.options import Tolerances

RESULTS = Path(__file__).parent / "results"
D = torch.float64
FACTOR = 5.0
TIGHT = 1e-11
SAMPLES = 64
ROUNDING = {"log_prob": 1e-9, "encode": 1e-10, "decode": 1e-10}
"""What the closed forms and the tight reference are good to, as a share of the answer."""
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


@dataclass(frozen=True, eq=False)
class Problem:
    """Data with an exact score; smooth: of about unit size, with no fine structure."""

    name: str
    data: Any
    smooth: bool = False


@dataclass(frozen=True)
class Cell:
    """What was found for one family, kind of data, tolerance and quantity."""

    what: str
    family: str
    data: str
    smooth: bool
    tolerance: float
    off: float
    worst: float
    error: float
    stated: float
    calls: float


def families() -> dict[str, Any]:
    betas = np.linspace(1e-4, 0.02, 1000)
    return {
        "VP": VPSDE(),
        "sub-VP": SubVPSDE(),
        "VE": VESDE(),
        "cosine": CosineSDE(),
        "EDM": EDMSDE(),
        "flow": FlowSDE(),
        "linear": LinearSDE(lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: (0.1 + 19.9 * t).sqrt()),
        "chain": ChainSDE(betas.tolist()),
    }


def rotation(dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, dtype=D, generator=generator))[0]


def correlated(dim: int, condition: float) -> Gaussian:
    """Unit variance in one direction, down to 1/condition in the last, in a random basis."""
    basis, spread = rotation(dim, 0), torch.logspace(0, -math.log10(condition), dim, dtype=D)
    covariance = (basis * spread) @ basis.T
    return Gaussian(torch.zeros(dim, dtype=D), (covariance + covariance.T) / 2)


def problems() -> list[Problem]:
    angle = torch.arange(8, dtype=D) * math.pi / 4
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(10, 64, dtype=D, generator=generator)
    smooth = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=D)
    three = torch.tensor([[1.0, 0.0], [-0.6, 0.7], [0.0, -0.8]], dtype=D)

    def even(std: float, count: int) -> Tensor:
        return torch.full((count,), std**2, dtype=D)

    ends = torch.tensor([[-1.0], [1.0]], dtype=D)
    return [
        Problem("Gaussian, 2-D", Gaussian(torch.tensor([0.3, -0.4], dtype=D), smooth), True),
        Problem("3 wide modes, 2-D", GaussianMixture(three, even(0.3, 3)), True),
        Problem("10 wide modes, 64-D", GaussianMixture(far * 0.5, even(0.4, 10)), True),
        Problem("std 1e-3, 1-D", Gaussian(torch.zeros(1, dtype=D), torch.tensor(1e-6).to(D))),
        Problem("std 1e-2, 8-D", Gaussian(torch.full((8,), 0.3, dtype=D), even(1e-2, 8))),
        Problem("condition 1e4, 8-D", correlated(8, 1e4)),
        Problem("condition 1e6, 16-D", correlated(16, 1e6)),
        Problem("2 modes of std 1e-3, 1-D", GaussianMixture(ends, even(1e-3, 2))),
        Problem("ring of 8, std 0.03, 2-D", GaussianMixture(ring, even(0.03, 8))),
        Problem("10 modes of std 0.1, 64-D", GaussianMixture(far, even(0.1, 10))),
        Problem("std 20, 2-D", Gaussian(torch.zeros(2, dtype=D), even(20.0, 2))),
    ]


def rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def exact_flow(problem: Problem, sde: Any, x: Tensor, start: float, end: float) -> Tensor:
    """Where the probability flow takes states: closed form, or to 1e-11 a step."""
    if isinstance(problem.data, Gaussian):
        return problem.data.flow(sde, x, start, end)
    solver = AdaptiveODE(rtol=TIGHT, atol=TIGHT, max_nfe=100_000)
    go = decode if start > end else encode
    t = min(start, end)
    out = go(sde, problem.data.under(sde), x, solver=solver, t=t)
    return out if isinstance(out, Tensor) else out.z


def scipy_flow(problem: Problem, sde: Any, x: Tensor, start: float, end: float) -> Tensor:
    """The same by scipy's DOP853 at 1e-12, in the log-SNR, one sample at a time.

    With x = alpha y, dy/dlambda = -(sigma/alpha) eps.
    """
    from scipy.integrate import solve_ivp

    model, ends = problem.data.under(sde), (sde.log_snr(start), sde.log_snr(end))

    def slope(lam: float, flat: Any) -> Any:
        node = sde.at(min(max(float(sde.time_of(lam)), min(start, end)), max(start, end)))
        state = node.alpha * torch.from_numpy(flat.copy())[None]
        return -math.exp(-lam) * model.predict(node, state).eps[0].numpy()

    rows = []
    for row in x / sde.alpha(start):
        found = solve_ivp(slope, ends, row.numpy(), "DOP853", rtol=1e-12, atol=1e-14)
        rows.append(torch.from_numpy(found.y[:, -1].copy()))
    return torch.stack(rows) * sde.alpha(end)


Answer = tuple[Tensor, Tensor, Tensor, Tensor]
"""Errors, what was stated of them, calls, and the size of the answers, (B,)."""


def of_log_prob(problem: Problem, sde: Any, tol: float, n: int, seed: int) -> Answer:
    data = problem.data
    start = sde.t_min if math.isfinite(sde.log_snr(sde.t_min)) else sde.t_end
    there = data.marginal(sde, start)
    x = there.sample(n, seed=seed)
    found = log_prob(
        data.under(sde),
        x,
        prior=data.marginal(sde, sde.T),
        divergence="exact",
        tolerances=Tolerances(tol, tol),
    )
    truth = there.log_prob(x)
    one = torch.ones(n, dtype=D)
    return (found.nats - truth).abs(), found.solver_error, found.nfe, truth.abs().maximum(one)


def of_encode(problem: Problem, sde: Any, tol: float, n: int, seed: int) -> Answer:
    x = problem.data.marginal(sde, sde.t_end).sample(n, seed=seed)
    solver = AdaptiveODE(rtol=tol, atol=tol)
    found = encode(sde, problem.data.under(sde), x, solver=solver, check=True)
    back = exact_flow(problem, sde, found.z, sde.T, sde.t_end)
    calls = found.solution.stats["nfe"]
    stated = getattr(found, "error", found.round_trip)
    return rms(back - x), stated, calls, rms(x)


def of_decode(problem: Problem, sde: Any, tol: float, n: int, seed: int) -> Answer:
    z = problem.data.marginal(sde, sde.T).sample(n, seed=seed)
    solver, walk = AdaptiveODE(rtol=tol, atol=tol), ReverseSDE(sde, problem.data.under(sde), 0.0)
    found = solver.solve(walk, z, Grid.of([sde.T, sde.t_end]), noise=Independent(0))
    x, calls = found.x, found.stats["nfe"]
    truth, s = exact_flow(problem, sde, z, sde.T, sde.t_end), solver.sigma_data
    m = math.hypot(s * sde.alpha(sde.t_end), sde.sigma(sde.t_end))
    return rms(x - truth), tol * (m + rms(truth)), calls, rms(truth)


WHAT: dict[str, Callable[[Problem, Any, float, int, int], Answer]] = {
    "log_prob": of_log_prob,
    "encode": of_encode,
    "decode": of_decode,
}


def cell(
    what: str, family: str, sde: Any, problem: Problem, tol: float, n: int = 64, seed: int = 0
) -> Cell:
    """One family, kind of data, tolerance and quantity, over n samples."""
    error, stated, calls, size = WHAT[what](problem, sde, tol, n, seed)
    beyond = (error - ROUNDING[what] * size).clamp_min(0.0)
    ratio = beyond / stated
    off = ~(ratio <= FACTOR)
    return Cell(
        what=what,
        family=family,
        data=problem.name,
        smooth=problem.smooth,
        tolerance=tol,
        off=float(off.double().mean()),
        worst=float(ratio.max()),
        error=float(error.median()),
        stated=float(stated.median()),
        calls=float(calls.double().mean()),
    )


def cells(quick: bool, seed: int, only: Sequence[str] = ()) -> Iterator[Cell]:
    """All cells, of these families alone if some are named."""
    tolerances = (1e-3, 1e-5) if quick else TOLERANCES
    for family, sde in families().items():
        for problem in problems() if not only or family in only else ():
            for tol in tolerances:
                for what in WHAT:
                    yield cell(what, family, sde, problem, tol, 16 if quick else SAMPLES, seed)


Key = tuple[str, str, str, float]


def key(found: Cell) -> Key:
    return found.what, found.family, found.data, found.tolerance


def run(quick: bool, seed: int, only: Sequence[str]) -> list[Cell]:
    made = []
    for found in cells(quick, seed, only):
        made.append(found)
        print(json.dumps(asdict(found)), flush=True)
    return made


def elsewhere(folder: str, quick: bool, seed: int, only: Sequence[str]) -> list[Cell]:
    """The same cells with the package in another folder."""
    command = [sys.executable, __file__, "--print", "--seed", str(seed)]
    command += ["--quick"] * quick + (["--families", *only] if only else [])
    env = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [Cell(**json.loads(line)) for line in done.stdout.splitlines()]


def reference_check(seed: int) -> dict[str, float]:
    """The greatest distance of the tight flow from scipy's, four samples each, RMS entries."""
    found = {}
    for family in ("VP", "EDM"):
        sde = families()[family]
        for problem in problems():
            if isinstance(problem.data, GaussianMixture) and problem.data.dim < 10:
                z = problem.data.marginal(sde, sde.T).sample(4, seed=seed)
                ours = exact_flow(problem, sde, z, sde.T, sde.t_end)
                theirs = scipy_flow(problem, sde, z, sde.T, sde.t_end)
                found[f"{family}, {problem.name}"] = float(rms(ours - theirs).max())
    return found


def by(rows: Sequence[Cell], field: str) -> dict[Any, list[Cell]]:
    groups: dict[Any, list[Cell]] = {}
    for row in rows:
        groups.setdefault(getattr(row, field), []).append(row)
    return groups


def table(rows: Sequence[Cell], field: str, before: dict[Key, Cell]) -> list[str]:
    head = f"| {field} | cells | cells with more than 1 % off | samples off | worst |"
    line = "| --- | ---: | ---: | ---: | ---: |"
    lines = [head + (" before: samples off | worst | calls |" if before else ""), line]
    lines[1] += " ---: | ---: | ---: |" if before else ""
    for name, group in by(rows, field).items():
        label = f"{name:g}" if isinstance(name, float) else name
        text = f"| {label} | {len(group)} | {sum(c.off > 0.01 for c in group)} | "
        text += f"{np.mean([c.off for c in group]):.2%} | {max(c.worst for c in group):.2g} |"
        old = [before[key(c)] for c in group if key(c) in before]
        if old:
            text += f" {np.mean([c.off for c in old]):.2%} | {max(c.worst for c in old):.2g} | "
            text += f"{calls(group, before):+.1%} |"
        elif before:
            text += " | | |"
        lines.append(text)
    return [*lines, ""]


def calls(rows: Sequence[Cell], before: dict[Key, Cell]) -> float:
    """How many more calls were made, as a share."""
    pairs = [(c.calls, before[key(c)].calls) for c in rows if key(c) in before]
    return sum(new for new, _ in pairs) / sum(old for _, old in pairs) - 1.0


TITLES = {
    "log_prob": "log p, beside `solver_error`",
    "encode": "Latent codes, beside `Latent.error`",
    "decode": "Decoded data, beside the tolerance of a step, which is all that is stated",
}


def page(about: dict[str, Any], rows: Sequence[Cell], before: dict[Key, Cell]) -> str:
    lines = ["# Stated errors beside true ones", "", f"`{about['command']}`: {about['what']}", ""]
    for what, group in by(rows, "what").items():
        lines += [f"## {TITLES[what]}", ""]
        for field in ("family", "data", "tolerance"):
            lines += table(group, field, before)
        bad = sorted((c for c in group if c.off > 0.01), key=lambda c: -c.off)
        if bad:
            lines += ["Cells with more than 1 % off:", ""]
            lines += ["| family | data | tolerance | off | worst | error | stated |"]
            lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
            for c in bad[:20]:
                lines.append(
                    f"| {c.family} | {c.data} | {c.tolerance:g} | {c.off:.1%} | {c.worst:.2g} "
                    f"| {c.error:.1e} | {c.stated:.1e} |"
                )
            lines += [*([f"and {len(bad) - 20} more, in the JSON."] * (len(bad) > 20)), ""]
        for kind, smooth in (("smooth data", True), ("the others", False)):
            some = [c for c in group if c.smooth is smooth and key(c) in before]
            if some:
                more = f"{calls(some, before):+.1%} on {kind}"
                lines += [f"Calls against the earlier version: {more}.", ""]
    worst = max(about["reference"].values())
    lines.append(
        f"The reference flow of mixtures differs from scipy's by at most {worst:.1e} "
        f"(RMS of a sample, {len(about['reference'])} pairs of family and data)."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="16 samples, two tolerances")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", default=[], choices=list(families()))
    parser.add_argument("--against", help="a folder with an earlier version of the package")
    parser.add_argument("--against-families", nargs="+", default=[], choices=list(families()))
    parser.add_argument("--print", action="store_true", help="print the cells and write nothing")
    args = parser.parse_args()
    made = run(args.quick, args.seed, args.families)
    if args.print:
        return
    some, old = args.against_families or args.families, []
    if args.against:
        old = elsewhere(args.against, args.quick, args.seed, some)
    write(args, made, old)


def write(args: argparse.Namespace, made: list[Cell], old: list[Cell]) -> None:
    """The JSON, and the page made of it."""
    command = "python benchmarks/stated_errors.py" + " --quick" * args.quick
    for flag, value in (("families", args.families), ("against-families", args.against_families)):
        command += f" --{flag} {' '.join(value)}" if value else ""
    command += " --against AN_EARLIER_CHECKOUT" * bool(old)
    count = 16 if args.quick else SAMPLES
    about = {
        "command": command,
        "what": f"{count} samples a cell, off if the error is beyond {FACTOR:g} times the stated.",
        "torch": torch.__version__,
        "seed": args.seed,
        "reference": reference_check(args.seed),
    }
    name = "stated_errors-quick" if args.quick else "stated_errors"
    content = {**about, "cells": [asdict(c) for c in made], "before": [asdict(c) for c in old]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1))
    (RESULTS / f"{name}.md").write_text(page(about, made, {key(c): c for c in old}))


if __name__ == "__main__":
    main()
