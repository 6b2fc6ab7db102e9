"""Conditions of networks: labels, vectors, images and sets, each with a value for "not given"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias, final

from scoresde._check import fail, instance, keep, positive_int, switch, wrong_type

__all__ = ["KINDS", "Image", "Label", "Set", "Spec", "Vector", "as_config", "as_specs"]

RESERVED = ("x", "t", "self")


@final
@dataclass(frozen=True)
class Label:
    """A class: ``(B,)`` int64 from 0 to ``classes - 1``, or -1 for no label.

    Args:
        classes: the number of classes.

    Example:
        >>> Label(10).null
        -1
    """

    classes: int
    null: ClassVar[int] = -1

    def __post_init__(self) -> None:
        keep(self, "classes", positive_int)


@final
@dataclass(frozen=True)
class Vector:
    """Numbers of a sample: ``(B, size)``, or ``(B,)`` for one number; NaN for one not given.

    Args:
        size: the number of numbers.

    Example:
        >>> Vector(3)
        Vector(size=3)
    """

    size: int
    null: ClassVar[float] = math.nan

    def __post_init__(self) -> None:
        keep(self, "size", positive_int)

    @property
    def features(self) -> int:
        """The number of features with a mean and a standard deviation each."""
        return self.size


@final
@dataclass(frozen=True)
class Image:
    """An image of the size of x: ``(B, channels, *D)``, joined to x as channels; NaN for "none".

    Args:
        channels: its number of channels; x may have another.

    Example:
        >>> Image(1)
        Image(channels=1)
    """

    channels: int
    null: ClassVar[float] = math.nan

    def __post_init__(self) -> None:
        keep(self, "channels", positive_int)

    @property
    def features(self) -> int:
        """The number of features with a mean and a standard deviation each."""
        return self.channels


@final
@dataclass(frozen=True)
class Set:
    """A set or a sequence: ``(B, N, features)`` for any N, which may differ between batches.

    An element with NaN is absent, and so is one where the mask is False: a bool tensor ``(B, N)``
    given under the name of the set with ``_mask`` behind it.

    Args:
        features: the length of an element.
        ordered: whether the order of the elements matters. If not, the output of the network does
            not depend on it.

    Example:
        >>> Set(2)
        Set(features=2, ordered=False)
    """

    features: int
    ordered: bool = False
    null: ClassVar[float] = math.nan

    def __post_init__(self) -> None:
        keep(self, "features", positive_int)
        keep(self, "ordered", switch)


Spec: TypeAlias = Label | Vector | Image | Set

KINDS: dict[str, type[Spec]] = {"label": Label, "vector": Vector, "image": Image, "set": Set}
"""The kinds of conditions, by the name that stands under "kind" in a network's `config`."""


def as_specs(
    conditions: Mapping[str, Spec | Mapping[str, Any]] | None,  # Any: values of JSON
    classes: int = 0,
) -> dict[str, Spec]:
    """The conditions of a network by name, with the classes of "label" among them.

    Args:
        conditions: name -> `Label`, `Vector`, `Image` or `Set`, or their values of JSON, such as
            ``{"kind": "vector", "size": 3}``.
        classes: the number of classes of the condition "label", 0 for none.

    Raises:
        TypeError: a value is no specification.
        ValueError: a name is no identifier, is that of an argument or of another mask, or there
            are classes and a condition "label".

    Example:
        >>> as_specs({"y": {"kind": "vector", "size": 3}}, classes=2)
        {'label': Label(classes=2), 'y': Vector(size=3)}
    """
    conditions = {} if conditions is None else conditions
    instance("conditions", conditions, Mapping, 'pass name -> spec, e.g. {"y": Vector(3)}')
    found: dict[str, Spec] = {"label": Label(classes)} if class_count(classes) else {}
    for name, value in conditions.items():
        if not (isinstance(name, str) and name.isidentifier()) or name in RESERVED:
            expected = (
                f"names of arguments (letters, digits and _) other than {', '.join(RESERVED)}"
            )
            raise fail("conditions", expected, name, "they are passed by name, so rename it")
        if name in found:
            remedy = "leave classes out, or give this condition another name"
            raise fail("conditions", f"no second {name!r} beside classes={classes}", value, remedy)
        found[name] = _as_spec(name, value)
    for name, spec in found.items():
        if isinstance(spec, Set) and f"{name}_mask" in found:
            remedy = "give it another name"
            raise fail("conditions", f"no {name}_mask beside the set {name}", list(found), remedy)
    return found


def _as_spec(name: str, value: object) -> Spec:
    if isinstance(value, Label | Vector | Image | Set):
        return value
    remedy = 'pass e.g. Vector(3), or {"kind": "vector", "size": 3}'
    if not isinstance(value, Mapping) or value.get("kind") not in KINDS:
        raise wrong_type(f"conditions[{name!r}]", "a Label, Vector, Image or Set", value, remedy)
    given = {k: v for k, v in value.items() if k != "kind"}
    try:
        return KINDS[value["kind"]](**given)
    except TypeError as error:
        kind = KINDS[value["kind"]].__name__
        raise wrong_type(f"conditions[{name!r}]", f"arguments of {kind}", value, remedy) from error


def as_config(specs: Mapping[str, Spec]) -> dict[str, Any]:  # Any: values of JSON
    """The arguments `classes` and `conditions` of a network as values of JSON.

    Example:
        >>> as_config({"label": Label(2), "y": Vector(3)})
        {'classes': 2, 'conditions': {'y': {'kind': 'vector', 'size': 3}}}
    """
    label = specs.get("label")
    classes = label.classes if isinstance(label, Label) else 0
    kinds = {made: name for name, made in KINDS.items()}
    others = {
        name: {"kind": kinds[type(spec)], **asdict(spec)}
        for name, spec in specs.items()
        if not (name == "label" and classes)
    }
    return {"classes": classes, "conditions": others}


def class_count(classes: int) -> int:
    """Check and return the number of classes: 0 for none, or a positive integer."""
    remedy = "pass the number of classes, or 0 for none"
    return 0 if classes == 0 else positive_int("classes", classes, remedy)
