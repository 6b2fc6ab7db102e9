"""The identity, masks and matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, show
from scoresde.measurement.base import EPS, LinearOperator
from scoresde.measurement.constant import Constant

__all__ = ["Identity", "Mask", "Matrix", "dense"]


@final
@dataclass(frozen=True)
class Identity(LinearOperator):
    """The whole sample is measured; with NaN in y this is in-painting as well.

    Example:
        >>> import torch
        >>> Identity()(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    @property
    def decomposable(self) -> bool:
        return True

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return fn(torch.ones((1,) * x.ndim, dtype=x.dtype, device=x.device)) * x

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def _after(self, other: LinearOperator) -> LinearOperator:
        return other

    def _is_identity(self) -> bool:
        return True


@final
@dataclass(frozen=True, eq=False, repr=False)
class Mask(LinearOperator):
    """Some entries of a sample, in C order: in-painting.

    Args:
        mask: (*D) of bool, True where an entry is measured, for at least one.

    Raises:
        TypeError: the mask is not a bool tensor.
        ValueError: nothing is measured, or a sample has another shape than the mask.

    Example:
        >>> import torch
        >>> ends = Mask(torch.tensor([True, False, True]))
        >>> ends(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 3.]])
        >>> ends.adjoint(torch.tensor([[1.0, 3.0]]))
        tensor([[1., 0., 3.]])
    """

    mask: Tensor
    _index: Constant = field(init=False)
    _kept: Constant = field(init=False)

    def __post_init__(self) -> None:
        instance("mask", self.mask, Tensor, "pass a tensor of True and False")
        if self.mask.dtype != torch.bool:
            raise fail("mask", "a bool tensor", self.mask, "pass mask.bool() or x > 0")
        index = self.mask.flatten().nonzero().flatten()
        if self.mask.ndim == 0 or len(index) == 0:
            raise fail(
                "mask", "a shape (*D) with at least one True", self.mask, "measure something"
            )
        object.__setattr__(self, "_index", Constant(index))
        object.__setattr__(self, "_kept", Constant(self.mask))

    def __repr__(self) -> str:
        kept = len(self._index.value)
        return f"Mask({kept} of {self.mask.numel()} entries of {tuple(self.mask.shape)})"

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.mask.shape:
            raise fail("x", f"shape (B, *{tuple(self.mask.shape)}), as the mask", x, "reshape it")
        return x.flatten(1).index_select(1, self._index.at(x))

    def adjoint(self, y: Tensor) -> Tensor:
        zero = torch.zeros((len(y), self.mask.numel()), dtype=y.dtype, device=y.device)
        return zero.index_copy(1, self._index.at(y), y).reshape(-1, *self.mask.shape)

    @property
    def decomposable(self) -> bool:
        return True

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return fn(self._kept.at(x)[None].to(x.dtype)) * x

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Matrix(LinearOperator):
    """A dense matrix that multiplies the entries of a sample in C order.

    The singular value decomposition is computed once, in float64, when it is first needed;
    singular values below max(M, D) rounding errors of the largest one count as 0.

    Args:
        A: (M, D), finite.
        shape: the shape of a sample, (*D), with D entries; by default (D,).
        output: the shape of a measurement, (*M), with M entries; by default (M,).

    Raises:
        TypeError: A is not a floating-point tensor.
        ValueError: A is not a finite matrix, or a shape has another number of entries.

    Example:
        >>> import torch
        >>> Matrix(torch.tensor([[1.0, 2.0]]))(torch.tensor([[3.0, 4.0]]))
        tensor([[11.]])
    """

    A: Tensor
    shape: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    _held: Constant = field(init=False)

    def __post_init__(self) -> None:
        A = floating("A", self.A)
        if A.ndim != 2 or A.numel() == 0:
            raise fail("A", "shape (M, D)", A, "one row per measured number")
        if not bool(A.isfinite().all()):
            raise fail("A", "finite numbers", "NaN or infinity", "mark unobserved ones in y")
        shape = tuple(self.shape) or (A.shape[1],)
        output = tuple(self.output) or (A.shape[0],)
        for name, axes, size in (("shape", shape, A.shape[1]), ("output", output, A.shape[0])):
            if math.prod(axes) != size:
                raise fail(name, f"a shape with {size} entries, as A has", axes, "reshape A")
            object.__setattr__(self, name, axes)
        object.__setattr__(self, "_held", Constant(A))

    def __repr__(self) -> str:
        return f"Matrix({show(self.A)})"

    @cached_property
    def _svd(self) -> tuple[Constant, Constant, Constant]:
        """U, s and V of the positive singular values: (M, r), (r), (D, r), in float64."""
        left, s, right = torch.linalg.svd(self.A.detach().double(), full_matrices=False)
        rank = int((s > max(self.A.shape) * EPS * s[0]).sum())
        return tuple(Constant(p) for p in (left[:, :rank], s[:rank], right[:rank].T))  # type: ignore[return-value]

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape:
            raise fail(
                "x",
                f"shape (B, {', '.join(map(str, self.shape))})",
                x,
                "pass shape= for samples like these",
            )
        return (x.flatten(1) @ self._held.at(x).T).reshape(-1, *self.output)

    def adjoint(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self._held.at(y)).reshape(-1, *self.shape)

    @property
    def decomposable(self) -> bool:
        return True

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        _, s, right = (part.at(x) for part in self._svd)
        lead = (1,) * (x.ndim - 1)
        weights = fn(torch.cat([s, s.new_zeros(1)]).reshape(*lead, -1))
        inside, outside = weights[..., :-1], weights[..., -1:]
        rows = x.flatten(1) @ right
        rows = ((inside - outside) * rows.reshape(-1, *lead[1:], rows.shape[1])).flatten(1)
        return (rows @ right.T).reshape(x.shape) + outside * x

    def pinv(self, y: Tensor) -> Tensor:
        left, s, right = (part.at(y) for part in self._svd)
        return ((y.flatten(1) @ left / s) @ right.T).reshape(-1, *self.shape)


def dense(operator: LinearOperator, shape: Sequence[int]) -> Matrix:
    """Any linear operator as a `Matrix`, which is decomposable; for small problems.

    Args:
        operator: the operator.
        shape: the shape of a sample, (*D).

    Example:
        >>> import torch
        >>> from scoresde.measurement import Linear
        >>> sums = Linear(lambda x: x.cumsum(1), shape=(3,))
        >>> dense(sums, (3,)).pinv(torch.tensor([[1.0, 3.0, 6.0]])).round()
        tensor([[1., 2., 3.]])
    """
    shape = tuple(shape)
    return Matrix(operator.matrix(shape), shape=shape, output=operator.measured(shape))
