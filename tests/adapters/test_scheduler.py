"""Our solvers as schedulers of diffusers: the samples are those of the sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign import DDPMScheduler, UNet2DModel, randn
from torch import Tensor, nn

from scoresde import Heun, ReverseSampler
from scoresde.adapters import from_diffusers, to_diffusers

X = randn(3, 1, 2, 2)


def pipeline(scheduler: Any, net: nn.Module, n: int, x: Tensor, seed: int = 0) -> Tensor:
    """The loop of DDPMPipeline."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(n)
    assert len(scheduler.timesteps) == n
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = net(scheduler.scale_model_input(x, t), t.expand(len(x))).sample
        x = scheduler.step(output, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "unipc_3", "dpmpp_2m", "ab_4", "dpmpp_2m_sde"])
def test_a_pipeline_samples_as_our_sampler(solver: str, kind: str) -> None:
    net = UNet2DModel().double().requires_grad_(False)
    theirs = DDPMScheduler(prediction_type=kind)
    found = pipeline(to_diffusers(theirs, solver), net, 8, X)
    model = from_diffusers(net, theirs)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0)))
    sampler = ReverseSampler(model.sde, model, solver, steps=7)
    expected = sampler.sample(X.shape, x_init=X, seed=seed)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_zero_terminal_snr_and_variances() -> None:
    net = UNet2DModel(out_channels=2).double().requires_grad_(False)
    alphas = [*torch.linspace(0.99, 0.05, 20).tolist(), 0.0]
    found = pipeline(to_diffusers(alphas, "unipc_2", predicts="v"), net, 6, X)
    model = from_diffusers(net, alphas, predicts="v")
    sampler = ReverseSampler(model.sde, model, "unipc_2", steps=5)
    expected = sampler.sample(X.shape, x_init=X, seed=0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_second_run_starts_anew() -> None:
    net = UNet2DModel().double().requires_grad_(False)
    scheduler = to_diffusers(DDPMScheduler(), "dpmpp_2m_sde")
    runs = [pipeline(scheduler, net, 5, X, seed) for seed in (1, 2, 1)]
    assert torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], runs[1])
    again = runs[0]
    x, generator = X, torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:  # without set_timesteps
        output = net(x, t.expand(3)).sample
        (x,) = scheduler.step(output, float(t), x, generator, return_dict=False)
    assert torch.equal(x, again)


def test_half_precision_is_kept_by_the_state_alone() -> None:
    scheduler = to_diffusers(DDPMScheduler(), "unipc_3")
    scheduler.set_timesteps(4)
    x = X.bfloat16()
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample
    assert x.dtype == torch.bfloat16 and bool(x.isfinite().all())


def test_calls_out_of_order_are_refused() -> None:
    scheduler = to_diffusers(DDPMScheduler())
    with pytest.raises(ValueError, match="call set_timesteps first"):
        scheduler.step(X, 999.0, X)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="timestep: expected the next one, 999"):
        scheduler.step(X, scheduler.timesteps[1], X)
    with pytest.raises(ValueError, match="model_output: expected an output of 1 channels"):
        scheduler.step(X.expand(3, 3, 2, 2), scheduler.timesteps[0], X)
    with pytest.raises(ValueError, match="num_inference_steps: expected 2 or more"):
        scheduler.set_timesteps(1)
    with pytest.raises(TypeError, match="solver: expected a solver with one call a step"):
        to_diffusers(DDPMScheduler(), Heun())
    with pytest.raises(ValueError, match="solver: expected a solver with one call a step"):
        to_diffusers(DDPMScheduler(), "dpmpp_2s").set_timesteps(5)
    with pytest.raises(ValueError, match="predicts: expected one of"):
        to_diffusers([0.9, 0.5, 0.1])
    with pytest.raises(ValueError, match="solver: expected one of"):
        to_diffusers(DDPMScheduler(), "unipc_33").set_timesteps(5)
