"""Checks of a run before it begins: the units of its data, and its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from scoresde._check import fail, instance, path_of, refuse, warn
from scoresde.cond import check_cond, is_given
from scoresde.data import Data, LazyData, summarise, unit_fault
from scoresde.model import Preconditioned, ScoreModel, bare, summary_of
from scoresde.nets.conditioner import ConditionalNet
from scoresde.options import Records
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE, AffineSDE
from scoresde.summary import DataSummary
from scoresde.training.augment import CONDITION
from scoresde.training.description import describe
from scoresde.training.log import writing
from scoresde.training.matching import matched
from scoresde.training.run_folder import RunFolder

__all__ = ["check_folder", "checked_data", "checked_validation", "inform"]


def check_folder(
    out: str | os.PathLike[str] | None,
    records: Records,
    model: ScoreModel,
    quantisation: Quantisation | None,
) -> RunFolder | None:
    """The folder of a run; a model that cannot be saved there is refused before training."""
    if out is None:
        for name in ("tensorboard", "snapshot_every"):
            if got := getattr(records, name):
                raise fail(name, "a folder to write to", got, "pass out='runs/name'")
        return None
    place = path_of("out", out)
    with writing(place):  # fails in a folder without permissions
        taken = place.exists() and not place.is_dir()
    if taken:
        raise fail("out", "a folder", str(out), "choose another name")
    describe(model, quantisation)
    return RunFolder(place, keep=records.keep, quantisation=quantisation)


def checked_data(
    data: Data | LazyData,
    model: ScoreModel,
    quantisation: Quantisation | None,
    *,
    any_scale: bool,
) -> tuple[Data | LazyData, DataSummary]:
    """The data of a run in the units and class numbers of the model, and their summary.

    Args:
        data: the data.
        model: the model.
        quantisation: the levels of the data; None for those that the data know.
        any_scale: accept data that are obviously not in model units.
    """
    seen = summary_of(model)
    data = matched(data, seen)
    check_cond(model, data.cond, len(data))
    check_given(model, data.cond)
    levels = data.quantisation if quantisation is None else quantisation
    if levels is not None:
        instance("quantisation", levels, Quantisation, "pass Quantisation(256)")
    summary = replace(summarise(data), quantisation=levels)
    if summary.scaling is None and seen is not None and not levels:
        summary = replace(summary, scaling=seen.scaling)
    if not any_scale:
        check_units(summary, model.sde)
    if isinstance(model.sde, AffineSDE):
        model.sde.warn_of_prior(summary.size)  # here, since it is too late when samples are drawn
    return data, summary


def checked_validation(
    data: Data | LazyData,
    training: Data | LazyData,
    summary: DataSummary,
    model: ScoreModel,
    *,
    any_scale: bool,
) -> Data | LazyData:
    """Validation data in the units and class numbers of the training data.

    Args:
        data: the validation data.
        training: the training data.
        summary: the summary of the training data.
        model: the model.
        any_scale: accept data that are obviously not in model units.

    Raises:
        ValueError: the shape is another, or see `checked_data`.

    Warns:
        UserWarning: conditions of the training data are missing.
    """
    shape = tuple(data.x.shape[1:])
    if shape != summary.shape:
        expected = f"samples of shape {summary.shape}, that of the training data"
        raise fail("validation", expected, shape, "bring both to the same shape")
    data = matched(data, summary, "validation")
    try:
        check_cond(model, data.cond, len(data))
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from error
    lacking = [name for name in training.cond if name not in data.cond]
    if lacking:
        warn(
            f"validation: expected values for {', '.join(map(repr, lacking))}, as the training "
            "data have, got none; the validation loss is that of samples without them; pass "
            f"Data.of((x, {{{lacking[0]!r}: ...}}))"
        )
    if not any_scale:
        _check_range(summarise(data), summary, model.sde)
    return data


def check_given(model: ScoreModel, cond: Mapping[str, Tensor]) -> None:
    """Warn of conditions of the network that the data lack, which it cannot learn to use."""
    net = bare(model.net) if isinstance(model, Preconditioned) else None
    if not isinstance(net, ConditionalNet):
        return
    lacking = [name for name in net.condition.specs if name not in (*cond, CONDITION)]
    if lacking:
        names = ", ".join(map(repr, lacking))
        warn(
            f"data: expected values for {names}, which the network takes as conditions, got none; "
            f"it is trained as if {names} were never given; pass "
            f"Data.of((x, {{{lacking[0]!r}: ...}}))"
        )


def _check_range(found: DataSummary, training: DataSummary, sde: SDE) -> None:
    """Raise if the scale of validation data obviously does not match that of the training data."""
    levels = training.quantisation
    if levels is None:
        check_units(found, sde, "validation")
        return
    margin = levels.bin_width / 2
    if found.low < levels.low - margin or found.high > levels.high + margin:
        expected = f"values in the range [{levels.low:g}, {levels.high:g}] of the training data"
        got = f"values from {found.low:.4g} to {found.high:.4g}"
        raise refuse("validation", expected, got, "pass quantisation.encode(levels)")


def check_units(summary: DataSummary, sde: SDE, argument: str = "data") -> None:
    """Raise if the scale of the data obviously does not match the schedule.

    The standard deviation of a single sample is unknown. Of validation data, which are few, the
    means of single entries tell nothing, nor does the standard deviation of fewer than 10 samples,
    which may be neighbours.
    """
    if summary.quantisation is not None or not isinstance(sde, AffineSDE):
        return
    alpha, noise = float(sde.alpha(sde.T)), float(sde.sigma(sde.T))
    unit, limits = noise, {"noise": 1.0, "least": 0.1}
    if alpha > 0.5:  # the noise dominates the data at T instead of replacing them
        quiet = float(sde.sigma(sde.t_min))
        unit, limits = 1.0, {"noise": noise, "least": min(0.1, 10 * quiet)}
    whole = argument == "data"
    enough = summary.count >= (2 if whole else 10)
    std = summary.std if enough else max(unit, summary.std)
    entry = summary.offset / unit if whole else None
    fault = unit_fault(summary.mean / unit, std / unit, entry=entry, **limits)
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
        raise refuse(argument, "values in model units", fault, f"{remedy}, or {intended}")


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
    masks = {f"{name}_mask" for name in cond}  # of sets, which need none
    always = [
        name
        for name in (model.nulls.keys() & cond.keys()) - masks
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
