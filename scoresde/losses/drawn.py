"""Points of the schedule at random times, and what losses and samplers of times share."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._tensor import expand, wide
from scoresde.node import AffineNode
from scoresde.sde import SDE, AffineSDE, as_affine

__all__ = ["Drawn", "affine_of", "moved"]


def affine_of(sde: SDE) -> AffineSDE:
    """The SDE, which must be affine; else a TypeError says why."""
    remedy = "denoising score matching needs x_t given x_0 in closed form; see LinearSDE"
    return as_affine("model.sde", sde, remedy)


@final
class Drawn(AffineNode):
    """`sde.at(t, like)` for random times, which computes g, log_snr and rate on first access.

    Most losses need only alpha and sigma, and schedule evaluations dominate their cost beside
    the network.
    """

    __slots__ = ("_like", "_sde", "_time")

    def __init__(self, sde: AffineSDE, t: Tensor, like: Tensor) -> None:
        if t.shape != like.shape[:1]:
            remedy = "return as many as requested"
            raise fail("time", f"times of shape ({len(like)},)", t, remedy)
        place = moved(t, like)
        if place.device.type == "cpu":  # on an accelerator this would force a synchronisation
            for end in place.aminmax():
                sde.check_time("t", float(end))
        self._sde, self._like = sde, like
        self._time = expand(wide(place), like)
        self.t = self.column_of(self._time, like)
        self.alpha = sde.alpha(self._time).to(like)
        self.sigma = sde.sigma(self._time).to(like)

    def __getattr__(self, name: str) -> Any:  # as in Node
        if name not in ("g", "log_snr", "rate"):
            return super().__getattr__(name)
        value = getattr(self._sde, name)(self._time)
        dtype = self.t.dtype if name == "log_snr" else self._like.dtype  # as in Node.fitted
        value = value.to(self._like.device, dtype)
        setattr(self, name, value)
        return value


def moved(drawn: Tensor, like: Tensor) -> Tensor:
    """Move random numbers from the CPU to the device of `like`, without a synchronisation."""
    if like.device.type == "mps" and drawn.dtype == torch.float64:
        drawn = drawn.float()
    return drawn.to(like.device, non_blocking=like.device.type != "mps")
