"""The problems of `posteriors.py`, whose posteriors are exact, and how far samples are from them.

"8,2" is a problem of MCGDiff (Cardoso et al. 2024, arXiv 2308.07983) with d = 8 and d_y = 2: the
prior has 25 Gaussians of unit covariance with means (8 i, 8 j, 8 i, 8 j, ...), i and j from -2 to
2, and weights z^2 / sum z^2 for normal z. y = A x + std n with d_y numbers, A = U diag(s) V^T with
U and V from a normal matrix and s sorted uniforms on [0, 1], std uniform on [0, max s]. x is a
draw of the prior. The SDE is VPSDE(0.1, 40): data of this size (a standard deviation of 11) are
not noise at the end of the default schedule.

"gaussian 64,32" has a Gaussian prior with mean 0.3 z and the variances k^-1.5 along random axes. A
has 32 orthonormal rows times 1 to 0.1, std is 0.05, and the SDE VPSDE().

"rough 8,2" is "8,2" with a score that is slightly wrong, as that of a trained network is; see
`Rough`. Exact scores hide the faults of methods that rely on their derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import torch
from torch import Tensor

from scoresde import VPSDE, Gaussian, GaussianMixture, ReverseSampler, ScoreModel
from scoresde.cond import Cond
from scoresde.measurement import Matrix, Measurement
from scoresde.metrics.two_sample import two_sample_test
from scoresde.node import Node
from scoresde.posterior import ExactPosterior
from scoresde.prediction import Prediction
from scoresde.sde import AffineSDE

__all__ = [
    "COUNT",
    "ERROR",
    "F64",
    "GAUSSIAN",
    "ROUGH",
    "SETS",
    "SLICES",
    "SOLVER",
    "Problem",
    "Reference",
    "Rough",
    "make_gaussian",
    "make_problem",
    "path_of",
    "problem_of",
    "sliced_w1",
]

COUNT, SLICES, SETS = 1000, 1000, 4
SOLVER = "sa_solver_p2_v"
GAUSSIAN, ROUGH = "gaussian ", "rough "
ERROR = 0.03
"""The error of a rough score: of a network of which 0.1 % of the loss could still be learned."""

WAVES, STEEPNESS = 32, 1.5
F64 = torch.float64


class Rough(ScoreModel):
    """A model with the errors of a network of EDM's preconditioning.

    With c_in = 1 / sqrt(alpha^2 s^2 + sigma^2) and c_out = sigma s c_in, for data of standard
    deviation s, such a network has an output F of about unit size, of which x_0hat has c_out F.
    Here c_out error f(c_in x) is added. f(u) = V tanh(W u + b + w log-SNR / 4) is fixed and of
    unit size, and its Jacobian is neither symmetric nor positive. So the covariance of x_0 given
    x, (sigma^2 / alpha) J, has an error that grows as sigma^2 / alpha in nearly pure noise.

    Args:
        model: the model.
        error: the size of the error of F.
    """

    def __init__(self, model: ScoreModel, error: float) -> None:
        super().__init__()
        scale = model.data_scale
        if scale is None:
            raise ValueError("model: expected an oracle, which knows its data")
        self.sde, self.model, self.error = model.sde, model, error
        self.size, dim = scale
        draws = _Draws(7)
        self.inner = STEEPNESS * draws.normal(dim, WAVES) / dim**0.5
        self.outer = draws.normal(WAVES, dim) * (2.0 / WAVES) ** 0.5
        self.offset, self.rate = draws.normal(WAVES), draws.normal(WAVES)

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        found = self.model.predict(node, x, cond)
        alpha, sigma = float(node.alpha), float(node.sigma)
        c_in = (alpha**2 * self.size**2 + sigma**2) ** -0.5
        u = c_in * x @ self.inner + self.offset + self.rate * (float(node.log_snr) / 4)
        wrong = self.error * sigma * self.size * c_in * (u.tanh() @ self.outer)
        return Prediction(x, node, found.x0 + wrong, "x0")


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior under an SDE, and y = A x_0 + std n.

    `error` is that of the score of the prior, see `Rough`; 0 for the exact one.
    """

    prior: Gaussian | GaussianMixture
    sde: AffineSDE
    A: Tensor
    y: Tensor
    std: float
    error: float = 0.0

    @cached_property
    def measurement(self) -> Measurement:
        return Measurement(Matrix(self.A), self.y, self.std)

    @cached_property
    def model(self) -> ScoreModel:
        """The score of the prior."""
        exact = self.prior.under(self.sde)
        return Rough(exact, self.error) if self.error else exact

    @cached_property
    def exact(self) -> ExactPosterior:
        return ExactPosterior(self.prior, self.sde, self.measurement)

    @property
    def dim(self) -> int:
        return self.A.shape[1]


