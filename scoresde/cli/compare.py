"""`scoresde compare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scoresde.cli.common import (
    BatchSize,
    Device,
    Json,
    Model,
    Overwrite,
    check_folder,
    claim_folder,
    emit,
    watched,
)
from scoresde.cli.config import ConfigFile, write_config
from scoresde.cli.opened import open_checkpoint
from scoresde.cli.samples import Holdout, Samples, open_samples
from scoresde.cli.source import DataOptions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = """Examples:

scoresde compare runs/moons --out report

scoresde compare runs/digits --solvers ddim,unipc_3,auto --steps 5,10,20 --n 256 --data digits
--data-option split=test --label all --out report

scoresde compare runs/moons --solvers dpmpp_2m,unipc_3 --grids log_snr,karras --out grids --json
"""

OF_THE_CALL = ("overwrite", "as_json", "config")
PAGE, NUMBERS = "index.html", "comparison.json"


def _panel(help: str, *names: str, panel: str = "Comparison", **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def compare(
    ctx: typer.Context,
    model: Model,
    out: Annotated[
        Path, _panel("The folder of the report.", "--out", panel="This call", metavar="FOLDER")
    ],
    solvers: Annotated[
        str, _panel("Names with commas between them.", metavar="NAMES")
    ] = "ddim,dpmpp_2m,unipc_3,auto",
    steps: Annotated[
        str, _panel("Numbers of steps with commas between them.", metavar="NUMBERS")
    ] = "5,10,20,50",
    grids: Annotated[
        str | None, _panel("Grids by name, each tried; the solver's own if not given.")
    ] = None,
    n: Annotated[int, _panel("Samples that each solver makes of a seed.", "--n", min=2)] = 256,
    seeds: Annotated[str, _panel("Numbers with commas between them.", metavar="NUMBERS")] = "0",
    label: Annotated[
        str | None,
        _panel(
            "Class of the samples by name or number; several that take turns, dog,cat; all of "
            "them, or none, the default. Of --data with labels the same classes are taken.",
            panel="Samples",
            metavar="CLASS",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        _panel(
            "The shape of one sample, for example 1x28x28, if the checkpoint does not say it.",
            panel="Samples",
        ),
    ] = None,
    data: Annotated[
        str | None,
        _panel(
            "Data that sets of samples are compared with, by name or path; at least 2 N of them.",
            panel="Data",
            metavar="DATA",
        ),
    ] = None,
    data_option: DataOptions = None,
    holdout: Holdout = 0.0,
    tolerance: Annotated[
        float | None,
        _panel("Relative and absolute tolerance of the reference; 2e-6 by default.", metavar="X"),
    ] = None,
    fine_steps: Annotated[
        int, _panel("Steps of the reference for stochastic solvers, without --data.", min=1)
    ] = 200,
    rounds: Annotated[int, _panel("How often each solver is timed, in turns.", min=1)] = 3,
    t_end: Annotated[
        float | None, _panel("Where sampling stops; the SDE's own by default.", metavar="X")
    ] = None,
    batch_size: BatchSize = 256,
    device: Device = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the solver that suits a model: error, network calls and seconds, in one report.

    Deterministic solvers are judged by the distance of every sample from that of an adaptive
    solver at a tight tolerance, which starts from the same noise; stochastic ones, and with
    --data all of them, by a distance between sets of samples. Nothing is ranked below the floor
    of its measure. The folder gets index.html (figures, tables, samples; one file that needs no
    other), comparison.json (all numbers) and config.json, with which --config repeats it.
    """
    from scoresde.comparison import compare as run
    from scoresde.solvers import AdaptiveODE

    check_folder(out, overwrite)
    opened = open_checkpoint(model, device)
    low, high = -1.0, 1.0
    if opened.quantisation is not None:
        low, high = opened.quantisation.low, opened.quantisation.high
    real = None
    if data is not None:
        turns = opened.turns(label)
        samples = open_samples(
            opened,
            data,
            data_option,
            holdout=holdout,
            unconditional=turns is None,
            without="leave --label out",
        )
        real = samples.take(_rows_of(samples, turns))[0]
    reference = None if tolerance is None else AdaptiveODE("dopri5", tolerance, tolerance)
    found = run(
        opened.model.sde,
        opened.model,
        (n, *opened.shape(shape)),
        solvers=solvers.split(","),
        steps=_numbers("steps", steps),
        grids=None if grids is None else grids.split(","),
        seeds=_numbers("seeds", seeds),
        reference=reference,
        cond=opened.labels(label, n) or None,
        reference_data=real,
        fine_steps=fine_steps,
        rounds=rounds,
        t_end=t_end,
        batch_size=batch_size,
        about=_about(opened, label, data) | {"command": _command(ctx)},
        progress=watched(as_json),
    )
    place = claim_folder(out, overwrite, (PAGE, NUMBERS))
    found.html(place / PAGE, title=f"Solvers on {model.name}", low=low, high=high)
    (place / NUMBERS).write_text(found.to_json() + "\n", encoding="utf-8")
    write_config(ctx, place)
    result = found.to_dict() | {"out": str(place), "page": str(place / PAGE)}
    emit(result, f"{found.table()}\n\n{place / PAGE}", as_json)


def _rows_of(samples: Samples, turns: list[int] | None) -> Tensor:
    """The rows of the classes that are drawn; all rows of data without labels."""
    import torch

    if turns is None or not samples.labelled:
        return samples.rows
    label = samples.data.cond["label"].cpu()[samples.rows]
    found = samples.rows[torch.isin(label, torch.tensor(turns))]
    if not len(found):
        raise ValueError("data: expected samples of the classes of --label, got none of them")
    return found


def _about(opened: Any, label: str | None, data: str | None) -> dict[str, Any]:
    """What the report says of the checkpoint."""
    training = opened.config.get("training") or {}
    facts = {"checkpoint": str(opened.folder), "training step": training.get("step")}
    facts |= {"label": label, "data": data, "device": str(opened.device)}
    return {name: value for name, value in facts.items() if value is not None}


def _command(ctx: typer.Context) -> str:
    """The command line that repeats the comparison, options at their defaults left out."""
    words = ["scoresde", str(ctx.info_name)]
    for option in ctx.command.params:
        value = ctx.params.get(str(option.name))
        if option.param_type_name == "argument":
            words.append(str(value))
        elif value not in (None, option.default, [], ()) and option.name not in OF_THE_CALL:
            several = value if isinstance(value, list | tuple) else [value]
            words += [word for each in several for word in (option.opts[0], str(each))]
    return shlex.join(words)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{option}: expected whole numbers with commas between them, got {text!r}"
        ) from None
