"""Singlestep and strong schemes against their papers' formulas, in their papers' coordinates."""

from __future__ import annotations

import math

import order
import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, FlowSDE, FunctionScore, Grid, ReverseSampler, ReverseSDE
from scoresde.noise import Independent
from scoresde.schedule.grid import log_snr
from scoresde.solvers import SRA1, OneCallSRA, ShARK, Singlestep
from scoresde.solvers.singlestep import phi

MIXTURE = order.mixture_2d()


@pytest.mark.parametrize("z", [-30.0, -2.0, -0.99, -1e-3, -1e-9, 0.0, 1e-6, 0.5, 1.01, 8.0])
@pytest.mark.parametrize("j", [0, 1, 2, 3, 4])
def test_phi_functions(j: int, z: float) -> None:
    """phi_j(z) = sum z^n / (n + j)!, summed in exact rational arithmetic."""
    from fractions import Fraction

    exact, term = Fraction(0), Fraction(1, math.factorial(j))
    for n in range(160):
        exact += term
        term *= Fraction(z) / (n + 1 + j)
    assert phi(j, z) == pytest.approx(float(exact), rel=1e-12)


def start(sde: object, n: int = 16) -> Tensor:
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return z * sde.sigma(sde.T)


@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["x0", "eps"])
def test_dpm_solver_3(kind: str, sde: object) -> None:
    """Lu et al. 2022, alg. 2 (eps), and the ++3S of Lu et al. 2022b (x0), r_1 = 1/3, r_2 = 2/3."""
    r1, r2 = 1 / 3, 2 / 3
    model = MIXTURE.under(sde)
    now, nxt = sde.at(0.6), sde.at(0.4)
    h = nxt.log_snr - now.log_snr
    u1, u2 = (sde.at(sde.time_of(now.log_snr + r * h)) for r in (r1, r2))
    x = start(sde)

    def ask(node, state):
        return model.predict(node, state).read(kind)

    m = ask(now, x)
    if kind == "eps":
        x1 = u1.alpha / now.alpha * x - u1.sigma * math.expm1(r1 * h) * m
        d1 = ask(u1, x1) - m
        bend = math.expm1(r2 * h) / (r2 * h) - 1
        x2 = u2.alpha / now.alpha * x - u2.sigma * math.expm1(r2 * h) * m
        x2 = x2 - r2 / r1 * u2.sigma * bend * d1
        d2 = ask(u2, x2) - m
        out = nxt.alpha / now.alpha * x - nxt.sigma * math.expm1(h) * m
        out = out - nxt.sigma / r2 * (math.expm1(h) / h - 1) * d2
    else:
        x1 = u1.sigma / now.sigma * x - u1.alpha * math.expm1(-r1 * h) * m
        d1 = ask(u1, x1) - m
        bend = math.expm1(-r2 * h) / (r2 * h) + 1
        x2 = u2.sigma / now.sigma * x - u2.alpha * math.expm1(-r2 * h) * m
        x2 = x2 + r2 / r1 * u2.alpha * bend * d1
        d2 = ask(u2, x2) - m
        out = nxt.sigma / now.sigma * x - nxt.alpha * math.expm1(-h) * m
        out = out + nxt.alpha / r2 * (math.expm1(-h) / h + 1) * d2
    process = ReverseSDE(sde, model, 0.0)
    ours = Singlestep("3s", kind).solve(process, x, Grid.of([0.6, 0.4]), noise=Independent(0)).x
    torch.testing.assert_close(ours, out, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("eta", [0.6, 1.0])
def test_dpm_solver_pp_sde_shares_one_path_between_its_stages(eta: float) -> None:
    sde, k = VPSDE(), eta**2
    model, noise = MIXTURE.under(sde), Independent(7)
    now, nxt = sde.at(0.6), sde.at(0.4)
    h = nxt.log_snr - now.log_snr
    u = sde.at(sde.time_of(now.log_snr + h / 2))
    x = start(sde)
    n_u = u.sigma * math.sqrt(-math.expm1(-k * h)) * noise.normal(x, now, u)
    m_s = model.predict(now, x).x0
    x_u = u.sigma / now.sigma * math.exp(-k * h / 2) * x
    x_u = x_u - u.alpha * math.expm1(-(1 + k) * h / 2) * m_s + n_u
    m_u = model.predict(u, x_u).x0
    n_t = nxt.sigma / u.sigma * math.exp(-k * h / 2) * n_u
    n_t = n_t + nxt.sigma * math.sqrt(-math.expm1(-k * h)) * noise.normal(x, u, nxt)
    out = nxt.sigma / now.sigma * math.exp(-k * h) * x
    out = out - nxt.alpha * math.expm1(-(1 + k) * h) * m_u
    process = ReverseSDE(sde, model, eta)
    ours = Singlestep("2s").solve(process, x, Grid.of([0.6, 0.4]), noise=noise).x
    torch.testing.assert_close(ours, out + n_t, rtol=1e-11, atol=1e-12)


def in_the_snr_clock(
    solver: object, now: object, nxt: object, x: Tensor, before: Tensor
) -> Tensor:
    """One step of du = a(c, u) dc + dB in u = x alpha / sigma^2, as the papers have it."""
    sde = VPSDE()
    model = MIXTURE.under(sde)
    c_s, c_t = (math.exp(2 * n.log_snr) for n in (now, nxt))
    h = c_t - c_s
    z, area = Independent(5).levy(x, now, nxt)
    w, levy = math.sqrt(h) * z, math.sqrt(h / 12) * area

    def a(c: float, u: Tensor) -> Tensor:
        node = sde.at(sde.time_of(math.log(c) / 2))
        return model.predict(node, u * node.sigma**2 / node.alpha).x0

    u = x * now.alpha / now.sigma**2
    if isinstance(solver, SRA1):
        f1 = a(c_s, u)
        f2 = a(c_s + 0.75 * h, u + 0.75 * h * f1 + 1.5 * (w / 2 + levy))
        end = u + h * (f1 + 2 * f2) / 3 + w
    elif isinstance(solver, ShARK):
        f1 = a(c_s, u + levy)
        f2 = a(c_s + 5 / 6 * h, u + levy + 5 / 6 * (h * f1 + w))
        end = u + h * (2 * f1 + 3 * f2) / 5 + w
    else:
        f = a(c_s + h / 3, u + h / 3 * before + w / 2 + levy)
        end = u + h * f + w
    return end * nxt.sigma**2 / nxt.alpha


def as_in_the_snr_clock(solver: object) -> bool:
    """Whether a step in x is the one in the SNR clock, to rounding."""
    sde = VPSDE()
    process = ReverseSDE(sde, MIXTURE.under(sde), 1.0)
    now, nxt, x = sde.at(0.6), sde.at(0.5), start(sde)
    before = MIXTURE.under(sde).predict(now, x).x0
    out, _ = solver.step(
        process, x, now, nxt, solver.rows(sde, (now, nxt), 1.0)[0], (), Independent(5)
    )
    expected = in_the_snr_clock(solver, now, nxt, x, before)
    return torch.allclose(out, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", [SRA1(), ShARK(), OneCallSRA()], ids=lambda s: type(s).__name__)
def test_strong_schemes_in_x_are_those_of_the_snr_clock(solver: object) -> None:
    assert as_in_the_snr_clock(solver)


def test_the_one_call_scheme_calls_once_a_step_and_once_more() -> None:
    process = ReverseSDE(VPSDE(), MIXTURE.under(VPSDE()), 1.0)
    grid = log_snr(VPSDE(), 12)
    assert OneCallSRA().solve(process, start(VPSDE()), grid, noise=Independent(0)).nfe == 13


def test_the_one_call_scheme_needs_the_true_score() -> None:
    """Half the true pull: x_0hat is then no martingale, and the strong order falls to 1."""
    sde, errors = VPSDE(), {}
    for name, solver in (("one", OneCallSRA()), ("sra1", SRA1())):
        gaps = []
        for n in (40, 80, 160):
            grid = log_snr(sde, 2 * n)
            coarse = Grid.of(grid.times[::2])
            fine = order.finest(solver, [grid, coarse], 1.0)
            ends = []
            for g in (grid, coarse):
                wrong = FunctionScore(sde, lambda t, x: -0.5 * x / sde.at(float(t)).sigma ** 2)
                noise = order.Impulses(fine)
                x = torch.zeros(1 + 2 * noise.leaves, 1, dtype=torch.float64)
                x[0] = 1.0
                ends.append(solver.solve(ReverseSDE(sde, wrong, 1.0), x, g, noise=noise).x)
            gaps.append(float((ends[0] - ends[1]).square().sum().sqrt()))
        errors[name] = order.rates(gaps)
    assert errors["sra1"][-1] > 1.7, errors
    assert errors["one"][-1] < 1.4, errors


@pytest.mark.parametrize("name", ["sra1", "shark", "one_call_sra"])
def test_strong_schemes_refuse_another_eta(name: str) -> None:
    with pytest.raises(ValueError, match=r"eta.*eta=1"):
        ReverseSampler(VPSDE(), MIXTURE.under(VPSDE()), name, eta=0.5).sample((2, 2), seed=0)
    with pytest.raises(ValueError, match=r"eta.*more than 0"):
        ReverseSampler(VPSDE(), MIXTURE.under(VPSDE()), name, eta=0.0)


def test_a_stage_at_the_end_of_a_step_lies_on_the_node_of_the_grid() -> None:
    """Not beside it by the rounding of the schedule's inverse, where noise would be drawn."""
    for sde in (VPSDE(), FlowSDE()):
        times = log_snr(sde, 30).times
        for inner, t in zip(
            Singlestep("res_3s").rows(sde, tuple(map(sde.at, times)), 0.0), times[1:], strict=True
        ):
            assert [node.t for node in inner][1] == t
