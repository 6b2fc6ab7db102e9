"""The training run: batches, steps, schedule."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import (
    choice,
    fail,
    instance,
    nonnegative,
    path_of,
    positive,
    positive_int,
    wrong_type,
)
from scoresde._check import seed as check_seed
from scoresde._tensor import as_device
from scoresde.data import Data, summarise, unit_fault
from scoresde.losses import TIME, WEIGHTING, WEIGHTINGS, TimeSampler, dsm_loss
from scoresde.model import Preconditioned, ScoreModel, bare, check_cond, check_weights
from scoresde.quantisation import Quantisation
from scoresde.sde import SDE, AffineSDE
from scoresde.summary import DataSummary
from scoresde.training.checkpoint import describe
from scoresde.training.ema import check_decay
from scoresde.training.files import refuse
from scoresde.training.log import Metrics, Row, writing
from scoresde.training.objective import Loss, accelerated, misfit
from scoresde.training.posthoc_ema import check_width
from scoresde.training.run import Run
from scoresde.training.stream import Stream, digest, seed_global
from scoresde.training.update import Update
from scoresde.training.validation import Validation, ValidationRow

__all__ = ["SCHEDULES", "Trainer", "Update"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""The learning rate after the warm-up, as a share of `lr` at a progress from 0 to 1."""


