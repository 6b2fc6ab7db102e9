"""`scoresde sample`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from scoresde.cli.common import (
    BatchSize,
    Device,
    Eta,
    GridName,
    Json,
    Model,
    Overwrite,
    Seed,
    SolverName,
    Steps,
    emit,
    is_first,
    make_sampler,
    watched,
)
from scoresde.cli.config import ConfigFile, say_where, write_config
from scoresde.cli.opened import Opened, open_checkpoint
from scoresde.cli.pictures import draw, drawable

__all__ = ["EXAMPLES", "sample"]

EXAMPLES = """Examples:

scoresde sample runs/digits --n 1000 --out samples

scoresde sample runs/digits --n 50000 --label 3 --solver dpmpp_2m --steps 20 --out threes

scoresde sample runs/table --n 500 --label dog,cat --format csv --out rows

scoresde sample runs/images --n 50000 --format png --shard 250 --out pictures

torchrun --standalone --nproc-per-node 8 -m scoresde sample runs/images -n 50000 --out many
"""


def _panel(help: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def sample(
    ctx: typer.Context,
    model: Model,
    out: Annotated[
        Path, _panel("The folder of the samples.", "This call", "--out", metavar="FOLDER")
    ],
    n: Annotated[
        int,
        _panel(
            "Number of samples; -n under torchrun, which has a --n of its own.",
            "Samples",
            "--n",
            "-n",
            min=1,
        ),
    ] = 64,
    label: Annotated[
        str | None,
        _panel(
            "Class by name or number: dog, 3; several that take turns: dog,cat or 0,1,7; all (or "
            "balanced), as many of each that occurs in the training data; none. A name goes "
            "before a number. By default all, if the model has classes.",
            "Samples",
            metavar="CLASS",
        ),
    ] = None,
    seed: Seed = 0,
    first: Annotated[
        int, _panel("Number of the first sample; N goes on where a run of N ended.", "Samples")
    ] = 0,
    shape: Annotated[
        str | None,
        _panel(
            "The shape of one sample, for example 1x28x28, if the checkpoint does not say it.",
            "Samples",
            metavar="CxHxW",
        ),
    ] = None,
    solver: SolverName = "auto",
    steps: Steps = None,
    grid: GridName = None,
    eta: Eta = None,
    format: Annotated[
        str,
        _panel(
            "npz: arrays x, index and label, and of a table raw, in its units, and columns. csv: "
            "a table in the units of the training data. png: pictures, named by their number.",
            "Files",
            metavar="npz|csv|png",
        ),
    ] = "npz",
    shard: Annotated[
        int | None,
        _panel(
            "Samples in a file, or in a folder of pictures; 500 by default, of csv 100,000.",
            "Files",
            min=1,
            metavar="N",
        ),
    ] = None,
    floats: Annotated[
        bool,
        _panel("Store floats in model units, not levels or raw units.", "Files", "--floats"),
    ] = False,
    batch_size: BatchSize = 100,
    threads: Annotated[
        int | None,
        _panel(
            "CPU threads of each process; by default those of the run that is resumed.",
            "This call",
            min=1,
        ),
    ] = None,
    device: Device = None,
    config: ConfigFile = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw samples by the ten thousand, into shards, in memory that does not grow with --n.

    After a kill or an error the same call goes on with the shards that are missing; whole ones are
    kept, and other settings on the same folder are refused. Under torchrun the processes share the
    shards, and the samples are the same whatever their number: the noise of sample i depends on
    --seed and i alone. Written are shard-000000.npz (or .csv, or folders of pictures) and so on,
    sampling.json, which says what they are, config.json, with which --config repeats the call,
    and grid.png, a look at the first samples, of images and of points in the plane.
    `scoresde.data.samples`, or the folder in the place of a data set, reads them back.
    """
    from scoresde._check import fail
    from scoresde.sampler import sample_to

    began = time.monotonic()
    say_where(ctx)
    opened = open_checkpoint(model, device)
    size = shard or (TABLE if format == "csv" else SHARD)
    turns = opened.turns("all" if label is None and opened.classes else label)
    sampler = make_sampler(
        opened.model, solver=solver, steps=steps, grid=grid, eta=eta, folder=opened.folder
    )
    sizes, quantisation = opened.shape(shape), None if floats else opened.quantisation
    if format == "png" and quantisation is None:
        raise fail("format", "npz, as the samples are floats", format, "pictures hold levels")
    if format == "csv" and len(sizes) != 1:
        raise fail("format", f"npz, for samples of shape {sizes}", format, "tables hold vectors")
    done = sample_to(
        sampler,
        out,
        n,
        sizes,
        seed=seed,
        first=first,
        labels=turns,
        quantisation=quantisation,
        data=opened.data,
        format=format,
        floats=floats,
        shard=size,
        batch_size=min(batch_size, size),
        device=opened.device,
        threads=threads,
        overwrite=overwrite,
        progress=watched(as_json),
    )
    picture = None
    if is_first():
        write_config(ctx, done.folder)
        if not done.missing:
            picture = _sheet(opened, done.folder, turns)
    seconds = time.monotonic() - began
    result = {
        "out": str(done.folder),
        "n": n,
        "shards": done.total,
        "drawn": done.drawn,
        "kept": done.kept,
        "missing": done.missing,
        "classes": None if turns is None else [opened.class_name(k) for k in turns],
        "picture": picture,
        "solver": repr(sampler.solver),
        "steps": sampler.steps,
        "nfe": done.nfe,
        "seconds": seconds,
    }
    text = (
        f"{done.folder}: {n} samples in {done.total} shards, {done.drawn} drawn in {seconds:.1f} s"
    )
    text += f", {done.kept} kept" if done.kept else ""
    text += f"; {done.missing} of other processes are not there yet" if done.missing else ""
    if turns is not None:
        names = ", ".join(opened.class_name(k) for k in turns)
        text += f"\nclasses in turns: {names if len(names) < 80 else f'{len(turns)} of them'}"
    if picture:
        text += f"\n{picture}: the first of them"
    emit(result, text, as_json)


SHARD, TABLE = 500, 100_000
"""Samples in a shard by default, and in one of a table."""


def _sheet(opened: Opened, folder: Path, turns: list[int] | None) -> str | None:
    """A picture of the first samples, or None if there is none of such samples."""
    from scoresde.data import samples

    drawn = samples(folder)
    if not drawable(drawn.x.shape[1:]):
        return None
    columns = len(turns) if turns is not None and 2 <= len(turns) <= 16 else None
    most = 2000 if len(drawn.x.shape) == 2 else 8 * columns if columns else 64
    labels = [opened.class_name(k) for k in turns or ()] if columns else []
    file = folder / "grid.png"
    draw(
        drawn[:most].x,
        file,
        quantisation=opened.quantisation,
        columns=columns,
        labels=labels,
    )
    return str(file)
