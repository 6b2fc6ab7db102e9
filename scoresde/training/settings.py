"""The settings of a run in its checkpoint: those that must stay, and those that may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scoresde._check import fail, refuse, warn
from scoresde.options import Loss, Optim, Records

__all__ = ["OF_THE_LOSS", "check_same", "fixed", "free"]

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


def check_same(
    saved: Mapping[str, Any], own: Mapping[str, Any], place: str, steps: int
) -> dict[str, tuple[Any, Any]]:
    """The settings of a run that changed, name -> (old, new), in the order of these.

    Args:
        saved: the information in the checkpoint.
        own: the settings now, "run" for those that must not change, and "choices".
        place: the folder of the checkpoint.
        steps: the number of steps asked for.

    Raises:
        ValueError: a setting that must not change did (the message names all), or fewer steps
            are asked for than were made.

    Warns:
        UserWarning: settings changed.
    """
    _check_fixed(saved["run"], own["run"], place)
    if saved["step"] > steps:
        expected = f"at least the {saved['step']} steps already made in {place}"
        remedy = "ask for more, or take the model in its checkpoint"
        raise fail("steps", expected, steps, remedy)
    before = saved.get("choices", {})
    changes = {
        name: (before[name], value)
        for name, value in own["choices"].items()
        if name in before and before[name] != value
    }
    if changes:
        listed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changes.items())
        warn(f"the run in {place} goes on from step {saved['step']} with other settings: {listed}")
    return changes


def _check_fixed(saved: Mapping[str, Any], own: Mapping[str, Any], place: str) -> None:
    differ = [name for name, value in own.items() if saved.get(name) != value]
    if "samples" in differ and "data" in differ:
        differ.remove("data")  # it says no more
    if not differ:
        return
    old, new = (
        " and ".join(_TOLD.get(name, repr)(values.get(name)) for name in differ)
        for values in (saved, own)
    )
    remedy = "resume with the same, or start another run"
    if {"samples", "data"} & set(differ):
        remedy = (
            f"{remedy}: the same data, of which the same share is held out; to go on with other "
            "data train a new run from the weights of this one: --init-from RUN, or in Python "
            "Trainer(load(RUN), data)"
        )
    names = ", ".join("data" if name == "samples" else name for name in differ)
    raise refuse(names, f"{old}, as in {place}", new, remedy)


_TOLD: Mapping[str, Callable[[Any], str]] = {  # Any: values of JSON
    "samples": lambda count: f"{count} samples to train on",
    "data": lambda digest: f"samples of hash {digest}",
    "ema": lambda kept: "an average of the weights" if kept else "none",
}
"""How the values of settings that are not options themselves are shown."""


def _name(function: Any) -> str:  # any callable
    return str(getattr(function, "__qualname__", type(function).__qualname__))
