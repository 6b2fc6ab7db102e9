"""Networks of other libraries, called in the order of ours: net(x, time, **cond)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from scoresde._check import fail, wrong_type

__all__ = ["Called", "mean_of", "tensor_of"]


@final
class Called(nn.Module):
    """A function call(x, time, **cond) as a network; the arguments after time are conditions.

    Args:
        call: returns (B, *D) for a state x: (B, *D) and a time (B,).
        module: the module that it calls, whose weights become those of this network; None for a
            function without weights.

    Example:
        >>> import torch
        >>> net = Called(lambda x, time: x * time[:, None])
        >>> net(torch.ones(2, 1), torch.tensor([2.0, 3.0])).flatten().tolist()
        [2.0, 3.0]
    """

    def __init__(self, call: Callable[..., Tensor], module: object = None) -> None:
        super().__init__()
        if not callable(call):
            raise wrong_type("net", "a network or a function", call, "pass a callable")
        self.module = module if isinstance(module, nn.Module) else None
        self._function = call

    @property
    def forward(self) -> Callable[..., Tensor]:  # type: ignore[override]  # its own signature
        """The function itself, so that its arguments are the conditions of the network."""
        return self._function


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
