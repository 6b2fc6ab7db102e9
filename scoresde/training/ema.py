"""The exponential moving average of a model's parameters."""

from __future__ import annotations

import copy
from typing import TypeVar, final

import numpy as np
import torch
from torch import Tensor, nn

from scoresde._check import check_decay, check_width, fail, instance
from scoresde._html import Shown
from scoresde.model import ScoreModel

__all__ = ["EMA", "Held", "exponent", "replica"]

Module = TypeVar("Module", bound=nn.Module)


@final
class EMA(Shown):
    """Averages parameters: theta_bar <- d theta_bar + (1 - d) theta after every optimiser step.

    With a decay, d = min(decay, (1 + n)/(10 + n)) after n updates: during the warm-up early
    iterates are forgotten quickly. Ho et al. 2020 (arXiv 2006.11239), appendix B (decay 0.9999);
    the warm-up is TensorFlow's `num_updates`.

    With a width, d = (1 - 1/(n + 1))^(gamma + 1): the weights of all iterates are in proportion to
    the power gamma of their number, so the length of the average is a fixed share of the run
    however long it is (`exponent` gives gamma; a width of 0.09 is the warm-up of the other kind).
    Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3.1.

    The first update copies. Buffers are copied and not averaged, since means of frequency tables
    or counts are meaningless.

    Args:
        model: the model to train; it is copied, except for its SDE.
        decay: the final d, in [0, 1). By default 0.999, if there is no width.
        width: the standard deviation of the profile as a share of the run, in (0, 0.2886).

    Attributes:
        module: the averaged model.
        updates: n, the number of updates.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `decay` or `width` is out of range, or both are given.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> ema = EMA(net, decay=0.99)
        >>> for value in (1.0, 12.0):
        ...     _ = nn.init.constant_(net.weight, value)
        ...     ema.update(net)
        >>> ema.module.weight.item()  # 2/11 of 1 and 9/11 of 12
        10.0
    """

    def __init__(
        self, model: nn.Module, decay: float | None = None, *, width: float | None = None
    ) -> None:
        instance("model", model, nn.Module, "pass the model that is trained")
        self.decay = check_decay("decay", 0.999 if decay is None else decay)
        self.width = width
        if width is not None:
            if decay is not None:
                raise fail("width", "None beside decay", width, "pass one of them")
            self.gamma = exponent(check_width("width", width))
        self.updates = 0
        self.module = replica(model)
        self._average, self._current = Held(self.module), Held(model)

    @property
    def next_decay(self) -> float:
        """The d of the next update."""
        n = self.updates
        if self.width is not None:
            return float((1.0 - 1.0 / (n + 1)) ** (self.gamma + 1))
        return 0.0 if n == 0 else min(self.decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the parameters of `model` after an optimiser step."""
        if model is not self._current.module:
            self._current = Held(model)
        average, current = self._average, self._current
        if self.updates == 0:
            torch._foreach_copy_(average.parameters, current.parameters)
        else:
            weight = 1.0 - self.next_decay
            torch._foreach_lerp_(average.parameters, current.parameters, weight)
        for buffer, source in zip(average.buffers(), current.buffers(), strict=True):
            buffer.copy_(source)
        self.updates += 1

    def restore(self, updates: int) -> None:
        """Continue after `updates` updates; the weights of `module` must have been loaded."""
        self.updates = updates


def exponent(width: float) -> float:
    """gamma of a power-function profile of this width, its standard deviation as a share.

    It is the positive root of (gamma + 2)^2 (gamma + 3) width^2 = gamma + 1.
    """
    t = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - t, 12.0 - t])
    return float(roots.real.max())


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
