"""Fashion-MNIST, class-conditional: a U-Net or a U-ViT, trained and judged by one command.

    python benchmarks/fashion.py --net unet
    python benchmarks/fashion.py --net uvit

The 60,000 training images (Debian's package dataset-fashion-mnist, or --data FOLDER) less a
holdout of 1 %, a VP-SDE, noise prediction, labels dropped in a tenth of the rows. A run that was
interrupted goes on with --resume; --judge takes a trained one and judges it again.

Judged on the 10,000 test images, with labels, by the averaged weights:

- the variational bound in bits/dim, of all of them, in continuous time with the decoder of
  8-bit bins; t_end is the best of three for the first 500 images of the *training* set;
- the likelihood of the probability flow of the first 32, dequantised, in bits/dim;
- 5,000 samples, 500 of each class, against the test images: Frechet and kernel distance,
  precision, recall, density and coverage in the features of `Judge`, trained on the
  training images, each beside the same number for two halves of the test set. They are not an FID;
- the classification accuracy score (Ravuri and Vinyals 2019): the accuracy on the test images of
  a classifier that was trained on the samples alone, beside one trained on as many real images.

Writes runs/fashion-<net>/ (checkpoint, curves, samples) and benchmarks/results/fashion-<net>.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from scoresde import (
    VPSDE,
    Preconditioned,
    ReverseSampler,
    ScoreModel,
    Trainer,
    discrete_log_prob,
    elbo,
    load,
    plot,
)
from scoresde.data import Data, load_data, split
from scoresde.losses import UniformTime
from scoresde.metrics import Judge, compare_sets
from scoresde.nets import UNet, UViT
from scoresde.options import Loss, Optim, Records, Tolerances

RESULTS = Path(__file__).parent / "results"
STEPS = {"unet": 4500, "uvit": 3000}
METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage")


def network(name: str) -> nn.Module:
    if name == "unet":
        return UNet(1, width=32, multipliers=(1, 2, 2), blocks=1, classes=10)
    return UViT(1, size=28, patch=4, width=192, depth=9, heads=6, classes=10)


def train(args: argparse.Namespace, out: Path, data: Data) -> None:
    """Train, and note in `training.json` what it took, with the parts that were interrupted."""
    torch.manual_seed(args.seed)
    model = Preconditioned(network(args.net), VPSDE(), predicts="eps", null={"label": -1})
    rest, holdout = split(data, 0.99)
    trainer = Trainer(
        model,
        rest,
        steps=args.steps or STEPS[args.net],
        optim=Optim(
            batch_size=64,
            lr=1e-3 if args.net == "unet" else 5e-4,
            weight_decay=0.01 if args.net == "uvit" else 0.0,
        ),
        loss=Loss(time=UniformTime(low_discrepancy=True), cond_dropout=0.1),
        seed=args.seed,
        out=out,
        validation=holdout,
        records=Records(validate_every=1000, checkpoint_every=500),
        progress=True,
    )
    notes = out / "training.json"
    spent = {"seconds": 0.0, "core_seconds": 0.0}
    if args.resume and notes.exists():
        spent = json.loads(notes.read_text(encoding="utf-8"))
    began, cpu = time.perf_counter(), time.process_time()
    try:
        trainer.fit(resume=args.resume)
    finally:
        made = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": trainer.steps,
            "batch_size": trainer.optim.batch_size,
            "seed": args.seed,
            "seconds": spent["seconds"] + time.perf_counter() - began,
            "core_seconds": spent["core_seconds"] + time.process_time() - cpu,
            "threads": torch.get_num_threads(),
        }
        out.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps(made, indent=1), encoding="utf-8")


def curves(out: Path) -> None:
    """The training loss and the validation loss by time, from the run's own tables."""

    def columns(name: str) -> dict[str, list[float]]:
        head, *rows = (out / name).read_text(encoding="utf-8").split()
        values = zip(*(map(float, row.split(",")) for row in rows), strict=True)
        return dict(zip(head.split(","), map(list, values), strict=True))

    loss = columns("history.csv")
    figure = plot.curve({"training": (loss["step"], loss["loss"])}, logy=True)
    plot.save(figure, out / "loss.png")
    held = columns("validation.csv")
    steps = held.pop("step")
    figure = plot.curve(
        {("mean" if name == "loss" else f"t in {name}"): (steps, v) for name, v in held.items()},
        logy=True,
        ylabel="validation loss",
    )
    plot.save(figure, out / "validation.png")


