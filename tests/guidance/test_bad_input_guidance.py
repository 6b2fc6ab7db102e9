"""Bad input of guidance."""

from __future__ import annotations

from typing import Any

import torch
from bad_input import MLPS, NAN, VP, Row, T, V, X, check, each, score
from torch import Tensor

from scoresde import FunctionScore, Gaussian, Preconditioned
from scoresde.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuided,
    NoiseClassifier,
    Scale,
    Tempered,
)

PRIOR = Gaussian(torch.zeros(2), torch.ones(2)).under(VP)
LABELLED = Preconditioned(MLPS[3], VP)
LABEL = {"label": torch.zeros(4, dtype=torch.int64)}
NULL = {"label": -1}
TIMES = torch.full((4,), 0.5)


def by_label(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    return -x


def free(scale: Any = 2.0, **changes: Any) -> ClassifierFree:
    return ClassifierFree(LABELLED, scale, **changes)


def at(found: object) -> Tensor:
    """The score at one time per sample, with a scale by a function that returns this."""
    return free(lambda level: found).score(TIMES, X, LABEL)


def classifier(*given: Any, **changes: Any) -> NoiseClassifier:
    return NoiseClassifier(*(given or (VP, (2,), 3)), **{"width": 8, **changes})


with torch.random.fork_rng():
    CLASSIFIER = classifier()

FINITE = "a number such as 2.0"
ENDS = "(-1.5, 1.5)"
AXES = "one to three axes"
ROWS = [
    Row("free-model", lambda: ClassifierFree(score, 2.0), T, "model", "score", "in FunctionScore"),
    Row("free-scale-none", lambda: free(None), T, "scale", "None", FINITE),
    Row("free-scale-text", lambda: free("2"), T, "scale", "'2'", FINITE),
    Row("free-scale-nan", lambda: free(NAN[0, 1]), V, "scale", "nan", FINITE),
    Row("free-scale-tensor", lambda: free(X), T, "scale", "(4, 2)", FINITE),
    Row("free-ends-number", lambda: free(interval=3.0), T, "interval", "3.0", ENDS),
    Row("free-ends-text", lambda: free(interval="ab"), T, "interval", "'ab'", ENDS),
    Row("free-ends-none", lambda: free(interval=(None, 1.0)), T, "interval", "None", ENDS),
    Row("free-ends-texts", lambda: free(interval=["a", "b"]), T, "interval", "'a'", ENDS),
    Row("free-ends-nan", lambda: free(interval=(NAN[0, 1], 1)), V, "interval", "nan", ENDS),
    Row("free-ends-tensor", lambda: free(interval=[X, X]), T, "interval", "(4, 2)", ENDS),
    Row("free-null-number", lambda: free(null=-1), T, "null", "-1", '"label": -1'),
    Row("free-null-key", lambda: free(null={1: -1}), T, "null", "1", '"label": -1'),
    Row(
        "free-null-typo",
        lambda: free(null={"labl": -1}),
        V,
        "null: expected one of 'label'",
        "'labl'",
        "did you mean 'label'?",
    ),
    Row(
        "free-null-typo-of-function",
        lambda: ClassifierFree(FunctionScore(VP, by_label), 2.0, null={"lable": -1}),
        V,
        "null: expected one of 'label'",
        "'lable'",
        "did you mean 'label'?",
    ),
    Row(
        "free-null-of-nothing",
        lambda: ClassifierFree(FunctionScore(VP, lambda t, x: -x), 2.0, null=NULL),
        V,
        "null",
        "'label'",
        "leave it out",
    ),
    Row(
        "free-null-typo-at-call",  # a function of any conditions says no names
        lambda: ClassifierFree(FunctionScore(VP, score), 2.0, null={"labl": -1}).score(
            0.5, X, LABEL
        ),
        V,
        "cond",
        "'label'",
        "name 'label' in null, where it has 'labl'",
    ),
    Row(
        "free-null-text",
        lambda: free(null={"label": "a"}).score(0.5, X, LABEL),
        T,
        "null['label']",
        "'a'",
        "Preconditioned",
    ),
    Row(
        "free-null-shape",
        lambda: free(null={"label": [1, 2, 3]}).score(0.5, X, LABEL),
        V,
        "null['label']",
        "[1, 2, 3]",
        "the value of one sample",
    ),
    Row(
        "free-null-nan",
        lambda: free(null={"label": NAN[0, 1]}).score(0.5, X, LABEL),
        V,
        "null['label']",
        "nan",
        "the value of one sample",
    ),
    Row(
        "free-cond-tensor",
        lambda: free().score(0.5, X, X),
        T,
        "cond",
        "(4, 2)",
        '{"label": labels}',
    ),
    Row("free-x-number", lambda: free().score(0.5, X[0, 0]), V, "x:", "1.0", "x[None]"),
    Row("free-pair-node", lambda: free().pair(0.5, X, LABEL), T, "node", "0.5", "sde.at(t)"),
    Row("free-pair-x", lambda: free().pair(VP.at(0.5), None, LABEL), T, "x:", "None", "as_tensor"),
    Row("free-pair-cond", lambda: free().pair(VP.at(0.5), X, 3), T, "cond", "3", "labels}"),
    Row("free-scale-of-none", lambda: at(None), T, "scale(log_snr)", "None", "return a number"),
    Row("free-scale-of-shape", lambda: at(X), V, "scale(log_snr)", "(4, 2)", "one for each"),
    Row("auto-weaker", lambda: AutoGuidance(PRIOR, None, 2.0), T, "weaker", "None", "wrap a"),
    Row("auto-model", lambda: AutoGuidance("m", PRIOR, 2.0), T, "model", "'m'", "wrap a"),
    Row("auto-scale", lambda: AutoGuidance(PRIOR, PRIOR, ""), T, "scale", "''", FINITE),
    Row("guided-classifier", lambda: ClassifierGuided(PRIOR, 1), T, "classifier", "1", "wrap"),
    Row(
        "guided-conditional",
        lambda: ClassifierGuided(PRIOR, by_label, conditional=None),
        T,
        "conditional",
        "None",
        "True or False",
    ),
    Row("scale-outside", lambda: Scale(2.0, outside="a"), T, "outside", "'a'", "no guidance"),
    Row(
        "scale-node",
        lambda: Scale(2.0, (0.0, 1.0)).at(None),
        T,
        "node",
        "None",
        "sde.at(t)",
    ),
    Row("tempered-negative", lambda: Tempered(PRIOR, -1), V, "temperature", "-1", "1 is the"),
    Row("tempered-text", lambda: Tempered(PRIOR, "1"), T, "temperature", "'1'", "1 is the"),
    Row("tempered-std", lambda: Tempered(PRIOR, 0.5, X), T, "std", "(4, 2)", "of the data"),
    Row("noisy-one-class", lambda: classifier(VP, (2,), 1), V, "classes", "1", "guides nowhere"),
    Row("noisy-no-class", lambda: classifier(VP, (2,), 0), V, "classes", "0", "e.g. 10"),
    Row("noisy-shape-none", lambda: classifier(VP, None, 3), T, "shape", "None", AXES),
    Row("noisy-shape-int", lambda: classifier(VP, 2, 3), T, "shape", "2", AXES),
    Row("noisy-shape-text", lambda: classifier(VP, "2", 3), T, "shape", "'2'", AXES),
    Row("noisy-shape-zero", lambda: classifier(VP, (0,), 3), V, "shape", "0", AXES),
    Row("noisy-shape-long", lambda: classifier(VP, (1,) * 5, 3), V, "shape", "(1, 1", AXES),
    Row("noisy-time-none", lambda: CLASSIFIER(None, X), T, "t:", "None", "in [0, T]"),
    Row("noisy-time-text", lambda: CLASSIFIER("0.5", X), T, "t:", "'0.5'", "in [0, T]"),
    Row("noisy-state", lambda: CLASSIFIER(0.5, X[:, :1]), V, "x:", "(4, 1)", "of the data"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
