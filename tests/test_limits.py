"""Schedules that end in pure noise or at the data themselves, or that stop short of noise."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde import (
    FunctionScore,
    Gaussian,
    GaussianMixture,
    ReverseSampler,
    ScoreModel,
    elbo,
    encode,
    log_prob,
)
from scoresde.analytic_start import AnalyticStart
from scoresde.ddpm import DDPM
from scoresde.losses import ImportanceTime, UniformTime, dsm_loss
from scoresde.noise import BrownianPath, Independent
from scoresde.options import Tolerances
from scoresde.prediction import Prediction
from scoresde.process import ReverseSDE
from scoresde.schedule.grid import GRIDS, Grid, SoftLogSNR, log_snr, make_grid
from scoresde.sde import (
    EDMSDE,
    VESDE,
    VPSDE,
    AffineSDE,
    CosineSDE,
    FlowSDE,
    LinearSDE,
    SubVPSDE,
)
from scoresde.solvers import SOLVERS, Adams, Statistics
from scoresde.solvers.limits import Held
from scoresde.summary import DataSummary

D = torch.float64


def rescaled(steps: int) -> DDPM:
    """Betas moved so that beta_N = 1: Lin et al. 2024 (arXiv 2305.08891), alg. 1."""
    root = torch.tensor(DDPM.linear(steps).abar[1:], dtype=D).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return DDPM(1 - torch.cat([root[:1] ** 2, root[1:] ** 2 / root[:-1] ** 2]))


CHAIN = rescaled(40)
PURE: dict[str, AffineSDE] = {
    "flow": FlowSDE(T=1.0),
    "cosine": CosineSDE(T=1.0),
    "chain": CHAIN.to_sde(),
}
"""alpha(T) = 0 exactly."""
NEARLY: dict[str, AffineSDE] = {
    "flow, nearly": FlowSDE(T=1 - 1e-10),
    "vp": VPSDE(0.1, 500.0),
}
BOTH = {**PURE, **NEARLY}
TWO = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [1.0, 0.5]], dtype=D), torch.tensor([0.1, 0.1], dtype=D)
)
ONE = Gaussian(torch.tensor([1.0, -0.5], dtype=D), torch.tensor([0.4, 0.1], dtype=D))


def in_coordinate(data: Gaussian | GaussianMixture, sde: AffineSDE, kind: str) -> ScoreModel:
    """The exact model in another coordinate."""
    inner = data.under(sde)

    class Model(ScoreModel):
        def __init__(self) -> None:
            super().__init__()
            self.sde = sde

        def predict(self, node, x, cond=None):
            return Prediction(x, node, inner.predict(node, x).read(kind), kind)

    return Model()


@pytest.mark.parametrize("name", PURE)
def test_a_schedule_of_pure_noise_is_exact_at_its_end(name: str) -> None:
    sde = PURE[name]
    node, x = sde.at(sde.T), torch.zeros(1, 1, dtype=D)
    assert node.alpha == 0.0 and node.log_snr == -math.inf and node.rate == -math.inf
    assert node.sigma == pytest.approx(1.0, rel=1e-15) and sde.prior_std == node.sigma
    batch = sde.at(torch.tensor([sde.T], dtype=D), like=x)
    for field in ("alpha", "sigma", "log_snr", "rate", "g"):
        assert float(getattr(batch, field)) == getattr(node, field)
        array = getattr(sde, field)(np.array([sde.T]))
        assert array[0] == getattr(node, field)
    for value in (-math.inf, torch.tensor(-math.inf, dtype=D), np.array(-math.inf)):
        assert float(sde.time_of(value)) == pytest.approx(sde.T, rel=1e-15)
    assert sde.transition(0.5, sde.T) == (0.0, node.sigma)
    assert float(sde.prior_kl(torch.full((1, 3), 5.0, dtype=D))) == pytest.approx(0, abs=1e-12)
    # between the last nodes the schedule is one: inverse, rate and g by differences
    times = torch.linspace(0.9, 1.0, 21, dtype=D)[:-1] * sde.T
    assert (sde.time_of(sde.log_snr(times)) - times).abs().max() < 1e-10
    t = times.clone().requires_grad_()
    (slope,) = torch.autograd.grad(sde.log_alpha(t).sum(), t)
    assert (slope / sde.rate(times) - 1).abs().max() < 1e-9
    floats = torch.tensor([sde.g(float(u)) for u in times], dtype=D)
    assert (sde.g(times) / floats - 1).abs().max() < 1e-12


def test_a_chain_whose_last_beta_is_one_in_closed_form() -> None:
    chain = DDPM([0.1, 0.4, 1.0])
    assert chain.abar[-1] == 0.0 and chain.bbar[-1] == 1.0 and chain.log_snr[-1] == -math.inf
    x0 = ONE.sample(2000, seed=0)
    assert float(chain.prior_kl(x0).abs().max()) == 0.0
    # q(x_2 | x_3, x_0) = q(x_2 | x_0): x_3 knows nothing
    mean, variance = chain.q_posterior(3, torch.randn(2000, 2, dtype=D), x0)
    assert torch.allclose(mean, math.sqrt(chain.abar[2]) * x0, rtol=1e-14)
    assert variance == pytest.approx(chain.bbar[2], rel=1e-14)
    # Sigma_3 = beta-tilde_3 + abar_2 Var(x_0)
    model = ONE.under(chain.to_sde())
    want = chain.bbar[2] + chain.abar[2] * float((x0 - x0.mean(0)).square().mean())
    assert chain.analytic_variance(model, x0)[-1] == pytest.approx(want, rel=1e-12)
    given = chain.optimal_variance([0.5, 0.5, 1.0], data_variance=0.25)
    assert given[-1] == pytest.approx(chain.bbar[2] + chain.abar[2] * 0.25, rel=1e-12)
    with pytest.raises(ValueError, match="data_variance"):
        chain.optimal_variance([0.5, 0.5, 1.0])
    for betas in ([0.1, 1.0, 0.2], [0.1, 1.1], [0.0, 1.0]):
        with pytest.raises(ValueError, match="betas, step"):
            DDPM(betas)


def test_the_chain_s_own_sampler_and_the_general_one_agree_out_of_pure_noise() -> None:
    chain = rescaled(20)
    model = TWO.under(chain.to_sde())
    own = chain.ancestral_sample(model, (50, 2), seed=3, dtype=D)
    sampler = ReverseSampler(chain.to_sde(), model, "ancestral", grid=chain.times(model.sde))
    assert (own - sampler.sample((50, 2), seed=3, dtype=D)).abs().max() < 1e-9


@pytest.mark.parametrize("name", BOTH)
def test_the_step_out_of_pure_noise_is_the_limit_of_its_formula(name: str) -> None:
    sde = BOTH[name]
    now, nxt = sde.at(sde.T), sde.at(0.7 * sde.T)
    x = torch.randn(4, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    model, noise = ONE.under(sde), Independent(0)
    mean = ONE.mean  # all that pure noise knows of x_0
    for eta in (0.0, 1.0, lambda t: 2.0 * t, *([0.3] if name in PURE else [])):
        process = ReverseSDE(sde, model, eta)
        got = Held.of(now, nxt, eta).step(process, x, now, nxt, noise)
        z = noise.normal(x, now, nxt)
        want = nxt.alpha * mean + nxt.sigma * (z if eta != 0.0 else x / now.sigma)
        assert (got - want).abs().max() < 1e-8


EXACT = ("auto", "auto_sde", *SOLVERS)


def first_order(solver: str) -> bool:
    """Whether the spread is off by the scheme's own error at some dozens of steps."""
    if solver not in SOLVERS or solver == "predictor_corrector":
        return solver in SOLVERS
    orders = SOLVERS[solver][0].orders
    return 1 in (orders.ode, orders.weak)


