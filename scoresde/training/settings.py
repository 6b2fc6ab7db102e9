"""The settings of a run in its checkpoint: those that must stay, and those that may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoresde._check import refuse
from scoresde.options import Loss, Optim, Records

__all__ = ["OF_THE_LOSS", "changes", "check_same", "fixed", "free"]

OF_THE_LOSS = frozenset({"objective", "weighting", "time"})
"""The settings with which losses before and after a change do not compare."""


def fixed(optim: Optim, *, seed: int, processes: int, samples: int, data: str) -> dict[str, Any]:
    """The settings that must not change when a run is resumed, as values of JSON."""
    return {
        "seed": seed,
        "batch_size": optim.batch_size,
        "accumulate": optim.accumulate,
        "processes": processes,
        "samples": samples,
        "data": data,
        "ema": optim.ema != 0.0,
        "optimizer": optim.optimizer,
        "freeze": list(optim.freeze),
    }


def free(optim: Optim, loss: Loss, records: Records, steps: int) -> dict[str, Any]:
    """The settings that may change when a run is resumed, as values of JSON."""
    names = ("lr", "warmup", "schedule", "weight_decay", "clip", "ema", "ema_width", "precision")
    return {
        "steps": steps,
        **{name: getattr(optim, name) for name in (*names, "compile")},
        "objective": loss.objective,
        "loss": None if loss.function is None else _name(loss.function),
        "weighting": _name(loss.weighting) if callable(loss.weighting) else loss.weighting,
        "time": repr(loss.time),
        "cond_dropout": loss.cond_dropout,
        "augment": loss.augment,
        "validate_every": records.validates_every(steps),
        "patience": records.patience,
    }


def check_same(saved: Mapping[str, Any], own: Mapping[str, Any], place: str) -> None:
    """Raise a ValueError that names all settings that must not change and did."""
    differ = [name for name, value in own.items() if saved.get(name) != value]
    if "samples" in differ and "data" in differ:
        differ.remove("data")  # it says no more
    if differ:
        old, new = (
            " and ".join(repr(values.get(name)) for name in differ) for values in (saved, own)
        )
        remedy = "resume with the same, or start another run"
        raise refuse(", ".join(differ), f"{old}, as in {place}", new, remedy)


def changes(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that changed: name -> (old, new)."""
    return {
        name: (saved[name], value)
        for name, value in own.items()
        if name in saved and saved[name] != value
    }


def _name(function: Any) -> str:  # any callable
    return str(getattr(function, "__qualname__", type(function).__qualname__))
