"""The training run: batches, steps, schedule, log, checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from scoresde._check import (
    choice,
    fail,
    instance,
    need,
    nonnegative,
    positive,
    positive_int,
    wrong_type,
)
from scoresde.contract import DataContract
from scoresde.data import Data
from scoresde.losses import WEIGHTINGS, TimeSampler, UniformTime, dsm_loss
from scoresde.model import ScoreModel
from scoresde.training.checkpoint import Training, describe, fill, load_training, save
from scoresde.training.ema import check_decay
from scoresde.training.log import Log, Row
from scoresde.training.stream import Stream, digest, own_randomness, seed_global
from scoresde.training.update import Update

__all__ = ["SCHEDULES", "Trainer", "Update"]

Loss: TypeAlias = Callable[..., Tensor]
"""loss(model, x0, *, weighting, time, cond, cond_dropout, generator) -> (B,), as `dsm_loss`."""

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

    With `out`, the run writes `history.csv`, TensorBoard files (if installed) and `checkpoint/`,
    which `scoresde.load` reads. Start several processes with `accelerate launch`.

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
        time: how times are drawn; by default uniform, spread evenly over each batch.
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
        contract: which integers the data stand for, for the checkpoint; that of `data` by default.
        tensorboard: write its files into `out`; by default if it is installed.

    Attributes:
        history: rows (step, mean loss since the last row, learning rate).

    Raises:
        TypeError, ValueError: an argument is out of range; the data hold NaN, are empty or have a
            constant channel; the network does not take them (at the first batch); the loss is
            not finite (the step is named).

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
        weighting: str | Callable[..., Any] = "eps",
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
        contract: DataContract | None = None,
        tensorboard: bool | None = None,
    ) -> None:
        instance("model", model, ScoreModel, "wrap the network: Preconditioned(net, sde)")
        self.model = model
        self.data = Data.of(data)
        self.steps = positive_int("steps", steps)
        if not callable(loss):
            raise wrong_type("loss", "a function like dsm_loss", loss, "pass dsm_loss")
        if not callable(weighting):
            choice("weighting", weighting, WEIGHTINGS)
        time = UniformTime(low_discrepancy=True) if time is None else time
        instance("time", time, TimeSampler, "pass UniformTime(), ImportanceTime(), ...")
        if not 0.0 <= nonnegative("cond_dropout", cond_dropout) <= 1.0:
            raise fail("cond_dropout", "a probability in [0, 1]", cond_dropout, "pass e.g. 0.1")
        self.loss = loss
        self.options = dict(weighting=weighting, time=time, cond_dropout=cond_dropout)
        self.batch_size = positive_int("batch_size", batch_size)
        self.accumulate = positive_int("accumulate", accumulate)
        self.lr = positive("lr", lr)
        self.warmup = min(self.steps // 20, 1000) if warmup is None else warmup
        nonnegative("warmup", self.warmup)
        self.schedule = SCHEDULES[choice("schedule", schedule, SCHEDULES)]
        self.clip = None if clip is None else positive("clip", clip, "pass None for no clipping")
        self.ema = None if ema is None else check_decay("ema", ema)
        self.weight_decay = nonnegative("weight_decay", weight_decay)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise fail("seed", "an integer >= 0", seed, "pass for example seed=0")
        self.seed = seed
        self.stream = Stream(len(self.data), self.batch_size, seed)
        self.bf16 = choice("precision", precision, ("no", "bf16")) == "bf16"
        self.device = None if device is None else _device(device)
        self.progress = progress
        self.log_every = positive_int("log_every", log_every)
        self.checkpoint_every = positive_int("checkpoint_every", checkpoint_every)
        self.contract = self.data.contract if contract is None else contract
        self.tensorboard = tensorboard
        self.out = None if out is None else Path(out)
        if self.out is not None:
            if self.out.exists() and not self.out.is_dir():
                raise fail("out", "a folder", str(out), "choose another name")
            describe(model, self.contract)  # fails before the training, not after it
        if not any(p.requires_grad for p in model.parameters()):
            raise fail("model", "parameters to train", "none", "wrap a network, not a function")
        if tensorboard and self.out is None:
            raise fail("tensorboard", "a folder to write to", tensorboard, "pass out='runs/name'")
        self.history: list[Row] = []

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
        accelerator = _accelerator(self.accumulate)
        device = self._device_of(accelerator)
        self.model.to(device)
        update = Update(
            self.model,
            lr=self.lr,
            clip=self.clip,
            ema=self.ema,
            weight_decay=self.weight_decay,
        )
        self.history = []
        run = self._run_settings(accelerator.num_processes)
        start = self._resume(update, run) if resume else 0
        objective = accelerator.prepare_model(
            _Objective(self.model, self.loss, self.options, self.bf16), device_placement=False
        )
        with _own_modes(self.model), own_randomness(device), self._log(accelerator, start) as log:
            self.model.train()
            for step in range(start, self.steps):
                lr = self.lr_at(step)
                update.set_lr(lr)
                loss = self._gradients(accelerator, objective, device, step, step == start)
                log.add(loss, update.apply())
                done, last = step + 1, step + 1 == self.steps
                saves = self.out is not None and (last or done % self.checkpoint_every == 0)
                if saves or last or done % self.log_every == 0:
                    log.flush(done, lr)
                if saves and accelerator.is_main_process:
                    self._save(update, run, done)
        accelerator.wait_for_everyone()
        return update.result()  # type: ignore[return-value]  # a copy of the model

    def _log(self, accelerator: Any, start: int) -> Log:
        main, processes = accelerator.is_main_process, accelerator.num_processes
        return Log(
            history=self.history,
            steps=self.steps,
            start=start,
            batch=self.batch_size * self.accumulate * processes,
            out=self.out if main else None,
            progress=self.progress and main,
            tensorboard=self.tensorboard,
            mean=(lambda x: accelerator.reduce(x, "mean")) if processes > 1 else (lambda x: x),
        )

    def lr_at(self, step: int) -> float:
        """The learning rate of step number `step`, from 0: warm-up, then the schedule."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * self.schedule(progress)

    def _gradients(
        self, accelerator: Any, objective: nn.Module, device: torch.device, step: int, first: bool
    ) -> Tensor:
        """Accumulate the gradients of one step; the mean loss, still on the device."""
        total: Tensor | None = None
        for piece in range(self.accumulate):
            number = step * self.accumulate + piece
            number = number * accelerator.num_processes + accelerator.process_index
            last = piece == self.accumulate - 1
            x, cond = self._batch(self.stream.rows(number), device)
            generator = self.stream.generator(number)
            seed_global(device, self.stream.key(number))
            with nullcontext() if last else accelerator.no_sync(objective):
                try:
                    loss = objective(x, cond, generator)
                except (RuntimeError, TypeError, ValueError, IndexError) as error:
                    if not first or isinstance(error, torch.OutOfMemoryError):
                        raise
                    raise _misfit(x, cond, error) from error
                accelerator.backward(loss)
            share = loss.detach() / self.accumulate
            total = share if total is None else total + share
        return total  # type: ignore[return-value]  # accumulate >= 1

    def _batch(self, rows: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        def moved(value: Tensor) -> Tensor:
            return value[rows.to(value.device)].to(device, non_blocking=True)

        return moved(self.data.x), {k: moved(v) for k, v in self.data.cond.items()}

    def _device_of(self, accelerator: Any) -> torch.device:
        if self.device is None:
            return accelerator.device  # type: ignore[no-any-return]
        if accelerator.num_processes > 1:
            remedy = "several processes get their devices from accelerate: leave it out"
            raise fail("device", "None", str(self.device), remedy)
        return self.device

    def _run_settings(self, processes: int) -> dict[str, Any]:
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

    def _save(self, update: Update, run: Mapping[str, Any], done: int) -> None:
        if not all(bool(p.detach().isfinite().all()) for p in update.parameters):
            remedy = f"lower lr = {self.lr:g}, or clip; the checkpoint before this one is intact"
            raise fail("model", "finite weights", f"NaN or infinity after step {done}", remedy)
        info = {"step": done, "run": run, "history": self.history}
        info["ema_updates"] = 0 if update.ema is None else update.ema.updates
        averaged = self.model if update.ema is None else update.ema.module
        save(
            averaged,  # type: ignore[arg-type]  # a copy of the model
            self.out / "checkpoint",  # type: ignore[operator]  # asked before
            contract=self.contract,
            extra={"step": done, "loss": self.history[-1][1]},
            training=Training(update.tensors(), info),
        )

    def _resume(self, update: Update, run: Mapping[str, Any]) -> int:
        """Restore the state of the checkpoint in `out`; the number of steps made."""
        if self.out is None:
            raise fail("resume", "a folder to resume from", self.out, "pass out='runs/name'")
        place = self.out / "checkpoint"
        weights, state = load_training(place, self.model)
        info = state.info
        for name, value in run.items():
            if info["run"].get(name) != value:
                expected = f"{info['run'].get(name)!r}, as in {place}"
                raise fail(name, expected, value, "resume with it, or start another run")
        if info["step"] > self.steps:
            expected = f"at least the {info['step']} steps already made in {place}"
            raise fail("steps", expected, self.steps, "ask for more, or scoresde.load the model")
        update.restore(state.tensors, str(place))
        if update.ema is not None:
            fill(update.ema.module.net, weights, str(place))  # type: ignore[arg-type]
            update.ema.restore(info["ema_updates"])
        self.history = [(int(s), float(loss), float(lr)) for s, loss, lr in info["history"]]
        return int(info["step"])


@final
class _Objective(nn.Module):
    """The mean loss as the forward pass of a module, where data parallelism and autocast act."""

    def __init__(
        self, model: ScoreModel, loss: Loss, options: Mapping[str, Any], bf16: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.options = options
        self.bf16 = bf16

    def forward(self, x: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            each = self.loss(self.model, x, cond=cond, generator=generator, **self.options)
        if not isinstance(each, Tensor) or not each.requires_grad:
            remedy = "return (B,) losses of the model's predictions"
            raise wrong_type("loss", "a tensor that depends on the weights", each, remedy)
        return each.mean()


def _accelerator(accumulate: int) -> Any:
    library = need("accelerate", "train")
    # accelerate keeps one precision for the process; ours is the Trainer's own, see _Objective.
    known = need("accelerate.state", "train").is_initialized()
    made = library.Accelerator(
        mixed_precision=None if known else "no",
        gradient_accumulation_steps=accumulate,
        device_placement=False,
    )
    if made.scaler is not None:
        remedy = "start it with --mixed_precision no and pass precision='bf16' to the Trainer"
        raise fail("accelerate", "no gradient scaling", made.mixed_precision, remedy)
    return made


@contextmanager
def _own_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode, train or eval, in which it came."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device(device: str | torch.device) -> torch.device:
    try:
        made = torch.device(device)
        torch.empty(0, device=made)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        remedy = f"pass 'cpu', or None for what there is ({error})"
        raise fail("device", "a device of this machine", str(device), remedy) from error
    return made


def _misfit(x: Tensor, cond: Mapping[str, Tensor], error: Exception) -> Exception:
    """The error of the first batch, said of the data and the model."""
    dtype = str(x.dtype).removeprefix("torch.")
    got = f"x: {tuple(x.shape)} {dtype}" + "".join(
        f", {name}: {tuple(value.shape)}" for name, value in cond.items()
    )
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(
        f"data: expected a batch that model and loss take, got {got}, on which they raised "
        f"{type(error).__name__}: {error}; build the network for this data, or reshape it"
    )
