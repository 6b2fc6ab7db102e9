"""A residual multilayer perceptron, the network for vectors."""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import Tensor, nn
from torch.nn.functional import silu

from scoresde._check import positive, positive_int
from scoresde.nets.embed import TimeEmbedding, check_call, class_count

__all__ = ["MLP"]


@final
class MLP(nn.Module):
    """Residual multilayer perceptron for vectors, with the time added in every block.

        h_0     = W_in x
        h_{k+1} = h_k + V_k silu(W_k norm(h_k) + U_k silu(emb(t, label)))
        net     = W_out silu(norm(h_depth))

    The output layer starts at zero, so an untrained network returns exactly 0.

    Args:
        dim: length of the vectors.
        width: hidden units.
        depth: number of residual blocks.
        classes: number of classes, 0 for an unconditional network.
        max_frequency: the fastest feature of time, in radians per unit of t; see
            ``FourierFeatures``.

    Shapes: ``x: (B, dim)``, ``t: (B,)`` float, ``label: (B,)`` int64, -1 for no label, or None
    for no label at all -> ``(B, dim)``.

    Raises:
        ValueError: a size is not a positive integer, or x, t or label has the wrong shape.
        TypeError: labels are given to a network without classes.

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

    def __init__(
        self,
        dim: int,
        *,
        width: int = 128,
        depth: int = 3,
        classes: int = 0,
        max_frequency: float = 100.0,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # values of JSON, for checkpoints
            dim=positive_int("dim", dim),
            width=positive_int("width", width),
            depth=positive_int("depth", depth),
            classes=class_count(classes),
            max_frequency=positive("max_frequency", max_frequency),
        )
        self.embed = TimeEmbedding(width, classes, self.config["max_frequency"])
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.exit = nn.Linear(width, dim)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        check_call(x, t, label, (self.config["dim"],), self.config["classes"])
        emb = silu(self.embed(t, label))
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, emb)
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
