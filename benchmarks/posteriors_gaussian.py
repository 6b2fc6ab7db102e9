"""The exact error of solvers on a posterior: a Gaussian prior, for which MMPS has no error.

    python benchmarks/posteriors_gaussian.py [--quick]

The prior has 64 dimensions, mean 0.3 z and the variances k^-1.5 along random axes; 32 numbers are
measured, by orthonormal rows times 1 to 0.1, with noise of standard deviation 0.05. The score of
MMPS is then that of the posterior itself, so all error is the solver's. Every deterministic scheme
is an affine map of its start, x -> M x + b, which the 64 unit vectors and 0 read off; a last row,
a combination of them, proves that it is affine. So the law of its samples is known, and the
Wasserstein-2 distance over 8 = sqrt(d) from the posterior is an exact number: from N(0, I), where
sampling starts, and from the exact law of x_T given y, which leaves out the error of that start.

"default" is VPSDE() down to t = 1e-3 with a last call that denoises. It ends at a noise of 0.01,
which bounds the error from below, so there are also rows down to t = 1e-4 without that call, and
of solvers that `ReverseSampler.calibrate` makes for this posterior and number of steps. The
conjugate gradients of MMPS go on to 1e-12. azula's samplers walk over our nodes ("our nodes") or
over those of azula's own schedule, VPSchedule(), with MMPS solved by 64 conjugate gradients; where
azula is not installed these rows are left out. A budget of N calls is as many steps as fit in it.

From the exact law of x_T the best solver by name, `unipc_3`, has 1.2e-4 with 20 calls, of which
8e-5 is the noise that is left at t = 1e-4, as 50 calls show. A smaller end does not pay, since the
steps grow: 1.6e-4 down to t = 3e-5, and 1.9e-4 down to 1e-5. `ab_4` has 1.6e-4, `unipc_4` 3.7e-4,
`dpmpp_3m` 4.8e-4, `unipc_2` 1.5e-3, and the nodes "karras" 4.8e-3. Only nodes that are calibrated
for the posterior come below 1e-4.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import ReverseSampler
from scoresde._io import write
from scoresde.posterior import MMPS

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks import posteriors_azula as azula
from benchmarks.posteriors_page import table
from benchmarks.posteriors_problems import F64, Problem, make_gaussian, path_of

RESULTS = Path(__file__).parent / "results"
NAME = "posteriors_gaussian"
DIM, MEASURED = 64, 32
SOLVERS = ("ddim", "dpmpp_2m", "ipndm_3", "unipc_3", "auto")
CALLS = (10, 20, 50)
ENDS: dict[str, dict[str, Any]] = {
    "default": {},
    "t = 1e-4": {"t_end": 1e-4, "denoise": False},
}
PEERS = ("DDIM", "Heun", "zAB", "vAB", "zEAB", "xEAB", "REAB")
PEER_CALLS = (10, 20, 50, 100)
AIMS = (("from N(0, I)", 10, 2e-3), ("from N(0, I)", 20, 1e-3), ("from p_T", 20, 1e-4))


@dataclass(frozen=True)
class Figure:
    """One scheme at one budget.

    Attributes:
        library, method, end: what it is, and where and how it ends.
        budget, calls: network calls allowed and made.
        prior, marginal: W2/sqrt(d) from N(0, I) and from the exact law of x_T given y.
    """

    library: str
    method: str
    end: str
    budget: int
    calls: int
    prior: float
    marginal: float


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance, (D, D)."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T


def w2(mean: Tensor, covariance: Tensor, other: Tensor, spread: Tensor) -> float:
    """The Wasserstein-2 distance of N(mean, covariance) and N(other, spread), over sqrt(D)."""
    half = root(spread)
    cross = root(half @ covariance @ half)
    square = (mean - other).square().sum() + (covariance + spread - 2 * cross).trace()
    return float((square.clamp_min(0.0) / len(mean)).sqrt())


def affine(run: Callable[[Tensor], Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """M and b of a scheme that takes x: (B, D) to M x + b, read off by impulses.

    Raises:
        RuntimeError: the response to a combination of them is not that of the responses.
    """
    zero, mixed = torch.zeros(1, dim, dtype=F64), torch.linspace(-1.0, 2.0, dim, dtype=F64)
    x = run(torch.cat([zero, torch.eye(dim, dtype=F64), mixed[None]])).detach()
    b, matrix = x[0], (x[1:-1] - x[0]).T
    gap = float((x[-1] - b - matrix @ mixed).abs().max())
    if not gap <= 1e-6 * max(1.0, float(x.abs().max())):
        raise RuntimeError(f"the scheme is not affine: off by {gap:.2g}")
    return matrix, b


def errors(
    problem: Problem, run: Callable[[Tensor], Tensor], start: tuple[float, float]
) -> tuple[float, float]:
    """W2/sqrt(d) from N(0, sigma^2 I) and from the exact law at the start, (alpha, sigma)."""
    law = problem.exact.posterior()
    truth = (law.means[0], law.covariances[0])
    matrix, b = affine(run, problem.dim)
    alpha, sigma = start
    noise = sigma**2 * torch.eye(problem.dim, dtype=F64)
    exact = alpha**2 * truth[1] + noise
    return (
        w2(b, matrix @ noise @ matrix.T, *truth),
        w2(b + alpha * matrix @ truth[0], matrix @ exact @ matrix.T, *truth),
    )


def ours(problem: Problem, solvers: Sequence[str], budgets: Sequence[int]) -> Iterator[Figure]:
    """Our solvers on MMPS."""
    model = MMPS(problem.model, problem.measurement, tol=1e-12, max_iter=80)
    for end, options in ENDS.items():
        for name in solvers:
            for budget in budgets:
                sampler, calls = _fitting(problem, model, name, budget, options)

                def run(x: Tensor, sampler: ReverseSampler = sampler) -> Tensor:
                    return sampler.sample(x.shape, x_init=x, seed=0)

                first = sampler.plan.schedule.segments[0][0]
                found = errors(problem, run, (first.alpha, first.sigma))
                yield Figure("scoresde", name, end, budget, calls, *found)


def calibrated(problem: Problem, budgets: Sequence[int]) -> Iterator[Figure]:
    """Solvers calibrated for this posterior and number of steps, down to t = 1e-4."""
    model = MMPS(problem.model, problem.measurement, tol=1e-12, max_iter=80)
    end, options = list(ENDS.items())[1]
    for budget in budgets:
        plain = ReverseSampler(problem.sde, model, "unipc_3", steps=budget, **options)
        found = plain.calibrate((problem.dim,), trajectories=16, seed=0, dtype=F64)
        sampler = ReverseSampler(problem.sde, model, found, denoise=False)
        calls = sampler.solve((1, problem.dim), seed=0, dtype=F64).nfe
        first = sampler.plan.schedule.segments[0][0]
        made = errors(
            problem,
            lambda x, sampler=sampler: sampler.sample(x.shape, x_init=x, seed=0),
            (first.alpha, first.sigma),
        )
        yield Figure("scoresde", "calibrated", end, budget, calls, *made)


def _fitting(
    problem: Problem, model: MMPS, name: str, budget: int, options: Mapping[str, Any]
) -> tuple[ReverseSampler, int]:
    """A sampler of as many steps as fit into a budget of calls, and its calls."""
    one = torch.zeros(1, problem.dim, dtype=F64)
    for steps in range(budget, 0, -1):
        sampler = ReverseSampler(problem.sde, model, name, steps=steps, **options)
        calls = sampler.solve(one.shape, x_init=one, seed=0).nfe
        if calls <= budget:
            return sampler, calls
    raise ValueError(f"{name} takes more than {budget} calls")


def theirs(problem: Problem, names: Sequence[str], budgets: Sequence[int]) -> Iterator[Figure]:
    """azula's samplers on azula's MMPS, over our nodes and over those of its own schedule."""
    own, sample = (azula.part(name) for name in ("noise", "sample"))
    for name in names:
        order = {"order": 3} if "AB" in name else {}
        each = 2 if name == "Heun" else 1
        for budget in budgets:
            steps = budget // each
            nodes = path_of(problem, steps)
            for end, schedule, stop in (
                ("our nodes", azula.over(nodes), float(steps)),
                ("its own", own.VPSchedule(), 1.0),
            ):
                denoiser = azula.wrapped(problem, schedule)
                azula.check(problem, denoiser, [stop, stop / 2])
                sampler = getattr(sample, f"{name}Sampler")(
                    azula.matched(denoiser, problem, times=2),
                    start=stop,
                    stop=0.0,
                    steps=steps,
                    silent=True,
                    dtype=F64,
                    **order,
                )
                first, last = (
                    tuple(map(float, schedule(torch.tensor(t, dtype=F64)))) for t in (stop, 0.0)
                )

                def run(x: Tensor, sampler: Any = sampler, alpha: float = last[0]) -> Tensor:
                    return torch.as_tensor(sampler(x)) / alpha

                label = name + (" 3" if order else "")
                try:
                    found = errors(problem, run, (first[0], first[1]))
                except RuntimeError as failure:
                    print(f"azula {label}, {end}, {budget} calls: {failure}")
                    continue
                yield Figure("azula", label, end, budget, steps * each, *found)


def best(
    figures: Sequence[Mapping[str, Any]], key: str, budget: int, library: str
) -> Mapping[str, Any] | None:
    """The figure with the least error within a budget."""
    own = [f for f in figures if f["budget"] == budget and f["library"] == library]
    return min(own, key=lambda f: float(f[key]), default=None)


def aims(found: Mapping[str, Any]) -> str:
    """The best of ours and of azula's beside what was aimed at."""
    figures = found["figures"]
    rows = []
    for said, budget, most in AIMS:
        key = "prior" if "N(0" in said else "marginal"
        cells = []
        for library in ("scoresde", "azula"):
            one = best(figures, key, budget, library)
            named = f" ({one['method']}, {one['end']})" if one else ""
            cells.append(f"{one[key]:.1e}{named}" if one else "")
        value = best(figures, key, budget, "scoresde")
        reached = "reached" if value is not None and value[key] <= most else "not reached"
        rows.append([f"{said}, {budget} calls", *cells, f"{most:.0e}", reached])
    head = ["W2/sqrt(d)", "our best", "azula's best", "aim", ""]
    return table(head, rows)


