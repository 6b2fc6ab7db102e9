"""The training loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from scoresde._check import fail, instance, positive_int
from scoresde._check import seed as check_seed
from scoresde._html import Shown, rounded
from scoresde._tensor import as_device
from scoresde.data import Data, LazyData
from scoresde.model import ScoreModel, bare, check_weights
from scoresde.options import Loss, Optim, Records, known
from scoresde.quantisation import Quantisation
from scoresde.training.augment import check_augment
from scoresde.training.best import Best
from scoresde.training.calibrating import calibrate_run
from scoresde.training.callbacks import Callbacks
from scoresde.training.checks import check_folder, checked_data, checked_validation, inform
from scoresde.training.interrupt import Interrupts
from scoresde.training.loader import Loader
from scoresde.training.log import Log, callbacks_of, with_board
from scoresde.training.objective import (
    Objective,
    compiled,
    explained,
    frozen,
    frozen_names,
    not_finite,
    own_modes,
)
from scoresde.training.processes import Processes, uses_bf16
from scoresde.training.recipe import recipe_for
from scoresde.training.run_folder import RunFolder
from scoresde.training.settings import OF_THE_LOSS, check_same, fixed, free
from scoresde.training.state import Metrics, Row, State, ValidationRow
from scoresde.training.stream import Stream, digest, own_randomness, seed_global
from scoresde.training.update import Update
from scoresde.training.validation import Validation

__all__ = ["Trainer", "TrainingData"]

TrainingData: TypeAlias = Tensor | tuple[Tensor, Mapping[str, Tensor]] | Data | LazyData
"""(N, *D) in model units, a pair (x, cond), or `scoresde.data.Data`."""


@final
class Trainer(Shown):
    """Trains a score model by denoising score matching, on accelerate.

    The model is trained in place. It ends with the raw weights of the last step, on the device of
    the run and in its original mode (train or eval). `fit` returns another model, with the
    averaged weights and in eval mode, which is the one to sample from.

    All random numbers are functions of `seed` and a position, so on one process the same call
    gives bitwise the same weights, even if it was interrupted and resumed; the global random state
    is restored. The data are an endless stream: their order in epoch e is a permutation that
    depends on (seed, e), and every batch consists of the next `batch_size` rows. So every row
    occurs once per epoch, and a batch may be larger than the data, whose rows then occur again
    with other noise.

    A step whose loss or gradient is not finite is skipped and counted; after
    `optim.max_nonfinite` such steps in a row the run stops, and the error names rows and times.

    With `out`, the run writes `history.csv`, TensorBoard files (if installed) and `checkpoint/`,
    which `scoresde.load` reads. Checkpoints are written atomically, so a process that is killed
    loses only the steps since the last one. SIGTERM and SIGINT (preemption, Ctrl-C) take effect
    after the current step and a checkpoint: SIGTERM as SystemExit(143) and SIGINT as
    KeyboardInterrupt, unless there were other handlers. `fit(resume=True)` continues the run.

    A model that was trained before, such as `scoresde.load(run)`, is trained on from its weights,
    which also begin the average. New data are in the units of the first ones: `Data` with another
    scaling are converted, and values without one are taken to be in model units already. Classes
    and columns of conditions are matched by name; those that the first data lack are an error.

    To use several processes, each with `batch_size` samples a step, on one machine or on two:

        torchrun --nproc-per-node 8 train.py
        torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d \\
            --rdzv-endpoint HOST:29500 train.py     # on each of the two

    `accelerate launch` works as well, with the same script. Gradients are averaged, all processes
    hold all weights, and the first process writes. This class does not support sharded weights
    (FSDP): train a network larger than one device in a loop that you write, with the loss as the
    forward pass of the sharded module, `accelerate launch --use_fsdp --fsdp_version 2
    --num_processes 8 train.py` and `dsm_loss(Preconditioned(net, sde), x0)`.

    Args:
        model: the score model.
        data: (N, *D) in model units, a pair (x, cond), or `scoresde.data.Data`.
        steps: number of optimiser steps.
        optim: batch size, learning rate, average of the weights, precision; see `Optim`. What it
            leaves open is set by the recipe for the kind of data and the objective of the loss.
        loss: the objective, the loss, its weighting, times and dropout of conditions; see `Loss`.
        records: when to log, to save and to validate; see `Records`.
        validation: validation data for the averaged model, in any form of `data`; see
            `Validation`.
        seed: a non-negative integer.
        out: the folder of the run, or None to write nothing.
        device: None for the accelerator if there is one, otherwise the CPU.
        progress: show a progress bar with the loss and samples per second.
        callback: called as callback(step, averaged model in eval mode) every `callback_every`
            steps by the first process, for example to sample; it must not change the model. Or a
            `Callback`, which gets the numbers of the run too, such as `WeightsAndBiases`; or
            several of both.
        callback_every: number of steps between two calls of `callback`.
        quantisation: the levels of the data, for the checkpoint; that of `data` by default.
        workers: number of prefetching threads for data that are read lazily. 0 reads
            synchronously, as do `Rows` that are not `parallel`. The batches do not depend on it.
        any_scale: accept data that are obviously not in model units, such as temperatures in
            kelvin or floats from 0 to 255, which are an error by default. For VE and EDM
            schedules the limits depend on their range of sigma.

    Warns:
        UserWarning: the network takes conditions that the data lack.

    Attributes:
        recipe: the `Recipe`.
        optim, loss: the options with the values of the recipe filled in.
        history: rows (step, mean loss since the last row, learning rate).
        metrics: for the same rows, {"gradient_norm": mean before clipping, "skipped": steps}.
        validations: rows (step, loss, losses in the parts of the time interval), which
            `validation.csv` contains as well; see `Validation`.
        best: the row of the lowest loss since it was last sought anew, whose model is in `best/`;
            None before the first one.
        uncalibrated: the reason why there are fewer calibrations than `records` asks for, or "".
        began: the step from which the last `fit` went on, 0 for a new run.
        stopped: the step at which the patience of `records` ended the run, or None.
        changes: settings that a resumed run changed, name -> (old, new).

    Raises:
        TypeError, ValueError: an argument is out of range; the data contain NaN, are empty or
            have a constant channel; the network does not accept them (at the first batch).
        Diverged: the loss (the message gives step, rows and times) or a weight is not finite.
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
        data: TrainingData,
        *,
        steps: int,
        optim: Optim = Optim(),
        loss: Loss = Loss(),
        records: Records = Records(),
        validation: TrainingData | None = None,
        seed: int = 0,
        out: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        progress: bool = False,
        callback: Callbacks = None,
        callback_every: int = 1000,
        quantisation: Quantisation | None = None,
        workers: int = 2,
        any_scale: bool = False,
    ) -> None:
        instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
        instance("optim", optim, Optim, "pass e.g. Optim(lr=1e-3)")
        instance("loss", loss, Loss, "pass e.g. Loss(weighting='v') or Loss(function=dsm_loss)")
        instance("records", records, Records, "pass e.g. Records(keep=3)")
        if not any(p.requires_grad for p in model.parameters()):
            raise fail("model", "parameters to train", "none", "wrap a network, not a function")
        self.model = model
        own = Data.of(data)
        self.data, self.summary = checked_data(own, model, quantisation, any_scale=any_scale)
        self.quantisation = self.summary.quantisation
        self.steps = positive_int("steps", steps)
        self.records = records
        self.recipe = recipe_for(self.data.x.shape[1:], loss.objective)
        self.optim = self.recipe.optim(optim, self.steps, model)
        self.loss = self.recipe.loss(loss, self.summary, list(self.data.cond), model)
        check_augment(known(self.loss.augment), model, self.summary.shape, self.data.cond)
        self.batch_size = known(self.optim.batch_size)
        self.seed = check_seed(seed)
        self.stream = Stream(len(self.data), self.batch_size, self.seed)
        self.device = None if device is None else as_device(device, "None for the default")
        self.folder = check_folder(out, records, model, self.quantisation)
        frozen_names(model, self.optim.freeze)
        self.validation = None
        if records.patience is not None and validation is None:
            raise fail("patience", "validation data to judge by", None, "pass validation=...")
        if validation is not None:
            own = Data.of(validation)
            self.validation = Validation(
                checked_validation(own, self.data, self.summary, model, any_scale=any_scale),
                self.loss,
                parts=records.buckets,
                batch_size=self.batch_size,
                seed=self.seed,
                table=None if self.folder is None else self.folder.validation,
            )
        self.progress = progress
        callbacks_of(callback)
        self.callback = callback
        self.callback_every = positive_int("callback_every", callback_every)
        self.workers = 0 if workers == 0 else positive_int("workers", workers)
        self.began = 0
        self.stopped: int | None = None
        self.uncalibrated = ""
        self.changes: dict[str, tuple[Any, Any]] = {}
        self.history: list[Row] = []
        self.metrics: list[Metrics] = []
        self.validations: list[ValidationRow] = []
        self.best: ValidationRow | None = None

    @property
    def facts(self) -> dict[str, object]:
        """What a run will do and what it has done, name -> value, for a table."""
        return {
            "model": self.model.composition,
            "data": repr(self.data),
            "steps": f"{self.steps:,} of {self.batch_size} samples",
            "optimiser": f"{self.optim.optimizer}, learning rate {known(self.optim.lr):g}",
            "last loss": rounded(self.history[-1][1]) if self.history else None,
            "last validation loss": rounded(self.validations[-1][1]) if self.validations else None,
            "folder": None if self.folder is None else str(self.folder.path),
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        net = type(bare(getattr(self.model, "net", self.model))).__name__
        out = "" if self.folder is None else f", out={str(self.folder.path)!r}"
        options = f"steps={self.steps}, batch_size={self.batch_size}, lr={known(self.optim.lr):g}"
        return f"Trainer({net} on {self.data!r}, {options}, seed={self.seed}{out})"

    def lr_at(self, step: int) -> float:
        """The learning rate of step number `step`, from 0: warm-up, then the schedule."""
        return self.optim.lr_at(step, self.steps)

    def fit(self, resume: bool = False) -> ScoreModel:
        """Train, and return the averaged model in eval mode.

        This is the average after the last step. With `Records(patience=...)` it is the average at
        the validation with the lowest loss, whether patience ended the run or not; the checkpoint
        still has the state of the last step.

        Args:
            resume: continue the run whose checkpoint is in `out`, to bitwise the same weights as
                without the interruption. `steps`, rates and other settings may change, which a
                warning lists with their old and new values: with more steps the learning rate
                follows the schedule of the longer run from there on, and with another loss the
                lowest validation loss is sought anew. The data, seed, batch size, optimiser,
                frozen parameters and number of processes may not change. If False, a new run
                starts from the current weights of the model, which also begin its average, and
                replaces the checkpoint in `out`, with a warning.

        Raises:
            FileNotFoundError: there is no checkpoint to resume.
            ValueError: see the class; the checkpoint is one of another model or run.
        """
        check_weights(self.model)
        with torch.inference_mode(False), torch.enable_grad():
            return self._fit(resume)

    def _fit(self, resume: bool) -> ScoreModel:
        with frozen(self.model, self.optim.freeze):
            result = self._train(resume)
        for own, other in zip(self.model.parameters(), result.parameters(), strict=True):
            other.requires_grad_(own.requires_grad)
        self._calibrate(result)
        return result

    def _calibrate(self, result: ScoreModel) -> None:
        if self.records.calibrate is None:
            return
        folder, patient = self.folder, self.records.patience is not None
        self.uncalibrated = calibrate_run(
            result,
            self.records.calibrate,
            self.data if self.validation is None else self.validation.data,
            samples=(self.stopped or self.steps) * self.batch_size * self.optim.accumulate,
            seed=self.seed,
            batch_size=self.batch_size,
            place=None if folder is None else folder.returned(patient),
            progress=self.progress,
        )

    def _train(self, resume: bool) -> ScoreModel:
        model, optim, records, stream = self.model, self.optim, self.records, self.stream
        processes = Processes(optim.accumulate)
        inform(model, self.summary, self.data.cond, self.loss.cond_dropout)
        device = processes.device(self.device)
        model.to(device)
        tracked = records.widths if records.snapshot_every is not None else ()
        update, best = Update(model, optim, tracked), Best(records.patience)
        bf16 = uses_bf16(known(optim.precision), device)
        state = self._begin(update, best, processes, resume, bf16)
        folder = self.folder if processes.first else None  # the other processes only read
        plain = Objective(model, self.loss, bf16=bf16)
        objective = processes.wrapped(plain)
        with ExitStack() as stack:
            stack.enter_context(own_modes(model))
            stack.enter_context(compiled(model, known(optim.compile)))
            stack.enter_context(own_randomness(device))
            interrupts = stack.enter_context(Interrupts(active=self.folder is not None))
            log = stack.enter_context(self._log(state, folder, processes))
            log.start({**self.settings, **self.choices})
            if folder is not None and self.validation is not None and state.step:
                self.validation.write(state.validations, model.sde)
            stop = processes.number(self.steps, 0)
            loader = stack.enter_context(
                Loader(self.data, stream, device, self.workers, processes.count, stop)
            )
            model.train()
            ended, done = best.ends(state), state.step
            for step in range(state.step, state.step if ended else self.steps):
                update.set_lr(lr := self.lr_at(step))
                numbers = [processes.number(step, piece) for piece in range(optim.accumulate)]
                losses = []
                for piece, number in enumerate(numbers):
                    x, cond = loader.batch(number)
                    seed_global(device, stream.key(number))
                    with processes.averaging(objective, piece):
                        with explained(x, cond, first=step == state.step):
                            loss = objective(x, cond, stream.generator(number))
                        processes.backward(loss)
                    losses.append(loss.detach() / optim.accumulate)
                norm = update.gradient_norm()
                mean = sum(losses[1:], start=losses[0])
                value, size, caught = processes.agree(mean, norm, interrupts.caught)
                if state.add(value, size):
                    update.apply(norm)
                else:
                    update.discard()
                log.step()
                if state.in_row >= optim.max_nonfinite:
                    raise not_finite(plain, loader, numbers, state, step, lr)
                done, last = step + 1, step + 1 == self.steps
                saves = self.folder is not None and (last or done % records.checkpoint_every == 0)
                if saves or last or done % records.log_every == 0:
                    log.row(done, lr)
                lowest = processes.first and self._judge(update, state, log, done)
                if records.patience is not None and records.validates(done, self.steps):
                    lowest, ended = processes.either(lowest, best.ends(state))
                    if lowest:
                        best.keep(update)
                    if ended:
                        last, saves = True, self.folder is not None
                        log.row(done, lr)
                if processes.first:
                    self._show(update, log, done, last)
                if folder is not None and (saves or caught is not None):
                    log.sync()
                    folder.save(update, self._info(done, state, update), self._extra(done))
                if last and caught is None:
                    caught = interrupts.caught  # during the last validation or write
                if caught is not None:
                    processes.wait()
                    interrupts.obey(caught)
                if ended:
                    break
            self.stopped = done if ended else None
        processes.wait()
        return best.given_to(update.result())

    def _begin(
        self, update: Update, best: Best, processes: Processes, resume: bool, bf16: bool
    ) -> State:
        """The state to start from: a new one, or that of the last intact checkpoint."""
        state, first = State(), processes.first
        self.settings = fixed(
            self.optim,
            seed=self.seed,
            processes=processes.count,
            samples=len(self.data),
            data=digest(self.data) if self.folder is not None else "",
        )
        self.choices = free(self.optim, self.loss, self.records, self.steps)
        self.choices["precision"] = "bf16" if bf16 else "no"
        if self.folder is not None and first:
            self.folder.start(fresh=not resume)
        if resume:
            if self.folder is None:
                raise fail("resume", "a folder to resume from", None, "pass out='runs/name'")
            place, averaged, saved = self.folder.find(self.model)
            own = {"run": self.settings, "choices": self.choices}
            self.changes = check_same(saved.info, own, str(place), self.steps)
            update.restore(saved.tensors, averaged, saved.info, str(place))
            state = State.from_dict(saved.info)
            if OF_THE_LOSS & set(self.changes):
                state.forget_best()  # losses of another kind do not compare
            else:
                best.resume(self.folder, state)
            if first:
                self.folder.go_on(place, state.step)
        self.began = state.step
        self.history, self.metrics = state.history, state.metrics
        self.validations, self.best = state.validations, state.lowest
        return state

    def _info(self, done: int, state: State, update: Update) -> dict[str, Any]:
        """The state of the run beside its tensors."""
        own = {"step": done, "run": self.settings, "choices": self.choices, **state.to_dict()}
        return own | update.info()

    def _extra(self, done: int) -> dict[str, Any]:
        """Information for readers of a checkpoint, whose network may take images of any size."""
        loss = self.history[-1][1] if self.history else None
        return {"step": done, "loss": loss, "shape": list(self.summary.shape)}

    def _log(self, state: State, folder: RunFolder | None, processes: Processes) -> Log:
        board = None if folder is None else folder.tensorboard
        callbacks = with_board(callbacks_of(self.callback), board, self.records.tensorboard)
        return Log(
            state,
            steps=self.steps,
            batch=self.batch_size * self.optim.accumulate * processes.count,
            table=None if folder is None else folder.history,
            callbacks=callbacks if processes.first else (),
            before=None if folder is None else folder.clear_logs,
            progress=self.progress and processes.first,
        )

    def _judge(self, update: Update, state: State, log: Log, done: int) -> bool:
        """Validate if it is due; return whether the loss is the lowest so far."""
        if self.validation is None or not self.records.validates(done, self.steps):
            return False
        with own_modes(self.model):
            averaged = update.result()
            row = self.validation(averaged, update.parameters[0].device, done)
            lowest = state.judge(row)
            self.best = state.lowest
            self.validation.write(state.validations, averaged.sde)
            parts = {f"validation/{i}": loss for i, loss in enumerate(row.parts)}
            log.scalars(done, {"validation": row.loss, **parts})
            if lowest and self.folder is not None:
                self.folder.save_best(update, {"step": done, "validation": row.loss})
        return lowest

    def _show(self, update: Update, log: Log, done: int, last: bool) -> None:
        """Write a snapshot and show callbacks the model, if due; both are at the last step."""
        every = self.records.snapshot_every
        if self.folder is not None and every is not None and (last or done % every == 0):
            self.folder.snapshot(update, done, self.settings)
        if last or done % self.callback_every == 0:
            with own_modes(self.model):
                log.model(done, update.result)
