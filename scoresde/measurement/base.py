"""Linear operators: a map, its adjoint, and functions of its singular values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, instance
from scoresde._tensor import seeded

__all__ = ["Composition", "LinearOperator", "check_adjoint", "pairs", "transpose"]

EPS = torch.finfo(torch.float64).eps


def pairs(y: Tensor) -> Tensor:
    """A complex tensor as real pairs, (..., 2); a real one unchanged."""
    return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y


def transpose(forward: Callable[[Tensor], Tensor], y: Tensor, shape: Sequence[int]) -> Tensor:
    """A^T y of a linear function by one vector-Jacobian product; it can be differentiated.

    Args:
        forward: (B, *D) -> (B, *M), linear.
        y: (B, *M).
        shape: (*D).
    """
    zero = torch.zeros((y.shape[0], *shape), dtype=y.dtype, device=y.device)
    product: Tensor = torch.func.vjp(forward, zero)[1](y)[0]
    return product


class LinearOperator(ABC):
    """A linear map A from a sample (*D) to a measurement (*M), applied to each of a batch.

    Real in, real out: complex values are pairs in a last axis of length 2, and the adjoint is that
    of the real inner product. An operator works in the precision and on the device of its
    argument. With A = U diag(s) V^T, `decomposable` operators apply V fn(s) V^T and the
    pseudo-inverse without forming a matrix.
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x; x: (B, *D) -> (B, *M)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y; y: (B, *M) -> (B, *D)."""

    @property
    def decomposable(self) -> bool:
        """Whether the singular values are known, as `gram_function` and `pinv` need them."""
        return False

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """V fn(s) V^T x: a function of the singular values, as (A^T A)^(1/2) has them.

        Args:
            fn: takes the singular values, 0 off the row space, as a tensor with as many axes as x
                and a leading 1; returns as many numbers, or a batch of them, (B, ...). So it may
                multiply them with coefficients of a batched node, (B, 1, ..., 1).
            x: (B, *D).

        Raises:
            TypeError: the operator is not decomposable.
        """
        raise self._undecomposed()

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, the pseudo-inverse: of all x with least |A x - y| the shortest; (B, *D).

        Raises:
            TypeError: the operator is not decomposable.
        """
        raise self._undecomposed()

    def _undecomposed(self) -> TypeError:
        return TypeError(
            f"operator: expected one with known singular values, got {self!r}; for a small "
            "problem take dense(operator, shape), whose singular values are computed once"
        )

    @final
    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        """The composition x -> A (B x)."""
        instance("other", other, LinearOperator, "compose it with another linear operator")
        return self._after(other)

    def _after(self, other: LinearOperator) -> LinearOperator:
        """This operator after another one."""
        return self if other._is_identity() else Composition(self, other)

    def _is_identity(self) -> bool:
        return False

    @final
    def matrix(self, shape: Sequence[int]) -> Tensor:
        """The operator as a float64 matrix (M, D), by its action on the D unit vectors.

        Args:
            shape: the shape of a sample, (*D); the entries are numbered in C order.
        """
        size = math.prod(shape)
        rows = self(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
        return rows.reshape(size, -1).T.contiguous()

    @final
    def measured(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape (*M) of a measurement of a sample of shape (*D)."""
        return tuple(self(torch.zeros((1, *shape), dtype=torch.float64)).shape[1:])


@final
@dataclass(frozen=True, eq=False)
class Composition(LinearOperator):
    """outer after inner; `A @ B` makes it.

    The singular values of a product do not follow from those of the factors, so it is not
    decomposable; a product with the identity is the other factor.

    Args:
        outer, inner: the two operators.

    Example:
        >>> import torch
        >>> from scoresde.measurement import Mask, Matrix
        >>> seen = Mask(torch.tensor([True, False])) @ Matrix(torch.ones(2, 4) / 4)
        >>> seen(torch.tensor([[1.0, 3.0, 5.0, 7.0]]))
        tensor([[4.]])
    """

    outer: LinearOperator
    inner: LinearOperator

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def __repr__(self) -> str:
        return f"{self.outer!r} @ {self.inner!r}"


def check_adjoint(
    operator: LinearOperator, shape: Sequence[int], seed: int = 0
) -> tuple[float, float]:
    """The two inner products <A x, y> and <x, A^T y> of random x and y, which must be equal.

    Args:
        operator: the operator.
        shape: the shape of a sample, (*D).
        seed: the seed of x and y.

    Returns:
        The two numbers, in float64.

    Example:
        >>> import torch
        >>> from scoresde.measurement import Matrix
        >>> left, right = check_adjoint(Matrix(torch.ones(2, 3)), (3,))
        >>> abs(left - right) < 1e-12
        True
    """
    instance("operator", operator, LinearOperator, "wrap a function in Linear")
    generator = seeded(seed)
    x = torch.randn((1, *shape), dtype=torch.float64, generator=generator, device="cpu")
    image = operator(x)
    y = torch.randn(image.shape, dtype=torch.float64, generator=generator, device="cpu")
    back = operator.adjoint(y)
    if back.shape != x.shape:
        raise fail("adjoint", f"shape {tuple(x.shape)}", back, "it maps a measurement to a sample")
    return float((image * y).sum()), float((x * back).sum())
