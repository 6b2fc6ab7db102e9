"""Calibrations at the end of a training run, for a small share of its cost."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from scoresde._check import warn
from scoresde.calibration import Calibration
from scoresde.calibration.stored import valid
from scoresde.data import Data, LazyData
from scoresde.model import ScoreModel
from scoresde.process import ReverseSDE
from scoresde.sde import AffineSDE
from scoresde.training.checkpoint import add_calibrations, read_config, saved_calibrations
from scoresde.training.stream import take

__all__ = ["SHARE", "calibrate_run", "evaluations_of"]

SHARE = 0.03
"""The most network evaluations of the calibrations, as a share of those of the training."""

_WAIT = timedelta(days=2)  # the other processes wait for the one that calibrates


def evaluations_of(samples: int) -> int:
    """The network evaluations of training steps on so many samples, of three for each.

    A step of the training and a differentiated evaluation of a calibration both make a forward
    and a backward pass, which cost about three evaluations.
    """
    return 3 * samples


def calibrate_run(
    model: ScoreModel,
    counts: Sequence[int],
    data: Data | LazyData,
    *,
    samples: int,
    seed: int,
    batch_size: int | None = None,
    place: Path | None = None,
    progress: bool = False,
) -> str:
    """Calibrate a trained model, and store the calibrations in it and in its checkpoint.

    Fewer numbers of steps are calibrated, the smallest first, if the budget does not suffice for
    all. In a run of several processes the first one calibrates, and the others take its result.

    Args:
        model: the trained model, whose `calibrations` are set.
        counts: the numbers of steps.
        data: the data that the conditions of the trajectories are taken from, evenly spread.
        samples: the samples that the training took in each process, which give the budget: one
            process alone calibrates, while the others wait.
        seed: the seed of the trajectories.
        batch_size: the number of trajectories solved at a time, for which the memory suffices;
            None for all.
        place: the folder of the checkpoint of this model, or None.
        progress: show the progress.

    Returns:
        The reason why there are fewer calibrations than were asked for; "" if there are all.

    Warns:
        UserWarning: a calibration failed, or could not be written; the model is trained and
            saved.
    """
    parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
    group = _patient_group() if parallel else None
    found: dict[str, Calibration] = {}
    why = ""
    if not parallel or torch.distributed.get_rank() == 0:
        try:
            found, why = _found(model, counts, data, samples, seed, batch_size, place, progress)
        except Exception as error:  # of any kind: a model of the user's own may raise it
            why = f"the calibration failed: {_told(error)}"
            told = f"{why}; the model is trained, and solver='auto' takes its table"
            warn(told)
    if parallel:
        box = [({name: c.to_dict() for name, c in found.items()}, why)]
        torch.distributed.broadcast_object_list(box, group=group)
        if group is not None:
            torch.distributed.destroy_process_group(group)
        found = {name: Calibration.from_dict(saved) for name, saved in box[0][0].items()}
        why = box[0][1]
    model.calibrations = found
    return why


def _patient_group() -> torch.distributed.ProcessGroup | None:
    """A group of all processes in which they wait for longer than for a step of the training.

    Its backend is gloo, which sends from the CPU; None, the group of the training, without it.
    """
    if not torch.distributed.is_gloo_available():
        return None
    made: torch.distributed.ProcessGroup = torch.distributed.new_group(
        timeout=_WAIT, backend="gloo"
    )
    return made


def _told(error: Exception) -> str:
    """The message of an error after its class, which is all that an assertion may have."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _found(
    model: ScoreModel,
    counts: Sequence[int],
    data: Data | LazyData,
    samples: int,
    seed: int,
    batch_size: int | None,
    place: Path | None,
    progress: bool,
) -> tuple[dict[str, Calibration], str]:
    from scoresde.calibration.budget import affordable
    from scoresde.calibration.search import calibrate_each

    sde = model.sde
    if not isinstance(sde, AffineSDE) or not math.isfinite(sde.log_snr(sde.T)):
        return {}, f"{type(sde).__name__} has no finite log-SNR from T to t_end"
    shape = tuple(data.x.shape[1:])
    budget = int(SHARE * evaluations_of(samples))
    able, trajectories = affordable(sorted(set(counts)), math.prod(shape), budget)
    left = [str(n) for n in sorted(set(counts)) if n not in able]
    why = ""
    if left:
        remedy = "scoresde.calibrate makes one"
        if place is not None:
            run = shlex.quote(str(place.parent))
            remedy = f"`scoresde calibrate {run}` makes one, or scoresde.calibrate"
        why = (
            f"no calibration was made for {', '.join(left)} steps: {100 * SHARE:g} % of the "
            f"training's cost, {budget:,} network evaluations, do not suffice; {remedy}"
        )
    if not able:
        return {}, why
    kept = _kept(model, place)
    if all(str(n) in kept for n in able):
        return kept, why
    device = next((p.device for p in model.parameters()), None)
    found = calibrate_each(
        ReverseSDE(sde, model, 0.0, _conditions(data, trajectories, device)),
        shape,
        steps=able,
        trajectories=trajectories,
        seed=seed,
        budget=budget,
        batch_size=batch_size,
        progress=progress,
    )
    named = {str(n): calibration for n, calibration in found.items()}
    if place is not None:
        try:
            add_calibrations(place, model, named)
        except (OSError, ValueError) as error:  # the disk is full, or the folder was changed
            why = f"the calibrations are not in {place}: {_told(error)}"
            warn(f"{why}; the returned model has them")
    return named, why


def _kept(model: ScoreModel, place: Path | None) -> dict[str, Calibration]:
    """The calibrations of the checkpoint that hold for the model, as of a run that was resumed."""
    if place is None:
        return {}
    model.calibrations = saved_calibrations(read_config(place), place)
    return dict(valid(model))


def _conditions(
    data: Data | LazyData, count: int, device: torch.device | None
) -> Mapping[str, Tensor] | None:
    """The conditions of some rows of the data, evenly spread, or None."""
    if not data.cond:
        return None
    rows = torch.linspace(0, len(data) - 1, count, device="cpu").round().long()
    where = torch.device("cpu") if device is None else device
    return {name: take(values, rows, where) for name, values in data.cond.items()}
