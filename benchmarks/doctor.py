"""Whether the doctor finds planted faults and names them first, and its false alarms.

    python benchmarks/doctor.py [--seeds 5] [--healthy 8] [--first 0] [--quick]

Twelve faults of three sizes are planted in an exact model of six classes in 8-D, and in tiny
networks that are trained here on the same data. A fault is found if its name is among the findings
that are no notes, and named first if it is the first of them. Healthy are exact models under six
SDEs, and tiny networks on five data sets at five stages of their training (a fifth, two fifths ...
of the steps); every error or warning about one of them is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoresde import EDMSDE, VESDE, VPSDE, CosineSDE, FlowSDE, SubVPSDE
from scoresde._io import write
from scoresde.doctor import Report, diagnose

sys.path.append(str(Path(__file__).parents[1]))  # `python benchmarks/x.py` finds the package too
from benchmarks.faults import (
    NAMES,
    STEPS,
    classes,
    data_of,
    in_networks,
    in_oracles,
    mixture,
    train,
)

RESULTS = Path(__file__).parent / "results"
DATA = ("moons", "checkerboard", "swiss_roll", "classes", "digits")
STAGES = 5
DIGITS = 200
"""The steps of the U-Net for digits, whose step costs more."""


@dataclass(frozen=True)
class Row:
    """One examination."""

    on: str
    fault: str
    size: str
    seed: int
    found: bool
    first: str
    findings: tuple[str, ...]
    damage: float
    seconds: float


def row(on: str, fault: str, size: str, seed: int, report: Report, seconds: float) -> Row:
    serious = [finding for finding in report.findings if finding.severity != "note"]
    names = tuple(finding.name for finding in serious)
    wanted = NAMES.get(fault, "")
    return Row(
        on,
        fault,
        size,
        seed,
        wanted in names,
        names[0] if names else "",
        names,
        sum(finding.damage for finding in serious),
        seconds,
    )


def planted(seeds: range) -> Iterator[Row]:
    """The faults in exact models and in networks."""
    for on, faults in (("oracle", in_oracles), ("network", in_networks)):
        for seed in seeds:
            for fault, size, case in faults(seed):
                start = time.process_time()
                report = diagnose(case.model, case.data, seed=seed, **case.options)
                yield row(on, fault, size, seed, report, time.process_time() - start)


def healthy(seeds: range) -> Iterator[Row]:
    """Models without a fault."""
    for sde in (VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), EDMSDE(), FlowSDE()):
        for seed in seeds:
            x = classes(3000, 100 + seed).x.double()
            start = time.process_time()
            report = diagnose(mixture().under(sde), x, seed=seed)
            seconds = time.process_time() - start
            yield row("oracle", "", type(sde).__name__, seed, report, seconds)
    for name in DATA:
        for seed in seeds:
            steps = DIGITS if name == "digits" else STEPS
            stages = tuple(steps * k // STAGES for k in range(1, STAGES + 1))
            data = data_of(name, 100 + seed)
            for step, (model, raw) in train(
                data_of(name, seed), seed, steps=steps, keep=stages
            ).items():
                start = time.process_time()
                given = (data.x, dict(data.cond) or None)
                report = diagnose(model, given, raw=raw, seed=seed)
                seconds = time.process_time() - start
                yield row("network", "", f"{name}, {step / steps:.0%}", seed, report, seconds)


def table(rows: list[Row]) -> str:
    """The rates, in Markdown."""
    lines = [
        "| fault | size | exact models: found, first | networks: found, first | named instead |"
    ]
    lines.append("| --- | --- | ---: | ---: | --- |")
    cases = list(dict.fromkeys((r.fault, r.size) for r in rows if r.fault))
    cases.sort(key=lambda case: list(NAMES).index(case[0]))
    for fault, size in cases:
        cells = []
        own = [r for r in rows if (r.fault, r.size) == (fault, size)]
        for on in ("oracle", "network"):
            here = [r for r in own if r.on == on]
            right = sum(r.first == NAMES[fault] for r in here)
            cells.append(f"{sum(r.found for r in here)}, {right} of {len(here)}" if here else "")
        wrong = sorted({r.first or "nothing" for r in own if r.first != NAMES[fault]})
        lines.append(f"| {fault} | {size} | {cells[0]} | {cells[1]} | {', '.join(wrong)} |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """The rates over all faults, and the false alarms."""
    lines = []
    for on in ("oracle", "network"):
        faults = [r for r in rows if r.fault and r.on == on]
        well = [r for r in rows if not r.fault and r.on == on]
        what = {"oracle": "exact models", "network": "networks"}[on]
        if faults:
            right = sum(r.first == NAMES[r.fault] for r in faults)
            share = right / len(faults)
            lines.append(
                f"- {what}: {sum(r.found for r in faults)} of {len(faults)} faults are found, and "
                f"{right} ({share:.1%}) named first."
            )
        if well:
            alarms = [r for r in well if r.findings]
            told = "; ".join(f"{r.size}, seed {r.seed}: {', '.join(r.findings)}" for r in alarms)
            lines.append(
                f"- {what}: {len(alarms)} of {len(well)} healthy ones cause a false alarm"
                f"{f' ({told})' if told else ''}."
            )
    seconds = [r.seconds for r in rows]
    lines.append(
        f"- An examination takes {statistics.median(seconds):.1f} seconds of processor time in "
        f"the median, {max(seconds):.1f} at most."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--healthy", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--quick", action="store_true", help="one seed of each")
    options = parser.parse_args()
    seeds, well = (1, 1) if options.quick else (options.seeds, options.healthy)
    rows: list[Row] = []
    first = options.first
    for made in (
        planted(range(first, first + seeds)),
        healthy(range(first, first + well)),
    ):
        for one in made:
            rows.append(one)
            mark = "" if one.first == NAMES.get(one.fault, "") else " <---"
            found = ", ".join(one.findings) or "nothing"
            print(
                f"{one.on} {one.fault or 'healthy'} {one.size} {one.seed}: {found}{mark}",
                flush=True,
            )
    name = "doctor-quick" if options.quick else "doctor"
    command = shlex.join(["python", "benchmarks/doctor.py", *sys.argv[1:]])
    content: dict[str, Any] = {"command": command, "rows": [asdict(one) for one in rows]}
    write(RESULTS / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    page = f"# Planted faults\n\n`{command}`\n\n{summary(rows)}\n\n{table(rows)}\n"
    write(RESULTS / f"{name}.md", page.encode())
    print(f"\n{summary(rows)}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
