"""The transport gap: exact on sets, 0 where the flow is optimal, a closed form elsewhere."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde import (
    SDE,
    VESDE,
    VPSDE,
    EulerMaruyama,
    FlowSDE,
    FunctionScore,
    Gaussian,
    GaussianMixture,
    Heun,
    ReverseSampler,
)
from scoresde.doctor.transport import TransportGap, transport_gap

DOUBLE = torch.float64


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=DOUBLE)


def mixture(means: Any, covariances: Any, weights: Any) -> GaussianMixture:
    return GaussianMixture(
        *(torch.tensor(each, dtype=DOUBLE) for each in (means, covariances, weights))
    )


THREE = mixture([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]], [0.01, 0.01, 0.01], [0.3, 0.3, 0.4])
LINE = mixture([[-2.0], [1.0], [1.5]], [0.01, 0.3, 0.01], [0.3, 0.3, 0.4])


def flow(data: Any, sde: Any = None, steps: int = 40) -> ReverseSampler:
    sde = VPSDE() if sde is None else sde
    return ReverseSampler(sde, data.under(sde), Heun(), steps=steps, eta=0.0)


# On given sets


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_gap_is_to_the_best_of_all_pairings(dim: int) -> None:
    z, x = normals(12, dim), 1.5 * normals(12, dim, seed=1) + 0.7
    found = transport_gap((z, x), batches=2)
    for k, rows in enumerate((slice(0, 6), slice(6, 12))):
        costs = [
            float((x[rows][list(order)] - z[rows]).square().sum(1).mean())
            for order in itertools.permutations(range(6))
        ]
        assert float(found.couplings[k]) == pytest.approx(costs[0], rel=1e-13)
        assert float(found.gaps[k]) == pytest.approx(costs[0] - min(costs), abs=1e-12)
    assert found.gap > 0.05
    assert found.optimal == pytest.approx(found.coupling - found.gap, rel=1e-13)
    assert found.relative == pytest.approx(found.gap / found.coupling, rel=1e-13)
    assert found.standard_error == pytest.approx(float((found.gaps[0] - found.gaps[1]).abs()) / 2)
    assert (found.points, found.dim) == (6, dim)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotation_of_a_symmetric_set_costs_its_closed_form(turns: int) -> None:
    sixth = rotation(math.pi / 3)
    z = torch.cat([normals(20, 2) @ torch.linalg.matrix_power(sixth, k).T for k in range(6)])
    x = z @ torch.linalg.matrix_power(sixth, turns).T
    found = transport_gap((z, x), batches=1)
    truth = 2 * (1 - math.cos(turns * math.pi / 3)) * float(z.square().sum(1).mean())
    assert found.gap == pytest.approx(truth, rel=1e-12)
    assert found.optimal == pytest.approx(0.0, abs=1e-12)
    # The set has mean 0 and an isotropic covariance, and the map is linear.
    assert found.ceiling == pytest.approx(truth, rel=1e-12)
    assert math.isnan(found.standard_error)
    assert math.isnan(found.ceiling_error)


def test_the_ceiling_of_a_linear_map_of_white_points_is_its_closed_form() -> None:
    z = torch.linalg.qr(normals(200, 5) - normals(200, 5).mean(0)).Q * math.sqrt(200)
    matrix = normals(5, 5, seed=3)
    found = transport_gap((z, z @ matrix.T + 3.0), batches=1)
    truth = 2 * float(torch.linalg.svdvals(matrix).sum() - matrix.trace())
    assert found.ceiling == pytest.approx(truth, rel=1e-12)
    assert found.gap <= found.ceiling


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_smaller_batches_see_less_and_none_sees_more_than_the_ceiling(dim: int) -> None:
    z = normals(240, dim)
    pairs = z, torch.tanh(3 * z @ normals(dim, dim, seed=1)) + normals(240, dim, seed=2)
    found = [transport_gap(pairs, batches=k) for k in (1, 2, 6, 24, 120)]
    gaps = [each.gap for each in found]
    assert all(more > less for more, less in itertools.pairwise(gaps))
    assert gaps[-1] >= 0
    for each in found:
        assert each.coupling == pytest.approx(found[0].coupling, rel=1e-12)
        assert each.ceiling == pytest.approx(found[0].ceiling, rel=1e-12)
        assert each.gap <= each.ceiling


def test_shifts_do_not_matter_and_scaling_z_scales() -> None:
    z, x = normals(600, 2), normals(600, 2, seed=1)
    here, far = (transport_gap(p, batches=3) for p in ((z, x), (4 * z + 1e7, x - 1e7)))
    # The points themselves keep nine digits.
    assert torch.allclose(far.gaps, 4 * here.gaps, rtol=1e-7)
    assert far.ceiling == pytest.approx(4 * here.ceiling, rel=1e-7)


# Truths of maps


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(0.01, 30.0), FlowSDE()], ids=repr)
def test_the_flow_of_a_gaussian_is_the_optimal_map_at_any_number_of_steps(sde: Any) -> None:
    root = normals(3, 3, seed=5)
    data = Gaussian(torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), root @ root.T)
    found = transport_gap(flow(data, sde, 16), (60, 3), batches=3, dtype=DOUBLE)
    assert found.gap < 1e-12
    assert found.ceiling < 1e-12
    assert found.coupling > 1


def test_on_a_line_the_flow_is_optimal_and_a_stochastic_sampler_forgets_its_start() -> None:
    exact = transport_gap(flow(LINE), (1000, 1), batches=4, dtype=DOUBLE)
    assert exact.gap == 0
    assert exact.coupling > 0.5
    sampler = flow(LINE).sample((40_000, 1), seed=0, dtype=DOUBLE)
    z = torch.special.ndtri((sampler.argsort(0).argsort(0) + 0.5) / 40_000)
    best = float((z * sampler).mean())  # E<z, x> of the monotone map; 0 if independent
    noisy = ReverseSampler(VPSDE(), LINE.under(VPSDE()), "ancestral", steps=200)
    found = transport_gap(noisy, (1000, 1), batches=32, dtype=DOUBLE)
    assert abs(found.gap - 2 * best) < 4 * found.standard_error < 0.5
    assert best > 1


def test_the_flow_of_a_mixture_in_the_plane_is_not_optimal() -> None:
    coarse, fine = (
        transport_gap(flow(THREE, steps=steps), (300, 2), batches=6, dtype=DOUBLE)
        for steps in (60, 120)
    )
    assert coarse.gap > 4 * coarse.standard_error
    assert fine.gap == pytest.approx(coarse.gap, rel=0.1)  # so it is not the discretisation
    assert fine.gap < 0.01 * fine.coupling


def test_the_maps_that_scramble_cost_what_the_closed_forms_say() -> None:
    half = transport_gap(lambda z: z @ rotation(1.0).T, (600, 2), batches=5, dtype=DOUBLE)
    truth = 4 * (1 - math.cos(1.0))
    assert abs(half.ceiling - truth) < 4 * half.ceiling_error < 0.3
    assert half.gap < half.ceiling
    assert abs(half.gap - truth) < 4 * half.standard_error + 0.1  # what 600 points cannot see
    # E<z, x> = 0 of an independent pair, 1 at best.
    fresh = transport_gap((normals(8000, 1), normals(8000, 1, seed=1)), batches=4)
    assert abs(fresh.gap - 2) < 4 * fresh.standard_error + 0.01
    flipped = transport_gap(lambda z: -z, (2000, 1), batches=4, dtype=DOUBLE)
    assert abs(flipped.gap - 4) < 4 * flipped.standard_error + 0.01


def test_a_score_with_a_curl_turns_the_flow_and_the_gap_shows_by_how_much() -> None:
    sde, curl = VPSDE(), 0.25
    turn = curl * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=DOUBLE)
    model = FunctionScore(sde, lambda t, x: -x + x @ turn.T)
    # From T to t_end the flow turns by curl times half the integral of beta.
    half = float(math.log(sde.alpha(sde.t_end)) - math.log(sde.alpha(sde.T)))
    sampler = ReverseSampler(sde, model, Heun(), steps=200, eta=0.0, denoise=False)
    found = transport_gap(sampler, (300, 2), batches=2, dtype=DOUBLE)
    turned = transport_gap(
        lambda z: z @ rotation(curl * half).T, (300, 2), batches=2, dtype=DOUBLE
    )
    assert turned.gap > 2
    assert found.gap == pytest.approx(turned.gap, rel=2e-3)
    assert found.ceiling == pytest.approx(turned.ceiling, rel=2e-3)


def test_in_high_dimension_few_points_see_nothing_and_the_ceiling_sees_it() -> None:
    matrix = torch.block_diag(*[rotation(0.3)] * 12)
    found = transport_gap(lambda z: z @ matrix.T, (50, 24), batches=40, dtype=DOUBLE)
    truth = 2 * (1 - math.cos(0.3)) * 24
    assert found.gap < 0.01 * truth
    assert found.ceiling == pytest.approx(truth, rel=0.05)


# Where the pairs come from


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_pairs_are_the_ends_of_the_samplers_own_samples(eta: float) -> None:
    sde = VESDE(0.01, 30.0)
    sampler = ReverseSampler(sde, THREE.under(sde), EulerMaruyama(), steps=12, eta=eta)
    run = sampler.solve((90, 2), seed=7, keep_path=True, dtype=DOUBLE)
    assert run.path is not None
    own = transport_gap((run.path[0] / 30.0, run.x), batches=3)
    found = transport_gap(sampler, (30, 2), batches=3, seed=7, dtype=DOUBLE)
    assert torch.allclose(found.couplings, own.couplings, rtol=1e-9)
    assert torch.allclose(found.gaps, own.gaps, rtol=1e-9, atol=1e-12)
    other = transport_gap(sampler, (30, 2), batches=3, seed=8, dtype=DOUBLE)
    assert other.coupling != found.coupling


def test_a_model_alone_is_its_probability_flow() -> None:
    model = THREE.under(VPSDE())
    found = transport_gap(model, (20, 2), batches=2)
    own = transport_gap(ReverseSampler(VPSDE(), model), (20, 2), batches=2)
    assert torch.equal(found.couplings, own.couplings)


def test_images_are_rows_and_a_map_is_asked_for_no_gradient() -> None:
    weight = torch.ones(1, requires_grad=True)

    def double(z: Tensor) -> Tensor:
        assert z.shape == (5, 1, 2, 2)
        assert not torch.is_grad_enabled()
        return 2 * z * weight

    found = transport_gap(double, (5, 1, 2, 2), batches=2)
    assert (found.points, found.dim) == (5, 4)
    assert found.gap == 0
    assert "gap=0 +- 0, ceiling=" in repr(found)


def test_the_errors_are_those_of_repetitions() -> None:
    runs: list[TransportGap] = [
        transport_gap(lambda z: z @ rotation(0.8).T, (25, 2), batches=6, seed=s, dtype=DOUBLE)
        for s in range(60)
    ]
    for value, error in (
        ([r.gap for r in runs], [r.standard_error for r in runs]),
        ([r.ceiling for r in runs], [r.ceiling_error for r in runs]),
    ):
        spread = float(torch.tensor(value).std())
        claimed = float(torch.tensor(error).square().mean().sqrt())
        assert claimed == pytest.approx(spread, rel=0.25)


Z = normals(6, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: transport_gap(3.0, (4, 2)), TypeError, ["source", "3.0", "score model"]),  # type: ignore[arg-type]
        (lambda: transport_gap(lambda z: z), ValueError, ["shape", "None", "(1000, 2)"]),
        (lambda: transport_gap(lambda z: z, (1, 2)), ValueError, ["z", "2 points", "(1, 2)"]),
        (lambda: transport_gap(lambda z: z[:, :1], (4, 2)), ValueError, ["source(z)", "(4, 1)"]),
        (lambda: transport_gap(lambda z: z / 0, (4, 2)), ValueError, ["x:", "NaN", "diverged"]),
        (lambda: transport_gap(lambda z: z, (9000, 2)), ValueError, ["8192", "smaller batches"]),
        (lambda: transport_gap((Z, Z), batches=4), ValueError, ["z:", "multiple", "drop"]),
        (lambda: transport_gap((Z, Z), (3, 2)), ValueError, ["shape", "pairs"]),
        (lambda: transport_gap((Z, Z[:4])), ValueError, ["x:", "(6, 2)", "(4, 2)"]),
        (lambda: transport_gap((Z,)), ValueError, ["source", "1 of them", "(z, x)"]),
        (lambda: transport_gap((Z, Z), batches=0), ValueError, ["batches", "got 0"]),
        (
            lambda: transport_gap(
                ReverseSampler(
                    SDE(lambda t, x: -x, lambda t: 1.0, T=1.0), lambda t, x: -x, EulerMaruyama()
                ),
                (4, 2),
            ),
            TypeError,
            ["source.sde", "AffineSDE", "pairs (z, x)"],
        ),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(
    call: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
