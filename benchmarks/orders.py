"""The order of convergence of every named solver, measured with exact references.

    python benchmarks/orders.py [--quick] [--paths 20000]

ODE: median endpoint error on B1, started from fixed points, against DOP853. Weak and strong: on
Gaussian data, where every scheme is a linear map that unit impulses read off, so both are exact;
strong errors on a 1-D mixture, over paths on one Brownian motion, stand beside them. The slopes
are those at the halvings of the step; the last one counts (the measurement is that of
tests/order.py, whose bounds are in tests/orders.json). Writes orders.json and orders.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from scoresde.solvers import SOLVERS, Solver, StepSolver

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import order  # the tests' own measurement

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Measured:
    """Errors of one solver at some numbers of steps, and the slopes between them."""

    solver: str
    kind: str
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    declared: float

    @property
    def slopes(self) -> list[float]:
        return order.rates(list(self.errors))


Measurement = Callable[[Solver, tuple[int, ...]], list[float]]


def kinds(solver: Solver, eta: float, paths: int) -> list[tuple[str, float, Measurement]]:
    """What a solver declares and can be measured: kind, declared order, measurement."""

    def mixture(s: Solver, steps: tuple[int, ...]) -> list[float]:
        return order.strong_errors_mixture(s, steps, paths)

    declared = solver.orders
    if eta == 0.0:
        found = [("ODE", declared.ode, order.ode_errors)]
    else:
        found = [
            ("weak, Gaussian", declared.weak, order.weak_errors),
            ("strong, Gaussian", declared.strong, order.strong_errors),
            ("strong, mixture", declared.strong, mixture),
        ]
    return [(kind, number, run) for kind, number, run in found if number is not None]


STEPS = {
    "ODE": (40, 80, 160, 320, 640),
    "weak, Gaussian": (40, 80, 160, 320),
    "strong, Gaussian": (20, 40, 80, 160),
    "strong, mixture": (64, 128, 256, 512),
}


def measure(name: str, solver: Solver, eta: float, paths: int, quick: bool) -> list[Measured]:
    rows = []
    for kind, declared, run in kinds(solver, eta, paths):
        steps = STEPS[kind][:3] if quick else STEPS[kind]
        try:
            errors = run(solver, steps)
        except (TypeError, ValueError) as failure:  # a noise that the measurement cannot give
            print(f"  {name}, {kind}: {failure}")
            continue
        rows.append(Measured(name, kind, steps, tuple(errors), declared))
    return rows


def table(rows: list[Measured]) -> str:
    lines = ["| solver | measured on | declared | slopes at the halvings | last error |"]
    lines.append("| --- | --- | ---: | --- | ---: |")
    for m in rows:
        # below 1e-12 rounding decides
        good = [s for s, e in zip(m.slopes, m.errors[1:], strict=True) if e > 1e-12]
        slopes = " ".join(f"{s:.2f}" for s in good)
        last = f"{m.errors[-1]:.1e} at {m.steps[-1]}"
        lines.append(f"| {m.solver} | {m.kind} | {m.declared:g} | {slopes} | {last} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three step counts")
    parser.add_argument("--paths", type=int, default=20_000, help="paths on the mixture")
    parser.add_argument("--only", nargs="+", default=None, help="names of solvers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = min(args.paths, 2000) if args.quick else args.paths
    rows: list[Measured] = []
    for name, (solver, eta) in SOLVERS.items():
        if isinstance(solver, StepSolver) and (args.only is None or name in args.only):
            rows += measure(name, solver, eta, paths, args.quick)
            print(f"{name} measured", flush=True)
    flags = " --quick" if args.quick else f" --paths {paths}"
    text = (
        "# Measured orders of convergence\n\n"
        f"`python benchmarks/orders.py{flags}`; float64, torch {torch.__version__}, "
        f"{platform.machine()}. Methods of order 3 and more approach their slope late.\n\n"
        f"{table(rows)}\n"
    )
    print(text)
    stem = "orders-quick" if args.quick else "orders"
    RESULTS.mkdir(exist_ok=True)
    saved = [
        {**asdict(m), "slopes": [s if math.isfinite(s) else None for s in m.slopes]} for m in rows
    ]
    (RESULTS / f"{stem}.json").write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{stem}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
