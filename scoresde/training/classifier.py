"""Training, saving and loading of classifiers of noisy states."""

from __future__ import annotations

import copy
import math
import os
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scoresde._check import diverged, fail, instance, positive, positive_int
from scoresde._html import Shown
from scoresde._progress import progress as progress_of
from scoresde._tensor import batches, check_data, fill, lincomb, seeded
from scoresde.cond import as_labels
from scoresde.guidance import NoiseClassifier
from scoresde.sde import SDE
from scoresde.sde.fingerprint import fingerprint, same_schedule
from scoresde.training.checkpoint import WEIGHTS
from scoresde.training.files import CONFIG, check_config, check_place, open_folder, read, write

__all__ = ["TrainedClassifier", "load_classifier", "save_classifier", "train_classifier"]

FORMAT, VERSION = "scoresde classifier", 1

FAR = 6.0
"""The largest |log(alpha s / sigma)| of the training: beyond it nothing changes any more."""

LEVELS = 6
"""The number of noise levels at which the held-out accuracy is measured."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class TrainedClassifier(Shown):
    """A classifier, and what it knows of held-out data at each noise level.

    Attributes:
        classifier: the trained classifier.
        log_snr: the noise levels, from the noisiest to the cleanest.
        accuracy: the share of held-out samples whose most likely class is right, at each level.
        cross_entropy: the mean of -log p(label | x_t) over them, in nats; log K is a guess.
        held_out: the number of held-out samples.
    """

    classifier: NoiseClassifier
    log_snr: tuple[float, ...]
    accuracy: tuple[float, ...]
    cross_entropy: tuple[float, ...]
    held_out: int

    def __str__(self) -> str:
        """The held-out accuracy by noise level, as a table."""
        rows = zip(self.log_snr, self.accuracy, self.cross_entropy, strict=True)
        lines = [f"{level:8.2f} {share:9.1%} {nats:14.3f}" for level, share, nats in rows]
        head = f" log-SNR  accuracy  cross-entropy ({self.held_out} held-out samples)"
        return "\n".join([head, *lines])


def train_classifier(
    classifier: NoiseClassifier,
    x: Tensor,
    label: Tensor,
    *,
    steps: int = 2000,
    batch_size: int = 256,
    lr: float = 2e-3,
    holdout: float = 0.1,
    seed: int = 0,
    progress: bool = False,
) -> TrainedClassifier:
    """Train a classifier of noisy states by cross-entropy, and test it at each noise level.

    Each step draws samples, noise levels uniform in the log-SNR with one in each of as many equal
    parts as there are samples, and noise: -log p(label | alpha x + sigma eps). AdamW with a rate
    that falls to 0 as a cosine. The classifier itself is left as it is; the result has a copy.

    Args:
        classifier: the classifier, as it was made or trained before.
        x: (N, *D), the data in model units.
        label: (N,), the class of each sample.
        steps: the number of steps.
        batch_size: the number of samples of a step.
        lr: the largest learning rate.
        holdout: the share of the data that is held out for the accuracy.
        seed: the seed of the split, the batches, the noise levels and the noise.
        progress: show a bar.

    Raises:
        TypeError: `classifier` is no `NoiseClassifier`, or the labels are no integers.
        ValueError: a label is no class, shapes do not match, a number is not valid, or fewer than
            one sample would be held out or trained on.
        Diverged: the loss is not finite.

    Example:
        >>> from scoresde import VPSDE
        >>> label = torch.arange(400) % 2
        >>> x = torch.randn(400, 2) + 4.0 * label[:, None]
        >>> done = train_classifier(NoiseClassifier(VPSDE(), (2,), 2), x, label, steps=60)
        >>> done.accuracy[-1] > 0.9 > done.accuracy[0]
        True
    """
    remedy = "pass NoiseClassifier(sde, shape, classes)"
    instance("classifier", classifier, NoiseClassifier, remedy)
    x = check_data(x)
    if x.shape[1:] != classifier.shape:
        expected = f"samples of shape {classifier.shape}"
        raise fail("x", expected, x, "build the classifier for the shape of the data")
    label = _labels(label, classifier.classes, len(x))
    steps, batch_size = positive_int("steps", steps), positive_int("batch_size", batch_size)
    lr, generator = positive("lr", lr), seeded(seed)
    order = torch.randperm(len(x), generator=generator, device="cpu")
    held = round(len(x) * positive("holdout", holdout, "pass a share such as 0.1"))
    if not 1 <= held < len(x):
        expected = f"a share of {len(x)} samples that leaves some on either side"
        raise fail("holdout", expected, holdout, "pass e.g. 0.1")
    rows, test = order[held:], order[:held]
    result = copy.deepcopy(classifier)
    result.std = positive("x", (x[rows] - x[rows].mean(0)).double().square().mean().sqrt().item())
    device = result.exit.weight.device
    optimizer = torch.optim.AdamW(result.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps)
    )
    shown = closing(progress_of(steps, "classifier", "steps")) if progress else nullcontext()
    with torch.enable_grad(), shown as bar:
        for step in range(steps):
            some = rows[torch.randint(len(rows), (batch_size,), generator=generator, device="cpu")]
            place = torch.rand(batch_size, generator=generator, device="cpu", dtype=torch.float64)
            place = (place + torch.arange(batch_size, device="cpu")) / batch_size
            level = _between(result, place)
            loss = _losses(result, x[some], label[some], level, generator, device)[0].mean()
            if not bool(loss.isfinite()):
                got = f"{loss.item()} at step {step}"
                raise diverged("loss", "a finite loss", got, "take a smaller lr")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if bar is not None:
                bar.update()
    return _tested(result, x[test], label[test], generator, device)


def _labels(label: Tensor, classes: int, n: int) -> Tensor:
    """The labels, checked: a class for each of n samples."""
    instance("label", label, Tensor, "convert it with torch.as_tensor")
    if label.shape != (n,):
        raise fail("label", f"shape ({n},), one for each sample", label, "check the order")
    found = as_labels("label", label.cpu(), classes, -1)
    if bool((found < 0).any()):
        raise fail("label", "a class for each sample", -1, "drop the samples without a label")
    return found


def _between(classifier: NoiseClassifier, place: Tensor) -> Tensor:
    """Log-SNRs at shares of the range that is trained, from noise to data."""
    sde, size = classifier.sde, math.log(classifier.std)
    low = max(sde.log_snr(sde.T), -FAR - size)
    high = min(sde.log_snr(sde.t_end), FAR - size)
    return low + (high - low) * place


def _losses(
    classifier: NoiseClassifier,
    x: Tensor,
    label: Tensor,
    level: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Cross-entropies (B,) at noisy states of these log-SNRs, and whether the class is right."""
    eps = torch.randn(x.shape, generator=generator, device="cpu", dtype=torch.float32)
    x, eps, label = x.to(device, torch.float32), eps.to(device), label.to(device)
    t = classifier.sde.time_of(level).clamp(0.0, classifier.sde.T)
    node = classifier.sde.at(t, like=x)
    logits = classifier(t, lincomb((node.alpha, x), (node.sigma, eps)))
    return cross_entropy(logits.float(), label, reduction="none"), logits.argmax(1) == label


