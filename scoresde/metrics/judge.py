"""A judge of small labelled images: a classifier, and what its features say of samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import fail, need, same_shape
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, labels_of, rows_of
from scoresde.metrics.balance import class_balance
from scoresde.metrics.frechet import frechet_distance
from scoresde.metrics.neighbours import nearest_distance

__all__ = ["Judge", "Quality"]


@dataclass(frozen=True)
class Quality:
    """What a `Judge` says of samples, each number beside the same number for real data.

    Attributes:
        frechet: `frechet_distance` of the samples' features to the held-out ones.
        frechet_real: of the training features to the held-out ones, at the same `count`: what
            fresh real data would score. A perfect model is near it, not at 0, and may be below.
        balance: total variation between the classes assigned to samples and to held-out data.
        nearest: median distance of the samples to their nearest training image, in model units.
        nearest_real: the same of held-out images. A `nearest` well below it is memorisation, one
            well above it means noise or blur.
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


@dataclass(frozen=True, eq=False, repr=False)
class Judge:
    """A quality judge for small labelled images: a classifier whose last hidden layer is a
    feature space.

    A multilayer perceptron on flattened pixels, built with `Judge.fit`; the features are its last
    hidden activations, scaled so that their total variance over the training set is 1 (a Frechet
    distance of 0.01 is then 1 % of the variance of real data).

    What it cannot do. It is trained on the training half, the very images a generative model is
    trained on, so training features are those of images it has seen; on the digits that does not
    show in the distance between halves. It is blind to what does not matter for the class: weak
    pixel noise hardly moves its features, and shows in `nearest` instead. Its distances compare
    models judged by the same judge on the same number of images. They are not an FID, which is
    defined by the Inception network and would mean nothing on such images.

    Args:
        weights: the layers' matrices (in, out), float64; `biases` likewise (out,).
        biases: the layers' biases.
        scale: factor applied to the last hidden activation.

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

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    scale: float

    @classmethod
    def fit(cls, x: Array, labels: Array, *, seed: int = 0) -> Judge:
        """Train a judge on images and labels: 128 and 32 hidden units, L-BFGS on all of the data.

        Half a second for 900 digits. Deterministic for a seed on one machine.

        Args:
            x: (N, *D) images in model units, better the training half than all of the data.
            labels: (N,) integers 0 ... K - 1, K >= 2, every class present.
            seed: of the initial weights.

        Raises:
            TypeError: labels that are not integers.
            ValueError: lengths differ, a class is missing, or numbers that are not finite.
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
        weights = tuple(torch.as_tensor(matrix).double() for matrix in network.coefs_)
        biases = tuple(torch.as_tensor(vector).double() for vector in network.intercepts_)
        variance = cls(weights, biases, 1.0).features(rows).var(dim=0).sum()
        if variance == 0:
            raise fail("x", "images that differ", rows, "check what was loaded")
        return cls(weights, biases, float(variance.rsqrt()))

    def __repr__(self) -> str:
        sizes = [len(weight) for weight in self.weights] + [self.weights[-1].shape[1]]
        return f"Judge({' -> '.join(map(str, sizes))})"

    def features(self, x: Array) -> Tensor:
        """Last hidden activations (N, F) of images (N, *D), float64.

        Raises:
            ValueError: images of another size than the judge was trained on, or not finite.
        """
        rows = rows_of("x", x)
        if rows.shape[1] != len(self.weights[0]):
            expected = f"{len(self.weights[0])} values an image, as in training"
            raise fail("x", expected, rows, "use images of the size the judge was trained on")
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = (rows @ weight + bias).relu()
        return rows * self.scale

    def probabilities(self, x: Array) -> Tensor:
        """Probability (N, K) of every class for images (N, *D), float64."""
        logits = self.features(x) / self.scale @ self.weights[-1] + self.biases[-1]
        # Of two classes scikit-learn keeps one logit, against 0.
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.softmax(dim=1)

    def classify(self, x: Array) -> Tensor:
        """The most probable class (N,), int64, of images (N, *D)."""
        return self.probabilities(x).argmax(dim=1)

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of images (N, *D) whose label (N,) the judge finds.

        Raises:
            TypeError: labels that are not integers.
            ValueError: lengths differ, or images the judge cannot read.
        """
        found, label = self.classify(x), labels_of(labels)
        same_shape("labels", label, found, "pass one label per image")
        return float((found == label).double().mean())

    def compare(self, samples: Array, held_out: Array, train: Array, *, seed: int = 0) -> Quality:
        """Samples against held-out data, beside the training half against the same held-out data.

        All three sets are cut to the size of the smallest, at random, because a distance between
        sets depends on the number of images: smaller sets look further apart. Only the nearest
        image is sought in the whole of `train`, for the samples and the held-out images alike.

        Args:
            samples: (N, *D) images of the model, in model units.
            held_out: (M, *D) real images that neither the model nor the judge has seen.
            train: (L, *D) the images the model was trained on.
            seed: of the cut.

        Raises:
            ValueError: unequal D, fewer than two images, or numbers that are not finite.
        """
        sets = {"samples": samples, "held_out": held_out, "train": train}
        rows = {name: rows_of(name, value, least=2) for name, value in sets.items()}
        count = min(map(len, rows.values()))
        generator = seeded(seed)
        made, real, seen = (
            x[torch.randperm(len(x), generator=generator, device="cpu")[:count]]
            for x in rows.values()
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
