"""A classifier of noisy states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde._check import fail, floating, positive, positive_int, sizes
from scoresde._tensor import Scalar, own_dtype, sqrt
from scoresde.nets.blocks import CONVOLUTIONS, ResidualBlock, group_norm
from scoresde.nets.embed import TimeEmbedding
from scoresde.nets.mlp import Block
from scoresde.node import Node
from scoresde.sde import SDE, as_affine

__all__ = ["NoiseClassifier"]

FREQUENCY = 16.0
"""The fastest feature of the noise level, in radians per unit of log(sigma / alpha) / 4."""

FARTHEST = 20.0
"""The largest log-SNR that the network is told; beyond it there is no noise, or no signal."""


@final
class NoiseClassifier(nn.Module):
    """A network of log p(c | x_t) at every noise level, for classifier guidance.

    It is called with classifier(t, x), as `ClassifierGuided` does. States are scaled to unit size,
    x / sqrt(alpha^2 s^2 + sigma^2), and the network is told log(sigma / alpha) / 4, so one
    network serves every affine SDE. Vectors pass through residual blocks modulated by the noise
    level; signals, images and volumes through residual convolutions that halve the sides, and a
    mean over the places. The last layer starts at zero: untrained, all classes are equally likely.

    Args:
        sde: the SDE of the states, affine.
        shape: (*D), the shape of one sample: (D,) for vectors, else (channels, ...) with one to
            three axes.
        classes: the number of classes K, 2 or more.
        width: hidden units, or channels at the first level; a multiple of 4.
        depth: the number of residual blocks, or of levels.
        std: the standard deviation s of the data, which `train_classifier` measures.

    Shapes: ``t``: a float, () or one time per sample, ``x: (B, *D)`` -> logits ``(B, K)``.

    Raises:
        TypeError: the SDE is not affine.
        ValueError: a number or the shape is not valid, or x has another one.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> classifier = NoiseClassifier(VPSDE(), (2,), 3)
        >>> classifier(0.5, torch.randn(4, 2)).exp().tolist()[0]
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        sde: SDE,
        shape: Sequence[int],
        classes: int,
        *,
        width: int = 64,
        depth: int = 2,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.sde = as_affine("sde", sde, "the input is scaled by alpha and sigma")
        remedy = "(D,) for vectors, (channels, ...) with one to three axes for all else"
        self.shape = sizes("shape", shape, "one to four numbers", remedy)
        if not 1 <= len(self.shape) <= 4:
            raise fail("shape", "one to four numbers", self.shape, remedy)
        self.classes = positive_int("classes", classes, "pass the number of classes, e.g. 10")
        if classes == 1:
            remedy = "with one class its probability is 1 everywhere, which guides nowhere"
            raise fail("classes", "2 or more", classes, remedy)
        if positive_int("width", width) % 4:
            raise fail("width", "a multiple of 4", width, "pass e.g. 64")
        self.width, self.depth = width, positive_int("depth", depth)
        self.std = positive("std", std, "the standard deviation of the data")
        self.level = TimeEmbedding(width, FREQUENCY)
        self.blocks = nn.ModuleList()
        self.halves = nn.ModuleList()
        dims, last = len(self.shape) - 1, width
        self.enter: nn.Module
        self.norm: nn.Module
        if dims == 0:
            self.enter = nn.Linear(self.shape[0], width)
            self.blocks.extend(Block(width) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
        else:
            conv = CONVOLUTIONS[dims]
            self.enter = conv(self.shape[0], width, 3, padding=1)
            for number in range(depth):
                out = width * 2**number
                self.blocks.append(ResidualBlock(dims, last, out, width))
                self.halves.append(conv(out, out, 3, stride=2, padding=1))
                last = out
            self.norm = group_norm(last)
        self.exit = nn.Linear(last, classes)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, t: Scalar, x: Tensor) -> Tensor:
        if floating("x", x).shape[1:] != self.shape:
            expected = f"shape (B, {', '.join(map(str, self.shape))})"
            raise fail("x", expected, x, "pass states of the shape of the data")
        x = x.to(own_dtype(self) or x.dtype)
        along_grid = isinstance(t, Tensor) and t.ndim == 0 and t.device.type == "cpu"
        node = self.sde.at(float(t) if along_grid else t, like=x)
        size = sqrt(node.alpha**2 * self.std**2 + node.sigma**2)
        emb = silu(self.level(_level(node, x)))
        h = self.enter(x / size)
        if len(self.shape) == 1:
            for block in self.blocks:
                h = block(h, emb)
        else:
            for block, half in zip(self.blocks, self.halves, strict=True):
                h = half(block(h, emb))
        h = silu(self.norm(h))
        logits: Tensor = self.exit(h.flatten(2).mean(2) if h.ndim > 2 else h)
        return logits


def _level(node: Node, x: Tensor) -> Tensor:
    """log(sigma / alpha) / 4 within the farthest levels, (B,)."""
    level = node.log_snr
    if not isinstance(level, Tensor):
        level = math.copysign(min(abs(level), FARTHEST), level)
    return -0.25 * Node.column_of(level, x).clamp(-FARTHEST, FARTHEST)
