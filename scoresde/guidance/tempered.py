"""Temperature: sharper or flatter samples, exact for isotropic Gaussian data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from torch import Tensor

from scoresde._check import fail, instance, positive
from scoresde._tensor import lincomb
from scoresde.cond import Cond
from scoresde.model import ScoreModel, summary_of
from scoresde.node import Node
from scoresde.prediction import COORDINATES, Prediction
from scoresde.sde import as_affine
from scoresde.summary import DataSummary

__all__ = ["Tempered"]


@final
class Tempered(ScoreModel):
    """A model at a temperature T, for samples that are sharper (T < 1) or more varied (T > 1).

    Its score is that of the model times (alpha^2 s^2 + sigma^2) / (alpha^2 T s^2 + sigma^2).

    For data N(mu, s^2 I) this is exactly the score of the noised density p^(1/T), N(mu, T s^2 I):
    T below 1 gives samples closer to the mode, T above 1 more variety, T = 1 is the model itself.
    To divide the score by T samples no such density, not even here: the noise that the forward
    process adds has temperature 1, so the factor has to go to 1 as the noise grows.

    For other data the factor is a heuristic. Of a mixture of well separated components of standard
    deviation s it tempers each component, to s sqrt(T), and leaves the weights w_k, where p^(1/T)
    has weights proportional to w_k^(1/T) and the same widths. With s the standard deviation of all
    data, the default, the factor reaches 1/T at noise at which the components still overlap, which
    moves weight between them as well. Conditional samples of one class are then narrower than
    those of p^(1/T): pass the deviation of the class. Of Gaussian data with unequal variances
    directions that are narrower than s get far too narrow: at T = 0.25 one of deviation 0.2 among
    data of deviation 1.4 gets 0.0045 in place of 0.1.

    Args:
        model: the model, of an affine SDE.
        temperature: T, above 0.
        std: the standard deviation s of the data, or of one component of them; by default that of
            the data of the model (`model.data_scale`).

    Raises:
        TypeError: the SDE is not affine.
        ValueError: a number is not positive, or the model does not know the deviation of its data.

    Source: Ingraham et al. 2023, "Illuminating protein design with a programmable generative
    model", supplement, for s = 1 under a VP SDE.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, Gaussian, ReverseSampler
        >>> model = Gaussian(torch.zeros(2), torch.tensor(1.0)).under(VPSDE())
        >>> cold = Tempered(model, 0.25)
        >>> x = ReverseSampler(VPSDE(), cold, "dpmpp_2m", steps=30).sample((4000, 2), seed=0)
        >>> round(x.std().item(), 1)
        0.5
    """

    def __init__(self, model: ScoreModel, temperature: float, std: float | None = None) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        as_affine("model.sde", model.sde, "the factor of a temperature needs alpha and sigma")
        if std is None:
            scale = model.data_scale
            if scale is None:
                remedy = "pass std, the standard deviation of the data"
                raise fail("std", "a model that knows its data", None, remedy)
            std = scale[0]
        self.sde = model.sde
        self.model = model
        self.temperature = positive("temperature", temperature, "1 is the model itself")
        self.std = positive("std", std, "the standard deviation of the data")
        self.data = _spread(summary_of(model), self.temperature)

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.model.nulls

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    @property
    def data_scale(self) -> tuple[float, int] | None:
        known = self.model.data_scale
        return None if known is None else (known[0] * self.temperature**0.5, known[1])

    def calls(self, node: Node) -> int:
        return self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        inner = self.model.predict(node, x, cond)
        if self.temperature == 1.0:
            return inner
        # eps times `factor` leaves x_0 = factor x_0 + `of_x` x, without a division by alpha.
        square = self.std**2
        total = node.alpha**2 * self.temperature * square + node.sigma**2
        factor = (node.alpha**2 * square + node.sigma**2) / total
        of_x = node.alpha * square * (self.temperature - 1.0) / total
        p = 0.0 if inner.kind == "score" else COORDINATES[inner.kind](node)[0]
        value = lincomb((factor, inner.value), (p * of_x, x))
        return Prediction(x, node, value, inner.kind)


def _spread(data: DataSummary | None, temperature: float) -> DataSummary | None:
    """The summary of data whose deviations grow by sqrt(T); their range does not shrink."""
    if data is None:
        return None
    wider = max(1.0, temperature**0.5)
    low, high = (data.mean + wider * (end - data.mean) for end in (data.low, data.high))
    return replace(data, std=data.std * temperature**0.5, low=low, high=high)
