"""Options in groups by name alone, for tests that change one of them at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scoresde.options import Divergence, Loss, Optim, Records, Table, Tolerances
from scoresde.sampler import ShardFiles


def _grouped(options: dict[str, Any], **groups: Any) -> dict[str, Any]:
    for name, group in groups.items():
        own = {f.name: options.pop(f.name) for f in fields(group) if f.name in options}
        if own:
            options[name] = group(**own)
    return options


def grouped(**options: Any) -> dict[str, Any]:
    """The keywords of a `Trainer` with each option in its group; `loss` is the function itself."""
    if "loss" in options:
        options["function"] = options.pop("loss")
    return _grouped(options, optim=Optim, loss=Loss, records=Records)


def estimated(**options: Any) -> dict[str, Any]:
    """The keywords of a likelihood with tolerances and the options of the divergence grouped."""
    if options.keys() & {"probes", "probe", "control"} and "divergence" in options:
        options["kind"] = options.pop("divergence")
    return _grouped(options, tolerances=Tolerances, divergence=Divergence)


def stored(**options: Any) -> dict[str, Any]:
    """The keywords of `sample_to` with the options of the files grouped."""
    return _grouped(options, files=ShardFiles)


def tabled(**options: Any) -> dict[str, Any]:
    """The keywords of `load_data` with the options of a table grouped."""
    return _grouped(options, table=Table)
