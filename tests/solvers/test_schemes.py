"""Solvers: equalities between schemes and back ends, exact marginals, and what they refuse."""

from __future__ import annotations

import math

import order
import pytest
import torch
from torch import Tensor

import scoresde
from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    Adams,
    AdaptiveODE,
    CosineSDE,
    EulerMaruyama,
    FlowSDE,
    FunctionScore,
    Gaussian,
    Grid,
    Heun,
    ReverseSampler,
    ReverseSDE,
    SubVPSDE,
)
from scoresde.noise import Independent
from scoresde.process import ForwardSDE
from scoresde.sampler.plan import as_solver
from scoresde.schedule.grid import log_snr, uniform
from scoresde.solvers import (
    SOLVERS,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    SciPySolver,
    Solver,
    StepSolver,
    TorchSDESolver,
)

MIXTURE = order.mixture_2d()
FAMILIES = [VPSDE(), SubVPSDE(), VESDE(0.01, 30.0), CosineSDE(), FlowSDE(), EDMSDE()]


def walk(solver: Solver, sde: SDE, eta: float, n: int, x: Tensor, **arguments: object) -> Tensor:
    process = ReverseSDE(sde, MIXTURE.under(sde), eta)
    grid = arguments.pop("grid", None) or log_snr(sde, n)
    return solver.solve(process, x, grid, noise=Independent(3), **arguments).x


def state(n: int = 64) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sde", FAMILIES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("make", [uniform, log_snr])
def test_torchsde_euler_is_our_euler_maruyama(sde: SDE, eta: float, make: object) -> None:
    grid = make(sde, 37)
    x = state() * sde.sigma(sde.T)
    ours = walk(EulerMaruyama(), sde, eta, 37, x, grid=grid)
    theirs = walk(TorchSDESolver(), sde, eta, 37, x, grid=grid)
    torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)


def test_torchsde_asks_once_a_step_and_keeps_the_path() -> None:
    for n in (10, 50, 100, 1000):
        process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), 1.0)
        grid = uniform(order.SDE, n)
        solution = TorchSDESolver().solve(
            process, state(4), grid, noise=Independent(0), keep_path=True
        )
        assert solution.nfe == process.nfe == n
        assert solution.path.shape == (n + 1, 4, 2)
        assert torch.equal(solution.path[-1], solution.x)


def test_torchsde_srk_sees_our_levy_area() -> None:
    """With a constant drift-free process srk's answer is the Wiener integral of g, not g(s) W."""
    sde = SDE(lambda t, x: 0 * x, lambda t: 1.0 + t, T=1.0)
    grid = Grid.of([0.0, 1.0])
    noise = Independent(5)
    x = torch.zeros(6, 2, dtype=torch.float64)
    out = TorchSDESolver("srk").solve(ForwardSDE(sde), x, grid, noise=noise).x
    w, h = noise.on_segment(0).levy(x, sde.at(0.0), sde.at(1.0))
    area = w / 2 + h / math.sqrt(12)  # int_0^1 W, so int (1 + t) dW = 2 W - int W
    torch.testing.assert_close(out, 2 * w - area, rtol=1e-12, atol=1e-12)


def test_torchsde_with_its_own_brownian_interval_obeys_the_seed() -> None:
    solver = TorchSDESolver("srk", brownian="interval")
    runs = [
        solver.solve(
            ReverseSDE(order.SDE, MIXTURE.under(order.SDE)),
            state(8),
            uniform(order.SDE, 16),
            noise=Independent(seed),
        ).x
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


@pytest.mark.parametrize("method", ["RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"])
def test_scipy_reaches_the_reference(method: str) -> None:
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), 0.0)
    solver = SciPySolver(method, rtol=1e-8, atol=1e-10)
    x0 = order.starts()[:6]
    out = solver.solve(process, x0, log_snr(order.SDE, 4), noise=Independent(0), keep_path=True)
    assert float((out.x - order.flow_reference()[:6]).abs().max()) < 2e-6
    assert out.nfe == process.nfe > 20
    assert torch.equal(out.path[0], x0) and torch.equal(out.path[-1], out.x)


def test_scipy_keeps_shape_dtype_and_solves_in_float64() -> None:
    x = torch.randn(3, 1, 2, 1, generator=torch.Generator().manual_seed(0))
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), 0.0)
    out = SciPySolver().solve(process, x, uniform(order.SDE, 2), noise=Independent(0)).x
    assert out.shape == x.shape and out.dtype == torch.float32


