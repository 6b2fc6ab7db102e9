"""Conditions of samples: their type, their checks, and the values that mean "not given"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, cast

import torch
from torch import Tensor

from scoresde._check import choice, fail, instance, no_class, no_mask, warn, wrong_type

__all__ = [
    "Cond",
    "as_condition",
    "as_labels",
    "check_cond",
    "check_names",
    "check_null",
    "is_given",
    "names_of",
    "null_like",
    "warn_untrained",
    "without",
]

Cond: TypeAlias = Mapping[str, Tensor] | None
"""Conditions: name -> tensor with leading B (labels, measurements, masks)."""


class _Taker(Protocol):
    """A model that says which conditions it takes, such as a `ScoreModel`."""

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]: ...


def check_cond(
    model: _Taker, cond: Cond, n: int, device: torch.device | None = None
) -> dict[str, Tensor] | None:
    """Return the conditions of n samples as tensors that the model accepts, or None for none.

    Arrays and lists become tensors, which move to `device` if one is given; labels become int64.

    Raises:
        TypeError: `cond` is not a mapping, a value is not a tensor, or labels are not integers.
        ValueError: a value does not have one entry per sample, the model does not take a name or
            lacks one that it requires, or a label is not one of its classes.
    """
    cond = {} if cond is None else cond
    instance("cond", cond, Mapping, 'pass name -> tensor, e.g. {"label": labels}')
    tensors: dict[str, Tensor] = {}
    for name, value in cond.items():
        tensor = as_condition(f"cond[{name!r}]", value)
        if tensor is None or tensor.ndim == 0 or tensor.shape[0] != n:
            remedy = (
                "pass one entry for each sample along the first axis, or fix one for all by "
                f"scoresde.conditioned.Conditioned(model, {{{name!r}: value}})"
            )
            raise fail(f"cond[{name!r}]", f"a tensor with leading {n}", value, remedy)
        tensors[name] = tensor
    return {k: v.to(device) for k, v in model.admit(tensors).items()} or None


def as_condition(argument: str, value: object) -> Tensor | None:
    """A tensor, or an array or list of numbers as one; None for anything without entries."""
    no_mask(argument, value)
    if isinstance(value, Tensor):
        return value
    if not hasattr(value, "__array__") and not isinstance(value, list | tuple):
        return None
    try:
        return torch.as_tensor(value, device="cpu")
    except (RuntimeError, TypeError, ValueError) as error:
        if _holds_texts(value):
            remedy = "pass the numbers of the classes, their places in model.data.class_names"
            raise fail(argument, "numbers", value, remedy) from error
        remedy = "pad sets with NaN to one length, or convert the value with torch.as_tensor"
        raise fail(
            argument, "numbers, in rows of one length and native bytes", value, remedy
        ) from error


def _holds_texts(value: object) -> bool:
    """Whether an array or a list holds texts, such as the names of classes."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    flat: Iterable[object] = getattr(value, "flat", cast(Iterable[object], value))
    return kind in ("U", "S") or any(isinstance(v, str) for v in flat)


def check_names(cond: dict[str, Tensor], fn: Callable[..., object]) -> None:
    """Check that a function takes the conditions by name, after its first two arguments.

    Raises:
        ValueError: the function does not take one of them, or requires one that is missing.
    """
    named, anything = _named(fn)
    for name in () if anything else cond:
        if not named:
            remedy = "leave it out, or give the network an argument of this name"
            raise fail("cond", "None, for the model takes no conditions", name, remedy)
        choice("cond", name, list(named))
    for name, parameter in named.items():
        if name not in cond and parameter.default is inspect.Parameter.empty:
            remedy = f'pass cond={{"{name}": ...}}, or give this argument of the model a default'
            raise fail("cond", f"{name!r}, which the model needs", list(cond) or None, remedy)


def _named(fn: Callable[..., object]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments of a function after its first two by name, and whether it takes any others."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # of a builtin, which says nothing of its arguments
        return {}, True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    time_and_state = {p.name for p in positional[:2]}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name: p for p in parameters if p.kind in kinds and p.name not in time_and_state}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def names_of(fn: Callable[..., object]) -> list[str] | None:
    """The names of the conditions that a function takes, or None if it takes any."""
    named, anything = _named(fn)
    return None if anything else list(named)


def check_null(null: object, takes: Sequence[str] | None) -> dict[str, object]:
    """The values for "not given" by the names of conditions, checked.

    Raises:
        TypeError: `null` is no mapping.
        ValueError: a name is none of the conditions that the model takes, where these are known.
    """
    remedy = 'pass name -> value, e.g. {"label": -1}'
    instance("null", null, Mapping, remedy)
    found: dict[str, object] = dict(null)  # type: ignore[call-overload]  # checked above
    for name in found:
        if not isinstance(name, str):
            raise wrong_type("null", "names of conditions", name, remedy)
        if takes is not None and not takes:
            expected = "None, for the model takes no conditions"
            raise fail("null", expected, name, "leave it out")
        if takes is not None:
            choice("null", name, takes)
    return found


