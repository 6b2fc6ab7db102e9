"""Repairs: changes of a model whose effect on the loss can be computed without training.

A fault that a repair removes explains exactly the loss that it saves. Of all repairs the one that
saves most is the finding: under a perfect model any other repair can only do worse, since the loss
without the fault is the least possible one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from scoresde.cond import Cond
from scoresde.doctor.finding import Finding, limit
from scoresde.doctor.probe import Gain
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["LEAST", "SYMPTOM", "Repair", "Reread", "best_of"]

LEAST = 0.01
"""The least damage of a finding, in nats a dimension."""

SYMPTOM = 0.05
"""The same for symptoms, which have no repair: they are noticed later than their causes."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Repair:
    """A change of the model, and what it saves.

    Attributes:
        name, number, reference, sentence, remedy: those of the finding.
        gain: by how much it lowers the loss, in nats a dimension.
        eps: the predicted noise after it, level by level.
        tests: the number of alternatives among which it is the best.
        harms: whether it surely raises the loss of a level, which no removal of a fault does.
    """

    name: str
    number: float
    reference: float
    sentence: str
    remedy: str
    gain: Gain
    eps: Sequence[Tensor]
    tests: int = 1
    harms: bool = False

    @property
    def serious(self) -> bool:
        """Whether it saves more than nothing, for sure and by a relevant amount."""
        return self.gain.mean > LEAST and self.gain.z > limit(self.tests) and not self.harms

    def finding(self) -> Finding:
        """The finding that the model needs this repair."""
        return Finding(
            name=self.name,
            severity="error",
            number=self.number,
            reference=self.reference,
            sentence=self.sentence,
            remedy=self.remedy,
            damage=self.gain.mean,
            z=self.gain.z,
        )


def best_of(repairs: Sequence[Repair]) -> Repair | None:
    """The repair that saves most; of several that differ by less than `LEAST`, the first."""
    serious = [repair for repair in repairs if repair.serious]
    most = max((repair.gain.mean for repair in serious), default=0.0)
    return next((repair for repair in serious if repair.gain.mean >= most - LEAST), None)


@final
class Reread(ScoreModel):
    """A model whose output, times a factor, is read in another coordinate.

    Args:
        model: the model.
        kind: the coordinate; None for its own.
        factor: the factor on the output.
    """

    def __init__(self, model: ScoreModel, kind: str | None = None, factor: float = 1.0) -> None:
        super().__init__()
        self.model, self.kind, self.factor = model, kind, factor
        self.sde = model.sde

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return reread(self.model.predict(node, x, cond), self.kind, self.factor)


def reread(prediction: Prediction, kind: str | None, factor: float) -> Prediction:
    """A prediction whose value, times a factor, is read in another coordinate."""
    value = prediction.value * factor
    return Prediction(prediction.x, prediction.node, value, kind or prediction.kind)
