"""The U-ViT, a vision transformer with long skips between two convolutional stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from scoresde._check import fail, positive, positive_int, whole, wrong_type
from scoresde.nets.blocks import CONVOLUTIONS, ResidualBlock, group_norm, zeroed
from scoresde.nets.conditioner import ConditionalNet, Conditioner, Given
from scoresde.nets.conditions import Spec, as_config, as_specs
from scoresde.nets.embed import check_call, check_exponents, check_precision, input_features
from scoresde.nets.presets import sized

__all__ = ["UViT"]

MOST_TOKENS = 64
"""The largest number of patches by default."""

LARGEST_FACTOR = 7
"""The largest prime factor of a patch by default, by which one stage divides the sides."""


@final
class UViT(ConditionalNet):
    """U-ViT: a transformer on patches with long skips, between convolutional stages.

    There is a stage for each prime factor p of ``patch``: on the way down a residual block of
    convolutions, then a strided convolution that divides the sides by p; the last one makes the
    tokens of the transformer. On the way up the map is enlarged by p, and another residual block
    reads it beside the map f of the way down:

        h <- down_p(f),  f = block(h);    h <- block([up_p(h); f]).

    The output of each of the first ``n = (depth - 1) // 2`` transformer blocks is an input of a
    late block (the first of them of the last block), by concatenation and a linear map. Time and
    conditions modulate every block: scale and shift of its norms and, in the transformer, gates
    of its branches that start at zero. The last convolution starts at zero, so an untrained
    network returns exactly 0.

    Conditions: labels and vectors modulate the blocks; an image is joined to x as channels; the
    elements of a set are further tokens, and their pooled sum modulates the blocks.

    The fused attention kernels of PyTorch have no forward mode and no second derivative; if you
    need them, run the network under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    The presets, with their parameters for one channel and 256, 28 x 28 and 16 x 16 x 16 places,
    without conditions:

    | dims | tiny | small | base |
    | --- | --- | --- | --- |
    | 1 | 289,825 | 1,760,961 | 11,982,721 |
    | 2 | 337,793 | 1,954,177 | 12,758,273 |
    | 3 | 475,201 | 2,500,353 | 14,936,065 |

    Args:
        channels: channels of x.
        size: the sides of x, an int if they are equal; each divisible by ``patch``.
        dims: number of spatial axes: 1 for signals, 2 for images, 3 for volumes; by default the
            number of sides, or 2 for an int.
        patch: side of a patch. By default it is the smallest above 1 that divides the sides into
            at most 64 patches, or the largest if none does. It has no prime factor above 7, so
            sides of 17 get the patch 1 and 289 patches, and sides of 26 the patch 2 and 169.
        width: length of the tokens.
        depth: number of transformer blocks; with 3 or more there are long skips.
        heads: attention heads, a divisor of ``width``.
        stem: channels of the last convolutional stage; each one before it has half as many.
        mlp_ratio: hidden units of a block's MLP divided by ``width``.
        classes: number of classes of the condition "label", 0 for none.
        conditions: further conditions: name -> `Label`, `Vector`, `Image` or `Set`.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.
        input_fourier: exponents n of further channels sin(2^n pi x) and cos(2^n pi x); see
            `UNet`.
        preset: "tiny", "small" or "base": the sizes that are not given.

    Shapes: ``x: (B, channels, *size)``, ``t: (B,)`` float, ``label: (B,)`` int64, and conditions
    as their specifications say; a condition that is left out is not given for any sample ->
    ``(B, channels, *size)``.

    Raises:
        ValueError: a size is not a positive integer, the patch does not divide the size, the
            heads do not divide the width, the preset is unknown, or x, t or a condition has the
            wrong shape.
        TypeError: a condition is given that the network does not take.

    Source: Bao et al. 2023, "All are worth words: a ViT backbone for diffusion models" (long
    skips); Hoogeboom et al. 2023, "Simple diffusion" (a transformer between convolutions); Peebles
    and Xie 2023, "Scalable diffusion models with transformers" (modulation with gates from zero).

    Example:
        >>> import torch
        >>> from scoresde.nets import UViT
        >>> net = UViT(3, size=(8, 16), preset="tiny")
        >>> net(torch.randn(2, 3, 8, 16), torch.rand(2)).shape
        torch.Size([2, 3, 8, 16])
    """

    ends: ClassVar[tuple[str, ...]] = ("enter", "exit")  # first and last layers

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {  # Any: values of JSON
        "tiny": dict(width=64, depth=3, heads=4, stem=32),
        "small": dict(width=128, depth=5, heads=4, stem=64),
        "base": dict(width=256, depth=9, heads=4, stem=128),
    }
    """The sizes of each preset."""

    def __init__(
        self,
        channels: int,
        *,
        size: int | Sequence[int],
        dims: int | None = None,
        patch: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        stem: int | None = None,
        mlp_ratio: float = 4.0,
        classes: int = 0,
        conditions: Mapping[str, Spec | Mapping[str, Any]] | None = None,  # Any: values of JSON
        max_frequency: float = 100.0,
        input_fourier: Sequence[float] = (),
        preset: str = "small",
    ) -> None:
        super().__init__()
        sides = sides_of(size, dims)
        side = smallest_patch(sides) if patch is None else positive_int("patch", patch)
        grid = patches_of(sides, side)
        given = dict(width=width, depth=depth, heads=heads, stem=stem)
        sizes = sized(preset, self.PRESETS, given)
        specs = as_specs(conditions, classes)
        self.config = dict(
            channels=positive_int("channels", channels),
            size=sides,
            dims=len(sides),
            patch=side,
            **{name: positive_int(name, value) for name, value in sizes.items()},
            mlp_ratio=positive("mlp_ratio", mlp_ratio),
            **as_config(specs),
            max_frequency=positive("max_frequency", max_frequency),
            input_fourier=check_exponents(input_fourier),
        )
        wide, deep, n_heads, narrow = (self.config[name] for name in given)
        if wide % n_heads:
            remedy = "pass heads=1, or change it"
            raise fail("heads", f"a divisor of width={wide}", n_heads, remedy)
        axes, conv = len(sides), CONVOLUTIONS[len(sides)]
        self.condition = Conditioner(specs, wide, axes, self.config["max_frequency"])
        ins = channels * (1 + 2 * len(self.config["input_fourier"]))
        factors = factors_of(side)
        stages = [max(1, narrow // 2 ** (len(factors) - 1 - k)) for k in range(len(factors))]
        self.enter = conv(ins + self.condition.image_channels, stages[0], 3, padding=1)
        self.before, self.down = nn.ModuleList(), nn.ModuleList()
        self.up, self.after = nn.ModuleList(), nn.ModuleList()
        for stage, below, p in zip(stages, [*stages[1:], wide], factors, strict=True):
            self.before.append(ResidualBlock(axes, stage, stage, wide))
            self.down.append(conv(stage, below, p, stride=p))
            self.up.insert(0, conv(below, stage * p**axes, 1))
            self.after.insert(0, ResidualBlock(axes, 2 * stage, stage, wide))
        self.position = nn.Parameter(positions(grid, wide))

        hidden, skips = math.ceil(mlp_ratio * wide), (deep - 1) // 2
        self.blocks = nn.ModuleList([Block(wide, n_heads, hidden) for _ in range(deep)])
        self.skips = nn.ModuleList([nn.Linear(2 * wide, wide) for _ in range(skips)])
        self.norm = nn.LayerNorm(wide)
        self.last = group_norm(stages[0])
        self.exit = zeroed(conv(stages[0], channels, 3, padding=1))

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, **cond: Tensor | None
    ) -> Tensor:
        config = self.config
        check_call(x, t, (config["channels"], *config["size"]))
        given = self.condition(x, t, {"label": label, **cond})
        ins = input_features(x, config["input_fourier"], given.emb.dtype)
        check_precision(ins, given.emb)
        if given.images is not None:
            ins = torch.cat([ins, given.images], dim=1)
        h, maps = self.enter(ins), []
        for before, down in zip(self.before, self.down, strict=True):
            h = before(h, given.emb)
            maps.append(h)
            h = down(h)
        h = self._transform(h, given)
        for up, after, p in zip(
            self.up, self.after, factors_of(config["patch"])[::-1], strict=True
        ):
            h = unpatch(up(h), p)
            h = after(torch.cat([h, maps.pop()], dim=1), given.emb)
        out: Tensor = self.exit(silu(self.last(h)))
        return out

    def _transform(self, coarse: Tensor, given: Given) -> Tensor:
        """The transformer with its long skips, on the places of a map (B, width, *D)."""
        h = coarse.flatten(2).transpose(1, 2) + self.position
        mask, places = None, h.shape[1]
        if given.tokens is not None and given.present is not None:
            h = torch.cat([h, given.tokens], dim=1)
            mask = nn.functional.pad(given.present, (places, 0), value=True)[:, None, None]
        skips: list[Tensor] = []
        senders, receivers = len(self.skips), len(self.blocks) - len(self.skips)
        for k, block in enumerate(self.blocks):
            if k >= receivers:
                h = self.skips[k - receivers](torch.cat([h, skips.pop()], dim=-1))
            h = block(h, given.emb, mask)
            if k < senders:
                skips.append(h)
        out: Tensor = self.norm(h[:, :places]).transpose(1, 2).reshape(coarse.shape)
        return out


@final
class Block(nn.Module):
    """A modulated transformer block on tokens (B, N, width): attention, then an MLP.

    h += gate_1 attention((1 + scale_1) norm(h) + shift_1), and the same with an MLP. The gates,
    scales and shifts are linear in the embedding (B, width) and start at zero.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)

    def forward(self, h: Tensor, emb: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = self.modulation(emb)[:, None].chunk(6, dim=-1)
        scale1, shift1, gate1, scale2, shift2, gate2 = parts
        inner = self.norm1(h) * (1 + scale1) + shift1
        q, k, v = self.qkv(inner).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(dim=2)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + gate1 * self.out(mixed.transpose(1, 2).flatten(2))
        inner = self.norm2(h) * (1 + scale2) + shift2
        out: Tensor = h + gate2 * self.second(gelu(self.first(inner)))
        return out


def unpatch(x: Tensor, patch: int) -> Tensor:
    """Tokens as maps of full resolution: (B, C patch^d, *D) -> (B, C, *(patch D))."""
    axes, sides = x.ndim - 2, x.shape[2:]
    split = x.reshape(x.shape[0], -1, *([patch] * axes), *sides)  # (B, C, p_1, ..., D_1, ...)
    order = [axis for k in range(axes) for axis in (2 + axes + k, 2 + k)]
    whole = split.permute(0, 1, *order)
    return whole.reshape(*split.shape[:2], *(patch * side for side in sides))


def factors_of(patch: int) -> list[int]:
    """The prime factors of the patch in order, or [1]."""
    found, rest = [], patch
    for p in range(2, patch + 1):
        while rest % p == 0:
            found.append(p)
            rest //= p
    return found or [1]


def sides_of(size: int | Sequence[int], dims: int | None) -> list[int]:
    """The sides of x, from one for all of `dims` axes (2 by default) or from all of them."""
    remedy = "pass the sides of the data, e.g. (28, 28), or an int if they are equal"
    if (side := whole(size)) is not None:
        sides = [side] * (2 if dims is None else positive_int("dims", dims))
    elif isinstance(size, Sequence):
        sides = list(size)
    else:
        raise wrong_type("size", "an int or a sequence of ints", size, remedy)
    if len(sides) not in CONVOLUTIONS or dims not in (None, len(sides)):
        expected = f"{'1, 2 or 3' if dims is None else dims} sides"
        raise fail("size", expected, size, remedy)
    return [positive_int("size", side) for side in sides]


def patches_of(sides: Sequence[int], patch: int) -> list[int]:
    """The number of patches along each side, which must be whole."""
    if any(side % patch for side in sides):
        remedy = "choose another patch, or pad the data"
        raise fail("size", f"divisible by patch={patch}", tuple(sides), remedy)
    return [side // patch for side in sides]


def smallest_patch(sides: Sequence[int]) -> int:
    """The smallest patch above 1 with at most `MOST_TOKENS` patches, else the largest.

    A stage with a large factor would make one token of a whole image of 17 x 17.
    """
    shared = math.gcd(*sides)
    whole = [p for p in range(2, shared + 1) if shared % p == 0]
    fitting = [p for p in whole if max(factors_of(p)) <= LARGEST_FACTOR] or [1]
    few = [p for p in fitting if math.prod(side // p for side in sides) <= MOST_TOKENS]
    return min(few, default=max(fitting))


def positions(grid: Sequence[int], width: int) -> Tensor:
    """Sines and cosines of the place along each side, (1, prod(grid), width)."""
    count = -(-width // (2 * len(grid)))
    rate = torch.logspace(0.0, -2.0, count) * (math.pi / 2)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    phases = [axis.reshape(-1, 1) * rate for axis in axes]
    waves = [wave for phase in phases for wave in (phase.sin(), phase.cos())]
    return torch.cat(waves, dim=1)[None, :, :width].contiguous()
