"""The real flow_matching and torchcfm, where they are installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign import Features, randn
from torch import Tensor, nn

from scoresde import VPSDE, Adams, FlowSDE, Gaussian, ReverseSampler
from scoresde.adapters import from_flow_matching, from_torchcfm, to_velocity

EULER = Adams(1, parametrisation="flow", variable="flow")
X = randn(4, 2)


class Velocity(nn.Module):
    """As the networks of both libraries, whose solvers pass one time for the batch."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.inner, self.time_first = Features(2), time_first
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, **rest: Any) -> Tensor:
        x, t = (t, x) if self.time_first else (x, t)
        return self.inner(x, t.expand(len(x)))


def ours(model: Any, steps: int) -> Tensor:
    grid = [1 - k / steps for k in range(steps)]
    sampler = ReverseSampler(model.sde, model, EULER, grid=grid, eta=0.0)
    return sampler.sample((4, 2), x_init=X)


def test_the_path_of_flow_matching_is_ours() -> None:
    path = pytest.importorskip("flow_matching.path", reason="pip install flow_matching")
    data, noise, t = randn(4, 2, seed=1), randn(4, 2, seed=2), torch.tensor([0.1, 0.4, 0.7, 0.9])
    found = path.CondOTProbPath().sample(t=t.double(), x_0=noise, x_1=data)
    expected = FlowSDE(1.0).perturb(1 - t.double(), data, noise)
    torch.testing.assert_close(found.x_t, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.dx_t, data - noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_samples_of_flow_matching(method: str) -> None:
    solver = pytest.importorskip("flow_matching.solver", reason="pip install flow_matching")
    velocity, steps = Velocity(), 200
    ode = solver.ODESolver(velocity_model=velocity)
    expected = ode.sample(x_init=X, step_size=1 / steps, method=method)
    if method == "euler":
        found, bound = ours(from_flow_matching(velocity), steps), 1e-5
    else:
        model = from_flow_matching(velocity)
        sampler = ReverseSampler(model.sde, model, "unipc_3_flow", steps=80, grid="uniform")
        found, bound = sampler.sample((4, 2), x_init=X), 2e-3
    assert float((found - expected).abs().max()) < bound


def test_our_model_in_the_solver_of_flow_matching() -> None:
    solver = pytest.importorskip("flow_matching.solver", reason="pip install flow_matching")
    data = Gaussian(torch.ones(2).double(), torch.tensor(0.25).double())
    ode = solver.ODESolver(velocity_model=to_velocity(data.under(FlowSDE(1.0))))
    found = ode.sample(x_init=X, step_size=0.01, method="midpoint")
    torch.testing.assert_close(found, 1 + 0.5 * X, rtol=1e-3, atol=1e-3)


def test_the_flow_of_torchcfm() -> None:
    torchcfm = pytest.importorskip("torchcfm", reason="pip install torchcfm")
    matcher = torchcfm.conditional_flow_matching.ConditionalFlowMatcher(sigma=0.0)
    data, noise, t = randn(4, 2, seed=1), randn(4, 2, seed=2), torch.tensor([0.1, 0.4, 0.7, 0.9])
    time, state, velocity = matcher.sample_location_and_conditional_flow(noise, data, t=t.double())
    sde = FlowSDE(1.0)
    expected = sde.perturb(1 - time, data, noise)
    torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(velocity, data - noise, rtol=1e-12, atol=1e-12)
    net = Velocity(time_first=True)
    model, steps = from_torchcfm(net), 50
    x = X
    for k in range(steps):  # the loop of its examples, by Euler
        x = x + net(torch.tensor(k / steps).double(), x) / steps
    torch.testing.assert_close(ours(model, steps), x, rtol=1e-9, atol=1e-9)


def test_a_vp_model_as_velocity_has_a_start() -> None:
    """Near pure noise a VP model ends, and the error says which times it has."""
    velocity = to_velocity(Gaussian(torch.zeros(2), torch.tensor(1.0)).under(VPSDE()))
    with pytest.raises(ValueError, match="noise/signal <= 152"):
        velocity(X.float(), torch.zeros(4))
