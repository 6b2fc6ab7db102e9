"""Faults that are planted in exact models and in trained networks, for `doctor.py`.

Each fault has three sizes, from the largest to the smallest, and is found only if its name is
among the findings; `NAMES` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import (
    SDE,
    VPSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Preconditioned,
    ScoreModel,
    Trainer,
)
from scoresde.data import Data, load_data, toy
from scoresde.losses import UniformTime
from scoresde.losses.times import TimeSampler
from scoresde.nets import network_for
from scoresde.node import Node
from scoresde.options import Loss, Records
from scoresde.prediction import Prediction

VP = VPSDE()
STEPS = 1000
QUIET = Records(calibrate=None)

NAMES = {
    "scale": "scale",
    "sign": "sign",
    "time": "time",
    "coordinate": "coordinate",
    "untrained": "untrained",
    "low noise": "low_noise",
    "buffers averaged": "average",
    "units": "units",
    "prior": "prior",
    "t_end": "t_end",
    "dropout": "dropout",
    "labels": "labels",
}
"""Each fault, and the name of its finding."""


@dataclass(frozen=True)
class Planted:
    """A model with a fault, and the arguments of `diagnose`."""

    model: ScoreModel
    data: tuple[Tensor, Mapping[str, Tensor] | None]
    options: Mapping[str, Any]


def data_of(name: str, seed: int, n: int = 4000) -> Data:
    """The data of a healthy run."""
    if name == "digits":
        return load_data("digits", split="all")  # type: ignore[return-value]  # is in memory
    return classes(n, seed) if name == "classes" else toy(name, n, seed=seed)


@cache
def mixture() -> GaussianMixture:
    """Six Gaussians of any covariance in 8-D, standardised."""
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    root = 0.25 * torch.randn(6, 8, 8, generator=generator, dtype=torch.float64)
    covariances = root @ root.transpose(1, 2) + 0.02 * torch.eye(8, dtype=torch.float64)
    means = means - means.mean(0)
    within = covariances.diagonal(dim1=1, dim2=2).mean()
    scale = float((means.square().mean() + within).sqrt())
    return GaussianMixture(means / scale, covariances / scale**2)


@cache
def components() -> tuple[Gaussian, ...]:
    """The components of the mixture."""
    own = mixture()
    return tuple(Gaussian(m, c) for m, c in zip(own.means, own.full_covariances(), strict=True))


def classes(n: int, seed: int) -> Data:
    """Samples of the mixture with their components as labels."""
    label = torch.randint(6, (n,), generator=torch.Generator().manual_seed(seed))
    x = torch.empty(n, 8)
    for k, part in enumerate(components()):
        rows = label == k
        x[rows] = part.sample(int(rows.sum()), seed=10 * seed + k).float()
    return Data(x, cond={"label": label}, classes=6)


class OfClasses(ScoreModel):
    """The exact score of the component of the label, and of the mixture without one."""

    def __init__(self, sde: SDE = VP) -> None:
        super().__init__()
        self.sde = sde
        self.whole = mixture().under(sde)  # type: ignore[arg-type]  # affine here
        self.parts = nn.ModuleList(part.under(sde) for part in components())  # type: ignore[arg-type]

    @property
    def nulls(self) -> Mapping[str, object]:
        return {"label": -1}

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.whole.data_scale

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        value = self.whole.predict(node, x).v
        if cond:
            for k, part in enumerate(self.parts):
                value = torch.where((cond["label"] == k)[:, None], part.predict(node, x).v, value)
        return Prediction(x, node, value, "v")


class Changed(ScoreModel):
    """A model whose predictions go through a function."""

    def __init__(self, inner: ScoreModel, change: Callable[[Prediction], Prediction]) -> None:
        super().__init__()
        self.inner, self.change, self.sde = inner, change, inner.sde

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.inner.nulls

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.inner.data_scale

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        return self.change(self.inner.predict(node, x, cond))


class Dropped(nn.Module):
    """A network with dropout on its output."""

    def __init__(self, net: nn.Module, share: float) -> None:
        super().__init__()
        self.net, self.dropout = net, nn.Dropout(share)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        named = {} if label is None else {"label": label}
        return self.dropout(self.net(x, t, **named))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Above(TimeSampler):
    """Uniform times above t."""

    t: float

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        drawn, weights = UniformTime().sample(sde, n, generator)
        return self.t + (sde.T - self.t) * drawn / sde.T, weights


def train(
    data: Data,
    seed: int,
    *,
    steps: int = STEPS,
    sde: SDE = VP,
    loss: Loss = Loss(),
    keep: tuple[int, ...] = (),
) -> dict[int, tuple[ScoreModel, ScoreModel]]:
    """A tiny network; for each step of `keep` its averaged and its raw model, the last always."""
    torch.manual_seed(seed)
    net = network_for(tuple(data.x.shape[1:]), classes=data.classes, preset="tiny")
    found: dict[int, tuple[ScoreModel, ScoreModel]] = {}

    def hold(step: int, averaged: ScoreModel) -> None:
        if step in {*keep, steps}:
            found[step] = deepcopy(averaged).eval(), deepcopy(trainer.model).eval()

    every = min([*keep, steps])
    trainer = Trainer(
        Preconditioned(net, sde),
        data,
        steps=steps,
        seed=seed,
        loss=loss,
        records=QUIET,
        callback=hold,
        callback_every=every,
        device="cpu",
    )
    trainer.fit()
    return found


def shuffled(label: Tensor, share: float, seed: int) -> Tensor:
    """Labels of which a share is in a random order."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(label), generator=generator)[: round(share * len(label))]
    found = label.clone()
    found[rows] = label[rows[torch.randperm(len(rows), generator=generator)]]
    return found


