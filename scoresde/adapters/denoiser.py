"""Denoisers denoiser(x, sigma) of k-diffusion, EDM and others as score models."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from scoresde._check import fail, refuse, show
from scoresde.adapters.network import Called, tensor_of
from scoresde.model import Preconditioned
from scoresde.sde import EDMSDE, AffineSDE, as_affine

__all__ = ["from_denoiser", "from_edm"]


def from_denoiser(
    denoiser: Callable[..., Any],  # returns a tensor
    sde: AffineSDE | None = None,
    *,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """A denoiser of k-diffusion, denoiser(x, sigma, **cond) -> x_0hat, as a score model.

    Any such function will do: x = x_0 + sigma eps with sigma: (B,).

    Args:
        denoiser: a `Denoiser`, a wrapper of `k_diffusion.external`, or a function.
        sde: an SDE with alpha = 1, `EDMSDE` or `VESDE`; by default `EDMSDE` from `sigma_min` to
            `sigma_max` of the denoiser, where it has them, else from 0.002 to 80.
        null: the values that mean "no condition", by name.

    Raises:
        TypeError: the denoiser is not callable, or is the path of a file.
        ValueError: the SDE scales the data.

    Example:
        >>> model = from_denoiser(lambda x, sigma: x / (1 + sigma[:, None] ** 2))
        >>> model.sde
        EDMSDE(sigma_min=0.002, sigma_max=80.0)
    """
    _refuse_files("denoiser", denoiser)

    def call(own: Callable[..., Any], x: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return tensor_of(own(x, sigma, **cond), "denoised", "denoiser")

    low, high = _range(denoiser)
    chosen = EDMSDE(low or 0.002, 80.0 if math.isinf(high) else high) if sde is None else sde
    return Preconditioned(
        Called(denoiser, call), _without_scale(chosen), "x0", "sigma", null=null or {}
    )


def from_edm(net: Callable[..., Any], sde: AffineSDE | None = None) -> Preconditioned:
    """A network of EDM or EDM2, net(x, sigma, labels) -> x_0hat, as a score model.

    It is the live module, such as the "ema" of a pickle of EDM that you have loaded with their
    code. The pickle itself holds source code, which runs when it is read, so paths are refused.
    The network converts x to its own precision. The labels of a network with `label_dim` are
    one-hot there and class numbers here, cond["label"], where -1 means none, a vector of zeros.

    Args:
        net: `EDMPrecond`, `VPPrecond`, `VEPrecond`, `iDDPMPrecond` or EDM2's `Precond`.
        sde: an SDE with alpha = 1; by default `EDMSDE` from 0.002 to 80, as far as the
            `sigma_min` and `sigma_max` of the network reach.

    Raises:
        TypeError: the network is not callable, or is the path of a file or the content of one.
        ValueError: the SDE scales the data.

    Example:
        >>> model = from_edm(lambda x, sigma, labels=None: x / (1 + sigma[:, None] ** 2))
        >>> model.sde.sigma_max
        80.0
    """
    _refuse_files("net", net)
    dim = int(getattr(net, "label_dim", 0) or 0)

    def plain(own: Callable[..., Any], x: Tensor, sigma: Tensor) -> Tensor:
        return tensor_of(own(x, sigma), "denoised", "net")

    def labelled(
        own: Callable[..., Any], x: Tensor, sigma: Tensor, label: Tensor | None = None
    ) -> Tensor:
        if label is None:
            return plain(own, x, sigma)
        hot = nn.functional.one_hot(label.clamp(min=0), dim).to(sigma)
        return tensor_of(own(x, sigma, hot * (label >= 0)[:, None]), "denoised", "net")

    network = Called(net, labelled if dim else plain, casts=True, classes=dim or None)
    null = {"label": -1} if dim else {}
    low, high = _range(net)
    chosen = _without_scale(EDMSDE(max(low, 0.002), min(high, 80.0)) if sde is None else sde)
    return Preconditioned(network, chosen, "x0", "sigma", null=null)


def _refuse_files(argument: str, net: object) -> None:
    """Raise a TypeError unless this is callable; of a file or its content, with the reason."""
    if isinstance(net, str | os.PathLike):
        remedy = "load it with the code that wrote it, where you trust it, and pass the network"
        got = f"the path {os.fspath(net)!r}: a pickle can run any code when it is read"
    elif isinstance(net, Mapping):
        got, remedy = f"a table of {', '.join(map(str, net))}", "pass the network in it, as 'ema'"
    elif not callable(net):
        got, remedy = show(net), "pass the network itself"
    else:
        return
    raise TypeError(str(refuse(argument, "a network or a function", got, remedy)))


def _range(net: object) -> tuple[float, float]:
    """The noise levels that a denoiser says it is for; 0 and infinity if it does not."""
    return float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", math.inf))


def _without_scale(sde: object) -> AffineSDE:
    """The SDE, which must have alpha = 1."""
    found = as_affine("sde", sde, "a denoiser of sigma is for an SDE with alpha = 1")
    scale = float(found.alpha(found.T))
    if scale != 1.0:
        remedy = "take EDMSDE or VESDE: the solvers in the log-SNR do not depend on the scale"
        raise fail("sde", "an SDE with alpha = 1", f"alpha({found.T:g}) = {scale:g}", remedy)
    return found
