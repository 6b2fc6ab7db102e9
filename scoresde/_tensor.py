"""Broadcasting, linear combinations, and the module of functions that fits a time."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Scalar", "Time", "expand", "lincomb", "log", "user_time", "wide", "xp"]

Scalar: TypeAlias = Any
"""A coefficient: a Python float along a grid, a `(B, 1, ..., 1)` tensor per sample."""

Time: TypeAlias = Any
"""A time: a Python float, a numpy array or a tensor; what comes back is of the same kind."""


def xp(t: Time) -> ModuleType | Any:
    """The module whose `exp`, `log`, `expm1`, ... take `t`: math, numpy or torch."""
    if isinstance(t, Tensor):
        return torch
    if hasattr(t, "__array__"):
        import numpy

        return numpy
    return math


def log(x: Scalar) -> Scalar:
    """Logarithm with log 0 = -inf for floats too."""
    if isinstance(x, float | int) and x == 0:
        return -math.inf
    return xp(x).log(x)


def wide(t: Tensor) -> Tensor:
    """`t` in float64, in which schedules are computed (float32 where a device has no float64)."""
    return t.float() if t.device.type == "mps" else t.double()


def expand(t: Tensor, like: Tensor) -> Tensor:
    """A `(B,)` tensor as `(B, 1, ..., 1)`, ready to multiply `like` of shape `(B, *D)`."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def user_time(t: Scalar, like: Tensor) -> Tensor:
    """The time as a user's own function of (t, x) receives it.

    A 0-dim float64 CPU tensor along a grid, which mixes with any device and dtype without a
    synchronisation; `(B, 1, ..., 1)` for one time per sample.
    """
    if isinstance(t, Tensor):
        return expand(t, like)
    return torch.tensor(t, dtype=torch.float64, device="cpu")


def lincomb(*terms: tuple[Scalar, Tensor]) -> Tensor:
    """The sum of `c * m` over pairs (c, m), as one multiplication and in-place additions.

    `c` is a Python float or a `(B, 1, ..., 1)` tensor. Pairs that hold the very same tensor
    are merged first, and zero floats are dropped, so a step costs one pass per tensor.
    """
    merged: list[list[Any]] = []
    for c, m in terms:
        for pair in merged:
            if pair[1] is m:
                pair[0] = pair[0] + c
                break
        else:
            merged.append([c, m])
    (c0, m0), *rest = merged
    rest = [pair for pair in rest if isinstance(pair[0], Tensor) or pair[0] != 0.0]
    if rest and not isinstance(c0, Tensor) and c0 == 1.0 and not isinstance(rest[0][0], Tensor):
        c1, m1 = rest.pop(0)
        out = torch.add(m0, m1, alpha=c1)
    else:
        out = m0 * c0
    for c, m in rest:
        out = out.addcmul_(c, m) if isinstance(c, Tensor) else out.add_(m, alpha=c)
    return out