def as_labels(argument: str, label: Tensor, classes: int, null: object) -> Tensor:
    """Return labels as int64, each a class or the value for "no label", or raise.

    Raises:
        TypeError: the labels are no integers, or there are no classes.
        ValueError: their shape is not (N,), or, on a CPU, a label is no class.
    """
    if classes == 0:
        remedy = "build the network with classes=..., or leave label out"
        raise wrong_type(argument, "none, as the network has classes=0", label, remedy)
    integers = not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool)
    if label.ndim != 1 or not integers:
        kind = fail if integers else wrong_type
        remedy = "one class number per sample"
        raise kind(argument, "integers of shape (N,)", label, remedy)
    label = label.long()
    if label.device.type == "cpu":  # on an accelerator this check would force a synchronisation
        wrong = (label < 0) | (label >= classes)
        if isinstance(null, int) and null < 0:
            wrong &= label != null
        if bool(wrong.any()):
            raise no_class(argument, int(label[wrong][0]), classes, null)
    return label


def null_like(name: str, null: object, value: Tensor) -> Tensor:
    """The value for "not given" of a condition, in the shape and dtype of a batch of it.

    Args:
        name: the name of the condition, for messages.
        null: a number, or a tensor or list of the shape of the condition of one sample.
        value: a batch of the condition, (B, *C).

    Raises:
        TypeError: `null` is neither a number nor an array.
        ValueError: the dtype cannot hold it, such as NaN among whole numbers.

    Example:
        >>> null_like("label", -1, torch.tensor([3, 5]))
        tensor([-1, -1])
    """
    if not isinstance(null, int | float):
        if not isinstance(null, Tensor | list | tuple):
            remedy = "name it in Preconditioned(..., null={name: value})"
            raise wrong_type(f"null[{name!r}]", "a number or a tensor", null, remedy)
        return _null_tensor(name, null, value)
    if value.is_floating_point() or value.is_complex():
        fits = True
    elif value.dtype == torch.bool:
        fits = isinstance(null, bool)
    else:
        limits = torch.iinfo(value.dtype)
        fits = limits.min <= null <= limits.max and float(null).is_integer()
    if not fits:
        remedy = "convert the condition, e.g. with .float() or .long()"
        raise fail(f"cond[{name!r}]", f"a dtype that holds its null value {null}", value, remedy)
    return torch.full_like(value, null)


def _null_tensor(name: str, null: object, value: Tensor) -> Tensor:
    """A null value of several numbers, for each sample of a batch."""
    argument, shape = f"null[{name!r}]", tuple(value.shape[1:])
    remedy = "pass one number, or the value of one sample"
    try:
        array = torch.as_tensor(null)
        array.expand(shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise fail(argument, f"a number or a tensor of shape {shape}", null, remedy) from error
    whole = not (value.is_floating_point() or value.is_complex())
    if whole and array.is_floating_point() and not bool((array == array.round()).all()):
        raise fail(argument, f"values that {value.dtype} holds", null, remedy)
    return array.to(value.device, value.dtype).expand_as(value)


def is_given(name: str, null: object, value: Tensor) -> Tensor:
    """Which samples have a condition, (B,) bool: those whose value is not that for "not given".

    Args:
        name, null, value: as in `null_like`.

    Example:
        >>> is_given("y", float("nan"), torch.tensor([[1.0], [float("nan")]]))
        tensor([ True, False])
    """
    try:
        lacks = null_like(name, null, value)
    except ValueError:  # a dtype that cannot hold it
        return torch.ones(len(value), dtype=torch.bool, device=value.device)
    same = (value == lacks) | ((value != value) & (lacks != lacks))
    return ~same.flatten(1).all(1) if same.ndim > 1 else ~same


def without(cond: Mapping[str, Tensor], nulls: Mapping[str, object]) -> dict[str, Tensor]:
    """The conditions, with those that have a value for "not given" replaced by it.

    Conditions without one, such as a measurement, stay as they are.

    Example:
        >>> without({"label": torch.tensor([3]), "y": torch.ones(1)}, {"label": -1})
        {'label': tensor([-1]), 'y': tensor([1.])}
    """
    return {k: null_like(k, nulls[k], v) if k in nulls else v for k, v in cond.items()}


def warn_untrained(names: Sequence[str], guided: bool = False) -> None:
    """Warn of a score without these conditions, which every sample of the training had.

    Args:
        names: the conditions.
        guided: whether it is one of the two scores of a guidance.
    """
    which, remedy = ", ".join(map(repr, names)), "train with Loss(cond_dropout=0.1)"
    if guided:
        expected, got = f"one that was trained without {which} too", "one that never was"
        warn(f"model: expected {expected}, got {got}, so its guidance is arbitrary; {remedy}")
    else:
        expected = f"values for {which}, which every sample of the training had"
        warn(f"cond: expected {expected}, got none; pass them, or {remedy} to sample without")
