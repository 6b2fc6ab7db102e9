"""Measurements of solvers on a model, and their ranking."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from torch import Tensor

from scoresde._check import choice, fail, positive_int
from scoresde._html import Shown

__all__ = ["AT_FLOOR", "Floor", "Results", "Row", "count", "ordered", "short"]


LIMITS = {"error": 0.1, "distance": 0.5}
"""No solver is recommended if the floor exceeds this share of the samples' deviation."""

AT_FLOOR = (
    "≤: at the floor, below which these samples and this reference cannot distinguish solvers; "
    "more samples may reveal a difference."
)

REMEDIES = {
    "error": "tighten the tolerance of the reference, or train the model longer",
    "distance": "compare more samples",
}


@final
@dataclass(frozen=True)
class Row:
    """The measurements of one solver on one grid with one number of steps.

    Attributes:
        solver: the name of the solver in the comparison.
        method: its name in the registry, or its repr; that of "auto" depends on the steps.
        grid: the name of its grid; "own" for explicit times or steps chosen by the solver.
        steps: the number of steps of the grid; None for a solver that chooses its steps.
        process: "ode", the probability flow, or "sde", a reverse SDE.
        nfe: counted network evaluations per sample, with the final denoising.
        seconds: seconds for the whole batch, the median over the rounds.
        error: root mean square difference, over entries and samples, from the reference with the
            same initial noise, in units of the data; None for an SDE.
        error_se: its standard error over the samples.
        median: the median over samples of the root mean square over entries.
        distance: the distance between the set of samples and the target set.
    """

    solver: str
    method: str
    grid: str
    steps: int | None
    process: str
    nfe: int
    seconds: float
    error: float | None = None
    error_se: float | None = None
    median: float | None = None
    distance: float | None = None


@final
@dataclass(frozen=True)
class Floor:
    """The level of a measure below which it cannot distinguish solvers.

    Attributes:
        value: for "error", the change of the reference when its tolerance is ten times looser;
            for "distance", two standard deviations above the mean distance between two halves of
            the target set, or above the distance of the reference itself if that is larger, since
            a solver can be closer to the data than the exact solution only by chance.
        mean: the value drawn in figures: `value`, or the mean between halves.
        what: a description.
    """

    value: float
    mean: float
    what: str


