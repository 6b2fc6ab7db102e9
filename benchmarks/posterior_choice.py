"""How far each posterior method is from the exact posterior, on priors like real data.

    python benchmarks/posterior_choice.py            # measures what is not there, writes the page
    python benchmarks/posterior_choice.py --check    # exit code 1 if page or table are old

`scoresde.posterior.posterior(method="auto")` chooses by these figures, and quotes them. The priors
are known, so the exact posterior is too: the mixtures of 25 far Gaussians of `posteriors.py` in 80
dimensions, and mixtures of one Gaussian for each class, with its mean and full covariance, fitted
to the handwritten digits of scikit-learn (8 x 8) and to Fashion-MNIST (28 x 28). Each method has
the exact score and the schedule VPSDE, or VPSDE(0.1, 40) for the far mixtures. What is measured is
the sliced Wasserstein-1 distance of 1,000 samples from 1,000 exact ones, over that of two exact
sets (the floor): 1 is exact, and a method with a bias has more, whatever its number of steps.
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

from scoresde import VPSDE, GaussianMixture, ReverseSampler, ScoreModel, TwistedSampler
from scoresde._io import write
from scoresde.data import load_data
from scoresde.measurement import Blur, LinearOperator, Mask, Measurement, SuperResolution
from scoresde.posterior import DAPS, DDRM, DPS, MMPS, TMPD, ExactPosterior, PiGDM
from scoresde.posterior.choice import BIAS
from scoresde.sde import AffineSDE

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.posteriors_problems import make_problem, sliced_w1

HERE = Path(__file__).parent
FILE, PAGE = HERE / "results" / "posterior_choice.json", HERE / "results" / "posterior_choice.md"
COUNT, STEPS, DECOUPLED = 1000, 50, 300
SEEDS = 3
"""The problems of a kind; one of Fashion-MNIST, whose exact score is slow."""
F64 = torch.float64


def mixture(name: str) -> tuple[GaussianMixture, tuple[int, ...]]:
    """A Gaussian for each class of a set of images, and the shape of an image."""
    data = load_data(name)
    x, labels = data.x.double(), data.cond["label"]
    flat = x.flatten(1)
    classes = labels.unique()
    parts = [flat[labels == k] for k in classes]
    means = torch.stack([part.mean(0) for part in parts])
    eye = 0.01 * torch.eye(flat.shape[1], dtype=F64)
    covariances = torch.stack([torch.cov(part.T) + eye for part in parts])
    weights = torch.ones(len(classes), dtype=F64) / len(classes)
    return GaussianMixture(means, covariances, weights), tuple(x.shape[1:])


def half(shape: tuple[int, ...]) -> LinearOperator:
    """The upper half of an image."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[..., : shape[-2] // 2, :] = True
    return Mask(mask)


def four(shape: tuple[int, ...]) -> LinearOperator:
    """Four pixels of an image."""
    mask = torch.zeros(shape, dtype=torch.bool)
    step = shape[-1] // 4
    for row in (step, 3 * step - 1):
        for column in (step, 3 * step - 1):
            mask[..., row, column] = True
    return Mask(mask)


def blur(shape: tuple[int, ...]) -> LinearOperator:
    """A Gaussian blur of a standard deviation of 1 pixel."""
    line = torch.exp(-0.5 * torch.arange(-2.0, 3.0, dtype=F64).square())
    kernel = line[:, None] * line
    return Blur(kernel / kernel.sum())


IMAGES: dict[str, tuple[str, Callable[[tuple[int, ...]], LinearOperator], float]] = {
    "digits, four pixels": ("digits", four, 0.1),
    "digits, upper half": ("digits", half, 0.1),
    "digits, upper half, noise 0.3": ("digits", half, 0.3),
    "digits, 2x super-resolution": ("digits", lambda shape: SuperResolution(2), 0.1),
    "digits, blur": ("digits", blur, 0.1),
    "fashion, 4x super-resolution": ("fashion_mnist", lambda shape: SuperResolution(4), 0.1),
}
MIXTURES = {f"25 far modes, {m} numbers": (80, m) for m in (1, 2, 4)}


def make(name: str, seed: int) -> tuple[AffineSDE, ScoreModel, Measurement, ExactPosterior]:
    """The SDE, the prior's score model, the measurement and the exact posterior of a problem."""
    if name in MIXTURES:
        problem = make_problem(*MIXTURES[name], seed)
        return problem.sde, problem.model, problem.measurement, problem.exact
    data, operator, std = IMAGES[name]
    prior, shape = mixture(data)
    sde = VPSDE()
    truth = prior.sample(1, seed=seed).reshape(1, *shape)
    drawn = Measurement(operator(shape), noise=std)
    measurement = Measurement(drawn.operator, drawn.simulate(truth, seed=seed)[0], std)
    exact = ExactPosterior(prior, sde, measurement, shape)
    return sde, prior.under(sde), measurement, exact


Row = Callable[[AffineSDE, ScoreModel, Measurement, int], tuple[Tensor, dict[str, float]]]


def guided(method: Callable[[ScoreModel, Measurement], ScoreModel]) -> Row:
    """A row: samples of a posterior score model by the reverse SDE, of second order."""

    def run(
        sde: AffineSDE, prior: ScoreModel, measurement: Measurement, seed: int
    ) -> tuple[Tensor, dict[str, float]]:
        model = method(prior, measurement)
        sampler = ReverseSampler(sde, model, "sa_solver_p2_v", steps=STEPS)
        x = sampler.sample((COUNT, *_shape(prior, measurement)), seed=seed, dtype=F64)
        return x, {"calls": STEPS + 1, "products": getattr(model, "vjps", 0)}

    return run


