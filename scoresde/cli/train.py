"""`scoresde train`."""

from __future__ import annotations

import json
import shlex
import time as clock
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from scoresde._io import write
from scoresde.cli.build import (
    build_model,
    build_net,
    build_sde,
    build_time,
    count_classes,
    present,
    specs_of,
)
from scoresde.cli.calibrate import gained
from scoresde.cli.common import check_folder, claimed, emit, is_first, say, watched
from scoresde.cli.config import Call
from scoresde.cli.flags import Calling, argument, flag
from scoresde.cli.initial import initial
from scoresde.cli.messages import in_flags
from scoresde.cli.pictures import Pictures, draw_losses, drawable, why_not
from scoresde.cli.source import load_source, parts
from scoresde.options import Loss, Optim, Records

if TYPE_CHECKING:
    from scoresde.data import Data, LazyData
    from scoresde.model import Preconditioned
    from scoresde.summary import DataSummary
    from scoresde.training import RunFolder, Trainer

__all__ = ["Train"]


@final
@dataclass(frozen=True, kw_only=True)
class Reading:
    """Data options."""

    data_option: list[str] = field(default_factory=list)
    holdout: float = 0.05
    """The share of the data on which the model is judged and not trained. It is chosen by a hash
    of each sample, so it stays when data are added. 0 holds none out, and of fewer than 1 / X
    samples none is held out."""
    condition: list[str] = flag(metavar="COLUMN", many=True)
    """A column of a table, or an array of a .npz file, that is given to the network and not
    modelled; numbers keep their units and categories their names. The flag may be repeated. See
    --given of scoresde sample."""
    unconditional: bool = False
    """Leave the labels and the conditions of the data out."""
    any_scale: bool = False
    """Train also on floats that are plainly not in model units, as they are."""
    workers: int = 2
    """The number of threads that read data on the disk ahead. 0 reads them in the step."""

    def __post_init__(self) -> None:
        from scoresde._check import fail

        if not 0 <= self.holdout <= 0.9:
            raise fail("holdout", "a share from 0 to 0.9", self.holdout, "pass e.g. 0.05")

    @property
    def options(self) -> list[str]:
        """The options of the loader, with the columns of --condition."""
        given = [f"condition={json.dumps(self.condition)}"] if self.condition else []
        return [*self.data_option, *given]


@final
@dataclass(frozen=True, kw_only=True)
class Network:
    """Model options."""

    sde: str = "vp"
    """The SDE: a key of `scoresde.sde.SDES`."""
    sde_option: list[str] = field(default_factory=list)
    """An option of the SDE, for example beta_max=20. The flag may be repeated."""
    net: str = "auto"
    """The network: a key of `scoresde.nets.NETS`. By default it is an MLP for vectors, else a
    U-Net."""
    preset: str = "small"
    """The size of the network: tiny, small or base. Options of the network win over it."""
    net_option: list[str] = field(default_factory=list)
    """An option of the network, for example width=64. The flag may be repeated."""
    predicts: str | None = None
    """What the network predicts: eps, x0, v, score, flow or edm. By default it is edm under ve and
    edm, else v."""
    net_time: str | None = None
    """The time that the network receives: t, log_snr, log_sigma/4, sigma, 999t or 1-t. By
    default it is log_sigma/4 for edm, else t."""
    sigma_data: float | None = None
    """The standard deviation of the data, for edm. It is measured if it is not given."""
    init_from: Path | None = flag(None, metavar="RUN")
    """Start from the averaged weights of another run, to fine-tune them on other data or with
    other options. The network, the SDE and what is predicted are those of that run."""


@final
@dataclass(frozen=True, kw_only=True)
class Times:
    """Loss time options."""

    time: str | None = None
    """How the times of the loss are drawn: a key of `scoresde.losses.TIMES`. By default it is
    that of the recipe."""
    time_option: list[str] = field(default_factory=list)
    """An option of --time, for example low_discrepancy=false or uniform=0.2. The flag may be
    repeated."""


@final
@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a score model on any data set, and write all of the run into one folder.

    The network's size, the classes and the split for validation are inferred from the data and
    printed. The folder gets checkpoint/ (the averaged model and the state of the run), best/ (by
    validation), history.csv, validation.csv, TensorBoard files, samples/, and config.json, from
    which the run can be repeated. A run that is stopped by SIGTERM or Ctrl-C saves itself first.
    """

    EXAMPLES: ClassVar[str] = """
