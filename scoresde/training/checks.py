"""Checks of a run before it begins: the units of its data, and its folder."""

from __future__ import annotations

import os

from scoresde._check import fail, path_of, refuse
from scoresde.data import unit_fault
from scoresde.model import ScoreModel
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE, AffineSDE
from scoresde.summary import DataSummary
from scoresde.training.checkpoint import describe
from scoresde.training.log import writing
from scoresde.training.run_folder import RunFolder

__all__ = ["check_folder", "check_units"]


def check_folder(
    out: str | os.PathLike[str], keep: int, model: ScoreModel, quantisation: Quantisation | None
) -> RunFolder:
    """The folder of a run; a model that cannot be saved there is refused before training."""
    place = path_of("out", out)
    with writing(place):  # fails in a folder without permissions
        taken = place.exists() and not place.is_dir()
    if taken:
        raise fail("out", "a folder", str(out), "choose another name")
    describe(model, quantisation)
    return RunFolder(place, keep=keep, quantisation=quantisation)


def check_units(summary: DataSummary, sde: SDE) -> None:
    """Raise if the scale of the data obviously does not match the schedule."""
    if summary.quantisation is not None or not isinstance(sde, AffineSDE):
        return
    alpha, noise = float(sde.alpha(sde.T)), float(sde.sigma(sde.T))
    unit, limits = noise, {"noise": 1.0, "least": 0.1}
    if alpha > 0.5:  # the noise dominates the data at T instead of replacing them
        quiet = float(sde.sigma(sde.t_min))
        unit, limits = 1.0, {"noise": noise, "least": min(0.1, 10 * quiet)}
    std = summary.std if summary.count > 1 else unit  # unknown for a single sample
    fault = unit_fault(summary.offset / unit, std / unit, **limits)
    if fault is not None:
        remedy = (
            "standardise them by scoresde.data.Data.of(data).standardised(), whose scaling is "
            "stored in the checkpoint to convert samples back, or pass any_scale=True if this "
            "scale is intended"
        )
        raise refuse("data", "values in model units", fault, remedy)
