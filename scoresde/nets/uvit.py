"""The U-ViT, a vision transformer with long skips."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pixel_shuffle, scaled_dot_product_attention

from scoresde._check import fail, positive, positive_int
from scoresde.nets.embed import LabelEmbedding, TimeEmbedding, check_call, class_count

__all__ = ["UViT"]


@final
class UViT(nn.Module):
    """U-ViT: a transformer whose tokens are patches, time and label, with long skips.

    The output of each of the first ``n = (depth - 1) // 2`` blocks is an input of a late block
    (the first of them of the last block), by concatenation and a linear map:

        h <- block(W [h; skip])

    The one or two blocks between have no skip. The final 3 x 3 convolution starts at zero, so an
    untrained network returns exactly 0.

    The fused attention kernels of PyTorch have no forward mode and no second derivative; if you
    need them, run the network under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        channels: channels of the image.
        size: height and width of the image, an int if equal, divisible by ``patch``.
        patch: side of the square patches.
        width: length of the tokens.
        depth: number of transformer blocks; with 3 or more there are long skips.
        heads: attention heads, a divisor of ``width``.
        mlp_ratio: hidden units of a block's MLP divided by ``width``.
        classes: number of classes, 0 for an unconditional network.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.

    Shapes: ``x: (B, channels, H, W)``, ``t: (B,)`` float, ``label: (B,)`` int64, -1 for no
    label, or None for no label at all -> ``(B, channels, H, W)``.

    Raises:
        ValueError: a size is not a positive integer, the patch does not divide the size, the
            heads do not divide the width, or x, t or label has the wrong shape.
        TypeError: labels are given to a network without classes.

    Source: Bao et al. 2023, "All are worth words: a ViT backbone for diffusion models".

    Example:
        >>> import torch
        >>> from scoresde.nets import UViT
        >>> net = UViT(3, size=(8, 16), width=32, depth=3)
        >>> net(torch.randn(2, 3, 8, 16), torch.rand(2)).shape
        torch.Size([2, 3, 8, 16])
    """

    ends: ClassVar[tuple[str, ...]] = ("enter", "patches", "exit")  # first and last layers

    def __init__(
        self,
        channels: int,
        *,
        size: int | tuple[int, int],
        patch: int = 2,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        max_frequency: float = 100.0,
    ) -> None:
        super().__init__()
        height, breadth = image_size(size, positive_int("patch", patch))
        self.config: dict[str, Any] = dict(  # values of JSON, for checkpoints
            channels=positive_int("channels", channels),
            size=[height, breadth],
            patch=patch,
            width=positive_int("width", width),
            depth=positive_int("depth", depth),
            heads=positive_int("heads", heads),
            mlp_ratio=positive("mlp_ratio", mlp_ratio),
            classes=class_count(classes),
            max_frequency=positive("max_frequency", max_frequency),
        )
        if width % heads:
            raise fail("heads", f"a divisor of width={width}", heads, "pass heads=1, or change it")
        rows, columns, extras = height // patch, breadth // patch, 2 if classes else 1
        self.time = TimeEmbedding(width, max_frequency=self.config["max_frequency"])
        self.label = LabelEmbedding(width, classes) if classes else None
        self.enter = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, extras + rows * columns, width))

        hidden, skips = math.ceil(mlp_ratio * width), (depth - 1) // 2
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(depth)])
        self.skips = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(skips)])
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, channels * patch**2)
        self.exit = nn.Conv2d(channels, channels, 3, padding=1)
        start(self)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        config = self.config
        check_call(x, t, label, (config["channels"], *config["size"]), config["classes"])
        image = self.enter(x)
        tokens = [self.time(t)[:, None], image.flatten(2).transpose(1, 2)]
        if self.label is not None:
            tokens.insert(1, self.label(label, x.shape[0])[:, None])
        h = torch.cat(tokens, dim=1) + self.position
        skips: list[Tensor] = []
        senders, receivers = len(self.skips), len(self.blocks) - len(self.skips)
        for k, block in enumerate(self.blocks):
            if k >= receivers:
                h = self.skips[k - receivers](torch.cat([h, skips.pop()], dim=-1))
            h = block(h)
            if k < senders:
                skips.append(h)
        pixels = self.patches(self.norm(h[:, len(tokens) - 1 :]))
        image = pixels.transpose(1, 2).unflatten(2, image.shape[2:])
        out: Tensor = self.exit(pixel_shuffle(image, config["patch"]))
        return out


@final
class Block(nn.Module):
    """A pre-norm transformer block on tokens ``(B, N, width)``: attention, then an MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.transpose(1, 3).unbind(dim=2)
        mixed = scaled_dot_product_attention(q, k, v)
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = h + self.second(gelu(self.first(self.norm2(h))))
        return out


def image_size(size: int | tuple[int, int], patch: int) -> tuple[int, int]:
    """Height and width of the image; raise unless they are whole numbers of patches."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise fail("size", "an int or (height, width)", size, "pass the image's own size")
    for side in sides:
        if positive_int("size", side) % patch:
            remedy = "choose another patch, or pad the images"
            raise fail("size", f"divisible by patch={patch}", size, remedy)
    return sides[0], sides[1]


def start(net: UViT) -> None:
    """Set the initial weights: normals of std 0.02, and zeros in the last convolution."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.normal_(net.position, std=0.02)
    nn.init.zeros_(net.exit.weight)
    nn.init.zeros_(net.exit.bias)  # type: ignore[arg-type]
