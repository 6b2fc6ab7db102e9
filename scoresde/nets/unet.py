"""The convolutional U-Net of DDPM and ADM, the network for signals, images and volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from scoresde._check import fail, instance, nonnegative, positive, positive_int
from scoresde.nets.blocks import CONVOLUTIONS, ResidualBlock, convolution, group_norm, zeroed
from scoresde.nets.conditioner import ConditionalNet, Conditioner
from scoresde.nets.conditions import Set, Spec, as_config, as_specs
from scoresde.nets.embed import check_call, check_exponents, check_precision, input_features
from scoresde.nets.presets import sized

__all__ = ["UNet", "levels_of"]


@final
class UNet(ConditionalNet):
    """U-Net: residual convolutions at several resolutions, joined by skips.

    Level l has ``width * multipliers[l]`` channels at 1 / 2^l of the size of x. Each residual
    block is modulated by time and conditions (a scale and shift after its second group norm), some
    levels and the middle have self-attention, and the decoder reads every feature map of the
    encoder by concatenation. The sides of x are arbitrary, also odd or unequal: an odd side is
    halved with rounding up, and enlarged to the size of its skip on the way back. A side of 1
    stays 1, but a map of a single place is not halved again: that is an error. The last
    convolution of every block and of the network starts at zero, so an untrained network returns
    exactly 0.

    Conditions: labels and vectors modulate the blocks; an image is joined to x as channels; the
    elements of a set are further keys and values of the self-attention, and their pooled sum
    modulates the blocks.

    The fused attention kernels of PyTorch have no forward mode and no second derivative; if you
    need them, run the network under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    The presets, with their parameters for one channel without conditions:

    | dims | tiny | small | base |
    | --- | --- | --- | --- |
    | 1 | 567,361 | 2,947,073 | 9,982,561 |
    | 2 | 284,129 | 1,120,705 | 6,649,409 |
    | 3 | 426,737 | 1,696,609 | 9,962,593 |

    Args:
        channels: channels of x.
        dims: number of spatial axes: 1 for signals, 2 for images, 3 for volumes.
        width: channels at the first level.
        multipliers: one per level; their number is the number of resolutions.
        blocks: residual blocks per level of the encoder (one more in the decoder).
        attention: the levels with self-attention, where negative numbers count from the last;
            with ``()`` only the middle has it.
        heads: attention heads, a divisor of the channels wherever there is attention.
        classes: number of classes of the condition "label", 0 for none.
        conditions: further conditions: name -> `Label`, `Vector`, `Image` or `Set`.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.
        dropout: probability of dropping a feature within a residual block.
        input_fourier: exponents n of further channels sin(2^n pi x) and cos(2^n pi x), which
            resolve the last bits of data with levels, for likelihoods: those of
            `level_exponents`. In a network of bfloat16 weights x itself lacks these bits; autocast
            keeps them.
        periodic: the spatial axes whose two ends meet, such as longitude or the sides of a
            simulated box, where negative numbers count from the last. Convolutions wrap around
            there; on the other axes they continue x by zeros.
        preset: "tiny", "small" or "base": the sizes that are not given.

    Shapes: ``x: (B, channels, *D)`` of ``dims`` spatial axes, ``t: (B,)`` float, ``label: (B,)``
    int64, and conditions as their specifications say; a condition that is left out is not given
    for any sample -> ``(B, channels, *D)``.

    Raises:
        ValueError: a size is not a positive integer, dims is not 1, 2 or 3, multipliers are empty,
            a level or a periodic axis does not exist, the heads do not divide the channels,
            dropout is outside [0, 1), the preset is unknown, x, t or a condition has the wrong
            shape, or x is too small for the number of levels.
        TypeError: a condition is given that the network does not take.

    Source: Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3 (scale and shift).

    Example:
        >>> import torch
        >>> from scoresde.nets import UNet, Vector
        >>> net = UNet(1, preset="tiny", classes=10, conditions={"y": Vector(3)})
        >>> x, t = torch.randn(2, 1, 14, 14), torch.rand(2)
        >>> net(x, t, label=torch.tensor([7, -1]), y=torch.randn(2, 3)).shape
        torch.Size([2, 1, 14, 14])
    """

    ends: ClassVar[tuple[str, ...]] = ("enter", "exit")  # first and last layers

    PRESETS: ClassVar[dict[int, dict[str, dict[str, Any]]]] = {  # Any: values of JSON
        1: {
            "tiny": dict(width=32, multipliers=(1, 2, 2), blocks=1, attention=(-1,), heads=4),
            "small": dict(width=64, multipliers=(1, 2, 2, 2), blocks=1, attention=(-1,), heads=4),
            "base": dict(width=96, multipliers=(1, 2, 2, 2), blocks=2, attention=(-1,), heads=4),
        },
        2: {
            "tiny": dict(width=16, multipliers=(1, 2, 2), blocks=1, attention=(-1,), heads=4),
            "small": dict(width=32, multipliers=(1, 2, 2), blocks=1, attention=(-1,), heads=4),
            "base": dict(width=64, multipliers=(1, 2, 2), blocks=2, attention=(-1,), heads=4),
        },
        3: {
            "tiny": dict(width=8, multipliers=(1, 2, 4), blocks=1, attention=(-1,), heads=4),
            "small": dict(width=16, multipliers=(1, 2, 4), blocks=1, attention=(-1,), heads=4),
            "base": dict(width=32, multipliers=(1, 2, 4), blocks=2, attention=(-1,), heads=4),
        },
    }
    """The sizes of each preset, by the number of spatial axes."""

    def __init__(
        self,
        channels: int,
        *,
        dims: int = 2,
        width: int | None = None,
        multipliers: Sequence[int] | None = None,
        blocks: int | None = None,
        attention: Sequence[int] | None = None,
        heads: int | None = None,
        classes: int = 0,
        conditions: Mapping[str, Spec | Mapping[str, Any]] | None = None,  # Any: values of JSON
        max_frequency: float = 100.0,
        dropout: float = 0.0,
        input_fourier: Sequence[float] = (),
        periodic: Sequence[int] = (),
        preset: str = "small",
    ) -> None:
        super().__init__()
        if dims not in CONVOLUTIONS:
            remedy = "1 for signals, 2 for images, 3 for volumes"
            raise fail("dims", "1, 2 or 3", dims, remedy)
        given = dict(
            width=width, multipliers=multipliers, blocks=blocks, attention=attention, heads=heads
        )
        size = sized(preset, self.PRESETS[dims], given)
        for name in ("multipliers", "attention"):
            instance(name, size[name], Sequence, "pass e.g. (1, 2, 2)")
        specs = as_specs(conditions, classes)
        self.config = dict(
            channels=positive_int("channels", channels),
            dims=dims,
            width=positive_int("width", size["width"]),
            multipliers=[positive_int("multipliers", m) for m in size["multipliers"]],
            blocks=positive_int("blocks", size["blocks"]),
            attention=list(size["attention"]),
            heads=positive_int("heads", size["heads"]),
            **as_config(specs),
            max_frequency=positive("max_frequency", max_frequency),
            dropout=nonnegative("dropout", dropout),
            input_fourier=check_exponents(input_fourier),
            periodic=_indices("periodic", periodic, dims, "spatial axes"),
        )
        if dropout >= 1.0:
            raise fail("dropout", "a probability in [0, 1)", dropout, "pass 0.0 for none")
        if not self.config["multipliers"]:
            raise fail("multipliers", "one per level", multipliers, "pass (1,) for a single level")
        first, per_level, n_heads = (self.config[k] for k in ("width", "blocks", "heads"))
        widths = [first * m for m in self.config["multipliers"]]
        attends = heads_by_level(size["attention"], widths, n_heads)
        self.config["attention"] = [int(level) for level in size["attention"]]
        wraps = self.config["periodic"]
        emb = 4 * first
        self.condition = Conditioner(specs, emb, dims, self.config["max_frequency"])
        tokens = emb if self.condition.named(Set) else 0

        def block(ins: int, outs: int, heads: int) -> ResidualBlock:
            return ResidualBlock(dims, ins, outs, emb, heads, dropout, tokens, wraps)

        ins = channels * (1 + 2 * len(self.config["input_fourier"]))
        self.enter = convolution(dims, ins + self.condition.image_channels, first, wraps)

        skips = [first]
        self.down = nn.ModuleList()
        for level, out in enumerate(widths):
            if level > 0:
                self.down.append(convolution(dims, skips[-1], skips[-1], wraps, stride=2))
                skips.append(skips[-1])
            for _ in range(per_level):
                self.down.append(block(skips[-1], out, attends[level]))
                skips.append(out)

        now = widths[-1]
        self.middle = nn.ModuleList([block(now, now, n) for n in (n_heads, 0)])

        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(per_level + 1):
                self.up.append(block(now + skips.pop(), out, attends[level]))
                now = out

        self.norm = group_norm(now)
        self.exit = zeroed(convolution(dims, now, channels, wraps))

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, **cond: Tensor | None
    ) -> Tensor:
        config = self.config
        self._check(x, t)
        given = self.condition(x, t, {"label": label, **cond})
        ins = input_features(x, config["input_fourier"], given.emb.dtype)
        check_precision(ins, given.emb)
        if given.images is not None:
            ins = torch.cat([ins, given.images], dim=1)
        emb, tokens, present = given.emb, given.tokens, given.present
        h = self.enter(ins)
        skips = [h]
        for layer in self.down:
            halves = not isinstance(layer, ResidualBlock)
            h = layer(h) if halves else layer(h, emb, tokens, present)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, emb, tokens, present)
        for layer in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = interpolate(h, size=skip.shape[2:])
            h = layer(torch.cat([h, skip], dim=1), emb, tokens, present)
        out: Tensor = self.exit(silu(self.norm(h)))
        return out

    def _check(self, x: Tensor, t: Tensor) -> None:
        """Check x and t, and that no level halves a map of a single place."""
        dims = self.config["dims"]
        axes = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}[dims]
        check_call(x, t, (self.config["channels"], *axes), f"which has dims={dims}")
        levels, most = len(self.config["multipliers"]), levels_of(x.shape[2:])
        if levels > most:
            remedy = (
                f"build it with at most {most} of its multipliers, by network_for(x.shape[1:]), "
                "which picks them, or take a larger x"
            )
            expected = f"a side above {2 ** (levels - 2)}, which {levels} levels need"
            raise fail("x", expected, x, remedy)


def levels_of(sides: Sequence[int]) -> int:
    """The largest number of levels for these sides, at the last of which a side of 1 remains."""
    return 1 + (max(sides) - 1).bit_length()


def heads_by_level(attention: Sequence[int], widths: list[int], heads: int) -> list[int]:
    """Attention heads of every level, 0 for none; raise if they do not divide the channels."""
    n = len(widths)
    levels = _indices("attention", attention, n, "levels")
    for level in {*levels, n - 1}:
        if widths[level] % heads:
            want = f"a divisor of the {widths[level]} channels of level {level}"
            raise fail("heads", want, heads, f"pass heads=1, or a multiple of {heads} as width")
    return [heads if level in levels else 0 for level in range(n)]


def _indices(argument: str, given: Sequence[int], count: int, things: str) -> list[int]:
    """Indices of things, counted from 0 and in order; raise if one does not exist."""
    known = range(-count, count)
    if not isinstance(given, Sequence) or any(
        isinstance(i, bool) or i not in known for i in given
    ):
        remedy = f"name the {things} by index, from {-count} to {count - 1}, or pass () for none"
        raise fail(argument, f"indices of the {count} {things}", given, remedy)
    return sorted({int(index) % count for index in given})
