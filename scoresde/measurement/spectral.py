"""Operators with known singular vectors: blur, partial Fourier transforms, coarser grids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from scoresde._check import fail, floating, instance, keep, positive, positive_int, show
from scoresde.measurement.base import EPS, LinearOperator
from scoresde.measurement.constant import Constant

__all__ = ["Blur", "Fourier", "SuperResolution", "gaussian_kernel"]


def gaussian_kernel(width: float, dims: int = 2, *, cut: float = 3.0) -> Tensor:
    """A Gaussian kernel for `Blur`, of sum 1 and with an odd number of entries along each axis.

    Args:
        width: its standard deviation, in pixels.
        dims: the number of axes.
        cut: the kernel ends at this many standard deviations.

    Example:
        >>> gaussian_kernel(1.0, 1, cut=1.0)
        tensor([0.2741, 0.4519, 0.2741], dtype=torch.float64)
    """
    width, reach = positive("width", width), max(1, round(positive("cut", cut) * width))
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = profile = torch.exp(-0.5 * (line / width) ** 2)
    for _ in range(positive_int("dims", dims) - 1):
        kernel = kernel[..., None] * profile
    return kernel / kernel.sum()


def _as_last(part: Tensor, x: Tensor) -> Tensor:
    """A tensor over the last axes of x, with leading axes of 1."""
    return part.reshape((1,) * (x.ndim - part.ndim) + tuple(part.shape))


@final
@dataclass(frozen=True, eq=False, repr=False)
class Blur(LinearOperator):
    """Circular convolution along the last axes: (B, *C, *sizes) -> (B, *C, *sizes).

    (A x)_i = sum_j k_j x_(i - j) with j counted from the centre of the kernel. Borders are
    periodic, so A multiplies the Fourier transform of x by that of the kernel, whose modulus are
    the singular values; those below rounding errors of the largest count as 0.

    Args:
        kernel: finite, with one axis for each axis that is blurred; the centre is entry n // 2
            of n along each.

    Raises:
        TypeError: the kernel is not a floating-point tensor.
        ValueError: the kernel is not finite or is 0, or samples are smaller than the kernel.

    Example:
        >>> import torch
        >>> Blur(torch.tensor([0.0, 0.0, 1.0]))(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[3., 1., 2.]])
    """

    kernel: Tensor
    _transfers: dict[tuple[int, ...], Constant] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        kernel = floating("kernel", self.kernel)
        if kernel.ndim == 0 or not bool(kernel.isfinite().all() & kernel.any()):
            raise fail("kernel", "finite numbers, not all 0", kernel, "check the kernel")

    def __repr__(self) -> str:
        return f"Blur({show(self.kernel)})"

    def _transfer(self, x: Tensor) -> Tensor:
        """The Fourier transform of the kernel, at the frequencies of rfftn, for samples like x."""
        dims = self.kernel.ndim
        sizes = tuple(x.shape[1:][-dims:])
        if sizes not in self._transfers:
            kernel = self.kernel.detach().double()
            small = any(k > n for k, n in zip(kernel.shape, sizes, strict=False))
            if len(sizes) < dims or small:
                expected = f"last axes of at least {tuple(kernel.shape)}, as the kernel has"
                raise fail("x", expected, x, "take a smaller kernel")
            padded = kernel.new_zeros(sizes)
            padded[tuple(slice(0, k) for k in kernel.shape)] = kernel
            axes = tuple(range(dims))
            centred = padded.roll([-(k // 2) for k in kernel.shape], axes)
            transfer = torch.fft.rfftn(centred, dim=axes)
            size = transfer.abs()
            seen = size > padded.numel() * EPS * size.max()
            self._transfers[sizes] = Constant(torch.where(seen, transfer, 0.0))
        return _as_last(self._transfers[sizes].at(x), x)

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        axes, sizes = tuple(range(-self.kernel.ndim, 0)), x.shape[-self.kernel.ndim :]
        out: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * response, s=sizes, dim=axes)
        return out

    def __call__(self, x: Tensor) -> Tensor:
        return self._filtered(x, self._transfer(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self._transfer(y).conj())

    @property
    def decomposable(self) -> bool:
        return True

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self._filtered(x, fn(self._transfer(x).abs()))

    def pinv(self, y: Tensor) -> Tensor:
        transfer = self._transfer(y)
        gone = transfer == 0
        return self._filtered(y, torch.where(gone, 0.0, 1.0 / torch.where(gone, 1.0, transfer)))


@final
@dataclass(frozen=True, eq=False, repr=False)
class Fourier(LinearOperator):
    """Some frequencies of the orthonormal Fourier transform over the last axes, as pairs.

    (B, *C, *sizes) -> (B, *C, m, 2), the real and the imaginary parts. The transform of a real
    sample has conjugate values at k and -k, so that both measure the same: the singular value of
    a frequency is 1 if the mask holds k and -k, and sqrt(1/2) if it holds one of them.

    Args:
        mask: (*sizes) of bool over the frequencies, in the order of `torch.fft.fftn`, True for at
            least one.

    Raises:
        TypeError: the mask is not a tensor.
        ValueError: the mask is not of bool, or False everywhere; or the last axes of samples are
            not those of the mask.

    Example:
        >>> import torch
        >>> Fourier(torch.tensor([True, False]))(torch.tensor([[1.0, 3.0]]))
        tensor([[[2.8284, 0.0000]]])
    """

    mask: Tensor
    _index: Constant = field(init=False)
    _singular: Constant = field(init=False)

    def __post_init__(self) -> None:
        instance("mask", self.mask, Tensor, "pass a tensor of True and False")
        if self.mask.dtype != torch.bool or self.mask.ndim == 0 or not bool(self.mask.any()):
            remedy = "True for each frequency that is measured"
            raise fail("mask", "a bool tensor with at least one True", self.mask, remedy)
        axes = tuple(range(self.mask.ndim))
        mirrored = self.mask.flip(axes).roll((1,) * self.mask.ndim, axes)
        both = (self.mask.double() + mirrored.double()) / 2
        object.__setattr__(self, "_index", Constant(self.mask.flatten().nonzero().flatten()))
        object.__setattr__(self, "_singular", Constant(both.sqrt()))

    def __repr__(self) -> str:
        kept = len(self._index.value)
        return f"Fourier({kept} of {self.mask.numel()} frequencies of {tuple(self.mask.shape)})"

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.mask.ndim, 0))

    def _transform(self, x: Tensor) -> Tensor:
        if x.shape[1:][-self.mask.ndim :] != self.mask.shape:
            remedy = "the mask covers the last axes of a sample"
            raise fail("x", f"last axes {tuple(self.mask.shape)}", x, remedy)
        values: Tensor = torch.fft.fftn(x, dim=self._axes, norm="ortho")
        return values

    def _back(self, values: Tensor) -> Tensor:
        out: Tensor = torch.fft.ifftn(values, dim=self._axes, norm="ortho").real
        return out

    def __call__(self, x: Tensor) -> Tensor:
        values = self._transform(x).flatten(-self.mask.ndim)
        return torch.view_as_real(values.index_select(-1, self._index.at(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        values = torch.view_as_complex(y.contiguous())
        size = (*values.shape[:-1], self.mask.numel())
        whole = torch.zeros(size, dtype=values.dtype, device=values.device)
        whole = whole.index_copy(-1, self._index.at(y), values)
        return self._back(whole.reshape(*values.shape[:-1], *self.mask.shape))

    @property
    def decomposable(self) -> bool:
        return True

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self._back(self._transform(x) * fn(_as_last(self._singular.at(x), x)))

    def pinv(self, y: Tensor) -> Tensor:
        def inverse_square(s: Tensor) -> Tensor:
            return torch.where(s > 0, 1.0 / torch.where(s > 0, s, 1.0).square(), 0.0)

        return self.gram_function(inverse_square, self.adjoint(y))


@final
@dataclass(frozen=True)
class SuperResolution(LinearOperator):
    """Means over blocks of the last axes: (B, *C, *sizes) -> (B, *C, *(sizes / factor)).

    The rows of A are orthogonal, and all singular values are factor^(-dims/2).

    Args:
        factor: the length of a block along each axis.
        dims: the number of last axes.

    Raises:
        TypeError, ValueError: an argument is not a positive integer, or the factor does not divide
            the last axes of samples.

    Example:
        >>> import torch
        >>> SuperResolution(2, dims=1)(torch.tensor([[1.0, 3.0, 5.0, 5.0]]))
        tensor([[2., 5.]])
    """

    factor: int
    dims: int = 2

    def __post_init__(self) -> None:
        for name in ("factor", "dims"):
            keep(self, name, positive_int)

    def __call__(self, x: Tensor) -> Tensor:
        sizes, factor = tuple(x.shape[1:][-self.dims :]), self.factor
        if len(sizes) < self.dims or any(n % factor for n in sizes):
            remedy = "crop or pad the samples, or pass dims="
            raise fail("x", f"{self.dims} last axes that {factor} divides", x, remedy)
        lead = x.shape[: x.ndim - self.dims]
        cut = x.reshape(*lead, *(part for n in sizes for part in (n // factor, factor)))
        means: Tensor = cut.mean(tuple(range(len(lead) + 1, cut.ndim, 2)))
        return means

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) * float(self.factor) ** -self.dims

    @property
    def decomposable(self) -> bool:
        return True

    def gram_function(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        lead = (1,) * (x.ndim - 1)
        s = torch.full((1,), self.factor ** (-self.dims / 2), dtype=x.dtype, device=x.device)
        weights = fn(torch.cat([s, torch.zeros_like(s)]).reshape(*lead, 2))
        inside, outside = weights[..., :1], weights[..., 1:]
        return (inside - outside) * self.pinv(self(x)) + outside * x

    def pinv(self, y: Tensor) -> Tensor:
        for axis in range(-self.dims, 0):
            y = torch.repeat_interleave(y, self.factor, axis)
        return y
