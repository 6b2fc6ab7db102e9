"""Roughness in time: an adaptive solver needs few calls where the score is smooth in t.

The probability flow of data is as smooth as that of the Gaussian with their covariance, up to the
times at which it divides into modes. A network that is rough in t, such as one with time features
of a high frequency and little training, costs an adaptive solver many small steps.
"""

from __future__ import annotations

import warnings

import torch

from scoresde.cond import Cond
from scoresde.doctor.finding import Finding
from scoresde.doctor.probe import Probe
from scoresde.model import ScoreModel
from scoresde.oracles import Gaussian
from scoresde.sampler import ReverseSampler
from scoresde.solvers import AdaptiveODE

__all__ = ["LARGEST", "roughness_notes"]

SAMPLES = 16
TOLERANCE = 1e-3
BUDGET = 600
"""The most calls of the model."""

LARGEST = 512
"""The largest dimension whose Gaussian is solved for comparison."""

ROUGH = 4.0
"""The factor of the calls from which on there is a note."""


def roughness_notes(probe: Probe) -> list[Finding]:
    """A note if `dopri5` needs many times the calls that it needs for a Gaussian of these data.

    The calls are a mean over samples that start from the same noise; no error is given, since the
    factor that is noted is far from 1.
    """
    if probe.dim > LARGEST:
        return []
    cond = None if probe.cond is None else {n: v[:SAMPLES] for n, v in probe.cond.items()}
    smooth = Gaussian.fit(probe.others.double()).under(probe.sde)
    try:
        own = _calls(probe, probe.model, cond)
    except (RuntimeError, TypeError, ValueError):  # a function of one time for all samples
        return []
    least = _calls(probe, smooth, None)
    if own < ROUGH * least:
        return []
    more = "more than " if own >= BUDGET else ""
    return [
        Finding(
            name="roughness",
            severity="note",
            number=own,
            reference=least,
            sentence=f"The model is rough in t: dopri5 needs {more}{own:.0f} calls, and "
            f"{least:.0f} for the Gaussian with the covariance of the data.",
            remedy="Train longer, or with time features of a lower frequency; until then take a "
            "solver of a fixed number of steps.",
        )
    ]


def _calls(probe: Probe, model: ScoreModel, cond: Cond) -> float:
    """The network evaluations of a sample of the probability flow."""
    solver = AdaptiveODE("dopri5", TOLERANCE, TOLERANCE, max_nfe=BUDGET)
    sampler = ReverseSampler(probe.sde, model, solver, t_end=probe.t_end)
    x = probe.x0[:SAMPLES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unfinished solve is what is looked for
        solution = sampler.solve(
            tuple(x.shape), seed=probe.seed, cond=cond, dtype=torch.float64, device=x.device
        )
    return float(solution.nfe)
