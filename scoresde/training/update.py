"""One optimiser step: backward, clip, AdamW, average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import fail
from scoresde.model import ScoreModel
from scoresde.options import Optim
from scoresde.training.checkpoint import fill
from scoresde.training.ema import EMA, replica
from scoresde.training.posthoc_ema import PowerEMA

__all__ = ["Update"]


@final
class Update:
    """One optimiser step: backward, clip by the global norm, AdamW, average of the weights.

    It does not synchronise with the device. `gradient_norm` followed by `apply` or `discard` is a
    step with a check of the gradients.

    Args:
        model: the model, on its device.
        optim: `lr`, `weight_decay`, `clip` and `ema` are used here.
        widths: widths of the profiles of further averages (see `PowerEMA`).

    Attributes:
        optimizer: the AdamW.
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
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise fail("model", "parameters to train", "none", "wrap a network, not a function")
        self.fused = all(
            p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in self.parameters
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            fused=self.fused or None,
        )
        self.clip = optim.clip
        self.ema = None if optim.ema is None else EMA(model, optim.ema)
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
        if self.clip is not None:
            self._shrink(norm, self.clip)
        self.optimizer.step()
        self.discard()
        if self.ema is not None:
            self.ema.update(self.model)
        for track in self.tracks:
            track.update(self.model)
        return norm

    def _shrink(self, norm: Tensor, clip: float) -> None:
        if self.fused:  # its kernel scales the gradients itself, which saves a pass
            scale = (norm.float() + 1e-6) / clip
            self.optimizer.grad_scale = scale.clamp_min(1.0)  # type: ignore[attr-defined]
        else:
            nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)

    def discard(self) -> None:
        """Delete the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

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
        state = self.optimizer.state_dict()["state"]
        raw = {f"raw.{k}": v for k, v in self.model.state_dict().items()}
        moments = {
            f"optimizer.{i}.{k}": v if isinstance(v, Tensor) else torch.as_tensor(v)
            for i, entry in state.items()
            for k, v in entry.items()
        }
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
        self._restore_optimizer(tensors, where)
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

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], where: str) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        count = len(self.parameters)
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                # A fused kernel would read beyond the end of a state of another shape.
                like = self.parameters[int(index)].shape if int(index) < count else None
                if value.shape not in (like, ()):
                    remedy = "train the same parameters as in the run that is resumed"
                    raise fail(f"{name} in {where}", f"a tensor of shape {like}", value, remedy)
                state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
