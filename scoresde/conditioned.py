"""A model with some of its conditions fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from scoresde._check import fail, instance
from scoresde.cond import Cond
from scoresde.model import ScoreModel
from scoresde.node import Node
from scoresde.prediction import Prediction

__all__ = ["Conditioned"]


@final
class Conditioned(ScoreModel):
    """A model of p(x | c) for fixed values c of some of its conditions, the same for all samples.

    So whatever takes a model, such as `sample_to`, takes it given c, and further conditions are
    passed as before. The calibrations of the model hold for it as well.

    Args:
        model: the model.
        cond: name -> the condition of one sample, (*C), without a batch axis. NaN in a vector
            means that this entry is not given.

    Raises:
        TypeError: a value is not a tensor.
        ValueError: there are no conditions, or the model does not take one of them.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, FunctionScore, ReverseSampler
        >>> sde = VPSDE()
        >>> model = FunctionScore(sde, lambda t, x, mean: mean * sde.alpha(float(t)) - x)
        >>> given = Conditioned(model, {"mean": torch.tensor([5.0, -5.0])})
        >>> ReverseSampler(sde, given, steps=20).sample((1000, 2), seed=0).mean(0).round()
        tensor([ 5., -5.])
    """

    def __init__(self, model: ScoreModel, cond: Mapping[str, Tensor]) -> None:
        super().__init__()
        instance("model", model, ScoreModel, "wrap a function score(t, x) in FunctionScore")
        instance("cond", cond, Mapping, 'pass name -> tensor, e.g. {"y": torch.zeros(3)}')
        if not cond:
            raise fail("cond", "a condition or more", {}, "use the model itself")
        self.sde = model.sde
        self.model = model
        self.data = model.data
        self.names = tuple(cond)
        for name, value in cond.items():
            instance(f"cond[{name!r}]", value, Tensor, "convert it with torch.as_tensor")
            self.register_buffer(f"cond_{name}", value.detach().clone())
        model.admit(self._fixed(1))

    def _fixed(self, n: int) -> dict[str, Tensor]:
        """The fixed conditions for n samples."""
        values = {name: self.get_buffer(f"cond_{name}") for name in self.names}
        return {name: value.expand(n, *value.shape) for name, value in values.items()}

    def admit(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        twice = [name for name in cond if name in self.names]
        if twice:
            raise fail("cond", f"other conditions than {self.names}", twice, "they are fixed")
        n = len(next(iter(cond.values()))) if cond else 1
        whole = self.model.admit({**cond, **self._fixed(n)})
        return {name: value for name, value in whole.items() if name not in self.names}

    @property
    def calibrations(self) -> Mapping[str, Any]:  # Any: of a room above, as in the base class
        """The calibrations of the model inside, as they are now."""
        return self.model.calibrations

    @calibrations.setter
    def calibrations(self, value: Mapping[str, Any]) -> None:
        self.model.calibrations = value

    @property
    def calibrated(self) -> ScoreModel:
        return self.model.calibrated

    @property
    def data_scale(self) -> tuple[float, int] | None:
        return self.model.data_scale

    @property
    def nulls(self) -> Mapping[str, object]:
        """Those of the model inside, without the conditions that are fixed."""
        return {k: null for k, null in self.model.nulls.items() if k not in self.names}

    def calls(self, node: Node) -> int:
        return self.model.calls(node)

    def predict(self, node: Node, x: Tensor, cond: Cond = None) -> Prediction:
        return self.model.predict(node, x, {**(cond or {}), **self._fixed(len(x))})