@pytest.mark.parametrize("name", BOTH)
def test_every_solver_starts_from_pure_noise(name: str) -> None:
    """Mean and spread of Gaussian data in float32: no solver loses either on the way."""
    sde, n = BOTH[name], 2500
    model = ONE.under(sde)
    for solver in EXACT:
        sampler = ReverseSampler(sde, model, solver, steps=40, grid="log_snr")
        x = sampler.sample((n, 2), seed=0, dtype=torch.float32)
        off = (x.mean(0) - ONE.mean).abs().max(), (x.var(0) / ONE.covariance - 1).abs().max()
        most = (0.12, 0.5) if first_order(solver) else (0.06, 0.2)
        assert off[0] < most[0] and off[1] < most[1], (solver, off)


@pytest.mark.parametrize("grid", [*GRIDS, "own"])
@pytest.mark.parametrize("name", BOTH)
def test_every_grid_has_a_meaning_at_pure_noise(name: str, grid: str) -> None:
    sde = BOTH[name]
    nodes = [sde.T, 0.95 * sde.T, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.03] if grid == "own" else grid
    made = make_grid(nodes, sde, None if grid == "own" else 40)
    assert made.start == sde.T and all(math.isfinite(t) for t in made.times)
    for solver in ("unipc_3_v", "deis_rhoab3", "ancestral", "dpmpp_2m", "res_2s", "sra1"):
        sampler = ReverseSampler(sde, TWO.under(sde), solver, grid=made)
        x = sampler.sample((1000, 2), seed=0, dtype=torch.float32)
        assert bool(x.isfinite().all()) and float(x.abs().max()) < 20, solver