def page(found: Mapping[str, Any]) -> str:
    """The text of results/posteriors_gaussian.md."""
    figures = found["figures"]
    text = (
        "# The error of solvers on a Gaussian posterior\n\n"
        f"`python benchmarks/{NAME}.py` writes this page from `{NAME}.json`; its\ndocstring says "
        f"what is measured and how. azula: {found['azula']}.\n\n" + aims(found)
    )
    budgets = sorted({f["budget"] for f in figures})
    for key, title in (("prior", "From N(0, I)"), ("marginal", "From the exact law of x_T")):
        lines: dict[tuple[str, str, str], dict[int, float]] = {}
        for f in figures:
            lines.setdefault((f["library"], f["method"], f["end"]), {})[f["budget"]] = f[key]
        rows = [
            [*who, *(f"{values[b]:.1e}" if b in values else "" for b in budgets)]
            for who, values in lines.items()
        ]
        head = ["library", "method", "end or nodes", *(f"{b} calls" for b in budgets)]
        text += f"\n## {title}\n\n" + table(head, rows)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two solvers, kept nowhere")
    args = parser.parse_args()
    problem = make_gaussian(DIM, MEASURED, 0)
    figures: list[Figure] = []
    with warnings.catch_warnings():  # x_T given y is not N(0, I), which is what is measured
        warnings.simplefilter("ignore", UserWarning)
        figures += ours(problem, SOLVERS[:2] if args.quick else SOLVERS, CALLS)
        figures += [] if args.quick else calibrated(problem, CALLS[:2])
        if not azula.reason().startswith("skipped"):
            figures += theirs(problem, PEERS[:1] if args.quick else PEERS, PEER_CALLS)
    found = {"azula": azula.reason(), "figures": [asdict(figure) for figure in figures]}
    text = page(found)
    print(text)
    if not args.quick:
        write(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
        write(RESULTS / f"{NAME}.md", text.encode())


if __name__ == "__main__":
    main()
