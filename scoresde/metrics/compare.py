"""Samples against held-out data, every number beside its finite-sample noise floor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import choice, fail, positive_int
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, draw, rows_of, same_width
from scoresde.metrics.features import Features, features_of
from scoresde.metrics.kernels import median_bandwidth
from scoresde.metrics.neighbours import nearest_distance
from scoresde.metrics.registry import METRICS, Pair

__all__ = ["Comparison", "Measured", "compare_sets"]


@dataclass(frozen=True)
class Measured:
    """A number beside the same number for real data against real data.

    Attributes:
        value: of samples against held-out data, the mean over the draws.
        value_std: standard deviation over the draws; 0 where all points were used.
        floor_mean: of real data against real data at the same size, the mean over random splits.
        floor_std: standard deviation over the splits.
        count: points of each of the two sets.
        good: "low" or "high", where a good model is.
    """

    value: float
    value_std: float
    floor_mean: float
    floor_std: float
    count: int
    good: str

    @property
    def excess(self) -> float:
        """By how many `floor_std` the value is on the bad side of the floor; below 0 if better."""
        gap = self.value - self.floor_mean if self.good == "low" else self.floor_mean - self.value
        if gap == 0 or self.floor_std == 0:
            return 0.0 if gap == 0 else math.copysign(math.inf, gap)
        return gap / self.floor_std

    @property
    def within_floor(self) -> bool:
        """Whether the samples cannot be told from fresh real data here: `excess` at most 2."""
        return self.excess <= 2


@dataclass(frozen=True)
class Comparison:
    """What `compare_sets` finds: a `Measured` for each metric, by name, and what was cut.

    `str` gives a table in Markdown, the notes below it.
    """

    measured: dict[str, Measured]
    count: int
    repeats: int
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Measured:
        return self.measured[choice("name", name, self.measured)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.measured)

    def __len__(self) -> int:
        return len(self.measured)

    def __str__(self) -> str:
        lines = ["| metric | samples | real halves | good | within floor |"]
        lines.append("| --- | ---: | ---: | --- | --- |")
        for name, m in self.measured.items():
            value = f"{m.value:.4g}" + (f" ± {m.value_std:.2g}" if m.value_std else "")
            floor = f"{m.floor_mean:.4g} ± {m.floor_std:.2g}"
            verdict = "yes" if m.within_floor else f"no ({m.excess:+.1f} std)"
            lines.append(f"| {name} | {value} | {floor} | {m.good} | {verdict} |")
        return "\n".join([*lines, "", *self.notes])


def compare_sets(
    samples: Array,
    held_out: Array,
    train: Array | None = None,
    *,
    metrics: Sequence[str] | None = None,
    features: Features | None = None,
    k: int = 5,
    repeats: int = 10,
    seed: int = 0,
    batch_size: int = 256,
) -> Comparison:
    """Compare samples with held-out data, and real data with real data at the same size.

    Every metric depends on the number of points, and most are above zero for two sets of one law;
    so each value stands beside its floor: the same metric between two disjoint random halves of
    real data with the same number of points, `repeats` times. All real data is `held_out` and,
    if given, `train`, so the number of points is

        n = min(len(samples), len(held_out), len(real data) // 2)

    and larger sets are cut to n at random, anew in each repeat; `notes` of the result say so.
    MMD takes the median heuristic on real data as its bandwidth, one for all.

    Args:
        samples: (N, *D) samples of the model, in model units.
        held_out: (M, *D) real data that the model has not seen.
        train: (L, *D) what the model was trained on: adds to the real data for the floor, and
            "nearest" needs it. Leave it out if `features` was trained on it, and "nearest" is not
            asked for: features of images that the network has seen are not of the same law.
        metrics: names among `METRICS`. "mmd" and "energy" are those functions' values;
            "frechet" and "kernel" the squared distances in the space given, of which 20 subsets
            are taken for "kernel"; "two_sample" and "two_sample_mlp" accuracies; "nearest" the
            median distance to the nearest point of `train`, whose floor is that of `held_out`.
        features: callable (B, *D) -> (B, F) in whose space everything but "nearest" is measured;
            None is the space of the points themselves.
        k: neighbours of precision, recall, density and coverage.
        repeats: random splits and draws, at least 2.
        seed: of all draws.
        batch_size: rows of one call of `features`.

    Raises:
        TypeError, ValueError: unequal D, fewer than 8 points of real data or 4 samples, an unknown
            metric, "nearest" without `train`, or numbers that are not finite.
        ImportError: a metric needs a library that is not installed.

    Example:
        >>> g = torch.Generator().manual_seed(1)
        >>> real, good = torch.randn(400, 2, generator=g), torch.randn(200, 2, generator=g)
        >>> found = compare_sets(good + 1, real, metrics=("energy", "recall"))
        >>> found["energy"].within_floor, found.count
        (False, 200)
        >>> compare_sets(good, real, metrics=("energy",))["energy"].within_floor
        True
    """
    if metrics is None:
        metrics = [name for name, metric in METRICS.items() if metric.usual]
    names = tuple(dict.fromkeys(choice("metrics", name, METRICS) for name in metrics))
    repeats = positive_int("repeats", repeats)
    if repeats < 2:
        raise fail("repeats", "at least 2", repeats, "a spread needs two numbers")
    if "nearest" in names and train is None:
        raise fail("train", "the training set, for 'nearest'", train, "pass it or drop 'nearest'")
    points = {"samples": samples, "held_out": held_out}
    points |= {} if train is None else {"train": train}
    spaces = _spaces(points, features, batch_size)
    pool = torch.cat([rows for name, rows in spaces.items() if name != "samples"])
    sizes = {name: len(rows) for name, rows in spaces.items()}
    count = min(sizes["samples"], sizes["held_out"], len(pool) // 2)
    if count < max(4, k + 1):
        expected = f"at least {max(4, k + 1)} points a set once the real data are halved"
        raise fail("samples, held_out", expected, f"{count} of {sizes}", "pass more points")

    generator = seeded(seed)
    made, real = spaces["samples"], spaces["held_out"]
    width = median_bandwidth(pool, pool, seed=seed) if "mmd" in names else 1.0
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for repeat in range(repeats):
        order = torch.randperm(len(pool), generator=generator, device="cpu")
        halves = pool[order[:count]], pool[order[-count:]]
        _append(found, 1, Pair(*halves, width, k, seed))
        if repeat == 0 or count < max(len(made), len(real)):  # else every draw is the same
            drawn = draw(made, count, generator), draw(real, count, generator)
            _append(found, 0, Pair(*drawn, width, k, seed))
    if "nearest" in names and train is not None:
        found["nearest"] = _nearest(samples, held_out, train, count, repeats, generator)
    measured = {
        name: Measured(*_moments(values), *_moments(floors), count, METRICS[name].good)
        for name, (values, floors) in found.items()
    }
    return Comparison(measured, count, repeats, _notes(sizes, count, repeats))


def _spaces(
    points: dict[str, Array], features: Features | None, batch_size: int
) -> dict[str, Tensor]:
    """The rows that are compared, each set checked under its own name."""
    rows = {name: rows_of(name, value, least=4) for name, value in points.items()}
    for name, x in rows.items():
        same_width(("samples", name), rows["samples"], x)
    if features is None:
        return rows
    return {name: features_of(x, features, batch_size=batch_size) for name, x in points.items()}


def _append(found: dict[str, tuple[list[float], list[float]]], which: int, pair: Pair) -> None:
    """Measure a pair of sets by every metric but "nearest", which has a bootstrap of its own."""
    for name, numbers in found.items():
        if name != "nearest":
            numbers[which].append(METRICS[name].measure(pair))


def _nearest(
    samples: Array,
    held_out: Array,
    train: Array,
    count: int,
    repeats: int,
    generator: torch.Generator,
) -> tuple[list[float], list[float]]:
    """Median distances to the training set of samples and of held-out data, by the bootstrap."""
    medians: tuple[list[float], list[float]] = ([], [])
    for x, row in zip((samples, held_out), medians, strict=True):
        distance = nearest_distance(x, train)
        for _ in range(repeats):
            chosen = torch.randint(len(distance), (count,), generator=generator, device="cpu")
            row.append(float(distance[chosen].median()))
    return medians


def _moments(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _notes(sizes: dict[str, int], count: int, repeats: int) -> tuple[str, ...]:
    notes = [f"{count} points a set; real halves split {repeats} times"]
    notes += [
        f"{name} cut at random from {sizes[name]} to {count}, anew in each repeat"
        for name in ("samples", "held_out")
        if sizes[name] > count
    ]
    return tuple(notes)
