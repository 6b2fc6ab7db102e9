"""What a step of the `Trainer` costs beyond the network's, and how many steps a loss takes.

    python benchmarks/training.py [--quick] [--threads 1] [--seeds 3]

Cost. A bare step is forward, mean square, backward and AdamW on inputs that are there already; a
step of the `Trainer` draws rows, times and noise, and clips, checks, averages and logs as well.
The two take turns, step by step, each with its own copy of the network, and are timed by the
processor's time, to which other work on the machine adds little; figures are medians, of the
ratio over the pairs. "Loss" is what `dsm_loss` takes beyond the network's forward pass, "loading"
what it takes to pick a batch, both as a share of the bare step. Data in memory are picked in the
step itself, so there is no queue that could run dry: loading costs the run its share of the step.
The digits come in their own size of 8 x 8, where a step is short, and enlarged to 28 x 28.

Steps. One U-Net, AdamW, EMA and batch size on the digits; each loss with the target that its
library trains (eps, v or EDM's F). The judges are the same for all, on held-out digits: the error
of eps under uniform times, and the time integral in the bound of the likelihood. The mark is what
the best of the peers' losses reaches, by the first judge, after 3/4 of its steps; reported is at
which step the mean of the seeds first passes it, and the ratio to the best of the peers.
The peers' losses are written here as their documentation states them, on the very same network:

- diffusers-style: eps, t uniform over 1000 whole numbers;
- k-diffusion-style: F of EDM, log sigma normal (-1.2, 1.2), weight 1;
- azula-style: x_0 through its skip, t uniform, weight alpha^2 / sigma^2 + 1, which is F (here v).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from scoresde import VPSDE, Preconditioned, Trainer
from scoresde.data import Data, digits
from scoresde.losses import (
    ImportanceTime,
    LogNormalTime,
    LossTime,
    TimeSampler,
    UniformTime,
    dsm_loss,
)
from scoresde.model import ScoreModel
from scoresde.nets import UNet
from scoresde.options import Loss as Losses
from scoresde.options import Optim
from scoresde.sde import SDE
from scoresde.training import Update
from scoresde.training.stream import Stream
from scoresde.training.validation import Validation

RESULTS = Path(__file__).parent / "results"

LR = 1e-3  # the Trainer's default

Loss = Callable[[ScoreModel, Tensor, torch.Generator], Tensor]


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

    optim, loss = Optim(batch_size=batch, lr=LR), Losses(function=timed, time=EVEN)
    Trainer(model, x, steps=steps + 1, optim=optim, loss=loss).fit()
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


# How many steps a loss takes


class WholeTimes(TimeSampler):
    """t = (i + 1) / 1000 with i uniform in 0 ... 999."""

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        i = torch.randint(0, 1000, (n,), generator=generator)
        return (i.double() + 1) / 1000, None


def unit(time: TimeSampler) -> Loss:
    """The mean square of the network's own output, at times drawn one by one."""

    def loss(model: ScoreModel, x0: Tensor, generator: torch.Generator) -> Tensor:
        t, _ = time.sample(model.sde, len(x0), generator)
        node = model.sde.at(t, like=x0)
        eps = torch.randn(x0.shape, generator=generator)
        said = model.predict(node, node.alpha * x0 + node.sigma * eps)
        if said.kind == "eps":
            return (said.value - eps).square().flatten(1).mean(1)
        if said.kind == "v":
            v = node.alpha * eps - node.sigma * x0
            return (said.value - v).square().flatten(1).mean(1)
        # x_0 = c_skip x + c_out F in units of x / alpha: the weight on x_0 is 1 / c_out^2.
        s = node.sigma / node.alpha
        weight = (s**2 + 1) / s**2
        return (weight * (said.x0 - x0).square()).flatten(1).mean(1)

    return loss


def ours(time: TimeSampler | None, weighting: str) -> Loss:
    def loss(model: ScoreModel, x0: Tensor, generator: torch.Generator) -> Tensor:
        return dsm_loss(model, x0, weighting=weighting, time=time, generator=generator)

    return loss


EVEN = UniformTime(low_discrepancy=True)
EDM_TIME = LogNormalTime(mean=-1.2, std=1.2, uniform=0.0, scale=1.0, low_discrepancy=False)
PEERS: dict[str, tuple[str, Loss]] = {
    "diffusers-style: eps, whole t": ("eps", unit(WholeTimes())),
    "k-diffusion-style: F, log-normal": ("edm", unit(EDM_TIME)),
    "azula-style: F, uniform t": ("v", unit(UniformTime(low_discrepancy=False))),
}
OURS: dict[str, tuple[str, Loss]] = {
    "eps, even t": ("eps", ours(EVEN, "eps")),
    "eps, t by its loss": ("eps", ours(LossTime(std=0.5, low_discrepancy=True), "eps")),
    "F of EDM, even t": ("edm", ours(EVEN, "eps")),
    "F of EDM, t by its loss": ("edm", ours(LossTime(std=0.5, low_discrepancy=True), "eps")),
}


