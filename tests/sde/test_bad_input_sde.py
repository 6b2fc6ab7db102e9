"""Bad input of the SDEs."""

from __future__ import annotations

import math

import torch
from bad_input import VP, Row, T, V, X, check, each, score

from scoresde import EDMSDE, SDE, VESDE, VPSDE, CosineSDE, FlowSDE, LinearSDE, SubVPSDE, simulate

ROWS = [
    Row("vp-beta-zero", lambda: VPSDE(0.0), V, "beta_min", "0.0", "0.1 by default"),
    Row("vp-betas-swapped", lambda: VPSDE(20.0, 0.1), V, "beta_max", "0.1", "swap the two"),
    Row("subvp-beta-nan", lambda: SubVPSDE(0.1, math.nan), V, "beta_max", "nan", "20 by default"),
    Row("ve-sigma-text", lambda: VESDE("0.01"), T, "sigma_min", "'0.01'", "in data units"),
    Row("ve-sigmas-equal", lambda: VESDE(1.0, 1.0), V, "sigma_max", "1.0", "swap the two"),
    Row("edm-sigma-negative", lambda: EDMSDE(-1.0), V, "sigma_min", "-1.0", "sampling ends"),
    Row("cosine-beyond-one", lambda: CosineSDE(T=1.5), V, "T:", "1.5", "nothing is left"),
    Row("flow-text", lambda: FlowSDE("1"), T, "T:", "'1'", "nothing is left"),
    Row("flow-beyond-one", lambda: FlowSDE(1.5), V, "T:", "1.5", "nothing is left"),
    Row("own-f-no-function", lambda: SDE(0.5, score), T, "drift_fn", "0.5", "as callables"),
    Row("own-t-end-late", lambda: SDE(score, score, 1.0, 0.0, 2.0), V, "t_end", "2.0", "reorder"),
    Row(
        "own-drift-shape",
        lambda: simulate(SDE(lambda t, x: x[:1], lambda t: 1.0), X, steps=2, seed=0),
        V,
        "f(t, x)",
        "(1, 2)",
        "the shape of the state",
    ),
    Row("sde-time-late", lambda: VP.at(1.5), V, "t:", "1.5", "from 0 (data) to T (noise)"),
    Row("sde-time-early", lambda: VP.marginal(-0.1, X), V, "t:", "-0.1", "times of VPSDE"),
    Row("sde-time-nan", lambda: VP.at(math.nan), V, "t:", "nan", "times of VPSDE"),
    Row("sde-time-text", lambda: VP.at("end"), T, "t:", "'end'", "a time in [0, T]"),
    Row(
        "sde-times-of-another-batch",
        lambda: VP.at(X[:3, 0], like=X),
        V,
        "t:",
        "(3,)",
        "check the batch",
    ),
    Row("transition-backwards", lambda: VP.transition(0.5, 0.1), V, "s:", "0.5", "to noise"),
    Row("perturb-integers", lambda: VP.perturb(0.5, X.long(), X), T, "x0", "int64", ".float()"),
    Row("perturb-eps-shape", lambda: VP.perturb(0.5, X, X[:2]), V, "eps", "(2, 2)", "randn_like"),
    Row("linear-rate-number", lambda: LinearSDE(-1.0, score), T, "rate", "-1.0", "a callable"),
    Row(
        "linear-rate-vector",
        lambda: LinearSDE(lambda t: torch.ones(3), lambda t: 1.0),
        T,
        "rate(",
        "(3,)",
        "0-dim tensor",
    ),
    Row(
        "linear-g-nan",
        lambda: LinearSDE(lambda t: 0.0, lambda t: math.nan),
        V,
        "g(",
        "nan",
        "before the singularity",
    ),
    Row(
        "linear-rate-singular",
        lambda: LinearSDE(lambda t: -1e8 / (1.0001 - t) ** 3, lambda t: 1.0),
        V,
        "rate",
        "is not reached on [6.",
        "end at a T before",
    ),
    Row(
        "linear-no-noise",
        lambda: LinearSDE(lambda t: -1.0, lambda t: 0.0 if t > 0.5 else 1.0),
        V,
        "diffusion",
        "[0.5",
        "g positive",
    ),
    Row("linear-T-zero", lambda: LinearSDE(score, score, T=0), V, "T:", "0", "become noise"),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
