"""Bad input: one table of faults, and what every error says: the argument, what came, the remedy.

A row is a call that must fail, the type of the error, and three pieces of its message. The
network must not have been called before the error, except where only its answer shows the fault.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    Adams,
    CosineSDE,
    Empirical,
    EulerMaruyama,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Grid,
    Heun,
    LinearSDE,
    Preconditioned,
    Quantisation,
    ReverseSampler,
    ReverseSDE,
    SubVPSDE,
    dsm_loss,
    simulate,
)
from scoresde.data import Data, digits, moons, toy
from scoresde.losses import ImportanceTime, LogNormalTime
from scoresde.nets import MLP, FourierFeatures, UNet, UViT
from scoresde.noise import Independent, PathOnGrid
from scoresde.process import ForwardSDE
from scoresde.schedule.grid import karras, log_snr, quadratic, uniform
from scoresde.solvers import (
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    SciPySolver,
    Singlestep,
    TorchSDESolver,
)
from scoresde.training import EMA, Trainer, load, read_config, save

VP = VPSDE()
OWN = SDE(lambda t, x: x - x**3, lambda t: 0.5, T=2.0)
X = torch.ones(4, 2)
NAN = torch.tensor([[1.0, math.nan]] * 4)
CALLS: list[int] = []


class Net(nn.Module):
    """A network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        CALLS.append(1)
        return self.weight * 0.1 * x


def score(t: Tensor, x: Tensor, **cond: Tensor) -> Tensor:
    CALLS.append(1)
    return -x


NET = Net()
MODEL = Preconditioned(NET, VP)
TWO = GaussianMixture(torch.eye(2), torch.ones(2))
EIGHT = uniform(VP, 8)
MLPS = {k: MLP(2, width=8, classes=k) for k in (0, 3)}
WIDE = Preconditioned(MLP(3, width=8), VP)
IMAGES = UNet(1, width=8)


def sampler(**changes: Any) -> ReverseSampler:
    given = {"sde": VP, "model": MODEL, "solver": "euler_maruyama", "steps": 3, **changes}
    return ReverseSampler(**given)


def sample(shape: Any = (4, 2), *, made: ReverseSampler | None = None, **changes: Any) -> Tensor:
    return (made or sampler()).sample(shape, **{"seed": 0, **changes})


def solve(solver: Any = None, **changes: Any) -> Any:
    """A solver called by hand."""
    given = {"process": ReverseSDE(VP, MODEL), "x": X, "grid": uniform(VP, 3), **changes}
    noise = given.pop("noise", Independent(0))
    chosen = EulerMaruyama() if solver is None else solver
    return chosen.solve(given.pop("process"), given.pop("x"), given.pop("grid"), noise=noise)


def train(**changes: Any) -> Trainer:
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    given = {"model": MODEL, "data": data, "steps": 2, **changes}
    return Trainer(given.pop("model"), given.pop("data"), **given)


class Row(NamedTuple):
    id: str
    call: Callable[[], object]
    error: type[Exception]
    argument: str
    value: str
    remedy: str
    calls: bool = False  # only the network's answer shows the fault


