"""Splits that are stable when data are added, and moments and summaries of data of any size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from scoresde._check import fail, finite, instance, positive_int
from scoresde._check import seed as check_seed
from scoresde.data.base import Data, LazyData
from scoresde.data.rows import CHUNK
from scoresde.data.scaling import Moments, moments_of, moments_of_rows
from scoresde.summary import ConditionSummary, DataSummary

__all__ = ["hold_out", "moments", "split", "summarise"]

AnyData = TypeVar("AnyData", bound=Data | LazyData)


def split(data: AnyData, fraction: float, seed: int = 0) -> tuple[AnyData, AnyData]:
    """Two disjoint parts; the part of a sample depends on the sample and the seed alone.

    A hash of the sample's identity, uniform on [0, 1), is compared with `fraction`. The identity
    is the file name below the folder for images, and the content of x for other data. For a
    standardised table it is the content before the scaling, to four decimals below the standard
    deviation of each column. So a sample keeps its part when others are added, removed or
    reordered (in tables with more decimals, all but a few in a thousand do), copies of a sample
    are in the same part, as are an image and its mirror image, and a larger fraction only adds
    to the first part. The first part has fraction N rows on average, with a standard deviation of
    sqrt(N fraction (1 - fraction)). The order of the rows is preserved.

    Args:
        data: `Data` or `LazyData`; all content of the latter is read once, except for files.
        fraction: share of the first part, strictly between 0 and 1.
        seed: seed of the hash.

    Returns:
        Two objects of the type of `data`.

    Raises:
        TypeError: `data` is neither, or `seed` is not an integer.
        ValueError: `fraction` is outside (0, 1), or a part would be empty.

    Example:
        >>> from scoresde.data import moons
        >>> train, held_out = split(moons(1000), 0.9)
        >>> len(train) + len(held_out)
        1000
    """
    instance("data", data, (Data, LazyData), "wrap it: Data.of(x)")
    share = finite("fraction", fraction)
    if not 0 < share < 1:
        raise fail("fraction", "a number strictly between 0 and 1", share, "e.g. 0.9")
    first = _places(data, check_seed(seed)) < share
    if not 0 < int(first.sum()) < len(data):
        expected = f"a share that leaves rows on both sides of {len(data)}"
        remedy = "move it towards 0.5, bring more data, or use data.split for an exact share"
        raise fail("fraction", expected, share, remedy)
    return _both(data, first)


def hold_out(data: AnyData, share: float) -> tuple[AnyData, AnyData | None]:
    """Training data, and about `share` of the samples for validation, for any number of samples.

    If there are fewer than 1 / share samples none is held out. Otherwise a hash decides as in
    `split`, and each part has at least one sample: if a part would be empty, it gets the sample
    whose hash is nearest. So the same samples are held out in every call.

    Args:
        data: `Data` or `LazyData`.
        share: the share of the validation samples, in [0, 1).

    Returns:
        The two parts; the second is None if there is none.

    Raises:
        ValueError: `share` is not in [0, 1).

    Example:
        >>> from scoresde.data import moons
        >>> train, held_out = hold_out(moons(20), 0.05)
        >>> len(train), len(held_out), hold_out(moons(19), 0.05)[1]
        (19, 1, None)
    """
    instance("data", data, (Data, LazyData), "wrap it: Data.of(x)")
    part = finite("share", share)
    if not 0 <= part < 1:
        raise fail("share", "a number from 0 up to 1", part, "e.g. 0.05, or 0 for none")
    if len(data) < 2 or part * len(data) < 1:
        return data, None
    places = _places(data, 0)
    first = places < 1 - part
    if first.all():
        first = places < places.max()
    elif not first.any():
        first = places == places.min()
    if first.all() or not first.any():  # copies of one sample must be in the same part
        return data, None
    return _both(data, first)


def _both(data: Data | LazyData, first: Tensor) -> tuple[Any, Any]:  # both of the type of data
    """The samples where a mask is True, and all others; those of `LazyData` are not read."""
    if isinstance(data, LazyData):
        return data.take(first), data.take(~first)
    return data[first], data[~first]


def moments(data: Data | LazyData, *, covariance: bool = False) -> Moments:
    """Mean, standard deviation and covariance of the samples, in one pass and constant memory.

    All are in model units and float64, divided by N, and are computed in pieces (see
    `scoresde.data.scaling.moments_of`), so data on the disk are never completely in memory.

    Args:
        data: `Data`, `LazyData`, or a tensor or array (N, *D).
        covariance: compute also the (d, d) covariance of the d = prod(D) flattened values.

    Returns:
        Moments(count, mean, std, covariance), mean and std of shape (*D).

    Raises:
        ValueError: a row is invalid, or a covariance has more than 16,384 dimensions.

    Example:
        >>> from scoresde.data import eight_gaussians
        >>> found = moments(eight_gaussians(100_000), covariance=True)
        >>> found.count, found.std.round(decimals=1)
        (100000, tensor([1., 1.], dtype=torch.float64))
    """
    return moments_of_rows(Data.of(data).x, covariance)


def summarise(data: Data | LazyData, *, rows: int = 10_000) -> DataSummary:
    """Range, standard deviation, classes and units of a data set, as a model stores them.

    Args:
        data: `Data`, `LazyData`, or a tensor or array (N, *D).
        rows: number of samples to use, spaced evenly over the data set.

    Raises:
        ValueError: a row is invalid, or `rows` is below 1.

    Example:
        >>> from scoresde.data import moons
        >>> summarise(moons(1000)).shape
        (2,)
    """
    whole = Data.of(data)
    total, wanted = len(whole), positive_int("rows", rows)
    chosen = (
        torch.arange(total, device="cpu")
        if total <= wanted
        else torch.arange(wanted, device="cpu") * total // wanted
    )
    ends: list[tuple[float, float]] = []

    def pieces() -> Iterator[Tensor]:
        size = max(1, CHUNK // max(1, math.prod(whole.x.shape[1:])))
        for part in torch.split(chosen, size):
            x = whole.x[part.to(whole.x.device)].detach()
            ends.append((float(x.min()), float(x.max())))
            yield x

    known = moments_of(pieces())
    label = whole.cond.get("label")
    if label is not None:
        label = label[label >= 0]  # -1 means no label
    classes = whole.classes
    if not classes and label is not None and label.numel():
        classes = int(label.max()) + 1
    return DataSummary(
        count=total,
        shape=tuple(whole.x.shape[1:]),
        mean=float(known.mean.mean()),
        offset=float(known.mean.flatten()[known.mean.abs().argmax()]),
        std=float(known.std.square().mean().sqrt()),
        low=min(low for low, _ in ends),
        high=max(high for _, high in ends),
        name=whole.name,
        classes=classes,
        class_names=whole.class_names,
        class_counts=() if label is None else tuple(label.bincount(minlength=classes).tolist()),
        scaling=whole.scaling,
        quantisation=whole.quantisation,
        conditions={
            name: ConditionSummary(tuple(value.shape[1:]), whole.cond_columns.get(name, {}))
            for name, value in whole.cond.items()
            if value.is_floating_point()
        },
    )


def _places(data: Data | LazyData, seed: int) -> Tensor:
    """The hash of every sample as a number in [0, 1), (N,) float64."""
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()

    def place(identity: bytes) -> float:
        # 53 bits, since more would be rounded, possibly to 1.
        digest = hashlib.blake2b(identity, digest_size=8, salt=salt).digest()
        return (int.from_bytes(digest, "little") >> 11) / 2**53

    places: list[float] = []
    step = max(1, CHUNK // max(1, data.x[0].numel()))
    for start in range(0, len(data), step):
        rows = torch.arange(start, min(start + step, len(data)), device="cpu")
        places += map(place, _identity(data, rows))
    return torch.tensor(places, dtype=torch.float64, device="cpu")


def _identity(data: Data | LazyData, rows: Tensor) -> list[bytes]:
    if isinstance(data, LazyData):
        return data.x.identity(rows)
    x = data.x[rows.to(data.x.device)].detach().cpu()
    if data.scaling is not None:
        # The scaling changes when samples are added, but the identity must not.
        x = data.scaling.stable(x)
    x = x.contiguous().flatten(1)
    return [bytes(row.view(torch.uint8).numpy()) for row in x]
