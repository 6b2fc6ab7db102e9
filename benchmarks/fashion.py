"""Fashion-MNIST, class-conditional: a U-Net or a U-ViT, trained and judged by one command.

    python benchmarks/fashion.py --net unet --objective quality
    python benchmarks/fashion.py --net unet --objective likelihood
    python benchmarks/fashion.py --net uvit --objective quality

The 60,000 training images (Debian's package dataset-fashion-mnist, or --data FOLDER) less a
holdout of 1 %, a VP-SDE, the network that `scoresde train` builds and the defaults of the
`Trainer` for the objective, with nothing else said. The number of steps is what fits into
--minutes, by the time that 20 steps take. A run that was interrupted goes on with --resume;
--judge takes a trained one and judges it again.

Judged on the 10,000 test images, with labels, by the averaged weights:

- the variational bound in bits/dim, of all of them, in continuous time with the decoder of
  8-bit bins; t_end is the best of the default, its double, half and quarter for the first 500
  images of the *training* set;
- the likelihood of the probability flow of the first 32, dequantised, in bits/dim;
- 5,000 samples, 500 of each class, against the test images: Frechet and kernel distance,
  precision, recall, density and coverage in the features of `Judge`, trained on the
  training images, each beside the same number for two halves of the test set. They are not an FID;
- the same Frechet distance of samples by `auto` in 10 and in 20 steps. With --short, for a
  processor that has no time for all of it, the 20 steps and the flow are left out;
- with --guided, and beside the rows above, never in their place: as many samples with
  classifier-free guidance of the scale and on the log-SNRs of `GUIDANCE`, by the solver and the
  nodes of `auto` in 10 steps. It only adds this to the judgement that is there. The scale was
  chosen on training images, by `fashion_sampling.py`;
- the classification accuracy score (Ravuri and Vinyals 2019): the accuracy on the test images of
  a classifier that was trained on the samples alone, beside one trained on as many real images.

Writes runs/fashion-<net>-<objective>/ (checkpoint, curves, samples), the JSON of that name to
benchmarks/results and the pictures to docs/images; `page.py` makes the page of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from scoresde import (
    ClassifierFree,
    ReverseSampler,
    ScoreModel,
    Trainer,
    discrete_log_prob,
    elbo,
    load,
    plot,
)
from scoresde.data import Data, load_data, split
from scoresde.likelihood import t_end_of
from scoresde.metrics import Judge, compare_sets
from scoresde.options import Loss, Records, Tolerances
from scoresde.solvers import Solution

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.built import built

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PICTURES = ROOT / "docs/images"
FASHION_JUDGE = Path("runs/fashion-classifier.safetensors")
METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage")
GUIDANCE: dict[str, Any] = {"scale": 1.2, "interval": [-1.5, 1.5]}
SHARE = 0.93
"""Of the minutes for the steps; validation, checkpoints and the calibration take the rest."""


def steps_in(minutes: float, model: ScoreModel, data: Data, loss: Loss) -> int:
    """How many steps fit into so many minutes, by the difference of 25 steps and 5."""

    def seconds(steps: int) -> float:
        began = time.perf_counter()
        records = Records(calibrate=None)
        Trainer(copy.deepcopy(model), data, steps=steps, loss=loss, records=records).fit()
        return time.perf_counter() - began

    each = (seconds(25) - seconds(5)) / 20
    return max(1, int(SHARE * 60 * minutes / each))


def train(args: argparse.Namespace, out: Path, data: Data) -> None:
    """Train, and note in `training.json` what it took, with the parts that were interrupted."""
    loss, (rest, holdout) = Loss(objective=args.objective), split(data, 0.99)
    torch.manual_seed(args.seed)
    model = built(
        data.x.shape[1:],
        objective=args.objective,
        levels=data.quantisation,
        classes=10,
        net=args.net,
        preset=args.preset,
    )
    notes = out / "training.json"
    spent: dict[str, Any] = {"seconds": 0.0, "core_seconds": 0.0}
    if args.resume and notes.exists():
        spent = json.loads(notes.read_text(encoding="utf-8"))
    steps = spent.get("steps") or args.steps or steps_in(args.minutes, model, rest, loss)
    trainer = Trainer(
        model,
        rest,
        steps=steps,
        loss=loss,
        seed=args.seed,
        out=out,
        validation=holdout,
        records=Records(validate_every=max(1, steps // 8), checkpoint_every=500),
        progress=True,
    )
    optim = trainer.optim
    made = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": trainer.steps,
        "batch_size": optim.batch_size * optim.accumulate,
        "optimizer": optim.optimizer,
        "lr": optim.lr,
        "precision": optim.precision,
        "predicts": model.predicts,
        "loss": str(trainer.loss),
        "seed": args.seed,
        "threads": torch.get_num_threads(),
    }

    def note(seconds: float, core_seconds: float) -> None:
        taken = {
            "seconds": spent["seconds"] + seconds,
            "core_seconds": spent["core_seconds"] + core_seconds,
        }
        out.mkdir(parents=True, exist_ok=True)
        notes.write_text(json.dumps(made | taken, indent=1), encoding="utf-8")

    note(0.0, 0.0)  # a run that is killed goes on with the same number of steps
    began, cpu = time.perf_counter(), time.process_time()
    try:
        trainer.fit(resume=args.resume)
    finally:
        note(time.perf_counter() - began, time.process_time() - cpu)


def curves(out: Path) -> None:
    """The training loss and the validation loss by time, from the run's own tables.

    The parts of the validation loss differ by powers of ten and fall by some per cent, so each is
    drawn over its last value.
    """

    def columns(name: str) -> dict[str, list[float]]:
        head, *rows = (out / name).read_text(encoding="utf-8").split()
        values = zip(*(map(float, row.split(",")) for row in rows), strict=True)
        return dict(zip(head.split(","), map(list, values), strict=True))

    loss = columns("history.csv")
    figure = plot.curve({"training": (loss["step"], loss["loss"])}, logy=True)
    plot.save(figure, out / "loss.png")
    held = columns("validation.csv")
    steps, named = held.pop("step"), {"loss": "the loss", "uniform": "at even times"}
    parts = {
        named.get(name, f"t in {name}"): (steps, [value / values[-1] for value in values])
        for name, values in held.items()
    }
    figure = plot.curve(parts, ylabel="validation loss over the last one")
    plot.save(figure, out / "validation.png")


def mean_of(values: Tensor) -> list[float]:
    """Mean and its standard error over the images."""
    return [float(values.mean()), float(values.std()) / math.sqrt(len(values))]


def bits(model: ScoreModel, train: Data, test: Data, short: bool) -> dict[str, Any]:
    """Bits/dim of the bound on all test images, and of the flow on some unless it is short."""
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

    own = t_end_of(model, quantisation)
    tried = {t: bound(train[:500], t) for t in (own, 2 * own, own / 2, own / 4)}
    best = min(tried, key=lambda t: tried[t][0])
    some = test[:32]
    found = {
        "bound": bound(test, best),
        "t_end": best,
        "default_t_end": own,
        "bound_by_t_end": tried,
        "bound_of_the_32": bound(some, best),
    }
    if short:
        return found
    flow = discrete_log_prob(
        model,
        some.x,
        quantisation,
        cond=some.cond,
        tolerances=Tolerances(1e-3, 1e-3),
        batch_size=32,
        t_end=best,
    )
    return found | {
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


def judge(
    model: ScoreModel, data: Data, test: Data, out: Path, count: int, short: bool
) -> dict[str, Any]:
    began = time.perf_counter()
    found: dict[str, Any] = {"bits": bits(model, data, test, short)}
    label = torch.arange(count) % 10

    def samples(solver: str, steps: int) -> Solution:
        return drawn(ReverseSampler(model.sde, model, solver, steps=steps), test, label)

    solution = samples("auto_sde", 30)
    x = solution.x.clamp(-1, 1)
    order = torch.arange(100) // 10 + torch.arange(100) % 10 * 10  # a row for each class
    plot.save(plot.image_grid(x[order % count], columns=10), out / "samples.png")
    eye = classifier(data, test, out.parent / FASHION_JUDGE.name)
    real = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(2))[:count]]
    found["sampling"] = {"count": count, "solver": str(solution.solver), "nfe": solution.nfe}
    found["distances"] = distances(x, test, eye, METRICS)
    found["auto"] = {}
    for steps in (10,) if short else (10, 20):
        fast = samples("auto", steps)
        value = distances(fast.x.clamp(-1, 1), test, eye, ("frechet",))["frechet"]["value"]
        found["auto"][str(steps)] = {"frechet": value, "nfe": fast.nfe, "why": fast.plan.why}
    found["conditional_accuracy"] = eye.accuracy(x, label)
    found["classifier_accuracy"] = eye.accuracy(test.x, test.cond["label"])
    for name, images, labels in (
        ("trained_on_samples", x, label),
        ("trained_on_as_many_real", real.x, real.cond["label"]),
    ):
        found[name] = learned(images, labels, test)
    return found | {"seconds": time.perf_counter() - began}


def judge_guided(
    model: ScoreModel, data: Data, test: Data, out: Path, count: int
) -> dict[str, Any]:
    """The samples with guidance, by the same solver and nodes as those without."""
    label = torch.arange(count) % 10
    plan = ReverseSampler(model.sde, model, "auto", steps=10)
    guided = ClassifierFree(model, GUIDANCE["scale"], interval=GUIDANCE["interval"])
    solution = drawn(ReverseSampler(model.sde, guided, plan.solver, grid=plan.grid), test, label)
    x = solution.x.clamp(-1, 1)
    eye = classifier(data, test, out.parent / FASHION_JUDGE.name)
    return GUIDANCE | {
        "nfe": solution.nfe,
        "distances": distances(x, test, eye, METRICS),
        "conditional_accuracy": eye.accuracy(x, label),
        "trained_on_samples": learned(x, label, test),
    }


def drawn(sampler: ReverseSampler, test: Data, label: Tensor) -> Solution:
    """A sample of each label."""
    return sampler.solve(
        (len(label), *test.x.shape[1:]),
        seed=1,
        cond={"label": label},
        batch_size=100,
        progress=True,
    )


def distances(x: Tensor, test: Data, eye: Judge, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Each metric of samples against the test images, beside that of their halves."""
    sets = compare_sets(
        x, test.x, metrics=metrics, features=eye.features, repeats=3, batch_size=1000
    )
    return {name: vars(sets[name]) for name in sets}