def test_the_soft_log_snr_is_the_log_snr_where_the_schedule_ends_early() -> None:
    for sde in (VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE(), EDMSDE(1.0, 1e6)):
        assert SoftLogSNR(sde).floor == 0.0
        times = log_snr(sde, 10).times
        gaps = np.diff([sde.log_snr(t) for t in times])
        assert gaps == pytest.approx(gaps[0], rel=1e-9)
    for sde in BOTH.values():
        soft = SoftLogSNR(sde)
        assert soft.floor == pytest.approx(1e-3 - sde.alpha(sde.T), rel=1e-9)
        assert soft.of(sde.log_snr(sde.T)) == pytest.approx(math.log(1e-3), rel=1e-9)
        for lam in (-12.0, -7.0, -1.0, 3.0):
            w = soft.of(lam)
            assert math.exp(w) == pytest.approx(math.exp(lam) + soft.floor, rel=1e-9)
            assert soft.log_snr(w) == pytest.approx(lam, rel=1e-8)
        gaps = np.diff([soft.of(sde.log_snr(t)) for t in log_snr(sde, 50).times])
        assert gaps == pytest.approx(gaps[0], rel=1e-6)


@pytest.mark.parametrize("name", ["flow", "cosine", "flow, nearly"])
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        ("ddim", 1), ("dpmpp_2m", 2), ("dpmpp_3m", 3), ("unipc_2", 3), ("unipc_3_v", 4),
        ("unipc_3_flow", 4), ("deis_log_rho_3", 3), ("dpm_solver_2", 2), ("res_2s", 2),
        ("edm_heun", 2), ("dpmpp_3s", 3),
    ],
)  # fmt: skip
def test_orders_hold_from_pure_noise_on(name: str, solver: str, order: int) -> None:
    sde = BOTH[name]
    x = torch.randn(64, 2, dtype=D, generator=torch.Generator().manual_seed(1))
    data = Gaussian(ONE.mean, torch.tensor([0.3, 0.6], dtype=D))
    end = sde.time_of(2.0)
    # the flow of a Gaussian from pure noise: mu + std z, at `end`
    want = data.flow(sde, x, sde.T, end)
    errors = []
    for steps in (40, 80):
        sampler = ReverseSampler(
            sde, data.under(sde), solver, steps=steps, grid="log_snr", t_end=end, denoise=False
        )
        got = sampler.sample((64, 2), x_init=x, dtype=D)
        errors.append(float((got - want).norm(dim=1).median()))
    assert math.log2(errors[0] / errors[1]) > order - 0.35, errors


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("kind", ["v", "x0", "flow"])
def test_the_coordinate_of_the_model_does_not_matter_near_pure_noise(name: str, kind: str) -> None:
    sde = BOTH[name]
    want = ReverseSampler(sde, ONE.under(sde), steps=15).sample((200, 2), seed=1, dtype=D)
    model = in_coordinate(ONE, sde, kind)
    for solver in ("unipc_3_v", "dopri5"):
        sampler = ReverseSampler(sde, model, solver, steps=15)
        exact = ReverseSampler(sde, ONE.under(sde), solver, steps=15)
        x = sampler.sample((200, 2), seed=1, dtype=torch.float32)
        y = exact.sample((200, 2), seed=1, dtype=D)
        assert (x - y).abs().max() < 2e-3
    assert (want.mean(0) - ONE.mean).abs().max() < 0.15


