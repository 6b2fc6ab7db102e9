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
    `(B,)` and all else `(B, 1, ..., 1)`, ready to multiply a state `(B, *D)`.

    Fields: `t`; `g`, the diffusion; and, for an affine SDE, `alpha`, `sigma`,
    `log_snr` = log(alpha / sigma) and `rate` = d log alpha / dt. On a non-affine SDE reading one
    of these four is a `TypeError` that says so.

    Example:
        >>> from scoresde import VPSDE
        >>> node = VPSDE().at(0.5)
        >>> round(node.alpha**2 + node.sigma**2, 12)
        1.0
    """

    __slots__ = ("alpha", "g", "log_snr", "rate", "sigma", "t")

    t: Scalar
    g: Scalar
    alpha: Scalar
    sigma: Scalar
    log_snr: Scalar
    rate: Scalar

    def __init__(
        self,
        t: Scalar,
        g: Scalar,
        alpha: Scalar = None,
        sigma: Scalar = None,
        log_snr: Scalar = None,
        rate: Scalar = None,
    ) -> None:
        self.t = t
        self.g = g
        if alpha is not None:
            self.alpha = alpha
            self.sigma = sigma
            self.log_snr = log_snr
            self.rate = rate

    def __getattr__(self, name: str) -> Any:  # reached only by an unset slot
        if name in _AFFINE:
            raise TypeError(
                f"{name}: this SDE is not affine, so x_t = alpha x_0 + sigma eps has no closed "
                "form; use an AffineSDE (or LinearSDE), or a solver and a model that need only "
                "f, g and the score"
            )
        raise AttributeError(name)

    def __repr__(self) -> str:
        fields = (f"{k}={getattr(self, k)!r}" for k in ("t", "g", *_AFFINE) if self._has(k))
        return f"Node({', '.join(fields)})"

    def _has(self, name: str) -> bool:
        return name not in _AFFINE or self.affine

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

        A node of floats stands for any batch and returns itself.
        """
        if not self.batched:
            return self
        affine = [fn(getattr(self, name)) for name in _AFFINE] if self.affine else []
        return Node(fn(self.t), fn(self.g), *affine)

    def fitted(self, like: Tensor) -> Node:
        """The node on the device and in the dtype of a state, its times in float32 at least.

        t and the log-SNR are what a network is told as its time, and half precision would tell
        it another step: bfloat16 knows no whole number between 256 and 258.
        """
        if not self.batched:
            return self
        t = _told(self.t, like)
        if not self.affine:
            return Node(t, self.g.to(like))
        log_snr = _told(self.log_snr, like)
        alpha, sigma, rate = (c.to(like) for c in (self.alpha, self.sigma, self.rate))
        return Node(t, self.g.to(like), alpha, sigma, log_snr, rate)

    def column(self, x: Tensor) -> Tensor:
        """The times as `(B,)`, what a network takes: see `column_of`."""
        return self.column_of(self.t, x)

    @staticmethod
    def column_of(value: Scalar, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A float, or one value per sample, as `(B,)` on the device of `x`.

        In `dtype`, by default that of `x` but float32 at least, so that a step number arrives
        as it is.
        """
        kind = state_dtype(x.dtype if dtype is None else dtype)
        if isinstance(value, Tensor):
            column = value.flatten() if value.ndim else value.expand(x.shape[0])
            return column.to(x.device, kind)
        return torch.full((x.shape[0],), value, dtype=kind, device=x.device)


def _told(value: Tensor, like: Tensor) -> Tensor:
    """A time on the device of a state and in its dtype, or in float32 if that is less."""
    return value.to(like.device, state_dtype(like.dtype))
