"""Networks and functions whose prediction and time are declared, and velocities of flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from scoresde._check import wrong_type
from scoresde._tensor import Scalar
from scoresde.adapters.network import Called, tensor_of
from scoresde.model import Preconditioned
from scoresde.node import Node
from scoresde.sde import SDE, FlowSDE

__all__ = ["from_flow_matching", "from_function", "from_torchcfm"]


def from_function(
    fn: Callable[..., Any],  # returns a tensor
    sde: SDE,
    *,
    predicts: str,
    time: str | Callable[[Node], Scalar] = "t",
    time_first: bool = False,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """Any network or function, with what it predicts and how it is told the time, as a model.

    Args:
        fn: fn(x, time, **cond) -> (B, *D), or fn(time, x, **cond); a module, or a function. Its
            further arguments are the conditions.
        sde: the SDE of its training; affine, unless it predicts the score.
        predicts: "eps", "x0", "v", "score", "flow" or "edm"; see `Preconditioned`.
        time: the time that it receives, (B,): "t", "log_snr", "log_sigma/4", "sigma", "999t",
            "1-t", a `ChainTime`, or a function of the node.
        time_first: whether time comes first.
        null: the values that mean "no condition", by name.

    Raises:
        TypeError: fn is not callable, or returns no tensor.
        ValueError: see `Preconditioned`.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> model = from_function(lambda x, t: 0.1 * x, VPSDE(), predicts="eps", time="999t")
        >>> model(0.5, torch.ones(1, 2)).eps.round(decimals=6)
        tensor([[0.1000, 0.1000]])
    """
    network = _ordered("fn", fn, time_first, 1.0)
    return Preconditioned(network, sde, predicts, time, null=null or {})


def from_flow_matching(
    velocity: Callable[..., Any],  # returns a tensor
    *,
    T: float = 1.0,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """A velocity of flow_matching, u(x, t), on the straight path from noise to data, as a model.

    Its time s runs from noise at 0 to data at 1, x = s x_1 + (1 - s) x_0 with x_1 the data, so
    t = 1 - s here, and the velocity is x_1 - x_0, the opposite of `flow` = eps - x_0 of
    `Prediction`. The path is that of `CondOTProbPath`, the noise standard normal and independent
    of the data. Where noise and data were coupled (optimal transport of a batch) its flow is right
    still, but it does not determine a score, which SDE samplers, guidance and posteriors need.

    Args:
        velocity: called as velocity(x, t, **extras), such as a `ModelWrapper`.
        T: where sampling starts, at most 1, pure noise.
        null: the values that mean "no condition", by name.

    Raises:
        TypeError: the velocity is not callable, or returns no tensor.

    Example:
        >>> import torch
        >>> model = from_flow_matching(lambda x, t: -x)
        >>> model(0.25, torch.ones(1, 2)).flow
        tensor([[1., 1.]])
    """
    network = _ordered("velocity", velocity, False, -1.0)
    return Preconditioned(network, FlowSDE(T), "flow", "1-t", null=null or {})


def from_torchcfm(
    velocity: Callable[..., Any],  # returns a tensor
    *,
    T: float = 1.0,
    null: Mapping[str, object] | None = None,
) -> Preconditioned:
    """A velocity of torchcfm, v(t, x), trained with `ConditionalFlowMatcher(sigma=0.0)`.

    See `from_flow_matching`; the time comes first. A path with sigma > 0 has other marginals than
    `FlowSDE`.

    Args:
        velocity: called as velocity(t, x, **cond), such as a `UNetModelWrapper`.
        T, null: see `from_flow_matching`.

    Example:
        >>> import torch
        >>> model = from_torchcfm(lambda t, x: -x)
        >>> model(0.25, torch.ones(1, 2)).flow
        tensor([[1., 1.]])
    """
    network = _ordered("velocity", velocity, True, -1.0)
    return Preconditioned(network, FlowSDE(T), "flow", "1-t", null=null or {})


def _ordered(
    argument: str,
    fn: Callable[..., Any],  # returns a tensor
    time_first: bool,
    sign: float,
) -> Called:
    """A function of state and time in the order of ours, its output with a sign."""
    if not callable(fn):
        raise wrong_type(argument, "a network or a function", fn, "pass a callable")

    def call(own: Callable[..., Any], x: Tensor, time: Tensor, **cond: Tensor) -> Tensor:
        out = own(time, x, **cond) if time_first else own(x, time, **cond)
        value = tensor_of(out, "sample", argument)
        return value if sign == 1.0 else sign * value

    return Called(fn, call)
