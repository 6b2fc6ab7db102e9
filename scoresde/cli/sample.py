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
from scoresde.cli.config import ConfigFile, write_config
from scoresde.cli.opened import Opened, open_checkpoint

__all__ = ["EXAMPLES", "sample"]

EXAMPLES = """Examples:

scoresde sample runs/digits --n 1000 --out samples

scoresde sample runs/digits --n 50000 --label 3 --solver dpmpp_2m --steps 20 --out threes

scoresde sample runs/images --n 50000 --format png --shard 250 --out pictures

torchrun --standalone --nproc-per-node 8 -m scoresde.cli sample runs/images -n 50000 --out many
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
            "Class: 3; several that take turns: 0,1,7; all (or balanced), as many of each; none. "
            "By default all, if the model has classes.",
            "Samples",
            metavar="K",
        ),
    ] = None,
    seed: Seed = 0,
    first: Annotated[
        int, _panel("Number of the first sample; N goes on where a run of N ended.", "Samples")
    ] = 0,
    shape: Annotated[
        str | None,
        _panel(
            "Of a sample, 1x28x28, where the checkpoint does not say.",
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
            "npz: arrays x, index and label. png: pictures, named by their number.",
            "Files",
            metavar="npz|png",
        ),
    ] = "npz",
    shard: Annotated[
        int, _panel("Samples in a file of arrays, or in a folder of pictures.", "Files", min=1)
    ] = 500,
    floats: Annotated[
        bool, _panel("Store floats in model units, not levels.", "Files", "--floats")
    ] = False,
    batch_size: BatchSize = 100,
    threads: Annotated[
        int | None,
        _panel("Of the CPU, each process; those of a run that is resumed.", "This call", min=1),
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
    --seed and i alone. Written are shard-000000.npz (or folders of pictures) and so on,
    sampling.json, which says what they are, and config.json, with which --config repeats the call.
    `scoresde.data.samples`, or the folder in the place of a data set, reads them back.
    """
    from scoresde.sampler import sample_to

    began = time.monotonic()
    opened = open_checkpoint(model, device)
    sampler = make_sampler(
        opened.model, solver=solver, steps=steps, grid=grid, eta=eta, folder=opened.folder
    )
    done = sample_to(
        sampler,
        out,
        n,
        opened.shape(shape),
        seed=seed,
        first=first,
        labels=_labels(opened, label),
        contract=None if floats else opened.contract,
        format=format,
        shard=shard,
        batch_size=min(batch_size, shard),
        device=opened.device,
        threads=threads,
        overwrite=overwrite,
        progress=watched(as_json),
    )
    if is_first():
        write_config(ctx, done.folder)
    seconds = time.monotonic() - began
    result = {
        "out": str(done.folder),
        "n": n,
        "shards": done.total,
        "drawn": done.drawn,
        "kept": done.kept,
        "missing": done.missing,
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
    emit(result, text, as_json)


def _labels(opened: Opened, label: str | None) -> list[int] | None:
    """The classes that take turns."""
    if label is None:
        label = "all" if opened.classes else "none"
    elif label == "balanced":
        label = "all"
    turns = opened.classes if label == "all" else label.count(",") + 1
    labels = opened.labels(label, turns).get("label")
    return None if labels is None else [int(k) for k in labels]
