"""Checks of a run before it begins: the units of its data, and its folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from scoresde._check import fail, path_of, refuse
from scoresde.cond import is_given
from scoresde.data import unit_fault
from scoresde.model import Preconditioned, ScoreModel, bare
from scoresde.nets.conditioner import ConditionalNet
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE, AffineSDE
from scoresde.summary import DataSummary
from scoresde.training.augment import CONDITION
from scoresde.training.checkpoint import describe
from scoresde.training.log import writing
from scoresde.training.run_folder import RunFolder

__all__ = ["check_folder", "check_given", "check_units", "inform"]


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


def check_given(model: ScoreModel, cond: Mapping[str, Tensor]) -> None:
    """Warn of conditions of the network that the data lack, which it cannot learn to use."""
    net = bare(model.net) if isinstance(model, Preconditioned) else None
    if not isinstance(net, ConditionalNet):
        return
    lacking = [name for name in net.condition.specs if name not in (*cond, CONDITION)]
    if lacking:
        names = ", ".join(map(repr, lacking))
        warnings.warn(
            f"data: expected values for {names}, which the network takes as conditions, got none; "
            f"it is trained as if {names} were never given, so pass (x, {{{lacking[0]!r}: ...}})",
            stacklevel=3,
        )


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
    fault = unit_fault(summary.mean / unit, std / unit, entry=summary.offset / unit, **limits)
    if fault is not None:
        remedy = (
            "standardise them by scoresde.data.Data.of(data).standardised(), whose scaling is "
            "stored in the checkpoint to convert samples back"
        )
        if _are_bytes(summary):
            remedy = (
                "divide by 127.5 and subtract 1, or read the files by "
                "scoresde.data.load_data(folder)"
            )
        intended = "pass any_scale=True if this scale is intended"
        raise refuse("data", "values in model units", fault, f"{remedy}, or {intended}")


def _are_bytes(summary: DataSummary) -> bool:
    """Whether the data look like images from 0 to 255, which [-1, 1] in their place would suit."""
    wide = summary.std / 127.5 >= 0.1  # a field from 90 to 110 does not fill this range
    return len(summary.shape) == 3 and summary.low >= 0 and summary.high <= 255 and wide


def inform(
    model: ScoreModel, summary: DataSummary, cond: Mapping[str, Tensor], dropout: float | None
) -> None:
    """Store what the data tell in a model: their summary, sigma_data, the scale of conditions.

    Scales that were measured before, of a model that is trained on, stay as they are, and what it
    learned of samples without a condition counts.

    Args:
        model: the model.
        summary: the summary of the data.
        cond: the conditions of the data, name -> (N, ...).
        dropout: the probability of training a sample without them.
    """
    always = [
        name
        for name in model.nulls.keys() & cond.keys()
        if not dropout and bool(is_given(name, model.nulls[name], cond[name]).all())
    ]
    if model.data is not None:
        always = [name for name in always if name in model.data.always_given]
    model.data = replace(summary, always_given=tuple(sorted(always)))
    model.calibrations = {}  # the training changes the weights that they belong to
    for part in model.modules():
        if isinstance(part, Preconditioned):
            if part.predicts == "edm":
                part.sigma_data = part.sigma_data or summary.std or 1.0
            net = bare(part.net)
            if cond and isinstance(net, ConditionalNet) and not net.measured:
                net.measure(cond)
