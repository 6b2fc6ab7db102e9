"""Build the parts of a training run from names, options and properties of the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scoresde.cli.common import key_values
from scoresde.cli.messages import in_flags, options_of

if TYPE_CHECKING:
    from torch import nn

    from scoresde.data import Data, LazyData
    from scoresde.losses import TimeSampler
    from scoresde.model import Preconditioned
    from scoresde.nets import Spec
    from scoresde.quantisation import Quantisation
    from scoresde.sde import AffineSDE

__all__ = [
    "build_model",
    "build_net",
    "build_sde",
    "build_time",
    "count_classes",
    "present",
    "specs_of",
    "with_options",
]

INFERRED = ("dim", "channels", "dims", "size", "classes", "conditions")
"""The arguments of the networks that are inferred from the data."""


def with_options(
    option: str,
    make: Callable[..., Any],
    pairs: Sequence[str] | None,
    fixed: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Any:
    """Call `make` with KEY=VALUE pairs, whose keys must be arguments of it.

    The arguments `fixed` cannot be given; the pairs win over the arguments `others`.

    Raises:
        TypeError, ValueError: an argument does not exist (the message names the nearest one) or is
            one of `fixed`, or `make` raises the error.
    """
    from scoresde._check import choice, fail

    given, fixed = key_values(option, pairs), fixed or {}
    taken = [name for name in inspect.signature(make).parameters if name not in fixed]
    for key in given:
        if not taken:
            raise fail(
                f"--{option}", f"none, for {make.__name__} has no options", key, "leave it out"
            )
        choice(f"--{option} of {make.__name__}", key, taken)
    with in_flags(options_of(option, given)):
        return make(**{**(others or {}), **fixed, **given})


def build_sde(name: str, options: Sequence[str] | None) -> AffineSDE:
    """The SDE of a name, which is a key of `scoresde.sde.SDES`."""
    from scoresde._check import choice
    from scoresde.sde import SDES

    made = SDES[choice("sde", name, SDES)]
    return with_options("sde-option", made, options)  # type: ignore[no-any-return]


def build_time(
    name: str | None, options: Sequence[str] | None, default: TimeSampler
) -> TimeSampler | None:
    """The time sampler of a name, or of the kind of `default`; None without name and options."""
    import scoresde.losses as module
    from scoresde._check import choice

    if name is None and not options:
        return None
    times = module.TIMES
    made = type(default) if name is None else times[choice("time", name, times)]
    return with_options("time-option", made, options)  # type: ignore[no-any-return]


def count_classes(data: Data | LazyData) -> int:
    """The number of classes of the labels, 0 if there are none."""
    if "label" not in data.cond:
        return 0
    return data.classes or int(data.cond["label"].max()) + 1


def present(data: Data | LazyData, classes: int) -> list[int]:
    """The classes, out of this number, that have a sample."""
    return sorted(set(data.cond["label"].tolist())) if classes else []


def build_net(
    name: str,
    shape: Sequence[int],
    classes: int,
    options: Sequence[str] | None,
    *,
    conditions: Mapping[str, Spec] | None = None,
    preset: str = "small",
    levels: Quantisation | None = None,
) -> nn.Module:
    """The network for samples of this shape and their conditions; see `nets.network_for`.

    With `levels` it gets Fourier features of its input that tell these levels apart, if it takes
    any.
    """
    from scoresde.nets.build import network_arguments
    from scoresde.nets.embed import level_exponents

    made, fixed, others = network_arguments(
        shape, classes=classes, conditions=conditions, net=name, preset=preset
    )
    if levels is not None and "input_fourier" in inspect.signature(made).parameters:
        others["input_fourier"] = level_exponents(levels.bin_width)
    return with_options("net-option", made, options, fixed, others)  # type: ignore[no-any-return]


def specs_of(data: Data | LazyData) -> dict[str, Spec]:
    """The conditions of the data other than the label, as the networks take them."""
    from scoresde.nets import infer_conditions

    others = {name: value for name, value in data.cond.items() if name != "label"}
    return infer_conditions(tuple(data.x.shape[1:]), others)


def build_model(
    net: nn.Module,
    sde: AffineSDE,
    *,
    predicts: str | None,
    net_time: str | None,
    sigma_data: float | None,
) -> Preconditioned:
    """The network with its parametrisation, by default that of `Preconditioned`."""
    from scoresde.model import Preconditioned

    return Preconditioned(net, sde, predicts=predicts, time=net_time, sigma_data=sigma_data)
