"""What the sampling changes for the class-conditional network of Fashion-MNIST.

    python benchmarks/fashion.py --net unet --objective quality
    python benchmarks/fashion_sampling.py --count 600 --bf16

The network is that of the first command. Every row samples it in another way, by the nodes and
the solver that `auto` takes for 10 steps, with the same starts and as many samples of each class.
Samples are kept in the folder of the run, so that a larger --count continues them; --rows takes
some of the rows.

Nothing here looks at the test images: samples are compared with 10,000 training images, in the
features of the judge of `fashion.py`, and so are other training images, as many of each class,
whose values are those that a perfect model would have.

- Frechet distance, and the variance of the features within the classes and between their means,
  over the same of the training images;
- the energy of the finest detail, the mean square of the discrete Laplacian, which left-over noise
  would raise, and the share of pixels that are black, the lowest of the 256 levels;
- the share of samples that the judge takes for the class that was asked for;
- with --lessons, the share of 3,000 other training images that a small classifier, trained on
  the samples alone, takes for their class, with the labels that were asked for
  and with those that the judge gives to the samples: the second is
  higher where labels are wrong, and as low where variety lacks.

Writes benchmarks/results/fashion-sampling.json and .md; `page.py` makes the page of them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model
from torch import Tensor

from scoresde import ClassifierFree, ReverseSampler, ScoreModel, load
from scoresde.data import Data, load_data
from scoresde.metrics import Judge, frechet_distance
from scoresde.quantisation import Quantisation

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.fashion import FASHION_JUDGE, RESULTS

RUN = Path("runs/fashion-unet-quality")
INTERVAL = (-1.5, 1.5)
STEPS, BATCH, CLASSES = 10, 100, 10
REFERENCE, QUESTIONS = 10_000, 3_000
"""Training images that samples are compared with, and those that the classifiers are asked."""


def last_weights(model: ScoreModel, run: Path) -> ScoreModel:
    """The model with the weights of the last step in place of their average."""
    tensors = load_file(run / "checkpoint/training.safetensors")
    raw = {name[4:]: value for name, value in tensors.items() if name.startswith("raw.")}
    model.load_state_dict(raw)
    return model


TITLES = {
    "real": "other training images",
    "plain": "no guidance",
    "guided-1.2": "guidance 1.2",
    "guided-1.5": "guidance 1.5",
    "last": "weights of the last step",
    "sde": "reverse SDE, 20 steps",
}
"""Row -> what the table calls it."""


def samplers(run: Path) -> dict[str, Callable[[], ReverseSampler]]:
    """Row -> its sampler."""
    model = load(run / "checkpoint")
    plan = ReverseSampler(model.sde, model, "auto", steps=STEPS)

    def flow(other: ScoreModel) -> ReverseSampler:
        return ReverseSampler(model.sde, other, plan.solver, grid=plan.grid)

    def guided(scale: float) -> Callable[[], ReverseSampler]:
        return lambda: flow(ClassifierFree(model, scale, interval=INTERVAL))

    return {
        "plain": lambda: flow(model),
        "guided-1.2": guided(1.2),
        "guided-1.5": guided(1.5),
        "last": lambda: flow(last_weights(load(run / "checkpoint"), run)),
        "sde": lambda: ReverseSampler(model.sde, model, "auto_sde", steps=20),
    }


def drawn(
    name: str, sampler: Callable[[], ReverseSampler], count: int, args: argparse.Namespace
) -> tuple[Tensor, int]:
    """The first `count` samples of a row and its calls; those that are missing are made."""
    file = args.run / "sampling" / f"{name}.pt"
    kept: dict[str, Any] = torch.load(file) if file.exists() else {"x": [], "nfe": 0}
    while len(kept["x"]) < count:
        first = len(kept["x"])
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            found = sampler().solve(
                (BATCH, 1, 28, 28),
                seed=2,
                first=first,
                cond={"label": torch.arange(first, first + BATCH) % CLASSES},
            )
        x = torch.cat([kept["x"], found.x]) if first else found.x
        kept = {"x": x, "nfe": found.nfe}
        file.parent.mkdir(exist_ok=True)
        torch.save(kept, file)
        print(f"{name}: {len(x)} samples", flush=True)
    return torch.as_tensor(kept["x"][:count]).clamp(-1, 1), kept["nfe"]


def detail(x: Tensor) -> float:
    """The mean square of the Laplacian on the pixels; white noise of variance v has 20 v."""
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return float((4 * x[..., 1:-1, 1:-1] - around).square().mean())


def variances(features: Tensor, label: Tensor) -> tuple[float, float]:
    """The variance within the classes, and that of their means, summed over the features."""
    parts = [features[label == k] for k in range(CLASSES)]
    within = statistics.fmean(float(part.var(0).sum()) for part in parts)
    means = torch.stack([part.mean(0) for part in parts])
    # the mean of n samples varies by within / n, which is no distance between classes
    noise = within / statistics.fmean(map(len, parts))
    return within, float(means.var(0).sum()) - noise


def balanced(data: Data, count: int) -> Data:
    """The first images of each class, `count` in all."""
    label = data.cond["label"]
    found = [(label == k).nonzero()[: count // CLASSES, 0] for k in range(CLASSES)]
    if any(len(rows) < count // CLASSES for rows in found):
        raise ValueError(f"count: expected fewer images of each class, got {count}")
    return data[torch.cat(found)]


def lesson(x: Tensor, label: Tensor, questions: Data, seeds: int) -> list[float]:
    """Mean accuracy of small classifiers trained on these images, and its standard error."""
    found = [
        Judge.fit_convolutional(
            x,
            label,
            classes=CLASSES,
            epochs=12,
            batch_size=64,
            lr=4e-3,
            width=8,
            features=64,
            seed=seed,
        ).accuracy(questions.x, questions.cond["label"])
        for seed in range(seeds)
    ]
    return [statistics.fmean(found), statistics.stdev(found) / math.sqrt(seeds)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    data = load_data("fashion_mnist" if args.data is None else args.data, split="train")
    data = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(5))]
    reference, questions, others = (
        data[:REFERENCE],
        data[REFERENCE : REFERENCE + QUESTIONS],
        data[REFERENCE + QUESTIONS :],
    )
    eye = Judge.convolutional(1, CLASSES)
    load_model(eye, args.run.parent / FASHION_JUDGE.name)
    eye.eval()
    target, label = eye.features(reference.x), reference.cond["label"]
    within, between = variances(target, label)
    asked = torch.arange(args.count) % CLASSES

    def of(x: Tensor, label: Tensor) -> dict[str, float]:
        features = eye.features(x)
        own = variances(features, label)
        return {
            "frechet": frechet_distance(features, target),
            "within": own[0] / within,
            "between": own[1] / between,
            "detail": detail(x),
            "black": float((Quantisation(256).decode(x) == 0).double().mean()),
            "as_asked": eye.accuracy(x, label),
        }

    def lessons(x: Tensor, label: Tensor) -> dict[str, list[float]]:
        if not args.lessons:
            return {}
        return {
            "learned": lesson(x, label, questions, args.seeds),
            "learned_relabelled": lesson(x, eye.classify(x), questions, args.seeds),
        }

    sets = []
    for k in range(5):
        part = balanced(others[6000 * k : 6000 * (k + 1)], args.count)
        sets.append((part.x, part.cond["label"]))
    real = [of(*one) for one in sets]
    found: dict[str, Any] = {
        "real": {key: statistics.fmean(one[key] for one in real) for key in real[0]}
        | {"frechet_std": statistics.stdev(one["frechet"] for one in real)}
        | lessons(*sets[0])
    }
    for name, sampler in samplers(args.run).items():
        if name not in args.rows:
            continue
        x, calls = drawn(name, sampler, args.count, args)
        found[name] = {"calls": calls} | of(x, asked) | lessons(x, asked)
        print(name, found[name], flush=True)
    return found


LESSONS = (
    " The last two columns are the accuracy of a small classifier trained on the samples alone, "
    "with the labels that were asked for and with those that the judge gives to the samples, "
    "± the standard error over its seeds."
)


def section(found: dict[str, Any], count: int, bf16: bool) -> str:
    """The text of the page: a table, and what is in it."""
    rows = found["rows"]
    taught = "learned" in rows["real"]
    lines = [
        "# How the sampling changes the samples of Fashion-MNIST",
        "",
        f"`{found['command']}`: the network of the first column above, sampled in several ways, "
        f"{count} samples each with the same starts, by the solver and the nodes of `auto` in "
        f"{STEPS} steps{', the network in bfloat16' if bf16 else ''}. Guidance is on the "
        f"log-SNRs from {INTERVAL[0]:g} to {INTERVAL[1]:g}. Everything is compared with "
        f"{REFERENCE:,} training images, so that no choice has seen the test images; so few "
        "samples raise the distance, and it compares only within this table. Variances are those "
        "of the judge's features over the same of the training images."
        + (LESSONS if taught else ""),
        "",
        "| | calls | Frechet distance | variance within classes | between classes "
        "| finest detail | black pixels | of the requested class |"
        + (" trained on them | labelled by the judge |" if taught else ""),
        "| --- |" + " ---: |" * (9 if taught else 7),
    ]
    for name, row in rows.items():
        error = f" ± {row['frechet_std']:.2g}" if "frechet_std" in row else ""
        lines.append(
            f"| {TITLES[name]} | {row.get('calls', '')} | {row['frechet']:.4f}{error} "
            f"| {row['within']:.2f} | {row['between']:.2f} | {row['detail']:.3f} "
            f"| {row['black']:.1%} | {row['as_asked']:.1%} |"
            + "".join(
                f" {100 * row[key][0]:.1f} ± {100 * row[key][1]:.1f}% |"
                for key in ("learned", "learned_relabelled")
                if taught
            )
        )
    return "\n".join(lines) + "\n" + reading(rows)


def reading(rows: dict[str, Any]) -> str:
    """What the table says, in its own numbers."""
    real, plain = rows["real"], rows["plain"]
    text = f"""
