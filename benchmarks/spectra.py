"""Signals and fields of known spectrum, learned with the defaults: spectrum and likelihood.

    python benchmarks/spectra.py [--quick] [--only signal field] [--objective quality likelihood]

Signal: 64 values of a stationary AR(2) process of unit variance with a peak in its spectrum, as
one channel, (1, 64). Field: a Gaussian random field of unit variance on a periodic 16 x 16 x 16
grid with power (1 + (k / 3)^2)^-1.5 at the wave number k, (1, 16, 16, 16). Both are Gaussian, so
the expected periodogram, the density and the entropy are closed forms: from the Toeplitz
covariance of the signal, and mode by mode for the field.

The networks are those of `network_for` (a U-Net of one and of three dimensions), trained by
`Trainer(model, data, steps=n)` with nothing else said but the objective. That of the field is told
that its axes are periodic; "open field" is the same law and a network that is not told.

- Spectrum: the mean periodogram of samples by `auto` in 20 steps over the exact expectation, in
  bands of the frequency (of |k| for the field). The aim is within 5 % in every band. Beside it the
  same of as many exact samples, which is the error that their number alone makes.
- Likelihood: `log_prob` of the flow at t_end of the SDE, whose noise, relative to the data, has a
  standard deviation s of about 0.01. So all densities are those of data with such noise added:
  held-out x + s z under the model, and under the exact N(0, C + s^2 I). The gap is the mean of log
  p - log q over the held-out samples, per dimension; in it the error of few samples mostly
  cancels. The divergence is exact for the signal, and by four probes for the field. The aim is a
  gap of at most 1 % of the exact entropy per dimension.

A run that is done is kept in results/spectra.json, unless its sizes or its recipe were others, so
one that was interrupted goes on. Writes results/spectra.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
import time
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, Preconditioned, ReverseSampler, ScoreModel, Trainer, log_prob
from scoresde.nets import network_for
from scoresde.options import Divergence, Loss, Tolerances
from scoresde.plot import save
from scoresde.plot.style import PALETTE, SOFT, blank
from scoresde.training.recipe import recipe_for

RESULTS = Path(__file__).parent / "results"
OBJECTIVES = ("quality", "likelihood")
STEPS = 20


class Spectral:
    """A Gaussian whose covariance is given by its modes.

    Attributes:
        shape: of a sample, (1, *size).
        band: the number of the band of every mode of the discrete Fourier transform, (*size).
        expected: the expected periodogram |X_k|^2 / N of every mode, (*size).
    """

    name: str
    shape: tuple[int, ...]
    band: Tensor
    expected: Tensor

    @property
    def dim(self) -> int:
        return math.prod(self.shape)

    def draw(self, n: int, seed: int) -> Tensor:
        raise NotImplementedError

    def log_prob(self, x: Tensor, noise: float) -> Tensor:
        """The log-density of x (n, *shape) with noise of this standard deviation added, (n,)."""
        raise NotImplementedError

    def entropy(self, noise: float) -> float:
        """The entropy in nats of the data with this noise added."""
        raise NotImplementedError

    def periodogram(self, x: Tensor) -> Tensor:
        """The mean of |X_k|^2 / N over samples, (*size)."""
        size = self.shape[1:]
        modes = torch.fft.fftn(x.double().reshape(-1, *size), dim=tuple(range(1, len(size) + 1)))
        return modes.abs().square().mean(0) / self.dim

    def bands(self, x: Tensor) -> list[float]:
        """The power of samples over the expected one, band by band."""
        found = self.periodogram(x).flatten()
        ratio = []
        for i in range(int(self.band.max()) + 1):
            inside = self.band.flatten() == i
            ratio.append(float(found[inside].sum() / self.expected.flatten()[inside].sum()))
        return ratio


class Signal(Spectral):
    """x_t = a x_{t-1} + b x_{t-2} + e_t, stationary, scaled to unit variance."""

    name = "signal"

    def __init__(self, length: int = 64, radius: float = 0.8, angle: float = 0.8) -> None:
        self.shape = (1, length)
        a, b = 2 * radius * math.cos(angle), -(radius**2)
        correlation = [1.0, a / (1 - b)]  # Yule and Walker
        for _ in range(length - 2):
            correlation.append(a * correlation[-1] + b * correlation[-2])
        lags = torch.arange(length)
        self.covariance = torch.tensor(correlation, dtype=torch.float64)[
            (lags[:, None] - lags).abs()
        ]
        transform = torch.fft.fft(torch.eye(length, dtype=torch.complex128))
        rotated = transform @ self.covariance.to(transform) @ transform.conj().T
        self.expected = rotated.diagonal().real / length
        frequency = torch.fft.fftfreq(length).abs()
        self.band = (16 * frequency).long().clamp_max(7)  # eight bands up to 1/2

    def draw(self, n: int, seed: int) -> Tensor:
        z = normal((n, self.dim), seed)
        return (z @ torch.linalg.cholesky(self.covariance).T)[:, None]

    def _noisy(self, noise: float) -> torch.distributions.MultivariateNormal:
        covariance = self.covariance + noise**2 * torch.eye(self.dim, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(covariance.new_zeros(self.dim), covariance)

    def log_prob(self, x: Tensor, noise: float) -> Tensor:
        return self._noisy(noise).log_prob(x.flatten(1))

    def entropy(self, noise: float) -> float:
        return float(self._noisy(noise).entropy())


class Field(Spectral):
    """A periodic Gaussian random field; its modes are independent with variances N P(k)."""

    name = "field"

    def __init__(self, side: int = 16) -> None:
        self.shape = (1, side, side, side)
        axis = torch.fft.fftfreq(side, dtype=torch.float64) * side
        k = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()
        power = (1 + (k / 3) ** 2) ** -1.5
        self.expected = power / power.mean()
        self.band = (k / 1.75).long().clamp_max(6)

    @cached_property
    def size(self) -> tuple[int, ...]:
        return self.shape[1:]

    def draw(self, n: int, seed: int) -> Tensor:
        axes = (2, 3, 4)
        modes = torch.fft.fftn(normal((n, *self.shape), seed), dim=axes)
        return torch.fft.ifftn(modes * self.expected.sqrt(), dim=axes).real

    def log_prob(self, x: Tensor, noise: float) -> Tensor:
        power = self.expected + noise**2
        modes = torch.fft.fftn(x.flatten(0, 1), dim=(1, 2, 3)).abs().square() / self.dim
        normed = (modes / power).flatten(1).sum(1)
        return -0.5 * (normed + (2 * math.pi * power).log().sum())

    def entropy(self, noise: float) -> float:
        return 0.5 * float((2 * math.pi * math.e * (self.expected + noise**2)).log().sum())


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


PROBLEMS: dict[str, type[Spectral]] = {"signal": Signal, "field": Field, "open field": Field}
PLANS: dict[str, dict[str, Any]] = {
    "signal": {
        "preset": "tiny",
        "periodic": [],
        "steps": 3000,
        "rows": 50_000,
        "samples": 4000,
        "held": 64,
    },
    "field": {
        "preset": "tiny",
        "periodic": [0, 1, 2],
        "steps": 1000,
        "rows": 4000,
        "samples": 500,
        "held": 16,
    },
}
PLANS["open field"] = PLANS["field"] | {"periodic": []}


def likelihood(model: ScoreModel, law: Spectral, held: int) -> dict[str, float]:
    """The gap between the exact density and the model's, in nats per dimension."""
    sde = model.sde
    end = sde.t_end
    noise = math.exp(-float(sde.log_snr(end)))
    x = law.draw(held, 2) + noise * normal((held, *law.shape), 3)
    found = log_prob(
        model,
        x,
        divergence="exact" if law.dim <= 100 else Divergence(probes=4),
        t_end=end,
        truncation="scaled",
        tolerances=Tolerances(1e-3, 1e-3),
        batch_size=32,
    )
    gap = (law.log_prob(x, noise) - found.nats.to(x)) / law.dim
    entropy = law.entropy(noise) / law.dim
    return {
        "entropy": entropy,
        "gap": float(gap.mean()),
        "gap_error": float(gap.std()) / math.sqrt(held),
        "relative": float(gap.mean()) / abs(entropy),
        "noise": noise,
        "calls": float(found.nfe.double().mean()),
    }


