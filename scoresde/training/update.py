"""One optimiser step: backward, clip, optimiser, average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import fail
from scoresde._html import Shown
from scoresde._tensor import fill
from scoresde.model import ScoreModel
from scoresde.options import Optim, known
from scoresde.training.ema import EMA, replica
from scoresde.training.optimizer import Optimizer
from scoresde.training.posthoc_ema import PowerEMA
from scoresde.training.recipe import Recipe

__all__ = ["Update"]


@final
class Update(Shown):
    """One optimiser step: backward, clip by the global norm, optimiser, average of the weights.

    It does not synchronise with the device. `gradient_norm` followed by `apply` or `discard` is a
    step with a check of the gradients.

    Args:
        model: the model, on its device.
        optim: the optimiser, its rate and decay, `clip` and the average are used here. Those that
            are None are the defaults of `Recipe`.
        widths: widths of the profiles of further averages (see `PowerEMA`).

    Attributes:
        optimizer: the `Optimizer`.
        ema: the `EMA`, or None.
        tracks: the `PowerEMA`s.

    Raises:
        ValueError: the model has no trainable parameters.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> update = Update(net, Optim(lr=0.1, ema=0.99))
        >>> norm = update.step(net(torch.ones(4, 2)).square().mean())
    """

    def __init__(
        self, model: nn.Module, optim: Optim = Optim(), widths: Sequence[float] = ()
    ) -> None:
        optim = Recipe().optim(optim, 0, model)
        self.model = model
        self.optimizer = Optimizer(model, optim)
        self.parameters = list(self.optimizer.parameters.values())
        self.clip = known(optim.clip)
        self.ema = None if optim.ema == 0.0 else EMA(model, optim.ema, width=optim.ema_width)
        self.tracks = [PowerEMA(model, width) for width in widths]

    def step(self, loss: Tensor) -> Tensor:
        """Backward and `apply`; loss: ()."""
        loss.backward()  # type: ignore[no-untyped-call]
        return self.apply()

    def gradient_norm(self) -> Tensor:
        """The global norm of the gradients, ()."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # Like nn.utils.get_total_norm, without its grouping by device and dtype.
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    def apply(self, norm: Tensor | None = None) -> Tensor:
        """Clip, step and average; return the norm of the gradients before clipping."""
        norm = self.gradient_norm() if norm is None else norm
        self.optimizer.step(norm, self.clip)
        self.discard()
        if self.ema is not None:
            self.ema.update(self.model)
        for track in self.tracks:
            track.update(self.model)
        return norm

    def discard(self) -> None:
        """Delete the gradients."""
        self.optimizer.zero_grad()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self.optimizer.lr = lr

    @property
    def averaged(self) -> ScoreModel:
        """The model with the averaged weights, or the model itself without an average."""
        model = self.model if self.ema is None else self.ema.module
        return model  # type: ignore[return-value]  # the copy of a model is a model

    def result(self) -> ScoreModel:
        """The averaged model, or a copy of the raw one without EMA, in eval mode."""
        return replica(self.averaged).eval() if self.ema is None else self.averaged.eval()

    def info(self) -> dict[str, Any]:
        """The counts of the averages as values of JSON."""
        return {
            "ema_updates": 0 if self.ema is None else self.ema.updates,
            "tracks": [[track.width, track.updates] for track in self.tracks],
        }

    def tensors(self) -> dict[str, Tensor]:
        """Raw weights, the optimiser's state and the power-function averages, by flat names."""
        raw = {f"raw.{k}": v for k, v in self.model.state_dict().items()}
        moments = {f"optimizer.{k}": v for k, v in self.optimizer.tensors().items()}
        means = {
            f"track{i}.{k}": v
            for i, track in enumerate(self.tracks)
            for k, v in track.tensors.items()
        }
        return raw | moments | means

    def restore(
        self,
        tensors: Mapping[str, Tensor],
        averaged: Mapping[str, Tensor],
        info: Mapping[str, Any],
        where: str,
    ) -> None:
        """Continue from a checkpoint: the inverse of `tensors`, `averaged` and `info`.

        Raises:
            ValueError: the parameters or the averages do not match.
        """
        raw = {k[4:]: v for k, v in tensors.items() if k.startswith("raw.")}
        fill(self.model, raw, where)
        head = "optimizer."
        own = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
        self.optimizer.restore(own, where)
        if self.ema is not None:
            fill(self.averaged.net, averaged, where)  # type: ignore[arg-type]
            self.ema.restore(info["ema_updates"])
        saved = info.get("tracks", [])
        widths = [track.width for track in self.tracks]
        if [width for width, _ in saved] != widths:
            expected = f"{[width for width, _ in saved]}, as in {where}"
            remedy = "resume with the same snapshot_every and widths"
            raise fail("widths", expected, widths, remedy)
        for i, (track, (_, updates)) in enumerate(zip(self.tracks, saved, strict=True)):
            head = f"track{i}."
            own = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
            track.restore(own, updates, where)
