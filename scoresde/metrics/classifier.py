"""A convolutional classifier of small images: labels, features to compare sets of images in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scoresde._check import fail, floating, instance, positive, positive_int, same_shape
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, labels_of

__all__ = ["ImageClassifier"]


@final
class ImageClassifier(nn.Module):
    """Classifier of images from 8 x 8 pixels on, whose last hidden layer is a feature space.

    Three 3 x 3 convolutions with batch normalisation, halved twice, the mean over 2 x 2 regions,
    and a hidden layer of `features` units. `ImageClassifier.fit` trains one, in minutes for 60,000
    images of 28 x 28 pixels on two cores; its weights go through safetensors as those of any
    module.

    Its features are scaled so that their total variance over the training set is 1: a Frechet
    distance of 0.01 is then 1 % of the variance of real data. Distances in them compare models
    that were judged by the same classifier on the same number of images; they are not an FID,
    which is defined by the Inception network.

    Args:
        channels: channels of the images.
        classes: number of classes, at least 2.
        width: channels of the first convolution.
        features: length of the feature vector.

    Raises:
        TypeError, ValueError: a size that is not a positive integer, fewer than two classes.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> digits = load_digits()
        >>> x = torch.as_tensor(digits.images[:, None] / 8 - 1).float()
        >>> judge = ImageClassifier.fit(x[:900], digits.target[:900], epochs=20, width=8)
        >>> judge.accuracy(x[900:], digits.target[900:]) > 0.9
        True
        >>> judge.features(x[900:]).shape
        torch.Size([897, 128])
    """

    scale: Tensor

    def __init__(
        self, channels: int, classes: int, *, width: int = 32, features: int = 128
    ) -> None:
        super().__init__()
        if positive_int("classes", classes) < 2:
            raise fail("classes", "at least 2", classes, "there is nothing to tell apart")
        positive_int("channels", channels)
        positive_int("width", width)
        self.body = nn.Sequential(
            *_convolution(channels, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, positive_int("features", features)),
            nn.ReLU(),
        )
        self.head = nn.Linear(features, classes)
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(
        cls,
        x: Tensor,
        labels: Array,
        *,
        classes: int | None = None,
        epochs: int = 4,
        batch_size: int = 128,
        lr: float = 2e-3,
        width: int = 32,
        features: int = 128,
        seed: int = 0,
    ) -> ImageClassifier:
        """Train a classifier: AdamW, a learning rate that rises and falls once.

        Args:
            x: (N, C, H, W) images in model units, on the device where it is to be trained.
            labels: (N,) integers 0 ... K - 1.
            classes: K; the largest label + 1 by default.
            epochs: passes over the images.
            batch_size: images a step.
            lr: the highest learning rate.
            width, features: as of the class.
            seed: of the initial weights and of the order; the global random state stays as it is.

        Raises:
            TypeError: labels that are not integers, images that are not floats.
            ValueError: no images (N, C, H, W), lengths differ, a label out of range.
        """
        _images(x)
        label = labels_of(labels).to(x.device)
        same_shape("labels", label, x[:, 0, 0, 0], "pass one label per image")
        count = int(label.max()) + 1 if classes is None else positive_int("classes", classes)
        if int(label.min()) < 0 or int(label.max()) >= count:
            got = f"{int(label.min())} to {int(label.max())}"
            raise fail("labels", f"integers from 0 to {count - 1}", got, "check classes")
        steps = positive_int("epochs", epochs) * -(
            -len(x) // positive_int("batch_size", batch_size)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = cls(x.shape[1], count, width=width, features=features).to(x.device)
        net.train()
        optimizer = torch.optim.AdamW(net.parameters(), lr=positive("lr", lr), weight_decay=0.01)
        for step, rows in enumerate(_batches(len(x), batch_size, epochs, seed)):
            for group in optimizer.param_groups:  # up over a tenth of the steps, down to 0
                rise, fall = (step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps)
                group["lr"] = lr * min(1.0, rise, fall)
            where = rows.to(x.device)
            loss = cross_entropy(net(x[where]), label[where], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        net.eval()
        variance = net.features(x).var(0).sum()
        if not math.isfinite(float(variance)) or float(variance) == 0:
            raise fail("x", "images that differ", x, "check what was loaded")
        net.scale.fill_(float(variance.rsqrt()))
        return net

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        out: Tensor = self.head(self.body(x))
        return out

    @torch.no_grad()
    def features(self, x: Tensor, batch_size: int = 1000) -> Tensor:
        """Features (N, F) of images (N, C, H, W), scaled, float64 on the CPU.

        Raises:
            ValueError: in training mode, where one image changes what is said of another.
        """
        self._refuse_training()
        parts = [self.body(part) for part in torch.split(_images(x), batch_size)]
        return torch.cat(parts).double().cpu() * self.scale.double().cpu()

    @torch.no_grad()
    def classify(self, x: Tensor, batch_size: int = 1000) -> Tensor:
        """The most probable class (N,), int64 on the CPU, of images (N, C, H, W).

        Raises:
            ValueError: in training mode, as `features`.
        """
        self._refuse_training()
        return torch.cat(
            [self(part).argmax(1) for part in torch.split(_images(x), batch_size)]
        ).cpu()

    def accuracy(self, x: Tensor, labels: Array) -> float:
        """Share of images (N, C, H, W) whose label (N,) it finds.

        Raises:
            TypeError, ValueError: labels that are not integers or not as many as the images;
                training mode, as `features`.
        """
        found, label = self.classify(x), labels_of(labels)
        same_shape("labels", label, found, "pass one label per image")
        return float((found == label).double().mean())

    def _refuse_training(self) -> None:
        if self.training:
            got = "one in training mode, as it is made and before its weights are loaded"
            raise fail("self", "a classifier in evaluation mode", got, "call .eval() on it")


def _convolution(ins: int, outs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outs), nn.ReLU()


def _batches(samples: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Rows of batches, every epoch in an order of its own."""
    generator: Any = seeded(seed)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(samples, generator=generator, device="cpu"), size)


def _images(x: Tensor) -> Tensor:
    instance("x", x, Tensor, "convert it with torch.as_tensor")
    if floating("x", x).ndim != 4 or x.shape[0] == 0:
        raise fail("x", "images (N, C, H, W), N >= 1", x, "add the axis of channels: x[:, None]")
    return x
