"""Bad input of processes and solvers."""

from __future__ import annotations

import math

from bad_input import MODEL, VP, Row, T, V, X, check, each, sample, sampler, score, solve

from scoresde import VESDE, Adams, Grid, Heun, ReverseSDE
from scoresde.process import ForwardSDE
from scoresde.solvers import Langevin, PredictorCorrector, SciPySolver, Singlestep, TorchSDESolver

ROWS = [
    Row("process-no-sde", lambda: ReverseSDE("vp", MODEL), T, "sde", "'vp'", "VPSDE()"),
    Row(
        "process-function", lambda: ReverseSDE(VP, score), T, "model", "function", "FunctionScore"
    ),
    Row(
        "process-other-sde",
        lambda: ReverseSDE(VESDE(), MODEL),
        V,
        "sde",
        "VESDE(",
        "the SDE that the model was trained for",
    ),
    Row("process-eta", lambda: ReverseSDE(VP, MODEL, -0.5), V, "eta", "-0.5", "0 is the ODE"),
    Row("forward-no-sde", lambda: ForwardSDE(0.5), T, "sde", "0.5", "VPSDE()"),
    Row("solve-integers", lambda: solve(x=X.long()), T, "x:", "int64", ".float()"),
    Row("solve-grid-list", lambda: solve(grid=[1.0, 0.5]), T, "grid", "[1.0, 0.5]", "Grid.of"),
    Row("solve-noise-seed", lambda: solve(noise=0), T, "noise", "int: 0", "Independent(seed)"),
    Row(
        "solve-process",
        lambda: solve(process=MODEL),
        T,
        "process",
        "Preconditioned",
        "ReverseSDE(sde,",
    ),
    Row("solve-grid-late", lambda: solve(grid=Grid.of([2.0, 0.5])), V, "grid", "2.0", "to T"),
    Row(
        "solve-uphill",
        lambda: solve(grid=Grid.of([0.1, 0.5])),
        V,
        "grid",
        "from 0.1 up to 0.5",
        "set eta=0 to encode",
    ),
    Row(
        "solve-forward-down",
        lambda: solve(process=ForwardSDE(VP)),
        V,
        "grid",
        "from 1 down to 0.001",
        "reverse the grid",
    ),
    Row(
        "solve-forward-ddim",
        lambda: solve(Adams(1), process=ForwardSDE(VP), grid=Grid.of([0.1, 0.5])),
        T,
        "process",
        "ForwardSDE",
        "EulerMaruyama and TorchSDESolver",
    ),
    Row(
        "adams-history",
        lambda: sampler(solver="unipc_3", steps=2),
        V,
        "order",
        "3",
        "take more steps",
    ),
    Row("adams-order", lambda: Adams(6), V, "order", "6", "higher orders are unstable"),
    Row("adams-corrector", lambda: Adams(2, 1), V, "corrector", "1", "order + 1"),
    Row(
        "adams-parametrisation",
        lambda: Adams(2, parametrisation="epx"),
        V,
        "parametrisation",
        "'epx'",
        "mean 'eps'",
    ),
    Row(
        "adams-clock",
        lambda: Adams(2, variable="logsnr"),
        V,
        "variable",
        "'logsnr'",
        "mean 'log_snr'",
    ),
    Row(
        "adams-variant",
        lambda: Adams(2, variant="bh"),
        V,
        "variant",
        "'bh'",
        "did you mean 'bh2'?",
    ),
    Row("singlestep-scheme", lambda: Singlestep("res2s"), V, "scheme", "'res2s'", "'res_2s'?"),
    Row(
        "singlestep-parametrisation",
        lambda: Singlestep("2s", "v"),
        V,
        "parametrisation",
        "'v'",
        "for example 'eps'",
    ),
    Row("langevin-snr", lambda: Langevin(-0.1), V, "snr", "-0.1", "0.16 is Song's"),
    Row("langevin-steps", lambda: Langevin(steps=0), V, "steps", "0", "per correction"),
    Row("langevin-step", lambda: Langevin(step=0.0), V, "step", "0.0", "of the Langevin"),
    Row(
        "langevin-step-function",
        lambda: sample(
            made=sampler(solver=PredictorCorrector(Adams(1), Langevin(step=lambda t: -t)))
        ),
        V,
        "step(",
        "-0.6",
        "mend the function",
        calls=True,
    ),
    Row(
        "pc-of-scipy",
        lambda: PredictorCorrector(SciPySolver()),
        T,
        "predictor",
        "SciPySolver",
        "Adams(1)",
    ),
    Row(
        "pc-corrector",
        lambda: PredictorCorrector(Heun(), 0.16),
        T,
        "corrector",
        "0.16",
        "Langevin()",
    ),
    Row("scipy-method", lambda: SciPySolver("RK4"), V, "method", "'RK4'", "did you mean 'RK45'"),
    Row("scipy-rtol", lambda: SciPySolver(rtol=0), V, "rtol", "0", "such as 1e-5"),
    Row("scipy-atol", lambda: SciPySolver(atol=math.inf), V, "atol", "inf", "such as 1e-5"),
    Row("torchsde-method", lambda: TorchSDESolver("eular"), V, "method", "'eular'", "'euler'?"),
    Row(
        "torchsde-brownian",
        lambda: TorchSDESolver(brownian="intervall"),
        V,
        "brownian",
        "'intervall'",
        "did you mean 'interval'",
    ),
]


@each(ROWS)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    check(row)
