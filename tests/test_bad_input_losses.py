"""Bad input of the loss and of the distributions of times."""

from __future__ import annotations

import torch
from bad_input import MODEL, NET, OWN, Row, T, V, X, check, each, score

from scoresde import FunctionScore, dsm_loss
from scoresde.losses import ImportanceTime, LogNormalTime

ROWS = [
    Row("loss-raw-net", lambda: dsm_loss(NET, X), T, "model", "Net", "Preconditioned(net, sde)"),
    Row(
        "loss-own",
        lambda: dsm_loss(FunctionScore(OWN, score), X),
        T,
        "model.sde",
        "FunctionSDE",
        "LinearSDE",
    ),
    Row("loss-integers", lambda: dsm_loss(MODEL, X.long()), T, "x0", "int64", ".float()"),
    Row("loss-empty", lambda: dsm_loss(MODEL, X[:0]), V, "x0", "(0, 2)", "batch axis"),
    Row("loss-flat", lambda: dsm_loss(MODEL, X[0]), V, "x0", "(2,)", "batch axis"),
    Row(
        "loss-weighting",
        lambda: dsm_loss(MODEL, X, weighting="likelyhood"),
        V,
        "weighting",
        "'likelyhood'",
        "did you mean 'likelihood'",
    ),
    Row("loss-time", lambda: dsm_loss(MODEL, X, time=0.5), T, "time", "0.5", "UniformTime()"),
    Row(
        "loss-cond",
        lambda: dsm_loss(MODEL, X, cond={"label": torch.zeros(2)}),
        V,
        "cond['label']",
        "(2,)",
        "one entry for each sample",
    ),
    Row(
        "loss-cond-null",
        lambda: dsm_loss(MODEL, X, cond={"y": X}, cond_dropout=0.5),
        V,
        "cond",
        "['y']",
        "null=...",
    ),
    Row(
        "loss-dropout",
        lambda: dsm_loss(MODEL, X, cond_dropout=2),
        V,
        "cond_dropout",
        "2",
        "e.g. 0.1",
    ),
    Row(
        "loss-generator",
        lambda: dsm_loss(MODEL, X, generator=0),
        T,
        "generator",
        "0",
        "torch.Generator()",
    ),
    Row("time-std", lambda: LogNormalTime(std=-1.0), V, "std", "-1.0", "EDM takes 1.2"),
    Row("time-own", lambda: ImportanceTime().sample(OWN, 4), T, "sde", "FunctionSDE", "LinearSDE"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