@pytest.mark.parametrize("name", BOTH)
def test_eps_says_nothing_of_the_data_at_pure_noise_and_the_error_says_so(name: str) -> None:
    sde = BOTH[name]
    for model in (in_coordinate(ONE, sde, "eps"), FunctionScore(sde, lambda t, x: -x)):
        for solver in ("auto", "ddim", "euler_maruyama", "dopri5", "adaptive_sde", "scipy"):
            sampler = ReverseSampler(sde, model, solver, steps=10)
            with pytest.raises(ValueError, match=r"predict v, x0 or the flow.*AnalyticStart"):
                sampler.sample((4, 2), seed=0, dtype=torch.float32)
    # the remedies: a start below T, and the data's moments for the first step
    model = in_coordinate(ONE, sde, "eps")
    above = log_snr(sde, 60).times[1]
    start = AnalyticStart(model, ONE.under(sde), above=above)
    for solver in ("dpmpp_2m", "ancestral"):
        x = ReverseSampler(sde, start, solver, steps=60).sample((3000, 2), seed=0, dtype=D)
        assert (x.mean(0) - ONE.mean).abs().max() < 0.05
    batch = start(torch.tensor([sde.T, 0.5], dtype=D), torch.ones(2, 2, dtype=D))
    assert (batch.x0[0] - ONE.mean).abs().max() < 1e-6


@pytest.mark.parametrize("name", BOTH)
def test_density_codes_and_bound_under_schedules_of_pure_noise(name: str) -> None:
    sde = BOTH[name]
    model, x = ONE.under(sde), ONE.sample(24, seed=1)
    truth = ONE.marginal(sde, sde.t_min).log_prob(x)
    found = log_prob(model, x, divergence="exact", tolerances=Tolerances(1e-7, 1e-7))
    assert (found.nats - truth).abs().max() < 1e-5
    assert encode(sde, model, x.float(), check=True).round_trip.max() < 2e-3
    # I-MMSE: for the exact model the bound on the noised density is the density, in the mean
    bound = elbo(model, x, decoder="noised", steps=64, samples=8)
    noised = x * sde.alpha(sde.t_min)
    exact = -float(ONE.marginal(sde, sde.t_min).log_prob(noised).mean())
    mean, error = bound.estimate()
    assert math.isfinite(error) and abs(mean - exact) < 5 * error + 0.1
    for time in (UniformTime(), ImportanceTime()):
        loss = dsm_loss(model, x, time=time, generator=torch.Generator().manual_seed(0))
        assert bool(loss.isfinite().all())


