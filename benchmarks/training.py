"""What a step of the `Trainer` costs beyond the network's, and the time to quality beside peers.

    python benchmarks/training.py [--quick] [--data digits] [--seeds 3] [--limit 240]

Cost. A bare step is forward, mean square, backward and AdamW on inputs that are there already; a
step of the `Trainer` draws rows, times and noise, and clips, checks, averages and logs as well.
The two take turns, step by step, each with its own copy of the network, and are timed by the
processor's time, to which other work on the machine adds little; figures are medians, of the
ratio over the pairs. "Loss" is what `dsm_loss` takes beyond the network's forward pass, "loading"
what it takes to pick a batch, both as a share of the bare step. Data in memory are picked in the
step itself, so there is no queue that could run dry: loading costs the run its share of the step.
The digits come in their own size of 8 x 8, where a step is short, and enlarged to 28 x 28.

Time to quality. Every example of `training_peers.py`, ours among them, trains for 25, 50, 100
and so on steps until a training takes more than `--limit` seconds of the processor: each number of
steps is a training of its own, with its own schedule of the learning rate, unless the example has
none that ends with the training. One judge for all, on held-out images: the error of eps under
uniform times, and the Frechet distance in the features of a `Judge` of as many samples by one
solver, all clipped to the range of the data. Values are means over seeds. The mark is the best
value that any peer reaches within the limit; reported are the seconds and the steps at which each
example passes it, on a straight line in log seconds between two trainings, the last of which is
longer than the limit. A training that is done is kept in the JSON, so a run that was interrupted
goes on, and shorter ones are added; ours is run again if the recipe has changed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from scoresde import VPSDE, Preconditioned, ReverseSampler, Trainer
from scoresde.data import digits, fashion_mnist
from scoresde.losses import UniformTime, dsm_loss
from scoresde.metrics import Judge, frechet_distance
from scoresde.model import ScoreModel
from scoresde.nets import UNet
from scoresde.options import Loss as Losses
from scoresde.options import Optim, Records
from scoresde.training.recipe import recipe_for
from scoresde.training.stream import Stream

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.fashion import FASHION_JUDGE, classifier
from benchmarks.recipe import losses
from benchmarks.training_peers import Example, available

RESULTS = Path(__file__).parent / "results"

LR = 1e-3
EVEN = UniformTime(low_discrepancy=True)
SOLVER, SOLVER_STEPS = "dpmpp_2m_sde", 40
"""The solver of all samples. It adds noise, which forgives the peers that predict eps."""


def net(width: int, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(1, width=width)


# What a step costs


class Timed(nn.Module):
    """A network that adds up how long its forward passes take."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seconds = 0.0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        began = time.process_time()
        out: Tensor = self.inner(x, t)
        self.seconds += time.process_time() - began
        return out


