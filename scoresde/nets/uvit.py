"""The U-ViT, a vision transformer with long skips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pixel_shuffle, scaled_dot_product_attention

from scoresde._check import fail, positive, positive_int
from scoresde.nets.conditioner import ConditionalNet, Conditioner
from scoresde.nets.conditions import Spec, as_config, as_specs
from scoresde.nets.embed import check_call, check_exponents, input_features
from scoresde.nets.presets import sized

__all__ = ["UViT"]


@final
class UViT(ConditionalNet):
    """U-ViT: a transformer whose tokens are patches, time and label, with long skips.

    The output of each of the first ``n = (depth - 1) // 2`` blocks is an input of a late block
    (the first of them of the last block), by concatenation and a linear map:

        h <- block(W [h; skip])

    The one or two blocks between have no skip. The final 3 x 3 convolution starts at zero, so an
    untrained network returns exactly 0.

    The presets, with their parameters for one channel of 28 x 28 without conditions:

    | tiny | small | base |
    | --- | --- | --- |
    | 179,278 | 1,304,590 | 7,761,934 |

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
        classes: number of classes of the condition "label", 0 for none.
        conditions: further conditions: name -> `Label`, `Vector`, `Image` or `Set`.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.
        input_fourier: exponents n of further channels sin(2^n pi x) and cos(2^n pi x); see
            `UNet`.
        preset: "tiny", "small" or "base": the sizes that are not given.

    Shapes: ``x: (B, channels, H, W)``, ``t: (B,)`` float, ``label: (B,)`` int64, and conditions
    as their specifications say; a condition that is left out is not given for any sample ->
    ``(B, channels, H, W)``.

    Raises:
        ValueError: a size is not a positive integer, the patch does not divide the size, the
            heads do not divide the width, the preset is unknown, or x, t or a condition has the
            wrong shape.
        TypeError: a condition is given that the network does not take.

    Source: Bao et al. 2023, "All are worth words: a ViT backbone for diffusion models".

    Example:
        >>> import torch
        >>> from scoresde.nets import UViT
        >>> net = UViT(3, size=(8, 16), width=32, depth=3)
        >>> net(torch.randn(2, 3, 8, 16), torch.rand(2)).shape
        torch.Size([2, 3, 8, 16])
    """

    ends: ClassVar[tuple[str, ...]] = ("enter", "patches", "exit")  # first and last layers

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {  # Any: values of JSON
        "tiny": dict(width=64, depth=3, heads=4),
        "small": dict(width=128, depth=6, heads=4),
        "base": dict(width=256, depth=9, heads=4),
    }
    """The sizes of each preset."""

    def __init__(
        self,
        channels: int,
        *,
        size: int | tuple[int, int],
        patch: int = 2,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        conditions: Mapping[str, Spec | Mapping[str, Any]] | None = None,  # Any: values of JSON
        max_frequency: float = 100.0,
        input_fourier: Sequence[float] = (),
        preset: str = "small",
    ) -> None:
        super().__init__()
        given = sized(preset, self.PRESETS, dict(width=width, depth=depth, heads=heads))
        width, depth, heads = given["width"], given["depth"], given["heads"]
        specs = as_specs(conditions, classes)
        height, breadth = image_size(size, positive_int("patch", patch))
        self.config = dict(
            channels=positive_int("channels", channels),
            size=[height, breadth],
            patch=patch,
            width=positive_int("width", width),
            depth=positive_int("depth", depth),
            heads=positive_int("heads", heads),
            mlp_ratio=positive("mlp_ratio", mlp_ratio),
            **as_config(specs),
            max_frequency=positive("max_frequency", max_frequency),
            input_fourier=check_exponents(input_fourier),
        )
        if width % heads:
            raise fail("heads", f"a divisor of width={width}", heads, "pass heads=1, or change it")
        rows, columns = height // patch, breadth // patch
        self.condition = Conditioner(specs, width, 2, self.config["max_frequency"])
        ins = channels * (1 + 2 * len(self.config["input_fourier"]))
        ins += self.condition.image_channels
        self.enter = nn.Conv2d(ins, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, 1 + rows * columns, width))

        hidden, skips = math.ceil(mlp_ratio * width), (depth - 1) // 2
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(depth)])
        self.skips = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(skips)])
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, channels * patch**2)
        self.exit = nn.Conv2d(channels, channels, 3, padding=1)
        start(self)

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, **cond: Tensor | None
    ) -> Tensor:
        config = self.config
        check_call(x, t, (config["channels"], *config["size"]))
        given = self.condition(x, t, {"label": label, **cond})
        ins = input_features(x, config["input_fourier"], given.emb.dtype)
        if given.images is not None:
            ins = torch.cat([ins, given.images], dim=1)
        image = self.enter(ins)
        tokens = [given.emb[:, None], image.flatten(2).transpose(1, 2)]
        h = torch.cat(tokens, dim=1) + self.position
        mask, places = None, h.shape[1]
        if given.tokens is not None and given.present is not None:
            h = torch.cat([h, given.tokens], dim=1)
            mask = nn.functional.pad(given.present, (places, 0), value=True)[:, None, None]
        skips: list[Tensor] = []
        senders, receivers = len(self.skips), len(self.blocks) - len(self.skips)
        for k, block in enumerate(self.blocks):
            if k >= receivers:
                h = self.skips[k - receivers](torch.cat([h, skips.pop()], dim=-1))
            h = block(h, mask)
            if k < senders:
                skips.append(h)
        pixels = self.patches(self.norm(h[:, 1:places]))
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

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        qkv = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.transpose(1, 3).unbind(dim=2)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
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