def test_times_drawn_by_the_soft_log_snr_have_the_density_that_is_told() -> None:
    """int h dlambda by the weights, against the closed form, for h that vanishes at the noise."""
    sde = FlowSDE(T=1.0)
    u = (torch.arange(200_000, dtype=D) + 0.5) / 200_000
    t, slope = SoftLogSNR(sde).drawn(u, 0.01)
    value = float((slope * sde.alpha(t) * sde.sigma(t)).mean())
    # dlambda = -dt / (t (1 - t)) and alpha sigma = t (1 - t)
    assert value == pytest.approx(0.99, rel=1e-6)
    t, weight = ImportanceTime(low_discrepancy=True).sample(
        sde, 20_000, torch.Generator().manual_seed(0)
    )
    assert float((weight * t.square()).mean()) == pytest.approx(1 / 3, rel=1e-2)


def test_a_chain_s_bound_draws_the_last_step_too() -> None:
    chain = rescaled(20)
    model, x = ONE.under(chain.to_sde()), ONE.sample(16, seed=1)
    full = elbo(model, x, chain=chain, decoder="gaussian", samples=4)
    part = elbo(model, x, chain=chain, decoder="gaussian", steps=60, samples=4)
    assert float(full.prior.abs().max()) == 0.0
    gap = abs(full.estimate()[0] - part.estimate()[0])
    assert gap < 5 * (full.estimate()[1] + part.estimate()[1])


@pytest.mark.parametrize("name", ["flow", "chain", "vp-20"])
def test_every_solver_ends_at_the_data_themselves(name: str) -> None:
    """sigma = 0 at t = 0: the last step is x_0hat, in one step or after many."""
    sde = PURE.get(name, VPSDE())
    model = ONE.under(sde)
    refuse = {"adaptive_sde", "scipy"}
    for solver in EXACT:
        if solver in refuse:
            with pytest.raises(ValueError, match=r"sigma = 0|finite log-SNR"):
                ReverseSampler(sde, model, solver, steps=5, grid="quadratic", t_end=0.0).sample(
                    (4, 2), seed=0, dtype=D
                )
            continue
        sampler = ReverseSampler(sde, model, solver, steps=40, grid="quadratic", t_end=0.0)
        x = sampler.sample((1000, 2), seed=0, dtype=D)
        assert (x.mean(0) - ONE.mean).abs().max() < 0.08, solver
    one = ReverseSampler(sde, model, "ddim", grid=[sde.T, 0.0]).sample((5, 2), seed=0, dtype=D)
    if sde.alpha(sde.T) == 0.0:
        assert (one - ONE.mean).abs().max() < 1e-12
    with pytest.raises(ValueError, match="log_snr"):
        make_grid("log_snr", sde, 5, t_end=0.0)


def test_noise_along_a_path_begins_at_pure_noise() -> None:
    sde, like = FlowSDE(T=1.0), torch.empty(20_000, 1, dtype=D)
    path = BrownianPath(0, sde)
    now, middle, end = (sde.at(t) for t in (1.0, 0.6, 0.3))
    whole, first, last = (
        path.normal(like, a, b) for a, b in ((now, end), (now, middle), (middle, end))
    )
    share = math.exp(2 * (middle.log_snr - end.log_snr))  # of the clock c, which begins at 0
    sums = math.sqrt(share) * first + math.sqrt(1 - share) * last
    assert (whole - sums).abs().max() < 1e-6
    assert abs(float(whole.var()) - 1) < 0.05
    assert abs(float((first * last).mean())) < 0.03
    with pytest.raises(ValueError, match="log-SNR above"):
        path.check((1.0, 1 - 1e-9, 0.5))
    model = ONE.under(sde)
    x = ReverseSampler(sde, model, "ancestral", steps=60).sample((3000, 2), seed=0, noise="path")
    assert (x.mean(0) - ONE.mean).abs().max() < 0.06