@final
class Trainer:
    """Trains a score model on data in memory by denoising score matching, on accelerate.

    The model passed in is trained in place and ends with the raw weights of the last step, on the
    device of the run and in the mode (train or eval) it came in. `fit` returns a model of its own,
    with the averaged weights and in eval mode: this is the one to sample from.

    Everything random is a function of `seed` and a position, so the same call gives the same
    weights to the bit on one process, also if it was interrupted and resumed, and the global
    random state is left as it was. The data are an endless stream: in epoch e they come in the
    order of a permutation that depends on (seed, e), and every batch takes the next `batch_size`
    rows. So every row is seen once per epoch, and a batch may be larger than the data, whose rows
    then come back with other noise.

    A step whose loss or gradient is not finite changes nothing and is counted; after
    `max_nonfinite` of them in a row the run stops, and the error names rows and times.

    With `out`, the run writes `history.csv`, TensorBoard files (if installed) and `checkpoint/`,
    which `scoresde.load` reads. A checkpoint is written as a whole or not at all, so a process
    that is killed loses the steps since the last one and no more. SIGTERM and SIGINT (preemption,
    Ctrl-C) let the step end and write a checkpoint first; then SIGTERM leaves by SystemExit(143)
    and SIGINT by KeyboardInterrupt, or whatever handlers were there. `fit(resume=True)` goes on.

    Several processes, each with `batch_size` samples a step, on one machine and on two:

        torchrun --nproc-per-node 8 train.py
        torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d \\
            --rdzv-endpoint HOST:29500 train.py     # on each of the two

    `accelerate launch` does it as well. The script is the same; gradients are averaged, all
    processes hold all of the weights, and the first one writes. Sharded weights (FSDP) are not
    for this class: a network larger than one device is trained in one's own loop, with the loss as
    the forward pass of the sharded module, `accelerate launch --use_fsdp --fsdp_version 2
    --num_processes 8 train.py` and `dsm_loss(Preconditioned(net, sde), x0)`.

    Args:
        model: the score model.
        data: (N, *D) in model units, a pair (x, cond), or `scoresde.data.Data`.
        steps: number of optimiser steps.
        loss: as `dsm_loss`, which see for `weighting`, `time` and `cond_dropout`.
        batch_size: samples in one forward pass of one process; a step takes batch_size x
            accumulate x processes of them.
        lr: the highest learning rate of AdamW.
        ema: the decay of the average of the weights (see `EMA`), or None for none.
        seed: an integer of at least 0.
        out: the folder of the run, or None to write nothing.
        weighting: of the loss.
        time: how times are drawn; by default log-normal around the scale of the data, spread
            evenly over each batch (`scoresde.losses.TIME`).
        cond_dropout: probability with which the conditions of a sample are dropped in training.
        warmup: steps in which the learning rate rises from 0; by default a twentieth of `steps`,
            at most 1000.
        schedule: "cosine" (falls to 0 at the last step) or "constant".
        clip: largest norm of the gradient, or None.
        weight_decay: of AdamW.
        accumulate: number of forward passes whose gradients are averaged for one step.
        precision: "no" or "bf16" (autocast; weights stay as they are).
        device: None for the accelerator if there is one, else the CPU.
        progress: show a bar with the loss and samples per second.
        log_every: steps between two rows of `history`, where the device is waited for.
        checkpoint_every: steps between two checkpoints; one is always written at the end.
        quantisation: which integers the data stand for, for the checkpoint; that of `data` by
            default.
        tensorboard: write its files into `out`; by default if it is installed.
        keep: number of checkpoints; with more than one, the last ones are in `checkpoints/<step>`,
            and where `checkpoint/` is damaged a run resumes from the one before it.
        max_nonfinite: steps in a row without a finite loss and gradient that end the run.
        compile: send the network through `torch.compile`.
        validation: data as `data`, on which the averaged model is judged; see `Validation`.
        validate_every: steps between two validations; `checkpoint_every` by default.
        buckets: equal parts of [t_min, T] in which the validation loss is taken.
        snapshot_every: steps between two snapshots of the averages from which `posthoc_ema` makes
            one of any length, in `snapshots/`; None for none.
        widths: of the two profiles of these averages (see `PowerEMA`).
        callback: called as callback(step, averaged model in eval mode) every `callback_every`
            steps by the first process, for example to sample; it must not change the model.
        callback_every: see `callback`.
        workers: threads that read batches ahead, of data that are read as they are needed; 0 to
            read them in the step, as it is done with `Rows` of one's own that are not `parallel`.
            The batches are the same.
        any_scale: take the data as they are also where they are plainly not in model units, such
            as temperatures in kelvin or floats of 0 to 255, which is an error otherwise. VE and
            EDM schedules are judged by their own range of sigma.

    Attributes:
        history: rows (step, mean loss since the last row, learning rate).
        metrics: of the same rows, {"gradient_norm": mean before clipping, "skipped": steps}.
        validations: rows (step, mean losses in the parts of the time interval); in
            `validation.csv` too. The model of the lowest mean is in `best/`.

    Raises:
        TypeError, ValueError: an argument is out of range; the data hold NaN, are empty or have a
            constant channel; the network does not take them (at the first batch); the loss is
            not finite (the step, rows and times are named).
        OSError: a checkpoint cannot be written; the one before it is intact.

    Example:
        >>> from scoresde import VPSDE, Preconditioned
        >>> from scoresde.nets import MLP
        >>> x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
        >>> model = Trainer(Preconditioned(MLP(2, width=8), VPSDE()), x, steps=3).fit()
        >>> model.score(0.5, x[:4]).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        model: ScoreModel,
        data: Any,
        *,
        steps: int,
        loss: Loss = dsm_loss,
        batch_size: int = 128,
        lr: float = 1e-3,
        ema: float | None = 0.999,
        seed: int = 0,
        out: str | os.PathLike[str] | None = None,
        weighting: str | Callable[..., Any] = WEIGHTING,
        time: TimeSampler | None = None,
        cond_dropout: float = 0.0,
        warmup: int | None = None,
        schedule: str = "cosine",
        clip: float | None = 1.0,
        weight_decay: float = 0.0,
        accumulate: int = 1,
        precision: str = "no",
        device: str | torch.device | None = None,
        progress: bool = False,
        log_every: int = 50,
        checkpoint_every: int = 1000,
        quantisation: Quantisation | None = None,
        tensorboard: bool | None = None,
        keep: int = 1,
        max_nonfinite: int = 10,
        compile: bool = False,
        validation: Any = None,
        validate_every: int | None = None,
        buckets: int = 8,
        snapshot_every: int | None = None,
        widths: Sequence[float] = (0.05, 0.10),
        callback: Callable[[int, ScoreModel], Any] | None = None,
        callback_every: int = 1000,
        workers: int = 2,
        any_scale: bool = False,
    ) -> None:
        instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
        self.model = model
        self.data = Data.of(data)
        check_cond(model, self.data.cond, len(self.data))
        self.steps = positive_int("steps", steps)
        if not callable(loss):
            raise wrong_type("loss", "a function like dsm_loss", loss, "pass dsm_loss")
        if not callable(weighting):
            choice("weighting", weighting, WEIGHTINGS)
        time = TIME if time is None else time
        instance("time", time, TimeSampler, "pass LogNormalTime(), UniformTime(), ...")
        if not 0.0 <= nonnegative("cond_dropout", cond_dropout) <= 1.0:
            raise fail("cond_dropout", "a probability in [0, 1]", cond_dropout, "pass e.g. 0.1")
        self.loss = loss
        self.quantisation = self.data.quantisation if quantisation is None else quantisation
        self.summary = replace(summarise(self.data), quantisation=self.quantisation)
        if not any_scale:
            _check_units(self.summary, model.sde)
        self.options: dict[str, Any] = dict(
            weighting=weighting,
            time=time.scaled(self.summary.std or 1.0),
            cond_dropout=cond_dropout,
        )
        self.batch_size = positive_int("batch_size", batch_size)
        self.accumulate = positive_int("accumulate", accumulate)
        self.lr = positive("lr", lr)
        self.warmup = min(self.steps // 20, 1000) if warmup is None else warmup
        nonnegative("warmup", self.warmup)
        self.schedule = choice("schedule", schedule, SCHEDULES)
        self.clip = None if clip is None else positive("clip", clip, "pass None for no clipping")
        self.ema = None if ema is None else check_decay("ema", ema)
        self.weight_decay = nonnegative("weight_decay", weight_decay)
        self.seed = check_seed(seed)
        self.stream = Stream(len(self.data), self.batch_size, self.seed)
        self.bf16 = choice("precision", precision, ("no", "bf16")) == "bf16"
        self.device = None if device is None else as_device(device, "None for what there is")
        self.progress = progress
        self.log_every = positive_int("log_every", log_every)
        self.checkpoint_every = positive_int("checkpoint_every", checkpoint_every)
        self.tensorboard = tensorboard
        self.out = None if out is None else path_of("out", out)
        if self.out is not None:
            with writing(self.out):  # in a folder that is closed to this user, not even asked
                taken = self.out.exists() and not self.out.is_dir()
            if taken:
                raise fail("out", "a folder", str(out), "choose another name")
            describe(model, self.quantisation)  # fails before the training, not after it
        if not any(p.requires_grad for p in model.parameters()):
            raise fail("model", "parameters to train", "none", "wrap a network, not a function")
        if tensorboard and self.out is None:
            raise fail("tensorboard", "a folder to write to", tensorboard, "pass out='runs/name'")
        self.keep = positive_int("keep", keep)
        self.max_nonfinite = positive_int("max_nonfinite", max_nonfinite)
        self.compile = compile
        self.callback = callback
        self.callback_every = positive_int("callback_every", callback_every)
        self.workers = 0 if workers == 0 else positive_int("workers", workers)
        self._validated(validation, validate_every, positive_int("buckets", buckets))
        self._snapshots(snapshot_every, widths)
        self.history: list[Row] = []
        self.metrics: list[Metrics] = []
        self.validations: list[ValidationRow] = []

    def _inform(self, model: ScoreModel) -> None:
        """Tell a model what it is about to be trained on."""
        model.data = self.summary
        for part in model.modules():
            if isinstance(part, Preconditioned) and part.predicts == "edm":
                part.sigma_data = part.sigma_data or self.summary.std or 1.0

    def _validated(self, validation: Any, every: int | None, buckets: int) -> None:
        self.validate_every = positive_int("validate_every", every or self.checkpoint_every)
        self.validation = None
        if validation is not None:
            self.validation = Validation(
                Data.of(validation),
                loss=self.loss,
                options=self.options,
                parts=buckets,
                batch_size=self.batch_size,
                seed=self.seed,
                table=None if self.out is None else self.out / "validation.csv",
            )

    def _snapshots(self, every: int | None, widths: Sequence[float]) -> None:
        self.snapshot_every = None if every is None else positive_int("snapshot_every", every)
        if every is not None and self.out is None:
            raise fail("snapshot_every", "a folder to write to", every, "pass out='runs/name'")
        self.widths = [check_width("widths", width) for width in widths]
        if len(self.widths) != 2 or self.widths[0] == self.widths[1]:
            raise fail("widths", "two different widths", widths, "pass (0.05, 0.10)")

    def __repr__(self) -> str:
        net = type(bare(getattr(self.model, "net", self.model))).__name__
        out = "" if self.out is None else f", out={str(self.out)!r}"
        told = f"steps={self.steps}, batch_size={self.batch_size}, lr={self.lr:g}"
        return f"Trainer({net} on {self.data!r}, {told}, seed={self.seed}{out})"

    def fit(self, resume: bool = False) -> ScoreModel:
        """Train, and return the averaged model in eval mode.

        Args:
            resume: continue the run whose checkpoint stands in `out`, to the same weights, to the
                bit, as if it had not been interrupted. `steps` and the optimiser's settings may
                have changed; the data, seed, batch size and number of processes may not. Without
                it a run starts anew from the weights that the model has, and replaces the
                checkpoint in `out`.

        Raises:
            FileNotFoundError: there is no checkpoint to resume.
            ValueError: see the class; a checkpoint of another model or run.
        """
        check_weights(self.model)
        with torch.inference_mode(False), torch.enable_grad():
            return self._fit(resume)

    def _fit(self, resume: bool) -> ScoreModel:
        accelerator = accelerated(self.accumulate)
        self._inform(self.model)
        self.model.to(self._device_of(accelerator))
        update = Update(
            self.model,
            lr=self.lr,
            clip=self.clip,
            ema=self.ema,
            weight_decay=self.weight_decay,
            widths=self.widths if self.snapshot_every is not None else (),
        )
        run = Run(self, accelerator, update, resume)
        with ExitStack() as stack:
            run.enter(stack)
            self.model.train()
            for step in range(run.start, self.steps):
                lr = self.lr_at(step)
                update.set_lr(lr)
                loss = self._gradients(run, step)
                run.finish(step, loss, lr)
        accelerator.wait_for_everyone()
        return update.result()  # type: ignore[return-value]  # a copy of the model

    def lr_at(self, step: int) -> float:
        """The learning rate of step number `step`, from 0: warm-up, then the schedule."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * SCHEDULES[self.schedule](progress)

    def _gradients(self, run: Run, step: int) -> Tensor:
        """Accumulate the gradients of one step; the mean loss, still on the device."""
        total: Tensor | None = None
        for piece in range(self.accumulate):
            number = run.number(step, piece)
            last = piece == self.accumulate - 1
            x, cond = run.loader.batch(number)
            generator = self.stream.generator(number)
            seed_global(run.device, self.stream.key(number))
            with nullcontext() if last else run.accelerator.no_sync(run.objective):
                try:
                    loss = run.objective(x, cond, generator)
                except (RuntimeError, TypeError, ValueError, IndexError) as error:
                    if step != run.start or isinstance(error, torch.OutOfMemoryError):
                        raise
                    raise misfit(x, cond, error) from error
                run.accelerator.backward(loss)
            share = loss.detach() / self.accumulate
            total = share if total is None else total + share
        return total  # type: ignore[return-value]  # accumulate >= 1

    def _device_of(self, accelerator: Any) -> torch.device:
        if self.device is None:
            return accelerator.device  # type: ignore[no-any-return]
        if accelerator.num_processes > 1:
            remedy = "several processes get their devices from accelerate: leave it out"
            raise fail("device", "None", str(self.device), remedy)
        return self.device

    def _settings(self, processes: int) -> dict[str, Any]:
        """What must not change between the parts of a run."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "processes": processes,
            "samples": len(self.data),
            "data": digest(self.data) if self.out is not None else "",
            "ema": self.ema is not None,
        }


def _check_units(summary: DataSummary, sde: SDE) -> None:
    """Raise if the data are plainly not of the size that the schedule is made for."""
    if summary.quantisation is not None or not isinstance(sde, AffineSDE):
        return
    alpha, noise = float(sde.alpha(sde.T)), float(sde.sigma(sde.T))
    unit, limits = noise, {"noise": 1.0, "least": 0.1}
    if alpha > 0.5:  # the noise is added to the data and drowns them, instead of replacing them
        quiet = float(sde.sigma(sde.t_min))
        unit, limits = 1.0, {"noise": noise, "least": min(0.1, 10 * quiet)}
    std = summary.std if summary.count > 1 else unit  # of one sample it is not known
    found = unit_fault(summary.offset / unit, std / unit, **limits)
    if found is not None:
        remedy = (
            "standardise them by scoresde.data.Data.of(data).standardised(), whose scaling goes "
            "into the checkpoint and takes samples back, or pass any_scale=True if they are "
            "meant to be so"
        )
        raise refuse("data", "values in model units", found, remedy)
