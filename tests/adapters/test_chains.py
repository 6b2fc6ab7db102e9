"""Networks of discrete chains: every coordinate is the linear map that the other library makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign import DDPMScheduler, Features, UNet2DModel, randn
from torch import Tensor

from scoresde import DDPM, ReverseSampler
from scoresde.adapters import chain_of, from_diffusers, from_guided_diffusion

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def test_the_alphas_of_float32_are_taken_as_they_are() -> None:
    alphas = DDPMScheduler().alphas_cumprod
    sde = chain_of(alphas).to_sde()
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    wide = alphas.double()
    torch.testing.assert_close(sde.alpha(times), wide.sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(sde.sigma(times), (1 - wide).sqrt(), rtol=1e-13, atol=0)
    assert abs(float(DDPM.linear().to_sde().sigma(0.5) / sde.sigma(0.5)) - 1) > 1e-9


def test_a_chain_may_end_in_pure_noise() -> None:
    sde = chain_of([0.9, 0.5, 0.0]).to_sde()
    assert sde.alpha(1.0) == 0.0 and sde.betas[-1] == 1.0


@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ([0.9, 0.9], "step 2: expected a number in (0, 0.9)"),
        ([0.9, 0.0, 0.0], "step 2"),
        ([1.5, 0.5], "step 1"),
        ([0.9, float("nan")], "alphas_cumprod: expected a finite number"),
        ([[0.9], [0.5]], "alphas_cumprod"),
        ("0.9", "1-D sequence"),
    ],
)
def test_alphas_that_are_none(alphas: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        chain_of(torch.tensor(alphas) if alphas == [[0.9], [0.5]] else alphas)
    assert words in str(caught.value)


def denoised(kind: str, x: Tensor, value: Tensor, abar: Tensor) -> Tensor:
    """x_0 of diffusers: the formulas of its schedulers for each prediction_type."""
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    return {
        "epsilon": (x - sigma * value) / alpha,
        "v_prediction": alpha * x - sigma * value,
        "sample": value,
    }[kind]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [0, 1, 499, 998, 999])
def test_x0_of_a_network_of_diffusers(kind: str, timestep: int) -> None:
    net, x = UNet2DModel().double(), randn(3, 1, 2, 2)
    scheduler = DDPMScheduler(prediction_type=kind)
    abar = scheduler.alphas_cumprod[timestep].double()
    times = torch.full((3,), timestep, dtype=torch.float64)
    expected = denoised(kind, x, net(x, times).sample, abar)
    model = from_diffusers(net, scheduler)
    torch.testing.assert_close(model((timestep + 1) / 1000, x).x0, expected, **EXACT)
    each = torch.full((3,), (timestep + 1) / 1000, dtype=torch.float64)
    torch.testing.assert_close(model(each, x).x0, expected, **EXACT)
    assert all(bool((seen == timestep).all()) for seen in net.seen)


def test_the_last_step_is_no_other_timestep() -> None:
    """A network that is told 999 t or 1000 t in the place of i - 1 answers otherwise."""
    net, x = UNet2DModel().double(), randn(2, 1, 2, 2)
    model = from_diffusers(net, DDPMScheduler())
    ours = model(0.5, x).eps
    for wrong in (499.5, 500.0):
        told = net(x, torch.full((2,), wrong, dtype=torch.float64)).sample
        assert float((told - ours).detach().abs().max()) > 1e-3


def test_variances_that_are_learned_are_dropped() -> None:
    net, x = UNet2DModel(in_channels=2, out_channels=4).double(), randn(3, 2, 2, 2)
    model = from_diffusers(net, DDPMScheduler(variance_type="learned_range"))
    times = torch.full((3,), 250.0, dtype=torch.float64)
    torch.testing.assert_close(model(0.251, x).eps, net(x, times).sample[:, :2], **EXACT)


def test_a_function_with_bare_alphas() -> None:
    net, alphas, x = Features(), DDPMScheduler().alphas_cumprod, randn(2, 1, 3)
    model = from_diffusers(net, alphas, predicts="v")
    times = torch.full((2,), 9.0, dtype=torch.float64)
    expected = denoised("v_prediction", x, net(x, times), alphas[9].double())
    torch.testing.assert_close(model(0.01, x).x0, expected, **EXACT)


def test_labels_reach_the_network_and_are_checked() -> None:
    net, x = UNet2DModel(num_class_embeds=3).double(), randn(2, 1, 2, 2)
    model = from_diffusers(net, DDPMScheduler(), null={"label": 2})
    label = torch.tensor([0, 1])
    expected = net(x, torch.full((2,), 99.0, dtype=torch.float64), label).sample
    torch.testing.assert_close(model(0.1, x, {"label": label}).eps, expected, **EXACT)
    assert dict(model.nulls) == {"label": 2}
    sampler = ReverseSampler(model.sde, model, "ddim", steps=3)
    with pytest.raises(ValueError, match="'label', which the model needs"):
        sampler.sample((2, 1, 2, 2), seed=0)
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        sampler.sample((2, 1, 2, 2), seed=0, cond={"label": torch.tensor([0, 3])})
    plain = from_diffusers(UNet2DModel().double(), DDPMScheduler())
    with pytest.raises((TypeError, ValueError), match="label"):
        ReverseSampler(plain.sde, plain, "ddim", steps=3).sample(
            (2, 1, 2, 2), seed=0, cond={"label": label}
        )


def test_a_table_of_timesteps_gets_whole_ones() -> None:
    net = UNet2DModel(time_embedding_type="learned").double()
    from_diffusers(net, DDPMScheduler())(0.2504, randn(2, 1, 2, 2))
    assert net.seen[0].tolist() == [249, 249] and not net.seen[0].is_floating_point()


@pytest.mark.parametrize(
    ("net", "scheduler", "predicts", "words"),
    [
        (3, DDPMScheduler(), None, "net: expected a network of diffusers"),
        (
            type("DDPMPipeline", (), {"unet": 1, "scheduler": 2, "__call__": print})(),
            DDPMScheduler(),
            None,
            "pass pipeline.unet and pipeline.scheduler",
        ),
        (Features(), [0.9, 0.5], None, "predicts: expected 'eps', 'v' or 'x0'"),
        (Features(), DDPMScheduler(), "v", "predicts: expected 'eps', as the scheduler says"),
        (Features(), DDPMScheduler(), "noise", "predicts: expected one of"),
        (Features(), DDPMScheduler(prediction_type="flow"), None, "prediction_type epsilon"),
        (Features(), object(), None, "scheduler: expected one with alphas_cumprod"),
        (UNet2DModel(out_channels=3).double(), DDPMScheduler(), None, "out_channels of 1, or 2"),
    ],
)
def test_pairs_that_do_not_fit(net: Any, scheduler: Any, predicts: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        from_diffusers(net, scheduler, predicts=predicts)
    assert words in str(caught.value)


def test_an_output_of_other_channels_is_named() -> None:
    model = from_diffusers(Features(2, 3), DDPMScheduler())
    with pytest.raises(ValueError, match="an output of 2 channels, or 4 with variances"):
        model(0.5, randn(2, 2, 2))
    bad = from_diffusers(lambda x, t: None, DDPMScheduler())
    with pytest.raises(TypeError, match=r"a tensor or an output with \.sample"):
        bad(0.5, randn(2, 2, 2))


# guided-diffusion


@pytest.mark.parametrize("rescale", [False, True])
def test_a_network_of_guided_diffusion(rescale: bool) -> None:
    betas = torch.linspace(1e-4, 0.08, 250, dtype=torch.float64)
    net, x, seen = Features(2, 4), randn(3, 2, 2, 2), []

    def called(state: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:
        seen.append(timesteps)
        return net(state, timesteps + y)

    model = from_guided_diffusion(called, betas, rescale_timesteps=rescale, classes=True)
    label, step = torch.tensor([0, 1, 2]), 17
    told = step * 1000 / 250 if rescale else float(step)
    abar = torch.cumprod(1 - betas, 0)[step]
    eps = net(x, told + label)[:, :2]
    found = model((step + 1) / 250, x, {"label": label})
    torch.testing.assert_close(found.eps, eps, **EXACT)
    torch.testing.assert_close(found.x0, denoised("epsilon", x, eps, abar), **EXACT)
    torch.testing.assert_close(seen[0], torch.full((3,), told, dtype=torch.float64), **EXACT)
