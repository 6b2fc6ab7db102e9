"""Denoisers of deepinv as score models, and the other way; deepinv is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from scoresde._check import wrong_type
from scoresde.adapters.denoiser import from_denoiser
from scoresde.adapters.outward import ToDenoiser, levels
from scoresde.model import Preconditioned, ScoreModel
from scoresde.sde import AffineSDE

__all__ = ["ToDeepinv", "from_deepinv", "to_deepinv"]


def from_deepinv(
    denoiser: Callable[..., Any],  # returns a tensor
    sde: AffineSDE | None = None,
    *,
    symmetric: bool = False,
) -> Preconditioned:
    """A denoiser of deepinv, denoiser(x, sigma) -> x_0hat on images in [0, 1], as a score model.

    Args:
        denoiser: a `Denoiser` of deepinv, or any such function.
        sde: an SDE with alpha = 1, in the units of the score model; see `from_denoiser`.
        symmetric: whether the data of the score model are in [-1, 1]. The denoiser is then called
            with (x + 1)/2 and sigma/2.

    Raises:
        TypeError, ValueError: see `from_denoiser`.

    Example:
        >>> import torch
        >>> half = from_deepinv(lambda x, sigma: torch.full_like(x, 0.5), symmetric=True)
        >>> half(1.0, torch.ones(1, 1, 2, 2)).x0.flatten().tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    if not symmetric:
        return from_denoiser(denoiser, sde)
    if not callable(denoiser):
        raise wrong_type("denoiser", "a denoiser of deepinv", denoiser, "pass the module")
    return from_denoiser(_Symmetric(denoiser), sde)


class _Symmetric(nn.Module):
    """A denoiser of images in [0, 1] for images in [-1, 1]."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 2.0 * self.denoiser((x + 1.0) / 2.0, sigma / 2.0) - 1.0


@final
class ToDeepinv(nn.Module):
    """A score model as a denoiser of deepinv; see `to_deepinv`."""

    def __init__(self, model: ScoreModel, symmetric: bool) -> None:
        super().__init__()
        self.denoiser = ToDenoiser(model)
        self.symmetric = symmetric

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x_0hat at x: (B, C, H, W) with noise of sigma, a number, (B,) or (B, 1, 1, 1)."""
        level = levels(sigma, x)
        if not self.symmetric:
            return self.denoiser.forward(x, level)
        return (self.denoiser.forward(2.0 * x - 1.0, 2.0 * level) + 1.0) / 2.0


def to_deepinv(model: ScoreModel, *, symmetric: bool = False) -> ToDeepinv:
    """A score model as denoiser(x, sigma) of deepinv, for its plug-and-play and its samplers.

    Args:
        model: a score model of an affine SDE.
        symmetric: whether its data are in [-1, 1]; deepinv has images in [0, 1].

    Raises:
        TypeError: the SDE is not affine.
        ValueError: when called, a noise level is outside those of the model.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, FunctionScore
        >>> denoiser = to_deepinv(FunctionScore(VPSDE(), lambda t, x: -x))  # of unit data
        >>> denoiser(torch.ones(1, 1, 1, 1, dtype=torch.float64), 2.0).round(decimals=6)
        tensor([[[[0.2000]]]], dtype=torch.float64)
    """
    return ToDeepinv(model, symmetric)
