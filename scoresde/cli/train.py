"""`scoresde train`."""

from __future__ import annotations

import time as clock
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scoresde._io import write
from scoresde.cli.build import (
    build_model,
    build_net,
    build_sde,
    build_time,
    count_classes,
    present,
    registered,
)
from scoresde.cli.common import (
    Device,
    Json,
    Overwrite,
    Seed,
    check_folder,
    claim_folder,
    emit,
    is_first,
    say,
    watched,
)
from scoresde.cli.config import ConfigFile, say_where, write_config
from scoresde.cli.initial import initial
from scoresde.cli.pictures import Pictures, draw_losses
from scoresde.cli.source import DataOptions, Source, load_source, parts
from scoresde.cli.summary import beginning, ending, result_of

if TYPE_CHECKING:
    from scoresde.training import Trainer

__all__ = ["EXAMPLES", "train"]

EXAMPLES = """Examples:

scoresde train moons --steps 3000 --out runs/moons

scoresde train digits --net unet --net-option width=32 --steps 2000 --out runs/digits

scoresde train images/ --data-option size=32 --precision bf16 --steps 100000 --out runs/images

scoresde train --config runs/moons/config.json --out runs/again     (the same weights)

scoresde train --config runs/moons/config.json --resume             (after a kill)

scoresde train more/ --init-from runs/images --lr 1e-4 --out runs/finer

torchrun --nproc-per-node 8 -m scoresde train images/ --data-option size=32 --out runs/images
"""


