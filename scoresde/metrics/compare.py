"""Comparison of samples with held-out data, every value beside its noise floor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._check import choice, fail, positive_int
from scoresde._html import Shown
from scoresde._progress import progress as progress_of
from scoresde._tensor import seeded
from scoresde.metrics.arrays import Array, draw, rows_of, same_width
from scoresde.metrics.features import Features, features_of
from scoresde.metrics.kernels import median_bandwidth
from scoresde.metrics.neighbours import nearest_distance
from scoresde.metrics.registry import METRICS, Pair

__all__ = ["Comparison", "Measured", "compare_sets"]


@dataclass(frozen=True)
class Measured(Shown):
    """The value of a metric beside its value for real data against real data.

    Attributes:
        value: the metric of samples against held-out data, the mean over the draws.
        value_std: standard deviation over the draws; 0 if all points were used.
        floor_mean: the metric of real data against real data at the same size, the mean over
            random splits.
        floor_std: standard deviation over the splits.
        count: number of points in each of the two sets.
        good: "low" or "high", the value of a good model.
    """

    value: float
    value_std: float
    floor_mean: float
    floor_std: float
    count: int
    good: str

    @property
    def excess(self) -> float:
        """The distance from the floor in `floor_std`, positive on the bad side."""
        gap = self.value - self.floor_mean if self.good == "low" else self.floor_mean - self.value
        if gap == 0 or self.floor_std == 0:
            return 0.0 if gap == 0 else math.copysign(math.inf, gap)
        return gap / self.floor_std

    @property
    def within_floor(self) -> bool:
        """Whether this metric cannot distinguish the samples from real data: `excess` <= 2."""
        return self.excess <= 2

    @property
    def verdict(self) -> str:
        """Whether it is within the floor, in words."""
        return "within the floor" if self.within_floor else f"{self.excess:+.1f} std off the floor"

    def __str__(self) -> str:
        value = f"{self.value:.4g}" + (f" ± {self.value_std:.2g}" if self.value_std else "")
        return f"{value}, of real halves {self.floor_mean:.4g} ± {self.floor_std:.2g}"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """The result of `compare_sets`: a `Measured` for each metric, by name, and notes.

    `str` gives a table in Markdown with the notes below it.
    """

    measured: dict[str, Measured]
    count: int
    repeats: int
    notes: tuple[str, ...]

    @property
    def facts(self) -> dict[str, object]:
        """Each metric beside its value for real data, name -> value, for a table."""
        return {name: f"{m}; {m.verdict}" for name, m in self.measured.items()} | {
            "points": f"{self.count} of each set",
            "notes": " ".join(self.notes) or None,
        }

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {m.value:.4g}" for name, m in self.measured.items())
        beyond = sum(not m.within_floor for m in self.measured.values())
        return f"Comparison({values}; {beyond} of {len(self)} beyond the floor)"

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
    progress: bool = False,
) -> Comparison:
    """Compare samples with held-out data, and real data with real data at the same size.

    Every metric depends on the number of points, and most are above zero for two sets of one law.
    So each value is accompanied by its floor: the same metric between two disjoint random halves
    of real data with the same number of points, `repeats` times. The real data are `held_out`
    and, if given, `train`, so the number of points is

        n = min(len(samples), len(held_out), len(real data) // 2)

    Larger sets are reduced to n random points in each repeat, which `notes` of the result state.
    The bandwidth of the MMD is the median heuristic on real data in all comparisons.

    Args:
        samples: (N, *D) samples of the model, in model units.
        held_out: (M, *D) real data that were not used for training.
        train: (L, *D) the training data, which enlarge the real data for the floor and are
            required by "nearest". Omit them if `features` was trained on them, unless you need
            "nearest": features of a network's training images do not have the same law.
        metrics: names from `METRICS`. "mmd" and "energy" are the values of these functions;
            "frechet" and "kernel" are squared distances, with 20 subsets for "kernel";
            "two_sample" and "two_sample_mlp" are accuracies; "nearest" is the median distance to
            the nearest point of `train`, and its floor that of `held_out`.
        features: callable (B, *D) -> (B, F), the space of every metric except "nearest"; None
            is the space of the points themselves.
        k: the number of neighbours for precision, recall, density and coverage.
        repeats: the number of random splits and draws, at least 2.
        seed: the seed of all draws.
        batch_size: rows in one call of `features`.
        progress: show a bar with the time left, or lines if stderr is not a terminal.

    Raises:
        TypeError, ValueError: D differs, there are fewer than 8 points of real data or 4 samples,
            a metric is unknown, "nearest" is requested without `train`, or numbers are not finite.
        ImportError: a metric needs a library that is not installed.

    Example:
        >>> g = torch.Generator().manual_seed(1)
        >>> real, good = torch.randn(400, 2, generator=g), torch.randn(200, 2, generator=g)
        >>> result = compare_sets(good + 1, real, metrics=("energy", "recall"))
        >>> result["energy"].within_floor, result.count
        (False, 200)
        >>> compare_sets(good, real, metrics=("energy",))["energy"].within_floor
        True
    """
    if metrics is None:
        metrics = [name for name, metric in METRICS.items() if metric.usual]
    names = tuple(dict.fromkeys(choice("metrics", name, METRICS) for name in metrics))
    repeats = positive_int("repeats", repeats)
    if repeats < 2:
        raise fail("repeats", "at least 2", repeats, "a standard deviation needs two values")
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
    generated, real = spaces["samples"], spaces["held_out"]
    width = median_bandwidth(pool, pool, seed=seed) if "mmd" in names else 1.0
    values: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    with closing(progress_of(repeats, "comparison", "repeats", shown=progress)) as bar:
        for repeat in range(repeats):
            order = torch.randperm(len(pool), generator=generator, device="cpu")
            halves = pool[order[:count]], pool[order[-count:]]
            _append(values, 1, Pair(*halves, width, k, seed))
            reduced = count < max(len(generated), len(real))
            if repeat == 0 or reduced:  # otherwise draws are identical
                drawn = draw(generated, count, generator), draw(real, count, generator)
                _append(values, 0, Pair(*drawn, width, k, seed))
            bar.update()
    if "nearest" in names and train is not None:
        values["nearest"] = _nearest(samples, held_out, train, count, repeats, generator)
    measured = {
        name: Measured(*_moments(own), *_moments(floors), count, METRICS[name].good)
        for name, (own, floors) in values.items()
    }
    return Comparison(measured, count, repeats, _notes(sizes, count, repeats))


def _spaces(
    points: dict[str, Array], features: Features | None, batch_size: int
) -> dict[str, Tensor]:
    """The rows of each set in the space of the comparison, checked under its name."""
    rows = {name: rows_of(name, value, least=4) for name, value in points.items()}
    for name, x in rows.items():
        same_width(("samples", name), rows["samples"], x)
    if features is None:
        return rows
    return {name: features_of(x, features, batch_size=batch_size) for name, x in points.items()}


def _append(values: dict[str, tuple[list[float], list[float]]], which: int, pair: Pair) -> None:
    """Measure a pair of sets by every metric except "nearest", which uses a bootstrap."""
    for name, numbers in values.items():
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
    """Median distances to the training set of samples and of held-out data, bootstrapped."""
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
