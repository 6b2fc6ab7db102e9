"""A residual multilayer perceptron, the network for vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde._check import positive, positive_int
from scoresde.nets.conditioner import ConditionalNet, Conditioner
from scoresde.nets.conditions import Spec, as_config, as_specs
from scoresde.nets.embed import check_call, check_numbers, check_precision
from scoresde.nets.presets import sized

__all__ = ["MLP"]


@final
class MLP(ConditionalNet):
    """Residual multilayer perceptron for vectors, modulated by time and conditions.

        u       = (x, sin(w x), cos(w x) for w in `waves`, vectors and their masks)
        h_0     = W_in u
        h_{k+1} = h_k + V_k silu((1 + scale_k) W_k norm(h_k) + shift_k)
        net     = W_out silu(norm(h_depth))

    scale_k and shift_k are linear in the embedding of time and conditions. The waves of every
    entry of x let a network of this size resolve narrow peaks in data of unit scale. The output
    layer starts at zero, so an untrained network returns exactly 0.

    Conditions: labels and vectors modulate the blocks, and vectors are inputs too, so that a
    linear dependence of x on a vector is learned at once; sets are pooled by attention.

    The presets, with their parameters for two dimensions without conditions:

    | tiny | small | base |
    | --- | --- | --- |
    | 42,818 | 225,666 | 1,404,674 |

    Args:
        dim: length of the vectors.
        width: hidden units.
        depth: number of residual blocks.
        classes: number of classes of the condition "label", 0 for none.
        conditions: further conditions: name -> `Label`, `Vector` or `Set`.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.
        waves: the frequencies w of further inputs sin(w x) and cos(w x), in radians per unit of
            x; () for none.
        preset: "tiny", "small" or "base": the sizes that are not given.

    Shapes: ``x: (B, dim)``, ``t: (B,)`` float, ``label: (B,)`` int64, and conditions as their
    specifications say; a condition that is left out is not given for any sample -> ``(B, dim)``.

    Raises:
        ValueError: a size is not a positive integer, the preset is unknown, there is a condition
            `Image`, or x, t or a condition has the wrong shape.
        TypeError: a condition is given that the network does not take.

    Source: He et al. 2016, "Identity mappings in deep residual networks"; Perez et al. 2018,
    "FiLM" (scale and shift); Gorishniy et al. 2022, "On embeddings for numerical features in
    tabular deep learning" (waves of every entry).

    Example:
        >>> import torch
        >>> from scoresde.nets import MLP
        >>> net = MLP(2, width=64)
        >>> net(torch.randn(5, 2), torch.rand(5)).shape
        torch.Size([5, 2])
    """

    ends: ClassVar[tuple[str, ...]] = ("enter", "exit")  # first and last layers

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {  # Any: values of JSON
        "tiny": dict(width=64, depth=2),
        "small": dict(width=128, depth=3),
        "base": dict(width=256, depth=5),
    }
    """The sizes of each preset."""

    def __init__(
        self,
        dim: int,
        *,
        width: int | None = None,
        depth: int | None = None,
        classes: int = 0,
        conditions: Mapping[str, Spec | Mapping[str, Any]] | None = None,  # Any: values of JSON
        max_frequency: float = 100.0,
        waves: Sequence[float] = (1.0, 2.0),
        preset: str = "small",
    ) -> None:
        super().__init__()
        size = sized(preset, self.PRESETS, dict(width=width, depth=depth))
        specs = as_specs(conditions, classes)
        self.config = dict(
            dim=positive_int("dim", dim),
            width=positive_int("width", size["width"]),
            depth=positive_int("depth", size["depth"]),
            **as_config(specs),
            max_frequency=positive("max_frequency", max_frequency),
            waves=check_numbers("waves", waves, 1e3, "pass e.g. (1.0, 2.0), or () for none"),
        )
        width, depth = size["width"], size["depth"]
        self.condition = Conditioner(specs, width, 0, self.config["max_frequency"])
        ins = dim * (1 + 2 * len(self.config["waves"])) + self.condition.vector_features
        self.enter = nn.Linear(ins, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.exit = nn.Linear(width, dim)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, **cond: Tensor | None
    ) -> Tensor:
        check_call(x, t, (self.config["dim"],))
        given = self.condition(x, t, {"label": label, **cond})
        check_precision(x, given.emb)
        phases = [w * x for w in self.config["waves"]]
        waves = [wave for phase in phases for wave in (phase.sin(), phase.cos())]
        h = self.enter(torch.cat([x, *waves, given.vectors.to(x.dtype)], dim=1))
        for block in self.blocks:
            h = block(h, given.emb)
        out: Tensor = self.exit(silu(self.norm(h)))
        return out


@final
class Block(nn.Module):
    """A residual block on ``(B, width)``: ``h + V silu((1 + scale) W norm(h) + shift)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.film = nn.Linear(width, 2 * width)
        self.second = nn.Linear(width, width)
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb).chunk(2, dim=1)
        inner = self.first(self.norm(h)) * (1 + scale) + shift
        out: Tensor = h + self.second(silu(inner))
        return out
