"""Which of two instruments made the data? The evidence of each, beside its exact value.

    python examples/evidence.py

The prior is known, one Gaussian for each class of the handwritten digits, so that log p(y) has a
closed form to compare with. One instrument averages blocks of 2 x 2 pixels; the other one blurs
the image first. Each of a few images is measured by one of them. The twisted sampler says, with
standard errors, how probable the measurement is under both: the larger evidence names the
instrument, and the difference says how sure one can be. Writes runs/evidence/evidence.png and
table.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture, Measurement, TwistedSampler, plot
from scoresde.data import digits
from scoresde.measurement import Blur, LinearOperator, SuperResolution, gaussian_kernel
from scoresde.posterior import ExactPosterior

SHAPE = (1, 8, 8)
NOISE = 0.2
INSTRUMENTS: dict[str, LinearOperator] = {
    "sharp": SuperResolution(2),
    "blurred": SuperResolution(2) @ Blur(gaussian_kernel(0.8)),
}


def prior() -> GaussianMixture:
    """A Gaussian for each class, with its mean and covariance."""
    data = digits("train")
    flat = data.x.double().flatten(1)
    parts = [flat[data.cond["label"] == k] for k in range(10)]
    floor = 0.01 * torch.eye(64, dtype=torch.float64)
    means = torch.stack([part.mean(0) for part in parts])
    return GaussianMixture(means, torch.stack([part.T.cov() + floor for part in parts]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    args = parser.parse_args()
    sde, data = VPSDE(), prior()
    x = data.sample(args.images, seed=0).reshape(-1, *SHAPE)
    names = list(INSTRUMENTS)
    made = [names[k % 2] for k in range(len(x))]  # they take turns

    # y: (P, 1, 4, 4), each by its own instrument.
    drawn = {k: Measurement(op, noise=NOISE).simulate(x, seed=1) for k, op in INSTRUMENTS.items()}
    y = torch.stack([drawn[name][row] for row, name in enumerate(made)])

    found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, operator in INSTRUMENTS.items():
        measurement = Measurement(operator, noise=NOISE)
        sampler = TwistedSampler(
            data.under(sde), measurement, particles=args.particles, steps=args.steps
        )
        run = sampler.sample((len(x), *SHAPE), seed=0, cond={"y": y}, dtype=torch.float64)
        exact = ExactPosterior(data, sde, measurement, SHAPE).log_evidence(y)
        found[name] = run.log_evidence, run.log_evidence_error, exact

    # The log of the Bayes factor: above 0 for "sharp", below for "blurred".
    (a, da, exact_a), (b, db, exact_b) = found["sharp"], found["blurred"]
    factor, error, exact = a - b, (da.square() + db.square()).sqrt(), exact_a - exact_b
    table = [
        "| image | made by | log Bayes factor | exact | named |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    right = 0
    for row, name in enumerate(made):
        sure = abs(float(factor[row])) > 2.0 * float(error[row])
        named = ("sharp" if factor[row] > 0 else "blurred") if sure else "undecided"
        right += named == name
        value = f"{float(factor[row]):.2f} +- {float(error[row]):.2f}"
        table.append(f"| {row} | {name} | {value} | {float(exact[row]):.2f} | {named} |")
    gap = float((factor - exact).abs().mean())
    table.append("")
    table.append(f"{right} of {len(made)} instruments named rightly; mean error {gap:.2f} nats.")
    print("\n".join(table))

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    fine = y.repeat_interleave(2, -2).repeat_interleave(2, -1)
    figure = plot.image_grid(
        torch.cat([x, fine]),
        columns=len(x),
        labels=[f"{name}\n{float(f):+.1f}" for name, f in zip(made, factor, strict=True)],
        title="image, measurement, instrument, log Bayes factor (+: sharp)",
    )
    plot.save(figure, args.out / "evidence.png")


if __name__ == "__main__":
    main()
