"""Constant tensors that follow the state: one copy per precision and device."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

__all__ = ["Constant"]


@final
class Constant:
    """A constant tensor that is cast and moved to where it is used, once for each place.

    An operator or a measurement is no module, so `model.to(device)` does not reach its tensors.

    Args:
        value: the tensor; floating-point ones are stored in float64 where their values were
            computed in it.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()
        self._moved: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def at(self, x: Tensor) -> Tensor:
        """The tensor on the device of x, and in the precision of x if it has one."""
        mine = self.value
        dtype = mine.dtype
        if mine.is_floating_point():
            dtype = x.dtype
        elif mine.is_complex():
            dtype = x.dtype.to_complex()
        if (mine.dtype, mine.device) == (dtype, x.device):
            return mine
        place = (dtype, x.device)
        if place not in self._moved:
            with torch.inference_mode(False):
                self._moved[place] = mine.to(x.device, dtype)
        return self._moved[place]