@torch.no_grad()
def bound(model: ScoreModel, x: Tensor) -> float:
    """The time integral in the bound of the likelihood, nats per dimension."""
    time, generator = ImportanceTime(low_discrepancy=True), torch.Generator().manual_seed(98)
    found = [
        dsm_loss(model, x, weighting="likelihood", time=time, generator=generator).mean()
        for _ in range(8)
    ]
    return float(torch.stack(found).mean()) * (model.sde.T - model.sde.t_min)


def curve(
    predicts: str, loss: Loss, seed: int, width: int, batch: int, steps: int, every: int
) -> tuple[list[tuple[int, float]], float]:
    """(step, validation loss of the averaged model) of one run, and the `bound` at its end."""
    data, held_out = digits("train"), Data.of(digits("test").x[:450])
    model = Preconditioned(net(width, seed), VPSDE(), predicts=predicts)
    judge = Validation(held_out, Losses(), parts=4, batch_size=450, seed=99)
    update = Update(model, Optim(lr=2e-3, ema=0.98))
    stream, rows = Stream(len(data), batch, seed), []
    for step in range(steps):
        update.set_lr(2e-3 * min(1.0, (step + 1) / 20))
        x0 = data.x[stream.rows(step)]
        update.step(loss(model, x0, stream.generator(step)).mean())
        if (step + 1) % every == 0:
            found = judge(update.result(), torch.device("cpu"))
            rows.append((step + 1, sum(found) / len(found)))
    return rows, bound(update.result(), held_out.x)  # type: ignore[arg-type]


def first_below(rows: list[tuple[int, float]], mark: float) -> float:
    """At which step the loss passes the mark, between rows on a straight line."""
    last = (0, rows[0][1])
    for step, value in rows:
        if value <= mark:
            share = 1.0 if last[1] <= value else (last[1] - mark) / (last[1] - value)
            return last[0] + min(1.0, share) * (step - last[0])
        last = step, value
    return float("inf")


def race(seeds: int, width: int, batch: int, steps: int, every: int) -> dict[str, Any]:
    runs = {
        name: [curve(kind, loss, s, width, batch, steps, every) for s in range(seeds)]
        for name, (kind, loss) in (PEERS | OURS).items()
    }
    mean = {
        name: [
            (rows[0][0], statistics.fmean(value for _, value in rows))
            for rows in zip(*(rows for rows, _ in curves), strict=True)
        ]
        for name, curves in runs.items()
    }
    late = max(1, 3 * (steps // every) // 4)
    mark = min(mean[name][late - 1][1] for name in PEERS)
    reached = {name: first_below(rows, mark) for name, rows in mean.items()}
    best = min(reached[name] for name in PEERS)
    table = {
        name: {
            "steps": reached[name],
            "ratio": reached[name] / best,
            "final": rows[-1][1],
            "spread": max(r[-1][1] for r, _ in runs[name]) - min(r[-1][1] for r, _ in runs[name]),
            "bound": statistics.fmean(nats for _, nats in runs[name]),
        }
        for name, rows in mean.items()
    }
    return {"mark": mark, "losses": table}


def report(found: dict[str, Any]) -> str:
    costs = found["cost"]
    sizes = "\n| --- |" + " ---: |" * len(costs)
    figures = (
        f"| a step, images of | {' | '.join(f'{size} x {size}' for size in costs)} |{sizes}\n"
    )
    figures += "\n".join(
        f"| {key} | {' | '.join(f'{each[key]:.3g}' for each in costs.values())} |"
        for key in next(iter(costs.values()))
    )
    head = (
        "| loss | steps to the mark | ratio to the best peer | final | its spread over seeds "
        "| bound, nats/dim |\n"
    )
    rows = "\n".join(
        f"| {name} | {row['steps']:.0f} | {row['ratio']:.2f} | {row['final']:.4f} "
        f"| {row['spread']:.4f} | {row['bound']:.2f} |"
        for name, row in found["race"]["losses"].items()
    )
    return (
        f"# Training\n\n`{found['command']}`, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads\n\n{figures}\n\n"
        f"Mark: {found['race']['mark']:.4f} (eps, uniform times, held-out digits).\n\n"
        f"{head}| --- | ---: | ---: | ---: | ---: | ---: |\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, help="runs of each loss (3; quick: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    quick = args.quick
    seeds = args.seeds or (1 if quick else 3)
    began = time.perf_counter()
    found: dict[str, Any] = {
        "command": "python benchmarks/training.py"
        + " --quick" * quick
        + (f" --seeds {args.seeds}" if args.seeds else "")
    }
    width, plans = (16, {8: 60}) if quick else (32, {8: 300, 28: 60})
    found["cost"] = {size: cost(width, size, 64, steps) for size, steps in plans.items()}
    found["race"] = race(seeds, 8, 32, *((160, 20) if quick else (600, 25)))
    found["seconds"] = time.perf_counter() - began
    text = report(found)
    RESULTS.mkdir(exist_ok=True)
    name = "training-quick" if quick else "training"
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
