"""Two-dimensional toys of zero mean and unit standard deviation, with a fixed density each.

Every toy is standardised by constants known in closed form (the moments of its density) and never
by those of the sample, so that a seed or a sample size does not move the density. "Unit standard
deviation" means overall: the variances of the two coordinates average to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde._check import choice, positive_int
from scoresde._tensor import seeded
from scoresde.data.base import Data

__all__ = [
    "TOYS",
    "MixtureParameters",
    "checkerboard",
    "eight_gaussians",
    "eight_gaussians_parameters",
    "moons",
    "swiss_roll",
    "toy",
]

MOONS_NOISE = 0.1
ROLL_NOISE = 0.5


class MixtureParameters(NamedTuple):
    """A mixture of isotropic Gaussians: means (K, D) and weights (K,) in float64, one std."""

    means: Tensor
    std: float
    weights: Tensor


def _start(n: int, seed: int) -> tuple[int, torch.Generator]:
    return positive_int("n", n), seeded(seed)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device="cpu", dtype=torch.float64)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, device="cpu", dtype=torch.float64)


def _standard(raw: Tensor, mean: tuple[float, float], variance: float, name: str) -> Data:
    """`raw` (n, 2) less its density's mean, over its density's overall standard deviation."""
    x = (raw - torch.tensor(mean, dtype=torch.float64, device="cpu")) / math.sqrt(variance)
    return Data(x.float(), name=name)


def moons(n: int, seed: int = 0) -> Data:
    """Two interleaving half circles with Gaussian noise.

    The raw points are (cos a, sin a) or (1 - cos a, 1/2 - sin a) with equal chance, a uniform on
    [0, pi], plus noise of std s = 0.1. Their mean is (1/2, 1/4) and their variances are 3/4 + s^2
    and 9/16 - 1/pi + s^2.

    Args:
        n: number of points.
        seed: of the draw.

    Returns:
        Data with x (n, 2).

    Raises:
        TypeError, ValueError: `n` is not a positive integer.

    Example:
        >>> moons(1000, seed=0)
        Data(moons: 1000 x (2,) float32)
    """
    n, generator = _start(n, seed)
    angle = math.pi * _uniform(n, generator)
    upper = _uniform(n, generator) < 0.5
    raw = torch.stack(
        [
            torch.where(upper, angle.cos(), 1 - angle.cos()),
            torch.where(upper, angle.sin(), 0.5 - angle.sin()),
        ],
        dim=1,
    )
    raw = raw + MOONS_NOISE * _normal(n, generator)
    variance = (3 / 4 + 9 / 16 - 1 / math.pi) / 2 + MOONS_NOISE**2
    return _standard(raw, (0.5, 0.25), variance, "moons")


def swiss_roll(n: int, seed: int = 0) -> Data:
    """A spiral of one and a half turns with Gaussian noise.

    The raw points are a (cos a, sin a), a uniform on [3 pi/2, 9 pi/2], plus noise of std s = 0.5.
    Their mean is (2, 2/(3 pi)), their mean squared radius 39 pi^2/4 + 2 s^2.

    Args:
        n: number of points.
        seed: of the draw.

    Returns:
        Data with x (n, 2).

    Raises:
        TypeError, ValueError: `n` is not a positive integer.

    Example:
        >>> swiss_roll(1000, seed=0).x.shape
        torch.Size([1000, 2])
    """
    n, generator = _start(n, seed)
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, generator))
    raw = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    raw = raw + ROLL_NOISE * _normal(n, generator)
    mean = (2.0, 2 / (3 * math.pi))
    variance = (39 * math.pi**2 / 4 - mean[0] ** 2 - mean[1] ** 2) / 2 + ROLL_NOISE**2
    return _standard(raw, mean, variance, "swiss_roll")


def eight_gaussians_parameters() -> MixtureParameters:
    """The exact density of `eight_gaussians`: eight equal Gaussians on a circle.

    The radius r and the std s = r/8 obey r^2/2 + s^2 = 1, that is r^2 = 64/33, which makes the
    whole of mean 0 and covariance I.

    Returns:
        MixtureParameters with means (8, 2), std and weights (8,).

    Example:
        >>> means, std, weights = eight_gaussians_parameters()
        >>> means.shape, round(std, 4), weights[0].item()
        (torch.Size([8, 2]), 0.1741, 0.125)
    """
    radius = math.sqrt(64 / 33)
    angle = torch.arange(8, dtype=torch.float64, device="cpu") * (math.pi / 4)
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    return MixtureParameters(
        means, radius / 8, torch.full((8,), 1 / 8, dtype=torch.float64, device="cpu")
    )


def eight_gaussians(n: int, seed: int = 0) -> Data:
    """Eight equal Gaussians on a circle, the density of `eight_gaussians_parameters`.

    Args:
        n: number of points.
        seed: of the draw.

    Returns:
        Data with x (n, 2).

    Raises:
        TypeError, ValueError: `n` is not a positive integer.

    Example:
        >>> eight_gaussians(1000, seed=0)
        Data(eight_gaussians: 1000 x (2,) float32)
    """
    n, generator = _start(n, seed)
    means, std, _ = eight_gaussians_parameters()
    component = torch.randint(8, (n,), generator=generator, device="cpu")
    x = means[component] + std * _normal(n, generator)
    return Data(x.float(), name="eight_gaussians")


def checkerboard(n: int, seed: int = 0) -> Data:
    """The uniform density on the eight dark squares of a 4 x 4 board.

    The board is [-sqrt(3), sqrt(3)]^2; square (i, j), counted from the lower left, is dark if
    i + j is even, and the density is 1/6 there. Both coordinates are uniform, of variance 1.

    Args:
        n: number of points.
        seed: of the draw.

    Returns:
        Data with x (n, 2).

    Raises:
        TypeError, ValueError: `n` is not a positive integer.

    Example:
        >>> bool(checkerboard(1000, seed=0).x.abs().max() <= 3**0.5)
        True
    """
    n, generator = _start(n, seed)
    column = torch.randint(4, (n,), generator=generator, device="cpu")
    row = 2 * torch.randint(2, (n,), generator=generator, device="cpu") + column % 2
    corner = torch.stack([column, row], dim=1).double()
    within = _uniform(2 * n, generator).reshape(n, 2)
    return _standard(corner + within, (2.0, 2.0), 4 / 3, "checkerboard")


TOYS: dict[str, Callable[[int, int], Data]] = {
    "checkerboard": checkerboard,
    "eight_gaussians": eight_gaussians,
    "moons": moons,
    "swiss_roll": swiss_roll,
}


def toy(name: str, n: int, seed: int = 0) -> Data:
    """The toy of that name, one of `TOYS`.

    Args:
        name: a key of `TOYS`.
        n: number of points.
        seed: of the draw.

    Returns:
        Data with x (n, 2).

    Raises:
        TypeError, ValueError: `n` is not a positive integer.
        ValueError: unknown `name`; the message lists the names and the nearest.

    Example:
        >>> toy("moons", 100, seed=0)
        Data(moons: 100 x (2,) float32)
    """
    return TOYS[choice("name", name, TOYS)](n, seed)
