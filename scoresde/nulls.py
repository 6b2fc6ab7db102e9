"""Conditions that are not given: the values that a model takes for them, in a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scoresde._check import fail, wrong_type

__all__ = ["null_like", "without"]


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


def without(cond: Mapping[str, Tensor], nulls: Mapping[str, object]) -> dict[str, Tensor]:
    """The conditions, with those that have a value for "not given" replaced by it.

    Conditions without one, such as a measurement, stay as they are.

    Example:
        >>> without({"label": torch.tensor([3]), "y": torch.ones(1)}, {"label": -1})
        {'label': tensor([-1]), 'y': tensor([1.])}
    """
    return {k: null_like(k, nulls[k], v) if k in nulls else v for k, v in cond.items()}
