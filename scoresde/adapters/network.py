"""Networks of other libraries, called in the order of ours: net(x, time, **cond)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, final

from torch import Tensor, nn

from scoresde._check import fail, wrong_type

__all__ = ["Called", "mean_of", "tensor_of"]


@final
class Called(nn.Module):
    """A network of another library in the order of ours: net(x, time, **cond).

    The conditions are the further arguments of `call`, or of the network itself if `call` takes
    any.

    Args:
        net: the network; if it is a module, its weights are those of this one, and copies of this
            one call their own.
        call: call(net, x, time, **cond) -> (B, *D) for a state x: (B, *D) and a time (B,); by
            default net(x, time, **cond).
        casts: whether the network converts x to its own precision, so that it is called in that
            of the state.
        classes: the number of classes, if it takes cond["label"] in 0 ... classes - 1.

    Raises:
        TypeError: the network is not callable.

    Example:
        >>> import torch
        >>> scaled = Called(lambda t, x: x * t[:, None], lambda net, x, time: net(time, x))
        >>> scaled(torch.ones(2, 1), torch.tensor([2.0, 3.0])).flatten().tolist()
        [2.0, 3.0]
    """

    def __init__(
        self,
        net: Callable[..., Any],
        call: Callable[..., Tensor] | None = None,
        *,
        casts: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(net):
            raise wrong_type("net", "a network or a function", net, "pass a callable")
        self.module = net if isinstance(net, nn.Module) else None
        self._function = None if isinstance(net, nn.Module) else net
        self._call = _plain if call is None else call
        self._signature = _signature(net, self._call)
        self.casts = casts
        self.config = {} if classes is None else {"classes": classes}

    @property
    def forward(self) -> Callable[..., Tensor]:  # type: ignore[override]  # with its conditions
        """The function of (x, time, **cond), whose signature names the conditions."""
        net: Any = self._function if self.module is None else self.module
        bound = partial(self._call, net)
        if self._signature is not None:
            bound.__signature__ = self._signature  # type: ignore[attr-defined]
        return bound


def _plain(net: Callable[..., Tensor], x: Tensor, time: Tensor, **cond: Tensor) -> Tensor:
    return net(x, time, **cond)


def _signature(net: object, call: Callable[..., Tensor]) -> inspect.Signature | None:
    """That of `call` without the network, or of the network if `call` takes any names."""
    own = inspect.signature(call)
    parameters = list(own.parameters.values())
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return own.replace(parameters=parameters[1:])
    target: Any = net.forward if isinstance(net, nn.Module) else net
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):  # of a builtin
        return None


def tensor_of(value: Any, attribute: str, argument: str) -> Tensor:  # whatever a network returns
    """The tensor that a network returned, itself or as an attribute of an output object.

    Raises:
        TypeError: there is none.
    """
    found = value if isinstance(value, Tensor) else getattr(value, attribute, None)
    if not isinstance(found, Tensor):
        remedy = "wrap it in a function that returns one"
        raise wrong_type(argument, f"a tensor or an output with .{attribute}", value, remedy)
    return found


def mean_of(value: Tensor, x: Tensor, argument: str) -> Tensor:
    """The first half of the channels of a network that also returns variances, (B, *D).

    A network with learned variances (Nichol and Dhariwal 2021, arXiv 2102.09672) returns twice
    the channels of the state. The second half is not part of the score, and is dropped.

    Raises:
        ValueError: the output has another number of channels.
    """
    channels = x.shape[1]
    if value.shape == x.shape:
        return value
    if value.shape[:1] + value.shape[2:] != x.shape[:1] + x.shape[2:] or (
        value.shape[1] != 2 * channels
    ):
        expected = f"an output of {channels} channels, or {2 * channels} with variances"
        raise fail(argument, expected, value, f"the state has the shape {tuple(x.shape)}")
    return value[:, :channels]