@pytest.mark.parametrize("sde", FAMILIES, ids=lambda s: type(s).__name__)
def test_exponential_step_is_exact_where_x0_does_not_change(sde: SDE) -> None:
    """For a point mass x_0hat is constant: one step of any length gives the exact transition."""
    point = Gaussian(
        torch.tensor([0.3, -0.4], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    )
    model = point.under(sde)
    x = state(5) * sde.sigma(sde.T) + sde.alpha(sde.T) * point.mean
    grid = Grid.of([sde.T, sde.t_end or 0.1])
    ode = Adams(1).solve(ReverseSDE(sde, model, 0.0), x, grid, noise=Independent(0)).x
    eps = (x - sde.alpha(sde.T) * point.mean) / sde.sigma(sde.T)
    exact = sde.perturb(grid.end, point.mean.expand(5, 2), eps)
    torch.testing.assert_close(ode, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", FAMILIES, ids=lambda s: type(s).__name__)
def test_ancestral_step_is_the_posterior_of_ddpm(sde: SDE) -> None:
    """q(x_s | x_t, x_0) with beta-tilde, from the chain's own formula (Ho et al. 2020, eq. 7)."""
    t, s = 0.6 * sde.T, 0.4 * sde.T
    scale, std = sde.transition(s, t)
    step = std**2  # beta
    behind = sde.sigma(s) ** 2
    x0 = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64) * sde.sigma(t)
    mean = (scale * behind * x + sde.alpha(s) * step * x0) / sde.sigma(t) ** 2
    point = Gaussian(x0[0], torch.zeros((), dtype=torch.float64)).under(sde)
    noise = Independent(0)
    out = Adams(1).solve(ReverseSDE(sde, point, 1.0), x, Grid.of([t, s]), noise=noise).x
    z = noise.normal(x, sde.at(t), sde.at(s))
    deviation = math.sqrt(step * behind) / sde.sigma(t)
    torch.testing.assert_close(out, mean + deviation * z, rtol=1e-10, atol=1e-10)


def test_reverse_diffusion_tends_to_song_s_rule_as_steps_shrink() -> None:
    """(2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z with beta the chain's own."""
    sde, x = VPSDE(), state(3)
    t, s = 0.5, 0.499
    beta = 1 - (sde.alpha(t) / sde.alpha(s)) ** 2
    noise = Independent(0)
    out = walk(ReverseDiffusion(), sde, 1.0, 1, x, grid=Grid.of([t, s]))
    z = Independent(3).normal(x, sde.at(t), sde.at(s))
    score = MIXTURE.under(sde).score(t, x)
    expected = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * z
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert noise.seed == 0


def moments(x: Tensor) -> Tensor:
    """Mode weights, and the mean within-mode variance relative to the truth."""
    nearest = torch.cdist(x, MIXTURE.means).argmin(1)
    weights = torch.bincount(nearest, minlength=3) / len(x)
    inside = (x - MIXTURE.means[nearest]).square().mean() / 0.25**2
    return torch.cat([weights - MIXTURE.weights, (inside - 1)[None]])


@pytest.mark.parametrize("name", ["euler_maruyama", "ancestral", "reverse_diffusion", "torchsde"])
def test_sde_samplers_converge_weakly_on_a_mixture(name: str) -> None:
    """The bias of the within-mode variance falls at first order: 4 times the steps, a quarter."""
    bias = []
    n = 20_000
    start = MIXTURE.marginal(order.SDE, order.SDE.T).sample(n, seed=4)
    for steps in (50, 200):
        sampler = ReverseSampler(order.SDE, MIXTURE.under(order.SDE), name, steps=steps)
        bias.append(float(moments(sampler.sample((n, 2), seed=0, x_init=start))[3]))
    error = math.sqrt(2 / (2 * n))  # standard error of a variance over 2 n numbers
    assert abs(bias[0]) > 5 * error, bias
    assert abs(bias[1] - bias[0] / 4) < 4 * error + 0.15 * abs(bias[0]), bias


@pytest.mark.parametrize(("name", "steps"), [("ancestral", 400), ("heun", 60), ("scipy", 1)])
def test_samplers_reach_the_exact_marginals(name: str, steps: int) -> None:
    n = 20_000
    start = MIXTURE.marginal(order.SDE, order.SDE.T).sample(n, seed=4)
    sampler = ReverseSampler(order.SDE, MIXTURE.under(order.SDE), name, steps=steps, denoise=False)
    found = moments(sampler.sample((n, 2), seed=0, x_init=start))
    at_end = 1 + (order.SDE.sigma(order.SDE.t_end) / 0.25) ** 2
    assert float(found[:3].abs().max()) < 4 * math.sqrt(0.25 / n)
    assert abs(float(found[3]) + 1 - at_end) < 4 * math.sqrt(1 / n) + 0.02


def langevin_variance(snr: float, variance: float, steps: int) -> float:
    """Stationary variance of x' = x (1 - e/v) + sqrt(2 e) z: v / (1 - e/(2 v))."""
    e = 2 * snr**2 * (1 - variance)
    return variance / (1 - e / (2 * variance))


def test_langevin_keeps_the_law_of_a_gaussian() -> None:
    """Many corrections at one node: the variance is the exact stationary one of the scheme."""
    sde, t, n = VPSDE(), 0.4, 40_000
    data = Gaussian(torch.zeros(1).double(), torch.tensor(0.25).double())
    node = sde.at(t)
    process = ReverseSDE(sde, data.under(sde), 1.0)
    variance = float(data.marginal(sde, t).covariance)
    x = torch.zeros(n, 1, dtype=torch.float64)
    corrector = Langevin(0.3, steps=60)
    x = corrector.correct(process, x, node, Independent(0))
    e = 2 * 0.3**2 * node.sigma**2
    assert corrector.size(node) == pytest.approx(e, rel=1e-14)
    expected = variance / (1 - e / (2 * variance))
    assert float(x.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / n))
    assert abs(expected / variance - 1) > 0.02  # so that the test could tell another step


