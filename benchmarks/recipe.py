"""Which defaults of training are best: one factor at a time away from them, on several data.

    python benchmarks/recipe.py [--only digits moons] [--rows lr ema] [--seeds 2] [--quick]

Kinds: scikit-learn's digits and Fashion-MNIST (short) with the U-Net, two moons, eight Gaussians
and the breast-cancer table with the MLP, and the AR(2) signal and the periodic field of
`spectra.py` with the U-Nets of one and of three dimensions; all models are those that `scoresde
train` builds. The first row of each kind is `Trainer(model, data, steps=n)` and nothing else said.
The others change one thing: the optimiser, the learning rate, the average of the weights, the
times, the weighting, the prediction, the batch size (at the same number of samples), bf16, the
augmentation of images, the network. Two rows are the earlier defaults: those of the first version
(eps at even times) and those before the recipe (v, log-normal times, AdamW at 1e-3, decay 0.999,
batches of 128).

Judged on data that no training sees, by the averaged weights: the error of eps at uniform times;
the time integral in the bound of the likelihood, in nats per dimension; and a distance of samples
by one solver for all. That is the Frechet distance in the features of a `Judge` for images, the
sliced Wasserstein distance for vectors, and the largest relative error of the power in a band of
the spectrum for the signal and the field; beside it stands the same for as many real samples.

A cell (kind, row, seed) is kept in results/recipe.json, so cells can be run one by one and a run
that was interrupted goes on; one whose options have changed since is run again. `python
benchmarks/page.py` makes docs/training.md of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from scoresde import ReverseSampler, ScoreModel, Trainer
from scoresde._io import write
from scoresde.data import Data, digits, fashion_mnist, toy
from scoresde.losses import (
    BoundTime,
    ImportanceTime,
    LogNormalTime,
    LossTime,
    UniformTime,
    dsm_loss,
)
from scoresde.metrics import Judge, frechet_distance, sliced_wasserstein
from scoresde.options import Loss, Optim, Records
from scoresde.quantisation import Quantisation
from scoresde.training.processes import computes_bf16

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.built import built
from benchmarks.fashion import FASHION_JUDGE, classifier
from benchmarks.spectra import PLANS, PROBLEMS

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "recipe.json"
SOLVER, SOLVER_STEPS = "unipc_3_flow", 30


@dataclass(frozen=True)
class Row:
    """What one row changes.

    Args:
        factor: the thing that is changed, for `--rows` and the page.
        name: the row of the table.
        predicts: the prediction of the network, None for the default.
        optim, loss: fields of `Optim` and `Loss`.
        rate: the learning rate over that of the recipe.
        batch: the batch size over that of the recipe; the number of steps is divided by it.
        net: arguments of the network.
        network: its kind, that of the recipe by default.
        only: the kinds of data that the row is for, all by default.
    """

    factor: str
    name: str
    predicts: str | None = None
    optim: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    batch: float = 1.0
    net: Mapping[str, Any] = field(default_factory=dict)
    network: str = "auto"
    only: tuple[str, ...] = ()

    @property
    def objective(self) -> str:
        found: str = self.loss.get("objective", "quality")
        return found


EARLIER = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "clip": 1.0,
    "ema": 0.999,
    "batch_size": 128,
    "weight_decay": 0.0,
    "precision": "no",
}
BOUND = {"objective": "likelihood"}
IMAGES = ("digits", "fashion")
ROWS = (
    Row("default", "the defaults"),
    Row(
        "earlier",
        "eps, even times, AdamW at 1e-3",
        "eps",
        EARLIER,
        {"weighting": "eps", "time": UniformTime()},
    ),
    Row(
        "earlier",
        "v, log-normal times, AdamW at 1e-3",
        "v",
        EARLIER,
        {"weighting": "eps", "time": LogNormalTime()},
    ),
    Row("objective", "objective likelihood", loss=BOUND),
    Row(
        "objective",
        "objective likelihood, without features of the input",
        loss=BOUND,
        net={"input_fourier": ()},
        only=IMAGES,
    ),
    Row("objective", "objective likelihood, even times", loss={**BOUND, "time": UniformTime()}),
    Row(
        "objective",
        "objective likelihood, times by importance",
        loss={**BOUND, "time": ImportanceTime()},
    ),
    Row(
        "objective",
        "objective likelihood, times of the bound",
        loss={**BOUND, "time": BoundTime()},
    ),
    Row("optimizer", "AdamW", optim={"optimizer": "adamw"}),
    Row("optimizer", "Muon", optim={"optimizer": "muon"}),
    *(Row("lr", f"rate x {rate:g}", rate=rate) for rate in (0.25, 0.5, 2.0, 4.0)),
    *(
        Row("ema", f"average of {w:g} of the run", optim={"ema_width": w})
        for w in (0.03, 0.05, 0.2)
    ),
    *(Row("ema", f"decay {ema}", optim={"ema": ema}) for ema in (0.99, 0.999)),
    Row("ema", "no average", optim={"ema": 0.0}),
    Row("time", "even times", loss={"time": UniformTime()}),
    Row("time", "times by importance", loss={"time": ImportanceTime()}),
    Row("time", "times by the loss", loss={"time": LossTime()}),
    *(
        Row("time", f"log-normal times around {mean:g}", loss={"time": LogNormalTime(mean=mean)})
        for mean in (-1.0, -0.5, 0.0)
    ),
    *(
        Row("weighting", f"weighting {name}", loss={"weighting": name})
        for name in ("eps", "v", "x0", "min_snr", "edm", "likelihood")
    ),
    *(Row("prediction", f"predicts {name}", name) for name in ("eps", "v", "x0", "edm")),
    *(Row("batch", f"batch x {size:g}", batch=size) for size in (0.25, 0.5, 2.0, 4.0)),
    Row("precision", "bf16", optim={"precision": "bf16"}),
    *(
        Row("augment", f"augmentation {share:g}", loss={"augment": share}, only=IMAGES)
        for share in (0.15, 0.3)
    ),
    Row("network", "U-ViT", network="uvit", only=IMAGES),
    Row("dropout", "dropout 0.15 in the network", net={"dropout": 0.15}, only=IMAGES),
)


class Kind:
    """Data to train on, data to judge by, and a distance of samples.

    Args:
        steps: of a training with the recipe's batch size.
        train, test: the two parts.
        count: number of samples.
        distance: of samples to data; smaller is better.
        real: as many real samples, whose distance is the floor.
        preset: the size of the network.
        levels: the quantisation of the data, None for data without levels.
        net: arguments of the network.
    """

    def __init__(
        self,
        steps: int,
        train: Tensor,
        test: Tensor,
        count: int,
        distance: Callable[[Tensor], float],
        real: Tensor,
        preset: str = "small",
        levels: Quantisation | None = None,
        net: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.steps, self.train, self.test, self.count = steps, train, test, count
        self.distance, self.preset, self.levels, self.net = distance, preset, levels, net
        self.floor = distance(real)

    def judged(self, model: ScoreModel, seed: int) -> dict[str, float]:
        sampler = ReverseSampler(model.sde, model, SOLVER, steps=SOLVER_STEPS)
        with warnings.catch_warnings():  # samples of a bad training lie far out
            warnings.simplefilter("ignore", UserWarning)
            x = sampler.sample((self.count, *self.test.shape[1:]), seed=seed, batch_size=500)
        return {"distance": self.distance(x), **losses(model, self.test[:500])}


@torch.no_grad()
def losses(model: ScoreModel, x: Tensor, draws: int = 4) -> dict[str, float]:
    """The error of eps at uniform times, and the integral of the bound in nats per dimension."""
    generator = torch.Generator().manual_seed(9)

    def mean(weighting: str, times: Any) -> float:
        each = [
            dsm_loss(model, x, weighting=weighting, time=times, generator=generator).mean()
            for _ in range(draws)
        ]
        return float(torch.stack(each).mean())

    length = model.sde.T - model.sde.t_min
    return {
        "loss": mean("eps", UniformTime()),
        "bound": length * mean("likelihood", ImportanceTime()),
    }


def _images(name: str) -> Kind:
    if name == "digits":
        train, test = digits("train"), digits("test")
        judge, steps = Judge.fit(train.x, train.cond["label"]), 600
    else:
        train, test = (fashion_mnist(split=part) for part in ("train", "test"))
        judge, steps = classifier(train, test, FASHION_JUDGE), 400
    count = 899 if name == "digits" else 1000
    target = judge.features(test.x[:5000])

    def distance(x: Tensor) -> float:
        return frechet_distance(judge.features(x.clamp(-1, 1)), target)

    levels = train.quantisation
    return Kind(steps, train.x, test.x, count, distance, train.x[:count], levels=levels)


def _toy(name: str) -> Kind:
    train, test, real = (toy(name, 20_000, seed=seed).x for seed in range(3))
    return Kind(2000, train, test, 20_000, lambda x: sliced_wasserstein(x, test), real)


def _table() -> Kind:
    from sklearn.datasets import load_breast_cancer

    raw = torch.as_tensor(load_breast_cancer().data, dtype=torch.float32)
    seen, held = Data(raw).split(0.75, seed=1)
    train = seen.standardised()
    assert train.scaling is not None
    test = train.scaling.encode(held.x.double()).float()

    def distance(x: Tensor) -> float:
        return sliced_wasserstein(x, test)

    return Kind(2000, train.x, test, len(test), distance, train.x[: len(test)])


def _spectral(name: str, steps: int, rows: int, count: int) -> Kind:
    law, plan = PROBLEMS[name](), PLANS[name]

    def distance(x: Tensor) -> float:
        return max(abs(b - 1) for b in law.bands(x))

    train, test = law.draw(rows, 1).float(), law.draw(count, 2).float()
    net = {"periodic": plan["periodic"]}
    return Kind(steps, train, test, count, distance, test, preset=plan["preset"], net=net)


KINDS: dict[str, Callable[[], Kind]] = {
    "digits": lambda: _images("digits"),
    "fashion": lambda: _images("fashion"),
    "moons": lambda: _toy("moons"),
    "eight_gaussians": lambda: _toy("eight_gaussians"),
    "table": _table,
    "signal": lambda: _spectral("signal", 1500, 50_000, 2000),
    "field": lambda: _spectral("field", 1200, 4000, 250),
}
MEASURES = {
    "digits": "Frechet distance",
    "fashion": "Frechet distance",
    "moons": "sliced Wasserstein distance",
    "eight_gaussians": "sliced Wasserstein distance",
    "table": "sliced Wasserstein distance",
    "signal": "worst band of the spectrum",
    "field": "worst band of the spectrum",
}


@cache
def kind_of(name: str) -> Kind:
    return KINDS[name]()


def trainer_of(kind: Kind, row: Row, seed: int, steps: int) -> Trainer:
    """The trainer of a row, whose rate and batch size are relative to the recipe's."""

    def made(optim: Optim, number: int) -> Trainer:
        torch.manual_seed(seed)
        model = built(
            kind.train.shape[1:],
            objective=row.objective,
            levels=kind.levels,
            net=row.network,
            preset=kind.preset,
            predicts=row.predicts,
            augment=row.loss.get("augment"),
            options={**kind.net, **row.net},
        )
        return Trainer(
            model,
            kind.train,
            steps=number,
            optim=optim,
            loss=Loss(**row.loss),
            records=Records(calibrate=None),  # one solver judges all rows
            seed=seed,
        )

    options = dict(row.optim)
    if row.factor == "earlier":
        options["warmup"] = min(steps // 20, 1000)
    trainer = made(Optim(**options), steps)
    if row.rate == 1.0 and row.batch == 1.0:
        return trainer
    rate, batch = trainer.optim.lr, trainer.optim.batch_size
    changed = {"lr": row.rate * rate} if row.rate != 1.0 else {}
    if row.batch != 1.0:
        changed["batch_size"] = max(1, round(row.batch * batch))
    return made(Optim(**options, **changed), max(1, round(steps / row.batch)))


def options_of(trainer: Trainer) -> dict[str, Any]:
    """What a run was told, by its user or by the recipe."""
    return {
        "steps": trainer.steps,
        "optim": {k: v for k, v in asdict(trainer.optim).items() if k != "freeze"},
        "loss_options": str(trainer.loss),
    }


def one(kind: Kind, trainer: Trainer, seed: int) -> dict[str, Any]:
    began = time.process_time()
    model = trainer.fit()
    seconds = time.process_time() - began
    return {**kind.judged(model, seed), "seconds": seconds, **options_of(trainer)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    factors = list(dict.fromkeys(row.factor for row in ROWS))
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--rows", nargs="+", choices=factors, default=factors)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 steps, kept nowhere")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"kinds": {}}
    if FILE.exists() and not args.quick:
        found = json.loads(FILE.read_text(encoding="utf-8"))
    seeds = 1 if args.quick else args.seeds
    if args.quick:
        for name in args.only:
            kind_of(name).count = 50
    units = computes_bf16(torch.device("cpu"))
    for seed, name, row in product(range(seeds), args.only, ROWS):
        if row.factor not in args.rows or (row.only and name not in row.only):
            continue
        if row.name == "bf16" and not units:
            continue
        kind = kind_of(name)
        kept = found["kinds"].setdefault(name, {"floor": kind.floor, "rows": {}})
        done = kept["rows"].setdefault(row.name, {})
        trainer = trainer_of(kind, row, seed, 3 if args.quick else kind.steps)
        if options_of(trainer).items() <= done.get(str(seed), {}).items():
            continue
        cell = done[str(seed)] = one(kind, trainer, seed)
        said = {k: v for k, v in cell.items() if isinstance(v, float)}
        print(name, seed, row.name, *(f"{k} {v:.4g}" for k, v in said.items()), flush=True)
        if not args.quick:
            RESULTS.mkdir(exist_ok=True)
            write(FILE, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
