"""Bad input of score models."""

from __future__ import annotations

from bad_input import CALLS, MODEL, NAN, NET, OWN, VP, WIDE, Row, T, V, X, check, each, score

from scoresde import VPSDE, FunctionScore, Preconditioned

ROWS = [
    Row(
        "model-net-function",
        lambda: Preconditioned(score, VP),
        T,
        "net",
        "function",
        "in FunctionScore",
    ),
    Row("model-sde-class", lambda: Preconditioned(NET, VPSDE), T, "sde", "VPSDE", "VPSDE()"),
    Row(
        "model-predicts-typo",
        lambda: Preconditioned(NET, VP, "esp"),
        V,
        "predicts",
        "'esp'",
        "did you mean 'eps'",
    ),
    Row(
        "model-time-typo",
        lambda: Preconditioned(NET, VP, time="logsnr"),
        V,
        "time",
        "'logsnr'",
        "did you mean 'log_snr'",
    ),
    Row(
        "model-eps-own",
        lambda: Preconditioned(NET, OWN, "eps"),
        T,
        "sde",
        "FunctionSDE",
        "'score'",
    ),
    Row(
        "model-sigma-data",
        lambda: Preconditioned(NET, VP, "edm", sigma_data=0),
        V,
        "sigma_data",
        "0",
        "standard deviation of the data",
    ),
    Row("model-null", lambda: Preconditioned(NET, VP, null=-1), T, "null", "-1", '"label": -1'),
    Row("model-score-number", lambda: FunctionScore(VP, 3), T, "fn", "3", "pass a callable"),
    Row("model-integers", lambda: MODEL.score(0.5, X.long()), T, "x:", "int64", ".float()"),
    Row("model-time-late", lambda: MODEL.score(2.0, X), V, "t:", "2.0", "times of VPSDE"),
    Row("model-times-nan", lambda: MODEL(NAN[:, 1], X), V, "t:", "nan", "times of VPSDE"),
    Row("model-times-shape", lambda: MODEL(X, X), V, "t:", "(4, 2)", "check the batch"),
    Row(
        "model-answer-shape",
        lambda: FunctionScore(VP, lambda t, x: CALLS.append(1) or x[:, :1]).score(0.5, X),
        V,
        "fn(t, x)",
        "(4, 1)",
        "the shape of the state",
        calls=True,
    ),
    Row(
        "model-answer-none",
        lambda: FunctionScore(VP, lambda t, x: None).score(0.5, X),
        T,
        "fn(t, x)",
        "None",
        "the shape of the state",
        calls=True,
    ),
    Row(
        "model-two-states",
        lambda: WIDE.score(0.5, X),
        V,
        "x:",
        "(4, 2)",
        "build the network for this shape",
    ),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
