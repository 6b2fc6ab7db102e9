"""The U-Net and the samplers of guided-diffusion themselves, on random weights."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde import DDPM, ReverseSampler
from scoresde.adapters import from_guided_diffusion
from scoresde.noise import Independent

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of names of torch that it uses
    pytest.importorskip("guided_diffusion", reason="pip install guided-diffusion-sdk")
    from guided_diffusion import gaussian_diffusion as theirs
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps
    from guided_diffusion.unet import UNetModel

SHAPE = (2, 3, 8, 8)


def unet(classes: int | None = None, learned: bool = True) -> Any:
    """A small U-Net whose last layers, which begin at zero, are random."""
    torch.manual_seed(0)
    net = UNetModel(
        image_size=8,
        in_channels=3,
        model_channels=32,
        out_channels=6 if learned else 3,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 2),
        num_classes=classes,
        num_heads=2,
        use_scale_shift_norm=True,
    )
    for p in net.parameters():
        if not bool(p.any()):
            nn.init.normal_(p, std=0.05)
    return net.eval().requires_grad_(False)


def diffusion(n: int, rescale: bool = False, learned: bool = True, respaced: str = "") -> Any:
    kind = theirs.ModelVarType.LEARNED_RANGE if learned else theirs.ModelVarType.FIXED_LARGE
    return SpacedDiffusion(
        use_timesteps=space_timesteps(n, respaced or [n]),
        betas=theirs.get_named_beta_schedule("linear", n),
        model_mean_type=theirs.ModelMeanType.EPSILON,
        model_var_type=kind,
        loss_type=theirs.LossType.MSE,
        rescale_timesteps=rescale,
    )


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("n", "rescale"), [(1000, False), (1000, True), (500, True)])
def test_noise_and_data_are_those_of_their_diffusion(n: int, rescale: bool, learned: bool) -> None:
    """The tables of theirs are float32 where they are used, which 1e-5 is for."""
    net, chain = unet(classes=4, learned=learned), diffusion(n, rescale, learned)
    model = from_guided_diffusion(net, chain.betas, rescale_timesteps=rescale, classes=True)
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    alpha = torch.from_numpy(np.sqrt(chain.alphas_cumprod))
    torch.testing.assert_close(model.sde.alpha(times), alpha, rtol=1e-12, atol=1e-12)
    x, label = draw(1), torch.tensor([3, 0])
    for i in (0, 1, n // 3, n - 1):
        step = torch.full((2,), i)
        found = chain.p_mean_variance(net, x, step, clip_denoised=False, model_kwargs={"y": label})
        ours = model((i + 1) / n, x, {"label": label})
        told = step.float() * (1000 / n) if rescale else step
        assert torch.equal(ours.eps, net(x, told, y=label)[:, :3])
        scale = float(found["pred_xstart"].abs().max())
        assert float((ours.x0 - found["pred_xstart"]).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("respaced", ["", "ddim25", "10,5"])
def test_their_ddim_is_ours_on_their_steps(respaced: str) -> None:
    n, net = 100, unet()
    chain = diffusion(n, respaced=respaced)
    expected = chain.ddim_sample_loop(net, SHAPE, noise=draw(2), clip_denoised=False)
    model = from_guided_diffusion(net, theirs.get_named_beta_schedule("linear", n))
    grid = [(i + 1) / n for i in reversed(chain.timestep_map)]
    found = ReverseSampler(model.sde, model, "ddim", grid=grid).sample(SHAPE, x_init=draw(2))
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_their_ancestral_sampler_is_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the large variances, on the same noise."""
    n, net = 50, unet(learned=False)
    chain = diffusion(n, learned=False)
    ours = DDPM(torch.from_numpy(chain.betas), variance="large")
    model = from_guided_diffusion(net, chain.betas)
    noise, nodes = Independent(5), ours.nodes(model.sde)
    draws = [noise.normal(draw(3), nodes[i - 1], nodes[i - 2]) for i in range(n, 1, -1)]
    draws.append(draw(4))  # which theirs draws at the last step and does not use
    monkeypatch.setattr(theirs.th, "randn_like", lambda x: draws.pop(0))
    expected = chain.p_sample_loop(net, SHAPE, noise=draw(3), clip_denoised=False)
    assert not draws
    monkeypatch.undo()
    found = ours.ancestral_sample(model, SHAPE, seed=5, x_init=draw(3))
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
