"""A judge of small labelled images: a classifier, and metrics in its feature space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scoresde._check import (
    fail,
    floating,
    instance,
    need,
    no_mask,
    positive,
    positive_int,
    same_shape,
)
from scoresde._html import Shown
from scoresde._progress import progress as progress_of
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, labels_of, rows_of
from scoresde.metrics.balance import class_balance
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.neighbours import nearest_distance

__all__ = ["Judge", "Quality"]


@dataclass(frozen=True)
class Quality(Shown):
    """The metrics of a `Judge` for samples, each beside its value for real data.

    Attributes:
        frechet: `frechet_distance` of the samples' features to the held-out ones.
        frechet_real: that of the training features to the held-out ones, at the same `count`, the
            value for new real data. A perfect model is near it, not at 0, and may be below.
        balance: total variation between the classes assigned to samples and to held-out data.
        nearest: median distance of the samples to their nearest training image, in model units.
        nearest_real: the same for held-out images. A `nearest` far below it means memorisation,
            one far above it noise or blur.
        confidence: mean probability of the class the judge assigns to a sample.
        confidence_real: the same for held-out images.
        count: number of images on each side of every comparison.
    """

    frechet: float
    frechet_real: float
    balance: float
    nearest: float
    nearest_real: float
    confidence: float
    confidence_real: float
    count: int


@final
class Judge(nn.Module):
    """A classifier of small labelled images whose last hidden layer is a feature space.

    `Judge.fit` trains a multilayer perceptron on flattened pixels, in half a second for 900
    digits; `Judge.fit_convolutional` a convolutional network, in minutes for 60,000 images of
    28 x 28 pixels on two cores. Weights can be saved as safetensors like those of any module. The
    features are scaled so that their total variance over the training set is 1: a Frechet
    distance of 0.01 is then 1 % of the variance of real data.

    Limitations: it is trained on the training half, as the generative model is, so training
    features are those of known images; on the digits this has no visible effect on the distance
    between halves. It ignores details that do not matter for the class: weak pixel noise hardly
    changes its features, but changes `nearest`. Its distances compare models judged by the same
    judge on the same number of images. They are not an FID, which is defined by the Inception
    network and would be meaningless for such images.

    Args:
        body: the map from images to their hidden activations (B, F).
        head: the map from these to the logits (B, K), K >= 2.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> x, y = load_digits(return_X_y=True)
        >>> judge = Judge.fit(x[:900] / 8 - 1, y[:900], seed=0)
        >>> judge
        Judge(64 -> 128 -> 32 -> 10)
        >>> judge.accuracy(x[900:] / 8 - 1, y[900:]) > 0.9
        True
        >>> judge.features(x[900:] / 8 - 1).shape
        torch.Size([897, 32])
    """

    scale: Tensor

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.register_buffer("scale", torch.ones_like(head.weight[0, 0]))

    @classmethod
    def fit(cls, x: Array, labels: Array, *, seed: int = 0) -> Judge:
        """Train a perceptron in float64: 128 and 32 hidden units, L-BFGS on all data.

        The result is deterministic for a seed on one machine.

        Args:
            x: (N, *D) images in model units, preferably the training half of the data.
            labels: (N,) integers 0 ... K - 1, K >= 2, with every class present.
            seed: seed of the initial weights.

        Raises:
            TypeError: labels are not integers.
            ValueError: lengths differ, a class is missing, or numbers are not finite.
            ImportError: scikit-learn is not installed.
        """
        rows, label = rows_of("x", x), labels_of(labels)
        same_shape("labels", label, rows[:, 0], "pass one label per image")
        present = sorted(set(label.tolist()))
        if len(present) < 2 or present != list(range(len(present))):
            expected = "every class 0 ... K - 1 to be present, K >= 2"
            raise fail("labels", expected, present, "renumber the labels")
        network = need("sklearn.neural_network", "data").MLPClassifier(
            (128, 32), solver="lbfgs", alpha=0.1, max_iter=1000, random_state=seed
        )
        network.fit(rows.numpy(), label.numpy())
        weights = [torch.as_tensor(matrix).double().T for matrix in network.coefs_]
        biases = [torch.as_tensor(vector).double() for vector in network.intercepts_]
        if len(present) == 2:  # scikit-learn has a single logit then, relative to 0
            weights[-1] = torch.cat([torch.zeros_like(weights[-1]), weights[-1]])
            biases[-1] = torch.cat([torch.zeros_like(biases[-1]), biases[-1]])
        layers = list(map(_linear, weights, biases))
        body = nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())))
        return cls(body, layers[-1])._scaled(rows)

    @classmethod
    def convolutional(
        cls, channels: int, classes: int, *, width: int = 32, features: int = 128
    ) -> Judge:
        """An untrained convolutional judge of images of at least 8 x 8 pixels, to load weights.

        It has three 3 x 3 convolutions with batch normalisation and two halvings, the mean over
        2 x 2 regions, and a hidden layer.

        Args:
            channels: channels of the images.
            classes: number of classes, at least 2.
            width: channels of the first convolution.
            features: length of the feature vector.

        Raises:
            TypeError, ValueError: a size is not a positive integer, or there is only one class.
        """
        if positive_int("classes", classes) < 2:
            raise fail("classes", "at least 2", classes, "there is nothing to tell apart")
        positive_int("channels", channels)
        positive_int("width", width)
        body = nn.Sequential(
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
        return cls(body, nn.Linear(features, classes))

    @classmethod
    def fit_convolutional(
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
        progress: bool = False,
    ) -> Judge:
        """Train a convolutional judge by AdamW, with a one-cycle learning rate.

        Args:
            x: (N, C, H, W) images in model units, on the device of the training.
            labels: (N,) integers 0 ... K - 1.
            classes: K; the largest label + 1 by default.
            epochs: number of passes over the images.
            batch_size: number of images in a step.
            lr: the highest learning rate.
            width, features: see `convolutional`.
            seed: seed of the initial weights and of the order; the global random state does not
                change.
            progress: show a bar with the time left, or lines if stderr is not a terminal.

        Raises:
            TypeError: labels are not integers, or images are not floats.
            ValueError: images are not (N, C, H, W), lengths differ, or a label is out of range.
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
            judge = cls.convolutional(x.shape[1], count, width=width, features=features)
        judge.to(x.device).train()
        optimizer = torch.optim.AdamW(judge.parameters(), lr=positive("lr", lr), weight_decay=0.01)
        with closing(progress_of(steps, "judge", "steps", shown=progress)) as bar:
            for step, rows in enumerate(_batches(len(x), batch_size, epochs, seed)):
                for group in optimizer.param_groups:  # up over a tenth of the steps, down to 0
                    rise, fall = (step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps)
                    group["lr"] = lr * min(1.0, rise, fall)
                where = rows.to(x.device)
                loss = cross_entropy(judge(x[where]), label[where], label_smoothing=0.05)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                bar.update()
        return judge._scaled(x)

    def _scaled(self, x: Tensor) -> Judge:
        """The judge in evaluation mode, its features scaled to total variance 1 on the images."""
        self.eval()
        variance = float(self.features(x).var(0).sum())
        if not math.isfinite(variance) or variance == 0 or bool((x == x[:1]).all()):
            raise fail("x", "images that differ", x, "check what was loaded")
        self.scale.fill_(variance**-0.5)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of a batch of images."""
        out: Tensor = self.head(self.body(x))
        return out

    def __repr__(self) -> str:
        layers = [layer for layer in self.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if any(isinstance(layer, nn.Conv2d) for layer in layers):
            return f"Judge(convolutional, {self.head.in_features} -> {self.head.out_features})"
        sizes = [layer.weight.shape[1] for layer in layers] + [self.head.out_features]
        return f"Judge({' -> '.join(map(str, sizes))})"

    @torch.no_grad()
    def features(self, x: Array, batch_size: int = 1000) -> Tensor:
        """Scaled last hidden activations (N, F) of images, float64 on the CPU.

        Args:
            x: (N, *D) images as in training, in model units.
            batch_size: number of images in one pass.

        Raises:
            ValueError: images have another size than in training or are not finite, or the judge
                is in training mode, where results of an image depend on other images.
        """
        return self._hidden(x, batch_size).double().cpu() * self.scale.double().cpu()

    @torch.no_grad()
    def probabilities(self, x: Array, batch_size: int = 1000) -> Tensor:
        """Probability (N, K) of every class for images (N, *D), float64 on the CPU.

        Raises:
            ValueError: see `features`.
        """
        logits: Tensor = self.head(self._hidden(x, batch_size))
        return logits.double().softmax(dim=1).cpu()

    def classify(self, x: Array, batch_size: int = 1000) -> Tensor:
        """The most probable class (N,), int64 on the CPU, of images (N, *D).

        Raises:
            ValueError: see `features`.
        """
        return self.probabilities(x, batch_size).argmax(dim=1)

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of images (N, *D) that the judge classifies as their labels (N,).

        Raises:
            TypeError: labels are not integers.
            ValueError: lengths differ; see `features`.
        """
        predicted, label = self.classify(x), labels_of(labels)
        same_shape("labels", label, predicted, "pass one label per image")
        return float((predicted == label).double().mean())

    def _hidden(self, x: Array, batch_size: int) -> Tensor:
        """Hidden activations (N, F) of images (N, *D), before they are scaled."""
        if self.training:
            got = "one in training mode, as it is made and before its weights are loaded"
            raise fail("self", "a judge in evaluation mode", got, "call .eval() on it")
        layers = (m for m in self.body.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        first = next(layers)
        if isinstance(first, nn.Linear):
            images = rows_of("x", x)
            if images.shape[1] != first.in_features:
                expected = f"{first.in_features} values an image, as in training"
                remedy = "use images of the size the judge was trained on"
                raise fail("x", expected, images, remedy)
        else:
            no_mask("x", x)
            images = _images(torch.as_tensor(x))
        parts = torch.split(images, batch_size)
        return torch.cat([self.body(part.to(first.weight)) for part in parts])

    def compare(self, samples: Array, held_out: Array, train: Array, *, seed: int = 0) -> Quality:
        """Compare samples, and the training half, with the same held-out data.

        All three sets are reduced to the size of the smallest at random, because distances
        between sets depend on the number of images: smaller sets have larger distances. Only the
        nearest image is searched in all of `train`, for samples and held-out images alike.

        Args:
            samples: (N, *D) images of the model, in model units.
            held_out: (M, *D) real images that were used for neither the model nor the judge.
            train: (L, *D) the training images of the model.
            seed: seed of the reduction.

        Raises:
            ValueError: D differs, there are fewer than two images, or numbers are not finite.
        """
        sets = {"samples": samples, "held_out": held_out, "train": train}
        rows = {name: rows_of(name, value, least=2) for name, value in sets.items()}
        count = min(map(len, rows.values()))
        generator = seeded(seed)
        order = [torch.randperm(len(x), generator=generator, device="cpu") for x in rows.values()]
        made, real, seen = (
            torch.as_tensor(x)[chosen[:count]]
            for x, chosen in zip(sets.values(), order, strict=True)
        )
        target = self.features(real)
        belief, belief_real = self.probabilities(made), self.probabilities(real)
        classes = belief.shape[1]
        usual = torch.bincount(belief_real.argmax(dim=1), minlength=classes)
        return Quality(
            frechet=frechet_distance(self.features(made), target),
            frechet_real=frechet_distance(self.features(seen), target),
            balance=class_balance(belief.argmax(dim=1), classes, usual).total_variation,
            nearest=float(nearest_distance(made, rows["train"]).median()),
            nearest_real=float(nearest_distance(real, rows["train"]).median()),
            confidence=float(belief.amax(dim=1).mean()),
            confidence_real=float(belief_real.amax(dim=1).mean()),
            count=count,
        )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight), device="meta")  # where no numbers are drawn
    layer.load_state_dict({"weight": weight.contiguous(), "bias": bias}, assign=True)
    return layer


def _convolution(ins: int, outs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outs), nn.ReLU()


def _batches(samples: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Rows of batches, in a new order in every epoch."""
    generator = seeded(seed)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(samples, generator=generator, device="cpu"), size)


def _images(x: Tensor) -> Tensor:
    instance("x", x, Tensor, "convert it with torch.as_tensor")
    if floating("x", x).ndim != 4 or x.shape[0] == 0:
        raise fail("x", "images (N, C, H, W), N >= 1", x, "add the axis of channels: x[:, None]")
    return x
