"""The transition of a step: mean + std z is the step itself, for every scheme that states it."""

from __future__ import annotations

from itertools import pairwise

import order
import pytest
import torch
from torch import Tensor

from scoresde import VPSDE, AffineSDE, FlowSDE, Grid, ReverseSDE
from scoresde.noise import Independent
from scoresde.sampler.plan import as_solver
from scoresde.schedule.grid import Schedule
from scoresde.solvers import SOLVERS
from scoresde.solvers.limits import Held
from scoresde.solvers.step import GaussianStep

NAMES = [name for name, (solver, _) in SOLVERS.items() if isinstance(solver, GaussianStep)]
TIMES = (0.95, 0.84, 0.69, 0.55, 0.4, 0.27)
NOISE = Independent(3)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_schemes_with_one_gaussian_a_step_have_a_kernel_and_no_others() -> None:
    """Two noises a step, a corrector that renoises, steps of random length: no such density."""
    without = {name for name in SOLVERS if name not in NAMES}
    assert {"ancestral", "euler_maruyama", "reverse_diffusion", "dpmpp_3m_sde"} <= set(NAMES)
    noisy = {name for name in without if SOLVERS[name][1] != 0.0}
    assert noisy == {
        "predictor_corrector",
        "dpmpp_sde",
        "seeds_2",
        "seeds_3",
        "sra1",
        "shark",
        "one_call_sra",
        "adaptive_sde",
        "torchsde",
    }


@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=["vp", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_its_mean_and_its_standard_deviation_times_the_noise(
    name: str, sde: AffineSDE
) -> None:
    """The next state of a walk, written from the kernel and the noise, is the walk's next one."""
    solver, eta = as_solver(name, sde)
    assert isinstance(solver, GaussianStep)
    process = ReverseSDE(sde, order.mixture_2d().under(sde), eta)
    schedule = Schedule(sde, Grid.of(TIMES))
    (nodes,), (rows,) = schedule.segments, solver.prepare(schedule, eta)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    past: tuple[object, ...] = ()
    stds = []
    walk = solver.solve(process, x, schedule.grid, noise=NOISE, keep_path=True).path
    assert walk is not None
    for (now, nxt), row, expected in zip(pairwise(nodes), rows, walk[1:], strict=True):
        mean, std, past = solver.kernel(process, x, now, nxt, row, past)
        stds.append(float(std))
        x = mean + std * NOISE.normal(x, now, nxt)
        close(x, expected)
    assert all(std > 0.0 for std in stds) == (eta != 0.0)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_a_step_at_the_limits_has_a_mean_and_a_standard_deviation(eta: float) -> None:
    sde = FlowSDE(T=1.0)
    now, nxt = sde.at(1.0), sde.at(0.9)
    process = ReverseSDE(sde, order.mixture_2d().under(sde), eta)
    held = Held.of(now, nxt, eta)
    x = torch.ones(3, 2, dtype=torch.float64)
    expected = held.mean(process, x, now) + held.noise_std * NOISE.normal(x, now, nxt)
    close(held.step(process, x, now, nxt, NOISE), expected)
    assert (held.noise_std > 0.0) == (eta > 0.0)


def test_the_kernel_of_the_ancestral_step_is_the_posterior_of_the_forward_chain() -> None:
    """q(x_s | x_t, x_0hat): Ho et al. 2020, eq. 7, in alpha and sigma of any two nodes."""
    sde = VPSDE()
    solver, model = as_solver("ancestral", sde)[0], order.mixture_2d().under(sde)
    assert isinstance(solver, GaussianStep)
    schedule = Schedule(sde, Grid.of(TIMES[:2]))
    (now, nxt), ((row,),) = schedule.segments[0], solver.prepare(schedule, 1.0)
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    mean, std, _ = solver.kernel(ReverseSDE(sde, model, 1.0), x, now, nxt, row, ())
    a = now.alpha / nxt.alpha
    between = now.sigma**2 - (a * nxt.sigma) ** 2
    x0 = model.predict(now, x).x0
    expected = (a * nxt.sigma**2 * x + nxt.alpha * between * x0) / now.sigma**2
    close(mean, expected)
    assert std == pytest.approx(nxt.sigma * between**0.5 / now.sigma, rel=1e-12)
