"""The real diffusers, where it is installed: equal outputs, and equal trajectories.

Run with `pip install diffusers`; the same arithmetic is tested without it in `test_chains.py`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from foreign import randn
from torch import Tensor, nn

from scoresde import ReverseSampler, load, save
from scoresde.adapters import from_diffusers, load_diffusers, to_diffusers
from scoresde.noise import Independent

diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")

if not hasattr(diffusers, "utils"):  # a stand-in of another test
    pytest.skip("diffusers is not the real library", allow_module_level=True)

X = randn(4, 1, 8, 8)


def unet(seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    net = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=options.pop("out_channels", 1),
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        **options,
    )
    return net.eval().requires_grad_(False).double()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return unet()


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_x0_is_that_of_the_scheduler(name: str, kind: str, timestep: int, net: nn.Module) -> None:
    options = {"prediction_type": kind, "clip_sample": False, "beta_schedule": "squaredcos_cap_v2"}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**options)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    output = net(X, timestep).sample
    scheduler.set_timesteps(1000)
    expected = scheduler.step(output, timestep, X).pred_original_sample
    found = from_diffusers(net, scheduler)((timestep + 1) / 1000, X).x0
    size = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-12 * max(size, 1.0)


@pytest.mark.parametrize("classes", [None, 3])
def test_a_pipeline_folder(classes: int | None, tmp_path: Path) -> None:
    """Written by diffusers, read, saved by us and read again: the same model to the bit."""
    torch.manual_seed(1)
    net = unet(num_class_embeds=classes).float()
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear")
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(tmp_path / "pipe")
    model = load_diffusers(tmp_path / "pipe")
    again = load(save(model, tmp_path / "model"))
    label = None if classes is None else torch.tensor([0, 1, 2, 0])
    cond = None if label is None else {"label": label}
    times = torch.full((4,), 249)
    expected = net(X.float(), times, label).sample
    assert torch.equal(model(0.25, X.float(), cond).eps, expected)
    assert torch.equal(again(0.25, X.float(), cond).eps, expected)


class Near(nn.Module):
    """A network near a denoiser, so that trajectories stay of the size of data."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, timestep: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=0.8 * x + 0.2 * self.net(x, timestep).sample)


def theirs(scheduler: Any, net: nn.Module, x: Tensor, steps: int) -> list[Tensor]:
    """The states of a trajectory of diffusers, from x at its first timestep."""
    scheduler.set_timesteps(steps)
    states = []
    for t in scheduler.timesteps:
        output = net(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x).prev_sample
        states.append(x)
    return states


def ours(scheduler: Any, net: nn.Module, solver: str, x: Tensor) -> list[Tensor]:
    """The states of our solver on the integer timesteps of that scheduler, and the denoised."""
    model = from_diffusers(net, scheduler)
    grid = [(int(t) + 1) / 1000 for t in scheduler.timesteps]
    found = ReverseSampler(model.sde, model, solver, grid=grid).solve(
        tuple(x.shape), x_init=x, seed=0, keep_path=True
    )
    assert found.path is not None
    return [*found.path[1:], found.x]


SAME = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}),
    "unipc_2_bh2": ("UniPCMultistepScheduler", {"timestep_spacing": "leading"}),
}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", SAME)
@pytest.mark.parametrize("steps", [10, 25])
def test_trajectories_are_those_of_the_scheduler(
    solver: str, steps: int, kind: str, net: nn.Module
) -> None:
    name, options = SAME[solver]
    scheduler = getattr(diffusers, name)(prediction_type=kind, **options)
    near = Near(net)
    expected = theirs(scheduler, near, X, steps)[-1]
    found = ours(scheduler, near, solver, X)[-1]
    assert float((found - expected).abs().max()) < 1e-5


def test_euler_ancestral_is_the_ancestral_sampler(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In x / alpha, with the noise of ours: Euler to sigma_down and sigma_up is one DDPM step."""
    near, steps = Near(net), 20
    scheduler = diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    sde = from_diffusers(near, scheduler).sde
    nodes = [sde.at((int(t) + 1) / 1000) for t in scheduler.timesteps]
    noise = Independent(0)
    drawn = [noise.normal(X, a, b) for a, b in pairwise(nodes)]
    queue = iter([*drawn, torch.zeros_like(X)])
    module = diffusers.schedulers.scheduling_euler_ancestral_discrete
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(queue))
    expected = theirs(scheduler, near, X / nodes[0].alpha, steps)[-1]
    found = ours(scheduler, near, "ancestral", X)[-1]
    assert float((found - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("steps", [10, 20])
def test_unipc_3_of_diffusers_lowers_its_order_at_the_end(steps: int, net: nn.Module) -> None:
    """Their third order is ours up to the last step but one, which they take with order 2.

    `lower_order_final` counts the step to sigma = 0 as the last one, so it makes the step before
    it of order 2. Without it the step to sigma = 0 asks for the logarithm of 0, and fails.
    """
    near = Near(net)
    scheduler = diffusers.UniPCMultistepScheduler(timestep_spacing="leading", solver_order=3)
    expected = theirs(scheduler, near, X, steps)
    found = ours(scheduler, near, "unipc_3_bh2", X)
    gaps = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    assert max(gaps[:-2]) < 1e-5
    assert min(gaps[-2:]) > 1e-3
    whole = diffusers.UniPCMultistepScheduler(
        timestep_spacing="leading", solver_order=3, lower_order_final=False
    )
    with pytest.raises(RuntimeError, match="singular"):
        theirs(whole, near, X, steps)


def test_the_default_grid_of_diffusers_does_not_start_at_noise(net: nn.Module) -> None:
    """The "leading" timesteps of 10 steps start at 900, with 2.6 times the signal of the end.

    Their pipelines draw pure noise for it nevertheless; our grids start at T.
    """
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(10)
    sde = from_diffusers(net, scheduler).sde
    first = (int(scheduler.timesteps[0]) + 1) / 1000
    assert first == 0.901
    assert sde.alpha(first) / sde.alpha(1.0) == pytest.approx(2.6, abs=0.05)


def test_ddpm_is_the_ancestral_sampler(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 40 timesteps with the posterior variance, on the noise of ours."""
    near, steps = Near(net), 25
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    sde = from_diffusers(near, scheduler).sde
    nodes = [sde.at((int(t) + 1) / 1000) for t in scheduler.timesteps]
    queue = iter([Independent(0).normal(X, a, b) for a, b in pairwise(nodes)])
    module = diffusers.schedulers.scheduling_ddpm
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(queue))
    expected = theirs(scheduler, near, X, steps)[-1]
    found = ours(scheduler, near, "ancestral", X)[-1]
    assert float((found - expected).abs().max()) < 1e-5


def test_a_pipeline_takes_our_solver(net: nn.Module) -> None:
    own = unet().float()
    scheduler = to_diffusers(diffusers.DDPMScheduler(), "unipc_3")
    pipe = diffusers.DDPMPipeline(unet=own, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    images = pipe(4, generator, num_inference_steps=8, output_type="pt").images
    start = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    model = from_diffusers(own, diffusers.DDPMScheduler())
    sampler = ReverseSampler(model.sde, model, "unipc_3", steps=7)
    expected = (sampler.sample((4, 1, 8, 8), x_init=start, seed=0) / 2 + 0.5).clamp(0, 1)
    assert float((images - expected).abs().max()) < 1e-4
