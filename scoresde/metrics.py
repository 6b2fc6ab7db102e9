"""How far samples are from held-out data: distances, class balance, memorisation, and a judge.

Every number here depends on how many samples it is computed from, and most are above zero even for
two halves of the same data. So none is worth quoting without the number of samples and the same
number for real data against real data; `Judge.compare` returns both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from scoresde._check import fail, need, positive_int, same_shape, wrong_type

__all__ = [
    "Balance",
    "Judge",
    "Quality",
    "class_balance",
    "frechet_distance",
    "nearest_distance",
    "sliced_wasserstein",
]

Array: TypeAlias = Tensor | np.ndarray[Any, Any]


def _rows(name: str, value: Array, least: int = 1) -> Tensor:
    """`value` (N, *D) as finite float64 rows (N, D) on the CPU, with N >= least."""
    x = torch.as_tensor(value)
    if x.is_complex() or x.dtype == torch.bool:
        raise wrong_type(name, "real numbers (N, *D)", x, "pass samples in model units")
    if x.ndim < 2 or len(x) < least or x.numel() == 0:
        raise fail(name, f"shape (N, *D) with N >= {least}", x, "pass one row per sample")
    x = x.detach().cpu().double().flatten(1)
    bad = ~x.isfinite().all(dim=1)
    if bad.any():
        got = f"NaN or infinity in {int(bad.sum())} row(s), first row {int(bad.nonzero()[0])}"
        raise fail(name, "finite numbers", got, "find where the sampler diverged")
    return x


def _pair(names: tuple[str, str], values: tuple[Array, Array], least: int) -> tuple[Tensor, ...]:
    a, b = (_rows(name, value, least) for name, value in zip(names, values, strict=True))
    if a.shape[1] != b.shape[1]:
        expected = f"{a.shape[1]} coordinates a row, as {names[0]}"
        raise fail(names[1], expected, b, "compare arrays of the same shape")
    return a, b


def frechet_distance(a: Array, b: Array) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to two sets of features.

    d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with unbiased covariances, in the
    squared unit of the features. With C = R^T R for the triangular factor R of the centred data,
    the last trace is the sum of the singular values of R_a R_b^T, so no covariance is formed, no
    matrix root is taken, and singular covariances (fewer samples than features) lose no digits.

    The estimate is biased upwards, roughly in proportion to 1/N: compare only distances computed
    from the same numbers of samples. It is the FID only on that metric's Inception features.

    Args:
        a: (N, F) features, N >= 2.
        b: (M, F) features, M >= 2.

    Raises:
        ValueError: fewer than two rows, unequal F, or numbers that are not finite.

    Source: Dowson and Landau, J. Multivariate Analysis 12 (1982), eq. (4).

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> frechet_distance(x, x + 3.0)
        9.0
    """
    a, b = _pair(("a", "b"), (a, b), least=2)
    factor_a, factor_b = _factor(a), _factor(b)
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    spread = factor_a.square().sum() + factor_b.square().sum()
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    return max(0.0, float(shift + spread - 2 * overlap))


def _factor(x: Tensor) -> Tensor:
    """R (min(N, F), F) with R^T R the unbiased covariance of the rows of `x` (N, F)."""
    centred = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    factor: Tensor = torch.linalg.qr(centred, mode="r").R
    return factor


