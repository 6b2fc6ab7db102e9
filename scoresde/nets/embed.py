"""Embeddings of time and class label, and the check of every network's inputs."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from scoresde._check import fail, floating, positive_int, wrong_type

__all__ = ["FourierFeatures", "LabelEmbedding", "TimeEmbedding", "check_call"]


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
    """Embedding of time and label: a small MLP of the Fourier features of t, plus a label vector.

        emb(t, label) = W_2 silu(W_1 fourier(t)) + table[label]

    Args:
        width: length of the embedding.
        classes: number of classes, 0 for an unconditional network.
        max_frequency: that of the Fourier features.

    Shapes: ``t: (B,)``, ``label: (B,)`` int64, -1 or None for no label -> ``(B, width)``, in the
    dtype of the weights.

    Raises:
        ValueError: ``width`` is not a positive integer, or ``classes`` is negative.

    Source: Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3 (labels).

    Example:
        >>> import torch
        >>> from scoresde.nets import TimeEmbedding
        >>> embed = TimeEmbedding(32, classes=10)
        >>> embed(torch.rand(4), torch.tensor([0, 9, -1, -1])).shape
        torch.Size([4, 32])
    """

    def __init__(self, width: int, classes: int = 0, max_frequency: float = 100.0) -> None:
        super().__init__()
        positive_int("width", width)
        self.fourier = FourierFeatures(64, max_frequency)
        self.first = nn.Linear(64, width)
        self.second = nn.Linear(width, width)
        self.label = LabelEmbedding(width, classes) if class_count(classes) else None

    def forward(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        features = self.fourier(t).to(self.first.weight.dtype)
        emb: Tensor = self.second(nn.functional.silu(self.first(features)))
        return emb if self.label is None else emb + self.label(label, t.shape[0])


def class_count(classes: int) -> int:
    """Check and return the number of classes: 0 for none, or a positive integer."""
    remedy = "pass the number of classes, or 0 for none"
    return 0 if classes == 0 else positive_int("classes", classes, remedy)


def check_call(
    x: Tensor, t: Tensor, label: Tensor | None, event: tuple[int | str, ...], classes: int
) -> None:
    """Check shapes and dtypes of the arguments of ``net(x, t, label)``, without synchronisation.

    Args:
        x: the state, which must be floating point of shape ``(B, *event)``.
        t: the times, which must be floating point of shape ``(B,)``.
        label: the labels, which must be int64 of shape ``(B,)``, or None.
        event: shape of one sample; a string in it, such as "H", allows any size.
        classes: the number of classes of the network, 0 if it takes no label.

    Raises:
        ValueError: a shape is wrong.
        TypeError: a dtype is wrong, or labels are given to a network without classes.

    Example:
        >>> import torch
        >>> from scoresde.nets.embed import check_call
        >>> check_call(torch.zeros(4, 1, 8, 8), torch.rand(4), None, (1, "H", "W"), 0)
    """
    pairs = zip(event, floating("x", x).shape[1:], strict=False)
    if x.ndim != len(event) + 1 or any(n != m for n, m in pairs if not isinstance(n, str)):
        want = f"shape (B, {', '.join(map(str, event))})"
        raise fail("x", want, x, "reshape it, or build the network for this shape")
    if floating("t", t).shape != x.shape[:1]:
        remedy = "pass one time per sample, e.g. t.expand(len(x)) of a single one"
        raise fail("t", f"shape ({len(x)},)", t, remedy)
    if label is None:
        return
    if classes == 0:
        remedy = "build the network with classes=..., or leave label out"
        raise wrong_type("label", "none, as classes=0", label, remedy)
    if label.dtype != torch.int64:
        raise wrong_type("label", "an int64 tensor", label, "convert it with .long()")
    if label.shape != x.shape[:1]:
        raise fail("label", f"shape ({len(x)},)", label, "give one per sample, -1 for no label")