T, V = TypeError, ValueError
ROWS = [
    # SDEs
    Row("vp-beta-zero", lambda: VPSDE(0.0), V, "beta_min", "0.0", "0.1 by default"),
    Row("vp-betas-swapped", lambda: VPSDE(20.0, 0.1), V, "beta_max", "0.1", "swap the two"),
    Row("subvp-beta-nan", lambda: SubVPSDE(0.1, math.nan), V, "beta_max", "nan", "20 by default"),
    Row("ve-sigma-text", lambda: VESDE("0.01"), T, "sigma_min", "'0.01'", "in data units"),
    Row("ve-sigmas-equal", lambda: VESDE(1.0, 1.0), V, "sigma_max", "1.0", "swap the two"),
    Row("edm-sigma-negative", lambda: EDMSDE(-1.0), V, "sigma_min", "-1.0", "sampling ends"),
    Row("cosine-beyond-one", lambda: CosineSDE(T=1.5), V, "T:", "1.5", "nothing is left"),
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
    # grids
    Row("grid-steps-zero", lambda: uniform(VP, 0), V, "steps", "0", "whole number above 0"),
    Row("grid-steps-negative", lambda: log_snr(VP, -5), V, "steps", "-5", "above 0"),
    Row("grid-steps-half", lambda: quadratic(VP, 2.5), T, "steps", "2.5", "whole number"),
    Row("grid-t-end-late", lambda: uniform(VP, 3, t_end=2.0), V, "t_end", "2.0", "to T (noise)"),
    Row(
        "grid-no-length",
        lambda: uniform(VP, 3, t_start=0.001),
        V,
        "t_start, t_end",
        "0.001",
        "move one",
    ),
    Row("grid-no-sde", lambda: uniform("vp", 3), T, "sde", "'vp'", "VPSDE()"),
    Row("grid-to-no-noise", lambda: log_snr(VP, 3, t_end=0.0), V, "t_end", "0", "t_end > 0"),
    Row("grid-rho-zero", lambda: karras(VP, 3, rho=0), V, "rho", "0", "7 is the value"),
    Row("grid-karras-own", lambda: karras(OWN, 3), T, "grid", "FunctionSDE", "grid='uniform'"),
    Row("grid-turns", lambda: Grid.of([1.0, 0.5, 0.7]), V, "grid", "0.5 followed by 0.7", "sort"),
    Row("grid-repeats", lambda: Grid.of([1.0, 0.5, 0.5]), V, "grid", "position 1", "duplicates"),
    Row("grid-one-time", lambda: Grid.of([1.0]), V, "grid", "(1.0,)", "N + 1 times"),
    Row("grid-nan", lambda: Grid.of([1.0, math.nan]), V, "times", "nan", "remove it"),
    Row("times-number", lambda: Grid.of(0.5), T, "grid", "0.5", "[1.0, 0.5, 0.1]"),
    Row("grid-no-segments", lambda: Grid(()), V, "segments", "()", "Grid.of(times)"),
    Row(
        "grid-bare-times", lambda: Grid((1.0, 0.5)), T, "segments", "(1.0, 0.5)", "Grid.of(times)"
    ),
    Row(
        "grid-segments-part",
        lambda: Grid(((1.0, 0.5), (0.2, 0.1))),
        V,
        "segments",
        "from 0.2 after",
        "noisier",
    ),
    # noise
    Row("noise-seed-negative", lambda: Independent(-1), V, "seed", "-1", "seed=0"),
    Row("noise-seed-wide", lambda: Independent(2**63), V, "seed", str(2**63), "seed=0"),
    Row("noise-seed-float", lambda: Independent(1.0), V, "seed", "1.0", "seed=0"),
    Row("noise-first-negative", lambda: Independent(0, -2), V, "first", "-2", "first=0"),
    Row("path-seed", lambda: PathOnGrid("s", VP, [1.0, 0.5]), V, "seed", "'s'", "seed=0"),
    Row("path-empty", lambda: PathOnGrid(0, VP, []), V, "times", "()", "sort the grid"),
    Row("path-turns", lambda: PathOnGrid(0, VP, [1.0, 0.2, 0.5]), V, "times", "0.2", "sort"),
    Row("path-nan", lambda: PathOnGrid(0, VP, [1.0, math.nan]), V, "times", "nan", "remove it"),
    Row("path-late", lambda: PathOnGrid(0, VP, [1.5, 0.5]), V, "t:", "1.5", "times of VPSDE"),
    Row("path-early", lambda: PathOnGrid(0, VP, [1.0, -0.5]), V, "t:", "-0.5", "times of VPSDE"),
    Row("path-at-0", lambda: PathOnGrid(0, VP, [1.0, 0.0]), V, "times", "0.0", "above t = 0"),
    Row("path-eta", lambda: PathOnGrid(0, VP, [1.0, 0.5], -1), V, "eta", "-1", "stochasticity"),
    Row("path-no-sde", lambda: PathOnGrid(0, "vp", [1.0, 0.5]), T, "sde", "'vp'", "walks"),
    Row(
        "path-clock-typo",
        lambda: PathOnGrid(0, VP, [1.0, 0.5], clock="snt"),
        V,
        "clock",
        "'snt'",
        "did you mean 'snr'",
    ),
    Row(
        "path-clock-own",
        lambda: PathOnGrid(0, OWN, [1.0, 0.5], clock="snr"),
        V,
        "clock",
        "'snr'",
        "leave it out",
    ),
    Row(
        "path-off-grid",
        lambda: sample(noise=PathOnGrid(0, VP, [1.0, 0.5, 0.001]), seed=None),
        V,
        "times",
        "0.6",
        "a finest grid that holds every node",
    ),
    # models
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
    # networks
    Row("mlp-dim", lambda: MLP(0), V, "dim", "0", "above 0"),
    Row("mlp-width", lambda: MLP(2, width=1.5), T, "width", "1.5", "above 0"),
    Row("mlp-classes", lambda: MLP(2, classes=-3), V, "classes", "-3", "0 for none"),
    Row("mlp-t-shape", lambda: MLPS[0](X, X), V, "t:", "(4, 2)", "one time per sample"),
    Row("mlp-no-labels", lambda: MLPS[0](X, X[:, 0], X[:, 0]), T, "label", "(4,)", "classes=..."),
    Row(
        "mlp-labels-float",
        lambda: MLPS[3](X, X[:, 0], X[:, 0]),
        T,
        "label",
        "float32",
        ".long()",
    ),
    Row("fourier-odd", lambda: FourierFeatures(5), V, "dim", "5", "pass 6"),
    Row("unet-levels", lambda: UNet(1, multipliers=()), V, "multipliers", "()", "single level"),
    Row("unet-heads", lambda: UNet(1, width=8, heads=3), V, "heads", "3", "pass heads=1"),
    Row("unet-attention", lambda: UNet(1, attention=(7,)), V, "attention", "(7,)", "by index"),
    Row("unet-dropout", lambda: UNet(1, dropout=1.0), V, "dropout", "1.0", "0.0 for none"),
    Row(
        "unet-image",
        lambda: IMAGES(torch.zeros(2, 3, 8, 8), torch.zeros(2)),
        V,
        "x:",
        "(2, 3, 8, 8)",
        "build the network for this shape",
    ),
    Row("uvit-patch", lambda: UViT(1, size=9, patch=2), V, "size", "9", "another patch"),
    Row("uvit-heads", lambda: UViT(1, size=8, width=30), V, "heads", "4", "heads=1"),
    # oracles
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
    # processes and solvers
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
        "only EulerMaruyama",
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
    # ReverseSampler
    Row("sampler-sde-class", lambda: sampler(sde=VPSDE), T, "sde", "VPSDE", "pass an SDE such"),
    Row(
        "sampler-other-sde",
        lambda: sampler(sde=VPSDE(0.1, 10.0)),
        V,
        "sde",
        "beta_max=10.0",
        "was trained for",
    ),
    Row(
        "sampler-raw-net",
        lambda: sampler(model=NET),
        T,
        "model",
        "Net()",
        "Preconditioned(net, sde)",
    ),
    Row(
        "sampler-no-model", lambda: sampler(model=None), T, "model", "None", "a function of (t, x)"
    ),
    Row(
        "sampler-class",
        lambda: sampler(model=Preconditioned),
        T,
        "model",
        "class",
        "Preconditioned(net, sde)",
    ),
    Row("solver-typo", lambda: sampler(solver="hein"), V, "solver", "'hein'", "'heun'?"),
    Row("solver-ddmi", lambda: sampler(solver="ddmi"), V, "solver", "'ddmi'", "'ddim'?"),
    Row("solver-class", lambda: sampler(solver=Heun), T, "solver", "Heun", "ddim"),
    Row("steps-zero", lambda: sampler(steps=0), V, "steps", "0", "above 0"),
    Row("steps-negative", lambda: sampler(steps=-3), V, "steps", "-3", "above 0"),
    Row("steps-half", lambda: sampler(steps=2.5), T, "steps", "2.5", "whole number"),
    Row("steps-true", lambda: sampler(steps=True), T, "steps", "True", "whole number"),
    Row("grid-typo", lambda: sampler(grid="unifrom"), V, "grid", "'unifrom'", "mean 'uniform'"),
    Row("grid-of-number", lambda: sampler(grid=0.5), T, "grid", "0.5", "[1.0, 0.5, 0.1]"),
    Row("grid-beyond-T", lambda: sampler(grid=[1.2, 0.5], steps=None), V, "grid", "1.2", "to T"),
    Row(
        "grid-below-0", lambda: sampler(grid=[1.0, -0.5], steps=None), V, "grid", "-0.5", "from 0"
    ),
    Row("grid-other-steps", lambda: sampler(grid=[1.0, 0.5]), V, "steps", "3", "leave steps out"),
    Row(
        "grid-other-end",
        lambda: sampler(grid=[1.0, 0.5], steps=None, t_end=0.1),
        V,
        "t_end",
        "0.1",
        "leave t_end out",
    ),
    Row(
        "grid-uphill",
        lambda: sampler(grid=[0.1, 1.0], steps=None),
        V,
        "grid",
        "from 0.1 up to 1",
        "set eta=0",
    ),
    Row("t-end-late", lambda: sampler(t_end=1.5), V, "t_end", "1.5", "times of VPSDE"),
    Row("t-end-nan", lambda: sampler(t_end=math.nan), V, "t_end", "nan", "times of VPSDE"),
    Row("t-end-text", lambda: sampler(t_end="0"), T, "t_end", "'0'", "in [0, T]"),
    Row("eta-negative", lambda: sampler(eta=-1.0), V, "eta", "-1.0", "0 is the ODE"),
    Row("eta-text", lambda: sampler(eta="1"), T, "eta", "'1'", "0 is the ODE"),
    Row("eta-for-heun", lambda: sampler(solver="heun", eta=1.0), V, "eta", "> 0", "set eta=0"),
    Row(
        "scipy-eta-function",
        lambda: sampler(solver="scipy", eta=lambda t: t),
        V,
        "eta",
        "> 0",
        "set eta=0",
    ),
    Row(
        "eta-function-negative",
        lambda: sampler(eta=lambda t: t - 0.5),
        V,
        "eta(0.0",
        "-0.4",
        "values >= 0",
    ),
    Row(
        "eta-for-sra1",
        lambda: sampler(solver="sra1", eta=0.5),
        V,
        "eta",
        "0.5",
        "set eta=1",
    ),
    Row("eta-for-dpm", lambda: sampler(solver="dpm_solver_2", eta=1.0), V, "eta", "> 0", "eta=0"),
    Row(
        "own-unipc",
        lambda: sampler(sde=OWN, model=score, solver="unipc_2"),
        T,
        "sde",
        "FunctionSDE",
        "TorchSDESolver need only",
    ),
    Row(
        "eta-function-none",
        lambda: sampler(eta=lambda t: None),
        T,
        "eta(1)",
        "None",
        "a function of t",
    ),
    Row("denoise-text", lambda: sampler(denoise="no"), T, "denoise", "'no'", "True, False"),
    Row(
        "denoise-own",
        lambda: sampler(sde=OWN, model=score, denoise=True),
        T,
        "denoise",
        "True",
        "leave denoise out",
    ),
    Row(
        "own-ddim",
        lambda: sampler(sde=OWN, model=score, solver="ddim"),
        T,
        "sde",
        "FunctionSDE",
        "EulerMaruyama, SciPySolver and TorchSDESolver",
    ),
    Row(
        "own-reverse-diffusion",
        lambda: sampler(sde=OWN, model=score, solver=ReverseDiffusion()),
        T,
        "sde",
        "FunctionSDE",
        "need only f, g",
    ),
    Row(
        "own-langevin",
        lambda: sampler(sde=OWN, model=score, solver=PredictorCorrector(EulerMaruyama())),
        T,
        "step",
        "None",
        "Langevin(step=...)",
    ),
    Row(
        "own-log-snr",
        lambda: sampler(sde=OWN, model=score, grid="log_snr"),
        T,
        "grid",
        "FunctionSDE",
        "grid='uniform'",
    ),
    Row(
        "own-no-prior",
        lambda: sample(made=sampler(sde=OWN, model=score)),
        T,
        "x_init",
        "FunctionSDE knows no prior",
        "pass x_init",
    ),
    # ReverseSampler.sample
    Row("shape-number", lambda: sample(16), T, "shape", "16", "(16, 2)"),
    Row("shape-flat", lambda: sample((16,)), V, "shape", "(16,)", "(16, 2)"),
    Row("shape-zero", lambda: sample((0, 2)), V, "shape", "0", "sizes above 0"),
    Row("shape-half", lambda: sample((1.5, 2)), T, "shape", "1.5", "sizes above 0"),
    Row("seed-negative", lambda: sample(seed=-1), V, "seed", "-1", "seed=0"),
    Row("seed-wide", lambda: sample(seed=2**64), V, "seed", str(2**64), "seed=0"),
    Row("seed-true", lambda: sample(seed=True), V, "seed", "True", "seed=0"),
    Row(
        "seed-and-noise",
        lambda: sample(noise=Independent(1), seed=2),
        V,
        "seed",
        "2",
        "leave seed out",
    ),
    Row("first-negative", lambda: sample(first=-1), V, "first", "-1", "first=0"),
    Row("first-text", lambda: sample(first="3"), V, "first", "'3'", "first=0"),
    Row("noise-typo", lambda: sample(noise="indep"), V, "noise", "'indep'", "'independent'?"),
    Row("x-init-shape", lambda: sample(x_init=X[:3]), V, "x_init", "(3, 2)", "agree"),
    Row("x-init-nan", lambda: sample(x_init=NAN), V, "x_init", "NaN", "check how it was made"),
    Row("x-init-integers", lambda: sample(x_init=X.long()), T, "x_init", "int64", ".float()"),
    Row(
        "x-init-array",
        lambda: sample(x_init=X.numpy()),
        T,
        "x_init",
        "float32 array",
        "torch.as_tensor",
    ),
    Row("t-start-alone", lambda: sample(t_start=0.5), V, "x_init", "None", "that of T = 1"),
    Row("t-start-late", lambda: sample(t_start=1.5, x_init=X), V, "t_start", "1.5", "to T"),
    Row("t-start-at-end", lambda: sample(t_start=0.001, x_init=X), V, "t_start", "0.001", "move"),
    Row(
        "t-start-below-end",
        lambda: sample(t_start=0.0005, x_init=X),
        V,
        "grid",
        "from 0.0005 up to 0.001",
        "set eta=0",
    ),
    Row(
        "t-start-own-grid",
        lambda: sample(made=sampler(grid=EIGHT, steps=8), t_start=0.5, x_init=X),
        V,
        "t_start",
        "0.5",
        "leave t_start out",
    ),
    Row(
        "cond-length",
        lambda: sample(cond={"label": torch.zeros(3)}),
        V,
        "cond",
        "(3,)",
        "one entry per sample",
    ),
    Row(
        "cond-scalar",
        lambda: sample(cond={"y": torch.tensor(1)}),
        V,
        "cond['y']",
        "1",
        "one entry per sample",
    ),
    Row(
        "cond-list",
        lambda: sample(cond={"y": [1, 2, 3, 4]}),
        V,
        "cond['y']",
        "[1, 2",
        "one entry per sample",
    ),
    Row("cond-tensor", lambda: sample(cond=X), T, "cond", "(4, 2)", "name -> tensor"),
    Row("batch-size-zero", lambda: sample(batch_size=0), V, "batch_size", "0", "above 0"),
    Row("batch-size-half", lambda: sample(batch_size=1.5), T, "batch_size", "1.5", "above 0"),
    Row("dtype-integer", lambda: sample(dtype=torch.int64), V, "dtype", "int64", "torch.float32"),
    Row("dtype-text", lambda: sample(dtype="float32"), T, "dtype", "'float32'", "torch.float32"),
    Row("device-typo", lambda: sample(device="gpu"), V, "device", "'gpu'", "pass 'cpu'"),
    Row("hook-number", lambda: sample(on_step=3), T, "on_step", "3", "function of (node, x)"),
    Row(
        "hook-number-and-bar",
        lambda: sample(on_step=3, progress=True),
        T,
        "on_step",
        "3",
        "or None",
    ),
    Row(
        "hook-for-scipy",
        lambda: sample(made=sampler(solver="scipy"), on_step=lambda node, x: x),
        V,
        "on_step",
        "a hook",
        "use a native solver",
    ),
    Row(
        "torchsde-hook",
        lambda: sample(made=sampler(solver="torchsde"), on_step=lambda node, x: x),
        V,
        "on_step",
        "a hook",
        "use a native solver",
    ),
    Row(
        "hook-shape",
        lambda: sample(on_step=lambda node, x: x[0]),
        V,
        "on_step",
        "(2,)",
        "return the new state",
        calls=True,
    ),
    Row(
        "hook-nan",
        lambda: sample(on_step=lambda node, x: x / 0 if node.t < 0.5 else None),
        V,
        "on_step",
        "4 of 4 samples",
        "mend the hook",
        calls=True,
    ),
    # simulate
    Row("simulate-sde", lambda: simulate(MODEL, X), T, "sde", "Preconditioned", "VPSDE()"),
    Row("simulate-nan", lambda: simulate(VP, NAN), V, "x0", "NaN", "clean the data"),
    Row("simulate-flat", lambda: simulate(VP, X[0]), V, "x0", "(2,)", "batch axis"),
    Row("simulate-empty", lambda: simulate(VP, X[:0]), V, "x0", "(0, 2)", "batch axis"),
    Row("simulate-integers", lambda: simulate(VP, X.int()), T, "x0", "int32", ".float()"),
    Row("simulate-down", lambda: simulate(VP, X, [1.0, 0.5]), V, "grid", "down to 0.5", "reverse"),
    Row("simulate-grid", lambda: simulate(VP, X, "karas"), V, "grid", "'karas'", "mean 'karras'"),
    Row("simulate-steps", lambda: simulate(VP, X, steps=0), V, "steps", "0", "above 0"),
    Row("simulate-seed", lambda: simulate(VP, X, seed=0.5), V, "seed", "0.5", "seed=0"),
    Row(
        "simulate-explodes",
        lambda: simulate(SDE(lambda t, x: x**9, lambda t: 0.0), 9 * X, [0.0, 0.5, 1.0], seed=0),
        V,
        "sde: expected a finite state at step 2, from t = 0.5 to t = 1",
        "4 of 4 samples",
        "take more steps",
    ),
    # loss
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
        "one entry per sample",
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
    # data
    Row("data-empty", lambda: Data(X[:0]), V, "x:", "(0, 2)", "check what was loaded"),
    Row("data-flat", lambda: Data(X[0]), V, "x:", "(2,)", "x[:, None]"),
    Row("data-integers", lambda: Data(X.long()), T, "x:", "int64", "Quantisation"),
    Row("data-nan", lambda: Data(NAN), V, "x:", "nan in row 0", "4 bad row(s)"),
    Row("data-constant", lambda: Data(X), V, "x:", "channel 0", "drop channel 0"),
    Row(
        "data-labels",
        lambda: Data(torch.eye(2), {"label": torch.tensor([0, 7])}, classes=3),
        V,
        "label",
        "7",
        "renumber",
    ),
    Row("data-split", lambda: Data(torch.eye(2)).split(1.0), V, "fraction", "1.0", "e.g. 0.8"),
    Row("data-toy", lambda: toy("moon", 5), V, "name", "'moon'", "did you mean 'moons'"),
    Row("data-toy-size", lambda: moons(-5), V, "n:", "-5", "above 0"),
    Row("data-digits", lambda: digits("tests"), V, "split", "'tests'", "did you mean 'test'"),
    Row("quantisation-levels", lambda: Quantisation(1), V, "levels", "1", "e.g. 256"),
    Row("quantisation-range", lambda: Quantisation(4, 1.0, -1.0), V, "high", "-1.0", "low < high"),
    Row(
        "quantisation-encode",
        lambda: Quantisation(4).encode(torch.tensor([0, 9])),
        V,
        "k:",
        "9",
        "raise levels",
    ),
    Row(
        "quantisation-decode", lambda: Quantisation(4).decode(X.int()), T, "x:", "int32", "already"
    ),
    Row(
        "quantisation-decode-nan",
        lambda: Quantisation(4).decode(NAN),
        V,
        "x:",
        "nan",
        "sampler diverged",
    ),
    Row(
        "quantisation-fields",
        lambda: Quantisation.from_dict({"low": 0}),
        V,
        "fields",
        "low",
        "Quantisation.to_dict",
    ),
    # training
    Row("train-raw-net", lambda: train(model=NET), T, "model", "Net", "Preconditioned(net, sde)"),
    Row(
        "train-function",
        lambda: train(model=FunctionScore(VP, score)),
        V,
        "model",
        "none",
        "wrap a network",
    ),
    Row("train-steps", lambda: train(steps=0), V, "steps", "0", "above 0"),
    Row("train-batch", lambda: train(batch_size=2.5), T, "batch_size", "2.5", "above 0"),
    Row("train-lr", lambda: train(lr=0.0), V, "lr", "0.0", "above 0"),
    Row("train-ema", lambda: train(ema=1.0), V, "ema", "1.0", "0.999 averages"),
    Row("train-seed", lambda: train(seed=-1), V, "seed", "-1", "seed=0"),
    Row("train-loss", lambda: train(loss="dsm"), T, "loss", "'dsm'", "pass dsm_loss"),
    Row(
        "train-weighting",
        lambda: train(weighting="minsnr"),
        V,
        "weighting",
        "'minsnr'",
        "did you mean 'min_snr'",
    ),
    Row("train-time", lambda: train(time="uniform"), T, "time", "'uniform'", "UniformTime()"),
    Row("train-dropout", lambda: train(cond_dropout=1.5), V, "cond_dropout", "1.5", "e.g. 0.1"),
    Row("train-warmup", lambda: train(warmup=-1), V, "warmup", "-1", "0 or a number above"),
    Row(
        "train-schedule",
        lambda: train(schedule="cosin"),
        V,
        "schedule",
        "'cosin'",
        "mean 'cosine'",
    ),
    Row("train-clip", lambda: train(clip=0), V, "clip", "0", "None for no clipping"),
    Row("train-precision", lambda: train(precision="bf"), V, "precision", "'bf'", "mean 'bf16'"),
    Row("train-device", lambda: train(device="gpu"), V, "device", "'gpu'", "pass 'cpu'"),
    Row("train-accumulate", lambda: train(accumulate=0), V, "accumulate", "0", "above 0"),
    Row("train-board", lambda: train(tensorboard=True), V, "tensorboard", "True", "out='runs"),
    Row("train-empty", lambda: train(data=X[:0]), V, "x:", "(0, 2)", "check what was loaded"),
    Row("train-constant", lambda: train(data=X), V, "x:", "channel 0", "drop channel 0"),
    Row("train-nan", lambda: train(data=NAN), V, "x:", "nan", "drop or repair"),
    Row("train-resume", lambda: train().fit(resume=True), V, "resume", "None", "out='runs/name'"),
    Row(
        "train-shape",
        lambda: train(model=WIDE, device="cpu").fit(),
        V,
        "data",
        "(128, 2)",
        "build the network for this data",
    ),
    Row("ema-decay", lambda: EMA(NET, -0.1), V, "decay", "-0.1", "pass 0 or a number above"),
    Row("save-raw-net", lambda: save(NET, "runs/none"), T, "model", "Net", "Preconditioned model"),
    Row(
        "load-missing",
        lambda: load("runs/none"),
        FileNotFoundError,
        "path",
        "'runs/none'",
        "config.json",
    ),
    Row(
        "config-missing",
        lambda: read_config("runs/none"),
        FileNotFoundError,
        "path",
        "'runs/none'",
        "config.json",
    ),
]


