"""Checks of arguments, and the form of their messages: argument, expected, got, remedy."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

__all__ = [
    "Diverged",
    "about",
    "brief",
    "check_decay",
    "check_width",
    "choice",
    "diverged",
    "fail",
    "finite",
    "floating",
    "held",
    "instance",
    "listed",
    "need",
    "nonnegative",
    "path_of",
    "positive",
    "positive_int",
    "refuse",
    "same_shape",
    "seed",
    "show",
    "to_load",
    "whole",
    "wrong_type",
]

E = TypeVar("E", bound=Exception)


class Diverged(FloatingPointError):
    """The loss, the gradient or the weights of a training run are not finite."""


def show(value: object) -> str:
    """A value as text: dtype and shape of a tensor, otherwise a short repr without addresses."""
    if _is_tensor(value):
        if value.ndim == 0 and value.device.type == "cpu":
            return f"{value.item()!r}"
        name = str(value.dtype).removeprefix("torch.")
        return f"a {name} tensor of shape {tuple(value.shape)}"
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type):
        if value.shape == () and hasattr(value, "item"):
            return f"{value.item()!r}"
        return f"a {value.dtype} array of shape {tuple(value.shape)}"
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    if "\n" in text:
        return f"{type(value).__name__}(...)"
    return text if len(text) <= 80 else text[:77] + "..."


def _message(argument: str, expected: str, got: object, remedy: str) -> str:
    return f"{argument}: expected {expected}, got {show(got)}; {remedy}"


def listed(names: Sequence[object], most: int = 8) -> str:
    """Numbers or names for a message: the first `most`, and the number of all others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def held(thing: object) -> dict[str, object]:
    """The arguments of a dataclass, or the public attributes of another object, without None."""
    if is_dataclass(thing):
        found = {f.name: getattr(thing, f.name) for f in fields(thing) if f.init}
    else:
        found = {name: value for name, value in vars(thing).items() if name[0] != "_"}
    return {name: value for name, value in found.items() if value is not None}


def brief(thing: object) -> str:
    """An object in one line, with tensors as dtype and shape and without None."""
    parts = (f"{name}={show(value)}" for name, value in held(thing).items())
    return f"{type(thing).__name__}({', '.join(parts)})"


def about(error: E, argument: str) -> E:
    """Store in an error, as `error.argument`, the name of the argument that it concerns."""
    error.argument = argument  # type: ignore[attr-defined]  # exceptions take attributes
    return error


def fail(argument: str, expected: str, got: object, remedy: str) -> ValueError:
    """A ValueError with the argument, the expected value, the given one and the remedy."""
    return about(ValueError(_message(argument, expected, got, remedy)), argument)


def refuse(argument: str, expected: str, got: object, remedy: str) -> ValueError:
    """Like `fail`, but without shortening `got`."""
    return about(ValueError(f"{argument}: expected {expected}, got {got}; {remedy}"), argument)


def wrong_type(argument: str, expected: str, got: object, remedy: str) -> TypeError:
    """Like `fail`, for an argument of the wrong type."""
    return about(TypeError(_message(argument, expected, got, remedy)), argument)


def diverged(argument: str, expected: str, got: str, remedy: str) -> Diverged:
    """Like `fail`, for a run with values that are not finite; `got` is not shortened."""
    return about(Diverged(f"{argument}: expected {expected}, got {got}; {remedy}"), argument)


def _number(name: str, value: object, expected: str, remedy: str) -> float:
    if type(value) is not float and (_boolean(value) or not isinstance(value, int | float)):
        item = getattr(value, "item", None)
        single = getattr(value, "size", None) == 1 or _scalar(value)
        if item is None or not single or _boolean(value):
            raise wrong_type(name, expected, value, remedy)
        value = item()
        if not isinstance(value, int | float):  # a complex number, a date, a string
            raise wrong_type(name, expected, value, remedy)
    number = float(value)
    if not math.isfinite(number):
        raise fail(name, expected, number, remedy)
    return number


def _scalar(value: object) -> bool:
    return _is_tensor(value) and value.numel() == 1


