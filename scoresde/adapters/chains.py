"""Networks of discrete chains: the schedule of their abar, and guided-diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from scoresde._check import fail, finite, wrong_type
from scoresde.adapters.network import Called, mean_of, tensor_of
from scoresde.ddpm import DDPM, ChainTime
from scoresde.model import Preconditioned

__all__ = ["chain_of", "from_guided_diffusion"]


def chain_of(alphas_cumprod: Sequence[float] | Tensor) -> DDPM:
    """The chain with these abar_1 ... abar_N, in float64.

    Other code computes abar in float32 and trains its networks with these values, so they are
    taken as they are: alpha and sigma at t = i/N agree with sqrt(abar_i) and sqrt(1 - abar_i)
    to a few units of float64, with no difference of nearly equal numbers at the first steps.

    Args:
        alphas_cumprod: N falling numbers in (0, 1), the squared scales of x_0 after 1 ... N
            steps; the last may be 0, of a schedule with zero terminal SNR.

    Raises:
        TypeError: these are no numbers.
        ValueError: there are fewer than two, or one is outside (0, 1) or not below the one before.

    Example:
        >>> chain = chain_of([0.9, 0.72, 0.36])
        >>> [round(beta, 12) for beta in chain.betas]
        [0.1, 0.2, 0.5]
    """
    remedy = "pass the alphas_cumprod of the scheduler, from least noise to most"
    numbers: Any = alphas_cumprod  # a tensor, an array or a list
    if (
        getattr(numbers, "ndim", 1) != 1
        or isinstance(numbers, str)
        or not hasattr(numbers, "__len__")
    ):
        raise wrong_type("alphas_cumprod", "a 1-D sequence of numbers", numbers, remedy)
    values = [finite("alphas_cumprod", v, remedy) for v in numbers]
    levels = [0.0]  # -log abar
    for i, (before, abar) in enumerate(pairwise([1.0, *values]), 1):
        if not (0.0 < abar < before or (abar == 0.0 and 1 < i == len(values))):
            expected = f"a number in (0, {before:g}), below that of the step before"
            raise fail(f"alphas_cumprod, step {i}", expected, abar, remedy)
        levels.append(-math.log1p(abar - 1.0) if abar else math.inf)
    return DDPM(tuple(-math.expm1(a - b) for a, b in pairwise(levels)))


def from_guided_diffusion(
    net: Callable[..., Any],  # returns a tensor
    betas: Sequence[float] | Tensor,
    *,
    rescale_timesteps: bool = False,
    classes: bool = False,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """A `UNetModel` of guided-diffusion or improved-diffusion, which predicts eps, as a model.

    Its steps count from 0, and a label is passed as y. Of a network with learned variances the
    first half of the channels is the prediction; the second half is dropped, since no solver but
    the ancestral one of its own steps has a use for it.

    Args:
        net: called as net(x, timesteps) or net(x, timesteps, y=labels).
        betas: those of the training, before any respacing, e.g. of
            `get_named_beta_schedule("linear", 1000)`.
        rescale_timesteps: whether the steps were passed as 1000 i / N.
        classes: whether the network takes labels, then given as cond["label"].
        null: the values that mean "no condition", e.g. {"label": 1000} of a network that was
            trained with a further class for it.

    Raises:
        TypeError, ValueError: see `DDPM` and `Preconditioned`.

    Example:
        >>> import torch
        >>> def net(x, timesteps):
        ...     return torch.cat([0.1 * x, x], 1)  # eps, and values for the variances
        >>> model = from_guided_diffusion(net, torch.linspace(1e-4, 0.02, 1000).double())
        >>> model(0.5, torch.ones(1, 3, 4, 4)).eps.mean().round(decimals=6)
        tensor(0.1000)
    """
    if not callable(net):
        raise wrong_type("net", "a UNetModel", net, "pass the network itself")
    chain = DDPM(betas)  # type: ignore[arg-type]  # `as_betas` takes tensors and lists

    def predicted(x: Tensor, value: object) -> Tensor:
        return mean_of(tensor_of(value, "sample", "net"), x, "net")

    def plain(own: Callable[..., Any], x: Tensor, time: Tensor) -> Tensor:
        return predicted(x, own(x, time))

    def labelled(own: Callable[..., Any], x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return predicted(x, own(x, time, y=label))

    scaled = rescale_timesteps and chain.N != 1000
    time = ChainTime("1000(t-1/N)" if scaled else "i-1", chain.N)
    network = Called(net, labelled if classes else plain)
    return Preconditioned(network, chain.to_sde(), "eps", time, null=null or {})
