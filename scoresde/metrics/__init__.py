"""Distances of samples from held-out data, beside those of real data from real data.

Every value here depends on the number of samples, and most are above zero even for two halves of
the same data. So quote none without the number of samples and the same value for real data
against real data: `compare_sets` returns both for any of the metrics, and `Judge.compare` for
those of a small classifier.
"""

from scoresde.metrics.balance import Balance, class_balance
from scoresde.metrics.compare import Comparison, Measured, compare_sets
from scoresde.metrics.features import features_of
from scoresde.metrics.frechet import (
    FeatureMoments,
    feature_frechet,
    feature_moments,
    frechet_distance,
)
from scoresde.metrics.judge import Judge, Quality
from scoresde.metrics.kernels import (
    Estimate,
    SubsetMean,
    energy_distance,
    kernel_distance,
    median_bandwidth,
    mmd,
)
from scoresde.metrics.neighbours import PRDC, nearest_distance, prdc
from scoresde.metrics.registry import METRICS, Metric, Pair
from scoresde.metrics.two_sample import TwoSampleTest, two_sample_test
from scoresde.metrics.wasserstein import sliced_wasserstein, wasserstein

__all__ = [
    "METRICS",
    "PRDC",
    "Balance",
    "Comparison",
    "Estimate",
    "FeatureMoments",
    "Judge",
    "Measured",
    "Metric",
    "Pair",
    "Quality",
    "SubsetMean",
    "TwoSampleTest",
    "class_balance",
    "compare_sets",
    "energy_distance",
    "feature_frechet",
    "feature_moments",
    "features_of",
    "frechet_distance",
    "kernel_distance",
    "median_bandwidth",
    "mmd",
    "nearest_distance",
    "prdc",
    "sliced_wasserstein",
    "two_sample_test",
    "wasserstein",
]
