"""The loss as a module for data parallelism and autocast, and contexts for the training loop."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import Diverged, diverged, fail, listed, wrong_type
from scoresde.losses import WEIGHTING, dsm_loss
from scoresde.model import Preconditioned, ScoreModel, bare, suited
from scoresde.options import Loss
from scoresde.training.augment import Augmented, augmented
from scoresde.training.loader import Loader
from scoresde.training.state import State
from scoresde.training.stream import seed_global

__all__ = [
    "Objective",
    "compiled",
    "culprits",
    "explained",
    "frozen",
    "frozen_names",
    "not_finite",
    "own_modes",
]

OWN = 0x5DEECE66  # the seed of the augmentation of a batch is that of its loss, changed by this


@final
class Objective(nn.Module):
    """The mean loss as the forward pass of a module.

    Args:
        model: the score model.
        loss: the options, with `time`, `cond_dropout` and `augment` set.
        bf16: compute under autocast.
    """

    def __init__(self, model: ScoreModel, loss: Loss, bf16: bool = False) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.bf16 = bf16

    def forward(self, x: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        each = self.each(x, cond, generator)
        if not isinstance(each, Tensor) or not each.requires_grad:
            remedy = "return (B,) losses of the model's predictions"
            raise wrong_type("loss", "a tensor that depends on the weights", each, remedy)
        return each.mean()

    def each(self, x: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """The losses before the mean, (B,)."""
        loss, weighting = self.loss, self.loss.weighting
        model, x = self.model, suited(self.model, x)
        if loss.augment:
            # Its own generator: the loss draws the same times and noise with and without it.
            own = torch.Generator("cpu").manual_seed(generator.initial_seed() ^ OWN)
            x, label = augmented(x, loss.augment, own)
            model = Augmented(model, label)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return (loss.function or dsm_loss)(
                model,
                x,
                cond=cond,
                generator=generator,
                weighting=WEIGHTING if weighting is None else weighting,
                time=loss.time,
                cond_dropout=loss.cond_dropout or 0.0,
            )


@contextmanager
def own_modes(model: nn.Module) -> Iterator[None]:
    """Restore the mode, train or eval, of every module at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Compile the network inside the context, if wanted; names and weights do not change."""
    net = model.net if isinstance(model, Preconditioned) else model
    before = net._compiled_call_impl
    if wanted:
        net.compile()
    try:
        yield
    finally:
        net._compiled_call_impl = before


@contextmanager
def explained(x: Tensor, cond: Mapping[str, Tensor], first: bool) -> Iterator[None]:
    """Re-raise the error of the first batch of a run in terms of the data and the model."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if not first or isinstance(error, torch.OutOfMemoryError):
            raise
        dtype = str(x.dtype).removeprefix("torch.")
        got = f"x: {tuple(x.shape)} {dtype}" + "".join(
            f", {name}: {tuple(value.shape)}" for name, value in cond.items()
        )
        kind = TypeError if isinstance(error, TypeError) else ValueError
        own = hasattr(error, "argument")  # an error of this package ends in its own remedy
        remedy = "; build the network for this data, or reshape it; it is called net(x, t, **cond)"
        remedy = "" if own else remedy
        raise kind(
            f"data: expected a batch that model and loss take, got {got}, on which they raised "
            f"{type(error).__name__}: {error}{remedy}"
        ) from error


@contextmanager
def frozen(model: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """Train no parameter that a pattern matches inside the context; see `frozen_names`."""
    parameters = dict(_inner(model).named_parameters())
    held = [parameters[name] for name in frozen_names(model, patterns)]
    before = [parameter.requires_grad for parameter in held]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in zip(held, before, strict=True):
            parameter.requires_grad_(wanted)


def frozen_names(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The names of the parameters of the network that a pattern such as "enter.*" matches.

    Raises:
        ValueError: a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(_inner(model).named_parameters())
    found: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(parameters, pattern)
        if not matched:
            raise fail("freeze", f"a pattern of {listed([*parameters], 40)}", pattern, "name them")
        found.update(matched)
    if found and not any(p.requires_grad for n, p in parameters.items() if n not in found):
        raise fail("freeze", "parameters left to train", list(patterns), "freeze fewer")
    return [name for name in parameters if name in found]


def _inner(model: nn.Module) -> nn.Module:
    """The network of a `Preconditioned` model, in whose names patterns are written."""
    return bare(model.net) if isinstance(model, Preconditioned) else model


def not_finite(
    plain: Objective, loader: Loader, numbers: Iterable[int], state: State, step: int, lr: float
) -> Diverged:
    """The error of too many steps in a row without a finite loss and gradient."""
    value, size = state.losses[-1], state.norms[-1]
    name, bad = ("gradient", size) if math.isfinite(value) else ("loss", value)
    skipped = f"{bad} at step {step + 1} ({state.in_row} of them in a row were skipped)"
    got = f"{skipped}, from {culprits(plain, loader, numbers)}"
    remedy = f"look at these rows, lower lr (now {lr:.3g}), lengthen warmup or clip"
    return diverged(name, "finite values", got, remedy)


def culprits(objective: Objective, loader: Loader, numbers: Iterable[int]) -> str:
    """Describe the rows and times whose losses are not finite, or all if every loss is finite.

    Args:
        objective: the loss of one process.
        loader: the loader, which reads the batches again.
        numbers: the numbers of the batches of a step.
    """
    stream, device, model = loader.stream, loader.device, objective.model
    parts = []
    for number in numbers:
        rows = stream.rows(number)
        x, cond = loader.read(number)
        # A loss draws its times first, so the same generator reproduces them.
        times = objective.loss.time.sample(model.sde, len(rows), stream.generator(number))[0]
        seed_global(device, stream.key(number))
        with torch.no_grad():
            each = objective.each(x, cond, stream.generator(number)).expand(len(rows))
        parts.append([part.detach().cpu().flatten() for part in (rows, times, each)])
    bad = [~losses.isfinite() for *_, losses in parts]
    if not any(bool(b.any()) for b in bad):
        bad = [torch.ones_like(b) for b in bad]
    rows = torch.cat([r[b] for (r, *_), b in zip(parts, bad, strict=True)])
    times = torch.cat([t[b] for (_, t, _), b in zip(parts, bad, strict=True)])
    names = listed(rows.tolist(), 4)
    return f"rows {names} of the data, t in [{float(times.min()):.4g}, {float(times.max()):.4g}]"