def test_langevin_step_depends_on_time_alone() -> None:
    """A batch mate far away changes nothing."""
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), 1.0)
    node = order.SDE.at(0.3)
    x = state(4)
    far = x.clone()
    far[3] = 1000.0
    one, two = (Langevin().correct(process, s, node, Independent(0)) for s in (x, far))
    assert torch.equal(one[:3], two[:3])


def test_predictor_corrector_is_both_in_turn() -> None:
    sde = order.SDE
    process = ReverseSDE(sde, MIXTURE.under(sde), 1.0)
    x, now, nxt, noise = state(4), sde.at(0.5), sde.at(0.4), Independent(0)
    pc = PredictorCorrector(Adams(1), Langevin(steps=2))
    row = Adams(1).rows(sde, (now, nxt), 1.0)[0]
    assert pc.rows(sde, (now, nxt), 1.0)[0] == row
    out, _ = pc.step(process, x, now, nxt, row, (), noise)
    half, _ = Adams(1).step(process, x, now, nxt, row, (), noise)
    assert torch.equal(out, Langevin(steps=2).correct(process, half, nxt, noise))
    assert process.nfe == 6


def test_predictor_corrector_bias_is_small_and_that_of_the_corrector() -> None:
    """800 steps on the 2-D mixture: within-mode standard deviation within 1.2 %."""
    n = 6000
    start = MIXTURE.marginal(order.SDE, order.SDE.T).sample(n, seed=4)
    sampler = ReverseSampler(
        order.SDE, MIXTURE.under(order.SDE), "predictor_corrector", steps=800, denoise=False
    )
    found = moments(sampler.sample((n, 2), seed=0, x_init=start))
    assert abs(float(found[3])) < 0.006 * 2 + 4 * math.sqrt(1 / n)


def well() -> SDE:
    return SDE(lambda t, x: 4 * (x - x**3), lambda t: 0.8 + 0.1 * t, T=0.7)


@pytest.mark.parametrize(
    "solver",
    [
        EulerMaruyama(),
        PredictorCorrector(EulerMaruyama(), Langevin(step=lambda t: 1e-3 * (1 + t))),
        SciPySolver(),
        TorchSDESolver(),
        Heun(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_user_s_own_sde_samples_with_every_solver_that_needs_f_g_and_the_score(
    solver: Solver,
) -> None:
    """A stationary double well: its score is 2 f / g^2, and the law must not move."""
    sde = SDE(lambda t, x: 4 * (x - x**3), lambda t: 0.8, T=0.7)
    stationary = FunctionScore(sde, lambda t, x: 2 * 4 * (x - x**3) / 0.8**2)
    n = 4000
    burn = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()[:, None]
    x = scoresde.simulate(sde, burn, "uniform", steps=300, seed=2).x
    sampler = ReverseSampler(sde, stationary, solver, steps=200)
    out = sampler.sample((n, 1), seed=0, x_init=x)
    assert abs(float(out.square().mean() - x.square().mean())) < 0.02
    assert abs(float(out.square().var() - x.square().var())) < 0.02


@pytest.mark.parametrize("solver", [Adams(1), ReverseDiffusion()], ids=str)
def test_solvers_that_need_alpha_and_sigma_say_what_works_instead(solver: Solver) -> None:
    score = lambda t, x: -x  # noqa: E731
    with pytest.raises(TypeError, match=r"AffineSDE.*EulerMaruyama, SciPySolver"):
        ReverseSampler(well(), score, solver)


def test_solvers_are_values() -> None:
    assert Adams(1) == Adams(1) and hash(Heun()) == hash(Heun())
    assert PredictorCorrector(Adams(1)) == PredictorCorrector(Adams(1), Langevin())
    assert SciPySolver("RK45") != SciPySolver("DOP853")


@pytest.mark.parametrize("name", [n for n, (s, _) in SOLVERS.items() if isinstance(s, StepSolver)])
def test_a_step_is_pure(name: str) -> None:
    """Twice the same arguments, twice the same bits; the state that came in is not touched."""
    solver, eta = as_solver(name, order.SDE)
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), eta)
    segment = tuple(order.SDE.at(t) for t in (0.5, 0.4, 0.3))
    x = state(4)
    before = x.clone()
    row = solver.rows(order.SDE, segment, eta)[0]
    runs = [
        solver.step(process, x, segment[0], segment[1], row, (), Independent(0))[0] for _ in "ab"
    ]
    assert torch.equal(runs[0], runs[1]) and torch.equal(x, before)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_back_ends_noise_up_between_legs_as_our_own_solvers_do(eta: float) -> None:
    segments = Grid(((0.9, 0.6, 0.4, 0.2), (0.5, 0.3, 0.1), (0.3, 0.2, 0.05)))
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), eta)
    ours, theirs = (
        solver.solve(process, state(3), segments, noise=Independent(0)).x
        for solver in (EulerMaruyama(), TorchSDESolver())
    )
    torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)


