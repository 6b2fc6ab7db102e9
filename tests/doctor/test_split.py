"""The error of samples by its causes: closed forms, and each cause alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, Gaussian, GaussianMixture, ReverseSampler, ScoreModel
from scoresde.doctor import ErrorSplit, split_error
from scoresde.doctor.split import CAUSES, _moments
from scoresde.metrics import FeatureMoments
from scoresde.node import Node
from scoresde.prediction import Prediction

VP, SHORT = VPSDE(), VPSDE(0.1, 6.0)
NARROW = Gaussian(torch.tensor([2.0, -1.0]).double(), torch.tensor([0.3, 0.1]).double())
THREE = GaussianMixture(
    torch.tensor([[-0.7, 0.9], [1.6, 1.2], [0.6, -0.6]], dtype=torch.float64),
    torch.tensor([0.05, 0.02, 0.08], dtype=torch.float64),
)


def scaled(model: ScoreModel, factor: float) -> ScoreModel:
    """A model whose noise, and so whose score, is multiplied by a factor."""
    return _Scaled(model, factor)


class _Scaled(ScoreModel):
    def __init__(self, inner: ScoreModel, factor: float) -> None:
        super().__init__()
        self.inner, self.factor, self.sde = inner, factor, inner.sde

    def predict(
        self, node: Node, x: Tensor, cond: Mapping[str, Tensor] | None = None
    ) -> Prediction:
        return Prediction(x, node, self.factor * self.inner.predict(node, x).eps, "eps")


def affine(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The slopes and the shifts of a map that is affine in each entry."""
    zero = run(torch.zeros(1, 2, dtype=torch.float64))
    return run(torch.ones(1, 2, dtype=torch.float64)) - zero, zero


def distance(mean: Tensor, std: Tensor) -> float:
    """The squared 2-Wasserstein distance of N(mean, std^2), independent entries, from NARROW."""
    shift, width = mean - NARROW.mean, std - NARROW.covariance.sqrt()
    return float(shift.square().sum() + width.square().sum())


@pytest.mark.parametrize("solver", ["euler", "ddim", "heun", "unipc_3", "euler_maruyama", "shark"])
@pytest.mark.parametrize("steps", [6, 12, 24])
def test_the_parts_add_up_to_the_distance_of_the_samples_within_5_percent(
    solver: str, steps: int
) -> None:
    """All four causes are there. The samples are Gaussian, since every step is affine in x.

    Those of a flow are N(b, a^2) with the slopes and shifts of the sampler, exactly. The moments
    of a stochastic sampler are those of 200,000 samples of other seeds, whose chance is 1 %.
    """
    model = scaled(NARROW.under(SHORT), 1.3)
    sampler = ReverseSampler(SHORT, model, solver, steps=steps, t_end=0.1)
    if sampler.plan.stochastic:
        x = sampler.sample((200_000, 2), seed=99, dtype=torch.float64)
        measured = distance(x.mean(0), x.std(0))
    else:
        a, b = affine(lambda x: sampler.sample((1, 2), x_init=x))
        measured = distance(b[0], a[0] * SHORT.prior_std)
    split = split_error(sampler, NARROW, n=2000, tolerance=1e-5, fine_steps=100)
    assert sum(split.parts.values()) == pytest.approx(split.total, abs=1e-12)
    assert sum(split.parts.values()) == pytest.approx(measured, rel=0.05)
    assert min(abs(split.truncation), abs(split.score)) > 1e-4
    assert steps <= split.calls <= 2 * steps + 1


@pytest.mark.parametrize("solver", ["ddim", "euler_maruyama"])
def test_the_standard_errors_are_those_of_repetitions(solver: str) -> None:
    """Of a mixture: the runs are not linear in the start, whose matched moments then help little.

    The mean of the totals is the distance of many samples from the mixture.
    """
    sampler = ReverseSampler(SHORT, scaled(THREE.under(SHORT), 1.3), solver, steps=6, t_end=0.1)
    found = [
        split_error(sampler, THREE, n=500, seed=seed, tolerance=1e-3, fine_steps=20)
        for seed in range(12)
    ]
    for name in (*CAUSES, "total"):
        spread = torch.tensor([getattr(split, name) for split in found]).std()
        errors = torch.tensor([split.standard_errors[name] for split in found])
        stated = errors.square().mean().sqrt()  # too large by 4 where the runs are nearly linear
        assert 0.6 * spread < stated < 6 * spread
    totals = torch.tensor([split.total for split in found])
    x = sampler.sample((200_000, 2), seed=99, dtype=torch.float64)
    measured = FeatureMoments.of(x).frechet(_moments(THREE))
    assert abs(float(totals.mean()) - measured) < 3 * float(totals.std()) / math.sqrt(12)