def _panel(help: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def train(
    ctx: typer.Context,
    data: Source,
    out: Annotated[Path, _panel("The folder of the run.", "This call", "--out", metavar="FOLDER")],
    data_option: DataOptions = None,
    holdout: Annotated[
        float,
        _panel(
            "Share of the data to judge the model on and not to train it on, chosen by a hash of "
            "each sample, so it stays when data are added; 0 for none. Of fewer than 1 / X "
            "samples none is held out.",
            "Data",
            min=0.0,
            max=0.9,
            metavar="X",
        ),
    ] = 0.05,
    unconditional: Annotated[
        bool, _panel("Leave the labels of the data out.", "Data", "--unconditional")
    ] = False,
    any_scale: Annotated[
        bool,
        _panel(
            "Train also on floats that are plainly not in model units, as they are.",
            "Data",
            "--any-scale",
        ),
    ] = False,
    sde: Annotated[str, _panel(f"{registered('sde', 'SDES')}.", "Model", metavar="NAME")] = "vp",
    sde_option: Annotated[
        list[str] | None,
        _panel(
            "An option of the SDE, e.g. beta_max=20; repeat it for several.",
            "Model",
            metavar="KEY=VALUE",
        ),
    ] = None,
    net: Annotated[
        str,
        _panel(
            f"{registered('nets', 'NETS')}; by default an MLP for vectors, a U-Net for images.",
            "Model",
            metavar="NAME",
        ),
    ] = "auto",
    net_option: Annotated[
        list[str] | None,
        _panel(
            "An option of the network, e.g. width=64; repeat it for several.",
            "Model",
            metavar="KEY=VALUE",
        ),
    ] = None,
    predicts: Annotated[
        str | None,
        _panel(
            "eps, x0, v, score, flow or edm; by default edm under ve and edm, else v.",
            "Model",
            metavar="NAME",
        ),
    ] = None,
    net_time: Annotated[
        str | None,
        _panel(
            "What the network is told as its time: t, log_snr or log_sigma/4.",
            "Model",
            metavar="NAME",
        ),
    ] = None,
    sigma_data: Annotated[
        float | None,
        _panel(
            "Standard deviation of the data, for edm; measured if not given.", "Model", metavar="X"
        ),
    ] = None,
    weighting: Annotated[
        str | None,
        _panel(
            f"The weighting of the loss: {registered('losses', 'WEIGHTINGS')}; eps by default.",
            "Loss",
            metavar="NAME",
        ),
    ] = None,
    time: Annotated[
        str | None,
        _panel(
            f"How times are drawn: {registered('losses', 'TIMES')}; by default log_normal, "
            "around the scale of the data.",
            "Loss",
            metavar="NAME",
        ),
    ] = None,
    time_option: Annotated[
        list[str] | None,
        _panel(
            "An option of --time: low_discrepancy=false, uniform=0.2.", "Loss", metavar="KEY=VALUE"
        ),
    ] = None,
    cond_dropout: Annotated[
        float | None,
        _panel(
            "Probability of training a sample without its label; 0.1 by default where there are "
            "labels.",
            "Loss",
            metavar="X",
        ),
    ] = None,
    steps: Annotated[
        int, _panel("Steps of the optimiser.", "Optimiser", min=1, metavar="N")
    ] = 10_000,
    batch_size: Annotated[
        int, _panel("Samples in one forward pass of one process.", "Optimiser", min=1, metavar="N")
    ] = 128,
    accumulate: Annotated[
        int,
        _panel("Forward passes whose gradients make one step.", "Optimiser", min=1, metavar="N"),
    ] = 1,
    lr: Annotated[
        float, _panel("The highest learning rate of AdamW.", "Optimiser", metavar="X")
    ] = 1e-3,
    warmup: Annotated[
        int | None,
        _panel(
            "Steps in which the learning rate rises; a twentieth of all by default, at most 1000.",
            "Optimiser",
            min=0,
            metavar="N",
        ),
    ] = None,
    schedule: Annotated[
        str, _panel("After the warmup: cosine (to 0) or constant.", "Optimiser", metavar="NAME")
    ] = "cosine",
    weight_decay: Annotated[
        float, _panel("Weight decay of AdamW.", "Optimiser", min=0.0, metavar="X")
    ] = 0.0,
    clip: Annotated[
        float,
        _panel("Largest norm of the gradient, 0 for any.", "Optimiser", min=0.0, metavar="X"),
    ] = 1.0,
    ema: Annotated[
        float,
        _panel(
            "Decay of the average of the weights, 0 for none.", "Optimiser", min=0.0, metavar="X"
        ),
    ] = 0.999,
    precision: Annotated[
        str, _panel("no, or bf16 for autocast.", "Optimiser", metavar="NAME")
    ] = "no",
    compile: Annotated[
        bool, _panel("Send the network through torch.compile.", "Optimiser", "--compile")
    ] = False,
    max_nonfinite: Annotated[
        int,
        _panel(
            "Steps in a row without a finite loss that end the run.",
            "Optimiser",
            min=1,
            metavar="N",
        ),
    ] = 10,
    log_every: Annotated[
        int, _panel("Steps between two rows of history.csv.", "Records", min=1, metavar="N")
    ] = 50,
    checkpoint_every: Annotated[
        int, _panel("Steps between two checkpoints.", "Records", min=1, metavar="N")
    ] = 1000,
    keep: Annotated[int, _panel("Checkpoints to keep.", "Records", min=1, metavar="N")] = 1,
    validate_every: Annotated[
        int | None,
        _panel(
            "Steps between two validations; as checkpoints, or a tenth of all steps if less.",
            "Records",
            min=1,
            metavar="N",
        ),
    ] = None,
    buckets: Annotated[
        int,
        _panel(
            "Parts of the time interval in which the model is judged.",
            "Records",
            min=1,
            metavar="N",
        ),
    ] = 8,
    snapshot_every: Annotated[
        int | None,
        _panel(
            "Steps between two snapshots of the averages from which `posthoc_ema` makes one of "
            "any length.",
            "Records",
            min=1,
            metavar="N",
        ),
    ] = None,
    widths: Annotated[
        str, _panel("The widths of the two profiles of these averages.", "Records", metavar="A,B")
    ] = "0.05,0.10",
    sample_every: Annotated[
        int | None,
        _panel(
            "Steps between two pictures of samples, for images and 2-D data; as checkpoints by "
            "default, 0 for none.",
            "Records",
            min=0,
            metavar="N",
        ),
    ] = None,
    tensorboard: Annotated[
        bool | None,
        _panel("Write the files of TensorBoard too; by default if it is installed.", "Records"),
    ] = None,
    workers: Annotated[
        int,
        _panel("Threads that read data on the disk ahead.", "Data", min=0, metavar="N"),
    ] = 2,
    seed: Seed = 0,
    device: Device = None,
    config: ConfigFile = None,
    init_from: Annotated[
        Path | None,
        _panel(
            "Start from the averaged weights of another run, to fine-tune them on other data or "
            "with other options; network, SDE and what is predicted are those of that run.",
            "Model",
            metavar="RUN",
        ),
    ] = None,
    resume: Annotated[
        bool,
        _panel(
            "Go on from the checkpoint in --out, to the same bits; an error if there is none.",
            "This call",
            "--resume",
        ),
    ] = False,
    auto_resume: Annotated[
        bool,
        _panel(
            "As --resume if there is a checkpoint in --out, else start: for the script of a job "
            "that may be started again.",
            "This call",
            "--auto-resume",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a score model on any data set, and write all of the run into one folder.

    The network's size, the classes and the split for validation are inferred from the data and
    printed. The folder gets checkpoint/ (the averaged model and the state of the run), best/ (by
    validation), history.csv, validation.csv, TensorBoard files, samples/, and config.json, from
    which the run can be repeated. A run that is stopped by SIGTERM or Ctrl-C saves itself first.
    """
    import torch

    from scoresde.losses import WEIGHTING
    from scoresde.options import Loss, Optim, Records
    from scoresde.training import RunFolder, Trainer

    say_where(ctx)
    resume = _goes_on(out, resume, auto_resume)
    if not resume:
        check_folder(out, overwrite or auto_resume)
    whole = load_source(data, data_option)
    if unconditional:
        whole = replace(whole, cond={}, classes=0, class_names=())
    if init_from is not None:
        # A run that goes on has the weights itself, and the other run may be gone.
        model, whole = initial(ctx, out if resume else init_from, whole)
    classes, shape = count_classes(whole), tuple(whole.x.shape[1:])
    if init_from is None:
        process = build_sde(sde, sde_option)
        torch.manual_seed(seed)  # of the initial weights
        model = build_model(
            build_net(net, shape, classes, net_option),
            process,
            predicts=predicts,
            net_time=net_time,
            sigma_data=sigma_data,
        )
    seen, held_out = parts(whole, holdout)
    pictures = Pictures(
        out / "samples", shape, whole.quantisation, present(seen, classes), whole.class_names
    )
    each = checkpoint_every if sample_every is None else sample_every
    trainer = Trainer(
        model,
        seen,
        steps=steps,
        optim=Optim(
            batch_size=batch_size,
            accumulate=accumulate,
            lr=lr,
            warmup=warmup,
            schedule=schedule,
            weight_decay=weight_decay,
            clip=clip or None,
            ema=ema or None,
            precision=precision,
            compile=compile,
            max_nonfinite=max_nonfinite,
        ),
        loss=Loss(
            weighting=WEIGHTING if weighting is None else weighting,
            time=build_time(time, time_option),
            cond_dropout=cond_dropout,
        ),
        records=Records(
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            keep=keep,
            validate_every=validate_every,
            buckets=buckets,
            snapshot_every=snapshot_every,
            widths=_widths(widths),  # type: ignore[arg-type]  # two, or an error
            tensorboard=tensorboard,
        ),
        validation=held_out,
        seed=seed,
        out=out,
        device=device,
        progress=watched(as_json),
        callback=pictures if each and pictures.possible else None,
        callback_every=each or 1,
        workers=workers,
        any_scale=any_scale,
    )
    folder = RunFolder(out)
    claim_folder(out, overwrite or auto_resume, folder.stale, resume=resume)
    about = {
        "shape": shape,
        "classes": classes,
        "class_names": whole.class_names,
        "network": type(model.net).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "predicts": model.predicts,
        "time": model.time,
        "sigma_data": model.sigma_data or trainer.summary.std,
        "loss": trainer.loss.weighting,
        "drawn": repr(trainer.loss.time),
        "samples": len(seen),
        "held_out": 0 if held_out is None else len(held_out),
    }
    before = folder.config.read_bytes() if resume and folder.config.is_file() else None
    if is_first():
        write_config(ctx, out, about)
    say(beginning(trainer, whole, about, out))
    began = clock.perf_counter()
    try:
        _fit(trainer, out, resume)
    except (TypeError, ValueError):  # bad input: the run stays as it was, its options too
        if is_first() and before is not None:
            write(folder.config, before)
        raise
    result = result_of(trainer, out, clock.perf_counter() - began, about)
    emit(result, ending(result), as_json)


def _goes_on(out: Path, resume: bool, auto_resume: bool) -> bool:
    """Is there a checkpoint in the folder to go on from?

    Raises:
        FileNotFoundError: there is none, and it was asked for.
    """
    from scoresde.training import RunFolder

    found = RunFolder(out).resumable
    if resume and not found:
        near = [p.parent for p in sorted(out.absolute().parent.glob("*/checkpoint"))[:4]]
        hint = f"; runs beside it: {', '.join(p.name for p in near)}" if near else ""
        raise FileNotFoundError(
            f"resume: expected a checkpoint in {str(out)!r}, got none{hint}; name the folder of "
            "the run with --out, or leave --resume out to start from step 0 (--auto-resume does "
            "the one or the other)"
        )
    if auto_resume and not found:
        say(f"no checkpoint in {out} yet: from step 0")
    return found and (resume or auto_resume)


def _fit(trainer: Trainer, out: Path, resume: bool) -> None:
    """Train; what went wrong on the way is a run that failed, not bad input."""
    from scoresde.training import RunFolder

    again = f"scoresde train --config {out / 'config.json'} --resume"
    try:
        trainer.fit(resume=resume)
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped; to go on: {again}")
        raise
    finally:
        _leave_group()
    if is_first():
        draw_losses(trainer, RunFolder(out).curves)


def _leave_group() -> None:
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.destroy_process_group()


def _widths(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"widths: expected two numbers, e.g. 0.05,0.10, got {text!r}") from None
