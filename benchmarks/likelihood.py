"""Log-likelihoods of several libraries beside exact ones, in one run.

    python benchmarks/likelihood.py [--quick] [--seed 0]

Three problems under the VP SDE whose scores are exact, so that the error of log p, against the
closed form at t_end = 1e-5, is that of the method alone: a ring of 8 Gaussians in 2-D, 10 in 64-D,
and a Gaussian in 768-D with variances falling as k^-1.5 in a random basis. Network calls are
counted at the oracle, and for ours those of the slowest sample. The peers:

- score_sde: its published method written anew: scipy's RK45 over the whole batch, rtol = atol =
  1e-5, one Rademacher probe, a call for the drift and one for the divergence, prior N(0, I);
- k-diffusion: its own log_likelihood at 1e-5, prior N(0, sigma_max^2);
- zuko: its free-form transform at 1e-6, with the exact trace or Gaussian probes, prior N(0, I).

Ours is run with N(0, sigma_T^2) as well as with the exact p_T, and the peers' values are also
given the exact prior, at their own latent codes, so that no row owes its place to the prior.
Writes results/likelihood.json and results/likelihood.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde import VPSDE, Gaussian, GaussianMixture, ScoreModel
from scoresde.likelihood import log_prob
from scoresde.options import Divergence, Tolerances

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.peers import k_sampling
from benchmarks.problems import Denoiser

RESULTS = Path(__file__).parent / "results"
SDE, T_END, D = VPSDE(), 1e-5, torch.float64


class Counted(ScoreModel):
    """An oracle that counts its calls."""

    def __init__(self, data: Gaussian | GaussianMixture) -> None:
        super().__init__()
        self.sde, self.inner, self.count = SDE, data.under(SDE), 0

    def predict(self, node: Any, x: Tensor, cond: Any = None) -> Any:
        self.count += 1
        return self.inner.predict(node, x, cond)


@dataclass(frozen=True, eq=False)
class Case:
    """Data with exact answers, points at which they are asked for, and what a fit may see."""

    name: str
    data: Any
    x: Tensor
    fitted: Gaussian

    @property
    def truth(self) -> Tensor:
        return self.data.marginal(SDE, T_END).log_prob(self.x)

    @property
    def prior(self) -> Any:
        return self.data.marginal(SDE, SDE.T)


def cases(quick: bool, seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    angle = torch.arange(8, dtype=D) * math.pi / 4
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    far = torch.randn(10, 64, dtype=D, generator=generator)
    basis = torch.linalg.qr(torch.randn(768, 768, dtype=D, generator=generator))[0]
    variances = torch.arange(1, 769, dtype=D) ** -1.5
    variances *= 0.25 / variances.mean()
    correlated = Gaussian(torch.zeros(768, dtype=D), (basis * variances) @ basis.T)
    made = [
        ("2-D mixture of 8", GaussianMixture(ring, torch.full((8,), 0.01, dtype=D)), 256),
        ("64-D mixture of 10", GaussianMixture(far, torch.full((10,), 0.09, dtype=D)), 64),
        ("768-D correlated Gaussian", correlated, 32),
    ]
    out = []
    for name, data, n in made:
        fitted = Gaussian.fit(samples(data, 10_000, seed + 1))
        out.append(Case(name, data, samples(data, n // 4 if quick else n, seed), fitted))
    return out


def samples(data: Gaussian | GaussianMixture, n: int, seed: int) -> Tensor:
    if isinstance(data, GaussianMixture):
        return data.sample(n, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, len(data.mean), dtype=D, generator=generator)
    return data.mean + z @ torch.linalg.cholesky(data.covariance).T


Answer = tuple[Tensor, Tensor, int]
"""log p without the prior, the latent codes x_T, calls; and, for ours, the result."""


def standard_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def score_sde(case: Case, rtol: float, seed: int) -> Answer:
    """Song et al. 2021, arXiv 2011.13456, appendix D.2, as published: two calls an evaluation."""
    model, shape = Counted(case.data), case.x.shape
    generator = torch.Generator().manual_seed(seed)
    v = torch.randint(0, 2, shape, generator=generator).to(D) * 2 - 1

    def drift(t: float, x: Tensor) -> Tensor:
        node = SDE.at(t)
        return node.rate * x - 0.5 * node.g**2 * model.predict(node, x).score

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat[: case.x.numel()].copy()).reshape(shape)
        move = drift(t, x)
        with torch.enable_grad():
            entry = x.requires_grad_()
            (pulled,) = torch.autograd.grad((drift(t, entry) * v).sum(), entry)
        return torch.cat([move.flatten(), (pulled * v).sum(1)]).numpy()

    start = torch.cat([case.x.flatten(), torch.zeros(shape[0], dtype=D)]).numpy()
    out = solve_ivp(slope, (T_END, SDE.T), start, rtol=rtol, atol=rtol, method="RK45")
    end = torch.from_numpy(out.y[:, -1].copy())
    return end[case.x.numel() :], end[: case.x.numel()].reshape(shape), model.count


def k_diffusion(case: Case, rtol: float, seed: int) -> Answer:
    """Its log_likelihood on y = x/alpha; its own prior is taken off again."""
    sampling, oracle = k_sampling(), Denoiser(case.data.under(SDE))
    ends = [math.exp(-SDE.log_snr(t)) for t in (T_END, SDE.T)]
    held: list[Tensor] = []

    def call(y: Tensor, sigma: Tensor) -> Tensor:
        held.append(y.detach())
        return oracle(y, float(sigma[0]))

    torch.manual_seed(seed)
    y = case.x / SDE.alpha(T_END)
    value, _ = sampling.log_likelihood(call, y, ends[0], ends[1], atol=rtol, rtol=rtol)
    dim = y.shape[1]
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=D), ends[1])
    # the last state is not returned: the last stage asked for is near enough for the prior
    last = held[-1]
    value = value - normal.log_prob(last).sum(1)
    scale = dim * (SDE.log_alpha(SDE.T) - SDE.log_alpha(T_END))
    return value + scale, last * SDE.alpha(SDE.T), oracle.calls


def zuko(case: Case, exact: bool, seed: int) -> Answer:
    transforms = importlib.import_module("zuko.transforms")
    model = Counted(case.data)

    def drift(t: Tensor, x: Tensor) -> Tensor:
        node = SDE.at(min(max(float(t), T_END), SDE.T))
        return node.rate * x - 0.5 * node.g**2 * model.predict(node, x).score

    torch.manual_seed(seed)
    flow = transforms.FreeFormJacobianTransform(
        drift,
        torch.tensor(T_END, dtype=D),
        torch.tensor(SDE.T, dtype=D),
        atol=1e-6,
        rtol=1e-6,
        exact=exact,
    )
    with torch.no_grad():
        z, value = flow.call_and_ladj(case.x)
    return value, z, model.count


def peers(case: Case, seed: int) -> dict[str, Callable[[], Answer]]:
    made: dict[str, Callable[[], Answer]] = {
        "score_sde RK45 1e-5, one probe": lambda: score_sde(case, 1e-5, seed),
        "score_sde RK45 1e-3, one probe": lambda: score_sde(case, 1e-3, seed),
        "k-diffusion 1e-5, one probe": lambda: k_diffusion(case, 1e-5, seed),
        "zuko 1e-6, one Gaussian probe": lambda: zuko(case, False, seed),
    }
    if case.x.shape[1] < 100:
        made["zuko 1e-6, exact trace"] = lambda: zuko(case, True, seed)
    return made


def ours(case: Case) -> dict[str, dict[str, Any]]:
    fit = case.fitted
    made: dict[str, dict[str, Any]] = {
        "scoresde, 1 probe": {},
        "scoresde, 8 probes": {"divergence": Divergence(probes=8)},
        "scoresde, 8 Hutch++": {"divergence": Divergence("hutch++", 8)},
        "scoresde, 1 probe, control": {"divergence": Divergence(control=fit)},
        "scoresde, 8 probes, control": {"divergence": Divergence(probes=8, control=fit)},
        "scoresde, 8 Hutch++, control": {"divergence": Divergence("hutch++", 8, control=fit)},
    }
    if case.x.shape[1] < 100:
        made["scoresde, exact"] = {"divergence": "exact"}
        made["scoresde, exact, 1e-6"] = {
            "divergence": "exact",
            "tolerances": Tolerances(1e-6, 1e-6),
        }
        made["scoresde, exact, control"] = {"divergence": Divergence("exact", control=fit)}
    return made


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def run(case: Case, seed: int) -> list[dict[str, Any]]:
    rows, truth = [], case.truth
    for name, call in peers(case, seed).items():
        begin = time.perf_counter()
        try:
            value, z, calls = call()
        except ImportError as error:
            rows.append({"method": name, "skipped": str(error)})
            continue
        row: dict[str, Any] = {"method": name, "calls": calls}
        row["seconds"] = time.perf_counter() - begin
        row["rms"] = rms(value + standard_normal(z) - truth)
        row["rms_exact_prior"] = rms(value + case.prior.log_prob(z) - truth)
        rows.append(row)
        print(case.name, row, flush=True)
    for name, options in ours(case).items():
        model, begin = Counted(case.data), time.perf_counter()
        plain = log_prob(model, case.x, t_end=T_END, seed=seed, **options)
        row = {"method": name, "calls": model.count, "seconds": time.perf_counter() - begin}
        row["mean_calls"] = float(plain.nfe.double().mean())
        row["rms"] = rms(plain.nats - truth)
        row["rms_exact_prior"] = rms(
            plain.nats - plain.prior + case.prior.log_prob(plain.z) - truth
        )
        row["standard_error"] = plain.budget()["standard_error"]
        row["solver_error"] = plain.budget()["solver_error"]
        mates = case.x.flip(0) * 0.5
        mates[0] = case.x[0]
        other = log_prob(case.data.under(SDE), mates, t_end=T_END, seed=seed, **options)
        row["bitwise"] = bool(torch.equal(other.draws[:, 0], plain.draws[:, 0]))
        rows.append(row)
        print(case.name, row, flush=True)
    return rows


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = []
    for name, rows in results.items():
        lines += [
            f"## {name}",
            "",
            "| method | RMS error, nats | with the exact prior | stated s.e. | calls | seconds |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            if "skipped" in row:
                lines.append(f"| {row['method']} | skipped: {row['skipped']} | | | | |")
                continue
            error = row.get("standard_error", math.nan)
            stated = "" if math.isnan(error) else f"{error:.2g}"
            figures = f"{row['rms']:.2g} | {row['rms_exact_prior']:.2g} | {stated}"
            lines.append(
                f"| {row['method']} | {figures} | {row['calls']} | {row['seconds']:.2g} |"
            )
        same = all(row["bitwise"] for row in rows if "bitwise" in row)
        lines += [
            "",
            f"Ours, batch mates replaced: {'bitwise equal' if same else 'DIFFERENT'}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the points")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = {case.name: run(case, args.seed) for case in cases(args.quick, args.seed)}
    name = "likelihood-quick" if args.quick else "likelihood"
    about = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    about |= {"threads": torch.get_num_threads(), "seed": args.seed}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**about, "results": results}, indent=1))
    command = "python benchmarks/likelihood.py" + (" --quick" if args.quick else "")
    head = (
        f"# Log-likelihoods against exact ones\n\n`{command}`: error over the points in nats.\n\n"
    )
    (RESULTS / f"{name}.md").write_text(head + table(results))
    print(table(results))


if __name__ == "__main__":
    main()
