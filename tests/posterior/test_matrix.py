"""Every guidance and posterior model with every solver under every SDE family.

Each combination runs and gives finite samples; a model that is set so as to do nothing (scale 1,
infinite noise, nothing observed) predicts as the model that it wraps to 1e-12, and its samples are
those of that model; and the samples of a batch do not change, to the bit, if their mates are
replaced.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from gaussian_problem import F64, KNOWN, OPERATORS, PRIOR, D, randn
from labelled import Labelled
from torch import Tensor

from scoresde import Gaussian, GaussianMixture, ReverseSampler, ScoreModel
from scoresde.guidance import AutoGuidance, ClassifierFree, ClassifierGuided, Tempered
from scoresde.measurement import LinearOperator, Mask, Measurement
from scoresde.posterior import DDNM, DDRM, DPS, MMPS, TMPD, ExactPosterior, PiGDM
from scoresde.sde import SDES, AffineSDE
from scoresde.solvers import SOLVERS, SciPySolver

N, STEPS = 3, 6
Conditions = dict[str, Tensor]

# Two overlapping components, so that the covariance of x_0 given x_t depends on x_t.
MIXTURE = GaussianMixture(
    torch.stack([PRIOR.mean - 1.0, PRIOR.mean + 1.0]),
    torch.stack([PRIOR.covariance, 0.3 * PRIOR.covariance]),
)


@dataclass(frozen=True)
class Case:
    """A wrapper, the setting in which it does nothing, the model inside, and conditions of N."""

    model: Callable[[AffineSDE], ScoreModel]
    idle: Callable[[AffineSDE], ScoreModel]
    inner: Callable[[AffineSDE], ScoreModel]
    cond: Callable[[int], Conditions]
    idle_cond: Callable[[int], Conditions]
    inner_cond: Callable[[int], Conditions]


def prior(sde: AffineSDE) -> ScoreModel:
    return MIXTURE.under(sde)


def labels(seed: int) -> Conditions:
    return {"label": torch.tensor([0, 1, 0]) if seed == 0 else torch.tensor([0, 0, 1])}


def nothing(seed: int) -> Conditions:
    return {}


def guided(
    make: Callable[[AffineSDE, float], ScoreModel],
    scale: float,
    idle: float,
    inner: Callable[[AffineSDE], ScoreModel] = lambda sde: Labelled(sde, D),
    cond: Callable[[int], Conditions] = labels,
    inner_cond: Callable[[int], Conditions] = labels,
) -> Case:
    """A case of guidance, by its scale."""
    return Case(
        lambda sde: make(sde, scale), lambda sde: make(sde, idle), inner, cond, cond, inner_cond
    )


def measured(
    make: Callable[[AffineSDE, Measurement], ScoreModel],
    operator: LinearOperator = OPERATORS["wide matrix"],
    noise: float = 0.5,
) -> Case:
    """A case of a measurement, by its noise, or by what is observed if the noise has to be 0."""

    def given(seed: int) -> Conditions:
        y = 2.0 * randn(N, *operator.measured((D,)), seed=seed)
        y[0] = 0.5
        return {"y": y}

    def unseen(seed: int) -> Conditions:
        return {"y": torch.full_like(given(seed)["y"], math.nan)}

    return Case(
        lambda sde: make(sde, Measurement(operator, None, noise)),
        lambda sde: make(sde, Measurement(operator, None, 1e16 if noise else 0.0)),
        prior,
        given,
        given if noise else unseen,
        nothing,
    )


def classifier(t: Tensor, x: Tensor) -> Tensor:
    return torch.stack([-x.sum(1), x.sum(1)], 1)


def wrapped(
    method: Callable[[ScoreModel, Measurement], ScoreModel],
) -> Callable[[AffineSDE, Measurement], ScoreModel]:
    return lambda sde, measurement: method(prior(sde), measurement)


def worse(sde: AffineSDE) -> ScoreModel:
    return Gaussian(torch.zeros(D, dtype=F64), torch.tensor(3.0, dtype=F64)).under(sde)


CASES: dict[str, Case] = {
    "ClassifierFree": guided(lambda sde, w: ClassifierFree(Labelled(sde, D), w), 2.0, 1.0),
    "AutoGuidance": guided(lambda sde, w: AutoGuidance(Labelled(sde, D), worse(sde), w), 1.5, 1.0),
    "ClassifierGuided": guided(
        lambda sde, w: ClassifierGuided(prior(sde), classifier, w),
        *(0.5, 0.0, prior, labels, nothing),
    ),
    "Tempered": guided(
        lambda sde, T: Tempered(prior(sde), T, 1.0), *(0.5, 1.0, prior, nothing, nothing)
    ),
    "DPS": measured(wrapped(DPS)),
    "PiGDM": measured(wrapped(PiGDM)),
    "MMPS": measured(wrapped(MMPS)),
    "TMPD": measured(wrapped(TMPD)),
    "DDRM": measured(wrapped(DDRM)),
    "DDNM": measured(wrapped(DDNM), Mask(KNOWN), 0.0),
    "ExactPosterior": measured(lambda sde, measurement: ExactPosterior(MIXTURE, sde, measurement)),
}


def check(name: str, solver: str, family: str) -> None:
    case, sde = CASES[name], SDES[family]()
    start = sde.at(sde.T).sigma * randn(N, D, seed=11)

    def samples(model: ScoreModel, cond: Conditions, x: Tensor = start) -> Tensor:
        sampler = ReverseSampler(sde, model, solver, steps=STEPS)
        return sampler.sample((N, D), seed=0, x_init=x, cond=cond)

    found = samples(case.model(sde), case.cond(0))
    assert found.shape == (N, D) and bool(found.isfinite().all())
    inner = samples(case.inner(sde), case.inner_cond(0))
    idle = samples(case.idle(sde), case.idle_cond(0))
    # A solver that reads eps of a prediction of x_0 amplifies its rounding by alpha / sigma.
    assert float((idle - inner).abs().max()) <= 1e-11 * float(inner.abs().max())
    assert not torch.allclose(found, inner, rtol=1e-3)
    if isinstance(SOLVERS[solver][0], SciPySolver):
        return  # which solves the batch as one system
    others = start.clone()
    others[1:] = 2.0 * randn(N - 1, D, seed=12)
    mates = samples(case.model(sde), case.cond(1), others)
    assert torch.equal(mates[0], found[0]) and not torch.allclose(mates[1:], found[1:])


@pytest.mark.parametrize("family", SDES)
@pytest.mark.parametrize("name", CASES)
def test_a_wrapper_that_does_nothing_predicts_as_the_model_inside(name: str, family: str) -> None:
    case, sde = CASES[name], SDES[family]()
    for t in (sde.t_end, 0.2 * sde.T, 0.7 * sde.T, sde.T):
        node = sde.at(t)
        x = node.alpha * PRIOR.sample(N, seed=1) + node.sigma * randn(N, D, seed=2)
        inner = case.inner(sde)(t, x, case.inner_cond(0)).x0
        idle = case.idle(sde)(t, x, case.idle_cond(0)).x0
        torch.testing.assert_close(idle, inner, rtol=1e-12, atol=1e-12)


COMBINATIONS = [
    (name, solver, family)
    for i, name in enumerate(CASES)
    for j, solver in enumerate(SOLVERS)
    for k, family in enumerate(SDES)
    if (i + j + k) % len(SDES) == 0 or os.environ.get("SCORESDE_MATRIX") == "all"
]
"""One family for each model and solver, so each pair of the three; SCORESDE_MATRIX=all has all."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "solver", "family"), COMBINATIONS)
def test_every_combination(name: str, solver: str, family: str) -> None:
    check(name, solver, family)


@pytest.mark.parametrize("number", range(len(SOLVERS)))
def test_a_diagonal_with_every_model_solver_and_family(number: int) -> None:
    """The numbers of models and families have no common divisor, so that pairs differ."""
    names, families = list(CASES), list(SDES)
    check(names[number % len(names)], list(SOLVERS)[number], families[number % len(families)])


def test_the_cases_are_all_models_of_the_two_rooms() -> None:
    """A new model gets a row here."""
    import scoresde.guidance
    import scoresde.posterior

    rooms = (scoresde.guidance, scoresde.posterior)
    public = {name: getattr(room, name) for room in rooms for name in room.__all__}
    models = {
        name
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, ScoreModel)
    }
    assert models - {"PosteriorModel"} == set(CASES)
