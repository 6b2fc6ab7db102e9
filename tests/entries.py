"""Models, data, and the entries of the package that take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import VPSDE, Preconditioned, ReverseSampler, dsm_loss, elbo, encode, log_prob
from scoresde.nets import MLP
from scoresde.options import Tolerances

SDE = VPSDE()


def a_model(classes: int = 0, predicts: str = "v") -> Preconditioned:
    """A small network whose answers are not zero, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP(2, width=16, depth=1, classes=classes)
        nn.init.normal_(net.exit.weight, std=0.1)
    return Preconditioned(net, SDE, predicts).eval()


def some_data(n: int = 3) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


ENTRIES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "sample": lambda m, x: ReverseSampler(SDE, m, "ddim", steps=5).sample((3, 2), seed=0),
    "sample an SDE": lambda m, x: ReverseSampler(SDE, m, "shark", steps=5).sample((3, 2), seed=0),
    "sample adaptively": lambda m, x: ReverseSampler(SDE, m, "bosh3").sample((3, 2), seed=0),
    "sample from x_init": lambda m, x: ReverseSampler(SDE, m, "ddim", steps=5).sample(
        (3, 2), x_init=x
    ),
    "encode": lambda m, x: encode(SDE, m, x).z,
    "log_prob": lambda m, x: (
        log_prob(m, x, tolerances=Tolerances(0.1, 0.1), divergence="exact").nats
    ),
    "elbo": lambda m, x: elbo(m, x, decoder="gaussian", steps=8, samples=1).nats,
    "dsm_loss": lambda m, x: dsm_loss(m, x, generator=torch.Generator().manual_seed(0)).detach(),
}

"""What can be asked of a model and data, as a tensor."""


def parallel(net: nn.Module) -> nn.Module:
    return nn.DataParallel(net)


def compiled(net: nn.Module) -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(net, backend="aot_eager")  # type: ignore[no-any-return]


def wrapped(wrap: Callable[[nn.Module], nn.Module], **options: Any) -> Preconditioned:
    model = a_model(**options)
    return Preconditioned(wrap(model.net), SDE, model.predicts).eval()


def gaussian_energy(t: Tensor, x: Tensor) -> Tensor:
    return x.square().sum() / 2


def by_hand(t: Tensor, x: Tensor) -> Tensor:
    x = x.requires_grad_()
    return -torch.autograd.grad(gaussian_energy(t, x), x, create_graph=True)[0]
