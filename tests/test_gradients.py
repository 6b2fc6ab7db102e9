"""Scores that differentiate, and gradients through the sampler."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from entries import ENTRIES, SDE, a_model, by_hand, gaussian_energy, some_data
from torch import Tensor, nn

from scoresde import (
    FunctionScore,
    Preconditioned,
    ReverseSampler,
    Trainer,
    decode,
    dsm_loss,
    log_prob,
)
from scoresde.options import Optim

# Scores that differentiate


def without_asking(t: Tensor, x: Tensor) -> Tensor:
    return -torch.autograd.grad(gaussian_energy(t, x), x, create_graph=True)[0]


class Energy(nn.Module):
    """A network of eps = sigma x, which is right for normal data, as the gradient of an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = torch.as_tensor(SDE.sigma(t.double())).to(x)[:, None]
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_leaf else x
            energy = self.scale * (sigma * x.square()).sum() / 2
        return torch.autograd.grad(energy, x, create_graph=True)[0]


ENERGIES: dict[str, Any] = {
    "requires_grad_": FunctionScore(SDE, by_hand),
    "not asked for": FunctionScore(SDE, without_asking),
    "network": Preconditioned(Energy(), SDE, "eps"),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ENERGIES)
def test_a_score_that_differentiates_an_energy(kind: str, mode: Any) -> None:
    x, exact = some_data(), FunctionScore(SDE, lambda t, x: -x)
    entries = {k: v for k, v in ENTRIES.items() if k != "dsm_loss"}
    for entry, call in entries.items():
        model = copy.deepcopy(ENERGIES[kind])
        with mode():
            got = call(model, x)
        assert torch.allclose(got, call(exact, x), atol=1e-5), entry
        assert not got.requires_grad and not x.requires_grad


def test_an_energy_network_is_trained() -> None:
    model = Preconditioned(Energy(), SDE, "eps")
    trained = Trainer(model, some_data(9), steps=3, optim=Optim(lr=0.1)).fit()
    assert isinstance(trained, Preconditioned) and trained.net.scale != 1


def test_a_network_that_differentiates_without_asking_is_trained_and_sampled_with_a_graph() -> (
    None
):
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            energy = self.scale * x.square().sum() / 2
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    net = Plain()
    model = Preconditioned(net, SDE, "eps")
    (by_loss,) = torch.autograd.grad(dsm_loss(model, some_data()).mean(), net.scale)
    made = ReverseSampler(SDE, model, "ddim", steps=3)
    x = made.sample((4, 2), seed=0, differentiable=True)
    (by_sample,) = torch.autograd.grad(x.square().mean(), net.scale)
    assert float(by_loss) != 0.0 and float(by_sample) != 0.0


def test_a_score_that_cannot_be_differentiated_again_says_so() -> None:
    def once(t: Tensor, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return -torch.autograd.grad(gaussian_energy(t, x), x)[0]

    with pytest.raises(ValueError, match=r"model: .*differentiable in x.*create_graph=True"):
        log_prob(FunctionScore(SDE, once), some_data())


def test_the_error_of_a_function_is_its_own() -> None:
    def wrong(t: Tensor, x: Tensor) -> Tensor:
        return x @ torch.ones(5, 5)

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ReverseSampler(SDE, wrong, steps=3).sample((2, 2), seed=0)


# Gradients through the sampler


def spread(variance: Any, t: float) -> Any:
    return (variance * SDE.alpha(t) ** 2 + SDE.sigma(t) ** 2) ** 0.5


def learned(variance: Tensor) -> FunctionScore:
    """The exact score of N(0, variance I), differentiable in the variance."""
    return FunctionScore(SDE, lambda t, x: -x / spread(variance, t.double()) ** 2)


def test_gradients_through_the_probability_flow_against_its_closed_form() -> None:
    """The flow of normal data is linear: x_end = spread(t_end) / spread(T) x_T."""
    variance = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    z = some_data().double().requires_grad_()
    sampler = ReverseSampler(SDE, learned(variance), "unipc_3", steps=200, denoise=False)
    x = sampler.sample((3, 2), x_init=z)
    truth = spread(variance, SDE.t_end) / spread(variance, SDE.T) * z
    weights = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    got = torch.autograd.grad((weights * x).sum(), (z, variance))
    exact = torch.autograd.grad((weights * truth).sum(), (z, variance))
    for a, b in zip(got, exact, strict=True):
        assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "solver", ["heun", "shark", "predictor_corrector", "sa_solver_p2c2", "dopri5", "adaptive_sde"]
)
def test_gradients_through_a_solver_are_those_of_its_steps(solver: str) -> None:
    """Against differences, for the same noise; in the variance, so through the model."""
    variance = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    steps = None if solver in ("dopri5", "adaptive_sde") else 8
    sampler = ReverseSampler(SDE, learned(variance), solver, steps=steps)

    def total(differentiable: bool) -> Tensor:
        x = sampler.sample(
            (2, 2), seed=0, dtype=torch.float64, batch_size=1, differentiable=differentiable
        )
        return (x * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum()

    (got,) = torch.autograd.grad(total(True), variance)
    h, ends = 1e-4 if steps is None else 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            variance += sign * h
            ends.append(float(total(False)))
            variance -= sign * h
    assert abs(float(got) - (ends[0] - ends[1]) / (2 * h)) < 1e-4 * abs(float(got))


def test_a_latent_code_is_optimised() -> None:
    z = some_data().requires_grad_()
    flow = learned(torch.tensor(0.25))
    (slope,) = torch.autograd.grad(decode(SDE, flow, z).sum(), z)
    exact = spread(0.25, SDE.t_end) / spread(0.25, SDE.T)
    assert torch.allclose(slope, torch.full_like(slope, exact), rtol=1e-3)


def test_a_graph_is_kept_only_where_it_is_asked_for() -> None:
    model, z = a_model(), some_data().requires_grad_()
    sampler = ReverseSampler(SDE, model, "ddim", steps=3)
    assert not sampler.sample((3, 2), seed=0).requires_grad
    assert not sampler.sample((3, 2), x_init=z, differentiable=False).requires_grad
    with torch.no_grad():
        assert not sampler.sample((3, 2), x_init=z).requires_grad
        assert sampler.sample((3, 2), seed=0, differentiable=True).requires_grad
    sampler.sample((3, 2), seed=0, differentiable=True).sum().backward()
    assert all(p.grad is not None for p in model.net.exit.parameters())


def test_what_gradients_cannot_pass_is_refused() -> None:
    z = some_data().requires_grad_()
    with pytest.raises(ValueError, match=r"solver: .*gradients pass.*'SciPySolver'.*detach"):
        ReverseSampler(SDE, a_model(), "scipy").sample((3, 2), x_init=z)
    ReverseSampler(SDE, a_model(), "scipy").sample((3, 2), x_init=z.detach())
    cut = FunctionScore(SDE, lambda t, x: -x.detach())
    with pytest.raises(ValueError, match=r"model: .*gradients pass"):
        ReverseSampler(SDE, cut, "ddim", steps=3).sample((3, 2), seed=0, differentiable=True)
