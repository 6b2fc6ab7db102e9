"""Layers of the networks for signals, images and volumes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from scoresde._tensor import expand

__all__ = ["CONVOLUTIONS", "Attention", "ResidualBlock", "convolution", "group_norm", "zeroed"]

Layer = TypeVar("Layer", bound=nn.Module)

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
"""Number of spatial axes -> convolution."""


def convolution(
    dims: int, ins: int, outs: int, periodic: Collection[int] = (), stride: int = 1
) -> nn.Module:
    """A convolution over three places of each axis, (B, ins, *D) -> (B, outs, *D / stride).

    Args:
        dims: number of spatial axes.
        ins, outs: channels of the input and of the output.
        periodic: the spatial axes whose two ends meet; the others are continued by zeros.
        stride: the step between places of the output.
    """
    padding = tuple(0 if axis in periodic else 1 for axis in range(dims))
    layer: nn.Module = CONVOLUTIONS[dims](ins, outs, 3, stride=stride, padding=padding)  # type: ignore[arg-type]
    return nn.Sequential(Wrap(dims, periodic), layer) if periodic else layer


@final
class Wrap(nn.Module):
    """Continue x by one place at both ends of its periodic axes: (B, C, *D) -> (B, C, *D + 2).

    Args:
        dims: number of spatial axes.
        periodic: the spatial axes whose two ends meet.
    """

    def __init__(self, dims: int, periodic: Collection[int]) -> None:
        super().__init__()
        self.axes = [axis - dims for axis in sorted(periodic)]

    def forward(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = torch.cat([x.narrow(axis, -1, 1), x, x.narrow(axis, 0, 1)], dim=axis)
        return x


@final
class ResidualBlock(nn.Module):
    """Two modulated convolutions, then attention if it has heads: (B, ins, *D) -> (B, outs, *D).

    h = conv(silu(norm(x))); out = skip(x) + conv(silu((1 + scale(emb)) norm(h) + shift(emb)))

    Args:
        dims: number of spatial axes.
        ins, outs: channels of the input and of the output.
        emb: length of the embedding of time and conditions.
        heads: heads of the attention, 0 for none.
        dropout: probability of dropping a feature.
        tokens: length of further tokens that the attention reads, 0 for none.
        periodic: the spatial axes whose two ends meet.
    """

    def __init__(
        self,
        dims: int,
        ins: int,
        outs: int,
        emb: int,
        heads: int = 0,
        dropout: float = 0.0,
        tokens: int = 0,
        periodic: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(ins)
        self.conv1 = convolution(dims, ins, outs, periodic)
        self.film = nn.Linear(emb, 2 * outs)
        self.norm2 = group_norm(outs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(convolution(dims, outs, outs, periodic))
        self.skip = nn.Identity() if ins == outs else CONVOLUTIONS[dims](ins, outs, 1)
        self.attention = Attention(outs, heads, tokens) if heads else None

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        tokens: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        scale, shift = (expand(part, x) for part in self.film(emb).chunk(2, dim=1))
        h = self.conv1(silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(silu(h)))
        out: Tensor = self.skip(x) + h
        return out if self.attention is None else self.attention(out, tokens, present)


@final
class Attention(nn.Module):
    """Attention from the places of ``x: (B, C, *D)`` to them and to tokens, added to x.

    Args:
        channels: channels of x.
        heads: attention heads, a divisor of the channels.
        tokens: length of the tokens, 0 for none.
    """

    def __init__(self, channels: int, heads: int, tokens: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.pair = nn.Linear(tokens, 2 * channels, bias=False) if tokens else None
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(
        self, x: Tensor, tokens: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        qkv = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(dim=2)
        mask = None
        if self.pair is not None and tokens is not None and present is not None:
            pair = self.pair(tokens).unflatten(-1, (2, self.heads, -1)).transpose(1, 3)
            more_k, more_v = pair.unbind(dim=2)
            mask = nn.functional.pad(present, (k.shape[2], 0), value=True)[:, None, None]
            k, v = torch.cat([k, more_k], dim=2), torch.cat([v, more_v], dim=2)
        h = scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        out: Tensor = x + self.out(h).transpose(1, 2).reshape(x.shape)
        return out


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with up to 32 groups of 4 channels or more."""
    fitting = (n for n in range(1, 33) if channels % n == 0 and channels >= 4 * n)
    return nn.GroupNorm(max(fitting, default=1), channels)


def zeroed(layer: Layer) -> Layer:
    """Return the layer with its weights set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
