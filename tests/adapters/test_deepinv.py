"""Denoisers of deepinv: the range of images, and the real library where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign import Features, randn
from lenient import library
from torch import Tensor

from scoresde import EDMSDE, VESDE, VPSDE, Gaussian
from scoresde.adapters import from_deepinv, to_deepinv

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
X = randn(3, 4)
DATA = Gaussian(torch.zeros(4).double(), torch.tensor(0.25).double())


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of images of mean 1/2 and variance 1/16, the unit of DATA on [0, 1]."""
    level = sigma.reshape(-1, 1) ** 2
    return 0.5 + (x - 0.5) / (1 + 16 * level)


def test_a_denoiser_of_images_between_0_and_1() -> None:
    net = Features(4)
    torch.testing.assert_close(
        from_deepinv(net)(0.5, X).x0, net(X, torch.full((3,), 0.5).double()), **EXACT
    )


@pytest.mark.parametrize("sigma", [0.01, 1.0, 20.0])
def test_images_between_minus_1_and_1(sigma: float) -> None:
    """The same law on [-1, 1]: mean 0 and variance 1/4, with twice the noise."""
    model = from_deepinv(denoise, symmetric=True)
    exact = DATA.under(EDMSDE())
    torch.testing.assert_close(model(sigma, X).x0, exact(sigma, X).x0, **EXACT)
    wrong = from_deepinv(denoise)(sigma, X).x0
    assert float((wrong - exact(sigma, X).x0).abs().max()) > 1e-2 or sigma < 0.1


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=repr)
@pytest.mark.parametrize("form", ["number", "tensor", "(B,)", "(B, 1, 1, 1)"])
def test_a_model_as_denoiser(sde: Any, form: str) -> None:
    level = torch.tensor([0.3, 0.3, 0.3], dtype=torch.float64)
    forms = {
        "number": 0.3,
        "tensor": level[0],
        "(B,)": level,
        "(B, 1, 1, 1)": level.view(3, 1, 1, 1),
    }
    denoiser = to_deepinv(DATA.under(sde), symmetric=True)
    found = denoiser((X + 1) / 2, forms[form])
    torch.testing.assert_close(found, denoise((X + 1) / 2, level), rtol=1e-9, atol=1e-9)
    plain = to_deepinv(DATA.under(sde))(X, forms[form])
    expected = DATA.under(EDMSDE())(0.3, X).x0
    torch.testing.assert_close(plain, expected, rtol=1e-9, atol=1e-9)


def test_bad_denoisers() -> None:
    with pytest.raises(TypeError, match="denoiser: expected a denoiser of deepinv"):
        from_deepinv(3, symmetric=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a pickle can run any code"):
        from_deepinv("drunet.pth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an SDE with alpha = 1"):
        from_deepinv(denoise, VPSDE())
    with pytest.raises(TypeError, match="model: expected a ScoreModel"):
        to_deepinv(denoise)  # type: ignore[arg-type]


# The library itself


@pytest.fixture(scope="module")
def deepinv() -> Any:
    return library("deepinv", "torchvision", "h5py", "natsort", "timm", "hdf5storage")


@pytest.mark.parametrize("name", ["DRUNet", "UNet"])
def test_a_denoiser_of_deepinv(deepinv: Any, name: str) -> None:
    torch.manual_seed(0)
    options = {"DRUNet": {"nc": [4, 8, 8, 8], "nb": 1, "pretrained": None}, "UNet": {"scales": 2}}
    net = getattr(deepinv.models, name)(in_channels=1, out_channels=1, **options[name])
    net = net.double().eval()
    x, sigma = randn(2, 1, 16, 16), torch.full((2,), 0.1, dtype=torch.float64)
    model = from_deepinv(net)
    torch.testing.assert_close(model(0.1, x).x0, net(x, sigma), **EXACT)
    half = from_deepinv(net, symmetric=True)(0.2, 2 * x - 1)
    torch.testing.assert_close(half.x0, 2 * net(x, sigma) - 1, **EXACT)


@pytest.mark.parametrize("symmetric", [False, True])
def test_our_model_in_an_sde_of_deepinv(deepinv: Any, symmetric: bool) -> None:
    """The score of their VE diffusion with our denoiser, which they call in float32."""
    sde = VESDE(0.02, 20.0)
    model = DATA.under(sde)
    theirs = deepinv.sampling.VarianceExplodingDiffusion(
        denoiser=to_deepinv(model, symmetric=symmetric),
        sigma_min=0.02,
        sigma_max=20.0,
        minus_one_one=symmetric,
    )
    for t in (0.1, 0.5, 0.9):
        found = theirs.score(X, torch.tensor(t))
        torch.testing.assert_close(found, model.score(t, X), rtol=2e-4, atol=2e-4)
