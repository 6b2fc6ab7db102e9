"""The data: in the units of the model, not constant, and without copies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde.doctor.finding import Finding
from scoresde.model import ScoreModel, summary_of
from scoresde.sde import AffineSDE

__all__ = ["DataFacts", "constant_findings", "copies_findings", "facts_of", "units_finding"]

FACTOR, SHIFT = 1.3, 0.3
"""Data whose deviation differs from that of the training by this factor, or whose mean does by
this share of it, are other data or in other units."""

WIDE = 4.0
"""Data without a model that knows its own are standardised if their deviation is within this
factor of 1, and the means of their entries within it of 0."""

COPIES = 0.05
"""The share of exact copies that may be there."""


@final
@dataclass(frozen=True, eq=False)
class DataFacts:
    """Numbers of the data.

    Attributes:
        mean: the mean of all values.
        std: root mean squared deviation of the values from the means of their entries.
        offset: of the means of the entries, the one that is farthest from 0.
        entries: the standard deviations of the entries, (D,).
        copies: the share of samples that are exact copies of another one.
        wanted: the mean and the deviation that the model expects; None if any will do.
        known: whether the model knows the deviation of its data.
        centred: whether the model knows the mean of its data too.
        unit: whether the schedule is made for data of about unit size.
    """

    mean: float
    std: float
    offset: float
    entries: Tensor
    copies: float
    wanted: tuple[float, float] | None
    known: bool
    centred: bool
    unit: bool

    @property
    def size(self) -> float:
        """The root mean square of the values."""
        return math.hypot(self.offset if self.offset else self.mean, self.std)

    @property
    def standardised(self) -> bool:
        """Whether the data are in the units that the model expects."""
        if self.wanted is None or self.std == 0.0:
            return True
        mean, std = self.wanted
        ratio, shift = self.std / std, abs(self.mean - mean) / std
        if self.known:
            return 1 / FACTOR < ratio < FACTOR and (shift < SHIFT or not self.centred)
        return self._within(std)

    def _within(self, std: float) -> bool:
        return 1 / WIDE < self.std / std < WIDE and abs(self.offset) < WIDE

    @property
    def far(self) -> bool:
        """Whether the model knows the data, but its schedule is made for those of another size."""
        return self.unit and self.known and self.standardised and not self._within(1.0)

    @property
    def doubtful(self) -> bool:
        """Whether a model that knows its data may have been trained on others."""
        mean, std = self.wanted or (0.0, 1.0)
        return self.known and (not self.standardised or abs(self.mean - mean) > SHIFT * std)

    def changed(self, x: Tensor) -> Tensor:
        """Data (n, *D) in the units that the model expects."""
        mean, std = self.wanted or (0.0, 1.0)
        return (x - self.mean) / self.std * std + mean


def facts_of(x: Tensor, model: ScoreModel, sde: AffineSDE) -> DataFacts:
    """Measure data (N, *D).

    The relative standard error of the deviation is at most 1/sqrt(2 N) for a Gaussian, far below
    the tolerated factors.
    """
    flat = x.flatten(1).double()
    means = flat.mean(0)
    entries = flat.std(0, correction=0)
    distinct = len(torch.unique(flat, dim=0))
    data = summary_of(model)
    unit = 0.5 <= math.hypot(float(sde.alpha(sde.T)), float(sde.sigma(sde.T))) <= 2.0
    wanted, known, centred = None, True, True
    if data is not None and data.std > 0.0:
        wanted = (data.mean, data.std)
    elif model.data_scale is not None:
        wanted, centred = (0.0, model.data_scale[0]), False
    elif unit:
        wanted, known = (0.0, 1.0), False
    return DataFacts(
        mean=float(means.mean()),
        std=float(entries.square().mean().sqrt()),
        offset=float(means[means.abs().argmax()]),
        entries=entries,
        copies=1.0 - distinct / len(flat),
        wanted=wanted,
        known=known and wanted is not None,
        centred=centred,
        unit=unit,
    )


def units_finding(facts: DataFacts) -> Finding:
    """The finding that the data are not in the units of the model."""
    mean, std = facts.wanted or (0.0, 1.0)
    told = "the model was trained on data of" if facts.known else "this schedule is made for"
    expected = f"{told} mean {mean:.3g} and deviation {std:.3g}"
    return Finding(
        name="units",
        severity="error",
        number=facts.std,
        reference=std,
        sentence=f"The data have mean {facts.mean:.3g} and deviation {facts.std:.3g}, where "
        f"{expected}.",
        remedy="Give the data in the units of the model: Data.standardised() before the training, "
        "and model.data.scaling afterwards.",
    )


def constant_findings(facts: DataFacts, shape: tuple[int, ...]) -> list[Finding]:
    """A finding about data, columns or channels that are constant.

    A pixel may be constant, so of data with more than one axis channels are looked at.
    """
    std = facts.entries.reshape(shape)
    parts = std if len(shape) < 2 else std.flatten(1).amax(1)
    constant = (parts <= 1e-9 * max(facts.size, 1e-300)).nonzero()[:, 0].tolist()
    if not constant:
        return []
    what = "column" if len(shape) < 2 else "channel"
    named = ", ".join(map(str, constant[:5])) + (" ..." if len(constant) > 5 else "")
    return [
        Finding(
            name="constant",
            severity="error" if len(constant) == len(parts) else "warning",
            number=float(len(constant)),
            reference=0.0,
            sentence=f"The data are constant in {what} {named}, which has no density.",
            remedy=f"Drop such {what}s.",
        )
    ]


def copies_findings(facts: DataFacts) -> list[Finding]:
    """A finding about exact copies among the data, which a model learns by heart."""
    if facts.copies <= COPIES:
        return []
    return [
        Finding(
            name="copies",
            severity="warning",
            number=facts.copies,
            reference=COPIES,
            sentence=f"Of the samples {100 * facts.copies:.2g} % are exact copies of others, "
            "which a model learns by heart.",
            remedy="Remove the copies, and keep them apart from held-out data.",
        )
    ]