class Bare:
    """A step of forward, mean square, backward and AdamW on inputs that are there already."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self.network, self.x = network, x
        self.t, self.target = torch.rand(len(x)), torch.randn_like(x)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=LR, weight_decay=0.0, fused=True
        )

    def step(self) -> float:
        """The seconds that a step takes."""
        began = time.process_time()
        (self.network(self.x, self.t) - self.target).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - began


def cost(width: int, size: int, batch: int, steps: int) -> dict[str, float]:
    """Medians over pairs of steps, one bare and one of the `Trainer`, in turns."""
    x = interpolate(digits("train").x, size=size)
    bare, whole, extra = [], [], []
    plain, model = Bare(net(width), x[:batch]), Preconditioned(Timed(net(width)), VPSDE(), "eps")
    mark = None

    def timed(model: Any, x0: Tensor, **options: Any) -> Tensor:
        nonlocal mark
        if mark is not None:
            whole.append(time.process_time() - mark)
        bare.append(plain.step())
        mark, before = time.process_time(), model.net.seconds
        each = dsm_loss(model, x0, **options)
        extra.append(time.process_time() - mark - (model.net.seconds - before))
        return each

    optim = Optim(optimizer="adamw", batch_size=batch, lr=LR)
    loss = Losses(function=timed, weighting="eps", time=EVEN)
    records = Records(calibrate=None)
    Trainer(model, x, steps=steps + 1, optim=optim, loss=loss, records=records).fit()
    stream, loads = Stream(len(x), batch, 0), []
    for k in range(50):
        began = time.process_time()
        x[stream.rows(k)]
        loads.append(time.process_time() - began)
    warm = steps // 5
    base = statistics.median(bare[warm:])
    ratios = [b / a - 1 for a, b in zip(bare[warm:-1], whole[warm:], strict=True)]
    return {
        "bare_ms": 1e3 * base,
        "trainer_ms": 1e3 * statistics.median(whole[warm:]),
        "over_bare_percent": 100 * statistics.median(ratios),
        "loss_percent": 100 * statistics.median(extra[warm:]) / base,
        "loading_percent": 100 * statistics.median(loads) / base,
    }


# Time to quality


class Judges:
    """What is measured of a model, on images that no training sees."""

    def __init__(self, name: str, count: int) -> None:
        if name == "digits":
            self.train, test = digits("train"), digits("test")
            self.judge = Judge.fit(self.train.x, self.train.cond["label"])
        else:
            self.train, test = (fashion_mnist(split=part) for part in ("train", "test"))
            self.judge = classifier(self.train, test, FASHION_JUDGE)
        self.test = test[:count]
        # As many real images as samples: what a perfect model would reach.
        self.floor = self.distance(self.train.x[:count])

    def distance(self, x: Tensor) -> float:
        features = self.judge.features
        return frechet_distance(features(x.clamp(-1, 1)), features(self.test.x))

    def __call__(self, model: ScoreModel, seed: int) -> dict[str, float]:
        sampler = ReverseSampler(model.sde, model, SOLVER, steps=SOLVER_STEPS)
        with warnings.catch_warnings():  # samples of a short training lie far out
            warnings.simplefilter("ignore", UserWarning)
            x = sampler.sample(self.test.x.shape, seed=seed, batch_size=300)
        return {"frechet": self.distance(x), **losses(model, self.test.x[:450])}


def courses(
    example: Example, judges: Judges, seed: int, limit: float, lengths: Iterable[int]
) -> Iterator[dict[str, float]]:
    """The rows of one example: steps, seconds of the processor, loss and Frechet distance."""
    taken, seconds, training = 0, 0.0, None
    for steps in lengths:
        if training is None or example.planned:
            training, taken, seconds = example.begin(judges.train.x, seed, steps), 0, 0.0
        began = time.process_time()
        training.train(steps - taken)
        model = training.model()
        seconds += time.process_time() - began
        taken = steps
        yield {"steps": steps, "seconds": seconds, **judges(model, seed)}
        if seconds > limit:
            return


def when(rows: list[dict[str, float]], key: str, mark: float) -> tuple[float, float]:
    """The seconds and the steps at which a value passes the mark, on a line in their logarithms.

    A mark that the first row has reached is taken to be passed at it.
    """
    last = rows[0]
    for row in rows:
        if row[key] <= mark:
            drop = last[key] - row[key]
            share = 1.0 if drop <= 0 else min(1.0, (last[key] - mark) / drop)
            return tuple(  # type: ignore[return-value]
                math.exp((1 - share) * math.log(last[k]) + share * math.log(row[k]))
                for k in ("seconds", "steps")
            )
        last = row
    return math.inf, math.inf


def means(seeds: dict[str, list[dict[str, float]]]) -> list[dict[str, float]]:
    """The mean over seeds of the rows that all seeds have."""
    return [
        {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
        for rows in zip(*seeds.values(), strict=False)
    ]


def race(
    judges: Judges,
    seeds: int,
    limit: float,
    lengths: Sequence[int],
    kept: dict[str, Any],
    keep: Callable[[], None],
) -> None:
    """The curves of every example; `keep` is called after each one that is added to `kept`."""
    for seed, example in product(range(seeds), available()):
        done = kept.setdefault(example.name, {})
        rows = done.get(str(seed), [])
        left = [n for n in lengths if n < rows[0]["steps"]] if rows else lengths
        for place, row in enumerate(courses(example, judges, seed, limit, left)):
            rows.insert(place, row)
            print(seed, example.name, *(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
        done[str(seed)] = rows
        keep()


def marks(curves: dict[str, list[dict[str, float]]], limit: float) -> dict[str, float]:
    """The best that a peer reaches within the limit, by each judge."""
    rows = [
        row
        for name, course in curves.items()
        if name != "scoresde"
        for row in course
        if row["seconds"] <= limit
    ]
    return {key: min(row[key] for row in rows) for key in ("loss", "frechet")}


def passing(found: dict[str, Any]) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """The marks of a race, and the seconds and steps at which each example passes them."""
    curves = {name: means(seeds) for name, seeds in found["curves"].items()}
    mark = marks(curves, found["limit"])
    return mark, {
        name: {key: when(rows, key, value) for key, value in mark.items()}
        for name, rows in curves.items()
    }


def quality(found: dict[str, Any]) -> list[str]:
    """The table of the time to quality."""
    mark, passed = passing(found)

    def best(key: str, place: int) -> float:
        return min(both[key][place] for name, both in passed.items() if name != "scoresde")

    def cell(value: float, least: float) -> str:
        return f"{value:.3g} ({value / least:.2f})" if value < math.inf else "not reached"

    lines = [
        f"Marks: error of eps {mark['loss']:.4f}, Frechet distance {mark['frechet']:.4f} (as many "
        f"real images: {found['floor']:.4f}). In brackets the ratio to the best of the peers.",
        "",
        "| example | seconds to the error | steps to it | seconds to the distance | steps to it "
        "| last error | last distance | ms a step |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, seeds in found["curves"].items():
        cells = [
            cell(passed[name][key][place], best(key, place))
            for key in ("loss", "frechet")
            for place in (0, 1)
        ]
        rows, last = means(seeds), [rows[-1] for rows in seeds.values()]
        for key in ("loss", "frechet"):
            values = [row[key] for row in last]
            spread = f" ± {(max(values) - min(values)) / 2:.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}")
        cells.append(f"{1e3 * rows[-1]['seconds'] / rows[-1]['steps']:.3g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def report(found: dict[str, Any]) -> str:
    costs = found["cost"]
    lines = [
        "# Training",
        "",
        f"`{found['command']}`, torch {found['torch']}, {found['machine']}, "
        f"{found['threads']} threads.",
        "",
        f"| a step, images of | {' | '.join(f'{size} x {size}' for size in costs)} |",
        "| --- |" + " ---: |" * len(costs),
    ]
    lines += [
        f"| {key} | {' | '.join(f'{each[key]:.3g}' for each in costs.values())} |"
        for key in next(iter(costs.values()), {})
    ]
    for data, run in found["races"].items():
        many = run["seeds"] > 1
        seeds = f"means over {run['seeds']} seeds" if many else "one seed"
        lines += [
            "",
            f"## Time to quality: {data}",
            "",
            f"`{run['command']}`: {seeds}; "
            f"trainings until one takes {run['limit']:g} seconds of the processor; {SOLVER} in "
            f"{SOLVER_STEPS} steps{'; after ± half the spread over seeds' if many else ''}. The "
            "examples are described in `benchmarks/training_peers.py`.",
            "",
            *quality(run),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--data", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, help="trainings of each example (3; quick: 1)")
    parser.add_argument("--limit", type=float, help="seconds of a training (240; quick: 60)")
    parser.add_argument("--samples", type=int, help="images that judge (899; quick: 100)")
    parser.add_argument(
        "--only", choices=["cost", "race"], nargs="+", default=["cost", "race"], help="parts"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    quick = args.quick
    stem = RESULTS / ("training-quick" if quick else "training")
    file = stem.with_suffix(".json")
    found: dict[str, Any] = {"cost": {}, "races": {}}
    if file.exists() and not quick:
        found = json.loads(file.read_text(encoding="utf-8"))
        if "races" not in found:  # of an older form
            found = {"cost": found["cost"], "races": {}, "command": found["command"]}
    command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
    found |= {
        "command": command if "cost" in args.only else found.get("command", command),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": args.threads,
    }

    def write() -> None:
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    if "cost" in args.only:
        width, plans = (16, {8: 60}) if quick else (32, {8: 300, 28: 60})
        found["cost"] = {str(n): cost(width, n, 64, steps) for n, steps in plans.items()}
        write()
    if "race" in args.only:
        run = found["races"].setdefault(args.data, {})
        limit = args.limit or (60.0 if quick else 240.0)
        if run.get("limit", limit) != limit:
            raise SystemExit(f"{file} holds trainings of --limit {run['limit']:g}: move it away")
        run |= {"command": command, "limit": limit, "seeds": args.seeds or (1 if quick else 3)}
        count = args.samples or (100 if quick else 899)
        lengths = (20, 40) if quick else tuple(25 * 2**k for k in range(14))
        judges, curves = Judges(args.data, count), run.setdefault("curves", {})
        run["floor"] = judges.floor
        recipe = str(recipe_for(judges.train.x.shape[1:]))
        if run.setdefault("recipe", recipe) != recipe:
            del curves["scoresde"]
            run["recipe"] = recipe
        race(judges, run["seeds"], limit, lengths, curves, write)
    text = report(found)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