def mean_of(values: Tensor) -> list[float]:
    """Mean and its standard error over the images."""
    return [float(values.mean()), float(values.std()) / math.sqrt(len(values))]


def bits(model: ScoreModel, train: Data, test: Data) -> dict[str, Any]:
    """Bits/dim of the bound on all test images, and of the flow on some."""
    quantisation = test.quantisation

    def bound(data: Data, t_end: float) -> list[float]:
        found = elbo(
            model,
            data.x,
            quantisation=quantisation,
            steps=8,
            samples=2 if len(data) <= 500 else 1,
            t_end=t_end,
            cond=data.cond,
            batch_size=100,
        )
        return mean_of(found.bits_per_dim(quantisation))

    tried = {t: bound(train[:500], t) for t in (1e-3, 3e-4, 1e-4)}
    best = min(tried, key=lambda t: tried[t][0])
    some = test[:32]
    flow = discrete_log_prob(
        model,
        some.x,
        quantisation,
        cond=some.cond,
        tolerances=Tolerances(1e-3, 1e-3),
        batch_size=32,
        t_end=best,
    )
    return {
        "bound": bound(test, best),
        "t_end": best,
        "bound_by_t_end": tried,
        "bound_of_the_32": bound(some, best),
        "flow_of_the_32": mean_of(flow.bits_per_dim()),
        "flow_calls": float(flow.nfe.double().mean()) / 5,
    }


def classifier(data: Data, test: Data, file: Path) -> Judge:
    """The judge, trained once and kept."""
    if file.exists():
        made = Judge.convolutional(1, 10)
        load_model(made, file)
        return made.eval()
    made = Judge.fit_convolutional(data.x, data.cond["label"], epochs=3, seed=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(made, file)
    print(f"classifier: test accuracy {made.accuracy(test.x, test.cond['label']):.4f}")
    return made


def judge(model: ScoreModel, data: Data, test: Data, out: Path, count: int) -> dict[str, Any]:
    began = time.perf_counter()
    found: dict[str, Any] = {"bits": bits(model, data, test)}
    label = torch.arange(count) % 10
    sampler = ReverseSampler(model.sde, model, "auto_sde", steps=30)
    solution = sampler.solve(
        (count, 1, 28, 28), seed=1, cond={"label": label}, batch_size=100, progress=True
    )
    x = solution.x.clamp(-1, 1)
    order = torch.arange(100) // 10 + torch.arange(100) % 10 * 10  # a row for each class
    plot.save(plot.image_grid(x[order], columns=10), out / "samples.png")
    eye = classifier(data, test, out.parent / "fashion-classifier.safetensors")
    real = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(2))[:count]]
    found["sampling"] = {"count": count, "solver": str(solution.solver), "nfe": solution.nfe}
    sets = compare_sets(
        x, test.x, metrics=METRICS, features=eye.features, repeats=3, batch_size=1000
    )
    found["distances"] = {name: vars(sets[name]) for name in sets}
    found["conditional_accuracy"] = eye.accuracy(x, label)
    found["classifier_accuracy"] = eye.accuracy(test.x, test.cond["label"])
    for name, images, labels in (
        ("trained_on_samples", x, label),
        ("trained_on_as_many_real", real.x, real.cond["label"]),
    ):
        net = Judge.fit_convolutional(images, labels, epochs=10, seed=3)
        found[name] = net.accuracy(test.x, test.cond["label"])
    return found | {"seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=sorted(STEPS), default="unet")
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="runs/fashion-<net> by default")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--judge", action="store_true", help="only judge what is trained")
    args = parser.parse_args()
    out = args.out or Path("runs") / f"fashion-{args.net}"
    source = "fashion_mnist" if args.data is None else args.data
    data, test = (load_data(source, split=part) for part in ("train", "test"))
    if not args.judge:
        train(args, out, data)
    curves(out)
    found = {
        "command": f"python benchmarks/fashion.py --net {args.net}"
        + "".join(
            f" --{name} {value}"
            for name, value in vars(args).items()
            if name in ("steps", "samples", "seed") and value != parser.get_default(name)
        ),
        "torch": torch.__version__,
        "training": json.loads((out / "training.json").read_text(encoding="utf-8")),
        "judged": judge(load(out / "checkpoint"), data, test, out, args.samples),
    }
    text = json.dumps(found, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"fashion-{args.net}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
