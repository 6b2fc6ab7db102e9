"""Checks of arguments, and the form of their messages: argument, expected, got, remedy."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType, ModuleType
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
    "check_x",
    "checked_cond",
    "choice",
    "diverged",
    "fail",
    "finite",
    "floating",
    "held",
    "instance",
    "keep",
    "listed",
    "nearest",
    "need",
    "no_class",
    "no_mask",
    "nonnegative",
    "path_of",
    "occur_often",
    "positive",
    "positive_int",
    "refuse",
    "same_shape",
    "seed",
    "show",
    "sizes",
    "switch",
    "to_load",
    "warn",
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


def no_class(argument: str, label: int, classes: int, null: object) -> ValueError:
    """The error of a label that is none of the classes and not the value for "no label"."""
    expected = f"classes from 0 to {classes - 1}, or {null} for no label"
    remedy = "number the classes from 0, or build the network with more classes"
    return refuse(argument, expected, f"{label} among them", remedy)


def diverged(argument: str, expected: str, got: str, remedy: str) -> Diverged:
    """Like `fail`, for a run with values that are not finite; `got` is not shortened."""
    return about(Diverged(f"{argument}: expected {expected}, got {got}; {remedy}"), argument)


PASSED = ("scoresde", "torch", "contextlib")
"""The packages whose lines `warn` passes over."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the line that called the package, however many calls lie between."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and _package_of(frame) in PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


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


def switch(name: str, value: object, remedy: str = "pass True or False") -> bool:
    """`value` as a bool if it is True or False of Python, numpy or torch."""
    if not _boolean(value) or getattr(value, "shape", ()) != ():
        raise wrong_type(name, "a bool", value, remedy)
    return bool(value)


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


def sizes(name: str, value: object, expected: str, remedy: str) -> tuple[int, ...]:
    """`value` as a tuple of ints above 0."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong_type(name, expected, value, remedy)
    return tuple(positive_int(name, size, remedy) for size in value)


def seed(value: object, name: str = "seed") -> int:
    """`value` as an int in [0, 2**63), which every noise source and generator takes."""
    number = whole(value)
    if number is None or not 0 <= number < 2**63:
        raise fail(name, "an integer in [0, 2**63)", value, f"pass for example {name}=0")
    return number


def keep(
    group: object, name: str, check: Callable[..., Any], *others: object, optional: bool = False
) -> Any:  # what `check` returns
    """Check a field of a frozen dataclass, in its `__post_init__`, and store the checked value.

    So a number of numpy or torch becomes one of Python, which JSON can hold.

    Args:
        group: the dataclass.
        name: the name of the field.
        check: a check(name, value, *others) that returns the value as it is kept.
        others: further arguments of the check, such as the remedy in its message.
        optional: whether None stays None.
    """
    value = getattr(group, name)
    if value is None and optional:
        return None
    checked = check(name, value, *others)
    object.__setattr__(group, name, checked)
    return checked


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
    near = nearest(value, keys)
    remedy = f"pass for example {keys[0]!r}" if near is None else f"did you mean {near!r}?"
    raise fail(name, "one of " + ", ".join(map(repr, keys)), value, remedy)


def nearest(value: object, keys: Iterable[str]) -> str | None:
    """The key that is spelt most like `value`, or None if none is."""
    plain = {key.lower(): key for key in keys}
    near = difflib.get_close_matches(str(value).lower(), plain, n=1, cutoff=0.6)
    return plain[near[0]] if near else None


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
        no_mask(name, value)  # which a conversion would drop
        remedy = to_load(value) or remedy
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        if isinstance(value, type) and issubclass(value, kind):
            remedy = f"pass an object of it, such as {value.__name__}()"
            raise wrong_type(name, f"a {names}", f"the class {value.__name__}", remedy)
        got: object = value if _is_tensor(value) else f"{type(value).__name__}: {show(value)}"
        raise wrong_type(name, f"a {names}", got, remedy)


def _to_tensor(value: object) -> str:
    """The remedy where something else was passed in place of a tensor."""
    if hasattr(value, "read") and hasattr(value, "shape") and not hasattr(value, "__array__"):
        return "these are lazy rows: use x[:], which reads all of them as a tensor"
    return "use torch.as_tensor"


def floating(name: str, value: object, remedy: str = "convert it with .float()") -> Tensor:
    """Return `value` if it is a floating-point tensor, else raise."""
    if not _is_tensor(value):
        no_mask(name, value)  # which a conversion would drop
        raise wrong_type(name, "a floating-point torch.Tensor", value, _to_tensor(value))
    if not value.is_floating_point():
        raise wrong_type(name, "a floating-point torch.Tensor", value, remedy)
    return value


def no_mask(name: str, value: object) -> None:
    """Raise for masked entries of an array of numpy: torch would read the numbers below them."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ma.MaskedArray):
        return
    if hidden := int(numpy.ma.getmaskarray(value).sum()):
        remedy = "fill them with .filled(...), or leave their rows out"
        raise refuse(name, "an array without masked entries", f"{hidden} masked", remedy)


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


