"""Embeddings of time, class label and input, and the check of every network's x and t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import fail, finite, floating, positive, positive_int, wrong_type

__all__ = [
    "FourierFeatures",
    "LabelEmbedding",
    "TimeEmbedding",
    "check_call",
    "check_exponents",
    "check_numbers",
    "check_precision",
    "input_features",
    "level_exponents",
]


@final
class FourierFeatures(nn.Module):
    """Sinusoidal features of time, sin(w_k t) and cos(w_k t) at fixed geometric frequencies.

    The ``dim / 2`` frequencies range from 1 to ``max_frequency`` (radians per unit of t): the slow
    features are monotone on [0, 1], the fast ones distinguish t = 0.001 from t = 0.01. Higher
    frequencies do not improve the fit and make the network rougher in t, which costs solvers
    steps: with 1000 instead of 100 a U-Net on the digits has the same loss, and an adaptive ODE
    solver needs twice the calls. Phases are computed in float32 or wider even in a bfloat16
    network.

    Args:
        dim: number of features, even.
        max_frequency: the fastest frequency, at least 1.

    Shapes: ``t: (B,)`` -> ``(B, dim)``, in the dtype of t or float32, whichever is wider.

    Raises:
        ValueError: ``dim`` is odd or not positive, or ``max_frequency`` below 1 or infinite.

    Source: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B (there t is an integer
    below 1000, so its fastest feature is ours at ``max_frequency=1000``).

    Example:
        >>> import torch
        >>> from scoresde.nets import FourierFeatures
        >>> FourierFeatures(64)(torch.tensor([0.0, 0.5, 1.0])).shape
        torch.Size([3, 64])
    """

    frequency: Tensor

    def __init__(self, dim: int, max_frequency: float = 100.0) -> None:
        super().__init__()
        if positive_int("dim", dim) % 2:
            raise fail("dim", "an even number", dim, f"pass {dim + 1}: half sines, half cosines")
        if not 1.0 <= max_frequency < math.inf:
            remedy = "pass about 1 / (the smallest time that matters)"
            raise fail("max_frequency", "a finite number >= 1", max_frequency, remedy)
        frequency = torch.logspace(0.0, math.log10(max_frequency), dim // 2, dtype=torch.float64)
        # Rounded to bfloat16, so that a cast of the network to half precision changes nothing.
        self.register_buffer("frequency", frequency.to(torch.bfloat16).to(torch.float32))

    def forward(self, t: Tensor) -> Tensor:
        dtype = torch.promote_types(t.dtype, torch.float32)
        phase = t.to(dtype)[:, None] * self.frequency.to(dtype)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


@final
class LabelEmbedding(nn.Module):
    """Learned vector per class, with one more row for "no label" (label < 0).

    The last row is the unconditional input of classifier-free guidance.

    Args:
        width: length of the vectors.
        classes: number of classes, at least 1.

    Shapes: ``label: (B,)`` int64, or None for no labels -> ``(B, width)``.

    Raises:
        ValueError: ``width`` or ``classes`` is not a positive integer.

    Source: Ho and Salimans 2022, "Classifier-free diffusion guidance", section 3.2.

    Example:
        >>> import torch
        >>> from scoresde.nets.embed import LabelEmbedding
        >>> embed = LabelEmbedding(8, classes=10)
        >>> null = embed(torch.tensor([3, -1]), batch=2)[1]
        >>> torch.equal(null, embed(None, batch=1)[0])
        True
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.null = positive_int("classes", classes)
        self.table = nn.Embedding(classes + 1, positive_int("width", width))

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        if label is None:
            return self.table.weight[self.null].expand(batch, -1)
        # a label beyond the classes must fail and not read the row of "no label"
        rows = torch.where(label < self.null, label, label + 1)
        vectors: Tensor = self.table(torch.where(label < 0, self.null, rows))
        return vectors


@final
class TimeEmbedding(nn.Module):
    """Embedding of time: a small MLP of its Fourier features.

        emb(t) = W_2 silu(W_1 fourier(t))

    Args:
        width: length of the embedding.
        max_frequency: that of the Fourier features.

    Shapes: ``t: (B,)`` -> ``(B, width)``, in the dtype of the weights.

    Raises:
        ValueError: ``width`` is not a positive integer.

    Source: Ho et al. 2020, appendix B.

    Example:
        >>> import torch
        >>> from scoresde.nets import TimeEmbedding
        >>> TimeEmbedding(32)(torch.rand(4)).shape
        torch.Size([4, 32])
    """

    def __init__(self, width: int, max_frequency: float = 100.0) -> None:
        super().__init__()
        positive_int("width", width)
        self.fourier = FourierFeatures(64, max_frequency)
        self.first = nn.Linear(64, width)
        self.second = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        features = self.fourier(t).to(self.first.weight.dtype)
        emb: Tensor = self.second(nn.functional.silu(self.first(features)))
        return emb