def one(name: str, objective: str, seed: int, plan: dict[str, Any]) -> dict[str, Any]:
    law = PROBLEMS[name]()
    torch.manual_seed(seed)
    net = network_for(law.shape, preset=plan["preset"], options={"periodic": plan["periodic"]})
    began = time.process_time()
    model = Trainer(
        Preconditioned(net, VPSDE()),
        law.draw(plan["rows"], 1).float(),
        steps=plan["steps"],
        loss=Loss(objective=objective),
        seed=seed,
    ).fit()
    seconds = time.process_time() - began
    count = plan["samples"]
    solution = ReverseSampler(model.sde, model, steps=STEPS).solve(
        (count, *law.shape), seed=seed, batch_size=250
    )
    exact = law.draw(count, 4)
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": seconds,
        "calls": solution.nfe,
        "solver": str(solution.plan.solver),
        "bands": law.bands(solution.x),
        "bands_of_exact_samples": law.bands(exact),
        "spectrum": law.periodogram(solution.x).flatten().tolist() if name == "signal" else [],
        "likelihood": likelihood(model, law, plan["held"]),
    } | plan


def report(found: dict[str, Any], picture: str) -> str:
    lines = [
        "# Signals and fields of known spectrum",
        "",
        f"`{found['command']}`: power over its exact expectation, the worst of the bands (aim: "
        "within 5 %), and the gap of the likelihood in nats per dimension (aim: at most 1 % of "
        "the exact entropy). The open field is the field for a network that is not told that its "
        "axes are periodic.",
        "",
        "| data | objective | seed | parameters | steps | batch | worst band "
        "| worst of exact samples | entropy, nats/dim | gap, nats/dim | gap / entropy |",
        "| --- | --- |" + " ---: |" * 9,
    ]
    worst = lambda bands: max((b - 1 for b in bands), key=abs)  # noqa: E731
    for name, seeds in found["cells"].items():
        for seed, row in seeds.items():
            m, batch = row["likelihood"], re.search(r"batch_size=(\d+)", row["recipe"])
            assert batch is not None
            lines.append(
                f"| {name.replace(', ', ' | ')} | {seed} | {row['parameters']:,} "
                f"| {row['steps']} | {batch.group(1)} | {worst(row['bands']):+.1%} "
                f"| {worst(row['bands_of_exact_samples']):+.1%} | {m['entropy']:.4f} "
                f"| {m['gap']:.4f} ± {m['gap_error']:.4f} | {m['relative']:.2%} |"
            )
    lines += ["", f"![Power by band, and the spectrum of the signal]({picture})"]
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], file: Path) -> None:
    """The spectrum of the signal by frequency, and all ratios by band."""
    with blank(9.6, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        law = Signal()
        half = law.dim // 2
        frequency = torch.arange(half + 1) / law.dim
        data = law.periodogram(law.draw(4000, 4))
        left.plot(frequency, law.expected[: half + 1], color=SOFT, linewidth=3.0, label="exact")
        left.plot(frequency, data[: half + 1], "o", color=PALETTE[2], markersize=3, label="data")
        for i, (name, seeds) in enumerate(found["cells"].items()):
            row = next(iter(seeds.values()))
            if row["spectrum"]:
                spectrum = row["spectrum"][: half + 1]
                left.plot(frequency, spectrum, color=PALETTE[i % 8], linewidth=1.0, label=name)
            share = torch.arange(len(row["bands"])) + 0.5
            label = f"samples of the {name}"
            right.plot(share / len(row["bands"]), row["bands"], "o-", color=PALETTE[i % 8],
                       markersize=3.5, linewidth=1.0, label=label)  # fmt: skip
        left.set(yscale="log", xlabel="frequency", ylabel="power")
        right.axhspan(0.95, 1.05, color=SOFT, alpha=0.2, linewidth=0)
        right.set(xlabel="band, from the lowest to the highest", ylabel="power over the exact one")
        left.legend(fontsize=8)
        right.legend(fontsize=8)
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--only", nargs="+", choices=sorted(PROBLEMS), default=sorted(PROBLEMS))
    parser.add_argument("--objective", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of a training, for all data")
    args = parser.parse_args()
    stem = RESULTS / ("spectra-quick" if args.quick else "spectra")
    file = stem.with_suffix(".json")
    cells: dict[str, Any] = {}
    if file.exists() and not args.quick:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    command = shlex.join(["python", "benchmarks/spectra.py", *sys.argv[1:]])
    found = {"command": command, "cells": cells}
    RESULTS.mkdir(exist_ok=True)
    for name, objective, seed in product(args.only, args.objective, range(args.seeds)):
        plan = PLANS[name] | ({"steps": args.steps} if args.steps else {})
        if args.quick:
            small = {"preset": "tiny", "steps": 20, "rows": 200, "samples": 20, "held": 2}
            plan |= small | ({} if name == "signal" else {"steps": 2})
        plan |= {"recipe": str(recipe_for(PROBLEMS[name]().shape, objective))}
        done = cells.setdefault(f"{name}, {objective}", {})
        if not plan.items() <= done.get(str(seed), {}).items():
            done[str(seed)] = one(name, objective, seed, plan)
            print(name, objective, seed, done[str(seed)]["likelihood"], flush=True)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    picture = stem.with_suffix(".png")
    draw(found, picture)
    text = report(found, picture.name)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
