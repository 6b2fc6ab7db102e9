"""The calibrations that a model carries, and whether they are still its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from scoresde._check import warn
from scoresde._tensor import wide
from scoresde.calibration.result import Calibration, name_of
from scoresde.model import ScoreModel
from scoresde.process import Eta
from scoresde.sde import same_schedule
from scoresde.sde.fingerprint import model_hashes, weights_hash

__all__ = ["stored", "valid"]

Stamp: TypeAlias = tuple[tuple[int, float], ...]

_HASHES: WeakKeyDictionary[ScoreModel, tuple[Stamp, str]] = WeakKeyDictionary()


def stored(model: ScoreModel, steps: int, eta: Eta | None) -> Calibration | None:
    """The calibration of a model for a number of steps and a stochasticity, or None.

    With eta None it is one with noise that is better than its start, of eta = 1 if there is one:
    the automatic choice has a noise of its own, which a calibration that kept its start would only
    replace by another.

    Warns:
        UserWarning: the model was changed after the calibration, which is not used.
    """
    if callable(eta):
        return None
    if eta is not None:
        name = name_of(steps, eta)
    else:
        made: Mapping[str, Calibration] = model.calibrations
        of_one = name_of(steps, 1.0)
        better = [n for n, c in made.items() if c.steps == steps and c.eta and not c.kept]
        if not better:
            return None
        name = of_one if of_one in better else better[0]
    if name not in model.calibrations:
        return None
    if name in valid(model):
        found: Calibration = model.calibrations[name]
        return found
    warn(
        f"model: its calibration for {name} steps was made before its weights or settings were "
        "changed, so the automatic choice is used in its place; calibrate it anew, or set "
        "model.calibrations = {}"
    )
    return None


def valid(model: ScoreModel) -> Mapping[str, Calibration]:
    """The calibrations that were made for the weights and settings that the model has now."""
    if not model.calibrations:
        return {}
    owner = model.calibrated
    hashes = model_hashes(owner, _weights(owner))
    found: dict[str, Calibration] = dict(model.calibrations)
    return {name: c for name, c in found.items() if _holds(c, owner, hashes)}


def _holds(calibration: Calibration, model: ScoreModel, hashes: Mapping[str, str]) -> bool:
    if calibration.fingerprint["model"] != hashes:
        return False
    try:
        same_schedule(model.sde, calibration.fingerprint["schedule"], "sde", "calibration", "")
    except ValueError:
        return False
    return True


def _weights(model: ScoreModel) -> str:
    """The hash of the weights, computed again only where their stamp has changed."""
    stamp = _stamp(model)
    last, known = _HASHES.get(model, (None, ""))
    if last != stamp:
        known = weights_hash(model)
        _HASHES[model] = stamp, known
    return known


def _stamp(model: ScoreModel) -> Stamp:
    """The version and the sum of each tensor, which almost every change of it changes.

    Tensors that were made under inference mode have no version.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    versions = [0 if t.is_inference() else t._version for t in tensors]
    sums: dict[torch.device, list[Tensor]] = {}
    for t in tensors:
        sums.setdefault(t.device, []).append(wide(t.detach()).sum())
    # one transfer from each device
    told = {device: iter(torch.stack(parts).tolist()) for device, parts in sums.items()}
    return tuple((v, next(told[t.device])) for v, t in zip(versions, tensors, strict=True))
