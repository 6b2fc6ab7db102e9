"""Networks of score_sde (Song et al. 2021), with their SDEs and time labels."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from scoresde._check import choice, fail, instance, path_of, positive_int, refuse, wrong_type
from scoresde._tensor import Scalar, fill
from scoresde.adapters.network import Called, tensor_of
from scoresde.ddpm import DDPM, ChainTime
from scoresde.model import Preconditioned, bare
from scoresde.node import Node
from scoresde.sde import VESDE, VPSDE, SubVPSDE

__all__ = ["LevelNumber", "from_score_sde", "load_score_sde"]


@final
@dataclass(frozen=True)
class LevelNumber:
    """The label of a discrete VE network: the noise levels counted from the largest, 0 ... N - 1.

    Args:
        levels: N, the number of noise levels, at t = k/(N - 1).
    """

    levels: int

    def __call__(self, node: Node) -> Scalar:
        """The number of the nearest level: round((1 - t)(N - 1))."""
        number: Scalar = (1.0 - node.t) * (self.levels - 1)
        return torch.round(number) if isinstance(number, Tensor) else float(round(number))


def from_score_sde(
    net: Callable[..., Any],  # returns a tensor
    sde: Any,  # of score_sde, or of scoresde
    *,
    continuous: bool = True,
    levels: int | None = None,
) -> Preconditioned:
    """A network of score_sde, called as net(x, labels), as a score model.

    What its `get_score_fn` does, by SDE and by `config.training.continuous`:

    | SDE | continuous | label | score |
    | --- | --- | --- | --- |
    | VP, sub-VP | yes | 999 t | -net / sigma(t) |
    | VP | no | i - 1 at step i of the chain | -net / sqrt(1 - abar_i) |
    | VE | yes | sigma(t) | net |
    | VE | no | the number of the level, from the largest | net |

    A discrete VP network is a model of the `ChainSDE` of beta_i from beta_min/N to beta_max/N.

    Args:
        net: the network, with its averaged weights; see `load_score_sde`.
        sde: `VPSDE`, `subVPSDE` or `VESDE` of score_sde, or `VPSDE`, `SubVPSDE` or `VESDE` of
            scoresde.
        continuous: whether the network was trained on continuous times.
        levels: N of a discrete network; by default that of their SDE, else 1000.

    Raises:
        TypeError: the network is not callable, or the SDE is none of these.
        ValueError: a discrete network of the sub-VP SDE, which score_sde does not have.

    Example:
        >>> from scoresde import VPSDE
        >>> model = from_score_sde(lambda x, labels: 0.1 * x, VPSDE())
        >>> round(model(0.5, torch.ones(1, 2)).eps[0, 0].item(), 6)
        0.1
    """
    if not callable(net):
        raise wrong_type("net", "a network of score_sde", net, "pass the network itself")
    kind, options = _read(sde)
    n = positive_int("levels", levels or getattr(sde, "N", 1000), "the number of noise levels")
    network = Called(net, lambda own, x, labels: tensor_of(own(x, labels), "sample", "net"))
    if kind == "ve":
        own = VESDE(**options)
        time = "sigma" if continuous else LevelNumber(n)
        return Preconditioned(network, own, "score", time, null={})
    if continuous:
        affine = VPSDE(**options) if kind == "vp" else SubVPSDE(**options)
        return Preconditioned(network, affine, "eps", "999t", null={})
    if kind == "sub_vp":
        remedy = "its networks are continuous"
        raise fail("continuous", "True for the sub-VP SDE", continuous, remedy)
    first, last = options["beta_min"] / n, options["beta_max"] / n
    chain = DDPM.linear(n, first, last)
    return Preconditioned(network, chain.to_sde(), "eps", ChainTime("i-1", n), null={})


KINDS = {"VPSDE": "vp", "subVPSDE": "sub_vp", "SubVPSDE": "sub_vp", "VESDE": "ve"}
"""Class of an SDE, of score_sde or scoresde -> its kind."""


def _read(sde: object) -> tuple[str, Mapping[str, float]]:
    """The kind of an SDE and its numbers, by the names of both libraries."""
    remedy = "pass e.g. VPSDE(beta_min=0.1, beta_max=20)"
    kind = KINDS[choice("sde", type(sde).__name__, KINDS)]
    names = {"beta_min": "beta_0", "beta_max": "beta_1"}
    if kind == "ve":
        names = {"sigma_min": "sigma_min", "sigma_max": "sigma_max"}
    try:
        found = {
            own: float(getattr(sde, own, None) or getattr(sde, n)) for own, n in names.items()
        }
    except AttributeError:
        expected = f"an SDE with {' and '.join(names.values())}"
        raise wrong_type("sde", expected, sde, remedy) from None
    return kind, found


def load_score_sde(
    net: nn.Module, path: str | os.PathLike[str], *, averaged: bool = True
) -> nn.Module:
    """Fill a network with the weights of a checkpoint of score_sde, and return it.

    A checkpoint_8.pth holds the raw weights, averages of the trained parameters, without names,
    and the state of the optimiser. It is read with `weights_only`, so that no code in it runs.
    Every name and shape must fit: `restore_checkpoint` of score_sde only warns if the file is
    missing, and loads with strict=False, both of which leave untrained weights.

    Args:
        net: the network, built with the config of the training.
        path: the file.
        averaged: take the averages in place of the raw weights.

    Returns:
        The network, in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of score_sde, holds code, or does not fit the network.

    Example:
        >>> load_score_sde(nn.Linear(2, 2), "checkpoint_8.pth")
        Traceback (most recent call last):
        FileNotFoundError: path: expected a checkpoint of score_sde, got 'checkpoint_8.pth', ...
    """
    instance("net", net, nn.Module, "build it with the config of the training")
    own, file = bare(net), path_of("path", path)
    if not file.is_file():
        got = f"got {str(path)!r}, which is {'a folder' if file.is_dir() else 'not there'}"
        raise FileNotFoundError(f"path: expected a checkpoint of score_sde, {got}; check the name")
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        remedy = "load it where you trust it, and save model and ema as a dictionary of tensors"
        reason = str(error).partition("\n")[0]
        raise refuse("path", "a file of tensors", f"{file} ({reason})", remedy) from error
    if not isinstance(state, Mapping) or not {"model", "ema"} <= set(state):
        keys = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        remedy = "pass a checkpoint_N.pth of score_sde"
        raise refuse("path", "a table of model, ema and step", keys or "an empty one", remedy)
    fill(own, {k.removeprefix("module."): v for k, v in state["model"].items()}, str(file))
    if averaged:
        _average(own, list(state["ema"]["shadow_params"]), str(file))
    return net.eval()


def _average(net: nn.Module, shadow: list[Tensor], where: str) -> None:
    """Replace the trained parameters by their averages, which are in the same order."""
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    if len(shadow) != len(trained):
        remedy = "freeze what was frozen in the training, or pass averaged=False"
        expected = f"{len(trained)} averages, one a trained parameter"
        raise fail(where, expected, len(shadow), remedy)
    with torch.no_grad():
        for (name, parameter), value in zip(trained, shadow, strict=True):
            if parameter.shape != value.shape:
                remedy = "build the network as it was in the training"
                expected = f"an average of shape {tuple(parameter.shape)} for {name}"
                raise fail(where, expected, value, remedy)
            parameter.copy_(value)
