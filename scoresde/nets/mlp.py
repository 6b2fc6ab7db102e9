"""A residual multilayer perceptron, the network for vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde._check import positive, positive_int
from scoresde.nets.conditioner import ConditionalNet, Conditioner
from scoresde.nets.conditions import Spec, as_config, as_specs
from scoresde.nets.embed import check_call
from scoresde.nets.presets import sized

__all__ = ["MLP"]


@final
class MLP(ConditionalNet):
    """Residual multilayer perceptron for vectors, with the time added in every block.

        h_0     = W_in x
        h_{k+1} = h_k + V_k silu(W_k norm(h_k) + U_k silu(emb(t, label)))
        net     = W_out silu(norm(h_depth))

    The output layer starts at zero, so an untrained network returns exactly 0.

    The presets, with their parameters for two dimensions without conditions:

    | tiny | small | base |
    | --- | --- | --- |
    | 33,858 | 174,722 | 1,072,386 |

    Args:
        dim: length of the vectors.
        width: hidden units.
        depth: number of residual blocks.
        classes: number of classes of the condition "label", 0 for none.
        conditions: further conditions: name -> `Label`, `Vector` or `Set`.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.
        preset: "tiny", "small" or "base": the sizes that are not given.

    Shapes: ``x: (B, dim)``, ``t: (B,)`` float, ``label: (B,)`` int64, and conditions as their
    specifications say; a condition that is left out is not given for any sample -> ``(B, dim)``.

    Raises:
        ValueError: a size is not a positive integer, the preset is unknown, there is a condition
            `Image`, or x, t or a condition has the wrong shape.
        TypeError: a condition is given that the network does not take.

    Source: He et al. 2016, "Identity mappings in deep residual networks"; Ho et al. 2020,
    appendix B (time added in every block).

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
        )
        width, depth = size["width"], size["depth"]
        self.condition = Conditioner(specs, width, 0, self.config["max_frequency"])
        self.enter = nn.Linear(dim + self.condition.vector_features, width)
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
        h = self.enter(torch.cat([x, given.vectors.to(x.dtype)], dim=1))
        for block in self.blocks:
            h = block(h, given.emb)
        out: Tensor = self.exit(silu(self.norm(h)))
        return out


@final
class Block(nn.Module):
    """One residual block: ``h + V silu(W norm(h) + U emb)`` of states ``(B, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.time = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        out: Tensor = h + self.second(silu(self.first(self.norm(h)) + self.time(emb)))
        return out