def _of_model(model: ScoreModel) -> Iterator[tuple[str, str, ScoreModel]]:
    """Faults of the output, which need no other model."""
    for c in (2.0, 1.3, 1.1):
        yield "scale", f"{c:g}", Changed(model, _by(c))
    yield "sign", "-1", Changed(model, _by(-1.0))
    yield "sign", "-0.5", Changed(model, _by(-0.5))
    yield "sign", "output", Changed(model, lambda p: Prediction(p.x, p.node, -p.value, p.kind))
    for kind in ("eps", "x0", "flow"):
        yield "coordinate", f"v as {kind}", Changed(model, _read_as(kind))


def _by(c: float) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, c * p.score, "score")


def _read_as(kind: str) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, p.v, kind)


def _of_data(
    model: ScoreModel, x: Tensor, cond: Mapping[str, Tensor], seed: int
) -> Iterator[tuple[str, str, Planted]]:
    """Faults of the data and of the end, which leave the model as it is."""
    for name, other in (("x 3", 3 * x), ("x 0.3", 0.3 * x), ("+ 1", x + 1)):
        yield "units", name, Planted(model, (other, cond), {})
    for t in (0.3, 0.15, 0.08):
        yield "t_end", f"{t:g}", Planted(model, (x, cond), {"t_end": t})
    for share in (1.0, 0.5, 0.25):
        label = shuffled(cond["label"], share, seed)
        yield "labels", f"{share:.0%}", Planted(model, (x, {"label": label}), {})


def in_oracles(seed: int) -> Iterator[tuple[str, str, Planted]]:
    """(fault, size, planted) in the exact model of the classes."""
    data = classes(3000, 100 + seed)
    x, cond = data.x.double(), data.cond
    exact = OfClasses()
    for fault, size, model in _of_model(exact):
        yield fault, size, Planted(model, (x, cond), {})
    yield from _of_data(exact, x, cond, seed)
    whole = mixture().under(VP)
    for c in (3.0, 2.0, 1.5):
        model = FunctionScore(VP, _at(whole, c))
        yield "time", f"{c:g}", Planted(model, (x, None), {})
    for size in (0.0, 0.1, 0.3):
        model = Changed(whole, _random(size, seed))
        yield "untrained", f"random, {size:g}", Planted(model, (x, None), {})
    for t in (0.2, 0.1, 0.05):
        model = Changed(whole, _blind_below(t))
        yield "low noise", f"t < {t:g}", Planted(model, (x, None), {})
    for decay in (0.5, 0.8, 0.9):
        averaged = deepcopy(whole)
        for name, buffer in averaged.named_buffers():
            setattr(averaged, name, decay * buffer)
        yield "buffers averaged", f"{decay:g}", Planted(averaged, (x, None), {"raw": whole})
    for beta in (2.0, 5.0, 8.0):
        short = mixture().under(VPSDE(0.1, beta))
        yield "prior", f"beta_max {beta:g}", Planted(short, (x, None), {})
    for share in (0.3, 0.1, 0.03):
        layer = nn.Dropout(share)
        model = Changed(whole, lambda p, d=layer: Prediction(p.x, p.node, d(p.v), "v"))  # type: ignore[misc]
        yield "dropout", f"{share:g}", Planted(model, (x, None), {})


def _at(model: ScoreModel, c: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, x: model.score(min(c * float(t), 1.0), x)


def _random(size: float, seed: int) -> Callable[[Prediction], Prediction]:
    """A v that is a random smooth function of x, as of a network before its training."""
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda p: Prediction(p.x, p.node, size * (p.x @ weight / 8**0.5).sin(), "v")


def _blind_below(t: float) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, p.v if p.node.t > t else 0 * p.v, "v")


def in_networks(seed: int) -> Iterator[tuple[str, str, Planted]]:
    """(fault, size, planted) in networks that are trained here."""
    own, data = classes(4000, seed), classes(3000, 100 + seed)
    x, cond = data.x, data.cond
    kept = train(own, seed, keep=(5, 10))
    model, raw = kept[STEPS]
    assert isinstance(model, Preconditioned)
    for fault, size, changed in _of_model(model):
        yield fault, size, Planted(changed, (x, cond), {})
    yield from _of_data(model, x, cond, seed)
    for c in (999.0, 3.0, 1.5):
        told = Preconditioned(model.net, VP, time=lambda node, c=c: c * node.t)  # type: ignore[misc]
        yield "time", f"{c:g}", Planted(told, (x, cond), {})
    fresh = Preconditioned(network_for((8,), classes=6, preset="tiny"), VP)
    for step, early in ((0, fresh), (5, kept[5][0]), (10, kept[10][0])):
        yield "untrained", f"{step} steps", Planted(early, (x, cond), {})
    for t in (0.2, 0.1, 0.05):
        late = train(own, seed, loss=Loss(time=Above(t)))[STEPS][0]
        yield "low noise", f"t < {t:g}", Planted(late, (x, cond), {})
    for decay in (0.5, 0.8, 0.9):
        averaged = deepcopy(model)
        for buffer in averaged.buffers():
            buffer.mul_(decay)
        yield "buffers averaged", f"{decay:g}", Planted(averaged, (x, cond), {"raw": raw})
    for beta in (2.0, 5.0, 8.0):
        short = train(own, seed, sde=VPSDE(0.1, beta))[STEPS][0]
        yield "prior", f"beta_max {beta:g}", Planted(short, (x, cond), {})
    for share in (0.3, 0.1, 0.03):
        dropped = Preconditioned(Dropped(model.net, share), VP, null={"label": -1}).train()
        yield "dropout", f"{share:g}", Planted(dropped, (x, cond), {})
