"""Models for the tests of guidance: mixtures whose components are the classes, and counters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scoresde import AffineSDE, Gaussian, GaussianMixture, ScoreModel
from scoresde.cond import Cond
from scoresde.node import Node
from scoresde.prediction import Prediction

MEANS = torch.tensor([[-2.0, 0.5], [1.0, 1.0], [0.5, -1.5]], dtype=torch.float64)
VARIANCES = torch.tensor([0.3, 0.1, 0.6], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, VARIANCES, WEIGHTS)


def component(k: int, sde: AffineSDE) -> ScoreModel:
    """The exact model of one class."""
    return Gaussian(MEANS[k], VARIANCES[k]).under(sde)


class Labelled(ScoreModel):
    """The exact model of the mixture: of component k for label k, of all for label -1 or none.

    It counts its calls and the largest batch, and answers in the coordinate `kind`.
    """

    def __init__(self, sde: AffineSDE, kind: str = "v") -> None:
        super().__init__()
        self.sde, self.kind = sde, kind
        self.parts = nn.ModuleList([component(k, sde) for k in range(len(MEANS))])
        self.whole = MIXTURE.under(sde)
        self.made, self.rows = 0, 0

    @property
    def nulls(self) -> dict[str, object]:
        return {"label": -1}

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        self.made, self.rows = self.made + 1, self.rows + len(x)
        cond = cond or {}
        label = cond.get("label", torch.full((len(x),), -1))
        values = [m.predict(node, x).read(self.kind) for m in (*self.parts, self.whole)]
        chosen = torch.stack(values)[label, torch.arange(len(x))]
        return Prediction(x, node, chosen, self.kind)


def log_posterior(t: Tensor, x: Tensor, sde: AffineSDE) -> Tensor:
    """log p(class | x_t), (B, K), exactly."""
    t = t.double()
    alpha, sigma = torch.as_tensor(sde.alpha(t)), torch.as_tensor(sde.sigma(t))
    alpha, sigma = (v.reshape(-1, 1) for v in (alpha, sigma))
    variance = alpha**2 * VARIANCES + sigma**2
    centre = alpha[..., None] * MEANS
    square = (x[:, None] - centre).square().sum(-1)
    logits: Tensor = WEIGHTS.log() - 0.5 * square / variance - 0.5 * x.shape[1] * variance.log()
    return logits.log_softmax(1)
