"""The function of tensors that is exported, and the inputs on which it is tried."""

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
        # As sde.at, whose look at the range of the times no trace can follow.
        node = self.model.sde._node(expand(wide(t), x)).fitted(x)
        cond = None if label is None else {"label": label}
        return self.model.predict(node, x, cond).read(self.output)


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """Inputs, what the model says there, and the size of the terms that this is formed of.

    With the output A x + B value of a model whose network says `value`, `size` (B,) is the larger
    of max |A x| and max |B value|: rounding is to be measured by it.
    """

    inputs: tuple[Tensor, ...]
    wanted: Tensor
    size: Tensor

    @classmethod
    def of(cls, network: Network, inputs: tuple[Tensor, ...]) -> Trial:
        x, t, *label = inputs
        with torch.no_grad():
            said = network.model(t, x, {"label": label[0]} if label else None)
            pairs = zip(said.coefficients(network.output), (said.x, said.value), strict=True)
            terms = [(c * m).abs().flatten(1).amax(1) for c, m in pairs]
            return cls(inputs, said.read(network.output), torch.stack(terms).amax(0))

    def deviation(self, got: Tensor) -> float:
        """The largest difference of the other outputs, relative to `size`.

        Raises:
            ValueError: they have another shape.
        """
        same_shape("model", got, self.wanted, "the file was removed: keep to PyTorch")
        gap = (got - self.wanted).abs().flatten(1).amax(1)
        # A network that says 0 everywhere is formed of no term: then only 0 will do.
        return float(torch.where(gap == 0, gap, gap / self.size).amax())


def prepare(
    model: ScoreModel, shape: Sequence[int], output: str | None, classes: int | None
) -> tuple[Network, tuple[Tensor, ...], list[Trial]]:
    """The function to be traced, inputs to trace it with, and what a file must say elsewhere."""
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
    # Traced with a batch of a size that no network has for its own.
    return network, _inputs(network, sizes, [times[4]] * 11, generator), trials


def _single(model: ScoreModel) -> ScoreModel:
    """The model with weights in float32; an oracle has none, and converts its tables itself."""
    same = all(weight.dtype == torch.float32 for weight in model.parameters())
    return model if same else model.float()


def _classes(model: ScoreModel) -> int:
    net = model.net if isinstance(model, Preconditioned) else None
    return int(getattr(net, "config", {}).get("classes", 0))


def null_label(model: ScoreModel) -> int | None:
    """The label that stands for none, if there is one."""
    null = model.null.get("label") if isinstance(model, Preconditioned) else None
    return null if isinstance(null, int) else None


def _inputs(
    network: Network, shape: tuple[int, ...], times: Sequence[float], draw: torch.Generator
) -> tuple[Tensor, ...]:
    """x of the size that states have at t, t and, with classes, labels."""
    sde, null = network.model.sde, null_label(network.model)
    t = torch.tensor(times, dtype=torch.float64)
    x = torch.randn(len(times), *shape, generator=draw, device="cpu")
    if isinstance(sde, AffineSDE):
        node = sde.at(t, like=x)
        x = x * (node.alpha**2 + node.sigma**2) ** 0.5
    if not network.classes:
        return x, t
    known = torch.tensor([*([] if null is None else [null]), *range(network.classes)])
    return x, t, known[torch.arange(len(times)) % len(known)]