def sliced_wasserstein(a: Array, b: Array, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance between two sets of points.

    SW_2 = (E_u W_2(u.a, u.b)^2)^(1/2), u uniform on the unit sphere: on a line the optimal plan
    pairs quantiles, so each term is exact, also for unequal sizes. The mean over u is estimated
    from `projections` directions, with a relative error of about (2 / projections)^(1/2) in SW_2^2
    at worst; a shift by d alone gives |d| / D^(1/2). Two samples of one law are not at distance 0
    but at one of order N^(-1/2): compare at equal sizes.

    Args:
        a: (N, *D) points, flattened to rows.
        b: (M, *D) points.
        projections: number of directions.
        seed: of the directions; the same seed gives the same directions.

    Returns:
        The distance, in the unit of the points.

    Raises:
        ValueError: unequal D, no rows, numbers that are not finite, `projections` < 1.

    Source: Bonneel et al., J. Math. Imaging and Vision 51 (2015).

    Example:
        >>> line = torch.arange(4.0)[:, None]
        >>> sliced_wasserstein(line, line + 2.0)
        2.0
    """
    a, b = _pair(("a", "b"), (a, b), least=1)
    count = positive_int("projections", projections)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], count, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    along_a, along_b = ((directions.T @ x.T).sort(dim=1).values for x in (a, b))
    return float(_line_cost(along_a, along_b).mean().sqrt())


def _line_cost(a: Tensor, b: Tensor) -> Tensor:
    """W_2^2 on a line for each row of sorted a (P, N) and b (P, M).

    The quantile functions are constant between the steps i/N and j/M, here integers over N M.
    """
    n, m = a.shape[1], b.shape[1]
    starts = torch.cat([torch.arange(n) * m, torch.arange(m) * n]).sort().values
    widths = starts.diff(append=torch.tensor([n * m])).double() / (n * m)
    gaps = a[:, starts // m] - b[:, starts // n]
    return gaps.square() @ widths


def nearest_distance(samples: Array, reference: Array) -> Tensor:
    """Euclidean distance of every sample to its nearest reference point.

    A model that memorised gives distances near 0 to its training set, well below those of held-out
    data. Differences are taken before squaring, so copies are at exactly 0.

    Args:
        samples: (N, *D) points.
        reference: (M, *D) points, for example the training set.

    Returns:
        (N,) float64 distances.

    Raises:
        ValueError: unequal D, no rows, or numbers that are not finite.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        tensor([5.], dtype=torch.float64)
    """
    a, b = _pair(("samples", "reference"), (samples, reference), least=1)
    exact = "donot_use_mm_for_euclid_dist"
    step = max(1, 4_000_000 // len(b))
    parts = (a[start : start + step] for start in range(0, len(a), step))
    return torch.cat([torch.cdist(part, b, compute_mode=exact).amin(dim=1) for part in parts])


@dataclass(frozen=True)
class Balance:
    """Counts of every class, and how far their shares are from the reference.

    `total_variation` is half the sum of |share - reference share|: 0 if equal, 1 if disjoint, and
    near ((K - 1) / (2 pi n))^(1/2) for n perfect samples of K equal classes.
    """

    counts: tuple[int, ...]
    total_variation: float


def class_balance(labels: Array, classes: int, reference: Array | None = None) -> Balance:
    """Histogram of labels, and its total-variation distance to a reference.

    Args:
        labels: (N,) integers in 0 ... classes - 1.
        classes: number of classes K.
        reference: (K,) shares or counts to compare with; None is the uniform distribution.

    Raises:
        TypeError: labels that are not integers.
        ValueError: no labels, a label out of range, or a reference that is no distribution.

    Example:
        >>> class_balance(torch.tensor([0, 0, 0, 1]), 2)
        Balance(counts=(3, 1), total_variation=0.25)
    """
    classes = positive_int("classes", classes)
    label = _labels(labels)
    if label.min() < 0 or label.max() >= classes:
        got = f"{int(label.min())} to {int(label.max())}"
        raise fail("labels", f"integers from 0 to {classes - 1}", got, "check classes")
    counts = torch.bincount(label, minlength=classes)
    weights = torch.as_tensor([1.0] * classes if reference is None else reference).cpu().double()
    if weights.shape != (classes,) or not (weights >= 0).all() or not weights.sum() > 0:
        expected = f"{classes} non-negative shares or counts"
        raise fail("reference", expected, reference, "pass one number per class")
    gap = counts.double() / len(label) - weights / weights.sum()
    return Balance(tuple(counts.tolist()), float(gap.abs().sum() / 2))


def _labels(labels: Array) -> Tensor:
    label = torch.as_tensor(labels)
    if label.is_floating_point() or label.is_complex() or label.ndim != 1:
        raise wrong_type("labels", "integers of shape (N,)", label, "one class number per row")
    if len(label) == 0:
        raise fail("labels", "at least one label", label, "check what was loaded")
    return label.long().cpu()


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
        rows, label = _rows("x", x), _labels(labels)
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
        rows = _rows("x", x)
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
        found, label = self.classify(x), _labels(labels)
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
        rows = {name: _rows(name, value, least=2) for name, value in sets.items()}
        count = min(map(len, rows.values()))
        generator = torch.Generator().manual_seed(seed)
        made, real, seen = (
            x[torch.randperm(len(x), generator=generator)[:count]] for x in rows.values()
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
