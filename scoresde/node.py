"""One point of a noise schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde._tensor import Scalar, state_dtype

__all__ = ["Node"]

_AFFINE = ("alpha", "sigma", "log_snr", "rate")


class Node:
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

    __slots__ = ("alpha", "g", "log_snr", "rate", "sigma", "t")

    # Scalars, declared as Any: code for grids computes with floats, code for batches with tensors.
    t: Any
    g: Any
    alpha: Any
    sigma: Any
    log_snr: Any
    rate: Any

    def __init__(self, t: Scalar, g: Scalar, *affine: Scalar) -> None:
        """`affine` is alpha, sigma, log_snr and rate, or nothing."""
        self.t = t
        self.g = g
        if affine:
            self.alpha, self.sigma, self.log_snr, self.rate = affine

    def __getattr__(self, name: str) -> Any:  # reached only by an unset slot
        if name in _AFFINE:
            raise TypeError(
                f"{name}: this SDE is not affine, so x_t = alpha x_0 + sigma eps has no closed "
                "form; use an AffineSDE (or LinearSDE), or a solver and a model that need only "
                "f, g and the score"
            )
        raise AttributeError(name)

    def __repr__(self) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"Node({', '.join(fields)})"

    @property
    def _names(self) -> tuple[str, ...]:
        return ("t", "g", *_AFFINE) if self.affine else ("t", "g")

    @property
    def affine(self) -> bool:
        """Whether the SDE is affine, so that alpha, sigma, log_snr and rate exist."""
        try:
            object.__getattribute__(self, "alpha")
        except AttributeError:
            return False
        return True

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
        return Node(*(fn(getattr(self, name)) for name in self._names))

    def fitted(self, like: Tensor) -> Node:
        """The node on the device and in the dtype of a state, its times in float32 at least.

        t and the log-SNR are inputs of the network, and half precision would round them to
        another step: bfloat16 has no whole number between 256 and 258.
        """
        if not self.batched:
            return self
        wider = state_dtype(like.dtype)
        kinds = ((name, wider if name in ("t", "log_snr") else like.dtype) for name in self._names)
        return Node(*(getattr(self, name).to(like.device, dtype) for name, dtype in kinds))

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