def learned(x: Tensor, label: Tensor, test: Data) -> float:
    """Accuracy on the test images of a classifier that was trained on these images alone."""
    net = Judge.fit_convolutional(x, label, classes=10, epochs=10, seed=3)
    return net.accuracy(test.x, test.cond["label"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=["unet", "uvit"], default="unet")
    parser.add_argument("--objective", choices=["quality", "likelihood"], default="quality")
    parser.add_argument("--preset", default="small", help="size of the network")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the training, about")
    parser.add_argument("--steps", type=int, help="training steps, in place of --minutes")
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="runs/fashion-<net>-<objective> by default")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--judge", action="store_true", help="only judge what is trained")
    parser.add_argument("--short", action="store_true", help="judge without the slowest figures")
    parser.add_argument("--guided", action="store_true", help="only judge it with guidance too")
    parser.add_argument("--quick", action="store_true", help="a check of this program, in --out")
    args = parser.parse_args()
    name = f"fashion-{args.net}-{args.objective}"
    out = args.out or Path("runs") / (f"{name}-quick" if args.quick else name)
    source = "fashion_mnist" if args.data is None else args.data
    data, test = (load_data(source, split=part) for part in ("train", "test"))
    if args.quick:
        data, test, args.samples, args.minutes = data[:2000], test[:200], 100, 0.1
    file = out / "results.json" if args.quick else RESULTS / f"{name}.json"
    if args.guided:
        found = json.loads(file.read_text(encoding="utf-8"))
        model = load(out / "checkpoint")
        found["judged"]["guided"] = judge_guided(model, data, test, out, args.samples)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    if not args.judge:
        train(args, out, data)
    curves(out)
    said = ("net", "objective", "preset", "minutes", "steps", "samples", "seed")
    found = {
        "command": "python benchmarks/fashion.py"
        + "".join(
            f" --{key} {value}"
            for key, value in vars(args).items()
            if key in said and (key in ("net", "objective") or value != parser.get_default(key))
        )
        + " --short" * args.short,
        "torch": torch.__version__,
        "training": json.loads((out / "training.json").read_text(encoding="utf-8")),
        "judged": judge(load(out / "checkpoint"), data, test, out, args.samples, args.short),
    }
    text = json.dumps(found, indent=1)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    if not args.quick:
        shutil.copy(out / "samples.png", PICTURES / f"{name}.png")
        shutil.copy(out / "validation.png", PICTURES / f"{name}-loss.png")
    print(text)


if __name__ == "__main__":
    main()
