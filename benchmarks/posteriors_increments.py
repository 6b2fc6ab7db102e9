"""The priors of `posteriors_sparse.py`: exact sparse increments, and a network of their walks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from benchmarks.posteriors_levy import DIM
from benchmarks.posteriors_problems import F64
from scoresde import VPSDE, Gaussian, Preconditioned, ScoreModel, Trainer, load
from scoresde.cond import Cond
from scoresde.nets import MLP
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = [
    "BELOW",
    "SDE",
    "SHARES",
    "TRAINED",
    "Increments",
    "Prior",
    "Sides",
    "increments",
    "trained",
]

RUNS = Path("runs/posteriors_sparse")
SHARES = {"Laplace": 1.0, "Bernoulli-Laplace": 0.1}
"""Name -> the probability that an increment is not 0."""

SDE = VPSDE()
BELOW = torch.ones(DIM, DIM, dtype=F64).tril()
"""The cumulative sum of increments."""

TRAINED = dict(signals=100_000, width=192, depth=2, steps=4000)


def scale(share: float) -> float:
    """The root mean square of a walk, by which the network's data are divided."""
    return math.sqrt(2.0 * share * (DIM + 1) / 2)


def increments(share: float, count: int, seed: int) -> Tensor:
    """(count, DIM)."""
    draws = np.random.default_rng(seed)
    z = draws.laplace(size=(count, DIM))
    return torch.from_numpy(z * (draws.random(z.shape) < share))


@final
@dataclass(frozen=True, eq=False)
class Sides:
    """Given m = z + c n for a normal n: the two signs and 0 of an increment z.

    Attributes:
        logs: the log density of m together with each of them, (3, *m).
        means, squares: E[z] and E[z^2] given each of them, (3, *m).
    """

    logs: Tensor
    means: Tensor
    squares: Tensor

    @classmethod
    def of(cls, m: Tensor, c: float, share: float) -> Sides:
        logs, means, squares = [], [], []
        for sign in (1.0, -1.0):
            # the size is normal with mean sign m - c^2 and standard deviation c, and positive
            u = (sign * m - c * c) / c
            hazard = math.sqrt(2.0 / math.pi) / torch.special.erfcx(-u / math.sqrt(2.0))
            size = c * (u + hazard)
            logs.append(torch.special.log_ndtr(u) - sign * m + 0.5 * c * c + math.log(share / 2))
            means.append(sign * size)
            squares.append(size.square() + c * c * (1.0 - hazard * (u + hazard)))
        zero = math.log1p(-share) if share < 1.0 else -math.inf
        logs.append(zero - 0.5 * (m / c).square() - math.log(c * math.sqrt(2.0 * math.pi)))
        means.append(torch.zeros_like(m))
        squares.append(torch.zeros_like(m))
        return cls(*(torch.stack(parts) for parts in (logs, means, squares)))

    def moments(self) -> tuple[Tensor, Tensor]:
        """E[z | m] and Var[z | m]."""
        weights = torch.softmax(self.logs, 0)
        mean = (weights * self.means).sum(0)
        return mean, (weights * self.squares).sum(0) - mean.square()

    @property
    def log_density(self) -> Tensor:
        """The log density of m."""
        return torch.logsumexp(self.logs, 0)


@final
class Increments(ScoreModel):
    """The exact model of independent increments.

    Its Jacobian is diagonal, Var[z | x] alpha / sigma^2, and is given as the derivative: products
    with it cost one multiplication, and there is no second derivative.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.sde = SDE
        self.share = share

    @property
    def data_scale(self) -> tuple[float, int]:
        return math.sqrt(2.0 * self.share), DIM

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        alpha, sigma = float(node.alpha), float(node.sigma)
        fixed = x.detach()
        mean, variance = Sides.of(fixed / alpha, sigma / alpha, self.share).moments()
        slope = variance * (alpha / sigma**2)
        return Prediction(x, node, mean + slope * (x - fixed), "x0")


def trained(share: float) -> ScoreModel:
    """The network, trained if there is none in runs/; its data are walks over `scale`."""
    out = RUNS / f"share-{share:g}"
    if not (out / "checkpoint").exists():
        z = increments(share, TRAINED["signals"], seed=1)
        x = (z @ BELOW.T / scale(share)).float()
        torch.manual_seed(0)
        net = MLP(DIM, width=TRAINED["width"], depth=TRAINED["depth"], waves=())
        Trainer(Preconditioned(net, SDE), x, steps=TRAINED["steps"], out=out).fit()
    return load(out)


@dataclass(frozen=True, eq=False)
class Prior:
    """A model of the walks, or of their increments.

    Args:
        model: the model.
        share: the probability that an increment is not 0.
    """

    model: ScoreModel
    share: float

    @property
    def exact(self) -> bool:
        """Whether the state consists of the increments; else it is a walk over `scale`."""
        return isinstance(self.model, Increments)

    @property
    def dtype(self) -> torch.dtype:
        return F64 if self.exact else torch.float32

    @property
    def walks(self) -> Tensor:
        """The matrix that makes walks of states."""
        return BELOW if self.exact else scale(self.share) * torch.eye(DIM, dtype=F64)

    @property
    def law(self) -> Gaussian:
        """The normal law with the mean and the covariance of the states."""
        root = torch.linalg.solve(self.walks, BELOW)
        return Gaussian(torch.zeros(DIM, dtype=F64), 2.0 * self.share * root @ root.T)

    @property
    def variance(self) -> float:
        """The mean variance of the states."""
        return float(self.law.covariance.diagonal().mean())
