"""Noised data on which a model is examined, and the predictions of a model there.

With x = alpha x_0 + sigma eps and lambda = log(alpha / sigma), the error of the model adds

    int E|eps - eps_theta(x)|^2 d lambda / D

nats a dimension to its bound on the log-likelihood (`elbo`). The probe takes the middles of K
equal intervals of lambda and the same n data at each of them, with fresh noise. So every mean is
over n independent rows, sums over levels too, and has their standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from scoresde._tensor import lincomb, seeded
from scoresde.cond import Cond
from scoresde.doctor.finding import limit
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE, as_affine

__all__ = ["Gain", "Level", "Probe", "eps_of", "mean_error", "probe_of"]

FEW, EVERY = 64, 3
"""A first look has these rows, at every third level."""

SURELY = 3.0
"""The z-score beyond which a first look decides."""

HARM = 0.003
"""The rise of the loss of a level that is no harm: an estimated factor is not exact."""


@final
@dataclass(frozen=True, eq=False)
class Level:
    """The noised data of one noise level.

    Attributes:
        node: the point of the schedule.
        eps: the noise, (n, D) in float64.
        x: the states alpha x_0 + sigma eps, (n, *D).
    """

    node: Node
    eps: Tensor
    x: Tensor

    def few(self, n: int) -> Level:
        """The first n rows."""
        return Level(self.node, self.eps[:n], self.x[:n])


class Gain(NamedTuple):
    """By how much a change lowers the loss: the mean over rows and its standard error."""

    mean: float
    error: float

    @property
    def z(self) -> float:
        """The mean in standard errors."""
        if self.error > 0.0:
            return self.mean / self.error
        return math.copysign(math.inf, self.mean) if self.mean else 0.0


def mean_error(values: Tensor) -> Gain:
    """The mean of independent values (n,) and its standard error."""
    spread = float(values.std()) if len(values) > 1 else 0.0
    return Gain(float(values.mean()), spread / math.sqrt(len(values)))


def levels_of(
    sde: AffineSDE, x0: Tensor, t_end: float, count: int, seed: int
) -> tuple[tuple[Level, ...], float]:
    """`count` noise levels between t_end and T with x0: (n, *D), and their distance in lambda."""
    low, high = sde.log_snr(sde.T), sde.log_snr(t_end)
    width = (high - low) / count
    generator, made = seeded(seed), []
    for k in range(count):
        node = sde.at(sde.time_of(low + (k + 0.5) * width))
        eps = torch.randn(x0.shape, generator=generator, device="cpu").to(x0)
        x = lincomb((node.alpha, x0), (node.sigma, eps))
        # Rounded states are what the model sees, so the noise is that of them.
        made.append(Level(node, eps.flatten(1).double(), x))
    return tuple(made), width


def eps_of(prediction: Prediction) -> Tensor:
    """The predicted noise as (n, D) in float64."""
    value, x = prediction.value.double(), prediction.x.double()
    node = prediction.node
    return Prediction(x, node, value, prediction.kind).eps.flatten(1)


@torch.no_grad()
def predict(
    model: ScoreModel, levels: Sequence[Level], cond: Cond, batch_size: int
) -> tuple[Prediction, ...]:
    """The predictions of a model at the levels, in batches."""
    found = []
    for level in levels:
        values, kind = [], ""
        for start in range(0, len(level.x), batch_size):
            x = level.x[start : start + batch_size]
            given = {k: v[start : start + len(x)] for k, v in (cond or {}).items()}
            one = model.predict(level.node, x, given or None)
            values.append(one.value)
            kind = one.kind
        found.append(Prediction(level.x, level.node, torch.cat(values), kind))
    return tuple(found)


def loss_of(eps: Sequence[Tensor], levels: Sequence[Level]) -> Tensor:
    """The mean squared error of predicted noise over the dimensions, (K, rows)."""
    pairs = zip(eps, levels, strict=True)
    return torch.stack([(v - level.eps[: len(v)]).square().mean(1) for v, level in pairs])


@final
@dataclass(frozen=True, eq=False)
class Probe:
    """Everything that a check reads.

    Attributes:
        model: the model.
        sde: its SDE.
        t_end: the time at which sampling ends.
        x0: the n data at every level, (n, *D).
        cond: their conditions, or None.
        others: (m, *D), data that are not in x0, to which references are fitted.
        levels: the noise levels, from much noise to little.
        width: their distance in the log-SNR.
        seed: that of the noise.
        batch_size: the number of rows in a call.
        predictions: those of the model at the levels.
        eps: their predicted noise, (n, D) each.
        losses: the mean squared error of eps over the dimensions, (K, n).
    """

    model: ScoreModel
    sde: AffineSDE
    t_end: float
    x0: Tensor
    cond: Cond
    others: Tensor
    levels: tuple[Level, ...]
    width: float
    seed: int
    batch_size: int
    predictions: tuple[Prediction, ...]
    eps: tuple[Tensor, ...]
    losses: Tensor

    @property
    def dim(self) -> int:
        """D, the number of entries of a sample."""
        return self.x0[0].numel()

    def predict(
        self,
        model: ScoreModel,
        cond: Cond = None,
        *,
        rows: int | None = None,
        levels: Sequence[Level] | None = None,
    ) -> tuple[Prediction, ...]:
        """The predictions of a model at the levels, all of them or the given ones.

        Args:
            model: the model.
            cond: conditions (n, ...) of the rows.
            rows: how many of the rows, from the first.
            levels: the levels; those of the probe by default.
        """
        chosen = self.levels if levels is None else levels
        parts = chosen if rows is None else [level.few(rows) for level in chosen]
        return predict(model, parts, cond, self.batch_size)

    def loss(self, eps: Sequence[Tensor], levels: Sequence[Level] | None = None) -> Tensor:
        """The mean squared error of predicted noise over the dimensions, (K, rows)."""
        return loss_of(eps, self.levels if levels is None else levels)

    def nats(self, losses: Tensor) -> Tensor:
        """The integral of losses (K, n) over the log-SNR, (n,)."""
        return losses.sum(0) * self.width

    def harms(self, eps: Sequence[Tensor]) -> bool:
        """Whether the loss of predicted noise is surely above that of the model at a level."""
        raised = [mean_error(row) for row in self.loss(eps) - self.losses]
        most = limit(len(raised))
        return any(one.mean > HARM and one.z > most for one in raised)

    def glance(self, model: ScoreModel, cond: Cond = None) -> Gain:
        """An estimate of `gain` of a model, with conditions of the rows, from a few of them."""
        part = slice(EVERY // 2, None, EVERY)
        given = cond and {name: value[:FEW] for name, value in cond.items()}
        levels = self.levels[part]
        eps = [eps_of(one) for one in self.predict(model, given, rows=FEW, levels=levels)]
        saved = self.losses[part, :FEW] - self.loss(eps, levels)
        return mean_error(saved.sum(0) * self.width * EVERY)

    def may_gain(self, model: ScoreModel, cond: Cond = None) -> bool:
        """Whether a first look at a model does not rule out that its loss is lower."""
        seen = self.glance(model, cond)
        return seen.mean + SURELY * seen.error > 0.0

    def gain(self, eps: Sequence[Tensor]) -> Gain:
        """By how much the loss of predicted noise is below that of the model."""
        return mean_error(self.nats(self.losses - self.loss(eps)))


def probe_of(
    model: ScoreModel,
    x: Tensor,
    cond: Cond,
    t_end: float,
    *,
    rows: int,
    count: int,
    seed: int,
    batch_size: int,
) -> Probe:
    """The probe of the first `rows` of the data x: (N, *D) at `count` levels."""
    sde = as_affine("model.sde", model.sde, "the noised data must have a closed form")
    levels, width = levels_of(sde, x[:rows], t_end, count, seed)
    own = cond and {name: value[:rows] for name, value in cond.items()}
    predictions = predict(model, levels, own, batch_size)
    eps = tuple(eps_of(one) for one in predictions)
    return Probe(
        model=model,
        sde=sde,
        t_end=t_end,
        x0=x[:rows],
        cond=own,
        others=x[rows:],
        levels=levels,
        width=width,
        seed=seed,
        batch_size=batch_size,
        predictions=predictions,
        eps=eps,
        losses=loss_of(eps, levels),
    )
