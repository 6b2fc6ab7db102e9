"""Networks of score_sde, velocities of flows, and functions with a declared prediction."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Features, randn
from torch import Tensor

from scoresde import VESDE, VPSDE, Adams, FlowSDE, Gaussian, ReverseSampler, SubVPSDE, load, save
from scoresde.adapters import (
    from_flow_matching,
    from_function,
    from_score_sde,
    from_torchcfm,
    to_velocity,
)
from scoresde.ddpm import ChainTime

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
X = randn(4, 2)
TIMES = torch.tensor([0.003, 0.25, 0.5004, 1.0], dtype=torch.float64)


class Theirs:
    """The SDEs of score_sde, from its paper: the marginals, and the discrete tables."""

    def __init__(self, kind: str, N: int = 1000) -> None:
        self.kind, self.N, self.T = kind, N, 1
        if kind == "VESDE":
            self.sigma_min, self.sigma_max = 0.01, 50.0
            steps = torch.linspace(math.log(0.01), math.log(50.0), N, dtype=torch.float64)
            self.discrete_sigmas = steps.exp()
        else:
            self.beta_0, self.beta_1 = 0.1, 20.0
            betas = torch.linspace(0.1 / N, 20.0 / N, N, dtype=torch.float64)
            self.sqrt_1m_alphas_cumprod = (1 - torch.cumprod(1 - betas, 0)).sqrt()

    def std(self, t: Tensor) -> Tensor:
        if self.kind == "VESDE":
            return self.sigma_min * (self.sigma_max / self.sigma_min) ** t
        mean = -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0
        return -torch.expm1(2 * mean) if "sub" in self.kind else (-torch.expm1(2 * mean)).sqrt()

    def score(self, net: Features, x: Tensor, t: Tensor, continuous: bool) -> Tensor:
        """get_score_fn: labels of 999 t, of sigma, or of the number of a level."""
        if self.kind == "VESDE":
            labels = self.std(t) if continuous else ((self.T - t) * (self.N - 1)).round()
            return net(x, labels)
        if continuous:
            return -net(x, 999 * t) / self.std(t)[:, None]
        labels = t * (self.N - 1)
        return -net(x, labels) / self.sqrt_1m_alphas_cumprod[labels.long()][:, None]


def named(kind: str, N: int = 1000) -> Any:
    """An instance whose class has the name of theirs."""
    return type(kind, (Theirs,), {})(kind, N)


@pytest.mark.parametrize("kind", ["VPSDE", "subVPSDE", "VESDE"])
def test_continuous_networks_of_score_sde(kind: str) -> None:
    net, sde = Features(2), named(kind)
    model = from_score_sde(net, sde)
    torch.testing.assert_close(model.score(TIMES, X), sde.score(net, X, TIMES, True), **EXACT)
    for t in TIMES.tolist():
        told = torch.full((4,), t, dtype=torch.float64)
        torch.testing.assert_close(model.score(t, X), sde.score(net, X, told, True), **EXACT)
    own = {"VPSDE": VPSDE(), "subVPSDE": SubVPSDE(), "VESDE": VESDE()}[kind]
    assert model.sde == own == from_score_sde(net, own).sde


def test_it_is_told_999_t_and_not_1000_t() -> None:
    net = Features(2)
    ours = from_score_sde(net, VPSDE()).score(TIMES, X)
    sigma = VPSDE().sigma(TIMES)[:, None]
    assert float((ours + net(X, 1000 * TIMES) / sigma).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("level", [0, 1, 57, 99])
def test_discrete_networks_of_score_sde(level: int) -> None:
    """At the times of their sampler: VP counts steps from 0, VE levels from the largest."""
    net, n = Features(2), 100
    theirs = torch.full((4,), (level + 1e-9) / (n - 1), dtype=torch.float64)
    vp = from_score_sde(net, named("VPSDE", n), continuous=False)
    expected = named("VPSDE", n).score(net, X, theirs, False)
    torch.testing.assert_close(vp.score((level + 1) / n, X), expected, rtol=1e-7, atol=1e-7)
    ve = from_score_sde(net, named("VESDE", n), continuous=False)
    t = level / (n - 1)
    expected = named("VESDE", n).score(net, X, torch.full((4,), t).double(), False)
    torch.testing.assert_close(ve.score(t, X), expected, **EXACT)
    torch.testing.assert_close(
        ve.score(torch.full((4,), t, dtype=torch.float64), X), expected, **EXACT
    )
    assert ve.sde.sigma(t) == pytest.approx(float(named("VESDE", n).discrete_sigmas[level]))


def test_pairs_of_score_sde_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="continuous: expected True for the sub-VP SDE"):
        from_score_sde(Features(2), SubVPSDE(), continuous=False)
    with pytest.raises(ValueError, match="sde: expected one of 'SubVPSDE', 'VESDE', 'VPSDE'"):
        from_score_sde(Features(2), FlowSDE())
    with pytest.raises(TypeError, match="net: expected a network of score_sde"):
        from_score_sde("checkpoint_8.pth", VPSDE())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sde: expected an SDE with beta_0 and beta_1"):
        from_score_sde(Features(2), type("VPSDE", (), {})())


def test_a_named_time_is_saved(tmp_path: Path) -> None:
    model = from_score_sde(Features(2), VPSDE())
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", net=from_score_sde(Features(2, seed=9), VPSDE()).net)
    torch.testing.assert_close(again.score(0.3, X), model.score(0.3, X), **EXACT)
    with pytest.raises(ValueError, match=r"sde: expected log_snr = \S+ at t = \S+, as in the"):
        load(tmp_path / "model", net=Features(2), sde=VPSDE(0.1, 19.0))


# Velocities


@pytest.mark.parametrize("time_first", [False, True])
def test_the_time_of_a_velocity_runs_from_noise_to_data(time_first: bool) -> None:
    net = Features(2)
    seen: list[Tensor] = []

    def velocity(first: Tensor, second: Tensor) -> Tensor:
        x, t = (second, first) if time_first else (first, second)
        seen.append(t)
        return net(x, t)

    model = (from_torchcfm if time_first else from_flow_matching)(velocity)
    torch.testing.assert_close(model(0.25, X).flow, -net(X, torch.full((4,), 0.75)), **EXACT)
    assert torch.equal(seen[0], torch.full((4,), 0.75, dtype=torch.float64))
    torch.testing.assert_close(model(0.25, X).x0, X + 0.25 * net(X, seen[0]), **EXACT)


def exact_velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x_1 - x_0 | x] on the straight path to N(1, 1/4) data, in the time from noise to data."""
    s = t.reshape(-1, *[1] * (x.ndim - 1))
    variance = 0.25 * s**2 + (1 - s) ** 2
    return 1.0 + (0.25 * s - (1 - s)) / variance * (x - s)


