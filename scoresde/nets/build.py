"""Networks and specifications of conditions that suit data of a given shape."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import choice, fail, positive_int, refuse, warn
from scoresde.nets.conditions import Image, Label, Set, Spec, Vector, as_config, as_specs
from scoresde.nets.registry import NETS
from scoresde.nets.unet import UNet, levels_of

__all__ = ["Preset", "infer_conditions", "network_arguments", "network_for", "presets"]

SHAPES = {"(D,)": 1, "(C, L)": 2, "(C, H, W)": 3, "(C, D, H, W)": 4}
"""The shapes of samples and their numbers of axes."""

EXAMPLES = ((2,), (1, 256), (1, 28, 28), (1, 16, 16, 16))
"""The shapes for which `presets` builds networks."""


def infer_conditions(
    shape: Sequence[int], cond: Mapping[str, Tensor], classes: int = 0
) -> dict[str, Spec]:
    """The specifications of the conditions of data.

    Whole numbers (N,) are a label; (N,) or (N, k) a vector; (N, c, *D) with the spatial size *D of
    x an image; any other (N, m, k) a set, with its mask (N, m) of the name `<name>_mask`.

    Args:
        shape: the shape of a sample of x.
        cond: name -> (N, ...).
        classes: the number of classes of "label"; 0 for the largest label plus 1.

    Raises:
        ValueError: a condition has none of these shapes.

    Warns:
        UserWarning: fewer than a tenth of the classes of a label have a sample, as for years.

    Example:
        >>> import torch
        >>> cond = {"y": torch.zeros(8, 3), "low": torch.zeros(8, 2, 4, 4)}
        >>> infer_conditions((1, 4, 4), cond)
        {'y': Vector(size=3), 'low': Image(channels=2)}
    """
    found: dict[str, Spec] = {}
    for name, value in cond.items():
        stem = name.removesuffix("_mask")
        if name != stem and stem in cond:
            continue
        found[name] = _infer(name, value, tuple(shape), classes if name == "label" else 0)
    return found


def _infer(name: str, value: Tensor, shape: tuple[int, ...], classes: int) -> Spec:
    size = tuple(value.shape[1:])
    whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if not size and whole:
        if not classes and not bool((value >= 0).any()):
            remedy = "-1 is for samples without a label: leave it out, or pass classes"
            raise fail(f"cond[{name!r}]", "a class from 0 on", "none", remedy)
        return Label(classes or _count(name, value))
    if len(size) <= 1:
        return Vector(size[0] if size else 1)
    if len(shape) > 1 and size[1:] == shape[1:]:
        return Image(size[0])
    if len(size) == 2:
        return Set(size[1])
    expected = "numbers (N,), vectors (N, k), sets (N, m, k)"
    if len(shape) > 1:
        expected += f" or images (N, c, {', '.join(map(str, shape[1:]))}) of the size of x"
    remedy = "resize it, or flatten it to (N, k)"
    raise fail(f"cond[{name!r}]", expected, value, remedy)


def _count(name: str, value: Tensor) -> int:
    """The number of classes of labels: the largest one plus 1."""
    count, used = int(value.max()) + 1, {label for label in value.tolist() if label >= 0}
    if count > 10 * len(used):
        warn(
            f"cond[{name!r}]: {len(used)} values from {min(used)} to {count - 1} become a label "
            f"of {count} classes, most of them without a sample; convert numbers with .float(), "
            "or number the classes from 0, with torch.unique(value, return_inverse=True)[1]"
        )
    return count


def network_arguments(
    shape: Sequence[int],
    *,
    classes: int = 0,
    conditions: Mapping[str, Spec] | None = None,
    net: str = "auto",
    preset: str = "small",
) -> tuple[Callable[..., nn.Module], dict[str, Any], dict[str, Any]]:  # Any: arguments
    """The class of `network_for`, the arguments that the data fix, and its other arguments.

    Raises:
        ValueError: see `network_for`.
    """
    sizes = tuple(positive_int("shape", n, "pass e.g. (1, 28, 28)") for n in shape)
    choice("net", net, ["auto", *NETS])
    key = ("mlp" if len(sizes) == 1 else "unet") if net == "auto" else net
    made, axes = NETS[key], len(sizes)
    if axes not in _axes(made):
        fitting = {
            text: [k for k, m in NETS.items() if n in _axes(m)] for text, n in SHAPES.items()
        }
        expected = ", ".join(f"{' or '.join(keys)} for {text}" for text, keys in fitting.items())
        remedy = "choose another network, or reshape the data"
        raise refuse("net", expected, f"{net!r} for {sizes}", remedy)
    takes = inspect.signature(made).parameters
    specs = as_specs(conditions, classes)
    kept = as_config(specs)
    for name in ("classes", "conditions"):
        if kept[name] and name not in takes:
            raise fail("net", f"a network that takes {name}", net, "leave them out")
    known = {
        "dim": sizes[0],
        "channels": sizes[0],
        "dims": axes - 1,
        "size": sizes[1:],
        **kept,
    }
    fixed = {name: value for name, value in known.items() if name in takes}
    others: dict[str, Any] = {"preset": preset} if "preset" in takes else {}
    if made is UNet:
        levels = UNet.PRESETS[axes - 1][choice("preset", preset, UNet.PRESETS[axes - 1])]
        others["multipliers"] = levels["multipliers"][: levels_of(sizes[1:])]
    return made, fixed, others


def _axes(made: type[nn.Module]) -> tuple[int, ...]:
    """The numbers of axes of the samples that a network takes."""
    takes = inspect.signature(made).parameters
    if "dim" in takes:
        return (1,)
    return (2, 3, 4) if "dims" in takes else (3,)


def network_for(
    shape: Sequence[int],
    *,
    classes: int = 0,
    conditions: Mapping[str, Spec] | None = None,
    net: str = "auto",
    preset: str = "small",
    options: Mapping[str, Any] | None = None,  # Any: arguments of the network
) -> nn.Module:
    """The network for samples of a shape: an MLP for vectors, else a U-Net.

    A U-Net gets as many levels as its preset has and the data can be halved.

    Args:
        shape: the shape of a sample: (D,), (C, L), (C, H, W) or (C, D, H, W).
        classes: the number of classes of the condition "label", 0 for none.
        conditions: further conditions, e.g. those of `infer_conditions`.
        net: "auto", or a key of `NETS`.
        preset: "tiny", "small" or "base".
        options: arguments of the network by name, which win over the preset.

    Raises:
        TypeError: an option is no argument of the network.
        ValueError: the network or the preset is unknown, or the network does not take samples of
            this shape or the conditions.

    Example:
        >>> net = network_for((1, 100), conditions={"y": Vector(3)}, preset="tiny")
        >>> type(net).__name__, net.config["dims"]
        ('UNet', 1)
    """
    made, fixed, others = network_arguments(
        shape, classes=classes, conditions=conditions, net=net, preset=preset
    )
    return made(**{**others, **fixed, **(options or {})})


@final
@dataclass(frozen=True)
class Preset:
    """A preset of a network.

    Attributes:
        net: the key of the network in `NETS`.
        preset: the name of the preset.
        shape: the shape of a sample.
        parameters: the number of parameters for this shape, without conditions.
    """

    net: str
    preset: str
    shape: tuple[int, ...]
    parameters: int

    def __str__(self) -> str:
        return f"{self.net} {self.preset} for {self.shape}: {self.parameters:,} parameters"


def presets() -> list[Preset]:
    """All presets of all networks, with their numbers of parameters for samples of usual shapes.

    Example:
        >>> print(presets()[0])
        mlp tiny for (2,): 42,818 parameters
    """
    found = []
    for key, made in NETS.items():
        names = ("tiny", "small", "base") if "preset" in inspect.signature(made).parameters else ()
        for shape in EXAMPLES:
            for name in names if len(shape) in _axes(made) else ():
                with torch.device("meta"):
                    net = network_for(shape, net=key, preset=name)
                count = sum(math.prod(p.shape) for p in net.parameters())
                found.append(Preset(key, name, shape, count))
    return found
