"""The state of a run: its measurements, and their form in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

__all__ = ["Metrics", "Row", "State", "ValidationRow"]

Row: TypeAlias = tuple[int, float, float]
"""(step, mean loss since the last row, learning rate)."""

Metrics: TypeAlias = dict[str, float]
"""For one row: "gradient_norm", the mean before clipping, and "skipped", the number of steps."""


class ValidationRow(NamedTuple):
    """One validation of the averaged model.

    Attributes:
        step: the number of steps made.
        loss: the mean loss at times that are drawn as in training, which compares with that of
            the history.
        parts: the mean loss in each of the equal intervals of time.
    """

    step: int
    loss: float
    parts: tuple[float, ...]

    @property
    def uniform(self) -> float:
        """The mean loss at uniform times."""
        return math.fsum(self.parts) / len(self.parts)


@final
@dataclass
class State:
    """The state of a run except the weights, the optimiser and the averages.

    Attributes:
        step: number of steps made before this call of `fit`.
        history, metrics, validations: the rows so far.
        losses, norms: losses and gradient norms of the steps since the last row of the history.
        in_row: number of consecutive steps without a finite loss and gradient.
        best: the lowest validation loss.
        waited: number of validations in a row, the last one included, without a new lowest loss.
    """

    step: int = 0
    history: list[Row] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)
    validations: list[ValidationRow] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    in_row: int = 0
    best: float = math.inf
    waited: int = 0

    def add(self, loss: float, norm: float) -> bool:
        """Record a step; return whether its loss and gradient are finite, so that it applies."""
        self.losses.append(loss)
        self.norms.append(norm)
        good = math.isfinite(loss) and math.isfinite(norm)
        self.in_row = 0 if good else self.in_row + 1
        return good

    def close_row(self, step: int, lr: float) -> bool:
        """Add a row for the steps since the last one; False if none of them was finite."""
        pairs = list(zip(self.losses, self.norms, strict=True))
        good = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
        if not good:  # no step since the last row, or only skipped ones
            return False
        self.losses.clear()
        self.norms.clear()
        loss, norm = (math.fsum(values) / len(good) for values in zip(*good, strict=True))
        self.history.append((step, loss, lr))
        self.metrics.append({"gradient_norm": norm, "skipped": len(pairs) - len(good)})
        return True

    def judge(self, row: ValidationRow) -> bool:
        """Record a validation; return whether its loss is the lowest so far."""
        self.validations.append(row)
        lowest = row.loss < self.best
        if lowest:
            self.best = row.loss
        self.waited = 0 if lowest else self.waited + 1
        return lowest

    @property
    def lowest(self) -> ValidationRow | None:
        """The validation of the lowest loss, or None before the first one with a finite loss."""
        return None if math.isinf(self.best) else self.validations[-1 - self.waited]

    def forget_best(self) -> None:
        """Seek the lowest validation loss anew from here."""
        self.best, self.waited = math.inf, 0

    def to_dict(self) -> dict[str, Any]:
        """The content as values of JSON, without `step`, which the checkpoint has."""
        return {
            "history": self.history,
            "metrics": self.metrics,
            "validations": self.validations,
            "best": self.best if math.isfinite(self.best) else None,
            "waited": self.waited,
            "pending": {"losses": self.losses, "norms": self.norms},
            "in_row": self.in_row,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> State:
        """The inverse of `to_dict`, with the step of the checkpoint."""
        history: list[Row] = [(int(s), float(loss), float(lr)) for s, loss, lr in saved["history"]]
        empty: Metrics = {"gradient_norm": math.nan, "skipped": 0}
        pending, best = saved.get("pending", {}), saved.get("best")
        return cls(
            step=int(saved["step"]),
            history=history,
            metrics=list(saved.get("metrics", [empty for _ in history])),
            validations=[
                ValidationRow(step, loss, tuple(parts))
                for step, loss, parts in saved.get("validations", [])
            ],
            losses=list(pending.get("losses", ())),
            norms=list(pending.get("norms", ())),
            in_row=saved.get("in_row", 0),
            best=math.inf if best is None else best,
            waited=saved.get("waited", 0),
        )
