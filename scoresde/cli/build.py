"""Build the parts of a training run from names, options and properties of the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scoresde.cli.common import key_values

if TYPE_CHECKING:
    from torch import nn

    from scoresde.data import Data, LazyData
    from scoresde.losses import TimeSampler
    from scoresde.model import Preconditioned
    from scoresde.sde import AffineSDE

__all__ = [
    "build_model",
    "build_net",
    "build_sde",
    "build_time",
    "count_classes",
    "present",
    "with_options",
]

INFERRED = ("dim", "channels", "size", "classes")
"""The arguments of the networks that are inferred from the data."""


def with_options(
    option: str,
    make: Callable[..., Any],
    pairs: Sequence[str] | None,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Call `make` with KEY=VALUE pairs, whose keys must be arguments of it.

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
    return make(**fixed, **given)


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
    name: str, shape: Sequence[int], classes: int, options: Sequence[str] | None
) -> nn.Module:
    """The network for samples of this shape; "auto" is an MLP for vectors, a U-Net for images."""
    from scoresde._check import choice, fail
    from scoresde.nets import NETS

    choice("net", name, ["auto", *NETS])
    takes = {key: set(inspect.signature(made).parameters) for key, made in NETS.items()}
    vector = len(shape) == 1
    key = ("mlp" if vector else "unet") if name == "auto" else name
    if len(shape) not in (1, 3) or ("dim" in takes[key]) != vector:
        remedy = "choose the other kind of network, or reshape the data to (N, D) or (N, C, H, W)"
        if len(shape) == 2:
            remedy = (
                f"there is no network for sequences yet: reshape the data to (N, "
                f"{shape[0] * shape[1]}) for an MLP, or to (N, {shape[0]}, 1, {shape[1]}), given "
                "with --data-option layout=NCHW, for a U-Net along one axis"
            )
        elif len(shape) > 3:
            remedy = "there is no network for volumes yet: write one and use scoresde.Trainer"
        kinds = [[k for k in NETS if ("dim" in takes[k]) == flat] for flat in (True, False)]
        expected = f"{' or '.join(kinds[0])} for (D,), {' or '.join(kinds[1])} for (C, H, W)"
        raise fail("net", expected, (name, shape), remedy)
    if classes and "classes" not in takes[key]:
        remedy = "--unconditional leaves the labels out"
        raise fail("net", "a network that takes `classes`", name, remedy)
    known = {"dim": shape[0], "channels": shape[0], "size": tuple(shape[1:]), "classes": classes}
    fixed = {k: known[k] for k in INFERRED if k in takes[key]}
    return with_options("net-option", NETS[key], options, fixed)  # type: ignore[no-any-return]


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
