"""Chains and models that tests of DDPM share."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde import ScoreModel
from scoresde.ddpm import DDPM
from scoresde.prediction import Prediction
from scoresde.sde import SDE, VPSDE

D = torch.float64


BETAS = (0.02, 0.05, 0.3, 0.1, 0.6)


CHAINS = {
    "linear": DDPM.linear(),
    "cosine": DDPM.cosine(100),
    "own": DDPM(BETAS),
    "vp": DDPM.from_sde(VPSDE(), 50),
    "vp, log-SNR": DDPM.from_sde(VPSDE(), 50, grid="log_snr"),
}


VARIANCES = ("small", "large", 0.3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


class Linear(ScoreModel):
    """x_0hat = gain x + shift: a model whose reverse chain is affine, right or wrong."""

    def __init__(self, sde: SDE, gain: float = 0.4, shift: float = 0.1) -> None:
        super().__init__()
        self.sde, self.gain, self.shift = sde, gain, shift

    def predict(self, node, x, cond=None):
        return Prediction(x, node, self.gain * x + self.shift, "x0")
