"""Small models, data and runs whose numbers depend on a seed alone; how models are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from groups import grouped
from torch import Tensor, nn

from scoresde.losses import dsm_loss
from scoresde.model import Preconditioned, ScoreModel
from scoresde.nets import MLP
from scoresde.sde import SDE, VPSDE
from scoresde.training import Trainer


def points(n: int = 64, dim: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def small(seed: int = 0, sde: SDE | None = None, width: int = 8, **config: Any) -> ScoreModel:
    model = Preconditioned(MLP(2, width=width, depth=1, **config), sde or VPSDE())
    return filled(model, seed)


def filled(model: ScoreModel, seed: int = 0) -> ScoreModel:
    """Weights that are not those of the start, so that a network predicts something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    """Equal names, dtypes and bits of all weights and buffers."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


class Own(nn.Module):
    """A network of the user's, with tied weights, a buffer and a count."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.second = nn.Linear(width, 2)
        self.again = self.second
        self.register_buffer("scale", torch.tensor([2.0]))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.again(self.first(x)) * self.scale * t[:, None]


def run(out: Path | None, model: ScoreModel | None = None, **changes: Any) -> Trainer:
    options: dict[str, Any] = {"steps": 12, "batch_size": 10, "log_every": 4, "out": out}
    options |= {"tensorboard": False, "checkpoint_every": 5} | changes
    return Trainer(model or small(), options.pop("data", points()), **grouped(**options))


def poisoned(rows: Tensor, steps: set[int], accumulate: int = 1) -> Callable[..., Tensor]:
    """dsm_loss, infinite in some rows of the data, in some steps, from 1."""
    calls = iter(range(10_000))

    def loss(model: ScoreModel, x0: Tensor, **options: Any) -> Tensor:
        each = dsm_loss(model, x0, **options)
        bad = (x0[:, None] == rows).all(-1).any(1)
        step = next(calls) // accumulate + 1
        return torch.where(bad, math.nan, 1.0) * each if step in steps else each

    return loss


def trained(
    out: Path | None = None, model: ScoreModel | None = None, **changes: Any
) -> ScoreModel:
    options: dict[str, Any] = {"steps": 12, "batch_size": 10, "log_every": 4, "out": out}
    options |= {"tensorboard": False} | changes
    data = options.pop("data", points())
    return Trainer(small() if model is None else model, data, **grouped(**options)).fit()