# The samples and conditions of `Data`


def check_x(x: Tensor, *, constant: bool) -> None:
    """Check that samples are finite, and, unless `constant` channels are allowed, that all vary.

    Raises:
        TypeError: they are not floating-point.
        ValueError: there are none, they have another shape than (N, *D), or see above.
    """
    floating("x", x, "encode integers with Quantisation(levels=256).encode(x)")
    if x.ndim < 2:
        raise fail(
            "x", "shape (N, *D), one row per sample", x, "give scalars a column: x[:, None]"
        )
    if x.numel() == 0:
        raise fail("x", "at least one sample with one coordinate", x, "check what was loaded")
    _check_finite("x", x)
    # In (N, A, B) the axis A may be channels or the rows of an image.
    if len(x) > 1 and x.ndim != 3 and not constant:
        _check_channels(x)


def occur_often(classes: int, n: int) -> bool:
    """Whether so many classes have two of n samples each on average; all do up to 20 samples."""
    return n <= 20 or 2 * classes <= n


def _check_finite(name: str, value: Tensor) -> None:
    bad = ~value.isfinite().reshape(len(value), -1).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        first = value[row][~value[row].isfinite()].reshape(-1)[0].item()
        remedy = f"drop or repair the {int(bad.sum())} bad row(s) of {len(value)}"
        raise fail(name, "finite numbers", f"{first} in row {row}", remedy)


def _check_channels(x: Tensor) -> None:
    others = [axis for axis in range(x.ndim) if axis != 1]
    low, high = x.amin(dim=others), x.amax(dim=others)
    if (low == high).any():
        channel = int((low == high).nonzero()[0])
        got = f"{low[channel].item():g} everywhere in channel {channel} of {len(low)}"
        remedy = f"drop channel {channel} (axis 1): there is nothing in it to model"
        raise fail("x", "channels that vary", got, remedy)


def checked_cond(
    cond: Mapping[str, Tensor], count: int, classes: int, class_names: tuple[str, ...]
) -> dict[str, Tensor]:
    """The conditions of so many samples, checked; labels as int64.

    Raises:
        TypeError: a value is no tensor, or labels are not integers.
        ValueError: there is not one name for each class, a value does not have one entry per
            sample or is infinite, or a label is none of the classes.
    """
    instance("cond", cond, Mapping, 'pass a mapping, e.g. {"label": labels}')
    if class_names and len(class_names) != classes:
        expected = f"{classes} names, one for each class"
        raise fail("class_names", expected, class_names, "pass classes=len(class_names)")
    return {name: _checked_one(name, value, count, classes) for name, value in cond.items()}


def _checked_one(name: str, value: Tensor, count: int, classes: int) -> Tensor:
    argument = f"cond[{name!r}]"
    if not _is_tensor(value):
        raise wrong_type(argument, "a torch.Tensor", value, "convert it with torch.as_tensor")
    if value.ndim == 0 or len(value) != count:
        raise fail(argument, f"leading length {count}, that of x", value, "one row per sample")
    if name != "label":
        floats = value.is_floating_point()  # in which NaN means "not given"
        _check_finite(argument, value.masked_fill(value.isnan(), 0.0) if floats else value)
        return value
    if value.is_floating_point() or value.is_complex() or value.ndim != 1:
        raise wrong_type(argument, "integers of shape (N,)", value, "one class number per sample")
    label = value.long()
    wrong = (label < 0) | (label >= classes)
    if classes and wrong.any():
        expected = f"labels from 0 to {classes - 1}"
        raise fail(argument, expected, label[wrong][0].item(), "renumber them, or raise classes")
    return label
