"""Faults that are planted in exact models and in trained networks, for `doctor.py`.

Each fault has three sizes, from the largest to the smallest, and is found only if its name is
among the findings; `NAMES` has it. `SMALLER` has sizes at which a fault ceases to be found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import SDE, VPSDE, FunctionScore, Preconditioned, ScoreModel
from scoresde.losses import UniformTime
from scoresde.losses.times import TimeSampler
from scoresde.nets import network_for
from scoresde.node import Node
from scoresde.options import Loss
from scoresde.prediction import Prediction

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.doctor_models import STEPS, VP, OfClasses, Pairs, classes, kept, mixture

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

ORACLES: Mapping[str, tuple[Any, ...]] = {
    "scale": (2.0, 1.3, 1.1),
    "sign": (-1.0, -0.5, "output"),
    "coordinate": ("eps", "x0", "flow"),
    "units": ((3.0, 0.0), (0.3, 0.0), (1.0, 1.0)),
    "t_end": (0.3, 0.15, 0.08),
    "labels": (1.0, 0.5, 0.25),
    "time": (3.0, 2.0, 1.5),
    "untrained": (0.0, 0.1, 0.3),
    "low noise": (0.2, 0.1, 0.05),
    "buffers averaged": (0.5, 0.8, 0.9),
    "prior": (2.0, 5.0, 8.0),
    "dropout": (0.3, 0.1, 0.03),
}
"""The three sizes of each fault in exact models."""

NETWORKS = {**ORACLES, "time": (999.0, 3.0, 1.5), "untrained": (0, 5, 10)}
"""The same in trained networks; those that are untrained are named by their steps."""

SMALLER: Mapping[str, tuple[Any, ...]] = {
    "scale": (1.07, 1.05, 1.04, 1.03),
    "units": ((1.5, 0.0), (1.4, 0.0), (1.2, 0.0)),
    "t_end": (0.05, 0.03, 0.02, 0.015),
    "labels": (0.1, 0.05, 0.02, 0.01),
    "time": (1.3, 1.2, 1.1, 1.05),
    "low noise": (0.04, 0.03, 0.02),
    "buffers averaged": (0.95, 0.98, 0.99, 0.999),
    "prior": (9.0, 10.0, 11.0, 12.0),
    "dropout": (0.01, 3e-3, 1e-3, 3e-4),
}
"""Sizes below those of `ORACLES`, of the faults that can be as small as one likes."""


@dataclass(frozen=True)
class Planted:
    """A model with a fault, and the arguments of `diagnose`."""

    model: ScoreModel
    data: tuple[Tensor, Mapping[str, Tensor] | None]
    options: Mapping[str, Any]


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


def shuffled(label: Tensor, share: float, seed: int) -> Tensor:
    """Labels of which a share is in a random order."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(label), generator=generator)[: round(share * len(label))]
    found = label.clone()
    found[rows] = label[rows[torch.randperm(len(rows), generator=generator)]]
    return found


def in_oracles(
    seed: int, sizes: Mapping[str, tuple[Any, ...]] = ORACLES
) -> Iterator[tuple[str, str, Planted]]:
    """(fault, size, planted) in the exact model of the classes, for the sizes of each fault."""
    data = classes(3000, 100 + seed)
    x, cond = data.x.double(), data.cond
    whole = mixture().under(VP)
    for fault, chosen in sizes.items():
        for size in chosen:
            if fault in OF_ANY:
                yield fault, told(fault, size), OF_ANY[fault](OfClasses(), x, cond, size, seed)
                continue
            model, options = _unlabelled(fault, size, whole, seed)
            yield fault, told(fault, size), Planted(model, (x, None), options)


def told(fault: str, size: Any) -> str:  # of any kind of size
    """A size in words."""
    if fault == "units":
        factor, shift = size
        return f"x {factor:g}" if factor != 1.0 else f"+ {shift:g}"
    if isinstance(size, str):
        return f"v as {size}" if fault == "coordinate" else size
    if isinstance(size, int):
        return f"{size} steps"
    form = {"untrained": "random, {:g}", "low noise": "t < {:g}", "prior": "beta_max {:g}"}
    return form.get(fault, "{:.0%}" if fault == "labels" else "{:g}").format(size)


# Faults that leave the network as it is


def _scale(model: ScoreModel, x: Tensor, cond: Any, size: float, seed: int) -> Planted:
    return Planted(Changed(model, _by(size)), (x, cond), {})


def _sign(model: ScoreModel, x: Tensor, cond: Any, size: float | str, seed: int) -> Planted:
    turned = _by(size) if isinstance(size, float) else _negative
    return Planted(Changed(model, turned), (x, cond), {})


def _coordinate(model: ScoreModel, x: Tensor, cond: Any, size: str, seed: int) -> Planted:
    return Planted(Changed(model, _read_as(size)), (x, cond), {})


