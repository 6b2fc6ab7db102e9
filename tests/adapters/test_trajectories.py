"""Whole trajectories of score_sde, written out from its papers, on the same noise.

Ho et al. 2020, alg. 2, with Sigma = beta, and Song et al. 2021, alg. 2 to 5, for the VP chain.
"""

from __future__ import annotations

import math

import pytest
import torch
from foreign import Features, randn
from torch import Tensor

from scoresde import DDPM, ReverseSampler
from scoresde.adapters import from_score_sde
from scoresde.noise import Independent
from scoresde.sde import VPSDE
from scoresde.solvers.euler import ReverseDiffusion
from scoresde.solvers.langevin import Langevin, PredictorCorrector

N, SNR = 1000, 0.16
CHAIN = DDPM.linear(N, 0.1 / N, 20.0 / N, variance="large")
TIMES = [k / N for k in range(N, 0, -1)]
X = randn(4, 2)


class Near(Features):
    """A network near that of unit data, so that trajectories stay of its size."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        abar = torch.tensor(CHAIN.abar[1:], dtype=torch.float64)[labels.long()][:, None]
        return (1 - abar).sqrt() * (x + 0.1 * super().forward(x, labels / 50))


NET = Near(2).requires_grad_(False)
MODEL = from_score_sde(NET, VPSDE(), continuous=False, levels=N)


def score(x: Tensor, k: int) -> Tensor:
    """-net / sqrt(1 - abar) at step number k, counted from 0."""
    return -NET(x, torch.full((len(x),), float(k), dtype=torch.float64)) / math.sqrt(
        CHAIN.bbar[k + 1]
    )


def test_ancestral_sampling_is_that_of_score_sde() -> None:
    """x' = (x + beta score) / sqrt(1 - beta) + sqrt(beta) z, without noise at the end."""
    noise, nodes = Independent(5), [MODEL.sde.at(t) for t in TIMES]
    x = X
    for i, k in enumerate(range(N - 1, -1, -1)):
        beta = CHAIN.betas[k]
        x = (x + beta * score(x, k)) / math.sqrt(1 - beta)
        if k:
            x = x + math.sqrt(beta) * noise.normal(x, nodes[i], nodes[i + 1])
    found = CHAIN.ancestral_sample(MODEL, (4, 2), x_init=X, seed=5)
    assert float((found - x).abs().max()) < 1e-5
    small = CHAIN.with_variance("small").ancestral_sample(MODEL, (4, 2), x_init=X, seed=5)
    assert float((small - x).abs().max()) > 1e-4


def song(x: Tensor, observed: bool, steps: int, draws: Independent) -> Tensor:
    """Corrector and predictor at the same step; the strength by |score| of the batch, or expected.

    Their corrector multiplies it by 1 - beta, which is 1 within 2 %; here it is left out.
    """
    noise, nodes = Independent(5), [MODEL.sde.at(t) for t in TIMES]
    for i, k in enumerate(range(N - 1, N - 1 - steps, -1)):
        z = draws.stream("langevin").draw(x, 0, at=nodes[i].t)
        gradient = score(x, k)
        ratio = float(z.norm(dim=1).mean() / gradient.norm(dim=1).mean())
        e = 2 * SNR**2 * (ratio**2 if observed else CHAIN.bbar[k + 1])
        x = x + e * gradient + math.sqrt(2 * e) * z
        beta, last = CHAIN.betas[k], k == 0
        x = (2 - math.sqrt(1 - beta)) * x + beta * score(x, k)
        if not last:
            x = x + math.sqrt(beta) * noise.normal(x, nodes[i], nodes[i + 1])
    return x


def test_predictor_corrector_is_that_of_score_sde() -> None:
    """Ours corrects after the step, so it starts behind their first correction.

    Its last step is Tweedie's formula and theirs the mean of a reverse-diffusion step, of which
    1e-5 remains at beta_1 = 1e-4.
    """
    first = MODEL.sde.at(1.0)
    z = Independent(5).stream("langevin").draw(X, 0, at=1.0)
    e = 2 * SNR**2 * first.sigma**2
    start = X + e * score(X, N - 1) + math.sqrt(2 * e) * z
    solver = PredictorCorrector(ReverseDiffusion(), Langevin(SNR))
    sampler = ReverseSampler(MODEL.sde, MODEL, solver, grid=TIMES, eta=1.0)
    found = sampler.sample((4, 2), x_init=start, seed=5)
    assert float((found - song(X, False, N, Independent(5))).abs().max()) < 1e-5


def test_their_corrector_depends_on_the_rest_of_the_batch() -> None:
    """The norms are averaged over the batch: other mates change a sample there, and not here."""
    mates = torch.cat([X[:1], 3.0 * X[1:]])
    theirs = [song(x, True, 20, Independent(5))[0] for x in (X, mates)]
    assert float((theirs[0] - theirs[1]).abs().max()) > 1e-3
    ours = [song(x, False, 20, Independent(5))[0] for x in (X, mates)]
    assert torch.equal(*ours)


@pytest.mark.parametrize("number", [10, 500, 900])
def test_their_labels_and_their_tables_are_apart(number: int) -> None:
    """Their times run from 1 to 1e-3 in 999 gaps, so t (N - 1) is no step number.

    The network is told the fraction and the table is read at its whole part: by up to a step
    apart. Here a step of the chain is told its own number.
    """
    t = float(torch.linspace(1, 1e-3, N, dtype=torch.float64)[number])
    label = t * (N - 1)
    assert label - int(label) == pytest.approx(number / 1000, abs=1e-9)
    assert int(label) == N - 1 - number
