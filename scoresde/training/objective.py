"""The loss as a module, where data parallelism and autocast act, and what surrounds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from scoresde._check import fail, need, wrong_type
from scoresde.losses import TimeSampler
from scoresde.model import Preconditioned, ScoreModel, suited
from scoresde.training.files import listed, refuse

__all__ = [
    "Loss",
    "Objective",
    "accelerated",
    "compiled",
    "culprits",
    "misfit",
    "own_modes",
    "times_of",
]

Loss: TypeAlias = Callable[..., Tensor]
"""loss(model, x0, *, weighting, time, cond, cond_dropout, generator) -> (B,), as `dsm_loss`."""


@final
class Objective(nn.Module):
    """The mean loss as the forward pass of a module."""

    def __init__(
        self, model: ScoreModel, loss: Loss, options: Mapping[str, Any], bf16: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.options = options
        self.bf16 = bf16

    def forward(self, x: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        each = self.each(x, cond, generator)
        if not isinstance(each, Tensor) or not each.requires_grad:
            remedy = "return (B,) losses of the model's predictions"
            raise wrong_type("loss", "a tensor that depends on the weights", each, remedy)
        return each.mean()

    def each(self, x: Tensor, cond: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """The losses before the mean, (B,)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            x = suited(self.model, x)
            return self.loss(self.model, x, cond=cond, generator=generator, **self.options)


def accelerated(accumulate: int) -> Any:
    """An `accelerate.Accelerator` that leaves precision and devices to the `Trainer`.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: it would scale gradients; the processes that were started do not find each
            other, or would each train by itself.
    """
    library = need("accelerate", "train")
    # accelerate keeps one precision for the process; ours is the Trainer's own, see Objective.
    known = need("accelerate.state", "train").is_initialized()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    # Without being told, it leaves the processes that torchrun starts on CPUs to themselves.
    spread_over_cpus = not known and started > 1 and not torch.accelerator.is_available()
    try:
        made = library.Accelerator(
            mixed_precision=None if known else "no",
            gradient_accumulation_steps=accumulate,
            device_placement=False,
            cpu=spread_over_cpus,
        )
    except torch.distributed.DistNetworkError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        remedy = "pass the address of the first process and a free port, or torchrun --standalone"
        expected = "a port where the processes meet"
        raise refuse("MASTER_PORT", expected, f"{place} ({error})", remedy) from error
    if made.scaler is not None:
        remedy = "start it with --mixed_precision no and pass precision='bf16' to the Trainer"
        raise fail("accelerate", "no gradient scaling", made.mixed_precision, remedy)
    if started > 1 and made.num_processes == 1:
        remedy = "make no Accelerator before, or set ACCELERATE_USE_CPU=1 to train on CPUs"
        expected = f"{started} processes that train together, as WORLD_SIZE says"
        raise fail("accelerate", expected, "one that trains by itself", remedy)
    return made


@contextmanager
def own_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode, train or eval, in which it came."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """The network goes through torch.compile inside, and keeps its names and weights."""
    net = model.net if isinstance(model, Preconditioned) else model
    before = net._compiled_call_impl
    if wanted:
        net.compile()
    try:
        yield
    finally:
        net._compiled_call_impl = before


def misfit(x: Tensor, cond: Mapping[str, Tensor], error: Exception) -> Exception:
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


def culprits(pieces: Iterable[tuple[Tensor, Tensor, Tensor]]) -> str:
    """Which rows and times gave a loss that is not finite, or all if none does by itself.

    Args:
        pieces: (rows, times, losses), each (B,), of the forward passes of a step.
    """
    parts = [[part.detach().cpu().flatten() for part in piece] for piece in pieces]
    bad = [~losses.isfinite() for *_, losses in parts]
    if not any(bool(b.any()) for b in bad):
        bad = [torch.ones_like(b) for b in bad]
    rows = torch.cat([r[b] for (r, *_), b in zip(parts, bad, strict=True)])
    times = torch.cat([t[b] for (_, t, _), b in zip(parts, bad, strict=True)])
    names = listed([str(row) for row in rows.tolist()])
    return f"rows {names} of the data, t in [{float(times.min()):.4g}, {float(times.max()):.4g}]"


def times_of(time: TimeSampler, model: ScoreModel, n: int, generator: torch.Generator) -> Tensor:
    """The times that `dsm_loss` draws, which it does first."""
    return time.sample(model.sde, n, generator)[0]
