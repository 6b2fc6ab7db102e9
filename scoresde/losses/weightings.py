"""The weightings of the loss, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scoresde._check import choice
from scoresde._tensor import Scalar
from scoresde.node import Node

__all__ = ["WEIGHTING", "WEIGHTINGS", "Weighting", "weighting_of"]

Weighting = tuple[str, Callable[[Node], Scalar]]


def _edm(node: Node, sigma_data: float = 1.0) -> Scalar:
    square: Scalar = (node.sigma / node.alpha) ** 2
    return (square + sigma_data**2) / (square * sigma_data**2)


def _min_snr(node: Node, gamma: float = 5.0) -> Scalar:
    snr = (node.alpha / node.sigma) ** 2
    return snr.clamp_max(gamma) if isinstance(snr, Tensor) else min(snr, gamma)


WEIGHTINGS: dict[str, Weighting] = {
    "eps": ("eps", lambda n: 1.0),
    "x0": ("x0", lambda n: 1.0),
    "v": ("v", lambda n: 1.0),
    "likelihood": ("score", lambda n: 0.5 * n.g**2),
    "min_snr": ("x0", _min_snr),
    "edm": ("x0", _edm),
}
"""Weighting -> (the coordinate whose squared error is averaged, its weight at a node).

- "eps": |eps - eps_theta|^2, the simple loss of Ho et al. 2020 (sigma^2 on the score's error);
- "x0", "v": the same in these coordinates;
- "likelihood": g^2/2 on the score's error, which bounds the likelihood (Song et al. 2021, arXiv
  2101.09258, thm 1);
- "min_snr": min(snr, 5) on x_0's error (Hang et al. 2023, arXiv 2303.09556);
- "edm": (s^2 + 1)/s^2 on x_0's error, s = sigma/alpha (Karras et al. 2022, arXiv 2206.00364,
  table 1, with data of unit standard deviation).
"""

WEIGHTING = "eps"
"""The default weighting of a loss, a key of `WEIGHTINGS`."""


def weighting_of(weighting: str | Callable[[Node], Scalar]) -> Weighting:
    """The coordinate and the weight of a name, or of a function on the squared error of eps."""
    if callable(weighting):
        return "eps", weighting
    return WEIGHTINGS[choice("weighting", weighting, WEIGHTINGS)]
