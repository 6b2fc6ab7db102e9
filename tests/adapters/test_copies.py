"""A copy of an adapted model calls its own network, as the averages of a training do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from foreign import DDPMScheduler, Features, UNet2DModel, randn
from torch import Tensor, nn

from scoresde import VPSDE, FlowSDE, ScoreModel, dsm_loss
from scoresde.adapters import (
    from_azula,
    from_deepinv,
    from_denoiser,
    from_diffusers,
    from_edm,
    from_flow_matching,
    from_function,
    from_guided_diffusion,
    from_score_sde,
    from_torchcfm,
    to_deepinv,
    to_denoiser,
    to_velocity,
)

BETAS = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)
X = randn(3, 1, 2, 2)


class TimeFirst(Features):
    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return super().forward(x, t)


class Azula(Features):
    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), 0.01 + t

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=super().forward(x, t))


MODELS: dict[str, Callable[[], ScoreModel]] = {
    "diffusers": lambda: from_diffusers(UNet2DModel().double(), DDPMScheduler()),
    "diffusers, any": lambda: from_diffusers(
        Features(), BETAS.cumsum(0).mul(-1).exp(), predicts="v"
    ),
    "guided-diffusion": lambda: from_guided_diffusion(Features(), BETAS),
    "denoiser": lambda: from_denoiser(Features()),
    "edm": lambda: from_edm(Features()),
    "azula": lambda: from_azula(Azula()),
    "deepinv": lambda: from_deepinv(Features(), symmetric=True),
    "score_sde": lambda: from_score_sde(Features(), VPSDE()),
    "flow_matching": lambda: from_flow_matching(Features()),
    "torchcfm": lambda: from_torchcfm(TimeFirst()),
    "function": lambda: from_function(Features(), FlowSDE(), predicts="flow"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_calls_its_own_network(name: str) -> None:
    model = MODELS[name]()
    before = model(0.5, X).x0
    twin = copy.deepcopy(model)
    assert torch.equal(twin(0.5, X).x0, before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(0.5, X).x0, before)
    assert float((model(0.5, X).x0 - before).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_the_weights(name: str) -> None:
    model = MODELS[name]()
    loss = dsm_loss(model, X, generator=torch.Generator().manual_seed(0)).mean()
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in used(model))


def used(model: nn.Module) -> list[nn.Parameter]:
    return [p for n, p in model.named_parameters() if "table" not in n]  # of labels


@pytest.mark.parametrize("make", [to_denoiser, to_velocity, to_deepinv])
def test_outward_modules_have_the_weights(make: Callable[[ScoreModel], nn.Module]) -> None:
    model = from_denoiser(Features())
    twin = copy.deepcopy(make(model))
    assert len(list(twin.parameters())) == 2
    before = twin(X, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(X, 0.5), before)