def test_scipy_noises_up_between_legs_and_names_the_step_that_breaks() -> None:
    segments = Grid(((0.9, 0.6, 0.4, 0.2), (0.5, 0.3, 0.1), (0.3, 0.2, 0.05)))
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), 0.0)
    fine, ours = (
        solver.solve(process, state(3), segments, noise=Independent(0)).x
        for solver in (SciPySolver("DOP853", 1e-9, 1e-9), AdaptiveODE("dopri5", 1e-9, 1e-9))
    )
    torch.testing.assert_close(fine, ours, rtol=1e-6, atol=1e-6)

    def score(t: Tensor, x: Tensor) -> Tensor:
        return torch.where(t.reshape(-1, 1) < 0.15, math.nan, -x)

    broken = ReverseSDE(order.SDE, FunctionScore(order.SDE, score), 0.0)
    with pytest.raises(ValueError, match=r"finite scores in step 5, at t = 0\.1"):
        SciPySolver().solve(broken, state(3), segments, noise=Independent(0))


def test_legs_restart_the_solver_and_noise_in_between_exactly() -> None:
    """Up and down again: on a point mass the law at the end is exact whatever the segments."""
    sde, n = VPSDE(), 20_000
    point = Gaussian(torch.tensor([0.5]).double(), torch.tensor(0.04).double())
    model = point.under(sde)
    down = log_snr(sde, 60).times
    again = log_snr(sde, 60, t_start=0.5).times
    grid = Grid((down, again, again))
    x = point.marginal(sde, sde.T).sample(n, seed=0)
    out = Heun().solve(ReverseSDE(sde, model, 0.0), x, grid, noise=Independent(0), keep_path=True)
    truth = point.marginal(sde, sde.t_end)
    assert float(out.x.mean()) == pytest.approx(float(truth.mean), abs=5 * 0.2 / math.sqrt(n))
    assert float(out.x.var()) == pytest.approx(
        float(truth.covariance), rel=5 * math.sqrt(2 / n) + 0.01
    )
    assert out.path.shape[0] == grid.steps + 1
    first = Heun().solve(ReverseSDE(sde, model, 0.0), x, Grid((down,)), noise=Independent(0)).x
    assert float((out.x - first).abs().mean()) > 0.05  # the segments did move the samples


def test_an_upward_leg_with_noise_is_refused() -> None:
    process = ReverseSDE(order.SDE, MIXTURE.under(order.SDE), 1.0)
    with pytest.raises(ValueError, match=r"grid.*run down.*eta=0"):
        EulerMaruyama().solve(process, state(2), Grid.of([0.1, 0.5]), noise=Independent(0))
    with pytest.raises(ValueError, match=r"grid.*run up"):
        EulerMaruyama().solve(
            ForwardSDE(order.SDE), state(2), Grid.of([0.5, 0.1]), noise=Independent(0)
        )


def test_encode_and_decode_along_the_probability_flow() -> None:
    """Heun up and down again returns to the start at its order."""
    errors = []
    for n in (100, 200):
        down = log_snr(order.SDE, n)
        up = Grid.of(down.times[::-1])
        x = MIXTURE.sample(16, seed=0)
        latent = walk(Heun(), order.SDE, 0.0, n, x, grid=up)
        errors.append(float((walk(Heun(), order.SDE, 0.0, n, latent, grid=down) - x).abs().max()))
    assert errors[1] < errors[0] / 3 and errors[1] < 1e-3