FORM = re.compile(r"expected .+, got .+; .+", re.DOTALL)
OWN_WORDS = {"linear-rate-singular", "linear-no-noise", "own-no-prior"}
"""The form of a message, and those that say it in a sentence."""


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    CALLS.clear()
    yield
    CALLS.clear()


def whole(piece: str) -> re.Pattern[str]:
    """A piece of a message from the start of a word to the end of one; decimals may go on."""
    start = r"\b" if re.match(r"\w", piece) else ""
    end = r"\b" if re.search(r"\w$", piece) else ""
    decimals = r"\d*" if re.search(r"\.\d+$", piece) else ""
    return re.compile(start + re.escape(piece) + decimals + end)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_error_says_argument_value_and_remedy(row: Row) -> None:
    state, mode = torch.get_rng_state(), MODEL.training
    with pytest.raises(row.error) as caught:
        row.call()
    assert type(caught.value) is row.error  # not one that merely derives from it
    message = str(caught.value)
    for piece in (row.argument, row.value, row.remedy):
        assert whole(piece).search(message), message
    assert FORM.search(message) or row.id in OWN_WORDS, message
    assert message.index(row.argument) < message.rindex(row.remedy), message
    assert len(message) < 1000, message
    assert row.calls or not CALLS
    assert MODEL.training is mode and torch.equal(torch.get_rng_state(), state)


