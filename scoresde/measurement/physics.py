"""Operators and noises of deepinv, recognised by their attributes; deepinv is not imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._check import fail, refuse, wrong_type
from scoresde._tensor import own_dtype
from scoresde.measurement.base import LinearOperator
from scoresde.measurement.noises import GaussianNoise, PoissonNoise
from scoresde.measurement.users import Linear

__all__ = ["noise_of_physics", "operator_of_physics"]


def operator_of_physics(
    physics: Any,  # of deepinv, which is optional
    shape: Sequence[int],
) -> LinearOperator | Callable[[Tensor], Tensor]:
    """The map of a physics of deepinv: linear, and checked, if it has an `A_adjoint`.

    It is computed in the precision of its own tensors, float32 if there are none, and on their
    device; results return to the precision and device of the argument.

    Args:
        physics: an object with a method A: (B, *D) -> (B, *M).
        shape: the shape of a sample, (*D).
    """
    if not callable(getattr(physics, "A", None)):
        raise wrong_type("physics", "a physics of deepinv, with a method A", physics, "pass one")
    module = physics if isinstance(physics, nn.Module) else nn.Module()
    dtype = own_dtype(module) or torch.float32
    like = next(chain(module.parameters(), module.buffers()), None)
    device = torch.device("cpu") if like is None else like.device

    def inside(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            inner = dtype if x.is_floating_point() else dtype.to_complex()
            value: object = fn(x.to(device, inner))
            if not isinstance(value, Tensor):
                remedy = "take one physics of a stack, with its part of y"
                raise wrong_type("physics", "one tensor for a batch", value, remedy)
            outer = x.real.dtype if value.is_floating_point() else x.dtype.to_complex()
            return value.to(x.device, outer)

        call.__name__ = type(physics).__name__
        return call

    if not callable(getattr(physics, "A_adjoint", None)):
        return inside(physics.A)
    adjoint = inside(physics.A_adjoint)
    return Linear(inside(physics.A), adjoint, shape=tuple(shape), dtype=dtype, device=device)


def noise_of_physics(physics: Any) -> GaussianNoise | PoissonNoise:  # of deepinv
    """The noise of a physics of deepinv, by the name of the class of its `noise_model`.

    Other classes have a `sigma` or a `gain` as well, with another meaning, so that the attributes
    alone do not tell.

    Raises:
        ValueError: the noise is of another class, one of several levels, or not normalised.
    """
    noise = getattr(physics, "noise_model", None)
    kind = type(noise).__name__
    if kind == "ZeroNoise":
        return GaussianNoise(0.0)
    if kind == "GaussianNoise":
        return GaussianNoise(_number("sigma", noise.sigma))  # type: ignore[union-attr]
    if kind == "PoissonNoise":
        if not bool(getattr(noise, "normalize", True)):
            remedy = "build it with normalize=True and multiply y by the gain"
            raise fail("physics.noise_model", "PoissonNoise(normalize=True)", False, remedy)
        return PoissonNoise(_number("gain", noise.gain))  # type: ignore[union-attr]
    expected = "ZeroNoise, GaussianNoise or PoissonNoise"
    remedy = "pass noise= with a LogLikelihood of your own"
    raise refuse("physics.noise_model", expected, kind, remedy)


def _number(name: str, value: Tensor | float) -> float:
    level = torch.as_tensor(value)
    if level.numel() != 1:
        remedy = "make one measurement of each level, or pass noise="
        raise fail(f"physics.noise_model.{name}", "one number", level, remedy)
    return float(level)
