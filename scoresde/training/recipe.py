"""Recipes: the options of a run that depend on the kind of data and on the objective.

Every value that a `Trainer` takes without being told stands in the table `RECIPES`, so a recipe is
changed there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, final

from torch import nn

from scoresde._check import choice, instance
from scoresde.losses import TIME, WEIGHTING, WEIGHTINGS, BoundTime, TimeSampler
from scoresde.model import ScoreModel
from scoresde.options import OBJECTIVES, Loss, Optim
from scoresde.summary import DataSummary
from scoresde.training.augment import takes_augment
from scoresde.training.optimizer import hidden

__all__ = ["KINDS", "RECIPES", "Recipe", "kind_of", "recipe_for"]

T = TypeVar("T")

KINDS = ("vector", "signal", "image", "volume")
"""Kinds of data, by the number of axes of a sample: (D,), (C, L), (C, H, W), (C, D, H, W)."""


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run does about everything that its options leave open.

    Args:
        optimizer: adamw or muon; a model without hidden matrices is trained by adamw.
        lr: the highest learning rate.
        adamw_lr: that of adamw where it takes the place of muon.
        batch_size: number of samples in a step of one process.
        warmup: the share of the steps in which the learning rate rises.
        longest_warmup: the largest number of these steps.
        weight_decay: that of the optimiser.
        clip: the largest norm of the gradient; 0 for none.
        ema_width: the width of the average of the weights, as a share of the run; see `EMA`.
        precision: no, bf16, or auto for bf16 where the processor computes in it.
        compile: whether the network is compiled.
        weighting: the weighting of the loss, a key of `scoresde.losses.WEIGHTINGS`.
        time: the distribution of times.
        cond_dropout: probability of training a sample without conditions.
        augment: probability of each transformation of images; see `augmented`. A network without
            the condition "augment" is trained without it.

    What a network predicts is no part of a recipe: `Preconditioned` chooses it by the SDE.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    adamw_lr: float = 2e-3
    batch_size: int = 128
    warmup: float = 0.05
    longest_warmup: int = 1000
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_width: float = 0.09
    precision: str = "no"
    compile: bool = False
    weighting: str = WEIGHTING
    time: TimeSampler = field(default=TIME)
    cond_dropout: float = 0.1
    augment: float = 0.0

    def optim(self, asked: Optim, steps: int, model: nn.Module) -> Optim:
        """The options of the optimiser for a run of so many steps, with nothing left open."""
        optimizer = asked.optimizer or self.optimizer
        if asked.optimizer is None and optimizer == "muon" and not hidden(model):
            optimizer = "adamw"
        lr = self.adamw_lr if (self.optimizer, optimizer) == ("muon", "adamw") else self.lr
        warmup = min(int(self.warmup * steps), self.longest_warmup)
        averages = asked.ema is None and asked.ema_width is None
        return replace(
            asked,
            batch_size=_or(asked.batch_size, self.batch_size),
            optimizer=optimizer,
            lr=_or(asked.lr, lr),
            warmup=_or(asked.warmup, warmup),
            weight_decay=_or(asked.weight_decay, self.weight_decay),
            clip=_or(asked.clip, self.clip),
            ema_width=self.ema_width if averages else asked.ema_width,
            precision=_or(asked.precision, self.precision),
            compile=_or(asked.compile, self.compile),
        )

    def loss(
        self, asked: Loss, summary: DataSummary, cond: Sequence[str], model: ScoreModel
    ) -> Loss:
        """The options of the loss for these data, with nothing left open.

        Args:
            asked: the options of the user.
            summary: the summary of the data.
            cond: the names of the conditions of the data.
            model: the model.
        """
        weighting = self.weighting if asked.weighting is None else asked.weighting
        if not callable(weighting):
            choice("weighting", weighting, WEIGHTINGS)
        time = self.time if asked.time is None else asked.time
        instance("time", time, TimeSampler, "pass LogNormalTime(), UniformTime(), ...")
        dropout = asked.cond_dropout
        if dropout is None:
            dropout = self.cond_dropout if cond and set(cond) <= set(model.nulls) else 0.0
        levels = summary.quantisation
        fitted = time.fitted(summary.std or 1.0, None if levels is None else levels.bin_width)
        augment = asked.augment
        if augment is None:
            augment = self.augment if takes_augment(model) else 0.0
        return replace(
            asked, weighting=weighting, time=fitted, cond_dropout=dropout, augment=augment
        )


def _or(asked: T | None, own: T) -> T:
    return own if asked is None else asked


VECTOR = Recipe(lr=2e-3, batch_size=256, ema_width=0.1)
CONVOLUTIONS = Recipe(optimizer="muon", lr=1e-2, batch_size=64, ema_width=0.1)
VOLUMES = replace(CONVOLUTIONS, batch_size=16)
LIKELIHOOD: Mapping[str, Any] = {  # Any: fields of `Recipe`
    "weighting": "likelihood",
    "time": BoundTime(),
}

RECIPES: dict[tuple[str, str], Recipe] = {
    ("vector", "quality"): VECTOR,
    ("signal", "quality"): CONVOLUTIONS,
    ("image", "quality"): replace(CONVOLUTIONS, precision="auto"),
    ("volume", "quality"): VOLUMES,
    ("vector", "likelihood"): replace(VECTOR, **LIKELIHOOD),
    ("signal", "likelihood"): replace(CONVOLUTIONS, **LIKELIHOOD),
    ("image", "likelihood"): replace(CONVOLUTIONS, **LIKELIHOOD),
    ("volume", "likelihood"): replace(VOLUMES, **LIKELIHOOD),
}
"""(kind of data, objective) -> recipe.

Volumes train in float32: on a CPU the backward pass of a three-dimensional convolution in bfloat16
gave NaN for one weight in a few of its calls (torch 2.13).
"""


def kind_of(shape: Sequence[int]) -> str:
    """The kind of data whose samples have this shape, one of `KINDS`.

    Example:
        >>> kind_of((2,)), kind_of((3, 32, 32))
        ('vector', 'image')
    """
    return KINDS[min(len(shape), len(KINDS)) - 1]


def recipe_for(shape: Sequence[int], objective: str = "quality") -> Recipe:
    """The recipe for data of this shape of a sample, (*D).

    Example:
        >>> recipe_for((2,), "likelihood").weighting
        'likelihood'
    """
    return RECIPES[kind_of(shape), choice("objective", objective, OBJECTIVES)]