def test_table_is_long_enough_and_has_no_doubles() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) >= 75
    places = [(row.id.split("-")[0], row.argument, row.value, row.remedy) for row in ROWS]
    assert len(set(places)) == len(places)
    for row in ROWS:  # a remedy is a word at least
        assert len(row.remedy) >= 4, row.id


# What is not one call: files


def saved(folder: Path, net: nn.Module) -> Path:
    return save(Preconditioned(net, VP), folder / "model")


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    place = saved(tmp_path, MLP(2, width=8))
    with pytest.raises(ValueError, match="build MLP as it was") as caught:
        load(place, net=MLP(2, width=16))
    message = str(caught.value)
    assert "(8, 8) for (16, 16)" in message and str(place) in message
    assert "build MLP as it was when the checkpoint was saved" in message


@pytest.mark.parametrize(
    ("arguments", "error", "pieces"),
    [
        ({"sde": VESDE()}, ValueError, ("sde", "VESDE", "pass the SDE that the model")),
        ({"sde": "vp"}, TypeError, ("sde", "'vp'", "pass the SDE itself")),
        ({"net": MODEL}, TypeError, ("net", "Preconditioned", "pass model.net")),
        ({"net": "mlp"}, TypeError, ("net", "'mlp'", "pass the network")),
    ],
)
def test_load_refuses(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], pieces: tuple[str, ...]
) -> None:
    place = saved(tmp_path, MLP(2, width=8))
    with pytest.raises(error) as caught:
        load(place, **arguments)
    assert all(piece in str(caught.value) for piece in pieces), caught.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    place = saved(tmp_path, MLP(2, width=8))
    (place / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load(place)
    assert "model.safetensors" in str(caught.value) and str(place) in str(caught.value)
    assert "copy the whole folder" in str(caught.value)


# NaN that arises on the way: found by replay, with step and time


class Poisoned(nn.Module):
    """A network that answers NaN from its call number `call` on, or below the time `below`."""

    def __init__(self, below: float = -1.0, rows: slice = slice(None)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.below, self.rows, self.times = below, rows, []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        out = 0.1 * self.weight * x
        if self.times[-1] < self.below:
            out[self.rows] = math.nan
        return out


GRID = Grid.of([1.0, 0.8, 0.6, 0.4, 0.2, 0.1])


@pytest.mark.parametrize(
    ("solver", "below", "step", "before", "after", "calls"),
    [
        # the score at 0.4 is the first below 0.5: Euler-Maruyama leaves 0.4 on step 4
        ("euler_maruyama", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("ancestral", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("reverse_diffusion", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("ddim", 0.5, 4, 0.4, 0.2, 5 + 1 + 4),
        ("euler", 0.9, 2, 0.8, 0.6, 5 + 1 + 2),
        # Heun and the corrector already ask at 0.4 on step 3, which ends there
        ("heun", 0.5, 3, 0.6, 0.4, 10 + 1 + 6),
        ("predictor_corrector", 0.5, 3, 0.6, 0.4, 10 + 1 + 6),
        ("torchsde", 0.5, 4, 0.4, 0.2, 5 + 1 + 5),
    ],
)
def test_nan_scores_are_reported_with_step_and_time(
    solver: str, below: float, step: int, before: float, after: float, calls: int
) -> None:
    net = Poisoned(below, rows=slice(2, None))
    found = ReverseSampler(VP, Preconditioned(net, VP), solver, grid=GRID)
    with pytest.raises(ValueError, match="expected finite scores") as caught:
        found.sample((5, 3), seed=0)
    message = str(caught.value)
    assert f"model: expected finite scores at step {step}, " in message
    assert f"from t = {before:g} to t = {after:g}, got" in message
    assert "3 of 5 samples, first in 2'" in message
    assert "check the model's output there" in message
    assert len(net.times) == calls  # the run, its denoising, and the replay up to the fault


def test_nan_scores_under_scipy_name_the_very_evaluation() -> None:
    net = Poisoned(0.5)
    found = ReverseSampler(VP, Preconditioned(net, VP), "scipy", grid=GRID)
    with pytest.raises(ValueError, match="expected finite scores") as caught:
        found.sample((5, 3), seed=0)
    t = net.times[-1]
    assert [time < 0.5 for time in net.times] == [False] * (len(net.times) - 1) + [True]
    step = next(i for i, node in enumerate(GRID.times[1:], 1) if t >= node)
    assert f"model: expected finite scores in step {step}, at t = {t:.6g}, got" in str(
        caught.value
    )


def test_sample_number_is_that_of_the_seed() -> None:
    """With batch_size and first, the error names the sample as the seed numbers it."""

    def broken(t: Tensor, x: Tensor, which: Tensor) -> Tensor:
        return torch.where(which[:, None] == 7, math.nan, -x)

    found = ReverseSampler(VP, broken, "ddim", grid=GRID)
    with pytest.raises(ValueError, match=r"at step 1, from t = 1 to t = 0.8.*first in 107'"):
        found.sample((9, 2), seed=0, batch_size=3, first=100, cond={"which": torch.arange(9)})


def test_nan_on_a_second_leg_is_given_its_own_times() -> None:
    net = Poisoned(0.15)
    grid = Grid(((1.0, 0.5, 0.2), (0.5, 0.3, 0.1, 0.05)))
    with pytest.raises(ValueError, match=r"at step 5, from t = 0.1 to t = 0.05"):
        ReverseSampler(VP, Preconditioned(net, VP), "ddim", grid=grid).sample((2, 2), seed=0)


def test_nan_in_the_denoising_alone_says_so() -> None:
    net = Poisoned(0.15)
    found = ReverseSampler(VP, Preconditioned(net, VP), "ddim", grid=GRID)
    with pytest.raises(ValueError, match=r"finite scores in the final denoising at t = 0.1"):
        found.sample((2, 2), seed=0)
    assert len(net.times) == 2 * 6


def test_a_model_that_answers_otherwise_in_the_replay_is_named() -> None:
    calls = itertools.count()

    def moody(t: Tensor, x: Tensor) -> Tensor:
        return -x / (0 if next(calls) == 2 else 1)

    with pytest.raises(ValueError, match=r"model: .*the same scores in a replay.*model\.eval\(\)"):
        ReverseSampler(VP, moody, "ddim", grid=GRID).sample((2, 2), seed=0)


@pytest.mark.parametrize(
    ("solver", "calls"),
    [("euler_maruyama", 6), ("heun", 11), ("predictor_corrector", 11), ("torchsde", 6)],
)
def test_a_good_run_pays_nothing_for_the_check(solver: str, calls: int) -> None:
    net = Poisoned()
    found = ReverseSampler(VP, Preconditioned(net, VP), solver, grid=GRID)
    assert found.solve((4, 2), seed=0).nfe == len(net.times) == calls


@pytest.mark.parametrize("solver", ["euler_maruyama", "heun", "scipy", "torchsde"])
def test_after_an_error_nothing_is_lost(solver: str) -> None:
    net = Poisoned()
    model = Preconditioned(net, VP).train()
    found = ReverseSampler(VP, model, solver, grid=GRID)
    expected = found.sample((4, 2), seed=0)
    net.below = 0.5
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="finite scores"):
        found.sample((4, 2), seed=0)
    with pytest.raises(ValueError, match="x_init"):
        found.sample((4, 2), seed=0, x_init=NAN)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and net.training and torch.is_grad_enabled()
    net.below = -1.0
    assert torch.equal(found.sample((4, 2), seed=0), expected)


def test_numpy_arrays_are_refused_by_name_where_tensors_are_meant() -> None:
    with pytest.raises(TypeError, match=r"x0: .*float64 array of shape \(4, 2\).*torch.as_tensor"):
        simulate(VP, np.ones((4, 2)))
