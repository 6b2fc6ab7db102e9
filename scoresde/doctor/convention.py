"""The time convention: is the model told the time that it was trained with?

The score of noised data changes with the time as the noise does, s(t, x) = grad log p_t(x), and no
other time t' fits the noise level of t. A model that is told another time (999 t, T - t, the
log-SNR) gives the score of other noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from scoresde._tensor import Scalar
from scoresde.cond import Cond
from scoresde.doctor.probe import Gain, Probe, eps_of
from scoresde.doctor.repair import LEAST, Repair
from scoresde.model import TIMES, FunctionScore, Preconditioned, ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE

__all__ = ["convention_repairs"]

FACTORS = (1e-3, 1 / 999, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 999.0, 1000.0)
"""Factors on the time that are tried; the best is refined."""

STEPS = (-0.08, -0.04, 0.04, 0.08)
"""The refinement, in the logarithm of the factor."""


@final
class Retimed(ScoreModel):
    """A model that is asked for its score at another time than that of the state.

    Args:
        model: the model.
        warp: the function of t that gives the time it is asked at.
    """

    def __init__(self, model: ScoreModel, warp: Callable[[float], float]) -> None:
        super().__init__()
        self.model, self.warp = model, warp
        self.sde = model.sde

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        sde = self.sde
        time = min(max(self.warp(node.t), sde.t_min or 1e-9), sde.T)
        return Prediction(x, node, self.model.predict(sde.at(time), x, cond).score, "score")


@final
@dataclass(frozen=True, eq=False)
class _Way:
    """A way to tell a model the time.

    Attributes:
        what: its description.
        model: the model that is told the time in this way.
        factor: the factor on the time, if it is no more than that.
    """

    what: str
    model: ScoreModel
    factor: float | None = None


def convention_repairs(probe: Probe) -> list[Repair]:
    """The model with each of the usual conventions of time, and with the factor that fits best.

    All of them are tried on a few rows at some levels, and the best one on all. Its gain is the
    mean difference of the losses of each row, with its standard error.
    """

    def gain(way: _Way) -> Gain:
        try:
            return probe.glance(way.model, probe.cond)
        except ValueError:  # a function may refuse times beyond T
            return Gain(-math.inf, 0.0)

    tried = [(gain(way), way) for way in _ways(probe.model, probe.sde)]
    best, way = max(tried, key=lambda pair: pair[0].mean)
    if best.mean < LEAST / 2:
        return []
    if way.factor is not None and 0.01 < way.factor < 100.0:
        near = [_scaled(probe.model, way.factor * math.exp(step)) for step in STEPS]
        tried += [(gain(each), each) for each in near]
        way = max(tried, key=lambda pair: pair[0].mean)[1]
    try:
        eps = tuple(eps_of(p) for p in probe.predict(way.model, probe.cond))
    except ValueError:
        return []
    return [
        Repair(
            name="time",
            number=float(probe.nats(probe.losses).mean()),
            reference=float(probe.nats(probe.loss(eps)).mean()),
            sentence=f"The model is told a wrong time: {way.what} fits the data better.",
            remedy="Tell the network the time as it was trained: Preconditioned(..., time=...) "
            "takes a name or a function of the node.",
            gain=probe.gain(eps),
            harms=probe.harms(eps),
            eps=eps,
            tests=len(tried),
        )
    ]


def _ways(model: ScoreModel, sde: AffineSDE) -> Iterator[_Way]:
    """The conventions that are tried."""
    for factor in FACTORS:
        yield _scaled(model, factor)
    if not isinstance(model, Preconditioned):
        yield _Way("the time T - t", Retimed(model, lambda t: sde.T - t))
        return
    others: dict[str, Callable[[Node], Scalar]] = {
        "t": TIMES["t"],
        "T - t": lambda node: sde.T - node.t,
        "999 t": lambda node: 999.0 * node.t,
        "1000 t": lambda node: 1000.0 * node.t,
        "the log-SNR": TIMES["log_snr"],
        "minus the log-SNR": lambda node: -node.log_snr,
        "sigma": lambda node: node.sigma,
        "log(sigma / alpha) / 4": TIMES["log_sigma/4"],
    }
    for what, time in others.items():
        yield _Way(what, _told(model, time))


def _scaled(model: ScoreModel, factor: float) -> _Way:
    """The model that is told `factor` times what it is told now."""
    what = f"{factor:.3g} times the time"
    extreme = not 0.01 < factor < 100.0  # only a function may take times far beyond T
    if extreme and isinstance(model, FunctionScore) and not isinstance(model.fn, nn.Module):
        fn = model.fn
        told = FunctionScore(model.sde, lambda t, x, **cond: fn(factor * t, x, **cond))
        return _Way(what, told, factor)
    if not isinstance(model, Preconditioned):
        return _Way(what, Retimed(model, lambda t: factor * t), factor)
    own = model.time if callable(model.time) else TIMES[model.time]
    return _Way(what, _told(model, lambda node: factor * own(node)), factor)


def _told(model: Preconditioned, time: Callable[[Node], Scalar]) -> Preconditioned:
    """The same network, told the time by another function."""
    return Preconditioned(model.net, model.sde, model.predicts, time, model.sigma_data, model.null)
