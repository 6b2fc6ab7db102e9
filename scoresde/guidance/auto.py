"""Guidance of a model by a worse version of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from scoresde._check import fail, instance
from scoresde.cond import Cond
from scoresde.guidance.scale import Interval, Scale, ScaleLike, always, between
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import same_sde

__all__ = ["AutoGuidance"]


@final
class AutoGuidance(ScoreModel):
    """Guidance of a model by a weaker one: weaker + scale (model - weaker).

    The weaker model has the same task and the same conditions, but fewer parameters or a shorter
    training, so that it makes the same errors more strongly; at a scale above 1 the result moves
    away from them. The result is as good as the difference of the two models resembles the error
    of the better one. Wherever the weaker model is broader, as a less trained one is, the samples
    get narrower: of Gaussian models with variances v and v_w, to about v (v / v_w)^(scale - 1).

    Args:
        model: the model.
        weaker: a weaker model of the same SDE, which takes the same conditions.
        scale: a number, or a function of the log-SNR log(alpha / sigma): 1 is the model alone, 0
            the weaker model alone, each at the cost of one call. It is the guidance weight of
            EDM2.
        interval: (low, high) in log-SNR, outside of which the model is taken alone.

    Raises:
        TypeError: an argument is no model, or the scale depends on the log-SNR and the SDE is not
            affine.
        ValueError: the SDEs differ, or the scale or the interval is not valid.

    Source: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself" (arXiv
    2406.02507), eq. 3.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, FunctionScore
        >>> sde = VPSDE()
        >>> model = FunctionScore(sde, lambda t, x: 1.0 - x)
        >>> weaker = FunctionScore(sde, lambda t, x: 0.5 - x)
        >>> AutoGuidance(model, weaker, 2.0).score(0.5, torch.zeros(1, 1)).item()
        1.5
    """

    def __init__(
        self,
        model: ScoreModel,
        weaker: ScoreModel,
        scale: ScaleLike,
        *,
        interval: Interval = None,
    ) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        instance("weaker", weaker, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        if not same_sde(weaker.sde, model.sde):
            remedy = "take a model that was trained under model.sde"
            raise fail("weaker", f"a model of {model.sde!r}", repr(weaker.sde), remedy)
        self.sde = model.sde
        self.model = model
        self.weaker = weaker
        self.data = model.data
        self.scale = Scale(scale, interval)
        self.scale.check(self.sde)

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.model.nulls

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.model.admit(cond)
        self.weaker.admit(cond)
        return found

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    def calls(self, node: Node) -> int:
        scale = self.scale.at(node)
        better = 0 if always(scale, 0.0) else self.model.calls(node)
        worse = 0 if always(scale, 1.0) else self.weaker.calls(node)
        return better + worse

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        scale = self.scale.at(node)
        if always(scale, 0.0):
            return self.weaker.predict(node, x, cond)
        better = self.model.predict(node, x, cond)
        if always(scale, 1.0):
            return better
        worse = self.weaker.predict(node, x, cond).read(better.kind)
        return Prediction(x, node, between(worse, better.value, scale), better.kind)
