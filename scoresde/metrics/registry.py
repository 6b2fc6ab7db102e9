"""The registry of metrics of `compare_sets`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from scoresde._html import Shown
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.kernels import energy_distance, kernel_distance, mmd
from scoresde.metrics.neighbours import PRDC, nearest_distance, prdc
from scoresde.metrics.two_sample import two_sample_test
from scoresde.metrics.wasserstein import sliced_wasserstein, wasserstein

__all__ = ["METRICS", "Metric", "Pair"]


@dataclass(frozen=True, repr=False)
class Pair(Shown):
    """Two sets to compare, with the options of some metrics.

    Args:
        samples, real: (n, D) each.
        bandwidth: the bandwidth of the MMD.
        k: the number of neighbours for precision, recall, density and coverage.
        seed: the seed of metrics that draw random numbers.
    """

    samples: Tensor
    real: Tensor
    bandwidth: float
    k: int
    seed: int

    @cached_property
    def balls(self) -> PRDC:
        """Precision, recall, density and coverage, computed from the same distances."""
        return prdc(self.samples, self.real, k=self.k)


@dataclass(frozen=True, repr=False)
class Metric(Shown):
    """A metric of two sets of points.

    Args:
        measure: the function of a pair that computes it.
        good: whether a good model has a "low" or a "high" value.
        usual: whether it is among the default metrics of `compare_sets`.
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
    # `compare_sets` replaces this by a bootstrapped median over the training set
    "nearest": Metric(
        lambda p: float(nearest_distance(p.samples, p.real).median()), "high", usual=False
    ),
}
"""Name -> metric. `compare_sets` treats metrics that a user registers in the same way."""