def _units(model: ScoreModel, x: Tensor, cond: Any, size: Any, seed: int) -> Planted:
    factor, shift = size
    return Planted(model, (factor * x + shift, cond), {})


def _t_end(model: ScoreModel, x: Tensor, cond: Any, size: float, seed: int) -> Planted:
    return Planted(model, (x, cond), {"t_end": size})


def _labels(model: ScoreModel, x: Tensor, cond: Any, size: float, seed: int) -> Planted:
    return Planted(model, (x, {"label": shuffled(cond["label"], size, seed)}), {})


OF_ANY: Mapping[str, Callable[..., Planted]] = {
    "scale": _scale,
    "sign": _sign,
    "coordinate": _coordinate,
    "units": _units,
    "t_end": _t_end,
    "labels": _labels,
}
"""Faults of the output, the data and the end, which are planted alike in every model."""


def _by(c: float) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, c * p.score, "score")


def _negative(p: Prediction) -> Prediction:
    return Prediction(p.x, p.node, -p.value, p.kind)


def _read_as(kind: str) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, p.v, kind)


# Faults of exact models


def _unlabelled(
    fault: str, size: float, whole: ScoreModel, seed: int
) -> tuple[ScoreModel, Mapping[str, Any]]:
    """The exact model of the mixture with a fault, and the arguments of `diagnose`."""
    if fault == "time":
        return FunctionScore(VP, _at(whole, size)), {}
    if fault == "untrained":
        return Changed(whole, _random(size, seed)), {}
    if fault == "low noise":
        return Changed(whole, _blind_below(size)), {}
    if fault == "prior":
        return mixture().under(VPSDE(0.1, size)), {}
    if fault == "dropout":
        return Changed(whole, _dropped(nn.Dropout(size))), {}
    return _averaged(whole, size), {"raw": whole}


def _averaged(model: ScoreModel, decay: float) -> ScoreModel:
    """The model with its buffers multiplied by a factor, as by an average that starts at 0."""
    found = deepcopy(model)
    for buffer in found.buffers():
        buffer.mul_(decay)
    return found


def _at(model: ScoreModel, c: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, x: model.score(min(c * float(t), 1.0), x)


def _random(size: float, seed: int) -> Callable[[Prediction], Prediction]:
    """A v that is a random smooth function of x, as of a network before its training."""
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda p: Prediction(p.x, p.node, size * (p.x @ weight / 8**0.5).sin(), "v")


def _blind_below(t: float) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, p.v if p.node.t > t else 0 * p.v, "v")


def _dropped(layer: nn.Module) -> Callable[[Prediction], Prediction]:
    return lambda p: Prediction(p.x, p.node, layer(p.v), "v")


# Faults of networks


def in_networks(seed: int, keep: Path) -> Iterator[tuple[str, str, Planted]]:
    """(fault, size, planted) in networks that are trained here, or read from the folder `keep`."""
    own, data = classes(4000, seed), classes(3000, 100 + seed)
    x, cond = data.x, data.cond

    def made(sde: SDE = VP, loss: Loss = Loss()) -> Pairs:
        early = tuple(step for step in NETWORKS["untrained"] if step)
        return kept(keep, "classes", own, seed, sde=sde, loss=loss, keep=early)

    whole = made()
    model, raw = whole[STEPS]
    assert isinstance(model, Preconditioned)
    for fault, sizes in NETWORKS.items():
        for size in sizes:
            if fault in OF_ANY:
                planted = OF_ANY[fault](model, x, cond, size, seed)
            elif fault == "time":
                planted = Planted(_told(model, size), (x, cond), {})
            elif fault == "untrained":
                early = whole[size][0] if size else _fresh(seed)
                planted = Planted(early, (x, cond), {})
            elif fault == "low noise":
                late = made(loss=Loss(time=Above(size)))[STEPS][0]
                planted = Planted(late, (x, cond), {})
            elif fault == "prior":
                planted = Planted(made(sde=VPSDE(0.1, size))[STEPS][0], (x, cond), {})
            elif fault == "dropout":
                net = Dropped(model.net, size)
                planted = Planted(
                    Preconditioned(net, VP, null={"label": -1}).train(), (x, cond), {}
                )
            else:
                planted = Planted(_averaged(model, size), (x, cond), {"raw": raw})
            yield fault, told(fault, size), planted


def _told(model: Preconditioned, c: float) -> Preconditioned:
    """The network, told c times the time."""
    return Preconditioned(model.net, model.sde, time=lambda node: c * node.t)


def _fresh(seed: int) -> Preconditioned:
    torch.manual_seed(seed)
    return Preconditioned(network_for((8,), classes=6, preset="tiny"), VP)
