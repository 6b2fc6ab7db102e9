"""Networks and specifications of conditions that suit data of a given shape."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import choice, fail, occur_often, positive_int, refuse, warn, wrong_type
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

    Whole numbers with another name than "label" may also be counts, years or degrees. They are a
    label if they are 0, 1, ..., K - 1, each of these occurs, and K is at most N / 2 or N at most
    20; otherwise they are a vector, with a warning. -1 beside such classes may be a number or may
    mean "not given", and is an error: pass numbers as floats, and classes with a `Label`.

    Args:
        shape: the shape of a sample of x.
        cond: name -> (N, ...).
        classes: the number of classes of "label"; 0 for the largest label plus 1.

    Raises:
        ValueError: a condition has none of these shapes, or see above.

    Warns:
        UserWarning: whole numbers are taken as a vector, or fewer than a tenth of the classes of
            "label" have a sample.

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
    count = _count(name, value, classes) if whole and not size else 0
    if count:
        return Label(count)
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


def _count(name: str, value: Tensor, told: int) -> int:
    """The number of classes of whole numbers (N,), `told` if it is known, and 0 for numbers."""
    if told:
        return told
    given = torch.unique(value[value >= 0])
    count, low = len(given), int(value.min())
    if name == "label":
        if not count:
            remedy = "-1 is for samples without a label: leave it out, or pass classes"
            raise fail(f"cond[{name!r}]", "a class from 0 on", "none", remedy)
        classes = int(given[-1]) + 1
        if classes > 10 * count:
            warn(
                f"cond[{name!r}]: {count} values from {int(given[0])} to {classes - 1} become a "
                f"label of {classes} classes, most of them without a sample; convert numbers with "
                ".float(), or number the classes from 0, with "
                "torch.unique(value, return_inverse=True)[1]"
            )
        return classes
    if not count or int(given[-1]) != count - 1 or low < -1 or not occur_often(count, len(value)):
        warn(
            f"cond[{name!r}]: whole numbers from {low} to {int(value.max())} that are no classes "
            "0, 1, ... of several samples each are taken as a vector; Label(...) takes classes"
        )
        return 0
    if low == -1:
        expected = "classes from 0 on, or numbers as floats"
        remedy = f"convert numbers to floats, or pass Label({count}) if -1 is for samples without"
        raise refuse(f"cond[{name!r}]", expected, f"-1 beside 0 to {count - 1}", remedy)
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
    if not isinstance(shape, Sequence):
        raise wrong_type("shape", "the shape of a sample", shape, "pass e.g. (2,) or (1, 28, 28)")
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
