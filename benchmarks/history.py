"""The figures of a release in one JSON, and what changed since another one.

    python -m benchmarks.history [--since 0.1.0] [--by 0.1]

Collects the main figures of `results/*.json` into `history/<version>.json`, one file a release,
with dotted names. Then prints every figure that differs from that of the release `--since` by more
than the share `--by`. Run it after `make bench`, before a release is tagged. Times are of one
machine, so only ratios of times are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import scoresde

HERE = Path(__file__).parent
RESULTS, HISTORY = HERE / "results", HERE / "history"

Figures = Iterator[tuple[str, float]]


def orders(found: list[dict[str, Any]]) -> Figures:
    """The observed order at the last halving of the step."""
    for row in found:
        yield f"{row['solver']}.{row['kind']}", row["slopes"][-1]


def overhead(found: dict[str, list[dict[str, Any]]]) -> Figures:
    """Time of a run over that of its bare network calls."""
    for network, rows in found.items():
        for row in rows:
            yield f"{network}.{row['solver']}", row["ratio"]


def solvers(found: dict[str, Any]) -> Figures:
    """The least error of our named solvers for each problem, schedule and number of calls."""
    best: dict[str, float] = {}
    for values in found["rows"]:
        row = dict(zip(found["columns"], values, strict=True))
        if row["library"] == "scoresde" and row["note"] != "a setting without a name":
            kind = "sde" if row["sde"] else "ode"
            name = f"{row['problem']}.{row['family']}.{kind}.{row['budget']}"
            best[name] = min(row["error"], best.get(name, float("inf")))
    yield from best.items()


def calibrated(found: list[dict[str, Any]]) -> Figures:
    """Error of the calibrated grid over that of the best library's best grid."""
    for row in found:
        yield f"{row['problem']}.{row['budget']}.{row['method']}", row["ratio"]


def likelihood(found: dict[str, Any]) -> Figures:
    """RMS error of log p, in nats."""
    for problem, rows in found["results"].items():
        for row in rows:
            if row["method"].startswith("scoresde"):
                yield f"{problem}.{row['method']}", row["rms"]


def fashion(found: dict[str, Any]) -> Figures:
    """The bound in bits/dim, and the distances of the samples."""
    yield "bound", found["judged"]["bits"]["bound"][0]
    for name, distance in found["judged"]["distances"].items():
        yield name, distance["value"]


def training(found: dict[str, Any]) -> Figures:
    """Time of a step over that of a bare one, in per cent."""
    for size, cost in found["cost"].items():
        yield f"over_bare_percent.{size}", cost["over_bare_percent"]


def memory(found: dict[str, Any]) -> Figures:
    """Growth from one batch to all samples, in MB."""
    yield "growth", found["figures"]["growth, MB"]


COLLECT: dict[str, Callable[[Any], Figures]] = {
    "orders": orders,
    "overhead": overhead,
    "solvers": solvers,
    "calibrated": calibrated,
    "likelihood": likelihood,
    "fashion-unet": fashion,
    "fashion-uvit": fashion,
    "training": training,
    "memory": memory,
}
"""File of results, without its ending -> its figures."""


def figures(results: Path = RESULTS) -> dict[str, float]:
    """Every figure of the files that are there, to five digits, by its dotted name."""
    made: dict[str, float] = {}
    for stem, collect in COLLECT.items():
        file = results / f"{stem}.json"
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            made |= {f"{stem}.{name}": float(f"{x:.5g}") for name, x in collect(found)}
    return dict(sorted(made.items()))


def changes(old: dict[str, float], new: dict[str, float], by: float) -> list[str]:
    """A line for each figure that changed by more than the share `by`, or is in one file only."""
    lines = [f"- {name}: {old[name]:g}, gone" for name in old if name not in new]
    lines += [f"+ {name}: {new[name]:g}" for name in new if name not in old]
    return lines + [
        f"  {name}: {old[name]:g} -> {x:g}"
        for name, x in new.items()
        if name in old and abs(x - old[name]) > by * abs(old[name])
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--since", metavar="VERSION", help="compare with this release")
    parser.add_argument(
        "--by", type=float, default=0.1, metavar="SHARE", help="smallest change shown"
    )
    args = parser.parse_args()
    made = figures()
    place = HISTORY / f"{scoresde.__version__}.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{len(made)} figures in {place}")
    if args.since:
        old = json.loads((HISTORY / f"{args.since}.json").read_text(encoding="utf-8"))
        print(
            "\n".join(changes(old, made, args.by)) or f"nothing changed by more than {args.by:.0%}"
        )


if __name__ == "__main__":
    main()
