"""The features of time and conditions that all networks use, and the base of the networks."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from scoresde._check import choice, fail, no_class, refuse, wrong_type
from scoresde.nets.conditions import Image, Label, Set, Spec, Vector
from scoresde.nets.embed import LabelEmbedding, TimeEmbedding

__all__ = ["ConditionalNet", "Conditioner", "Given"]

POSITIONS = 32  # features of the position of an element of an ordered set


@final
@dataclass(frozen=True, eq=False)
class Given:
    """Features of time and conditions, as the networks use them.

    Args:
        emb: (B, width), the embedding of time, labels, vectors and sets, after a SiLU.
        vectors: (B, F), all vectors and their masks; F may be 0.
        images: (B, C, *D), all images and their masks, or None.
        tokens: (B, N, width), the elements of all sets, or None.
        present: (B, N) bool, which of them are there, or None.
    """

    emb: Tensor
    vectors: Tensor
    images: Tensor | None
    tokens: Tensor | None
    present: Tensor | None


@final
class Conditioner(nn.Module):
    """Features of time and conditions: an embedding, channels and tokens.

    Numbers are standardised by the mean and standard deviation of each feature, which `measure`
    takes from data, and which stay in float32 in a network of half precision. NaN becomes 0, and
    the network receives as a further feature whether a number was given:

        emb = MLP(fourier(t)) + sum_k table_k[label_k] + MLP(vectors, masks) + sum_k pool(set_k).

    A set is pooled by attention with a query from the time; one more key, which is always there,
    makes the result finite for an empty set and lets it depend on the number of elements.

    Args:
        specs: the conditions by name.
        width: the length of the embedding and of the tokens.
        axes: the number of spatial axes of x; 0 for a network for vectors.
        max_frequency: the fastest feature of time; see `FourierFeatures`.

    Raises:
        ValueError: an image is asked of a network for vectors.

    Source: Vaswani et al. 2017 (attention, positions); Lee et al. 2019, "Set transformer",
    section 3.2 (pooling by attention); Ho and Salimans 2022 (the null value of a condition).
    """

    def __init__(
        self, specs: Mapping[str, Spec], width: int, axes: int, max_frequency: float = 100.0
    ) -> None:
        super().__init__()
        self.specs, self.axes, self.width = dict(specs), axes, width
        kinds = [type(spec) for spec in specs.values()]
        if Image in kinds and axes == 0:
            remedy = "flatten it and take Vector, or take a network for images"
            raise fail("conditions", "no Image in a network for vectors", list(specs), remedy)
        self.time = TimeEmbedding(width, max_frequency)
        self.labels = nn.ModuleList(
            [LabelEmbedding(width, s.classes) for s in specs.values() if isinstance(s, Label)]
        )
        self.scales = nn.ModuleList(
            [Standard(s.features) for s in specs.values() if not isinstance(s, Label)]
        )
        self.sets = nn.ModuleList(
            [SetTokens(s, width) for s in specs.values() if isinstance(s, Set)]
        )
        self.pools = nn.ModuleList([Pool(width) for _ in self.sets])
        vectors = sum(2 * s.size for s in specs.values() if isinstance(s, Vector))
        self.vectors = (
            nn.Sequential(nn.Linear(vectors, width), nn.SiLU(), nn.Linear(width, width))
            if vectors
            else None
        )
        self.vector_features = vectors
        """The number of features of all vectors."""
        self.image_channels = sum(2 * s.channels for s in specs.values() if isinstance(s, Image))
        """The number of channels of all images."""

    def named(self, *kinds: type[Spec]) -> list[str]:
        """The names of the conditions of these kinds."""
        return [name for name, spec in self.specs.items() if isinstance(spec, kinds)]

    def scale(self, name: str) -> Standard:
        """The mean and standard deviation of a condition of numbers."""
        return self.scales[self.named(Vector, Image, Set).index(name)]  # type: ignore[return-value]

    @property
    def takes(self) -> list[str]:
        """The names of all conditions, with those of masks."""
        masks = [f"{name}_mask" for name in self.named(Set)]
        return [*self.specs, *masks]

    def forward(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor | None]) -> Given:
        cond = {name: value for name, value in conditions.items() if value is not None}
        self.check(x, cond)
        batch, dtype = x.shape[0], self.time.first.weight.dtype
        emb: Tensor = self.time(t)
        time = silu(emb)
        for name, table in zip(self.named(Label), self.labels, strict=True):
            emb = emb + _embedded(name, table, cond.get(name), batch)

        vectors = [self._numbers(name, x, cond, dtype) for name in self.named(Vector)]
        joined = torch.cat(vectors, dim=1) if vectors else x.new_empty(batch, 0, dtype=dtype)
        if self.vectors is not None:
            emb = emb + self.vectors(joined)

        tokens, present = [], []
        for name, embed, pool in zip(self.named(Set), self.sets, self.pools, strict=True):
            elements, there = self._elements(name, x, cond, dtype)
            token = embed(elements)
            emb = emb + pool(token, there, time)
            if name in cond:
                tokens.append(token)
                present.append(there)

        images = [self._numbers(name, x, cond, dtype) for name in self.named(Image)]
        return Given(
            emb=silu(emb),
            vectors=joined,
            images=torch.cat(images, dim=1) if images else None,
            tokens=torch.cat(tokens, dim=1) if tokens else None,
            present=torch.cat(present, dim=1) if present else None,
        )

    def _numbers(
        self, name: str, x: Tensor, cond: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Tensor:
        """A vector or image with its mask, (B, 2 features, *D): zeros where it is not given."""
        scale = self.scale(name)
        if name not in cond:
            axes = x.shape[2:] if isinstance(self.specs[name], Image) else ()
            return x.new_zeros(x.shape[0], 2 * len(scale.mean), *axes, dtype=dtype)
        value = cond[name]
        value = value[:, None] if value.ndim == 1 else value
        given = ~value.isnan()
        clean = torch.where(given, value, 0.0)
        standard = torch.where(given, scale(clean, dim=1), 0.0)
        return torch.cat([standard.to(dtype), given.to(dtype)], dim=1)

    def _elements(
        self, name: str, x: Tensor, cond: Mapping[str, Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The elements of a set, (B, N, features), 0 where absent, and which are there, (B, N)."""
        scale = self.scale(name)
        if name not in cond:
            empty = x.new_zeros(x.shape[0], 0, len(scale.mean), dtype=dtype)
            return empty, empty[:, :, 0].bool()
        value = cond[name]
        there = ~value.isnan().any(dim=2)
        if f"{name}_mask" in cond:
            there = there & cond[f"{name}_mask"]
        clean = torch.where(there[..., None], value, 0.0)
        standard = torch.where(there[..., None], scale(clean, dim=2), 0.0)
        return standard.to(dtype), there

    def check(self, x: Tensor, cond: Mapping[str, Tensor]) -> None:
        """Check names, dtypes and shapes, without a synchronisation.

        Raises:
            TypeError: a name or a dtype is wrong.
            ValueError: a shape is wrong.
        """
        for name, value in cond.items():
            if name not in self.takes:
                raise wrong_type(name, *self._unknown(name, value))
            if not isinstance(value, Tensor):
                raise wrong_type(name, "a torch.Tensor", value, "use torch.as_tensor")
            self._check_one(name, name, value, x)
        self._check_masks(cond, "{}")

    def _unknown(self, name: str, value: object) -> tuple[str, object, str]:
        """What is expected, got, and the remedy for a condition that the network lacks."""
        if name == "label":
            remedy = "build the network with classes=..., or leave label out"
            return "none, as classes=0", value, remedy
        names = ", ".join(self.takes)
        expected = f"a condition of the network ({names})" if names else "no condition"
        return expected, value, "leave it out, or build the network with conditions={name: spec}"

    def _check_one(self, argument: str, name: str, value: Tensor, x: Tensor | None) -> None:
        """Check dtype and shape of one condition; its image size and batch only if x is given."""
        spec = self.specs.get(name)
        if spec is None:  # a mask
            self._check_mask(argument, value, x)
        elif isinstance(spec, Label):
            if value.dtype != torch.int64:
                raise wrong_type(argument, "an int64 tensor", value, "convert it with .long()")
            remedy = "give one per sample, -1 for no label"
            _check_shape(argument, value, ("B",), x, remedy)
        elif not value.is_floating_point():
            raise wrong_type(argument, "a floating-point tensor", value, "convert with .float()")
        elif isinstance(spec, Vector):
            if spec.size > 1 or value.ndim != 1:
                _check_shape(argument, value, ("B", spec.size), x, "NaN is for entries not given")
        elif isinstance(spec, Set):
            remedy = f"pad it with NaN, or pass {name}_mask"
            _check_shape(argument, value, ("B", "N", spec.features), x, remedy)
        else:
            size = tuple(x.shape[2:]) if x is not None else ("HWD"[: self.axes])
            remedy = "resize it to the size of x"
            _check_shape(argument, value, ("B", spec.channels, *size), x, remedy)

    def _check_mask(self, argument: str, value: Tensor, x: Tensor | None) -> None:
        if value.dtype != torch.bool:
            raise wrong_type(argument, "a bool tensor", value, "True is for elements present")
        _check_shape(argument, value, ("B", "N"), x, "give one value for each element of the set")

    def _check_masks(self, cond: Mapping[str, Tensor], argument: str) -> None:
        """Check that each mask comes with its set and has one value for each element."""
        for name in self.named(Set):
            mask = cond.get(f"{name}_mask")
            if mask is None:
                continue
            told = argument.format(f"{name}_mask")
            if name not in cond:
                remedy = "pass the set too, or leave the mask out"
                raise fail(told, f"the set {name!r} with its mask", mask, remedy)
            if mask.shape != cond[name].shape[:2]:
                expected = f"shape {tuple(cond[name].shape[:2])}, that of the set {name!r}"
                raise fail(told, expected, mask, "give one value for each element")

    def admit(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The conditions in the form in which the network takes them, checked.

        Whole numbers and switches become floats where floats are expected; labels become int64.

        Raises:
            TypeError: a dtype is wrong.
            ValueError: the network does not take a condition, a shape is wrong, or, on a CPU, a
                number is infinite.
        """
        found: dict[str, Tensor] = {}
        for name, value in cond.items():
            argument = f"cond[{name!r}]"
            if not self.takes and name != "label":
                remedy = "leave it out, or build the network for it, as network_for(shape, "
                remedy += "conditions=infer_conditions(shape, cond)) of scoresde.nets does"
                raise fail("cond", "None, for the model takes no conditions", name, remedy)
            if name not in self.takes and name == "label":
                raise wrong_type(argument, *self._unknown(name, value))
            choice("cond", name, self.takes)
            spec = self.specs.get(name)
            real = value.is_floating_point() or value.is_complex()
            if isinstance(spec, Label):
                found[name] = value  # a model knows its own value for "no label"
                continue
            found[name] = value.float() if spec is not None and not real else value
            self._check_one(argument, name, found[name], None)
            _check_not_infinite(argument, found[name])
        self._check_masks(found, "cond['{}']")
        return found

    @torch.no_grad()
    def measure(self, cond: Mapping[str, Tensor], again: bool = False) -> None:
        """Take mean and standard deviation of each feature from data, without NaN.

        Args:
            cond: the conditions of the data.
            again: measure also what was measured before.

        Raises:
            TypeError, ValueError: see `admit`.
        """
        cond = self.admit(cond)
        for name in self.named(Vector, Image, Set):
            scale = self.scale(name)
            if name in cond and (again or not bool(scale.measured)):
                rows = cond[name]
                if isinstance(self.specs[name], Set):
                    absent = rows.isnan().any(dim=2)
                    if f"{name}_mask" in cond:
                        absent = absent | ~cond[f"{name}_mask"]
                    rows = rows.masked_fill(absent[..., None], math.nan).flatten(0, 1)
                scale.measure(rows[:, None] if rows.ndim == 1 else rows)

    @property
    def measured(self) -> bool:
        """Whether the mean and standard deviation of every condition come from data."""
        return all(bool(scale.measured) for scale in self.scales)


def _embedded(name: str, table: nn.Module, label: Tensor | None, batch: int) -> Tensor:
    """The embedding of a label, or an error that says which classes there are."""
    try:
        found: Tensor = table(label, batch)
    except IndexError as error:  # of the table, on a CPU, where looking first would cost more
        if label is None:
            raise
        raise no_class(name, int(label.max()), table.null, Label.null) from error  # type: ignore[arg-type]
    return found


def _check_shape(
    argument: str, value: Tensor, event: tuple[int | str, ...], x: Tensor | None, remedy: str
) -> None:
    """Raise unless the shape is `event`, whose texts allow any size, with the batch of x."""
    if x is not None:
        event = (x.shape[0], *event[1:])
    pairs = zip(event, value.shape, strict=False)
    if value.ndim != len(event) or any(n != m for n, m in pairs if not isinstance(n, str)):
        comma = "," if len(event) == 1 else ""
        shape = f"shape ({', '.join(map(str, event))}{comma})"
        raise fail(argument, shape, value, remedy)


def _check_not_infinite(argument: str, value: Tensor) -> None:
    """Raise for infinite numbers, which no network takes; an accelerator would synchronise."""
    if value.device.type == "cpu" and value.is_floating_point():
        rows = value.isinf()[:, None].flatten(1).any(1)
        if bool(rows.any()):
            got = f"infinity in row {int(rows.nonzero()[0])}"
            raise refuse(argument, "finite numbers", got, "NaN is for numbers not given")


@final
class Standard(nn.Module):
    """(value - mean) / std of each feature, 0 and 1 until they are measured.

    Mean and std keep at least float32 in a network of half precision.
    """

    mean: Tensor
    std: Tensor
    measured: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float32))
        self.register_buffer("std", torch.ones(features, dtype=torch.float32))
        self.register_buffer("measured", torch.zeros((), dtype=torch.bool))

    def forward(self, value: Tensor, dim: int) -> Tensor:
        """Standardise a value whose features are the axis `dim`."""
        dtype = torch.promote_types(value.dtype, self.mean.dtype)
        shape = [-1 if axis == dim else 1 for axis in range(value.ndim)]
        mean, std = (v.to(dtype).reshape(shape) for v in (self.mean, self.std))
        return (value.to(dtype) - mean) / std

    def measure(self, rows: Tensor) -> None:
        """Set mean and std to those of rows (N, features, *D), without NaN.

        A feature that is never given or is constant keeps the unit 1.
        """
        axes = [0, *range(2, rows.ndim)]
        chunks = torch.split(rows, 4096)
        count = sum((~c.isnan()).sum(axes).double() for c in chunks)
        safe = torch.as_tensor(count).clamp_min(1.0)
        mean = sum(c.double().nansum(axes) for c in chunks) / safe
        shape = [-1 if axis == 1 else 1 for axis in range(rows.ndim)]
        square = [(c.double() - mean.reshape(shape)).square().nansum(axes) for c in chunks]
        std = (sum(square) / safe).sqrt()
        constant = std <= 1e-6 * mean.abs()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std))
        self.measured.fill_(True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Standard:
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.mean.dtype.itemsize < 4:
            self.mean, self.std = (v.to(self.mean.device) for v in (mean, std))
        return self


@final
class SetTokens(nn.Module):
    """Tokens of the elements of a set: ``(B, N, features) -> (B, N, width)``, each by itself."""

    def __init__(self, spec: Set, width: int) -> None:
        super().__init__()
        self.ordered = spec.ordered
        ins = spec.features + (POSITIONS if spec.ordered else 0)
        self.first = nn.Linear(ins, width)
        self.second = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, elements: Tensor) -> Tensor:
        if self.ordered:
            place = torch.arange(elements.shape[1], device=elements.device, dtype=torch.float32)
            rate = torch.logspace(0.0, -4.0, POSITIONS // 2, device=elements.device)
            phase = place[:, None] * rate
            features = torch.cat([phase.sin(), phase.cos()], dim=1).to(elements.dtype)
            elements = torch.cat([elements, features.expand(len(elements), -1, -1)], dim=2)
        tokens: Tensor = self.norm(self.second(silu(self.first(elements))))
        return tokens


@final
class Pool(nn.Module):
    """Attention over tokens and one constant key: ``(B, N, width) -> (B, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        self.query = nn.Linear(width, width)
        self.pair = nn.Linear(width, 2 * width)
        self.constant = nn.Parameter(torch.zeros(2 * width))
        self.out = nn.Linear(width + 1, width)

    def forward(self, tokens: Tensor, present: Tensor, time: Tensor) -> Tensor:
        batch = len(tokens)
        pairs = torch.cat([self.constant.expand(batch, 1, -1), self.pair(tokens)], dim=1)
        split = pairs.reshape(*pairs.shape[:2], 2, self.heads, -1)
        k, v = split.transpose(1, 3).unbind(dim=2)
        q = self.query(time).reshape(batch, self.heads, 1, -1)
        there = nn.functional.pad(present, (1, 0), value=True)[:, None, None]
        mixed = scaled_dot_product_attention(q.to(v.dtype), k, v, attn_mask=there).flatten(1)
        count = present.sum(dim=1, keepdim=True).to(mixed.dtype).log1p()
        out: Tensor = self.out(torch.cat([mixed, count], dim=1))
        return out


class ConditionalNet(nn.Module, ABC):
    """A network ``net(x, t, **cond)`` whose conditions a `Conditioner` checks and embeds."""

    condition: Conditioner
    config: dict[str, Any]  # the arguments, as values of JSON

    @property
    def takes(self) -> list[str]:
        """The names of the conditions that the network takes, with those of masks."""
        return self.condition.takes

    @property
    def nulls(self) -> dict[str, int | float | bool]:
        """The values that mean "not given", by the name of the condition."""
        masks = {f"{name}_mask": False for name in self.condition.named(Set)}
        return {name: spec.null for name, spec in self.condition.specs.items()} | masks

    @property
    def label_classes(self) -> dict[str, int]:
        """The number of classes of each label."""
        specs = self.condition.specs
        return {name: spec.classes for name, spec in specs.items() if isinstance(spec, Label)}

    @property
    def measured(self) -> bool:
        """Whether the mean and standard deviation of every condition come from data."""
        return self.condition.measured

    def measure(self, cond: Mapping[str, Tensor], again: bool = False) -> None:
        """Take mean and standard deviation of the conditions from data; see `Conditioner`."""
        self.condition.measure(cond, again)

    def admit(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The conditions in the form in which the network takes them; see `Conditioner`."""
        return self.condition.admit(cond)
