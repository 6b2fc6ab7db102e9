"""Classifier two-sample test: the accuracy of a classifier of samples and real data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scoresde._check import choice, fail, need, positive_int
from scoresde._html import Shown
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, draw, pair

__all__ = ["TwoSampleTest", "two_sample_test"]


@dataclass(frozen=True)
class TwoSampleTest(Shown):
    """The result of `two_sample_test`.

    Attributes:
        accuracy: share of held-out points that the classifier assigns to the right set; 0.5 if
            the laws are equal, 1 if they are disjoint.
        std_error: (accuracy (1 - accuracy) / points)^(1/2), the binomial standard error over all
            2 `count` points.
        p_value: probability of at least this accuracy for equal laws, in normal approximation.
        count: number of points of each set.
        classifier: "logistic" or "mlp".
    """

    accuracy: float
    std_error: float
    p_value: float
    count: int
    classifier: str


def two_sample_test(
    a: Array, b: Array, *, classifier: str = "logistic", folds: int = 5, seed: int = 0
) -> TwoSampleTest:
    """Cross-validated accuracy of a classifier that distinguishes two sets of points.

    For a perfect classifier it is (1 + TV) / 2 with the total variation TV of the laws; for any
    other it is a lower bound of that. "logistic" detects a difference of means (for Gaussians of
    equal covariance at Mahalanobis distance d it tends to the Bayes accuracy Phi(d / 2)), "mlp"
    also of shapes, with more points. The coordinates are standardised on each training fold. The
    larger set is reduced to the size of the smaller at random, so that guessing scores 0.5.

    Args:
        a: (N, *D) points, N >= `folds` + 1 (at least 10 for "mlp").
        b: (M, *D) points.
        classifier: "logistic" (regression) or "mlp" (64 and 64 hidden units, Adam, early stop).
        folds: number of folds of the stratified cross-validation, at least 2.
        seed: seed of the reduction, the folds and the weights of the network.

    Raises:
        ValueError: D differs, there are too few rows, the classifier is unknown, or numbers are
            not finite.
        ImportError: scikit-learn is not installed.

    Source: Lopez-Paz and Oquab, ICLR 2017, section 3.

    Example:
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> two_sample_test(x, x + 2).accuracy
        1.0
    """
    choice("classifier", classifier, ("logistic", "mlp"))
    folds = positive_int("folds", folds)
    if folds < 2:
        raise fail("folds", "at least 2", folds, "5 is usual")
    a, b = pair(("a", "b"), (a, b), least=max(folds + 1, 10 if classifier == "mlp" else 2))
    count, generator = min(len(a), len(b)), seeded(seed)
    x = torch.cat([draw(rows, count, generator) for rows in (a, b)]).numpy()
    label = np.repeat([0, 1], count)
    selection = need("sklearn.model_selection", "data")
    splits = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = selection.cross_val_predict(_pipeline(classifier, seed), x, label, cv=splits)
    accuracy = float((predicted == label).mean())
    points = 2 * count
    z = (accuracy - 0.5) / (0.25 / points) ** 0.5
    std_error = (accuracy * (1 - accuracy) / points) ** 0.5
    return TwoSampleTest(accuracy, std_error, math.erfc(z / 2**0.5) / 2, count, classifier)


def _pipeline(classifier: str, seed: int) -> Any:  # scikit-learn has no types
    if classifier == "logistic":
        model = need("sklearn.linear_model", "data").LogisticRegression(max_iter=2000)
    else:
        model = need("sklearn.neural_network", "data").MLPClassifier(
            (64, 64), early_stopping=True, max_iter=1000, random_state=seed
        )
    scaler = need("sklearn.preprocessing", "data").StandardScaler()
    return need("sklearn.pipeline", "data").make_pipeline(scaler, model)
