"""The function of tensors that is exported, and the inputs for its verification."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import choice, instance, positive_int, same_shape, wrong_type
from scoresde._tensor import expand, seeded, wide
from scoresde.model import Preconditioned, ScoreModel
from scoresde.prediction import COORDINATES
from scoresde.schedule.grid import make_grid
from scoresde.sde import AffineSDE

__all__ = ["Network", "Trial", "null_label", "prepare"]


@final
class Network(nn.Module):
    """The model as a function of tensors alone, its schedule evaluated in float64."""

    def __init__(self, model: ScoreModel, output: str, classes: int) -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        # As in sde.at, without the check of the times, which cannot be traced.
        node = self.model.sde._node(expand(wide(t), x)).fitted(x)
        cond = None if label is None else {"label": label}
        return self.model.predict(node, x, cond).read(self.output)


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs, the output of the model, and the size of the terms of this output.

    For an output A x + B value with the network's output `value`, `size` (B,) is the larger of
    max |A x| and max |B value|, the scale of rounding errors.
    """

    inputs: tuple[Tensor, ...]
    wanted: Tensor
    size: Tensor

    @classmethod
    def of(cls, network: Network, inputs: tuple[Tensor, ...]) -> Trial:
        x, t, *label = inputs
        with torch.no_grad():
            out = network.model(t, x, {"label": label[0]} if label else None)
            pairs = zip(out.coefficients(network.output), (out.x, out.value), strict=True)
            terms = [(c * m).abs().flatten(1).amax(1) for c, m in pairs]
            return cls(inputs, out.read(network.output), torch.stack(terms).amax(0))

    def deviation(self, got: Tensor) -> float:
        """The largest difference between `got` and the output, relative to `size`.

        Raises:
            ValueError: the shapes differ.
        """
        same_shape("model", got, self.wanted, "the file was removed: keep to PyTorch")
        gap = (got - self.wanted).abs().flatten(1).amax(1)
        # The size is 0 for an output of 0, which must be matched exactly.
        return float(torch.where(gap == 0, gap, gap / self.size).amax())


def prepare(
    model: ScoreModel, shape: Sequence[int], output: str | None, classes: int | None
) -> tuple[Network, tuple[Tensor, ...], list[Trial]]:
    """The function to trace, example inputs, and trials that a file must reproduce."""
    instance("model", model, ScoreModel, "wrap a raw network in Preconditioned(net, sde)")
    if isinstance(shape, int) or not isinstance(shape, Sequence) or len(shape) == 0:
        raise wrong_type("shape", "that of one sample, (*D)", shape, "pass e.g. (1, 28, 28)")
    sizes = tuple(
        positive_int("shape", n, "pass e.g. (1, 28, 28), without a batch") for n in shape
    )
    affine = isinstance(model.sde, AffineSDE)
    if output is None:
        output = "x0" if affine else "score"
    choice("output", output, COORDINATES if affine else ("score",))
    if classes is None:
        classes = _classes(model)
    elif classes != 0:
        positive_int("classes", classes, "pass the number of classes, or 0 for none")
    network = Network(_single(copy.deepcopy(model)).cpu().eval(), output, classes)
    times = make_grid("log_snr" if affine else "uniform", model.sde, 9).times
    generator = seeded(0)
    rows = [times[:1], times[1:3], times[3:]]
    trials = [Trial.of(network, _inputs(network, sizes, at, generator)) for at in rows]
    # The batch size of the example must differ from every size in the network.
    return network, _inputs(network, sizes, [times[4]] * 11, generator), trials


def _single(model: ScoreModel) -> ScoreModel:
    """The model with weights in float32; an oracle has none and is left as it is."""
    same = all(weight.dtype == torch.float32 for weight in model.parameters())
    return model if same else model.float()


def _classes(model: ScoreModel) -> int:
    net = model.net if isinstance(model, Preconditioned) else None
    return int(getattr(net, "config", {}).get("classes", 0))


def null_label(model: ScoreModel) -> int | None:
    """The label that means "no label", if there is one."""
    null = model.null.get("label") if isinstance(model, Preconditioned) else None
    return null if isinstance(null, int) else None


def _inputs(
    network: Network, shape: tuple[int, ...], times: Sequence[float], draw: torch.Generator
) -> tuple[Tensor, ...]:
    """x with the size of states at t, t and, for a model with classes, labels."""
    sde, null = network.model.sde, null_label(network.model)
    t = torch.tensor(times, dtype=torch.float64)
    x = torch.randn(len(times), *shape, generator=draw, device="cpu")
    if isinstance(sde, AffineSDE):
        node = sde.at(t, like=x)
        x = x * (node.alpha**2 + node.sigma**2) ** 0.5
    if not network.classes:
        return x, t
    labels = torch.tensor([*([] if null is None else [null]), *range(network.classes)])
    return x, t, labels[torch.arange(len(times)) % len(labels)]
