"""The state of a run: what happens between two steps, what is saved and what is resumed."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor

from scoresde._check import fail
from scoresde.model import ScoreModel
from scoresde.training.checkpoint import fill
from scoresde.training.files import refuse
from scoresde.training.interrupt import SIGNALS, Interrupts
from scoresde.training.keep import Keeper
from scoresde.training.loader import Loader
from scoresde.training.log import Log
from scoresde.training.objective import Objective, compiled, culprits, own_modes, times_of
from scoresde.training.stream import own_randomness, seed_global
from scoresde.training.update import Update

__all__ = ["Run"]


@final
class Run:
    """One call of `Trainer.fit`.

    Args:
        trainer: the `Trainer`; its history, metrics and validations are filled.
        accelerator: of accelerate.
        update: of the model, on its device.
        resume: continue from the checkpoint.

    Attributes:
        start: the number of steps already made.
        objective: the loss, wrapped for several processes.
    """

    def __init__(self, trainer: Any, accelerator: Any, update: Update, resume: bool) -> None:
        self.trainer = trainer
        self.accelerator = accelerator
        self.update = update
        self.main: bool = accelerator.is_main_process
        self.processes: int = accelerator.num_processes
        self.device = update.parameters[0].device
        self.settings = trainer._settings(self.processes)
        self.pending: dict[str, list[float]] = {}
        self.in_row = 0  # steps without a finite loss and gradient
        self.best = math.inf
        out = trainer.out if self.main or resume else None
        self.keeper = Keeper(out, trainer.keep, trainer.quantisation, fresh=not resume)
        trainer.history, trainer.metrics, trainer.validations = [], [], []
        if self.main:
            self.keeper.sweep()
        self.start = self._resume() if resume else 0
        if not self.main:
            self.keeper.out = None  # it reads, and the first process writes
        self.plain = Objective(trainer.model, trainer.loss, trainer.options, trainer.bf16)
        self.objective = accelerator.prepare_model(self.plain, device_placement=False)

    def enter(self, stack: ExitStack) -> None:
        """Take the log, signals and global random state until `stack` ends."""
        trainer = self.trainer
        stack.enter_context(own_modes(trainer.model))
        stack.enter_context(compiled(trainer.model, trainer.compile))
        stack.enter_context(own_randomness(self.device))
        self.interrupts = stack.enter_context(Interrupts(active=trainer.out is not None))
        log = Log(
            history=trainer.history,
            metrics=trainer.metrics,
            steps=trainer.steps,
            start=self.start,
            batch=trainer.batch_size * trainer.accumulate * self.processes,
            out=trainer.out if self.main else None,
            progress=trainer.progress and self.main,
            tensorboard=trainer.tensorboard,
            pending=self.pending,
        )
        self.log = stack.enter_context(log)
        loader = Loader(
            trainer.data,
            trainer.stream,
            self.device,
            workers=trainer.workers,
            stride=self.processes,
            stop=self.number(trainer.steps, 0),
        )
        self.loader = stack.enter_context(loader)
        if self.main and trainer.validation is not None:
            trainer.validation.write(trainer.validations, trainer.model.sde)

    def number(self, step: int, piece: int) -> int:
        """The number of a batch of this process."""
        number: int = step * self.trainer.accumulate + piece
        return number * self.processes + int(self.accelerator.process_index)

    def finish(self, step: int, loss: Tensor, lr: float) -> None:
        """Update the weights if all is finite, then log, judge and save."""
        trainer, done = self.trainer, step + 1
        norm = self.update.gradient_norm()
        value, size, caught = self._meet(loss, norm)
        if math.isfinite(value) and math.isfinite(size):
            self.update.apply(norm)
            self.in_row = 0
        else:
            self.update.discard()
            self.in_row += 1
        self.log.add(value, size)
        if self.in_row >= trainer.max_nonfinite:
            raise self._diverged(step, value, size, lr)
        last = done == trainer.steps
        saves = trainer.out is not None and (last or done % trainer.checkpoint_every == 0)
        if saves or last or done % trainer.log_every == 0:
            self.log.flush(done, lr)
        self._judge(done, last)
        if self.main and (saves or caught is not None):
            self.log.sync()
            self.keeper.save(self.update, self._info(done), self._extra(done))
        if last and caught is None:
            caught = self.interrupts.caught  # it came in the last validation or write
        if caught is not None:
            self.accelerator.wait_for_everyone()
            self.interrupts.obey(caught)

    def _meet(self, loss: Tensor, norm: Tensor) -> tuple[float, float, int | None]:
        """Loss, gradient norm and signal, the same in all processes; waits for the device once."""
        caught = self.interrupts.caught
        values = torch.stack((loss, norm.to(loss.dtype)))
        if self.processes == 1:
            value, size = values.tolist()
            return value, size, caught
        flag = values.new_tensor([float(caught == number) for number in SIGNALS])
        total = self.accelerator.reduce(torch.cat((values, flag)), "sum").tolist()
        heard = [number for number, n in zip(SIGNALS, total[2:], strict=True) if n > 0]
        return total[0] / self.processes, total[1] / self.processes, heard[0] if heard else None

    def _diverged(self, step: int, value: float, size: float, lr: float) -> ValueError:
        """The error that names what the step was made of; the weights are those before it."""
        trainer = self.trainer
        pieces = []
        for piece in range(trainer.accumulate):
            number = self.number(step, piece)
            rows = trainer.stream.rows(number)
            x, cond = self.loader.read(number)
            drawn = trainer.stream.generator(number)
            times = times_of(trainer.options["time"], trainer.model, len(rows), drawn)
            seed_global(self.device, trainer.stream.key(number))
            with torch.no_grad():
                each = self.plain.each(x, cond, trainer.stream.generator(number))
            pieces.append((rows, times, each.expand(len(rows))))
        name, bad = ("gradient", size) if math.isfinite(value) else ("loss", value)
        got = (
            f"{bad} at step {step + 1} ({self.in_row} of them in a row were skipped), from "
            f"{culprits(pieces)}"
        )
        remedy = f"look at these rows, lower lr (now {lr:.3g}), lengthen warmup or clip"
        return refuse(name, "finite values", got, remedy)

    def _judge(self, done: int, last: bool) -> None:
        """Validation, snapshots and the callback, where they are due, by the first process."""
        trainer = self.trainer
        if not self.main:
            return
        every = trainer.snapshot_every
        if every is not None and (last or done % every == 0):
            self.keeper.snapshot(self.update, done, self.settings)
        validates = trainer.validation is not None and (last or done % trainer.validate_every == 0)
        calls = trainer.callback is not None and (last or done % trainer.callback_every == 0)
        if not validates and not calls:
            return
        modes = [(module, module.training) for module in self.update.model.modules()]
        average: ScoreModel = self.update.result()  # type: ignore[assignment]
        if validates:
            self._validate(average, done)
        if calls:
            trainer.callback(done, average)
        for module, mode in modes:
            module.training = mode

    def _validate(self, average: ScoreModel, done: int) -> None:
        trainer = self.trainer
        losses = trainer.validation(average, self.device)
        mean = math.fsum(losses) / len(losses)
        trainer.validations.append((done, losses))
        trainer.validation.write(trainer.validations, average.sde)
        parts = {f"validation/{i}": loss for i, loss in enumerate(losses)}
        self.log.scalars(done, {"validation": mean, **parts})
        if mean < self.best:
            self.best = mean
            self.keeper.save_best(self.update, {"step": done, "validation": mean})

    def _extra(self, done: int) -> dict[str, Any]:
        history = self.trainer.history
        shape = list(self.trainer.data.x.shape[1:])  # a network may take images of any size
        return {"step": done, "loss": history[-1][1] if history else None, "shape": shape}

    def _info(self, done: int) -> dict[str, Any]:
        update, trainer = self.update, self.trainer
        return {
            "step": done,
            "run": self.settings,
            "history": trainer.history,
            "metrics": trainer.metrics,
            "validations": trainer.validations,
            "best": self.best if math.isfinite(self.best) else None,
            "pending": self.log.pending,
            "in_row": self.in_row,
            "ema_updates": 0 if update.ema is None else update.ema.updates,
            "tracks": [[track.width, track.updates] for track in update.tracks],
        }

    def _resume(self) -> int:
        """Restore the state of the last intact checkpoint; the number of steps made."""
        trainer, update = self.trainer, self.update
        place, weights, state = self.keeper.find(trainer.model)
        info = state.info
        for name, value in self.settings.items():
            if info["run"].get(name) != value:
                expected = f"{info['run'].get(name)!r}, as in {place}"
                raise fail(name, expected, value, "resume with it, or start another run")
        if info["step"] > trainer.steps:
            expected = f"at least the {info['step']} steps already made in {place}"
            raise fail(
                "steps", expected, trainer.steps, "ask for more, or scoresde.load the model"
            )
        update.restore(state.tensors, str(place))
        if update.ema is not None:
            fill(update.ema.module.net, weights, str(place))  # type: ignore[arg-type]
            update.ema.restore(info["ema_updates"])
        saved = info.get("tracks", [])
        if [width for width, _ in saved] != [track.width for track in update.tracks]:
            expected = f"{[width for width, _ in saved]}, as in {place}"
            got = [track.width for track in update.tracks]
            raise fail("widths", expected, got, "resume with the same snapshot_every and widths")
        for i, (track, (_, updates)) in enumerate(zip(update.tracks, saved, strict=True)):
            head = f"track{i}."
            own = {k.removeprefix(head): v for k, v in state.tensors.items() if k.startswith(head)}
            track.restore(own, updates, str(place))
        trainer.history = [(int(s), float(loss), float(lr)) for s, loss, lr in info["history"]]
        empty = {"gradient_norm": math.nan, "skipped": 0}
        trainer.metrics = list(info.get("metrics", [empty for _ in trainer.history]))
        trainer.validations = [(s, tuple(v)) for s, v in info.get("validations", [])]
        best = info.get("best")
        self.best = math.inf if best is None else best
        self.pending, self.in_row = info.get("pending", {}), info.get("in_row", 0)
        if self.main:
            self.keeper.go_on(place, info["step"])
        return int(info["step"])
