"""Bad input of particle samplers and importance weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from bad_input import NAN, VP, Row, T, V, X, check, each
from torch import Tensor

from scoresde import FunctionScore, Gaussian
from scoresde.guidance import ClassifierFree
from scoresde.measurement import Matrix, Measurement
from scoresde.smc import (
    CollapsedWeights,
    CorrectedGuidance,
    Importance,
    Particles,
    TwistedSampler,
    flow_samples,
    pareto_shape,
    reweight,
)
from scoresde.smc.tails import heavy

PRIOR = Gaussian(torch.zeros(2), torch.ones(2)).under(VP)
Y = Measurement(Matrix(torch.ones(1, 2)), torch.tensor([0.5]), 1.0)
FLAT = torch.zeros(4)


def by_label(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    return -x


GUIDED = ClassifierFree(FunctionScore(VP, by_label), 2.0, null={"label": -1})


def twisted(measurement: Any = Y, **changes: Any) -> TwistedSampler:
    given = {"model": PRIOR, "particles": 4, "steps": 3, **changes}
    return TwistedSampler(given.pop("model"), measurement, **given)


def corrected(**changes: Any) -> CorrectedGuidance:
    return CorrectedGuidance(GUIDED, **{"particles": 4, "steps": 200, **changes})


def particles(shape: Any = (1, 2), **changes: Any) -> Particles:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapsedWeights)
        return twisted().sample(shape, **{"seed": 0, **changes})


def flow(n: Any = 2, shape: Any = (2,), **changes: Any) -> object:
    return flow_samples(PRIOR, n, shape, **changes)


def weigh(measurement: Any = Y, x: Any = X, **changes: Any) -> Importance:
    given = {"log_q": FLAT, "log_p": FLAT, **changes}
    return reweight(PRIOR, measurement, x, given.pop("log_q"), **given)


USUAL, BOOL = "0.5 is usual", "True or False"
ROWS = [
    Row("twisted-model", lambda: twisted(model=None), T, "model", "None", "in FunctionScore"),
    Row("twisted-y-none", lambda: twisted(None), T, "measurement", "None", "a function of x0"),
    Row("twisted-y-tensor", lambda: twisted(X), T, "measurement", "(4, 2)", "a function of x0"),
    Row("twisted-count", lambda: twisted(particles=-1), V, "particles", "-1", "1000 is usual"),
    Row("twisted-share-none", lambda: twisted(threshold=None), T, "threshold", "None", USUAL),
    Row("twisted-share-text", lambda: twisted(threshold="a"), T, "threshold", "'a'", USUAL),
    Row("twisted-share-neg", lambda: twisted(threshold=-0.5), V, "threshold", "-0.5", USUAL),
    Row("twisted-share-nan", lambda: twisted(threshold=NAN[0, 1]), V, "threshold", "nan", USUAL),
    Row("twisted-share-bool", lambda: twisted(threshold=True), T, "threshold", "True", USUAL),
    Row("twisted-share-shape", lambda: twisted(threshold=X), T, "threshold", "(4, 2)", USUAL),
    Row("twisted-twist", lambda: twisted(twist="jacobi"), V, "twist", "'jacobi'", "'jacobian'"),
    Row("twisted-var-text", lambda: twisted(variance="a"), T, "variance", "'a'", "or None"),
    Row("twisted-var-neg", lambda: twisted(variance=-1), V, "variance", "-1", "or None"),
    Row("twisted-var-nan", lambda: twisted(variance=NAN[0, 1]), V, "variance", "nan", "or None"),
    Row("twisted-end", lambda: twisted(t_end=X), T, "t_end", "(4, 2)", "a time in [0, T]"),
    Row("twisted-grid", lambda: twisted(grid=X[0, 0]), T, "grid", "1.0", "[1.0, 0.5, 0.1]"),
    Row("particles-shape-none", lambda: particles(None), T, "shape", "None", "(16, 2)"),
    Row("particles-shape-text", lambda: particles("ab"), T, "shape", "'ab'", "(16, 2)"),
    Row("particles-shape-neg", lambda: particles((-1, 2)), V, "shape", "-1", "(16, 2)"),
    Row("particles-hook", lambda: particles(on_node=3), T, "on_node", "3", "log_weights"),
    Row("particles-path", lambda: particles(keep_path="no"), T, "keep_path", "'no'", BOOL),
    Row(
        "particles-ancestry",
        lambda: particles(keep_ancestry=None),
        T,
        "keep_ancestry",
        "None",
        BOOL,
    ),
    Row("particles-progress", lambda: particles(progress=X), T, "progress", "(4, 2)", BOOL),
    Row("particles-fn-none", lambda: particles().expectation(None), T, "fn", "None", "lambda x"),
    Row("particles-fn-text", lambda: particles().expectation("a"), T, "fn", "'a'", "lambda x"),
    Row(
        "particles-fn-number",
        lambda: particles().expectation(lambda x: x.sum()),
        V,
        "fn(x)",
        "got",
        "one value for each particle",
    ),
    Row("particles-n", lambda: particles().resample(-1), V, "n:", "-1", "above 0"),
    Row(
        "corrected-model",
        lambda: CorrectedGuidance(PRIOR),
        T,
        "guided",
        "MixtureScore",
        "pass ClassifierFree",
    ),
    Row("corrected-share", lambda: corrected(threshold=[1]), T, "threshold", "[1]", USUAL),
    Row("corrected-eta", lambda: corrected(eta="a"), T, "eta", "'a'", "0 or a number"),
    Row("flow-model", lambda: flow_samples(3, 2, (2,)), T, "proposal", "3", "in FunctionScore"),
    Row("flow-n", lambda: flow(None), T, "n:", "None", "the number of samples"),
    Row("flow-shape-none", lambda: flow(shape=None), T, "shape", "None", "shape=(2,)"),
    Row("flow-shape-int", lambda: flow(shape=2), T, "shape", "2", "shape=(2,)"),
    Row("flow-shape-text", lambda: flow(shape="2"), T, "shape", "'2'", "shape=(2,)"),
    Row("flow-shape-nan", lambda: flow(shape=NAN[0, 1]), T, "shape", "nan", "shape=(2,)"),
    Row("flow-shape-neg", lambda: flow(shape=(-2,)), V, "shape", "-2", "shape=(2,)"),
    Row("flow-tolerance", lambda: flow(tolerance="a"), T, "tolerance", "'a'", "1e-5 is usual"),
    Row("flow-tolerance-neg", lambda: flow(tolerance=-1), V, "tolerance", "-1", "1e-5 is usual"),
    Row("flow-progress", lambda: flow(progress={}), T, "progress", "{}", BOOL),
    Row("weigh-y", lambda: weigh(3), T, "measurement", "3", "Measurement(operator, y, noise)"),
    Row("weigh-x-text", lambda: weigh(x="a"), T, "x:", "'a'", "torch.as_tensor"),
    Row("weigh-x-number", lambda: weigh(x=NAN[0, 1]), V, "x:", "nan", "x[:, None]"),
    Row("weigh-q", lambda: weigh(log_q=X), V, "log_q", "(4, 2)", "one number for each sample"),
    Row("weigh-p", lambda: weigh(log_p="a"), T, "log_p", "'a'", "torch.as_tensor"),
    Row("weigh-tolerance", lambda: weigh(tolerance=None), T, "tolerance", "None", "is usual"),
    Row("weigh-fn", lambda: weigh().expectation(3), T, "fn", "3", "a function of x"),
    Row("tail-none", lambda: pareto_shape(None), T, "log_weights", "None", "torch.as_tensor"),
    Row("tail-list", lambda: pareto_shape([1.0]), T, "log_weights", "[1.0]", "torch.as_tensor"),
    Row("tail-shape", lambda: pareto_shape(X), V, "log_weights", "(4, 2)", "of one run"),
    Row("tail-nan", lambda: pareto_shape(NAN[:, 1]), V, "log_weights", "NaN", "are computed"),
    Row("tail-count", lambda: heavy("a"), T, "count", "'a'", "the number of the weights"),
    Row("tail-count-neg", lambda: heavy(-1), V, "count", "-1", "the number of the weights"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
