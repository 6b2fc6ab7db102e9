"""Decoders p(x_0 | x_1) of the first noisy state, for the last term of the bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde._check import same_shape
from scoresde._tensor import Scalar, lincomb, wide
from scoresde.prediction import COORDINATES, Prediction
from scoresde.quantisation import Quantisation, check_levels

__all__ = ["DECODERS", "discretized_gaussian", "reconstruction", "squared_error"]


def discretized_gaussian(
    x: Tensor, mean: Tensor, std: Scalar, quantisation: Quantisation
) -> Tensor:
    """Log probability of each level under N(mean, std^2) with all mass in bins: L_0 of DDPM.

    The bin of a level extends half a bin width to either side; those of the lowest and the
    highest level are unbounded, so that the probabilities of all levels sum to 1. The logarithm
    is computed in float64 from erfcx and expm1, with a small relative error for any distance of
    the mean and any width of the bin. Ho et al. 2020 (arXiv 2006.11239), eq. 13.

    Args:
        x: levels in model units, (B, *D).
        mean: (B, *D).
        std: a positive float, or (B, 1, ..., 1).
        quantisation: the levels.

    Returns:
        (B, *D) log probabilities, in nats.

    Raises:
        TypeError, ValueError: the quantisation is missing, or x is outside its range or between
            its levels.

    Example:
        >>> quantisation = Quantisation(2)
        >>> x = torch.tensor([[-1.0, 1.0]])
        >>> discretized_gaussian(x, torch.zeros(1, 2), 0.3, quantisation).exp().tolist()
        [[0.5, 0.5]]
    """
    check_levels(x, quantisation)
    same_shape("mean", mean, x, "one mean per entry of x")
    k = quantisation.decode(x)
    kind = wide(x).dtype
    scale = wide(std) if isinstance(std, Tensor) else std
    centre: Tensor = (quantisation.encode(k, dtype=kind) - wide(mean)) / scale
    radius = torch.as_tensor(quantisation.bin_width / 2 / scale, dtype=kind).to(centre.device)
    inside = _log_mass(centre, radius)
    inside = torch.where(k == 0, torch.special.log_ndtr(centre + radius), inside)
    return torch.where(
        k == quantisation.levels - 1, torch.special.log_ndtr(radius - centre), inside
    )


def _log_mass(centre: Tensor, radius: Tensor) -> Tensor:
    """log of the standard normal mass of [centre - radius, centre + radius]."""
    r2, c = math.sqrt(2.0), centre.abs()  # even in the centre
    near, far = c - radius, c + radius
    both = torch.special.erf(far / r2) - torch.special.erf(near.clamp_max(0.0) / r2)
    edge = near.clamp_min(0.0)
    ratio = torch.special.erfcx(far / r2) / torch.special.erfcx(edge / r2)
    # (far^2 - near^2)/2 = 2 c radius: no squares are subtracted
    share = -torch.expm1(ratio.log() - 2 * c * radius)
    tail = torch.special.erfcx(edge / r2).log() - edge.square() / 2 + share.log()
    wide_bin = torch.where(near < 0, both.log(), tail) - math.log(2.0)
    # for a narrow bin: the density times its width, with two terms of the Taylor series
    bend = radius**2 * (c**2 - 1) / 6 + radius**4 * (c**4 - 6 * c**2 + 3) / 120
    peak = (2 * radius).log() - 0.5 * math.log(2 * math.pi)
    narrow = torch.log1p(bend.clamp(-0.5, 0.5)) - c**2 / 2 + peak
    return torch.where(radius * c.clamp_min(1.0) < 0.03, narrow, wide_bin)


def squared_error(prediction: Prediction, x0: Tensor, eps: Tensor, kind: str) -> Tensor:
    """|error|^2 of a prediction in the coordinate "eps" or "x0", summed over D: (B,).

    It is computed in the model's own coordinate and then scaled, so that no operand of the
    subtraction is divided by a small alpha or sigma.
    """
    p, q = COORDINATES[prediction.kind](prediction.node)
    error = lincomb((1.0, prediction.value.to(x0.dtype)), (-p, x0), (-q, eps))
    scale = prediction.coefficients(kind)[1]
    if isinstance(scale, Tensor):
        scale = wide(scale).flatten()
    total: Tensor = wide(error.flatten(1)).square().sum(1) * scale**2
    return total


def _bins(p: Prediction, x0: Tensor, eps: Tensor, v: float, quantisation: Quantisation) -> Tensor:
    return -discretized_gaussian(x0, p.x0, math.sqrt(v), quantisation).flatten(1).sum(1)


def _gaussian(p: Prediction, x0: Tensor, eps: Tensor, v: float, quantisation: None) -> Tensor:
    constant = 0.5 * x0[0].numel() * math.log(2 * math.pi * v)
    return squared_error(p, x0, eps, "x0") / (2 * v) + constant


def _noised(p: Prediction, x0: Tensor, eps: Tensor, v: float, quantisation: None) -> Tensor:
    entropy = 0.5 * x0[0].numel() * math.log(2 * math.pi * math.e * p.node.sigma**2)
    return torch.full((len(x0),), entropy, dtype=wide(x0).dtype, device=x0.device)


DECODERS: dict[str, Callable[..., Tensor]] = {
    "bins": _bins,
    "gaussian": _gaussian,
    "noised": _noised,
}
"""The quantity that the bound bounds.

- "bins": -log P(x_0), the probability of discrete data, by the discretised Gaussian
  p(x_0 | x_1); needs a quantisation;
- "gaussian": -log p(x_0), the density of continuous data, with p(x_0 | x_1) Gaussian;
- "noised": E[-log p(x_1) | x_0], the density of the first noisy state, without a decoder: the
  term is the entropy of q(x_1 | x_0), D/2 log(2 pi e sigma^2).
"""


def reconstruction(
    prediction: Callable[[Tensor], Prediction],
    x0: Tensor,
    draws: list[Tensor],
    decoder: str,
    variance: float,
    quantisation: Quantisation | None,
) -> Tensor:
    """The reconstruction term, (B,), averaged over draws of eps; see `DECODERS`."""
    if decoder == "noised":
        draws = draws[:1]  # an entropy, which does not depend on eps
    terms = [DECODERS[decoder](prediction(e), x0, e, variance, quantisation) for e in draws]
    return torch.stack(terms).mean(0)