def twisted(particles: int, steps: int = 100) -> Row:
    """A row: the twisted sampler with so many particles."""

    def run(
        sde: AffineSDE, prior: ScoreModel, measurement: Measurement, seed: int
    ) -> tuple[Tensor, dict[str, float]]:
        sampler = TwistedSampler(prior, measurement, particles=particles, steps=steps)
        found = sampler.sample((1, *_shape(prior, measurement)), seed=seed, dtype=F64)
        more = {"log_evidence": float(found.log_evidence), "ess": float(found.ess[0, -1])}
        more["stated"] = float(found.log_evidence_error)
        return found.resample(COUNT)[0], {**more, "calls": found.nfe, "products": found.products}

    return run


def decoupled(
    sde: AffineSDE, prior: ScoreModel, measurement: Measurement, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """A row: decoupled annealing, which has no products and therefore more steps."""
    sampler = DAPS(prior, measurement, steps=DECOUPLED)
    x = sampler.sample((COUNT, *_shape(prior, measurement)), seed=seed, dtype=F64)
    return x, {"calls": DECOUPLED + 1, "products": 0}


def _shape(prior: ScoreModel, measurement: Measurement) -> tuple[int, ...]:
    """The shape of a sample: that of an image, or a vector."""
    scale = prior.data_scale
    size = 1 if scale is None else scale[1]
    side = {64: (1, 8, 8), 784: (1, 28, 28)}
    return side.get(size, (size,))


ROWS: dict[str, Row] = {
    "exact score": guided(lambda prior, measurement: prior),
    "twisted, K = 256": twisted(256),
    "twisted, K = 1000": twisted(1000),
    "mmps": guided(MMPS),
    "pigdm": guided(PiGDM),
    "tmpd": guided(TMPD),
    "ddrm": guided(DDRM),
    "dps": guided(DPS),
    "daps": decoupled,
}


def measured(name: str, row: str, seed: int) -> dict[str, float]:
    """The figures of one problem and one method."""
    sde, prior, measurement, exact = make(name, seed)
    shape = _shape(prior, measurement)
    method = guided(lambda *_: exact) if row == "exact score" else ROWS[row]
    began = time.process_time()
    with warnings.catch_warnings():  # collapsed weights and unfinished solves are figures here
        warnings.simplefilter("ignore", UserWarning)
        x, more = method(sde, prior, measurement, seed)
    seconds = time.process_time() - began
    sets = [exact.sample(COUNT, seed=1 + 2 * seed + k).reshape(COUNT, -1) for k in range(2)]
    floor = sliced_w1(sets[0], sets[1])
    distance = sliced_w1(x.reshape(COUNT, math.prod(shape)), sets[0])
    if "log_evidence" in more:
        more["log_evidence"] -= float(exact.log_evidence())
    return {"ratio": distance / floor, "floor": floor, "seconds": seconds, **more}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [*MIXTURES, *IMAGES]
    parser.add_argument("--problems", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--check", action="store_true", help="only compare page and table")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if args.check:
        old = PAGE.read_text() != page(found) or bias(found) != BIAS
        sys.exit("posterior_choice.md or scoresde.posterior.choice.BIAS is old" if old else 0)
    torch.set_num_threads(1)
    for name in args.problems:
        for seed in range(1 if name.startswith("fashion") else SEEDS):
            for row in args.rows:
                done = found.setdefault(name, {}).setdefault(row, {})
                if str(seed) in done:
                    continue
                done[str(seed)] = measured(name, row, seed)
                print(name, seed, row, json.dumps(done[str(seed)]), flush=True)
                write(FILE, (json.dumps(found, indent=1) + "\n").encode())
    write(PAGE, page(found).encode())


def mean(problems: dict[str, dict[str, float]], key: str) -> float:
    """The mean of a figure over the problems of a kind."""
    return math.fsum(p[key] for p in problems.values()) / len(problems)


def bias(found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Method -> the least and the largest ratio over the kinds of problems, two digits each."""
    out = {}
    for row in ROWS:
        ratios = [mean(rows[row], "ratio") for rows in found.values() if row in rows]
        out[row] = tuple(float(f"{value:.2g}") for value in (min(ratios), max(ratios)))
    return out


def page(found: dict[str, Any]) -> str:
    """The page: a line for each kind of problems, a column for each method."""
    text = "# Posterior methods on priors like data\n\n`python benchmarks/posterior_choice.py`; "
    text += "its docstring says what is measured.\n\nSliced Wasserstein distance over the floor "
    text += "of exact samples: 1 is exact.\n\n"
    text += "| problem | " + " | ".join(ROWS) + " |\n| --- |" + " ---: |" * len(ROWS) + "\n"
    for name, rows in found.items():
        cells = [f"{mean(rows[row], 'ratio'):.3g}" if row in rows else "" for row in ROWS]
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    text += "\nNetwork calls and vector-Jacobian products of a sample or particle, and the error "
    text += "of log p(y) in nats, as mean absolute error over the mean stated one:\n\n"
    text += "| problem | " + " | ".join(ROWS) + " |\n| --- |" + " ---: |" * len(ROWS) + "\n"
    for name, rows in found.items():
        cells = []
        for row in ROWS:
            if row not in rows:
                cells.append("")
                continue
            cell = f"{mean(rows[row], 'calls'):.0f} + {mean(rows[row], 'products'):.0f}"
            first = next(iter(rows[row].values()))
            if "log_evidence" in first:
                gaps = [abs(p["log_evidence"]) for p in rows[row].values()]
                cell += f"; {math.fsum(gaps) / len(gaps):.2f} / {mean(rows[row], 'stated'):.2f}"
            cells.append(cell)
        text += f"| {name} | " + " | ".join(cells) + " |\n"
    return text


if __name__ == "__main__":
    main()
