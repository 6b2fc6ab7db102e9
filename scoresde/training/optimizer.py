"""The optimiser: AdamW, or Muon for the matrices of the hidden layers and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import fail, refuse
from scoresde.options import Optim, known
from scoresde.training.muon import Muon

__all__ = ["Optimizer", "hidden"]


@final
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or Muon for hidden matrices and AdamW for the rest.

    The steps of both have the same usual root mean square, so they take the same learning rate
    (`scoresde.training.muon`). See `hidden` for the matrices.

    Args:
        model: the model on its device, whose parameters that require a gradient are trained.
        optim: `optimizer`, `lr` and `weight_decay`, which are not None here.

    Attributes:
        parameters: the trained parameters, by name.
        adamw: the `torch.optim.AdamW`.
        muon: the `scoresde.training.muon.Muon`, or None.

    Raises:
        ValueError: the model has no trainable parameters, or with Muon no hidden matrices.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> made = Optimizer(net, Optim(optimizer="muon", lr=0.01, weight_decay=0.0))
        >>> len(made.adamw.param_groups[0]["params"]), len(made.muon.param_groups[0]["params"])
        (5, 1)
    """

    def __init__(self, model: nn.Module, optim: Optim) -> None:
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise fail("model", "parameters to train", "none", "wrap a network, not a function")
        chosen = set(hidden(model)) if optim.optimizer == "muon" else set()
        self._matrices = {n: p for n, p in self.parameters.items() if n in chosen}
        rest = {n: p for n, p in self.parameters.items() if n not in chosen}
        if optim.optimizer == "muon" and not self._matrices:
            remedy = "pass optimizer='adamw', or train a network with more layers"
            raise fail("optimizer", "hidden matrices for Muon in the model", "none", remedy)
        self.fused = all(
            p.device.type in ("cpu", "cuda") and p.is_floating_point()
            for p in self.parameters.values()
        )
        self.adamw = torch.optim.AdamW(
            [{"params": list(rest.values())}],
            lr=known(optim.lr),
            weight_decay=known(optim.weight_decay),
            fused=self.fused or None,
        )
        self.muon = None
        if self._matrices:
            self.muon = Muon(
                self._matrices.values(),
                lr=known(optim.lr),
                weight_decay=known(optim.weight_decay),
            )
        self._places: list[tuple[torch.optim.Optimizer, str, Tensor]] = [
            *((self.adamw, n, p) for n, p in rest.items()),
            *((self.muon, n, p) for n, p in self._matrices.items() if self.muon is not None),
        ]

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        found: float = self.adamw.param_groups[0]["lr"]
        return found

    @lr.setter
    def lr(self, value: float) -> None:
        for made in (self.adamw, self.muon):
            for group in () if made is None else made.param_groups:
                group["lr"] = value

    def step(self, norm: Tensor, clip: float = 0.0) -> None:
        """One step; a `clip` above 0 scales gradients of a larger global norm, (), down to it."""
        if clip:
            scale = ((norm.float() + 1e-6) / clip).clamp_min(1.0)
            if self.fused:  # its kernel scales the gradients itself, which saves a pass
                self.adamw.grad_scale = scale  # type: ignore[attr-defined]
                scaled = list(self._matrices.values())
            else:
                scaled = list(self.parameters.values())
            gradients = [p.grad for p in scaled if p.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, 1.0 / scale)
        self.adamw.step()
        if self.muon is not None:
            self.muon.step()

    def zero_grad(self) -> None:
        """Delete the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The state, by `<name of the parameter>.<name of the quantity>`."""
        return {
            f"{name}.{key}": value if isinstance(value, Tensor) else torch.as_tensor(value)
            for made, name, parameter in self._places
            for key, value in made.state.get(parameter, {}).items()
        }

    def restore(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Continue with a state of `tensors`, which is that of the file `where`.

        Raises:
            ValueError: the state is one of other parameters or of another optimiser.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for full, value in tensors.items():
            name, _, key = full.rpartition(".")
            found.setdefault(name, {})[key] = value
        for made in (self.adamw, self.muon):
            if made is None:
                continue
            own = [(name, p) for other, name, p in self._places if other is made]
            state = {
                i: _fitting(name, found.pop(name), p, made, where)
                for i, (name, p) in enumerate(own)
                if name in found
            }
            made.load_state_dict({**made.state_dict(), "state": state})
        if found:
            name = next(iter(found))
            remedy = "train the same parameters as in the run that is resumed"
            raise fail(f"optimizer.{name} in {where}", "no such state", name, remedy)


def _fitting(
    name: str, state: dict[str, Tensor], parameter: Tensor, made: object, where: str
) -> dict[str, Tensor]:
    """The state of a parameter; raise if it is one of another shape or optimiser."""
    muon = isinstance(made, Muon)
    if muon != ("momentum_buffer" in state):
        own, other = ("muon", "adamw") if muon else ("adamw", "muon")
        remedy = f"resume with optimizer={other!r}, or start another run"
        raise refuse(f"optimizer.{name} in {where}", f"a state of {own}", f"of {other}", remedy)
    for key, value in state.items():
        # A fused kernel would read beyond the end of a state of another shape.
        shape = parameter.flatten(1).shape if muon else parameter.shape
        if value.shape not in (shape, ()):
            remedy = "train the same parameters as in the run that is resumed"
            expected = f"a tensor of shape {tuple(shape)}"
            raise fail(f"optimizer.{name}.{key} in {where}", expected, value, remedy)
    return state


def hidden(model: nn.Module) -> list[str]:
    """Names of the parameters that are matrices of hidden layers, which Muon trains.

    These are the weights of linear maps and convolutions, without the first and the last layers
    of a network. A network declares those in `ends`, a tuple of names of modules in it; an
    attribute of this name that is anything else is ignored. In a model without any declaration
    they are the first and the last matrix in the order of the parameters.
    Vectors, embeddings (`nn.Embedding`) and other parameters, such as positions, are not matrices
    of layers.

    Example:
        >>> from scoresde.nets import MLP
        >>> hidden(MLP(2, width=8, depth=1))[:3]
        ['condition.time.first.weight', 'condition.time.second.weight', 'blocks.0.first.weight']
    """
    ends: set[int] = set()
    declared = False
    matrices: dict[str, Tensor] = {}
    for place, module in model.named_modules():
        names = getattr(module, "ends", None)  # of any class, and of any meaning
        if isinstance(names, tuple) and names:
            inside = dict(module.named_modules())
            if all(isinstance(end, str) and end in inside for end in names):
                declared = True
                ends |= {id(p) for end in names for p in inside[end].parameters()}
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        for name, parameter in module.named_parameters(prefix=place, recurse=False):
            kept = name.rpartition(".")[2] in ("weight", "in_proj_weight")
            if kept and parameter.ndim >= 2 and min(parameter.flatten(1).shape) > 1:
                matrices[name] = parameter
    if not declared:
        return list(matrices)[1:-1]
    return [name for name, parameter in matrices.items() if id(parameter) not in ends]
