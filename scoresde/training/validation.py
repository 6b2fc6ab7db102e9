"""The loss on validation data, by intervals of time."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from scoresde.data import Data, LazyData
from scoresde.losses import TimeSampler
from scoresde.model import ScoreModel
from scoresde.options import Loss
from scoresde.sde import SDE
from scoresde.training.log import writing
from scoresde.training.objective import Objective
from scoresde.training.state import ValidationRow
from scoresde.training.stream import Stream, take

__all__ = ["BucketTime", "Validation"]


@final
@dataclass(frozen=True)
class BucketTime(TimeSampler):
    """Evenly spaced times in one of several equal parts of [t_min, T].

    Args:
        index: the number of the part, from 0.
        parts: the number of parts.
    """

    index: int
    parts: int

    def sample(
        self, sde: SDE, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        start = torch.rand((), dtype=torch.float64, generator=generator, device="cpu")
        u = (start + torch.arange(n, dtype=torch.float64, device="cpu") / n) % 1.0
        return sde.t_min + (sde.T - sde.t_min) * (self.index + u) / self.parts, None


@final
class Validation:
    """The loss of a model on held-out data, as it is trained and by equal intervals of time.

    The loss of a row is at times drawn as in training, with the weights of these times and
    without dropout of conditions and augmentation. It compares with the loss of the training, and
    the best model and the patience of a run go by it. A loss that is low on average but high in
    one interval, usually near t = 0, is visible in the intervals, whose mean is the loss at
    uniform times.

    Times and noise depend only on the seed, so values of two calls differ only by the model.

    Args:
        data: the validation data, all of which are used each time.
        loss: the options of the training.
        parts: number of intervals.
        batch_size: number of samples in one forward pass.
        seed: the seed of times and noise.
        table: the CSV file of the rows, or None.
    """

    def __init__(
        self,
        data: Data | LazyData,
        loss: Loss,
        *,
        parts: int,
        batch_size: int,
        seed: int,
        table: Path | None = None,
    ) -> None:
        self.data = data
        self.loss = replace(loss, cond_dropout=0.0, augment=0.0)
        self.parts = parts
        self.batch_size = batch_size
        self.stream = Stream(len(data), batch_size, seed)
        self.table = table

    @torch.no_grad()
    def __call__(self, model: ScoreModel, device: torch.device, step: int) -> ValidationRow:
        own = self._mean(model, device, self.loss, self.parts)
        parts = (
            self._mean(model, device, replace(self.loss, time=BucketTime(i, self.parts)), i)
            for i in range(self.parts)
        )
        return ValidationRow(step, own, tuple(parts))

    def _mean(self, model: ScoreModel, device: torch.device, loss: Loss, index: int) -> float:
        objective = Objective(model, loss)
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        for start in range(0, len(self.data), self.batch_size):
            rows = torch.arange(start, min(start + self.batch_size, len(self.data)), device="cpu")
            x = take(self.data.x, rows, device)
            cond = {k: take(v, rows, device) for k, v in self.data.cond.items()}
            generator = self.stream.generator(start * (self.parts + 1) + index)
            total += objective.each(x, cond, generator).double().sum().cpu()
        return float(total) / len(self.data)

    def write(self, rows: list[ValidationRow], sde: SDE) -> None:
        """Write all rows; the header has the ends of the intervals."""
        if self.table is None:
            return
        width = (sde.T - sde.t_min) / self.parts
        ends = [sde.t_min + i * width for i in range(self.parts + 1)]
        names = [f"{a:.4g}-{b:.4g}" for a, b in pairwise(ends)]
        with writing(self.table), self.table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", "loss", "uniform", *names])
            writer.writerows([row.step, row.loss, row.uniform, *row.parts] for row in rows)
