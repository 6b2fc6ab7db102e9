"""A model that is exact at high noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance
from scoresde._tensor import expand
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import same_sde

__all__ = ["AnalyticStart"]


@final
class AnalyticStart(ScoreModel):
    """A model that uses an exact stand-in at high noise, without network calls.

    Near t = T the marginal of any data is close to a Gaussian, so the exact score of a Gaussian
    with the data's moments is as good as the network's there. With `above` equal to the second
    node of the grid this is the analytic first step of Dockhorn et al. 2022 (arXiv 2210.05475),
    whose stand-in is the standard normal; it saves one of the few calls.

    Args:
        model: the model.
        stand_in: a model of the same SDE, such as `Gaussian.fit(data).under(sde)`.
        above: the stand-in is used at times beyond this one.

    Raises:
        ValueError: the two models have different SDEs.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, FunctionScore, Gaussian, ReverseSampler
        >>> sde = VPSDE()
        >>> normal = Gaussian(torch.zeros(2), torch.ones(())).under(sde)
        >>> model = AnalyticStart(FunctionScore(sde, lambda t, x: -x), normal, above=0.9)
        >>> sampler = ReverseSampler(sde, model, "dpmpp_2m", steps=5)
        >>> sampler.solve((4, 2), seed=0).nfe  # 5 steps and the final denoising, less one
        5
    """

    def __init__(self, model: ScoreModel, stand_in: ScoreModel, above: float) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        instance("stand_in", stand_in, ScoreModel, "pass e.g. Gaussian.fit(data).under(sde)")
        if not same_sde(stand_in.sde, model.sde):
            remedy = "make the stand-in under model.sde"
            raise fail("stand_in", f"a model of {model.sde!r}", repr(stand_in.sde), remedy)
        self.sde = model.sde
        self.model = model
        self.stand_in = stand_in
        self.above = self.sde.check_time("above", above)

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.model.admit(cond)

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    @property
    def nulls(self) -> Mapping[str, object]:
        return self.model.nulls

    def calls(self, node: Node) -> int:
        if isinstance(node.t, Tensor):
            return self.model.calls(node)
        return 0 if node.t > self.above else self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        if not isinstance(node.t, Tensor):
            return (self.stand_in if node.t > self.above else self.model).predict(node, x, cond)
        early = expand(node.t > self.above, x)
        # v, since the score does not determine x_0 at alpha = 0
        kind = "v" if node.affine else "score"
        exact, learned = (m.predict(node, x, cond).read(kind) for m in (self.stand_in, self.model))
        return Prediction(x, node, torch.where(early, exact, learned), kind)
