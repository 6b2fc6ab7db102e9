"""The exponential moving average of a model's parameters."""

from __future__ import annotations

import copy
from typing import TypeVar, final

import torch
from torch import Tensor, nn

from scoresde._check import instance
from scoresde.model import ScoreModel
from scoresde.options import check_decay

__all__ = ["EMA", "Held", "replica"]

Module = TypeVar("Module", bound=nn.Module)


@final
class EMA:
    """Averages parameters: theta_bar <- d theta_bar + (1 - d) theta after every optimiser step.

    After n updates, d = min(decay, (1 + n)/(10 + n)): during the warm-up early iterates are
    forgotten quickly. The first update copies. Buffers are copied and not averaged, since means
    of frequency tables or counts are meaningless. Ho et al. 2020 (arXiv 2006.11239), appendix B
    (decay 0.9999); the warm-up is TensorFlow's `num_updates`.

    Args:
        model: the model to train; it is copied, except for its SDE.
        decay: the final d, in [0, 1).

    Attributes:
        module: the averaged model.
        updates: n, the number of updates.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `decay` is outside [0, 1).

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> ema = EMA(net, decay=0.99)
        >>> for value in (1.0, 12.0):
        ...     _ = nn.init.constant_(net.weight, value)
        ...     ema.update(net)
        >>> ema.module.weight.item()  # 2/11 of 1 and 9/11 of 12
        10.0
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        instance("model", model, nn.Module, "pass the model that is trained")
        self.decay = check_decay("decay", decay)
        self.updates = 0
        self.module = replica(model)
        self._average, self._current = Held(self.module), Held(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the parameters of `model` after an optimiser step."""
        if model is not self._current.module:
            self._current = Held(model)
        n, average, current = self.updates, self._average, self._current
        if n == 0:
            torch._foreach_copy_(average.parameters, current.parameters)
        else:
            weight = 1.0 - min(self.decay, (1 + n) / (10 + n))
            torch._foreach_lerp_(average.parameters, current.parameters, weight)
        for buffer, source in zip(average.buffers(), current.buffers(), strict=True):
            buffer.copy_(source)
        self.updates += 1

    def restore(self, updates: int) -> None:
        """Continue after `updates` updates; the weights of `module` must have been loaded."""
        self.updates = updates


@final
class Held:
    """The parameters of a module and the places of its buffers, collected once.

    Traversing all submodules, which torch's `AveragedModel` does four times a step, costs more
    than the average. Parameters remain the same objects, on which optimisers rely as well; a
    buffer may be reassigned, so its place is stored.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters: list[Tensor] = list(module.parameters())
        paths = [name.rpartition(".") for name, _ in module.named_buffers()]
        self._places = [(module.get_submodule(path), name) for path, _, name in paths]

    def buffers(self) -> list[Tensor]:
        """The current buffers of the module."""
        return [getattr(owner, name) for owner, name in self._places]


def replica(model: Module) -> Module:
    """A deep copy of a model that shares the SDE."""
    # FunctionSDE compares by identity and samplers compare SDEs, so it is not copied.
    memo: dict[int, object] = {
        id(part.sde): part.sde for part in model.modules() if isinstance(part, ScoreModel)
    }
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().clone()
    return copy.deepcopy(model, memo)
