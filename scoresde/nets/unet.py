"""The convolutional U-Net of DDPM and ADM, the network for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from scoresde._check import fail, nonnegative, positive, positive_int
from scoresde.nets.embed import TimeEmbedding, check_call, class_count

__all__ = ["UNet"]

Layer = TypeVar("Layer", bound=nn.Module)


@final
class UNet(nn.Module):
    """U-Net for images: residual convolutions at several resolutions, joined by skips.

    Level l has ``width * multipliers[l]`` channels at 1 / 2^l of the image's size. Each residual
    block is modulated by time and label (a scale and shift after its second group norm), some
    levels and the middle have self-attention, and the decoder reads every feature map of the
    encoder by concatenation. H and W are arbitrary, also odd or unequal: an odd size is halved
    with rounding up, and enlarged to the size of its skip on the way back. The last convolution
    of every block and of the network starts at zero, so an untrained network returns exactly 0.

    The fused attention kernels of PyTorch have no forward mode and no second derivative; if you
    need them, run the network under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        channels: channels of the image.
        width: channels at the first level.
        multipliers: one per level; their number is the number of resolutions.
        blocks: residual blocks per level of the encoder (one more in the decoder).
        attention: the levels with self-attention, where negative numbers count from the last;
            with ``()`` only the middle has it.
        heads: attention heads, a divisor of the channels wherever there is attention.
        classes: number of classes, 0 for an unconditional network.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.
        dropout: probability of dropping a feature within a residual block.

    Shapes: ``x: (B, channels, H, W)``, ``t: (B,)`` float, ``label: (B,)`` int64, -1 for no
    label, or None for no label at all -> ``(B, channels, H, W)``.

    Raises:
        ValueError: a size is not a positive integer, multipliers are empty, a level does not
            exist, the heads do not divide the channels, dropout is outside [0, 1), or x, t or
            label has the wrong shape.
        TypeError: labels are given to a network without classes.

    Source: Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3 (scale and shift).

    Example:
        >>> import torch
        >>> from scoresde.nets import UNet
        >>> net = UNet(1, width=16, multipliers=(1, 2), blocks=1, classes=10)
        >>> net(torch.randn(2, 1, 14, 14), torch.rand(2), label=torch.tensor([7, -1])).shape
        torch.Size([2, 1, 14, 14])
    """

    ends: ClassVar[tuple[str, ...]] = ("enter", "exit")  # first and last layers

    def __init__(
        self,
        channels: int,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: Sequence[int] = (-1,),
        heads: int = 4,
        classes: int = 0,
        max_frequency: float = 100.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # values of JSON, for checkpoints
            channels=positive_int("channels", channels),
            width=positive_int("width", width),
            multipliers=[positive_int("multipliers", m) for m in multipliers],
            blocks=positive_int("blocks", blocks),
            attention=list(attention),
            heads=positive_int("heads", heads),
            classes=class_count(classes),
            max_frequency=positive("max_frequency", max_frequency),
            dropout=nonnegative("dropout", dropout),
        )
        if dropout >= 1.0:
            raise fail("dropout", "a probability in [0, 1)", dropout, "pass 0.0 for none")
        if not self.config["multipliers"]:
            raise fail("multipliers", "one per level", multipliers, "pass (1,) for a single level")
        widths = [width * m for m in self.config["multipliers"]]
        attends = heads_by_level(attention, widths, heads)
        emb = 4 * width
        self.embed = TimeEmbedding(emb, classes, self.config["max_frequency"])
        self.enter = nn.Conv2d(channels, width, 3, padding=1)

        skips = [width]
        self.down = nn.ModuleList()
        for level, out in enumerate(widths):
            if level > 0:
                self.down.append(Halve(skips[-1]))
                skips.append(skips[-1])
            for _ in range(blocks):
                self.down.append(Block(skips[-1], out, emb, attends[level], dropout))
                skips.append(out)

        now = widths[-1]
        self.middle = nn.ModuleList([Block(now, now, emb, n, dropout) for n in (heads, 0)])

        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Block(now + skips.pop(), out, emb, attends[level], dropout))
                now = out

        self.norm = group_norm(now)
        self.exit = zeroed(nn.Conv2d(now, channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        check_call(x, t, label, (self.config["channels"], "H", "W"), self.config["classes"])
        emb = silu(self.embed(t, label))
        h = self.enter(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, emb)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb)
        for layer in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = interpolate(h, size=skip.shape[2:])
            h = layer(torch.cat([h, skip], dim=1), emb)
        out: Tensor = self.exit(silu(self.norm(h)))
        return out


@final
class Block(nn.Module):
    """Residual block, then self-attention if it has heads: ``(B, ins, H, W) -> (B, outs, H, W)``.

    h = conv(silu(norm(x))); out = skip(x) + conv(silu((1 + scale(emb)) norm(h) + shift(emb)))
    """

    def __init__(self, ins: int, outs: int, emb: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(ins)
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1)
        self.film = nn.Linear(emb, 2 * outs)
        self.norm2 = group_norm(outs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outs, outs, 3, padding=1))
        self.skip = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)
        self.attention = Attention(outs, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb).unflatten(1, (2, -1, 1, 1)).unbind(dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(silu(h)))
        out: Tensor = self.attention(self.skip(x) + h)
        return out


@final
class Halve(nn.Module):
    """Halves height and width, rounding up; it ignores emb, which a Block takes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


@final
class Attention(nn.Module):
    """Self-attention over the pixels of ``x: (B, C, H, W)``, added to x."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(dim=2)
        h = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = x + self.out(h).transpose(1, 2).reshape(x.shape)
        return out


def heads_by_level(attention: Sequence[int], widths: list[int], heads: int) -> list[int]:
    """Attention heads of every level, 0 for none; raise if they do not divide the channels."""
    n = len(widths)
    if any(isinstance(level, bool) or level not in range(-n, n) for level in attention):
        remedy = f"name the levels by index, from {-n} to {n - 1}"
        raise fail("attention", f"indices of the {n} levels", attention, remedy)
    levels = {level % n for level in attention}
    for level in levels | {n - 1}:
        if widths[level] % heads:
            want = f"a divisor of the {widths[level]} channels of level {level}"
            raise fail("heads", want, heads, f"pass heads=1, or a multiple of {heads} as width")
    return [heads if level in levels else 0 for level in range(n)]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with up to 32 groups of 4 channels or more."""
    fitting = (n for n in range(1, 33) if channels % n == 0 and channels >= 4 * n)
    return nn.GroupNorm(max(fitting, default=1), channels)


def zeroed(layer: Layer) -> Layer:
    """Return the layer with its weights set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
