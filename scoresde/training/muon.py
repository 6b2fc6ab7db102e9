"""Muon, the optimiser of hidden matrices, in the precision in which the processor is fast."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import final

import torch
from torch import Tensor, nn

from scoresde.training.processes import computes_bf16

__all__ = ["Muon", "orthogonalised"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b and c of a step s -> a s + b s^3 + c s^5: steep at 0, and about 1 for most values."""

STEPS = 5


@final
class Muon(torch.optim.Optimizer):
    """Steps of momentum, each made to a matrix whose singular values are all about 1.

    The momentum M = U S V^T of a parameter (out, ...), taken as the matrix (out, rest), becomes
    about U V^T (Jordan et al. 2024, kellerjordan.github.io/posts/muon), and the step is that
    times lr 0.2 sqrt(max(rows, columns)), the usual root mean square of a step of AdamW (Liu et
    al. 2025, arXiv 2502.16982, section 2.2). Momentum is Nesterov's, and weight decay decoupled.

    `torch.optim.Muon` takes the same steps on matrices, always in bfloat16. Most CPUs emulate
    that: there it took 12 to 30 times as long as this one, and most of the time of a training.

    Args:
        parameters: of two dimensions or more, on their device.
        lr: the learning rate.
        weight_decay: the weight decay.
        momentum: the share of the last momentum that is kept.

    The state of a parameter is its `momentum_buffer`, (out, rest).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        """One step by the gradients that the parameters have."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                # The columns are in the order of the indices, whatever the layout in memory.
                gradient = parameter.grad.flatten(1)
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                update = orthogonalised(gradient.lerp(mean, momentum))
                scale = 0.2 * math.sqrt(max(gradient.shape))
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(update.view(parameter.shape), alpha=-lr * scale)


def orthogonalised(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About U V^T for a matrix U S V^T, (rows, columns), by five Newton-Schulz steps.

    The singular values s, divided by the root of the sum of their squares, become p(s), p five
    times over the polynomial of `COEFFICIENTS`: between 0.68 and 1.21 if s is above 0.002.

    Args:
        matrix: (rows, columns).
        dtype: of the computation; bfloat16 where the device multiplies in it, otherwise float32.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x.to(dtype or _precision(x.device))
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@lru_cache
def _precision(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if computes_bf16(device) else torch.float32