def test_the_score_of_the_exact_velocity() -> None:
    """That of the marginal N(1 - t, (1 - t)^2 / 4 + t^2), and samples of the data."""
    model = from_flow_matching(exact_velocity)
    for t in (0.001, 0.3, 0.9):
        variance = 0.25 * (1 - t) ** 2 + t**2
        torch.testing.assert_close(model.score(t, X), (1 - t - X) / variance, **EXACT)
    for solver in ("unipc_2_flow", "dpmpp_2m_sde"):
        x = ReverseSampler(model.sde, model, solver, steps=60).sample((4000, 2), seed=0)
        assert float((x.mean() - 1).abs()) < 0.02 and float((x.std() - 0.5).abs()) < 0.02


def test_euler_steps_of_a_velocity() -> None:
    """x + h u(x, s) from noise at s = 0 is the first-order scheme in the coordinate flow."""
    net, n = Features(2).requires_grad_(False), 16
    x = X
    for k in range(n):
        x = x + net(x, torch.full((4,), k / n, dtype=torch.float64)) / n
    model = from_flow_matching(net)
    euler = Adams(1, parametrisation="flow", variable="flow")
    grid = [1 - k / n for k in range(n)]
    found = ReverseSampler(model.sde, model, euler, grid=grid, eta=0.0)
    torch.testing.assert_close(found.sample((4, 2), x_init=X), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time_first", [False, True])
def test_a_velocity_there_and_back(time_first: bool) -> None:
    model = from_flow_matching(exact_velocity)
    velocity = to_velocity(model, time_first=time_first)
    for s in (0.1, 0.5, 0.9):
        told = torch.full((4,), s, dtype=torch.float64)
        found = velocity(told, X) if time_first else velocity(X, told)
        torch.testing.assert_close(found, exact_velocity(X, told), **EXACT)


def test_the_velocity_of_a_model_of_another_sde() -> None:
    """A VP model as velocity of the straight path: it is asked at the same log-SNR."""
    data = Gaussian(torch.ones(2).double(), torch.full((), 0.25).double())
    velocity = to_velocity(data.under(VPSDE()))
    for s in (0.1, 0.5, 0.9):
        told = torch.full((4,), s, dtype=torch.float64)
        expected = exact_velocity(X, told)
        torch.testing.assert_close(velocity(X, told), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="t: expected a level at which"):
        velocity(X, torch.zeros(4))


# Functions


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score", "flow"])
def test_a_function_with_its_prediction_and_time(predicts: str) -> None:
    net, sde = Features(2), VPSDE()
    model = from_function(
        lambda t, x: net(x, t), sde, predicts=predicts, time="999t", time_first=True
    )
    value = getattr(model(TIMES, X), predicts)
    torch.testing.assert_close(value, net(X, 999 * TIMES), **EXACT)


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("t", 0.3),
        ("log_snr", VPSDE().log_snr(0.3)),
        ("sigma", VPSDE().sigma(0.3)),
        ("1-t", 0.7),
        (ChainTime("i-1", 1000), 299.0),
        (lambda node: 2.0 * node.t, 0.6),
    ],
)
def test_the_time_of_a_function(time: Any, told: float) -> None:
    seen: list[Tensor] = []
    model = from_function(lambda x, t: seen.append(t) or x, VPSDE(), predicts="eps", time=time)
    model(0.3, X)
    model(torch.full((4,), 0.3, dtype=torch.float64), X)
    for value in seen:
        torch.testing.assert_close(value, torch.full((4,), told, dtype=torch.float64), **EXACT)


def test_the_conditions_of_a_function_are_its_further_arguments() -> None:
    def fn(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        return x - mean

    model = from_function(fn, VPSDE(), predicts="eps")
    sampler = ReverseSampler(model.sde, model, "ddim", steps=3)
    sampler.sample((4, 2), seed=0, cond={"mean": X})
    with pytest.raises(ValueError, match="'mean', which the model needs"):
        sampler.sample((4, 2), seed=0)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        sampler.sample((4, 2), seed=0, cond={"men": X, "mean": X})


def test_bad_functions() -> None:
    with pytest.raises(TypeError, match="fn: expected a network or a function"):
        from_function(3, VPSDE(), predicts="eps")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="velocity: expected a network or a function"):
        from_flow_matching(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="predicts: expected one of"):
        from_function(lambda x, t: x, VPSDE(), predicts="noise")
    with pytest.raises(ValueError, match="time: expected one of"):
        from_function(lambda x, t: x, VPSDE(), predicts="eps", time="1000t")
    with pytest.raises(TypeError, match="fn: expected a tensor"):
        from_function(lambda x, t: None, VPSDE(), predicts="eps")(0.5, X)
    with pytest.raises(ValueError, match="T: expected"):
        from_torchcfm(lambda t, x: x, T=1.5)
