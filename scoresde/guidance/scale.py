"""The scale of a guidance: a number or a function of the log-SNR, on all noise levels or some."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, finite, instance, keep, wrong_type
from scoresde._html import Shown
from scoresde._tensor import Scalar, lincomb
from scoresde.node import Node
from scoresde.sde import SDE, as_affine

__all__ = ["Interval", "Scale", "ScaleLike", "always", "between"]

ScaleLike: TypeAlias = float | Callable[[Tensor], Any]  # Any: a number or a tensor, as of eta
"""A scale: a number, or a function of the log-SNR."""

Interval: TypeAlias = Sequence[float] | None
"""The lowest and the highest log-SNR at which there is guidance, or None for all."""


@final
@dataclass(frozen=True, repr=False)
class Scale(Shown):
    """The scale w of a guidance at every point of the schedule.

    Args:
        value: a number, or a function of the log-SNR log(alpha / sigma). Along a grid the function
            receives a 0-dim float64 CPU tensor, and for one time per sample (B, 1, ..., 1).
        interval: (low, high) in log-SNR, both included, outside of which the scale is `outside`;
            None for all noise levels.
        outside: the scale that means no guidance.

    Raises:
        TypeError: the value is neither a number nor a function.
        ValueError: the value is not finite, or the interval is not two increasing numbers.

    Example:
        >>> from scoresde import VPSDE
        >>> scale = Scale(2.0, interval=(-1.0, 2.0))
        >>> [scale.at(VPSDE().at(t)) for t in (0.1, 0.4, 1.0)]
        [2.0, 2.0, 1.0]
    """

    value: ScaleLike
    interval: Interval = None
    outside: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.value):
            remedy = "pass a number such as 2.0, or a function of the log-SNR"
            object.__setattr__(self, "value", finite("scale", self.value, remedy))
        remedy = "1 is no guidance for a scale between two scores, 0 for one that is added"
        keep(self, "outside", finite, remedy)
        if self.interval is None:
            return
        remedy = "pass (low, high) in log(alpha / sigma), e.g. (-1.5, 1.5)"
        given = self.interval
        if not isinstance(given, list | tuple):
            raise wrong_type("interval", "two numbers", given, remedy)
        ends = tuple(_end(end, remedy) for end in given)
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise fail("interval", "two increasing numbers", self.interval, remedy)
        object.__setattr__(self, "interval", ends)

    def check(self, sde: SDE) -> None:
        """Raise a TypeError if the scale depends on the log-SNR and the SDE has none."""
        if callable(self.value) or self.interval is not None:
            as_affine("sde", sde, "pass a constant scale and no interval")

    def at(self, node: Node) -> Scalar:
        """The scale at a node: a float along a grid, (B, 1, ..., 1) if it differs in a batch.

        Raises:
            ValueError: a function returns a number that is not finite.
        """
        if not callable(self.value) and self.interval is None:
            return self.value
        instance("node", node, Node, "pass sde.at(t), for a time t")
        level = node.log_snr
        if not isinstance(level, Tensor):
            if self.interval is not None and not self.interval[0] <= level <= self.interval[1]:
                return self.outside
            if not callable(self.value):
                return self.value
            found = self.value(torch.tensor(level, dtype=torch.float64, device="cpu"))
            remedy = "scale is a function of the log-SNR with finite values"
            return finite(f"scale({level:g})", found, remedy)
        found = _values(self.value(level), level) if callable(self.value) else self.value
        if self.interval is None:
            return found
        inside = (level >= self.interval[0]) & (level <= self.interval[1])
        return torch.where(inside, found, self.outside)


def _end(end: object, remedy: str) -> float:
    """An end of an interval, which may be infinite."""
    if isinstance(end, float) and math.isinf(end):
        return end
    return finite("interval", end, remedy)


def _values(found: object, level: Tensor) -> Scalar:
    """What a function of the log-SNR returned for one level per sample, in its precision."""
    remedy = "return a number, or one for each log-SNR that the function receives"
    if not isinstance(found, Tensor):
        return finite("scale(log_snr)", found, remedy)
    if found.ndim and found.shape != level.shape:
        raise fail("scale(log_snr)", f"a number or shape {tuple(level.shape)}", found, remedy)
    return found.to(level)


def always(scale: Scalar, number: float) -> bool:
    """Whether the scale is this number for all samples, without a synchronisation."""
    return not isinstance(scale, Tensor) and scale == number


def between(start: Tensor, end: Tensor, scale: Scalar) -> Tensor:
    """start + scale (end - start), (B, *D), for a scale that is a float or (B, 1, ..., 1)."""
    if isinstance(scale, Tensor):
        scale = scale.to(start)
    return lincomb((scale, end), (1.0 - scale, start))
