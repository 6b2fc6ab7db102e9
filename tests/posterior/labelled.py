"""An exact model with labels: one Gaussian for each, and their mixture without one."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde import GaussianMixture, ScoreModel
from scoresde.cond import Cond
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE


class Labelled(ScoreModel):
    """The exact score of one of two Gaussians by label, of their mixture for label -1."""

    def __init__(self, sde: AffineSDE, dim: int) -> None:
        super().__init__()
        self.sde = sde
        means = torch.stack([-torch.ones(dim), torch.ones(dim)]).double()
        both = GaussianMixture(means, torch.ones(2).double())
        each = [GaussianMixture(mean[None], torch.ones(1).double()) for mean in means]
        self.models = [one.under(sde) for one in (*each, both)]

    @property
    def nulls(self) -> dict[str, object]:
        return {"label": -1}

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        label = (cond or {}).get("label", torch.full((len(x),), -1))
        found = torch.stack([model.predict(node, x).read("v") for model in self.models])
        return Prediction(x, node, found[label, torch.arange(len(x))], "v")
