"""Broadcasting, linear combinations, and the module of functions that fits a time."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from types import ModuleType
from typing import Any, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde._check import seed as check_seed

__all__ = [
    "Scalar",
    "Time",
    "as_device",
    "expand",
    "lincomb",
    "log",
    "log1p",
    "ordinary",
    "over",
    "seeded",
    "state_dtype",
    "uncompiled",
    "user_time",
    "wide",
    "xp",
]

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
    with _quiet(x):
        return xp(x).log(x)


def log1p(x: Scalar) -> Scalar:
    """log(1 + x) with log 0 = -inf, for floats too."""
    if isinstance(x, float | int) and x == -1:
        return -math.inf
    with _quiet(x):
        return xp(x).log1p(x)


def over(a: float, b: Scalar) -> Scalar:
    """a / b with a / 0 infinite, of the sign of a, for floats too."""
    if isinstance(b, float | int) and b == 0:
        return math.copysign(math.inf, a)
    with _quiet(b):
        return a / b


def _quiet(x: Scalar) -> AbstractContextManager[object]:
    """Without numpy's warning of a division by zero, whose infinity is meant."""
    m = xp(x)
    return m.errstate(divide="ignore") if hasattr(m, "errstate") else nullcontext()


def wide(t: Tensor) -> Tensor:
    """`t` in float64, in which schedules are computed (float32 where a device has no float64)."""
    return t.float() if t.device.type == "mps" else t.double()


def expand(t: Tensor, like: Tensor) -> Tensor:
    """A `(B,)` tensor as `(B, 1, ..., 1)`, ready to multiply `like` of shape `(B, *D)`."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of the states beside numbers of this one: float32 for those of half."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def seeded(seed: object) -> torch.Generator:
    """A CPU generator of a seed: the same numbers whatever device is the default.

    Raises:
        ValueError: the seed is no integer in [0, 2**63).
    """
    return torch.Generator("cpu").manual_seed(check_seed(seed))


def as_device(device: str | torch.device, remedy: str) -> torch.device:
    """A device, if this machine has it.

    Raises:
        ValueError: it has not.
    """
    try:
        made = torch.device(device)
        torch.empty(0, device=made)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        expected = "a device of this machine"
        raise fail(
            "device", expected, str(device), f"pass 'cpu', or {remedy} ({error})"
        ) from error
    return made


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
    if len({id(m) for _, m in terms}) < len(terms):
        terms = _merged(terms)
    (c0, m0), rest = terms[0], terms[1:]
    if isinstance(c0, float) and c0 == 1.0 and rest and isinstance(rest[0][0], float):
        (c1, m1), rest = rest[0], rest[1:]
        out = torch.add(m0, m1, alpha=c1) if c1 != 0.0 else m0.clone()
    else:
        out = m0 * c0
    for c, m in rest:
        if isinstance(c, Tensor):
            out.addcmul_(c, m)
        elif c != 0.0:
            out.add_(m, alpha=c)
    return out


def _merged(terms: tuple[tuple[Scalar, Tensor], ...]) -> tuple[tuple[Scalar, Tensor], ...]:
    """The pairs with one coefficient for each tensor."""
    held: dict[int, tuple[Scalar, Tensor]] = {}
    for c, m in terms:
        held[id(m)] = (held[id(m)][0] + c, m) if id(m) in held else (c, m)
    return tuple(held.values())


P = ParamSpec("P")
R = TypeVar("R")


def ordinary(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` on ordinary tensors, also under torch.inference_mode.

    What is made there can enter no graph, which scores that differentiate and divergences need.
    `fn` runs outside that mode, without gradients, and gets copies of the tensors of that mode.
    """

    @wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        graphs = torch.is_grad_enabled()  # never under inference mode
        with torch.inference_mode(False), torch.set_grad_enabled(graphs):
            own = tuple(_ordinary(value) for value in args)
            named = {name: _ordinary(value) for name, value in kwargs.items()}
            return fn(*own, **named)

    return call


def _ordinary(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {name: _ordinary(part) for name, part in value.items()}
    return value


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, what went through torch.compile runs as it was written.

    Compiled code is differentiated once, with one vector, and never twice.
    """
    if "torch._dynamo" in sys.modules:  # else nothing was compiled
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
