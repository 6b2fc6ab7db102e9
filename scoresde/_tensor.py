"""Broadcasting, linear combinations, and elementary functions of floats, arrays and tensors."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from scoresde._check import fail, floating, instance, listed, positive_int, refuse
from scoresde._check import seed as check_seed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "Eta",
    "Scalar",
    "Time",
    "as_device",
    "asinh",
    "atan2",
    "check_data",
    "decimals",
    "exp",
    "batches",
    "expand",
    "expm1",
    "fill",
    "lincomb",
    "log",
    "log1p",
    "ordinary",
    "over",
    "own_dtype",
    "seeded",
    "sin",
    "softplus",
    "sqrt",
    "square_distance",
    "state_dtype",
    "state_kind",
    "uncompiled",
    "user_time",
    "wide",
    "xp",
]

Scalar: TypeAlias = float | Tensor
"""A coefficient: a Python float along a grid, a `(B, 1, ..., 1)` tensor per sample."""

Time = TypeVar("Time", float, "npt.NDArray[np.float64]", Tensor, "float | Tensor")
"""A float, a numpy array or a tensor; a function of time returns the kind that it was given."""


Eta: TypeAlias = float | Callable[[Tensor], Any]
"""The stochasticity of a reverse process: a number, or a function of time."""


class Unary(Protocol):
    """A function of a float, a numpy array or a tensor, which returns the same kind."""

    def __call__(self, x: Time, /) -> Time: ...


class Binary(Protocol):
    """A function of two floats, numpy arrays or tensors, which returns the same kind."""

    def __call__(self, a: Time, b: Time, /) -> Time: ...


def xp(t: object) -> ModuleType:
    """The module whose `exp`, `log`, `expm1`, ... take `t`: math, numpy or torch."""
    if isinstance(t, Tensor):
        return torch
    if hasattr(t, "__array__"):
        import numpy

        return numpy
    return math


def _elementary(name: str, arrays: str = "") -> Any:  # a Unary or a Binary
    """The function `name` of math and torch; numpy calls it `arrays`."""
    of_floats, of_tensors = getattr(math, name), getattr(torch, name)

    def function(x: Any, *more: Any) -> Any:  # the kinds in the constraints of Time
        if isinstance(x, Tensor):
            return of_tensors(x, *more)
        if hasattr(x, "__array__"):
            return getattr(xp(x), arrays or name)(x, *more)
        return of_floats(x, *more)

    return function


exp: Unary = _elementary("exp")
expm1: Unary = _elementary("expm1")
sqrt: Unary = _elementary("sqrt")
sin: Unary = _elementary("sin")
asinh: Unary = _elementary("asinh", "arcsinh")
atan2: Binary = _elementary("atan2", "arctan2")


def _logarithm(name: str, zero: float) -> Any:  # a Unary
    """`log` or `log1p`, which is -inf at `zero` for floats too and without a warning of numpy."""
    of_floats, function = getattr(math, name), _elementary(name)

    def logarithm(x: Any) -> Any:  # the kinds in the constraints of Time
        if isinstance(x, float | int):
            return -math.inf if x == zero else of_floats(x)
        with _quiet(x):
            return function(x)

    return logarithm


log: Unary = _logarithm("log", 0.0)
log1p: Unary = _logarithm("log1p", -1.0)


def _softplus(x: Any) -> Any:  # the kinds in the constraints of Time
    if isinstance(x, float | int):
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    m = xp(x)
    return m.logaddexp(x, torch.zeros_like(x) if m is torch else 0.0)


softplus: Unary = _softplus
"""log(1 + e^x) without overflow."""


def over(a: float, b: Time) -> Time:
    """a / b with a / 0 infinite, of the sign of a, for floats too."""
    if isinstance(b, float | int) and b == 0:
        return math.copysign(math.inf, a)
    with _quiet(b):
        return a / b


def _quiet(x: object) -> AbstractContextManager[object]:
    """Silence numpy's warning of a division by zero, whose infinity is intended."""
    m = xp(x)
    return m.errstate(divide="ignore") if hasattr(m, "errstate") else nullcontext()