def test_what_cannot_work_at_pure_noise_is_refused_by_name() -> None:
    sde = FlowSDE(T=1.0)
    model = ONE.under(sde)
    with pytest.raises(ValueError, match="sde: expected a finite log-SNR at T"):
        ReverseSampler(sde, model, steps=5).calibrate((2,), trajectories=12)
    with pytest.raises(ValueError, match="sde: expected a finite log-SNR at T"):
        Statistics.from_model(model, ONE.sample(50))
    up = Grid.of([0.01, 0.5, 1.0])
    for solver in ("ddim", "heun", "dpmpp_2m"):
        made, _ = SOLVERS[solver]
        with pytest.raises(ValueError, match="alpha = 0"):
            made.solve(ReverseSDE(sde, model, 0.0), torch.zeros(2, 2), up, noise=Independent(0))
    for family in (FlowSDE, CosineSDE):
        with pytest.raises(ValueError, match="T: expected"):
            family(T=1.01)


def test_a_hook_and_a_path_see_the_steps_out_of_noise() -> None:
    sde = VPSDE(0.1, 500.0)
    grid = [1.0, 0.8, 0.5, 0.2, 0.1, 0.01]
    seen: list[float] = []
    for solver in ("ddim", "adaptive_sde", "dopri5"):
        sampler = ReverseSampler(sde, ONE.under(sde), solver, grid=grid)
        seen.clear()
        found = sampler.solve(
            (3, 2), seed=0, dtype=D, keep_path=True, on_step=lambda n, x: seen.append(n.t)
        )
        assert seen == grid[1:] and found.path.shape == (6, 3, 2), solver
        assert bool(found.path.isfinite().all())
    for solver in ("scipy", "torchsde"):
        found = ReverseSampler(sde, ONE.under(sde), solver, grid=grid).solve(
            (3, 2), seed=0, dtype=D, keep_path=True
        )
        assert found.path.shape == (6, 3, 2) and bool(found.path.isfinite().all())


# Schedules that stop short of noise

SHORT = {
    "vp": VPSDE(0.1, 2.0),
    "subvp": SubVPSDE(0.1, 2.0),
    "flow": FlowSDE(T=0.5),
    "cosine": CosineSDE(T=0.7),
    "ve": VESDE(0.01, 2.0),
    "edm": EDMSDE(0.01, 2.0),
    "chain": DDPM.linear(50, 1e-4, 0.02).to_sde(),
    "linear": LinearSDE(lambda t: -0.5, lambda t: 1.0),
}
LONG = [
    VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE(), VPSDE(0.01, 10.0),
    DDPM.linear().to_sde(), DDPM.linear(10).to_sde(), DDPM.cosine(10).to_sde(), *BOTH.values(),
]  # fmt: skip


def normal_kl(a: float, b: float, std: float) -> float:
    """KL(N(a, b^2), N(0, std^2))."""
    return math.log(std / b) + (a**2 + b**2) / (2 * std**2) - 0.5


@pytest.mark.parametrize("name", SHORT)
def test_a_schedule_that_does_not_reach_noise_warns_with_the_remedy(name: str) -> None:
    sde = SHORT[name]
    want = normal_kl(sde.alpha(sde.T), sde.sigma(sde.T), sde.prior_std)
    assert sde.prior_gap() == pytest.approx(want, rel=1e-9) and want > 0.005
    sampler = ReverseSampler(sde, ONE.under(sde), "euler_maruyama", steps=2)
    with pytest.warns(UserWarning, match="does not reach noise.*Train with a schedule") as told:
        sampler.sample((2, 2), seed=0)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample((2, 2), seed=0, x_init=torch.zeros(2, 2))


@pytest.mark.parametrize("sde", [VPSDE(), CosineSDE(), FlowSDE(), DDPM.linear().to_sde()])
def test_the_remedy_for_data_too_large_for_a_usual_schedule_is_their_scale(sde: Any) -> None:
    with pytest.warns(UserWarning, match="Scale the data to about unit size, or train") as told:
        sde.warn_of_prior(200.0)
    assert not any(word in str(told[0].message) for word in ("usual", "default", "1000/1000"))


def test_a_schedule_that_reaches_noise_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sde in LONG:
            assert sde.prior_gap() < 0.005
            ReverseSampler(sde, ONE.under(sde), "euler_maruyama", steps=2).sample((2, 2), seed=0)