class _Draws:
    """Normal and uniform numbers of one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=self.generator, dtype=F64)

    def uniform(self, *sizes: int) -> Tensor:
        return torch.rand(*sizes, generator=self.generator, dtype=F64)

    def operator(self, d: int, d_y: int) -> tuple[Tensor, float]:
        """A and the standard deviation of the noise."""
        u, _, vh = torch.linalg.svd(self.normal(d_y, d), full_matrices=False)
        s = self.uniform(d_y).sort().values
        std = float(self.uniform(1) * s.max())
        return u @ torch.diag(s) @ vh, std


def make_problem(d: int, d_y: int, seed: int) -> Problem:
    """Problem number `seed` of the mixtures with d dimensions of which d_y numbers are known."""
    draws = _Draws(100_000 * d + 1000 * d_y + seed)
    corners = [(8.0 * i, 8.0 * j) for i, j in product(range(-2, 3), repeat=2)]
    means = torch.tensor(corners, dtype=F64).repeat(1, d // 2)
    weights = draws.normal(25).square()
    prior = GaussianMixture(means, torch.ones(25, dtype=F64), weights / weights.sum())
    A, std = draws.operator(d, d_y)
    component = int(torch.multinomial(prior.weights, 1, generator=draws.generator))
    x = means[component] + draws.normal(d)
    return Problem(prior, VPSDE(0.1, 40.0), A, A @ x + std * draws.normal(d_y), std)


def make_gaussian(d: int, d_y: int, seed: int) -> Problem:
    """Problem number `seed` with a Gaussian prior."""
    draws = _Draws(100_000_000 + 100_000 * d + 1000 * d_y + seed)
    variances = torch.arange(1, d + 1, dtype=F64) ** -1.5
    axes = torch.linalg.qr(draws.normal(d, d)).Q
    mean = 0.3 * draws.normal(d)
    rows = torch.linalg.qr(draws.normal(d, d_y)).Q.T
    A, std = torch.linspace(1.0, 0.1, d_y, dtype=F64)[:, None] * rows, 0.05
    x = mean + axes @ (variances.sqrt() * draws.normal(d))
    prior = Gaussian(mean, (axes * variances) @ axes.T)
    return Problem(prior, VPSDE(), A, A @ x + std * draws.normal(d_y), std)


def problem_of(cell: str, seed: int) -> Problem:
    """Problem number `seed` of a cell."""
    if cell.startswith(ROUGH):
        return replace(problem_of(cell.removeprefix(ROUGH), seed), error=ERROR)
    make = make_gaussian if cell.startswith(GAUSSIAN) else make_problem
    d, d_y = map(int, cell.removeprefix(GAUSSIAN).split(","))
    return make(d, d_y, seed)


def path_of(problem: Problem, steps: int) -> Sequence[Node]:
    """The nodes over which our samplers walk, from T to t_end."""
    sampler = ReverseSampler(problem.sde, problem.model, SOLVER, steps=steps)
    return sampler.plan.schedule.segments[0]


def _projected(x: Tensor, seed: int = 0) -> Tensor:
    """The sorted projections of x: (N, D) on random directions, (N, SLICES)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], SLICES, generator=generator, dtype=F64)
    return (x.double() @ (directions / directions.norm(dim=0))).sort(0).values


def sliced_w1(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """The mean over directions of the Wasserstein-1 distance of projections; (N, D) each."""
    return float((_projected(x, seed) - _projected(y, seed)).abs().mean())


class Reference:
    """Exact sets of the posterior of a problem, and the floors: the distances between them.

    Args:
        problem: the problem.
        seed: the seed of the first set.
        classify: whether to train classifiers too.
    """

    def __init__(self, problem: Problem, seed: int, classify: bool = True) -> None:
        sets = [problem.exact.sample(COUNT, seed=seed + 10_000 * k) for k in range(SETS)]
        self.first = sets[0]
        self.sorted = [_projected(one) for one in sets]
        gaps = [float((a - b).abs().mean()) for a, b in combinations(self.sorted, 2)]
        self.floor = sum(gaps) / len(gaps)
        self.c2st_floor = self._c2st(sets[1]) if classify else None

    def _c2st(self, x: Tensor) -> float:
        """The accuracy of a classifier, an MLP, of x and exact samples."""
        return two_sample_test(x, self.first, classifier="mlp").accuracy

    def judged(self, x: Tensor) -> dict[str, float]:
        """How far COUNT samples are from the posterior, with the floors."""
        own = _projected(x)
        gaps = [float((own - one).abs().mean()) for one in self.sorted]
        found = {"distance": sum(gaps) / len(gaps), "floor": self.floor}
        if self.c2st_floor is not None:
            found |= {"c2st": self._c2st(x), "c2st_floor": self.c2st_floor}
        return found