@dataclass(frozen=True, eq=False, repr=False)
class Results(Shown):
    """The rows of a comparison, with their floors and settings.

    Attributes:
        rows: the rows in the order of evaluations, then errors.
        floors: measure -> its floor, for each of the measures "error" and "distance" in use.
        failed: (solver, reason) of the solvers without finite samples.
        about: the settings of the comparison as plain values.
        samples: row number -> its first samples, (K, *D), all from the same noise.
        reference: the same samples of the reference; None if only SDEs were compared.
        target: samples of the target set of "distance"; None if there is no distance.
        std: standard deviation of the reference or target samples, root mean square over their
            entries; None if it was not measured.
    """

    rows: tuple[Row, ...]
    floors: Mapping[str, Floor]
    failed: tuple[tuple[str, str], ...]
    about: Mapping[str, Any]  # plain values
    samples: Mapping[int, Tensor]
    reference: Tensor | None
    target: Tensor | None
    std: float | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """ "error", "distance", or both."""
        return tuple(self.floors)

    def measure(self, name: str | None = None) -> str:
        """The measure of that name; by default "error", or "distance" if there is no error."""
        return self.measures[0] if name is None else choice("measure", name, self.measures)

    def no_advice(self, measure: str | None = None) -> str | None:
        """The reason why this measure recommends no solver, or None if it does.

        A floor comparable with the standard deviation of the samples cannot distinguish solvers:
        the limit is a tenth of it for "error" and half of it for "distance".
        """
        name = self.measure(measure)
        floor, limit = self.floors[name].value, LIMITS[name]
        if self.std is None or floor <= limit * self.std:
            return None
        return (
            f"no solver is recommended by {name}: its floor, {short(floor)}, is above "
            f"{limit:g} of the samples' own standard deviation, {short(self.std)}; "
            + REMEDIES[name]
        )

    def at_floor(self, row: Row, measure: str | None = None) -> bool:
        """Whether the value of this row is at the floor."""
        name = self.measure(measure)
        value = getattr(row, name)
        return value is not None and value <= self.floors[name].value

    def ranked(self, measure: str | None = None) -> list[Row]:
        """The rows that have the measure, the best first.

        Rows at the floor count as equal and are sorted by evaluations, then by seconds.
        """
        name = self.measure(measure)
        floor = self.floors[name].value
        rows = [row for row in self.rows if getattr(row, name) is not None]
        return sorted(rows, key=lambda row: (max(getattr(row, name), floor), row.nfe, row.seconds))

    def best(self, nfe: int, measure: str | None = None) -> Row:
        """The best row of at most this many network evaluations a sample.

        Raises:
            ValueError: every row needs more evaluations, the measure is unknown, or it
                recommends no solver (see `no_advice`).
        """
        budget = positive_int("nfe", nfe, "the number of network evaluations is 1 or more")
        why = self.no_advice(measure)
        if why is not None:
            raise ValueError(f"measure: {why}")
        ranked = self.ranked(measure)
        best = next((row for row in ranked if row.nfe <= budget), None)
        if best is None:
            least = min(row.nfe for row in ranked)
            raise fail("nfe", f"at least {least}, the cheapest that was run", nfe, "raise it")
        return best

    def front(self, measure: str | None = None) -> list[Row]:
        """The Pareto front in the order of nfe: no row with as few evaluations is better.

        It is empty if no solver is recommended (see `no_advice`).
        """
        front: list[Row] = []
        if self.no_advice(measure) is not None:
            return front
        for budget in sorted({row.nfe for row in self.ranked(measure)}):
            row = self.best(budget, measure)
            if row not in front:
                front.append(row)
        return front

    def show(self, row: Row, measure: str) -> str:
        """The measure of a row as text, with "≤ floor" for a row at the floor."""
        value = getattr(row, measure)
        if value is None:
            return ""
        return (
            f"≤ {short(self.floors[measure].value)}"
            if self.at_floor(row, measure)
            else short(value)
        )

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Head and body of the table in the order of the rows; * marks rows of the front."""
        several = len({row.grid for row in self.rows}) > 1
        head = ["solver", *(["grid"] if several else []), "steps", "NFE"]
        for name in self.measures:
            head += ["RMS error", "median"] if name == "error" else [name]
        head.append("seconds")
        fronts = {name: self.front(name) for name in self.measures}
        body = []
        for row in self.rows:
            line = [row.solver, *([row.grid] if several else []), count(row), str(row.nfe)]
            for name in self.measures:
                line.append(self.show(row, name) + (" *" if row in fronts[name] else ""))
                if name == "error":
                    line.append("" if row.median is None else short(row.median))
            body.append([*line, short(row.seconds)])
        return head, body

    def table(self) -> str:
        """The rows as a table in Markdown; * marks the Pareto front of a measure."""
        head, body = self.cells()
        rule = ["---" if name in ("solver", "grid") else "---:" for name in head]
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
        notes = [f"{name}: floor {short(f.value)}, {f.what}." for name, f in self.floors.items()]
        if any(self.front(name) for name in self.measures):
            notes.append("*: no row with as few network evaluations (NFE) is better.")
        if any("≤" in cell for line in body for cell in line):
            notes.append(AT_FLOOR)
        notes += [w[0].upper() + w[1:] + "." for n in self.measures if (w := self.no_advice(n))]
        notes += [f"{solver}: {why}" for solver, why in self.failed]
        return "\n".join([*lines, "", *notes])

    def to_dict(self) -> dict[str, object]:
        """Everything except the samples, as plain values."""
        return {
            "about": dict(self.about),
            "floors": {name: asdict(floor) for name, floor in self.floors.items()},
            "rows": [asdict(row) for row in self.rows],
            "front": {
                name: [self.rows.index(row) for row in self.front(name)] for name in self.measures
            },
            "failed": [{"solver": solver, "why": why} for solver, why in self.failed],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, default=str)

    @property
    def facts(self) -> dict[str, object]:
        """The rows in the order of the best, and the floors, name -> value, for a table."""
        name = self.measure()
        ranked = {
            f"{k}. {row.solver}": f"{count(row)} steps on {row.grid}, {row.nfe} evaluations, "
            f"{short(row.seconds)} s: {self.show(row, name)}"
            for k, row in enumerate(self.ranked()[:12], 1)
        }
        floors = {f"floor of {name}": short(floor.value) for name, floor in self.floors.items()}
        failed = {f"failed: {solver}": why for solver, why in self.failed}
        return {"measure": name, **ranked, **floors, **failed}

    def __repr__(self) -> str:
        best = self.ranked()[0]
        name = self.measure()
        return (
            f"{type(self).__name__}({len(self.rows)} rows, least {name} "
            f"{self.show(best, name)} by {best.solver} with {best.nfe} evaluations)"
        )


def count(row: Row) -> str:
    """The number of steps as text."""
    return "own" if row.steps is None else str(row.steps)


def short(value: float) -> str:
    """A number with three digits, in exponential notation if very large or small."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 100 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:#.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def ordered(rows: Sequence[Row]) -> list[int]:
    """The numbers of the rows in the order of evaluations, then of the measures."""
    last = math.inf

    def key(k: int) -> tuple[float, ...]:
        row = rows[k]
        values = (last if value is None else value for value in (row.error, row.distance))
        return (row.nfe, *values)

    return sorted(range(len(rows)), key=key)
