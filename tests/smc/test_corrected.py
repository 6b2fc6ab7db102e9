"""Corrected guidance: closed forms of Gaussians, mixtures by quadrature, weights and refusals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from scoresde import (
    EDMSDE,
    VPSDE,
    AffineSDE,
    ClassifierFree,
    CosineSDE,
    FlowSDE,
    GaussianMixture,
    ReverseSampler,
    ScoreModel,
)
from scoresde.cond import Cond
from scoresde.node import Node
from scoresde.prediction import Prediction
from scoresde.smc import CollapsedWeights, CorrectedGuidance, Particles
from scoresde.smc.corrected import _Run

F64 = torch.float64


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=F64)


class Densities(ScoreModel):
    """The exact model of one density for each label, and of the first without a label, -1."""

    def __init__(self, sde: AffineSDE, *densities: GaussianMixture) -> None:
        super().__init__()
        self.sde = sde
        self.parts = nn.ModuleList(
            [*[d.under(sde) for d in densities[1:]], densities[0].under(sde)]
        )

    @property
    def nulls(self) -> dict[str, object]:
        return {"label": -1}

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        assert cond is not None
        values = torch.stack([part.predict(node, x).v for part in self.parts])
        return Prediction(x, node, values[cond["label"], torch.arange(len(x))], "v")


def guided(
    scale: float, *densities: GaussianMixture, sde: AffineSDE | None = None
) -> ClassifierFree:
    return ClassifierFree(Densities(sde or VPSDE(), *densities), scale)


def labels(runs: int, *values: int) -> dict[str, Tensor]:
    return {"label": torch.tensor(values or [0]).repeat(runs // max(len(values), 1))}


def normal(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    return GaussianMixture(mean[None], covariance[None])


# The classes 1 and 2 of four in the plane, as one condition, and two unrelated ones on a line.
MEANS = tensor([-2.0, 0.5], [1.0, 1.0], [0.5, -1.5], [2.5, 0.0])
VARIANCES, WEIGHTS = tensor(0.3, 0.15, 0.4, 0.3), tensor(0.4, 0.3, 0.2, 0.1)
PLANE = (
    GaussianMixture(MEANS, VARIANCES, WEIGHTS),
    GaussianMixture(MEANS[1:3], VARIANCES[1:3], WEIGHTS[1:3]),
)
LINE = (
    GaussianMixture(tensor([-1.5], [1.0]), tensor(0.3, 0.5)),
    GaussianMixture(tensor([1.0], [2.0]), tensor(0.3, 0.2), tensor(0.7, 0.3)),
)


@dataclass(frozen=True)
class Truth:
    """A tilted density p(x | c)^w p(x)^(1-w) on a fine grid.

    Attributes:
        points, shares: the points, (N, D), and their shares of the mass, (N,).
        log_z: the log of the integral.
    """

    points: Tensor
    shares: Tensor
    log_z: float

    @classmethod
    def of(cls, scale: float, whole: GaussianMixture, given: GaussianMixture) -> Truth:
        count = 8001 if whole.dim == 1 else 641
        axis = torch.linspace(-8.0, 8.0, count, dtype=F64)
        points = torch.cartesian_prod(*[axis] * whole.dim).reshape(-1, whole.dim)
        density = ((1.0 - scale) * whole.log_prob(points) + scale * given.log_prob(points)).exp()
        integral = float(density.sum()) * (16.0 / (count - 1)) ** whole.dim
        return cls(points, density / density.sum(), math.log(integral))

    def features(self, x: Tensor) -> Tensor:
        """Deviations from the mean, their squares, and whether the first is positive."""
        centred = x - self.shares @ self.points
        return torch.cat([centred, centred.square(), (centred[:, :1] > 0.0).double()], 1)

    def gaps(self, found: Particles) -> Iterator[tuple[float, float]]:
        """The mean error of each feature and of log Z over the runs, and its standard error."""
        got = torch.cat([found.expectation(self.features), found.log_evidence[:, None]], 1)
        true = torch.cat([self.shares @ self.features(self.points), tensor(self.log_z)])
        error = got - true
        for mean, std in zip(error.mean(0).tolist(), error.std(0).tolist(), strict=True):
            yield mean, std / math.sqrt(len(got))


@pytest.mark.parametrize("eta", [1.0, 2.0])
@pytest.mark.parametrize("scale", [-0.5, 0.5, 2.0])
def test_the_tilted_density_of_a_mixture_on_a_line(scale: float, eta: float) -> None:
    """Moments, the share of a side and log Z are right within Monte Carlo error, at every eta."""
    truth = Truth.of(scale, *LINE)
    sampler = CorrectedGuidance(guided(scale, *LINE), particles=400, steps=150, eta=eta)
    found = sampler.sample((24, 1), seed=0, cond=labels(24), dtype=F64)
    for mean, error in truth.gaps(found):
        assert error < 0.05
        assert abs(mean) < 3.5 * error + 0.005


def test_a_particle_that_is_taken_keeps_its_prediction_rate_and_history() -> None:
    """The next step of taken particles, without their noise, is that of the originals."""
    sampler = CorrectedGuidance(guided(2.0, *LINE), particles=6, steps=20)
    loop, rows = sampler.loop, torch.tensor([4, 0, 0, 5, 3, 4])
    field = loop.field(sampler.guided, (1, 1), 0, labels(1), F64, None)
    nodes, table = sampler.plan.schedule.segments[0][8:], sampler.plan.coefficients[0][8:]
    cloud, _ = _Run(sampler, field, None).start(tensor(*range(-3, 3))[:, None], nodes[0], False)
    cloud, _ = cloud.step(nodes[0], nodes[1], table[0], False)
    taken = cloud.take(rows)
    mean, _, _ = loop.kernel(cloud.guided, nodes[2], table[1], cloud.past)
    again, _, _ = loop.kernel(taken.guided, nodes[2], table[1], taken.past)
    assert len(cloud.past) == 1
    assert torch.equal(again, mean[rows])
    assert torch.equal(taken.rate, cloud.rate[rows])
    assert torch.equal(taken.x, cloud.x[rows])


@pytest.mark.parametrize(("scale", "steps"), [(0.5, 100), (2.0, 200), (3.0, 300)])
def test_the_tilted_density_of_classes_in_the_plane(scale: float, steps: int) -> None:
    """Two classes with half of the samples: Z is at most 2^(w-1)."""
    truth = Truth.of(scale, *PLANE)
    assert truth.log_z < max(scale - 1.0, 0.0) * math.log(2.0)
    sampler = CorrectedGuidance(guided(scale, *PLANE), particles=500, steps=steps)
    found = sampler.sample((20, 2), seed=0, cond=labels(20), dtype=F64)
    for mean, error in truth.gaps(found):
        assert error < 0.05
        assert abs(mean) < 3.5 * error + 0.005


@pytest.mark.parametrize(
    ("sde", "grid"),
    [
        (VPSDE(), None),
        (EDMSDE(), None),
        (CosineSDE(), None),
        (FlowSDE(T=1.0), torch.linspace(1.0, 0.0, 101).tolist()),
    ],
    ids=["vp", "edm", "cosine", "flow from noise to data"],
)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_log_z_of_shifted_gaussians(
    scale: float, sde: AffineSDE, grid: list[float] | None
) -> None:
    """Equal variances v: the weights are equal, and log Z = w (w - 1) |m_c - m_u|^2 / (2 v).

    Nothing is left to chance, so the integral over the log-SNR is tested alone. The variance is
    only 20 times that of the noise at the end of the VP SDE, so the part beyond the last node is
    5 % there, of which the formula leaves 0.3 %.
    """
    shift, v = tensor(0.03, -0.02), 2e-3
    exact = scale * (scale - 1.0) * float(shift.square().sum()) / (2.0 * v)
    centre, variance = tensor(0.1, 0.2), torch.full((2,), v, dtype=F64)
    model = guided(scale, normal(centre, variance), normal(centre + shift, variance), sde=sde)
    sampler = CorrectedGuidance(model, particles=3, steps=None if grid else 100, grid=grid)
    found = sampler.sample((2, 2), seed=0, cond=labels(2), dtype=F64)
    torch.testing.assert_close(found.weights, torch.full((2, 3), 1 / 3, dtype=F64))
    torch.testing.assert_close(found.log_evidence, tensor(exact, exact), rtol=3e-3, atol=0.0)


def test_log_z_converges_with_second_order() -> None:
    """The integral up to the last node has a closed form in q = v alpha^2 / sigma^2."""
    v, errors = 0.02, []
    pair = normal(tensor(0.0), tensor(v)), normal(tensor(0.1), tensor(v))
    for steps in (20, 40, 80):
        sampler = CorrectedGuidance(guided(2.0, *pair), particles=2, steps=steps, t_end=0.05)
        found = sampler.sample((1, 1), seed=0, cond=labels(1), dtype=F64)
        (nodes,) = sampler.plan.schedule.segments
        first, last = (v * (node.alpha / node.sigma) ** 2 for node in (nodes[0], nodes[-1]))
        inner = last / (1.0 + last) - first / (1.0 + first)
        exact = 0.1**2 / v * (inner + last / (1.0 + last) ** 2)
        errors.append(abs(float(found.log_evidence) - exact))
    assert errors[0] > 3.5 * errors[1] > 12.0 * errors[2]


def excess(variance: float, scale: float, steps: int | None) -> float:
    """log Z less its limit, of N(0, v) given the label and N(0, 1), for infinitely many particles.

    State and history of the solver are linear in their predecessors, so their weighted law stays
    a Gaussian, and a weight exp(k x^2) changes its covariance and its mass in closed form.
    """
    pair = normal(tensor(0.0), tensor(1.0)), normal(tensor(0.0), tensor(variance))
    sampler = CorrectedGuidance(guided(scale, *pair), particles=2, steps=steps)
    (nodes,), (rows,) = sampler.plan.schedule.segments, sampler.plan.coefficients
    field = sampler.loop.field(sampler.guided, (1, 1), 0, labels(1), F64, None)
    run = _Run(sampler, field, None)
    covariance, log_mass = torch.diag(tensor(sampler.sde.prior_std**2, 0.0)), 0.0

    def weighted(k: float) -> tuple[Tensor, float]:
        first = covariance[0]
        left = 1.0 - 2.0 * k * float(first[0])
        if left <= 0.0:
            return covariance * math.inf, math.inf
        return covariance + 2.0 * k / left * torch.outer(first, first), -0.5 * math.log(left)

    past: tuple[tuple[float, Tensor], ...] = ()
    for now, nxt, row in zip(nodes, nodes[1:], rows, strict=False):
        unit, other = tensor([1.0], [0.0]), tensor([0.0], [1.0])
        held = tuple((c, other) for c, _ in past)
        prediction, rate = run.read(now, unit)
        mean, std, past = sampler.loop.kernel(prediction, nxt, row, held)
        half = 0.5 * (nxt.log_snr - now.log_snr)
        covariance, gain = weighted(half * float(rate[0]))
        matrix = torch.stack([mean[:, 0], past[0][1][:, 0]])
        covariance = matrix @ covariance @ matrix.T + torch.diag(tensor(float(std) ** 2, 0.0))
        after = (half + 0.5 * (nxt is nodes[-1])) * float(run.read(nxt, unit)[1][0])
        covariance, more = weighted(after)
        log_mass += gain + more
        if log_mass == math.inf:
            break
    precision = scale / variance - (scale - 1.0)
    return log_mass + 0.5 * math.log(precision) + 0.5 * scale * math.log(variance)


def test_the_error_of_log_z_at_a_large_scale_is_that_of_the_steps_and_of_second_order() -> None:
    """Long steps exaggerate rare large weights, infinitely at last; the default are short."""
    errors = [excess(0.2, 4.0, steps) for steps in (100, 200, 400)]
    assert 0.1 < errors[0] < 0.2
    assert errors[0] > 3.5 * errors[1] > 12.0 * errors[2] > 0.0
    assert excess(0.05, 4.0, 100) == math.inf
    assert 0.0 < excess(0.05, 4.0, None) < 0.04
    assert 0.0 < excess(0.05, 8.0, None) < 0.3
    assert abs(excess(0.2, 2.0, None)) < 0.003


def test_too_few_steps_are_warned_of_and_far_too_many_refused() -> None:
    """Half of the default is the least without a warning, and its error is what the class says."""
    assert abs(excess(0.05, 2.0, 100)) < 0.06 and abs(excess(0.05, 4.0, 200)) < 0.17

    def sampler(scale: float, **options: Any) -> CorrectedGuidance:
        return CorrectedGuidance(guided(scale, *LINE), particles=2, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler(2.0, steps=100), sampler(4.0, steps=200), sampler(8.0)
        sampler(1.5, grid=[1.0 - k / 101 for k in range(101)]), sampler(1.0, steps=9)
    for scale, steps, enough in ((2.0, 99, 200), (4.0, 100, 400)):
        with pytest.warns(UserWarning, match=rf"steps: expected about {enough} .*got {steps};"):
            sampler(scale, steps=steps)
    with pytest.warns(UserWarning, match=r"expected about 200 at scale 1.5, got 3; log Z"):
        sampler(1.5, grid=[1.0, 0.5, 0.1, 0.01])
    with pytest.raises(ValueError, match=r"scale: expected .*10000 steps.*1e\+06, which takes"):
        sampler(1e6)


def test_steps_grow_with_the_scale_and_the_stochasticity() -> None:
    def steps(scale: float, eta: float = 1.5) -> int:
        found = CorrectedGuidance(guided(scale, *LINE), particles=2, eta=eta).plan
        return len(found.schedule.segments[0]) - 1

    assert [steps(scale) for scale in (-1.0, 0.5, 2.0)] == [200, 200, 200]
    assert [steps(scale) for scale in (-3.0, 4.0)] == [400, 400]
    assert steps(4.0, 1.0) < steps(4.0) < steps(4.0, 2.0)
    assert steps(4.0, np.float32(2.0)) == steps(4.0, 2.0)
    for wrong in (math.inf, math.nan, -1.0):
        with pytest.raises(ValueError, match="eta: expected a finite number >= 0"):
            steps(4.0, wrong)


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=["vp", "edm"])
def test_the_tilted_density_of_gaussians_in_closed_form(sde: AffineSDE) -> None:
    """Precisions add up with the weights w and 1 - w, and Z has a closed form."""
    w = 2.0
    means = tensor(0.0, 0.0), tensor(0.8, -0.4)
    covariances = tensor([1.0, 0.3], [0.3, 0.8]), tensor([0.5, -0.1], [-0.1, 0.4])
    factors = [(1.0 - w, 0), (w, 1)]
    precision = sum(a * torch.linalg.inv(covariances[k]) for a, k in factors)
    covariance = torch.linalg.inv(precision)
    mean = covariance @ sum(a * torch.linalg.solve(covariances[k], means[k]) for a, k in factors)
    at_mean = sum(
        a * MultivariateNormal(means[k], covariances[k]).log_prob(mean) for a, k in factors
    )
    log_z = float(at_mean - MultivariateNormal(mean, covariance).log_prob(mean))
    model = guided(w, *map(normal, means, covariances), sde=sde)
    sampler = CorrectedGuidance(model, particles=1000)
    found = sampler.sample((8, 2), seed=0, cond=labels(8), dtype=F64)
    centred = found.x - mean
    spread = torch.einsum("pk,pki,pkj->pij", found.weights, centred, centred)
    for got, true in (
        (found.mean, mean),
        (spread, covariance),
        (found.log_evidence, tensor(log_z)[0]),
    ):
        error = got.std(0) / math.sqrt(len(got))
        assert float(error.max()) < 0.02
        assert bool(((got - true).mean(0).abs() < 4.0 * error + 0.004).all())


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_at_scales_0_and_1_the_particles_are_samples_of_the_plain_model(scale: float) -> None:
    model = guided(scale, *PLANE)
    sampler = CorrectedGuidance(model, particles=20, steps=15)
    found = sampler.sample((2, 2), seed=0, cond=labels(2), dtype=F64)
    torch.testing.assert_close(found.weights, torch.full((2, 20), 0.05, dtype=F64))
    torch.testing.assert_close(found.log_evidence, torch.zeros(2, dtype=F64))
    assert found.nfe == 16
    label = labels(40)["label"]
    label = torch.full_like(label, -1) if scale == 0.0 else label
    plain = ReverseSampler(model.sde, model.model, "sa_solver_p2_v", steps=15, eta=1.5)
    x = plain.sample((40, 2), seed=0, cond={"label": label}, dtype=F64)
    torch.testing.assert_close(found.x.flatten(0, 1), x, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::scoresde.smc.CollapsedWeights")
def test_each_run_has_its_own_condition_and_none_of_its_mates() -> None:
    """A run without a label is one of p(x): its weights are equal and Z is 1."""
    sampler = CorrectedGuidance(guided(2.0, *PLANE, PLANE[1]), particles=50, steps=20)
    one = sampler.sample((3, 2), seed=0, cond=labels(3, 0, 1, -1), dtype=F64)
    two = sampler.sample((3, 2), seed=0, cond=labels(3, -1, 1, 0), dtype=F64)
    for name in ("x", "log_weights", "log_evidence", "log_evidence_error", "ess", "eve"):
        assert torch.equal(getattr(one, name)[1], getattr(two, name)[1]), name
    torch.testing.assert_close(one.weights[2], torch.full((50,), 0.02, dtype=F64))
    assert float(one.log_evidence[2]) == pytest.approx(0.0, abs=1e-12)
    assert float(one.ess[0].min()) < 49.0
    assert one.nfe == 42
    parts = sampler.sample((3, 2), seed=0, cond=labels(3, 0, 1, -1), dtype=F64, batch_size=17)
    torch.testing.assert_close(parts.x, one.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts.log_weights, one.log_weights, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::scoresde.smc.CollapsedWeights")
def test_the_standard_error_of_log_z_is_that_of_repeated_runs() -> None:
    sampler = CorrectedGuidance(guided(2.0, *LINE), particles=100, steps=60)
    found = sampler.sample((200, 1), seed=3, cond=labels(200), dtype=F64)
    stated = float(found.log_evidence_error.square().mean().sqrt())
    assert 0.75 < float(found.log_evidence.std()) / stated < 1.3


@pytest.mark.filterwarnings("ignore::scoresde.smc.CollapsedWeights")
def test_the_ancestry_joins_the_path() -> None:
    sampler = CorrectedGuidance(guided(2.0, *LINE), particles=30, steps=20, threshold=1.0)
    seen: list[tuple[float, float]] = []
    found = sampler.sample(
        (2, 1),
        seed=0,
        cond=labels(2),
        keep_ancestry=True,
        keep_path=True,
        on_node=lambda node, x, log_w: seen.append((node.t, float(log_w.exp().sum()))),
    )
    assert found.ancestry is not None and found.path is not None
    assert found.path.shape == (21, 2, 30, 1)
    eve = torch.arange(30).expand(2, 30)
    for parent in found.ancestry:
        eve = eve.gather(1, parent)
    assert torch.equal(eve, found.eve)
    assert [t for t, _ in seen] == list(found.plan.schedule.grid.times)
    assert all(total == pytest.approx(2.0) for _, total in seen)


@pytest.mark.parametrize(("given", "scale"), [(2.0, 3.0), (1.0, -1.5)])
def test_a_density_without_a_finite_integral_is_seen_in_the_weights(
    given: float, scale: float
) -> None:
    """Variances v_c and v_u = 1 or 2 with w / v_c < (w - 1) / v_u: all descend from a few."""
    whole = 1.0 if scale > 0 else 2.0
    assert scale / given < (scale - 1.0) / whole
    pair = normal(tensor(0.0), tensor(whole)), normal(tensor(0.0), tensor(given))
    sampler = CorrectedGuidance(guided(scale, *pair), particles=500)
    with pytest.warns(
        CollapsedWeights, match=r"in run \d.*: 500 particles are worth \d\.\d ind.* or a"
    ):
        found = sampler.sample((4, 1), seed=0, cond=labels(4), dtype=F64)
    assert float(found.log_evidence_error.min()) > 0.4


@pytest.mark.filterwarnings("ignore:.*does not reach noise")
def test_weights_beyond_all_numbers_are_an_error_with_step_and_remedy() -> None:
    pair = normal(tensor(0.0), tensor(1.0)), normal(tensor(0.0), tensor(4.0))
    sampler = CorrectedGuidance(guided(1e6, *pair), particles=20, steps=20)
    with pytest.raises(
        ValueError, match=r"weights: .* a log sum of .* in run 0 at step \d+, .*scale nearer to 1"
    ):
        sampler.sample((1, 1), seed=0, cond=labels(1), dtype=F64)


def test_what_has_no_known_tilt_is_refused() -> None:
    model = Densities(VPSDE(), *PLANE)
    with pytest.raises(ValueError, match="scale: expected one number at all noise levels"):
        CorrectedGuidance(ClassifierFree(model, 2.0, interval=(-1.0, 1.0)))
    with pytest.raises(ValueError, match="scale: expected one number at all noise levels"):
        CorrectedGuidance(ClassifierFree(model, lambda level: 2.0))
    with pytest.raises(TypeError, match=r"guided: expected .*; pass ClassifierFree\(model, scale"):
        CorrectedGuidance(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"solver: .*, got SRA1; take one of euler_maru"):
        CorrectedGuidance(ClassifierFree(model, 2.0), solver="sra1", eta=1.0)
    with pytest.raises(
        ValueError, match="cond: expected a condition with a value for 'not given'"
    ):
        CorrectedGuidance(ClassifierFree(model, 2.0), steps=2).sample((1, 2))
