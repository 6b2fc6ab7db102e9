"""Features of samples, computed in batches by any callable from samples to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from scoresde._check import fail, no_mask, positive_int, wrong_type
from scoresde.metrics.arrays import Array, rows_of

__all__ = ["Batches", "Features", "feature_batches", "features_of"]

Features: TypeAlias = Callable[[Tensor], Tensor]
Batches: TypeAlias = Array | Iterable[Array]


def features_of(x: Batches, features: Features, *, batch_size: int = 256) -> Tensor:
    """Features (N, F) of samples, float64 on the CPU, with the rows of all batches in order.

    Args:
        x: (N, *D) samples, or an iterable of batches (B, *D).
        features: callable (B, *D) -> (B, F): a network, or a method of one. It is called without
            gradients, on the device and in the dtype of `x`.
        batch_size: rows in one call, if `x` is one array.

    Raises:
        TypeError: `features` is not callable, or does not return a tensor.
        ValueError: the number of rows changes, numbers are not finite, or a network is in
            training mode, where batch normalisation or dropout would make rows depend on others.

    Example:
        >>> features_of(torch.ones(3, 2, 2), lambda x: x.flatten(1)[:, :1])
        tensor([[1.],
                [1.],
                [1.]], dtype=torch.float64)
    """
    return torch.cat(list(feature_batches(x, features, batch_size=batch_size)))


def feature_batches(x: Batches, features: Features, *, batch_size: int = 256) -> Iterator[Tensor]:
    """Yield the features (B, F) of one batch after another; see `features_of`."""
    if not callable(features):
        raise wrong_type("features", "a callable (B, *D) -> (B, F)", features, "pass a network")
    _refuse_training(features)
    empty = True
    for batch in _batches(x, positive_int("batch_size", batch_size)):
        with torch.no_grad():
            out = features(batch)
        if not isinstance(out, Tensor | np.ndarray):
            raise wrong_type("features", "a tensor (B, F)", out, "return one row per sample")
        rows = rows_of("features", out)
        if len(rows) != len(batch):
            expected = f"{len(batch)} rows for {len(batch)} samples"
            raise fail("features", expected, out, "return one row per sample")
        empty = False
        yield rows
    if empty:
        raise fail("x", "at least one sample", "none", "check what was loaded")


def _batches(x: Batches, size: int) -> Iterator[Tensor]:
    no_mask("x", x)
    if isinstance(x, Tensor | np.ndarray):
        rows = torch.as_tensor(x)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
    else:
        for batch in x:
            no_mask("a batch of x", batch)
            yield torch.as_tensor(batch)


def _refuse_training(features: object) -> None:
    module = features if isinstance(features, nn.Module) else getattr(features, "__self__", None)
    if not isinstance(module, nn.Module):
        return
    layers = nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd
    for part in module.modules():
        if part.training and isinstance(part, layers):
            got = f"{type(part).__name__} in training mode"
            raise fail("features", "a network in evaluation mode", got, "call .eval() on it")