def wide(t: Tensor) -> Tensor:
    """`t` in float64, in which schedules are computed (float32 where a device has no float64)."""
    return t.float() if t.device.type == "mps" else t.double()


def expand(t: Tensor, like: Tensor) -> Tensor:
    """A `(B,)` tensor as `(B, 1, ..., 1)`, ready to multiply `like` of shape `(B, *D)`."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of states for numbers of this precision: float32 for half precision."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def check_data(x: object) -> Tensor:
    """Return a non-empty floating batch of finite numbers, half precision as float32, or raise."""
    data = floating("x", x, "encode levels with quantisation.encode(k), or convert with .float()")
    if data.ndim < 2 or data.numel() == 0:
        raise fail("x", "a non-empty batch of shape (B, *D)", data, "add a batch axis")
    if not bool(data.isfinite().all()):
        raise fail("x", "finite numbers", "NaN or infinity", "clean the data first")
    return data.to(state_dtype(data.dtype))


def seeded(seed: object) -> torch.Generator:
    """Return a CPU generator, whose numbers do not depend on the default device.

    Raises:
        ValueError: the seed is not an integer in [0, 2**63).
    """
    return torch.Generator("cpu").manual_seed(check_seed(seed))


def as_device(device: str | torch.device, remedy: str) -> torch.device:
    """Return the device if this machine has it.

    Raises:
        ValueError: this machine does not have it.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        expected = "a device of this machine"
        raise fail(
            "device", expected, str(device), f"pass 'cpu', or {remedy} ({error})"
        ) from error
    return found


def own_dtype(module: nn.Module) -> torch.dtype | None:
    """The precision of a module's weights or, if it has none, of its buffers."""
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
        if tensor.is_complex():
            return tensor.dtype.to_real()
    return None


def fill(net: nn.Module, tensors: Mapping[str, Tensor], where: str, assign: bool = False) -> None:
    """Load tensors into a module; raise unless names and shapes are equal."""
    own = net.state_dict()
    wrong = {
        "missing": sorted(set(own) - set(tensors)),
        "unexpected": sorted(set(tensors) - set(own)),
        "of another shape": [
            f"{k} {tuple(tensors[k].shape)} for {tuple(v.shape)}"
            for k, v in own.items()
            if k in tensors and _form(tensors[k]) != _form(v)
        ],
    }
    faults = [f"{kind}: {listed(keys, 4)}" for kind, keys in wrong.items() if keys]
    if faults:
        remedy = f"build {type(net).__name__} as it was when the checkpoint was saved"
        raise refuse(where, f"the tensors of {type(net).__name__}", "; ".join(faults), remedy)
    net.load_state_dict(dict(tensors), strict=True, assign=assign)


def _form(tensor: Tensor) -> tuple[torch.Size, bool]:
    return tensor.shape, tensor.is_floating_point()


def state_kind(
    model: nn.Module,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    like: Tensor | None = None,
) -> tuple[torch.dtype, torch.device]:
    """The precision and device of a state: those asked for, or those of `like` or of the model.

    The precision is float32 at least: a state of half precision loses what the last steps add. A
    model without parameters, such as an oracle, has no precision but the device of its buffers.

    Raises:
        TypeError, ValueError: no floating-point precision, or a device that this machine lacks.
    """
    if like is None:
        like = next(model.parameters(), None)
        own = None if like is None else own_dtype(model)
    else:
        own = like.dtype
    if dtype is None:
        dtype = torch.get_default_dtype() if own is None else state_dtype(own)
    instance("dtype", dtype, torch.dtype, "pass e.g. torch.float32")
    if not dtype.is_floating_point:
        raise fail("dtype", "a floating-point dtype", dtype, "pass e.g. torch.float32")
    if device is not None:
        return dtype, as_device(device, "leave it out for the model's own")
    like = next(model.buffers(), None) if like is None else like
    return dtype, torch.get_default_device() if like is None else like.device


