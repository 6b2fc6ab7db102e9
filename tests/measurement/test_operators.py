"""Linear operators: closed forms, then one battery of properties for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from scoresde.measurement import (
    Blur,
    Fourier,
    Identity,
    Linear,
    LinearOperator,
    Mask,
    Matrix,
    Radon,
    SuperResolution,
    check_adjoint,
    dense,
    gaussian_kernel,
)
from scoresde.measurement.base import transpose

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def mask(*shape: int, seed: int = 3) -> Tensor:
    return randn(*shape, seed=seed) > 0


def rank_deficient() -> Tensor:
    return randn(5, 3, seed=1) @ randn(3, 6, seed=2)


def difference_adjoint(y: Tensor) -> Tensor:
    zero = torch.zeros_like(y[:, :1])
    return torch.cat([zero, y], 1) - torch.cat([y, zero], 1)


OPERATORS: dict[str, tuple[Callable[[], LinearOperator], tuple[int, ...]]] = {
    "identity": (Identity, (2, 3)),
    "mask": (lambda: Mask(mask(2, 4)), (2, 4)),
    "wide matrix": (lambda: Matrix(randn(3, 6)), (6,)),
    "tall matrix": (lambda: Matrix(randn(7, 4)), (4,)),
    "deficient matrix": (lambda: Matrix(rank_deficient()), (6,)),
    "matrix of images": (lambda: Matrix(randn(6, 8), shape=(2, 4), output=(3, 2)), (2, 4)),
    "blur of a signal": (lambda: Blur(randn(3)), (7,)),
    "even blur": (lambda: Blur(randn(2, 4)), (2, 4, 6)),
    "blur that loses frequencies": (lambda: Blur(torch.ones(2, dtype=F64)), (3, 6)),
    "blur that loses them but for rounding": (
        lambda: Blur(torch.ones(3, dtype=F64) / 3),
        (9,),
    ),
    "blur of a volume": (lambda: Blur(randn(2, 3, 2)), (3, 4, 2)),
    "frequencies": (lambda: Fourier(mask(3, 4)), (2, 3, 4)),
    "all frequencies": (lambda: Fourier(torch.ones(5, dtype=torch.bool)), (5,)),
    "super-resolution": (lambda: SuperResolution(2), (2, 4, 6)),
    "super-resolution of a signal": (lambda: SuperResolution(3, dims=1), (6,)),
    "radon": (lambda: Radon(5, (0.0, 33.0, 90.0)), (2, 5, 5)),
    "user's": (lambda: Linear(lambda x: x.cumsum(-1)[:, :, ::2], shape=(2, 5)), (2, 5)),
    "user's complex": (lambda: Linear(lambda x: torch.fft.rfft(x) * (1 + 2j), shape=(5,)), (5,)),
    "user's with adjoint": (
        lambda: Linear(lambda x: x[:, 1:] - x[:, :-1], difference_adjoint, shape=(5,)),
        (5,),
    ),
    "composition": (lambda: Mask(mask(2, 4)) @ Blur(randn(3)), (2, 4)),
    "composition of three": (
        lambda: Matrix(randn(2, 4)) @ SuperResolution(2, dims=1) @ Blur(randn(3)),
        (8,),
    ),
    "dense": (lambda: dense(Mask(mask(2, 4)) @ Blur(randn(3)), (2, 4)), (2, 4)),
}
KNOWN = [name for name, (make, _) in OPERATORS.items() if make().decomposable]


# Closed forms.


def test_circular_blur_is_that_of_scipy() -> None:
    """A kernel that is flipped, or centred one pixel off, would not pass."""
    for sizes, kernel in (((7,), randn(3)), ((6, 5), randn(3, 5)), ((4, 6), randn(2, 4))):
        x = randn(1, *sizes, seed=5)

        wanted = ndimage.convolve(x[0].numpy(), kernel.numpy(), mode="wrap")
        close(Blur(kernel)(x)[0], torch.from_numpy(wanted))


def test_frequencies_are_those_of_numpy() -> None:
    x, kept = randn(2, 3, 4), mask(3, 4)
    wanted = np.fft.fftn(x.numpy(), axes=(1, 2), norm="ortho")[:, kept.numpy()]
    close(torch.view_as_complex(Fourier(kept)(x)), torch.from_numpy(wanted))


def test_a_gaussian_kernel_has_its_width() -> None:
    kernel = gaussian_kernel(2.0, 1, cut=6.0)
    place = torch.arange(len(kernel), dtype=F64) - len(kernel) // 2
    assert math.isclose(float(kernel.sum()), 1.0) and len(kernel) == 25
    assert math.isclose(float(kernel @ place.square()), 4.0, rel_tol=1e-5)
    close(gaussian_kernel(2.0, 2, cut=6.0), kernel[:, None] * kernel)


def test_means_over_blocks() -> None:
    x = torch.arange(16, dtype=F64).reshape(1, 4, 4)
    close(SuperResolution(2)(x), torch.tensor([[[2.5, 4.5], [10.5, 12.5]]], dtype=F64))


def coordinates(size: int) -> tuple[Tensor, Tensor]:
    """x along the columns and y up the rows, from the centre."""
    line = torch.arange(size, dtype=F64) - (size - 1) / 2
    return line[None, :], -line[:, None]


ANGLES = (0.0, 20.0, 45.0, 90.0, 135.0, 170.0)


def test_radon_of_a_gaussian_blob() -> None:
    """Off the centre, so that a wrong sign of the angle or of an axis shows."""
    size, width, at = 64, 4.0, (9.0, 5.0)
    x, y = coordinates(size)
    image = torch.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * width**2))
    seen = Radon(size, ANGLES)(image[None])[0]
    distance = torch.arange(size, dtype=F64) - (size - 1) / 2
    for row, angle in zip(seen, ANGLES, strict=True):
        a = math.radians(angle)
        centre = at[0] * math.cos(a) + at[1] * math.sin(a)
        wanted = (
            math.sqrt(2 * math.pi)
            * width
            * torch.exp(-((distance - centre) ** 2) / (2 * width**2))
        )
        # Bilinear interpolation widens the blob by up to 1/6 of a squared pixel each way.
        assert (row - wanted).abs().max() < 0.03 * wanted.max()
        close(row.sum(), wanted.sum(), 1e-4)


def test_radon_of_a_disc() -> None:
    size, radius = 101, 40.0
    x, y = coordinates(size)
    seen = Radon(size, ANGLES)(((x**2 + y**2) < radius**2).to(F64)[None])[0]
    distance = torch.arange(size, dtype=F64) - (size - 1) / 2
    wanted = 2 * (radius**2 - distance**2).clamp_min(0).sqrt()
    inside = distance.abs() < 0.95 * radius
    assert (seen - wanted)[:, inside].abs().max() < 2.0  # a pixel at either end of the chord
    close(seen.sum(1) / wanted.sum(), torch.ones(len(ANGLES), dtype=F64), 2e-3)


def test_radon_without_rotation_sums_the_rows() -> None:
    image = randn(1, 6, 6)
    close(Radon(6, (0.0,))(image)[0, 0], image[0].sum(0))
    close(Radon(6, (90.0,))(image)[0, 0], image[0].flip(0).sum(1))
    assert Radon(6, 4)(image).shape == (1, 4, 6)


def test_rays_of_radon_reach_the_corners() -> None:
    """The corner at the upper right lies on the middle ray at 135 degrees, 5.7 pixels away."""
    corner = torch.zeros(1, 9, 9, dtype=F64)
    corner[0, 0, -1] = 1.0
    assert float(Radon(9, (135.0,))(corner)[0, 0, 4]) > 0.4


# The battery.


@pytest.mark.parametrize("name", OPERATORS)
def test_the_adjoint_is_exact(name: str) -> None:
    make, shape = OPERATORS[name]
    operator = make()
    for seed in range(3):
        left, right = check_adjoint(operator, shape, seed)
        assert abs(left - right) <= 1e-12 * max(1.0, abs(left))
    y = torch.randn_like(operator(randn(3, *shape)))
    close(operator.adjoint(y), transpose(operator, y, shape))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_matrix_is_the_operator(name: str) -> None:
    make, shape = OPERATORS[name]
    operator, x = make(), randn(3, *shape, seed=7)
    matrix = operator.matrix(shape)
    image = operator(x)
    close(image.flatten(1), x.flatten(1) @ matrix.T)
    close(operator.adjoint(image).flatten(1), image.flatten(1) @ matrix)
    assert operator.measured(shape) == image.shape[1:]
    close(operator(2.0 * x[:1] - 3.0 * x[1:2]), 2.0 * image[:1] - 3.0 * image[1:2])


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_pass_through(name: str) -> None:
    """Of A x in x, and of A^T y in y, once and twice, as guidance needs them."""
    make, shape = OPERATORS[name]
    operator, x = make(), randn(2, *shape).requires_grad_()
    image = operator(x)
    (grad,) = torch.autograd.grad(image.square().sum(), x, create_graph=True)
    close(grad, 2 * operator.adjoint(image))
    (twice,) = torch.autograd.grad((grad * x).sum(), x)
    close(twice, 2 * grad.detach())
    y = image.detach().requires_grad_()
    back = operator.adjoint(y)
    (grad,) = torch.autograd.grad(back.square().sum(), y)
    close(grad, 2 * operator(back.detach()))


@pytest.mark.parametrize("name", OPERATORS)
def test_precision_is_that_of_the_argument(name: str) -> None:
    make, shape = OPERATORS[name]
    operator, x = make(), randn(2, *shape)
    there, here = operator(x), operator(x.float())
    assert here.dtype == torch.float32 and operator.adjoint(here).dtype == torch.float32
    torch.testing.assert_close(here.double(), there, rtol=1e-5, atol=1e-5)
    if operator.decomposable:
        assert operator.pinv(here).dtype == torch.float32
        assert operator.gram_function(lambda s: s + 1, x.float()).dtype == torch.float32


@pytest.mark.parametrize("name", OPERATORS)
def test_samples_do_not_depend_on_their_batch(name: str) -> None:
    make, shape = OPERATORS[name]
    operator, x = make(), randn(4, *shape)
    other = torch.cat([x[:2], 100.0 * randn(2, *shape, seed=8)])
    images = [operator(part) for part in (x, other)]
    outs = [images, [operator.adjoint(image) for image in images]]
    if operator.decomposable:
        outs.append([operator.pinv(image) for image in images])
        outs.append([operator.gram_function(lambda s: 1 / (1 + s), part) for part in (x, other)])
    assert all(torch.equal(a[:2], b[:2]) for a, b in outs)


@pytest.mark.parametrize("name", KNOWN)
def test_functions_of_singular_values_are_those_of_the_dense_matrix(name: str) -> None:
    make, shape = OPERATORS[name]
    operator, x = make(), randn(3, *shape)
    _, s, vt = torch.linalg.svd(operator.matrix(shape), full_matrices=True)
    s = torch.cat([s, s.new_zeros(len(vt) - len(s))])
    s = torch.where(s > 1e-10, s, torch.zeros_like(s))
    variances = torch.tensor([0.5, 1.0, 4.0], dtype=F64)

    def of(fn: Callable[[Tensor], Tensor], flat: Tensor) -> Tensor:
        return (flat @ vt.T * fn(s)) @ vt

    for fn in (lambda s: s.square(), lambda s: 1 / (0.3 + s**3), lambda s: (s == 0).to(s)):
        close(operator.gram_function(fn, x).flatten(1), of(fn, x.flatten(1)), 1e-11)
    column = variances.reshape(-1, *(1,) * len(shape))
    seen = operator.gram_function(lambda s: 1 / (s.square() + column), x)
    for row, variance in enumerate(variances):
        wanted = of(lambda s, v=variance: 1 / (s.square() + v), x[row : row + 1].flatten(1))
        close(seen[row : row + 1].flatten(1), wanted, 1e-11)


@pytest.mark.parametrize("name", KNOWN)
def test_the_pseudo_inverse_is_that_of_the_dense_matrix(name: str) -> None:
    make, shape = OPERATORS[name]
    operator = make()
    y = randn(3, *operator.measured(shape), seed=9)
    inverse = torch.linalg.pinv(operator.matrix(shape), rtol=1e-10)
    close(operator.pinv(y).flatten(1), y.flatten(1) @ inverse.T, 1e-10)


# Compositions, and what is refused.


def test_compositions_keep_what_is_known() -> None:
    some, blur = Mask(mask(2, 4)), Blur(randn(3))
    assert some @ Identity() is some and Identity() @ blur is blur
    both = some @ blur
    assert not both.decomposable
    for call in (
        lambda: both.pinv(randn(1, 3)),
        lambda: both.gram_function(torch.sin, randn(1, 8)),
    ):
        with pytest.raises(TypeError, match=r"take dense\(operator, shape\)"):
            call()
    assert repr(both).startswith("Mask(") and " @ Blur(" in repr(both)
    with pytest.raises(TypeError, match="other: expected a LinearOperator"):
        some @ torch.eye(2)


def test_a_wrong_adjoint_is_refused_with_both_inner_products() -> None:
    with pytest.raises(
        ValueError, match=r"<A x, y> = -?[\d.]+ and <x, A\^T y> = -?[\d.]+"
    ) as caught:
        Linear(lambda x: x[:, 1:] - x[:, :-1], lambda y: -difference_adjoint(y), shape=(5,))
    left, right = (float(p) for p in str(caught.value).replace(";", " ").split() if _number(p))
    assert math.isclose(left, -right, rel_tol=1e-4) and abs(left) > 0.1
    with pytest.raises(ValueError, match=r"adjoint: expected shape \(3, 5\), got .*\(3, 4\)"):
        Linear(lambda x: x[:, 1:] - x[:, :-1], lambda y: y, shape=(5,))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x + 2.0, r"a linear map, so A 0 = 0, got \|A 0\| = 2"),
        (lambda x: x.abs(), "forward: expected a linear map, got"),
        (lambda x: x * x, "forward: expected a linear map, got"),
        (lambda x: x - x.mean(0), "same image of a sample in any batch"),
    ],
)
def test_what_is_not_linear_is_refused(forward: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Linear(forward, shape=(4,))


def test_an_adjoint_of_single_precision_passes() -> None:
    a = randn(4, 3).float()
    single = Linear(lambda x: x @ a.T, lambda y: y @ a, shape=(3,), dtype=torch.float32)
    assert single(torch.ones(1, 3)).shape == (1, 4)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Mask(torch.ones(3)), ValueError, "mask: expected a bool tensor"),
        (lambda: Mask(torch.zeros(3, dtype=torch.bool)), ValueError, "at least one True"),
        (lambda: Mask(mask(2, 4))(randn(1, 4, 2)), ValueError, "x: expected shape"),
        (lambda: Mask([True]), TypeError, "mask: expected a Tensor"),
        (lambda: Matrix(randn(3)), ValueError, r"A: expected shape \(M, D\)"),
        (lambda: Matrix(randn(2, 3) / 0), ValueError, "A: expected finite numbers"),
        (lambda: Matrix(randn(2, 3), shape=(2, 2)), ValueError, "a shape with 3 entries"),
        (lambda: Matrix(randn(2, 3))(randn(1, 2)), ValueError, r"x: expected shape \(B, 3\)"),
        (lambda: Blur(torch.zeros(3)), ValueError, "kernel: expected finite numbers, not all 0"),
        (lambda: Blur(randn(5))(randn(1, 4)), ValueError, r"last axes of at least \(5,\)"),
        (lambda: Blur(randn(2, 2))(randn(1, 4)), ValueError, r"last axes of at least \(2, 2\)"),
        (lambda: Fourier(torch.ones(3)), ValueError, "mask: expected a bool tensor"),
        (lambda: Fourier(mask(3, 4))(randn(1, 4, 3)), ValueError, r"last axes \(3, 4\)"),
        (lambda: SuperResolution(0), ValueError, "factor: expected a positive integer"),
        (lambda: SuperResolution(2)(randn(1, 3, 4)), ValueError, "2 last axes that 2 divides"),
        (lambda: SuperResolution(2)(randn(1, 4)), ValueError, "2 last axes that 2 divides"),
        (lambda: Radon(4, ()), ValueError, "angles: expected an angle or more"),
        (lambda: Radon(4, 3)(randn(1, 4, 5)), ValueError, r"images \(B, \*C, 4, 4\)"),
        (lambda: Linear(3, shape=(2,)), TypeError, "forward: expected a function"),
        (lambda: Linear(lambda x: 1.0, shape=(2,)), TypeError, "one measurement per sample"),
    ],
)
def test_bad_input(make: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()
