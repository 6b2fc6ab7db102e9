"""Train a VP-SDE on real data and sample it with several solvers: the main job, end to end.

    python examples/train_vp.py                    # scikit-learn's digits, a U-Net
    python examples/train_vp.py --data moons       # 2-D data, an MLP

Writes to runs/<data>/: samples.png, denoising.png, loss.png, solvers.png, table.md, checkpoint/.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from scoresde import VPSDE, Preconditioned, ReverseSampler, Trainer, plot
from scoresde.data import TOYS, Data, digits, toy
from scoresde.metrics import Judge, nearest_distance, sliced_wasserstein
from scoresde.nets import network_for
from scoresde.solvers import SciPySolver

STEPS = 1500
RUNS = {  # solvers, and the numbers of steps to run each with; the last one is shown
    "auto": ("auto", (10, 20)),
    "euler_maruyama": ("euler_maruyama", (25, 50)),
    "predictor_corrector": ("predictor_corrector", (25,)),
    "torchsde": ("torchsde", (50,)),
    "scipy RK45": (SciPySolver("RK45", rtol=1e-3, atol=1e-3), (1,)),
    "heun": ("heun", (10,)),
    "ddim": ("ddim", (20,)),
    "unipc_3": ("unipc_3", (10, 20)),
    "sa_solver_p3c4": ("sa_solver_p3c4", (20,)),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", choices=["digits", *TOYS])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--steps", type=int, help=f"training steps ({STEPS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the results (runs/<data>)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser.parse_args()


def datasets(name: str) -> tuple[Data, Data]:
    """What the model is trained on, and a half that it never sees."""
    if name == "digits":
        return digits("train"), digits("test")
    return toy(name, 20_000, seed=0), toy(name, 4_000, seed=1)


def judged(name: str, train: Data, held_out: Data) -> tuple[list[str], object, float]:
    """Column titles, a function samples -> row of numbers, and the value of two real halves."""
    if name == "digits":
        judge = Judge.fit(train.x, train.cond["label"])
        real = judge.compare(train.x, held_out.x, train.x)
        titles = ["Frechet", "class imbalance", "nearest training image", "confidence"]
        values = f"{real.frechet_real:.4f}, {real.nearest_real:.4f}, {real.confidence_real:.4f}"
        print(f"two real halves: Frechet, nearest training image, confidence {values}")

        def row(samples: Tensor) -> list[float]:
            q = judge.compare(samples, held_out.x, train.x)
            return [q.frechet, q.balance, q.nearest, q.confidence]

        return titles, row, real.frechet_real

    def plane(samples: Tensor) -> list[float]:
        nearest = nearest_distance(samples, train.x).median()
        return [sliced_wasserstein(samples, held_out.x), float(nearest)]

    floor = sliced_wasserstein(train.x[: len(held_out)], held_out.x)
    print(f"real halves: sliced Wasserstein {floor:.4f}")
    return ["sliced Wasserstein", "nearest training point"], plane, floor


def main() -> None:
    args = arguments()
    out = args.out or Path("runs") / args.data
    device = None if args.device == "auto" else args.device
    train, held_out = datasets(args.data)
    image = args.data == "digits"

    # 1. An SDE, a network read as a prediction, and a training run.
    sde = VPSDE()
    torch.manual_seed(args.seed)  # the network's initial weights
    net = network_for(train.x.shape[1:], classes=train.classes)  # a U-Net, or an MLP for vectors
    model = Preconditioned(net, sde)  # the network predicts v
    options = {"seed": args.seed, "out": out, "device": device, "progress": True}
    trainer = Trainer(model, train, steps=args.steps or STEPS, **options)
    model = trainer.fit(resume=args.resume)  # `load(out / "checkpoint")` gives it back later
    steps, losses, _ = zip(*trainer.history, strict=True)
    figure = plot.curve({"training": (steps, losses)}, logy=True)
    plot.save(figure, out / "loss.png")

    # 2. The same model under every solver; each sample keeps its noise, so pictures compare.
    labels = torch.arange(len(held_out.x)) % 10  # as many of each class
    cond = {"label": labels} if image else None
    titles, row, floor = judged(args.data, train, held_out)
    table = ["| solver | steps | NFE | seconds | " + " | ".join(titles) + " |"]
    table.append("| --- |" + " ---: |" * (3 + len(titles)))
    points, shown, scores = [], {}, {}
    for name, (solver, budgets) in RUNS.items():
        for budget in budgets:
            sampler = ReverseSampler(sde, model, solver, steps=budget)
            began = time.perf_counter()
            solution = sampler.solve(held_out.x.shape, seed=args.seed, cond=cond, batch_size=1024)
            seconds = time.perf_counter() - began
            shown[name] = solution.x.cpu()
            values = row(shown[name])
            scores[name] = values[0]
            points.append((name, solution.nfe, values[0]))
            numbers = " | ".join(f"{value:.4f}" for value in values)
            table.append(f"| {name} | {budget} | {solution.nfe} | {seconds:.1f} | {numbers} |")
            print(table[-1])
    table.append(f"| two real halves | | | | {floor:.4f} |" + " |" * (len(titles) - 1))
    (out / "table.md").write_text("\n".join(table) + "\n", encoding="utf-8")

    # 3. Pictures.
    name = min(scores, key=scores.__getitem__)
    best = shown[name]
    sampler = ReverseSampler(sde, model, "heun", steps=18)
    few = (10 if image else 200, *best.shape[1:])
    cond = {"label": labels[:10]} if image else None
    path = sampler.solve(few, seed=args.seed, cond=cond, keep_path=True)
    if image:
        title = f"samples by {name}, a column for each class"
        pictures = plot.image_grid(best[:100], columns=10, title=title)
        denoising = plot.trajectories(path.path.cpu(), times=path.grid.times)
    else:
        panels = {"data": held_out.x, **shown}
        pictures = plot.scatter({k: v[:4000] for k, v in panels.items()})
        denoising = plot.paths_2d(path.path.cpu(), background=held_out.x)
    plot.save(pictures, out / "samples.png")
    plot.save(denoising, out / "denoising.png")
    comparison = plot.quality_against_nfe(points, floor=floor, ylabel=titles[0])
    plot.save(comparison, out / "solvers.png")
    print(f"wrote samples.png, denoising.png, loss.png, solvers.png, table.md to {out.resolve()}")


if __name__ == "__main__":
    main()
