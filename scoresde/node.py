"""One point of a noise schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._html import Shown
from scoresde._tensor import Scalar, state_dtype

__all__ = ["AffineNode", "Node"]


@dataclass(slots=True, eq=False, repr=False)
class Node(Shown):
    """One point of the schedule, x_t = alpha x_0 + sigma eps, built once per grid by `sde.at(t)`.

    Along a grid every field is a Python float, computed in float64. For a batch of times `t` is
    `(B,)` and every other field `(B, 1, ..., 1)`, ready to multiply a state `(B, *D)`.

    Fields: `t`; `g`, the diffusion coefficient; and, for an affine SDE, `alpha`, `sigma`,
    `log_snr` = log(alpha / sigma) and `rate` = d log alpha / dt. On a non-affine SDE reading one
    of these four is a `TypeError` that says so.

    Example:
        >>> from scoresde import VPSDE
        >>> node = VPSDE().at(0.5)
        >>> round(node.alpha**2 + node.sigma**2, 12)
        1.0
    """

    # Scalars, declared as Any: code for grids computes with floats, code for batches with tensors.
    t: Any
    g: Any

    affine: ClassVar[bool] = False

    def __getattr__(self, name: str) -> Any:  # reached only by a field that is not there
        if name in ("alpha", "sigma", "log_snr", "rate"):
            raise TypeError(
                f"{name}: this SDE is not affine, so x_t = alpha x_0 + sigma eps has no closed "
                "form; use an AffineSDE (or LinearSDE), or a solver and a model that need only "
                "f, g and the score"
            )
        raise AttributeError(name)

    @property
    def batched(self) -> bool:
        """Whether this node holds one time per sample."""
        return isinstance(self.t, Tensor)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Node:
        """Apply `fn` (a concatenation, index or repeat along the batch) to every field.

        A node of floats applies to any batch and returns itself.
        """
        if not self.batched:
            return self
        return (AffineNode if self.affine else Node)(
            *(fn(getattr(self, field.name)) for field in fields(self))
        )

    def fitted(self, like: Tensor) -> Node:
        """The node on the device and in the dtype of a state, its times in float32 at least.

        t and the log-SNR are inputs of the network, and half precision would round them to
        another step: bfloat16 has no whole number between 256 and 258.
        """
        if not self.batched:
            return self
        wider = state_dtype(like.dtype)
        names = [field.name for field in fields(self)]
        kinds = ((name, wider if name in ("t", "log_snr") else like.dtype) for name in names)
        return (AffineNode if self.affine else Node)(
            *(getattr(self, name).to(like.device, dtype) for name, dtype in kinds)
        )

    def column(self, x: Tensor) -> Tensor:
        """The times as `(B,)`, the shape that a network takes: see `column_of`."""
        return self.column_of(self.t, x)

    @staticmethod
    def column_of(value: Scalar, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A float, or one value per sample, as `(B,)` on the device of `x`.

        The dtype is `dtype`, by default that of `x`, or float32 if that is wider, so that a step
        number is not rounded.
        """
        kind = state_dtype(x.dtype if dtype is None else dtype)
        if isinstance(value, Tensor):
            column = value.flatten() if value.ndim else value.expand(x.shape[0])
            return column.to(x.device, kind)
        return torch.full((x.shape[0],), value, dtype=kind, device=x.device)


@dataclass(slots=True, eq=False, repr=False)
class AffineNode(Node):
    """A point of the schedule of an affine SDE: a `Node` with alpha, sigma, log_snr and rate."""

    alpha: Any
    sigma: Any
    log_snr: Any
    rate: Any

    affine: ClassVar[bool] = True