def input_features(x: Tensor, exponents: Sequence[float], dtype: torch.dtype) -> Tensor:
    """x with sin(2^n pi x) and cos(2^n pi x) of each n as further channels, in precision `dtype`.

    Args:
        x: (B, C, *D).
        exponents: the numbers n; without any, x is returned as it is.
        dtype: the precision of the result; phases are computed in float32 or wider.

    Source: Kingma et al. 2021, "Variational diffusion models", appendix C.

    Example:
        >>> import torch
        >>> from scoresde.nets.embed import input_features
        >>> input_features(torch.zeros(2, 3, 8, 8), (7, 8), torch.float32).shape
        torch.Size([2, 15, 8, 8])
    """
    if not exponents:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    phases = [2.0**n * math.pi * wide for n in exponents]
    waves = [wave.to(dtype) for phase in phases for wave in (phase.sin(), phase.cos())]
    return torch.cat([x.to(dtype), *waves], dim=1)


def level_exponents(bin_width: float) -> tuple[float, float]:
    """The exponents of `input_features` whose periods are two levels and one level of the data.

    Near t = 0 the phase of the second is the noise modulo the distance of two levels, which is
    all that a network must remove. For 256 levels in [-1, 1] the exponents are 6.99 and 7.99.

    Args:
        bin_width: the distance between neighbouring levels in model units.

    Raises:
        ValueError: it is not above 0.

    Example:
        >>> level_exponents(2 / 256)
        (7.0, 8.0)
    """
    last = math.log2(2.0 / positive("bin_width", bin_width, "pass quantisation.bin_width"))
    return last - 1.0, last


def check_exponents(exponents: Sequence[float]) -> list[float]:
    """Check and return the exponents of `input_features` as a list, for `config`."""
    remedy = "pass e.g. level_exponents(quantisation.bin_width), or () for none"
    return check_numbers("input_fourier", exponents, 20, remedy)


def check_numbers(name: str, values: Sequence[float], most: float, remedy: str) -> list[float]:
    """Check numbers from 0 to `most`, and return them as a list, for `config`.

    Raises:
        TypeError: they are no sequence of numbers.
        ValueError: one of them is negative, above `most` or not finite.
    """
    if not isinstance(values, Sequence):
        raise wrong_type(name, "a sequence of numbers", values, remedy)
    found = [finite(name, value, remedy) for value in values]
    if any(not 0 <= value <= most for value in found):
        raise fail(name, f"numbers from 0 to {most:g}", values, remedy)
    return found


def check_call(x: Tensor, t: Tensor, event: tuple[int | str, ...], about: str = "") -> None:
    """Check shapes and dtypes of x and t in ``net(x, t)``, without synchronisation.

    Args:
        x: the state, which must be floating point of shape ``(B, *event)``.
        t: the times, which must be floating point of shape ``(B,)``.
        event: shape of one sample; a string in it, such as "H", allows any size.
        about: what is said of the network beside the shape that it takes.

    Raises:
        ValueError: a shape is wrong.
        TypeError: a dtype is wrong.

    Example:
        >>> import torch
        >>> from scoresde.nets.embed import check_call
        >>> check_call(torch.zeros(4, 1, 8, 8), torch.rand(4), (1, "H", "W"))
    """
    pairs = zip(event, floating("x", x).shape[1:], strict=False)
    if x.ndim != len(event) + 1 or any(n != m for n, m in pairs if not isinstance(n, str)):
        want = f"shape (B, {', '.join(map(str, event))})"
        comma = f", {about}" if about else ""
        remedy = "reshape it, or build the network for this shape"
        raise fail("x", f"{want}, that of the network{comma}", x, remedy)
    if floating("t", t).shape != x.shape[:1]:
        remedy = "pass one time per sample, e.g. t.expand(len(x)) of a single one"
        raise fail("t", f"shape ({len(x)},)", t, remedy)


def check_precision(x: Tensor, emb: Tensor) -> None:
    """Check that the input has the precision of the network, without synchronisation.

    Args:
        x: the input of the first layer.
        emb: the embedding of time and conditions, which has the precision of the weights or of
            torch.autocast, which casts inputs of all precisions but float64.

    Raises:
        TypeError: the precisions differ.

    Example:
        >>> import torch
        >>> from scoresde.nets.embed import check_precision
        >>> check_precision(torch.zeros(4, 2), torch.zeros(4, 64))
    """
    if x.dtype == emb.dtype:
        return
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return
    remedy = f"pass x.to({emb.dtype}), or convert the network with .to({x.dtype})"
    raise wrong_type("x", f"{emb.dtype}, the precision of the network", x, remedy)
