"""The calibrations that a model carries, and whether they are still its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from scoresde.calibration.result import Calibration
from scoresde.model import ScoreModel

__all__ = ["stored", "valid"]

Stamp: TypeAlias = tuple[tuple[int, float], ...]

_CHECKED: WeakKeyDictionary[ScoreModel, tuple[Stamp, dict[str, bool]]] = WeakKeyDictionary()


def stored(model: ScoreModel, steps: int) -> Calibration | None:
    """The calibration of a model for a number of steps, or None.

    `Calibration.check` hashes all weights; it is repeated only if a sum of the weights or their
    version has changed since the last time.

    Warns:
        UserWarning: the model was changed after the calibration, which is not used.
    """
    name = str(steps)
    if name not in model.calibrations:
        return None
    if name in valid(model):
        found: Calibration = model.calibrations[name]
        return found
    warnings.warn(
        f"model: its calibration for {name} steps was made before its weights or settings were "
        "changed, so the automatic choice is used in its place; calibrate it anew, or set "
        "model.calibrations = {}",
        stacklevel=4,
    )
    return None


def valid(model: ScoreModel) -> Mapping[str, Calibration]:
    """The calibrations that were made for the weights and settings that the model has now."""
    if not model.calibrations:
        return {}
    stamp = _stamp(model)
    last, known = _CHECKED.get(model, ((), {}))
    known = dict(known) if last == stamp else {}
    found: dict[str, Calibration] = dict(model.calibrations)
    keys = {name: repr(calibration.fingerprint) for name, calibration in found.items()}
    for name, key in keys.items():
        if key not in known:
            known[key] = _holds(found[name], model)
    _CHECKED[model] = stamp, known
    return {name: c for name, c in found.items() if known[keys[name]]}


def _holds(calibration: Calibration, model: ScoreModel) -> bool:
    try:
        calibration.check(model.sde, model)
    except (TypeError, ValueError):
        return False
    return True


def _stamp(model: ScoreModel) -> Stamp:
    """The version and the sum of each tensor, which almost every change of it changes."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    if not tensors:
        return ()
    sums = torch.stack([t.detach().double().sum().cpu() for t in tensors])
    return tuple((t._version, s) for t, s in zip(tensors, sums.tolist(), strict=True))
