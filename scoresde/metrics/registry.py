"""The metrics that `compare_sets` knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.kernels import energy_distance, kernel_distance, mmd
from scoresde.metrics.neighbours import PRDC, nearest_distance, prdc
from scoresde.metrics.two_sample import two_sample_test
from scoresde.metrics.wasserstein import sliced_wasserstein, wasserstein

__all__ = ["METRICS", "Metric", "Pair"]


@dataclass(frozen=True)
class Pair:
    """Two sets to compare, with the options that some metrics take.

    Args:
        samples, real: (n, D) each.
        bandwidth: of the kernel of MMD.
        k: neighbours of precision, recall, density and coverage.
        seed: of metrics that draw.
    """

    samples: Tensor
    real: Tensor
    bandwidth: float
    k: int
    seed: int

    @cached_property
    def balls(self) -> PRDC:
        """Precision, recall, density and coverage, which share their distances."""
        return prdc(self.samples, self.real, k=self.k)


@dataclass(frozen=True)
class Metric:
    """A number for two sets of points.

    Args:
        measure: the number.
        good: whether a good model has a "low" or a "high" one.
        usual: whether `compare_sets` takes it unless asked for others.
    """

    measure: Callable[[Pair], float]
    good: str = "low"
    usual: bool = True


METRICS: dict[str, Metric] = {
    "sliced_wasserstein": Metric(lambda p: sliced_wasserstein(p.samples, p.real, seed=p.seed)),
    "wasserstein": Metric(lambda p: wasserstein(p.samples, p.real), usual=False),
    "mmd": Metric(lambda p: mmd(p.samples, p.real, bandwidth=p.bandwidth).value),
    "energy": Metric(lambda p: energy_distance(p.samples, p.real).value),
    "frechet": Metric(lambda p: frechet_distance(p.samples, p.real)),
    "kernel": Metric(lambda p: kernel_distance(p.samples, p.real, subsets=20, seed=p.seed).mean),
    "two_sample": Metric(lambda p: two_sample_test(p.samples, p.real, seed=p.seed).accuracy),
    "two_sample_mlp": Metric(
        lambda p: two_sample_test(p.samples, p.real, classifier="mlp", seed=p.seed).accuracy,
        usual=False,
    ),
    "precision": Metric(lambda p: p.balls.precision, "high"),
    "recall": Metric(lambda p: p.balls.recall, "high"),
    "density": Metric(lambda p: p.balls.density, "high"),
    "coverage": Metric(lambda p: p.balls.coverage, "high"),
    # `compare_sets` takes the median, by the bootstrap and over the training set instead
    "nearest": Metric(
        lambda p: float(nearest_distance(p.samples, p.real).median()), "high", usual=False
    ),
}
"""Name -> metric. Those that a user registers are measured in the same way."""