def batches(
    n: int, size: int | None, cond: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[slice, dict[str, Tensor] | None]]:
    """Cut n samples and their conditions into batches: the rows of each, and its conditions.

    Args:
        n: the number of samples.
        size: the samples of a batch; None for all at once.
        cond: name -> (n, ...), or None.
    """
    size = n if size is None else positive_int("batch_size", size)
    for start in range(0, n, max(size, 1)):
        rows = slice(start, min(start + size, n))
        yield rows, {k: v[rows] for k, v in cond.items()} if cond else None


def user_time(t: Scalar, like: Tensor) -> Tensor:
    """The time in the form in which a user's function of (t, x) receives it.

    A 0-dim float64 CPU tensor along a grid, which mixes with any device and dtype without a
    synchronisation; `(B, 1, ..., 1)` for one time per sample.
    """
    if isinstance(t, Tensor):
        return expand(t, like)
    return torch.tensor(t, dtype=torch.float64, device="cpu")


def lincomb(*terms: tuple[Scalar, Tensor]) -> Tensor:
    """The sum of `c * m` over pairs (c, m), as one multiplication and in-place additions.

    `c` is a Python float or a tensor, 0-dim or `(B, 1, ..., 1)`. Pairs that hold the very same
    tensor are merged first, and zero floats are dropped, so a step costs one pass per tensor.
    Under torch.compile, which fuses the passes, nothing is merged: to ask which tensors are the
    same would compile each step anew.
    """
    if not torch.compiler.is_compiling() and len({id(m) for _, m in terms}) < len(terms):
        terms = _merged(terms)
    (c0, m0), rest = terms[0], terms[1:]
    c1, m1 = rest[0] if rest else (None, m0)
    if isinstance(c0, float) and c0 == 1.0 and isinstance(c1, float):
        rest = rest[1:]
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


def square_distance(x: Tensor, centres: Tensor) -> Tensor:
    """|x_b - c_k|^2 for x: (B, D) and c: (K, D), as (B, K), by differences.

    Products would cancel where x is close to a centre.
    """
    return _SquareDistance.apply(x, centres)  # type: ignore[no-any-return, no-untyped-call]


class _SquareDistance(torch.autograd.Function):
    """cdist squared; the derivative of cdist is wrong under vmap and has no forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, c: Tensor) -> Tensor:
        return torch.cdist(x, c, compute_mode="donot_use_mm_for_euclid_dist").square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)  # ctx is untyped in PyTorch
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, c = ctx.saved_tensors
        to_x = grad.sum(1, True) * x - grad @ c
        return 2 * to_x, 2 * (grad.sum(0)[:, None] * c - grad.T @ x)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dc: Tensor | None) -> Tensor:
        x, c = ctx.saved_tensors
        change: Tensor = (x * dx).sum(1, True) - dx @ c.T
        if dc is not None:
            change = change + (c * dc).sum(1) - x @ dc.T
        return 2 * change


P = ParamSpec("P")
R = TypeVar("R")


def ordinary(fn: Callable[P, R]) -> Callable[P, R]:
    """Run `fn` on ordinary tensors even under torch.inference_mode.

    Inference tensors cannot enter a graph, which divergences and scores that differentiate need.
    So `fn` runs outside that mode, without gradients, on copies of such tensors.
    """

    @wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        graphs = torch.is_grad_enabled()  # never under inference mode
        with torch.inference_mode(False), torch.set_grad_enabled(graphs):
            own = tuple(_ordinary(value) for value in args)
            named = {name: _ordinary(value) for name, value in kwargs.items()}
            return fn(*own, **named)

    return call


def _ordinary(value: Any) -> Any:  # arguments of any type pass through
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {name: _ordinary(part) for name, part in value.items()}
    return value


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run functions that went through torch.compile eagerly inside this context.

    Compiled code can be differentiated only once, and only with one vector.
    """
    if "torch._dynamo" in sys.modules:  # else nothing was compiled
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def decimals(value: Tensor, places: Tensor) -> Tensor:
    """The value rounded to a number of decimal places, which may be negative; never -0."""
    places = places.to(value).clamp(-300, 300)
    up, down = 10.0 ** places.clamp(min=0), 10.0 ** (-places).clamp(min=0)
    return (value * up / down).round() / up * down + 0.0