The variance between the means of the classes is {plain["between"]:.2f} without guidance, where
real images have {real["between"]:.2f}; that within the classes is {plain["within"]:.2f}, beside
{real["within"]:.2f}. {plain["as_asked"]:.1%} of the samples are of the requested class by the
judge, which finds {real["as_asked"]:.1%} of real images to be of theirs."""
    for name, row in rows.items():
        if not name.startswith("guided"):
            continue
        share = (row["frechet"] - real["frechet"]) / (plain["frechet"] - real["frechet"])
        text += f"""
At a scale of {name.removeprefix("guided-")} the variances are {row["between"]:.2f} between and
{row["within"]:.2f} within the classes, and the part of the distance that exceeds that of real
images is {share:.2f} of what it is without guidance."""
    return f"""{text}

Noise that was left at the end would raise the finest detail: it is {plain["detail"]:.3f} in the
samples and {real["detail"]:.3f} in real images. Of the samples' pixels {plain["black"]:.0%} are
black, of real ones {real["black"]:.0%}.

These rows say which way guidance moves the samples. How far guided samples are from the test
images is for `python benchmarks/fashion.py --net unet --objective quality --guided`,
whose rows stand in the table above where it has been run.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=RUN, help="folder of the trained run")
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--count", type=int, default=2000, help="samples of a row, in hundreds")
    parser.add_argument("--lessons", action="store_true", help="train classifiers on samples too")
    parser.add_argument("--seeds", type=int, default=3, help="of the classifiers, at least 2")
    parser.add_argument("--bf16", action="store_true", help="call the network in bfloat16")
    rows = [name for name in TITLES if name != "real"]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    args = parser.parse_args()
    if args.count < BATCH or args.count % BATCH:
        parser.error(f"--count: expected a multiple of {BATCH}, got {args.count}")
    for needed in (args.run / "checkpoint", args.run.parent / FASHION_JUDGE.name):
        if not needed.exists():
            train = "train and judge first: python benchmarks/fashion.py --net unet"
            parser.error(f"--run: expected {needed}, which is not there; {train}")
    found = {
        "command": f"python benchmarks/fashion_sampling.py --count {args.count}"
        + (" --bf16" if args.bf16 else "")
        + (" --lessons" if args.lessons else "")
        + ("" if args.rows == rows else f" --rows {' '.join(args.rows)}"),
        "torch": torch.__version__,
        "count": args.count,
        "seeds": args.seeds,
        "rows": measure(args),
    }
    text = json.dumps(found, indent=1) + "\n"
    (RESULTS / "fashion-sampling.json").write_text(text, encoding="utf-8")
    table = section(found, args.count, args.bf16)
    (RESULTS / "fashion-sampling.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