def _is_tensor(value: object) -> TypeIs[Tensor]:
    """Whether this is a tensor; False as long as torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _boolean(value: object) -> bool:
    """Whether this is True or False of Python, numpy or torch, which is not a number."""
    kind = str(getattr(value, "dtype", ""))
    return isinstance(value, bool) or kind in ("bool", "torch.bool")


def finite(name: str, value: object, remedy: str = "pass a finite number") -> float:
    """`value` as a finite float."""
    return _number(name, value, "a finite number", remedy)


def positive(name: str, value: object, remedy: str = "pass a number above 0") -> float:
    """`value` as a finite float above 0."""
    number = _number(name, value, "a finite number > 0", remedy)
    if number <= 0:
        raise fail(name, "a finite number > 0", value, remedy)
    return number


def nonnegative(name: str, value: object, remedy: str = "pass 0 or a number above it") -> float:
    """`value` as a finite float of at least 0."""
    number = _number(name, value, "a finite number >= 0", remedy)
    if number < 0:
        raise fail(name, "a finite number >= 0", value, remedy)
    return number


def check_decay(name: str, decay: object) -> float:
    """`decay` as a float in [0, 1)."""
    number = nonnegative(name, decay)
    if number >= 1.0:
        raise fail(name, "a number in [0, 1)", decay, "0.999 averages some 1000 steps")
    return number


def check_width(name: str, width: object) -> float:
    """`width` of a power-function profile as a float in (0, 1/sqrt(12))."""
    number = positive(name, width, "0.05 and 0.10 are usual")
    if number >= 1 / math.sqrt(12):
        raise fail(name, "a width below 0.2886, that of the plain mean", width, "take 0.1")
    return number


def whole(value: object) -> int | None:
    """`value` as an int if it is an integer of Python, numpy or torch; else None."""
    if type(value) is int:
        return value
    if _boolean(value) or not hasattr(value, "__index__"):
        return None
    try:
        return int(value.__index__())
    except (TypeError, RuntimeError):  # an array or a tensor of floats, or of several numbers
        return None


def positive_int(name: str, value: object, remedy: str = "pass a whole number above 0") -> int:
    """`value` as an int above 0."""
    number = whole(value)
    if number is None:
        raise wrong_type(name, "a positive integer", value, remedy)
    if number <= 0:
        raise fail(name, "a positive integer", value, remedy)
    return number


def seed(value: object, name: str = "seed") -> int:
    """`value` as an int in [0, 2**63), which every noise source and generator takes."""
    number = whole(value)
    if number is None or not 0 <= number < 2**63:
        raise fail(name, "an integer in [0, 2**63)", value, f"pass for example {name}=0")
    return number


def path_of(name: str, value: str | os.PathLike[str]) -> Path:
    """`value` as a path, with ~ replaced by the user's home folder."""
    try:
        return Path(value).expanduser()
    except TypeError:
        remedy = "pass a str or a pathlib.Path"
        raise wrong_type(name, "a path", value, remedy) from None
    except RuntimeError as error:
        raise fail(
            name, "a path with a home folder that is known", str(value), str(error)
        ) from error


def choice(name: str, value: object, table: Iterable[str]) -> str:
    """Return `value` if it is a key of `table`, else raise with the keys and the nearest one."""
    keys = sorted(table)
    if isinstance(value, str) and value in keys:
        return value
    plain = {key.lower(): key for key in keys}
    near = difflib.get_close_matches(str(value).lower(), plain, n=1, cutoff=0.6)
    remedy = f"did you mean {plain[near[0]]!r}?" if near else f"pass for example {keys[0]!r}"
    raise fail(name, "one of " + ", ".join(map(repr, keys)), value, remedy)


def to_load(value: object) -> str:
    """The remedy where the path of a saved model was passed in place of the model, or ""."""
    if not isinstance(value, str | os.PathLike):
        return ""
    folder, shown = Path(value), repr(os.fspath(value))
    if (folder / "model_index.json").is_file():
        return f"a pipeline becomes a model by scoresde.adapters.load_diffusers({shown})"
    if (folder / "config.json").is_file() or (folder / "checkpoint").is_dir():
        return f"a checkpoint becomes a model by scoresde.load({shown})"
    return ""


def instance(name: str, value: object, kind: type | tuple[type, ...], remedy: str) -> None:
    """Raise a TypeError unless `value` is of `kind`."""
    if not isinstance(value, kind):
        remedy = to_load(value) or remedy
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        got: object = value if _is_tensor(value) else f"{type(value).__name__}: {show(value)}"
        raise wrong_type(name, f"a {names}", got, remedy)


def floating(name: str, value: object, remedy: str = "convert it with .float()") -> Tensor:
    """Return `value` if it is a floating-point tensor, else raise."""
    if not _is_tensor(value):
        raise wrong_type(name, "a floating-point torch.Tensor", value, "use torch.as_tensor")
    if not value.is_floating_point():
        raise wrong_type(name, "a floating-point torch.Tensor", value, remedy)
    return value


def same_shape(name: str, value: Tensor, like: Tensor, remedy: str) -> None:
    """Raise unless `value` has the shape of `like`, without synchronisation."""
    if getattr(value, "shape", None) == like.shape and hasattr(value, "is_floating_point"):
        return
    if not _is_tensor(value):
        raise wrong_type(name, f"a tensor of shape {tuple(like.shape)}", value, remedy)
    if value.shape != like.shape:
        raise fail(name, f"shape {tuple(like.shape)}", value, remedy)


def need(module: str, extra: str) -> ModuleType | Any:
    """Import an optional dependency, or raise with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        wanted = f"'scoresde[{extra}]'" if extra else package
        raise ImportError(
            f"{package} is needed here and is not installed; run: pip install {wanted}"
        ) from error
