"""DDNM and RePaint, for measurements without noise: what they impose, and their bias."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_problem import F64, KNOWN, OPERATORS, PRIOR, SDES, D, distance, randn
from torch import Tensor

from scoresde import VPSDE, FunctionScore, Gaussian, ReverseSampler, ScoreModel
from scoresde.measurement import Blur, Identity, Mask, Measurement
from scoresde.noise import Independent
from scoresde.posterior import DDNM, RePaint
from scoresde.schedule import Grid, churn, resampling, restart
from scoresde.schedule.grid import log_snr
from scoresde.sde import AffineSDE

NAN = math.nan
Y = PRIOR.sample(1, seed=5)[0, KNOWN]


def model(sde: AffineSDE = SDES[0]) -> ScoreModel:
    return PRIOR.under(sde)


def masked(y: Tensor | None = Y) -> Measurement:
    return Measurement(Mask(KNOWN), y, 0.0)


# DDNM.


@pytest.mark.parametrize("name", OPERATORS)
def test_ddnm_keeps_the_null_space_and_replaces_the_row_space(name: str) -> None:
    """x_0hat + A^+ (y - A x_0hat), against the dense pseudo-inverse."""
    operator = OPERATORS[name]
    x, y = randn(3, D, seed=2), operator(randn(3, D, seed=3))
    found = DDNM(model(), Measurement(operator, None, 0.0))(0.3, x, {"y": y}).x0
    plain = model()(0.3, x).x0
    A = operator.matrix((D,))
    inverse = torch.linalg.pinv(A, rtol=1e-10)
    wanted = plain + (y.flatten(1) - plain @ A.T) @ inverse.T
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(operator(found), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("solver", ["ancestral", "ddim", "unipc_3", "heun"])
def test_samples_of_ddnm_fulfil_the_constraint(sde: AffineSDE, solver: str) -> None:
    sampler = ReverseSampler(sde, DDNM(model(sde), masked()), solver, steps=12)
    x = sampler.sample((4, D), seed=0, dtype=F64)
    torch.testing.assert_close(x[:, KNOWN], Y.expand(4, 4), rtol=1e-10, atol=1e-10)


def test_ddnm_with_nodes_of_a_batch_and_nothing_of_its_mates() -> None:
    own = DDNM(model(), masked(None))
    x, y = randn(3, D, seed=2), randn(3, 4, seed=3)
    y[1, 2] = NAN
    for t in (0.001, 0.4, 1.0):
        batched = own(torch.full((3,), t, dtype=F64), x, {"y": y}).x0
        torch.testing.assert_close(batched, own(t, x, {"y": y}).x0, rtol=1e-12, atol=1e-12)
    other, of_other = 9.0 * randn(3, D, seed=4), randn(3, 4, seed=5)
    other[1], of_other[1] = x[1], y[1]
    assert torch.equal(own(0.4, x, {"y": y}).x0[1], own(0.4, other, {"y": of_other}).x0[1])
    plain = model()(0.4, x).x0
    assert torch.equal(own(0.4, x, {"y": y}).x0[1, 2], plain[1, 2])  # not observed


def test_ddnm_is_finite_at_both_ends() -> None:
    for sde in SDES:
        own = DDNM(model(sde), masked())
        x = randn(2, D)
        for t in (sde.t_end, sde.T):
            assert bool(own(t, x).x0.isfinite().all())


# RePaint.


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_repaint_puts_the_known_entries_on_their_noised_path(sde: AffineSDE) -> None:
    """At every node alpha y + sigma z with one z a sample and time, and nothing else changes."""
    states: list[tuple[float, Tensor]] = []
    hook = RePaint(masked()).of_batch(Independent(3, first=2), slice(0, 5), 5)
    for t in (0.9 * sde.T, 0.1 * sde.T, sde.t_end):
        node, x = sde.at(t), randn(5, D)
        changed = hook(node, x)
        assert changed is not None and torch.equal(changed[:, ~KNOWN], x[:, ~KNOWN])
        z = (changed[:, KNOWN] - node.alpha * Y) / node.sigma
        wanted = Independent(3, first=2).stream("repaint").draw(x, at=node.t)[:, KNOWN]
        torch.testing.assert_close(z, wanted, rtol=1e-6, atol=1e-6)
        states.append((t, z))
    assert len({float(z[0, 0]) for _, z in states}) == 3


def test_repaint_does_not_depend_on_the_batch_size() -> None:
    """With a measurement of each sample's own; noise of the batch's rows would differ."""
    y = torch.cat([Y.expand(3, 4), -Y.expand(4, 4)])
    sampler = ReverseSampler(VPSDE(), model(), "ancestral", steps=10)
    hook = RePaint(masked(None), y)
    whole = sampler.sample((7, D), seed=0, on_step=hook, dtype=F64)
    parts = sampler.sample((7, D), seed=0, on_step=hook, dtype=F64, batch_size=3)
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    # With progress, and for the last samples alone.
    last = sampler.sample(
        (2, D), seed=0, first=5, on_step=RePaint(masked(None), y[5:]), dtype=F64, progress=True
    )
    torch.testing.assert_close(whole[5:], last, rtol=1e-12, atol=1e-12)
    assert torch.equal(whole[:, KNOWN], y)


@pytest.mark.parametrize("kind", ["restart", "churn", "resampling"])
@pytest.mark.parametrize("solver", ["ancestral", "euler_maruyama", "heun", "dopri5"])
def test_repaint_runs_on_every_grid(kind: str, solver: str) -> None:
    sde = VPSDE()
    main = log_snr(sde, 8)
    grid: Grid = {
        "restart": lambda: restart(sde, main, t_min=0.1, t_max=0.5, times=2, steps=3),
        "churn": lambda: churn(sde, main, 4.0),
        "resampling": lambda: resampling(sde, main, length=2, times=2),
    }[kind]()
    x = ReverseSampler(sde, model(), solver, grid=grid).sample(
        (3, D), seed=0, dtype=F64, on_step=RePaint(masked())
    )
    assert bool(x.isfinite().all()) and torch.equal(x[:, KNOWN], Y.expand(3, 4))


def test_repaint_leaves_states_that_are_not_denoised_on_their_noised_path() -> None:
    sampler = ReverseSampler(VPSDE(), model(), "ancestral", steps=6, t_end=0.1, denoise=False)
    x = sampler.sample((3, D), seed=0, dtype=F64, on_step=RePaint(masked()))
    z = (x[:, KNOWN] - VPSDE().alpha(0.1) * Y) / VPSDE().sigma(0.1)
    assert 0.5 < float(z.std()) < 2.0


def test_identity_with_unobserved_entries_is_a_mask() -> None:
    y = torch.full((D,), NAN, dtype=F64)
    y[KNOWN] = Y
    sampler = ReverseSampler(VPSDE(), model(), "ancestral", steps=6)
    outs = [
        sampler.sample((3, D), seed=0, dtype=F64, on_step=RePaint(measurement))
        for measurement in (masked(), Measurement(Identity(), y, 0.0))
    ]
    torch.testing.assert_close(*outs, rtol=1e-12, atol=1e-12)


def test_a_run_that_fails_is_replayed_with_the_hook() -> None:
    broken = FunctionScore(VPSDE(), lambda t, x: x / 0)
    sampler = ReverseSampler(VPSDE(), broken, "ancestral", steps=3)
    with pytest.raises(ValueError, match="finite scores at step 1"):
        sampler.sample((2, D), seed=0, on_step=RePaint(masked()))


# Bias: the figures of the docstrings.


def off(x: Tensor) -> float:
    """W2/sqrt(4) of the unknown entries from the posterior."""
    mean, C = PRIOR.mean, PRIOR.covariance
    gain = C[~KNOWN][:, KNOWN] @ torch.linalg.inv(C[KNOWN][:, KNOWN])
    centre = mean[~KNOWN] + gain @ (Y - mean[KNOWN])
    posterior = Gaussian(centre, C[~KNOWN][:, ~KNOWN] - gain @ C[KNOWN][:, ~KNOWN])
    return distance(x[:, ~KNOWN], posterior)


def biased(solver: str, grid: Grid, hook: RePaint | None) -> float:
    own = DDNM(model(), masked()) if hook is None else model()
    sampler = ReverseSampler(VPSDE(), own, solver, grid=grid)
    return off(sampler.sample((8000, D), seed=0, dtype=F64, on_step=hook))


@pytest.mark.parametrize(
    ("solver", "length", "times", "method", "figure"),
    [
        ("ancestral", 1, 1, "DDNM", 0.24),
        ("ddim", 1, 1, "DDNM", 0.32),
        ("ancestral", 1, 1, "RePaint", 0.24),
        ("ancestral", 10, 5, "RePaint", 0.09),
        ("ancestral", 5, 10, "RePaint", 0.06),
    ],
)
def test_the_bias_on_a_gaussian_is_the_one_stated(
    solver: str, length: int, times: int, method: str, figure: float
) -> None:
    grid = resampling(VPSDE(), log_snr(VPSDE(), 100), length=length, times=times)
    found = biased(solver, grid, RePaint(masked()) if method == "RePaint" else None)
    assert abs(found - figure) < 0.02
    assert 0.46 < off(PRIOR.sample(8000, seed=1)) < 0.5


def test_the_other_grids_do_what_is_stated() -> None:
    main = log_snr(VPSDE(), 100)
    wide = restart(VPSDE(), main, t_min=0.05, t_max=0.6, times=2, steps=40)
    assert abs(biased("ancestral", wide, RePaint(masked())) - 0.24) < 0.02
    assert abs(biased("ancestral", churn(VPSDE(), main, 30.0), RePaint(masked())) - 0.15) < 0.02


# What is refused.


@pytest.mark.parametrize("method", [lambda m: DDNM(model(), m), RePaint])
def test_noise_is_refused(method: object) -> None:
    with pytest.raises(ValueError, match=r"noise: expected noise 0, since .* imposes y exactly"):
        method(Measurement(Mask(KNOWN), Y, 0.1))  # type: ignore[operator]


def test_bad_input() -> None:
    holes = Measurement(OPERATORS["blur"], torch.tensor([NAN, *[1.0] * 7]), 0.0)
    with pytest.raises(ValueError, match="y: expected no NaN with this operator for DDNM"):
        DDNM(model(), holes)
    own = DDNM(model(), Measurement(OPERATORS["blur"], None, 0.0))
    with pytest.raises(ValueError, match="y: expected no NaN with this operator for DDNM"):
        ReverseSampler(VPSDE(), own, steps=2).sample(
            (2, D), seed=0, cond={"y": torch.full((2, D), NAN)}
        )
    both = Measurement(Mask(KNOWN) @ Blur(randn(3)), Y, 0.0)
    with pytest.raises(TypeError, match="known singular values, as DDNM needs"):
        DDNM(model(), both)
    with pytest.raises(TypeError, match="Identity or Mask, as RePaint needs"):
        RePaint(Measurement(OPERATORS["blur"], randn(8), 0.0))
    for measurement, y in ((masked(), Y), (masked(None), None)):
        with pytest.raises(ValueError, match="y: expected one y, in the measurement or here"):
            RePaint(measurement, y)
    sampler = ReverseSampler(VPSDE(), model(), "ancestral", steps=2)
    with pytest.raises(ValueError, match="y: expected 3 measurements, one per sample"):
        sampler.sample((3, D), seed=0, on_step=RePaint(masked(None), randn(4, 4)))
    with pytest.raises(ValueError, match=r"y: expected shape \(3, 4\)"):
        sampler.sample((3, D), seed=0, on_step=RePaint(masked(None), randn(3, 5)))
