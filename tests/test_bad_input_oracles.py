"""Bad input of the distributions with exact scores."""

from __future__ import annotations

import torch
from bad_input import NAN, OWN, TWO, VP, Row, T, V, X, check, each

from scoresde import Empirical, Gaussian, GaussianMixture

ROWS = [
    Row("mixture-means", lambda: GaussianMixture(X[0], X[0]), V, "means", "(2,)", "one row per"),
    Row("mixture-integers", lambda: GaussianMixture(X.int(), X), T, "means", "int32", ".float()"),
    Row("mixture-nan", lambda: GaussianMixture(NAN, X[:, 0]), V, "means", "NaN", "drop such"),
    Row(
        "mixture-weight",
        lambda: GaussianMixture(X, X[:, 0], 0 * X[:, 0]),
        V,
        "weights",
        "0.0",
        "drop components",
    ),
    Row("mixture-variance", lambda: GaussianMixture(X, -X), V, "covariances", "-1.0", "squares"),
    Row(
        "mixture-shapes", lambda: GaussianMixture(X, X[:3]), V, "covariances", "(3, 2)", "per row"
    ),
    Row(
        "mixture-skew",
        lambda: GaussianMixture(torch.zeros(1, 2), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])),
        V,
        "covariances",
        "differs from its transpose by 1",
        "average it",
    ),
    Row(
        "mixture-indefinite",
        lambda: GaussianMixture(torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.0, -1.0]]])),
        V,
        "covariances",
        "eigenvalue of -1",
        "check the matrix",
    ),
    Row("mixture-sample-none", lambda: TWO.sample(0), V, "n:", "0", "above 0"),
    Row("mixture-sample-seed", lambda: TWO.sample(2, seed=-1), V, "seed", "-1", "seed=0"),
    Row("mixture-dim", lambda: TWO.log_prob(torch.ones(4, 3)), V, "x:", "(4, 3)", "dimensions"),
    Row("mixture-under-own", lambda: TWO.under(OWN), T, "sde", "FunctionSDE", "affine SDE alone"),
    Row("mixture-marginal", lambda: TWO.marginal(VP, 3.0), V, "t:", "3.0", "times of VPSDE"),
    Row("posterior-A", lambda: TWO.posterior(X[:, :1], X[:, 0], 1), V, "A:", "(4, 1)", "one row"),
    Row("posterior-y", lambda: TWO.posterior(X, X, 1), V, "y:", "(4, 2)", "per row of A"),
    Row("posterior-y-nan", lambda: TWO.posterior(X, NAN[:, 1], 1), V, "y:", "NaN", "drop such"),
    Row("posterior-std", lambda: TWO.posterior(X, X[:, 0], 0.0), V, "std", "0.0", "observation"),
    Row("gaussian-mean", lambda: Gaussian(X, X), V, "mean", "(4, 2)", "flatten it"),
    Row("gaussian-covariance", lambda: Gaussian(X[0], X), V, "covariance", "(1, 4, 2)", "per row"),
    Row("gaussian-sample", lambda: Gaussian(X[0], X[0]).sample(1.5), T, "n:", "1.5", "above 0"),
    Row("empirical-empty", lambda: Empirical(X[:0]), V, "data", "(0, 2)", "at least one sample"),
    Row("empirical-nan", lambda: Empirical(NAN), V, "data", "NaN", "clean the data"),
    Row("empirical-density", lambda: Empirical(X).marginal(VP, 0.0), V, "t:", "0.0", "no density"),
    Row("empirical-sample", lambda: Empirical(X).sample(-1), V, "n:", "-1", "above 0"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
