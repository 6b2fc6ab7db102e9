"""The real k-diffusion, where it is installed: its denoisers here, and our models there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from foreign import DDPMScheduler, Features, randn
from lenient import library
from torch import Tensor

from scoresde import EDMSDE, VPSDE, Adams, GaussianMixture, Heun, Preconditioned, ReverseSampler
from scoresde.adapters import chain_of, from_denoiser, from_diffusers, to_denoiser
from scoresde.noise import Independent
from scoresde.schedule.grid import karras

OTHERS = (
    "torchvision",
    "skimage",
    "jsonmerge",
    "clip",
    "cleanfid",
    "resize_right",
    "wandb",
    "dctorch",
)
kd = library("k_diffusion", *OTHERS)

X = randn(4, 1, 8)
MIXTURE = GaussianMixture(randn(3, 2, seed=4), torch.full((3,), 0.2, dtype=torch.float64))


class Inner(Features):
    """The network inside their preconditioner, told c_noise of Karras et al."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(x, sigma.log() / 4)


def test_its_preconditioner_is_ours() -> None:
    inner = Inner()
    denoiser = kd.layers.Denoiser(inner, sigma_data=0.5)
    model = from_denoiser(denoiser)
    plain = Features()
    plain.load_state_dict(inner.state_dict())
    own = Preconditioned(plain, EDMSDE(), "edm", sigma_data=0.5)
    for sigma in (0.002, 0.5, 80.0):
        told = torch.full((4,), sigma, dtype=torch.float64)
        expected = denoiser(sigma * X, told)
        for each in (model, own):
            torch.testing.assert_close(each(sigma, sigma * X).x0, expected, rtol=1e-12, atol=1e-12)


def test_its_wrapper_of_a_discrete_chain() -> None:
    """DiscreteEpsDDPMDenoiser is the chain at the times of its own noise levels."""
    net, alphas = Features(), DDPMScheduler().alphas_cumprod.double()
    wrapper = kd.external.DiscreteEpsDDPMDenoiser(net, alphas, quantize=False)
    model = from_denoiser(wrapper)
    assert model.sde == EDMSDE(float(wrapper.sigma_min), float(wrapper.sigma_max))
    chain = from_diffusers(net, alphas, predicts="eps")
    for step in (0, 10, 500, 999):
        sigma, t = float(wrapper.sigmas[step]), (step + 1) / 1000
        theirs = model(sigma, X).x0
        ours = chain(t, X * chain.sde.alpha(t)).x0
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)
    assert chain_of(alphas).to_sde() == chain.sde


def sigmas(grid: Any) -> Tensor:
    return torch.tensor([*grid.times, 0.0], dtype=torch.float64)


SAMPLERS = {
    "sample_euler": ("ddim", {}),
    "sample_heun": (Heun("rho"), {"eta": 0.0}),
    "sample_dpmpp_2m": ("dpmpp_2m", {}),
    "sample_dpmpp_2s_ancestral": ("dpmpp_2s", {}),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [6, 17])
def test_its_samplers_are_ours(name: str, steps: int) -> None:
    solver, options = SAMPLERS[name]
    sde = EDMSDE(0.02, 20.0)
    model = MIXTURE.under(sde)
    grid, x = karras(sde, steps), 20.0 * randn(5, 2)
    given = {"eta": 0.0} if "ancestral" in name else {}
    sampler = getattr(kd.sampling, name)
    expected = sampler(to_denoiser(model), x, sigmas(grid), disable=True, **given)
    ours = ReverseSampler(sde, model, solver, grid=grid, **options).sample((5, 2), x_init=x)
    assert float((ours - expected).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("sample_euler_ancestral", Adams(1)),
        ("sample_dpmpp_2m_sde", Adams(2, variant="midpoint")),
    ],
)
def test_its_stochastic_samplers_are_ours_on_the_same_noise(name: str, solver: Adams) -> None:
    sde = EDMSDE(0.02, 20.0)
    model, grid, x = MIXTURE.under(sde), karras(EDMSDE(0.02, 20.0), 12), 20.0 * randn(5, 2)
    noise, nodes = Independent(3), [sde.at(t) for t in grid.times]
    queue = iter([noise.normal(x, a, b) for a, b in pairwise(nodes)] + [torch.zeros_like(x)])
    sampler = getattr(kd.sampling, name)
    expected = sampler(
        to_denoiser(model), x, sigmas(grid), disable=True, noise_sampler=lambda a, b: next(queue)
    )
    found = ReverseSampler(sde, model, solver, grid=grid).sample((5, 2), x_init=x, noise=noise)
    assert float((found - expected).abs().max()) < 1e-6


def test_a_vp_model_in_its_samplers() -> None:
    """A model of another SDE samples the same law there as here."""
    model = MIXTURE.under(VPSDE())
    denoiser = to_denoiser(model)
    levels = kd.sampling.get_sigmas_karras(40, 0.02, denoiser.sigma_max).double()
    x = levels[0] * randn(4000, 2)
    samples = kd.sampling.sample_dpmpp_2m(denoiser, x, levels, disable=True)
    truth = MIXTURE.sample(20000, seed=1)
    assert float((samples.mean(0) - truth.mean(0)).abs().max()) < 0.06
    assert float((samples.T.cov() - truth.T.cov()).abs().max()) < 0.08