def test_the_discretisation_of_a_gaussian_is_that_of_the_closed_form() -> None:
    """Every step is affine in x, so the samples are Gaussian, N(b, a^2), exactly."""
    sampler = ReverseSampler(VP, NARROW.under(VP), "ddim", steps=6, denoise=True)
    a, b = affine(lambda x: sampler.sample((1, 2), x_init=x))
    split = split_error(sampler, NARROW, n=500)
    shift = (b[0] - NARROW.mean).square().sum()
    width = (a[0] * VP.prior_std - NARROW.covariance.sqrt()).square().sum()
    assert split.total == pytest.approx(float(shift + width), rel=1e-3)
    assert split.measured == pytest.approx(split.total, rel=1e-3)
    assert split.worst == "discretisation"


def test_the_prior_of_a_gaussian_is_that_of_the_closed_form() -> None:
    """The flow moves N(0, sigma_T^2) to a Gaussian whose moments are known."""
    sampler = ReverseSampler(SHORT, NARROW.under(SHORT), "dopri5", t_end=1e-3)
    split = split_error(sampler, NARROW, n=500)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    moved = NARROW.flow(SHORT, zero, SHORT.T, SHORT.t_min)[0]
    unit = NARROW.flow(SHORT, zero + SHORT.prior_std, SHORT.T, SHORT.t_min)[0] - moved
    shift = (moved - NARROW.mean).square().sum()
    width = (unit - NARROW.covariance.sqrt()).square().sum()
    assert split.prior == pytest.approx(float(shift + width), rel=0.002)
    assert split.worst == "prior" and abs(split.score) < 1e-6


def test_the_truncation_of_a_gaussian_is_that_of_the_closed_form() -> None:
    """Without denoising the samples have the variance alpha^2 v + sigma^2 and the mean alpha m."""
    sde = VPSDE(0.1, 40.0)  # whose prior is that of x_T to 1e-4
    sampler = ReverseSampler(sde, NARROW.under(sde), "dopri5", t_end=0.2, denoise=False)
    split = split_error(sampler, NARROW, n=500)
    node = sde.at(0.2)
    shift = ((1 - node.alpha) * NARROW.mean).square().sum()
    std = (node.alpha**2 * NARROW.covariance + node.sigma**2).sqrt()
    width = (std - NARROW.covariance.sqrt()).square().sum()
    assert split.truncation == pytest.approx(float(shift + width), rel=0.002)
    assert split.worst == "truncation"


def test_a_wrong_score_is_the_worst_part() -> None:
    sampler = ReverseSampler(VP, scaled(NARROW.under(VP), 1.3), "unipc_3", steps=40)
    split = split_error(sampler, NARROW, n=500)
    assert split.worst == "score"
    assert split.score > 0.9 * split.total > 0.0


def test_the_error_from_data_has_the_floor_of_two_sets() -> None:
    data = THREE.sample(1500, seed=7)
    sampler = ReverseSampler(VP, THREE.under(VP), "unipc_3", steps=30)
    split = split_error(sampler, data, n=1500)
    assert sum(split.parts.values()) == pytest.approx(split.total, abs=1e-12)
    assert 0.0 < split.score < 20 * split.floor + 1e-3


def test_a_split_is_told_in_lines_and_as_json() -> None:
    split = ErrorSplit(
        discretisation=0.6,
        truncation=0.1,
        prior=0.2,
        score=0.1,
        total=1.0,
        measured=1.1,
        floor=0.0,
        calls=9,
        standard_errors=dict.fromkeys((*CAUSES, "total"), 0.05),
    )
    assert split.worst == "discretisation" and tuple(split.parts) == CAUSES
    assert "discretisation 0.6 ± 0.05 (60 %)" in str(split)
    assert split.facts["total"] == "1 ± 0.05"
    assert json.loads(json.dumps(split.to_dict()))["calls"] == 9
    assert math.isclose(sum(split.parts.values()), split.total)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: split_error(None, NARROW), TypeError, "sampler: expected a ReverseSampler"),
        (lambda: split_error(_sampler(), "x"), TypeError, "truth: expected the law"),
        (lambda: split_error(_sampler(), NARROW, n=0), ValueError, "n: expected a positive"),
        (
            lambda: split_error(_sampler(), NARROW, tolerance=0.0),
            ValueError,
            "tolerance: expected",
        ),
        (
            lambda: split_error(_sampler(), NARROW, fine_steps=0),
            ValueError,
            "fine_steps: expected",
        ),
        (lambda: split_error(_sampler(), torch.ones(3, 2)), ValueError, "at least 4 samples"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def _sampler() -> ReverseSampler:
    return ReverseSampler(VP, NARROW.under(VP), "ddim", steps=2)
