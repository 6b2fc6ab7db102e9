"""Documented defaults: the numbers of the papers and of the docstrings, written a second time."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from shared import public

from scoresde import (
    DDPM,
    FokkerPlanck,
    ReverseSampler,
    doctor,
    elbo,
    likelihood,
    losses,
    noise,
    schedule,
    sde,
    solvers,
)
from scoresde import metrics as m
from scoresde.calibration.search import calibrate
from scoresde.fokker_planck import score_fpe_residual
from scoresde.measurement import GaussianNoise
from scoresde.quantisation import Quantisation
from scoresde.solvers import choice
from scoresde.solvers.dpm_v3.statistics import Statistics
from scoresde.training.ema import EMA

STATED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    # Song et al. 2021; Nichol and Dhariwal 2021; Karras et al. 2022
    "VPSDE": (sde.VPSDE, {"beta_min": 0.1, "beta_max": 20.0}),
    "SubVPSDE": (sde.SubVPSDE, {"beta_min": 0.1, "beta_max": 20.0}),
    "VESDE": (sde.VESDE, {"sigma_min": 0.01, "sigma_max": 50.0}),
    "EDMSDE": (sde.EDMSDE, {"sigma_min": 0.002, "sigma_max": 80.0}),
    "CosineSDE": (sde.CosineSDE, {"s": 0.008}),
    "DDPM.linear": (DDPM.linear, {"N": 1000, "first": None, "last": None}),
    "DDPM.cosine": (DDPM.cosine, {"N": 1000, "s": 0.008, "most": 0.999}),
    "karras": (schedule.grid.karras, {"rho": 7.0}),
    "sigmoid": (schedule.grid.sigmoid, {"width": 3.0}),
    "tapered": (schedule.grid.tapered, {"std": 1.0, "dim": 64}),
    "restart": (schedule.restart, {"times": 1, "steps": 5}),
    "Langevin": (solvers.Langevin, {"snr": 0.16, "steps": 1}),
    "LogNormalTime": (losses.LogNormalTime, {"mean": -0.5, "std": 1.2, "uniform": 0.1}),
    "LossTime": (losses.LossTime, {"uniform": 0.2, "low_discrepancy": True}),
    "ImportanceTime": (losses.ImportanceTime, {"low_discrepancy": True}),
    "UniformTime": (losses.UniformTime, {"low_discrepancy": True}),
    "Quantisation": (Quantisation, {"levels": 256, "low": -1.0, "high": 1.0}),
    # the docstrings of the solvers
    "Adams": (
        solvers.Adams,
        {"order": 1, "corrector": 0, "parametrisation": "x0", "variable": "log_snr"},
    ),
    "Singlestep": (solvers.Singlestep, {"scheme": "2s", "parametrisation": "x0"}),
    "Heun": (solvers.Heun, {"variable": "t"}),
    "EulerMaruyama": (solvers.EulerMaruyama, {"variable": "t"}),
    "AdaptiveODE": (
        solvers.AdaptiveODE,
        {"pair": "dopri5", "rtol": 1e-5, "atol": 1e-5, "sigma_data": 0.5, "max_nfe": 10_000},
    ),
    "AdaptiveSDE": (
        solvers.AdaptiveSDE,
        {"rtol": 1e-2, "atol": 1e-2, "sigma_data": 0.5, "max_nfe": 10_000},
    ),
    "SciPySolver": (solvers.SciPySolver, {"method": "RK45", "rtol": 1e-5, "atol": 1e-5}),
    "TorchSDESolver": (solvers.TorchSDESolver, {"method": "euler", "brownian": "scoresde"}),
    "calibrate": (calibrate, {"method": "optimise", "trajectories": None, "iterations": None}),
    "ReverseSampler.calibrate": (
        ReverseSampler.calibrate,
        {"method": "optimise", "trajectories": None},
    ),
    "Statistics.from_model": (Statistics.from_model, {"nodes": 64}),
    "Statistics.from_data": (Statistics.from_data, {"nodes": 256}),
    "BrownianPath": (noise.BrownianPath, {"eta": 1.0, "depth": 11}),
    "PathOnGrid": (noise.PathOnGrid, {"eta": 1.0, "clock": ""}),
    # likelihoods and densities
    "log_prob": (
        likelihood.log_prob,
        {"divergence": likelihood.Divergence(), "tolerances": likelihood.Tolerances()},
    ),
    "Divergence": (
        likelihood.Divergence,
        {"kind": "hutchinson", "probes": 1, "probe": "rademacher", "control": None},
    ),
    "Tolerances": (
        likelihood.Tolerances,
        {"rtol": 1e-5, "atol": 1e-5, "max_nfe": 10_000},
    ),
    "discrete_log_prob": (
        likelihood.discrete_log_prob,
        {"draws": 5, "importance": 1, "dequantise": "uniform"},
    ),
    "elbo": (elbo, {"decoder": "bins", "samples": 4, "proposal": "log_snr"}),
    "FokkerPlanck": (FokkerPlanck, {"flux": "auto", "edge": 1e-4}),
    "FokkerPlanck.evolve": (FokkerPlanck.evolve, {"tol": 1e-4, "max_steps": 100_000}),
    "score_fpe_residual": (score_fpe_residual, {"divergence": "exact", "probes": 1}),
    "transport_gap": (doctor.transport_gap, {"batches": 8}),
    "EMA": (EMA, {"decay": None, "width": None}),
    # metrics
    "prdc": (m.prdc, {"k": 5}),
    "two_sample_test": (m.two_sample_test, {"classifier": "logistic", "folds": 5}),
    "sliced_wasserstein": (m.sliced_wasserstein, {"projections": 256}),
    "wasserstein": (m.wasserstein, {"order": 2, "limit": 5000}),
    "kernel_distance": (m.kernel_distance, {"subsets": 100, "degree": 3, "coef": 1.0}),
    "compare_sets": (m.compare_sets, {"k": 5, "repeats": 10}),
}


def defaults(fn: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(fn).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize("name", STATED)
def test_a_default_is_the_number_that_is_documented(name: str) -> None:
    fn, stated = STATED[name]
    found = defaults(fn)
    assert {key: found.get(key) for key in stated} == stated


def test_the_default_numbers_of_steps() -> None:
    assert (choice.STEPS, choice.FIRST_ORDER_STEPS) == (50, 500)


PUBLIC = {name: value for name, value in public() if ".cli" not in name}


def test_seeds_and_counters_start_at_zero() -> None:
    """A seed is 0, or None where another argument gives it; all counters start at 0."""
    wrong = {}
    for name, value in PUBLIC.items():
        try:
            found = defaults(value)
        except (TypeError, ValueError):  # a protocol or an alias has no signature
            continue
        for key in {"seed", "first", "segment", "draw", "classes"} & {*found}:
            if found[key] not in (0, None) and name != "scoresde.ddpm.chain.DDPM.linear":
                wrong[name, key] = found[key]
    assert not wrong and len(PUBLIC) > 200


def test_what_has_defaults_for_all_accepts_them() -> None:
    made = 0
    for name, value in PUBLIC.items():
        if not dataclasses.is_dataclass(value) or not inspect.isclass(value):
            continue
        fields = [f for f in dataclasses.fields(value) if f.init]
        missing = dataclasses.MISSING
        if value is GaussianNoise:  # it takes one of three arguments, so none has a default
            continue
        if all(f.default is not missing or f.default_factory is not missing for f in fields):
            assert value() == value(), name
            made += 1
    assert made >= 15