scoresde train moons --steps 3000 --out runs/moons
scoresde train digits --net unet --net-option width=32 --steps 2000 --out runs/digits
scoresde train images/ --data-option size=32 --precision bf16 --steps 100000 --out runs/images
scoresde train weather.csv --condition temperature --condition sky --out runs/weather
scoresde train --config runs/moons/config.json --out runs/again     (the same weights)
scoresde train --config runs/moons/config.json --resume             (after a kill)
scoresde train more/ --init-from runs/images --lr 1e-4 --out runs/finer
torchrun --nproc-per-node 8 -m scoresde train images/ --data-option size=32 --out runs/images
"""

    data: str = argument("DATA")
    out: Path = flag(metavar="FOLDER")
    """The folder of the run."""
    steps: int = 10_000
    """The number of steps of the optimiser."""
    seed: int = 0
    device: str | None = None
    sample_every: int | None = None
    """The number of steps between two pictures of samples, for images and 2-D data. By default
    pictures are drawn with the checkpoints. 0 draws none."""
    resume: bool = False
    """Go on from the checkpoint in --out, to the same bits. It is an error if there is none."""
    auto_resume: bool = False
    """Go on from the checkpoint in --out if there is one, else start. This is for the script of a
    job that may be started again."""
    calling: Calling = Calling()
    reading: Reading = Reading()
    network: Network = Network()
    optim: Optim = Optim()
    loss: Loss = Loss()
    times: Times = Times()
    records: Records = Records()

    def run(self, call: Call) -> None:
        """Train."""
        from scoresde.training import RunFolder

        folder = RunFolder(self.out)
        resume = self._goes_on(folder)
        anew = self.calling.overwrite or self.auto_resume
        if not resume:
            check_folder(self.out, anew)
        model, whole = self._model(call, resume)
        # Whole numbers of a vector become floats, as their summary tells them from classes.
        whole = replace(whole, cond=model.admit(dict(whole.cond)))
        trainer, about = self._trainer(model, whole, folder)
        last = folder.checkpoint.name
        with claimed(self.out, anew, folder.stale, last, resume=resume):
            result = self._run(call, trainer, whole, about, folder, resume)
        emit(result, _ending(result), self.calling.json)

    def _run(
        self,
        call: Call,
        trainer: Trainer,
        whole: Data | LazyData,
        about: dict[str, Any],  # as json holds it
        folder: RunFolder,
        resume: bool,
    ) -> dict[str, Any]:
        """Train in the folder of the run; its result."""
        before = folder.config.read_bytes() if resume and folder.config.is_file() else None
        if is_first():
            call.write(self.out, about)
        say(_beginning(trainer, whole, about, self.out))
        began = clock.perf_counter()
        try:
            _fit(trainer, folder, resume)
        except (TypeError, ValueError):  # bad input: the run and its options are not changed
            if is_first() and before is not None:
                write(folder.config, before)
            raise
        if resume and trainer.began == (trainer.stopped or trainer.steps):
            say(f"the run had ended at step {trainer.began}: no step was made; {_MORE}")
            if is_first() and before is not None:
                write(folder.config, before)
        return _result(trainer, self.out, clock.perf_counter() - began, about)

    def _goes_on(self, folder: RunFolder) -> bool:
        """Whether the folder has a checkpoint from which the run resumes.

        Raises:
            FileNotFoundError: there is none, and --resume requires one.
        """
        out = folder.path
        if self.resume and not folder.resumable:
            near = [p.parent for p in sorted(out.absolute().parent.glob("*/checkpoint"))[:4]]
            hint = f"; runs beside it: {', '.join(p.name for p in near)}" if near else ""
            raise FileNotFoundError(
                f"resume: expected a checkpoint in {str(out)!r}, got none{hint}; name the folder "
                "of the run with --out, or leave --resume out to start from step 0 (--auto-resume "
                "does the one or the other)"
            )
        if self.auto_resume and not folder.resumable:
            say(f"no checkpoint in {out} yet: from step 0")
        return folder.resumable and (self.resume or self.auto_resume)

    def _model(self, call: Call, resume: bool) -> tuple[Preconditioned, Data | LazyData]:
        """The model at the start, and the data with the class numbers of the model."""
        import torch

        from scoresde.nets import Vector
        from scoresde.training import recipe_for
        from scoresde.training.augment import CONDITION, LABELS

        chosen = self.network
        if chosen.init_from is not None:
            # A resumed run has its weights, and the other run may not exist any more.
            return initial(call, self.out if resume else chosen.init_from, self._read)
        whole = self._read()
        process = build_sde(chosen.sde, chosen.sde_option)
        torch.manual_seed(self.seed)  # for the initial weights
        shape = tuple(whole.x.shape[1:])
        recipe = recipe_for(shape, self.loss.objective)
        augment = recipe.augment if self.loss.augment is None else self.loss.augment
        conditions = specs_of(whole)
        if augment and len(shape) == 3:
            conditions[CONDITION] = Vector(len(LABELS))
        net = build_net(
            chosen.net,
            shape,
            count_classes(whole),
            chosen.net_option,
            conditions=conditions,
            preset=chosen.preset,
            levels=whole.quantisation if self.loss.objective == "likelihood" else None,
        )
        model = build_model(
            net,
            process,
            predicts=chosen.predicts,
            net_time=chosen.net_time,
            sigma_data=chosen.sigma_data,
        )
        return model, whole

    def _read(self, like: DataSummary | None = None) -> Data | LazyData:
        """The data; a table has the columns and the scaling of `like`."""
        whole = load_source(self.data, self.reading.options, like)
        if self.reading.unconditional:
            return replace(whole, cond={}, classes=0, class_names=())
        return whole

    def _trainer(
        self, model: Preconditioned, whole: Data | LazyData, folder: RunFolder
    ) -> tuple[Trainer, dict[str, Any]]:  # as json holds it
        """The run, and its description for config.json."""
        from scoresde._check import refuse
        from scoresde.training import Trainer, recipe_for

        classes, shape = count_classes(whole), tuple(whole.x.shape[1:])
        seen, held_out = parts(whole, self.reading.holdout)
        if held_out is None and self.records.patience is not None:
            got = f"none of {len(whole)} with --holdout {self.reading.holdout:g}"
            remedy = "take a larger --holdout, or bring more samples"
            raise refuse("patience", "samples that are held out to judge by", got, remedy)
        recipe = recipe_for(shape, self.loss.objective)
        time = build_time(self.times.time, self.times.time_option, recipe.time)
        pictures = Pictures(
            folder.samples, shape, whole.quantisation, present(seen, classes), whole.class_names
        )
        each = self.records.checkpoint_every if self.sample_every is None else self.sample_every
        with in_flags({}, plain=True):
            trainer = Trainer(
                model,
                seen,
                steps=self.steps,
                optim=self.optim,
                loss=replace(self.loss, time=time),
                records=self.records,
                validation=held_out,
                seed=self.seed,
                out=self.out,
                device=self.device,
                progress=watched(self.calling.json),
                callback=pictures if each and pictures.possible else None,
                callback_every=each or 1,
                workers=self.reading.workers,
                any_scale=self.reading.any_scale,
            )
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
        return trainer, about


_MORE = "to train on, ask for more --steps, or after early stopping for more --patience"


def _fit(trainer: Trainer, folder: RunFolder, resume: bool) -> None:
    try:
        model = trainer.fit(resume=resume)
    except (KeyboardInterrupt, SystemExit):
        config = shlex.quote(str(folder.config))
        say(f"stopped; to go on: scoresde train --config {config} --resume")
        raise
    finally:
        _leave_group()
    if trainer.uncalibrated:
        say(f"solvers: {trainer.uncalibrated}")
    for calibration in model.calibrations.values():
        say(f"solver for {calibration.steps} steps: {gained(calibration)}")
    if is_first():
        draw_losses(trainer, folder.curves)


def _leave_group() -> None:
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.destroy_process_group()


# Output of the command


def _beginning(trainer: Trainer, whole: Data | LazyData, about: dict[str, Any], out: Path) -> str:
    """The text at the start: the inferred settings and the plan."""
    model, net = trainer.model, trainer.model.net
    sizes = ", ".join(f"{k}={v}" for k, v in getattr(net, "config", {}).items())
    labels = f", {about['classes']} classes" if about["classes"] else ""
    optim = trainer.optim
    per_step = trainer.batch_size * optim.accumulate
    few = "" if about["held_out"] else ": no validation (see --holdout)"
    lines = {
        "data": f"{whole!r}{labels}",
        "split": f"{about['samples']} to train on, {about['held_out']} held out{few}",
        "levels": whole.quantisation or "none: not discrete",
        "sde": repr(model.sde),
        "network": f"{about['network']}({sizes}), {about['parameters']:,} parameters",
        "predicts": f"{about['predicts']}, told {about['time']} as its time",
        "loss": f"weighting {about['loss']}, times by {about['drawn']}",
        "training": f"{trainer.steps} steps of {per_step} samples in each process",
        "recipe": _recipe(trainer),
        "run": str(out),
    }
    if not drawable(about["shape"]):
        lines["pictures"] = f"none: {why_not(about['shape'])}"
    return "\n".join(f"{name:9}{text}" for name, text in lines.items())


def _recipe(trainer: Trainer) -> str:
    """The options of the optimiser in a line."""
    optim, kind = trainer.optim, "x".join(map(str, trainer.summary.shape))
    average = f"average of width {optim.ema_width}"
    if optim.ema is not None:
        average = f"average of decay {optim.ema:g}" if optim.ema else "no average"
    augment = f", augmented with {trainer.loss.augment:g}" if trainer.loss.augment else ""
    return (
        f"{trainer.loss.objective} of {kind}: {optim.optimizer}, lr {optim.lr:g} after "
        f"{optim.warmup} steps ({optim.schedule}), clip {optim.clip:g}, {average}, "
        f"precision {optim.precision}{', compiled' if optim.compile else ''}, dropout of "
        f"conditions {trainer.loss.cond_dropout:g}{augment}"
    )


def _result(trainer: Trainer, out: Path, seconds: float, about: dict[str, Any]) -> dict[str, Any]:
    """The result of a run, for --json."""
    last, best = trainer.validations[-1] if trainer.validations else None, trainer.best
    return {
        "out": str(out),
        "checkpoint": str(out / "checkpoint"),
        "best": str(out / "best") if best else None,
        "steps": trainer.steps if trainer.stopped is None else trainer.stopped,
        "began": trainer.began,
        "stopped": trainer.stopped is not None,
        "seconds": seconds,
        "loss": trainer.history[-1][1] if trainer.history else None,
        "validation": last.loss if last else None,
        "validation_by_time": last.parts if last else (),
        "best_validation": best.loss if best else None,
        "best_step": best.step if best else None,
        "skipped": sum(int(row["skipped"]) for row in trainer.metrics),
        "parameters": about["parameters"],
        "shape": about["shape"],
        "classes": about["classes"],
    }


def _ending(result: dict[str, Any]) -> str:
    """The text at the end: the result of a run and its files."""
    began, steps = result["began"], result["steps"]
    if began == steps:
        made = f"no steps: the run had its {steps} already"
    else:
        span = f" ({began} to {steps})" if began else ""
        made = (
            f"{steps - began} step{'s' * (steps - began != 1)}{span} in {result['seconds']:.1f} s"
        )
    lines = [f"{made}, loss {_short(result['loss'])}"]
    if result["validation"] is not None:
        lines[0] += f", validation {_short(result['validation'])}"
    if result["best"] is not None:
        lines.append(
            f"{result['best']}: the model of the lowest validation loss, "
            f"{_short(result['best_validation'])} at step {result['best_step']}"
        )
    if began == steps:
        lines[0] += f"; {'more --patience' if result['stopped'] else '--steps N'} trains on"
    if result["stopped"]:
        lines.append("the run ended early, for the validation loss stopped falling (--patience)")
    if result["skipped"]:
        lines.append(
            f"{result['skipped']} steps were skipped: their loss or gradient was not finite"
        )
    lines.append(f"{result['checkpoint']}: the averaged model and the state of the run")
    lines.append(f"next: scoresde sample {shlex.quote(result['out'])} --out samples")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
