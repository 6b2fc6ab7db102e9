"""A linear operator of the user's own functions, which are checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, refuse, wrong_type
from scoresde._tensor import seeded
from scoresde.measurement.base import LinearOperator, pairs, transpose

__all__ = ["Linear"]


@final
@dataclass(frozen=True, eq=False, init=False, repr=False)
class Linear(LinearOperator):
    """The user's own linear map, with a check that it is linear and that the adjoint is one.

    Args:
        forward: A, a function (B, *D) -> (B, *M). Complex values become pairs, (B, *M, 2).
        adjoint: A^T, (B, *M) -> (B, *D); by default it is computed by automatic differentiation of
            `forward`. If `forward` is complex it receives complex values, and the real part of
            what it returns counts.
        shape: the shape of a sample, (*D).
        dtype: the precision of the check, for functions that take one precision alone.
        device: the device of the check, for functions that hold tensors of another device.

    Raises:
        TypeError: `forward` or `adjoint` is not a function, or does not return a tensor.
        ValueError: `forward` is not linear (an offset is named), mixes the samples of a batch,
            or `adjoint` is not its adjoint; the message holds both inner products.

    Example:
        >>> import torch
        >>> difference = Linear(lambda x: x[:, 1:] - x[:, :-1], shape=(3,))
        >>> difference(torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([[1., 2.]])
        >>> difference.adjoint(torch.tensor([[1.0, 2.0]]))
        tensor([[-1., -1.,  2.]])
    """

    forward: Callable[[Tensor], Tensor]
    transposed: Callable[[Tensor], Tensor] | None
    shape: tuple[int, ...]
    complex: bool

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor] | None = None,
        *,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, function in (("forward", forward), ("adjoint", adjoint)):
            if not (callable(function) or (function is None and name == "adjoint")):
                raise wrong_type(name, "a function of a batch", function, "pass lambda x: ...")
        x = torch.randn((3, *shape), generator=seeded(0), device="cpu", dtype=torch.float64)
        x = x.to(device, dtype)
        image = forward(x)
        if not isinstance(image, Tensor) or image.shape[:1] != x.shape[:1]:
            expected = "a tensor with one measurement per sample"
            raise wrong_type("forward(x)", expected, image, "map (B, *D) to (B, *M)")
        values = (forward, adjoint, tuple(shape), image.is_complex())
        for name, value in zip(("forward", "transposed", "shape", "complex"), values, strict=True):
            object.__setattr__(self, name, value)
        self._check_linear(x, pairs(image))
        if adjoint is not None:
            self._check_adjoint(x, pairs(image))

    def _check_linear(self, x: Tensor, image: Tensor) -> None:
        """Raise unless A 0 = 0, each sample has its own image, and A (a + b) = A a + A b."""
        tolerance = torch.finfo(x.dtype).eps ** 0.6 * float(image.abs().max())
        offset = float(self(torch.zeros_like(x)).abs().max())
        if offset > tolerance:
            remedy = "subtract the offset from y, or pass the function itself as the operator"
            raise refuse("forward", "a linear map, so A 0 = 0", f"|A 0| = {offset:.3g}", remedy)
        alone = float((self(x[1:2]) - image[1:2]).abs().max())
        if alone > tolerance:
            got = f"the image of a sample alone, which differs by {alone:.3g}"
            remedy = "take no means over the first axis"
            raise refuse("forward", "the same image of a sample in any batch", got, remedy)
        sums = self(x[:1] + 2.0 * x[1:2] - 5.0 * x[2:])
        apart = image[:1] + 2.0 * image[1:2] - 5.0 * image[2:]
        error = float((sums - apart).abs().max())
        if error > 10.0 * tolerance:
            got = f"|A(a + 2b - 5c) - Aa - 2Ab + 5Ac| = {error:.3g}"
            remedy = "pass the function itself as the operator of a Measurement"
            raise refuse("forward", "a linear map", got, remedy)

    def _check_adjoint(self, x: Tensor, image: Tensor) -> None:
        """Raise unless <A x, y> = <x, A^T y> for each sample, with random y."""
        y = torch.randn(image.shape, generator=seeded(1), device="cpu", dtype=torch.float64)
        y = y.to(image)
        back = self.adjoint(y)
        if back.shape != x.shape:
            remedy = "it maps (B, *M) to (B, *D)"
            raise fail("adjoint", f"shape {tuple(x.shape)}", back, remedy)
        left, right = (p.flatten(1).double().sum(1) for p in (image * y, x * back))
        scale = float((image.flatten(1).double().norm(dim=1) * y.flatten(1).norm(dim=1)).max())
        worst = int((left - right).abs().argmax())
        if float((left - right).abs().max()) > torch.finfo(x.dtype).eps ** 0.6 * scale:
            got = f"<A x, y> = {float(left[worst]):.6g} and <x, A^T y> = {float(right[worst]):.6g}"
            remedy = "correct it, or leave it out: it is then found by automatic differentiation"
            raise refuse("adjoint", "the adjoint of forward", got, remedy)

    def __repr__(self) -> str:
        name = getattr(self.forward, "__name__", type(self.forward).__name__)
        return f"Linear({name}, shape={self.shape})"

    def __call__(self, x: Tensor) -> Tensor:
        return pairs(self.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        if self.transposed is None:
            return transpose(self, y, self.shape)
        back = self.transposed(torch.view_as_complex(y.contiguous()) if self.complex else y)
        return back.real if back.is_complex() else back