def test_the_mean_that_a_short_schedule_loses_is_the_share_that_is_warned_of() -> None:
    for sde in (VPSDE(0.1, 4.0), FlowSDE(T=0.8), DDPM.linear(100, 1e-4, 0.02).to_sde()):
        data = Gaussian(torch.tensor([1.0], dtype=D), torch.tensor([0.0], dtype=D))
        start = torch.zeros(1, 1, dtype=D)  # the prior's mean, where x_T's is alpha
        lost = 1 - float(data.flow(sde, start, sde.T, sde.t_end)) / sde.alpha(sde.t_end)
        ratio = sde.sigma(sde.t_end) / sde.alpha(sde.t_end)
        assert lost == pytest.approx(ratio * sde.alpha(sde.T) / sde.sigma(sde.T), rel=1e-6)


def test_the_chain_s_own_sampler_warns_too_and_the_size_of_known_data_counts() -> None:
    chain = DDPM.linear(50, 1e-4, 0.02)
    model = ONE.under(chain.to_sde())
    with pytest.warns(UserWarning, match=r"DDPM.linear\(50\)"):
        chain.ancestral_sample(model, (2, 2), seed=0)
    sde = VESDE(0.001, 2.0)
    assert sde.prior_gap(0.1) == pytest.approx(0.5 * (0.1 / 2.0) ** 2, rel=1e-9)
    model = ONE.under(sde)
    sampler = ReverseSampler(sde, model, "ddim", steps=2)
    with pytest.warns(UserWarning, match="data of size 1 "):
        sampler.sample((2, 2), seed=0)
    model.data = DataSummary(10, (2,), mean=0.06, std=0.08, low=-1.0, high=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample((2, 2), seed=0, dtype=D)


def test_linear_chains_of_any_length_end_in_the_noise_of_a_thousand_steps() -> None:
    whole = DDPM.linear()
    assert whole == DDPM.linear(1000, 1e-4, 0.02) and whole.betas[1] < 1.3e-4
    for n in (2, 10, 50, 200, 500):
        chain = DDPM.linear(n)
        assert n == chain.N
        for i in (1, n // 2, n):
            assert chain.abar[i] == pytest.approx(whole.abar[1000 * i // n], rel=1e-9)
    assert DDPM.linear(4000).abar[-1] == pytest.approx(whole.abar[-1], rel=1e-9)
    assert DDPM.linear(5, 0.1, 0.5).betas == pytest.approx((0.1, 0.2, 0.3, 0.4, 0.5), rel=1e-12)
    chain = DDPM.linear(50)
    model = ONE.under(chain.to_sde())
    x = ReverseSampler(chain.to_sde(), model, "ancestral", steps=50).sample((8000, 2), seed=0)
    assert (x.mean(0) - ONE.mean).abs().max() < 0.03


def test_adams_with_history_begins_anew_after_the_noise() -> None:
    """The steps after the first are those of a solve that starts at the first node."""
    sde, z = FlowSDE(T=1.0), torch.randn(8, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    model, solver = TWO.under(sde), Adams(3, 4)
    process, noise = ReverseSDE(sde, model, 0.0), Independent(0)
    times = log_snr(sde, 12).times
    whole = solver.solve(process, z, Grid.of(times), noise=noise, keep_path=True)
    rest = solver.solve(process, whole.path[1], Grid.of(times[1:]), noise=noise)
    node = sde.at(times[1])
    x1: Tensor = node.sigma * z + node.alpha * TWO.means.mean(0)
    assert (whole.path[1] - x1).abs().max() < 1e-12
    passed = [i for i, t in enumerate(times) if sde.alpha(t) <= 1e-3][-1]
    late = solver.solve(process, whole.path[passed], Grid.of(times[passed:]), noise=noise)
    assert torch.equal(late.x, whole.x) and (rest.x - whole.x).abs().max() < 1e-3
