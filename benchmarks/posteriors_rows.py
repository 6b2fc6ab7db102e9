"""The methods that `posteriors.py` compares: a name, a function, and the settings that matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks import posteriors_azula as azula
from benchmarks import posteriors_deepinv as deepinv
from benchmarks.posteriors_problems import COUNT, F64, SETS, SLICES, SOLVER, Problem
from scoresde import Gaussian, ReverseSampler, ScoreModel
from scoresde.measurement import Measurement
from scoresde.posterior import DAPS, DDRM, DPS, MMPS, TMPD, PiGDM
from scoresde.smc import TwistedSampler

__all__ = ["BIAS", "DEEPINV", "EXACT", "PEERS", "ROWS", "Row", "settings_of", "twisted_name"]

Found = dict[str, Any]
"""x: samples (COUNT, D), and for the twisted sampler its error of log p(y) and the stated one."""

STEPS = 300
EXACT = "exact score"
PEERS, DEEPINV = "azula ", "deepinv "


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        run: from a problem and a seed to samples.
        settings: what a figure depends on; a kept one of other settings is measured anew.
    """

    run: Callable[[Problem, int], Found]
    settings: dict[str, Any] = field(default_factory=dict)


def settings_of(row: Row, problem: Problem) -> dict[str, Any]:
    """The settings of a row on the problems of a cell."""
    metric = {"sde": repr(problem.sde), "samples": COUNT, "slices": SLICES, "sets": SETS}
    rough = {"error": problem.error} if problem.error else {}
    return {**metric, **rough, **row.settings}


def _guided(make: Callable[[Problem], ScoreModel]) -> Row:
    """A posterior score model, sampled by the reverse SDE."""

    def run(problem: Problem, seed: int) -> Found:
        sampler = ReverseSampler(problem.sde, make(problem), SOLVER, steps=STEPS)
        return {"x": sampler.sample((COUNT, problem.dim), seed=seed, dtype=F64)}

    return Row(run, {"solver": SOLVER, "steps": STEPS})


def _wrapping(method: Callable[[ScoreModel, Measurement], ScoreModel]) -> Row:
    return _guided(lambda problem: method(problem.model, problem.measurement))


def _twisted(steps: int, particles: int) -> Row:
    def run(problem: Problem, seed: int) -> Found:
        sampler = TwistedSampler(
            problem.model,
            problem.measurement,
            particles=particles,
            solver=SOLVER,
            steps=steps,
            twist="jacobian",
        )
        found = sampler.sample((1, problem.dim), seed=seed, dtype=F64)
        return {
            "x": found.resample(COUNT, seed=seed)[0],
            "log_evidence": float(found.log_evidence[0] - problem.exact.log_evidence()),
            "stated": float(found.log_evidence_error[0]),
        }

    settings = {"solver": SOLVER, "steps": steps, "particles": particles, "twist": "jacobian"}
    return Row(run, settings)


def twisted_name(steps: int, particles: int = COUNT) -> str:
    """The name of a row of the twisted sampler."""
    return f"twisted, {steps} steps" + (f", K = {particles}" if particles != COUNT else "")


def _pigdm_by_moments(problem: Problem) -> ScoreModel:
    """PiGDM with the mean and the covariance of the data."""
    prior = problem.prior
    if not isinstance(prior, Gaussian):
        centre = prior.weights @ prior.means
        gap = prior.means - centre
        inside = (prior.weights * prior.variances).sum()
        covariance = (prior.weights * gap.T) @ gap + inside * gap.new_ones(prior.dim).diag()
        prior = Gaussian(centre, covariance)
    return PiGDM(problem.model, problem.measurement, prior)


def _daps() -> Row:
    """DAPS, which draws x_0 anew at each of the nodes."""

    def run(problem: Problem, seed: int) -> Found:
        sampler = DAPS(problem.model, problem.measurement, steps=STEPS)
        return {"x": sampler.sample((COUNT, problem.dim), seed=seed, dtype=F64)}

    return Row(run, {"steps": STEPS})


def _azula(make: Callable[[int], Callable[[Problem, int], dict[str, Tensor]]], steps: int) -> Row:
    return Row(make(steps), {"azula": azula.reason(), "steps": steps})


def _deepinv(method: str, steps: int) -> Row:
    settings = {"deepinv": deepinv.reason(), "steps": steps}
    return Row(deepinv.sampled(method, steps), settings)


BIAS: dict[str, Row] = {
    EXACT: _guided(lambda problem: problem.exact),
    "MMPS": _wrapping(MMPS),
    "PiGDM": _wrapping(PiGDM),
    "PiGDM, covariance of the data": _guided(_pigdm_by_moments),
    "TMPD": _wrapping(TMPD),
    "DPS": _wrapping(DPS),
    "DDRM": _wrapping(DDRM),
    "DAPS": _daps(),
}
"""Methods without particles, and the exact score, whose error is the solver's alone."""

ROWS: dict[str, Row] = {
    **{twisted_name(steps): _twisted(steps, COUNT) for steps in (100, 300)},
    **{twisted_name(300, particles): _twisted(300, particles) for particles in (64, 4096)},
    **BIAS,
    **{f"azula TDS, {steps} steps": _azula(azula.tds, steps) for steps in (100, 300)},
    "azula MMPS, 300 steps": _azula(azula.mmps, 300),
    "azula DPS, 300 steps": _azula(azula.dps, 300),
    **{f"{DEEPINV}{method}, 300 steps": _deepinv(method, 300) for method in deepinv.METHODS},
}
"""Name -> row."""