@torch.no_grad()
def _tested(
    classifier: NoiseClassifier,
    x: Tensor,
    label: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> TrainedClassifier:
    levels = _between(classifier, torch.linspace(0.0, 1.0, LEVELS, dtype=torch.float64))
    shares, nats = [], []
    for level in levels:
        parts = []
        for some, _ in batches(len(x), 1024):
            same = level.expand(len(x[some]))
            parts.append(_losses(classifier, x[some], label[some], same, generator, device))
        losses, right = (torch.cat([part[k] for part in parts]).double() for k in (0, 1))
        nats.append(float(losses.mean()))
        shares.append(float(right.mean()))
    found = tuple(map(float, levels))
    return TrainedClassifier(classifier, found, tuple(shares), tuple(nats), len(x))


def save_classifier(classifier: NoiseClassifier, path: str | os.PathLike[str]) -> Path:
    """Write a classifier as a folder of `config.json` and `model.safetensors`, atomically.

    Args:
        classifier: the classifier.
        path: the folder: new, empty or one of a classifier.

    Returns:
        The folder.

    Raises:
        TypeError: it is no `NoiseClassifier`.
        ValueError: `path` is a file, or a folder that contains other files.

    Example:
        >>> import tempfile
        >>> from scoresde import VPSDE
        >>> made = NoiseClassifier(VPSDE(), (2,), 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_classifier(save_classifier(made, f"{folder}/net"), VPSDE()).classes
        3
    """
    remedy = "save the weights of another network with safetensors"
    instance("classifier", classifier, NoiseClassifier, remedy)
    place = check_place(path, (WEIGHTS,))
    names = ("shape", "classes", "width", "depth", "std")
    config = {name: getattr(classifier, name) for name in names}
    about = {"format": FORMAT, "version": VERSION, "schedule": fingerprint(classifier.sde)}
    write(place, {**about, "classifier": config}, {WEIGHTS: classifier.state_dict()})
    return place


def load_classifier(path: str | os.PathLike[str], sde: SDE) -> NoiseClassifier:
    """Read a classifier written by `save_classifier`, on the CPU, without unpickling.

    Args:
        path: the folder.
        sde: the SDE that it was trained under, such as `model.sde`.

    Raises:
        FileNotFoundError: the folder or a file in it is missing.
        ValueError: a file is damaged, is no classifier, or has another schedule.
    """
    instance("sde", sde, SDE, "pass the SDE of the model, model.sde")
    folder, config = open_folder(path)
    if (config.get("format"), config.get("version")) != (FORMAT, VERSION):
        remedy = "pass the folder that save_classifier wrote"
        raise fail(str(folder / CONFIG), f"format {FORMAT!r}", config.get("format"), remedy)
    check_config(folder, config)
    remedy = "pass the SDE that the classifier was trained under"
    same_schedule(sde, config["schedule"], "sde", "classifier", remedy)
    classifier = NoiseClassifier(sde, **config["classifier"])
    fill(classifier, read(folder, config, WEIGHTS), str(folder / WEIGHTS))
    return classifier
